//! Weight files on disk: one safetensors file or the shards of an index, memory-mapped.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, File};
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use memmap2::{Mmap, UncheckedAdvice};
use nextclip_core::manifest::hex;
use safetensors::{SafeTensorError, SafeTensors};
use serde::Deserialize;
use sha2::{Digest, Sha256};

use super::CheckpointError;
use super::config::read_json;
use super::weights::{Found, Storage, Weight};

/// Bytes that are hashed in one go.
const PIECE_BYTES: usize = 1 << 22;

/// The weight files of one model, in order.
#[derive(Debug)]
pub struct WeightFiles {
    files: Vec<(PathBuf, Arc<Mmap>)>,
}

/// `*.safetensors.index.json`.
#[derive(Deserialize)]
struct Index {
    weight_map: BTreeMap<String, String>,
}

/// Opens the VAE's weights, `diffusion_pytorch_model.safetensors` or shards, in `vae` of a checkpoint.
pub fn vae_files(folder: &Path) -> Result<WeightFiles, CheckpointError> {
    WeightFiles::open(&folder.join("vae"), "diffusion_pytorch_model")
}

impl WeightFiles {
    /// Opens `{stem}.safetensors`, or the shards that `{stem}.safetensors.index.json` names.
    pub fn open(folder: &Path, stem: &'static str) -> Result<Self, CheckpointError> {
        let single = folder.join(format!("{stem}.safetensors"));
        let index = folder.join(format!("{stem}.safetensors.index.json"));
        if single.is_file() {
            Ok(Self { files: vec![(single.clone(), map(&single)?)] })
        } else if index.is_file() {
            Self::open_shards(folder, &index)
        } else if let Some(path) = pickle(folder) {
            let file = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
            Err(CheckpointError::Pickle { path, file, stem })
        } else {
            Err(CheckpointError::NoWeights { folder: folder.into(), stem })
        }
    }

    fn open_shards(folder: &Path, index: &Path) -> Result<Self, CheckpointError> {
        let Index { weight_map } = read_json(index, "it names the shards")?;
        let fault = |reason| Err(CheckpointError::Index { path: index.into(), reason });
        let shards: BTreeSet<&String> = weight_map.values().collect();
        if let Some(shard) = shards.iter().find(|shard| shard.contains(['/', '\\'])) {
            return fault(format!("shard {shard:?} leaves the folder"));
        }
        let files = shards
            .into_iter()
            .map(|shard| {
                let path = folder.join(shard);
                let map = map(&path)?;
                Ok((path, map))
            })
            .collect::<Result<Vec<_>, CheckpointError>>()?;
        let files = Self { files };
        for (path, map) in &files.files {
            let shard = path.file_name().unwrap_or_default().to_string_lossy();
            let held = tensors_of(path, map)?;
            if let Some((name, _)) = weight_map
                .iter()
                .find(|(name, file)| file.as_str() == shard && !held.contains_key(name.as_str()))
            {
                return fault(format!("tensor {name} is not in {shard}, where the index says it is"));
            }
            if let Some(name) = held.keys().find(|name| weight_map.get(*name).is_none_or(|f| *f != shard)) {
                return fault(format!("tensor {name} is in {shard}, and the index does not say so"));
            }
        }
        Ok(files)
    }

    /// SHA-256 over the files' bytes, in order; `progress` is told of every piece's length in bytes.
    pub fn sha256(&self, progress: &dyn Fn(u64)) -> String {
        let mut hash = Sha256::new();
        for (_, map) in &self.files {
            for first in (0..map.len()).step_by(PIECE_BYTES) {
                let piece = first..map.len().min(first + PIECE_BYTES);
                hash.update(&map[piece.clone()]);
                progress(piece.len() as u64);
                release(map, piece);
            }
        }
        hex(&hash.finalize())
    }

    /// Size of all files together, in bytes.
    pub fn bytes(&self) -> u64 {
        self.files.iter().map(|(_, map)| map.len() as u64).sum()
    }

    /// Paths of the files.
    pub fn paths(&self) -> impl Iterator<Item = &Path> {
        self.files.iter().map(|(path, _)| path.as_path())
    }

    /// Every tensor by name. An index keeps names apart, so none is in two files.
    pub(super) fn tensors(&self) -> Result<BTreeMap<String, Found>, CheckpointError> {
        let mut all = BTreeMap::new();
        for (path, map) in &self.files {
            all.append(&mut tensors_of(path, map)?);
        }
        Ok(all)
    }
}

