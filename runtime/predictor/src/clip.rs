//! A clip of the future, as the model gives it.

use ndarray::Array4;
use nextclip_core::Latents;

/// What `denoise` gives of a clip: at the end of the steps, the prediction.
#[derive(Clone, Debug, PartialEq)]
pub struct PredictedClip {
    /// What is to be seen: (N, c, h, w).
    pub latents: Latents,
    /// How it got there from the last frame of the history, (N, m, h, w), where the model says it.
    pub motion: Option<Array4<f32>>,
}

impl PredictedClip {
    /// The mean of several predictions of one clip; `None` of nothing. Motion counts where all have it.
    pub fn mean(clips: &[Self]) -> Option<Self> {
        let (first, rest) = clips.split_first()?;
        let count = clips.len() as f32;
        let latents = rest.iter().fold(first.latents.clone(), |sum, clip| sum + &clip.latents) / count;
        let motions = clips.iter().map(|clip| clip.motion.as_ref()).collect::<Option<Vec<_>>>();
        let motion = motions.and_then(|motions| {
            let (first, rest) = motions.split_first()?;
            Some(rest.iter().fold((*first).clone(), |sum, motion| sum + *motion) / count)
        });
        Some(Self { latents, motion })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mean_is_the_mean_of_latents_and_of_motion() {
        let of = |value| Array4::from_elem((1, 1, 1, 2), value);
        let clip = |value| PredictedClip { latents: of(value), motion: Some(of(-value)) };
        assert_eq!(PredictedClip::mean(&[clip(1.0), clip(4.0)]), Some(clip(2.5)));
        let still = PredictedClip { motion: None, ..clip(4.0) };
        assert_eq!(PredictedClip::mean(&[clip(1.0), still]).unwrap().motion, None);
        assert_eq!(PredictedClip::mean(&[]), None);
    }
}
