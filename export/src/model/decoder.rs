//! The decoder's layers over new tokens that see the remembered history and each other.

use nextclip_core::Geometry;
use nextclip_core::checkpoint::TransformerConfig;
use nextclip_core::manifest::{CacheElement, Dtype};

use super::embed::{RotaryTable, history_bias};
use super::transformer::Layer;
use crate::onnx::{Cached, GraphBuilder, Linear, Rotation, Value};

/// The sizes that layer code needs.
#[derive(Clone, Copy, Debug)]
pub(super) struct Sizes {
    pub(super) heads: usize,
    pub(super) kv_heads: usize,
    pub(super) d_head: usize,
    pub(super) epsilon: f64,
}

impl Sizes {
    pub(super) fn new(config: &TransformerConfig) -> Self {
        Self {
            heads: config.num_attention_heads,
            kv_heads: config.num_key_value_heads,
            d_head: config.head_dim(),
            epsilon: config.rms_norm_eps,
        }
    }

    /// The parts of a fused projection that make queries, keys, values.
    pub(super) fn projections(&self, qkv_proj: &Linear) -> [Linear; 3] {
        let (q, kv) = (self.heads * self.d_head, self.kv_heads * self.d_head);
        [0..q, q..q + kv, q + kv..q + 2 * kv].map(|rows| qkv_proj.rows(rows))
    }
}

/// The remembered frames as a graph reads them.
pub(super) struct Memory {
    /// (layers, B, n_kv, C * L, d_head), not rotated.
    keys: Value,
    /// (layers, B, n_kv, C * L, d_head).
    values: Value,
    /// Where each slot's frame is in the window.
    rotation: Rotation,
    /// (B, 1, 1, C * L): hides empty slots.
    pub(super) bias: Value,
    /// What keys and values are kept as.
    element: CacheElement,
}

impl Memory {
    pub(super) fn new(
        g: &mut GraphBuilder,
        [keys, values, slot_positions]: [&Value; 3],
        table: &RotaryTable,
        geometry: &Geometry,
        element: &CacheElement,
    ) -> Self {
        let bias = history_bias(g, slot_positions, geometry);
        // An empty slot's rotation does not matter, but its index must exist.
        let first = g.index(0);
        let frames = g.zip("Max", slot_positions, &first);
        let rotation = table.blocks(g, &frames);
        Self { keys: keys.clone(), values: values.clone(), rotation, bias, element: element.clone() }
    }

    /// The keys of layer `i`, rotated to their places, and `own` ones: (B, n_kv, C * L + K, d_head).
    pub(super) fn keys_with(&self, g: &mut GraphBuilder, i: usize, own: &Value) -> Value {
        let keys = self.layer_keys(g, i);
        g.concat(&[&keys, own], 2)
    }

    /// The values of layer `i` and `own` ones: (B, n_kv, C * L + K, d_head).
    pub(super) fn values_with(&self, g: &mut GraphBuilder, i: usize, own: &Value) -> Value {
        let values = self.layer_values(g, i);
        g.concat(&[&values, own], 2)
    }

    /// The keys of layer `i`, rotated to their places: (B, n_kv, C * L, d_head).
    pub(super) fn layer_keys(&self, g: &mut GraphBuilder, i: usize) -> Value {
        let keys = self.layer(g, &self.keys, Cached::Keys, i);
        g.rotary(&keys, &self.rotation)
    }

    /// The values of layer `i`: (B, n_kv, C * L, d_head).
    pub(super) fn layer_values(&self, g: &mut GraphBuilder, i: usize) -> Value {
        self.layer(g, &self.values, Cached::Values, i)
    }

    /// Converted a layer at a time: the whole cache in floats would be the memory that was saved.
    fn layer(&self, g: &mut GraphBuilder, all: &Value, what: Cached, i: usize) -> Value {
        let index = g.index(i as i64);
        let one = g.gather(all, &index);
        g.from_cache(&one, what, i, &self.element)
    }

    /// The keys of all layers, rotated to their places, and the values: (layers, B, n_kv, C * L, d_head). `None` where
    /// they are not kept in floats.
    pub(super) fn all_layers(&self, g: &mut GraphBuilder) -> Option<[Value; 2]> {
        if self.element.dtype() != Dtype::F32 {
            return None;
        }
        let [layers, batch, heads, tokens, d_head] = [0, 1, 2, 3, 4].map(|axis| self.keys.size(axis));
        let positions = g.expand(&self.rotation.positions, &[layers, batch, tokens]);
        let positions = g.reshape(&positions, &[layers * batch, tokens]);
        let keys = g.reshape(&self.keys, &[layers * batch, heads, tokens, d_head]);
        let keys = g.rotary(&keys, &Rotation { positions, ..self.rotation.clone() });
        Some([g.reshape(&keys, self.keys.shape()), self.values.clone()])
    }

    /// n_kv.
    pub(super) fn heads(&self) -> usize {
        self.keys.size(2)
    }

