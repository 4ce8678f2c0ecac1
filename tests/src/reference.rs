//! The transformer as the paper runs it, in double precision: one whole masked sequence at every step, no
//! cache, nothing shared with the exporter. Slow, plain, and the test of everything fast.
//!
//! Written from the description of the published model alone: masks, positions, angles and tables are
//! computed here again.

use std::collections::HashMap;
use std::fs;
use std::path::Path;

use anyhow::{Context, bail};
use ndarray::{Array1, Array2, Array3, Array4, Axis, concatenate, s};
use nextclip_core::checkpoint::TransformerConfig;
use safetensors::SafeTensors;

/// What hides a score.
const HIDDEN: f64 = f64::NEG_INFINITY;

/// A checkpoint in double precision.
#[derive(Debug)]
pub struct Reference {
    pub(crate) config: TransformerConfig,
    /// By name; vectors and scalars too are kept flat with their shape.
    tensors: HashMap<String, (Vec<usize>, Vec<f64>)>,
    /// Rows of `<img>`, `</img>` and `<|diffusion|>`.
    tokens: [usize; 3],
}

/// One frame's block: which kind, and its hidden states.
struct Block {
    noisy: bool,
    /// (S + 2, d).
    tokens: Array2<f64>,
}

impl Reference {
    /// Reads `config.json` and `model.safetensors` (F32) of a folder.
    pub fn open(folder: &Path, tokens: [usize; 3]) -> anyhow::Result<Self> {
        let config = serde_json::from_slice(&fs::read(folder.join("config.json"))?)?;
        let bytes = fs::read(folder.join("model.safetensors"))?;
        let mut tensors = HashMap::new();
        for (name, view) in SafeTensors::deserialize(&bytes)?.iter() {
            if view.dtype() != safetensors::Dtype::F32 {
                bail!("{name} is {:?}", view.dtype());
            }
            let (numbers, _) = view.data().as_chunks();
            let values = numbers.iter().map(|bytes| f64::from(f32::from_le_bytes(*bytes))).collect();
            tensors.insert(name.to_owned(), (view.shape().to_vec(), values));
        }
        Ok(Self { config, tensors, tokens })
    }

    /// The estimate of the clean clip (N, c, h, w) for a noisy one at time `t`, after the clean frames
    /// `history` (C, c, h, w), which may be none.
    pub fn x1(&self, history: &Array4<f64>, noisy: &Array4<f64>, t: f64) -> anyhow::Result<Array4<f64>> {
        self.x1_after(history, None, noisy, t)
    }

    /// The same of a model with motion, after frames with `costs` (C, costs, h, w).
    pub fn x1_after(
        &self,
        history: &Array4<f64>,
        costs: Option<&Array4<f64>>,
        noisy: &Array4<f64>,
        t: f64,
    ) -> anyhow::Result<Array4<f64>> {
        let mut blocks = self.clean_blocks(history, costs)?;
        for latent in noisy.outer_iter() {
            blocks.push(self.noisy_block(latent.to_owned(), t)?);
        }
        let block_tokens = blocks[0].tokens.nrows();
        let x = self.hidden(&blocks)?;
        let (_, channels, rows, columns) = noisy.dim();
        let mut clip = Array4::zeros(noisy.raw_dim());
        for (frame, mut latent) in clip.outer_iter_mut().enumerate() {
            let first = (history.dim().0 + frame) * block_tokens + 2;
            let hidden = x.slice(s![first..first + block_tokens - 2, ..]).to_owned();
            let patches = self.final_layer(&hidden, t)?; // (S, p * p * c)
            latent.assign(&self.cells(&patches, [channels, rows, columns])?);
        }
        Ok(clip)
    }

    /// Last hidden states, normalised, of the frame tokens of the newest frame, (S, d).
    pub(crate) fn hidden_of_newest(
        &self,
        history: &Array4<f64>,
        costs: &Array4<f64>,
    ) -> anyhow::Result<Array2<f64>> {
        let blocks = self.clean_blocks(history, Some(costs))?;
        let x = self.hidden(&blocks)?;
        let block_tokens = blocks[0].tokens.nrows();
        let first = (blocks.len() - 1) * block_tokens + 1;
        Ok(x.slice(s![first..first + block_tokens - 2, ..]).to_owned())
    }

