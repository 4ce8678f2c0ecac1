//! Two bundles of one model side by side: what the second's speed and size cost in quality.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use nextclip_core::sampler::{TimeGrid, noise};
use nextclip_core::{Geometry, Latents, Manifest, Picture};
use nextclip_media::strip::{Row, Section, Strip, difference};
use nextclip_predictor::Predictor;

use crate::clips::{Clip, Clips};
use crate::figures::{DIFFERENCE_GAIN, groups, past};
use crate::report::Measure;
use crate::score::{Score, Truth};
use crate::table::Table;

/// A stage of the pipeline that is timed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stage {
    /// A frame to its latent.
    Encode,
    /// A latent to keys and values.
    Remember,
    /// One denoising step of a clip.
    Denoise,
    /// A clip's latents to pictures.
    Decode,
    /// All that a new frame takes: encode, remember, every step, decode.
    Whole,
}

impl Stage {
    /// All of them, in the order of declaration.
    pub const ALL: [Self; 5] = [Self::Encode, Self::Remember, Self::Denoise, Self::Decode, Self::Whole];

    /// In words.
    pub fn name(self) -> &'static str {
        match self {
            Self::Encode => "encode, a frame",
            Self::Remember => "remember, a frame",
            Self::Denoise => "denoise, a step",
            Self::Decode => "decode, a clip",
            Self::Whole => "whole: a frame in, a clip out",
        }
    }
}

/// One bundle's side of a comparison.
#[derive(Clone, Debug, Default)]
struct Side {
    /// By [`Stage`].
    times: [Vec<Duration>; Stage::ALL.len()],
    scores: Vec<Score>,
}

/// What both bundles made of one clip.
#[derive(Clone, Debug)]
pub struct Pair {
    /// Which clip.
    pub index: usize,
    /// Pictures of the bundle that is compared.
    pub compared: Vec<Picture>,
    /// Pictures of the bundle that it is compared against.
    pub against: Vec<Picture>,
}

/// A finished comparison.
#[derive(Clone, Debug)]
pub struct Comparison {
    compared: Side,
    against: Side,
    /// The compared bundle's pictures measured against the other's, as if those were what came.
    between: Vec<Score>,
    /// By denoising step: (signal, noise) energies of latents.
    latents: Vec<(f64, f64)>,
    /// Sizes of the bundles in bytes.
    bytes: (u64, u64),
    /// Sizes of their caches in bytes.
    cache_bytes: (u64, u64),
    /// The first clips, for pictures.
    pairs: Vec<Pair>,
    clips: usize,
}

/// Clips whose pictures are kept.
const PAIRS: usize = 4;

/// Predicts every clip with both bundles from the same noise, in turn, changing who goes first; `progress`
/// is called after each clip. Both must have the same geometry and take the same steps.
pub fn compare(
    compared: &mut Predictor,
    against: &mut Predictor,
    clips: &Clips,
    seed: u64,
    mut progress: impl FnMut(),
) -> Result<Comparison> {
    let (geometry, other) = (compared.manifest().geometry, against.manifest().geometry);
    ensure!(geometry == other, "the bundles differ in geometry: {geometry:?} against {other:?}");
    let (steps, other) = (compared.steps(), against.steps());
    ensure!(
        steps == other,
        "the bundles differ in denoising steps: {steps} against {other}; choose with --steps"
    );
    let mut comparison = Comparison {
        compared: Side::default(),
        against: Side::default(),
        between: Vec::new(),
        latents: vec![(0.0, 0.0); steps],
        bytes: (bytes(compared.manifest()), bytes(against.manifest())),
        cache_bytes: (cache_bytes(compared.manifest()), cache_bytes(against.manifest())),
        pairs: Vec::new(),
        clips: clips.len(),
    };
    // First runs allocate and settle; they are not what a stream pays.
    let mut ignored = Side::default();
    for predictor in [&mut *compared, &mut *against] {
        predict(predictor, &clips.clip(0), seed, 0, &mut ignored)?;
    }
    for index in 0..clips.len() {
        let clip = clips.clip(index);
        let run = |predictor: &mut Predictor, side: &mut Side| {
            predict(predictor, &clip, seed, index, side).with_context(|| format!("clip {index}"))
        };
        // Whoever goes second finds the machine warmer: take turns.
        let (mine, theirs) = if index % 2 == 0 {
            let theirs = run(against, &mut comparison.against)?;
            (run(compared, &mut comparison.compared)?, theirs)
        } else {
            let mine = run(compared, &mut comparison.compared)?;
            (mine, run(against, &mut comparison.against)?)
        };
        comparison.add(index, &clip, mine, theirs)?;
        progress();
    }
    Ok(comparison)
}

