//! The clips that ranges are taken from: generated scenes, or films at the model's pace.

use std::path::Path;

use nextclip_core::{Geometry, Pace, Pacer, Picture};
use nextclip_media::{Fit, films, learnable, read_video};
use nextclip_scenes::Split;
use rand::{Rng, RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;

use super::error::CalibrationError;
use crate::calibrated::{Footage, Sight};

/// A clip of C + N pictures.
pub(super) enum Clip {
    /// Rendered when it is needed.
    Scene { seed: u64, geometry: Geometry },
    /// Of a film.
    Film(Vec<Picture>),
}

impl Clip {
    pub(super) fn pictures(self) -> Vec<Picture> {
        match self {
            Self::Film(pictures) => pictures,
            Self::Scene { seed, geometry } => {
                let Geometry { width, height, history, clip, frame_interval_ms, .. } = geometry;
                let interval_s = f64::from(frame_interval_ms) / 1e3;
                nextclip_scenes::clip(Split::Train, seed, width, height, history + clip, interval_s)
            }
        }
    }
}

/// Which clips of films.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Share {
    /// All of them.
    All,
    /// Those that ranges are taken from.
    Ranges,
    /// Those that losses are measured on: every fourth, from the second on.
    Losses,
}

impl Share {
    fn takes(self, index: usize) -> bool {
        match self {
            Self::All => true,
            Self::Ranges => index % 4 != 1,
            Self::Losses => index % 4 == 1,
        }
    }
}

/// The clips of `sight`, at least one. Scenes never end: it is the seed that tells theirs apart.
pub(super) fn clips(sight: &Sight, geometry: &Geometry, share: Share) -> Result<Vec<Clip>, CalibrationError> {
    if sight.clips == 0 {
        return Err(CalibrationError::NoClips);
    }
    match &sight.footage {
        Footage::Scenes => {
            let scene = |index| Clip::Scene { seed: sight.seed.wrapping_add(index), geometry: *geometry };
            Ok((0..sight.clips as u64).map(scene).collect())
        }
        Footage::Films(path) => film_clips(path, sight, geometry, share),
    }
}

/// A fair choice among the films' clips, which do not overlap and are not held out for measuring bundles. Films are
/// read twice, once to learn their lengths; no more pictures are held than those of the chosen clips.
fn film_clips(
    path: &Path,
    sight: &Sight,
    geometry: &Geometry,
    share: Share,
) -> Result<Vec<Clip>, CalibrationError> {
    let frames = geometry.history + geometry.clip;
    let films = films(path)?;
    let mut lengths = Vec::new();
    for film in &films {
        paced(film, geometry, |_, start| {
            if start {
                lengths.push(0);
            }
            lengths.last_mut().into_iter().for_each(|length| *length += 1);
        })?;
    }
    let usable = learnable(&lengths);
    let mut choice = Choice { most: sight.clips, met: 0, chosen: vec![] };
    let mut dice = ChaCha8Rng::seed_from_u64(sight.seed);
    let (mut stretch, mut place, mut clips) = (0, 0, 0);
    let mut pictures = Vec::with_capacity(frames);
    for film in &films {
        paced(film, geometry, |picture, start| {
            if start {
                (stretch, place) = (stretch + 1, 0);
                // What was gathered before a gap cannot go on.
                pictures.clear();
            }
            place += 1;
            if usable.get(stretch - 1).is_some_and(|usable| place <= *usable) {
                pictures.push(picture);
            }
            if pictures.len() == frames {
                let clip = std::mem::replace(&mut pictures, Vec::with_capacity(frames));
                if share.takes(clips) {
                    choice.offer(clip, &mut dice);
                }
                clips += 1;
            }
        })?;
    }
    match choice.chosen.is_empty() {
        false => Ok(choice.chosen.into_iter().map(Clip::Film).collect()),
        true if clips > 0 => Err(CalibrationError::NothingLeft { path: path.into(), clips }),
        true => {
            let longest = usable.into_iter().max().unwrap_or(0);
            let interval_ms = geometry.frame_interval_ms;
            Err(CalibrationError::TooShort { path: path.into(), longest, frames, interval_ms })
        }
    }
}

/// The pictures of a film at the model's pace, each with whether it starts a stretch without gaps.
fn paced(
    film: &Path,
    geometry: &Geometry,
    mut take: impl FnMut(Picture, bool),
) -> Result<(), CalibrationError> {
    let mut pacer = Pacer::new(u64::from(geometry.frame_interval_ms) * 1_000_000);
    let mut first = true;
    for frame in read_video(film, geometry.width, geometry.height, Fit::default())? {
        let frame = frame?;
        let gap = match pacer.offer(frame.captured_ns) {
            Pace::Skip => continue,
            Pace::Take => false,
            Pace::TakeAfterGap => true,
        };
        take(frame.picture, first || gap);
        first = false;
    }
    Ok(())
}

/// Keeps of a stream of unknown length a fair choice (Vitter's algorithm R).
struct Choice<T> {
    most: usize,
    met: usize,
    chosen: Vec<T>,
}

impl<T> Choice<T> {
    fn offer(&mut self, item: T, dice: &mut impl Rng) {
        self.met += 1;
        if self.chosen.len() < self.most {
            self.chosen.push(item);
            return;
        }
        let place = dice.random_range(0..self.met);
        if let Some(held) = self.chosen.get_mut(place) {
            *held = item;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shares_are_apart_and_cover_everything() {
        for index in 0..12 {
            assert!(Share::All.takes(index) && Share::Ranges.takes(index) != Share::Losses.takes(index));
        }
        assert!(Share::Ranges.takes(0) && Share::Losses.takes(1), "two clips serve both");
    }

    #[test]
    fn the_choice_is_fair_and_bounded() {
        let mut times = [0; 20];
        for seed in 0..2000 {
            let mut dice = ChaCha8Rng::seed_from_u64(seed);
            let mut choice = Choice { most: 5, met: 0, chosen: vec![] };
            (0..20).for_each(|item| choice.offer(item, &mut dice));
            assert_eq!(choice.chosen.len(), 5);
            choice.chosen.iter().for_each(|&item: &usize| times[item] += 1);
        }
        // 5 of 20, 2000 times: 500 each, with a standard deviation of 19.
        assert!(times.iter().all(|&n| (400..600).contains(&n)), "{times:?}");
    }
}
