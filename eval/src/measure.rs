//! Runs a bundle over clips and keeps how near each predictor came.

use anyhow::{Context, Result};
use nextclip_core::{Latents, Picture, metrics};
use nextclip_predictor::Predictor;

use crate::clips::Clips;

/// One clip, predicted. Values are PSNR in decibels, one a predicted frame.
#[derive(Clone, Debug, PartialEq)]
pub struct Sample {
    /// Which clip.
    pub index: usize,
    /// The model's prediction.
    pub predicted_db: Vec<f64>,
    /// The same without keeping of the last frame what is not predicted to change.
    pub plain_db: Vec<f64>,
    /// The last frame seen, repeated.
    pub last_frame_db: Vec<f64>,
    /// The last two frames seen, continued linearly, pixel by pixel.
    pub linear_db: Vec<f64>,
    /// The real frames through encoder and decoder: what a perfect prediction of latents would reach.
    pub ceiling_db: Vec<f64>,
    /// What was predicted.
    pub predicted: Vec<Picture>,
}

/// Predicts clip after clip from its first C frames; `progress` is called after each.
pub fn measure(
    predictor: &mut Predictor,
    clips: &Clips,
    seed: u64,
    mut progress: impl FnMut(),
) -> Result<Vec<Sample>> {
    (0..clips.len())
        .map(|index| {
            let sample = predict(predictor, &clips.clip(index), index, seed);
            progress();
            sample.with_context(|| format!("clip {index}"))
        })
        .collect()
}

fn predict(predictor: &mut Predictor, frames: &[Picture], index: usize, seed: u64) -> Result<Sample> {
    let history = predictor.manifest().geometry.history;
    let (seen, came) = frames.split_at(history);
    predictor.forget();
    for frame in seen {
        predictor.see(frame)?;
    }
    let latents = predictor.predict(seed, index as u64)?;
    let predicted = predictor.render(&latents)?;
    let plain = predictor.decode(&latents)?;
    let ceiling = {
        let latents = came.iter().map(|frame| predictor.encode(frame)).collect::<Result<Vec<_>, _>>()?;
        let views: Vec<_> = latents.iter().map(|latent| latent.view()).collect();
        let latents: Latents = ndarray::stack(ndarray::Axis(0), &views)?;
        predictor.decode(&latents)?
    };
    let last = &seen[history - 1];
    let before = &seen[history.saturating_sub(2)];
    let db = |pairs: &mut dyn Iterator<Item = (Picture, &Picture)>| -> Result<Vec<f64>> {
        pairs
            .map(|(picture, came)| {
                let db = metrics::psnr_db(&picture, came).context("pictures of different sizes")?;
                Ok(db.min(metrics::EXACT_COPY_DB))
            })
            .collect()
    };
    Ok(Sample {
        index,
        predicted_db: db(&mut predicted.iter().cloned().zip(came))?,
        plain_db: db(&mut plain.into_iter().zip(came))?,
        last_frame_db: db(&mut came.iter().map(|came| (last.clone(), came)))?,
        linear_db: db(&mut came.iter().enumerate().map(|(k, came)| (continued(before, last, k + 1), came)))?,
        ceiling_db: db(&mut ceiling.into_iter().zip(came))?,
        predicted,
    })
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
}
