//! What crosses crates: parity, round trips, the daemon end to end.
