//! A checkpoint of random weights in the published layout, small enough to export in a moment.

use std::path::Path;

use anyhow::Context;
use indicatif::ProgressBar;
use nextclip_core::checkpoint::{TokenIds, Trained, TransformerConfig, VaeConfig};
use nextclip_core::manifest::Manifest;
use nextclip_core::position::{TIMESTEP_FEATURES, sine_cosine_table};
use nextclip_core::{Geometry, sampler};
use nextclip_export::model::Checkpoint;
use nextclip_export::{Options, Plan, export};
use safetensors::tensor::{Dtype, TensorView, serialize_to_file};

/// Patches along a side of the stored position table.
const TABLE_SIDE: usize = 8;

/// Sizes of a checkpoint to make up.
#[derive(Clone, Debug)]
pub struct RandomCheckpoint {
    /// Decoder, with the geometry under `nextclip`.
    pub transformer: TransformerConfig,
    /// Autoencoder.
    pub vae: VaeConfig,
    /// Of the weights.
    pub seed: u64,
}

/// Frames of 48 x 32, three remembered, three predicted, 100 ms apart.
pub const TINY: Geometry = Geometry {
    height: 32,
    width: 48,
    vae_scale: 8,
    latent_channels: 4,
    patch: 2,
    history: 3,
    clip: 3,
    frame_interval_ms: 100,
};

impl RandomCheckpoint {
    /// The smallest of everything: a prediction takes milliseconds.
    pub fn tiny() -> Self {
        let transformer = TransformerConfig {
            model_type: "phi3".into(),
            vocab_size: 4,
            hidden_size: 32,
            intermediate_size: 64,
            num_hidden_layers: 2,
            num_attention_heads: 4,
            num_key_value_heads: 2,
            rms_norm_eps: 1e-5,
            rope_theta: 10_000.0,
            max_position_embeddings: 4096,
            original_max_position_embeddings: 4096,
            rope_scaling: None,
            nextclip: Some(Trained { geometry: TINY, name: "tiny-random".into(), steps: 0 }),
        };
        let vae = VaeConfig {
            block_out_channels: vec![8, 8, 8, 16],
            layers_per_block: 1,
            latent_channels: TINY.latent_channels,
            norm_num_groups: 4,
            scaling_factor: 0.5,
            mid_block_add_attention: true,
            use_quant_conv: true,
            use_post_quant_conv: true,
            shift_factor: None,
        };
        Self { transformer, vae, seed: 1 }
    }

    /// Writes the checkpoint's files into `folder`.
    pub fn write(&self, folder: &Path) -> anyhow::Result<()> {
        let vae_folder = folder.join("vae");
        std::fs::create_dir_all(&vae_folder)?;
        std::fs::write(folder.join("config.json"), serde_json::to_vec_pretty(&self.transformer)?)?;
        std::fs::write(vae_folder.join("config.json"), serde_json::to_vec_pretty(&self.vae)?)?;
        let tokens: serde_json::Map<_, _> =
            TokenIds::SPELLING.iter().zip(1..).map(|(name, id)| ((*name).into(), id.into())).collect();
        std::fs::write(folder.join("added_tokens.json"), serde_json::to_vec(&tokens)?)?;
        let geometry = &self.transformer.nextclip.as_ref().context("a geometry")?.geometry;
        save(&transformer(&self.transformer, geometry), self.seed, &folder.join("model.safetensors"))?;
        save(&vae(&self.vae), self.seed + 1, &vae_folder.join("diffusion_pytorch_model.safetensors"))
    }

    /// Exports it as the bundle `out`.
    pub fn export(&self, out: &Path) -> anyhow::Result<Manifest> {
        let folder = tempfile::tempdir()?;
        self.write(folder.path())?;
        let checkpoint = Checkpoint::open(folder.path())?;
        let plan = Plan::new(&checkpoint, &Options::default())?;
        Ok(export(&checkpoint, &plan, out, &ProgressBar::hidden())?)
    }
}

type Tensors = Vec<(String, Vec<usize>)>;

fn transformer(config: &TransformerConfig, geometry: &Geometry) -> Tensors {
    let (d, d_ff, patch) = (config.hidden_size, config.intermediate_size, geometry.patch);
    let channels = geometry.latent_channels;
    let mut tensors = Tensors::new();
    let mut add = |name: &str, shape: &[usize]| tensors.push((name.into(), shape.into()));
    for name in ["x_embedder", "input_x_embedder"] {
        add(&format!("{name}.proj.weight"), &[d, channels, patch, patch]);
        add(&format!("{name}.proj.bias"), &[d]);
    }
    for name in ["time_token", "t_embedder"] {
        for (index, inputs) in [(0, TIMESTEP_FEATURES), (2, d)] {
            add(&format!("{name}.mlp.{index}.weight"), &[d, inputs]);
            add(&format!("{name}.mlp.{index}.bias"), &[d]);
        }
    }
    add("pos_embed", &[1, TABLE_SIDE * TABLE_SIDE, d]);
    add("llm.embed_tokens.weight", &[config.vocab_size, d]);
    let qkv = (config.num_attention_heads + 2 * config.num_key_value_heads) * config.head_dim();
    for layer in 0..config.num_hidden_layers {
        let mut add = |name: &str, shape: &[usize]| add(&format!("llm.layers.{layer}.{name}.weight"), shape);
        add("input_layernorm", &[d]);
        add("self_attn.qkv_proj", &[qkv, d]);
        add("self_attn.o_proj", &[d, d]);
        add("post_attention_layernorm", &[d]);
        add("mlp.gate_up_proj", &[2 * d_ff, d]);
        add("mlp.down_proj", &[d, d_ff]);
    }
    add("llm.norm.weight", &[d]);
    add("final_layer.linear.weight", &[patch * patch * channels, d]);
    add("final_layer.linear.bias", &[patch * patch * channels]);
    add("final_layer.adaLN_modulation.1.weight", &[2 * d, d]);
    add("final_layer.adaLN_modulation.1.bias", &[2 * d]);
    tensors
}

