//! Small graphs by hand, of which tests break one thing at a time.

use nextclip_export::check::{CheckError, Rule, Summary, Target, check};
use nextclip_export::onnx::proto::{
    Attribute, Dimension, Graph, Model, Node, OperatorSetId, Tensor, TensorShape, TensorType, Type,
    ValueInfo, attribute_type,
};

pub(crate) const F32: i32 = 1;
pub(crate) const U8: i32 = 2;
pub(crate) const I8: i32 = 3;
pub(crate) const I32: i32 = 6;
pub(crate) const I64: i32 = 7;
pub(crate) const F16: i32 = 10;
pub(crate) const F64: i32 = 11;
pub(crate) const I4: i32 = 22;

/// A graph in the making, of which tests break one thing at a time.
#[derive(Clone)]
pub(crate) struct Sketch {
    pub(crate) opset: i64,
    pub(crate) graph: Graph,
}

impl Sketch {
    pub(crate) fn new(opset: i64) -> Self {
        Self { opset, graph: Graph { name: "sketch".into(), ..Graph::default() } }
    }

    pub(crate) fn input(mut self, name: &str, element: i32, shape: &[i64]) -> Self {
        self.graph.input.push(value(name, element, shape));
        self
    }

    pub(crate) fn output(mut self, name: &str, element: i32, shape: &[i64]) -> Self {
        self.graph.output.push(value(name, element, shape));
        self
    }

    pub(crate) fn constant(mut self, name: &str, data_type: i32, dims: &[i64], data: Vec<u8>) -> Self {
        let dims = dims.to_vec();
        let raw_data = Some(data);
        self.graph.initializer.push(Tensor {
            dims,
            data_type,
            name: name.into(),
            raw_data,
            ..Tensor::default()
        });
        self
    }

    pub(crate) fn floats(self, name: &str, dims: &[i64], value: f32) -> Self {
        let count = dims.iter().product::<i64>() as usize;
        self.constant(name, F32, dims, value.to_le_bytes().repeat(count))
    }

    pub(crate) fn bytes(self, name: &str, element: i32, dims: &[i64], value: u8) -> Self {
        let count = dims.iter().product::<i64>() as usize;
        let bytes = if element == I4 { count.div_ceil(2) } else { count };
        self.constant(name, element, dims, vec![value; bytes])
    }

    pub(crate) fn integers(self, name: &str, values: &[i64]) -> Self {
        let data = values.iter().flat_map(|value| value.to_le_bytes()).collect();
        self.constant(name, I64, &[values.len() as i64], data)
    }

    /// A node named after its result.
    pub(crate) fn node(self, op: &str, inputs: &[&str], output: &str) -> Self {
        self.node_with(op, inputs, output, vec![])
    }

    pub(crate) fn node_with(
        mut self,
        op: &str,
        inputs: &[&str],
        output: &str,
        attribute: Vec<Attribute>,
    ) -> Self {
        self.graph.node.push(Node {
            input: inputs.iter().map(|&input| input.into()).collect(),
            output: vec![output.into()],
            name: output.into(),
            op_type: op.into(),
            attribute,
            domain: String::new(),
        });
        self
    }

    /// Changes the node of that name.
    pub(crate) fn change(mut self, name: &str, change: impl FnOnce(&mut Node)) -> Self {
        change(self.graph.node.iter_mut().find(|node| node.name == name).expect("a node"));
        self
    }

    /// Puts another constant in the place of the one of that name.
    pub(crate) fn replace(mut self, name: &str, with: impl FnOnce(Self) -> Self) -> Self {
        self.graph.initializer.retain(|tensor| tensor.name != name);
        with(self)
    }

    pub(crate) fn model(self) -> Model {
        Model {
            opset_import: vec![OperatorSetId { domain: String::new(), version: self.opset }],
            graph: Some(self.graph),
            ..Model::default()
        }
    }

    pub(crate) fn check(self, target: Target) -> Result<Summary, CheckError> {
        check(&self.model(), target)
    }

    /// Asserts that both targets take it.
    pub(crate) fn passes(self) -> Summary {
        let newer = self.clone().check(Target::Trt).unwrap_or_else(|error| panic!("{error}"));
        assert_eq!(self.check(Target::Trt10).unwrap_or_else(|error| panic!("{error}")), newer);
        newer
    }

