//! Whether TensorRT will take a graph: every operator, type, opset and Q/DQ placement against a table of what it
//! accepts.
//!
//! TensorRT itself runs only beside a GPU of the target's kind. The rules here are its parser's and its manual's, so
//! that an export fails on the workstation, all at once and by name, and not on the board. They are stricter than
//! the parser in one way: what it would take and then run in float, or slower than float, is refused too.
//!
//! ```
//! use nextclip_export::check::{Rule, Target, check};
//! use nextclip_export::onnx::proto::Model;
//!
//! let error = check(&Model::default(), Target::Trt10).expect_err("no graph");
//! assert!(error.violations.iter().any(|violation| violation.rule == Rule::Graph));
//! ```

mod conditions;
mod element;
mod error;
mod facts;
mod products;
mod quantised;
mod shapes;
mod table;
mod types;

use std::collections::{BTreeMap, HashSet};
use std::fmt;
use std::path::Path;

use element::Element;
use error::Report;
use facts::{Facts, Known, Shape, Source, name};
use table::Limits;

use crate::onnx::proto::{Graph, Model, Node, Tensor, ValueInfo};

pub use error::{CheckError, Rule, Violation};

/// A TensorRT that graphs are made for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Target {
    /// TensorRT 10.3, of JetPack 6.
    Trt10,
    /// TensorRT 10.16 and 11, of JetPack 7.2.
    Trt,
}

impl Target {
    fn limits(self) -> &'static Limits {
        match self {
            Self::Trt10 => &table::TRT_10_3,
            Self::Trt => &table::TRT_10_16,
        }
    }
}

impl fmt::Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (major, minor) = self.limits().version;
        write!(f, "TensorRT {major}.{minor}")
    }
}

/// What is in a graph that was accepted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Summary {
    /// Opset of ONNX.
    pub opset: i64,
    /// Nodes in all.
    pub nodes: usize,
    /// Nodes by operator.
    pub operators: BTreeMap<String, usize>,
    /// Conv, ConvTranspose, Gemm and MatMul.
    pub products: usize,
    /// Of these, with both operands quantised.
    pub quantised_products: usize,
    /// Of these, with quantised weights and float activations.
    pub weight_only_products: usize,
}

impl fmt::Display for Summary {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { opset, nodes, products, quantised_products, weight_only_products, .. } = self;
        write!(
            f,
            "{nodes} nodes in opset {opset}; of {products} products {quantised_products} quantised and \
             {weight_only_products} in their weights alone"
        )
    }
}

/// Checks a model whose scales, zero points and shapes lie in the model itself.
///
/// # Errors
/// All rules that are broken, each with its node.
pub fn check(model: &Model, target: Target) -> Result<Summary, CheckError> {
    Checker::new(target, None).run(model)
}

/// Checks a model whose external data lies in `folder`.
///
/// # Errors
/// All rules that are broken, each with its node.
pub fn check_in(model: &Model, target: Target, folder: &Path) -> Result<Summary, CheckError> {
    Checker::new(target, Some(folder)).run(model)
}

struct Checker<'a> {
    target: Target,
    limits: &'static Limits,
    folder: Option<&'a Path>,
    report: Report,
}

impl<'a> Checker<'a> {
    fn new(target: Target, folder: Option<&'a Path>) -> Self {
        Self { target, limits: target.limits(), folder, report: Report::default() }
    }

