//! Everything that a predictor learns from, as latents or as pictures. Latents are kept in the run folder: encoding
//! takes minutes, and a resumed run must see the same ones.

use std::path::Path;

use anyhow::{Context, Result};
use nextclip_core::{Geometry, Motion, Picture};
use nextclip_scenes::{Split, Trace};
use rand::RngExt;
use rand_chacha::ChaCha8Rng;
use tch::{Device, Kind, Tensor};

use crate::costs::cost_volumes;
use crate::footage::{self, Origin, What};
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
    /// Cost volumes of every frame of every stretch in half precision, each (F, costs, h, w); beside latents, where a
    /// model with motion learns.
    costs: Vec<Tensor>,
    /// Of every frame of every stretch where things are; nothing of films, and beside latents.
    traces: Vec<Vec<Trace>>,
}

/// Evenly paced frames of a stretch.
#[derive(Debug)]
pub struct Window<'a> {
    /// (F, ...)
    pub frames: Tensor,
    /// (F, costs, h, w), single precision, where the pool has them.
    pub costs: Option<Tensor>,
    /// Where things are in these frames and in those of the stretch that follow at their pace, where that is known.
    pub traces: Option<Vec<&'a Trace>>,
}

/// What a pool takes of its sources.
#[derive(Clone, Copy, Debug)]
pub struct Wanted {
    /// Clips of generated scenes.
    pub scenes: usize,
    /// Frames that each of them has, at the least.
    pub frames: usize,
    /// Stretches of video with fewer frames are left out.
    pub shortest: usize,
    /// Cost volumes are kept beside latents, for a model with this motion.
    pub motion: Option<Motion>,
}

impl Wanted {
    fn stretches(
        &self,
        origin: &Origin,
        geometry: &Geometry,
    ) -> Result<Box<dyn ExactSizeIterator<Item = Vec<Picture>>>> {
        let shortest = if origin.what == What::Scenes { self.frames } else { self.shortest };
        footage::stretches(origin, geometry, Split::Train, shortest, self.scenes)
    }
}

impl Wanted {
    /// Where things are in the frames of [`Self::stretches`]; nothing of films.
    fn traces(&self, origin: &Origin, geometry: &Geometry) -> Vec<Vec<Trace>> {
        match origin.what {
            What::Scenes => {
                let seeds = 0..self.scenes as u64;
                seeds.map(|seed| footage::scene_traces(Split::Train, seed, geometry, self.frames)).collect()
            }
            What::Video(_) => Vec::new(),
        }
    }
}

/// Frames that are encoded at once.
const BATCH_FRAMES: i64 = 40;

impl Pool {
    /// Reads the pool of an earlier process, or encodes one: of generated scenes as many clips as `wanted` says, of
    /// video all there is, as it is and mirrored.
    pub fn open(
        path: &Path,
        origins: &[Origin],
        geometry: &Geometry,
        wanted: &Wanted,
        vae: &Vae<'_>,
        device: Device,
    ) -> Result<Self> {
        if path.exists() {
            return Self::load(path, origins, geometry, wanted);
        }
        let mut pool = Self { origins: Vec::new() };
        for origin in origins {
            let stretches = wanted.stretches(origin, geometry)?;
            let bar = indicatif::ProgressBar::new(stretches.len() as u64).with_prefix("encoding");
            let (mut frames, mut costs) = (Vec::new(), Vec::new());
            for pictures in stretches {
                let pictures = footage::tensor_of(&pictures);
                let mirrored = matches!(origin.what, What::Video(_)).then(|| pictures.flip([2]));
                for pictures in std::iter::once(pictures).chain(mirrored) {
                    frames.push(encode(vae, &pictures, device));
                    costs.extend(wanted.motion.map(|motion| costs_of(&motion, &pictures, geometry)));
                }
                bar.inc(1);
            }
            let traces = wanted.traces(origin, geometry);
            pool.origins.push(Stretches { weight: origin.weight, frames, costs, traces });
        }
        pool.save(path)?;
        Ok(pool)
    }

    /// The pictures themselves: of generated scenes as many clips as `wanted` says, all there are of video.
    pub fn of_pictures(origins: &[Origin], geometry: &Geometry, wanted: &Wanted) -> Result<Self> {
        let of_origin = |origin: &Origin| {
            let stretches = wanted.stretches(origin, geometry)?;
            let frames = stretches.map(|pictures| footage::tensor_of(&pictures)).collect();
            let traces = wanted.traces(origin, geometry);
            Ok(Stretches { weight: origin.weight, frames, costs: Vec::new(), traces })
        };
        Ok(Self { origins: origins.iter().map(of_origin).collect::<Result<_>>()? })
    }

    fn load(path: &Path, origins: &[Origin], geometry: &Geometry, wanted: &Wanted) -> Result<Self> {
        let mut tensors = load_tensors(path)?;
        let take = |(index, origin): (usize, &Origin)| {
            let mut take = |kind: &str| {
                let numbered = (0..).map_while(|n| tensors.remove(&key(kind, index, n)));
                numbered.collect::<Vec<_>>()
            };
            let (frames, costs) = (take("latents"), take("costs"));
            anyhow::ensure!(
                !frames.is_empty() && (wanted.motion.is_none() || costs.len() == frames.len()),
                "{}: source {index} is not all there: remove the file to encode anew",
                path.display()
            );
            Ok(Stretches { weight: origin.weight, frames, costs, traces: wanted.traces(origin, geometry) })
        };
        let origins = origins.iter().enumerate().map(take).collect::<Result<_>>();
        Ok(Self { origins: origins.with_context(|| "the run was started with other sources")? })
    }

