//! `config.json` of the transformer and of the VAE.

use std::fs;
use std::io::ErrorKind;
use std::path::Path;

use nextclip_core::checkpoint::{TransformerConfig, VaeConfig};
use serde::de::DeserializeOwned;

use super::CheckpointError;

/// Reads and checks `config.json` of a checkpoint folder.
pub fn read_transformer_config(folder: &Path) -> Result<TransformerConfig, CheckpointError> {
    if !folder.is_dir() {
        return Err(CheckpointError::NoFolder(folder.into()));
    }
    let path = folder.join("config.json");
    let config: TransformerConfig = read_json(&path, "it holds the transformer's sizes")?;
    refuse(&path, config.faults())?;
    Ok(config)
}

/// Reads and checks `vae/config.json`; `None` where the checkpoint has no `vae` folder.
pub fn read_vae_config(folder: &Path) -> Result<Option<VaeConfig>, CheckpointError> {
    let folder = folder.join("vae");
    if !folder.is_dir() {
        return Ok(None);
    }
    let path = folder.join("config.json");
    let config: VaeConfig = read_json(&path, "it holds the VAE's sizes")?;
    refuse(&path, config.faults())?;
    Ok(Some(config))
}

/// Reads a JSON file; `role` says what is lost where it is not there.
pub(crate) fn read_json<T: DeserializeOwned>(path: &Path, role: &'static str) -> Result<T, CheckpointError> {
    let text = fs::read_to_string(path).map_err(|source| match source.kind() {
        ErrorKind::NotFound => CheckpointError::NoFile { path: path.into(), role },
        _ => CheckpointError::Read { path: path.into(), source },
    })?;
    serde_json::from_str(&text).map_err(|source| CheckpointError::Json { path: path.into(), source })
}

fn refuse(path: &Path, faults: Vec<String>) -> Result<(), CheckpointError> {
    if faults.is_empty() { Ok(()) } else { Err(CheckpointError::Config { path: path.into(), faults }) }
}
