//! Typed graphs: every float type is said in the graph itself, as GPUs want it.
//!
//! TensorRT builds a strongly typed network of such a graph, and ONNX Runtime's CUDA provider runs it as it stands.
//! Constants take the type of what they meet; everything else changes its type only where the model says so. Norms
//! compute in single precision whatever the graph's type is, since the squares of hidden states exceed half precision.

use std::io;
use std::sync::Arc;

use half::bf16;
use nextclip_core::manifest::Dtype;
use nextclip_quant::to_f16;

use super::builder::GraphBuilder;
use super::explicit::EightBits;
use super::graph::{Constant, Value};
use super::layers::Rotation;
use super::operators::cast_to;
use super::proto;
use super::quantised::Precision;
use super::weight_only::WeightOnly;

/// How a typed graph computes.
#[derive(Clone, Debug, PartialEq)]
pub struct Typed {
    /// The type of weights and of what layers make.
    pub float: Dtype,
    /// The type of attention's scores and weights.
    pub softmax: Dtype,
    /// Whether every operator must be ONNX's own, of the opset that graphs have: TensorRT has no others.
    pub own_operators_only: bool,
    /// Layers whose weights and activations are rounded to 8 bits.
    pub eight_bits: Option<EightBits>,
    /// Linear layers whose weights alone are integers in blocks.
    pub blocks: Option<Arc<WeightOnly>>,
    /// Whether brain float is computed in single precision and rounded after every operator: ONNX Runtime's CPU
    /// provider has no products of it. Only for looking at such graphs there.
    pub emulated: bool,
}

impl Precision {
    /// The same with brain float emulated.
    pub fn emulated(&self) -> Self {
        match self {
            Self::Typed(typed) => Self::Typed(Typed { emulated: true, ..typed.clone() }),
            other => other.clone(),
        }
    }

    /// The same for a part of the model whose values exceed half precision.
    pub fn with_range_of_single(&self) -> Self {
        match self {
            Self::Typed(typed) if typed.float == Dtype::F16 => {
                Self::Typed(Typed { float: Dtype::F32, softmax: Dtype::F32, ..typed.clone() })
            }
            other => other.clone(),
        }
    }
}

impl GraphBuilder {
    fn typed(&self) -> Option<&Typed> {
        match &self.precision {
            Precision::Typed(typed) => Some(typed),
            _ => None,
        }
    }

    /// The type of weights and of what layers make.
    pub fn float(&self) -> Dtype {
        self.typed().map_or(Dtype::F32, |typed| typed.float)
    }

    /// The type of attention's scores, hence of what is added to them.
    pub fn softmax_type(&self) -> Dtype {
        self.typed().map_or(Dtype::F32, |typed| typed.softmax)
    }

    pub(super) fn own_operators_only(&self) -> bool {
        self.typed().is_some_and(|typed| typed.own_operators_only)
    }

    /// `x` in the type of weights and of what layers make.
    pub fn in_float(&mut self, x: &Value) -> Value {
        self.as_type(x, self.float())
    }

    /// A float tensor in another float type. A constant is one of that type; no node is made for it.
    pub fn as_type(&mut self, x: &Value, dtype: Dtype) -> Value {
        assert!(x.dtype.is_float() && dtype.is_float(), "{x} as {dtype}");
        if x.dtype == dtype {
            return x.clone();
        }
        match self.graph.constants.get(&x.name) {
            Some((shape, constant)) => {
                let cast = |of: Constant, dtype| Constant::Cast(Box::new(of), dtype);
                let (shape, mut constant) = (shape.clone(), cast(constant.clone(), dtype));
                if dtype == Dtype::Bf16 && self.is_emulated() {
                    constant = cast(constant, Dtype::F32);
                }
                Value { dtype, ..self.constant(format!("{} {dtype}", x.name), &shape, constant) }
            }
            None => self.cast(x, dtype),
        }
    }

    pub(super) fn is_emulated(&self) -> bool {
        self.typed().is_some_and(|typed| typed.emulated)
    }

