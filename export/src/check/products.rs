//! Products as a whole: both operands quantised or neither, and only where integer kernels are worth it.

use super::element::Element;
use super::error::{Report, Rule};
use super::facts::{Facts, int, name};
use super::quantised::{Dequantised, dequantised};
use crate::onnx::proto::{Graph, Node};

/// Fewer columns, summands or channels leave integer kernels nothing to do.
const MIN_SIZE: i64 = 16;

/// Fused attention in 8 bit reaches to this many tokens.
const MAX_ATTENTION: i64 = 512;

/// How many products there are.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Products {
    pub(super) all: usize,
    pub(super) quantised: usize,
    pub(super) weight_only: usize,
}

/// Checks every Conv, ConvTranspose, Gemm and MatMul.
pub(super) fn check(graph: &Graph, facts: &Facts<'_>, report: &mut Report) -> Products {
    let mut products = Products::default();
    for node in &graph.node {
        if !matches!(node.op_type.as_str(), "Conv" | "ConvTranspose" | "Gemm" | "MatMul") {
            continue;
        }
        products.all += 1;
        match [0, 1].map(|index| dequantised(node, index, facts)) {
            [None, None] => {}
            [Some(a), Some(b)] => {
                products.quantised += 1;
                check_types(node, a, b, report);
                check_size(node, !b.is_weight && !a.is_weight, facts, report);
            }
            [None, Some(weight)] if weight.is_weight => {
                products.weight_only += 1;
                check_weight_only(node, weight, report);
            }
            [a, _] => {
                let (is, isnt) = if a.is_some() { (0, 1) } else { (1, 0) };
                let [is, isnt] = [is, isnt].map(|index| node.input.get(index).map_or("", String::as_str));
                let detail = format!("{is} is quantised and {isnt} is not");
                report.add(name(node), Rule::Placement, detail);
            }
        }
    }
    products
}

fn is_4_bit(operand: Dequantised) -> bool {
    matches!(operand.element, Some(Element::I4 | Element::F4))
}

fn check_types(node: &Node, a: Dequantised, b: Dequantised, report: &mut Report) {
    if let (Some(a), Some(b)) = (a.element, b.element)
        && a != b
    {
        report.add(name(node), Rule::SameType, format!("{} of {a} and {b}", node.op_type));
    } else if is_4_bit(a) {
        report.add(name(node), Rule::Placement, "activations in 4 bits; only weights can be");
    }
}

fn check_weight_only(node: &Node, weight: Dequantised, report: &mut Report) {
    if matches!(node.op_type.as_str(), "Conv" | "ConvTranspose") {
        let detail = format!("{} with quantised weights alone; MatMul and Gemm can have these", node.op_type);
        report.add(name(node), Rule::Placement, detail);
    } else if let Some(element) = weight.element.filter(|_| !is_4_bit(weight)) {
        let detail = format!("weights alone are of {element}, and can be of 4 bits; quantise the input too");
        report.add(name(node), Rule::Placement, detail);
    }
}

fn check_size(node: &Node, is_attention: bool, facts: &Facts<'_>, report: &mut Report) {
    let (Some(a), Some(b)) = (facts.shape(node, 0), facts.shape(node, 1)) else { return };
    let (&[.., rows, inner], &[.., inner_b, columns]) = (&a[..], &b[..]) else { return };
    if matches!(node.op_type.as_str(), "Conv" | "ConvTranspose") {
        let (first, second) = (b[0], b[1]);
        if first < MIN_SIZE || second < MIN_SIZE {
            let detail = format!("weights {b:?} have under {MIN_SIZE} channels");
            report.add(name(node), Rule::SmallProduct, detail);
        }
        return;
    }
    let is_turned = |attribute: &str| int(node, attribute) == Some(1);
    let (rows, inner) = if is_turned("transA") { (inner, rows) } else { (rows, inner) };
    let columns = if is_turned("transB") { inner_b } else { columns };
    let product = format!("{rows} x {inner} by {inner} x {columns}");
    if rows == 1 || columns == 1 || inner < MIN_SIZE || columns < MIN_SIZE {
        let detail = format!("{product}; quantised are at least 2 x {MIN_SIZE} by {MIN_SIZE} x {MIN_SIZE}");
        report.add(name(node), Rule::SmallProduct, detail);
    }
    if is_attention && rows.max(inner).max(columns) > MAX_ATTENTION {
        let detail = format!("{product} of activations; quantised are up to {MAX_ATTENTION} tokens");
        report.add(name(node), Rule::LongAttention, detail);
    }
}