fn tensors_of(path: &Path, map: &Arc<Mmap>) -> Result<BTreeMap<String, Found>, CheckpointError> {
    let (header_bytes, metadata) = SafeTensors::read_metadata(map).map_err(|e| explain(path, map, &e))?;
    let first = 8 + header_bytes;
    let tensors = metadata.tensors().into_iter().map(|(name, info)| {
        let storage = Storage::of(info.dtype);
        let (start, end) = info.data_offsets;
        let weight = storage.map(|storage| {
            Weight::mapped(name.clone(), info.shape.clone(), storage, map.clone(), first + start..first + end)
        });
        (name, Found { shape: info.shape.clone(), dtype: format!("{:?}", info.dtype), weight })
    });
    Ok(tensors.collect())
}

fn map(path: &Path) -> Result<Arc<Mmap>, CheckpointError> {
    let fault = |source| CheckpointError::Read { path: path.into(), source };
    let file = File::open(path).map_err(fault)?;
    let bytes = file.metadata().map_err(fault)?.len();
    if bytes < 8 {
        return Err(CheckpointError::Truncated { path: path.into(), bytes, needed: 8 });
    }
    // SAFETY: the map is read-only and private to this process. Were another program to shorten the file
    // meanwhile, reading would end this one with a bus error, as it would for any reader of mapped
    // weights; a checkpoint being exported is not being written.
    #[expect(unsafe_code, reason = "checkpoints of many gigabytes are read in place")]
    let map = unsafe { Mmap::map(&file) }.map_err(fault)?;
    Ok(Arc::new(map))
}

/// Takes a part that has been read out of this process's memory: a checkpoint may be larger than all of it. The part
/// can be read again, then from the system's cache or from disk.
pub(super) fn release(map: &Mmap, part: Range<usize>) {
    /// Less than this is not worth a system call.
    const WORTH_BYTES: usize = 1 << 18;
    if part.len() < WORTH_BYTES {
        return;
    }
    // SAFETY: the map is read-only and of a file, so its pages are the file's and nothing is lost with them; whoever
    // reads them afterwards gets the same bytes.
    #[expect(unsafe_code, reason = "checkpoints of many gigabytes are read in little memory")]
    let released = unsafe { map.unchecked_advise_range(UncheckedAdvice::DontNeed, part.start, part.len()) };
    if let Err(error) = released {
        log::debug!("mapped weights stay in memory: {error}");
    }
}

/// The safetensors crate names the rule that was broken; people want to know what happened to the file.
fn explain(path: &Path, bytes: &[u8], error: &SafeTensorError) -> CheckpointError {
    let truncated =
        |needed| CheckpointError::Truncated { path: path.into(), bytes: bytes.len() as u64, needed };
    let format = |reason: String| CheckpointError::Format { path: path.into(), reason };
    if bytes.starts_with(b"version https://git-lfs") {
        return format("it is a Git LFS pointer: fetch the file itself (git lfs pull)".into());
    }
    let header_bytes = bytes.first_chunk().map_or(0, |length| u64::from_le_bytes(*length));
    match error {
        SafeTensorError::HeaderTooSmall | SafeTensorError::InvalidHeaderLength => {
            truncated(header_bytes.saturating_add(8))
        }
        SafeTensorError::MetadataIncompleteBuffer => {
            let needed = data_end(bytes, header_bytes).map_or(0, |end| end.saturating_add(8 + header_bytes));
            match needed > bytes.len() as u64 {
                true => truncated(needed),
                false => format(format!("{} bytes follow its last tensor", bytes.len() as u64 - needed)),
            }
        }
        other => format(other.to_string()),
    }
}

/// Where the last tensor ends, counted from the end of the header.
fn data_end(bytes: &[u8], header_bytes: u64) -> Option<u64> {
    #[derive(Deserialize)]
    struct Entry {
        data_offsets: Option<(u64, u64)>,
    }
    let header = bytes.get(8..)?.get(..usize::try_from(header_bytes).ok()?)?;
    let entries: BTreeMap<String, Entry> = serde_json::from_slice(header).ok()?;
    entries.values().filter_map(|entry| Some(entry.data_offsets?.1)).max()
}

/// A weight file in PyTorch's own format, where there is one.
fn pickle(folder: &Path) -> Option<PathBuf> {
    let entries = fs::read_dir(folder).ok()?;
    let mut found: Vec<PathBuf> = entries
        .filter_map(|entry| Some(entry.ok()?.path()))
        .filter(|path| {
            let extension = path.extension().and_then(|extension| extension.to_str());
            matches!(extension, Some("pt" | "pth" | "bin" | "ckpt"))
        })
        .collect();
    found.sort();
    found.into_iter().next()
}
