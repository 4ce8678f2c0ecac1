//! What was measured: a table for each measure, a verdict in words, and one line for scripts.

use nextclip_core::Geometry;
use nextclip_core::metrics::MOVING_LEVELS;

use crate::measure::{Forecaster, Sample};
use crate::score::Score;
use crate::table::Table;

/// Something that is measured of every predicted frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Measure {
    /// PSNR over the whole frame.
    Psnr,
    /// PSNR over the moving area.
    MovingPsnr,
    /// Structural similarity over the whole frame.
    Ssim,
    /// Structural similarity over the moving area.
    MovingSsim,
    /// Gradient magnitude similarity deviation.
    Gmsd,
    /// Gradient energy over that of the real frame, in the moving area.
    Sharpness,
}

impl Measure {
    /// All of them, in the order of declaration.
    pub const ALL: [Self; 6] =
        [Self::Psnr, Self::MovingPsnr, Self::Ssim, Self::MovingSsim, Self::Gmsd, Self::Sharpness];

    /// In words, with the unit.
    pub fn title(self) -> &'static str {
        match self {
            Self::Psnr => "mean PSNR in dB",
            Self::MovingPsnr => "PSNR where it moves, in dB",
            Self::Ssim => "SSIM",
            Self::MovingSsim => "SSIM where it moves",
            Self::Gmsd => "GMSD (0 is a copy)",
            Self::Sharpness => "sharpness where it moves",
        }
    }

    /// How it is computed, for readers of a report.
    pub fn definition(self) -> String {
        match self {
            Self::Psnr => {
                "Peak signal-to-noise ratio of 8-bit RGB, mean over frames. Higher is nearer.".into()
            }
            Self::MovingPsnr => format!(
                "The same over the moving area only: pixels where what came departs from the last frame seen \
                 (largest of three channels, averaged over 5 x 5 pixels) by more than {MOVING_LEVELS} of 255 \
                 levels. Frames in which nothing moves are left out."
            ),
            Self::Ssim => {
                "Structural similarity (Wang et al. 2004) on luma, Gaussian windows of 11 x 11 pixels, \
                           sigma 1.5. 1 is a copy."
                    .into()
            }
            Self::MovingSsim => "The same over windows centred in the moving area.".into(),
            Self::Gmsd => {
                "Gradient magnitude similarity deviation (Xue et al. 2014) on luma at half size: a \
                           perceptual measure without a trained network. 0 is a copy, lower is nearer."
                    .into()
            }
            Self::Sharpness => {
                "Gradient energy of the prediction over that of what came, summed over the moving \
                                area. Below 1 blurred, above 1 noisy."
                    .into()
            }
        }
    }

    fn decimals(self) -> usize {
        match self {
            Self::Psnr | Self::MovingPsnr | Self::Sharpness => 2,
            Self::Ssim | Self::MovingSsim | Self::Gmsd => 3,
        }
    }

    /// The value over many frames; NaN where none counts.
    pub fn over<'a>(self, scores: impl Iterator<Item = &'a Score>) -> f64 {
        // A ratio of sums: frames with hardly an edge would make a mean of ratios wild.
        if self == Self::Sharpness {
            let moving = scores.filter_map(|score| score.moving);
            let (sum, came) = moving.fold((0.0, 0.0), |(sum, came), moving| {
                (sum + moving.gradient_energy, came + moving.gradient_energy_came)
            });
            return sum / came;
        }
        let value = |score: &Score| match self {
            Self::Psnr => Some(score.psnr_db),
            Self::Ssim => Some(score.ssim),
            Self::Gmsd => Some(score.gmsd),
            Self::MovingPsnr => score.moving.map(|moving| moving.psnr_db),
            Self::MovingSsim => score.moving.and_then(|moving| moving.ssim),
            Self::Sharpness => None,
        };
        mean(scores.filter_map(value))
    }
}

/// Everything that was measured of one bundle on one set of clips.
#[derive(Clone, Debug, PartialEq)]
pub struct Report {
    clips: usize,
    /// When each predicted frame comes, in seconds after the last one seen.
    horizon_s: Vec<f64>,
    samples: Vec<Sample>,
}

impl Report {
    /// Of these samples.
    pub fn new(samples: Vec<Sample>, geometry: &Geometry) -> Self {
        let interval_s = f64::from(geometry.frame_interval_ms) / 1e3;
        let mut clips: Vec<usize> = samples.iter().map(|sample| sample.index).collect();
        clips.dedup();
        Self {
            clips: clips.len(),
            horizon_s: (1..=geometry.clip).map(|k| k as f64 * interval_s).collect(),
            samples,
        }
    }

    /// Clips measured.
    pub fn clips(&self) -> usize {
        self.clips
    }

    /// What was measured, in the clips' order.
    pub fn samples(&self) -> &[Sample] {
        &self.samples
    }

    /// When each predicted frame comes, in seconds after the last one seen.
    pub fn horizon_s(&self) -> &[f64] {
        &self.horizon_s
    }

