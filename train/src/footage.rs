//! What a model learns from: generated scenes and video files, as clips of evenly paced pictures.

use std::path::PathBuf;
use std::str::FromStr;

use anyhow::{Result, ensure};
use nextclip_core::{Geometry, Picture};
use nextclip_media::Fit;
use nextclip_scenes::Split;
use tch::{Kind, Tensor};

/// Where clips come from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Origin {
    /// Generated scenes, without end.
    Scenes,
    /// A video file, or a folder of them.
    Video(PathBuf),
}

impl FromStr for Origin {
    type Err = std::convert::Infallible;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        Ok(if text == "scenes" { Self::Scenes } else { Self::Video(text.into()) })
    }
}

/// Clips of a fixed length. Clip `index` is always the same pictures.
#[derive(Debug)]
pub struct Footage {
    geometry: Geometry,
    frames: usize,
    split: Split,
    /// Unbroken stretches of video at the model's pace; empty for scenes.
    stretches: Vec<Vec<Picture>>,
}

impl Footage {
    /// Opens `origin` for clips of `frames` pictures. Videos are read into memory at the model's size and
    /// pace; of each, the last tenth is `HeldOut` and the rest `Train`.
    pub fn open(origin: &Origin, geometry: &Geometry, frames: usize, split: Split) -> Result<Self> {
        let mut stretches = Vec::new();
        if let Origin::Video(path) = origin {
            for film in nextclip_media::films(path)? {
                for stretch in nextclip_media::stretches(&film, geometry, Fit::Crop)? {
                    let tail = stretch.len() - stretch.len() / 10;
                    let part = match split {
                        Split::Train => &stretch[..tail],
                        Split::HeldOut => &stretch[tail..],
                    };
                    if part.len() >= frames {
                        stretches.push(part.to_vec());
                    }
                }
            }
            ensure!(
                !stretches.is_empty(),
                "{}: no stretch of {frames} frames at {} ms a frame",
                path.display(),
                geometry.frame_interval_ms
            );
        }
        Ok(Self { geometry: *geometry, frames, split, stretches })
    }

    /// How many different clips there are; `None` where there is no end.
    pub fn count(&self) -> Option<u64> {
        let starts = |stretch: &Vec<Picture>| (stretch.len() + 1 - self.frames) as u64;
        (!self.stretches.is_empty()).then(|| self.stretches.iter().map(starts).sum())
    }

    /// Clip `index`; with videos indices wrap around.
    pub fn clip(&self, index: u64) -> Vec<Picture> {
        let Some(count) = self.count() else {
            let Geometry { width, height, frame_interval_ms, .. } = self.geometry;
            let interval_s = f64::from(frame_interval_ms) / 1e3;
            return nextclip_scenes::clip(self.split, index, width, height, self.frames, interval_s);
        };
        let mut start = (index % count) as usize;
        for stretch in &self.stretches {
            let starts = stretch.len() + 1 - self.frames;
            if start < starts {
                return stretch[start..start + self.frames].to_vec();
            }
            start -= starts;
        }
        unreachable!("an index below the number of clips lies in a stretch")
    }
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
