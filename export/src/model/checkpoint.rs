//! A checkpoint, read and found whole: configuration, special tokens, and every tensor where it belongs.

use std::path::{Path, PathBuf};

use nextclip_core::checkpoint::{TokenIds, TransformerConfig, VaeConfig};

use super::{Transformer, Vae};
use crate::checkpoint::{
    CheckpointError, Fault, WeightFiles, Weights, read_token_ids, read_transformer_config, read_vae_config,
    vae_files,
};

/// Latent cells per token along an axis in the published model.
const PUBLISHED_PATCH: usize = 2;

/// Pixels per latent cell along an axis in the published VAE.
const PUBLISHED_VAE_SCALE: usize = 8;

/// A model ready to be exported.
#[derive(Debug)]
pub struct Checkpoint {
    /// Where it lies.
    pub folder: PathBuf,
    /// `config.json`.
    pub config: TransformerConfig,
    /// The transformer's tensors.
    pub transformer: Transformer,
    /// The transformer's files.
    pub files: WeightFiles,
    /// The VAE, where the checkpoint has one.
    pub vae: Option<CheckpointVae>,
    /// c: channels of a latent.
    pub latent_channels: usize,
    /// p: latent cells per token along an axis.
    pub patch: usize,
    /// Pixels per latent cell along an axis.
    pub vae_scale: usize,
}

/// The `vae` folder of a checkpoint.
#[derive(Debug)]
pub struct CheckpointVae {
    /// `vae/config.json`.
    pub config: VaeConfig,
    /// Its tensors.
    pub vae: Vae,
    /// Its files.
    pub files: WeightFiles,
}

/// Everything that was found in a checkpoint folder, whether or not it fits together.
#[derive(Debug)]
pub struct Survey {
    /// What was understood of it.
    pub checkpoint: Checkpoint,
    /// Ids of the special tokens.
    pub tokens: TokenIds,
    /// Tensors that do not fit.
    pub faults: Vec<Fault>,
    /// The transformer's tensors as stored.
    pub weights: Weights,
    /// The VAE's tensors as stored.
    pub vae_weights: Option<Weights>,
}

impl Checkpoint {
    /// Reads a checkpoint and refuses one with a gap, a wrong shape or a leftover, naming all of them.
    pub fn open(folder: &Path) -> Result<Self, CheckpointError> {
        Self::open_with_tokens(folder, None)
    }

    /// The same where the special tokens' ids are known and there need be no tokenizer files.
    pub fn open_with_tokens(folder: &Path, tokens: Option<TokenIds>) -> Result<Self, CheckpointError> {
        let Survey { checkpoint, faults, .. } = Survey::open(folder, tokens)?;
        if faults.is_empty() {
            Ok(checkpoint)
        } else {
            Err(CheckpointError::Tensors { folder: folder.into(), faults })
        }
    }

    /// The model's name, for people: the trainer's, or the folder's.
    pub fn name(&self) -> String {
        let folder =
            || std::path::absolute(&self.folder).ok()?.file_name().map(|n| n.to_string_lossy().into());
        match &self.config.nextclip {
            Some(trained) => trained.name.clone(),
            None => folder().unwrap_or_else(|| "unnamed".into()),
        }
    }
}

impl Survey {
    /// Reads whatever there is. Tokens that are not given come from the tokenizer files.
    pub fn open(folder: &Path, tokens: Option<TokenIds>) -> Result<Self, CheckpointError> {
        let config = read_transformer_config(folder)?;
        let vae_config = read_vae_config(folder)?;
        let files = WeightFiles::open(folder, "model")?;
        let weights = Weights::open(&files)?;
        let tokens = match tokens {
            Some(tokens) => tokens,
            None => read_token_ids(folder)?,
        };
        check_tokens(folder, &config, &tokens)?;

        let trained = config.nextclip.as_ref().map(|trained| &trained.geometry);
        let patch = trained.map_or(PUBLISHED_PATCH, |geometry| geometry.patch);
        // Without a VAE and without a word of the trainer's, the patch embedding itself says what c is.
        let stored = weights.root().shape("x_embedder.proj.weight").and_then(|shape| shape.get(1)).copied();
        let latent_channels = vae_config
            .as_ref()
            .map(|vae| vae.latent_channels)
            .or(trained.map(|geometry| geometry.latent_channels))
            .or(stored)
            .unwrap_or(4);
        let transformer = Transformer::load(&weights.root(), &config, &tokens, latent_channels, patch);
        let mut faults = weights.faults();

        let (mut vae, mut vae_weights) = (None, None);
        if let Some(config) = vae_config {
            let files = vae_files(folder)?;
            let weights = Weights::open(&files)?;
            let loaded = Vae::load(&weights.root(), &config);
            faults.extend(weights.faults());
            vae = Some(CheckpointVae { config, vae: loaded, files });
            vae_weights = Some(weights);
        }
        let vae_scale = vae
            .as_ref()
            .map(|vae| vae.config.scale())
            .or(trained.map(|geometry| geometry.vae_scale))
            .unwrap_or(PUBLISHED_VAE_SCALE);
        let folder = folder.to_path_buf();
        let checkpoint =
            Checkpoint { folder, config, transformer, files, vae, latent_channels, patch, vae_scale };
        Ok(Self { checkpoint, tokens, faults, weights, vae_weights })
    }
}

fn check_tokens(folder: &Path, config: &TransformerConfig, tokens: &TokenIds) -> Result<(), CheckpointError> {
    let ids = [tokens.img, tokens.img_end, tokens.diffusion];
    let beyond = |(spelling, id): (&str, usize)| {
        (id >= config.vocab_size)
            .then(|| format!("token {spelling} has id {id}, and vocab_size is {}", config.vocab_size))
    };
    let faults: Vec<String> = TokenIds::SPELLING.into_iter().zip(ids).filter_map(beyond).collect();
    if faults.is_empty() {
        Ok(())
    } else {
        Err(CheckpointError::Config { path: folder.join("config.json"), faults })
    }
}
