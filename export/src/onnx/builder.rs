//! A graph in the making: scopes, names, inputs, outputs, constants and nodes.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::fmt;

use nextclip_core::manifest::{Dtype, TensorSpec};
use nextclip_quant::Params;

use super::graph::{Constant, Graph, Layout, Value};
use super::operators::cast_to;
use super::proto;
use super::quantised::Precision;
use crate::checkpoint::Weight;

/// Operators of ONNX Runtime's own.
pub(super) const RUNTIME_DOMAIN: &str = "com.microsoft";

/// Those that graphs use.
const RUNTIME_OPERATORS: [&str; 3] = ["RotaryEmbedding", "MatMulNBits", "MatMulIntegerToFloat"];

/// A graph in the making.
#[derive(Debug)]
pub struct GraphBuilder {
    pub(super) graph: Graph,
    scope: String,
    names: HashMap<String, usize>,
    /// What layer functions make of layers.
    pub(super) precision: Precision,
    /// Integers for tensors that were quantised, by the names of both their float forms.
    pub(super) quantised: HashMap<String, (Value, Params)>,
    /// The same of typed graphs, by the float tensor's name: what is read in its place.
    pub(super) rounded: HashMap<String, Value>,
    /// Cosines and sines of rotations that were gathered, by the names of positions and tables.
    pub(super) angles: HashMap<String, [Value; 2]>,
}

impl GraphBuilder {
    /// An empty graph whose layers will be of `precision`.
    pub fn new(name: &'static str, precision: &Precision) -> Self {
        let graph = Graph {
            name,
            nodes: vec![],
            constants: BTreeMap::new(),
            inputs: vec![],
            outputs: vec![],
            layers: vec![],
            work: BTreeMap::new(),
        };
        Self {
            graph,
            scope: String::new(),
            names: HashMap::new(),
            precision: precision.clone(),
            quantised: HashMap::new(),
            rounded: HashMap::new(),
            angles: HashMap::new(),
        }
    }

    /// The graph, done. Nodes that lead to no output are left out, since ONNX Runtime would compute them, and
    /// constants that nobody reads, since another type of them is read.
    pub fn finish(mut self) -> Graph {
        let mut read: HashSet<&str> = self.graph.outputs.iter().map(|output| output.name.as_str()).collect();
        let mut needed: Vec<bool> = Vec::with_capacity(self.graph.nodes.len());
        for node in self.graph.nodes.iter().rev() {
            let is_read = node.output.iter().any(|output| read.contains(output.as_str()));
            if is_read {
                read.extend(node.input.iter().map(String::as_str));
            }
            needed.push(is_read);
        }
        self.graph.constants.retain(|name, _| read.contains(name.as_str()));
        self.graph.nodes.retain(|_| needed.pop().unwrap_or(true));
        self.graph
    }

    /// Names the nodes that `build` makes after `path`, a place in the checkpoint: `llm.layers.0`.
    pub fn within<R>(&mut self, path: impl fmt::Display, build: impl FnOnce(&mut Self) -> R) -> R {
        let outer = std::mem::replace(&mut self.scope, path.to_string());
        let result = build(self);
        self.scope = outer;
        result
    }

    /// An input of the graph.
    pub fn input(&mut self, spec: &TensorSpec) -> Value {
        self.graph.inputs.push(spec.clone());
        self.names.insert(spec.name.clone(), 1);
        Value { name: spec.name.clone(), shape: spec.shape.clone(), dtype: spec.dtype }
    }

    /// Makes `value` the output `spec`, in the type that it says; to u8 the values must lie in 0 to 255.
    pub fn output(&mut self, spec: &TensorSpec, value: &Value) {
        assert_eq!(spec.shape, value.shape, "output {spec} from {value}");
        if spec.dtype == value.dtype {
            self.push("Identity", &[value], vec![], spec.name.clone());
        } else {
            // The cast is the last node: TensorRT has bytes at the border of a graph only.
            self.push("Cast", &[value], vec![cast_to(spec.dtype)], spec.name.clone());
        }
        self.graph.outputs.push(spec.clone());
    }

