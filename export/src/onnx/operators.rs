//! ONNX operators with the shape of every result known when the node is made.
//!
//! Shapes follow from the model's own sizes, which were checked when the checkpoint was read: a shape
//! that does not fit here is a fault of the model code, and stops it at the line that is wrong.

use std::ops::Range;

use nextclip_core::manifest::Dtype;

use super::builder::GraphBuilder;
use super::graph::Value;
use super::proto::{self, attribute_type};

impl GraphBuilder {
    /// An operator of one operand that keeps its shape: Sigmoid, Sqrt, Sin, Cos, Round.
    pub fn map(&mut self, op: &str, x: &Value) -> Value {
        self.node(op, &[x], vec![], &x.shape, x.dtype)
    }

    /// An operator of two operands with broadcasting: Add, Sub, Mul, Div, Pow, Min, Max.
    pub fn zip(&mut self, op: &str, a: &Value, b: &Value) -> Value {
        let (a, b) = &self.of_one_type(op, a, b);
        let shape = broadcast(op, a, b, &a.shape, &b.shape);
        self.node(op, &[a, b], vec![], &shape, a.dtype)
    }

    /// a + b.
    pub fn add(&mut self, a: &Value, b: &Value) -> Value {
        self.zip("Add", a, b)
    }

    /// a - b.
    pub fn sub(&mut self, a: &Value, b: &Value) -> Value {
        self.zip("Sub", a, b)
    }

    /// a * b.
    pub fn mul(&mut self, a: &Value, b: &Value) -> Value {
        self.zip("Mul", a, b)
    }

    /// a / b.
    pub fn div(&mut self, a: &Value, b: &Value) -> Value {
        self.zip("Div", a, b)
    }

    /// Matrix product over the last two axes, the others broadcast.
    pub fn matmul(&mut self, a: &Value, b: &Value) -> Value {
        let (a, b) = &self.of_one_type("MatMul", a, b);
        let ((rows, inner), (inner_b, columns)) = (matrix(a), matrix(b));
        assert_eq!(inner, inner_b, "MatMul of {a} and {b}");
        let batch = broadcast("MatMul", a, b, &a.shape[..a.rank() - 2], &b.shape[..b.rank() - 2]);
        let shape = [batch, vec![rows, columns]].concat();
        self.note_work(len(&shape) * inner);
        self.node("MatMul", &[a, b], vec![], &shape, a.dtype)
    }

    /// The same values under another shape.
    pub fn reshape(&mut self, x: &Value, shape: &[usize]) -> Value {
        assert_eq!(len(&x.shape), len(shape), "Reshape of {x} to {shape:?}");
        if x.shape == shape {
            return x.clone();
        }
        let target = self.indices(&shape.iter().map(|&size| size as i64).collect::<Vec<_>>());
        self.node("Reshape", &[x, &target], vec![], shape, x.dtype)
    }

    /// Axes in another order: axis i of the result is axis `order[i]` of `x`.
    pub fn transpose(&mut self, x: &Value, order: &[usize]) -> Value {
        let shape: Vec<usize> = order.iter().map(|&axis| x.shape[axis]).collect();
        let perm = order.iter().map(|&axis| axis as i64).collect();
        self.node("Transpose", &[x], vec![ints("perm", perm)], &shape, x.dtype)
    }

    /// Tensors one after another along `axis`.
    pub fn concat(&mut self, parts: &[&Value], axis: usize) -> Value {
        let mut shape = parts[0].shape.clone();
        for part in &parts[1..] {
            assert_eq!(part.dtype, parts[0].dtype, "Concat of {} and {part}", parts[0]);
            let others = |shape: &[usize]| [&shape[..axis], &shape[axis + 1..]].concat();
            assert_eq!(others(&part.shape), others(&shape), "Concat of {} and {part}", parts[0]);
            shape[axis] += part.shape[axis];
        }
        self.node("Concat", parts, vec![int("axis", axis as i64)], &shape, parts[0].dtype)
    }

    /// A part along one axis.
    pub fn slice(&mut self, x: &Value, axis: usize, range: Range<usize>) -> Value {
        assert!(range.end <= x.shape[axis], "Slice of {x} by {range:?} along {axis}");
        if range == (0..x.shape[axis]) {
            return x.clone();
        }
        let mut shape = x.shape.clone();
        shape[axis] = range.len();
        let [start, end, axis] = [range.start, range.end, axis].map(|n| self.indices(&[n as i64]));
        self.node("Slice", &[x, &start, &end, &axis], vec![], &shape, x.dtype)
    }

