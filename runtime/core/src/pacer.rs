//! From a camera's frame rate to the model's: which of the arriving frames the model sees.

/// What to do with a frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Pace {
    /// The model sees it.
    Take,
    /// The model sees it, and it does not continue what came before: time stood still, ran backwards or
    /// left out a frame of the model's. History must be cleared first.
    TakeAfterGap,
    /// Too early: between two frames of the model's.
    Skip,
}

/// Picks the frames nearest to a grid of the model's frame interval. Time is the frames' own, in
/// nanoseconds, so a file gives the same choice at any speed, and 30000/1001 frames a second stay that.
#[derive(Clone, Debug)]
pub struct Pacer {
    interval_ns: u64,
    /// When the next frame is due, and the newest timestamp seen.
    state: Option<(u64, u64)>,
    /// Time between two arriving frames, a running estimate.
    source_interval_ns: u64,
}

impl Pacer {
    /// A pacer for a model that sees a frame every `interval_ns`.
    pub fn new(interval_ns: u64) -> Self {
        Self { interval_ns, state: None, source_interval_ns: 0 }
    }

    /// Decides about the frame captured at `captured_ns`.
    pub fn offer(&mut self, captured_ns: u64) -> Pace {
        let Some((due, newest)) = self.state else {
            self.state = Some((captured_ns + self.interval_ns, captured_ns));
            return Pace::Take;
        };
        if captured_ns <= newest {
            // A repeated timestamp is a repeated frame; a jump back by more is a restarted stream.
            if newest - captured_ns < self.interval_ns {
                return Pace::Skip;
            }
            self.state = Some((captured_ns + self.interval_ns, captured_ns));
            return Pace::TakeAfterGap;
        }
        let step = captured_ns - newest;
        // Follows a change of rate within a few frames, and one lost frame hardly moves it.
        self.source_interval_ns =
            if self.source_interval_ns == 0 { step } else { (3 * self.source_interval_ns + step) / 4 };
        // The nearest frame to the due time comes at most half a source interval early.
        let early = (self.source_interval_ns / 2).min(self.interval_ns / 2);
        if captured_ns + early < due {
            self.state = Some((due, captured_ns));
            return Pace::Skip;
        }
        let late = captured_ns.saturating_sub(due);
        if late > self.interval_ns / 2 {
            self.state = Some((captured_ns + self.interval_ns, captured_ns));
            return Pace::TakeAfterGap;
        }
        // Keep to the grid so that rounding never adds up; a camera slower than the model sets its own.
        let slower = self.source_interval_ns >= self.interval_ns;
        let next_due = if slower { due.max(captured_ns) } else { due } + self.interval_ns;
        self.state = Some((next_due, captured_ns));
        Pace::Take
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: u64 = 1_000_000;

    fn taken(pacer: &mut Pacer, times: impl IntoIterator<Item = u64>) -> Vec<u64> {
        times.into_iter().filter(|t| pacer.offer(*t) != Pace::Skip).collect()
    }

    #[test]
    fn takes_every_second_of_ten_a_second() {
        let taken = taken(&mut Pacer::new(200 * MS), (0..50).map(|n| n * 100 * MS));
        assert_eq!(taken, (0..25).map(|n| n * 200 * MS).collect::<Vec<_>>());
    }

    #[test]
    fn a_fractional_rate_does_not_drift() {
        let times = (0..18_000_u64).map(|n| n * 1_001 * 1_000_000_000 / 30_000);
        let taken = taken(&mut Pacer::new(200 * MS), times);
        let span_s = (taken[taken.len() - 1] - taken[0]) as f64 / 1e9;
        assert!((taken.len() as f64 - 1.0 - span_s * 5.0).abs() < 1.0, "{} in {span_s} s", taken.len());
        let worst = taken.iter().enumerate().map(|(n, t)| t.abs_diff(n as u64 * 200 * MS)).max();
        assert!(worst < Some(20 * MS), "{worst:?} ns off the grid");
    }

    #[test]
    fn a_slightly_slower_camera_is_followed() {
        let mut pacer = Pacer::new(200 * MS);
        assert!((0..50).all(|n| pacer.offer(n * 250 * MS) == Pace::Take));
    }

    #[test]
    fn a_break_is_a_gap() {
        let mut pacer = Pacer::new(200 * MS);
        assert_eq!(pacer.offer(0), Pace::Take);
        assert_eq!(pacer.offer(250 * MS), Pace::Take);
        assert_eq!(pacer.offer(900 * MS), Pace::TakeAfterGap);
        assert_eq!(pacer.offer(10 * MS), Pace::TakeAfterGap);
        assert_eq!(pacer.offer(10 * MS), Pace::Skip);
    }
}
