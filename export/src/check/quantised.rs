//! QuantizeLinear and DequantizeLinear: symmetric, of the right granularity, in the right places.

use super::element::Element;
use super::error::{Report, Rule};
use super::facts::{Facts, Known, Source, count, int, name};
use super::shapes;
use super::table::FLOATS;
use crate::onnx::proto::{Graph, Node};

/// First opset with 4-bit integers and `block_size`.
const OPSET_OF_BLOCKS: i64 = 21;

/// First opset whose scales may be of half precision, and that has 8-bit floats.
const OPSET_OF_TYPED_SCALES: i64 = 19;

/// A tensor that comes out of a DequantizeLinear.
#[derive(Clone, Copy, Debug)]
pub(super) struct Dequantised {
    /// Its type before.
    pub(super) element: Option<Element>,
    /// Whether it is a constant, and not made while the graph runs.
    pub(super) is_weight: bool,
}

/// What a node reads at an input, if that was dequantised.
pub(super) fn dequantised(node: &Node, index: usize, facts: &Facts<'_>) -> Option<Dequantised> {
    let Source::Node(dequantize) = facts.input(node, index)?.source else { return None };
    (dequantize.op_type == "DequantizeLinear").then(|| Dequantised {
        element: facts.element(dequantize, 0),
        is_weight: origin(dequantize, facts).is_some_and(is_constant),
    })
}

/// Checks every QuantizeLinear and DequantizeLinear.
pub(super) fn check(graph: &Graph, facts: &Facts<'_>, opset: i64, report: &mut Report) {
    for node in &graph.node {
        let dequantizes = node.op_type == "DequantizeLinear";
        if !dequantizes && node.op_type != "QuantizeLinear" {
            continue;
        }
        check_scale(node, facts, report);
        check_opset(node, facts, opset, report);
        check_zero_point(node, facts, report);
        check_granularity(node, facts, opset, report);
        if dequantizes {
            check_readers(node, facts, report);
        } else {
            check_pair(node, facts, report);
        }
    }
}

/// What was quantised at first: through a QuantizeLinear, if there is one.
fn origin<'g>(node: &Node, facts: &'g Facts<'_>) -> Option<&'g Known<'g>> {
    let data = facts.input(node, 0)?;
    match data.source {
        Source::Node(quantize)
            if node.op_type == "DequantizeLinear" && quantize.op_type == "QuantizeLinear" =>
        {
            facts.input(quantize, 0)
        }
        _ => Some(data),
    }
}

fn is_constant(known: &Known<'_>) -> bool {
    matches!(known.source, Source::Constant(_))
}

fn check_scale(node: &Node, facts: &Facts<'_>, report: &mut Report) {
    let Some(scale) = facts.input(node, 1) else {
        return report.add(name(node), Rule::Scale, format!("{} has no scale", node.op_type));
    };
    let label = &node.input[1];
    let Source::Constant(tensor) = scale.source else {
        return report.add(name(node), Rule::Scale, format!("{label} must be a constant"));
    };
    match facts.values(tensor) {
        Err(reason) => report.add(name(node), Rule::Readable, format!("values of {label} are {reason}")),
        Ok(values) => {
            let wrong = values.iter().enumerate().find(|(_, value)| !value.is_finite() || **value <= 0.0);
            if let Some((place, value)) = wrong {
                let detail = format!("{label}[{place}] is {value}, and must be above 0");
                report.add(name(node), Rule::Scale, detail);
            }
        }
    }
    if let Some(element) = scale.element {
        let scaled = facts.element(node, 0).filter(|_| node.op_type == "QuantizeLinear");
        if let Some(x) = scaled.filter(|x| *x != element) {
            let detail = format!("{label} is of {element}, and what it scales of {x}");
            report.add(name(node), Rule::Scale, detail);
        } else if !FLOATS.contains(element) {
            report.add(
                name(node),
                Rule::Scale,
                format!("{label} is of {element}, and must be of a float type"),
            );
        }
    }
}

