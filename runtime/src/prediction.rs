//! A prediction, and what it turned out to be worth.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use nextclip_core::metrics::{EXACT_COPY_DB, psnr_db};
use nextclip_core::{Picture, Span};

/// A clip of the future, as it was issued.
#[derive(Debug)]
pub struct Prediction {
    /// Counts from 0 within a run.
    pub id: u64,
    /// The time that it covers, on the camera's clock.
    pub span: Span,
    /// When it was issued, on the wall clock.
    pub issued_at: SystemTime,
    /// From the capture of the newest frame that the model had seen until the prediction was there.
    pub latency: Duration,
    /// Denoising steps that it took.
    pub steps: usize,
    /// The frames that the model had seen, oldest first, never empty.
    pub past: Vec<Arc<Picture>>,
    /// The predicted frames, earliest first.
    pub future: Vec<Picture>,
}

impl Prediction {
    /// How far it reaches past the newest frame seen, in milliseconds.
    pub fn horizon_ms(&self) -> f64 {
        (self.span.until_ns() - self.span.from_ns) as f64 / 1e6
    }

    /// Latency in milliseconds.
    pub fn latency_ms(&self) -> f64 {
        self.latency.as_secs_f64() * 1e3
    }

    /// What is left of the horizon when the prediction is there, in milliseconds; negative where the last
    /// predicted frame had already come by then.
    pub fn look_ahead_ms(&self) -> f64 {
        self.horizon_ms() - self.latency_ms()
    }
}

/// A prediction whose time has passed.
#[derive(Clone, Debug)]
pub struct Scored {
    /// What was predicted.
    pub prediction: Arc<Prediction>,
    /// What came, frame by frame; `None` where the camera gave nothing.
    pub actual: Vec<Option<Arc<Picture>>>,
    /// How near it was.
    pub psnr: Score,
    /// How near the last frame seen is, repeated.
    pub last_frame: Score,
    /// How near the last two frames seen are, continued linearly.
    pub linear: Score,
}

impl Scored {
    /// Compares a prediction and the trivial ones with what came. `None` where nothing came at all.
    pub fn new(prediction: Arc<Prediction>, actual: Vec<Option<Arc<Picture>>>) -> Option<Self> {
        let last = prediction.past.last()?;
        let before = prediction.past.iter().rev().nth(1).unwrap_or(last);
        let score = |guess: &dyn Fn(usize) -> Option<Picture>| {
            let frame_db = actual.iter().enumerate().map(|(index, actual)| {
                let psnr_db = psnr_db(&guess(index)?, actual.as_deref()?)?;
                Some(psnr_db.min(EXACT_COPY_DB))
            });
            Score::new(frame_db.collect())
        };
        let psnr = score(&|index| prediction.future.get(index).cloned())?;
        let last_frame = score(&|_| Some(last.as_ref().clone()))?;
        let linear = score(&|index| Some(extrapolated(before, last, index + 1)))?;
        Some(Self { psnr, last_frame, linear, actual, prediction })
    }

    /// What the prediction is better by than the last frame repeated, in decibels.
    pub fn gain_db(&self) -> f64 {
        self.psnr.mean_db - self.last_frame.mean_db
    }
}

/// PSNR of a clip.
#[derive(Clone, Debug, PartialEq)]
pub struct Score {
    /// Of each frame, in decibels, an exact copy counting as [`EXACT_COPY_DB`]; `None` where no frame came.
    pub frame_db: Vec<Option<f64>>,
    /// The mean over those that came.
    pub mean_db: f64,
}

impl Score {
    fn new(frame_db: Vec<Option<f64>>) -> Option<Self> {
        let came: Vec<f64> = frame_db.iter().flatten().copied().collect();
        let mean_db = came.iter().sum::<f64>() / came.len() as f64;
        (!came.is_empty()).then_some(Self { frame_db, mean_db })
    }
}

/// The picture `steps` intervals after `last` if every sample went on changing as it did from `before`.
fn extrapolated(before: &Picture, last: &Picture, steps: usize) -> Picture {
    let steps = i32::try_from(steps).unwrap_or(i32::MAX);
    let mut picture = last.clone();
    if before.dim() == last.dim() {
        picture.zip_mut_with(before, |sample, before| {
            let (now, before) = (i32::from(*sample), i32::from(*before));
            *sample = now.saturating_add((now - before).saturating_mul(steps)).clamp(0, 255) as u8;
        });
    }
    picture
}

#[cfg(test)]
mod tests {
    use super::*;

    fn grey(level: u8) -> Picture {
        Picture::from_elem((2, 2, 3), level)
    }

    fn prediction(past: [u8; 2], future: &[u8]) -> Arc<Prediction> {
        Arc::new(Prediction {
            id: 0,
            span: Span { from_ns: 0, interval_ns: 200_000_000, frames: future.len() },
            issued_at: SystemTime::UNIX_EPOCH,
            latency: Duration::from_millis(150),
            steps: 1,
            past: past.map(|level| Arc::new(grey(level))).to_vec(),
            future: future.iter().map(|level| grey(*level)).collect(),
        })
    }

    #[test]
    fn look_ahead_is_what_latency_leaves_of_the_horizon() {
        let prediction = prediction([0, 0], &[1, 2, 3, 4, 5]);
        assert_eq!((prediction.horizon_ms(), prediction.latency_ms()), (1000.0, 150.0));
        assert_eq!(prediction.look_ahead_ms(), 850.0);
    }

    #[test]
    fn steady_change_is_what_linear_extrapolation_knows() {
        let actual = [120_u8, 130].map(|level| Some(Arc::new(grey(level)))).to_vec();
        let scored = Scored::new(prediction([100, 110], &[120, 120]), actual).unwrap();
        assert_eq!(scored.linear.frame_db, [Some(EXACT_COPY_DB); 2]);
        // Off by 0 and 10: exact, and 10 log10(255^2 / 100).
        let off_10 = 28.1308;
        assert!((scored.psnr.mean_db - (EXACT_COPY_DB + off_10) / 2.0).abs() < 1e-3);
        assert!((scored.last_frame.frame_db[0].unwrap() - off_10).abs() < 1e-3);
        assert!(scored.gain_db() > 20.0);
    }

    #[test]
    fn frames_that_never_came_do_not_count() {
        let actual = vec![None, Some(Arc::new(grey(9)))];
        let scored = Scored::new(prediction([0, 0], &[5, 9]), actual).unwrap();
        assert_eq!(scored.psnr.frame_db, [None, Some(EXACT_COPY_DB)]);
        assert_eq!(scored.psnr.mean_db, EXACT_COPY_DB);
        assert!(Scored::new(prediction([0, 0], &[5, 9]), vec![None, None]).is_none());
    }

    #[test]
    fn extrapolation_stays_within_a_byte() {
        assert_eq!(extrapolated(&grey(200), &grey(250), 3), grey(255));
        assert_eq!(extrapolated(&grey(50), &grey(10), usize::MAX), grey(0));
    }
}