    fn save(&self, path: &Path) -> Result<()> {
        let of_origin = |(index, origin): (usize, &Stretches)| {
            let all = [("latents", &origin.frames), ("costs", &origin.costs)];
            let named = move |(kind, tensors): (&'static str, &Vec<Tensor>)| {
                let one = |(n, tensor): (usize, &Tensor)| (key(kind, index, n), tensor.shallow_clone());
                tensors.iter().enumerate().map(one).collect::<Vec<_>>()
            };
            all.into_iter().flat_map(named).collect::<Vec<_>>()
        };
        save_tensors(path, self.origins.iter().enumerate().flat_map(of_origin))
    }

    /// `count` windows of the same length and pace. F is at most `frames`: as many as the first drawn stretch has. Between
    /// two frames of a window lie up to `longest_stride` of the stretch, by chance, as far as the first stretch allows it
    /// without losing frames.
    pub fn draw<'a>(
        &'a self,
        rng: &mut ChaCha8Rng,
        count: usize,
        frames: usize,
        longest_stride: usize,
    ) -> Vec<Window<'a>> {
        let mut windows = Vec::with_capacity(count);
        let (mut frames, mut stride) = (frames as i64, 1);
        while windows.len() < count {
            let (origin, index) = self.draw_stretch(rng);
            let stretch = &origin.frames[index];
            let len = stretch.size()[0];
            if windows.is_empty() {
                frames = frames.min(len);
                let most = (len - 1) / (frames - 1).max(1);
                stride = rng.random_range(1..=most.clamp(1, longest_stride.max(1) as i64));
            }
            let span = (frames - 1) * stride + 1;
            if len >= span {
                let first = rng.random_range(0..=len - span);
                let traces = origin.traces.get(index);
                let paced = |traces: &'a Vec<Trace>| {
                    traces[first as usize..].iter().step_by(stride as usize).collect()
                };
                windows.push(Window {
                    frames: stretch.slice(0, first, first + span, stride),
                    costs: origin
                        .costs
                        .get(index)
                        .map(|costs| costs.slice(0, first, first + span, stride).to_kind(Kind::Float)),
                    traces: traces.map(paced),
                });
            }
        }
        windows
    }

    /// A stretch by its origin's weight and, within the origin, by its length.
    fn draw_stretch(&self, rng: &mut ChaCha8Rng) -> (&Stretches, usize) {
        let origin = &self.origins[weighted(rng, self.origins.iter().map(|origin| origin.weight))];
        (origin, weighted(rng, origin.frames.iter().map(|stretch| stretch.size()[0] as f64)))
    }
}

/// Frames of windows of the same length, (count, F, ...).
pub fn stacked(windows: &[Window<'_>]) -> Tensor {
    Tensor::stack(&windows.iter().map(|window| &window.frames).collect::<Vec<_>>(), 0)
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

fn key(kind: &str, origin: usize, stretch: usize) -> String {
    format!("{kind}/{origin}/{stretch}")
}

/// Cost volumes of pictures (n, H, W, 3), half precision.
fn costs_of(motion: &Motion, pictures: &Tensor, geometry: &Geometry) -> Tensor {
    cost_volumes(motion, &footage::normalised(pictures), geometry.vae_scale).to_kind(Kind::Half)
}

/// Latents of pictures (n, H, W, 3), half precision, on the CPU.
fn encode(vae: &Vae<'_>, pictures: &Tensor, device: Device) -> Tensor {
    let parts = pictures.split(BATCH_FRAMES, 0).into_iter().map(|part| {
        let frames = footage::normalised(&part.to_device(device));
        tch::no_grad(|| vae.encode(&frames)).to_kind(Kind::Half).to_device(Device::Cpu)
    });
    Tensor::cat(&parts.collect::<Vec<_>>(), 0)
}

#[cfg(test)]
mod tests {
    use rand::SeedableRng;

    use super::*;

    #[test]
    fn windows_keep_their_pace_and_stay_in_their_stretch() {
        let stretch =
            |first: i64, len: i64| Tensor::arange_start(first, first + len, (Kind::Float, Device::Cpu));
        let frames = vec![stretch(0, 20), stretch(100, 7)];
        let pool =
            Pool { origins: vec![Stretches { weight: 1.0, frames, costs: Vec::new(), traces: Vec::new() }] };
        let mut rng = ChaCha8Rng::seed_from_u64(1);
        let mut strides = std::collections::BTreeSet::new();
        for _ in 0..200 {
            let windows = stacked(&pool.draw(&mut rng, 2, 5, 3));
            assert_eq!(windows.size(), [2, 5]);
            let windows = Vec::<Vec<f32>>::try_from(windows).unwrap_or_default();
            for window in &windows {
                let stride = window[1] - window[0];
                assert!(window.windows(2).all(|pair| pair[1] - pair[0] == stride), "{window:?}");
                let home = if window[0] < 100.0 { 0.0..20.0 } else { 100.0..107.0 };
                assert!(window.iter().all(|frame| home.contains(frame)), "{window:?}");
                strides.insert(stride as i64);
            }
        }
        assert_eq!(strides.into_iter().collect::<Vec<_>>(), [1, 2, 3]);
        assert_eq!(pool.draw(&mut rng, 1, 100, 1).len(), 1, "a short stretch gives what it has");
    }
}
