//! What a run adds up to: counts, mean scores, the latency's distribution.

use std::fmt;

use crate::session::Event;

/// Latencies above this count as this much, in milliseconds.
const LATENCY_BOUND_MS: usize = 60_000;

/// Counts and sums since the start of a run.
#[derive(Clone, Debug, Default)]
pub struct Totals {
    /// Frames that came out of the source.
    pub frames: u64,
    /// Of these, frames that newer ones replaced before anyone saw them.
    pub evicted: u64,
    /// Predictions issued.
    pub predictions: u64,
    /// Predictions scored.
    pub scored: u64,
    /// Predictions that will never be scored.
    pub dropped: u64,
    /// Times that the stream broke off.
    pub gaps: u64,
    /// Frames that were remembered but not predicted from, since newer ones waited.
    pub skipped_behind: u64,
    /// How far predictions reach, in milliseconds; the same for all of a run.
    horizon_ms: f64,
    /// How many predictions took so many milliseconds.
    latencies: Vec<u32>,
    psnr_db_sum: f64,
    last_frame_db_sum: f64,
    linear_db_sum: f64,
}

/// Mean scores over the predictions scored, in decibels.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Means {
    /// Of the predictions.
    pub psnr_db: f64,
    /// Of the last frame repeated.
    pub last_frame_db: f64,
    /// Of linear extrapolation.
    pub linear_db: f64,
}

impl Means {
    /// What predictions are better by than the last frame repeated.
    pub fn gain_db(&self) -> f64 {
        self.psnr_db - self.last_frame_db
    }
}

impl Totals {
    /// Counts an event.
    pub fn note(&mut self, event: &Event) {
        match event {
            Event::Issued(prediction) => {
                self.predictions += 1;
                self.horizon_ms = prediction.horizon_ms();
                let latency_ms = (prediction.latency_ms().round() as usize).min(LATENCY_BOUND_MS);
                if self.latencies.len() <= latency_ms {
                    self.latencies.resize(latency_ms + 1, 0);
                }
                self.latencies[latency_ms] += 1;
            }
            Event::Scored(scored) => {
                self.scored += 1;
                self.psnr_db_sum += scored.psnr.mean_db;
                self.last_frame_db_sum += scored.last_frame.mean_db;
                self.linear_db_sum += scored.linear.mean_db;
            }
            Event::Dropped(_) => self.dropped += 1,
            Event::Gap => self.gaps += 1,
            Event::SkippedBehind => self.skipped_behind += 1,
        }
    }

    /// The latency that this part (0 to 1) of all predictions did not exceed, in milliseconds; `None`
    /// before the first.
    pub fn latency_ms(&self, part: f64) -> Option<f64> {
        let rank = ((part * self.predictions as f64).ceil() as u64).max(1);
        let mut counted = 0;
        self.latencies.iter().enumerate().find_map(|(latency_ms, count)| {
            counted += u64::from(*count);
            (counted >= rank).then_some(latency_ms as f64)
        })
    }

    /// The horizon less the median latency, in milliseconds.
    pub fn look_ahead_ms(&self) -> Option<f64> {
        Some(self.horizon_ms - self.latency_ms(0.5)?)
    }

    /// Mean scores; `None` before the first.
    pub fn means(&self) -> Option<Means> {
        let mean = |sum: f64| sum / self.scored as f64;
        (self.scored > 0).then(|| Means {
            psnr_db: mean(self.psnr_db_sum),
            last_frame_db: mean(self.last_frame_db_sum),
            linear_db: mean(self.linear_db_sum),
        })
    }

    /// One line while it runs.
    pub fn live_line(&self) -> String {
        let mut line = format!("frames {}", self.frames);
        if self.evicted > 0 {
            line += &format!(" ({} unseen)", self.evicted);
        }
        line += &format!("  predictions {}", self.predictions);
        if let (Some(latency_ms), Some(look_ahead_ms)) = (self.latency_ms(0.5), self.look_ahead_ms()) {
            line += &format!("  latency {latency_ms:.0} ms  look-ahead {look_ahead_ms:.0} ms");
        }
        if let Some(means) = self.means() {
            let Means { psnr_db, last_frame_db, .. } = means;
            let gain_db = means.gain_db();
            line +=
                &format!("  PSNR {psnr_db:.2} dB  last frame {last_frame_db:.2} dB  gain {gain_db:+.2} dB");
        }
        line
    }
}

/// The summary, as `key=value` pairs on one line; what there is none of reads `none`.
impl fmt::Display for Totals {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let digits = |value: Option<f64>, digits: usize| match value {
            Some(value) => format!("{value:.digits$}"),
            None => "none".into(),
        };
        let means = self.means();
        write!(f, "frames={} predictions={} scored={}", self.frames, self.predictions, self.scored)?;
        write!(f, " psnr_db={}", digits(means.map(|m| m.psnr_db), 2))?;
        write!(f, " last_frame_db={}", digits(means.map(|m| m.last_frame_db), 2))?;
        write!(f, " linear_db={}", digits(means.map(|m| m.linear_db), 2))?;
        write!(f, " gain_db={}", digits(means.map(|m| m.gain_db()), 2))?;
        write!(f, " latency_ms_p50={}", digits(self.latency_ms(0.5), 0))?;
        write!(f, " latency_ms_p99={}", digits(self.latency_ms(0.99), 0))?;
        write!(f, " look_ahead_ms={}", digits(self.look_ahead_ms(), 0))?;
        let counts = [
            ("gaps", self.gaps),
            ("skipped_behind", self.skipped_behind),
            ("unseen", self.evicted),
            ("unscored", self.dropped),
        ];
        counts
            .iter()
            .filter(|(_, count)| *count > 0)
            .try_for_each(|(name, count)| write!(f, " {name}={count}"))
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::time::{Duration, SystemTime};

    use nextclip_core::{Picture, Span};

    use super::*;
    use crate::prediction::{Prediction, Scored};

    fn prediction(latency_ms: u64) -> Arc<Prediction> {
        let picture = |level| Picture::from_elem((1, 1, 3), level);
        Arc::new(Prediction {
            id: 0,
            span: Span { from_ns: 0, interval_ns: 200_000_000, frames: 5 },
            issued_at: SystemTime::UNIX_EPOCH,
            latency: Duration::from_millis(latency_ms),
            steps: 1,
            past: vec![Arc::new(picture(100))],
            future: vec![picture(111); 5],
        })
    }

    #[test]
    fn a_summary_of_nothing_says_none() {
        let line = Totals::default().to_string();
        assert!(line.starts_with("frames=0 predictions=0 scored=0 psnr_db=none"), "{line}");
        assert!(!line.contains("gaps"), "{line}");
    }

    #[test]
    fn medians_and_means() {
        let mut totals = Totals::default();
        for latency_ms in [100, 120, 5_000] {
            totals.note(&Event::Issued(prediction(latency_ms)));
        }
        assert_eq!((totals.latency_ms(0.5), totals.latency_ms(0.99)), (Some(120.0), Some(5000.0)));
        assert_eq!(totals.look_ahead_ms(), Some(880.0));
        let actual = vec![Some(Arc::new(Picture::from_elem((1, 1, 3), 110))); 5];
        let scored = Scored::new(prediction(100), actual).unwrap();
        totals.note(&Event::Scored(Box::new(scored)));
        let line = totals.to_string();
        // Off by 1 and by 10: 20 dB apart.
        assert!(line.contains("psnr_db=48.13 last_frame_db=28.13"), "{line}");
        assert!(line.contains("gain_db=20.00 latency_ms_p50=120"), "{line}");
    }
}
