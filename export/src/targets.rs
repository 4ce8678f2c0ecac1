//! What each target computes in, and whose rules its graphs must keep.

use std::fmt;
use std::fs;
use std::path::{Path, PathBuf};
use std::str::FromStr;

use log::info;
use nextclip_core::Manifest;
use nextclip_core::manifest::Target;
use prost::Message;
use thiserror::Error;

use crate::check::{self, CheckError, check_in};
use crate::onnx::proto::Model;

/// The arithmetics that there are, by name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PrecisionName {
    /// Single precision.
    F32,
    /// Half precision; norms in single.
    Fp16,
    /// Brain float; norms and softmax in single.
    Bf16,
    /// 8-bit integers for weights and activations of the large layers.
    W8A8,
    /// The same in 8-bit floats, E4M3.
    Fp8,
    /// 8-bit integers for weights alone.
    W8,
    /// 4-bit integers for weights alone.
    W4,
}

impl PrecisionName {
    /// Every arithmetic.
    pub const ALL: [Self; 7] = [Self::F32, Self::Fp16, Self::Bf16, Self::W8A8, Self::Fp8, Self::W8, Self::W4];

    /// As in a manifest and on a command line.
    pub fn name(self) -> &'static str {
        match self {
            Self::F32 => "f32",
            Self::Fp16 => "fp16",
            Self::Bf16 => "bf16",
            Self::W8A8 => "w8a8",
            Self::Fp8 => "fp8",
            Self::W8 => "w8",
            Self::W4 => "w4",
        }
    }

    /// Whether ranges of activations are needed.
    pub fn is_calibrated(self) -> bool {
        matches!(self, Self::W8A8 | Self::Fp8)
    }

    /// Those of a target. ONNX Runtime's CPU provider computes half precision in single, and slower; its CUDA provider
    /// has no 8-bit products; FP8 came to TensorRT after the boards of `trt10`. Weights alone are in 4 bits for
    /// TensorRT: it has no products of floats and 8-bit integers, and would keep such weights as floats.
    pub fn of(target: Target) -> &'static [Self] {
        match target {
            Target::Cpu => &[Self::F32, Self::W8A8, Self::W8, Self::W4],
            Target::Cuda => &[Self::F32, Self::Fp16],
            Target::Trt10 => &[Self::F32, Self::Fp16, Self::W8A8, Self::W4],
            Target::Trt => &[Self::F32, Self::Fp16, Self::Bf16, Self::W8A8, Self::Fp8, Self::W4],
        }
    }

    /// The one that a target gets where nobody says: 8 bits where there is footage to calibrate with.
    pub fn default_of(target: Target, has_footage: bool) -> Self {
        match target {
            Target::Cpu | Target::Trt10 | Target::Trt if has_footage => Self::W8A8,
            Target::Cpu => Self::F32,
            Target::Cuda | Target::Trt10 | Target::Trt => Self::Fp16,
        }
    }

    /// Refuses an arithmetic that the target does not have.
    ///
    /// # Errors
    /// Where it does not; the error lists what it has.
    pub fn require(self, target: Target) -> Result<(), TargetError> {
        let precision = self;
        let has_it = Self::of(target).contains(&precision);
        if has_it { Ok(()) } else { Err(TargetError::Unsupported { target, precision }) }
    }
}

impl fmt::Display for PrecisionName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl FromStr for PrecisionName {
    type Err = String;

    fn from_str(name: &str) -> Result<Self, Self::Err> {
        let found = Self::ALL.into_iter().find(|precision| precision.name() == name);
        found.ok_or_else(|| format!("no precision {name:?}; there are {}", listed(&Self::ALL)))
    }
}

/// Graphs that a target does not take.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum TargetError {
    /// Arithmetic that the target does not have.
    #[error("target {target} has no {precision}; it has {}", listed(PrecisionName::of(*target)))]
    Unsupported {
        /// The target.
        target: Target,
        /// What it lacks.
        precision: PrecisionName,
    },
    /// A graph that breaks the target's rules.
    #[error("graph {graph:?}")]
    Rules {
        /// The graph.
        graph: &'static str,
        /// Nodes and rules.
        source: CheckError,
    },
    /// A graph that was written and cannot be read again.
    #[error("{}: {reason}", path.display())]
    Unreadable {
        /// Its file.
        path: PathBuf,
        /// Why.
        reason: String,
    },
}

fn listed(precisions: &[PrecisionName]) -> String {
    precisions.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ")
}

