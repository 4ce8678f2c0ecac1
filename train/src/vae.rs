//! The autoencoder: frames to latents and back, in the layout of a diffusers AutoencoderKL.

use nextclip_core::checkpoint::VaeConfig;
use tch::{Kind, Tensor};

use crate::params::{Init, Params, Scope, Spec};

const NORM_EPS: f64 = 1e-6;
const FIRST_LOG_VARIANCE: f32 = -6.0;

/// The VAE that nextclip trains: one residual block a level, no attention, so that a board decodes it
/// in a few milliseconds; 16 channels, so that small objects survive.
pub fn small_config() -> VaeConfig {
    VaeConfig {
        block_out_channels: vec![16, 32, 64, 128],
        layers_per_block: 1,
        latent_channels: 16,
        norm_num_groups: 8,
        scaling_factor: 1.0,
        mid_block_add_attention: false,
        use_quant_conv: true,
        use_post_quant_conv: true,
        shift_factor: None,
        force_upcast: false,
    }
}

/// Every tensor of the VAE.
pub fn specs(config: &VaeConfig) -> Vec<Spec> {
    let mut specs = Specs(Vec::new());
    let channels = &config.block_out_channels;
    let (first, last) = (channels[0], channels[channels.len() - 1]);
    let latent = config.latent_channels;

    specs.conv("encoder.conv_in", 3, first, 3);
    let mut from = first;
    for (level, &to) in channels.iter().enumerate() {
        let block = format!("encoder.down_blocks.{level}");
        for resnet in 0..config.layers_per_block {
            specs.resnet(&format!("{block}.resnets.{resnet}"), from, to);
            from = to;
        }
        if level + 1 < channels.len() {
            specs.conv(&format!("{block}.downsamplers.0.conv"), to, to, 3);
        }
    }
    specs.middle("encoder.mid_block", last);
    specs.norm("encoder.conv_norm_out", last);
    specs.conv("encoder.conv_out", last, 2 * latent, 3);
    specs.conv("quant_conv", 2 * latent, 2 * latent, 1);
    // The posterior starts narrow: at a variance of one, noise would drown the first thousand steps.
    let log_variances = [vec![0.0; latent], vec![FIRST_LOG_VARIANCE; latent]].concat();
    if let Some(bias) = specs.0.last_mut() {
        bias.init = Init::Values(log_variances);
    }

    specs.conv("post_quant_conv", latent, latent, 1);
    specs.conv("decoder.conv_in", latent, last, 3);
    specs.middle("decoder.mid_block", last);
    let mut from = last;
    for (level, &to) in channels.iter().rev().enumerate() {
        let block = format!("decoder.up_blocks.{level}");
        for resnet in 0..=config.layers_per_block {
            specs.resnet(&format!("{block}.resnets.{resnet}"), from, to);
            from = to;
        }
        if level + 1 < channels.len() {
            specs.conv(&format!("{block}.upsamplers.0.conv"), to, to, 3);
        }
    }
    specs.norm("decoder.conv_norm_out", first);
    specs.conv("decoder.conv_out", first, 3, 3);
    specs.0
}

/// Whether a tensor belongs to the half that makes latents.
pub fn is_encoders(name: &str) -> bool {
    name.starts_with("encoder.") || name.starts_with("quant_conv.")
}

/// Whether a tensor belongs to the autoencoder.
pub fn is_autoencoders(name: &str) -> bool {
    is_encoders(name) || name.starts_with("decoder.") || name.starts_with("post_quant_conv.")
}

struct Specs(Vec<Spec>);

impl Specs {
    fn add(&mut self, name: String, shape: &[usize], init: Init) {
        self.0.push(Spec { name, shape: shape.iter().map(|&side| side as i64).collect(), init });
    }

    fn conv(&mut self, name: &str, from: usize, to: usize, kernel: usize) {
        let std = (1.0 / (from * kernel * kernel) as f64).sqrt();
        self.add(format!("{name}.weight"), &[to, from, kernel, kernel], Init::Normal(std));
        self.add(format!("{name}.bias"), &[to], Init::Zeros);
    }

    fn norm(&mut self, name: &str, channels: usize) {
        self.add(format!("{name}.weight"), &[channels], Init::Ones);
        self.add(format!("{name}.bias"), &[channels], Init::Zeros);
    }

    fn resnet(&mut self, name: &str, from: usize, to: usize) {
        self.norm(&format!("{name}.norm1"), from);
        self.conv(&format!("{name}.conv1"), from, to, 3);
        self.norm(&format!("{name}.norm2"), to);
        self.conv(&format!("{name}.conv2"), to, to, 3);
        if from != to {
            self.conv(&format!("{name}.conv_shortcut"), from, to, 1);
        }
    }

    fn middle(&mut self, name: &str, channels: usize) {
        self.resnet(&format!("{name}.resnets.0"), channels, channels);
        self.resnet(&format!("{name}.resnets.1"), channels, channels);
    }
}

/// The VAE's forward passes over its parameters.
#[derive(Debug)]
pub struct Vae<'a> {
    config: &'a VaeConfig,
    params: &'a Params,
}

impl<'a> Vae<'a> {
    /// A view of `params`, which were made by [`specs`] of the same config.
    pub fn new(config: &'a VaeConfig, params: &'a Params) -> Self {
        Self { config, params }
    }

