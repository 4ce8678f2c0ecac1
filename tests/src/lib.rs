//! What crosses crates: parity, round trips, the daemon end to end.

mod motion;
mod random_checkpoint;
mod reference;

pub use random_checkpoint::{RandomCheckpoint, TINY};
pub use reference::Reference;
