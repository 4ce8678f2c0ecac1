//! Drives a session with models whose worth is known, without a clock that runs.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::{Duration, Instant, SystemTime};

use nextclip_core::Geometry;
use nextclip_core::metrics::EXACT_COPY_DB;

use super::*;
use crate::clock::Moment;

const MS: u64 = 1_000_000;
const INTERVAL_MS: u64 = 200;

/// A world whose every pixel has the number of the frame, times 10.
fn picture(number: u64) -> Picture {
    Picture::from_elem((4, 4, 3), (number * 10) as u8)
}

#[derive(Clone, Copy)]
enum Knowledge {
    /// Every predicted frame is what comes.
    Perfect,
    /// Every predicted frame is the last one seen.
    Frozen,
}

/// A model that takes `takes_ms` of the test's clock for a prediction.
struct Oracle {
    knowledge: Knowledge,
    takes_ms: u64,
    now_ms: Arc<AtomicU64>,
    seen: Vec<u64>,
}

impl Model for Oracle {
    fn geometry(&self) -> Geometry {
        Geometry {
            height: 16,
            width: 16,
            vae_scale: 8,
            latent_channels: 4,
            patch: 2,
            history: 2,
            clip: 3,
            frame_interval_ms: INTERVAL_MS as u32,
        }
    }

    fn steps(&self) -> usize {
        1
    }

    fn see(&mut self, frame: &Picture) -> Result<(), Error> {
        self.seen.push(u64::from(frame[[0, 0, 0]]) / 10);
        Ok(())
    }

    fn is_ready(&self) -> bool {
        self.seen.len() >= 2
    }

    fn predict(&mut self, _: u64, _: u64) -> Result<Vec<Picture>, Error> {
        self.now_ms.fetch_add(self.takes_ms, Relaxed);
        let last = self.seen[self.seen.len() - 1];
        let frame = |index| match self.knowledge {
            Knowledge::Perfect => picture(last + 1 + index),
            Knowledge::Frozen => picture(last),
        };
        Ok((0..3).map(frame).collect())
    }

    fn forget(&mut self) {
        self.seen.clear();
    }
}

/// A session, its clock, and the moment at which the clock was 0.
struct Bench {
    session: Session<Oracle>,
    now_ms: Arc<AtomicU64>,
    start: Instant,
}

impl Bench {
    fn new(knowledge: Knowledge, takes_ms: u64) -> Self {
        let (now_ms, start) = (Arc::new(AtomicU64::new(0)), Instant::now());
        let model = Oracle { knowledge, takes_ms, now_ms: Arc::clone(&now_ms), seen: Vec::new() };
        let shared = Arc::clone(&now_ms);
        let clock = move || {
            let since = Duration::from_millis(shared.load(Relaxed));
            Moment { steady: start + since, wall: SystemTime::UNIX_EPOCH + since }
        };
        Self { session: Session::new(model, 0, Box::new(clock)), now_ms, start }
    }

    /// Frame `number` arrives on time, `jitter_ms` after its place on the grid.
    fn frame(&mut self, number: u64, jitter_ms: u64, haste: Haste) -> Vec<Event> {
        self.paced(number, jitter_ms, false, haste)
    }

    fn paced(&mut self, number: u64, jitter_ms: u64, after_gap: bool, haste: Haste) -> Vec<Event> {
        let captured_ms = number * INTERVAL_MS + jitter_ms;
        self.now_ms.fetch_max(captured_ms, Relaxed);
        let captured_at = self.start + Duration::from_millis(captured_ms);
        let frame = Frame { picture: picture(number), captured_ns: captured_ms * MS, captured_at };
        self.session.on_frame(Paced { frame, after_gap }, haste).unwrap()
    }

    fn run(&mut self, numbers: std::ops::Range<u64>) -> Vec<Event> {
        numbers.flat_map(|number| self.frame(number, 0, Haste::Newest)).collect()
    }
}

fn scored(events: &[Event]) -> Vec<&Scored> {
    events
        .iter()
        .filter_map(|event| if let Event::Scored(s) = event { Some(s.as_ref()) } else { None })
        .collect()
}

fn issued(events: &[Event]) -> Vec<&Prediction> {
    events
        .iter()
        .filter_map(|event| if let Event::Issued(p) = event { Some(p.as_ref()) } else { None })
        .collect()
}

fn dropped(events: &[Event]) -> Vec<Dropped> {
    events.iter().filter_map(|event| if let Event::Dropped(d) = event { Some(*d) } else { None }).collect()
}

#[test]
fn nothing_is_predicted_before_history_is_full() {
    let mut bench = Bench::new(Knowledge::Perfect, 0);
    assert!(bench.frame(0, 0, Haste::Newest).is_empty());
    let events = bench.frame(1, 0, Haste::Newest);
    let prediction = issued(&events)[0];
    assert_eq!((prediction.id, prediction.past.len(), prediction.future.len()), (0, 2, 3));
    assert_eq!(prediction.span, Span { from_ns: 200 * MS, interval_ns: 200 * MS, frames: 3 });
}

