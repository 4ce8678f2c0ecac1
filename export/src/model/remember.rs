//! The graph that reads a clean frame into keys and values for those that come after it, and says where the frame's
//! cells will go.

use nextclip_core::Geometry;
use nextclip_core::checkpoint::TransformerConfig;
use nextclip_core::manifest::CacheShape;
use nextclip_core::position::TableTooSmall;
use nextclip_core::sequence::{Role, level};
use nextclip_predictor::{GraphSpecs, REMEMBER};

use super::decoder::{
    Memory, Sizes, after_attention, attend_with_memory, frames_from, heads, joint_bias, keys_and_values,
};
use super::embed::{RotaryTable, level_bias, patch_positions, patch_tokens, special_token};
use super::transformer::Transformer;
use crate::onnx::{Cached, Graph, GraphBuilder, Precision, Value};

/// A clean latent and the remembered frames before it -> the frame's own keys (not rotated) and values. A model with
/// motion reads the frame's costs too, and gives its motion.
pub fn remember(
    transformer: &Transformer,
    config: &TransformerConfig,
    geometry: &Geometry,
    cache: &CacheShape,
    precision: &Precision,
) -> Result<Graph, TableTooSmall> {
    let mut builder = GraphBuilder::new(REMEMBER, precision);
    let g = &mut builder;
    let motion = transformer.motion.as_ref();
    let specs = GraphSpecs::remember(geometry, cache, motion.map(|motion| motion.sizes));
    let inputs: Vec<Value> = specs.inputs.iter().map(|spec| g.input(spec)).collect();
    let [latents, keys, values, slot_positions, position, costs @ ..] = &inputs[..] else {
        unreachable!("the inputs of {REMEMBER} are said in its specs");
    };
    let sizes = Sizes::new(config);
    let llm = &transformer.llm;
    let batch = cache.batch;

    // <img>, the frame's tokens, </img>.
    let positions = patch_positions(g, transformer, geometry)?;
    let latents = g.in_float(latents);
    let mut frame = patch_tokens(g, &latents, &transformer.input_x_embedder, &positions, geometry); // (B, S, d)
    let seen = motion.zip(costs.first()).map(|(motion, costs)| (motion, motion.seen(g, costs)));
    if let Some((motion, seen)) = &seen {
        let added = motion.stem(g, seen, geometry);
        frame = g.add(&frame, &added);
    }
    let img = special_token(g, &llm.embed_tokens.img, batch);
    let img_end = special_token(g, &llm.embed_tokens.img_end, batch);
    let mut x = g.concat(&[&img, &frame, &img_end], 1); // (B, L, d)

    let table = RotaryTable::new(g, config, geometry);
    let memory = Memory::new(g, [keys, values, slot_positions], &table, geometry, &cache.element);
    let own_frames = frames_from(g, position, 1);
    let rotation = table.blocks(g, &own_frames);
    let tokens = geometry.block_tokens();
    let own_bias = level_bias(g, (0..tokens).map(|token| level(Role::Clean, token, tokens)));
    let bias = joint_bias(g, &memory, &own_bias); // (B, 1, L, C * L + L)

    let (mut new_keys, mut new_values) = (vec![], vec![]);
    let mut keep = |g: &mut GraphBuilder, i: usize, keys: &Value, values: &Value| {
        new_keys.push(g.into_cache(keys, Cached::Keys, i, &cache.element));
        new_values.push(g.into_cache(values, Cached::Values, i, &cache.element));
    };
    let last = llm.layers.len() - 1;
    for (i, layer) in llm.layers.iter().enumerate() {
        g.within(format!("llm.layers.{i}"), |g| {
            let h = g.rms_norm(&x, &layer.input_layernorm, sizes.epsilon);
            if i == last && motion.is_none() {
                // But for motion nobody reads a clean frame's last hidden states: its keys and values are the result.
                let [keys, values] = keys_and_values(g, &h, &layer.qkv_proj, &sizes);
                keep(g, i, &keys, &values);
                return;
            }
            let own = heads(g, &h, &layer.qkv_proj, &sizes); // (B, heads, L, d_head)
            let queries = g.rotary(&own.queries, &rotation);
            let keys = g.rotary(&own.keys, &rotation);
            let mixed = attend_with_memory(g, &memory, i, [&queries, &keys, &own.values], &bias);
            x = after_attention(g, layer, &x, &mixed, &sizes);
            keep(g, i, &own.keys, &own.values);
        });
    }
    for (spec, layers) in specs.outputs.iter().zip([new_keys, new_values]) {
        let layers: Vec<Value> =
            layers.iter().map(|layer| g.reshape(layer, &[&[1], layer.shape()].concat())).collect();
        let all = g.concat(&layers.iter().collect::<Vec<_>>(), 0); // (layers, B, n_kv, L, d_head)
        g.output(spec, &all);
    }
    if let Some((motion, seen)) = &seen {
        let patches = g.slice(&x, 1, 1..1 + geometry.frame_tokens());
        let hidden = g.rms_norm(&patches, &llm.norm, sizes.epsilon);
        let motion = motion.of_hidden(g, &hidden, seen, geometry);
        g.output(&specs.outputs[2], &motion);
    }
    Ok(builder.finish())
}
