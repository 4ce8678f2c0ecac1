//! The interface of the four graphs, said once: the exporter builds to it and the predictor insists on it.

use nextclip_core::manifest::{CacheShape, Dtype, Graph, TensorSpec};
use nextclip_core::{Geometry, Motion};

use crate::error::Error;

/// Name of the graph from RGB frames to latents.
pub const ENCODE: &str = "encode";
/// Name of the graph from a clean latent to its keys and values.
pub const REMEMBER: &str = "remember";
/// Name of the graph from noisy latents to latents one Euler step cleaner.
pub const DENOISE: &str = "denoise";
/// Name of the graph from latents to RGB frames.
pub const DECODE: &str = "decode";

/// Begins the name of an output that only shows what a tensor within the graph holds, for calibration.
pub const OBSERVED: &str = "observed ";

/// Inputs and outputs of one graph, in order.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GraphSpecs {
    /// Inputs.
    pub inputs: Vec<TensorSpec>,
    /// Outputs.
    pub outputs: Vec<TensorSpec>,
}

impl GraphSpecs {
    /// `frames` u8 (B, H, W, 3) -> `latents` f32 (B, c, h, w). With motion also `before` u8 (B, H, W, 3), the frames
    /// before them -> `costs` f32 (B, costs, h, w).
    pub fn encode(geometry: &Geometry, cache: &CacheShape, motion: Option<Motion>) -> Self {
        let frames = [cache.batch, geometry.height, geometry.width, 3];
        let mut inputs = vec![spec("frames", Dtype::U8, &frames)];
        let mut outputs = vec![spec("latents", Dtype::F32, &with_batch(cache, latent(geometry)))];
        if let Some(motion) = motion {
            inputs.push(spec("before", Dtype::U8, &frames));
            outputs.push(costs(geometry, cache, motion));
        }
        Self { inputs, outputs }
    }

    /// `latents` f32 (B, c, h, w), the cache, `slot_positions` i64 (B, C) with -1 for an empty slot,
    /// `position` i64 (B), the frame's own -> `new_keys`, `new_values` (layers, B, n_kv, L, d_head), of the cache's
    /// element type. With motion also `costs` f32 (B, costs, h, w), zeros where there was no frame before -> `motion`
    /// f32 (B, M, m, h, w).
    pub fn remember(geometry: &Geometry, cache: &CacheShape, motion: Option<Motion>) -> Self {
        let mut inputs = vec![spec("latents", Dtype::F32, &with_batch(cache, latent(geometry)))];
        inputs.extend(history(geometry, cache));
        let block = [cache.layers, cache.batch, cache.kv_heads, geometry.block_tokens(), cache.head_dim];
        let mut outputs =
            ["new_keys", "new_values"].map(|name| spec(name, cache.element.dtype(), &block)).to_vec();
        if let Some(sizes) = motion {
            inputs.push(costs(geometry, cache, sizes));
            outputs.push(moving(geometry, cache, sizes));
        }
        Self { inputs, outputs }
    }

    /// `z` f32 (B, N, c, h, w), `t` f32 (1), `t_next` f32 (1), the cache, `slot_positions` i64 (B, C),
    /// `position` i64 (B), the clip's first, and `guidance` f32 (1) where the graph has both branches
    /// -> `z_next` f32 (B, N, c, h, w).
    pub fn denoise(geometry: &Geometry, cache: &CacheShape, guided: bool) -> Self {
        let clip = with_batch(cache, clip(geometry));
        let mut inputs =
            vec![spec("z", Dtype::F32, &clip), spec("t", Dtype::F32, &[1]), spec("t_next", Dtype::F32, &[1])];
        inputs.extend(history(geometry, cache));
        inputs.extend(guided.then(|| spec("guidance", Dtype::F32, &[1])));
        Self { inputs, outputs: vec![spec("z_next", Dtype::F32, &clip)] }
    }

