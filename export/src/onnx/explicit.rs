//! 8-bit layers in TensorRT's form: explicit and symmetric, on the inputs of products alone.
//!
//! A layer's activation goes through `QuantizeLinear` and `DequantizeLinear` with one scale, its weight through
//! `DequantizeLinear` with a scale for each output; both scales are of the graph's float type, which is what the layer
//! then reads and makes. TensorRT turns the whole into an 8-bit product. What is not done, and why:
//! - nothing is quantised behind an operator: what a layer makes goes to a norm, a gate or a sum, in float;
//! - residual sums stay float: whoever reads one is a norm, so that 8 bits would only lose there;
//! - the products of attention stay float: both sides change, and 8-bit attention weights cost most of all;
//! - E4M3 is for linear layers: TensorRT has kernels of it for few shapes of convolutions.

use std::collections::BTreeMap;
use std::sync::Arc;

use half::{bf16, f16};
use nextclip_core::manifest::Dtype;
use nextclip_quant::{Params, Scheme, channel_abs_max, e4m3_from_f32, e4m3_scale, per_channel_mse};

use super::builder::GraphBuilder;
use super::graph::{Constant, LayerUse, Layout, Value};
use super::layers::{Conv, Linear};
use super::operators::int;
use super::quantised::{Choice, MIN_CHANNELS, Precision, place};
use super::typed::Typed;
use crate::checkpoint::Weight;

/// The two kinds of 8-bit numbers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    /// Integers from -127 to 127.
    Int8,
    /// Floats of 4 bits of exponent and 3 of mantissa, up to 448.
    E4m3,
}

impl Format {
    pub(super) fn dtype(self) -> Dtype {
        match self {
            Self::Int8 => Dtype::I8,
            Self::E4m3 => Dtype::F8,
        }
    }

    fn zeros(self, count: usize) -> Constant {
        match self {
            Self::Int8 => Constant::I8(vec![0; count]),
            Self::E4m3 => Constant::F8(vec![0; count]),
        }
    }

    /// The scale at which the magnitude is the greatest number.
    fn scale(self, magnitude: f32) -> f32 {
        match self {
            Self::Int8 => Params::of_range(-magnitude, magnitude, Scheme::Symmetric).scale,
            Self::E4m3 => e4m3_scale(magnitude),
        }
    }

    /// The nearest number's byte.
    fn byte(self, value: f32, scale: f32) -> u8 {
        match self {
            // -128 stays unused, so that a weight and its negative are alike.
            Self::Int8 => Params { scale, zero_point: 0 }.quantise(value).max(-127).cast_unsigned(),
            Self::E4m3 => e4m3_from_f32(value / scale),
        }
    }
}

/// Least and greatest value that a layer reads, for each of its uses in order, by graph and layer.
pub type LayerRanges = BTreeMap<(String, String), Vec<(f32, f32)>>;

/// Which layers are rounded to 8 bits, and how.
#[derive(Clone, Debug, PartialEq)]
pub struct EightBits {
    /// To what.
    pub format: Format,
    /// What the layers read; a layer without a range stays float.
    pub ranges: Arc<LayerRanges>,
    /// Which of them are rounded.
    pub choice: Choice,
}

/// A checkpoint's tensor in 8 bits, with a scale for each output.
#[derive(Clone, Debug)]
pub struct EightBitWeight {
    /// The tensor.
    pub weight: Weight,
    /// How it lies in the graph.
    pub layout: Layout,
    /// What it is rounded to.
    pub format: Format,
    /// One for each output, exact in `scale_type`.
    pub scales: Arc<[f32]>,
    /// Type of the scales in the graph.
    pub scale_type: Dtype,
}

impl EightBitWeight {
    /// # Panics
    /// Where a weight is no number: calibration has looked at every one before.
    fn new(weight: &Weight, layout: Layout, format: Format, scale_type: Dtype) -> Self {
        let scales = match format {
            Format::Int8 => {
                per_channel_mse(&layout.values(weight), &layout.shape(weight), layout.output_axis())
                    .map(|quantised| quantised.scales)
            }
            Format::E4m3 => {
                channel_abs_max(&layout.values(weight), &layout.shape(weight), layout.output_axis())
                    .map(|magnitudes| magnitudes.into_iter().map(e4m3_scale).collect())
            }
        };
        let scales = scales.unwrap_or_else(|error| panic!("{}: {error}", weight.name()));
        let scales = scales.into_iter().map(|scale| positive_in(scale_type, scale)).collect();
        Self { weight: weight.clone(), layout, format, scales, scale_type }
    }

    /// What tells it from other constants of the same tensor.
    pub(super) fn identity(&self) -> String {
        let Self { weight, layout, format, scale_type, .. } = self;
        format!("{} {layout:?} {format:?} by {scale_type}", weight.name())
    }

    /// Its bytes, as they lie in the graph.
    pub(super) fn bytes(&self) -> Vec<u8> {
        let (values, outputs) = (self.layout.values(&self.weight), self.scales.len().max(1));
        let each = (values.len() / outputs).max(1);
        let output = |place: usize| match self.layout {
            Layout::AsStored => place / each,
            Layout::Transposed => place % outputs,
        };
        let byte = |(place, value): (usize, &f32)| self.format.byte(*value, self.scales[output(place)]);
        values.iter().enumerate().map(byte).collect()
    }
}

/// The nearest number of a float type that is above zero, and finite: half precision has none below 6e-8 and none above
/// 65504.
pub(super) fn positive_in(dtype: Dtype, scale: f32) -> f32 {
    match dtype {
        Dtype::F16 => f16::from_f32(scale).clamp(f16::from_bits(1), f16::MAX).to_f32(),
        Dtype::Bf16 => bf16::from_f32(scale).to_f32(),
        _ => scale,
    }
}

