//! What TensorRT's ONNX parser accepts, as data: operators, versions, element types, operands, conditions.
//!
//! From the parser's own list of operators (`docs/operators.md` of onnx-tensorrt) and its changelog. An operator is
//! left out where it needs what our graphs do not have: subgraphs, strings, shapes that depend on data.

use super::element::Element::{Bf16, Bool, F4, F8, F16, F32, I4, I8, I32, I64, U8};
use super::element::Types;

use Condition::{Constant, InputsUpTo, Int, Ones, OutputsUpTo, Rank, Text};
use Makes::{Dequantised, Indices, Quantised, ValuesAndIndices};
use Operand::{Any, F32Only, I64Only, Index, Mask, Scale, T, Truth, ZeroPoint};

/// A TensorRT version: major, minor.
pub(super) type Version = (u32, u32);

/// What a TensorRT reads, beside its operators.
#[derive(Debug)]
pub(super) struct Limits {
    /// Version.
    pub(super) version: Version,
    /// Oldest and newest opset of ONNX that its parser covers.
    pub(super) opsets: (i64, i64),
    /// Newest opset of graphs with 4-bit weights, which ONNX has only since 21.
    pub(super) opset_with_4_bits: i64,
    /// Element types that exist between QuantizeLinear and DequantizeLinear.
    pub(super) quantised: Types,
}

/// TensorRT 10.3, of JetPack 6. It knows FP8; the GPU of its boards does not.
pub(super) const TRT_10_3: Limits =
    Limits { version: (10, 3), opsets: (9, 20), opset_with_4_bits: 21, quantised: Types::of(&[I8, I4]) };

/// TensorRT 10.16, of JetPack 7.2, and 11.
pub(super) const TRT_10_16: Limits = Limits {
    version: (10, 16),
    opsets: (9, 24),
    opset_with_4_bits: 24,
    quantised: Types::of(&[I8, I4, F8, F4]),
};

/// A line of the table: operators that differ in nothing but their names.
#[derive(Clone, Copy, Debug)]
pub(super) struct Operator {
    /// As in `op_type`.
    pub(super) names: &'static [&'static str],
    /// Types that T can be.
    pub(super) types: Types,
    /// Inputs, in order.
    pub(super) operands: &'static [Operand],
    /// Whether further inputs are as the last operand.
    pub(super) repeats: bool,
    /// Element types of the results.
    pub(super) makes: Makes,
    /// First TensorRT that has it.
    pub(super) since: Version,
    /// First opset of ONNX that has it.
    pub(super) opset: i64,
    /// What must hold besides.
    pub(super) conditions: &'static [Condition],
}

/// What an input must be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Operand {
    /// The operator's type, the same at every such input.
    T,
    /// i32 or i64.
    Index,
    /// i64.
    I64Only,
    /// f32.
    F32Only,
    /// bool.
    Truth,
    /// T or bool.
    Mask,
    /// Not looked at.
    Any,
    /// A scale: of QuantizeLinear's T, or of what DequantizeLinear makes.
    Scale,
    /// A zero point.
    ZeroPoint,
}

/// Element types of results.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Makes {
    /// T, all of them.
    Same,
    /// bool.
    Truths,
    /// i64.
    Indices,
    /// T, then i64.
    ValuesAndIndices,
    /// What attribute `to` says.
    Cast,
    /// What the zero point is, or attribute `output_dtype` says.
    Quantised,
    /// What the scale is, or attribute `output_dtype` says.
    Dequantised,
    /// What the only attribute holds.
    Constant,
}

