//! What is known of a graph's tensors: where they come from, who reads them, types, shapes, constant values.

use std::collections::{HashMap, HashSet};
use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom};
use std::path::{Component, Path};

use super::element::Element;
use crate::onnx::proto;

/// Sizes of a tensor's axes.
pub(super) type Shape = Vec<i64>;

/// Constants above this size, in bytes, are weights: nobody reads their values here.
const READABLE_BYTES: u64 = 1 << 24;

/// A tensor as far as it is known.
#[derive(Clone, Debug)]
pub(super) struct Known<'a> {
    /// Its type; not known behind a node that broke a rule.
    pub(super) element: Option<Element>,
    /// Its shape; likewise.
    pub(super) shape: Option<Shape>,
    /// Where it comes from.
    pub(super) source: Source<'a>,
}

/// Where a tensor comes from.
#[derive(Clone, Copy, Debug)]
pub(super) enum Source<'a> {
    /// From outside.
    Input,
    /// The graph holds it.
    Constant(&'a proto::Tensor),
    /// The node makes it.
    Node(&'a proto::Node),
}

/// Everything known of a graph.
#[derive(Debug)]
pub(super) struct Facts<'a> {
    tensors: HashMap<&'a str, Known<'a>>,
    readers: HashMap<&'a str, Vec<(&'a proto::Node, usize)>>,
    outputs: HashSet<&'a str>,
    folder: Option<&'a Path>,
}

impl<'a> Facts<'a> {
    /// Nothing but who reads what. External data is looked for in `folder`.
    pub(super) fn new(graph: &'a proto::Graph, folder: Option<&'a Path>) -> Self {
        let mut readers: HashMap<&str, Vec<_>> = HashMap::new();
        for node in &graph.node {
            for (index, input) in node.input.iter().enumerate().filter(|(_, input)| !input.is_empty()) {
                readers.entry(input).or_default().push((node, index));
            }
        }
        let outputs = graph.output.iter().map(|output| output.name.as_str()).collect();
        Self { tensors: HashMap::new(), readers, outputs, folder }
    }

    /// Notes a tensor; false if there was one of that name.
    pub(super) fn insert(&mut self, name: &'a str, known: Known<'a>) -> bool {
        self.tensors.insert(name, known).is_none()
    }

    pub(super) fn get(&self, name: &str) -> Option<&Known<'a>> {
        self.tensors.get(name)
    }

    /// The input of a node, where there is one and it is known.
    pub(super) fn input(&self, node: &proto::Node, index: usize) -> Option<&Known<'a>> {
        self.get(node.input.get(index)?)
    }

    pub(super) fn element(&self, node: &proto::Node, index: usize) -> Option<Element> {
        self.input(node, index)?.element
    }

    pub(super) fn shape(&self, node: &proto::Node, index: usize) -> Option<&Shape> {
        self.input(node, index)?.shape.as_ref()
    }

    /// Nodes that read a tensor, and at which input.
    pub(super) fn readers(&self, name: &str) -> &[(&'a proto::Node, usize)] {
        self.readers.get(name).map_or(&[], Vec::as_slice)
    }

    pub(super) fn is_output(&self, name: &str) -> bool {
        self.outputs.contains(name)
    }

    /// Values of a constant of whole numbers, at an input.
    pub(super) fn integers(&self, node: &proto::Node, index: usize) -> Option<Vec<i64>> {
        let Source::Constant(tensor) = self.input(node, index)?.source else { return None };
        self.values(tensor).ok().map(|values| values.iter().map(|&value| value as i64).collect())
    }

    /// Values of a constant. Whole numbers above 2^53 lose digits.
    pub(super) fn values(&self, tensor: &proto::Tensor) -> Result<Vec<f64>, String> {
        let element = Element::of_onnx(i64::from(tensor.data_type))
            .ok_or_else(|| format!("of ONNX type {}", tensor.data_type))?;
        let count = count(&tensor.dims).ok_or_else(|| format!("of shape {:?}", tensor.dims))?;
        let bytes = (count * element.bits()).div_ceil(8);
        let data = self.bytes(tensor)?;
        if data.len() != bytes {
            return Err(format!("of {} bytes, {element}{:?} has {bytes}", data.len(), tensor.dims));
        }
        Ok(numbers(element, &data, count))
    }

    fn bytes(&self, tensor: &proto::Tensor) -> Result<Vec<u8>, String> {
        if tensor.data_location != proto::EXTERNAL {
            let no_data = || "not in raw_data, the only form that is read here".to_owned();
            return tensor.raw_data.clone().ok_or_else(no_data);
        }
        let entry = |key: &str| tensor.external_data.iter().find(|entry| entry.key == key);
        let number = |key: &str| entry(key).and_then(|entry| entry.value.parse::<u64>().ok());
        let (file, offset) = (entry("location").map_or("", |e| &e.value), number("offset").unwrap_or(0));
        let Some(folder) = self.folder else {
            return Err(format!("in {file:?}, and the graph was given without its folder"));
        };
        if !Path::new(file).components().all(|part| matches!(part, Component::Normal(_))) || file.is_empty() {
            return Err(format!("in {file:?}, which leaves the graph's folder"));
        }
        match number("length") {
            Some(length) if length <= READABLE_BYTES => {
                read(&folder.join(file), offset, length).map_err(|error| format!("in {file:?}: {error}"))
            }
            Some(length) => Err(format!("of {length} bytes, at most {READABLE_BYTES} are read")),
            None => Err(format!("in {file:?} at no stated length")),
        }
    }
}

