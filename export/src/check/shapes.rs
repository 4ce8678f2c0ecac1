//! Shapes, carried from node to node. What an operator not named here makes has a shape that is not known, and
//! rules that need it are not applied behind it.

use super::facts::{Facts, Shape, count, int, ints};
use crate::onnx::proto::Node;

/// Shapes of what a node makes. The error says what does not fit.
pub(super) fn infer(node: &Node, facts: &Facts<'_>) -> Result<Vec<Option<Shape>>, String> {
    let x = facts.shape(node, 0);
    let shape = match node.op_type.as_str() {
        "Add" | "Sub" | "Mul" | "Div" | "Mod" | "Pow" | "PRelu" | "Max" | "Min" | "Mean" | "Sum"
        | "Equal" | "Greater" | "GreaterOrEqual" | "Less" | "LessOrEqual" | "And" | "Or" | "Xor"
        | "Where" => broadcast_all(node, facts)?,
        "MatMul" => both(x, facts.shape(node, 1), matmul)?,
        "Gemm" => both(x, facts.shape(node, 1), |a, b| gemm(node, a, b))?,
        "Conv" => both(x, facts.shape(node, 1), |x, weight| conv(node, x, weight))?,
        "AveragePool" | "MaxPool" => x
            .map(|x| slide(node, x, ints(node, "kernel_shape").unwrap_or(&[]), x.get(1).copied()))
            .transpose()?,
        "Attention" => both(x, facts.shape(node, 2), |q, v| {
            Ok([&q[..q.len().saturating_sub(1)], &v[v.len().saturating_sub(1)..]].concat())
        })?,
        "Reshape" => both(x, facts.integers(node, 1).as_ref(), |x, to| reshape(node, x, to))?,
        "Expand" => both(x, facts.integers(node, 1).as_ref(), broadcast)?,
        "Transpose" => x.map(|x| transpose(node, x)).transpose()?,
        "Unsqueeze" => both(x, facts.integers(node, 1).as_ref(), unsqueeze)?,
        "Concat" => concat(node, facts)?,
        "Slice" => slice(node, facts),
        "Split" => return split(node, facts),
        "Gather" => both(x, facts.shape(node, 1), |x, indices| {
            let axis = axis(int(node, "axis").unwrap_or(0), x.len())?;
            Ok([&x[..axis], indices, &x[axis + 1..]].concat())
        })?,
        op if op.starts_with("Reduce") => reduce(node, facts)?,
        "Resize" => resize(node, facts),
        "GridSample" => both(x, facts.shape(node, 1), |x, grid| {
            let [inner @ .., _] = &grid[1..] else {
                return Err(format!("reads places of {} axes", grid.len()));
            };
            Ok([&x[..2], inner].concat())
        })?,
        "Shape" => x.map(|x| vec![x.len() as i64]),
        op if KEEPS_SHAPE.contains(&op) => x.cloned(),
        _ => None,
    };
    Ok((0..node.output.len()).map(|index| shape.clone().filter(|_| index == 0)).collect())
}

/// Operators whose result is of the shape of the first operand.
const KEEPS_SHAPE: [&str; 54] = [
    "Abs",
    "Neg",
    "Sign",
    "Acos",
    "Acosh",
    "Asin",
    "Asinh",
    "Atan",
    "Atanh",
    "Cos",
    "Cosh",
    "Sin",
    "Sinh",
    "Tan",
    "Tanh",
    "Ceil",
    "Floor",
    "Round",
    "Erf",
    "Exp",
    "Log",
    "Reciprocal",
    "Sqrt",
    "Celu",
    "Elu",
    "HardSigmoid",
    "LeakyRelu",
    "Relu",
    "Selu",
    "Sigmoid",
    "Softplus",
    "Softsign",
    "ThresholdedRelu",
    "HardSwish",
    "Gelu",
    "Clip",
    "Identity",
    "Cast",
    "IsInf",
    "IsNaN",
    "Not",
    "RotaryEmbedding",
    "Softmax",
    "LogSoftmax",
    "CumSum",
    "BatchNormalization",
    "InstanceNormalization",
    "LayerNormalization",
    "GroupNormalization",
    "RMSNormalization",
    "Trilu",
    "ScatterND",
    "QuantizeLinear",
    "DequantizeLinear",
];

type Shaped = Result<Shape, String>;

/// The result of two operands, where both are known.
fn both<A: ?Sized, B: ?Sized>(
    a: Option<&A>,
    b: Option<&B>,
    of: impl FnOnce(&A, &B) -> Shaped,
) -> Result<Option<Shape>, String> {
    match (a, b) {
        (Some(a), Some(b)) => of(a, b).map(Some),
        _ => Ok(None),
    }
}