/// What must hold besides types.
#[derive(Clone, Copy, Debug)]
pub(super) enum Condition {
    /// An input, where it is given, is a constant: shapes must be known when an engine is built.
    Constant(usize),
    /// An input has a number of axes from .. to ..
    Rank(usize, usize, usize),
    /// No more inputs than.
    InputsUpTo(usize),
    /// No more results than.
    OutputsUpTo(usize),
    /// An integer attribute, absent or this.
    Int(&'static str, i64),
    /// An attribute of integers, absent or all 1.
    Ones(&'static str),
    /// A text attribute, absent or one of these.
    Text(&'static str, &'static [&'static str]),
}

/// What scales and all that is computed with them can be.
pub(super) const FLOATS: Types = Types::of(&[F32, F16, Bf16]);
const NUMBERS: Types = FLOATS.and(&[I32, I64]);
const ALL: Types = NUMBERS.and(&[Bool]);
const TRUTHS: Types = Types::of(&[Bool]);

/// What inputs and outputs of a graph can be.
pub(super) const BINDINGS: Types = ALL.and(&[U8]);

const fn op(names: &'static [&'static str], types: Types, operands: &'static [Operand]) -> Operator {
    Operator {
        names,
        types,
        operands,
        repeats: false,
        makes: Makes::Same,
        since: (8, 0),
        opset: 9,
        conditions: &[],
    }
}

impl Operator {
    const fn repeating(self) -> Self {
        Self { repeats: true, ..self }
    }

    const fn makes(self, makes: Makes) -> Self {
        Self { makes, ..self }
    }

    const fn since(self, major: u32, minor: u32) -> Self {
        Self { since: (major, minor), ..self }
    }

    const fn opset(self, opset: i64) -> Self {
        Self { opset, ..self }
    }

    const fn when(self, conditions: &'static [Condition]) -> Self {
        Self { conditions, ..self }
    }
}

/// All operators that a graph for TensorRT may have.
#[rustfmt::skip]
pub(super) const OPERATORS: &[Operator] = &[
    // One value from one value.
    op(&["Abs", "Neg", "Sign"], NUMBERS, &[T]),
    op(&["Acos", "Acosh", "Asin", "Asinh", "Atan", "Atanh", "Cos", "Cosh", "Sin", "Sinh", "Tan", "Tanh"], FLOATS, &[T]),
    op(&["Ceil", "Floor", "Round", "Erf", "Exp", "Log", "Reciprocal", "Sqrt"], FLOATS, &[T]),
    op(&["Celu", "Elu", "HardSigmoid", "LeakyRelu", "Relu", "Selu", "Sigmoid", "Softplus", "Softsign",
         "ThresholdedRelu"], FLOATS, &[T]),
    op(&["HardSwish"], FLOATS, &[T]).opset(14),
    op(&["Gelu"], FLOATS, &[T]).opset(20),
    op(&["Clip"], FLOATS, &[T, T, T]),
    op(&["Identity"], ALL, &[T]),
    op(&["Cast"], BINDINGS, &[T]).makes(Makes::Cast),
    op(&["IsInf", "IsNaN"], FLOATS, &[T]).makes(Makes::Truths),
    op(&["Not"], TRUTHS, &[T]),
    // One value from several.
    op(&["Add", "Sub", "Mul", "Div", "Mod"], NUMBERS, &[T, T]),
    op(&["Pow", "PRelu"], FLOATS, &[T, T]),
    op(&["Max", "Min", "Mean", "Sum"], NUMBERS, &[T]).repeating(),
    op(&["Equal", "Greater", "GreaterOrEqual", "Less", "LessOrEqual"], NUMBERS, &[T, T]).makes(Makes::Truths),
    op(&["And", "Or", "Xor"], TRUTHS, &[T, T]),
    op(&["Where"], ALL, &[Truth, T, T]),
    // Products.
    op(&["Conv", "ConvTranspose"], FLOATS, &[T, T, T]).when(&[Rank(0, 3, 5)]),
    op(&["Gemm"], FLOATS, &[T, T, T]).when(&[Rank(0, 2, 2), Rank(1, 2, 2)]),
    op(&["MatMul"], FLOATS, &[T, T]),
    op(&["Einsum"], FLOATS, &[T]).repeating(),
    op(&["Attention"], FLOATS, &[T, T, T, Mask]).since(10, 14).opset(23)
        .when(&[Rank(0, 4, 4), Rank(1, 4, 4), Rank(2, 4, 4), Rank(3, 4, 4), InputsUpTo(4), OutputsUpTo(1)]),
    op(&["RotaryEmbedding"], FLOATS, &[T, T, T, I64Only]).since(10, 15).opset(23),
    // Over axes.
    op(&["Softmax", "LogSoftmax", "LpNormalization", "LRN", "MeanVarianceNormalization"], FLOATS, &[T]),
    op(&["CumSum"], FLOATS, &[T, Index]).when(&[Constant(1)]),
    op(&["ReduceL1", "ReduceL2", "ReduceLogSum", "ReduceLogSumExp", "ReduceMax", "ReduceMean", "ReduceMin",
         "ReduceProd", "ReduceSum", "ReduceSumSquare"], NUMBERS, &[T, I64Only]).when(&[Constant(1)]),
    op(&["ArgMax", "ArgMin"], NUMBERS, &[T]).makes(Indices),
    op(&["TopK"], NUMBERS, &[T, I64Only]).makes(ValuesAndIndices).when(&[Constant(1), Int("sorted", 1)]),
    op(&["BatchNormalization"], FLOATS, &[T, T, T, T, T]).when(&[OutputsUpTo(1)]),
    op(&["InstanceNormalization"], FLOATS, &[T, T, T]).when(&[Rank(0, 3, 5)]),
    op(&["LayerNormalization"], FLOATS, &[T, T, T]).since(8, 6).opset(17).when(&[OutputsUpTo(1)]),
    op(&["GroupNormalization"], FLOATS, &[T, T, T]).since(8, 6).opset(18),
    op(&["RMSNormalization"], FLOATS, &[T, T]).since(10, 15).opset(23),
    op(&["AveragePool"], FLOATS, &[T]).when(&[Rank(0, 4, 5), Ones("dilations")]),
    op(&["MaxPool"], FLOATS, &[T]).when(&[Rank(0, 4, 5), Ones("dilations"), OutputsUpTo(1)]),
    op(&["GlobalAveragePool", "GlobalMaxPool"], FLOATS, &[T]),
    // The same values elsewhere.
    op(&["Transpose", "Flatten"], ALL, &[T]),
    op(&["Concat"], ALL, &[T]).repeating(),
    op(&["Reshape", "Expand", "Tile"], ALL, &[T, I64Only]).when(&[Constant(1)]),
    op(&["Split", "Squeeze", "Unsqueeze", "Trilu"], ALL, &[T, I64Only]).when(&[Constant(1)]),
    op(&["Slice"], ALL, &[T, Index, Index, Index, Index])
        .when(&[Constant(1), Constant(2), Constant(3), Constant(4)]),
    op(&["Pad"], NUMBERS, &[T, I64Only, T, Index]).when(&[Constant(1), Constant(2), Constant(3)]),
    op(&["DepthToSpace", "SpaceToDepth"], NUMBERS, &[T]),
    op(&["Gather", "GatherElements"], ALL, &[T, Index]),
    op(&["GatherND"], ALL, &[T, I64Only]),
    op(&["ScatterElements"], NUMBERS, &[T, Index, T]),
    op(&["ScatterND"], NUMBERS, &[T, I64Only, T]).when(&[Text("reduction", &["none"])]),
    op(&["TensorScatter"], FLOATS.and(&[I32]), &[T, T, I64Only]).since(10, 15).opset(24)
        .when(&[Rank(0, 4, 4), Rank(1, 4, 4), Int("axis", -2)]),
    op(&["Resize"], FLOATS, &[T, Any, F32Only, I64Only]).opset(11).when(&[
        Constant(2), Constant(3), Int("antialias", 0),
        Text("mode", &["nearest", "linear"]),
        Text("nearest_mode", &["floor", "ceil", "round_prefer_floor", "round_prefer_ceil"]),
        Text("keep_aspect_ratio_policy", &["stretch"]),
        Text("coordinate_transformation_mode",
             &["half_pixel", "pytorch_half_pixel", "tf_half_pixel_for_nn", "asymmetric", "align_corners"]),
    ]),
    // Opset 20 calls its modes otherwise, and parsers up to 11.1 take what they do not know for the nearest pixel.
    op(&["GridSample"], FLOATS, &[T, T]).since(8, 5).opset(16)
        .when(&[Rank(0, 4, 4), Rank(1, 4, 4), Text("mode", &["bilinear", "nearest", "bicubic"])]),
    // Shapes and numbers.
    op(&["Shape", "Size"], ALL, &[T]).makes(Indices),
    op(&["Range"], NUMBERS, &[T, T, T]).when(&[Constant(0), Constant(1), Constant(2)]),
    op(&["Constant"], ALL, &[]).makes(Makes::Constant),
    // Quantisation. What is T to DequantizeLinear is the target's to say.
    op(&["QuantizeLinear"], FLOATS, &[T, Scale, ZeroPoint]).opset(13).makes(Quantised),
    op(&["DequantizeLinear"], Types::of(&[I8, I4, F8, F4]), &[T, Scale, ZeroPoint]).opset(13).makes(Dequantised),
];

/// Operators that quantising tools make and no TensorRT reads, with what to write instead.
pub(super) const REFUSED: &[(&str, &str)] = &[
    ("QLinearConv", "Conv between DequantizeLinear of its input and of its weight"),
    ("QLinearMatMul", "MatMul of two DequantizeLinear"),
    ("ConvInteger", "Conv between DequantizeLinear of its input and of its weight"),
    ("MatMulInteger", "MatMul of two DequantizeLinear"),
    ("DynamicQuantizeLinear", "QuantizeLinear with a constant scale from calibration"),
    ("MatMulNBits", "MatMul by a DequantizeLinear of i4 with block_size"),
];

/// The line of an operator.
pub(super) fn operator(name: &str) -> Option<&'static Operator> {
    OPERATORS.iter().find(|operator| operator.names.contains(&name))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_operator_has_one_line() {
        let mut names: Vec<&str> = OPERATORS.iter().flat_map(|operator| operator.names).copied().collect();
        let len = names.len();
        names.sort_unstable();
        names.dedup();
        assert_eq!(names.len(), len);
        assert!(REFUSED.iter().all(|(name, _)| operator(name).is_none()));
    }
}
