//! Attention of a clip over history and itself, with its products in 8-bit integers.
//!
//! What would be work on every score is avoided: a bias that is the same for all rows is part of the product, and the few
//! tokens before the frames' own, which see few keys of the clip, have products of their own. Queries, keys and values are
//! quantised before they are brought into the order of heads, the history's for all layers at once.

use std::ops::Range;

use super::decoder::{Memory, by_head};
use crate::onnx::{Beside, GraphBuilder, Integers, Linear, Rotation, Value};

/// Keys are a multiple of so many: with AMX, ONNX Runtime's products take half as long again where columns are left over.
const COLUMNS: usize = 16;

/// The bias of spare keys, which are other keys once more. Beside the key itself such a one weighs e^-20, less than single
/// precision resolves in a sum of theirs. A greater one would end in denormal numbers, at a hundred times a softmax's pace.
const SPARE: f32 = -20.0;

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

/// Queries that may see the same keys of history and clip, the first so many.
pub(super) struct Rows {
    /// Along the axis of tokens.
    range: Range<usize>,
    /// Over the keys that they may see: (B, 1, rows or 1, keys).
    bias: Value,
    /// The same with spare keys, for those that may see all.
    spare_bias: Value,
}

impl Rows {
    /// `bias` is over the history and as many of the clip's keys as any of the rows may see.
    pub(super) fn new(g: &mut GraphBuilder, memory: &Memory, range: Range<usize>, bias: &Value) -> Self {
        let keys = bias.size(3);
        let spare = spare_keys(memory.tokens(), keys - memory.tokens());
        let spare_bias = if spare == 0 {
            bias.clone()
        } else {
            let table =
                g.table(&format!("bias of {spare} spare keys"), &[1, 1, 1, spare], vec![SPARE; spare]);
            let table = g.expand(&table, &[bias.size(0), 1, bias.size(2), spare]);
            g.concat(&[bias, &table], 3)
        };
        Self { range, bias: bias.clone(), spare_bias }
    }
}

/// How many keys of the clip come twice.
fn spare_keys(past: usize, own: usize) -> usize {
    let spare = (past + own).next_multiple_of(COLUMNS) - (past + own);
    if spare <= own { spare } else { 0 }
}

/// The clip's own tokens: queries and keys (B, T, heads * d_head), not rotated, and where they are.
pub(super) struct Own<'a> {
    pub(super) queries: &'a Value,
    pub(super) keys: &'a Value,
    pub(super) values: OwnValues,
    /// Of queries, of keys.
    pub(super) rotations: [&'a Rotation; 2],
}

/// Values (B, T, heads * d_head).
pub(super) enum OwnValues {
    Float(Value),
    Integers(Integers),
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

    /// The values of layer `i`, of tokens x (B, T, d), as its product takes them; `layer` makes them.
    pub(super) fn own_values(&self, g: &mut GraphBuilder, i: usize, x: &Value, layer: &Linear) -> OwnValues {
        if self.chosen[i].mix {
            let site = Sites::of_layer(i).values;
            return OwnValues::Integers(g.linear_right_integers(x, layer, &site, Beside::Shares));
        }
        OwnValues::Float(g.linear(x, layer))
    }

    /// Tokens over history and themselves -> (B, T, heads * d_head).
    pub(super) fn attend(
        &self,
        g: &mut GraphBuilder,
        memory: &Memory,
        i: usize,
        own: &Own<'_>,
        rows: &[Rows],
    ) -> Value {
        let sites = Sites::of_layer(i);
        let queries = g.rotary(own.queries, own.rotations[0]);
        g.observe(&sites.queries, &queries);
        let keys = g.rotary(own.keys, own.rotations[1]);
        let integer_scores = self.chosen[i].scores;
        let spare = if integer_scores { spare_keys(memory.tokens(), keys.size(1)) } else { 0 };
        let (queries, keys) = if integer_scores {
            let params = g.left_params(&sites.queries);
            let queries =
                g.left_integers(&queries, params).map(|queries| by_head(g, queries, memory.d_head()));
            (Operand::Integers(queries), Operand::Integers(self.integer_keys(g, memory, i, &keys, spare)))
        } else {
            let [queries, keys] = [&queries, &keys].map(|part| by_head(g, part, memory.d_head()));
            let keys = memory.keys_with(g, i, &keys);
            g.observe(&sites.keys, &keys);
            (Operand::Float(queries), Operand::Float(g.transpose(&keys, &[0, 1, 3, 2])))
        };
        let values = self.values(g, memory, i, &own.values, spare);
        let all = keys.size(3);
        let parts: Vec<Value> = rows
            .iter()
            .map(|Rows { range, bias, spare_bias }| {
                let sees_all = bias.size(3) + spare == all;
                let bias = if spare > 0 && sees_all { spare_bias } else { bias };
                let seen = bias.size(3);
                let scores = g.within(&sites.scores, |g| {
                    let (queries, keys) = (queries.part(g, 2, range.clone()), keys.part(g, 3, 0..seen));
                    scores(g, &queries, &keys, bias)
                });
                let weights = g.softmax(&scores);
                g.within(&sites.mix, |g| {
                    let values = values.part(g, 2, 0..seen);
                    mix(g, &weights, &values)
                })
            })
            .collect();
        match &parts[..] {
            [only] => only.clone(),
            parts => g.concat(&parts.iter().collect::<Vec<_>>(), 1),
        }
    }

