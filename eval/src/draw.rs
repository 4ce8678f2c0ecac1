//! How predictions are drawn from a model: as a mean or as a sample, in how many steps, from which noise.

use std::fmt;
use std::str::FromStr;

use anyhow::{Context, Result, ensure};
use ndarray::{Array3, Axis};
use nextclip_core::{Latents, Picture};
use nextclip_predictor::Predictor;

/// Steps of a sample where the bundle itself says one, which would be a mean.
const SAMPLE_STEPS: usize = 4;

/// What a prediction is to be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// What is to be expected: best distortion, blurred where the future is open. For scores.
    Mean,
    /// One of the futures that are possible: sharp. For pictures.
    Sample,
}

impl FromStr for Mode {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match text {
            "mean" => Ok(Self::Mean),
            "sample" => Ok(Self::Sample),
            _ => Err("must be mean or sample".into()),
        }
    }
}

/// How to draw.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Drawing {
    /// K: denoising steps.
    pub steps: usize,
    /// Draws a clip, each with its own noise.
    pub samples: usize,
    /// Whether the draws are averaged, as latents, into one prediction; else each is one.
    pub averaged: bool,
    /// Of the noise.
    pub seed: u64,
}

impl Drawing {
    /// What `mode` means for a bundle that says `bundle_steps`; without a mode as many steps as it says.
    pub fn new(mode: Option<Mode>, steps: Option<usize>, bundle_steps: usize) -> Self {
        let steps = steps.unwrap_or(match mode {
            Some(Mode::Mean) => 1,
            Some(Mode::Sample) if bundle_steps == 1 => SAMPLE_STEPS,
            Some(Mode::Sample) | None => bundle_steps,
        });
        Self { steps, samples: 1, averaged: mode == Some(Mode::Mean), seed: 1 }
    }

    /// The predictions of the clip that follows what the model remembers, each (N, c, h, w). `index` is the
    /// clip's, `onward` how many predictions came before in a rollout: both choose the noise.
    pub fn draw(&self, predictor: &mut Predictor, index: usize, onward: usize) -> Result<Vec<Latents>> {
        ensure!(self.samples > 0, "0 samples of each clip, must be at least 1");
        if predictor.steps() != self.steps {
            predictor.set_steps(self.steps)?;
        }
        let draws = (0..self.samples).map(|sample| {
            // The first sample's noise is the same however many are drawn.
            let stream = index as u64 | (sample as u64) << 32 | (onward as u64) << 48;
            predictor.predict(self.seed, stream)
        });
        let draws = draws.collect::<Result<Vec<_>, _>>()?;
        Ok(if self.averaged { mean(&draws).into_iter().collect() } else { draws })
    }
}

impl fmt::Display for Drawing {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { steps, samples, averaged, .. } = self;
        write!(f, "{steps} {}", if *steps == 1 { "step" } else { "steps" })?;
        match (samples, averaged) {
            (1, _) => Ok(()),
            (samples, true) => write!(f, ", mean of {samples} draws"),
            (samples, false) => write!(f, ", {samples} draws of each clip"),
        }
    }
}

/// `None` of nothing.
fn mean(draws: &[Latents]) -> Option<Latents> {
    let (first, rest) = draws.split_first()?;
    let sum = rest.iter().fold(first.clone(), |sum, draw| sum + draw);
    Some(sum / draws.len() as f32)
}

/// Starts over with these frames; returns the latent (c, h, w) of the newest.
pub(crate) fn see(predictor: &mut Predictor, frames: &[Picture]) -> Result<Array3<f32>> {
    predictor.forget();
    let mut newest = None;
    for frame in frames {
        newest = Some(predictor.see(frame)?);
    }
    newest.context("no frame to predict from")
}

/// The latents (frames, c, h, w) of real frames.
pub(crate) fn encode(predictor: &mut Predictor, frames: &[Picture]) -> Result<Latents> {
    let latents = frames.iter().map(|frame| predictor.encode(frame)).collect::<Result<Vec<_>, _>>()?;
    let views: Vec<_> = latents.iter().map(|latent| latent.view()).collect();
    Ok(ndarray::stack(Axis(0), &views)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mode_chooses_steps_and_an_explicit_number_wins() {
        let steps = |mode, asked, bundle| Drawing::new(mode, asked, bundle).steps;
        assert_eq!(steps(None, None, 1), 1);
        assert_eq!(steps(None, None, 50), 50);
        assert_eq!(steps(Some(Mode::Mean), None, 50), 1);
        assert_eq!(steps(Some(Mode::Sample), None, 1), SAMPLE_STEPS);
        assert_eq!(steps(Some(Mode::Sample), None, 2), 2);
        assert_eq!(steps(Some(Mode::Sample), Some(8), 1), 8);
        assert!(Drawing::new(Some(Mode::Mean), None, 50).averaged);
    }

    #[test]
    fn a_mean_is_the_mean() {
        let draw = |value| Latents::from_elem((1, 1, 1, 2), value);
        assert_eq!(mean(&[draw(1.0), draw(4.0)]), Some(draw(2.5)));
        assert_eq!(mean(&[]), None);
    }
}
