//! Trains next-clip-diffusion checkpoints.