/// Older opsets quantise single precision, and to integers.
fn check_opset(node: &Node, facts: &Facts<'_>, opset: i64, report: &mut Report) {
    if opset >= OPSET_OF_TYPED_SCALES {
        return;
    }
    let rounded =
        if node.op_type == "DequantizeLinear" { facts.element(node, 0) } else { facts.element(node, 2) };
    let newer = [
        facts.element(node, 1).filter(|scale| *scale != Element::F32),
        rounded.filter(|x| *x == Element::F8),
    ];
    for element in newer.into_iter().flatten() {
        let detail =
            format!("{} with {element} in opset {opset}, and from {OPSET_OF_TYPED_SCALES}", node.op_type);
        report.add(name(node), Rule::Opset, detail);
    }
}

fn check_zero_point(node: &Node, facts: &Facts<'_>, report: &mut Report) {
    let Some(label) = node.input.get(2).filter(|input| !input.is_empty()) else { return };
    let Some(zero) = facts.input(node, 2) else { return };
    let Source::Constant(tensor) = zero.source else {
        return report.add(name(node), Rule::ZeroPoint, format!("{label} must be a constant of zeros"));
    };
    match facts.values(tensor) {
        Err(reason) => report.add(name(node), Rule::Readable, format!("values of {label} are {reason}")),
        Ok(values) => {
            if let Some((place, value)) = values.iter().enumerate().find(|(_, value)| **value != 0.0) {
                let detail = format!("{label}[{place}] is {value}, and must be 0");
                report.add(name(node), Rule::ZeroPoint, detail);
            }
        }
    }
    let size = |index| facts.shape(node, index).and_then(|shape| count(shape));
    if let (Some(zeros), Some(scales)) = (size(2), size(1))
        && zeros != scales
    {
        report.add(name(node), Rule::ZeroPoint, format!("{label} has {zeros} values for {scales} scales"));
    }
    let data = facts.element(node, 0).filter(|_| node.op_type == "DequantizeLinear");
    if let (Some(data), Some(zero)) = (data, zero.element)
        && data != zero
    {
        report.add(name(node), Rule::ZeroPoint, format!("{label} is of {zero}, and the data of {data}"));
    }
}

fn check_granularity(node: &Node, facts: &Facts<'_>, opset: i64, report: &mut Report) {
    let (Some(origin), Some(scale)) = (origin(node, facts), facts.input(node, 1)) else { return };
    let Some(scales) = &scale.shape else { return };
    let block = int(node, "block_size").filter(|size| *size != 0);
    let integers = match node.op_type.as_str() {
        "DequantizeLinear" => facts.element(node, 0),
        _ => node.output.first().and_then(|output| facts.get(output)?.element),
    };
    let detail = if !is_constant(origin) {
        let single = count(scales) == Some(1) && block.is_none();
        (!single).then(|| format!("an activation has scales {scales:?}, and can have one"))
    } else {
        let Some(shape) = &origin.shape else { return };
        match (integers, block) {
            (Some(Element::I4 | Element::F4), None) => Some("4-bit weights need block_size".into()),
            (Some(Element::I8), Some(size)) => {
                Some(format!("i8 weights have block_size {size}, and can have none"))
            }
            (_, Some(size)) if opset < OPSET_OF_BLOCKS => {
                Some(format!("block_size {size} in opset {opset}, and there is one from {OPSET_OF_BLOCKS}"))
            }
            (_, Some(size)) => of_blocks(node, shape, scales, size).err(),
            (_, None) if count(scales) == Some(1) => None,
            (_, None) => of_channels(node, shape, scales).err(),
        }
    };
    if let Some(detail) = detail {
        return report.add(name(node), Rule::Granularity, detail);
    }
    if is_constant(origin) && count(scales) != Some(1) && node.op_type == "DequantizeLinear" {
        check_axis(node, origin, block.is_some(), facts, report);
    }
}

/// Whether there is a scale for each place along the axis.
fn of_channels(node: &Node, shape: &[i64], scales: &[i64]) -> Result<(), String> {
    let axis = shapes::axis(int(node, "axis").unwrap_or(1), shape.len())?;
    if scales == [shape[axis]] {
        return Ok(());
    }
    Err(format!("weights {shape:?} along axis {axis} have scales {scales:?}, and can have [{}]", shape[axis]))
}