impl GraphBuilder {
    /// Activation and weight of a linear layer in a typed graph. TensorRT's 8-bit products need two rows at least.
    pub(super) fn typed_operands(&mut self, x: &Value, layer: &Linear) -> (Value, Value) {
        let small = layer.weight.shape()[0] < MIN_CHANNELS || x.size(x.rank() - 1) < MIN_CHANNELS;
        let single = x.size(x.rank() - 2) < 2;
        let chosen = if small || single { None } else { self.eight_bit_range(place(&layer.weight), x) };
        match chosen {
            Some((format, magnitude)) => {
                let weight = self.eight_bit_weight(&layer.weight, Layout::Transposed, format, x.dtype);
                (self.eight_bit_activation(x, format, magnitude), weight)
            }
            None => (x.clone(), self.weight(&layer.weight, Layout::Transposed)),
        }
    }

    /// A convolution in a typed graph.
    pub(super) fn typed_conv(&mut self, x: &Value, conv: &Conv, stride: usize, pads: [usize; 4]) -> Value {
        let bias = self.weight(&conv.bias, Layout::AsStored);
        let small = conv.weight.shape()[..2].iter().any(|&size| size < MIN_CHANNELS);
        let has_kernels = self.eight_bits().is_some_and(|eight| eight.format == Format::Int8);
        let chosen = if small || !has_kernels { None } else { self.eight_bit_range(place(&conv.weight), x) };
        let (x, weight) = match chosen {
            Some((format, magnitude)) => {
                let weight = self.eight_bit_weight(&conv.weight, Layout::AsStored, format, x.dtype);
                (self.eight_bit_activation(x, format, magnitude), weight)
            }
            None => (x.clone(), self.weight(&conv.weight, Layout::AsStored)),
        };
        self.conv2d(&x, &weight, &bias, stride, pads)
    }

    fn eight_bits(&self) -> Option<&EightBits> {
        match &self.precision {
            Precision::Typed(Typed { eight_bits, .. }) => eight_bits.as_ref(),
            _ => None,
        }
    }

    /// Notes the use of a layer that can be in 8 bits. Where it is to be: the format, and the greatest magnitude that
    /// it reads.
    fn eight_bit_range(&mut self, layer: String, x: &Value) -> Option<(Format, f32)> {
        let eight = self.eight_bits()?;
        let earlier = self.graph.layers.iter().filter(|used| used.layer == layer).count();
        let site = (self.graph.name.to_owned(), layer);
        let (low, high) = *eight.ranges.get(&site)?.get(earlier)?;
        let (format, layer) = (eight.format, site.1);
        let quantised = eight.choice.takes(&layer);
        self.graph.layers.push(LayerUse { layer, tensors: vec![x.name.clone()], quantised });
        quantised.then(|| (format, low.abs().max(high.abs())))
    }

    /// A float tensor as it is after 8 bits, rounded once however many layers read it.
    fn eight_bit_activation(&mut self, x: &Value, format: Format, magnitude: f32) -> Value {
        if let Some(rounded) = self.rounded.get(&x.name) {
            return rounded.clone();
        }
        let scale = self.scalar(positive_in(x.dtype, format.scale(magnitude)));
        let scale = self.as_type(&scale, x.dtype);
        let zero = self.constant(format!("{} zero", format.dtype()), &[], format.zeros(1));
        let rounded = self.node("QuantizeLinear", &[x, &scale, &zero], vec![], &x.shape, format.dtype());
        let back = self.node("DequantizeLinear", &[&rounded, &scale, &zero], vec![], &x.shape, x.dtype);
        self.rounded.insert(x.name.clone(), back.clone());
        back
    }

    /// A weight as it is after 8 bits, of type `dtype`.
    fn eight_bit_weight(&mut self, weight: &Weight, layout: Layout, format: Format, dtype: Dtype) -> Value {
        let rounded = EightBitWeight::new(weight, layout, format, dtype);
        let (name, count) = (format!("{} {}", weight.name(), format.dtype()), rounded.scales.len());
        let (shape, axis) = (layout.shape(weight), layout.output_axis());
        let scales = self.table(&format!("{name} scale"), &[count], rounded.scales.to_vec());
        let scales = self.as_type(&scales, dtype);
        let zeros = self.constant(format!("{name} zero"), &[count], format.zeros(count));
        let rounded = self.constant(name, &shape, Constant::EightBits(rounded));
        let axis = int("axis", axis as i64);
        self.node("DequantizeLinear", &[&rounded, &scales, &zeros], vec![axis], &shape, dtype)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_of_both_formats() {
        assert_eq!(Format::Int8.byte(-200.0, 1.0).cast_signed(), -127);
        assert_eq!(Format::Int8.byte(2.5, 1.0), 2);
        assert_eq!(Format::E4m3.byte(448.0, 1.0), 0x7e);
        assert_eq!(Format::E4m3.byte(1.0, 0.5), 0x40);
        assert_eq!(Format::Int8.scale(127.0), 1.0);
        assert_eq!(Format::E4m3.scale(448.0), 1.0);
    }

    #[test]
    fn scales_are_positive_in_every_type() {
        for dtype in [Dtype::F32, Dtype::F16, Dtype::Bf16] {
            assert!(positive_in(dtype, 1e-12) > 0.0, "{dtype}");
        }
        assert_eq!(positive_in(Dtype::F16, 0.1), f16::from_f32(0.1).to_f32());
    }
}
