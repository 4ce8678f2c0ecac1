//! Where measured clips come from: generated scenes, or films at the model's pace.

use std::fmt;
use std::path::PathBuf;
use std::str::FromStr;

use anyhow::{Result, bail, ensure};
use nextclip_core::{Geometry, Picture};
use nextclip_media::Fit;
use nextclip_scenes::{Split, Trace};

/// The fewest frames to predict from: below two nothing says which way things move.
pub const FEWEST_SEEN: usize = 2;

/// What to measure on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Footage {
    /// Generated scenes.
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

impl fmt::Display for Footage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Scenes => f.write_str("generated scenes"),
            Self::Films(path) => {
                let name = path.file_name().unwrap_or(path.as_os_str());
                write!(f, "{}", name.to_string_lossy())
            }
        }
    }
}

/// Which part of the footage, by the division that training keeps to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Part {
    /// Films whole, training part included.
    All,
    /// One part of it.
    Of(Split),
}

impl FromStr for Part {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match text {
            "all" => Ok(Self::All),
            "train" => Ok(Self::Of(Split::Train)),
            "validation" => Ok(Self::Of(Split::Validation)),
            "held-out" => Ok(Self::Of(Split::HeldOut)),
            _ => Err("must be all, train, validation or held-out".into()),
        }
    }
}

impl fmt::Display for Part {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::All => "all",
            Self::Of(Split::Train) => "train",
            Self::Of(Split::Validation) => "validation",
            Self::Of(Split::HeldOut) => "held-out",
        })
    }
}

/// What the model sees, then what comes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Clip {
    /// From [`FEWEST_SEEN`] to C pictures.
    pub seen: Vec<Picture>,
    /// As many as were asked for.
    pub came: Vec<Picture>,
}

/// Which clips to open.
#[derive(Clone, Debug)]
pub struct Selection {
    /// Where they come from.
    pub footage: Footage,
    /// Without it: held-out scenes, whole films.
    pub part: Option<Part>,
    /// How films are fitted to the model's size.
    pub fit: Fit,
    /// At most this many.
    pub most: usize,
}

impl Selection {
    /// The part that is measured.
    pub fn part(&self) -> Part {
        self.part.unwrap_or(match self.footage {
            Footage::Scenes => Part::Of(Split::HeldOut),
            Footage::Films(_) => Part::All,
        })
    }
}

/// Clips to predict.
#[derive(Debug)]
pub struct Clips {
    geometry: Geometry,
    source: Source,
    /// Frames that come.
    future: usize,
}

#[derive(Debug)]
enum Source {
    Scenes { split: Split, count: usize },
    Films { stretches: Vec<Vec<Picture>>, windows: Vec<Window> },
}

/// A clip of a film.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Window {
    stretch: usize,
    start: usize,
    seen: usize,
}

impl Clips {
    /// Opens clips with `future` frames to predict. Of films they lie evenly over all that there is and do
    /// not overlap in what is predicted; where a film has no C + `future` frames in a row, less is seen.
    pub fn open(selection: &Selection, geometry: &Geometry, future: usize) -> Result<Self> {
        ensure!(selection.most > 0, "0 clips to measure, must be at least 1");
        let source = match (&selection.footage, selection.part()) {
            (Footage::Scenes, Part::Of(split)) => Source::Scenes { split, count: selection.most },
            (Footage::Scenes, Part::All) => {
                bail!("generated scenes have no \"all\": choose train, validation or held-out")
            }
            (Footage::Films(path), part) => {
                let split = match part {
                    Part::All => None,
                    Part::Of(split) => Some(split),
                };
                let stretches = nextclip_media::footage(path, geometry, selection.fit, split)?;
                let lengths: Vec<usize> = stretches.iter().map(Vec::len).collect();
                let windows = windows(&lengths, geometry, future);
                ensure!(
                    !windows.is_empty(),
                    "{}, part {part}: the longest unbroken stretch has {} frames at {} ms a frame; it takes {} \
                     to see and {future} to predict",
                    path.display(),
                    lengths.iter().max().unwrap_or(&0),
                    geometry.frame_interval_ms,
                    FEWEST_SEEN.min(geometry.history)
                );
                let count = selection.most.min(windows.len());
                let windows = (0..count).map(|n| windows[n * windows.len() / count]).collect();
                Source::Films { stretches, windows }
            }
        };
        Ok(Self { geometry: *geometry, source, future })
    }