#[test]
fn a_perfect_model_scores_as_exact_copies() {
    let events = Bench::new(Knowledge::Perfect, 0).run(0..10);
    assert_eq!(issued(&events).len(), 9);
    // The prediction from frame 1 is scored when frame 4 is there, and so on until frame 9.
    let scored = scored(&events);
    assert_eq!(scored.len(), 6);
    for (id, scored) in scored.iter().enumerate() {
        assert_eq!(scored.prediction.id, id as u64);
        assert_eq!(scored.psnr.frame_db, [Some(EXACT_COPY_DB); 3]);
        // The last frame is off by 10, 20, 30: a world that changes steadily is also what linear
        // extrapolation knows.
        let off = [28.13, 22.11, 18.59];
        for (found, expected) in scored.last_frame.frame_db.iter().zip(off) {
            assert!((found.unwrap() - expected).abs() < 0.01, "{found:?}");
        }
        assert_eq!(scored.linear.mean_db, EXACT_COPY_DB);
    }
}

#[test]
fn a_frozen_model_gains_nothing() {
    let events = Bench::new(Knowledge::Frozen, 0).run(0..8);
    assert!(!scored(&events).is_empty());
    for scored in scored(&events) {
        assert_eq!(scored.psnr, scored.last_frame);
        assert_eq!(scored.gain_db(), 0.0);
    }
}

#[test]
fn look_ahead_is_horizon_less_latency() {
    let mut bench = Bench::new(Knowledge::Perfect, 150);
    bench.run(0..1);
    let events = bench.frame(1, 0, Haste::Newest);
    let prediction = issued(&events)[0];
    assert_eq!((prediction.horizon_ms(), prediction.latency_ms()), (600.0, 150.0));
    assert_eq!(prediction.look_ahead_ms(), 450.0);
    assert_eq!(prediction.issued_at, SystemTime::UNIX_EPOCH + Duration::from_millis(350));

    // Slower than the horizon: the future had come before it was predicted, and the number says so.
    let mut bench = Bench::new(Knowledge::Perfect, 700);
    bench.run(0..1);
    assert_eq!(issued(&bench.frame(1, 0, Haste::Newest))[0].look_ahead_ms(), -100.0);
}

#[test]
fn a_gap_forgets_history_and_open_predictions() {
    let mut bench = Bench::new(Knowledge::Perfect, 0);
    bench.run(0..3);
    let events = bench.paced(20, 0, true, Haste::Newest);
    assert!(matches!(events[0], Event::Gap));
    let gap = |id| Dropped { id, reason: DropReason::Gap };
    assert_eq!(dropped(&events), [gap(0), gap(1)]);
    assert!(issued(&events).is_empty(), "one frame is not a history");
    assert_eq!(bench.session.model().seen, [20]);
    assert_eq!(issued(&bench.frame(21, 0, Haste::Newest)).len(), 1);
}

#[test]
fn behind_it_remembers_and_skips() {
    let mut bench = Bench::new(Knowledge::Perfect, 0);
    bench.run(0..2);
    let events = bench.frame(2, 0, Haste::Behind);
    assert!(matches!(events[..], [Event::SkippedBehind]));
    let events = bench.frame(3, 0, Haste::Newest);
    assert_eq!(issued(&events)[0].span.from_ns, 600 * MS);
    assert_eq!(bench.session.model().seen, [0, 1, 2, 3]);
}

#[test]
fn frames_off_the_grid_still_match() {
    let mut bench = Bench::new(Knowledge::Perfect, 0);
    let jitters = [0, 0, 60, 30, 99, 10, 0];
    let frames = jitters.iter().enumerate();
    let events: Vec<_> =
        frames.flat_map(|(n, jitter)| bench.frame(n as u64, *jitter, Haste::Newest)).collect();
    let first = scored(&events)[0];
    assert_eq!(first.psnr.frame_db, [Some(EXACT_COPY_DB); 3]);
}

#[test]
fn a_lost_frame_leaves_a_hole_and_the_end_drops_the_rest() {
    let mut bench = Bench::new(Knowledge::Perfect, 0);
    let mut events = bench.run(0..2);
    events.extend([3, 4].into_iter().flat_map(|n| bench.frame(n, 0, Haste::Behind)));
    let scored = scored(&events);
    assert_eq!(scored[0].psnr.frame_db, [None, Some(EXACT_COPY_DB), Some(EXACT_COPY_DB)]);
    bench.run(5..6);
    assert_eq!(dropped(&bench.session.end()), [Dropped { id: 1, reason: DropReason::End }]);
}
