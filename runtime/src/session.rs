//! One camera's way from frame to prediction and from prediction to score, one frame at a time.
//!
//! Nothing here waits, sleeps or opens anything: frames are pushed in, what follows from each comes out
//! as [`Event`]s, and the clock is an argument.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Instant;

use nextclip_core::{Ledger, Picture, Span};
use nextclip_media::Frame;
use nextclip_predictor::Error;

use crate::clock::Clock;
use crate::model::Model;
use crate::prediction::{Prediction, Scored};

/// A frame on the model's grid of time.
#[derive(Clone, Debug)]
pub struct Paced {
    /// The frame.
    pub frame: Frame,
    /// It does not continue what came before: the stream stood still, jumped, or frames were lost.
    pub after_gap: bool,
}

/// Whether a frame is worth a prediction.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Haste {
    /// The newest frame there is: predict.
    Newest,
    /// A newer frame waits already. It is remembered, so that history has no holes, but a prediction from
    /// it would come too late: under load the daemon gives up rate, not latency.
    Behind,
}

/// What followed from a frame.
#[derive(Clone, Debug)]
pub enum Event {
    /// A prediction is there.
    Issued(Arc<Prediction>),
    /// The time that a prediction covers has passed.
    Scored(Box<Scored>),
    /// A prediction will never be scored.
    Dropped(Dropped),
    /// The stream broke off and history was forgotten.
    Gap,
    /// No prediction was made, since a newer frame waits.
    SkippedBehind,
}

/// A prediction that was never scored.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Dropped {
    /// Of the prediction.
    pub id: u64,
    /// Why.
    pub reason: DropReason,
}

/// Why a prediction was never scored.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DropReason {
    /// The stream broke off in its span.
    Gap,
    /// The run ended in its span.
    End,
    /// No frame came in its span.
    NothingCame,
    /// Frames came faster than their timestamps allow, and too many predictions were open.
    Crowded,
}

impl DropReason {
    /// One word, for records.
    pub fn name(self) -> &'static str {
        match self {
            Self::Gap => "gap",
            Self::End => "end",
            Self::NothingCame => "nothing-came",
            Self::Crowded => "crowded",
        }
    }
}

/// One camera's model, memory and open predictions.
pub struct Session<M> {
    model: M,
    clock: Clock,
    seed: u64,
    /// The frames that the model remembers, oldest first.
    past: VecDeque<Arc<Picture>>,
    open: Ledger<Open>,
    next_id: u64,
}

/// A prediction whose time has not passed.
struct Open {
    prediction: Arc<Prediction>,
    /// By predicted frame: what came, and how far off the due time, in nanoseconds.
    actual: Vec<Option<(u64, Arc<Picture>)>>,
}

impl<M: Model> Session<M> {
    /// A session with nothing seen yet; `seed` fixes the noise of every prediction.
    pub fn new(model: M, seed: u64, clock: Clock) -> Self {
        // One prediction a frame, each open for a clip and half an interval.
        let open = Ledger::new(model.geometry().clip + 2);
        Self { model, clock, seed, past: VecDeque::new(), open, next_id: 0 }
    }

    /// The model.
    pub fn model(&self) -> &M {
        &self.model
    }

    /// Takes the next frame: scores what was predicted for it, remembers it, and predicts what follows.
    /// Errors are the model's.
    pub fn on_frame(&mut self, paced: Paced, haste: Haste) -> Result<Vec<Event>, Error> {
        let Paced { frame, after_gap } = paced;
        let mut events = Vec::new();
        if after_gap {
            events.push(Event::Gap);
            events.extend(self.drop_open(DropReason::Gap));
            self.model.forget();
            self.past.clear();
        }
        let picture = Arc::new(frame.picture);
        self.score(frame.captured_ns, &picture, &mut events);
        self.remember(&picture)?;
        if self.model.is_ready() {
            match haste {
                Haste::Behind => events.push(Event::SkippedBehind),
                Haste::Newest => self.predict(frame.captured_ns, frame.captured_at, &mut events)?,
            }
        }
        Ok(events)
    }

    /// Nothing more will come.
    pub fn end(&mut self) -> Vec<Event> {
        self.drop_open(DropReason::End)
    }

    fn score(&mut self, captured_ns: u64, picture: &Arc<Picture>, events: &mut Vec<Event>) {
        for due in self.open.due(captured_ns) {
            let off_ns = captured_ns.abs_diff(due.span.due_ns(due.index));
            let slot = &mut due.prediction.actual[due.index];
            if slot.as_ref().is_none_or(|(other_ns, _)| off_ns < *other_ns) {
                *slot = Some((off_ns, Arc::clone(picture)));
            }
        }
        // The ledger waits half an interval for late frames; where one has come for the last, nothing
        // nearer will.
        let interval_ns = self.interval_ns();
        for (_, open) in self.open.close(captured_ns + interval_ns / 2) {
            events.push(open.closed());
        }
    }

    fn remember(&mut self, picture: &Arc<Picture>) -> Result<(), Error> {
        self.model.see(picture)?;
        if self.past.len() == self.model.geometry().history {
            self.past.pop_front();
        }
        self.past.push_back(Arc::clone(picture));
        Ok(())
    }

    fn predict(
        &mut self,
        captured_ns: u64,
        captured_at: Instant,
        events: &mut Vec<Event>,
    ) -> Result<(), Error> {
        let future = self.model.predict(self.seed, self.next_id)?;
        let issued = (self.clock)();
        let span = Span { from_ns: captured_ns, interval_ns: self.interval_ns(), frames: future.len() };
        let prediction = Arc::new(Prediction {
            id: self.next_id,
            span,
            issued_at: issued.wall,
            latency: issued.steady.saturating_duration_since(captured_at),
            steps: self.model.steps(),
            past: self.past.iter().cloned().collect(),
            future,
        });
        self.next_id += 1;
        let open = Open { actual: vec![None; span.frames], prediction: Arc::clone(&prediction) };
        if let Some(evicted) = self.open.issue(span, open) {
            events.push(Event::Dropped(Dropped { id: evicted.prediction.id, reason: DropReason::Crowded }));
        }
        events.push(Event::Issued(prediction));
        Ok(())
    }

    fn drop_open(&mut self, reason: DropReason) -> Vec<Event> {
        let dropped = self.open.drain().into_iter();
        dropped.map(|(_, open)| Event::Dropped(Dropped { id: open.prediction.id, reason })).collect()
    }

    fn interval_ns(&self) -> u64 {
        u64::from(self.model.geometry().frame_interval_ms) * 1_000_000
    }
}

impl Open {
    fn closed(self) -> Event {
        let id = self.prediction.id;
        let actual = self.actual.into_iter().map(|came| came.map(|(_, picture)| picture)).collect();
        match Scored::new(self.prediction, actual) {
            Some(scored) => Event::Scored(Box::new(scored)),
            None => Event::Dropped(Dropped { id, reason: DropReason::NothingCame }),
        }
    }
}

#[cfg(test)]
mod tests;
