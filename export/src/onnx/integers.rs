//! Products of two activations in 8-bit integers, for attention, as operators of ONNX Runtime's own.
//!
//! ONNX Runtime does not fuse `QuantizeLinear` and `DequantizeLinear` around such a product, so that it is said here
//! as one node. Where the processor has no VNNI, pairs of products saturate at 16 bits, and ONNX Runtime cannot help
//! where the right side is no constant: that side has 7 bits, unless the left one says that no pair is so large.

use nextclip_core::manifest::Dtype;
use nextclip_quant::{Params, Scheme};

use super::builder::GraphBuilder;
use super::graph::{Constant, Value};
use super::layers::{Linear, path};
use super::operators::int;

/// What the left side of a product is, which decides how many bits its right side may have.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Beside {
    /// Up to 255 everywhere: two such times 63 are below 2^15.
    Anything,
    /// Shares of one whole, which together are 255 and a rounding: times 127 they are below 2^15, too.
    Shares,
}

impl Beside {
    /// What the right side's greatest magnitude becomes.
    fn limit(self) -> f32 {
        match self {
            Self::Anything => 63.0,
            Self::Shares => 127.0,
        }
    }
}

/// A tensor in integers.
#[derive(Clone, Debug)]
pub struct Integers {
    values: Value,
    params: Params,
}

impl Integers {
    /// The same integers in another order, or a part of them.
    pub fn map(&self, change: impl FnOnce(&Value) -> Value) -> Self {
        Self { values: change(&self.values), ..*self }
    }

    /// Size along an axis.
    pub fn size(&self, axis: usize) -> usize {
        self.values.size(axis)
    }
}

impl GraphBuilder {
    /// Whether the product `layer` of two activations is computed in integers; `sites` names the ranges of its
    /// operands.
    pub fn takes_integers(&mut self, layer: &str, sites: &[&str]) -> bool {
        self.note_use(layer.to_owned(), sites.iter().map(|&site| site.to_owned()).collect())
    }

    /// The left side of a product: unsigned.
    pub fn left_integers(&mut self, x: &Value, params: Params) -> Integers {
        let [scale, zero] = self.scale_and_zero(params);
        let values = self.node("QuantizeLinear", &[x, &scale, &zero], vec![], &x.shape, Dtype::U8);
        Integers { values, params }
    }

    /// What the range of `site` makes of a left side.
    pub fn left_params(&self, site: &str) -> Params {
        self.params_at(site, Scheme::Asymmetric)
    }

    /// A left side of numbers from 0 up that are together 1 in each row.
    pub fn left_shares(&mut self, x: &Value) -> Integers {
        self.left_integers(x, Params::of_range(0.0, 1.0, Scheme::Asymmetric))
    }

    /// The right side: signed, around zero, with the range of `site`.
    pub fn right_integers(&mut self, x: &Value, site: &str, beside: Beside) -> Integers {
        let params = self.right_params(site, beside);
        let scale = self.scalar(params.scale);
        let zero = self.constant("i8 0".into(), &[], Constant::I8(vec![0]));
        let values = self.node("QuantizeLinear", &[x, &scale, &zero], vec![], &x.shape, Dtype::I8);
        Integers { values, params }
    }

    /// A linear layer whose result is the right side of products and nothing else. Where the layer is in integers, too,
    /// ONNX Runtime would fuse both into a product with an unsigned result, and turn that around in two passes more.
    pub fn linear_right_integers(
        &mut self,
        x: &Value,
        layer: &Linear,
        site: &str,
        beside: Beside,
    ) -> Integers {
        let result = self.within(path(&layer.weight), |g| g.explicit_linear(x, layer));
        let result = result.unwrap_or_else(|| self.linear(x, layer));
        self.right_integers(&result, site, beside)
    }

    /// A right side of zeros, as many as `shape` says, in the unit of `like`.
    pub fn zero_integers(&mut self, shape: &[usize], like: &Integers) -> Integers {
        let zeros = Constant::I8(vec![0; shape.iter().product()]);
        Integers { values: self.constant(format!("i8 0 x {shape:?}"), shape, zeros), ..*like }
    }

    /// Right sides of many products, one for each index of the first axis.
    pub fn many_right_integers(&mut self, x: &Value, sites: &[String], beside: Beside) -> Value {
        let scales: Vec<f32> = sites.iter().map(|site| self.right_params(site, beside).scale).collect();
        let count = scales.len();
        let scales = self.table(&format!("scales of {} and further", sites[0]), &[count], scales);
        let zeros = self.constant(format!("i8 0 x {count}"), &[count], Constant::I8(vec![0; count]));
        self.node("QuantizeLinear", &[x, &scales, &zeros], vec![int("axis", 0)], &x.shape, Dtype::I8)
    }

    /// One of those.
    pub fn one_of_many(&mut self, all: &Value, index: usize, site: &str, beside: Beside) -> Integers {
        let at = self.index(index as i64);
        Integers { values: self.gather(all, &at), params: self.right_params(site, beside) }
    }

    /// Integers of the same scale one after another.
    pub fn concat_integers(&mut self, parts: &[&Integers], axis: usize) -> Integers {
        assert!(parts.iter().all(|part| part.params == parts[0].params), "integers of different scales");
        let values = self.concat(&parts.iter().map(|part| &part.values).collect::<Vec<_>>(), axis);
        Integers { values, ..*parts[0] }
    }

    /// left (..., T, n) times right (..., n, K) times `factor`, in single precision; `bias` (K) is added to every
    /// row, at no cost.
    pub fn integer_product(
        &mut self,
        left: &Integers,
        right: &Integers,
        factor: f32,
        bias: Option<&Value>,
    ) -> Value {
        let [left_scale, left_zero] =
            self.scale_and_zero(Params { scale: left.params.scale * factor, ..left.params });
        let right_scale = self.scalar(right.params.scale);
        let (a, b) = (&left.values, &right.values);
        let none = Value { name: String::new(), shape: vec![], dtype: Dtype::I8 };
        let mut operands = vec![a, b, &left_scale, &right_scale, &left_zero];
        operands.extend(bias.map(|bias| [&none, bias]).into_iter().flatten());
        let mut shape = a.shape.clone();
        shape[a.rank() - 1] = b.shape[b.rank() - 1];
        self.note_work(shape.iter().product::<usize>() * a.shape[a.rank() - 1]);
        self.node("MatMulIntegerToFloat", &operands, vec![], &shape, Dtype::F32)
    }

    fn right_params(&self, site: &str, beside: Beside) -> Params {
        let params = self.params_at(site, Scheme::Symmetric);
        Params { scale: params.scale * (Beside::Shares.limit() / beside.limit()), ..params }
    }
}
