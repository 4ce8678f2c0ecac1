//! Writes tensors into safetensors files, one tensor in memory at a time.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{self, BufWriter, Write};
use std::path::Path;

use half::{bf16, f16};
use indicatif::ProgressBar;
use serde_json::json;

use super::tensors::Tensor;
use crate::checkpoint::Storage;

/// Tensors in the order given, cut into files.
#[derive(Clone, Copy, Debug)]
pub(super) struct Files {
    pub(super) storage: Storage,
    pub(super) shard_bytes: u64,
    pub(super) seed: u64,
}

impl Files {
    /// Writes `{stem}.safetensors`, or shards with their index where one file would be too large.
    pub(super) fn write(
        &self,
        folder: &Path,
        stem: &str,
        tensors: &[Tensor],
        progress: &ProgressBar,
    ) -> io::Result<()> {
        let shards = self.shards(tensors);
        if let [all] = &shards[..] {
            return self.write_file(&folder.join(format!("{stem}.safetensors")), all, progress);
        }
        let mut weight_map = BTreeMap::new();
        for (i, shard) in shards.iter().enumerate() {
            let file = format!("{stem}-{:05}-of-{:05}.safetensors", i + 1, shards.len());
            self.write_file(&folder.join(&file), shard, progress)?;
            weight_map.extend(shard.iter().map(|(_, tensor)| (tensor.name.as_str(), file.clone())));
        }
        let total_size: u64 = tensors.iter().map(|tensor| self.bytes(tensor)).sum();
        let index = json!({"metadata": {"total_size": total_size}, "weight_map": weight_map});
        fs::write(folder.join(format!("{stem}.safetensors.index.json")), serde_json::to_vec_pretty(&index)?)
    }

    fn bytes(&self, tensor: &Tensor) -> u64 {
        tensor.len() as u64 * self.storage.bytes() as u64
    }

    /// Tensors of each file, with their numbers, which seed their values.
    fn shards<'a>(&self, tensors: &'a [Tensor]) -> Vec<Vec<(u64, &'a Tensor)>> {
        let (mut shards, mut filled) = (vec![vec![]], 0);
        for (number, tensor) in (0..).zip(tensors) {
            let bytes = self.bytes(tensor);
            if filled > 0 && filled + bytes > self.shard_bytes {
                shards.push(vec![]);
                filled = 0;
            }
            filled += bytes;
            if let Some(shard) = shards.last_mut() {
                shard.push((number, tensor));
            }
        }
        shards
    }

    /// The layout of safetensors: the header's length, the header, the tensors without gaps.
    fn write_file(&self, path: &Path, tensors: &[(u64, &Tensor)], progress: &ProgressBar) -> io::Result<()> {
        let dtype = match self.storage {
            Storage::F32 => "F32",
            Storage::F16 => "F16",
            Storage::BF16 => "BF16",
        };
        let mut header = serde_json::Map::new();
        header.insert("__metadata__".into(), json!({"format": "pt"}));
        let mut end = 0;
        for (_, tensor) in tensors {
            let start = end;
            end += self.bytes(tensor);
            let entry = json!({"dtype": dtype, "shape": tensor.shape, "data_offsets": [start, end]});
            header.insert(tensor.name.clone(), entry);
        }
        let mut header = serde_json::to_vec(&header)?;
        header.resize(header.len().next_multiple_of(8), b' ');

        let mut file = BufWriter::with_capacity(1 << 20, File::create(path)?);
        file.write_all(&(header.len() as u64).to_le_bytes())?;
        file.write_all(&header)?;
        for (number, tensor) in tensors {
            for values in tensor.values(self.seed, *number).chunks(1 << 20) {
                let bytes = self.stored(values);
                file.write_all(&bytes)?;
                progress.inc(bytes.len() as u64);
            }
        }
        file.flush()
    }

    fn stored(&self, values: &[f32]) -> Vec<u8> {
        match self.storage {
            Storage::F32 => values.iter().flat_map(|value| value.to_le_bytes()).collect(),
            Storage::F16 => values.iter().flat_map(|value| f16::from_f32(*value).to_le_bytes()).collect(),
            Storage::BF16 => values.iter().flat_map(|value| bf16::from_f32(*value).to_le_bytes()).collect(),
        }
    }
}