    /// Parts of the given sizes along `axis`.
    pub fn split<const N: usize>(&mut self, x: &Value, axis: usize, sizes: [usize; N]) -> [Value; N] {
        assert_eq!(sizes.iter().sum::<usize>(), x.shape[axis], "Split of {x} into {sizes:?} along {axis}");
        let lengths = self.indices(&sizes.map(|size| size as i64));
        let parts = sizes.map(|size| {
            let mut shape = x.shape.clone();
            shape[axis] = size;
            Value { name: self.unique("Split"), shape, dtype: x.dtype }
        });
        let names = parts.iter().map(|part| part.name.clone()).collect();
        self.push_many("Split", &[x, &lengths], vec![int("axis", axis as i64)], names);
        parts
    }

    /// Entries of `table`'s first axis: shape (indices..., rest of the table).
    pub fn gather(&mut self, table: &Value, indices: &Value) -> Value {
        let shape = [&indices.shape, &table.shape[1..]].concat();
        self.node("Gather", &[table, indices], vec![int("axis", 0)], &shape, table.dtype)
    }

    /// `x` repeated to `shape`, by the rules of broadcasting.
    pub fn expand(&mut self, x: &Value, shape: &[usize]) -> Value {
        if x.shape == shape {
            return x.clone();
        }
        let target = self.indices(&shape.iter().map(|&size| size as i64).collect::<Vec<_>>());
        self.node("Expand", &[x, &target], vec![], shape, x.dtype)
    }

    /// Mean over the last `axes` axes, which stay with size 1.
    pub fn mean(&mut self, x: &Value, axes: usize) -> Value {
        let mut shape = x.shape.clone();
        let first = x.rank() - axes;
        shape[first..].fill(1);
        let axes = self.indices(&(1..=axes as i64).rev().map(|axis| -axis).collect::<Vec<_>>());
        self.node("ReduceMean", &[x, &axes], vec![int("keepdims", 1)], &shape, x.dtype)
    }

    /// Largest value along one axis, which stays with size 1.
    pub fn largest(&mut self, x: &Value, axis: usize) -> Value {
        let mut shape = x.shape.clone();
        shape[axis] = 1;
        let axes = self.indices(&[axis as i64]);
        self.node("ReduceMax", &[x, &axes], vec![int("keepdims", 1)], &shape, x.dtype)
    }

    /// Mean over a square around every cell of (B, c, H, W); at the border over what there is of it. Columns first,
    /// then rows: the same mean for fewer additions.
    pub fn box_mean(&mut self, x: &Value, radius: usize) -> Value {
        let (side, margin) = (2 * radius as i64 + 1, radius as i64);
        let passes = [([side, 1], [margin, 0, margin, 0]), ([1, side], [0, margin, 0, margin])];
        passes.into_iter().fold(x.clone(), |x, (kernel, pads)| {
            let attributes = vec![
                ints("kernel_shape", kernel.into()),
                ints("pads", pads.into()),
                int("count_include_pad", 0),
            ];
            self.node("AveragePool", &[&x], attributes, &x.shape, x.dtype)
        })
    }

    /// Means of (B, c, H, W) over cells of `side` x `side` pixels and `margin` pixels around them, within the picture:
    /// (B, c, H / side, W / side).
    pub fn window_mean(&mut self, x: &Value, side: usize, margin: usize) -> Value {
        let shape = [x.shape[0], x.shape[1], x.shape[2] / side, x.shape[3] / side];
        let attributes = vec![
            ints("kernel_shape", vec![(side + 2 * margin) as i64; 2]),
            ints("strides", vec![side as i64; 2]),
            ints("pads", vec![margin as i64; 4]),
            int("count_include_pad", 0),
        ];
        self.node("AveragePool", &[x], attributes, &shape, x.dtype)
    }

    /// Softmax over the last axis.
    pub fn softmax(&mut self, x: &Value) -> Value {
        self.node("Softmax", &[x], vec![int("axis", -1)], &x.shape, x.dtype)
    }

    /// Another element type; to u8 the values must lie in 0 to 255.
    pub fn cast(&mut self, x: &Value, dtype: Dtype) -> Value {
        self.node("Cast", &[x], vec![cast_to(dtype)], &x.shape, dtype)
    }

    /// Values limited to `low..=high`.
    pub fn clip(&mut self, x: &Value, low: f32, high: f32) -> Value {
        let bounds = [low, high].map(|bound| self.scalar(bound));
        let [low, high] = bounds.map(|bound| self.as_type(&bound, x.dtype));
        self.node("Clip", &[x, &low, &high], vec![], &x.shape, x.dtype)
    }