    /// Number of clips.
    pub fn len(&self) -> usize {
        match &self.source {
            Source::Scenes { count, .. } => *count,
            Source::Films { windows, .. } => windows.len(),
        }
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Clip `index`, the same for the same footage and index. An index past the end gives the last clip of
    /// films; scenes never end.
    pub fn clip(&self, index: usize) -> Clip {
        let Geometry { width, height, history, frame_interval_ms, .. } = self.geometry;
        let (mut pictures, seen) = match &self.source {
            Source::Scenes { split, .. } => {
                let interval_s = f64::from(frame_interval_ms) / 1e3;
                let frames = history + self.future;
                let scene = nextclip_scenes::clip(*split, index as u64, width, height, frames, interval_s);
                (scene, history)
            }
            Source::Films { stretches, windows } => {
                let Window { stretch, start, seen } = windows[index.min(windows.len() - 1)];
                (stretches[stretch][start..start + seen + self.future].to_vec(), seen)
            }
        };
        let came = pictures.split_off(seen);
        Clip { seen: pictures, came }
    }

    /// Where everything is in the pictures of clip `index`, where that is known: in generated scenes.
    pub fn traces(&self, index: usize) -> Option<Vec<Trace>> {
        let Geometry { width, height, history, frame_interval_ms, .. } = self.geometry;
        let Source::Scenes { split, .. } = self.source else { return None };
        let (frames, interval_s) = (history + self.future, f64::from(frame_interval_ms) / 1e3);
        Some(nextclip_scenes::traces(split, index as u64, width, height, frames, interval_s))
    }

    /// Fewest frames that are seen before a prediction.
    pub fn fewest_seen(&self) -> usize {
        match &self.source {
            Source::Scenes { .. } => self.geometry.history,
            Source::Films { windows, .. } => {
                windows.iter().map(|window| window.seen).min().unwrap_or(self.geometry.history)
            }
        }
    }
}

/// All clips of stretches of these lengths.
fn windows(lengths: &[usize], geometry: &Geometry, future: usize) -> Vec<Window> {
    let mut windows = Vec::new();
    for (stretch, &frames) in lengths.iter().enumerate() {
        // A history that fills up is better than a stretch left out.
        let seen = frames.saturating_sub(future).min(geometry.history);
        if seen < FEWEST_SEEN.min(geometry.history) {
            continue;
        }
        let starts = (0..=frames - seen - future).step_by(future.max(1));
        windows.extend(starts.map(|start| Window { stretch, start, seen }));
    }
    windows
}

#[cfg(test)]
mod tests {
    use super::*;

    const GEOMETRY: Geometry = Geometry {
        height: 32,
        width: 48,
        vae_scale: 8,
        latent_channels: 4,
        patch: 2,
        history: 7,
        clip: 5,
        frame_interval_ms: 200,
    };

    #[test]
    fn short_stretches_are_seen_for_less_long() {
        let window = |stretch, start, seen| Window { stretch, start, seen };
        assert_eq!(
            windows(&[6, 7, 10, 12, 21], &GEOMETRY, 5),
            [window(1, 0, 2), window(2, 0, 5), window(3, 0, 7), window(4, 0, 7), window(4, 5, 7)]
        );
        assert!(windows(&[0, 3, 41], &GEOMETRY, 40).is_empty());
        // A model that remembers one frame only predicts from one.
        assert_eq!(windows(&[6], &Geometry { history: 1, ..GEOMETRY }, 5), [window(0, 0, 1)]);
    }

    #[test]
    fn scenes_are_held_out_unless_asked() {
        let selection = Selection { footage: Footage::Scenes, part: None, fit: Fit::Crop, most: 3 };
        let clips = Clips::open(&selection, &GEOMETRY, 10).unwrap();
        assert_eq!((clips.len(), clips.fewest_seen()), (3, 7));
        let clip = clips.clip(1);
        assert_eq!((clip.seen.len(), clip.came.len()), (7, 10));
        let expected = nextclip_scenes::clip(Split::HeldOut, 1, 48, 32, 17, 0.2);
        assert_eq!((&clip.seen[0], &clip.came[9]), (&expected[0], &expected[16]));
        let part = Some(Part::Of(Split::Train));
        let other = Clips::open(&Selection { part, ..selection.clone() }, &GEOMETRY, 10).unwrap();
        assert_ne!(other.clip(1), clip);
        assert!(Clips::open(&Selection { part: Some(Part::All), ..selection }, &GEOMETRY, 10).is_err());
    }
}