/// Whether there is a scale for each block along the axis.
fn of_blocks(node: &Node, shape: &[i64], scales: &[i64], size: i64) -> Result<(), String> {
    let axis = shapes::axis(int(node, "axis").unwrap_or(1), shape.len())?;
    if axis + 2 < shape.len() {
        return Err(format!("blocks along axis {axis} of {shape:?}, and can be along the last two"));
    }
    if size < 1 || shape[axis] % size != 0 {
        return Err(format!("blocks of {size} do not divide the {} along axis {axis}", shape[axis]));
    }
    if count(shape).is_some_and(|count| count % 2 != 0) {
        return Err(format!("weights {shape:?} are of an odd number"));
    }
    let mut blocks = shape.to_vec();
    blocks[axis] /= size;
    if scales == blocks {
        return Ok(());
    }
    Err(format!("weights {shape:?} in blocks of {size} have scales {scales:?}, and must have {blocks:?}"))
}

/// Whether the axis is the one that readers need: outputs for channels, what is summed over for blocks.
fn check_axis(node: &Node, weight: &Known<'_>, blocks: bool, facts: &Facts<'_>, report: &mut Report) {
    let Some(shape) = &weight.shape else { return };
    let Ok(found) = shapes::axis(int(node, "axis").unwrap_or(1), shape.len()) else { return };
    for (reader, index) in node.output.iter().flat_map(|output| facts.readers(output)) {
        let axes = match (reader.op_type.as_str(), index) {
            ("Conv", 1) => (0, 1),
            ("ConvTranspose", 1) => (1, 0),
            ("Gemm", 1) if int(reader, "transB") == Some(1) => (0, 1),
            ("Gemm", 1) => (1, 0),
            ("MatMul", 1) if shape.len() > 1 => (shape.len() - 1, shape.len() - 2),
            ("MatMul" | "Gemm", 0) => {
                let detail = format!("the left operand of {} has scales along axis {found}", name(reader));
                report.add(name(node), Rule::Granularity, detail);
                continue;
            }
            // Wrong places have a rule of their own.
            _ => continue,
        };
        let wanted = if blocks { axes.1 } else { axes.0 };
        if found != wanted {
            let kind = if blocks { "blocks" } else { "channels" };
            let place = name(reader);
            let detail =
                format!("{kind} along axis {found}, and {} {place} needs axis {wanted}", reader.op_type);
            report.add(name(node), Rule::Granularity, detail);
        }
    }
}

/// A QuantizeLinear feeds DequantizeLinear and nothing else.
fn check_pair(node: &Node, facts: &Facts<'_>, report: &mut Report) {
    for output in &node.output {
        if facts.is_output(output) {
            report.add(name(node), Rule::Placement, "its result is the graph's, and outputs stay float");
        }
        for (reader, _) in facts.readers(output).iter().filter(|(r, _)| r.op_type != "DequantizeLinear") {
            let detail =
                format!("{} {} reads it, and only DequantizeLinear can", reader.op_type, name(reader));
            report.add(name(node), Rule::Placement, detail);
        }
    }
}

/// A DequantizeLinear feeds products, residual sums and nothing else.
fn check_readers(node: &Node, facts: &Facts<'_>, report: &mut Report) {
    let is_weight = origin(node, facts).is_some_and(is_constant);
    let from = facts.input(node, 0).map(|data| data.source);
    let is_quantised = match from {
        Some(Source::Node(made)) => made.op_type == "QuantizeLinear",
        Some(Source::Constant(_)) | None => true,
        Some(Source::Input) => false,
    };
    if !is_quantised {
        let detail = format!("{} is neither a constant nor made by QuantizeLinear", node.input[0]);
        report.add(name(node), Rule::Placement, detail);
    }
    for output in &node.output {
        if facts.is_output(output) {
            report.add(name(node), Rule::Placement, "it is behind an operator: its result is the graph's");
        }
        for (reader, index) in facts.readers(output) {
            let fits = match (reader.op_type.as_str(), index) {
                ("Conv" | "ConvTranspose" | "Gemm" | "MatMul", 0 | 1) => true,
                ("Add", _) => !is_weight,
                _ => false,
            };
            if !fits {
                let detail = format!(
                    "{} {} reads it at input {index}; quantised are inputs 0 and 1 of Conv, ConvTranspose, Gemm, MatMul \
                     and activations of Add",
                    reader.op_type,
                    name(reader)
                );
                report.add(name(node), Rule::Placement, detail);
            }
        }
    }
}
