//! Predictions waiting for the frames that they were made for.

use std::collections::VecDeque;

/// The time that one prediction covers: `frames` frames, `interval_ns` apart, the first one interval
/// after `from_ns`, the capture time of the newest frame that the model had seen.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Span {
    /// Capture time of the newest frame seen, in nanoseconds of the camera's clock.
    pub from_ns: u64,
    /// Time between predicted frames, in nanoseconds.
    pub interval_ns: u64,
    /// Frames predicted.
    pub frames: usize,
}

impl Span {
    /// When the predicted frame `index` is due, in nanoseconds of the camera's clock.
    pub fn due_ns(&self, index: usize) -> u64 {
        self.from_ns + (index as u64 + 1) * self.interval_ns
    }

    /// When the last predicted frame is due.
    pub fn until_ns(&self) -> u64 {
        self.due_ns(self.frames.saturating_sub(1))
    }

    /// The predicted frame that is due at `captured_ns`, within half an interval.
    pub fn index_at(&self, captured_ns: u64) -> Option<usize> {
        let since = (captured_ns + self.interval_ns / 2).checked_sub(self.from_ns)?;
        let index = (since / self.interval_ns).checked_sub(1)? as usize;
        (index < self.frames).then_some(index)
    }
}

/// A prediction for which a frame has come.
#[derive(Debug)]
pub struct Due<'a, P> {
    /// The prediction.
    pub prediction: &'a mut P,
    /// What it covers.
    pub span: Span,
    /// Which of its frames has come.
    pub index: usize,
}

/// Open predictions, oldest first, at most `capacity` of them.
#[derive(Debug)]
pub struct Ledger<P> {
    open: VecDeque<(Span, P)>,
    capacity: usize,
}

impl<P> Ledger<P> {
    /// An empty ledger that keeps at most `capacity` predictions.
    pub fn new(capacity: usize) -> Self {
        Self { open: VecDeque::new(), capacity }
    }

    /// Predictions waiting.
    pub fn len(&self) -> usize {
        self.open.len()
    }

    /// Whether none is waiting.
    pub fn is_empty(&self) -> bool {
        self.open.is_empty()
    }

    /// Enters a prediction. Returns the oldest one where the ledger was full.
    #[must_use = "an evicted prediction was never fully scored"]
    pub fn issue(&mut self, span: Span, prediction: P) -> Option<P> {
        let evicted = if self.open.len() == self.capacity { self.open.pop_front() } else { None };
        self.open.push_back((span, prediction));
        evicted.map(|(_, prediction)| prediction)
    }

    /// Every open prediction that has a frame due at `captured_ns`.
    pub fn due(&mut self, captured_ns: u64) -> impl Iterator<Item = Due<'_, P>> {
        self.open.iter_mut().filter_map(move |(span, prediction)| {
            let index = span.index_at(captured_ns)?;
            Some(Due { prediction, span: *span, index })
        })
    }

    /// Takes out every prediction whose whole span had passed at `now_ns`.
    pub fn close(&mut self, now_ns: u64) -> Vec<(Span, P)> {
        // A frame may come half an interval late and still count.
        let passed = |span: &Span| span.until_ns() + span.interval_ns / 2 <= now_ns;
        let mut closed = Vec::new();
        while self.open.front().is_some_and(|(span, _)| passed(span)) {
            closed.extend(self.open.pop_front());
        }
        closed
    }

    /// Takes out everything, finished or not: the stream ended or broke off.
    pub fn drain(&mut self) -> Vec<(Span, P)> {
        self.open.drain(..).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SPAN: Span = Span { from_ns: 1_000, interval_ns: 200, frames: 2 };

    #[test]
    fn a_frame_matches_within_half_an_interval() {
        assert_eq!((SPAN.due_ns(0), SPAN.until_ns()), (1_200, 1_400));
        let index = |t| SPAN.index_at(t);
        assert_eq!([index(1_000), index(1_099), index(1_100)], [None, None, Some(0)]);
        assert_eq!(
            [index(1_299), index(1_300), index(1_499), index(1_500)],
            [Some(0), Some(1), Some(1), None]
        );
        assert_eq!(index(0), None);
    }

    #[test]
    fn predictions_close_when_their_span_has_passed() {
        let mut ledger = Ledger::new(2);
        assert!(ledger.issue(SPAN, "a").is_none());
        assert!(ledger.issue(Span { from_ns: 1_200, ..SPAN }, "b").is_none());
        assert_eq!(
            ledger.due(1_400).map(|due| (*due.prediction, due.index)).collect::<Vec<_>>(),
            [("a", 1), ("b", 0)]
        );
        assert!(ledger.close(1_499).is_empty());
        assert_eq!(ledger.close(1_500).len(), 1);
        assert!(ledger.issue(SPAN, "c").is_none());
        assert_eq!(ledger.issue(SPAN, "d"), Some("b"));
        assert_eq!(ledger.drain().len(), 2);
    }
}
