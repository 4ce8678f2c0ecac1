//! 8-bit forms of layers, in the shape that ONNX Runtime's CPU provider turns into integer kernels.
//!
//! Activations and weights go through `QuantizeLinear` and `DequantizeLinear` around an operator that stays as it
//! is; the runtime fuses the three. Which forms it fuses, and fast, was measured:
//! - activations must be unsigned and weights signed; signed activations are turned around by the runtime itself, but
//!   not where several layers read them or behind an enlargement, which then stay in float;
//! - a matrix product without a bias becomes `MatMulIntegerToFloat`;
//! - the products of attention are not fused, so that they are said as one node: see `integers`;
//! - a convolution must have its result quantised too, to become `QLinearConv`.
//!
//! On processors without dot products of 8-bit integers, pairs of products saturate at 16 bits. So no pair of weights is
//! so large that it could, and the manifest says so (`pairs_fit`).

use std::collections::BTreeMap;
use std::sync::Arc;

use nextclip_core::manifest::{Dtype, TensorSpec};
use nextclip_quant::{ChannelWeights, Error, Params, Scheme, bias_i32, per_channel_in_pairs};

use super::builder::GraphBuilder;
use super::graph::{Constant, LayerUse, Layout, Value};
use super::layers::{Conv, Linear, path};
use super::operators::int;
use super::typed::Typed;
use super::weight_only::WeightOnly;
use crate::checkpoint::Weight;

/// Layers at the borders of the model stay in single precision: they are small, and their errors are the
/// result's or everyone's.
const ENDS: [&str; 7] = [
    "encoder.conv_in",
    "encoder.conv_out",
    "quant_conv",
    "post_quant_conv",
    "decoder.conv_in",
    "decoder.conv_out",
    "motion.refine.2",
];

/// Fewer channels than these, in or out, leave integer kernels nothing to do.
pub(super) const MIN_CHANNELS: usize = 16;

/// What the builder makes of layers.
#[derive(Clone, Debug, Default)]
pub enum Precision {
    /// Single precision.
    #[default]
    Float,
    /// Single precision, and what quantised layers would read and make is an output of the graph, named after the
    /// tensor with [`nextclip_predictor::OBSERVED`] before it.
    Observed,
    /// 8-bit integers where the recipe says so.
    Int8(Arc<Recipe>),
    /// Weights of linear layers in blocks of integers, activations in single precision.
    Blocks(Arc<WeightOnly>),
    /// Types said in the graph itself, for GPUs.
    Typed(Typed),
}

/// Least and greatest value by graph and tensor.
pub type Ranges = BTreeMap<(String, String), (f32, f32)>;

/// Ranges of activations, and the layers that are quantised.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Recipe {
    /// Of every tensor that quantised layers read, and that convolutions make.
    pub ranges: Ranges,
    /// Which of the layers that can be quantised are.
    pub choice: Choice,
}

/// A choice of layers. A name stands for the layer and for all below it: `llm.layers.0` has six.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Choice {
    /// All but these.
    AllBut(Vec<String>),
    /// No other than these.
    Only(Vec<String>),
}

impl Default for Choice {
    fn default() -> Self {
        Self::AllBut(vec![])
    }
}

impl Choice {
    /// Whether the layer is quantised.
    pub fn takes(&self, layer: &str) -> bool {
        let named = |names: &[String]| names.iter().any(|name| covers(name, layer));
        match self {
            Self::AllBut(names) => !named(names),
            Self::Only(names) => named(names),
        }
    }
}

/// Whether `name` is the layer or a place above it.
pub(crate) fn covers(name: &str, layer: &str) -> bool {
    layer.strip_prefix(name).is_some_and(|rest| rest.is_empty() || rest.starts_with('.'))
}

/// A weight in 8-bit integers with a scale for each output, laid out as the graph has it, exact on every processor.
pub(super) fn int8_weight(weight: &Weight, layout: Layout) -> Result<ChannelWeights, Error> {
    let shape = layout.shape(weight);
    let outputs = shape[layout.output_axis()];
    per_channel_in_pairs(&layout.values(weight), outputs, |output| layout.terms(&shape, output))
}

/// Whether the layer can be in 8 bits at all.
fn may_be_int8(layer: &Linear) -> bool {
    layer.bias.is_none() && layer.weight.shape().iter().all(|&size| size >= MIN_CHANNELS)
}

fn weight_scales(weight: &Weight, layout: Layout) -> Vec<f32> {
    // Calibration has looked at every weight before a recipe exists.
    int8_weight(weight, layout).unwrap_or_else(|error| panic!("{}: {error}", weight.name())).scales
}

impl GraphBuilder {
    /// Activation and weight of a linear layer in the form that this graph gives it.
    pub(super) fn linear_operands(&mut self, x: &Value, layer: &Linear) -> (Value, Value) {
        if matches!(self.precision, Precision::Typed(_)) {
            return self.typed_operands(x, layer);
        }
        // With a bias the runtime fuses the product into a float kernel, or fails to load.
        if may_be_int8(layer) && self.is_quantised(place(&layer.weight), &[x]) {
            let x = self.quantised_activation(x);
            let scales = weight_scales(&layer.weight, Layout::Transposed);
            let weight = self.quantised_weight(&layer.weight, Layout::Transposed, &scales);
            return (x, weight);
        }
        (x.clone(), self.weight(&layer.weight, Layout::Transposed))
    }