    /// The history's keys, `own` ones (B, T, heads * d_head), and `spare` of these once more, in integers and turned:
    /// (B, heads, d_head, keys).
    fn integer_keys(
        &self,
        g: &mut GraphBuilder,
        memory: &Memory,
        i: usize,
        own: &Value,
        spare: usize,
    ) -> Integers {
        let site = Sites::of_layer(i).keys;
        let past = match &self.past {
            Some([keys, _]) => g.one_of_many(keys, i, &site, Beside::Anything),
            None => {
                let keys = memory.layer_keys(g, i);
                let keys = g.right_integers(&keys, &site, Beside::Anything);
                keys.map(|keys| g.transpose(keys, &[0, 1, 3, 2]))
            }
        };
        let own = g.right_integers(own, &site, Beside::Anything).map(|own| {
            let [batch, tokens] = [0, 1].map(|axis| own.size(axis));
            let own = g.reshape(own, &[batch, tokens, memory.heads(), memory.d_head()]);
            g.transpose(&own, &[0, 2, 3, 1])
        });
        if spare == 0 {
            return g.concat_integers(&[&past, &own], 3);
        }
        let tokens = own.size(3);
        let again = own.map(|own| g.slice(own, 3, tokens - spare..tokens));
        g.concat_integers(&[&past, &own, &again], 3)
    }

    /// The history's values, `own` ones, and zeros for `spare` keys: (B, heads, keys, d_head).
    fn values(
        &self,
        g: &mut GraphBuilder,
        memory: &Memory,
        i: usize,
        own: &OwnValues,
        spare: usize,
    ) -> Operand {
        let site = Sites::of_layer(i).values;
        let shape = |batch| [batch, memory.heads(), spare, memory.d_head()];
        let own = match own {
            OwnValues::Integers(own) => own.map(|own| by_head(g, own, memory.d_head())),
            OwnValues::Float(own) if self.chosen[i].mix => {
                let own = g.right_integers(own, &site, Beside::Shares);
                own.map(|own| by_head(g, own, memory.d_head()))
            }
            OwnValues::Float(own) => {
                let own = by_head(g, own, memory.d_head());
                let values = memory.values_with(g, i, &own);
                g.observe(&site, &values);
                if spare == 0 {
                    return Operand::Float(values);
                }
                let shape = shape(own.size(0));
                let zeros = g.table(&format!("zeros {shape:?}"), &shape, vec![0.0; shape.iter().product()]);
                return Operand::Float(g.concat(&[&values, &zeros], 2));
            }
        };
        let past = match &self.past {
            Some([_, values]) => g.one_of_many(values, i, &site, Beside::Shares),
            None => {
                let values = memory.layer_values(g, i);
                g.right_integers(&values, &site, Beside::Shares)
            }
        };
        if spare == 0 {
            return Operand::Integers(g.concat_integers(&[&past, &own], 2));
        }
        let zeros = g.zero_integers(&shape(own.size(0)), &own);
        Operand::Integers(g.concat_integers(&[&past, &own, &zeros], 2))
    }
}

/// A side of a product.
enum Operand {
    Integers(Integers),
    Float(Value),
}

impl Operand {
    fn size(&self, axis: usize) -> usize {
        match self {
            Self::Integers(integers) => integers.size(axis),
            Self::Float(value) => value.size(axis),
        }
    }

    fn part(&self, g: &mut GraphBuilder, axis: usize, range: Range<usize>) -> Self {
        match self {
            Self::Integers(integers) => Self::Integers(integers.map(|all| g.slice(all, axis, range))),
            Self::Float(all) => Self::Float(g.slice(all, axis, range)),
        }
    }
}

/// Weights (B, heads, rows, keys) and values (B, heads, keys, d_head) -> (B, rows, heads * d_head).
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

/// Queries (B, heads, rows, d_head) and keys (B, heads, d_head, keys), and a bias (B, 1, rows or 1, keys) -> (B, heads,
/// rows, keys).
fn scores(g: &mut GraphBuilder, queries: &Operand, keys: &Operand, bias: &Value) -> Value {
    let factor = 1.0 / (queries.size(3) as f32).sqrt();
    let product = match (queries, keys) {
        (Operand::Integers(queries), Operand::Integers(keys)) => {
            if bias.size(0) == 1 && bias.size(2) == 1 {
                let bias = g.reshape(bias, &[bias.size(3)]);
                return g.integer_product(queries, keys, factor, Some(&bias));
            }
            g.integer_product(queries, keys, factor, None)
        }
        (Operand::Float(queries), Operand::Float(keys)) => {
            let factor = g.scalar(factor);
            let product = g.matmul(queries, keys);
            g.mul(&product, &factor)
        }
        _ => unreachable!("queries and keys are quantised together"),
    };
    g.add(&product, bias)
}
