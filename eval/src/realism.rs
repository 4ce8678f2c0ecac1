//! Distortion and realism against denoising steps: how near, how sharp, how lifelike, how varied.

use anyhow::{Context, Result, ensure};
use ndarray::{Array1, Array2, ArrayView3};
use nextclip_core::metrics::Area;
use nextclip_core::{Latents, Picture};
use nextclip_media::plot::{Line, Plot};
use nextclip_predictor::Predictor;

use crate::clips::{Clip, Clips};
use crate::draw::{Drawing, encode, see};
use crate::frechet::{Moments, frechet_distance};
use crate::report::Measure;
use crate::score::{Score, Truth};
use crate::table::Table;

/// One number of steps, measured. Values are NaN where there is too little to measure them on.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct StepsPoint {
    /// K.
    pub steps: usize,
    /// Mean PSNR in decibels, of the first draw of each clip.
    pub psnr_db: f64,
    /// The same where something moves.
    pub moving_psnr_db: f64,
    /// Structural similarity of the first draw.
    pub ssim: f64,
    /// Gradient energy over that of what came, in the moving area.
    pub sharpness: f64,
    /// Fréchet distance of moving latent cells between the pictures of all draws and those that came.
    pub frechet: f64,
    /// Standard deviation between the draws of a clip, in latents of moving cells.
    pub spread: f64,
    /// Root of the mean squared error of the draws' mean, in the same cells.
    pub error: f64,
}

impl StepsPoint {
    /// Spread over error as a calibrated ensemble of `samples` draws would have it: 1 where the draws differ
    /// from each other as much as from what came, below 1 where the model is too sure of itself.
    pub fn calibration(&self, samples: usize) -> f64 {
        self.spread * (1.0 + 1.0 / samples as f64).sqrt() / self.error
    }
}

/// Distortion and realism against steps.
#[derive(Clone, Debug, PartialEq)]
pub struct StepsCurve {
    /// Draws of each clip.
    pub samples: usize,
    /// Moving latent cells of what came.
    pub cells: usize,
    /// Fréchet distance of the last frame repeated, for scale.
    pub last_frame_frechet: f64,
    /// One point for each number of steps asked for.
    pub points: Vec<StepsPoint>,
}

/// How the realism of a curve is measured, for readers of a report.
pub const DEFINITION: &str = "\
Features are vectors of 2c numbers, one for each latent cell of which at least half the pixels move: the cell's c \
channels, and their change since the last frame seen, of pictures as they are shown, encoded again. The Fréchet \
distance is that of two Gaussians with the means and covariances of predicted and of real cells (0: as real; the \
encoder is the same for all). Spread is the standard deviation between draws of one clip, error the root mean square \
distance of their mean to what came, both over the same cells; calibration is spread x sqrt(1 + 1/draws) / error, 1 \
for draws that could as well be what came. PSNR, \
SSIM and sharpness are of the first draw.";

/// Gathers one number of steps.
struct Gathered {
    scores: Vec<Score>,
    features: Moments,
    variance: Mean,
    squared_error: Mean,
}

#[derive(Default)]
struct Mean {
    sum: f64,
    count: usize,
}

impl Mean {
    fn push(&mut self, value: f64) {
        self.sum += value;
        self.count += 1;
    }

    fn value(&self) -> f64 {
        self.sum / self.count as f64
    }
}

/// Draws every clip `samples` times for each number of `steps`, with the same noise for all of them;
/// `progress` is called after each clip.
pub fn steps_curve(
    predictor: &mut Predictor,
    clips: &Clips,
    steps: &[usize],
    samples: usize,
    seed: u64,
    mut progress: impl FnMut(),
) -> Result<StepsCurve> {
    ensure!(!steps.is_empty(), "no number of steps to measure");
    let dims = 2 * predictor.manifest().geometry.latent_channels;
    let new = || Gathered {
        scores: Vec::new(),
        features: Moments::new(dims),
        variance: Mean::default(),
        squared_error: Mean::default(),
    };
    let mut gathered: Vec<Gathered> = steps.iter().map(|_| new()).collect();
    let (mut came, mut still) = (Moments::new(dims), Moments::new(dims));
    for index in 0..clips.len() {
        let prepared =
            Prepared::new(predictor, &clips.clip(index)).with_context(|| format!("clip {index}"))?;
        prepared.gather(&prepared.came_latents, &mut came);
        prepared.gather(&prepared.still(), &mut still);
        for (gathered, &steps) in gathered.iter_mut().zip(steps) {
            let drawing = Drawing { steps, samples, averaged: false, seed };
            let draws = drawing.draw(predictor, index, 0).with_context(|| format!("clip {index}"))?;
            prepared.measure(predictor, &draws, gathered)?;
        }
        progress();
    }
    let points = gathered.iter().zip(steps).map(|(gathered, &steps)| StepsPoint {
        steps,
        psnr_db: Measure::Psnr.over(gathered.scores.iter()),
        moving_psnr_db: Measure::MovingPsnr.over(gathered.scores.iter()),
        ssim: Measure::Ssim.over(gathered.scores.iter()),
        sharpness: Measure::Sharpness.over(gathered.scores.iter()),
        frechet: frechet_distance(&gathered.features, &came).unwrap_or(f64::NAN),
        spread: gathered.variance.value().sqrt(),
        error: gathered.squared_error.value().sqrt(),
    });
    Ok(StepsCurve {
        samples,
        cells: came.count(),
        last_frame_frechet: frechet_distance(&still, &came).unwrap_or(f64::NAN),
        points: points.collect(),
    })
}