/// An axis counted from the first, of one that may be counted from the last.
pub(super) fn axis(axis: i64, rank: usize) -> Result<usize, String> {
    let counted = if axis < 0 { axis + rank as i64 } else { axis };
    usize::try_from(counted).ok().filter(|axis| *axis < rank).ok_or_else(|| format!("axis {axis} of {rank}"))
}

fn broadcast_all(node: &Node, facts: &Facts<'_>) -> Result<Option<Shape>, String> {
    let mut all = vec![];
    for index in 0..node.input.len() {
        let Some(shape) = facts.shape(node, index) else { return Ok(None) };
        all = broadcast(&all, shape)?;
    }
    Ok(Some(all))
}

/// Axes are matched from the last, and a size of 1 repeats.
fn broadcast(a: &Shape, b: &Shape) -> Shaped {
    let rank = a.len().max(b.len());
    let size = |shape: &Shape, axis: usize| (axis + shape.len()).checked_sub(rank).map_or(1, |i| shape[i]);
    (0..rank)
        .map(|axis| match (size(a, axis), size(b, axis)) {
            (size, same) if size == same => Ok(size),
            (1, size) | (size, 1) => Ok(size),
            _ => Err(format!("{a:?} and {b:?} do not broadcast")),
        })
        .collect()
}

fn matmul(a: &Shape, b: &Shape) -> Shaped {
    let fault = || format!("{a:?} by {b:?}");
    let (([outer_a @ .., rows, inner], [outer_b @ .., inner_b, columns]), true) =
        ((&a[..], &b[..]), a.len() > 1)
    else {
        return Err(fault());
    };
    if inner != inner_b {
        return Err(fault());
    }
    let outer = broadcast(&outer_a.to_vec(), &outer_b.to_vec())?;
    Ok([&outer[..], &[*rows, *columns]].concat())
}

fn gemm(node: &Node, a: &Shape, b: &Shape) -> Shaped {
    let turned = |shape: &Shape, attribute: &str| match int(node, attribute) {
        Some(1) => shape.iter().rev().copied().collect(),
        _ => shape.clone(),
    };
    matmul(&turned(a, "transA"), &turned(b, "transB"))
}

fn conv(node: &Node, x: &Shape, weight: &Shape) -> Shaped {
    let groups = int(node, "group").unwrap_or(1);
    let [outputs, inputs, kernel @ ..] = &weight[..] else { return Err(format!("{x:?} by {weight:?}")) };
    if x.len() != weight.len() || x[1] != inputs * groups {
        return Err(format!("{x:?} by {weight:?} in {groups} groups"));
    }
    slide(node, x, kernel, Some(*outputs))
}

/// What a window makes that slides over (batch, channels, ...).
fn slide(node: &Node, x: &Shape, kernel: &[i64], channels: Option<i64>) -> Shaped {
    let axes = kernel.len();
    let or_ones =
        |name: &str| ints(node, name).filter(|v| v.len() == axes).map_or(vec![1; axes], <[i64]>::to_vec);
    let pads = ints(node, "pads").filter(|v| v.len() == 2 * axes).map_or(vec![0; 2 * axes], <[i64]>::to_vec);
    let (strides, dilations) = (or_ones("strides"), or_ones("dilations"));
    let (2.., Some(channels), true) = (x.len(), channels, x.len() == axes + 2) else {
        return Err(format!("{x:?} under a window of {kernel:?}"));
    };
    let mut shape = vec![x[0], channels];
    for axis in 0..axes {
        let reach = dilations[axis] * (kernel[axis] - 1) + 1;
        let room = x[axis + 2] + pads[axis] + pads[axis + axes] - reach;
        if room < 0 || strides[axis] < 1 {
            return Err(format!("{x:?} under a window of {kernel:?}, pads {pads:?}, strides {strides:?}"));
        }
        shape.push(room / strides[axis] + 1);
    }
    Ok(shape)
}

fn reshape(node: &Node, x: &Shape, to: &[i64]) -> Shaped {
    let keeps = int(node, "allowzero") != Some(1);
    let mut shape: Shape = to
        .iter()
        .enumerate()
        .map(|(axis, &size)| if size == 0 && keeps { x.get(axis).copied().unwrap_or(0) } else { size })
        .collect();
    let fault = || format!("{x:?} to {to:?}");
    let all = count(x).ok_or_else(fault)?;
    if let Some(free) = shape.iter().position(|size| *size == -1) {
        shape[free] = 1;
        let others = count(&shape).filter(|others| *others > 0).ok_or_else(fault)?;
        shape[free] = (all / others) as i64;
    }
    if count(&shape) == Some(all) { Ok(shape) } else { Err(fault()) }
}

fn transpose(node: &Node, x: &Shape) -> Shaped {
    let Some(order) = ints(node, "perm") else { return Ok(x.iter().rev().copied().collect()) };
    let fault = || format!("{x:?} in the order {order:?}");
    let mut sorted = order.to_vec();
    sorted.sort_unstable();
    if !sorted.into_iter().eq(0..x.len() as i64) {
        return Err(fault());
    }
    order.iter().map(|&from| Ok(x[axis(from, x.len())?])).collect()
}