    /// C * L.
    pub(super) fn tokens(&self) -> usize {
        self.keys.size(3)
    }

    /// d_head.
    pub(super) fn d_head(&self) -> usize {
        self.keys.size(4)
    }
}

/// Queries, keys and values of tokens, each (B, heads, T, d_head), none of them rotated.
pub(super) struct Heads {
    pub(super) queries: Value,
    pub(super) keys: Value,
    pub(super) values: Value,
}

/// x (B, T, d), normalised -> heads of all three kinds. Each kind is a product of its own: to split the product of
/// all three costs a copy.
pub(super) fn heads(g: &mut GraphBuilder, x: &Value, qkv_proj: &Linear, sizes: &Sizes) -> Heads {
    let queries = queries(g, x, qkv_proj, sizes);
    let [keys, values] = keys_and_values(g, x, qkv_proj, sizes);
    Heads { queries, keys, values }
}

/// x (B, T, d), normalised -> heads of queries only.
pub(super) fn queries(g: &mut GraphBuilder, x: &Value, qkv_proj: &Linear, sizes: &Sizes) -> Value {
    let [rows, _, _] = sizes.projections(qkv_proj);
    let queries = g.linear(x, &rows);
    by_head(g, &queries, sizes.d_head)
}

/// x (B, T, d), normalised -> heads of keys and of values only.
pub(super) fn keys_and_values(
    g: &mut GraphBuilder,
    x: &Value,
    qkv_proj: &Linear,
    sizes: &Sizes,
) -> [Value; 2] {
    let [_, keys, values] = sizes.projections(qkv_proj);
    [keys, values].map(|layer| {
        let part = g.linear(x, &layer);
        by_head(g, &part, sizes.d_head)
    })
}

/// (B, T, heads * d_head) -> (B, heads, T, d_head).
pub(super) fn by_head(g: &mut GraphBuilder, x: &Value, d_head: usize) -> Value {
    let [batch, tokens, width] = [0, 1, 2].map(|axis| x.size(axis));
    let x = g.reshape(x, &[batch, tokens, width / d_head, d_head]);
    g.transpose(&x, &[0, 2, 1, 3])
}

/// Rotated queries over the memory of layer `i` followed by the tokens' own rotated keys; `bias` covers
/// both, in that order. Returns (B, T, n_head * d_head).
pub(super) fn attend_with_memory(
    g: &mut GraphBuilder,
    memory: &Memory,
    i: usize,
    [queries, keys, values]: [&Value; 3],
    bias: &Value,
) -> Value {
    let (keys, values) = (memory.keys_with(g, i, keys), memory.values_with(g, i, values));
    g.attention(queries, &keys, &values, Some(bias))
}

/// The bias over history and own tokens together: (B, 1, 1, C * L) and (T or 1, K) -> (B, 1, T or 1, C * L + K).
pub(super) fn joint_bias(g: &mut GraphBuilder, memory: &Memory, own: &Value) -> Value {
    let (batch, past) = (memory.bias.size(0), memory.bias.size(3));
    let (tokens, keys) = (own.size(0), own.size(1));
    let past = g.expand(&memory.bias, &[batch, 1, tokens, past]);
    let own = g.reshape(own, &[1, 1, tokens, keys]);
    let own = g.expand(&own, &[batch, 1, tokens, keys]);
    g.concat(&[&past, &own], 3)
}

/// What follows attention in a layer: x (B, T, d) and the attention's (B, T, n_head * d_head) -> (B, T, d).
pub(super) fn after_attention(
    g: &mut GraphBuilder,
    layer: &Layer,
    x: &Value,
    mixed: &Value,
    sizes: &Sizes,
) -> Value {
    let attended = g.linear(mixed, &layer.o_proj);
    let x = g.add(x, &attended);
    let h = g.rms_norm(&x, &layer.post_attention_layernorm, sizes.epsilon);
    let rows = layer.gate_up_proj.weight.shape()[0];
    let [gate, up] = [0..rows / 2, rows / 2..rows].map(|rows| g.linear(&h, &layer.gate_up_proj.rows(rows)));
    let gate = g.silu(&gate);
    let h = g.mul(&gate, &up);
    let h = g.linear(&h, &layer.down_proj);
    g.add(&x, &h)
}

/// Frame numbers first, first + 1, ... for `position` i64 (B): (B, frames).
pub(super) fn frames_from(g: &mut GraphBuilder, position: &Value, frames: usize) -> Value {
    let first = g.reshape(position, &[position.size(0), 1]);
    let offsets = g.indices(&(0..frames as i64).collect::<Vec<_>>());
    g.add(&first, &offsets)
}

/// Zeros where nothing is hidden: (1, keys).
pub(super) fn open_bias(g: &mut GraphBuilder, keys: usize) -> Value {
    let open = g.table("nothing hidden", &[1, keys], vec![0.0; keys]);
    g.as_type(&open, g.softmax_type())
}
