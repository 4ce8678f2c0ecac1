//! From a finished graph to an ONNX model beside one weight file that all graphs of a bundle share.

use std::collections::HashMap;
use std::io::{self, Write};

use nextclip_core::manifest::{Dtype, FileDigest, TensorSpec, hex};
use sha2::{Digest, Sha256};

use super::builder::RUNTIME_DOMAIN;
use super::graph::{Constant, Graph};
use super::proto::{self, element};
use super::quantised::int8_weight;

/// The operator set of every graph: the newest that TensorRT 10's parser reads.
pub const OPSET: i64 = 20;

/// The format version that came with [`OPSET`].
const IR_VERSION: i64 = 9;

/// Constants below this size, in bytes, stay in the graph: shapes and scalars must be there for a reader
/// to infer shapes.
const INLINE_BYTES: usize = 1024;

/// Tensors in the weight file start at multiples of this, in bytes: a cache line.
const ALIGNMENT: u64 = 64;

/// The weight file in the making. A tensor that several graphs use is written once.
#[derive(Debug)]
pub struct WeightFile<W> {
    name: String,
    file: W,
    hash: Sha256,
    bytes: u64,
    /// Where tensors lie, by what they are.
    written: HashMap<String, (u64, u64)>,
}

impl<W: Write> WeightFile<W> {
    /// A weight file that graphs will know as `name`.
    pub fn new(name: &str, file: W) -> Self {
        Self { name: name.into(), file, hash: Sha256::new(), bytes: 0, written: HashMap::new() }
    }

    /// The file, complete, and its digest.
    pub fn finish(mut self) -> io::Result<(W, FileDigest)> {
        self.file.flush()?;
        Ok((self.file, FileDigest { sha256: hex(&self.hash.finalize()), bytes: self.bytes }))
    }

    /// Offset and length of a tensor, written now if it is new.
    fn place(
        &mut self,
        identity: String,
        data: impl FnOnce() -> io::Result<Vec<u8>>,
    ) -> io::Result<(u64, u64)> {
        if let Some(place) = self.written.get(&identity) {
            return Ok(*place);
        }
        let data = data()?;
        let gap = self.bytes.next_multiple_of(ALIGNMENT) - self.bytes;
        self.write(&vec![0; gap as usize])?;
        let place = (self.bytes, data.len() as u64);
        self.write(&data)?;
        self.written.insert(identity, place);
        Ok(place)
    }

    fn write(&mut self, data: &[u8]) -> io::Result<()> {
        self.file.write_all(data)?;
        self.hash.update(data);
        self.bytes += data.len() as u64;
        Ok(())
    }
}

/// The ONNX model of a graph; its large constants go to `weights`.
pub fn model<W: Write>(graph: &Graph, weights: &mut WeightFile<W>) -> io::Result<proto::Model> {
    let initializer = graph
        .constants
        .iter()
        .map(|(name, (shape, constant))| initializer(name, shape, constant, weights))
        .collect::<io::Result<_>>()?;
    Ok(proto::Model {
        ir_version: IR_VERSION,
        producer_name: "nextclip-export".into(),
        producer_version: env!("CARGO_PKG_VERSION").into(),
        doc_string: String::new(),
        graph: Some(proto::Graph {
            node: graph.nodes.clone(),
            name: graph.name.into(),
            initializer,
            input: graph.inputs.iter().map(value_info).collect(),
            output: graph.outputs.iter().map(value_info).collect(),
        }),
        opset_import: opsets(graph),
        metadata_props: vec![],
    })
}

/// ONNX's operators, and ONNX Runtime's where the graph has any.
fn opsets(graph: &Graph) -> Vec<proto::OperatorSetId> {
    let opset = |domain: &str, version| proto::OperatorSetId { domain: domain.into(), version };
    let mut opsets = vec![opset("", OPSET)];
    if graph.nodes.iter().any(|node| node.domain == RUNTIME_DOMAIN) {
        opsets.push(opset(RUNTIME_DOMAIN, 1));
    }
    opsets
}

fn initializer<W: Write>(
    name: &str,
    shape: &[usize],
    constant: &Constant,
    weights: &mut WeightFile<W>,
) -> io::Result<proto::Tensor> {
    let data_type = element_of(constant.dtype());
    let tensor = proto::Tensor { dims: dims(shape), data_type, name: name.into(), ..Default::default() };
    let size = 4 * shape.iter().product::<usize>();
    if size < INLINE_BYTES || matches!(constant, Constant::I64(_)) {
        return Ok(proto::Tensor { raw_data: Some(bytes_of(constant)?), ..tensor });
    }
    let identity = match constant {
        Constant::Weight(weight, layout) => format!("{} {layout:?}", weight.name()),
        Constant::Int8(weight, layout) => format!("{} {layout:?} int8", weight.name()),
        _ => hex(&Sha256::digest(bytes_of(constant)?)),
    };
    let (offset, length) = weights.place(identity, || bytes_of(constant))?;
    let entry = |key: &str, value: String| proto::StringStringEntry { key: key.into(), value };
    let external_data = vec![
        entry("location", weights.name.clone()),
        entry("offset", offset.to_string()),
        entry("length", length.to_string()),
    ];
    Ok(proto::Tensor { external_data, data_location: proto::EXTERNAL, ..tensor })
}