fn unsqueeze(x: &Shape, axes: &Vec<i64>) -> Shaped {
    let rank = x.len() + axes.len();
    let mut new = axes.iter().map(|&new| axis(new, rank)).collect::<Result<Vec<_>, _>>()?;
    new.sort_unstable();
    let mut shape = x.clone();
    for axis in new {
        if axis > shape.len() {
            return Err(format!("{x:?} with new axes {axes:?}"));
        }
        shape.insert(axis, 1);
    }
    Ok(shape)
}

fn concat(node: &Node, facts: &Facts<'_>) -> Result<Option<Shape>, String> {
    let mut all: Option<Shape> = None;
    for index in 0..node.input.len() {
        let Some(part) = facts.shape(node, index) else { return Ok(None) };
        let Some(all) = &mut all else {
            all = Some(part.clone());
            continue;
        };
        let along = axis(int(node, "axis").unwrap_or(0), all.len())?;
        let fits = |(axis, (a, b)): (usize, (&i64, &i64))| axis == along || a == b;
        if part.len() != all.len() || !all.iter().zip(part).enumerate().all(fits) {
            return Err(format!("{all:?} and {part:?} along axis {along}"));
        }
        all[along] += part[along];
    }
    Ok(all)
}

fn slice(node: &Node, facts: &Facts<'_>) -> Option<Shape> {
    let (mut shape, starts, ends) =
        (facts.shape(node, 0)?.clone(), facts.integers(node, 1)?, facts.integers(node, 2)?);
    let axes = facts.integers(node, 3).unwrap_or_else(|| (0..starts.len() as i64).collect());
    let steps = facts.integers(node, 4).unwrap_or_else(|| vec![1; starts.len()]);
    for (((start, end), along), step) in starts.iter().zip(&ends).zip(&axes).zip(&steps) {
        let along = axis(*along, shape.len()).ok()?;
        let size = shape[along];
        let place = |at: i64| if at < 0 { at.saturating_add(size) } else { at };
        let (start, end, step) = if *step > 0 {
            (place(*start).clamp(0, size), place(*end).clamp(0, size), *step)
        } else {
            // Backwards, counted as forwards from the other end.
            let (start, end) = (place(*start).clamp(-1, size - 1), place(*end).clamp(-1, size - 1));
            (end, start, step.checked_neg().filter(|step| *step > 0)?)
        };
        shape[along] = (end - start).max(0).div_euclid(step) + i64::from((end - start).max(0) % step != 0);
    }
    Some(shape)
}

fn split(node: &Node, facts: &Facts<'_>) -> Result<Vec<Option<Shape>>, String> {
    let unknown = vec![None; node.output.len()];
    let Some(x) = facts.shape(node, 0) else { return Ok(unknown) };
    let along = axis(int(node, "axis").unwrap_or(0), x.len())?;
    let Some(sizes) = facts.integers(node, 1) else { return Ok(unknown) };
    if sizes.iter().sum::<i64>() != x[along] || sizes.len() != node.output.len() {
        return Err(format!("{x:?} into {} parts of {sizes:?} along axis {along}", node.output.len()));
    }
    let part = |&size: &i64| {
        let mut shape = x.clone();
        shape[along] = size;
        Some(shape)
    };
    Ok(sizes.iter().map(part).collect())
}

fn reduce(node: &Node, facts: &Facts<'_>) -> Result<Option<Shape>, String> {
    let Some(x) = facts.shape(node, 0) else { return Ok(None) };
    let axes = facts.integers(node, 1).or(ints(node, "axes").map(<[i64]>::to_vec));
    let axes = match axes {
        Some(axes) => axes.iter().map(|&along| axis(along, x.len())).collect::<Result<Vec<_>, _>>()?,
        None if facts.input(node, 1).is_some() => return Ok(None),
        None => (0..x.len()).collect(),
    };
    let keeps = int(node, "keepdims") != Some(0);
    let sizes = x.iter().enumerate().filter(|(axis, _)| keeps || !axes.contains(axis));
    Ok(Some(sizes.map(|(axis, &size)| if axes.contains(&axis) { 1 } else { size }).collect()))
}

fn resize(node: &Node, facts: &Facts<'_>) -> Option<Shape> {
    if let Some(sizes) = facts.integers(node, 3) {
        return Some(sizes);
    }
    let x = facts.shape(node, 0)?;
    let super::facts::Source::Constant(scales) = facts.input(node, 2)?.source else { return None };
    let scales = facts.values(scales).ok().filter(|scales| scales.len() == x.len())?;
    Some(x.iter().zip(scales).map(|(&size, scale)| (size as f64 * scale) as i64).collect())
}
