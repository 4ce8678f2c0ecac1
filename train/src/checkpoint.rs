//! Writes a checkpoint folder in the published layout, and reads back the parts that training needs.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use anyhow::{Context, Result, bail};
use nextclip_core::checkpoint::{TokenIds, Trained, TransformerConfig, VaeConfig};
use serde::Serialize;
use serde::de::DeserializeOwned;
use tch::{Device, Kind, Tensor};

use crate::model::Model;
use crate::params::{Params, load_tensors};
use crate::transformer::TOKEN_IDS;
use crate::vae;

const VAE_WEIGHTS: &str = "diffusion_pytorch_model.safetensors";

/// Writes `vae/config.json` and the VAE's weights under `dir`.
pub fn save_vae(dir: &Path, config: &VaeConfig, params: &Params, kind: Kind) -> Result<()> {
    let dir = dir.join("vae");
    fs::create_dir_all(&dir).with_context(|| format!("creating {}", dir.display()))?;
    write_json(&dir.join("config.json"), config)?;
    params.save(&dir.join(VAE_WEIGHTS), kind)
}

/// Reads what [`save_vae`] wrote.
pub fn load_vae(dir: &Path, compute: Kind, device: Device) -> Result<(VaeConfig, Params)> {
    let dir = dir.join("vae");
    let config: VaeConfig = read_json(&dir.join("config.json"))?;
    let faults = config.faults();
    if !faults.is_empty() {
        bail!("{}: {}", dir.display(), faults.join("; "));
    }
    if config.mid_block_add_attention || !config.use_quant_conv || !config.use_post_quant_conv {
        bail!("{}: training needs a VAE without attention and with quant_conv layers", dir.display());
    }
    let mut params = Params::new(&vae::specs(&config), 0, compute, device);
    params.assign(&load_tensors(&dir.join(VAE_WEIGHTS))?).with_context(|| dir.display().to_string())?;
    Ok((config, params))
}

/// Reads the autoencoder's tensors.
pub fn vae_weights(dir: &Path) -> Result<BTreeMap<String, Tensor>> {
    load_tensors(&dir.join("vae").join(VAE_WEIGHTS))
}

/// Writes `config.json`, `model.safetensors` and the special tokens' ids under `dir`.
pub fn save_transformer(
    dir: &Path,
    config: &TransformerConfig,
    trained: Trained,
    params: &Params,
    kind: Kind,
) -> Result<()> {
    fs::create_dir_all(dir).with_context(|| format!("creating {}", dir.display()))?;
    let config = TransformerConfig { nextclip: Some(trained), ..config.clone() };
    write_json(&dir.join("config.json"), &config)?;
    let TokenIds { img, img_end, diffusion } = TOKEN_IDS;
    let ids: serde_json::Map<String, serde_json::Value> = TokenIds::SPELLING
        .into_iter()
        .map(String::from)
        .zip([img, img_end, diffusion].map(Into::into))
        .collect();
    write_json(&dir.join("added_tokens.json"), &ids)?;
    params.save(&dir.join("model.safetensors"), kind)
}

/// Writes what became of a checkpoint in `steps` more, predictor and autoencoder in one set, as `dir`, whose name is the
/// model's.
pub fn save_adapted(dir: &Path, model: &Model, trained: Trained, steps: u64, params: Params) -> Result<()> {
    let name =
        dir.file_name().context("the checkpoint's folder needs a name")?.to_string_lossy().into_owned();
    let (vae, transformer) = params.partition(vae::is_autoencoders);
    let trained = Trained { name, steps: trained.steps + steps, motion: model.motion, ..trained };
    save_transformer(dir, &model.config, trained, &transformer, Kind::Half)?;
    save_vae(dir, &model.vae, &vae, Kind::Half)
}

/// Reads the transformer's sizes, and what it was trained for.
pub fn load_transformer_config(dir: &Path) -> Result<(TransformerConfig, Trained)> {
    let mut config: TransformerConfig = read_json(&dir.join("config.json"))?;
    let trained = config.nextclip.take().with_context(|| {
        format!("{}: config.json has no nextclip section, which says the geometry", dir.display())
    })?;
    Ok((config, trained))
}

/// Reads the transformer's tensors, single precision.
pub fn load_transformer(dir: &Path) -> Result<BTreeMap<String, Tensor>> {
    let tensors = load_tensors(&dir.join("model.safetensors"))?;
    Ok(tensors.into_iter().map(|(name, tensor)| (name, tensor.to_kind(Kind::Float))).collect())
}

fn write_json(path: &Path, value: &impl Serialize) -> Result<()> {
    let text = serde_json::to_string_pretty(value)? + "\n";
    fs::write(path, text).with_context(|| format!("writing {}", path.display()))
}

fn read_json<T: DeserializeOwned>(path: &Path) -> Result<T> {
    let text = fs::read_to_string(path).with_context(|| format!("reading {}", path.display()))?;
    serde_json::from_str(&text).with_context(|| path.display().to_string())
}