    /// Last hidden states of whole blocks, normalised.
    fn hidden(&self, blocks: &[Block]) -> anyhow::Result<Array2<f64>> {
        let block_tokens = blocks[0].tokens.nrows();
        let mask = mask(&blocks.iter().map(|block| block.noisy).collect::<Vec<_>>(), block_tokens);
        let views: Vec<_> = blocks.iter().map(|block| block.tokens.view()).collect();
        let mut x = concatenate(Axis(0), &views)?;
        for layer in 0..self.config.num_hidden_layers {
            x = self.layer(layer, &x, &mask)?;
        }
        self.rms_norm(&x, "llm.norm.weight")
    }

    /// Patches (S, p * p * channels), laid out (p_row, p_column, channel), as cells (channels, h, w).
    pub(crate) fn cells(
        &self,
        patches: &Array2<f64>,
        [channels, rows, columns]: [usize; 3],
    ) -> anyhow::Result<Array3<f64>> {
        let patch = self.patch()?;
        let mut cells = Array3::zeros((channels, rows, columns));
        for (i, values) in patches.outer_iter().enumerate() {
            let (row, column) = (i / (columns / patch), i % (columns / patch));
            for (j, value) in values.iter().enumerate() {
                let (p_row, p_column, channel) = (j / channels / patch, j / channels % patch, j % channels);
                cells[[channel, row * patch + p_row, column * patch + p_column]] = *value;
            }
        }
        Ok(cells)
    }

    /// Euler steps along `times` (K + 1 of them, from 0 to 1) from noise. Velocities are guided as the
    /// paper guides them.
    pub fn sample(
        &self,
        history: &Array4<f64>,
        noise: &Array4<f64>,
        times: &[f64],
        guidance: f64,
    ) -> anyhow::Result<Array4<f64>> {
        let nothing = history.slice(s![0..0, .., .., ..]).to_owned();
        let mut z = noise.clone();
        for pair in times.windows(2) {
            let (t, t_next) = (pair[0], pair[1]);
            let conditional = (self.x1(history, &z, t)? - &z) / (1.0 - t);
            let velocity = if guidance == 1.0 {
                conditional
            } else {
                let unconditional = (self.x1(&nothing, &z, t)? - &z) / (1.0 - t);
                &unconditional + guidance * (conditional - &unconditional)
            };
            z = z + (t_next - t) * velocity;
        }
        Ok(z)
    }

    fn clean_blocks(&self, history: &Array4<f64>, costs: Option<&Array4<f64>>) -> anyhow::Result<Vec<Block>> {
        let costs = |frame| costs.map(|costs| costs.index_axis(Axis(0), frame).to_owned());
        let blocks = history.outer_iter().enumerate();
        blocks.map(|(frame, latent)| self.clean_block(latent.to_owned(), costs(frame))).collect()
    }

    fn clean_block(&self, latent: Array3<f64>, costs: Option<Array3<f64>>) -> anyhow::Result<Block> {
        let [img, img_end, _] = self.tokens;
        let mut frame = self.patch_tokens("input_x_embedder", &latent)?;
        if let Some(costs) = costs {
            frame += &self.stem(&costs)?;
        }
        let (img, img_end) = (self.token(img)?, self.token(img_end)?);
        Ok(Block { noisy: false, tokens: concatenate(Axis(0), &[img.view(), frame.view(), img_end.view()])? })
    }

    fn noisy_block(&self, latent: Array3<f64>, t: f64) -> anyhow::Result<Block> {
        let frame = self.patch_tokens("x_embedder", &latent)?;
        let diffusion = self.token(self.tokens[2])?;
        let time = self.timestep("time_token", t)?.insert_axis(Axis(0));
        Ok(Block {
            noisy: true,
            tokens: concatenate(Axis(0), &[diffusion.view(), time.view(), frame.view()])?,
        })
    }

    /// One convolution of stride p, and the centre of the position table.
    fn patch_tokens(&self, embedder: &str, latent: &Array3<f64>) -> anyhow::Result<Array2<f64>> {
        let (shape, weight) = self.tensor(&format!("{embedder}.proj.weight"))?;
        let bias = self.vector(&format!("{embedder}.proj.bias"))?;
        let (d, channels, patch) = (shape[0], shape[1], shape[2]);
        let (_, rows, columns) = latent.dim();
        let (rows, columns) = (rows / patch, columns / patch);
        let (table_shape, table) = self.tensor("pos_embed")?;
        let side = (table_shape[1] as f64).sqrt() as usize;
        let (top, left) = ((side - rows) / 2, (side - columns) / 2);
        let mut tokens = Array2::zeros((rows * columns, d));
        for ((token, feature), value) in tokens.indexed_iter_mut() {
            let (row, column) = (token / columns, token % columns);
            let mut sum = bias[feature] + table[((top + row) * side + left + column) * d + feature];
            for channel in 0..channels {
                for p_row in 0..patch {
                    for p_column in 0..patch {
                        sum += weight[((feature * channels + channel) * patch + p_row) * patch + p_column]
                            * latent[[channel, row * patch + p_row, column * patch + p_column]];
                    }
                }
            }
            *value = sum;
        }
        Ok(tokens)
    }

