//! What a graph is made of: tensors, constants, and the finished graph.

use std::collections::BTreeMap;
use std::fmt;

use nextclip_core::manifest::{Dtype, TensorSpec};

use super::explicit::EightBitWeight;
use super::proto;
use super::weight_only::{BlockPart, BlockWeight};
use crate::checkpoint::Weight;

/// A tensor in the graph: an input, a constant or a node's result.
#[derive(Clone, Debug, PartialEq)]
pub struct Value {
    pub(super) name: String,
    pub(super) shape: Vec<usize>,
    pub(super) dtype: Dtype,
}

impl Value {
    /// Static shape.
    pub fn shape(&self) -> &[usize] {
        &self.shape
    }

    /// Size along an axis.
    pub fn size(&self, axis: usize) -> usize {
        self.shape[axis]
    }

    /// Element type.
    pub fn dtype(&self) -> Dtype {
        self.dtype
    }

    /// Number of axes.
    pub fn rank(&self) -> usize {
        self.shape.len()
    }
}

impl fmt::Display for Value {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}{:?}", self.name, self.dtype, self.shape)
    }
}

/// Data that a graph carries.
#[derive(Clone, Debug)]
pub enum Constant {
    /// A checkpoint's tensor; it is read when the graph is written.
    Weight(Weight, Layout),
    /// The same in 8-bit integers with a scale for each output; quantised when the graph is written.
    Int8(Weight, Layout),
    /// The same in blocks of integers, one of its tensors; quantised when the graph is written.
    Blocks(BlockWeight, BlockPart),
    /// Computed by the exporter.
    F32(Vec<f32>),
    /// Biases of quantised convolutions.
    I32(Vec<i32>),
    /// Zero points of unsigned tensors.
    U8(Vec<u8>),
    /// Zero points of signed tensors.
    I8(Vec<i8>),
    /// Shapes and indices.
    I64(Vec<i64>),
    /// A float constant in another float type; rounded when the graph is written.
    Cast(Box<Constant>, Dtype),
    /// A checkpoint's tensor in 8 bits of either kind, with scales of its own; rounded when the graph is written.
    EightBits(EightBitWeight),
    /// Zero points of E4M3 tensors.
    F8(Vec<u8>),
}

impl Constant {
    /// The checkpoint's tensor that it is made from.
    fn weight(&self) -> Option<&Weight> {
        match self {
            Self::Weight(weight, _) | Self::Int8(weight, _) => Some(weight),
            Self::EightBits(weight) => Some(&weight.weight),
            Self::Blocks(blocks, _) => Some(&blocks.weight),
            Self::Cast(of, _) => of.weight(),
            _ => None,
        }
    }

    /// Element type.
    pub(super) fn dtype(&self) -> Dtype {
        match self {
            Self::Weight(..) | Self::F32(_) => Dtype::F32,
            Self::Int8(..) | Self::I8(_) => Dtype::I8,
            Self::Blocks(weight, part) => weight.dtype(*part),
            Self::U8(_) => Dtype::U8,
            Self::I32(_) => Dtype::I32,
            Self::I64(_) => Dtype::I64,
            Self::Cast(_, dtype) => *dtype,
            Self::EightBits(weight) => weight.format.dtype(),
            Self::F8(_) => Dtype::F8,
        }
    }
}

/// How a weight lies in the graph.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Layout {
    /// As in the checkpoint.
    AsStored,
    /// Columns first: a linear layer's (out, in), with further axes counted to `in`, becomes (in, out).
    Transposed,
}

impl Layout {
    /// The shape that a weight has in the graph.
    pub(super) fn shape(self, weight: &Weight) -> Vec<usize> {
        match self {
            Self::AsStored => weight.shape().to_vec(),
            Self::Transposed => vec![weight.shape()[1..].iter().product(), weight.shape()[0]],
        }
    }

    /// The axis of that shape which counts outputs.
    pub(super) fn output_axis(self) -> usize {
        match self {
            Self::AsStored => 0,
            Self::Transposed => 1,
        }
    }

    /// Indices of one output's weights in a weight of this `shape`, in the order in which ONNX Runtime adds their products:
    /// input by input, of a convolution place by place of its kernel.
    pub(super) fn terms(self, shape: &[usize], output: usize) -> impl Iterator<Item = usize> + use<> {
        let places = shape[2..].iter().product::<usize>();
        // Where the output's weights begin, and how many inputs there are, and how far apart.
        let (first, inputs, apart) = match self {
            Self::AsStored => (output * shape[1] * places, shape[1], places),
            Self::Transposed => (output, shape[0], shape[1]),
        };
        (0..places).flat_map(move |place| (0..inputs).map(move |input| first + input * apart + place))
    }

    /// The weight's values as they lie in the graph.
    pub(super) fn values(self, weight: &Weight) -> Vec<f32> {
        match self {
            Self::AsStored => weight.values(),
            Self::Transposed => transposed(&weight.values(), weight.shape()[0]),
        }
    }
}

/// Rows to columns of a matrix with `rows` rows.
fn transposed(values: &[f32], rows: usize) -> Vec<f32> {
    let columns = values.len() / rows.max(1);
    (0..values.len()).map(|cell| values[cell % rows * columns + cell / rows]).collect()
}

/// A layer that can be computed in 8-bit arithmetic, as one graph has it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LayerUse {
    /// Its place in the checkpoint: `llm.layers.0.self_attn.o_proj`.
    pub layer: String,
    /// Activations that are quantised where the layer is: what it reads, and of a convolution what it makes.
    pub tensors: Vec<String>,
    /// Whether it is quantised in this graph.
    pub quantised: bool,
}

/// A finished graph.
#[derive(Clone, Debug)]
pub struct Graph {
    /// Its name, as in the manifest.
    pub name: &'static str,
    /// Nodes in an order in which they can run.
    pub(super) nodes: Vec<proto::Node>,
    /// Constants by name, with their shapes.
    pub(super) constants: BTreeMap<String, (Vec<usize>, Constant)>,
    /// Inputs, in order.
    pub inputs: Vec<TensorSpec>,
    /// Outputs, in order.
    pub outputs: Vec<TensorSpec>,
    /// Layers that can be quantised, in the order of their use.
    pub layers: Vec<LayerUse>,
    /// Multiply-adds of matrix products and convolutions, by the place in the checkpoint that the builder was at: a
    /// layer's own, or that around an attention's products.
    pub work: BTreeMap<String, u64>,
}

impl Graph {
    /// The checkpoint's tensors in the graph.
    pub fn weights(&self) -> impl Iterator<Item = &Weight> {
        self.constants.values().filter_map(|(_, constant)| constant.weight())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_become_columns() {
        assert_eq!(transposed(&[1.0, 2.0, 3.0, 4.0, 5.0, 6.0], 2), [1.0, 4.0, 2.0, 5.0, 3.0, 6.0]);
    }

    #[test]
    fn terms_are_in_the_order_of_their_sum() {
        let terms = |layout: Layout, shape: &[usize], output| layout.terms(shape, output).collect::<Vec<_>>();
        // (in, out): a column.
        assert_eq!(terms(Layout::Transposed, &[5, 2], 1), [1, 3, 5, 7, 9]);
        // (out, in, rows, columns): of each of 2 places the 3 inputs, which are 2 apart.
        assert_eq!(terms(Layout::AsStored, &[2, 3, 1, 2], 0), [0, 2, 4, 1, 3, 5]);
        assert_eq!(terms(Layout::AsStored, &[2, 3, 1, 2], 1), [6, 8, 10, 7, 9, 11]);
    }
}
