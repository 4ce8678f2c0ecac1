//! The graph of one denoising step: the noisy clip's tokens through the decoder, then an Euler step.

use nextclip_core::Geometry;
use nextclip_core::checkpoint::TransformerConfig;
use nextclip_core::manifest::{CacheShape, Dtype};
use nextclip_core::position::TableTooSmall;
use nextclip_core::sequence::Role;
use nextclip_predictor::{DENOISE, GraphSpecs};

use super::decoder::{
    Memory, Sizes, after_attention, attend_with_memory, frames_from, heads, joint_bias, keys_and_values,
    open_bias, queries,
};
use super::embed::{
    RotaryTable, block_bias, latents_of_patches, patch_positions, patch_tokens, special_token, timestep,
};
use super::transformer::{FinalLayer, Layer, Transformer};
use crate::onnx::{Graph, GraphBuilder, Precision, Rotation, Value};

/// Tokens of a noisy block before those of its frame: `<|diffusion|>` and the time token.
const HEAD_TOKENS: usize = 2;

/// Epsilon of the final layer's LayerNorm.
const LAYER_NORM_EPSILON: f32 = 1e-6;

/// A noisy clip after the remembered frames -> the clip one Euler step cleaner. `guided` adds the branch
/// without history: all products over tokens then serve both branches in one batch.
pub fn denoise(
    transformer: &Transformer,
    config: &TransformerConfig,
    geometry: &Geometry,
    cache: &CacheShape,
    guided: bool,
    precision: &Precision,
) -> Result<Graph, TableTooSmall> {
    let mut g = GraphBuilder::new(DENOISE, precision);
    let specs = GraphSpecs::denoise(geometry, cache, guided);
    let inputs: Vec<Value> = specs.inputs.iter().map(|spec| g.input(spec)).collect();
    let [z, t, t_next, keys, values, slot_positions, position, guidance @ ..] = &inputs[..] else {
        unreachable!("the inputs of {DENOISE} are said in its specs");
    };
    let (batch, frames) = (cache.batch, geometry.clip);
    let (tokens, d) = (frames * geometry.block_tokens(), config.hidden_size);
    let sizes = Sizes::new(config);

    let mut x = noisy_tokens(&mut g, transformer, z, t, geometry)?; // (B * N, L, d)
    x = g.reshape(&x, &[batch, tokens, d]);
    if guided {
        // Attention depends on differences of positions alone, so the branch without history may keep
        // the other's positions. Conditional first.
        x = g.concat(&[&x, &x], 0);
    }

    let table = RotaryTable::new(&mut g, config, geometry);
    let memory = Memory::new(&mut g, [keys, values, slot_positions], &table, geometry, &cache.element);
    let clip_frames = frames_from(&mut g, position, frames);
    let rotation = table.blocks(&mut g, &clip_frames);
    let clip = ClipAttention { memory, rotation, batch, guided, sizes };

    let clip_bias = block_bias(&mut g, Role::Noisy, frames, geometry); // (N * L, N * L)
    let biases = clip.biases(&mut g, &clip_bias);
    let layers = &transformer.llm.layers;
    let last = layers.len() - 1;
    for (i, layer) in layers[..last].iter().enumerate() {
        x = g.within(format!("llm.layers.{i}"), |g| clip.layer(g, i, layer, &x, &biases));
    }
    x = g.within(format!("llm.layers.{last}"), |g| clip.last_layer(g, last, &layers[last], &x, geometry));

    let h = g.rms_norm(&x, &transformer.llm.norm, sizes.epsilon); // (branches * B, N * S, d)
    let t_embedding = timestep(&mut g, t, &transformer.t_embedder);
    let patches = final_layer(&mut g, &h, &t_embedding, &transformer.final_layer);
    let patch_values = patches.size(2);
    let blocks = patches.size(0) * frames;
    let patches = g.reshape(&patches, &[blocks, geometry.frame_tokens(), patch_values]);
    // From here on in single precision: steps along the trajectory add up.
    let patches = g.as_type(&patches, Dtype::F32);
    let x1 = latents_of_patches(&mut g, &patches, geometry); // (branches * B * N, c, h, w)
    let x1 = match guidance.first() {
        Some(scale) => guide(&mut g, &x1, scale),
        None => x1,
    };
    let x1 = g.reshape(&x1, z.shape());
    let z_next = euler_step(&mut g, z, &x1, t, t_next);
    g.output(&specs.outputs[0], &z_next);
    Ok(g.finish())
}