fn read(path: &Path, offset: u64, length: u64) -> io::Result<Vec<u8>> {
    let mut file = File::open(path)?;
    file.seek(SeekFrom::Start(offset))?;
    let mut data = vec![];
    file.take(length).read_to_end(&mut data)?;
    Ok(data)
}

/// Number of values in a shape.
pub(super) fn count(shape: &[i64]) -> Option<usize> {
    shape.iter().try_fold(1_usize, |product, &size| product.checked_mul(usize::try_from(size).ok()?))
}

fn numbers(element: Element, data: &[u8], count: usize) -> Vec<f64> {
    fn words<const N: usize>(data: &[u8], number: fn([u8; N]) -> f64) -> Vec<f64> {
        data.as_chunks::<N>().0.iter().map(|word| number(*word)).collect()
    }
    let nibbles = |number: fn(u8) -> f64| {
        let halves = data.iter().flat_map(|byte| [byte & 15, byte >> 4]);
        halves.take(count).map(number).collect()
    };
    match element {
        Element::F32 => words(data, |word| f64::from(f32::from_le_bytes(word))),
        Element::F64 => words(data, f64::from_le_bytes),
        Element::F16 => words(data, |word| half::f16::from_le_bytes(word).to_f64()),
        Element::Bf16 => words(data, |word| half::bf16::from_le_bytes(word).to_f64()),
        Element::I32 => words(data, |word| f64::from(i32::from_le_bytes(word))),
        Element::I64 => words(data, |word| i64::from_le_bytes(word) as f64),
        Element::I8 => words(data, |[byte]| f64::from(byte.cast_signed())),
        Element::U8 | Element::Bool => words(data, |[byte]| f64::from(byte)),
        Element::U4 => nibbles(f64::from),
        Element::I4 => nibbles(|half| f64::from((half << 4).cast_signed() >> 4)),
        // Only ever asked whether it is zero, of either sign.
        Element::F8 => words(data, |[byte]| f64::from(byte & 127)),
        Element::F4 => nibbles(|half| f64::from(half & 7)),
    }
}

/// A node's name, or what it makes where it has none.
pub(super) fn name(node: &proto::Node) -> String {
    match node.output.first() {
        Some(output) if node.name.is_empty() => format!("{} that makes {output}", node.op_type),
        _ => node.name.clone(),
    }
}

/// An integer attribute.
pub(super) fn int(node: &proto::Node, name: &str) -> Option<i64> {
    attribute(node, name)?.i
}

/// An attribute of integers.
pub(super) fn ints<'a>(node: &'a proto::Node, name: &str) -> Option<&'a [i64]> {
    attribute(node, name).map(|attribute| attribute.ints.as_slice())
}

/// A text attribute.
pub(super) fn text<'a>(node: &'a proto::Node, name: &str) -> Option<&'a str> {
    str::from_utf8(attribute(node, name)?.s.as_deref()?).ok()
}

fn attribute<'a>(node: &'a proto::Node, name: &str) -> Option<&'a proto::Attribute> {
    node.attribute.iter().find(|attribute| attribute.name == name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_of_every_width() {
        assert_eq!(numbers(Element::F32, &1.5_f32.to_le_bytes(), 1), [1.5]);
        assert_eq!(numbers(Element::F16, &half::f16::from_f32(-2.0).to_le_bytes(), 1), [-2.0]);
        assert_eq!(numbers(Element::I8, &[255, 127], 2), [-1.0, 127.0]);
        assert_eq!(numbers(Element::I4, &[0x8f, 0x07], 3), [-1.0, -8.0, 7.0]);
        assert_eq!(numbers(Element::U4, &[0x8f], 2), [15.0, 8.0]);
        assert_eq!(numbers(Element::F8, &[0x80], 1), [0.0]);
    }

    #[test]
    fn sizes_multiply() {
        assert_eq!(count(&[]), Some(1));
        assert_eq!(count(&[2, 3]), Some(6));
        assert_eq!(count(&[2, -1]), None);
        assert_eq!(count(&[i64::MAX, 4]), None);
    }
}
