//! 8-bit weights, symmetric, with one scale for the tensor or one for each channel of an axis.

use crate::error::{Error, all_finite, fills};
use crate::integers::Integers;

/// Integers in the weights' own layout, and a scale for each channel.
#[derive(Clone, Debug, PartialEq)]
pub struct ChannelWeights {
    /// -127..=127, in the order of the float weights.
    pub values: Vec<i8>,
    /// One for each index of the axis; one in all for a tensor quantised as a whole.
    pub scales: Vec<f32>,
}

/// One scale for each index of `axis`, so that its greatest magnitude becomes 127.
///
/// `weights` is row-major with `shape`. The axis is that of the outputs: 1 for a matrix `[K, N]`, 0 for a
/// convolution, 1 for a transposed one.
///
/// # Errors
/// A shape that does not fit, or a weight that is not finite, with its index.
///
/// Source: Krishnamoorthi, "Quantizing deep convolutional networks for efficient inference", 2018.
pub fn per_channel(weights: &[f32], shape: &[usize], axis: usize) -> Result<ChannelWeights, Error> {
    let magnitudes = channel_abs_max(weights, shape, axis)?;
    let scales = magnitudes.iter().map(|max| Integers::SYMMETRIC_8.scale(*max, 1.0)).collect();
    Ok(round_to(weights, &Channels::of(shape, axis), scales))
}

/// One scale for each index of `axis`, chosen to make the squared error least: where a few large weights
/// stretch a channel, clipping them pays. Never worse than [`per_channel`].
///
/// # Errors
/// As [`per_channel`].
///
/// Source: Banner et al., "Post-training 4-bit quantization of convolution networks for
/// rapid-deployment", 2018 (clipping that minimises the mean squared error); searched, not in closed form.
pub fn per_channel_mse(weights: &[f32], shape: &[usize], axis: usize) -> Result<ChannelWeights, Error> {
    let magnitudes = channel_abs_max(weights, shape, axis)?;
    let channels = Channels::of(shape, axis);
    let mut values = Vec::new();
    let mut scales = Vec::with_capacity(channels.count);
    for (channel, magnitude) in magnitudes.into_iter().enumerate() {
        values.clear();
        channels.runs(channel).for_each(|run| values.extend_from_slice(&weights[run]));
        let clip = Integers::SYMMETRIC_8.best_clip(&values, magnitude);
        scales.push(Integers::SYMMETRIC_8.scale(magnitude, clip));
    }
    Ok(round_to(weights, &channels, scales))
}

/// One scale for the whole tensor.
///
/// # Errors
/// A weight that is not finite, with its index.
pub fn per_tensor(weights: &[f32]) -> Result<ChannelWeights, Error> {
    per_channel(weights, &[1, weights.len()], 0)
}

/// A bias in the unit of the integer accumulator: `bias / (activation scale * weight scale)`, half to even,
/// with a weight scale for each output, or one for all.
///
/// # Errors
/// Scales that do not fit, a bias that is not finite, or one that 32 bits do not hold, with its index: the
/// weights of that output are so small that the layer must stay float.
///
/// Source: Jacob et al., "Quantization and Training of Neural Networks for Efficient
/// Integer-Arithmetic-Only Inference", 2017, section 2.4.
pub fn bias_i32(bias: &[f32], activation_scale: f32, weight_scales: &[f32]) -> Result<Vec<i32>, Error> {
    if weight_scales.len() != 1 && weight_scales.len() != bias.len() {
        let (got, expected) = (weight_scales.len(), bias.len());
        return Err(Error::Length { what: "weight scales", got, expected, shape: vec![expected] });
    }
    all_finite("bias", bias)?;
    let integer = |(index, (bias, scale)): (usize, (&f32, &f32))| {
        // In f32, as the graph's scale of the bias is.
        let unit = f64::from(activation_scale * scale);
        let steps = (f64::from(*bias) / unit).round_ties_even();
        if steps.abs() <= f64::from(i32::MAX) {
            Ok(steps as i32)
        } else {
            Err(Error::BiasOverflow { index, value: *bias, unit })
        }
    };
    bias.iter().zip(weight_scales.iter().cycle()).enumerate().map(integer).collect()
}

