//! What crosses crates: parity, round trips, the daemon end to end.

mod decode_graph;
mod following;
mod landing;
mod motion;
mod random_checkpoint;
mod reference;
mod rigid;
mod spoil;

pub use decode_graph::DecodeGraph;
pub use random_checkpoint::{MOTION, RandomCheckpoint, TINY};
pub use reference::Reference;
pub use spoil::spoil;