    /// A node whose result is rounded to brain float and stays in single precision.
    pub(super) fn push_emulated(
        &mut self,
        op: &str,
        inputs: &[&Value],
        attributes: Vec<proto::Attribute>,
        output: &str,
    ) {
        let named = |suffix: &str, dtype| Value { name: format!("{output} {suffix}"), shape: vec![], dtype };
        let rounded = named("rounded", Dtype::Bf16);
        if op == "Cast" {
            self.push(op, inputs, attributes, rounded.name.clone());
        } else {
            let exact = named("exact", Dtype::F32);
            self.push(op, inputs, attributes, exact.name.clone());
            self.push("Cast", &[&exact], vec![cast_to(Dtype::Bf16)], rounded.name.clone());
        }
        self.push("Cast", &[&rounded], vec![cast_to(Dtype::F32)], output.into());
    }

    /// Two operands of one operator; where the types differ, the constant takes the other's.
    pub(super) fn of_one_type(&mut self, op: &str, a: &Value, b: &Value) -> (Value, Value) {
        let (mut a, mut b) = (a.clone(), b.clone());
        if a.dtype != b.dtype {
            if self.graph.constants.contains_key(&b.name) {
                b = self.as_type(&b, a.dtype);
            } else if self.graph.constants.contains_key(&a.name) {
                a = self.as_type(&a, b.dtype);
            }
        }
        assert_eq!(a.dtype, b.dtype, "{op} of {a} and {b}");
        (a, b)
    }

    /// Rotary embedding, rotate-half, in ONNX's own operators: x (B, heads, T, d_head).
    pub(super) fn rotary_decomposed(&mut self, x: &Value, rotation: &Rotation) -> Value {
        let half = x.size(3) / 2;
        let [cos, sin] = self.gathered_angles(rotation, x.dtype);
        let [a, b] = self.split(x, 3, [half, half]);
        let (a_cos, b_sin) = (self.mul(&a, &cos), self.mul(&b, &sin));
        let (b_cos, a_sin) = (self.mul(&b, &cos), self.mul(&a, &sin));
        let (first, second) = (self.sub(&a_cos, &b_sin), self.add(&b_cos, &a_sin));
        self.concat(&[&first, &second], 3)
    }

    /// Cosines and sines at every token's position, each (B, 1, T, d_head / 2): gathered once, however many layers
    /// rotate by them.
    fn gathered_angles(&mut self, rotation: &Rotation, dtype: Dtype) -> [Value; 2] {
        let Rotation { positions, cos, sin } = rotation;
        let place = format!("{} of {} {dtype}", positions.name, cos.name);
        if let Some(angles) = self.angles.get(&place) {
            return angles.clone();
        }
        let angles = [cos, sin].map(|table| {
            let table = self.as_type(table, dtype);
            let gathered = self.gather(&table, positions); // (B, T, d_head / 2)
            let [batch, tokens, half] = [0, 1, 2].map(|axis| gathered.size(axis));
            self.reshape(&gathered, &[batch, 1, tokens, half])
        });
        self.angles.insert(place, angles.clone());
        angles
    }
}