/// A clip whose history the model has seen.
struct Prepared {
    came: Vec<Picture>,
    last: Picture,
    came_latents: Latents,
    last_latent: ndarray::Array3<f32>,
    /// For each frame, which latent cells move.
    moving: Vec<Array2<bool>>,
}

impl Prepared {
    fn new(predictor: &mut Predictor, clip: &Clip) -> Result<Self> {
        let last_latent = see(predictor, &clip.seen)?;
        let last = clip.seen.last().context("no frame to predict from")?.clone();
        let scale = predictor.manifest().geometry.vae_scale;
        let moving = clip.came.iter().map(|came| Ok(cells(Truth::new(came, &last)?.moving(), scale)));
        Ok(Self {
            moving: moving.collect::<Result<_>>()?,
            came_latents: encode(predictor, &clip.came)?,
            came: clip.came.clone(),
            last,
            last_latent,
        })
    }

    /// The last frame's latent for every frame.
    fn still(&self) -> Latents {
        let mut still = self.came_latents.clone();
        still.outer_iter_mut().for_each(|mut latent| latent.assign(&self.last_latent));
        still
    }

    fn moving_cells(&self) -> impl Iterator<Item = (usize, usize, usize)> + '_ {
        self.moving.iter().enumerate().flat_map(|(frame, cells)| {
            let moving = cells.indexed_iter().filter(|(_, moves)| **moves);
            moving.map(move |((row, column), _)| (frame, row, column))
        })
    }

    fn gather(&self, latents: &Latents, features: &mut Moments) {
        for (frame, row, column) in self.moving_cells() {
            let latent = latents.index_axis(ndarray::Axis(0), frame);
            features.push(feature(latent, self.last_latent.view(), row, column).view());
        }
    }

    fn measure(&self, predictor: &mut Predictor, draws: &[Latents], gathered: &mut Gathered) -> Result<()> {
        let mut shown = Vec::new();
        for (index, draw) in draws.iter().enumerate() {
            let pictures = predictor.render(draw)?;
            if index == 0 {
                for (came, picture) in self.came.iter().zip(&pictures) {
                    gathered.scores.push(Truth::new(came, &self.last)?.score(picture)?);
                }
            }
            shown.push(encode(predictor, &pictures)?);
        }
        for draw in &shown {
            self.gather(draw, &mut gathered.features);
        }
        for (frame, row, column) in self.moving_cells() {
            for channel in 0..self.last_latent.dim().0 {
                let at = [frame, channel, row, column];
                let values = shown.iter().map(|draw| f64::from(draw[at]));
                let mean = values.clone().sum::<f64>() / shown.len() as f64;
                // One draw has no spread: 0 / 0 says so.
                let squares = values.map(|value| (value - mean).powi(2)).sum::<f64>();
                gathered.variance.push(squares / (shown.len() - 1) as f64);
                gathered.squared_error.push((mean - f64::from(self.came_latents[at])).powi(2));
            }
        }
        Ok(())
    }
}

/// A cell's channels, and their change since the last frame seen.
fn feature(latent: ArrayView3<'_, f32>, last: ArrayView3<'_, f32>, row: usize, column: usize) -> Array1<f64> {
    let channels = latent.dim().0;
    let now = |channel: usize| f64::from(latent[[channel, row, column]]);
    let change = |channel: usize| now(channel) - f64::from(last[[channel, row, column]]);
    (0..channels).map(now).chain((0..channels).map(change)).collect()
}

