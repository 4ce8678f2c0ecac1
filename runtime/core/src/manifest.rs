//! `manifest.json`: what a bundle is, said once by the exporter and believed by no one.
//!
//! The runtime reads everything that it needs from here, compares it with what the inference sessions
//! report, checks every file's digest, and refuses a mismatch by name.

mod digest;
mod target;
mod tensor;

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use thiserror::Error;

pub use self::digest::{FileDigest, hex};
pub use self::target::{Target, UnknownTarget};
pub use self::tensor::{Dtype, TensorSpec};
pub use crate::cache::{CacheElement, CacheShape};
use crate::geometry::{Geometry, GeometryError};
use crate::motion::Motion;

/// The schema number that this version writes. 2 added the element type of the cache, 3 motion; what 1 and 2 say reads
/// the same.
pub const SCHEMA: u32 = 3;

/// The oldest schema number that this version reads.
pub const OLDEST_SCHEMA: u32 = 1;

/// Name of the manifest within a bundle's folder.
pub const FILE_NAME: &str = "manifest.json";

/// Everything that the runtime knows of a bundle.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Manifest {
    /// Schema number, [`OLDEST_SCHEMA`] to [`SCHEMA`].
    pub schema: u32,
    /// Program and version that wrote the bundle.
    pub producer: String,
    /// Where the weights came from.
    pub source: Source,
    /// Which runtime the graphs are laid out for.
    pub target: Target,
    /// Arithmetic of the graphs, in words: "f32", "fp16", "bf16", "w8a8", "fp8".
    pub precision: String,
    /// How the graphs were quantised, where they were.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub quantisation: Option<Quantisation>,
    /// Sizes of frames, tokens and clips.
    pub geometry: Geometry,
    /// Sizes and element type of the key-value cache.
    pub cache: CacheShape,
    /// Sizes of the motion that `remember` gives and `decode` reads, where the model has it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub motion: Option<Motion>,
    /// How noise becomes a clip, unless the runtime is told otherwise.
    pub sampler: SamplerDefaults,
    /// The graphs by name.
    pub graphs: Graphs,
    /// SHA-256 of every file of the bundle but this one, by path within the bundle.
    pub files: BTreeMap<String, FileDigest>,
}

/// The checkpoint that a bundle was made from.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Source {
    /// The model's name, for people.
    pub name: String,
    /// SHA-256 over the transformer's weight files, in order.
    pub transformer_sha256: String,
    /// SHA-256 of the VAE's weight file, where there is one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub vae_sha256: Option<String>,
}

/// Where the ranges of quantised tensors came from: with the checkpoint, all that it takes to make the same
/// bundle again.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Quantisation {
    /// The rule that made ranges of what was seen: "min-max", "percentile:99.99", "entropy", "mse".
    pub observer: String,
    /// What was looked at: "scenes", or the film or folder.
    pub calibration: String,
    /// Of scenes and noise.
    pub seed: u64,
    /// Clips seen, each C + N frames.
    pub clips: usize,
    /// Denoising steps of every clip; ranges cover all of them.
    pub steps: usize,
    /// Layers in 8-bit arithmetic, as `graph: layer`.
    pub layers: Vec<String>,
    /// Layers that could be and were kept in single precision, on request or by a plan, by their checkpoint paths.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub kept_float: Vec<String>,
    /// Whether 255 times two neighbouring weights together always fits 16 bits: then integer products are exact on
    /// processors that add them in pairs there.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub pairs_fit: bool,
}

/// Sampling settings that a model works well with.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SamplerDefaults {
    /// K: denoising steps.
    pub steps: usize,
    /// s: shift of the time grid.
    pub time_shift: f32,
    /// g: guidance scale. The denoise graph has both branches exactly when this is not 1.
    pub guidance: f32,
}

/// The graphs of a bundle. `encode` and `decode` are absent where the checkpoint had no VAE.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Graphs {
    /// RGB frames to latents.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub encode: Option<Graph>,
    /// A clean latent to its keys and values.
    pub remember: Graph,
    /// Noisy latents to latents one step cleaner.
    pub denoise: Graph,
    /// Latents to RGB frames.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub decode: Option<Graph>,
}

impl Graphs {
    /// The graphs that are there, with their names.
    pub fn iter(&self) -> impl Iterator<Item = (&'static str, &Graph)> {
        let all = [
            ("encode", self.encode.as_ref()),
            ("remember", Some(&self.remember)),
            ("denoise", Some(&self.denoise)),
            ("decode", self.decode.as_ref()),
        ];
        all.into_iter().filter_map(|(name, graph)| Some((name, graph?)))
    }
}

/// One ONNX graph.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Graph {
    /// Path of the model within the bundle.
    pub path: String,
    /// Inputs, in order.
    pub inputs: Vec<TensorSpec>,
    /// Outputs, in order.
    pub outputs: Vec<TensorSpec>,
}

/// A manifest that cannot be used.
#[derive(Debug, Error)]
pub enum ManifestError {
    /// Not JSON, or not of this schema's shape.
    #[error("{FILE_NAME}: {0}")]
    Parse(#[from] serde_json::Error),
    /// Written by another version.
    #[error(
        "{FILE_NAME}: schema {0}, this program reads {OLDEST_SCHEMA} to {SCHEMA}: export the bundle again"
    )]
    Schema(u64),
    /// Sizes that no model has.
    #[error("{FILE_NAME}: geometry: {0}")]
    Geometry(#[from] GeometryError),
    /// A cache that no graph has.
    #[error("{FILE_NAME}: cache: {0}")]
    Cache(String),
    /// Motion that no graph has.
    #[error("{FILE_NAME}: {0}")]
    Motion(String),
    /// A file is named that has no digest, or lies outside the bundle.
    #[error("{FILE_NAME}: graph {graph}: path {path:?} {why}")]
    Path {
        /// The graph's name.
        graph: &'static str,
        /// Its path.
        path: String,
        /// What is wrong with it.
        why: &'static str,
    },
    /// A file is not what the exporter wrote.
    #[error("{path}: {field} is {found}, {FILE_NAME} says {expected}: the file is damaged or was replaced")]
    Digest {
        /// Path within the bundle.
        path: String,
        /// "size" or "sha256".
        field: &'static str,
        /// What the file has.
        found: String,
        /// What the manifest says.
        expected: String,
    },
}