/// Little-endian bytes of a float constant in another float type.
///
/// # Errors
/// A value beyond half precision, with its place.
pub(super) fn cast_bytes(of: &Constant, dtype: Dtype) -> io::Result<Vec<u8>> {
    let (name, values) = match of {
        Constant::Weight(weight, layout) => (weight.name(), layout.values(weight)),
        Constant::F32(values) => ("a table", values.clone()),
        Constant::Cast(of, Dtype::Bf16) => {
            let rounded = cast_bytes(of, Dtype::Bf16)?;
            let single = |word: &[u8; 2]| bf16::from_le_bytes(*word).to_f32();
            ("an emulated constant", rounded.as_chunks().0.iter().map(single).collect())
        }
        other => unreachable!("{:?} is no float constant", other.dtype()),
    };
    match dtype {
        Dtype::F32 => Ok(values.into_iter().flat_map(f32::to_le_bytes).collect()),
        Dtype::F16 => {
            let fault = |error| {
                io::Error::new(io::ErrorKind::InvalidData, format!("{name} in half precision: {error}"))
            };
            Ok(to_f16(&values).map_err(fault)?.into_iter().flat_map(half::f16::to_le_bytes).collect())
        }
        Dtype::Bf16 => Ok(values.into_iter().flat_map(|value| bf16::from_f32(value).to_le_bytes()).collect()),
        other => unreachable!("constants are never cast to {other}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use nextclip_core::manifest::TensorSpec;

    fn builder(float: Dtype) -> GraphBuilder {
        let precision = precision(float);
        GraphBuilder::new("typed", &precision)
    }

    fn precision(float: Dtype) -> Precision {
        let eight_bits = None;
        let typed = Typed {
            float,
            softmax: float,
            own_operators_only: true,
            eight_bits,
            blocks: None,
            emulated: false,
        };
        Precision::Typed(typed)
    }

    fn spec(name: &str, shape: &[usize]) -> TensorSpec {
        TensorSpec { name: name.into(), dtype: Dtype::F32, shape: shape.into() }
    }

    #[test]
    fn constants_take_the_type_of_what_they_meet() {
        let mut g = builder(Dtype::F16);
        let x = g.input(&spec("x", &[2]));
        let (half, one) = (g.in_float(&x), g.scalar(1.0));
        let sum = g.add(&half, &one);
        assert_eq!(sum.dtype(), Dtype::F16);
        g.output(&spec("y", &[2]), &sum);
        let graph = g.finish();
        let operators: Vec<&str> = graph.nodes.iter().map(|node| node.op_type.as_str()).collect();
        assert_eq!(operators, ["Cast", "Add", "Cast"]);
        // The single-precision 1 that nobody reads is gone.
        assert_eq!(graph.constants.keys().collect::<Vec<_>>(), ["f32 1.0 f16"]);
    }

    #[test]
    #[should_panic(expected = "Add of x f32[2] and Cast f16[2]")]
    fn tensors_do_not() {
        let mut g = builder(Dtype::F16);
        let x = g.input(&spec("x", &[2]));
        let half = g.in_float(&x);
        g.add(&x, &half);
    }

    #[test]
    fn emulated_brain_float_is_rounded_single() {
        let mut g = GraphBuilder::new("emulated", &precision(Dtype::Bf16).emulated());
        let x = g.input(&spec("x", &[2]));
        let (rounded, third) = (g.in_float(&x), g.scalar(1.0 / 3.0));
        let product = g.mul(&rounded, &third);
        g.output(&spec("y", &[2]), &product);
        let graph = g.finish();
        let operators: Vec<&str> = graph.nodes.iter().map(|node| node.op_type.as_str()).collect();
        assert_eq!(operators, ["Cast", "Cast", "Mul", "Cast", "Cast", "Cast"]);
        let (_, constant) = graph.constants.values().next().unwrap();
        assert_eq!(constant.dtype(), Dtype::F32);
        let Constant::Cast(of, Dtype::F32) = constant else { panic!("{constant:?}") };
        assert_eq!(cast_bytes(of, Dtype::F32).unwrap(), bf16::from_f32(1.0 / 3.0).to_f32().to_le_bytes());
    }

    #[test]
    fn bytes_of_the_types() {
        let of = Constant::F32(vec![1.0, -2.0]);
        assert_eq!(cast_bytes(&of, Dtype::F16).unwrap(), [0x00, 0x3c, 0x00, 0xc0]);
        assert_eq!(cast_bytes(&of, Dtype::Bf16).unwrap(), [0x80, 0x3f, 0x00, 0xc0]);
        let told = cast_bytes(&Constant::F32(vec![0.0, 1e6]), Dtype::F16).unwrap_err().to_string();
        assert!(told.contains("weights[1] is 1000000"), "{told}");
    }
}
