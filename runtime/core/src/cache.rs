//! Sizes and element type of the cached keys and values.

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::geometry::Geometry;
use crate::manifest::Dtype;

/// The cached keys and values: each is (layers, batch, kv_heads, C * L, head_dim), keys before rotation.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CacheShape {
    /// n_layer.
    pub layers: usize,
    /// Cameras served by one pass.
    pub batch: usize,
    /// n_kv.
    pub kv_heads: usize,
    /// d_head.
    pub head_dim: usize,
    /// What each key and value is kept as. Bundles of schema 1 do not say it and have single precision.
    #[serde(default, skip_serializing_if = "CacheElement::is_f32")]
    pub element: CacheElement,
}

/// What a key or value is kept as between two runs of a graph. The graphs themselves convert: who keeps the cache
/// moves bytes.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "lowercase", deny_unknown_fields)]
pub enum CacheElement {
    /// Single precision.
    #[default]
    F32,
    /// Half precision.
    F16,
    /// 8-bit integers, symmetric: a number is `scale * integer`, with integers from -127 to 127.
    Int8 {
        /// Scales of keys, (layers, kv_heads), rows first.
        key_scales: Vec<f32>,
        /// Scales of values, (layers, kv_heads), rows first.
        value_scales: Vec<f32>,
        /// What the scales were taken from, in words.
        calibration: String,
    },
}

impl CacheElement {
    /// Element type of the tensors at the border of the graphs.
    pub fn dtype(&self) -> Dtype {
        match self {
            Self::F32 => Dtype::F32,
            Self::F16 => Dtype::F16,
            Self::Int8 { .. } => Dtype::I8,
        }
    }

    fn is_f32(&self) -> bool {
        matches!(self, Self::F32)
    }
}

impl fmt::Display for CacheElement {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::F32 => "f32",
            Self::F16 => "fp16",
            Self::Int8 { .. } => "int8",
        })
    }
}

impl CacheShape {
    /// Bytes that keys and values take together, of a window of C frames.
    pub fn bytes(&self, geometry: &Geometry) -> u64 {
        let tokens = geometry.history * geometry.block_tokens();
        let numbers = 2 * self.layers * self.batch * self.kv_heads * tokens * self.head_dim;
        (numbers * self.element.dtype().bytes()) as u64
    }

    /// Refuses scales that are too few, too many, or none; says which.
    pub(crate) fn validate(&self) -> Result<(), String> {
        let CacheElement::Int8 { key_scales, value_scales, .. } = &self.element else { return Ok(()) };
        let expected = self.layers * self.kv_heads;
        for (kind, scales) in [("key", key_scales), ("value", value_scales)] {
            if scales.len() != expected {
                let found = scales.len();
                return Err(format!(
                    "{found} {kind} scales, must be {expected}: one for each layer and head"
                ));
            }
            let wrong = |scale: &f32| !(scale.is_finite() && *scale > 0.0);
            if let Some(index) = scales.iter().position(wrong) {
                return Err(format!("{kind} scale {index} is {}, must be finite and above 0", scales[index]));
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_published_model_keeps_gigabytes() {
        let geometry = Geometry {
            height: 176,
            width: 320,
            vae_scale: 8,
            latent_channels: 4,
            patch: 2,
            history: 56,
            clip: 24,
            frame_interval_ms: 133,
        };
        let shape = |element| CacheShape { layers: 32, batch: 1, kv_heads: 32, head_dim: 96, element };
        let scales = vec![1.0; 32 * 32];
        let int8 = CacheElement::Int8 {
            key_scales: scales.clone(),
            value_scales: scales,
            calibration: String::new(),
        };
        // 2 x 32 layers x 32 heads x 56 x 222 tokens x 96 numbers.
        let numbers = 2_444_230_656;
        for (element, bytes) in [(CacheElement::F32, 4), (CacheElement::F16, 2), (int8, 1)] {
            assert_eq!(shape(element).bytes(&geometry), bytes * numbers);
        }
    }
}
