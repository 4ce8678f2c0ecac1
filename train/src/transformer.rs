//! The decoder transformer over interleaved clean and noisy clips, as it is trained.
//!
//! The published sequence interleaves the blocks; since position ids and mask are what they are wherever
//! a block stands, all clean blocks come first here, and each clip attends to just the keys that its mask
//! leaves: half the work of one masked sequence, the same result (a test holds it against the mask).

use nextclip_core::checkpoint::{TokenIds, TransformerConfig};
use nextclip_core::position::{self, Rotary, TableTooSmall};
use nextclip_core::{Geometry, Motion};
use tch::{Device, Kind, Tensor};

use crate::attention::Layout;
use crate::following::RESPONSE;
use crate::motion;
use crate::params::{Init, Params, Scope, Spec};

/// Side of the position table in a new checkpoint, in patches: frames up to 512 pixels.
const TABLE_SIDE: usize = 32;
const FINAL_NORM_EPS: f64 = 1e-6;

/// Rows of the three special tokens in a checkpoint that nextclip trains.
pub const TOKEN_IDS: TokenIds = TokenIds { img: 0, img_end: 1, diffusion: 2 };

/// The transformer that nextclip trains by default: 5.3 million parameters.
pub fn small_config() -> TransformerConfig {
    TransformerConfig {
        model_type: "phi3".into(),
        vocab_size: 3,
        hidden_size: 256,
        intermediate_size: 704,
        num_hidden_layers: 6,
        num_attention_heads: 4,
        num_key_value_heads: 4,
        rms_norm_eps: 1e-5,
        rope_theta: 10_000.0,
        max_position_embeddings: 4096,
        original_max_position_embeddings: 4096,
        rope_scaling: None,
        nextclip: None,
    }
}

/// Every tensor of the transformer, but those of [`motion::motion_specs`]. Layers that write to the residual stream, and the
/// output, start small.
pub fn specs(config: &TransformerConfig, geometry: &Geometry) -> Vec<Spec> {
    let (d, ff) = (config.hidden_size, config.intermediate_size);
    let patch = [d, geometry.latent_channels, geometry.patch, geometry.patch];
    let patch_values: usize = patch[1..].iter().product();
    let kv_rows = config.num_key_value_heads * config.head_dim();
    let residual = 0.02 / (2.0 * config.num_hidden_layers as f64).sqrt();
    let mut specs = Vec::new();
    let mut add = |name: &str, shape: &[usize], init: Init| {
        let shape = shape.iter().map(|&side| side as i64).collect();
        specs.push(Spec { name: name.to_owned(), shape, init });
    };
    for embedder in ["x_embedder", "input_x_embedder"] {
        let std = (1.0 / patch_values as f64).sqrt();
        add(&format!("{embedder}.proj.weight"), &patch, Init::Normal(0.5 * std));
        add(&format!("{embedder}.proj.bias"), &[d], Init::Zeros);
    }
    add(
        "pos_embed",
        &[1, TABLE_SIDE * TABLE_SIDE, d],
        Init::Fixed(position::sine_cosine_table(TABLE_SIDE, d)),
    );
    for embedder in ["time_token", "t_embedder"] {
        add(&format!("{embedder}.mlp.0.weight"), &[d, position::TIMESTEP_FEATURES], Init::Normal(0.02));
        add(&format!("{embedder}.mlp.0.bias"), &[d], Init::Zeros);
        add(&format!("{embedder}.mlp.2.weight"), &[d, d], Init::Normal(0.02));
        add(&format!("{embedder}.mlp.2.bias"), &[d], Init::Zeros);
    }
    add("llm.embed_tokens.weight", &[config.vocab_size, d], Init::Normal(0.5));
    for i in 0..config.num_hidden_layers {
        let layer = format!("llm.layers.{i}");
        let attention = format!("{layer}.self_attn");
        add(&format!("{layer}.input_layernorm.weight"), &[d], Init::Ones);
        add(&format!("{attention}.qkv_proj.weight"), &[d + 2 * kv_rows, d], Init::Normal(0.04));
        add(&format!("{attention}.o_proj.weight"), &[d, d], Init::Normal(residual));
        add(&format!("{layer}.post_attention_layernorm.weight"), &[d], Init::Ones);
        add(&format!("{layer}.mlp.gate_up_proj.weight"), &[2 * ff, d], Init::Normal(0.04));
        add(&format!("{layer}.mlp.down_proj.weight"), &[d, ff], Init::Normal(residual));
    }
    add("llm.norm.weight", &[d], Init::Ones);
    add("final_layer.linear.weight", &[patch_values, d], Init::Normal(0.01));
    add("final_layer.linear.bias", &[patch_values], Init::Zeros);
    add("final_layer.adaLN_modulation.1.weight", &[2 * d, d], Init::Normal(0.01));
    add("final_layer.adaLN_modulation.1.bias", &[2 * d], Init::Zeros);
    specs
}

