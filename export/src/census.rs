//! Everything in a model's graphs that multiplies: how much, and what stays in float whatever the budget, and why.

use std::collections::BTreeMap;

use nextclip_predictor::DENOISE;
use serde::{Deserialize, Serialize};

use crate::model::{COSTS, LANDING};
use crate::onnx::Graph;

/// A part of the model that stays in float.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Kept {
    /// Its place in the checkpoint.
    pub layer: String,
    /// Why.
    pub why: String,
}

/// What the graphs of a model do for one prediction: a frame encoded and remembered, a clip denoised and decoded.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Census {
    /// Multiply-adds of all matrix products and convolutions.
    pub(crate) total: u64,
    /// Those of each layer that can be quantised.
    pub(crate) layers: BTreeMap<String, u64>,
    /// Everything else that has weights or multiplies.
    pub(crate) kept: Vec<Kept>,
}

impl Census {
    /// Counts float graphs, in which `layers` can be quantised, for `steps` denoising steps.
    pub(crate) fn of<'a>(graphs: impl Iterator<Item = &'a Graph>, layers: &[String], steps: usize) -> Self {
        let mut census = Self::default();
        let mut kept = BTreeMap::new();
        for graph in graphs {
            let runs = if graph.name == DENOISE { steps as u64 } else { 1 };
            let weights: Vec<String> = graph.weights().map(|weight| place(weight.name())).collect();
            for weight in weights.iter().filter(|weight| !layers.contains(weight)) {
                kept.entry(weight.clone()).or_insert_with(|| why(weight).to_owned());
            }
            for (scope, multiply_adds) in &graph.work {
                let scope = place(scope);
                census.total += multiply_adds * runs;
                if layers.contains(&scope) {
                    *census.layers.entry(scope).or_default() += multiply_adds * runs;
                } else if !weights.contains(&scope) {
                    let within = if scope.is_empty() { graph.name.to_owned() } else { scope };
                    let (what, why) = products(&within);
                    kept.insert(format!("{within}: {what}"), why.to_owned());
                }
            }
        }
        census.kept = kept.into_iter().map(|(layer, why)| Kept { layer, why }).collect();
        census
    }

    /// Part of a prediction's multiply-adds.
    pub(crate) fn share(&self, layer: &str) -> f64 {
        self.layers.get(layer).map_or(0.0, |multiply_adds| *multiply_adds as f64 / self.total.max(1) as f64)
    }
}

/// A layer's path without the name of its tensor and the rows that are read of it.
fn place(name: &str) -> String {
    let whole = name.split_once('[').map_or(name, |(whole, _)| whole);
    let path = whole.strip_suffix(".weight").or_else(|| whole.strip_suffix(".bias"));
    path.unwrap_or(whole).to_owned()
}

const ATTENTION: &str = "attention products: both sides are activations, and attention's weights, most of them near 0, \
                         lose most to a common step";

/// What products without weights are, by their scope.
fn products(scope: &str) -> (&'static str, &'static str) {
    match scope {
        COSTS => {
            ("means", "means of squared differences: their logarithm is what counts, down to the smallest")
        }
        LANDING => (
            "products of places",
            "places: their differences are what counts, of numbers as large as the frame",
        ),
        _ => ("attention products", ATTENTION),
    }
}

/// Reasons by a part of the path, the first that fits.
const REASONS: [(&[&str], &str); 6] = [
    (&["norm"], "normalisation: a few numbers for each channel, no product to gain from"),
    (
        &["time_token", "t_embedder", "adaLN_modulation"],
        "time path: one row a step, and an error in time moves the whole clip",
    ),
    (&["embed_tokens", "pos_embed"], "table: looked up, not multiplied"),
    (
        &["x_embedder", "conv_in", "post_quant_conv"],
        "first layer: small, and its error goes through everything that follows",
    ),
    (
        &["final_layer.linear", "motion.linear", "motion.refine.2", "conv_out", "quant_conv"],
        "last layer: small, and its error is the result's",
    ),
    (
        &["attentions"],
        "projection of the autoencoder's attention: has a bias, which the runtime does not fuse",
    ),
];

fn why(layer: &str) -> &'static str {
    let fits = |(parts, _): &&(&[&str], &str)| parts.iter().any(|part| layer.contains(part));
    REASONS
        .iter()
        .find(fits)
        .map_or("too few channels for integer kernels to gain anything", |reason| reason.1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn places_and_reasons() {
        assert_eq!(
            place("llm.layers.1.self_attn.qkv_proj.weight[64:128]"),
            "llm.layers.1.self_attn.qkv_proj"
        );
        assert_eq!(place("encoder.conv_in.bias"), "encoder.conv_in");
        for (layer, word) in [
            ("llm.layers.0.input_layernorm", "normalisation"),
            ("encoder.conv_norm_out", "normalisation"),
            ("final_layer.adaLN_modulation.1", "time path"),
            ("final_layer.linear", "last layer"),
            ("post_quant_conv", "first layer"),
            ("quant_conv", "last layer"),
            ("input_x_embedder.proj", "first layer"),
            ("decoder.mid_block.attentions.0.to_q", "projection"),
            ("decoder.up_blocks.0.resnets.0.conv1", "too few channels"),
        ] {
            assert!(why(layer).starts_with(word), "{layer}: {}", why(layer));
        }
    }
}
