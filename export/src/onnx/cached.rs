//! Keys and values on their way into the cache and out of it: the graphs convert, the runtime moves bytes.

use nextclip_core::manifest::{CacheElement, Dtype};

use super::builder::GraphBuilder;
use super::graph::{Constant, Value};
use super::operators::int;
use super::quantised::Precision;

/// Axis of heads in one layer's keys or values, (B, n_kv, T, d_head).
const HEADS: usize = 1;

/// Begins the names of what is cached.
const SITE: &str = "cached ";

/// One of the two things that are cached.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Cached {
    /// Before rotation.
    Keys,
    /// As they are.
    Values,
}

impl Cached {
    /// Its name among the graphs' inputs.
    fn name(self) -> &'static str {
        match self {
            Self::Keys => "keys",
            Self::Values => "values",
        }
    }

    /// What a layer's keys or values are called in graphs that show what they hold.
    pub(crate) fn site(self, layer: usize) -> String {
        format!("{SITE}{} {layer}", self.name())
    }

    /// Whether a tensor has such a name.
    pub(crate) fn is_site(tensor: &str) -> bool {
        tensor.starts_with(SITE)
    }

    /// Scales of a layer's heads, where there are any.
    fn scales(self, element: &CacheElement, layer: usize, heads: usize) -> Option<Vec<f32>> {
        let CacheElement::Int8 { key_scales, value_scales, .. } = element else { return None };
        let scales = match self {
            Self::Keys => key_scales,
            Self::Values => value_scales,
        };
        Some(scales[layer * heads..(layer + 1) * heads].to_vec())
    }
}

impl GraphBuilder {
    /// A layer's keys or values (B, n_kv, T, d_head), computed just now, as the cache keeps them.
    pub fn into_cache(&mut self, x: &Value, what: Cached, layer: usize, element: &CacheElement) -> Value {
        if matches!(self.precision, Precision::Observed) {
            self.observe_as(&what.site(layer), x);
        }
        match what.scales(element, layer, x.size(HEADS)) {
            Some(scales) => {
                let [scale, zero] = self.head_scales(what, layer, scales);
                let axis = vec![int("axis", HEADS as i64)];
                let x = &self.as_type(x, Dtype::F32);
                self.node("QuantizeLinear", &[x, &scale, &zero], axis, x.shape(), Dtype::I8)
            }
            None => self.as_type(x, element.dtype()),
        }
    }

    /// The same as they come from the cache, to be computed with.
    pub fn from_cache(&mut self, x: &Value, what: Cached, layer: usize, element: &CacheElement) -> Value {
        match what.scales(element, layer, x.size(HEADS)) {
            Some(scales) => {
                let [scale, zero] = self.head_scales(what, layer, scales);
                let axis = vec![int("axis", HEADS as i64)];
                let wide = self.node("DequantizeLinear", &[x, &scale, &zero], axis, x.shape(), Dtype::F32);
                self.in_float(&wide)
            }
            None => self.in_float(x),
        }
    }

    fn head_scales(&mut self, what: Cached, layer: usize, scales: Vec<f32>) -> [Value; 2] {
        let name = what.site(layer);
        let heads = scales.len();
        let zeros = Constant::I8(vec![0; heads]);
        [
            self.table(&format!("{name} scale"), &[heads], scales),
            self.constant(format!("{name} zero"), &[heads], zeros),
        ]
    }
}