    fn timestep(&self, embedder: &str, t: f64) -> anyhow::Result<Array1<f64>> {
        let frequencies = (0..128).map(|j| (-(10_000.0_f64).ln() * f64::from(j) / 128.0).exp());
        let angles: Vec<f64> = frequencies.map(|f| t * f).collect();
        let features = angles.iter().map(|a| a.cos()).chain(angles.iter().map(|a| a.sin()));
        let features = Array1::from_iter(features).insert_axis(Axis(0));
        let hidden = self.linear(&features, &format!("{embedder}.mlp.0"), true)?.mapv(silu);
        Ok(self.linear(&hidden, &format!("{embedder}.mlp.2"), true)?.remove_axis(Axis(0)))
    }

    fn layer(&self, index: usize, x: &Array2<f64>, mask: &Array2<f64>) -> anyhow::Result<Array2<f64>> {
        let at = |name: &str| format!("llm.layers.{index}.{name}");
        let h = self.rms_norm(x, &at("input_layernorm.weight"))?;
        let qkv = self.linear(&h, &at("self_attn.qkv_proj"), false)?;
        let mixed = self.attention(&qkv, mask);
        let x = x + self.linear(&mixed, &at("self_attn.o_proj"), false)?;
        let h = self.rms_norm(&x, &at("post_attention_layernorm.weight"))?;
        let gate_up = self.linear(&h, &at("mlp.gate_up_proj"), false)?;
        let d_ff = self.config.intermediate_size;
        let gated = gate_up.slice(s![.., ..d_ff]).mapv(silu) * gate_up.slice(s![.., d_ff..]);
        Ok(&x + self.linear(&gated, &at("mlp.down_proj"), false)?)
    }

    fn attention(&self, qkv: &Array2<f64>, mask: &Array2<f64>) -> Array2<f64> {
        let config = &self.config;
        let (heads, kv_heads) = (config.num_attention_heads, config.num_key_value_heads);
        let d_head = config.hidden_size / heads;
        let column = |head: usize| qkv.slice(s![.., head * d_head..(head + 1) * d_head]).to_owned();
        let mut mixed = Array2::zeros((qkv.nrows(), heads * d_head));
        for head in 0..heads {
            let kv_head = head / (heads / kv_heads);
            let queries = self.rotated(column(head));
            let keys = self.rotated(column(heads + kv_head));
            let values = column(heads + kv_heads + kv_head);
            let mut scores = queries.dot(&keys.t()) / (d_head as f64).sqrt() + mask;
            for mut row in scores.rows_mut() {
                let highest = row.fold(f64::NEG_INFINITY, |a, b| a.max(*b));
                row.mapv_inplace(|score| (score - highest).exp());
                let sum = row.sum();
                row /= sum;
            }
            mixed.slice_mut(s![.., head * d_head..(head + 1) * d_head]).assign(&scores.dot(&values));
        }
        mixed
    }

    /// Rotary embedding at positions 0, 1, 2, ... of the whole sequence.
    fn rotated(&self, mut x: Array2<f64>) -> Array2<f64> {
        let config = &self.config;
        let (half, d_head) = (x.ncols() / 2, x.ncols());
        let mut amplitude = 1.0;
        let mut factors = vec![1.0; half];
        if let Some(scaling) = &config.rope_scaling {
            factors.clone_from(&scaling.long_factor);
            let original = config.original_max_position_embeddings as f64;
            let stretch = config.max_position_embeddings as f64 / original;
            if stretch > 1.0 {
                amplitude = (1.0 + stretch.ln() / original.ln()).sqrt();
            }
        }
        for (position, mut row) in x.rows_mut().into_iter().enumerate() {
            for j in 0..half {
                let frequency = config.rope_theta.powf(-2.0 * j as f64 / d_head as f64) / factors[j];
                let (sin, cos) = (position as f64 * frequency).sin_cos();
                let (a, b) = (row[j], row[j + half]);
                row[j] = amplitude * (a * cos - b * sin);
                row[j + half] = amplitude * (b * cos + a * sin);
            }
        }
        x
    }

