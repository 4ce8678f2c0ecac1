//! Checkpoints of random weights in the published layout, of any size: tensors are made and written one by one.
//!
//! They stand in for trained ones where only sizes matter: to see whether a machine can export a model, and how long
//! it takes, before downloading it.

mod shards;
mod tensors;

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use indicatif::ProgressBar;
use nextclip_core::checkpoint::{RopeKind, RopeScaling, TokenIds, TransformerConfig, VaeConfig};
use serde::Serialize;
use thiserror::Error;

use crate::checkpoint::{CheckpointError, Storage, read_transformer_config, read_vae_config};
use crate::room::{self, NoRoom};
pub use tensors::Tensor;
use tensors::{transformer, vae};

/// Bytes of a shard at most, as Hugging Face's libraries cut models.
const SHARD_BYTES: u64 = 5_000_000_000;

/// A checkpoint to make up.
#[derive(Clone, Debug)]
pub struct RandomWeights {
    /// Decoder.
    pub transformer: TransformerConfig,
    /// Autoencoder, if the checkpoint is to have one.
    pub vae: Option<VaeConfig>,
    /// c: channels of a latent.
    pub latent_channels: usize,
    /// p: latent cells per token along an axis.
    pub patch: usize,
    /// Patches along a side of the stored position table.
    pub table_side: usize,
    /// How the transformer's numbers are stored; the autoencoder's are in single precision, as published.
    pub storage: Storage,
    /// A file of weights is not larger, unless one tensor alone is.
    pub shard_bytes: u64,
    /// Of the weights.
    pub seed: u64,
}

