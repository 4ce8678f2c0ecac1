//! What a model learns from: generated scenes and video files, as stretches of evenly paced pictures.

use std::path::PathBuf;
use std::str::FromStr;

use anyhow::{Result, ensure};
use nextclip_core::{Geometry, Picture};
use nextclip_media::Fit;
use nextclip_scenes::{Split, Trace};
use tch::{Kind, Tensor};

/// Where pictures come from, and how often they are drawn.
#[derive(Clone, Debug, PartialEq)]
pub struct Origin {
    /// What is read.
    pub what: What,
    /// How often it is drawn, relative to the other origins.
    pub weight: f64,
}

/// What an origin reads.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum What {
    /// Generated scenes, without end.
    Scenes,
    /// A video file, or a folder of them.
    Video(PathBuf),
}

impl Origin {
    /// Generated scenes alone.
    pub const SCENES: Self = Self { what: What::Scenes, weight: 1.0 };
}

/// `scenes` or a path; `=WEIGHT` at the end says how often, as in `scenes=3`.
impl FromStr for Origin {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let (what, weight) = match text.rsplit_once('=') {
            Some((what, weight)) => match weight.parse::<f64>() {
                Ok(weight) => (what, weight),
                Err(_) => (text, 1.0),
            },
            None => (text, 1.0),
        };
        if !(weight.is_finite() && weight > 0.0) {
            return Err(format!("a weight of {weight} in {text:?} is not above 0"));
        }
        let what = if what == "scenes" { What::Scenes } else { What::Video(what.into()) };
        Ok(Self { what, weight })
    }
}

/// Frames of a generated clip, unless a window is longer.
const SCENE_CLIP_FRAMES: usize = 20;
/// Frames that a window holds before its last clip, at the least, where the footage is shorter than a window.
const SHORTEST_HISTORY: usize = 5;

/// Frames of the shortest stretch that is learned from: one frame to predict needs a few to see.
pub fn shortest(geometry: &Geometry) -> usize {
    geometry.clip + geometry.history.min(SHORTEST_HISTORY)
}

/// `count` pictures of different generated scenes, or every picture of a video's `part`.
pub fn pictures(origin: &Origin, geometry: &Geometry, part: Split, count: usize) -> Result<Vec<Picture>> {
    let &Geometry { width, height, .. } = geometry;
    match origin.what {
        What::Scenes => {
            let picture = |seed| nextclip_scenes::Scene::new(part, seed, width, height).render();
            Ok((0..count as u64).map(picture).collect())
        }
        What::Video(_) => Ok(stretches(origin, geometry, part, 1, 0)?.flatten().collect()),
    }
}

/// The stretches of `origin` that belong to `part`, each of at least `shortest` pictures: all there are of
/// video, `scenes` clips of generated scenes. They are made while they are taken.
pub fn stretches(
    origin: &Origin,
    geometry: &Geometry,
    part: Split,
    shortest: usize,
    scenes: usize,
) -> Result<Box<dyn ExactSizeIterator<Item = Vec<Picture>>>> {
    let &Geometry { width, height, frame_interval_ms, .. } = geometry;
    match &origin.what {
        What::Scenes => {
            let frames = SCENE_CLIP_FRAMES.max(shortest);
            let interval_s = f64::from(frame_interval_ms) / 1e3;
            let clip =
                move |seed| nextclip_scenes::clip(part, u64::from(seed), width, height, frames, interval_s);
            Ok(Box::new((0..u32::try_from(scenes)?).map(clip)))
        }
        What::Video(path) => {
            let mut found = nextclip_media::footage(path, geometry, Fit::Crop, Some(part))?;
            found.retain(|stretch| stretch.len() >= shortest);
            ensure!(
                !found.is_empty(),
                "{}: no {part:?} stretch of {shortest} frames at {frame_interval_ms} ms a frame",
                path.display()
            );
            Ok(Box::new(found.into_iter()))
        }
    }
}

/// Where things are in each frame of a generated clip, as [`stretches`] gives it for this seed.
pub fn scene_traces(part: Split, seed: u64, geometry: &Geometry, shortest: usize) -> Vec<Trace> {
    let &Geometry { width, height, frame_interval_ms, .. } = geometry;
    let interval_s = f64::from(frame_interval_ms) / 1e3;
    nextclip_scenes::traces(part, seed, width, height, SCENE_CLIP_FRAMES.max(shortest), interval_s)
}

/// Pictures to one tensor (n, H, W, 3), 8 bit.
pub fn tensor_of(pictures: &[Picture]) -> Tensor {
    let all: Vec<Tensor> = pictures
        .iter()
        .map(|picture| {
            let (h, w, c) = picture.dim();
            let bytes: Vec<u8> = picture.iter().copied().collect();
            Tensor::from_slice(&bytes).reshape([h as i64, w as i64, c as i64])
        })
        .collect();
    Tensor::stack(&all, 0)
}

/// 8-bit pictures (n, H, W, 3) to what the VAE reads, (n, 3, H, W) in [-1, 1].
pub fn normalised(pictures: &Tensor) -> Tensor {
    pictures.permute([0, 3, 1, 2]).to_kind(Kind::Float).contiguous() / 127.5 - 1.0
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn origins_are_read_with_their_weights() {
        assert_eq!("scenes".parse(), Ok(Origin::SCENES));
        let video = |path: &str, weight| Ok(Origin { what: What::Video(path.into()), weight });
        assert_eq!("films/a=b.mp4".parse(), video("films/a=b.mp4", 1.0));
        assert_eq!("films=0.5".parse(), video("films", 0.5));
        assert!("films=0".parse::<Origin>().unwrap_err().contains("not above 0"));
    }
}