    /// A checkpoint's tensor.
    pub fn weight(&mut self, weight: &Weight, layout: Layout) -> Value {
        let shape = layout.shape(weight);
        self.constant(weight.name().to_owned(), &shape, Constant::Weight(weight.clone(), layout))
    }

    /// A constant tensor, computed by the exporter; `name` says what it is.
    pub fn table(&mut self, name: &str, shape: &[usize], values: Vec<f32>) -> Value {
        assert_eq!(shape.iter().product::<usize>(), values.len(), "table {name} {shape:?}");
        self.constant(name.to_owned(), shape, Constant::F32(values))
    }

    /// A number.
    pub fn scalar(&mut self, value: f32) -> Value {
        self.constant(format!("f32 {value:?}"), &[], Constant::F32(vec![value]))
    }

    /// Whole numbers: (len).
    pub fn indices(&mut self, values: &[i64]) -> Value {
        self.constant(format!("i64 {values:?}"), &[values.len()], Constant::I64(values.into()))
    }

    /// A whole number without axes.
    pub fn index(&mut self, value: i64) -> Value {
        self.constant(format!("i64 {value}"), &[], Constant::I64(vec![value]))
    }

    pub(super) fn constant(&mut self, name: String, shape: &[usize], constant: Constant) -> Value {
        let dtype = constant.dtype();
        self.graph.constants.entry(name.clone()).or_insert((shape.to_vec(), constant));
        Value { name, shape: shape.to_vec(), dtype }
    }

    pub(super) fn node(
        &mut self,
        op: &str,
        inputs: &[&Value],
        attributes: Vec<proto::Attribute>,
        shape: &[usize],
        dtype: Dtype,
    ) -> Value {
        let name = self.unique(op);
        if dtype == Dtype::Bf16 && self.is_emulated() {
            self.push_emulated(op, inputs, attributes, &name);
        } else {
            self.push(op, inputs, attributes, name.clone());
        }
        Value { name, shape: shape.to_vec(), dtype }
    }

    pub(super) fn push(
        &mut self,
        op: &str,
        inputs: &[&Value],
        attributes: Vec<proto::Attribute>,
        output: String,
    ) {
        self.push_many(op, inputs, attributes, vec![output]);
    }

    pub(super) fn push_many(
        &mut self,
        op: &str,
        inputs: &[&Value],
        attribute: Vec<proto::Attribute>,
        output: Vec<String>,
    ) {
        self.graph.nodes.push(proto::Node {
            input: inputs.iter().map(|value| value.name.clone()).collect(),
            name: output[0].clone(),
            output,
            op_type: op.into(),
            domain: if RUNTIME_OPERATORS.contains(&op) { RUNTIME_DOMAIN.into() } else { String::new() },
            attribute,
        });
    }

    /// Counts multiply-adds of a product at the place where it is made.
    pub(super) fn note_work(&mut self, multiply_adds: usize) {
        *self.graph.work.entry(self.scope.clone()).or_default() += multiply_adds as u64;
    }

    /// The result of the newest node under a name of its own: other nodes before it, in another precision, must not
    /// change by what name its range is known.
    pub fn call(&mut self, newest: &Value, name: &str) -> Value {
        if let Some(node) = self.graph.nodes.last_mut() {
            assert_eq!(node.output, [newest.name.as_str()], "only the newest node's result is called {name}");
            node.output = vec![name.to_owned()];
        }
        Value { name: name.to_owned(), ..newest.clone() }
    }

    pub(super) fn unique(&mut self, op: &str) -> String {
        let name = if self.scope.is_empty() { op.to_owned() } else { format!("{}/{op}", self.scope) };
        let used = self.names.entry(name.clone()).or_insert(0);
        *used += 1;
        if *used == 1 { name } else { format!("{name} {used}") }
    }
}