impl Manifest {
    /// Reads and checks a manifest.
    pub fn from_json(text: &str) -> Result<Self, ManifestError> {
        // The schema first, by itself: another schema's other fields would only give a puzzling error.
        let value: serde_json::Value = serde_json::from_str(text)?;
        match value.get("schema").and_then(serde_json::Value::as_u64) {
            Some(schema) if !(u64::from(OLDEST_SCHEMA)..=u64::from(SCHEMA)).contains(&schema) => {
                return Err(ManifestError::Schema(schema));
            }
            _ => {}
        }
        let manifest: Self = serde_json::from_value(value)?;
        manifest.geometry.validate()?;
        manifest.cache.validate().map_err(ManifestError::Cache)?;
        if let Some(fault) = manifest.motion.and_then(|motion| motion.fault_with(&manifest.geometry)) {
            return Err(ManifestError::Motion(fault));
        }
        for (graph, Graph { path, .. }) in manifest.graphs.iter() {
            let fault = |why| Err(ManifestError::Path { graph, path: path.clone(), why });
            if path.starts_with('/') || path.split('/').any(|part| part == "..") {
                return fault("leaves the bundle");
            }
            if !manifest.files.contains_key(path) {
                return fault("has no digest under \"files\"");
            }
        }
        Ok(manifest)
    }

    /// The manifest as the exporter writes it, with a final newline.
    pub fn to_json(&self) -> Result<String, ManifestError> {
        Ok(serde_json::to_string_pretty(self)? + "\n")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn manifest() -> Manifest {
        let graph = |name: &str| Graph { path: format!("{name}.onnx"), inputs: vec![], outputs: vec![] };
        let digest = FileDigest::of(b"x");
        Manifest {
            schema: SCHEMA,
            producer: "test".into(),
            source: Source { name: "m".into(), transformer_sha256: "00".into(), vae_sha256: None },
            target: Target::Cpu,
            precision: "f32".into(),
            quantisation: None,
            geometry: Geometry {
                height: 32,
                width: 48,
                vae_scale: 8,
                latent_channels: 4,
                patch: 2,
                history: 2,
                clip: 2,
                frame_interval_ms: 200,
            },
            cache: CacheShape { layers: 1, batch: 1, kv_heads: 1, head_dim: 8, element: CacheElement::F32 },
            motion: None,
            sampler: SamplerDefaults { steps: 2, time_shift: 1.0, guidance: 1.0 },
            graphs: Graphs {
                encode: None,
                remember: graph("remember"),
                denoise: graph("denoise"),
                decode: None,
            },
            files: ["remember.onnx", "denoise.onnx"].map(|path| (path.into(), digest.clone())).into(),
        }
    }

    #[test]
    fn round_trip() {
        for motion in [None, Some(Motion::DEFAULT)] {
            let manifest = Manifest { motion, ..manifest() };
            assert_eq!(Manifest::from_json(&manifest.to_json().unwrap()).unwrap(), manifest);
        }
    }

    #[test]
    fn older_bundles_have_a_cache_in_single_precision_and_no_motion() {
        let mut value = serde_json::to_value(manifest()).unwrap();
        assert!(value["cache"].get("element").is_none(), "single precision goes without saying: {value}");
        assert!(value.get("motion").is_none(), "so does the lack of motion: {value}");
        for schema in OLDEST_SCHEMA..SCHEMA {
            value["schema"] = schema.into();
            let read = Manifest::from_json(&value.to_string()).unwrap();
            assert_eq!((read.cache.element, read.motion), (CacheElement::F32, None));
        }
    }

    #[test]
    fn refuses_by_name() {
        let edit = |change: &dyn Fn(&mut serde_json::Value)| {
            let mut value = serde_json::to_value(manifest()).unwrap();
            change(&mut value);
            Manifest::from_json(&value.to_string()).unwrap_err().to_string()
        };
        assert!(edit(&|v| v["schema"] = 9.into()).contains("schema 9, this program reads 1 to 3"));
        let message = edit(&|v| v["cache"]["element"] = serde_json::json!({"type": "f8"}));
        assert!(message.contains("unknown variant `f8`"), "{message}");
        let int8 = |key_scales: &[f32]| {
            serde_json::json!({
                "type": "int8", "key_scales": key_scales, "value_scales": [0.5], "calibration": "scenes"
            })
        };
        let message = edit(&|v| v["cache"]["element"] = int8(&[]));
        assert!(
            message.ends_with("cache: 0 key scales, must be 1: one for each layer and head"),
            "{message}"
        );
        let message = edit(&|v| v["cache"]["element"] = int8(&[0.0]));
        assert!(message.ends_with("cache: key scale 0 is 0, must be finite and above 0"), "{message}");
        assert!(edit(&|v| v["colour"] = 1.into()).contains("unknown field `colour`"));
        assert!(edit(&|v| v["geometry"]["height"] = 31.into()).contains("height 31 is not a multiple of 16"));
        assert!(edit(&|v| v["graphs"]["denoise"]["path"] = "../x".into()).contains("leaves the bundle"));
        assert!(edit(&|v| v["graphs"]["denoise"]["path"] = "y".into()).contains("has no digest"));
    }
}
