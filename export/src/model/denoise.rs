//! The graph of one denoising step: the noisy clip's tokens through the decoder, then an Euler step.

use std::ops::Range;

use nextclip_core::Geometry;
use nextclip_core::checkpoint::TransformerConfig;
use nextclip_core::manifest::{CacheShape, Dtype};
use nextclip_core::position::TableTooSmall;
use nextclip_core::sequence::{Role, level};
use nextclip_predictor::{DENOISE, GraphSpecs};

use super::attention::{IntegerAttention, Own, OwnValues, Rows};
use super::decoder::{
    Memory, Sizes, after_attention, attend_with_memory, by_head, frames_from, joint_bias, keys_and_values,
    open_bias, queries,
};
use super::embed::{RotaryTable, latents_of_patches, level_bias, patch_positions, patch_tokens, timestep};
use super::transformer::{FinalLayer, Layer, Transformer};
use crate::onnx::{Graph, GraphBuilder, Layout, Precision, Rotation, Value};

/// Tokens of a noisy block before those of its frame: `<|diffusion|>` and the time token.
const HEAD_TOKENS: usize = 2;

/// The parts of a block's tokens, in the order in which this graph has those of the whole clip: every
/// `<|diffusion|>`, every time token, every frame's own. Who may see the same lies together.
fn parts(geometry: &Geometry) -> [Range<usize>; 3] {
    [0..1, 1..HEAD_TOKENS, HEAD_TOKENS..geometry.block_tokens()]
}

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
    let sizes = Sizes::new(config);

    let mut x = noisy_tokens(&mut g, transformer, z, t, geometry)?; // (B, N * L, d)
    if guided {
        // Attention depends on differences of positions alone, so the branch without history may keep
        // the other's positions. Conditional first.
        x = g.concat(&[&x, &x], 0);
    }

    let table = RotaryTable::new(&mut g, config, geometry);
    let memory = Memory::new(&mut g, [keys, values, slot_positions], &table, geometry, &cache.element);
    let clip_frames = frames_from(&mut g, position, frames);
    let rotation = table.parts(&mut g, &clip_frames, &parts(geometry));
    let layers = &transformer.llm.layers;
    let integers = IntegerAttention::new(&mut g, &memory, layers.len(), sizes.heads);
    let clip = ClipAttention { memory, integers, rotation, batch, guided, sizes };

    let block_tokens = geometry.block_tokens();
    let levels =
        parts(geometry).map(|part| vec![level(Role::Noisy, part.start, block_tokens); frames * part.len()]);
    let clip_bias = level_bias(&mut g, levels.into_iter().flatten()); // (N * L, N * L)
    let biases = clip.biases(&mut g, &clip_bias, frames * HEAD_TOKENS);
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

/// z (B, N, c, h, w) -> tokens (B, N * L, d) in the order of [`parts`].
fn noisy_tokens(
    g: &mut GraphBuilder,
    transformer: &Transformer,
    z: &Value,
    t: &Value,
    geometry: &Geometry,
) -> Result<Value, TableTooSmall> {
    let (batch, frames) = (z.size(0), z.size(1));
    let latents = g.in_float(z);
    let latents = g.reshape(&latents, &[&[batch * frames], &z.shape()[2..]].concat());
    let positions = patch_positions(g, transformer, geometry)?;
    let frame = patch_tokens(g, &latents, &transformer.x_embedder, &positions, geometry); // (B * N, S, d)
    let (tokens, d) = (frames * frame.size(1), frame.size(2));
    let frame = g.reshape(&frame, &[batch, tokens, d]);
    let diffusion = g.weight(&transformer.llm.embed_tokens.diffusion, Layout::AsStored);
    let diffusion = g.in_float(&diffusion);
    let time = timestep(g, t, &transformer.time_token); // one timestep for all frames
    let [diffusion, time] = [diffusion, time].map(|token| g.expand(&token, &[batch, frames, d]));
    Ok(g.concat(&[&diffusion, &time, &frame], 1))
}