/// z (B, N, c, h, w) -> blocks (B * N, L, d) of `<|diffusion|>`, time token, frame tokens.
fn noisy_tokens(
    g: &mut GraphBuilder,
    transformer: &Transformer,
    z: &Value,
    t: &Value,
    geometry: &Geometry,
) -> Result<Value, TableTooSmall> {
    let blocks = z.size(0) * z.size(1);
    let latents = g.in_float(z);
    let latents = g.reshape(&latents, &[&[blocks], &z.shape()[2..]].concat());
    let positions = patch_positions(g, transformer, geometry)?;
    let frame = patch_tokens(g, &latents, &transformer.x_embedder, &positions, geometry); // (B * N, S, d)
    let d = frame.size(2);
    let diffusion = special_token(g, &transformer.llm.embed_tokens.diffusion, blocks);
    let time = timestep(g, t, &transformer.time_token); // one timestep for all frames: (1, d)
    let time = g.expand(&time, &[blocks, 1, d]);
    Ok(g.concat(&[&diffusion, &time, &frame], 1))
}

/// Attention of the noisy clip's tokens: with history in the first half of the batch, without in the second.
struct ClipAttention {
    memory: Memory,
    /// Of the clip's tokens, N * L a camera.
    rotation: Rotation,
    /// B, without branches.
    batch: usize,
    guided: bool,
    sizes: Sizes,
}

/// What the tokens of a layer may not see.
struct Biases {
    /// Over history and clip, (B, 1, T or 1, C * L + N * L).
    with_history: Value,
    /// Over the clip, (T, N * L), where anything is hidden.
    clip_alone: Option<Value>,
}

impl ClipAttention {
    fn biases(&self, g: &mut GraphBuilder, clip: &Value) -> Biases {
        Biases { with_history: joint_bias(g, &self.memory, clip), clip_alone: Some(clip.clone()) }
    }

    /// A layer over all tokens: (branches * B, N * L, d), in and out.
    fn layer(&self, g: &mut GraphBuilder, i: usize, layer: &Layer, x: &Value, biases: &Biases) -> Value {
        let h = g.rms_norm(x, &layer.input_layernorm, self.sizes.epsilon);
        let own = heads(g, &h, &layer.qkv_proj, &self.sizes);
        let queries = self.rotate(g, &own.queries, &self.rotation);
        let keys = self.rotate(g, &own.keys, &self.rotation);
        let mixed = self.attend(g, i, [&queries, &keys, &own.values], biases);
        after_attention(g, layer, x, &mixed, &self.sizes)
    }

    /// The last layer, whose results only matter for frame tokens: (branches * B, N * L, d) ->
    /// (branches * B, N * S, d). Frame tokens see all of the clip.
    fn last_layer(
        &self,
        g: &mut GraphBuilder,
        i: usize,
        layer: &Layer,
        x: &Value,
        geometry: &Geometry,
    ) -> Value {
        let h = g.rms_norm(x, &layer.input_layernorm, self.sizes.epsilon);
        let [keys, values] = keys_and_values(g, &h, &layer.qkv_proj, &self.sizes);
        let keys = self.rotate(g, &keys, &self.rotation);
        let [x, h] = [x, &h].map(|tokens| frame_tokens(g, tokens, 1, geometry));
        let queries = queries(g, &h, &layer.qkv_proj, &self.sizes);
        let positions = frame_tokens(g, &self.rotation.positions, 1, geometry);
        let rotation = Rotation { positions, ..self.rotation.clone() };
        let queries = self.rotate(g, &queries, &rotation);
        let open = open_bias(g, keys.size(2));
        let biases = Biases { with_history: joint_bias(g, &self.memory, &open), clip_alone: None };
        let mixed = self.attend(g, i, [&queries, &keys, &values], &biases);
        after_attention(g, layer, &x, &mixed, &self.sizes)
    }

