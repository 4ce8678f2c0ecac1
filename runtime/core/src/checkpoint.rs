//! The configuration files of a checkpoint folder, as trainer and exporter both read them.
//!
//! `config.json` is a Hugging Face Phi3Config; keys that the model does not depend on are kept out of
//! these types and ignored on reading. A checkpoint trained by nextclip adds one object, `nextclip`,
//! with the geometry that it was trained for.

use serde::{Deserialize, Serialize};

use crate::geometry::Geometry;
use crate::motion::Motion;

/// `config.json`: the decoder transformer.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct TransformerConfig {
    /// Always "phi3" in what nextclip writes.
    #[serde(default = "model_type")]
    pub model_type: String,
    /// Rows of the token embedding table.
    pub vocab_size: usize,
    /// d: width of the residual stream.
    pub hidden_size: usize,
    /// d_ff: width of the gated feed-forward layer.
    pub intermediate_size: usize,
    /// n_layer.
    pub num_hidden_layers: usize,
    /// n_head: query heads.
    pub num_attention_heads: usize,
    /// n_kv: key and value heads; fewer than n_head is grouped-query attention.
    pub num_key_value_heads: usize,
    /// Epsilon of every RMSNorm in the decoder.
    pub rms_norm_eps: f64,
    /// Base of the rotary frequencies.
    pub rope_theta: f64,
    /// Longest sequence, in positions; enters the long-rope amplitude.
    pub max_position_embeddings: usize,
    /// Sequence length before long-rope stretching, in positions.
    #[serde(default = "original_max_position_embeddings")]
    pub original_max_position_embeddings: usize,
    /// Stretching of the rotary frequencies, if any.
    #[serde(default)]
    pub rope_scaling: Option<RopeScaling>,
    /// What the checkpoint was trained for; absent in checkpoints from elsewhere.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub nextclip: Option<Trained>,
}

fn model_type() -> String {
    "phi3".into()
}

fn original_max_position_embeddings() -> usize {
    4096
}

impl TransformerConfig {
    /// Width of one attention head.
    pub fn head_dim(&self) -> usize {
        self.hidden_size / self.num_attention_heads
    }

    /// Sizes of the motion that the model says of remembered frames, where it does.
    pub fn motion(&self) -> Option<Motion> {
        self.nextclip.as_ref().and_then(|trained| trained.motion)
    }

    /// What makes these sizes impossible, each in words; empty when they fit together.
    pub fn faults(&self) -> Vec<String> {
        let mut faults = Vec::new();
        let (d, heads, kv) = (self.hidden_size, self.num_attention_heads, self.num_key_value_heads);
        if self.num_hidden_layers == 0 || self.vocab_size == 0 || self.intermediate_size == 0 {
            faults.push("num_hidden_layers, vocab_size and intermediate_size must be at least 1".into());
        }
        if heads == 0 || kv == 0 || heads % kv != 0 {
            faults.push(format!("num_attention_heads {heads} is not a multiple of num_key_value_heads {kv}"));
        }
        if d == 0 || d % 4 != 0 || heads == 0 || d % (2 * heads) != 0 {
            faults.push(format!("hidden_size {d} does not divide into {heads} heads of an even width"));
            return faults;
        }
        if let Some(scaling) = &self.rope_scaling {
            let (got, want) = (scaling.long_factor.len(), self.head_dim() / 2);
            if got != want {
                faults.push(format!("rope_scaling.long_factor has {got} values, a head needs {want}"));
            }
        }
        faults.extend(self.motion().and_then(|motion| motion.fault()));
        faults
    }
}

/// `rope_scaling` of a Phi3Config.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct RopeScaling {
    /// Which rule; only long-rope exists here.
    #[serde(rename = "type")]
    pub kind: RopeKind,
    /// Divisors of the frequencies at short lengths; the published code never uses them.
    #[serde(default)]
    pub short_factor: Vec<f64>,
    /// Divisors of the frequencies, one a pair of a head's dimensions.
    pub long_factor: Vec<f64>,
}

/// The kinds of rotary scaling.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum RopeKind {
    /// LongRoPE, arXiv 2402.13753; "su" is its old name.
    #[serde(rename = "longrope", alias = "su")]
    LongRope,
}

