//! Hands frames from GStreamer's threads to the reader: bounded, with a named policy where it is full.

use std::collections::VecDeque;
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// What happens to a frame that finds no room.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum WhenFull {
    /// The oldest frame goes, counted: a camera does not wait.
    EvictOldest,
    /// The sender waits: every frame of a film is wanted.
    Block,
}

/// Why no further frame comes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Ending {
    /// The stream is over.
    End,
    /// The stream broke.
    Fault(String),
}

/// What the reader finds.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Taken<T> {
    Item(T),
    Ended(Ending),
    TimedOut,
}

/// The reader has gone: nothing more is taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Closed;

pub(crate) struct Slot<T> {
    state: Mutex<State<T>>,
    changed: Condvar,
}

struct State<T> {
    items: VecDeque<T>,
    capacity: usize,
    when_full: WhenFull,
    ending: Option<Ending>,
    closed: bool,
    arrived: u64,
    evicted: u64,
}

impl<T> Slot<T> {
    pub(crate) fn new(capacity: usize, when_full: WhenFull) -> Self {
        let state = State {
            items: VecDeque::new(),
            capacity,
            when_full,
            ending: None,
            closed: false,
            arrived: 0,
            evicted: 0,
        };
        Self { state: Mutex::new(state), changed: Condvar::new() }
    }

    /// Adds an item, waiting or evicting where there is no room.
    pub(crate) fn put(&self, item: T) -> Result<(), Closed> {
        let mut state = self.lock();
        state.arrived += 1;
        while state.items.len() >= state.capacity && !state.closed {
            match state.when_full {
                WhenFull::EvictOldest => {
                    state.items.pop_front();
                    state.evicted += 1;
                }
                WhenFull::Block => {
                    state = self.changed.wait(state).unwrap_or_else(PoisonError::into_inner);
                }
            }
        }
        if state.closed {
            return Err(Closed);
        }
        state.items.push_back(item);
        self.changed.notify_all();
        Ok(())
    }

    /// The oldest item; only where there is none, the ending. The first ending stays: later faults are its echo.
    pub(crate) fn take(&self, timeout: Duration) -> Taken<T> {
        self.wait_until(timeout, |state| {
            let item = state.items.pop_front().map(Taken::Item);
            item.or_else(|| state.ending.clone().map(Taken::Ended))
        })
        .unwrap_or(Taken::TimedOut)
    }

    /// Waits for the first item without taking it. The ending where there is none, nothing where time runs out.
    pub(crate) fn wait_first(&self, timeout: Duration) -> Option<Result<(), Ending>> {
        self.wait_until(timeout, |state| match &state.ending {
            _ if !state.items.is_empty() => Some(Ok(())),
            ending => ending.clone().map(Err),
        })
    }

    fn wait_until<R>(
        &self,
        timeout: Duration,
        mut ready: impl FnMut(&mut State<T>) -> Option<R>,
    ) -> Option<R> {
        let until = Instant::now().checked_add(timeout);
        let mut state = self.lock();
        loop {
            if let Some(found) = ready(&mut state) {
                self.changed.notify_all();
                return Some(found);
            }
            // A timeout too far away for the clock is none.
            let left = until.map_or(Duration::MAX, |until| until.saturating_duration_since(Instant::now()));
            if left.is_zero() {
                return None;
            }
            let bounded = left.min(Duration::from_secs(3600));
            state = self.changed.wait_timeout(state, bounded).unwrap_or_else(PoisonError::into_inner).0;
        }
    }

    /// From now on only the newest item is kept, and nobody waits.
    pub(crate) fn keep_newest(&self) {
        let mut state = self.lock();
        (state.capacity, state.when_full) = (1, WhenFull::EvictOldest);
    }

    pub(crate) fn end(&self, ending: Ending) {
        self.lock().ending.get_or_insert(ending);
        self.changed.notify_all();
    }

    /// Lets a waiting sender go, for good.
    pub(crate) fn close(&self) {
        self.lock().closed = true;
        self.changed.notify_all();
    }

    pub(crate) fn is_closed(&self) -> bool {
        self.lock().closed
    }

    /// Items put so far, and how many of them were evicted.
    pub(crate) fn counts(&self) -> (u64, u64) {
        let state = self.lock();
        (state.arrived, state.evicted)
    }

    // A panic elsewhere leaves the queue whole: no operation here stops half way.
    fn lock(&self) -> MutexGuard<'_, State<T>> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SOON: Duration = Duration::from_millis(10);

    #[test]
    fn the_newest_wins_and_evictions_count() {
        let slot = Slot::new(1, WhenFull::EvictOldest);
        for n in 0..5 {
            slot.put(n).unwrap();
        }
        assert_eq!(slot.take(SOON), Taken::Item(4));
        assert_eq!(slot.take(SOON), Taken::TimedOut);
        assert_eq!(slot.counts(), (5, 4));
    }

    #[test]
    fn blocking_loses_nothing_and_keeps_the_order() {
        let slot = Slot::new(2, WhenFull::Block);
        std::thread::scope(|scope| {
            scope.spawn(|| {
                (0..200).for_each(|n| slot.put(n).unwrap());
                slot.end(Ending::End);
            });
            for n in 0..200 {
                assert_eq!(slot.take(Duration::from_secs(5)), Taken::Item(n));
            }
            assert_eq!(slot.take(Duration::from_secs(5)), Taken::Ended(Ending::End));
        });
        assert_eq!(slot.counts(), (200, 0));
    }

    #[test]
    fn what_arrived_is_read_before_the_fault() {
        let slot = Slot::new(4, WhenFull::Block);
        slot.put(1).unwrap();
        slot.end(Ending::Fault("cause".into()));
        slot.end(Ending::Fault("echo".into()));
        assert_eq!(slot.wait_first(SOON), Some(Ok(())));
        assert_eq!(slot.take(SOON), Taken::Item(1));
        assert_eq!(slot.take(SOON), Taken::Ended(Ending::Fault("cause".into())));
    }

    #[test]
    fn closing_frees_a_waiting_sender() {
        let slot = Slot::new(1, WhenFull::Block);
        slot.put(1).unwrap();
        std::thread::scope(|scope| {
            let sender = scope.spawn(|| slot.put(2));
            std::thread::sleep(SOON);
            slot.close();
            assert_eq!(sender.join().unwrap(), Err(Closed));
        });
    }
}