    /// `latents` f32 (B, N, c, h, w), `last_frames` u8 (B, H, W, 3), the newest real frames, `gate` f32 (1), 1 to make
    /// pictures with their help, 0 of latents alone, and with motion theirs, `motion` f32 (B, M, m, h, w); where things are
    /// followed, also `earlier_frames` u8 (B, E, H, W, 3), the latest first, and `known` f32 (B, E), 1 for those that were
    /// seen and 0 for those that were not, in whose place the newest stand -> `frames` u8 (B, N, H, W, 3).
    pub fn decode(geometry: &Geometry, cache: &CacheShape, motion: Option<Motion>) -> Self {
        let frames = [cache.batch, geometry.clip, geometry.height, geometry.width, 3];
        let mut inputs = vec![
            spec("latents", Dtype::F32, &with_batch(cache, clip(geometry))),
            spec("last_frames", Dtype::U8, &[cache.batch, geometry.height, geometry.width, 3]),
            spec("gate", Dtype::F32, &[1]),
        ];
        inputs.extend(motion.map(|motion| moving(geometry, cache, motion)));
        if let Some(Motion { earlier: earlier @ 1.., .. }) = motion {
            let frames = [cache.batch, earlier, geometry.height, geometry.width, 3];
            inputs.push(spec("earlier_frames", Dtype::U8, &frames));
            inputs.push(spec("known", Dtype::F32, &[cache.batch, earlier]));
        }
        Self { inputs, outputs: vec![spec("frames", Dtype::U8, &frames)] }
    }

    /// Refuses a manifest's graph that has another interface than this one; observed tensors may come on top.
    pub(crate) fn check(&self, name: &'static str, graph: &Graph) -> Result<(), Error> {
        let own = |output: &&TensorSpec| !output.name.starts_with(OBSERVED);
        let outputs: Vec<TensorSpec> = graph.outputs.iter().filter(own).cloned().collect();
        let sides = [("input", &self.inputs, &graph.inputs), ("output", &self.outputs, &outputs)];
        for (side, needed, found) in sides {
            if let Some((tensor, needed, found)) = first_difference(&listed(needed), &listed(found)) {
                return Err(Error::Contract { graph: name, side, name: tensor, found, needed });
            }
        }
        Ok(())
    }
}

/// Name and description of tensors, to compare.
pub(crate) type Listed = Vec<(String, String)>;

/// Tensors by name, described as `f32[1, 4, 22, 40]`.
pub(crate) fn listed(specs: &[TensorSpec]) -> Listed {
    specs.iter().map(|spec| (spec.name.clone(), format!("{}{:?}", spec.dtype, spec.shape))).collect()
}

/// The first tensor that two lists, compared by name, do not agree on: its name, what the first list
/// says, what the second says.
pub(crate) fn first_difference(first: &Listed, second: &Listed) -> Option<(String, String, String)> {
    let describe = |list: &Listed, name: &str| {
        let found = list.iter().find(|(listed, _)| listed == name);
        found.map_or_else(|| "nothing".into(), |(_, description)| description.clone())
    };
    let names = first.iter().chain(second).map(|(name, _)| name);
    names
        .map(|name| (name.clone(), describe(first, name), describe(second, name)))
        .find(|(_, first, second)| first != second)
}

fn history(geometry: &Geometry, cache: &CacheShape) -> [TensorSpec; 4] {
    let tokens = geometry.history * geometry.block_tokens();
    let held = [cache.layers, cache.batch, cache.kv_heads, tokens, cache.head_dim];
    [
        spec("keys", cache.element.dtype(), &held),
        spec("values", cache.element.dtype(), &held),
        spec("slot_positions", Dtype::I64, &[cache.batch, geometry.history]),
        spec("position", Dtype::I64, &[cache.batch]),
    ]
}

fn latent(geometry: &Geometry) -> Vec<usize> {
    vec![geometry.latent_channels, geometry.latent_height(), geometry.latent_width()]
}

fn clip(geometry: &Geometry) -> Vec<usize> {
    [vec![geometry.clip], latent(geometry)].concat()
}

/// Cost volumes of frames: (B, costs, h, w).
fn costs(geometry: &Geometry, cache: &CacheShape, motion: Motion) -> TensorSpec {
    let (h, w) = (geometry.latent_height(), geometry.latent_width());
    spec("costs", Dtype::F32, &[cache.batch, motion.costs(), h, w])
}

