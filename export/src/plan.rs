//! What to export: the sizes and settings of a bundle, resolved from options, checkpoint and defaults.

use nextclip_core::manifest::{CacheElement, CacheShape, SamplerDefaults, Target};
use nextclip_core::sampler::{GridError, TimeGrid};
use nextclip_core::{Geometry, GeometryError};
use thiserror::Error;

use crate::model::Checkpoint;

/// Sizes of the published model, for checkpoints that do not say what they were trained for.
mod published {
    pub(super) const HEIGHT: usize = 176;
    pub(super) const WIDTH: usize = 320;
    pub(super) const HISTORY: usize = 56;
    pub(super) const CLIP: usize = 24;
    /// Every 4th frame of 30 a second.
    pub(super) const FRAME_INTERVAL_MS: u32 = 133;
    pub(super) const STEPS: usize = 50;
}

/// Steps of a model trained by nextclip: one gives the mean of what may come, the best in PSNR.
const TRAINED_STEPS: usize = 1;

/// What a user may say about a bundle; `None` takes the checkpoint's word, or the published model's.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Options {
    /// Height and width of frames, in pixels.
    pub size: Option<(usize, usize)>,
    /// C: frames remembered.
    pub history: Option<usize>,
    /// N: frames predicted at once.
    pub clip: Option<usize>,
    /// Time between two frames that the model sees.
    pub interval_ms: Option<u32>,
    /// K: denoising steps.
    pub steps: Option<usize>,
    /// s: shift of the time grid.
    pub time_shift: Option<f32>,
    /// g: guidance scale.
    pub guidance: Option<f32>,
    /// Which runtime the graphs are for.
    pub target: Target,
}

/// Sizes and settings of a bundle, all of them valid.
#[derive(Clone, Debug, PartialEq)]
pub struct Plan {
    /// Sizes of frames, tokens and clips.
    pub geometry: Geometry,
    /// Sizes of the cache, and what it is kept as; a cache in 8 bits needs scales, see
    /// [`crate::Observations::cache_element`].
    pub cache: CacheShape,
    /// How noise becomes a clip.
    pub sampler: SamplerDefaults,
    /// Which runtime the graphs are for.
    pub target: Target,
}

/// Options that make no bundle.
#[derive(Debug, Error, PartialEq)]
pub enum PlanError {
    /// A size.
    #[error(transparent)]
    Geometry(#[from] GeometryError),
    /// Steps or time shift.
    #[error(transparent)]
    Grid(#[from] GridError),
    /// Motion that frames of these sizes cannot have.
    #[error("{0}")]
    Motion(String),
    /// Guidance that is not a number.
    #[error("guidance {0} must be a number from 0 up; 1 is no guidance")]
    Guidance(f32),
}

impl Plan {
    /// Options over what the checkpoint was trained for over the published model's sizes.
    pub fn new(checkpoint: &Checkpoint, options: &Options) -> Result<Self, PlanError> {
        let config = &checkpoint.config;
        let trained = config.nextclip.as_ref().map(|trained| trained.geometry);
        let (height, width) = options
            .size
            .or(trained.map(|trained| (trained.height, trained.width)))
            .unwrap_or((published::HEIGHT, published::WIDTH));
        let or = |option: Option<usize>, trained: Option<usize>, published| {
            option.or(trained).unwrap_or(published)
        };
        let geometry = Geometry {
            height,
            width,
            vae_scale: checkpoint.vae_scale,
            latent_channels: checkpoint.latent_channels,
            patch: checkpoint.patch,
            history: or(options.history, trained.map(|trained| trained.history), published::HISTORY),
            clip: or(options.clip, trained.map(|trained| trained.clip), published::CLIP),
            frame_interval_ms: options
                .interval_ms
                .or(trained.map(|trained| trained.frame_interval_ms))
                .unwrap_or(published::FRAME_INTERVAL_MS),
        };
        geometry.validate()?;
        if let (Some(motion), Some(trained)) = (config.motion(), trained) {
            let other = || {
                let (clip, trained) = (geometry.clip, trained.clip);
                format!("motion: a clip of {clip} frames, the checkpoint says where things go in {trained}")
            };
            let fault = motion.fault_with(&geometry);
            if let Some(fault) = fault.or_else(|| (geometry.clip != trained.clip).then(other)) {
                return Err(PlanError::Motion(fault));
            }
        }
        let sampler = SamplerDefaults {
            steps: or(options.steps, trained.map(|_| TRAINED_STEPS), published::STEPS),
            time_shift: options.time_shift.unwrap_or(1.0),
            guidance: options.guidance.unwrap_or(1.0),
        };
        TimeGrid::new(sampler.steps, sampler.time_shift)?;
        if !(sampler.guidance.is_finite() && sampler.guidance >= 0.0) {
            return Err(PlanError::Guidance(sampler.guidance));
        }
        let cache = CacheShape {
            layers: config.num_hidden_layers,
            batch: 1,
            kv_heads: config.num_key_value_heads,
            head_dim: config.head_dim(),
            element: CacheElement::F32,
        };
        Ok(Self { geometry, cache, sampler, target: options.target })
    }
}