/// Attention of the noisy clip's tokens: with history in the first half of the batch, without in the second.
struct ClipAttention {
    memory: Memory,
    integers: Option<IntegerAttention>,
    /// Of the clip's tokens, N * L a camera.
    rotation: Rotation,
    /// B, without branches.
    batch: usize,
    guided: bool,
    sizes: Sizes,
}

/// What a layer's attention begins from.
struct Tokens<'a> {
    layer: &'a Layer,
    /// Those whose queries ask, normalised (branches * B, T, d).
    asking: &'a Value,
    /// Those that are asked, normalised (branches * B, N * L, d).
    all: &'a Value,
    /// Where those are that ask.
    rotation: &'a Rotation,
}

/// What the tokens of a layer may not see.
struct Biases {
    /// Over history and clip, (B, 1, T or 1, C * L + N * L).
    with_history: Value,
    /// The same by rows, for attention in integers.
    by_rows: Vec<Rows>,
    /// Over the clip, (T, N * L), where anything is hidden.
    clip_alone: Option<Value>,
}

impl ClipAttention {
    /// Of the tokens before frames' own, `heads`, and of those: `clip` hides only from the first.
    fn biases(&self, g: &mut GraphBuilder, clip: &Value, heads: usize) -> Biases {
        let tokens = clip.size(0);
        let by_rows = if self.integers.is_some() {
            // They come first and see none of the frames' own.
            let head_bias = g.slice(clip, 0, 0..heads);
            let head_bias = g.slice(&head_bias, 1, 0..heads);
            let biases = [joint_bias(g, &self.memory, &head_bias), self.open_bias(g, tokens)];
            let by_rows = [0..heads, heads..tokens].into_iter().zip(&biases);
            by_rows.map(|(range, bias)| Rows::new(g, &self.memory, range, bias)).collect()
        } else {
            vec![]
        };
        let with_history = joint_bias(g, &self.memory, clip);
        Biases { with_history, by_rows, clip_alone: Some(clip.clone()) }
    }

    /// Of tokens that see all of the clip, but for empty slots all of history: (B, 1, 1, C * L + N * L).
    fn open_bias(&self, g: &mut GraphBuilder, tokens: usize) -> Value {
        let open = open_bias(g, tokens);
        joint_bias(g, &self.memory, &open)
    }

    /// A layer over all tokens: (branches * B, N * L, d), in and out.
    fn layer(&self, g: &mut GraphBuilder, i: usize, layer: &Layer, x: &Value, biases: &Biases) -> Value {
        let h = g.rms_norm(x, &layer.input_layernorm, self.sizes.epsilon);
        let tokens = Tokens { layer, asking: &h, all: &h, rotation: &self.rotation };
        let mixed = self.attend(g, i, &tokens, biases);
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
        let [x, of_frames] = [x, &h].map(|tokens| frame_tokens(g, tokens, 1, geometry));
        let positions = frame_tokens(g, &self.rotation.positions, 1, geometry);
        let rotation = Rotation { positions, ..self.rotation.clone() };
        let bias = self.open_bias(g, h.size(1));
        let whole = 0..of_frames.size(1);
        let by_rows =
            self.integers.iter().map(|_| Rows::new(g, &self.memory, whole.clone(), &bias)).collect();
        let biases = Biases { with_history: bias, by_rows, clip_alone: None };
        let tokens = Tokens { layer, asking: &of_frames, all: &h, rotation: &rotation };
        let mixed = self.attend(g, i, &tokens, &biases);
        after_attention(g, layer, &x, &mixed, &self.sizes)
    }

    /// Heads (branches * B, heads, T, d_head), rotated.
    fn rotate(&self, g: &mut GraphBuilder, x: &Value, rotation: &Rotation) -> Value {
        if !self.guided {
            return g.rotary(x, rotation);
        }
        let positions = g.concat(&[&rotation.positions, &rotation.positions], 0);
        g.rotary(x, &Rotation { positions, ..rotation.clone() })
    }

