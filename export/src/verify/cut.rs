//! Cuts a model into pieces that follow one another, each with few enough weights.

use std::collections::{BTreeSet, HashMap, HashSet};

use crate::onnx::proto::{Graph, Model, Tensor};

/// Nodes of a graph that run together.
#[derive(Debug)]
pub(super) struct Piece {
    /// The nodes with their weights and, by name alone, their inputs and outputs.
    pub(super) model: Model,
    /// Tensors from outside that it reads: the graph's inputs, and what earlier pieces made.
    pub(super) inputs: Vec<String>,
    /// What it makes for later pieces, or for the graph's outputs.
    pub(super) outputs: Vec<String>,
}

/// Pieces of `model` in the order in which they run, each with at most `weight_bytes` of weights, unless one node
/// alone has more.
pub(super) fn cut(model: &Model, weight_bytes: u64) -> Vec<Piece> {
    let empty = Graph::default();
    let graph = model.graph.as_ref().unwrap_or(&empty);
    let weights: HashMap<&str, &Tensor> =
        graph.initializer.iter().map(|tensor| (tensor.name.as_str(), tensor)).collect();
    let ends = ends(graph, &weights, weight_bytes);
    let starts = [0].into_iter().chain(ends.iter().copied());
    starts.zip(&ends).map(|(first, &end)| piece(model, graph, &weights, first..end)).collect()
}

/// Where pieces end, counted in nodes.
fn ends(graph: &Graph, weights: &HashMap<&str, &Tensor>, weight_bytes: u64) -> Vec<usize> {
    let (mut ends, mut held, mut bytes) = (Vec::new(), HashSet::new(), 0);
    for (index, node) in graph.node.iter().enumerate() {
        let own = || {
            node.input.iter().filter_map(|name| Some((name.as_str(), bytes_of(weights.get(name.as_str())?))))
        };
        let fresh: u64 = own().filter(|(name, _)| !held.contains(name)).map(|(_, bytes)| bytes).sum();
        if bytes + fresh > weight_bytes && !held.is_empty() {
            ends.push(index);
            held.clear();
            bytes = own().map(|(_, bytes)| bytes).sum();
        } else {
            bytes += fresh;
        }
        held.extend(own().map(|(name, _)| name));
    }
    ends.push(graph.node.len());
    ends
}

fn piece(
    model: &Model,
    graph: &Graph,
    weights: &HashMap<&str, &Tensor>,
    nodes: std::ops::Range<usize>,
) -> Piece {
    let own = &graph.node[nodes.clone()];
    let read: BTreeSet<&str> =
        own.iter().flat_map(|node| &node.input).map(String::as_str).filter(|name| !name.is_empty()).collect();
    let made: BTreeSet<&str> = own.iter().flat_map(|node| &node.output).map(String::as_str).collect();
    let later: HashSet<&str> = graph.node[nodes.end..]
        .iter()
        .flat_map(|node| &node.input)
        .chain(graph.output.iter().map(|output| &output.name))
        .map(String::as_str)
        .collect();
    let outside = |name: &&&str| !made.contains(**name) && !weights.contains_key(**name);
    let inputs = read.iter().filter(outside).map(|name| (*name).to_owned()).collect();
    let outputs = made.iter().filter(|name| later.contains(**name)).map(|name| (*name).to_owned()).collect();
    let part = Graph {
        node: own.to_vec(),
        name: format!("{} {nodes:?}", graph.name),
        initializer: read.iter().filter_map(|name| Some((*weights.get(name)?).clone())).collect(),
        input: vec![],
        output: vec![],
    };
    let model = Model { graph: Some(part), ..model_without_graph(model) };
    Piece { model, inputs, outputs }
}

fn model_without_graph(model: &Model) -> Model {
    Model {
        ir_version: model.ir_version,
        opset_import: model.opset_import.clone(),
        producer_name: model.producer_name.clone(),
        ..Model::default()
    }
}

/// Bytes of a weight, wherever they lie.
fn bytes_of(tensor: &Tensor) -> u64 {
    let inline = tensor.raw_data.as_ref().map_or(0, |data| data.len() as u64);
    let length = tensor.external_data.iter().find(|entry| entry.key == "length");
    inline + length.and_then(|entry| entry.value.parse().ok()).unwrap_or(0)
}
