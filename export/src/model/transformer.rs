//! The tensors of the transformer. The code path is the checkpoint path.

use nextclip_core::checkpoint::{TokenIds, TransformerConfig};
use nextclip_core::position::TIMESTEP_FEATURES;

use super::motion::MotionLayers;
use crate::checkpoint::{Scope, Weight};
use crate::onnx::Linear;

/// Everything that `model.safetensors` holds.
#[derive(Clone, Debug)]
pub struct Transformer {
    /// Patch embedding of noisy frames: (d, c, p, p).
    pub x_embedder: Linear,
    /// Patch embedding of clean frames: (d, c, p, p).
    pub input_x_embedder: Linear,
    /// 2-D sine-cosine table, (1, side * side, d).
    pub pos_embed: Weight,
    /// Patches along a side of the table.
    pub pos_embed_side: usize,
    /// Timestep to the time token of a noisy frame.
    pub time_token: TimestepMlp,
    /// Timestep to the conditioning of the final layer.
    pub t_embedder: TimestepMlp,
    /// The decoder.
    pub llm: Llm,
    /// From hidden states to output patches.
    pub final_layer: FinalLayer,
    /// From cost volumes to hidden states, on to motion and to pictures, where the model has it.
    pub motion: Option<MotionLayers>,
}

/// Timestep features (256) -> linear, SiLU, linear -> (d).
#[derive(Clone, Debug)]
pub struct TimestepMlp {
    /// (d, 256).
    pub first: Linear,
    /// (d, d).
    pub second: Linear,
}

/// The decoder-only transformer.
#[derive(Clone, Debug)]
pub struct Llm {
    /// The three rows of (vocab, d) that matter, each (1, d).
    pub embed_tokens: SpecialTokens,
    /// n_layer of them.
    pub layers: Vec<Layer>,
    /// Final RMSNorm, (d).
    pub norm: Weight,
}

/// Embeddings of the special tokens, each (1, d).
#[derive(Clone, Debug)]
pub struct SpecialTokens {
    /// `<img>`.
    pub img: Weight,
    /// `</img>`.
    pub img_end: Weight,
    /// `<|diffusion|>`.
    pub diffusion: Weight,
}

/// One decoder layer.
#[derive(Clone, Debug)]
pub struct Layer {
    /// (d).
    pub input_layernorm: Weight,
    /// ((n_head + 2 n_kv) d_head, d): rows of queries, keys, values.
    pub qkv_proj: Linear,
    /// (d, n_head * d_head).
    pub o_proj: Linear,
    /// (d).
    pub post_attention_layernorm: Weight,
    /// (2 d_ff, d): rows of the gate, then of what it gates.
    pub gate_up_proj: Linear,
    /// (d, d_ff).
    pub down_proj: Linear,
}

/// LayerNorm without weights, modulated by the timestep, then linear to patches.
#[derive(Clone, Debug)]
pub struct FinalLayer {
    /// (p * p * c, d).
    pub linear: Linear,
    /// (2 d, d): shift, then scale.
    pub adaln_modulation: Linear,
}

impl Transformer {
    /// Takes every tensor. `channels` and `patch` are c and p.
    pub fn load(
        root: &Scope<'_>,
        config: &TransformerConfig,
        tokens: &TokenIds,
        channels: usize,
        patch: usize,
    ) -> Self {
        let d = config.hidden_size;
        let embedder = |name| Linear {
            weight: root.at(name).at("proj").tensor("weight", &[d, channels, patch, patch]),
            bias: Some(root.at(name).at("proj").tensor("bias", &[d])),
        };
        // The table's side is the checkpoint's own business: only its being a square can be checked.
        let stored = root.shape("pos_embed").and_then(|shape| shape.get(1)).copied().unwrap_or(192 * 192);
        let pos_embed_side = stored.isqrt();
        Self {
            x_embedder: embedder("x_embedder"),
            input_x_embedder: embedder("input_x_embedder"),
            pos_embed: root.tensor("pos_embed", &[1, pos_embed_side * pos_embed_side, d]),
            pos_embed_side,
            time_token: TimestepMlp::load(&root.at("time_token").at("mlp"), d),
            t_embedder: TimestepMlp::load(&root.at("t_embedder").at("mlp"), d),
            llm: Llm::load(&root.at("llm"), config, tokens),
            final_layer: FinalLayer::load(&root.at("final_layer"), d, patch * patch * channels),
            motion: config.nextclip.as_ref().and_then(|trained| {
                let sizes = [d, patch, trained.geometry.clip];
                Some(MotionLayers::load(&root.at("motion"), trained.motion?, sizes))
            }),
        }
    }
}

impl TimestepMlp {
    fn load(mlp: &Scope<'_>, d: usize) -> Self {
        Self { first: linear(&mlp.at(0), [d, TIMESTEP_FEATURES]), second: linear(&mlp.at(2), [d, d]) }
    }
}

impl Llm {
    fn load(llm: &Scope<'_>, config: &TransformerConfig, tokens: &TokenIds) -> Self {
        let d = config.hidden_size;
        let embed_tokens = llm.at("embed_tokens").tensor("weight", &[config.vocab_size, d]);
        let row = |id: usize| embed_tokens.rows(id..id + 1);
        Self {
            embed_tokens: SpecialTokens {
                img: row(tokens.img),
                img_end: row(tokens.img_end),
                diffusion: row(tokens.diffusion),
            },
            layers: (0..config.num_hidden_layers)
                .map(|i| Layer::load(&llm.at("layers").at(i), config))
                .collect(),
            norm: llm.at("norm").tensor("weight", &[d]),
        }
    }
}

impl Layer {
    fn load(layer: &Scope<'_>, config: &TransformerConfig) -> Self {
        let (d, d_ff) = (config.hidden_size, config.intermediate_size);
        let queries = config.num_attention_heads * config.head_dim();
        let qkv = queries + 2 * config.num_key_value_heads * config.head_dim();
        let (attention, mlp) = (layer.at("self_attn"), layer.at("mlp"));
        Self {
            input_layernorm: layer.at("input_layernorm").tensor("weight", &[d]),
            qkv_proj: linear_without_bias(&attention.at("qkv_proj"), [qkv, d]),
            o_proj: linear_without_bias(&attention.at("o_proj"), [d, queries]),
            post_attention_layernorm: layer.at("post_attention_layernorm").tensor("weight", &[d]),
            gate_up_proj: linear_without_bias(&mlp.at("gate_up_proj"), [2 * d_ff, d]),
            down_proj: linear_without_bias(&mlp.at("down_proj"), [d, d_ff]),
        }
    }
}

impl FinalLayer {
    fn load(layer: &Scope<'_>, d: usize, patch_values: usize) -> Self {
        Self {
            linear: linear(&layer.at("linear"), [patch_values, d]),
            adaln_modulation: linear(&layer.at("adaLN_modulation").at(1), [2 * d, d]),
        }
    }
}

fn linear(at: &Scope<'_>, [outputs, inputs]: [usize; 2]) -> Linear {
    Linear { bias: Some(at.tensor("bias", &[outputs])), ..linear_without_bias(at, [outputs, inputs]) }
}

fn linear_without_bias(at: &Scope<'_>, shape: [usize; 2]) -> Linear {
    Linear { weight: at.tensor("weight", &shape), bias: None }
}
