//! Options of `nextclip-export export` that say which part of a bundle is kept in how many bits.

use clap::ValueEnum;
use nextclip_core::manifest::CacheElement;
use nextclip_export::{CalibrationError, Observations};
use nextclip_quant::Observer;

/// What keys and values are kept as.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub(crate) enum Cache {
    /// Single precision.
    #[default]
    F32,
    /// Half precision: half the memory.
    Fp16,
    /// 8-bit integers with a scale for each head, from --calibrate: a quarter of the memory.
    Int8,
}

/// Precision of what is not a layer's product.
#[derive(Debug, clap::Args)]
pub(crate) struct PrecisionArguments {
    /// What the remembered frames' keys and values are kept as, in memory that grows with --history.
    #[arg(long, value_enum, default_value_t)]
    pub(crate) cache: Cache,
}

impl Cache {
    /// Whether it needs scales from calibration.
    pub(crate) fn is_calibrated(self) -> bool {
        self == Self::Int8
    }

    /// The element type; `seen` must be there where it is calibrated.
    pub(crate) fn element(
        self,
        seen: Option<&Observations>,
        observer: Observer,
    ) -> Result<CacheElement, CalibrationError> {
        match (self, seen) {
            (Self::Int8, Some(seen)) => seen.cache_element(observer),
            (Self::Fp16, _) => Ok(CacheElement::F16),
            (Self::F32, _) | (Self::Int8, None) => Ok(CacheElement::F32),
        }
    }
}
