//! Attention of a clip over history and itself, with its products in 8-bit integers.
//!
//! What would be work on every score is avoided: a bias that is the same for all rows is part of the product, so that
//! only the few tokens before the frames' own need a mask. Queries, keys and values are quantised before they are
//! copied, the history's for all layers at once.

use std::ops::Range;

use super::decoder::Memory;
use crate::onnx::{Beside, GraphBuilder, Integers, Value};

/// What the products of a layer are known by, and the ranges of their operands.
struct Sites {
    /// Rotated queries.
    queries: String,
    /// Rotated keys, of history and clip.
    keys: String,
    /// Values, of history and clip.
    values: String,
    scores: String,
    mix: String,
}

impl Sites {
    fn of_layer(i: usize) -> Self {
        let [queries, keys, values, scores, mix] = ["queries", "keys", "values", "scores", "mix"]
            .map(|part| format!("llm.layers.{i}.self_attn.{part}"));
        Self { queries, keys, values, scores, mix }
    }
}

/// Which of a layer's products are integer ones.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Chosen {
    scores: bool,
    mix: bool,
}

/// Attention in integers for the layers that were chosen, or in float where the operands are observed.
pub(super) struct IntegerAttention {
    chosen: Vec<Chosen>,
    /// The history's keys, rotated and turned (layers, B, n_kv, d_head, C * L), and values (layers, B, n_kv, C * L,
    /// d_head), where they are kept in floats.
    past: Option<[Value; 2]>,
}

/// Queries that may see the same.
pub(super) struct Rows {
    /// Along the axis of tokens.
    pub(super) range: Range<usize>,
    /// Over history and clip: (B, 1, rows or 1, C * L + K).
    pub(super) bias: Value,
}

impl IntegerAttention {
    /// `None` where all is float, and where heads share keys.
    pub(super) fn new(g: &mut GraphBuilder, memory: &Memory, layers: usize, heads: usize) -> Option<Self> {
        if memory.heads() != heads {
            return None;
        }
        let sites: Vec<Sites> = (0..layers).map(Sites::of_layer).collect();
        let chosen: Vec<Chosen> = sites
            .iter()
            .map(|Sites { queries, keys, values, scores, mix }| Chosen {
                scores: g.takes_integers(scores, &[queries, keys]),
                mix: g.takes_integers(mix, &[values]),
            })
            .collect();
        if chosen.iter().all(|chosen| !chosen.scores && !chosen.mix) && !g.is_observed() {
            return None;
        }
        let names = |part: fn(&Sites) -> &String| sites.iter().map(part).cloned().collect::<Vec<_>>();
        let all = if g.is_observed() { None } else { memory.all_layers(g) };
        let past = all.map(|[keys, values]| {
            let keys = g.many_right_integers(&keys, &names(|sites| &sites.keys), Beside::Anything);
            let values = g.many_right_integers(&values, &names(|sites| &sites.values), Beside::Shares);
            [g.transpose(&keys, &[0, 1, 2, 4, 3]), values]
        });
        Some(Self { chosen, past })
    }

    /// Whether this is how layer `i` attends.
    pub(super) fn takes(&self, g: &GraphBuilder, i: usize) -> bool {
        self.chosen[i].scores || self.chosen[i].mix || g.is_observed()
    }