    fn final_layer(&self, hidden: &Array2<f64>, t: f64) -> anyhow::Result<Array2<f64>> {
        let d = hidden.ncols();
        let condition = self.timestep("t_embedder", t)?.mapv(silu).insert_axis(Axis(0));
        let modulation = self.linear(&condition, "final_layer.adaLN_modulation.1", true)?;
        let (shift, scale) = (modulation.slice(s![0, ..d]), modulation.slice(s![0, d..]));
        let mut modulated = hidden.clone();
        for mut row in modulated.rows_mut() {
            let mean = row.sum() / d as f64;
            let variance = row.fold(0.0, |sum, v| sum + (v - mean).powi(2)) / d as f64;
            row.mapv_inplace(|v| (v - mean) / (variance + 1e-6).sqrt());
            row.zip_mut_with(&scale, |v, scale| *v *= 1.0 + scale);
            row.zip_mut_with(&shift, |v, shift| *v += shift);
        }
        self.linear(&modulated, "final_layer.linear", true)
    }

    fn rms_norm(&self, x: &Array2<f64>, name: &str) -> anyhow::Result<Array2<f64>> {
        let weight = self.vector(name)?;
        let mut normal = x.clone();
        for mut row in normal.rows_mut() {
            let mean_square = row.fold(0.0, |sum, v| sum + v * v) / row.len() as f64;
            let root = (mean_square + self.config.rms_norm_eps).sqrt();
            row.zip_mut_with(&weight, |v, weight| *v = *v / root * weight);
        }
        Ok(normal)
    }

    pub(crate) fn linear(&self, x: &Array2<f64>, at: &str, with_bias: bool) -> anyhow::Result<Array2<f64>> {
        let (shape, values) = self.tensor(&format!("{at}.weight"))?;
        let weight = Array2::from_shape_vec((shape[0], shape[1]), values.clone())?;
        let mut y = x.dot(&weight.t());
        if with_bias {
            y += &self.vector(&format!("{at}.bias"))?;
        }
        Ok(y)
    }

    fn token(&self, id: usize) -> anyhow::Result<Array2<f64>> {
        let (shape, values) = self.tensor("llm.embed_tokens.weight")?;
        let d = shape[1];
        Ok(Array2::from_shape_vec((1, d), values[id * d..(id + 1) * d].to_vec())?)
    }

    pub(crate) fn patch(&self) -> anyhow::Result<usize> {
        Ok(self.tensor("x_embedder.proj.weight")?.0[2])
    }

    pub(crate) fn vector(&self, name: &str) -> anyhow::Result<Array1<f64>> {
        Ok(Array1::from_vec(self.tensor(name)?.1.clone()))
    }

    pub(crate) fn tensor(&self, name: &str) -> anyhow::Result<&(Vec<usize>, Vec<f64>)> {
        self.tensors.get(name).with_context(|| format!("no tensor {name}"))
    }
}

pub(crate) fn silu(x: f64) -> f64 {
    x / (1.0 + (-x).exp())
}

/// Who sees whom, rule by rule: 0 or [`HIDDEN`] for (query, key).
fn mask(noisy: &[bool], block_tokens: usize) -> Array2<f64> {
    let tokens = noisy.len() * block_tokens;
    let last = block_tokens - 1;
    Array2::from_shape_fn((tokens, tokens), |(query, key)| {
        let (q_block, q) = (query / block_tokens, query % block_tokens);
        let (k_block, k) = (key / block_tokens, key % block_tokens);
        let sees = match (noisy[q_block], noisy[k_block]) {
            (false, true) => false,
            // History is all earlier frames, whole.
            (true, false) => true,
            (false, false) if k_block < q_block => true,
            (false, false) if k_block > q_block => false,
            // Within a clean frame: <img> sees itself, frame tokens all but </img>, </img> everything.
            (false, false) => match q {
                0 => k == 0,
                q if q == last => true,
                _ => k < last,
            },
            // Within a noisy clip: the same offsets of every block.
            (true, true) => match q {
                0 => k == 0,
                1 => k <= 1,
                _ => true,
            },
        };
        if sees { 0.0 } else { HIDDEN }
    })
}