/// The latents after every step, and the last one's pictures.
struct Predicted {
    latents: Vec<Latents>,
    pictures: Vec<Picture>,
}

fn predict(
    predictor: &mut Predictor,
    clip: &Clip,
    seed: u64,
    index: usize,
    side: &mut Side,
) -> Result<Predicted> {
    let geometry = predictor.manifest().geometry;
    let mut spent = [Duration::ZERO; Stage::ALL.len()];
    let mut note = |stage: Stage, since: Instant, side: &mut Side| {
        let time = since.elapsed();
        spent[stage as usize] = time;
        side.times[stage as usize].push(time);
        time
    };
    predictor.forget();
    let (newest, earlier) = clip.seen.split_last().context("no frame to predict from")?;
    for frame in earlier {
        let since = Instant::now();
        let encoded = predictor.encode_next(frame)?;
        note(Stage::Encode, since, side);
        let since = Instant::now();
        predictor.remember_next(frame, &encoded)?;
        note(Stage::Remember, since, side);
    }
    let since = Instant::now();
    predictor.see(newest)?;
    let mut whole = since.elapsed();

    let shape = (geometry.clip, geometry.latent_channels, geometry.latent_height(), geometry.latent_width());
    let mut z =
        Latents::from_shape_vec(shape, noise(seed, index as u64, shape.0 * shape.1 * shape.2 * shape.3))?;
    let grid = TimeGrid::new(predictor.steps(), predictor.manifest().sampler.time_shift)?;
    let mut latents = Vec::new();
    for (t, t_next) in grid.steps() {
        let since = Instant::now();
        z = predictor.denoise(&z, t, t_next)?;
        whole += note(Stage::Denoise, since, side);
        latents.push(z.clone());
    }
    let since = Instant::now();
    let pictures = predictor.render(&z)?;
    whole += note(Stage::Decode, since, side);
    side.times[Stage::Whole as usize].push(whole);
    Ok(Predicted { latents, pictures })
}

impl Comparison {
    fn add(&mut self, index: usize, clip: &Clip, mine: Predicted, theirs: Predicted) -> Result<()> {
        for ((mine, theirs), (signal, noise)) in
            mine.latents.iter().zip(&theirs.latents).zip(&mut self.latents)
        {
            for (mine, theirs) in mine.iter().zip(theirs) {
                *signal += f64::from(*theirs).powi(2);
                *noise += (f64::from(*theirs) - f64::from(*mine)).powi(2);
            }
        }
        let last = clip.seen.last().context("no frame to predict from")?;
        for ((came, mine), theirs) in clip.came.iter().zip(&mine.pictures).zip(&theirs.pictures) {
            let truth = Truth::new(came, last)?;
            self.compared.scores.push(truth.score(mine)?);
            self.against.scores.push(truth.score(theirs)?);
            self.between.push(Truth::new(theirs, last)?.score(mine)?);
        }
        if self.pairs.len() < PAIRS {
            self.pairs.push(Pair { index, compared: mine.pictures, against: theirs.pictures });
        }
        Ok(())
    }

    /// How many times faster the compared bundle is in a stage, by medians.
    pub fn speedup(&self, stage: Stage) -> f64 {
        let ms = |side: &Side| median_ms(&side.times[stage as usize]);
        ms(&self.against) / ms(&self.compared)
    }

    /// By how much the compared bundle's PSNR against what came is lower, in decibels.
    pub fn psnr_drop_db(&self) -> f64 {
        let psnr = |side: &Side| Measure::Psnr.over(side.scores.iter());
        psnr(&self.against) - psnr(&self.compared)
    }

    /// The compared bundle's size over the other's.
    pub fn size_ratio(&self) -> f64 {
        self.bytes.0 as f64 / self.bytes.1 as f64
    }

    /// Signal over quantisation noise of the latents in decibels, after each denoising step, each bundle on
    /// its own way from the same noise.
    pub fn sqnr_db(&self) -> Vec<f64> {
        self.latents.iter().map(|(signal, noise)| 10.0 * (signal / noise).log10()).collect()
    }

