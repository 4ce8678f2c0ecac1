//! The tensors of a diffusers AutoencoderKL. The code path is the checkpoint path.

use nextclip_core::checkpoint::VaeConfig;

use crate::checkpoint::Scope;
use crate::onnx::{Conv, GroupNorm, Linear};

/// Everything that `vae/diffusion_pytorch_model.safetensors` holds.
#[derive(Clone, Debug)]
pub struct Vae {
    /// RGB to latents.
    pub encoder: Encoder,
    /// 1 x 1 convolution after the encoder.
    pub quant_conv: Option<Conv>,
    /// 1 x 1 convolution before the decoder.
    pub post_quant_conv: Option<Conv>,
    /// Latents to RGB.
    pub decoder: Decoder,
    /// Latents are the encoder's mean times this.
    pub scaling_factor: f32,
    /// c.
    pub latent_channels: usize,
}

/// RGB (B, 3, H, W) -> mean and log variance (B, 2 c, h, w).
#[derive(Clone, Debug)]
pub struct Encoder {
    /// 3 x 3, from RGB.
    pub conv_in: Conv,
    /// One a level, finest first.
    pub down_blocks: Vec<Level>,
    /// At the coarsest level.
    pub mid_block: MidBlock,
    /// Before the last convolution.
    pub conv_norm_out: GroupNorm,
    /// 3 x 3, to mean and log variance.
    pub conv_out: Conv,
}

/// Latents (B, c, h, w) -> RGB (B, 3, H, W).
#[derive(Clone, Debug)]
pub struct Decoder {
    /// 3 x 3, from latents.
    pub conv_in: Conv,
    /// At the coarsest level.
    pub mid_block: MidBlock,
    /// One a level, coarsest first.
    pub up_blocks: Vec<Level>,
    /// Before the last convolution.
    pub conv_norm_out: GroupNorm,
    /// 3 x 3, to RGB.
    pub conv_out: Conv,
}

/// Residual blocks at one size, then a change of size.
#[derive(Clone, Debug)]
pub struct Level {
    /// One after another.
    pub resnets: Vec<Resnet>,
    /// 3 x 3: of stride 2 in the encoder, after doubling in the decoder; absent at the last level.
    pub resample: Option<Conv>,
}

/// A residual block.
#[derive(Clone, Debug)]
pub struct Resnet {
    /// Before the first convolution.
    pub norm1: GroupNorm,
    /// 3 x 3.
    pub conv1: Conv,
    /// Before the second convolution.
    pub norm2: GroupNorm,
    /// 3 x 3.
    pub conv2: Conv,
    /// 1 x 1, where the number of channels changes.
    pub conv_shortcut: Option<Conv>,
}

/// Two residual blocks with attention between them, if any.
#[derive(Clone, Debug)]
pub struct MidBlock {
    /// Before and after attention.
    pub resnets: [Resnet; 2],
    /// Every cell sees every cell, with one head.
    pub attention: Option<Attention>,
}

/// Single-head attention over the cells of a picture.
#[derive(Clone, Debug)]
pub struct Attention {
    /// Before the projections.
    pub group_norm: GroupNorm,
    /// Queries.
    pub to_q: Linear,
    /// Keys.
    pub to_k: Linear,
    /// Values.
    pub to_v: Linear,
    /// Back to the residual stream.
    pub to_out: Linear,
}

impl Vae {
    /// Takes every tensor.
    pub fn load(root: &Scope<'_>, config: &VaeConfig) -> Self {
        let c = config.latent_channels;
        Self {
            encoder: Encoder::load(&root.at("encoder"), config),
            quant_conv: config.use_quant_conv.then(|| conv(&root.at("quant_conv"), 2 * c, 2 * c, 1)),
            post_quant_conv: config.use_post_quant_conv.then(|| conv(&root.at("post_quant_conv"), c, c, 1)),
            decoder: Decoder::load(&root.at("decoder"), config),
            scaling_factor: config.scaling_factor as f32,
            latent_channels: c,
        }
    }
}

impl Encoder {
    fn load(encoder: &Scope<'_>, config: &VaeConfig) -> Self {
        let (channels, groups) = (&config.block_out_channels, config.norm_num_groups);
        let (finest, coarsest) = ends(channels);
        let down_blocks = (0..channels.len()).map(|i| {
            let block = encoder.at("down_blocks").at(i);
            let before = if i == 0 { finest } else { channels[i - 1] };
            let resample = (i + 1 < channels.len())
                .then(|| conv(&block.at("downsamplers").at(0).at("conv"), channels[i], channels[i], 3));
            Level { resnets: resnets(&block, before, channels[i], config.layers_per_block, groups), resample }
        });
        Self {
            conv_in: conv(&encoder.at("conv_in"), finest, 3, 3),
            down_blocks: down_blocks.collect(),
            mid_block: MidBlock::load(&encoder.at("mid_block"), coarsest, config),
            conv_norm_out: norm(&encoder.at("conv_norm_out"), coarsest, groups),
            conv_out: conv(&encoder.at("conv_out"), 2 * config.latent_channels, coarsest, 3),
        }
    }
}