    fn run(mut self, model: &'a Model) -> Result<Summary, CheckError> {
        let Some(graph) = &model.graph else {
            self.report.add("model", Rule::Graph, "it has no graph");
            return Err(self.refusal());
        };
        let opset = self.opset(model, graph);
        let mut facts = Facts::new(graph, self.folder);
        for tensor in &graph.initializer {
            self.constant(tensor, &mut facts);
        }
        // Old models list constants among the inputs too.
        let constants: HashSet<&str> = graph.initializer.iter().map(|tensor| tensor.name.as_str()).collect();
        for input in graph.input.iter().filter(|input| !constants.contains(input.name.as_str())) {
            let (element, shape) = self.binding(input);
            self.define(&input.name, Known { element, shape, source: Source::Input }, &mut facts);
        }
        for node in &graph.node {
            self.node(node, opset, &mut facts);
        }
        for output in &graph.output {
            self.output(output, &facts);
        }
        quantised::check(graph, &facts, opset, &mut self.report);
        let products = products::check(graph, &facts, &mut self.report);
        if !self.report.violations.is_empty() {
            return Err(self.refusal());
        }
        let mut operators = BTreeMap::new();
        for node in &graph.node {
            *operators.entry(node.op_type.clone()).or_insert(0) += 1;
        }
        Ok(Summary {
            opset,
            nodes: graph.node.len(),
            operators,
            products: products.all,
            quantised_products: products.quantised,
            weight_only_products: products.weight_only,
        })
    }

    fn refusal(self) -> CheckError {
        CheckError { target: self.target, violations: self.report.violations }
    }

    /// The opset of ONNX's own operators, 0 where the model does not say.
    fn opset(&mut self, model: &Model, graph: &Graph) -> i64 {
        let own = model.opset_import.iter().find(|import| is_own(&import.domain));
        let Some(opset) = own.map(|import| import.version) else {
            self.report.add("model", Rule::Opset, "it imports no opset of ONNX");
            return 0;
        };
        let (oldest, newest) = self.limits.opsets;
        let has_4_bits = graph.initializer.iter().any(|tensor| element_of(tensor) == Some(Element::I4));
        let newest = if has_4_bits { self.limits.opset_with_4_bits } else { newest };
        if !(oldest..=newest).contains(&opset) {
            let detail = format!("{opset}, and {} reads {oldest} to {newest}", self.target);
            self.report.add("model", Rule::Opset, detail);
        }
        opset
    }

    fn constant(&mut self, tensor: &'a Tensor, facts: &mut Facts<'a>) {
        let element = element_of(tensor);
        match element {
            None => {
                let detail = format!("a constant of ONNX type {}", tensor.data_type);
                self.report.add(&tensor.name, Rule::ElementType, detail);
            }
            Some(element @ (Element::U8 | Element::U4 | Element::F64)) => {
                let is_zero_point = |(node, index): &(&Node, usize)| *index == 2 && is_qdq(node);
                // The zero point's own rules say more.
                if !facts.readers(&tensor.name).iter().all(is_zero_point) {
                    self.report.add(&tensor.name, Rule::ElementType, format!("a constant of {element}"));
                }
            }
            Some(_) => {}
        }
        let known = Known { element, shape: Some(tensor.dims.clone()), source: Source::Constant(tensor) };
        self.define(&tensor.name, known, facts);
    }

    /// Type and shape of an input or output.
    fn binding(&mut self, value: &ValueInfo) -> (Option<Element>, Option<Shape>) {
        let tensor = value.r#type.as_ref().and_then(|r#type| r#type.tensor_type.as_ref());
        let number = tensor.map_or(0, |tensor| tensor.elem_type);
        let element = Element::of_onnx(i64::from(number));
        if !element.is_some_and(|element| table::BINDINGS.contains(element)) {
            let found = element.map_or(format!("ONNX type {number}"), |element| element.to_string());
            let detail = format!("{found} outside, and can be {}", table::BINDINGS);
            self.report.add(&value.name, Rule::ElementType, detail);
        }
        let dims = tensor.and_then(|tensor| tensor.shape.as_ref()).map(|shape| &shape.dim);
        let sizes = dims.map(|dims| dims.iter().map(|dim| dim.dim_value.filter(|size| *size > 0)));
        let shape: Option<Shape> = sizes.and_then(Iterator::collect);
        if shape.is_none() {
            let sizes = dims.map(|dims| dims.iter().map(|dim| dim.dim_value).collect::<Vec<_>>());
            let found = sizes.map_or("none".into(), |sizes| format!("{sizes:?}"));
            self.report.add(&value.name, Rule::StaticShape, format!("sizes {found}, and all must be known"));
        }
        (element, shape)
    }

