//! Layers of neural networks as ONNX operators, each in one place: what a target or a precision changes,
//! it changes here.

use nextclip_core::manifest::Dtype;

use super::builder::GraphBuilder;
use super::graph::{Layout, Value};
use super::operators::int;
use crate::checkpoint::Weight;

/// A linear layer: weight (out, in) or, of a patch embedding, (out, c, p, p), and a bias (out).
#[derive(Clone, Debug)]
pub struct Linear {
    /// (out, in), or (out, in...) with the further axes flattened.
    pub weight: Weight,
    /// (out).
    pub bias: Option<Weight>,
}

impl Linear {
    /// The layer that computes only the outputs `rows`.
    pub fn rows(&self, rows: std::ops::Range<usize>) -> Self {
        let bias = self.bias.as_ref().map(|bias| bias.rows(rows.clone()));
        Self { weight: self.weight.rows(rows), bias }
    }
}

/// A 2-D convolution: weight (out, in, k, k), bias (out).
#[derive(Clone, Debug)]
pub struct Conv {
    /// (out, in, k, k).
    pub weight: Weight,
    /// (out).
    pub bias: Weight,
}

/// Group normalisation with a scale and a shift a channel.
#[derive(Clone, Debug)]
pub struct GroupNorm {
    /// (c).
    pub weight: Weight,
    /// (c).
    pub bias: Weight,
    /// Groups of channels that share mean and variance.
    pub groups: usize,
}

/// Where tokens are, and the angles of every place.
#[derive(Clone, Debug)]
pub struct Rotation {
    /// i64 (B, T): rows of the tables.
    pub positions: Value,
    /// (places, d_head / 2).
    pub cos: Value,
    /// (places, d_head / 2).
    pub sin: Value,
}

impl GraphBuilder {
    /// x (..., in) -> (..., out).
    pub fn linear(&mut self, x: &Value, layer: &Linear) -> Value {
        self.within(path(&layer.weight), |g| {
            let product = g.block_product(x, layer).unwrap_or_else(|| {
                let (x, weight) = g.linear_operands(x, layer);
                g.matmul(&x, &weight)
            });
            match &layer.bias {
                Some(bias) => {
                    let bias = g.weight(bias, Layout::AsStored);
                    g.add(&product, &bias)
                }
                None => product,
            }
        })
    }

    /// x * sigmoid(x).
    pub fn silu(&mut self, x: &Value) -> Value {
        let gate = self.map("Sigmoid", x);
        self.mul(x, &gate)
    }

    /// x / sqrt(mean(x^2) + epsilon) * weight over the last axis. In the order of operators that ONNX
    /// Runtime knows as one; always in single precision, since squares exceed half precision.
    pub fn rms_norm(&mut self, x: &Value, weight: &Weight, epsilon: f64) -> Value {
        self.within(path(weight), |g| {
            let (two, epsilon) = (g.scalar(2.0), g.scalar(epsilon as f32));
            let wide = g.as_type(x, Dtype::F32);
            let square = g.zip("Pow", &wide, &two);
            let mean = g.mean(&square, 1);
            let sum = g.add(&mean, &epsilon);
            let root = g.map("Sqrt", &sum);
            let normal = g.div(&wide, &root);
            let normal = g.as_type(&normal, x.dtype());
            let weight = g.weight(weight, Layout::AsStored);
            g.mul(&normal, &weight)
        })
    }

    /// Mean 0 and variance 1 over the last axis; in single precision, as [`Self::rms_norm`].
    pub fn layer_norm(&mut self, x: &Value, epsilon: f32) -> Value {
        let wide = self.as_type(x, Dtype::F32);
        let mean = self.mean(&wide, 1);
        let centred = self.sub(&wide, &mean);
        let (two, epsilon) = (self.scalar(2.0), self.scalar(epsilon));
        let square = self.zip("Pow", &centred, &two);
        let variance = self.mean(&square, 1);
        let sum = self.add(&variance, &epsilon);
        let root = self.map("Sqrt", &sum);
        let normal = self.div(&centred, &root);
        self.as_type(&normal, x.dtype())
    }

