//! Everything that a predictor learns from, as latents or as pictures. Latents are kept in the run folder: encoding
//! takes minutes, and a resumed run must see the same ones.

use std::path::Path;

use anyhow::{Context, Result};
use nextclip_core::Geometry;
use nextclip_scenes::Split;
use rand::RngExt;
use rand_chacha::ChaCha8Rng;
use tch::{Device, Kind, Tensor};

use crate::footage::{self, Origin};
use crate::params::{load_tensors, save_tensors};
use crate::vae::Vae;

/// Stretches of frames by origin: latents in half precision, or pictures.
#[derive(Debug)]
pub struct Pool {
    origins: Vec<Stretches>,
}

#[derive(Debug)]
struct Stretches {
    weight: f64,
    /// Each (F, c, h, w) of latents, or (F, H, W, 3) of 8-bit pictures.
    frames: Vec<Tensor>,
}

/// Frames that are encoded at once.
const BATCH_FRAMES: i64 = 40;

impl Pool {
    /// Reads the pool of an earlier process, or encodes one: of generated scenes `scenes` clips, of video
    /// all there is, as it is and mirrored. Stretches shorter than `shortest` frames are left out.
    pub fn open(
        path: &Path,
        origins: &[Origin],
        geometry: &Geometry,
        (scenes, shortest): (usize, usize),
        vae: &Vae<'_>,
        device: Device,
    ) -> Result<Self> {
        if path.exists() {
            return Self::load(path, origins);
        }
        let mut pool = Self { origins: Vec::new() };
        for origin in origins {
            let stretches = footage::stretches(origin, geometry, Split::Train, shortest, scenes)?;
            let bar = indicatif::ProgressBar::new(stretches.len() as u64).with_prefix("encoding");
            let mut latents = Vec::new();
            for pictures in stretches {
                let pictures = footage::tensor_of(&pictures);
                latents.push(encode(vae, &pictures, device));
                if matches!(origin.what, footage::What::Video(_)) {
                    latents.push(encode(vae, &pictures.flip([2]), device));
                }
                bar.inc(1);
            }
            pool.origins.push(Stretches { weight: origin.weight, frames: latents });
        }
        pool.save(path)?;
        Ok(pool)
    }

    /// The pictures themselves: `scenes` clips of generated scenes, all there are of video.
    pub fn of_pictures(
        origins: &[Origin],
        geometry: &Geometry,
        (scenes, shortest): (usize, usize),
    ) -> Result<Self> {
        let of_origin = |origin: &Origin| {
            let stretches = footage::stretches(origin, geometry, Split::Train, shortest, scenes)?;
            let frames = stretches.map(|pictures| footage::tensor_of(&pictures)).collect();
            Ok(Stretches { weight: origin.weight, frames })
        };
        Ok(Self { origins: origins.iter().map(of_origin).collect::<Result<_>>()? })
    }

    fn load(path: &Path, origins: &[Origin]) -> Result<Self> {
        let mut tensors = load_tensors(path)?;
        let take = |(index, origin): (usize, &Origin)| {
            let mut latents = Vec::new();
            while let Some(tensor) = tensors.remove(&key(index, latents.len())) {
                latents.push(tensor);
            }
            anyhow::ensure!(
                !latents.is_empty(),
                "{}: no latents of source {index}: remove the file to encode anew",
                path.display()
            );
            Ok(Stretches { weight: origin.weight, frames: latents })
        };
        let origins = origins.iter().enumerate().map(take).collect::<Result<_>>();
        Ok(Self { origins: origins.with_context(|| "the run was started with other sources")? })
    }

    fn save(&self, path: &Path) -> Result<()> {
        let of_origin = |(index, origin): (usize, &Stretches)| {
            let named = |(n, tensor): (usize, &Tensor)| (key(index, n), tensor.shallow_clone());
            origin.frames.iter().enumerate().map(named).collect::<Vec<_>>()
        };
        save_tensors(path, self.origins.iter().enumerate().flat_map(of_origin))
    }

    /// `count` windows of the same length, (count, F, ...), F at most `frames`: as many as the first drawn stretch
    /// has.
    pub fn draw(&self, rng: &mut ChaCha8Rng, count: usize, frames: usize) -> Tensor {
        let mut windows: Vec<Tensor> = Vec::with_capacity(count);
        let mut frames = frames as i64;
        while windows.len() < count {
            let stretch = self.draw_stretch(rng);
            let len = stretch.size()[0];
            if windows.is_empty() {
                frames = frames.min(len);
            }
            if len >= frames {
                windows.push(stretch.narrow(0, rng.random_range(0..=len - frames), frames));
            }
        }
        Tensor::stack(&windows, 0)
    }

    /// A stretch by its origin's weight and, within the origin, by its length.
    fn draw_stretch(&self, rng: &mut ChaCha8Rng) -> &Tensor {
        let frames = &self.origins[weighted(rng, self.origins.iter().map(|origin| origin.weight))].frames;
        &frames[weighted(rng, frames.iter().map(|stretch| stretch.size()[0] as f64))]
    }
}

/// An index, drawn in proportion to its weight.
pub(crate) fn weighted(rng: &mut ChaCha8Rng, weights: impl Iterator<Item = f64> + Clone) -> usize {
    let mut left = rng.random::<f64>() * weights.clone().sum::<f64>();
    let mut last = 0;
    for (index, weight) in weights.enumerate() {
        last = index;
        left -= weight;
        if left < 0.0 {
            break;
        }
    }
    last
}

fn key(origin: usize, stretch: usize) -> String {
    format!("{origin}/{stretch}")
}

/// Latents of pictures (n, H, W, 3), half precision, on the CPU.
fn encode(vae: &Vae<'_>, pictures: &Tensor, device: Device) -> Tensor {
    let parts = pictures.split(BATCH_FRAMES, 0).into_iter().map(|part| {
        let frames = footage::normalised(&part.to_device(device));
        tch::no_grad(|| vae.encode(&frames)).to_kind(Kind::Half).to_device(Device::Cpu)
    });
    Tensor::cat(&parts.collect::<Vec<_>>(), 0)
}
