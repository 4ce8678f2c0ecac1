//! Frames between the camera's thread and the inference thread: a short queue with a policy when full.
//!
//! Frames are paced before they come here, so that each one is a step of the model's and none may be
//! lost without a gap. While a prediction is being made a few may wait; the inference thread remembers
//! them all and predicts from the newest.

use std::collections::VecDeque;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use crate::session::{Haste, Paced};

/// What happens to a frame that finds the queue full.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum WhenFull {
    /// It waits: a file read to the last frame.
    Block,
    /// It replaces all that wait and comes after a gap: a camera, and a machine too slow to even
    /// remember its frames.
    StartOver,
}

/// The camera's end. Dropping it closes the queue; what waits is still delivered.
pub struct Sender(Arc<Shared>);

/// The inference thread's end. Dropping it makes every `send` fail.
pub struct Receiver(Arc<Shared>);

struct Shared {
    state: Mutex<State>,
    changed: Condvar,
    capacity: usize,
    when_full: WhenFull,
}

#[derive(Default)]
struct State {
    waiting: VecDeque<Paced>,
    closed: bool,
    /// Frames that were replaced.
    replaced: u64,
}

/// A queue of at most `capacity` frames.
pub fn inbox(capacity: usize, when_full: WhenFull) -> (Sender, Receiver) {
    let shared = Shared { state: Mutex::default(), changed: Condvar::new(), capacity, when_full };
    let shared = Arc::new(shared);
    (Sender(Arc::clone(&shared)), Receiver(shared))
}

/// The other end is gone.
#[derive(Debug, PartialEq, Eq)]
pub struct Closed;

impl Sender {
    /// Queues a frame. Waits for room under [`WhenFull::Block`].
    pub fn send(&self, mut paced: Paced) -> Result<(), Closed> {
        let mut state = self.0.lock();
        if state.waiting.len() >= self.0.capacity {
            match self.0.when_full {
                WhenFull::Block => {
                    let full = |state: &mut State| state.waiting.len() >= self.0.capacity && !state.closed;
                    state = self.0.changed.wait_while(state, full).unwrap_or_else(PoisonError::into_inner);
                }
                WhenFull::StartOver => {
                    state.replaced += state.waiting.len() as u64;
                    state.waiting.clear();
                    paced.after_gap = true;
                }
            }
        }
        if state.closed {
            return Err(Closed);
        }
        state.waiting.push_back(paced);
        self.0.changed.notify_all();
        Ok(())
    }

    /// Frames that newer ones have replaced so far.
    pub fn replaced(&self) -> u64 {
        self.0.lock().replaced
    }
}

impl Receiver {
    /// The next frame, and whether a newer one waits behind it; `None` once the camera's end is gone and
    /// nothing waits.
    pub fn receive(&self) -> Option<(Paced, Haste)> {
        let empty = |state: &mut State| state.waiting.is_empty() && !state.closed;
        let state = self.0.changed.wait_while(self.0.lock(), empty);
        let mut state = state.unwrap_or_else(PoisonError::into_inner);
        let mut paced = state.waiting.pop_front()?;
        self.0.changed.notify_all();
        let newest = state.waiting.is_empty();
        match self.0.when_full {
            // A file waits for us: no frame of it is late, and its latency starts when it is taken.
            WhenFull::Block => {
                paced.frame.captured_at = Instant::now();
                Some((paced, Haste::Newest))
            }
            WhenFull::StartOver => Some((paced, if newest { Haste::Newest } else { Haste::Behind })),
        }
    }
}

impl Drop for Sender {
    fn drop(&mut self) {
        self.0.close();
    }
}

impl Drop for Receiver {
    fn drop(&mut self) {
        self.0.close();
    }
}

impl Shared {
    /// A thread that panicked is reported by whoever started it; the queue itself stays sound.
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn close(&self) {
        self.lock().closed = true;
        self.changed.notify_all();
    }
}

#[cfg(test)]
mod tests {
    use nextclip_core::Picture;
    use nextclip_media::Frame;

    use super::*;

    fn paced(captured_ns: u64) -> Paced {
        let frame = Frame { picture: Picture::zeros((1, 1, 3)), captured_ns, captured_at: Instant::now() };
        Paced { frame, after_gap: false }
    }

    fn received(receiver: &Receiver) -> Option<(u64, bool, Haste)> {
        receiver.receive().map(|(paced, haste)| (paced.frame.captured_ns, paced.after_gap, haste))
    }

    #[test]
    fn the_newest_is_told_from_those_before_it() {
        let (sender, receiver) = inbox(3, WhenFull::StartOver);
        (0..2).for_each(|n| sender.send(paced(n)).unwrap());
        assert_eq!(received(&receiver), Some((0, false, Haste::Behind)));
        assert_eq!(received(&receiver), Some((1, false, Haste::Newest)));
    }

    #[test]
    fn a_camera_starts_over_and_counts() {
        let (sender, receiver) = inbox(2, WhenFull::StartOver);
        (0..3).for_each(|n| sender.send(paced(n)).unwrap());
        assert_eq!(sender.replaced(), 2);
        drop(sender);
        assert_eq!(received(&receiver), Some((2, true, Haste::Newest)));
        assert_eq!(received(&receiver), None);
    }

    #[test]
    fn a_file_waits_and_loses_nothing() {
        let (sender, receiver) = inbox(1, WhenFull::Block);
        let camera = std::thread::spawn(move || (0..50).try_for_each(|n| sender.send(paced(n))));
        let all: Vec<_> = std::iter::from_fn(|| received(&receiver)).collect();
        assert_eq!(all, (0..50).map(|n| (n, false, Haste::Newest)).collect::<Vec<_>>());
        assert_eq!(camera.join().unwrap(), Ok(()));
    }

    #[test]
    fn a_waiting_sender_learns_that_nobody_receives() {
        let (sender, receiver) = inbox(1, WhenFull::Block);
        sender.send(paced(0)).unwrap();
        let camera = std::thread::spawn(move || sender.send(paced(1)));
        drop(receiver);
        assert_eq!(camera.join().unwrap(), Err(Closed));
    }
}