    /// Rotary embedding, rotate-half, of x (B, heads, T, d_head). In ONNX's own operators of this opset it would be
    /// five, and a tenth of a pass. ONNX Runtime's one also takes (B, T, heads * d_head), as projections make it.
    pub fn rotary(&mut self, x: &Value, rotation: &Rotation) -> Value {
        if self.own_operators_only() {
            return self.rotary_decomposed(x, rotation);
        }
        let [cos, sin] = [&rotation.cos, &rotation.sin].map(|table| self.as_type(table, x.dtype()));
        let operands = [x, &rotation.positions, &cos, &sin];
        self.node("RotaryEmbedding", &operands, vec![int("interleaved", 0)], &x.shape, x.dtype)
    }

    /// softmax(q k^T / sqrt(d_head) + bias) v for q (B, n_head, T, d_head), k and v (B, n_kv, K, d_head)
    /// and a bias that broadcasts to (B, 1, T, K); returns (B, T, n_head * d_head). Where heads share
    /// keys, their queries are stacked, so that no key is copied. Below single precision it is the queries that are
    /// scaled, so that their products with keys stay within the type's range.
    pub fn attention(&mut self, q: &Value, k: &Value, v: &Value, bias: Option<&Value>) -> Value {
        let [batch, heads, tokens, d_head] = [0, 1, 2, 3].map(|axis| q.size(axis));
        let (kv_heads, keys) = (k.size(1), k.size(2));
        let shared = heads / kv_heads;
        let scale = self.scalar(1.0 / (d_head as f32).sqrt());
        let scales_first = q.dtype() != Dtype::F32;
        let q = if scales_first { self.mul(q, &scale) } else { q.clone() };
        let stacked = self.reshape(&q, &[batch, kv_heads, shared * tokens, d_head]);
        let k = self.transpose(k, &[0, 1, 3, 2]);
        let scores = self.matmul(&stacked, &k); // (B, n_kv, shared * T, K)
        let scores = if scales_first { scores } else { self.mul(&scores, &scale) };
        let mut scores = self.as_type(&scores, self.softmax_type());
        if let Some(bias) = bias {
            scores = self.reshape(&scores, &[batch, heads, tokens, keys]);
            scores = self.add(&scores, bias);
        }
        let weights = self.softmax(&scores);
        let weights = self.as_type(&weights, v.dtype());
        let weights = self.reshape(&weights, &[batch, kv_heads, shared * tokens, keys]);
        let mixed = self.matmul(&weights, v);
        let mixed = self.reshape(&mixed, &[batch, heads, tokens, d_head]);
        let mixed = self.transpose(&mixed, &[0, 2, 1, 3]);
        self.reshape(&mixed, &[batch, tokens, heads * d_head])
    }

    /// A convolution that keeps height and width.
    pub fn conv(&mut self, x: &Value, conv: &Conv) -> Value {
        let margin = conv.weight.shape()[2] / 2;
        self.conv_strided(x, conv, 1, [margin; 4])
    }

    /// A convolution by stride and zeros at top, left, bottom, right.
    pub fn conv_strided(&mut self, x: &Value, conv: &Conv, stride: usize, pads: [usize; 4]) -> Value {
        self.within(path(&conv.weight), |g| g.conv_layer(x, conv, stride, pads))
    }

    /// Group normalisation of (B, c, H, W).
    pub fn group_norm(&mut self, x: &Value, norm: &GroupNorm, epsilon: f32) -> Value {
        self.within(path(&norm.weight), |g| {
            let [batch, channels, rows, columns] = [0, 1, 2, 3].map(|axis| x.size(axis));
            let grouped = g.reshape(x, &[batch, norm.groups, channels / norm.groups * rows * columns]);
            let normal = g.instance_norm(&grouped, epsilon);
            let normal = g.reshape(&normal, x.shape());
            let [weight, bias] = [&norm.weight, &norm.bias].map(|weight| {
                let weight = g.weight(weight, Layout::AsStored);
                let weight = g.as_type(&weight, x.dtype());
                g.reshape(&weight, &[channels, 1, 1])
            });
            let scaled = g.mul(&normal, &weight);
            g.add(&scaled, &bias)
        })
    }
}

/// The place of a layer in the checkpoint.
pub(super) fn path(weight: &Weight) -> String {
    weight.name().replacen(".weight", "", 1)
}