    /// Quality, speed, and the latents' SQNR by step.
    pub fn tables(&self) -> [Table; 3] {
        let heads = |heads: [&str; 3]| heads.map(str::to_owned);
        let quality = Table::new(
            format!("quality, {} clips", self.clips),
            heads(["compared", "against", "between"]),
            3,
        );
        let quality = Measure::ALL.into_iter().fold(quality, |table, measure| {
            let of = |scores: &[Score]| measure.over(scores.iter());
            let values = vec![of(&self.compared.scores), of(&self.against.scores), of(&self.between)];
            table.with(measure.title(), values)
        });
        let speed =
            Table::new("medians in ms, in turn in one run", heads(["compared", "against", "speedup"]), 2);
        let speed = Stage::ALL.into_iter().fold(speed, |table, stage| {
            let ms = |side: &Side| median_ms(&side.times[stage as usize]);
            let values = vec![ms(&self.compared), ms(&self.against), self.speedup(stage)];
            table.with(stage.name(), values)
        });
        let megabytes = |(mine, theirs): (u64, u64)| {
            vec![mine as f64 / 1e6, theirs as f64 / 1e6, mine as f64 / theirs as f64]
        };
        let speed = speed
            .with("size of the bundle, MB (ratio)", megabytes(self.bytes))
            .with("keys and values at work, MB (ratio)", megabytes(self.cache_bytes));
        let steps = (1..=self.latents.len()).map(|step| format!("step {step}"));
        let sqnr = Table::new("SQNR of latents in dB, same noise", steps, 1).with("compared", self.sqnr_db());
        [quality, speed, sqnr]
    }

    /// The line that scripts read.
    pub fn summary(&self) -> String {
        let (speedup, drop) = (self.speedup(Stage::Denoise), self.psnr_drop_db());
        format!("speedup={speedup:.2} psnr_drop_db={drop:.2} size_ratio={:.2}", self.size_ratio())
    }

    /// What came, both predictions, and how far they are apart, for the first clips.
    pub fn strip(&self, clips: &Clips, geometry: &Geometry, title: &str) -> Picture {
        let shown = geometry.history.min(3);
        let sections = self.pairs.iter().map(|pair| {
            let clip = clips.clip(pair.index);
            let blank = || std::iter::repeat_n(None, shown);
            let own =
                |pictures: &[Picture]| blank().chain(pictures.iter().cloned().map(Some)).collect::<Vec<_>>();
            let apart = pair.compared.iter().zip(&pair.against);
            let apart = apart.map(|(mine, theirs)| difference(mine, theirs, DIFFERENCE_GAIN));
            let past = past(&clip.seen, shown).into_iter();
            Section {
                title: format!("clip {}", pair.index),
                rows: vec![
                    Row::new("actual", past.chain(clip.came.iter().cloned().map(Some))),
                    Row::new("against", own(&pair.against)),
                    Row::new("compared", own(&pair.compared)),
                    Row::new("difference", blank().chain(apart))
                        .with_note(format!("of both\nx {DIFFERENCE_GAIN}")),
                ],
            }
        });
        let groups = groups(shown, geometry);
        Strip { title: title.into(), groups, sections: sections.collect(), ..Strip::default() }.draw()
    }
}

/// Bytes of a bundle's files.
fn bytes(manifest: &Manifest) -> u64 {
    manifest.files.values().map(|file| file.bytes).sum()
}

/// Bytes that a bundle keeps of the past while it runs.
fn cache_bytes(manifest: &Manifest) -> u64 {
    manifest.cache.bytes(&manifest.geometry)
}

/// NaN of nothing.
fn median_ms(times: &[Duration]) -> f64 {
    let mut ms: Vec<f64> = times.iter().map(|time| time.as_secs_f64() * 1e3).collect();
    ms.sort_by(f64::total_cmp);
    match ms.len() {
        0 => f64::NAN,
        n => f64::midpoint(ms[(n - 1) / 2], ms[n / 2]),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_median_shrugs_off_an_outlier() {
        let ms = |values: &[u64]| {
            median_ms(&values.iter().map(|ms| Duration::from_millis(*ms)).collect::<Vec<_>>())
        };
        assert_eq!(ms(&[3, 900, 1]), 3.0);
        assert_eq!(ms(&[4, 1, 2, 900]), 3.0);
        assert!(ms(&[]).is_nan());
    }
}
