//! The model on its own predictions: how long it stays near, and whether its pictures drift.

use anyhow::{Context, Result, ensure};
use nextclip_core::metrics::{Area, gradient_energy_within, luma};
use nextclip_core::{Latents, Picture};
use nextclip_media::plot::{Line, Plot};
use nextclip_predictor::Predictor;

use crate::clips::{Clip, Clips};
use crate::draw::{Drawing, see};
use crate::report::{Measure, mean};
use crate::score::{Score, Truth};
use crate::table::Table;

/// One predicted clip further on, over all footage.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct RolloutPoint {
    /// When its last frame comes, in seconds after the last one seen.
    pub until_s: f64,
    /// Mean PSNR of the prediction in decibels.
    pub psnr_db: f64,
    /// The same of the decoder alone.
    pub decoder_db: f64,
    /// The same of the last frame seen, repeated.
    pub last_frame_db: f64,
    /// Mean brightness of the decoder's pictures less that of what came, in 8-bit levels.
    pub luma_drift: f64,
    /// Standard deviation of their brightness over that of what came.
    pub contrast: f64,
    /// Their gradient energy over that of what came, whole frame.
    pub sharpness: f64,
}

/// PSNR and drift against horizon.
#[derive(Clone, Debug, PartialEq)]
pub struct Rollout {
    /// Clips measured.
    pub clips: usize,
    /// Predicted clip after predicted clip.
    pub points: Vec<RolloutPoint>,
    /// Of the first clip: one picture at the end of each predicted clip, and what came then.
    pub example: Vec<(Picture, Picture)>,
}

/// How drift is measured, for readers of a report.
pub const DEFINITION: &str = "\
Each predicted clip is remembered as if it had been seen, and the next one predicted from it; nothing real is seen any \
more. A model with motion sees its own pictures, and moves the last of them; one without remembers its latents, and keeps of \
the last real frame what is not predicted to change. Drift is of the decoder alone: mean brightness less that of what came, \
standard deviation of brightness and gradient energy (whole frame) over those of what came; 0, 1 and 1 are ideal.";

/// Brightness of some pictures beside what came, as sums.
#[derive(Clone, Copy, Debug, Default)]
struct Looks {
    luma: f64,
    deviation: f64,
    energy: f64,
}

#[derive(Default)]
struct Gathered {
    predicted: Vec<Score>,
    decoder: Vec<Score>,
    last_frame: Vec<Score>,
    drawn: Looks,
    came: Looks,
    frames: usize,
}

/// Continues every clip for `onward` predicted clips; `clips` must hold as many frames to come. `progress`
/// is called after each.
pub fn rollout(
    predictor: &mut Predictor,
    clips: &Clips,
    onward: usize,
    drawing: &Drawing,
    mut progress: impl FnMut(),
) -> Result<Rollout> {
    ensure!(onward > 0, "a rollout of 0 clips, must be at least 1");
    let geometry = predictor.manifest().geometry;
    // A rollout follows one future.
    let drawing = if drawing.averaged { *drawing } else { Drawing { samples: 1, ..*drawing } };
    let mut gathered: Vec<Gathered> = (0..onward).map(|_| Gathered::default()).collect();
    let mut example = Vec::new();
    for index in 0..clips.len() {
        let clip = clips.clip(index);
        let ends = follow(predictor, &clip, index, &drawing, &mut gathered);
        let ends = ends.with_context(|| format!("clip {index}"))?;
        if index == 0 {
            let came = clip.came.iter().skip(geometry.clip - 1).step_by(geometry.clip);
            example = ends.into_iter().zip(came.cloned()).collect();
        }
        progress();
    }
    let clip_s = geometry.clip as f64 * f64::from(geometry.frame_interval_ms) / 1e3;
    let points = gathered.iter().enumerate().map(|(step, gathered)| RolloutPoint {
        until_s: (step + 1) as f64 * clip_s,
        psnr_db: Measure::Psnr.over(gathered.predicted.iter()),
        decoder_db: Measure::Psnr.over(gathered.decoder.iter()),
        last_frame_db: Measure::Psnr.over(gathered.last_frame.iter()),
        luma_drift: (gathered.drawn.luma - gathered.came.luma) / gathered.frames as f64,
        contrast: gathered.drawn.deviation / gathered.came.deviation,
        sharpness: gathered.drawn.energy / gathered.came.energy,
    });
    Ok(Rollout { clips: clips.len(), points: points.collect(), example })
}