fn vae(config: &VaeConfig) -> Tensors {
    let (channels, latent) = (&config.block_out_channels, config.latent_channels);
    let (finest, coarsest) = (channels[0], channels[channels.len() - 1]);
    let mut tensors = Tensors::new();
    conv(&mut tensors, "encoder.conv_in", [finest, 3, 3]);
    conv(&mut tensors, "encoder.conv_out", [2 * latent, coarsest, 3]);
    conv(&mut tensors, "decoder.conv_in", [coarsest, latent, 3]);
    conv(&mut tensors, "decoder.conv_out", [3, finest, 3]);
    if config.use_quant_conv {
        conv(&mut tensors, "quant_conv", [2 * latent, 2 * latent, 1]);
    }
    if config.use_post_quant_conv {
        conv(&mut tensors, "post_quant_conv", [latent, latent, 1]);
    }
    pair(&mut tensors, "encoder.conv_norm_out", &[coarsest]);
    pair(&mut tensors, "decoder.conv_norm_out", &[finest]);
    for half in ["encoder", "decoder"] {
        let middle = format!("{half}.mid_block");
        resnet(&mut tensors, &format!("{middle}.resnets.0"), coarsest, coarsest);
        resnet(&mut tensors, &format!("{middle}.resnets.1"), coarsest, coarsest);
        if config.mid_block_add_attention {
            let attention = format!("{middle}.attentions.0");
            pair(&mut tensors, &format!("{attention}.group_norm"), &[coarsest]);
            for name in ["to_q", "to_k", "to_v", "to_out.0"] {
                pair(&mut tensors, &format!("{attention}.{name}"), &[coarsest, coarsest]);
            }
        }
    }
    let upwards: Vec<usize> = channels.iter().rev().copied().collect();
    let halves = [
        ("encoder.down_blocks", "downsamplers", channels, config.layers_per_block),
        ("decoder.up_blocks", "upsamplers", &upwards, config.layers_per_block + 1),
    ];
    for (blocks, resampler, channels, layers) in halves {
        for (level, &after) in channels.iter().enumerate() {
            let mut before = channels[level.saturating_sub(1)];
            for layer in 0..layers {
                resnet(&mut tensors, &format!("{blocks}.{level}.resnets.{layer}"), before, after);
                before = after;
            }
            if level + 1 < channels.len() {
                conv(&mut tensors, &format!("{blocks}.{level}.{resampler}.0.conv"), [after, after, 3]);
            }
        }
    }
    tensors
}

fn resnet(tensors: &mut Tensors, at: &str, before: usize, after: usize) {
    pair(tensors, &format!("{at}.norm1"), &[before]);
    conv(tensors, &format!("{at}.conv1"), [after, before, 3]);
    pair(tensors, &format!("{at}.norm2"), &[after]);
    conv(tensors, &format!("{at}.conv2"), [after, after, 3]);
    if before != after {
        conv(tensors, &format!("{at}.conv_shortcut"), [after, before, 1]);
    }
}

fn conv(tensors: &mut Tensors, at: &str, [outputs, inputs, kernel]: [usize; 3]) {
    pair(tensors, at, &[outputs, inputs, kernel, kernel]);
}

/// A weight and a bias for its first axis.
fn pair(tensors: &mut Tensors, at: &str, weight: &[usize]) {
    tensors.push((format!("{at}.weight"), weight.into()));
    tensors.push((format!("{at}.bias"), vec![weight[0]]));
}

fn save(tensors: &Tensors, seed: u64, path: &Path) -> anyhow::Result<()> {
    let bytes: Vec<(&str, &[usize], Vec<u8>)> = tensors
        .iter()
        .enumerate()
        .map(|(index, (name, shape))| {
            let values = values(name, shape, seed, index as u64);
            (name.as_str(), shape.as_slice(), values.iter().flat_map(|value| value.to_le_bytes()).collect())
        })
        .collect();
    let views = bytes
        .iter()
        .map(|(name, shape, bytes)| Ok((*name, TensorView::new(Dtype::F32, shape.to_vec(), bytes)?)))
        .collect::<Result<Vec<_>, safetensors::SafeTensorError>>()?;
    Ok(serialize_to_file(views, None, path)?)
}

/// Weights that keep activations near unit size: norms near 1, everything else by its fan-in.
fn values(name: &str, shape: &[usize], seed: u64, stream: u64) -> Vec<f32> {
    if name == "pos_embed" {
        return sine_cosine_table(TABLE_SIDE, shape[2]);
    }
    let is_norm = name.contains("norm") && name.ends_with("weight");
    let fan_in: usize = shape[1..].iter().product();
    let (mean, spread) = if is_norm { (1.0, 0.05) } else { (0.0, 1.0 / (fan_in as f32).sqrt()) };
    let spread = if name.ends_with("bias") { 0.05 } else { spread };
    let noise = sampler::noise(seed, stream, shape.iter().product());
    noise.into_iter().map(|value| mean + spread * value).collect()
}
