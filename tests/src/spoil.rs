//! Checkpoints with something wrong in them.

use std::fs;
use std::path::Path;

use anyhow::Context;

/// Puts `value` among the numbers of the tensor `name`, in the checkpoint that [`RandomCheckpoint::write`](crate::RandomCheckpoint::write) wrote.
pub fn spoil(folder: &Path, name: &str, value: f32) -> anyhow::Result<()> {
    /// Not the first number, and in no row's beginning.
    const INDEX: usize = 10;
    let path = folder.join("model.safetensors");
    let mut bytes = fs::read(&path)?;
    let (header_len, header) = safetensors::SafeTensors::read_metadata(&bytes)?;
    let tensor = header.info(name).with_context(|| format!("{}: no tensor {name}", path.display()))?;
    // Eight bytes say how long the header is.
    let at = 8 + header_len + tensor.data_offsets.0 + INDEX * size_of::<f32>();
    bytes[at..at + size_of::<f32>()].copy_from_slice(&value.to_le_bytes());
    Ok(fs::write(&path, bytes)?)
}