/// Rolls one clip out; returns the last picture of each predicted clip.
fn follow(
    predictor: &mut Predictor,
    clip: &Clip,
    index: usize,
    drawing: &Drawing,
    gathered: &mut [Gathered],
) -> Result<Vec<Picture>> {
    see(predictor, &clip.seen)?;
    let last = clip.seen.last().context("no frame to predict from")?;
    let length = predictor.manifest().geometry.clip;
    let mut ends = Vec::new();
    for (onward, (gathered, came)) in gathered.iter_mut().zip(clip.came.chunks_exact(length)).enumerate() {
        let draws = drawing.draw(predictor, index, onward)?;
        let latents: &Latents = draws.first().context("nothing was drawn")?;
        let predicted = predictor.render(latents)?;
        let decoded = predictor.decode(latents)?;
        predictor.follow(latents, &predicted)?;
        for ((came, predicted), decoded) in came.iter().zip(&predicted).zip(&decoded) {
            let truth = Truth::new(came, last)?;
            gathered.predicted.push(truth.score(predicted)?);
            gathered.decoder.push(truth.score(decoded)?);
            gathered.last_frame.push(truth.score(last)?);
            gathered.drawn.add(decoded);
            gathered.came.add(came);
            gathered.frames += 1;
        }
        ends.extend(predicted.last().cloned());
    }
    Ok(ends)
}

impl Looks {
    fn add(&mut self, picture: &Picture) {
        let luma = luma(picture);
        let mean = luma.mean().unwrap_or_default();
        self.luma += mean;
        self.deviation += luma.std(0.0);
        let all = Area::from_elem(luma.raw_dim(), true);
        self.energy += gradient_energy_within(picture, &all).unwrap_or_default();
    }
}

impl Rollout {
    /// One row a measure, one column a predicted clip.
    pub fn tables(&self) -> [Table; 2] {
        let columns = || self.points.iter().map(|point| format!("{:.1} s", point.until_s));
        let values = |value: fn(&RolloutPoint) -> f64| self.points.iter().map(value).collect::<Vec<_>>();
        let title = format!("rollout: mean PSNR in dB, {} clips", self.clips);
        let near = Table::new(title, columns(), 2)
            .with("prediction", values(|p| p.psnr_db))
            .with("prediction, decoder alone", values(|p| p.decoder_db))
            .with("last frame repeated", values(|p| p.last_frame_db));
        let drift = Table::new("rollout: drift of the decoder alone", columns(), 2)
            .with("brightness less the real, levels", values(|p| p.luma_drift))
            .with("contrast over the real", values(|p| p.contrast))
            .with("gradient energy over the real", values(|p| p.sharpness));
        [near, drift]
    }

    /// What the tables say, as plots with a name for their files.
    pub fn plots(&self) -> Vec<(&'static str, Plot)> {
        let line = |name: &str, value: &dyn Fn(&RolloutPoint) -> f64| {
            Line::new(name, self.points.iter().map(|point| (point.until_s, value(point))).collect())
        };
        let plot = |title: &str, y: &str| Plot::new(title, "seconds after the last frame seen", y);
        vec![
            (
                "rollout-psnr",
                plot("Rollout", "PSNR in dB")
                    .with(line("prediction", &|p| p.psnr_db))
                    .with(line("last frame repeated", &|p| p.last_frame_db))
                    .with(line("decoder alone", &|p| p.decoder_db)),
            ),
            (
                "rollout-drift",
                plot("Drift", "over the real")
                    .with(line("contrast", &|p| p.contrast))
                    .with(line("gradient energy", &|p| p.sharpness))
                    .with(line("as real", &|_| 1.0)),
            ),
            (
                "rollout-brightness",
                plot("Brightness", "8-bit levels less the real")
                    .with(line("mean difference", &|p| p.luma_drift))
                    .with(line("as real", &|_| 0.0)),
            ),
        ]
    }

    /// Until when the prediction stays above the last frame repeated, in words.
    pub fn verdict(&self) -> String {
        let above = self.points.iter().take_while(|point| point.psnr_db > point.last_frame_db).count();
        let gain = mean(self.points.iter().map(|point| point.psnr_db - point.last_frame_db));
        match self.points.get(above.wrapping_sub(1)) {
            _ if above == self.points.len() => {
                format!(
                    "Above the last frame repeated through all {above} predicted clips, {gain:+.2} dB on average."
                )
            }
            Some(point) => format!("Above the last frame repeated until {:.1} s only.", point.until_s),
            None => "Below the last frame repeated from the first predicted clip on.".into(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_verdict_ends_where_the_model_does() {
        let point = |until_s, psnr_db| RolloutPoint {
            until_s,
            psnr_db,
            decoder_db: 0.0,
            last_frame_db: 20.0,
            luma_drift: 0.0,
            contrast: 1.0,
            sharpness: 1.0,
        };
        let rollout = |db: [f64; 3]| Rollout {
            clips: 1,
            points: vec![point(1.0, db[0]), point(2.0, db[1]), point(3.0, db[2])],
            example: Vec::new(),
        };
        assert!(rollout([21.0, 21.0, 21.0]).verdict().contains("all 3"));
        assert!(rollout([21.0, 21.0, 19.0]).verdict().contains("2.0 s only"));
        assert!(rollout([19.0, 21.0, 21.0]).verdict().starts_with("Below"));
    }
}
