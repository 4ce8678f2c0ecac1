//! Pictures made with motion, pixel by pixel in double precision: the formula of `nextclip_core::Motion` in loops.

use std::fs;
use std::path::Path;

use anyhow::{Context, ensure};
use ndarray::{Array3, ArrayView3};
use nextclip_core::checkpoint::TransformerConfig;
use nextclip_core::{Motion, Picture};
use safetensors::SafeTensors;

/// The blend of a checkpoint.
#[derive(Debug)]
pub struct MotionReference {
    sizes: Motion,
    /// s: pixels a cell.
    scale: usize,
    blend: Vec<Convolution>,
}

/// 3 x 3 with zeros around.
#[derive(Debug)]
struct Convolution {
    /// (out, in, 3, 3).
    weight: Vec<f64>,
    bias: Vec<f64>,
}

impl MotionReference {
    /// Reads `config.json` and `model.safetensors` (F32) of a folder.
    pub fn open(folder: &Path) -> anyhow::Result<Self> {
        let config: TransformerConfig = serde_json::from_slice(&fs::read(folder.join("config.json"))?)?;
        let trained = config.nextclip.context("no geometry")?;
        let bytes = fs::read(folder.join("model.safetensors"))?;
        let tensors = SafeTensors::deserialize(&bytes)?;
        let values = |name: &str| -> anyhow::Result<Vec<f64>> {
            let view = tensors.tensor(name)?;
            ensure!(view.dtype() == safetensors::Dtype::F32, "{name} is {:?}", view.dtype());
            let (numbers, _) = view.data().as_chunks();
            Ok(numbers.iter().map(|bytes| f64::from(f32::from_le_bytes(*bytes))).collect())
        };
        let layer = |index: usize| -> anyhow::Result<Convolution> {
            let at = format!("motion.blend.{index}");
            Ok(Convolution { weight: values(&format!("{at}.weight"))?, bias: values(&format!("{at}.bias"))? })
        };
        Ok(Self {
            sizes: trained.motion.context("no motion")?,
            scale: trained.geometry.vae_scale,
            blend: (0..Motion::BLEND_LAYERS).map(layer).collect::<Result<_, _>>()?,
        })
    }

    /// What `motion` (m, h, w) makes of the last frame and of the decoder's picture: levels (H, W, 3), not rounded.
    pub fn composite(&self, decoded: &Picture, last: &Picture, motion: ArrayView3<'_, f32>) -> Array3<f64> {
        let (rows, columns, _) = last.dim();
        let mut sources = vec![unit(decoded), unit(last)];
        for candidate in 0..self.sizes.candidates {
            sources.push(self.moved(&sources[1], motion, candidate));
        }
        let first = 2 * self.sizes.candidates;
        let features = (first..first + self.sizes.features).map(|channel| {
            Array3::from_shape_fn((1, rows, columns), |(_, y, x)| self.at(motion, channel, y, x))
        });
        let planes: Vec<Array3<f64>> = sources.iter().cloned().chain(features).collect();
        let views: Vec<_> = planes.iter().map(|plane| plane.view()).collect();
        let mut seen = ndarray::concatenate(ndarray::Axis(0), &views).unwrap_or_default();
        for (index, layer) in self.blend.iter().enumerate() {
            seen = layer.apply(&seen);
            if index + 1 < self.blend.len() {
                seen.mapv_inplace(|x| x / (1.0 + (-x).exp()));
            }
        }
        Array3::from_shape_fn((rows, columns, 3), |(y, x, channel)| {
            let shares: Vec<f64> = (0..sources.len()).map(|source| seen[[source, y, x]].exp()).collect();
            let colour: f64 =
                shares.iter().zip(&sources).map(|(share, source)| share * source[[channel, y, x]]).sum();
            (colour / shares.iter().sum::<f64>() + 1.0) * 127.5
        })
    }

    fn moved(&self, last: &Array3<f64>, motion: ArrayView3<'_, f32>, candidate: usize) -> Array3<f64> {
        let (_, rows, columns) = last.dim();
        let scale = self.scale as f64;
        Array3::from_shape_fn(last.dim(), |(channel, y, x)| {
            let to_x = x as f64 + scale * self.at(motion, 2 * candidate, y, x);
            let to_y = y as f64 + scale * self.at(motion, 2 * candidate + 1, y, x);
            between(to_y, to_x, rows, columns, |row, column| last[[channel, row, column]])
        })
    }

    /// A channel of cells at a pixel, bilinear between the cells' centres.
    fn at(&self, motion: ArrayView3<'_, f32>, channel: usize, y: usize, x: usize) -> f64 {
        let (_, rows, columns) = motion.dim();
        let cell = |pixel: usize| (pixel as f64 + 0.5) / self.scale as f64 - 0.5;
        between(cell(y), cell(x), rows, columns, |row, column| f64::from(motion[[channel, row, column]]))
    }
}

impl Convolution {
    /// (in, H, W) to (out, H, W).
    fn apply(&self, x: &Array3<f64>) -> Array3<f64> {
        let (inputs, rows, columns) = x.dim();
        Array3::from_shape_fn((self.bias.len(), rows, columns), |(output, row, column)| {
            let mut sum = self.bias[output];
            for input in 0..inputs {
                for dy in 0..3 {
                    for dx in 0..3 {
                        let (y, x_) = ((row + dy).wrapping_sub(1), (column + dx).wrapping_sub(1));
                        if let Some(value) = x.get([input, y, x_]) {
                            sum += self.weight[((output * inputs + input) * 3 + dy) * 3 + dx] * value;
                        }
                    }
                }
            }
            sum
        })
    }
}

/// The value at a place between cells, bilinear; beyond the border that of the border.
fn between(y: f64, x: f64, rows: usize, columns: usize, value: impl Fn(usize, usize) -> f64) -> f64 {
    let (y, x) = (y.clamp(0.0, (rows - 1) as f64), x.clamp(0.0, (columns - 1) as f64));
    let (top, left) = (y.floor() as usize, x.floor() as usize);
    let (below, right) = ((top + 1).min(rows - 1), (left + 1).min(columns - 1));
    let (down, across) = (y - top as f64, x - left as f64);
    let row = |row: usize| value(row, left) * (1.0 - across) + value(row, right) * across;
    row(top) * (1.0 - down) + row(below) * down
}

/// (H, W, 3) of samples to (3, H, W) from -1 to 1.
fn unit(picture: &Picture) -> Array3<f64> {
    let (rows, columns, _) = picture.dim();
    Array3::from_shape_fn((3, rows, columns), |(channel, y, x)| {
        f64::from(picture[[y, x, channel]]) / 127.5 - 1.0
    })
}
