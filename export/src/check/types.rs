//! Element types, carried from node to node by the table's rules.

use super::element::{Element, Types};
use super::error::{Report, Rule};
use super::facts::{Facts, int, name};
use super::table::{self, Limits, Makes, Operand, Operator};
use crate::onnx::proto::{Node, attribute_type};

/// Checks a node's operands; returns the types of what it makes. Behind a fault these are not known, so that it is
/// reported once.
pub(super) fn check(
    node: &Node,
    operator: &Operator,
    facts: &Facts<'_>,
    limits: &Limits,
    report: &mut Report,
) -> Vec<Option<Element>> {
    let types = match operator.makes {
        Makes::Dequantised => limits.quantised,
        _ => operator.types,
    };
    let before = report.violations.len();
    let mut same: Option<(Element, &str)> = None;
    for (index, input) in node.input.iter().enumerate().filter(|(_, input)| !input.is_empty()) {
        let Some(operand) = operand(operator, index) else {
            let (found, most) = (node.input.len(), operator.operands.len());
            let detail = format!("{} reads {found} tensors, and can read {most}", node.op_type);
            report.add(name(node), Rule::Condition, detail);
            break;
        };
        let Some(element) = facts.element(node, index) else { continue };
        let accepted = match operand {
            Operand::T => types,
            Operand::Index => Types::of(&[Element::I32, Element::I64]),
            Operand::I64Only => Types::of(&[Element::I64]),
            Operand::F32Only => Types::of(&[Element::F32]),
            Operand::Truth => Types::of(&[Element::Bool]),
            Operand::Mask => types.and(&[Element::Bool]),
            // What they must be depends on more: see the checks of quantisation.
            Operand::Any | Operand::Scale | Operand::ZeroPoint => continue,
        };
        if !accepted.contains(element) {
            let detail = format!("{} reads {input} of {element}, and can read {accepted}", node.op_type);
            report.add(name(node), Rule::ElementType, detail);
        }
        let is_truth_of_mask = operand == Operand::Mask && element == Element::Bool;
        if !matches!(operand, Operand::T | Operand::Mask) || is_truth_of_mask {
            continue;
        }
        match same {
            Some((first, of)) if first != element => {
                let detail = format!("{} of {of} of {first} and {input} of {element}", node.op_type);
                report.add(name(node), Rule::SameType, detail);
            }
            Some(_) => {}
            None => same = Some((element, input)),
        }
    }
    let made = made(node, operator, facts, limits, report, same.map(|(element, _)| element));
    let is_known = report.violations.len() == before;
    (0..node.output.len()).map(|index| made[usize::from(index > 0)].filter(|_| is_known)).collect()
}

/// What an input must be.
fn operand(operator: &Operator, index: usize) -> Option<Operand> {
    let last = operator.operands.last().copied().filter(|_| operator.repeats);
    operator.operands.get(index).copied().or(last)
}

/// Types of the first result and of the others.
fn made(
    node: &Node,
    operator: &Operator,
    facts: &Facts<'_>,
    limits: &Limits,
    report: &mut Report,
    same: Option<Element>,
) -> [Option<Element>; 2] {
    match operator.makes {
        Makes::Same => [same; 2],
        Makes::Truths => [Some(Element::Bool); 2],
        Makes::Indices => [Some(Element::I64); 2],
        Makes::ValuesAndIndices => [same, Some(Element::I64)],
        Makes::Cast => {
            let to = int(node, "to").and_then(Element::of_onnx);
            if !to.is_some_and(|to| operator.types.contains(to)) {
                let found = to.map_or("no type that is known".into(), |to| to.to_string());
                let detail = format!("Cast to {found}, and can be to {}", operator.types);
                report.add(name(node), Rule::ElementType, detail);
            }
            [to; 2]
        }
        Makes::Quantised => {
            // Without a zero point the standard makes unsigned integers of it.
            let stated = int(node, "output_dtype").and_then(Element::of_onnx);
            let to = match (stated, node.input.get(2).is_some_and(|zero| !zero.is_empty())) {
                (Some(element), _) => Some(element),
                (None, true) => facts.element(node, 2),
                (None, false) => Some(Element::U8),
            };
            if let Some(to) = to.filter(|to| !limits.quantised.contains(*to)) {
                let detail = format!("QuantizeLinear makes {to}, and can make {}", limits.quantised);
                report.add(name(node), Rule::ElementType, detail);
            }
            [to; 2]
        }
        Makes::Dequantised => {
            let to = int(node, "output_dtype").and_then(Element::of_onnx).or(facts.element(node, 1));
            // Scales have a rule of their own.
            [to.filter(|to| table::FLOATS.contains(*to)); 2]
        }
        Makes::Constant => [constant(node, report); 2],
    }
}

/// The type that a Constant node makes, of those written as numbers.
fn constant(node: &Node, report: &mut Report) -> Option<Element> {
    let held = node.attribute.first();
    match held.map(|attribute| attribute.r#type) {
        Some(attribute_type::INT | attribute_type::INTS) => Some(Element::I64),
        Some(attribute_type::FLOAT) => Some(Element::F32),
        _ => {
            report.add(name(node), Rule::Readable, "a Constant's tensor; keep it among the initializers");
            None
        }
    }
}
