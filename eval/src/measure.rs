//! Runs a bundle over clips and keeps how near it came, beside predictors that need no model.

use anyhow::{Context, Result};
use nextclip_core::{Latents, Picture};
use nextclip_predictor::Predictor;

use crate::clips::{Clip, Clips};
use crate::draw::{Drawing, encode, see};
use crate::score::{Score, Truth};
use crate::tracked;

/// What foretells the coming frames.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Forecaster {
    /// The model, with the last frame: moved, or kept where nothing is predicted to change.
    Prediction,
    /// The same without the last frame: the decoder alone.
    Decoder,
    /// The last frame seen, repeated.
    LastFrame,
    /// The last two frames seen, continued linearly, pixel by pixel.
    Linear,
    /// Things followed without error, going on as they did; of generated scenes alone. What comes into sight is given.
    Tracked,
    /// The real frames through encoder and decoder: what a perfect prediction of latents would reach.
    Ceiling,
}

impl Forecaster {
    /// All of them, in the order of declaration.
    pub const ALL: [Self; 6] =
        [Self::Prediction, Self::Decoder, Self::LastFrame, Self::Linear, Self::Tracked, Self::Ceiling];

    /// In words.
    pub fn name(self) -> &'static str {
        match self {
            Self::Prediction => "prediction",
            Self::Decoder => "prediction, decoder alone",
            Self::LastFrame => "last frame repeated",
            Self::Linear => "linear continuation",
            Self::Tracked => "exact tracking, unseen given",
            Self::Ceiling => "autoencoder's ceiling",
        }
    }
}

/// One prediction of one clip, measured.
#[derive(Clone, Debug, PartialEq)]
pub struct Sample {
    /// Which clip.
    pub index: usize,
    /// What was predicted.
    pub predicted: Vec<Picture>,
    /// By [`Forecaster`], then predicted frame.
    scores: [Vec<Score>; Forecaster::ALL.len()],
}

impl Sample {
    /// One score a predicted frame; none where a forecaster does not know the footage.
    pub fn scores(&self, forecaster: Forecaster) -> &[Score] {
        &self.scores[forecaster as usize]
    }

    /// Mean PSNR of the clip's frames in decibels.
    pub fn psnr_db(&self, forecaster: Forecaster) -> f64 {
        let scores = self.scores(forecaster);
        scores.iter().map(|score| score.psnr_db).sum::<f64>() / scores.len() as f64
    }

    /// By how much the prediction's PSNR is above that of the last frame repeated, in decibels.
    pub fn gain_db(&self) -> f64 {
        self.psnr_db(Forecaster::Prediction) - self.psnr_db(Forecaster::LastFrame)
    }
}

/// Predicts clip after clip; `progress` is called after each.
pub fn measure(
    predictor: &mut Predictor,
    clips: &Clips,
    drawing: &Drawing,
    mut progress: impl FnMut(),
) -> Result<Vec<Sample>> {
    let mut samples = Vec::new();
    for index in 0..clips.len() {
        let clip = clips.clip(index);
        let tracked = clips.traces(index).zip(clip.seen.last());
        let tracked = tracked.map(|(traces, last)| tracked::continued(&traces, last, &clip.came));
        let of_clip = predict(predictor, &clip, &tracked.unwrap_or_default(), index, drawing);
        samples.extend(of_clip.with_context(|| format!("clip {index}"))?);
        progress();
    }
    Ok(samples)
}

fn predict(
    predictor: &mut Predictor,
    clip: &Clip,
    tracked: &[Picture],
    index: usize,
    drawing: &Drawing,
) -> Result<Vec<Sample>> {
    let Clip { seen, came } = clip;
    see(predictor, seen)?;
    let last = seen.last().context("no frame to predict from")?;
    let before = &seen[seen.len().saturating_sub(2)];
    let truths = came.iter().map(|came| Truth::new(came, last)).collect::<Result<Vec<_>>>()?;
    let score = |pictures: &[Picture]| -> Result<Vec<Score>> {
        truths.iter().zip(pictures).map(|(truth, picture)| truth.score(picture)).collect()
    };
    let latents: Latents = encode(predictor, came)?;
    let continued: Vec<_> = (1..=came.len()).map(|step| continued(before, last, step)).collect();
    let rivals = [
        score(&vec![last.clone(); came.len()])?,
        score(&continued)?,
        score(tracked)?,
        score(&predictor.decode(&latents)?)?,
    ];
    let draws = drawing.draw(predictor, index, 0)?;
    let measured = draws.iter().map(|latents| {
        let predicted = predictor.render(latents)?;
        let decoder = score(&predictor.decode(latents)?)?;
        let [last_frame, linear, tracked, ceiling] = rivals.clone();
        let scores = [score(&predicted)?, decoder, last_frame, linear, tracked, ceiling];
        Ok(Sample { index, predicted, scores })
    });
    measured.collect()
}

/// `last + steps (last - before)`, within 8 bits.
fn continued(before: &Picture, last: &Picture, steps: usize) -> Picture {
    let mut picture = last.clone();
    picture.zip_mut_with(before, |last, &before| {
        let change = i64::from(*last) - i64::from(before);
        let value = i64::from(*last) + steps as i64 * change;
        *last = u8::try_from(value.clamp(0, 255)).unwrap_or(u8::MAX);
    });
    picture
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_linear_change_is_continued_and_kept_in_range() {
        let (before, last) = (Picture::from_elem((1, 1, 3), 100), Picture::from_elem((1, 1, 3), 130));
        assert_eq!(continued(&before, &last, 2)[[0, 0, 0]], 190);
        assert_eq!(continued(&before, &last, 9)[[0, 0, 0]], 255);
        assert_eq!(continued(&last, &before, 9)[[0, 0, 0]], 0);
    }

    #[test]
    fn forecasters_are_found_by_their_place() {
        for (place, forecaster) in Forecaster::ALL.into_iter().enumerate() {
            assert_eq!(forecaster as usize, place);
        }
    }
}
