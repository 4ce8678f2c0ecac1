//! The tensors of a checkpoint by name and shape, as the configuration implies them, and random values for them.

use nextclip_core::Motion;
use nextclip_core::checkpoint::{TransformerConfig, VaeConfig};
use nextclip_core::position::{TIMESTEP_FEATURES, sine_cosine_table};
use nextclip_core::sampler;

/// Channels between the convolutions of motion's blend and stem.
const BLEND_CHANNELS: usize = 16;
const STEM_CHANNELS: usize = 32;
const REFINE_CHANNELS: usize = 24;

/// A tensor to make up.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Tensor {
    /// Its name in the checkpoint.
    pub name: String,
    /// Its shape.
    pub shape: Vec<usize>,
}

impl Tensor {
    /// Number of values.
    pub(super) fn len(&self) -> usize {
        self.shape.iter().product()
    }

    /// Weights that keep activations near unit size: norms near 1, everything else by its fan-in. The position
    /// table is the one that a new checkpoint starts from.
    pub(super) fn values(&self, seed: u64, stream: u64) -> Vec<f32> {
        let Self { name, shape } = self;
        if name == "pos_embed" {
            return sine_cosine_table(shape[1].isqrt(), shape[2]);
        }
        let is_norm = name.contains("norm") && name.ends_with("weight");
        let fan_in: usize = shape[1..].iter().product();
        let (mean, spread) = if is_norm { (1.0, 0.05) } else { (0.0, 1.0 / (fan_in as f32).sqrt()) };
        let spread = if name.ends_with("bias") { 0.05 } else { spread };
        let mut noise = sampler::noise(seed, stream, self.len());
        noise.iter_mut().for_each(|value| *value = mean + spread * *value);
        noise
    }
}

/// Every tensor of the transformer; `channels` and `patch` are c and p, `table_side` the position table's.
pub(super) fn transformer(
    config: &TransformerConfig,
    channels: usize,
    patch: usize,
    table_side: usize,
) -> Vec<Tensor> {
    let (d, d_ff) = (config.hidden_size, config.intermediate_size);
    let mut tensors = vec![];
    let mut add =
        |name: &str, shape: &[usize]| tensors.push(Tensor { name: name.into(), shape: shape.into() });
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
    add("pos_embed", &[1, table_side * table_side, d]);
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
    if let Some((trained, sizes)) =
        config.nextclip.as_ref().and_then(|trained| trained.motion.map(|sizes| (trained, sizes)))
    {
        motion(&mut tensors, sizes, [d, patch, trained.geometry.clip]);
    }
    tensors
}

fn motion(tensors: &mut Vec<Tensor>, sizes: Motion, [d, patch, clip]: [usize; 3]) {
    let moments = sizes.moments(clip).len();
    let said = moments * sizes.channels();
    let mut layers = |name: &str, hidden: usize, [inputs, outputs]: [usize; 2], last_kernel: usize| {
        let shapes = [[hidden, inputs, 3], [hidden, hidden, 3], [outputs, hidden, last_kernel]];
        for (layer, shape) in shapes.into_iter().enumerate() {
            conv(tensors, &format!("motion.{name}.{layer}"), shape);
        }
    };
    layers("stem", STEM_CHANNELS, [sizes.costs(), d], patch);
    if sizes.refined {
        layers("refine", REFINE_CHANNELS, [said + STEM_CHANNELS, said], 3);
    }
    layers("blend", BLEND_CHANNELS, [sizes.blend_inputs(), sizes.sources()], 3);
    pair(tensors, "motion.linear", &[patch * patch * said, d]);
    if sizes.earlier > 0 {
        tensors.push(Tensor {
            name: "motion.response".into(),
            shape: vec![moments, sizes.followed_frames().len()],
        });
    }
}

/// Every tensor of the autoencoder.
pub(super) fn vae(config: &VaeConfig) -> Vec<Tensor> {
    let (channels, latent) = (&config.block_out_channels, config.latent_channels);
    let (finest, coarsest) = (channels[0], channels[channels.len() - 1]);
    let mut tensors = vec![];
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

fn resnet(tensors: &mut Vec<Tensor>, at: &str, before: usize, after: usize) {
    pair(tensors, &format!("{at}.norm1"), &[before]);
    conv(tensors, &format!("{at}.conv1"), [after, before, 3]);
    pair(tensors, &format!("{at}.norm2"), &[after]);
    conv(tensors, &format!("{at}.conv2"), [after, after, 3]);
    if before != after {
        conv(tensors, &format!("{at}.conv_shortcut"), [after, before, 1]);
    }
}

fn conv(tensors: &mut Vec<Tensor>, at: &str, [outputs, inputs, kernel]: [usize; 3]) {
    pair(tensors, at, &[outputs, inputs, kernel, kernel]);
}

/// A weight and a bias for its first axis.
fn pair(tensors: &mut Vec<Tensor>, at: &str, weight: &[usize]) {
    tensors.push(Tensor { name: format!("{at}.weight"), shape: weight.into() });
    tensors.push(Tensor { name: format!("{at}.bias"), shape: vec![weight[0]] });
}