    /// Asserts that both targets refuse it for exactly these reasons: node and rule.
    pub(crate) fn breaks(self, expected: &[(&str, Rule)]) {
        self.clone().breaks_on(Target::Trt10, expected);
        self.breaks_on(Target::Trt, expected);
    }

    pub(crate) fn breaks_on(self, target: Target, expected: &[(&str, Rule)]) {
        let error = self.check(target).expect_err("a rule is broken");
        let found: Vec<_> = error.violations.iter().map(|v| (v.node.as_str(), v.rule)).collect();
        assert_eq!(found, expected, "{error}");
    }
}

pub(crate) fn value(name: &str, elem_type: i32, shape: &[i64]) -> ValueInfo {
    // 0 stands for a size that is not known.
    let dim =
        shape.iter().map(|&size| Dimension { dim_value: Some(size).filter(|size| *size > 0) }).collect();
    let tensor_type = Some(TensorType { elem_type, shape: Some(TensorShape { dim }) });
    ValueInfo { name: name.into(), r#type: Some(Type { tensor_type }) }
}

pub(crate) fn int(name: &str, value: i64) -> Attribute {
    let r#type = attribute_type::INT;
    Attribute { name: name.into(), i: Some(value), r#type, ..Attribute::default() }
}

pub(crate) fn ints(name: &str, values: &[i64]) -> Attribute {
    Attribute { name: name.into(), ints: values.into(), r#type: attribute_type::INTS, ..Attribute::default() }
}

pub(crate) fn text(name: &str, value: &str) -> Attribute {
    let r#type = attribute_type::STRING;
    Attribute { name: name.into(), s: Some(value.into()), r#type, ..Attribute::default() }
}

/// x through 8 bits with one scale.
pub(crate) fn quantised_input(shape: &[i64]) -> Sketch {
    Sketch::new(20)
        .input("x", F32, shape)
        .floats("x scale", &[], 0.5)
        .bytes("zero", I8, &[], 0)
        .node("QuantizeLinear", &["x", "x scale", "zero"], "q")
        .node("DequantizeLinear", &["q", "x scale", "zero"], "x dq")
}

/// (2, 32, 64) by (64, 48), both in 8 bits.
pub(crate) fn matmul() -> Sketch {
    quantised_input(&[2, 32, 64])
        .bytes("w", I8, &[64, 48], 3)
        .floats("w scale", &[48], 0.25)
        .bytes("w zero", I8, &[48], 0)
        .node_with("DequantizeLinear", &["w", "w scale", "w zero"], "w dq", vec![int("axis", 1)])
        .node("MatMul", &["x dq", "w dq"], "y")
        .output("y", F32, &[2, 32, 48])
}

/// (2, 32, 16, 16) by (16, 32, 3, 3), both in 8 bits, the bias in float.
pub(crate) fn conv() -> Sketch {
    quantised_input(&[2, 32, 16, 16])
        .bytes("w", I8, &[16, 32, 3, 3], 3)
        .floats("w scale", &[16], 0.25)
        .floats("bias", &[16], 0.0)
        .node_with("DequantizeLinear", &["w", "w scale"], "w dq", vec![int("axis", 0)])
        .node_with("Conv", &["x dq", "w dq", "bias"], "y", vec![ints("pads", &[1; 4])])
        .output("y", F32, &[2, 16, 16, 16])
}

/// (1, 64) by (64, 48) in 4-bit blocks of 32.
pub(crate) fn four_bits() -> Sketch {
    Sketch::new(21)
        .input("x", F32, &[1, 64])
        .bytes("w", I4, &[64, 48], 0x21)
        .floats("w scale", &[2, 48], 0.25)
        .node_with("DequantizeLinear", &["w", "w scale"], "w dq", vec![int("axis", 0), int("block_size", 32)])
        .node("MatMul", &["x", "w dq"], "y")
        .output("y", F32, &[1, 48])
}

/// Attention in ONNX's own operator.
pub(crate) fn attention() -> Sketch {
    Sketch::new(23)
        .input("q", F16, &[1, 4, 8, 64])
        .input("k", F16, &[1, 4, 32, 64])
        .input("v", F16, &[1, 4, 32, 64])
        .node("Attention", &["q", "k", "v"], "y")
        .output("y", F16, &[1, 4, 8, 64])
}