/// Little-endian bytes, as ONNX stores them.
fn bytes_of(constant: &Constant) -> io::Result<Vec<u8>> {
    let of_f32 = |values: &[f32]| values.iter().flat_map(|value| value.to_le_bytes()).collect();
    Ok(match constant {
        Constant::F32(values) => of_f32(values),
        Constant::I64(values) => values.iter().flat_map(|value| value.to_le_bytes()).collect(),
        Constant::I32(values) => values.iter().flat_map(|value| value.to_le_bytes()).collect(),
        Constant::I8(values) => values.iter().map(|value| value.cast_unsigned()).collect(),
        Constant::U8(values) => values.clone(),
        Constant::Weight(weight, layout) => of_f32(&layout.values(weight)),
        Constant::Int8(weight, layout) => {
            let fault = |error| io::Error::new(io::ErrorKind::InvalidData, error);
            let quantised = int8_weight(weight, *layout).map_err(fault)?;
            quantised.values.iter().map(|value| value.cast_unsigned()).collect()
        }
    })
}

fn value_info(spec: &TensorSpec) -> proto::ValueInfo {
    let dim = spec.shape.iter().map(|&size| proto::Dimension { dim_value: Some(size as i64) }).collect();
    let tensor =
        proto::TensorType { elem_type: element_of(spec.dtype), shape: Some(proto::TensorShape { dim }) };
    proto::ValueInfo { name: spec.name.clone(), r#type: Some(proto::Type { tensor_type: Some(tensor) }) }
}

pub(super) fn element_of(dtype: Dtype) -> i32 {
    match dtype {
        Dtype::U8 => element::UINT8,
        Dtype::I8 => element::INT8,
        Dtype::I32 => element::INT32,
        Dtype::I64 => element::INT64,
        Dtype::F32 => element::FLOAT,
        Dtype::F16 => element::FLOAT16,
    }
}

fn dims(shape: &[usize]) -> Vec<i64> {
    shape.iter().map(|&size| size as i64).collect()
}

#[cfg(test)]
mod tests {
    use prost::Message;

    use super::*;
    use crate::onnx::{GraphBuilder, Precision};

    /// A graph that adds a table of `len` values to its input.
    fn graph(name: &'static str, len: usize) -> Graph {
        let mut g = GraphBuilder::new(name, &Precision::Float);
        let spec = |name: &str| TensorSpec { name: name.into(), dtype: Dtype::F32, shape: vec![2, len] };
        let x = g.input(&spec("x"));
        let table = g.table("table", &[len], (0..len).map(|i| i as f32).collect());
        let y = g.add(&x, &table);
        g.output(&spec("y"), &y);
        g.finish()
    }

    #[test]
    fn graphs_share_what_they_both_use() {
        let mut weights = WeightFile::new("weights.bin", Vec::new());
        let models = [("a", 300), ("b", 300), ("c", 400), ("d", 3)]
            .map(|(name, len)| model(&graph(name, len), &mut weights).unwrap());
        let (bytes, digest) = weights.finish().unwrap();
        assert_eq!(digest, FileDigest::of(&bytes));
        // 300 and 400 floats once each, the second at the next multiple of 64; 3 floats stay inline.
        assert_eq!(bytes.len(), 1216 + 1600);
        let place = |model: &proto::Model| {
            let tensor = &model.graph.as_ref().unwrap().initializer[0];
            tensor.external_data.iter().map(|entry| entry.value.clone()).collect::<Vec<_>>()
        };
        assert_eq!(place(&models[0]), ["weights.bin", "0", "1200"]);
        assert_eq!(place(&models[1]), place(&models[0]));
        assert_eq!(place(&models[2]), ["weights.bin", "1216", "1600"]);
        assert!(place(&models[3]).is_empty());
        for model in models {
            assert_eq!(proto::Model::decode(&*model.encode_to_vec()).unwrap(), model);
        }
    }

    #[test]
    #[should_panic(expected = "Add of x f32[2, 300] and table f32[4]: shapes do not broadcast")]
    fn shapes_that_do_not_fit_stop_the_builder() {
        let mut g = GraphBuilder::new("wrong", &Precision::Float);
        let x = g.input(&TensorSpec { name: "x".into(), dtype: Dtype::F32, shape: vec![2, 300] });
        let table = g.table("table", &[4], vec![0.0; 4]);
        g.add(&x, &table);
    }
}