    /// Rotated heads (B, heads, T, d_head) over history and themselves -> (B, T, heads * d_head).
    pub(super) fn attend(
        &self,
        g: &mut GraphBuilder,
        memory: &Memory,
        i: usize,
        [queries, keys, values]: [&Value; 3],
        rows: &[Rows],
    ) -> Value {
        let sites = Sites::of_layer(i);
        g.observe(&sites.queries, queries);
        let Chosen { scores: integer_scores, mix: integer_mix } = self.chosen[i];
        let (queries, keys) = if integer_scores {
            let params = g.left_params(&sites.queries);
            let turned = |g: &mut GraphBuilder, keys: &Value| {
                let keys = g.right_integers(keys, &sites.keys, Beside::Anything);
                keys.map(|keys| g.transpose(keys, &[0, 1, 3, 2]))
            };
            let past = match &self.past {
                Some([keys, _]) => g.one_of_many(keys, i, &sites.keys, Beside::Anything),
                None => {
                    let keys = memory.layer_keys(g, i);
                    turned(g, &keys)
                }
            };
            let own = turned(g, keys);
            let queries = g.left_integers(queries, params);
            (Operand::Integers(queries), Operand::Integers(g.concat_integers([&past, &own], 3)))
        } else {
            let keys = memory.keys_with(g, i, keys);
            g.observe(&sites.keys, &keys);
            (Operand::Float(queries.clone()), Operand::Float(g.transpose(&keys, &[0, 1, 3, 2])))
        };
        let values = if integer_mix {
            let past = match &self.past {
                Some([_, values]) => g.one_of_many(values, i, &sites.values, Beside::Shares),
                None => {
                    let values = memory.layer_values(g, i);
                    g.right_integers(&values, &sites.values, Beside::Shares)
                }
            };
            let own = g.right_integers(values, &sites.values, Beside::Shares);
            Operand::Integers(g.concat_integers([&past, &own], 2))
        } else {
            let values = memory.values_with(g, i, values);
            g.observe(&sites.values, &values);
            Operand::Float(values)
        };
        let parts: Vec<Value> = rows
            .iter()
            .map(|rows| {
                let scores = g.within(&sites.scores, |g| scores(g, &queries, &keys, rows));
                let weights = g.softmax(&scores);
                g.within(&sites.mix, |g| mix(g, &weights, &values))
            })
            .collect();
        match &parts[..] {
            [only] => only.clone(),
            parts => g.concat(&parts.iter().collect::<Vec<_>>(), 1),
        }
    }
}

/// A side of a product.
enum Operand {
    Integers(Integers),
    Float(Value),
}

/// Weights (B, heads, rows, C * L + K) and values (B, heads, C * L + K, d_head) -> (B, rows, heads * d_head).
fn mix(g: &mut GraphBuilder, weights: &Value, values: &Operand) -> Value {
    let mixed = match values {
        Operand::Integers(values) => {
            let weights = g.left_shares(weights);
            g.integer_product(&weights, values, 1.0, None)
        }
        Operand::Float(values) => g.matmul(weights, values),
    };
    let [batch, heads, tokens, d_head] = [0, 1, 2, 3].map(|axis| mixed.size(axis));
    let mixed = g.transpose(&mixed, &[0, 2, 1, 3]);
    g.reshape(&mixed, &[batch, tokens, heads * d_head])
}

/// Queries (B, heads, T, d_head) and keys (B, heads, d_head, C * L + K) -> of `rows` (B, heads, rows, C * L + K).
fn scores(g: &mut GraphBuilder, queries: &Operand, keys: &Operand, rows: &Rows) -> Value {
    let factor = |d_head: usize| 1.0 / (d_head as f32).sqrt();
    let product = match (queries, keys) {
        (Operand::Integers(queries), Operand::Integers(keys)) => {
            let queries = queries.map(|queries| g.slice(queries, 2, rows.range.clone()));
            let factor = factor(queries.size(3));
            if rows.bias.size(0) == 1 && rows.bias.size(2) == 1 {
                let bias = g.reshape(&rows.bias, &[rows.bias.size(3)]);
                return g.integer_product(&queries, keys, factor, Some(&bias));
            }
            g.integer_product(&queries, keys, factor, None)
        }
        (Operand::Float(queries), Operand::Float(keys)) => {
            let queries = g.slice(queries, 2, rows.range.clone());
            let factor = g.scalar(factor(queries.size(3)));
            let product = g.matmul(&queries, keys);
            g.mul(&product, &factor)
        }
        _ => unreachable!("queries and keys are quantised together"),
    };
    g.add(&product, &rows.bias)
}