    /// (branches * B, tokens that ask, n_head * d_head).
    fn attend(&self, g: &mut GraphBuilder, i: usize, tokens: &Tokens<'_>, biases: &Biases) -> Value {
        // In a scope of its own, and called by name: other forms have other nodes.
        let place = format!("llm.layers.{i}.self_attn");
        let mixed = g.within(&place, |g| match &self.integers {
            Some(integers) if integers.takes(g, i) => self.attend_in_integers(g, integers, i, tokens, biases),
            _ => self.attend_in_float(g, i, tokens, biases),
        });
        g.call(&mixed, &format!("{place}.mixed"))
    }

    fn attend_in_float(&self, g: &mut GraphBuilder, i: usize, tokens: &Tokens<'_>, biases: &Biases) -> Value {
        let qkv_proj = &tokens.layer.qkv_proj;
        let queries = queries(g, tokens.asking, qkv_proj, &self.sizes);
        let [keys, values] = keys_and_values(g, tokens.all, qkv_proj, &self.sizes);
        let queries = self.rotate(g, &queries, tokens.rotation);
        let keys = self.rotate(g, &keys, &self.rotation);
        let heads = [&queries, &keys, &values];
        if !self.guided {
            return attend_with_memory(g, &self.memory, i, heads, &biases.with_history);
        }
        let [[q, q_alone], [k, k_alone], [v, v_alone]] = heads.map(|part| self.branches(g, part));
        let with = attend_with_memory(g, &self.memory, i, [&q, &k, &v], &biases.with_history);
        let alone = g.attention(&q_alone, &k_alone, &v_alone, biases.clip_alone.as_ref());
        g.concat(&[&with, &alone], 0)
    }

    fn attend_in_integers(
        &self,
        g: &mut GraphBuilder,
        integers: &IntegerAttention,
        i: usize,
        tokens: &Tokens<'_>,
        biases: &Biases,
    ) -> Value {
        let [of_queries, of_keys, of_values] = self.sizes.projections(&tokens.layer.qkv_proj);
        let (queries, keys) = (g.linear(tokens.asking, &of_queries), g.linear(tokens.all, &of_keys));
        let rotations = [tokens.rotation, &self.rotation];
        if !self.guided {
            let values = integers.own_values(g, i, tokens.all, &of_values);
            let own = Own { queries: &queries, keys: &keys, values, rotations };
            return integers.attend(g, &self.memory, i, &own, &biases.by_rows);
        }
        let values = g.linear(tokens.all, &of_values);
        let parts = [&queries, &keys, &values].map(|part| self.branches(g, part));
        let [[q, q_alone], [k, k_alone], [v, v_alone]] = parts;
        let own = Own { queries: &q, keys: &k, values: OwnValues::Float(v), rotations };
        let with = integers.attend(g, &self.memory, i, &own, &biases.by_rows);
        let [q, k, v] = [&q_alone, &k_alone, &v_alone].map(|part| by_head(g, part, self.sizes.d_head));
        let (q, k) = (g.rotary(&q, rotations[0]), g.rotary(&k, rotations[1]));
        let alone = g.attention(&q, &k, &v, biases.clip_alone.as_ref());
        g.concat(&[&with, &alone], 0)
    }

    /// The branches of (2 * B, ...).
    fn branches(&self, g: &mut GraphBuilder, x: &Value) -> [Value; 2] {
        g.split(x, 0, [self.batch, self.batch])
    }
}

/// Of tokens N * L along `axis` those of frames, N * S: the last of [`parts`].
fn frame_tokens(g: &mut GraphBuilder, x: &Value, axis: usize, geometry: &Geometry) -> Value {
    g.slice(x, axis, geometry.clip * HEAD_TOKENS..x.size(axis))
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
