//! From latents to the tokens of a frame's block and back, and where those tokens are.

use nextclip_core::Geometry;
use nextclip_core::checkpoint::TransformerConfig;
use nextclip_core::manifest::Dtype;
use nextclip_core::position::{Rotary, TableTooSmall, centre_crop, timestep_frequencies};
use nextclip_core::sequence::{Role, level};

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

/// Output patches (F, S, p * p * c), laid out (p_row, p_column, channel) -> latents (F, c, h, w).
pub(super) fn latents_of_patches(g: &mut GraphBuilder, patches: &Value, geometry: &Geometry) -> Value {
    let (frames, c, p) = (patches.size(0), geometry.latent_channels, geometry.patch);
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
        let (batch, count, tokens) = (frames.size(0), frames.size(1), self.block_tokens);
        let length = g.index(tokens as i64);
        let first = g.mul(frames, &length);
        let first = g.reshape(&first, &[batch, count, 1]);
        let offsets = g.indices(&(0..tokens as i64).collect::<Vec<_>>());
        let positions = g.add(&first, &offsets);
        let positions = g.reshape(&positions, &[batch, count * tokens]);
        Rotation { positions, cos: self.cos.clone(), sin: self.sin.clone() }
    }
}

/// The bias that hides, within one block or clip of `blocks` blocks, what a token may not see: (T, T).
/// It is made from the tokens' levels, since a table would be as large as the scores.
pub(super) fn block_bias(g: &mut GraphBuilder, role: Role, blocks: usize, geometry: &Geometry) -> Value {
    let tokens = geometry.block_tokens();
    let levels: Vec<f32> =
        (0..blocks * tokens).map(|token| f32::from(level(role, token % tokens, tokens))).collect();
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