/// What a pass gives for the noisy frames, single precision.
#[derive(Debug)]
pub struct Estimate {
    /// Clean latents, (B, F', c, h, w).
    pub x1: Tensor,
    /// Where the cells of the clean frames are at the moments of each, (B, H, M, m, h, w), where the model says so.
    pub motion: Option<Tensor>,
}

impl Estimate {
    /// Of the first `count` sequences alone.
    pub fn narrow(&self, count: i64) -> Self {
        let first = |x: &Tensor| x.narrow(0, 0, count);
        Self { x1: first(&self.x1), motion: self.motion.as_ref().map(first) }
    }
}

/// What a pass reads.
#[derive(Debug)]
pub struct Sequence<'a> {
    /// Noisy latents of the frames to be estimated, (B, F', c, h, w): all F frames, or all but the first
    /// clip's, which has no history to be estimated from.
    pub noisy: &'a Tensor,
    /// Clean (slightly noised) latents of all frames but the last clip's, (B, F - last clip, c, h, w).
    pub clean: &'a Tensor,
    /// Cost volumes of the clean frames, (B, F - last clip, costs, h, w), which a model with motion reads.
    pub costs: Option<&'a Tensor>,
    /// Timestep of every noisy frame, (B, F').
    pub t: &'a Tensor,
    /// Sizes of the clips, in frames; their sum is F.
    pub clip_sizes: &'a [usize],
}

/// The transformer's forward pass over its parameters.
#[derive(Debug)]
pub struct Transformer<'a> {
    config: &'a TransformerConfig,
    geometry: &'a Geometry,
    params: &'a Params,
    motion: Option<Motion>,
    /// Indices into the position table, (S).
    patches: Tensor,
    device: Device,
}

impl<'a> Transformer<'a> {
    /// A view of `params`, which were made by [`specs`] of the same config and geometry.
    pub fn new(
        config: &'a TransformerConfig,
        geometry: &'a Geometry,
        params: &'a Params,
        device: Device,
    ) -> Result<Self, TableTooSmall> {
        let rows = position::centre_crop(geometry.token_rows(), geometry.token_columns(), TABLE_SIDE)?;
        let rows: Vec<i64> = rows.into_iter().map(|row| row as i64).collect();
        Ok(Self {
            config,
            geometry,
            params,
            motion: None,
            patches: Tensor::from_slice(&rows).to_device(device),
            device,
        })
    }

    /// The same model with the motion that `params` have the tensors of.
    pub fn with_motion(self, motion: Option<Motion>) -> Self {
        Self { motion, ..self }
    }

    /// Sizes of the motion, where there is one.
    pub fn motion(&self) -> Option<Motion> {
        self.motion
    }

    /// How corrections of where things were move where they go, (M, F), where things are followed.
    pub fn response(&self) -> Option<&Tensor> {
        let follows = self.motion.is_some_and(|motion| motion.earlier > 0);
        follows.then(|| self.params.root().full(RESPONSE))
    }

    /// Pixels along an axis that a latent's cell stands for.
    pub fn pixels_per_cell(&self) -> f64 {
        self.geometry.vae_scale as f64
    }

