//! What operators ask besides types.

use super::error::{Report, Rule};
use super::facts::{Facts, Source, int, ints, name, text};
use super::table::{Condition, Operator};
use crate::onnx::proto::Node;

/// Checks the conditions of a node's line in the table.
pub(super) fn check(node: &Node, operator: &Operator, facts: &Facts<'_>, report: &mut Report) {
    for condition in operator.conditions {
        if let Some((rule, detail)) = broken(node, condition, facts) {
            report.add(name(node), rule, format!("{} {detail}", node.op_type));
        }
    }
}

/// The rule that is broken, and how.
fn broken(node: &Node, condition: &Condition, facts: &Facts<'_>) -> Option<(Rule, String)> {
    let detail = match *condition {
        Condition::Constant(index) => {
            let is_constant = matches!(facts.input(node, index)?.source, Source::Constant(_));
            let detail = || format!("reads {}, which must be a constant", node.input[index]);
            return (!is_constant).then(|| (Rule::StaticShape, detail()));
        }
        Condition::Rank(index, least, most) => {
            let rank = facts.shape(node, index)?.len();
            let axes = if least == most { most.to_string() } else { format!("{least} to {most}") };
            let detail = || format!("reads {} of {rank} axes, and can read {axes}", node.input[index]);
            (!(least..=most).contains(&rank)).then(detail)
        }
        Condition::InputsUpTo(most) => {
            let found = node.input.iter().skip(most).find(|input| !input.is_empty());
            found.map(|input| format!("reads {input} beyond its first {most} inputs"))
        }
        Condition::OutputsUpTo(most) => {
            let found = node.output.iter().skip(most).find(|output| !output.is_empty());
            found.map(|output| format!("makes {output} beyond its first {most} results"))
        }
        Condition::Int(attribute, only) => {
            let found = int(node, attribute).filter(|value| *value != only);
            found.map(|value| format!("has {attribute} {value}, and can have {only}"))
        }
        Condition::Ones(attribute) => {
            let found = ints(node, attribute).filter(|values| values.iter().any(|value| *value != 1));
            found.map(|values| format!("has {attribute} {values:?}, and can have 1"))
        }
        Condition::Text(attribute, all) => {
            let found = text(node, attribute).filter(|value| !all.contains(value));
            found.map(|value| format!("has {attribute} {value:?}, and can have {}", all.join(", ")))
        }
    };
    detail.map(|detail| (Rule::Condition, detail))
}
