//! Which runtime a board has for the graphs, and which arithmetic its processor is made for.

use serde::Serialize;

use crate::{Family, PROFILES, Profile};

/// What executes graphs on a board.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Runtime {
    /// ONNX Runtime on the CPU.
    Cpu,
    /// TensorRT 10.3, of JetPack 6.
    TensorRt10,
    /// TensorRT 10.16 and later, of JetPack 7.2.
    TensorRt,
}

/// The first compute capability with 8-bit floats: Ada.
const SM_WITH_FP8: u32 = 89;

/// The first compute capability with brain float: Ampere.
const SM_WITH_BF16: u32 = 80;

impl Profile {
    /// What executes graphs here. Xavier's last JetPack has TensorRT 8.5 and an ONNX Runtime that is too old for it:
    /// its graphs run on the CPU.
    pub fn runtime(&self) -> Runtime {
        match self.family {
            Family::JetsonOrin => Runtime::TensorRt10,
            Family::JetsonThor => Runtime::TensorRt,
            Family::JetsonXavier | Family::RaspberryPi5 | Family::Rk3588 | Family::Generic => Runtime::Cpu,
        }
    }

    /// Whether its GPU computes in 8-bit floats.
    pub fn has_fp8(&self) -> bool {
        self.sm.is_some_and(|sm| sm >= SM_WITH_FP8)
    }

    /// Whether its GPU computes in brain float.
    pub fn has_bf16(&self) -> bool {
        self.sm.is_some_and(|sm| sm >= SM_WITH_BF16)
    }
}

/// Every board's short name, for a message that lists them.
pub fn board_ids() -> String {
    PROFILES.iter().map(|profile| profile.id).collect::<Vec<_>>().join(", ")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::profile;

    #[test]
    fn runtimes_and_arithmetic_of_boards() {
        let of =
            |id: &str| profile(id).map(|profile| (profile.runtime(), profile.has_bf16(), profile.has_fp8()));
        assert_eq!(of("orin-nano-8gb"), Some((Runtime::TensorRt10, true, false)));
        assert_eq!(of("thor-t5000"), Some((Runtime::TensorRt, true, true)));
        assert_eq!(of("xavier-nx"), Some((Runtime::Cpu, false, false)));
        assert_eq!(of("raspberry-pi-5"), Some((Runtime::Cpu, false, false)));
        assert!(board_ids().contains("rk3588, ") || board_ids().ends_with("rk3588"), "{}", board_ids());
    }
}
