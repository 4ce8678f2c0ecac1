//! Tensors on their way between pieces.

use half::f16;
use ndarray::{ArrayD, Axis, Slice};
use nextclip_core::manifest::Dtype;
use ort::session::SessionInputValue;
use ort::value::{DynValue, TensorElementType, TensorRef};

use super::VerifyError;
use crate::onnx::proto::{self, element};

/// A tensor in memory of our own: one of ONNX Runtime's would keep its session alive, and with it the weights.
#[derive(Clone, Debug)]
pub(super) enum Held {
    F32(ArrayD<f32>),
    F16(ArrayD<f16>),
    I64(ArrayD<i64>),
    I32(ArrayD<i32>),
    I8(ArrayD<i8>),
    U8(ArrayD<u8>),
}

/// The same for whatever the elements are.
macro_rules! each {
    ($held:expr, $array:ident => $result:expr) => {
        match $held {
            Held::F32($array) => $result,
            Held::F16($array) => $result,
            Held::I64($array) => $result,
            Held::I32($array) => $result,
            Held::I8($array) => $result,
            Held::U8($array) => $result,
        }
    };
}

impl Held {
    /// Keys or values of nothing yet.
    pub(super) fn zeros(dtype: Dtype, shape: &[usize]) -> Result<Self, VerifyError> {
        Ok(match dtype {
            Dtype::F32 => Self::F32(ArrayD::zeros(shape)),
            Dtype::F16 => Self::F16(ArrayD::from_elem(shape, f16::ZERO)),
            Dtype::I8 => Self::I8(ArrayD::zeros(shape)),
            other => return Err(VerifyError::Cache(other)),
        })
    }

    /// Puts `other` where this tensor begins along `axis`; `None` where their elements differ.
    pub(super) fn begin_with(&mut self, other: &Self, axis: Axis) -> Option<()> {
        fn put<T: Clone>(array: &mut ArrayD<T>, other: &ArrayD<T>, axis: Axis) {
            array.slice_axis_mut(axis, Slice::from(..other.len_of(axis))).assign(other);
        }
        match (self, other) {
            (Self::F32(array), Self::F32(other)) => put(array, other, axis),
            (Self::F16(array), Self::F16(other)) => put(array, other, axis),
            (Self::I8(array), Self::I8(other)) => put(array, other, axis),
            _ => return None,
        }
        Some(())
    }

    pub(super) fn value(&self) -> ort::Result<SessionInputValue<'_>> {
        each!(self, array => Ok(TensorRef::from_array_view(array.view())?.into()))
    }

    pub(super) fn copy(value: &DynValue) -> ort::Result<Self> {
        Ok(match value.dtype().tensor_type() {
            Some(TensorElementType::Float32) => Self::F32(value.try_extract_array()?.to_owned()),
            Some(TensorElementType::Float16) => Self::F16(value.try_extract_array()?.to_owned()),
            Some(TensorElementType::Int64) => Self::I64(value.try_extract_array()?.to_owned()),
            Some(TensorElementType::Int32) => Self::I32(value.try_extract_array()?.to_owned()),
            Some(TensorElementType::Int8) => Self::I8(value.try_extract_array()?.to_owned()),
            Some(TensorElementType::Uint8) => Self::U8(value.try_extract_array()?.to_owned()),
            _ => return Err(ort::Error::new(format!("a {} goes between pieces", value.dtype()))),
        })
    }

    /// What a graph says of it as an input.
    pub(super) fn value_info(&self, name: &str) -> proto::ValueInfo {
        let elem_type = match self {
            Self::F32(_) => element::FLOAT,
            Self::F16(_) => element::FLOAT16,
            Self::I64(_) => element::INT64,
            Self::I32(_) => element::INT32,
            Self::I8(_) => element::INT8,
            Self::U8(_) => element::UINT8,
        };
        let shape = each!(self, array => array.shape());
        let dim = shape.iter().map(|&size| proto::Dimension { dim_value: Some(size as i64) }).collect();
        let tensor = proto::TensorType { elem_type, shape: Some(proto::TensorShape { dim }) };
        proto::ValueInfo { name: name.into(), r#type: Some(proto::Type { tensor_type: Some(tensor) }) }
    }
}