    fn node(&mut self, node: &'a Node, opset: i64, facts: &mut Facts<'a>) {
        for input in node.input.iter().filter(|input| !input.is_empty() && facts.get(input).is_none()) {
            let detail = format!("{} reads {input}, which nothing before it makes", node.op_type);
            self.report.add(name(node), Rule::Graph, detail);
        }
        let elements = match self.operator(node, opset) {
            Some(operator) => {
                conditions::check(node, operator, facts, &mut self.report);
                types::check(node, operator, facts, self.limits, &mut self.report)
            }
            None => vec![None; node.output.len()],
        };
        let shapes = shapes::infer(node, facts).unwrap_or_else(|fault| {
            self.report.add(name(node), Rule::Graph, format!("{} of {fault}", node.op_type));
            vec![None; node.output.len()]
        });
        let made = node.output.iter().zip(elements).zip(shapes);
        for ((output, element), shape) in made.filter(|((output, _), _)| !output.is_empty()) {
            // Bytes are for cameras and screens: they exist at the border of a graph only.
            if element == Some(Element::U8) && !is_qdq(node) && !facts.is_output(output) {
                self.report.add(
                    name(node),
                    Rule::ElementType,
                    "u8 within the graph, and can be its input or output",
                );
            }
            self.define(output, Known { element, shape, source: Source::Node(node) }, facts);
        }
    }

    /// The operator's line in the table, if it has one.
    fn operator(&mut self, node: &Node, opset: i64) -> Option<&'static table::Operator> {
        let op = &node.op_type;
        if let Some((_, instead)) = table::REFUSED.iter().find(|(refused, _)| refused == op) {
            self.report.add(
                name(node),
                Rule::Operator,
                format!("{op} is none of TensorRT's; write {instead}"),
            );
            return None;
        }
        if !is_own(&node.domain) {
            self.report.add(
                name(node),
                Rule::Domain,
                format!("{op} is of {}, and must be ONNX's own", node.domain),
            );
            return None;
        }
        let Some(operator) = table::operator(op) else {
            self.report.add(name(node), Rule::Operator, format!("{op} is not in the table"));
            return None;
        };
        let ((major, minor), version) = (operator.since, self.limits.version);
        if operator.since > version {
            let detail = format!("{op} came with TensorRT {major}.{minor}, and this is for {}", self.target);
            self.report.add(name(node), Rule::Version, detail);
        }
        if operator.opset > opset {
            let detail = format!("{op} came with opset {}, and the graph is of {opset}", operator.opset);
            self.report.add(name(node), Rule::Opset, detail);
        }
        Some(operator)
    }

    fn output(&mut self, output: &ValueInfo, facts: &Facts<'_>) {
        let (element, shape) = self.binding(output);
        let Some(known) = facts.get(&output.name) else {
            return self.report.add(&output.name, Rule::Graph, "an output that nothing makes");
        };
        if let (Some(stated), Some(made)) = (element, known.element)
            && stated != made
        {
            let detail = format!("an output said to be {stated}, and what is made is {made}");
            self.report.add(&output.name, Rule::SameType, detail);
        }
        if let (Some(stated), Some(made)) = (&shape, &known.shape)
            && stated != made
        {
            let detail = format!("an output said to be {stated:?}, and what is made is {made:?}");
            self.report.add(&output.name, Rule::Graph, detail);
        }
    }

    fn define(&mut self, tensor: &'a str, known: Known<'a>, facts: &mut Facts<'a>) {
        if !facts.insert(tensor, known) {
            self.report.add(tensor, Rule::Graph, "a tensor of that name exists already");
        }
    }
}

/// Whether a domain is ONNX's own.
fn is_own(domain: &str) -> bool {
    domain.is_empty() || domain == "ai.onnx"
}

fn is_qdq(node: &Node) -> bool {
    matches!(node.op_type.as_str(), "QuantizeLinear" | "DequantizeLinear")
}

fn element_of(tensor: &Tensor) -> Option<Element> {
    Element::of_onnx(i64::from(tensor.data_type))
}