/// Why a checkpoint was not made.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum RandomError {
    /// The configuration to imitate.
    #[error(transparent)]
    Like(#[from] CheckpointError),
    /// Something has the name already.
    #[error("{}: exists; remove it or choose another name", .0.display())]
    Occupied(PathBuf),
    /// The disk is too small.
    #[error(transparent)]
    Room(#[from] NoRoom),
    /// A file.
    #[error("{}: cannot be written", path.display())]
    Write {
        /// The file or folder.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
}

impl RandomWeights {
    /// The published model's sizes: 3.8 B parameters in 16 bits, with the SDXL autoencoder.
    pub fn video_gpt() -> Self {
        let head_dim = 96;
        let transformer = TransformerConfig {
            model_type: "phi3".into(),
            vocab_size: 32_064,
            hidden_size: 3072,
            intermediate_size: 8192,
            num_hidden_layers: 32,
            num_attention_heads: 32,
            num_key_value_heads: 32,
            rms_norm_eps: 1e-5,
            rope_theta: 10_000.0,
            max_position_embeddings: 131_072,
            original_max_position_embeddings: 4096,
            // From 1 to 64, as the published factors run; the exact ones are the published file's.
            rope_scaling: Some(RopeScaling {
                kind: RopeKind::LongRope,
                short_factor: vec![],
                long_factor: (0..head_dim / 2).map(|j| 64_f64.powf(f64::from(j) / 47.0)).collect(),
            }),
            nextclip: None,
        };
        let vae = VaeConfig {
            block_out_channels: vec![128, 256, 512, 512],
            layers_per_block: 2,
            latent_channels: 4,
            norm_num_groups: 32,
            scaling_factor: 0.13025,
            mid_block_add_attention: true,
            use_quant_conv: true,
            use_post_quant_conv: true,
            shift_factor: None,
            force_upcast: true,
        };
        Self {
            transformer,
            vae: Some(vae),
            latent_channels: 4,
            patch: 2,
            table_side: 192,
            storage: Storage::BF16,
            shard_bytes: SHARD_BYTES,
            seed: 0,
        }
    }

    /// The sizes that the configuration files of a checkpoint folder say; there need be no weights.
    ///
    /// # Errors
    /// Configuration files that are missing or impossible.
    pub fn like(folder: &Path) -> Result<Self, CheckpointError> {
        let published = Self::video_gpt();
        let transformer = read_transformer_config(folder)?;
        let trained = transformer.nextclip.as_ref().map(|trained| trained.geometry);
        let vae = read_vae_config(folder)?;
        let latent_channels = vae.as_ref().map(|vae| vae.latent_channels);
        Ok(Self {
            latent_channels: latent_channels
                .or(trained.map(|geometry| geometry.latent_channels))
                .unwrap_or(published.latent_channels),
            patch: trained.map_or(published.patch, |geometry| geometry.patch),
            transformer,
            vae,
            ..published
        })
    }

    /// Writes the checkpoint into `folder`, which must be empty or not exist. `config.json` comes last: a folder
    /// that was not finished is none that anything reads.
    ///
    /// # Errors
    /// A folder in the way, or a disk that is full or will be.
    pub fn write(&self, folder: &Path, progress: &ProgressBar) -> Result<(), RandomError> {
        let fault = |path: &Path| {
            let path = path.to_path_buf();
            move |source| RandomError::Write { path, source }
        };
        if fs::read_dir(folder).is_ok_and(|mut entries| entries.next().is_some()) || folder.is_file() {
            return Err(RandomError::Occupied(folder.into()));
        }
        fs::create_dir_all(folder).map_err(fault(folder))?;
        let model = transformer(&self.transformer, self.latent_channels, self.patch, self.table_side);
        let vae = self.vae.as_ref().map(|config| (config, vae(config), folder.join("vae")));
        let bytes = |tensors: &[Tensor], storage: Storage| -> u64 {
            tensors.iter().map(|tensor| tensor.len() as u64 * storage.bytes() as u64).sum()
        };
        let total = bytes(&model, self.storage)
            + vae.as_ref().map_or(0, |(_, tensors, _)| bytes(tensors, Storage::F32));
        room::check(folder, total)?;
        progress.set_length(total);
        progress.set_message("making weights");

        let files = shards::Files { storage: self.storage, shard_bytes: self.shard_bytes, seed: self.seed };
        files.write(folder, "model", &model, progress).map_err(fault(folder))?;
        if let Some((config, tensors, folder)) = &vae {
            fs::create_dir_all(folder).map_err(fault(folder))?;
            let files = shards::Files { storage: Storage::F32, seed: self.seed.wrapping_add(1), ..files };
            files.write(folder, "diffusion_pytorch_model", tensors, progress).map_err(fault(folder))?;
            write_json(&folder.join("config.json"), config)?;
        }
        let first = self.transformer.vocab_size.saturating_sub(TokenIds::SPELLING.len());
        let tokens: serde_json::Map<_, _> =
            TokenIds::SPELLING.iter().zip(first..).map(|(name, id)| ((*name).into(), id.into())).collect();
        write_json(&folder.join("added_tokens.json"), &tokens)?;
        write_json(&folder.join("config.json"), &self.transformer)
    }
}

fn write_json(path: &Path, value: &impl Serialize) -> Result<(), RandomError> {
    let fault = |source| RandomError::Write { path: path.into(), source };
    let bytes = serde_json::to_vec_pretty(value).map_err(|error| fault(error.into()))?;
    fs::write(path, bytes).map_err(fault)
}

#[cfg(test)]
pub(crate) mod tests {
    use nextclip_core::Geometry;
    use nextclip_core::checkpoint::Trained;

    use super::*;
    use crate::Options;
    use crate::model::Checkpoint;

    /// The published layout, small enough to export in a moment.
    pub(crate) fn tiny() -> RandomWeights {
        let mut tiny = RandomWeights { table_side: 8, ..RandomWeights::video_gpt() };
        tiny.transformer.vocab_size = 8;
        tiny.transformer.hidden_size = 64;
        tiny.transformer.intermediate_size = 160;
        tiny.transformer.num_hidden_layers = 2;
        tiny.transformer.num_attention_heads = 4;
        tiny.transformer.num_key_value_heads = 2;
        tiny.transformer.rope_scaling = None;
        if let Some(vae) = &mut tiny.vae {
            vae.block_out_channels = vec![8, 8, 8, 16];
            vae.layers_per_block = 1;
            vae.norm_num_groups = 4;
        }
        tiny
    }

    /// Sizes for it.
    pub(crate) fn options() -> Options {
        let size = Some((32, 48));
        Options { size, history: Some(3), clip: Some(2), steps: Some(1), ..Options::default() }
    }

    #[test]
    fn shards_and_one_file_hold_the_same_model() {
        let parent = tempfile::tempdir().unwrap();
        let [one, many] = ["one", "many"].map(|name| parent.path().join(name));
        tiny().write(&one, &ProgressBar::hidden()).unwrap();
        let progress = ProgressBar::hidden();
        let sharded = RandomWeights { shard_bytes: 50_000, ..tiny() };
        sharded.write(&many, &progress).unwrap();
        assert_eq!(progress.position(), progress.length().unwrap());
        assert!(one.join("model.safetensors").is_file());
        assert!(many.join("model.safetensors.index.json").is_file());
        assert!(!many.join("model.safetensors").exists());
        let [one, many] = [&one, &many].map(|folder| Checkpoint::open(folder).unwrap());
        assert!(many.files.paths().count() > 2);
        let last = |checkpoint: &Checkpoint| checkpoint.transformer.llm.layers[1].down_proj.weight.values();
        assert_eq!(last(&one), last(&many));
        assert_eq!(one.transformer.llm.norm.storage(), Some(Storage::BF16));
        let message = tiny().write(&parent.path().join("one"), &progress).unwrap_err().to_string();
        assert!(message.ends_with("one: exists; remove it or choose another name"), "{message}");
    }

    #[test]
    fn configuration_files_are_enough_to_imitate() {
        let parent = tempfile::tempdir().unwrap();
        let mut source = tiny();
        let geometry = Geometry {
            height: 32,
            width: 48,
            vae_scale: 8,
            latent_channels: 4,
            patch: 2,
            history: 3,
            clip: 2,
            frame_interval_ms: 100,
        };
        source.transformer.nextclip = Some(Trained { geometry, name: "tiny".into(), steps: 1, motion: None });
        source.write(parent.path(), &ProgressBar::hidden()).unwrap();
        let like = RandomWeights::like(parent.path()).unwrap();
        assert_eq!((&like.transformer, &like.vae), (&source.transformer, &source.vae));
        assert_eq!((like.latent_channels, like.patch), (4, 2));
    }

    #[test]
    fn the_published_model_has_3_8_billion_parameters() {
        let gpt = RandomWeights::video_gpt();
        assert_eq!((gpt.transformer.faults(), gpt.vae.map(|vae| vae.faults())), (vec![], Some(vec![])));
        let tensors = transformer(&gpt.transformer, gpt.latent_channels, gpt.patch, gpt.table_side);
        let parameters: usize = tensors.iter().map(Tensor::len).sum();
        assert_eq!(parameters / 10_000_000, 387);
    }
}