    fn rotate(&self, g: &mut GraphBuilder, x: &Value, rotation: &Rotation) -> Value {
        if !self.guided {
            return g.rotary(x, rotation);
        }
        let positions = g.concat(&[&rotation.positions, &rotation.positions], 0);
        g.rotary(x, &Rotation { positions, ..rotation.clone() })
    }

    /// Heads (branches * B, heads, T, d_head), rotated -> (branches * B, T, n_head * d_head).
    fn attend(&self, g: &mut GraphBuilder, i: usize, heads: [&Value; 3], biases: &Biases) -> Value {
        if !self.guided {
            return attend_with_memory(g, &self.memory, i, heads, &biases.with_history);
        }
        let [[q, q_alone], [k, k_alone], [v, v_alone]] =
            heads.map(|part| g.split(part, 0, [self.batch, self.batch]));
        let with = attend_with_memory(g, &self.memory, i, [&q, &k, &v], &biases.with_history);
        let alone = g.attention(&q_alone, &k_alone, &v_alone, biases.clip_alone.as_ref());
        g.concat(&[&with, &alone], 0)
    }
}

/// Of tokens N * L along `axis` those of frames, N * S.
fn frame_tokens(g: &mut GraphBuilder, x: &Value, axis: usize, geometry: &Geometry) -> Value {
    let (before, after) = (&x.shape()[..axis], &x.shape()[axis + 1..]);
    let (frames, tokens) = (geometry.clip, geometry.block_tokens());
    let blocks = g.reshape(x, &[before, &[frames, tokens], after].concat());
    let blocks = g.slice(&blocks, axis + 1, HEAD_TOKENS..tokens);
    g.reshape(&blocks, &[before, &[frames * geometry.frame_tokens()], after].concat())
}

/// Hidden states (B, T, d) and the timestep's embedding (1, d) -> patches (B, T, p * p * c).
fn final_layer(g: &mut GraphBuilder, h: &Value, t_embedding: &Value, layer: &FinalLayer) -> Value {
    let d = h.size(2);
    let condition = g.silu(t_embedding);
    let modulation = g.linear(&condition, &layer.adaln_modulation);
    let [shift, scale] = g.split(&modulation, 1, [d, d]);
    let one = g.scalar(1.0);
    let scale = g.add(&scale, &one);
    let normal = g.layer_norm(h, LAYER_NORM_EPSILON);
    let scaled = g.mul(&normal, &scale);
    let modulated = g.add(&scaled, &shift);
    g.linear(&modulated, &layer.linear)
}

/// `core::sampler::guide` on the two halves of the batch, conditional first.
fn guide(g: &mut GraphBuilder, x1: &Value, scale: &Value) -> Value {
    let half = x1.size(0) / 2;
    let [cond, uncond] = g.split(x1, 0, [half, half]);
    let difference = g.sub(&cond, &uncond);
    let step = g.mul(&difference, scale);
    g.add(&uncond, &step)
}

/// `core::sampler::euler_step`: z + (t_next - t) / (1 - t) (x1 - z).
fn euler_step(g: &mut GraphBuilder, z: &Value, x1: &Value, t: &Value, t_next: &Value) -> Value {
    let one = g.scalar(1.0);
    let (length, left) = (g.sub(t_next, t), g.sub(&one, t));
    let fraction = g.div(&length, &left);
    let towards = g.sub(x1, z);
    let step = g.mul(&towards, &fraction);
    g.add(z, &step)
}
