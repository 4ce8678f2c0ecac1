//! Generated scenes of moving objects: seeded, endless, free of licences.