impl Decoder {
    fn load(decoder: &Scope<'_>, config: &VaeConfig) -> Self {
        let groups = config.norm_num_groups;
        let (finest, coarsest) = ends(&config.block_out_channels);
        let channels: Vec<usize> = config.block_out_channels.iter().rev().copied().collect();
        let up_blocks = (0..channels.len()).map(|i| {
            let block = decoder.at("up_blocks").at(i);
            let before = if i == 0 { coarsest } else { channels[i - 1] };
            let resample = (i + 1 < channels.len())
                .then(|| conv(&block.at("upsamplers").at(0).at("conv"), channels[i], channels[i], 3));
            Level {
                resnets: resnets(&block, before, channels[i], config.layers_per_block + 1, groups),
                resample,
            }
        });
        Self {
            conv_in: conv(&decoder.at("conv_in"), coarsest, config.latent_channels, 3),
            mid_block: MidBlock::load(&decoder.at("mid_block"), coarsest, config),
            up_blocks: up_blocks.collect(),
            conv_norm_out: norm(&decoder.at("conv_norm_out"), finest, groups),
            conv_out: conv(&decoder.at("conv_out"), 3, finest, 3),
        }
    }
}

impl MidBlock {
    fn load(block: &Scope<'_>, channels: usize, config: &VaeConfig) -> Self {
        let groups = config.norm_num_groups;
        let resnet = |i: usize| Resnet::load(&block.at("resnets").at(i), channels, channels, groups);
        let attention = config
            .mid_block_add_attention
            .then(|| Attention::load(&block.at("attentions").at(0), channels, groups));
        Self { resnets: [resnet(0), resnet(1)], attention }
    }
}

impl Attention {
    /// Before diffusers 0.14 the projections had other names, and checkpoints still have them.
    fn load(attention: &Scope<'_>, channels: usize, groups: usize) -> Self {
        let projection = |name: &str, old_name: &str| {
            let old = attention.at(old_name);
            let at = if old.has("weight") { old } else { attention.at(name) };
            Linear {
                weight: at.tensor("weight", &[channels, channels]),
                bias: Some(at.tensor("bias", &[channels])),
            }
        };
        Self {
            group_norm: norm(&attention.at("group_norm"), channels, groups),
            to_q: projection("to_q", "query"),
            to_k: projection("to_k", "key"),
            to_v: projection("to_v", "value"),
            to_out: projection("to_out.0", "proj_attn"),
        }
    }
}

impl Resnet {
    fn load(resnet: &Scope<'_>, before: usize, channels: usize, groups: usize) -> Self {
        let conv_shortcut =
            (before != channels).then(|| conv(&resnet.at("conv_shortcut"), channels, before, 1));
        Self {
            norm1: norm(&resnet.at("norm1"), before, groups),
            conv1: conv(&resnet.at("conv1"), channels, before, 3),
            norm2: norm(&resnet.at("norm2"), channels, groups),
            conv2: conv(&resnet.at("conv2"), channels, channels, 3),
            conv_shortcut,
        }
    }
}

fn resnets(block: &Scope<'_>, before: usize, channels: usize, count: usize, groups: usize) -> Vec<Resnet> {
    (0..count)
        .map(|j| {
            let before = if j == 0 { before } else { channels };
            Resnet::load(&block.at("resnets").at(j), before, channels, groups)
        })
        .collect()
}

/// Channels of the finest and of the coarsest level; there is at least one by `VaeConfig::faults`.
fn ends(channels: &[usize]) -> (usize, usize) {
    (channels.first().copied().unwrap_or(0), channels.last().copied().unwrap_or(0))
}

fn conv(at: &Scope<'_>, outputs: usize, inputs: usize, kernel: usize) -> Conv {
    Conv {
        weight: at.tensor("weight", &[outputs, inputs, kernel, kernel]),
        bias: at.tensor("bias", &[outputs]),
    }
}

fn norm(at: &Scope<'_>, channels: usize, groups: usize) -> GroupNorm {
    GroupNorm { weight: at.tensor("weight", &[channels]), bias: at.tensor("bias", &[channels]), groups }
}
