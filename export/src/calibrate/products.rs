//! How the inputs of linear layers go together: what rounding one weight needs to know of the others.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use ndarray::ArrayViewD;
use nextclip_core::manifest;
use nextclip_quant::Hessian;

use super::Sees;
use super::error::CalibrationError;
use crate::built::Built;
use crate::calibrated::{Sight, provenance};
use crate::onnx::Graph;

/// The sums of all layers together may take so much memory: with the published model's 3072 inputs and 32 layers they
/// would take 25 GB, which no board's bundle is worth.
const MAX_BYTES: usize = 2 << 30;

/// Sums of products of what layers read, while they are added up.
#[derive(Debug, Default)]
pub(super) struct Products {
    /// Every layer that is wanted.
    layers: BTreeSet<String>,
    /// Which of them read a tensor, by graph and tensor.
    readers: BTreeMap<(String, String), Vec<String>>,
    seen: BTreeMap<String, Hessian>,
    bytes: usize,
    fault: Option<CalibrationError>,
}

impl Products {
    /// Nothing seen yet of the layers that `blocks` has, in graphs that show what they read.
    pub(super) fn new(observed: &Built, blocks: &Built) -> Self {
        let uses = |built: &Built| -> Vec<(String, String, Option<String>)> {
            let of = |graph: &Graph| {
                let one = |used: &crate::onnx::LayerUse| {
                    (graph.name.to_owned(), used.layer.clone(), used.tensors.first().cloned())
                };
                graph.layers.iter().map(one).collect::<Vec<_>>()
            };
            built.iter().flat_map(of).collect()
        };
        let wanted: BTreeSet<(String, String)> =
            uses(blocks).into_iter().map(|(graph, layer, _)| (graph, layer)).collect();
        let mut readers: BTreeMap<_, Vec<String>> = BTreeMap::new();
        for (graph, layer, tensor) in uses(observed) {
            let Some(tensor) = tensor.filter(|_| wanted.contains(&(graph.clone(), layer.clone()))) else {
                continue;
            };
            let readers = readers.entry((graph, tensor)).or_default();
            if !readers.contains(&layer) {
                readers.push(layer);
            }
        }
        let layers = wanted.into_iter().map(|(_, layer)| layer).collect();
        Self { layers, readers, ..Self::default() }
    }

    /// What was added up.
    ///
    /// # Errors
    /// A layer that was never seen at work: it would be rounded in another way than was asked for.
    pub(super) fn finish(self, sight: Sight, steps: usize) -> Result<InputProducts, CalibrationError> {
        if let Some(layer) = self.layers.iter().find(|layer| !self.seen.contains_key(*layer)) {
            return Err(CalibrationError::Unseen(layer.clone()));
        }
        let sums = self.seen.into_iter().map(|(layer, sums)| (layer, Arc::new(sums))).collect();
        Ok(InputProducts { sums, sight, steps })
    }
}

impl Sees for Products {
    fn add(&mut self, graph: &str, tensor: &str, values: &ArrayViewD<'_, f32>) {
        let Some(layers) = self.readers.get(&(graph.to_owned(), tensor.to_owned())) else { return };
        let inputs = values.shape().last().copied().unwrap_or_default();
        let values = values.as_standard_layout();
        for layer in layers {
            if !self.seen.contains_key(layer) {
                self.bytes += size_of::<f64>() * inputs * inputs;
            }
            if self.bytes > MAX_BYTES {
                let fault = || CalibrationError::Products { layer: layer.clone(), inputs, bound: MAX_BYTES };
                self.fault.get_or_insert_with(fault);
                return;
            }
            let sums = self.seen.entry(layer.clone()).or_insert_with(|| Hessian::new(inputs));
            if let Err(source) = sums.add(values.as_slice().unwrap_or_default()) {
                let place = format!("graph {graph:?}, tensor {tensor:?}");
                self.fault.get_or_insert(CalibrationError::Values { place, source });
            }
        }
    }

    fn at_step(&mut self, _: usize) {}

    fn fault(&mut self) -> Option<CalibrationError> {
        self.fault.take()
    }
}

/// For each linear layer, sums of products of its inputs over every step and both graphs that it is in.
#[derive(Clone, Debug, PartialEq)]
pub struct InputProducts {
    sums: BTreeMap<String, Arc<Hessian>>,
    sight: Sight,
    steps: usize,
}

impl InputProducts {
    /// Of a layer, by its checkpoint path.
    pub(crate) fn of(&self, layer: &str) -> Option<&Arc<Hessian>> {
        self.sums.get(layer)
    }

    /// What the manifest says of a bundle whose weights were rounded by these.
    pub(crate) fn provenance<'a>(
        &self,
        rule: &str,
        graphs: impl Iterator<Item = &'a Graph>,
    ) -> manifest::Quantisation {
        provenance(rule.to_owned(), (&self.sight, self.steps), graphs)
    }
}
