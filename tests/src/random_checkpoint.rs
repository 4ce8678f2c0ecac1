//! A checkpoint of random weights in the published layout, small enough to export in a moment.

use std::path::Path;

use anyhow::Context;
use indicatif::ProgressBar;
use nextclip_core::checkpoint::{Trained, TransformerConfig, VaeConfig};
use nextclip_core::manifest::Manifest;
use nextclip_core::{Geometry, Motion};
use nextclip_export::checkpoint::Storage;
use nextclip_export::model::Checkpoint;
use nextclip_export::random::RandomWeights;
use nextclip_export::{Options, Plan, export};

/// Patches along a side of the stored position table.
const TABLE_SIDE: usize = 8;

/// Sizes of a checkpoint to make up.
#[derive(Clone, Debug)]
pub struct RandomCheckpoint {
    /// Decoder, with the geometry under `nextclip`.
    pub transformer: TransformerConfig,
    /// Autoencoder.
    pub vae: VaeConfig,
    /// Of the weights.
    pub seed: u64,
}

/// Frames of 48 x 32, three remembered, three predicted, 100 ms apart.
pub const TINY: Geometry = Geometry {
    height: 32,
    width: 48,
    vae_scale: 8,
    latent_channels: 4,
    patch: 2,
    history: 3,
    clip: 3,
    frame_interval_ms: 100,
};

/// Two candidates with a few features, looked for in 25 places.
pub const MOTION: Motion = Motion { features: 3, reach: 2, earlier: 2, ..Motion::DEFAULT };

impl RandomCheckpoint {
    /// The smallest of everything: a prediction takes milliseconds.
    pub fn tiny() -> Self {
        let transformer = TransformerConfig {
            model_type: "phi3".into(),
            vocab_size: 4,
            hidden_size: 32,
            intermediate_size: 64,
            num_hidden_layers: 2,
            num_attention_heads: 4,
            num_key_value_heads: 2,
            rms_norm_eps: 1e-5,
            rope_theta: 10_000.0,
            max_position_embeddings: 4096,
            original_max_position_embeddings: 4096,
            rope_scaling: None,
            nextclip: Some(Trained { geometry: TINY, name: "tiny-random".into(), steps: 0, motion: None }),
        };
        let vae = VaeConfig {
            block_out_channels: vec![8, 8, 8, 16],
            layers_per_block: 1,
            latent_channels: TINY.latent_channels,
            norm_num_groups: 4,
            scaling_factor: 0.5,
            mid_block_add_attention: true,
            use_quant_conv: true,
            use_post_quant_conv: true,
            shift_factor: None,
            force_upcast: false,
        };
        Self { transformer, vae, seed: 1 }
    }

    /// The same with motion of these sizes.
    pub fn with_motion(mut self, sizes: Motion) -> Self {
        if let Some(trained) = &mut self.transformer.nextclip {
            trained.motion = Some(sizes);
        }
        self
    }

    /// Writes the checkpoint's files into `folder`.
    pub fn write(&self, folder: &Path) -> anyhow::Result<()> {
        let geometry = &self.transformer.nextclip.as_ref().context("a geometry")?.geometry;
        let weights = RandomWeights {
            transformer: self.transformer.clone(),
            vae: Some(self.vae.clone()),
            latent_channels: geometry.latent_channels,
            patch: geometry.patch,
            table_side: TABLE_SIDE,
            storage: Storage::F32,
            seed: self.seed,
            ..RandomWeights::video_gpt()
        };
        Ok(weights.write(folder, &ProgressBar::hidden())?)
    }

    /// Exports it as the bundle `out`.
    pub fn export(&self, out: &Path) -> anyhow::Result<Manifest> {
        let folder = tempfile::tempdir()?;
        self.write(folder.path())?;
        let checkpoint = Checkpoint::open(folder.path())?;
        let plan = Plan::new(&checkpoint, &Options::default())?;
        Ok(export(&checkpoint, &plan, out, &ProgressBar::hidden())?)
    }
}