    /// A linear layer as ONNX Runtime's own operator, which else is left to its fusion; `None` where the layer is not
    /// one in 8 bits.
    pub(super) fn explicit_linear(&mut self, x: &Value, layer: &Linear) -> Option<Value> {
        let Precision::Int8(recipe) = &self.precision else { return None };
        let place = place(&layer.weight);
        if !may_be_int8(layer) || !recipe.choice.takes(&place) {
            return None;
        }
        self.is_quantised(place, &[x]);
        let (x, params) = self.activation_integers(x);
        let [x_scale, x_zero] = self.scale_and_zero(params);
        let scales = weight_scales(&layer.weight, Layout::Transposed);
        let [weight, scale, _] = self.weight_integers(&layer.weight, Layout::Transposed, &scales);
        let mut shape = x.shape.clone();
        shape[x.rank() - 1] = scales.len();
        self.note_work(shape.iter().product::<usize>() * weight.shape[0]);
        let operands = [&x, &weight, &x_scale, &scale, &x_zero];
        Some(self.node("MatMulIntegerToFloat", &operands, vec![], &shape, Dtype::F32))
    }

    /// A convolution in the form that this graph gives it.
    pub(super) fn conv_layer(&mut self, x: &Value, conv: &Conv, stride: usize, pads: [usize; 4]) -> Value {
        if matches!(self.precision, Precision::Typed(_)) {
            return self.typed_conv(x, conv, stride, pads);
        }
        let bias = |g: &mut Self| g.weight(&conv.bias, Layout::AsStored);
        let float = |g: &mut Self| {
            let (weight, bias) = (g.weight(&conv.weight, Layout::AsStored), bias(g));
            g.conv2d(x, &weight, &bias, stride, pads)
        };
        let small = conv.weight.shape()[..2].iter().any(|&size| size < MIN_CHANNELS);
        if small || ENDS.contains(&place(&conv.weight).as_str()) {
            return float(self);
        }
        if !matches!(self.precision, Precision::Int8(_)) {
            let y = float(self);
            self.is_quantised(place(&conv.weight), &[x, &y]);
            return y;
        }
        let layer = place(&conv.weight);
        let Some((bias, scales)) = self.conv_integers(x, conv, &layer) else {
            self.graph.layers.push(LayerUse { layer, tensors: vec![x.name.clone()], quantised: false });
            return float(self);
        };
        self.is_quantised(layer, &[x]);
        let params = self.params_of(x);
        let x = self.quantised_activation(x);
        let weight = self.quantised_weight(&conv.weight, Layout::AsStored, &scales);
        let bias = self.quantised_bias(&conv.bias, bias, &scales, params.scale);
        let y = self.conv2d(&x, &weight, &bias, stride, pads);
        self.through_8_bits(&y)
    }

    /// A convolution's bias in integers and its weight's scales; `None` where it stays float: by choice, or because
    /// its weights are so small that 32 bits do not hold the bias in their unit.
    fn conv_integers(&self, x: &Value, conv: &Conv, layer: &str) -> Option<(Vec<i32>, Vec<f32>)> {
        let Precision::Int8(recipe) = &self.precision else { return None };
        if !recipe.choice.takes(layer) {
            return None;
        }
        let scales = weight_scales(&conv.weight, Layout::AsStored);
        let bias = bias_i32(&conv.bias.values(), self.params_of(x).scale, &scales).ok()?;
        Some((bias, scales))
    }

    /// Notes the use of a layer that can be quantised, and whether it is. `tensors` are made outputs where the
    /// graph is observed.
    fn is_quantised(&mut self, layer: String, tensors: &[&Value]) -> bool {
        tensors.iter().for_each(|tensor| self.observe(&tensor.name, tensor));
        self.note_use(layer, tensors.iter().map(|tensor| tensor.name.clone()).collect())
    }

    /// The same where what is quantised is observed elsewhere.
    pub(super) fn note_use(&mut self, layer: String, tensors: Vec<String>) -> bool {
        let quantised = match &self.precision {
            Precision::Float | Precision::Observed | Precision::Typed(_) => false,
            // Its layers are those without activations to quantise, noted elsewhere.
            Precision::Blocks(_) => return false,
            Precision::Int8(recipe) => recipe.choice.takes(&layer),
        };
        self.graph.layers.push(LayerUse { layer, tensors, quantised });
        quantised
    }

    /// Whether the graph shows what quantised layers would read.
    pub fn is_observed(&self) -> bool {
        matches!(self.precision, Precision::Observed)
    }

    /// Makes the tensor an output of a graph that is observed, as `site`.
    pub fn observe(&mut self, site: &str, tensor: &Value) {
        if self.is_observed() {
            self.observe_as(site, tensor);
        }
    }