/// Checks the graphs of a bundle that lies in `folder` against the rules of its target, where it has any.
///
/// # Errors
/// The first graph that breaks rules, with all of them, each by its node.
pub(crate) fn check_rules(folder: &Path, manifest: &Manifest) -> Result<(), TargetError> {
    let rules = match manifest.target {
        Target::Cpu | Target::Cuda => return Ok(()),
        Target::Trt10 => check::Target::Trt10,
        Target::Trt => check::Target::Trt,
    };
    manifest.graphs.iter().try_for_each(|(name, graph)| check_graph(folder, name, &graph.path, rules))
}

fn check_graph(
    folder: &Path,
    name: &'static str,
    file: &str,
    rules: check::Target,
) -> Result<(), TargetError> {
    let path = folder.join(file);
    let unreadable = |reason: String| TargetError::Unreadable { path: path.clone(), reason };
    let bytes = fs::read(&path).map_err(|error| unreadable(error.to_string()))?;
    let model = Model::decode(&*bytes).map_err(|error| unreadable(error.to_string()))?;
    let summary =
        check_in(&model, rules, folder).map_err(|source| TargetError::Rules { graph: name, source })?;
    info!("{name} keeps the rules of {rules}: {summary}");
    Ok(())
}

#[cfg(test)]
mod tests {
    use indicatif::ProgressBar;
    use nextclip_core::manifest::{Dtype, TensorSpec};

    use super::*;
    use crate::arithmetic::Arithmetic;
    use crate::built::GraphWriter;
    use crate::onnx::{GraphBuilder, Precision, Rotation};

    #[test]
    fn a_precision_that_a_target_lacks_is_refused() {
        let told = |target, arithmetic: Arithmetic| arithmetic.precision(target).unwrap_err().to_string();
        assert_eq!(told(Target::Cuda, Arithmetic::Bf16), "target cuda has no bf16; it has f32, fp16");
        assert_eq!(told(Target::Cpu, Arithmetic::Fp16), "target cpu has no fp16; it has f32, w8a8, w8, w4");
        assert_eq!(
            told(Target::Trt10, Arithmetic::Bf16),
            "target trt10 has no bf16; it has f32, fp16, w8a8, w4"
        );
        let told = "int8".parse::<PrecisionName>().unwrap_err();
        assert_eq!(told, "no precision \"int8\"; there are f32, fp16, bf16, w8a8, fp8, w8, w4");
    }

    #[test]
    fn a_graph_that_breaks_the_rules_is_refused_by_node_and_rule() {
        let folder = tempfile::tempdir().expect("a folder");
        let mut g = GraphBuilder::new("broken", &Precision::Float);
        let spec = |name: &str| TensorSpec { name: name.into(), dtype: Dtype::F32, shape: vec![1, 1, 2, 4] };
        let x = g.input(&spec("x"));
        let table = g.table("angles", &[2, 2], vec![0.5; 4]);
        let positions = g.indices(&[0, 1]);
        let positions = g.reshape(&positions, &[1, 2]);
        // The rotary embedding of ONNX Runtime's own, which the builder makes for its providers.
        let y = g.rotary(&x, &Rotation { positions, cos: table.clone(), sin: table });
        g.output(&spec("y"), &y);
        let progress = ProgressBar::hidden();
        let mut writer = GraphWriter::create(folder.path(), &progress).expect("a weight file");
        let entry = writer.add(&g.finish()).expect("a graph");
        writer.finish().expect("a finished weight file");
        let refused = check_graph(folder.path(), "denoise", &entry.path, check::Target::Trt10);
        let told = format!("{:#}", anyhow::Error::from(refused.expect_err("a rule is broken")));
        assert!(told.starts_with("graph \"denoise\": TensorRT 10.3 does not accept the graph"), "{told}");
        assert!(told.contains("RotaryEmbedding: domain: RotaryEmbedding is of com.microsoft"), "{told}");
    }

    #[test]
    fn defaults_are_among_what_a_target_has() {
        for target in Target::ALL {
            assert!(PrecisionName::of(target).contains(&PrecisionName::default_of(target, false)));
        }
        assert_eq!(PrecisionName::default_of(Target::Cpu, false), PrecisionName::F32);
        assert_eq!(PrecisionName::default_of(Target::Trt10, true), PrecisionName::W8A8);
        assert_eq!(PrecisionName::default_of(Target::Trt10, false), PrecisionName::Fp16);
    }
}