    /// Estimates of the noisy frames, and where the cells of the clean ones go.
    pub fn forward(&self, sequence: &Sequence<'_>) -> Estimate {
        let root = self.params.root();
        let (batch, frames) = (sequence.noisy.size()[0], sequence.noisy.size()[1]);
        let history = sequence.clean.size()[1];
        let features = self.timestep_features(sequence.t);

        let seen = self.motion.and(sequence.costs).map(|costs| motion::seen(self.params, costs));
        let noisy = {
            let token = self.special(TOKEN_IDS.diffusion, batch, frames);
            let time = mlp(&root.pp("time_token"), &features).unsqueeze(2).to_kind(Kind::Float);
            let patches = self.embed("x_embedder", sequence.noisy);
            Tensor::cat(&[token, time, patches], 2) // (B, F', L, d)
        };
        let clean = {
            let [open, close] = [TOKEN_IDS.img, TOKEN_IDS.img_end].map(|id| self.special(id, batch, history));
            let mut patches = self.embed("input_x_embedder", sequence.clean);
            if let Some(seen) = &seen {
                patches += motion::stem(self.params, seen, self.geometry.patch, batch);
            }
            Tensor::cat(&[open, patches, close], 2) // (B, H, L, d)
        };
        let clean_tokens = history * self.block();
        let mut x = Tensor::cat(&[clean.flatten(1, 2), noisy.flatten(1, 2)], 1); // (B, T, d)

        let skipped = sequence.clip_sizes.iter().sum::<usize>() as i64 - frames;
        let layout = Layout::new(
            sequence.clip_sizes,
            skipped as usize,
            self.geometry.block_tokens(),
            self.params.compute(),
            self.device,
        );
        let angles = self.angles(history, skipped, frames);
        let last = self.config.num_hidden_layers - 1;
        for i in 0..=last {
            // But for motion nobody reads the last layer's history: of it only keys and values are needed.
            let skip = if i == last && self.motion.is_none() { clean_tokens } else { 0 };
            x = self.layer(&root.pp("llm.layers").pp(i), &x, skip, &layout, &angles);
        }
        let x = self.rms_norm(&root.pp("llm.norm"), &x);
        let tokens = x.size()[1];
        let blocks = |first: i64, frames: i64, offset: i64| {
            let part = x.narrow(1, first, frames * self.block()).reshape([batch, frames, self.block(), -1]);
            part.narrow(2, offset, self.block() - 2) // (B, F, S, d)
        };
        let noisy = frames * self.block();
        Estimate {
            x1: self.final_layer(&blocks(tokens - noisy, frames, 2), &features),
            motion: self.motion.map(|motion| {
                let cells =
                    root.pp("motion.linear").linear(&blocks(0, history, 1), true).to_kind(Kind::Float);
                let sizes =
                    [motion.moments(self.geometry.clip).len(), motion.channels()].map(|size| size as i64);
                let said = self.cells(&cells, sizes[0] * sizes[1]);
                let motion = match &seen {
                    Some(seen) if motion.refined => motion::refined(self.params, &said, seen),
                    _ => said,
                };
                motion.unflatten(2, sizes.as_slice())
            }),
        }
    }

    fn layer(&self, scope: &Scope<'_>, x: &Tensor, skip: i64, layout: &Layout, angles: &Angles) -> Tensor {
        let tokens = x.size()[1];
        let normed = self.rms_norm(&scope.pp("input_layernorm"), x);
        let attended = self.attention(&scope.pp("self_attn"), &normed, skip, layout, angles);
        let x = x.narrow(1, skip, tokens - skip) + attended;
        let normed = self.rms_norm(&scope.pp("post_attention_layernorm"), &x);
        let gate_up = scope.pp("mlp.gate_up_proj").linear(&normed, false).chunk(2, -1);
        let down = scope.pp("mlp.down_proj").linear(&(gate_up[0].silu() * &gate_up[1]), false);
        x + down
    }

    fn attention(
        &self,
        scope: &Scope<'_>,
        x: &Tensor,
        skip: i64,
        layout: &Layout,
        angles: &Angles,
    ) -> Tensor {
        let (batch, tokens) = (x.size()[0], x.size()[1]);
        let (heads, kv) = (self.config.num_attention_heads as i64, self.config.num_key_value_heads as i64);
        let width = self.config.head_dim() as i64;
        let qkv = scope.pp("qkv_proj").linear(x, false).reshape([batch, tokens, heads + 2 * kv, width]);
        let qkv = qkv.transpose(1, 2); // (B, heads, T, d_head)
        let turned = rotate(&qkv.narrow(1, 0, heads + kv), angles);
        let q = turned.narrow(1, 0, heads) * (1.0 / (width as f64).sqrt());
        let k = repeat_heads(&turned.narrow(1, heads, kv), heads / kv);
        let v = repeat_heads(&qkv.narrow(1, heads + kv, kv), heads / kv);

        let out = layout.attend([&q, &k, &v], skip);
        let out = out.transpose(1, 2).reshape([batch, tokens - skip, heads * width]);
        scope.pp("o_proj").linear(&out, false)
    }

    fn final_layer(&self, x: &Tensor, features: &Tensor) -> Tensor {
        let root = self.params.root();
        let scope = root.pp("final_layer");
        let d = self.config.hidden_size as i64;
        let conditioning = mlp(&root.pp("t_embedder"), features).silu();
        let modulation = scope.pp("adaLN_modulation.1").linear(&conditioning, true).unsqueeze(2).chunk(2, -1);
        let x = x.to_kind(Kind::Float).layer_norm([d], None::<Tensor>, None::<Tensor>, FINAL_NORM_EPS, false);
        let x = x * (&modulation[1] + 1.0) + &modulation[0];
        let x = x.to_kind(self.params.compute());
        self.cells(
            &scope.pp("linear").linear(&x, true).to_kind(Kind::Float),
            self.geometry.latent_channels as i64,
        )
    }

