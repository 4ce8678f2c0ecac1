//! Where measured clips come from: held-out generated scenes, or films at the model's pace.

use std::path::PathBuf;
use std::str::FromStr;

use anyhow::{Result, ensure};
use nextclip_core::{Geometry, Picture};
use nextclip_media::Fit;
use nextclip_scenes::Split;

/// What to measure on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Footage {
    /// Generated scenes that no training run sees.
    Scenes,
    /// A film, or a folder of films.
    Films(PathBuf),
}

impl FromStr for Footage {
    type Err = std::convert::Infallible;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        Ok(if text == "scenes" { Self::Scenes } else { Self::Films(text.into()) })
    }
}

/// Clips of C + N pictures: what the model sees, then what comes.
#[derive(Debug)]
pub struct Clips {
    geometry: Geometry,
    count: usize,
    /// Start of each film clip; empty for scenes.
    windows: Vec<(usize, usize)>,
    stretches: Vec<Vec<Picture>>,
}

impl Clips {
    /// Opens at most `most` clips. Of films they lie evenly over all that there is, and do not overlap in
    /// what is predicted.
    pub fn open(footage: &Footage, geometry: &Geometry, fit: Fit, most: usize) -> Result<Self> {
        let mut clips = Self { geometry: *geometry, count: most, windows: Vec::new(), stretches: Vec::new() };
        let Footage::Films(path) = footage else { return Ok(clips) };
        for film in nextclip_media::films(path)? {
            clips.stretches.extend(nextclip_media::stretches(&film, geometry, fit)?);
        }
        let frames = geometry.history + geometry.clip;
        let mut windows = Vec::new();
        for (index, stretch) in clips.stretches.iter().enumerate() {
            let starts = (0..(stretch.len() + 1).saturating_sub(frames)).step_by(geometry.clip);
            windows.extend(starts.map(|start| (index, start)));
        }
        ensure!(
            !windows.is_empty(),
            "{}: no unbroken {:.1} s at {} ms a frame, which {frames} frames take",
            path.display(),
            frames as f64 * f64::from(geometry.frame_interval_ms) / 1e3,
            geometry.frame_interval_ms
        );
        clips.count = most.min(windows.len());
        clips.windows = (0..clips.count).map(|n| windows[n * windows.len() / clips.count]).collect();
        Ok(clips)
    }

    /// Number of clips.
    pub fn len(&self) -> usize {
        self.count
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.count == 0
    }

    /// Clip `index`, C + N pictures; the same for the same footage and index.
    pub fn clip(&self, index: usize) -> Vec<Picture> {
        let Geometry { width, height, history, clip, frame_interval_ms, .. } = self.geometry;
        match self.windows.get(index) {
            Some(&(stretch, start)) => self.stretches[stretch][start..start + history + clip].to_vec(),
            None => {
                let interval_s = f64::from(frame_interval_ms) / 1e3;
                nextclip_scenes::clip(Split::HeldOut, index as u64, width, height, history + clip, interval_s)
            }
        }
    }
}