/// What a nextclip checkpoint was trained for, under `nextclip` in `config.json`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Trained {
    /// Frame size, history, clip and frame interval.
    pub geometry: Geometry,
    /// Name of the model, for people.
    pub name: String,
    /// Optimiser steps of the predictor.
    pub steps: u64,
    /// Sizes of the motion that comes with a predicted frame, where the model has one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub motion: Option<Motion>,
}

/// `vae/config.json`: a diffusers AutoencoderKL.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct VaeConfig {
    /// Channels of each level, finest first; each level but the last halves the picture.
    pub block_out_channels: Vec<usize>,
    /// Residual blocks a level in the encoder; the decoder has one more.
    pub layers_per_block: usize,
    /// Channels of a latent.
    pub latent_channels: usize,
    /// Groups of every group norm.
    pub norm_num_groups: usize,
    /// Latents are the encoder's mean times this.
    pub scaling_factor: f64,
    /// Whether the middle of encoder and decoder has an attention layer.
    #[serde(default = "yes")]
    pub mid_block_add_attention: bool,
    /// Whether a 1 x 1 convolution follows the encoder.
    #[serde(default = "yes")]
    pub use_quant_conv: bool,
    /// Whether a 1 x 1 convolution precedes the decoder.
    #[serde(default = "yes")]
    pub use_post_quant_conv: bool,
    /// Shift of latents; none is supported, as published.
    #[serde(default)]
    pub shift_factor: Option<f64>,
    /// Whether its activations exceed half precision, as those of the SDXL VAE do: where the rest of a model is in
    /// half precision, it stays in single.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub force_upcast: bool,
}

fn yes() -> bool {
    true
}

impl VaeConfig {
    /// Pixels per latent cell along an axis: every level but the last halves the picture.
    pub fn scale(&self) -> usize {
        1 << self.block_out_channels.len().saturating_sub(1)
    }

    /// What makes this VAE impossible or unsupported, each in words.
    pub fn faults(&self) -> Vec<String> {
        let mut faults = Vec::new();
        let levels = self.block_out_channels.len();
        if !(1..=6).contains(&levels) {
            faults.push(format!("block_out_channels has {levels} levels, must have 1 to 6"));
        }
        let groups = self.norm_num_groups;
        for &channels in &self.block_out_channels {
            if groups == 0 || channels == 0 || channels % groups != 0 {
                faults.push(format!("{channels} channels do not divide into {groups} norm groups"));
            }
        }
        if self.latent_channels == 0 || self.layers_per_block == 0 {
            faults.push("latent_channels and layers_per_block must be at least 1".into());
        }
        if let Some(shift) = self.shift_factor {
            faults.push(format!("shift_factor {shift} is not supported, must be absent"));
        }
        faults
    }
}

/// The three special tokens of the sequence and their rows in `llm.embed_tokens.weight`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct TokenIds {
    /// `<img>`, opens a clean frame.
    pub img: usize,
    /// `</img>`, closes a clean frame.
    pub img_end: usize,
    /// `<|diffusion|>`, opens a noisy frame.
    pub diffusion: usize,
}

impl TokenIds {
    /// The tokens as they are spelled in tokenizer files, in the order of the fields.
    pub const SPELLING: [&str; 3] = ["<img>", "</img>", "<|diffusion|>"];
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config(scaling: &str) -> TransformerConfig {
        let text = format!(
            r#"{{"vocab_size": 16, "hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2,
            "num_attention_heads": 4, "num_key_value_heads": 2, "rms_norm_eps": 1e-5, "rope_theta": 10000.0,
            "max_position_embeddings": 131072, "rope_scaling": {scaling}, "use_cache": false}}"#
        );
        serde_json::from_str(&text).unwrap()
    }

    #[test]
    fn reads_both_names_of_long_rope() {
        for name in ["longrope", "su"] {
            let config = config(&format!(r#"{{"type": "{name}", "long_factor": [1, 2, 3, 4, 5, 6, 7, 8]}}"#));
            assert_eq!(config.faults(), Vec::<String>::new());
            assert_eq!(config.rope_scaling.unwrap().kind, RopeKind::LongRope);
        }
    }

    #[test]
    fn names_what_does_not_fit() {
        let config = config(r#"{"type": "su", "long_factor": [1.0]}"#);
        assert_eq!(config.faults(), ["rope_scaling.long_factor has 1 values, a head needs 8"]);
        let config = TransformerConfig { num_key_value_heads: 3, rope_scaling: None, ..config };
        assert_eq!(config.faults(), ["num_attention_heads 4 is not a multiple of num_key_value_heads 3"]);
    }
}