    /// One value a predicted frame.
    pub fn curve(&self, measure: Measure, forecaster: Forecaster) -> Vec<f64> {
        let of_frame = |k: usize| {
            measure.over(self.samples.iter().filter_map(|sample| sample.scores(forecaster).get(k)))
        };
        (0..self.horizon_s.len()).map(of_frame).collect()
    }

    /// One value over all frames: every frame of the horizon counts the same.
    pub fn overall(&self, measure: Measure, forecaster: Forecaster) -> f64 {
        if measure == Measure::Sharpness {
            return measure.over(self.samples.iter().flat_map(|sample| sample.scores(forecaster)));
        }
        let curve = self.curve(measure, forecaster);
        mean(curve.into_iter().filter(|value| value.is_finite()))
    }

    /// Whether the footage was one that `forecaster` knows.
    pub fn has(&self, forecaster: Forecaster) -> bool {
        self.samples.iter().any(|sample| !sample.scores(forecaster).is_empty())
    }

    /// All forecasters that know the footage, over the horizon.
    pub fn table(&self, measure: Measure) -> Table {
        let columns = self.horizon_s.iter().map(|s| format!("+{s:.1} s")).chain(["all".to_owned()]);
        let title = match measure {
            Measure::Psnr => format!("{}, {} clips", measure.title(), self.clips),
            _ => measure.title().to_owned(),
        };
        Forecaster::ALL.into_iter().filter(|forecaster| self.has(*forecaster)).fold(
            Table::new(title, columns, measure.decimals()),
            |table, forecaster| {
                let mut values = self.curve(measure, forecaster);
                values.push(self.overall(measure, forecaster));
                table.with(forecaster.name(), values)
            },
        )
    }

    /// Whether the model is worth its keep: where it is nearer than both predictors that need no model.
    pub fn verdict(&self) -> String {
        use Forecaster::{LastFrame, Linear, Prediction};
        let curve = |forecaster| self.curve(Measure::Psnr, forecaster);
        let (model, last, linear) = (curve(Prediction), curve(LastFrame), curve(Linear));
        let better = |k: &usize| model[*k] > last[*k] && model[*k] > linear[*k];
        let won: Vec<usize> = (0..model.len()).filter(better).collect();
        let gain = self.overall(Measure::Psnr, Prediction) - self.overall(Measure::Psnr, LastFrame);
        let place = if won.len() == model.len() {
            "at every frame of the horizon".to_owned()
        } else if won.is_empty() {
            "at no frame of the horizon: this model is of no use on this footage".to_owned()
        } else {
            let times: Vec<_> = won.iter().map(|k| format!("+{:.1} s", self.horizon_s[*k])).collect();
            format!("only at {}", times.join(", "))
        };
        format!(
            "{gain:+.2} dB against the last frame repeated; better in PSNR than the last frame and linear \
             continuation {place}."
        )
    }

    /// The line that scripts read.
    pub fn summary(&self) -> String {
        use Forecaster::{LastFrame, Prediction};
        let all = |measure, forecaster| self.overall(measure, forecaster);
        let (psnr, last) = (all(Measure::Psnr, Prediction), all(Measure::Psnr, LastFrame));
        let moving = all(Measure::MovingPsnr, Prediction) - all(Measure::MovingPsnr, LastFrame);
        format!(
            "psnr_db={psnr:.2} last_frame_db={last:.2} gain_db={:.2} moving_gain_db={moving:.2} sharpness={:.2}",
            psnr - last,
            all(Measure::Sharpness, Prediction)
        )
    }
}

/// NaN of nothing.
pub(crate) fn mean(values: impl Iterator<Item = f64>) -> f64 {
    let (sum, count) = values.fold((0.0, 0_usize), |(sum, count), value| (sum + value, count + 1));
    sum / count as f64
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::score::MovingScore;

    fn score(psnr_db: f64, moving: Option<(f64, f64)>) -> Score {
        let moving = moving.map(|(gradient_energy, gradient_energy_came)| MovingScore {
            psnr_db: psnr_db - 10.0,
            ssim: None,
            gradient_energy,
            gradient_energy_came,
        });
        Score { psnr_db, ssim: 0.5, gmsd: 0.1, moving }
    }

    #[test]
    fn frames_without_motion_do_not_count_where_it_moves() {
        let scores = [score(30.0, Some((1.0, 4.0))), score(40.0, None), score(20.0, Some((8.0, 5.0)))];
        assert_eq!(Measure::Psnr.over(scores.iter()), 30.0);
        assert_eq!(Measure::MovingPsnr.over(scores.iter()), 15.0);
        assert_eq!(Measure::Sharpness.over(scores.iter()), 1.0);
        assert!(Measure::MovingSsim.over(scores.iter()).is_nan());
        assert!(Measure::Sharpness.over(scores[1..2].iter()).is_nan());
    }
}