    /// Frames (B, 3, H, W) in [-1, 1] to the posterior's mean and log-variance, each (B, c, H/8, W/8),
    /// single precision, before the scaling factor.
    pub fn posterior(&self, frames: &Tensor) -> (Tensor, Tensor) {
        let encoder = self.params.root().pp("encoder");
        let mut x = encoder.pp("conv_in").conv(&frames.to_kind(self.params.compute()), 1, 1);
        let levels = self.config.block_out_channels.len();
        for level in 0..levels {
            let block = encoder.pp("down_blocks").pp(level);
            for resnet in 0..self.config.layers_per_block {
                x = self.resnet(&block.pp("resnets").pp(resnet), &x);
            }
            if level + 1 < levels {
                // diffusers pads right and below only before it halves.
                x = block.pp("downsamplers.0.conv").conv(&x.constant_pad_nd([0, 1, 0, 1]), 2, 0);
            }
        }
        x = self.middle(&encoder.pp("mid_block"), &x);
        x = self.norm(&encoder.pp("conv_norm_out"), &x).silu();
        x = encoder.pp("conv_out").conv(&x, 1, 1);
        let moments = self.params.root().pp("quant_conv").conv(&x, 1, 0).to_kind(Kind::Float);
        let halves = moments.chunk(2, 1);
        (halves[0].shallow_clone(), halves[1].clamp(-30.0, 20.0))
    }

    /// Frames (B, 3, H, W) in [-1, 1] to latents (B, c, H/8, W/8): the mean, scaled.
    pub fn encode(&self, frames: &Tensor) -> Tensor {
        self.posterior(frames).0 * self.config.scaling_factor
    }

    /// Latents (B, c, h, w) to frames (B, 3, 8h, 8w), about in [-1, 1], single precision.
    pub fn decode(&self, latents: &Tensor) -> Tensor {
        let z = (latents / self.config.scaling_factor).to_kind(self.params.compute());
        let decoder = self.params.root().pp("decoder");
        let mut x = self.params.root().pp("post_quant_conv").conv(&z, 1, 0);
        x = decoder.pp("conv_in").conv(&x, 1, 1);
        x = self.middle(&decoder.pp("mid_block"), &x);
        let levels = self.config.block_out_channels.len();
        for level in 0..levels {
            let block = decoder.pp("up_blocks").pp(level);
            for resnet in 0..=self.config.layers_per_block {
                x = self.resnet(&block.pp("resnets").pp(resnet), &x);
            }
            if level + 1 < levels {
                let size = x.size();
                x = x.upsample_nearest2d([2 * size[2], 2 * size[3]], None, None);
                x = block.pp("upsamplers.0.conv").conv(&x, 1, 1);
            }
        }
        x = self.norm(&decoder.pp("conv_norm_out"), &x).silu();
        decoder.pp("conv_out").conv(&x, 1, 1).to_kind(Kind::Float)
    }

    fn middle(&self, scope: &Scope<'_>, x: &Tensor) -> Tensor {
        let x = self.resnet(&scope.pp("resnets.0"), x);
        self.resnet(&scope.pp("resnets.1"), &x)
    }

    fn resnet(&self, scope: &Scope<'_>, x: &Tensor) -> Tensor {
        let h = scope.pp("conv1").conv(&self.norm(&scope.pp("norm1"), x).silu(), 1, 1);
        let h = scope.pp("conv2").conv(&self.norm(&scope.pp("norm2"), &h).silu(), 1, 1);
        if x.size()[1] == h.size()[1] { x + h } else { scope.pp("conv_shortcut").conv(x, 1, 0) + h }
    }

    fn norm(&self, scope: &Scope<'_>, x: &Tensor) -> Tensor {
        let groups = self.config.norm_num_groups as i64;
        x.group_norm(groups, Some(scope.get("weight")), Some(scope.get("bias")), NORM_EPS, true)
    }
}

/// Gives every latent channel zero mean and unit variance by folding `mean` and `std` (each (c)), the
/// channel statistics of current latents, into the two 1 x 1 convolutions around the latents.
pub fn standardise(params: &Params, mean: &Tensor, std: &Tensor) {
    let channels = mean.numel() as i64;
    let tensors = |name: &str| {
        let scope = params.root().pp(name);
        (scope.full("weight").shallow_clone(), scope.full("bias").shallow_clone())
    };
    tch::no_grad(|| {
        let (weight, bias) = tensors("quant_conv");
        let means = |x: &Tensor| x.narrow(0, 0, channels);
        means(&weight).copy_(&(means(&weight) / std.reshape([-1, 1, 1, 1])));
        means(&bias).copy_(&((means(&bias) - mean) / std));
        // Log-variances follow: the posterior shrinks with its mean's scale.
        let mut log_variances = bias.narrow(0, channels, channels);
        let _ = log_variances.g_sub_(&(std.log() * 2.0));

        let (mut weight, mut bias) = tensors("post_quant_conv");
        let _ = bias.g_add_(&weight.squeeze_dim(3).squeeze_dim(2).matmul(mean));
        let _ = weight.g_mul_(&std.reshape([1, -1, 1, 1]));
    });
}
