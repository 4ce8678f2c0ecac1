//! What executes a bundle's graphs.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};
use thiserror::Error;

/// Which runtime a bundle's graphs are laid out for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Target {
    /// ONNX Runtime's CPU provider.
    #[default]
    Cpu,
    /// ONNX Runtime's CUDA provider.
    Cuda,
    /// TensorRT 10.3, of JetPack 6.
    Trt10,
    /// TensorRT 10.16 and 11, of JetPack 7.2 and later.
    Trt,
}

impl Target {
    /// Every target.
    pub const ALL: [Self; 4] = [Self::Cpu, Self::Cuda, Self::Trt10, Self::Trt];

    /// As in a manifest and on a command line.
    pub fn name(self) -> &'static str {
        match self {
            Self::Cpu => "cpu",
            Self::Cuda => "cuda",
            Self::Trt10 => "trt10",
            Self::Trt => "trt",
        }
    }

    /// Whether TensorRT builds engines of the graphs.
    pub fn is_tensorrt(self) -> bool {
        matches!(self, Self::Trt10 | Self::Trt)
    }
}

impl fmt::Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl FromStr for Target {
    type Err = UnknownTarget;

    fn from_str(name: &str) -> Result<Self, Self::Err> {
        let found = Self::ALL.into_iter().find(|target| target.name() == name);
        found.ok_or_else(|| UnknownTarget { name: name.into() })
    }
}

/// A target's name that is none.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[error("no target {name:?}; there are {}", Target::ALL.map(Target::name).join(", "))]
pub struct UnknownTarget {
    /// As given.
    pub name: String,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn targets_by_name() {
        for target in Target::ALL {
            assert_eq!(target.to_string().parse(), Ok(target));
            assert_eq!(serde_json::to_value(target).unwrap(), target.name());
        }
        let told = "npu".parse::<Target>().unwrap_err().to_string();
        assert_eq!(told, "no target \"npu\"; there are cpu, cuda, trt10, trt");
    }
}
