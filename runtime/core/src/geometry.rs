//! The sizes of frames, latents, tokens and clips, and the rules that bind them.

use serde::{Deserialize, Serialize};
use thiserror::Error;

/// How a bundle or a training run sees video: everything that fixes a tensor's shape.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Geometry {
    /// Frame height in pixels.
    pub height: usize,
    /// Frame width in pixels.
    pub width: usize,
    /// Pixels per latent cell along an axis; 8 for the published VAE.
    pub vae_scale: usize,
    /// Channels of a latent.
    pub latent_channels: usize,
    /// Latent cells per token along an axis.
    pub patch: usize,
    /// C: clean frames remembered.
    pub history: usize,
    /// N: frames predicted at once.
    pub clip: usize,
    /// Time between two frames that the model sees, in milliseconds.
    pub frame_interval_ms: u32,
}

/// A size that no model can have.
#[derive(Debug, Error, PartialEq, Eq)]
pub enum GeometryError {
    /// A frame side does not divide into whole tokens.
    #[error("frame {axis} {pixels} is not a multiple of {multiple} (VAE scale x patch size)")]
    NotAMultiple {
        /// "height" or "width".
        axis: &'static str,
        /// The side, in pixels.
        pixels: usize,
        /// What it must be a multiple of, in pixels.
        multiple: usize,
    },
    /// A size is zero.
    #[error("{name} is 0, must be at least 1")]
    Zero {
        /// The field.
        name: &'static str,
    },
}

impl Geometry {
    /// Checks what the tensor shapes rely on.
    pub fn validate(&self) -> Result<(), GeometryError> {
        let sizes = [
            ("height", self.height),
            ("width", self.width),
            ("vae_scale", self.vae_scale),
            ("latent_channels", self.latent_channels),
            ("patch", self.patch),
            ("history", self.history),
            ("clip", self.clip),
            ("frame_interval_ms", self.frame_interval_ms as usize),
        ];
        if let Some((name, _)) = sizes.into_iter().find(|(_, size)| *size == 0) {
            return Err(GeometryError::Zero { name });
        }
        let multiple = self.vae_scale * self.patch;
        for (axis, pixels) in [("height", self.height), ("width", self.width)] {
            if pixels % multiple != 0 {
                return Err(GeometryError::NotAMultiple { axis, pixels, multiple });
            }
        }
        Ok(())
    }

    /// h: rows of a latent.
    pub fn latent_height(&self) -> usize {
        self.height / self.vae_scale
    }

    /// w: columns of a latent.
    pub fn latent_width(&self) -> usize {
        self.width / self.vae_scale
    }

    /// Rows of tokens in a frame, h / p.
    pub fn token_rows(&self) -> usize {
        self.latent_height() / self.patch
    }

    /// Columns of tokens in a frame, w / p.
    pub fn token_columns(&self) -> usize {
        self.latent_width() / self.patch
    }

    /// S: tokens of one frame.
    pub fn frame_tokens(&self) -> usize {
        self.token_rows() * self.token_columns()
    }

    /// L: tokens of one frame's block, its two special tokens included.
    pub fn block_tokens(&self) -> usize {
        self.frame_tokens() + 2
    }

    /// Values in one frame's latent, c h w.
    pub fn latent_len(&self) -> usize {
        self.latent_channels * self.latent_height() * self.latent_width()
    }

    /// How far a prediction reaches past the newest frame, in milliseconds.
    pub fn horizon_ms(&self) -> u64 {
        self.clip as u64 * u64::from(self.frame_interval_ms)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn published() -> Geometry {
        Geometry {
            height: 176,
            width: 320,
            vae_scale: 8,
            latent_channels: 4,
            patch: 2,
            history: 56,
            clip: 24,
            frame_interval_ms: 133,
        }
    }

    #[test]
    fn published_sizes() {
        let geometry = published();
        assert_eq!(geometry.validate(), Ok(()));
        assert_eq!((geometry.latent_height(), geometry.latent_width()), (22, 40));
        assert_eq!((geometry.frame_tokens(), geometry.block_tokens()), (220, 222));
    }

    #[test]
    fn refuses_what_does_not_divide() {
        let error = Geometry { width: 250, ..published() }.validate().unwrap_err();
        assert_eq!(error.to_string(), "frame width 250 is not a multiple of 16 (VAE scale x patch size)");
        let error = Geometry { clip: 0, ..published() }.validate().unwrap_err();
        assert_eq!(error.to_string(), "clip is 0, must be at least 1");
    }
}
