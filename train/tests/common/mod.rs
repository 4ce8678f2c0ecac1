//! Models that train in seconds.
#![allow(dead_code, reason = "not every test file uses all of it")]

use std::path::Path;

use nextclip_core::checkpoint::{TransformerConfig, VaeConfig};
use nextclip_core::{Geometry, Motion};
use nextclip_train::fit::Course;
use nextclip_train::optim::{Schedule, Settings};
use nextclip_train::{transformer, vae};

pub(crate) const GEOMETRY: Geometry = Geometry {
    height: 32,
    width: 48,
    vae_scale: 8,
    latent_channels: 4,
    patch: 2,
    history: 3,
    clip: 2,
    frame_interval_ms: 200,
};

pub(crate) const MOTION: Motion = Motion { features: 2, reach: 2, earlier: 2, ..Motion::DEFAULT };

pub(crate) fn transformer_config() -> TransformerConfig {
    TransformerConfig {
        hidden_size: 32,
        intermediate_size: 48,
        num_hidden_layers: 2,
        num_attention_heads: 4,
        num_key_value_heads: 2,
        ..transformer::small_config()
    }
}

pub(crate) fn vae_config() -> VaeConfig {
    VaeConfig {
        block_out_channels: vec![8, 8, 16, 16],
        latent_channels: 4,
        norm_num_groups: 4,
        ..vae::small_config()
    }
}

/// A course that learns fast and looks back only a little.
pub(crate) fn course(dir: &Path, steps: u64, schedule: Schedule) -> Course {
    let optimiser = Settings { average: 0.99, ..Settings::default() };
    Course { dir: dir.to_owned(), steps, validate_every: 500, patience: None, schedule, optimiser }
}