    pub(super) fn observe_as(&mut self, site: &str, tensor: &Value) {
        let name = format!("{}{site}", nextclip_predictor::OBSERVED);
        if self.graph.outputs.iter().all(|output| output.name != name) {
            let spec = TensorSpec { name, dtype: tensor.dtype, shape: tensor.shape.clone() };
            self.output(&spec, tensor);
        }
    }

    /// A float tensor as it is after quantisation. It is quantised once however many layers read it, and each reads
    /// it through a `DequantizeLinear` of its own: a shared one is not fused.
    fn quantised_activation(&mut self, x: &Value) -> Value {
        let (integers, params) = self.activation_integers(x);
        self.dequantised(&integers, params)
    }

    /// A tensor's integers, made once.
    fn activation_integers(&mut self, x: &Value) -> (Value, Params) {
        if let Some(made) = self.quantised.get(&x.name) {
            return made.clone();
        }
        let params = self.params_of(x);
        let [scale, zero] = self.scale_and_zero(params);
        let integers = self.node("QuantizeLinear", &[x, &scale, &zero], vec![], &x.shape, Dtype::U8);
        self.quantised.insert(x.name.clone(), (integers.clone(), params));
        (integers, params)
    }

    fn through_8_bits(&mut self, x: &Value) -> Value {
        let (integers, params) = self.activation_integers(x);
        let back = self.dequantised(&integers, params);
        // Who reads the result reads these very integers, and need not quantise again.
        self.quantised.insert(back.name.clone(), (integers, params));
        back
    }

    fn dequantised(&mut self, integers: &Value, params: Params) -> Value {
        let [scale, zero] = self.scale_and_zero(params);
        self.node("DequantizeLinear", &[integers, &scale, &zero], vec![], &integers.shape, Dtype::F32)
    }

    /// Scale and zero point, from 0 to 255.
    pub(super) fn scale_and_zero(&mut self, params: Params) -> [Value; 2] {
        let zero = (i16::from(params.zero_point) + 128) as u8;
        [self.scalar(params.scale), self.constant(format!("u8 {zero}"), &[], Constant::U8(vec![zero]))]
    }

    /// How the recipe quantises a tensor.
    fn params_of(&self, x: &Value) -> Params {
        if let Some((_, params)) = self.quantised.get(&x.name) {
            return *params;
        }
        self.params_at(&x.name, Scheme::Asymmetric)
    }

    /// How the recipe quantises what was observed as `site`.
    pub(super) fn params_at(&self, site: &str, scheme: Scheme) -> Params {
        let Precision::Int8(recipe) = &self.precision else { unreachable!("only 8-bit graphs quantise") };
        let range = recipe.ranges.get(&(self.graph.name.to_owned(), site.to_owned()));
        let &(low, high) = range.unwrap_or_else(|| panic!("no range of {site} in graph {}", self.graph.name));
        Params::of_range(low, high, scheme)
    }

    /// A weight as it is after quantisation.
    fn quantised_weight(&mut self, weight: &Weight, layout: Layout, scales: &[f32]) -> Value {
        let [integers, scale, zero] = self.weight_integers(weight, layout, scales);
        let axis = int("axis", layout.output_axis() as i64);
        self.node("DequantizeLinear", &[&integers, &scale, &zero], vec![axis], integers.shape(), Dtype::F32)
    }

    /// A weight's integers, and scales and zero points of its outputs.
    fn weight_integers(&mut self, weight: &Weight, layout: Layout, scales: &[f32]) -> [Value; 3] {
        let (name, len) = (format!("{} int8", weight.name()), scales.len());
        let scale = self.table(&format!("{name} scale"), &[len], scales.to_vec());
        let zero = self.constant(format!("{name} zero"), &[len], Constant::I8(vec![0; len]));
        let integers = self.constant(name, &layout.shape(weight), Constant::Int8(weight.clone(), layout));
        [integers, scale, zero]
    }

    /// A bias in the accumulator's unit: activation scale times weight scale.
    fn quantised_bias(
        &mut self,
        bias: &Weight,
        integers: Vec<i32>,
        weight_scales: &[f32],
        x_scale: f32,
    ) -> Value {
        let scales: Vec<f32> = weight_scales.iter().map(|scale| x_scale * scale).collect();
        let (name, len) = (format!("{} int32", bias.name()), scales.len());
        let scale = self.table(&format!("{name} scale"), &[len], scales);
        let zero = self.constant(format!("{name} zero"), &[len], Constant::I32(vec![0; len]));
        let integers = self.constant(name, &[len], Constant::I32(integers));
        let axis = int("axis", 0);
        self.node("DequantizeLinear", &[&integers, &scale, &zero], vec![axis], &[len], Dtype::F32)
    }
}

/// A layer's place in the checkpoint, without the range of rows where only these are computed.
pub(super) fn place(weight: &Weight) -> String {
    let path = path(weight);
    path.split_once('[').map_or(path.clone(), |(whole, _)| whole.to_owned())
}
