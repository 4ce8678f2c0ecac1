//! From latents to the tokens of a frame's block and back, and where those tokens are.

use std::ops::Range;

use nextclip_core::Geometry;
use nextclip_core::checkpoint::TransformerConfig;
use nextclip_core::manifest::Dtype;
use nextclip_core::position::{Rotary, TableTooSmall, centre_crop, timestep_frequencies};

use super::transformer::{TimestepMlp, Transformer};
use crate::onnx::{GraphBuilder, Layout, Linear, Rotation, Value};

/// What a masked score is lowered by: enough for a weight of exactly 0, and finite in half precision.
const MASKED: f32 = 30_000.0;

/// Latents (F, c, h, w) -> tokens (F, S, d): patches through a linear layer, plus their place in the frame.
pub(super) fn patch_tokens(
    g: &mut GraphBuilder,
    latents: &Value,
    embedder: &Linear,
    positions: &Value,
    geometry: &Geometry,
) -> Value {
    let (frames, c, p) = (latents.size(0), geometry.latent_channels, geometry.patch);
    let (rows, columns) = (geometry.token_rows(), geometry.token_columns());
    let cells = g.reshape(latents, &[frames, c, rows, p, columns, p]);
    let patches = g.transpose(&cells, &[0, 2, 4, 1, 3, 5]); // (F, rows, columns, c, p, p)
    let patches = g.reshape(&patches, &[frames, rows * columns, c * p * p]);
    let tokens = g.linear(&patches, embedder);
    g.add(&tokens, positions)
}

/// Output patches (F, S, p * p * channels), laid out (p_row, p_column, channel) -> latents, or whatever is of their
/// cells, (F, channels, h, w).
pub(super) fn latents_of_patches(g: &mut GraphBuilder, patches: &Value, geometry: &Geometry) -> Value {
    let (frames, p) = (patches.size(0), geometry.patch);
    let c = patches.size(2) / (p * p);
    let (rows, columns) = (geometry.token_rows(), geometry.token_columns());
    let cells = g.reshape(patches, &[frames, rows, columns, p, p, c]);
    let cells = g.transpose(&cells, &[0, 5, 1, 3, 2, 4]); // (F, c, rows, p, columns, p)
    g.reshape(&cells, &[frames, c, geometry.latent_height(), geometry.latent_width()])
}

/// The centre of the stored sine-cosine table that a frame takes, (S, d).
pub(super) fn patch_positions(
    g: &mut GraphBuilder,
    transformer: &Transformer,
    geometry: &Geometry,
) -> Result<Value, TableTooSmall> {
    let (rows, columns) = (geometry.token_rows(), geometry.token_columns());
    let crop = centre_crop(rows, columns, transformer.pos_embed_side)?;
    let d = transformer.pos_embed.shape()[2];
    let table = transformer.pos_embed.values();
    let values = crop.into_iter().flat_map(|row| table[row * d..(row + 1) * d].iter().copied()).collect();
    Ok(g.table(&format!("pos_embed {rows} x {columns}"), &[rows * columns, d], values))
}

/// A special token's embedding, once a frame: (F, 1, d).
pub(super) fn special_token(g: &mut GraphBuilder, row: &crate::checkpoint::Weight, frames: usize) -> Value {
    let d = row.shape()[1];
    let row = g.weight(row, Layout::AsStored);
    let row = g.in_float(&row);
    g.expand(&row, &[frames, 1, d])
}

/// The sinusoidal features of t (1) through a small network: (1, d).
pub(super) fn timestep(g: &mut GraphBuilder, t: &Value, mlp: &TimestepMlp) -> Value {
    let frequencies = timestep_frequencies();
    let frequencies = g.table("timestep frequencies", &[1, frequencies.len()], frequencies);
    let angles = g.mul(t, &frequencies);
    let (cos, sin) = (g.map("Cos", &angles), g.map("Sin", &angles));
    let features = g.concat(&[&cos, &sin], 1);
    let features = g.in_float(&features);
    let hidden = g.linear(&features, &mlp.first);
    let hidden = g.silu(&hidden);
    g.linear(&hidden, &mlp.second)
}

