//! From a finished graph to an ONNX model beside one weight file that all graphs of a bundle share.

use std::collections::{HashMap, HashSet};
use std::io::{self, Write};

use nextclip_core::manifest::{Dtype, FileDigest, TensorSpec, hex};
use prost::Message;
use sha2::{Digest, Sha256};

use super::builder::RUNTIME_DOMAIN;
use super::graph::{Constant, Graph};
use super::proto::{self, element};
use super::quantised::int8_weight;
use super::typed::cast_bytes;
use crate::checkpoint::Weight;

/// The operator set of graphs: the newest that TensorRT 10's parser reads.
pub const OPSET: i64 = 20;

/// The operator set of graphs that dequantise in blocks, which is the first that can.
const BLOCK_OPSET: i64 = 21;

/// The format version that came with [`BLOCK_OPSET`], the first with 4-bit integers.
const BLOCK_IR_VERSION: i64 = 10;

/// The newest opset before GridSample's "bilinear" became "linear": TensorRT up to 11.1 knows the first name alone, and
/// takes the nearest pixel for the other, without a word.
const SAMPLE_OPSET: i64 = 19;

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
    let ir_version = if has_blocks(graph) { BLOCK_IR_VERSION } else { IR_VERSION };
    Ok(proto::Model {
        ir_version,
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
    let own = match graph {
        graph if has_blocks(graph) => BLOCK_OPSET,
        graph if graph.nodes.iter().any(|node| node.op_type == "GridSample") => SAMPLE_OPSET,
        _ => OPSET,
    };
    let mut opsets = vec![opset("", own)];
    if graph.nodes.iter().any(|node| node.domain == RUNTIME_DOMAIN) {
        opsets.push(opset(RUNTIME_DOMAIN, 1));
    }
    opsets
}

/// Whether operators read blocks of integers.
fn has_blocks(graph: &Graph) -> bool {
    let in_blocks =
        |node: &proto::Node| node.attribute.iter().any(|attribute| attribute.name == "block_size");
    graph.nodes.iter().any(|node| node.domain.is_empty() && in_blocks(node))
}

fn initializer<W: Write>(
    name: &str,
    shape: &[usize],
    constant: &Constant,
    weights: &mut WeightFile<W>,
) -> io::Result<proto::Tensor> {
    let data_type = match constant {
        Constant::Blocks(blocks, part) if blocks.is_int4(*part) => element::INT4,
        constant => element_of(constant.dtype()),
    };
    let tensor = proto::Tensor { dims: dims(shape), data_type, name: name.into(), ..Default::default() };
    if is_inline(shape, constant) {
        return Ok(proto::Tensor { raw_data: Some(bytes_of(constant)?), ..tensor });
    }
    let identity = identity(constant)?;
    if let Constant::Blocks(blocks, _) = constant
        && !weights.written.contains_key(&identity)
    {
        // All tensors of a weight at once: to quantise is the work.
        let mut packed = blocks.pack().map_err(|error| unfit(&blocks.weight, &error))?;
        for part in blocks.parts() {
            weights.place(blocks.name(part), || Ok(packed.take(part)))?;
        }
    }
    let (offset, length) = weights.place(identity, || bytes_of(constant))?;
    let entry = |key: &str, value: String| proto::StringStringEntry { key: key.into(), value };
    let external_data = vec![
        entry("location", weights.name.clone()),
        entry("offset", offset.to_string()),
        entry("length", length.to_string()),
    ];
    Ok(proto::Tensor { external_data, data_location: proto::EXTERNAL, ..tensor })
}

/// Whether a constant stays in the graph.
fn is_inline(shape: &[usize], constant: &Constant) -> bool {
    match constant {
        Constant::I64(_) => true,
        // A weight's tensors come at once, and stay together.
        Constant::Blocks(..) => false,
        _ => 4 * shape.iter().product::<usize>() < INLINE_BYTES,
    }
}

/// What a constant is among all of a bundle: graphs share what they both use.
fn identity(constant: &Constant) -> io::Result<String> {
    Ok(match constant {
        Constant::Weight(weight, layout) => format!("{} {layout:?}", weight.name()),
        Constant::Int8(weight, layout) => format!("{} {layout:?} int8", weight.name()),
        Constant::Blocks(blocks, part) => blocks.name(*part),
        Constant::EightBits(weight) => weight.identity(),
        Constant::Cast(of, dtype) => format!("{} {dtype}", identity(of)?),
        _ => hex(&Sha256::digest(bytes_of(constant)?)),
    })
}

/// A weight that integers cannot stand for.
fn unfit(weight: &Weight, error: &nextclip_quant::Error) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, format!("tensor {}: {error}", weight.name()))
}

/// How many bytes graphs will take, known without reading a weight.
#[derive(Clone, Debug, Default)]
pub struct Planned {
    counted: HashSet<String>,
    /// Of the weight file.
    pub weight_bytes: u64,
    /// Of the graphs' own files, about.
    pub graph_bytes: u64,
}

impl Planned {
    /// Counts a graph, and of its weights those that no graph before it has.
    pub fn add(&mut self, graph: &Graph) -> io::Result<()> {
        /// A constant's name, shape and place, generously.
        const ENTRY_BYTES: u64 = 256;
        self.graph_bytes += graph.nodes.iter().map(|node| node.encoded_len() as u64).sum::<u64>();
        for (shape, constant) in graph.constants.values() {
            self.graph_bytes += ENTRY_BYTES;
            let bytes = bytes_len(shape, constant);
            if is_inline(shape, constant) {
                self.graph_bytes += bytes;
            } else if self.counted.insert(identity(constant)?) {
                self.weight_bytes = self.weight_bytes.next_multiple_of(ALIGNMENT) + bytes;
            }
        }
        Ok(())
    }
}

fn bytes_len(shape: &[usize], constant: &Constant) -> u64 {
    let len: u64 = shape.iter().map(|&size| size as u64).product();
    match (constant, constant.dtype()) {
        (Constant::Blocks(blocks, part), _) if blocks.is_int4(*part) => len.div_ceil(2),
        (_, Dtype::U8 | Dtype::I8 | Dtype::F8) => len,
        (_, Dtype::F16 | Dtype::Bf16) => 2 * len,
        (_, Dtype::I32 | Dtype::F32) => 4 * len,
        (_, Dtype::I64) => 8 * len,
    }
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
            let quantised = int8_weight(weight, *layout).map_err(|error| unfit(weight, &error))?;
            quantised.values.iter().map(|value| value.cast_unsigned()).collect()
        }
        Constant::Blocks(blocks, part) => {
            blocks.pack().map_err(|error| unfit(&blocks.weight, &error))?.take(*part)
        }
        Constant::Cast(of, dtype) => cast_bytes(of, *dtype)?,
        Constant::EightBits(weight) => weight.bytes(),
        Constant::F8(codes) => codes.clone(),
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
        Dtype::Bf16 => element::BFLOAT16,
        Dtype::F8 => element::FLOAT8E4M3FN,
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