/// The latent cells of `scale` x `scale` pixels of which at least half move.
fn cells(moving: &Area, scale: usize) -> Array2<bool> {
    let blocks = moving.exact_chunks((scale, scale));
    let shape = (moving.nrows() / scale, moving.ncols() / scale);
    let moves =
        blocks.into_iter().map(|block| 2 * block.iter().filter(|moves| **moves).count() >= block.len());
    Array2::from_shape_vec(shape, moves.collect()).unwrap_or_else(|_| Array2::from_elem(shape, false))
}

impl StepsCurve {
    /// One row for each number of steps; `name` tells curves apart and may be empty.
    pub fn table(&self, name: &str) -> Table {
        let columns = ["PSNR", "moving", "SSIM", "sharp", "Fréchet", "spread", "error", "calibr."];
        let name = if name.is_empty() { "by steps" } else { name };
        let title = format!("{name}, {} draws, {} cells", self.samples, self.cells);
        let table = Table::new(title, columns.map(str::to_owned), 3);
        let table = self.points.iter().fold(table, |table, point| {
            let StepsPoint { psnr_db, moving_psnr_db, ssim, sharpness, frechet, spread, error, .. } = *point;
            let calibration = point.calibration(self.samples);
            let values = vec![psnr_db, moving_psnr_db, ssim, sharpness, frechet, spread, error, calibration];
            table.with(format!("{} {}", point.steps, if point.steps == 1 { "step" } else { "steps" }), values)
        });
        let none = f64::NAN;
        let still = vec![none, none, none, none, self.last_frame_frechet, 0.0, none, none];
        table.with("last frame repeated", still)
    }
}

/// Named curves over each other, such as a model before and after distillation, as plots with a name for
/// their files.
pub fn plots(curves: &[(&str, &StepsCurve)]) -> Vec<(&'static str, Plot)> {
    let lines = |plot: Plot, what: &str, value: &dyn Fn(&StepsPoint) -> (f64, f64)| {
        curves.iter().fold(plot, |plot, (name, curve)| {
            let words: Vec<&str> = [what, name].into_iter().filter(|word| !word.is_empty()).collect();
            plot.with(Line::new(words.join(", "), curve.points.iter().map(value).collect()))
        })
    };
    let over_steps = |plot: Plot, what: &str, value: &dyn Fn(&StepsPoint) -> f64| {
        lines(plot, what, &|point| (point.steps as f64, value(point)))
    };
    let plot = |title: &str, y: &str| Plot { log_x: true, ..Plot::new(title, "denoising steps", y) };
    let psnr = over_steps(plot("Distortion", "PSNR in dB"), "whole", &|point| point.psnr_db);
    let frechet = plot("Realism", "Fréchet distance (0: as real)");
    let sharpness = plot("Sharpness where it moves", "ratio, 1 is real");
    let spread = over_steps(plot("Spread of draws", "latents"), "spread", &|point| point.spread);
    let both = Plot::new("Both at once", "PSNR in dB (right: nearer)", "Fréchet distance (down: as real)");
    vec![
        ("steps-psnr", over_steps(psnr, "moving", &|point| point.moving_psnr_db)),
        ("steps-frechet", over_steps(frechet, "", &|point| point.frechet)),
        ("steps-sharpness", over_steps(sharpness, "", &|point| point.sharpness)),
        ("steps-spread", over_steps(spread, "error", &|point| point.error)),
        ("steps-both", lines(both, "", &|point| (point.psnr_db, point.frechet))),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cell_moves_from_half_its_pixels_on() {
        let mut moving = Area::from_elem((16, 24), false);
        moving.slice_mut(ndarray::s![0..8, 8..12]).fill(true);
        moving.slice_mut(ndarray::s![8..11, 16..24]).fill(true);
        let moves = cells(&moving, 8);
        assert_eq!(moves, Array2::from_shape_fn((2, 3), |at| at == (0, 1)));
    }

    #[test]
    fn a_calibrated_ensemble_has_one() {
        // Draws and truth from one distribution of variance 1: the mean of S draws errs by sqrt(1 + 1/S).
        let error = 1.25_f64.sqrt();
        let point = StepsPoint {
            steps: 1,
            psnr_db: 0.0,
            moving_psnr_db: 0.0,
            ssim: 0.0,
            sharpness: 0.0,
            frechet: 0.0,
            spread: 1.0,
            error,
        };
        assert!((point.calibration(4) - 1.0).abs() < 1e-12);
    }
}