    /// Patches (B, F, S, p * p * c), laid out (p_row, p_col, channel), to cells (B, F, c, h, w).
    fn cells(&self, patches: &Tensor, channels: i64) -> Tensor {
        let size = patches.size();
        let p = self.geometry.patch as i64;
        let (rows, columns) = (self.geometry.token_rows() as i64, self.geometry.token_columns() as i64);
        patches
            .reshape([size[0], size[1], rows, columns, p, p, channels])
            .permute([0, 1, 6, 2, 4, 3, 5])
            .reshape([size[0], size[1], channels, rows * p, columns * p])
    }

    /// Latents (B, F, c, h, w) to tokens (B, F, S, d): a convolution of stride p, as a matrix product.
    fn embed(&self, embedder: &str, latents: &Tensor) -> Tensor {
        let scope = self.params.root().pp(embedder).pp("proj");
        let (b, f) = (latents.size()[0], latents.size()[1]);
        let (p, c) = (self.geometry.patch as i64, self.geometry.latent_channels as i64);
        let (rows, columns) = (self.geometry.token_rows() as i64, self.geometry.token_columns() as i64);
        let patches = latents
            .reshape([b, f, c, rows, p, columns, p])
            .permute([0, 1, 3, 5, 2, 4, 6])
            .reshape([b, f, rows * columns, c * p * p]);
        let weight = scope.get("weight").flatten(1, 3);
        let tokens = patches.to_kind(self.params.compute()).linear(&weight, Some(scope.get("bias")));
        tokens.to_kind(Kind::Float) + self.params.root().full("pos_embed").index_select(1, &self.patches)
    }

    /// A special token for every frame, (B, F, 1, d).
    fn special(&self, id: usize, batch: i64, frames: i64) -> Tensor {
        let row = self.params.root().full("llm.embed_tokens.weight").narrow(0, id as i64, 1);
        row.reshape([1, 1, 1, -1]).expand([batch, frames, 1, -1], false)
    }

    /// Features of timesteps (B, F), (B, F, 256).
    fn timestep_features(&self, t: &Tensor) -> Tensor {
        let frequencies = Tensor::from_slice(&position::timestep_frequencies()).to_device(self.device);
        let angles = t.unsqueeze(-1) * frequencies;
        Tensor::cat(&[angles.cos(), angles.sin()], -1).to_kind(self.params.compute())
    }

    /// RMSNorm of the residual stream, cast for the products that follow.
    fn rms_norm(&self, scope: &Scope<'_>, x: &Tensor) -> Tensor {
        let d = self.config.hidden_size as i64;
        let normed = x.rms_norm([d], Some(scope.full("weight")), Some(self.config.rms_norm_eps));
        normed.to_kind(self.params.compute())
    }

    /// Rotary angles of `history` clean blocks, then of `frames` noisy ones that begin at block `first`.
    fn angles(&self, history: i64, first: i64, frames: i64) -> Angles {
        let tokens = (first + frames) * self.block();
        let (cos, sin) = Rotary::new(self.config).table(tokens as usize);
        let table = |values: &[f32]| {
            let all = Tensor::from_slice(values).to_device(self.device).reshape([tokens, -1]);
            let part = |first: i64, blocks: i64| all.narrow(0, first * self.block(), blocks * self.block());
            let all = Tensor::cat(&[part(0, history), part(first, frames)], 0);
            Tensor::cat(&[&all, &all], 1).to_kind(self.params.compute())
        };
        Angles { cos: table(&cos), sin: table(&sin) }
    }

    /// L, tokens of a block.
    fn block(&self) -> i64 {
        self.geometry.block_tokens() as i64
    }
}

/// Cosines and sines of every token's angles, (T, d_head), each half of the head the same.
struct Angles {
    cos: Tensor,
    sin: Tensor,
}

/// Rotate-half: `x cos + [-x2, x1] sin`.
fn rotate(x: &Tensor, angles: &Angles) -> Tensor {
    let halves = x.chunk(2, -1);
    let turned = Tensor::cat(&[-&halves[1], halves[0].shallow_clone()], -1);
    x * &angles.cos + turned * &angles.sin
}

/// Every key or value head for all the query heads that share it.
fn repeat_heads(x: &Tensor, times: i64) -> Tensor {
    if times == 1 { x.shallow_clone() } else { x.repeat_interleave_self_int(times, 1, None) }
}

/// Linear, SiLU, linear: both timestep embedders.
fn mlp(scope: &Scope<'_>, x: &Tensor) -> Tensor {
    let hidden = scope.pp("mlp.0").linear(x, true).silu();
    scope.pp("mlp.2").linear(&hidden, true)
}
