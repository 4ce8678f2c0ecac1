//! What a graph breaks: every violation with node, rule and detail.

use std::fmt;

use thiserror::Error;

use super::Target;

/// A graph that its target refuses, or would run slower than float or wrongly.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[error("{target} does not accept the graph, {} places:{}", violations.len(), lines(violations))]
pub struct CheckError {
    /// Whose rules are broken.
    pub target: Target,
    /// All violations, in the order of the graph's nodes for each kind of check.
    pub violations: Vec<Violation>,
}

/// One rule that one node breaks.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Violation {
    /// The node's name, or that of the input, output or constant.
    pub node: String,
    /// What it breaks.
    pub rule: Rule,
    /// The values found, and what they must be.
    pub detail: String,
}

impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}: {}", self.node, self.rule, self.detail)
    }
}

fn lines(violations: &[Violation]) -> String {
    violations.iter().map(|violation| format!("\n  {violation}")).collect()
}

/// Rules of a TensorRT.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[non_exhaustive]
pub enum Rule {
    /// There is a graph, every tensor is made before it is read, operands fit one another.
    Graph,
    /// The opset is one that the parser covers, and the operator is in it.
    Opset,
    /// Operators are ONNX's own.
    Domain,
    /// The parser knows the operator.
    Operator,
    /// This TensorRT has it already.
    Version,
    /// The operator takes that element type.
    ElementType,
    /// Operands of one operator have one type; only Cast changes it.
    SameType,
    /// A condition of the operator's own.
    Condition,
    /// Shapes are known before anything runs.
    StaticShape,
    /// A constant's values can be read.
    Readable,
    /// Quantisation is symmetric.
    ZeroPoint,
    /// Scales are positive constants of the type of what they scale.
    Scale,
    /// Activations have one scale, weights one for each output or for each block.
    Granularity,
    /// Quantised are the inputs of products and of residual sums.
    Placement,
    /// Products too small for integer kernels stay float.
    SmallProduct,
    /// Attention over long sequences stays float.
    LongAttention,
}

impl fmt::Display for Rule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Graph => "graph",
            Self::Opset => "opset",
            Self::Domain => "domain",
            Self::Operator => "operator",
            Self::Version => "version",
            Self::ElementType => "element type",
            Self::SameType => "same type",
            Self::Condition => "condition",
            Self::StaticShape => "static shape",
            Self::Readable => "readable",
            Self::ZeroPoint => "zero point",
            Self::Scale => "scale",
            Self::Granularity => "granularity",
            Self::Placement => "placement",
            Self::SmallProduct => "small product",
            Self::LongAttention => "long attention",
        })
    }
}

/// Violations found so far.
#[derive(Debug, Default)]
pub(super) struct Report {
    pub(super) violations: Vec<Violation>,
}

impl Report {
    pub(super) fn add(&mut self, node: impl Into<String>, rule: Rule, detail: impl Into<String>) {
        self.violations.push(Violation { node: node.into(), rule, detail: detail.into() });
    }
}