/// The rotary angles of every position in the window: for each of C + N frames L positions.
pub(super) struct RotaryTable {
    /// ((C + N) * L, d_head / 2).
    cos: Value,
    /// ((C + N) * L, d_head / 2).
    sin: Value,
    block_tokens: usize,
}

impl RotaryTable {
    pub(super) fn new(g: &mut GraphBuilder, config: &TransformerConfig, geometry: &Geometry) -> Self {
        let block_tokens = geometry.block_tokens();
        let positions = (geometry.history + geometry.clip) * block_tokens;
        let (cos, sin) = Rotary::new(config).table(positions);
        let shape = [positions, config.head_dim() / 2];
        Self {
            cos: g.table("rotary cos", &shape, cos),
            sin: g.table("rotary sin", &shape, sin),
            block_tokens,
        }
    }

    /// The rotation of whole blocks whose frames are at `frames` i64 (B, F): of F * L tokens.
    pub(super) fn blocks(&self, g: &mut GraphBuilder, frames: &Value) -> Rotation {
        let positions = self.positions(g, frames, 0..self.block_tokens);
        self.at(positions)
    }

    /// The same where the parts `offsets` of all blocks lie one after another.
    pub(super) fn parts(&self, g: &mut GraphBuilder, frames: &Value, offsets: &[Range<usize>]) -> Rotation {
        let parts: Vec<Value> =
            offsets.iter().map(|offsets| self.positions(g, frames, offsets.clone())).collect();
        let positions = g.concat(&parts.iter().collect::<Vec<_>>(), 1);
        self.at(positions)
    }

    /// Positions of the tokens `offsets` of blocks whose frames are at `frames` i64 (B, F): (B, F * offsets).
    fn positions(&self, g: &mut GraphBuilder, frames: &Value, offsets: Range<usize>) -> Value {
        let (batch, count, tokens) = (frames.size(0), frames.size(1), offsets.len());
        let length = g.index(self.block_tokens as i64);
        let first = g.mul(frames, &length);
        let first = g.reshape(&first, &[batch, count, 1]);
        let offsets = g.indices(&offsets.map(|offset| offset as i64).collect::<Vec<_>>());
        let positions = g.add(&first, &offsets);
        g.reshape(&positions, &[batch, count * tokens])
    }

    fn at(&self, positions: Value) -> Rotation {
        Rotation { positions, cos: self.cos.clone(), sin: self.sin.clone() }
    }
}

/// The bias that hides, among tokens of these levels, what each may not see: (T, T). It is made from the levels, since
/// a table would be as large as the scores.
pub(super) fn level_bias(g: &mut GraphBuilder, levels: impl Iterator<Item = u8>) -> Value {
    let levels: Vec<f32> = levels.map(f32::from).collect();
    let count = levels.len();
    let query = g.table("levels of queries", &[count, 1], levels.clone());
    let key = g.table("levels of keys", &[1, count], levels);
    let above = g.sub(&query, &key); // negative where the key's level is above the query's
    negative_to_bias(g, &above)
}

/// The bias that hides empty slots of the history: `slot_positions` i64 (B, C) -> (B, 1, 1, C * L).
pub(super) fn history_bias(g: &mut GraphBuilder, slot_positions: &Value, geometry: &Geometry) -> Value {
    let (batch, slots, tokens) = (slot_positions.size(0), geometry.history, geometry.block_tokens());
    let positions = g.cast(slot_positions, Dtype::F32);
    let bias = negative_to_bias(g, &positions);
    let bias = g.reshape(&bias, &[batch, slots, 1]);
    let bias = g.expand(&bias, &[batch, slots, tokens]);
    g.reshape(&bias, &[batch, 1, 1, slots * tokens])
}

/// Whole numbers to biases: 0 stays for those from 0 up, those below become -[`MASKED`] or less.
fn negative_to_bias(g: &mut GraphBuilder, x: &Value) -> Value {
    let (zero, masked) = (g.scalar(0.0), g.scalar(MASKED));
    let below = g.zip("Min", x, &zero);
    let bias = g.mul(&below, &masked);
    g.as_type(&bias, g.softmax_type())
}