/// Greatest magnitude for each index of `axis`.
///
/// # Errors
/// As [`per_channel`].
pub fn channel_abs_max(weights: &[f32], shape: &[usize], axis: usize) -> Result<Vec<f32>, Error> {
    if axis >= shape.len() {
        return Err(Error::Axis { axis, shape: shape.to_vec() });
    }
    fills("weights", weights.len(), shape)?;
    all_finite("weights", weights)?;
    let channels = Channels::of(shape, axis);
    let mut magnitudes = vec![0.0_f32; channels.count];
    for block in channels.blocks(weights) {
        // With one value a channel, across the channels: the only loop that is long.
        if channels.inner == 1 {
            raise_to_magnitudes(&mut magnitudes, block);
            continue;
        }
        for (magnitude, values) in magnitudes.iter_mut().zip(block.chunks_exact(channels.inner)) {
            *magnitude = values.iter().fold(*magnitude, |max, value| max.max(value.abs()));
        }
    }
    Ok(magnitudes)
}

impl ChannelWeights {
    /// The weights that the integers stand for, given the shape and axis that made them.
    ///
    /// # Errors
    /// A shape or axis that does not fit.
    pub fn dequantise(&self, shape: &[usize], axis: usize) -> Result<Vec<f32>, Error> {
        fills("integers", self.values.len(), shape)?;
        if self.scales.len() == 1 {
            return Ok(self.values.iter().map(|value| f32::from(*value) * self.scales[0]).collect());
        }
        if shape.get(axis) != Some(&self.scales.len()) {
            return Err(Error::Axis { axis, shape: shape.to_vec() });
        }
        let inner: usize = shape[axis + 1..].iter().product();
        let scale = |index: usize| self.scales[index / inner % self.scales.len()];
        Ok(self.values.iter().enumerate().map(|(i, value)| f32::from(*value) * scale(i)).collect())
    }
}

/// Each magnitude becomes at least that of the value beside it.
pub(crate) fn raise_to_magnitudes(magnitudes: &mut [f32], values: &[f32]) {
    magnitudes.iter_mut().zip(values).for_each(|(magnitude, value)| *magnitude = magnitude.max(value.abs()));
}

fn round_to(weights: &[f32], channels: &Channels, scales: Vec<f32>) -> ChannelWeights {
    let round = |weight: &f32, scale: f32| Integers::SYMMETRIC_8.round(weight / scale);
    let mut values = Vec::with_capacity(weights.len());
    for block in channels.blocks(weights) {
        if channels.inner == 1 {
            values.extend(block.iter().zip(&scales).map(|(weight, scale)| round(weight, *scale)));
            continue;
        }
        for (run, scale) in block.chunks_exact(channels.inner).zip(&scales) {
            values.extend(run.iter().map(|weight| round(weight, *scale)));
        }
    }
    ChannelWeights { values, scales }
}

/// How an axis cuts a row-major tensor: `outer` times over, a run of `inner` values for each channel.
struct Channels {
    outer: usize,
    count: usize,
    inner: usize,
}

impl Channels {
    fn of(shape: &[usize], axis: usize) -> Self {
        Self {
            outer: shape[..axis].iter().product(),
            count: shape[axis],
            inner: shape[axis + 1..].iter().product(),
        }
    }

    /// The parts of a tensor that hold each channel once.
    fn blocks<'a>(&self, weights: &'a [f32]) -> impl Iterator<Item = &'a [f32]> + use<'a> {
        weights.chunks_exact((self.count * self.inner).max(1))
    }

    /// Where one channel's values lie.
    fn runs(&self, channel: usize) -> impl Iterator<Item = std::ops::Range<usize>> + '_ {
        (0..self.outer).map(move |outer| {
            let start = (outer * self.count + channel) * self.inner;
            start..start + self.inner
        })
    }
}