/// Where a frame's cells are at each moment: (B, M, m, h, w).
fn moving(geometry: &Geometry, cache: &CacheShape, motion: Motion) -> TensorSpec {
    let (h, w) = (geometry.latent_height(), geometry.latent_width());
    spec("motion", Dtype::F32, &[cache.batch, motion.moments(geometry.clip).len(), motion.channels(), h, w])
}

fn with_batch(cache: &CacheShape, shape: Vec<usize>) -> Vec<usize> {
    [vec![cache.batch], shape].concat()
}

fn spec(name: &str, dtype: Dtype, shape: &[usize]) -> TensorSpec {
    TensorSpec { name: name.into(), dtype, shape: shape.into() }
}

#[cfg(test)]
mod tests {
    use nextclip_core::manifest::CacheElement;

    use super::*;

    const GEOMETRY: Geometry = Geometry {
        height: 176,
        width: 320,
        vae_scale: 8,
        latent_channels: 4,
        patch: 2,
        history: 56,
        clip: 24,
        frame_interval_ms: 133,
    };
    const CACHE: CacheShape =
        CacheShape { layers: 32, batch: 1, kv_heads: 32, head_dim: 96, element: CacheElement::F32 };

    #[test]
    fn the_published_model_has_these_tensors() {
        let denoise = GraphSpecs::denoise(&GEOMETRY, &CACHE, true);
        let inputs: Vec<String> = denoise.inputs.iter().map(ToString::to_string).collect();
        assert_eq!(
            inputs,
            [
                "z f32[1, 24, 4, 22, 40]",
                "t f32[1]",
                "t_next f32[1]",
                "keys f32[32, 1, 32, 12432, 96]",
                "values f32[32, 1, 32, 12432, 96]",
                "slot_positions i64[1, 56]",
                "position i64[1]",
                "guidance f32[1]",
            ]
        );
        let remember = GraphSpecs::remember(&GEOMETRY, &CACHE, None);
        assert_eq!(remember.outputs[1].to_string(), "new_values f32[32, 1, 32, 222, 96]");
        let half = GraphSpecs::remember(&GEOMETRY, &CacheShape { element: CacheElement::F16, ..CACHE }, None);
        assert_eq!(half.inputs[1].to_string(), "keys f16[32, 1, 32, 12432, 96]");
        assert_eq!(half.outputs[0].to_string(), "new_keys f16[32, 1, 32, 222, 96]");
    }

    #[test]
    fn costs_go_from_encode_to_remember_and_motion_to_decode() {
        let sizes = Some(Motion::DEFAULT);
        let encode = GraphSpecs::encode(&GEOMETRY, &CACHE, sizes);
        let remember = GraphSpecs::remember(&GEOMETRY, &CACHE, sizes);
        let decode = GraphSpecs::decode(&GEOMETRY, &CACHE, sizes);
        assert_eq!(encode.inputs[0].shape, encode.inputs[1].shape);
        assert_eq!(encode.outputs[1], remember.inputs[5]);
        assert_eq!(remember.inputs[5].to_string(), "costs f32[1, 225, 22, 40]");
        assert_eq!(remember.outputs[2], decode.inputs[3]);
        assert_eq!(decode.inputs[3].to_string(), "motion f32[1, 26, 14, 22, 40]");
        assert_eq!(decode.inputs[4].to_string(), "earlier_frames u8[1, 3, 176, 320, 3]");
        assert_eq!(decode.inputs[5].to_string(), "known f32[1, 3]");
    }

    #[test]
    fn a_difference_is_named() {
        let specs = GraphSpecs::encode(&GEOMETRY, &CACHE, None);
        let graph = |inputs| Graph { path: "encode.onnx".into(), inputs, outputs: specs.outputs.clone() };
        assert!(specs.check(ENCODE, &graph(specs.inputs.clone())).is_ok());
        let told = |inputs| specs.check(ENCODE, &graph(inputs)).unwrap_err().to_string();
        assert_eq!(
            told(vec![]),
            "graph \"encode\" input \"frames\": manifest says nothing, this program needs u8[1, 176, 320, 3]"
        );
        let extra = spec("mask", Dtype::F32, &[1]);
        assert_eq!(
            told(vec![specs.inputs[0].clone(), extra]),
            "graph \"encode\" input \"mask\": manifest says f32[1], this program needs nothing"
        );
    }
}