    /// 2-D convolution of (B, in, H, W) by (out, in, kh, kw) with zeros around: `pads` rows and columns
    /// at top, left, bottom, right.
    pub fn conv2d(
        &mut self,
        x: &Value,
        weight: &Value,
        bias: &Value,
        stride: usize,
        pads: [usize; 4],
    ) -> Value {
        assert_eq!(x.shape[1], weight.shape[1], "Conv of {x} by {weight}");
        let [weight, bias] = &[weight, bias].map(|operand| self.as_type(operand, x.dtype));
        let side = |size: usize, kernel: usize, padding: usize| (size + padding - kernel) / stride + 1;
        let (rows, columns) = (
            side(x.shape[2], weight.shape[2], pads[0] + pads[2]),
            side(x.shape[3], weight.shape[3], pads[1] + pads[3]),
        );
        let attributes = vec![
            ints("kernel_shape", weight.shape[2..].iter().map(|&size| size as i64).collect()),
            ints("strides", vec![stride as i64; 2]),
            ints("pads", pads.map(|pad| pad as i64).into()),
        ];
        let shape = [x.shape[0], weight.shape[0], rows, columns];
        self.note_work(len(&shape) * len(&weight.shape[1..]));
        self.node("Conv", &[x, weight, bias], attributes, &shape, x.dtype)
    }

    /// Every cell of (B, c, H, W) four times: (B, c, 2 H, 2 W).
    pub fn upsample_nearest_2x(&mut self, x: &Value) -> Value {
        let [batch, channels, rows, columns] = [0, 1, 2, 3].map(|axis| x.shape[axis]);
        let scales = self.table("upsample scales", &[4], vec![1.0, 1.0, 2.0, 2.0]);
        let none = Value { name: String::new(), shape: vec![], dtype: Dtype::F32 };
        let attributes = vec![
            text("mode", "nearest"),
            text("coordinate_transformation_mode", "asymmetric"),
            text("nearest_mode", "floor"),
        ];
        let shape = [batch, channels, 2 * rows, 2 * columns];
        self.node("Resize", &[x, &none, &scales], attributes, &shape, x.dtype)
    }

    /// Every channel of (B, c, n) brought to mean 0 and variance 1.
    pub fn instance_norm(&mut self, x: &Value, epsilon: f32) -> Value {
        let channels = x.shape[1];
        let ones = self.table(&format!("{channels} ones"), &[channels], vec![1.0; channels]);
        let zeros = self.table(&format!("{channels} zeros"), &[channels], vec![0.0; channels]);
        let [ones, zeros] = [ones, zeros].map(|table| self.as_type(&table, x.dtype));
        let attributes = vec![float("epsilon", epsilon)];
        self.node("InstanceNormalization", &[x, &ones, &zeros], attributes, &x.shape, x.dtype)
    }
}

fn len(shape: &[usize]) -> usize {
    shape.iter().product()
}

fn matrix(x: &Value) -> (usize, usize) {
    (x.shape[x.rank() - 2], x.shape[x.rank() - 1])
}

/// The shape of two operands together: axes are matched from the last, and a size of 1 repeats.
fn broadcast(op: &str, a: &Value, b: &Value, a_shape: &[usize], b_shape: &[usize]) -> Vec<usize> {
    let rank = a_shape.len().max(b_shape.len());
    let size = |shape: &[usize], axis: usize| (axis + shape.len()).checked_sub(rank).map_or(1, |i| shape[i]);
    (0..rank)
        .map(|axis| match (size(a_shape, axis), size(b_shape, axis)) {
            (size, same) if size == same => size,
            (1, size) | (size, 1) => size,
            _ => panic!("{op} of {a} and {b}: shapes do not broadcast"),
        })
        .collect()
}

fn attribute(name: &str, r#type: i32) -> proto::Attribute {
    proto::Attribute { name: name.into(), r#type, ..Default::default() }
}

/// The attribute of a Cast.
pub(super) fn cast_to(dtype: Dtype) -> proto::Attribute {
    int("to", i64::from(super::serialize::element_of(dtype)))
}

pub(super) fn int(name: &str, i: i64) -> proto::Attribute {
    proto::Attribute { i: Some(i), ..attribute(name, attribute_type::INT) }
}

pub(super) fn ints(name: &str, ints: Vec<i64>) -> proto::Attribute {
    proto::Attribute { ints, ..attribute(name, attribute_type::INTS) }
}

fn float(name: &str, f: f32) -> proto::Attribute {
    proto::Attribute { f: Some(f), ..attribute(name, attribute_type::FLOAT) }
}

pub(super) fn text(name: &str, s: &str) -> proto::Attribute {
    proto::Attribute { s: Some(s.into()), ..attribute(name, attribute_type::STRING) }
}
