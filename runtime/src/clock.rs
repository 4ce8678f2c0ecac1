//! Time as an argument, so that tests of latency never sleep.

use std::time::{Instant, SystemTime};

/// One moment on both clocks: the steady one for differences, the wall clock for people.
#[derive(Clone, Copy, Debug)]
pub struct Moment {
    /// For latency.
    pub steady: Instant,
    /// For timestamps.
    pub wall: SystemTime,
}

impl Moment {
    /// This moment.
    pub fn now() -> Self {
        Self { steady: Instant::now(), wall: SystemTime::now() }
    }
}

/// Tells the time; [`Moment::now`] outside tests.
pub type Clock = Box<dyn FnMut() -> Moment + Send>;
