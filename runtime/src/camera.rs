//! The camera's thread: from a source's frames to those that the model sees.

use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use nextclip_core::{Pace, Pacer};
use nextclip_media::{Frame, Received, Source};

use crate::crew::Stop;
use crate::inbox::{Closed, Sender};
use crate::session::Paced;
use crate::totals::Totals;

/// How soon the thread notices that it is to stop while no frame comes.
const ATTENTION: Duration = Duration::from_millis(100);

/// Picks frames by the model's interval until the wanted part of the stream is over.
#[derive(Debug)]
pub struct Intake {
    pacer: Pacer,
    /// How much of the stream is wanted, in nanoseconds.
    duration_ns: Option<u64>,
    first_ns: Option<u64>,
}

/// What becomes of a frame.
#[derive(Debug)]
pub enum Taken {
    /// The model sees it.
    Frame(Paced),
    /// It lies between two frames of the model's.
    Skip,
    /// It and all that follow are beyond what was asked for.
    Over,
}

impl Intake {
    /// An intake for a model that sees a frame every `interval_ns`, over `duration` of the stream or all of it.
    pub fn new(interval_ns: u64, duration: Option<Duration>) -> Self {
        let duration_ns = duration.map(|d| u64::try_from(d.as_nanos()).unwrap_or(u64::MAX));
        Self { pacer: Pacer::new(interval_ns), duration_ns, first_ns: None }
    }

    /// Decides about the next frame.
    pub fn offer(&mut self, frame: Frame) -> Taken {
        let first_ns = *self.first_ns.get_or_insert(frame.captured_ns);
        if self.duration_ns.is_some_and(|wanted| frame.captured_ns.saturating_sub(first_ns) > wanted) {
            return Taken::Over;
        }
        match self.pacer.offer(frame.captured_ns) {
            Pace::Skip => Taken::Skip,
            Pace::Take => Taken::Frame(Paced { frame, after_gap: false }),
            Pace::TakeAfterGap => Taken::Frame(Paced { frame, after_gap: true }),
        }
    }
}

/// Passes frames on until the stream ends, enough of it was seen, nobody wants more, or it is to stop.
pub fn watch(
    mut source: Source,
    mut intake: Intake,
    inbox: &Sender,
    totals: &Mutex<Totals>,
    stop: &Stop,
) -> Result<(), nextclip_media::Error> {
    while !stop.is_set() {
        let frame = match source.receive(ATTENTION)? {
            Received::Frame(frame) => frame,
            Received::TimedOut => continue,
            Received::End => {
                log::info!("the stream has ended");
                break;
            }
        };
        let counts = source.counts();
        let taken = intake.offer(frame);
        {
            let mut totals = totals.lock().unwrap_or_else(PoisonError::into_inner);
            totals.frames = counts.arrived;
            totals.evicted = counts.evicted + inbox.replaced();
        }
        match taken {
            Taken::Skip => {}
            Taken::Over => break,
            Taken::Frame(paced) => {
                // Whoever closed the other end reports why.
                if let Err(Closed) = inbox.send(paced) {
                    break;
                }
            }
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::time::Instant;

    use nextclip_core::Picture;

    use super::*;

    #[test]
    fn takes_the_wanted_part_at_the_models_pace() {
        let mut intake = Intake::new(200_000_000, Some(Duration::from_secs(2)));
        let mut taken = Vec::new();
        for frame in 0.. {
            // The stream's clock need not start at 0.
            let captured_ns = 7_000_000_000 + frame * 100_000_000;
            let frame =
                Frame { picture: Picture::zeros((1, 1, 3)), captured_ns, captured_at: Instant::now() };
            match intake.offer(frame) {
                Taken::Frame(paced) => taken.push(paced.frame.captured_ns / 1_000_000 - 7_000),
                Taken::Skip => {}
                Taken::Over => break,
            }
        }
        assert_eq!(taken, (0..=10).map(|n| n * 200).collect::<Vec<_>>());
    }
}
