//! What crosses crates: parity, round trips, the daemon end to end.

mod random_checkpoint;

pub use random_checkpoint::{RandomCheckpoint, TINY};
