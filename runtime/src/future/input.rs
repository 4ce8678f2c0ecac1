//! What `nextclipd predict` is given: the frames before a moment, and those after it where there are any.

use std::collections::VecDeque;
use std::ffi::OsStr;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::{Context, bail, ensure};
use nextclip_core::{Geometry, Pace, Pacer, Picture};
use nextclip_media::{Fit, Frame, read_video};

/// Frames around the moment at which the future begins, all on the model's grid and of its size.
#[derive(Debug)]
pub(super) struct Input {
    /// The last frames before it, at most as many as the model remembers; never empty.
    pub(super) past: Vec<Arc<Picture>>,
    /// What really came after it, at most as many as were asked for.
    pub(super) came: Vec<Picture>,
}

/// Which frames are wanted, and how.
#[derive(Clone, Copy, Debug)]
pub(super) struct Wanted {
    /// Sizes of the model.
    pub(super) geometry: Geometry,
    /// How pictures of another aspect become the model's size.
    pub(super) fit: Fit,
    /// The moment at which the future begins, in seconds from the first frame; the end where absent.
    pub(super) at_s: Option<f64>,
    /// Frames to compare predictions with.
    pub(super) future: usize,
}

impl Wanted {
    /// Reads a film, a PNG or a folder of PNGs.
    pub(super) fn read(&self, input: &Path) -> anyhow::Result<Input> {
        let place = || input.display().to_string();
        let is_folder = std::fs::metadata(input).with_context(place)?.is_dir();
        let is_png =
            |path: &Path| path.extension().is_some_and(|e| e.eq_ignore_ascii_case(OsStr::new("png")));
        let (past, came) = if is_folder {
            let mut files: Vec<PathBuf> = Vec::new();
            for entry in std::fs::read_dir(input).with_context(place)? {
                files.push(entry.with_context(place)?.path());
            }
            files.retain(|path| is_png(path));
            files.sort();
            self.pictures(&files).with_context(place)?
        } else if is_png(input) {
            self.pictures(&[input.to_owned()])?
        } else {
            let Geometry { width, height, .. } = self.geometry;
            self.film(read_video(input, width, height, self.fit)?).with_context(place)?
        };
        Ok(Input { past: past.into_iter().map(Arc::new).collect(), came })
    }

    /// Frames of a film, picked as the daemon picks them.
    fn film(
        &self,
        frames: impl Iterator<Item = Result<Frame, nextclip_media::Error>>,
    ) -> anyhow::Result<(Vec<Picture>, Vec<Picture>)> {
        let mut pacer = Pacer::new(u64::from(self.geometry.frame_interval_ms) * 1_000_000);
        let (mut past, mut came) = (VecDeque::new(), Vec::new());
        let mut first_ns = None;
        let mut end_s = 0.0;
        for frame in frames {
            let frame = frame?;
            let first_ns = *first_ns.get_or_insert(frame.captured_ns);
            end_s = frame.captured_ns.saturating_sub(first_ns) as f64 / 1e9;
            let is_past = self.at_s.is_none_or(|at_s| end_s <= at_s);
            let pace = pacer.offer(frame.captured_ns);
            if !is_past && (came.len() == self.future || pace == Pace::TakeAfterGap) {
                break;
            }
            match pace {
                Pace::Skip => continue,
                Pace::Take => {}
                Pace::TakeAfterGap => past.clear(),
            }
            if !is_past {
                came.push(frame.picture);
                continue;
            }
            if past.len() == self.geometry.history {
                past.pop_front();
            }
            past.push_back(frame.picture);
        }
        if let Some(at_s) = self.at_s.filter(|at_s| *at_s > end_s) {
            bail!("it ends at {end_s:.2} s, --at is {at_s} s");
        }
        ensure!(!past.is_empty(), "it holds no frame");
        Ok((past.into(), came))
    }

    /// Pictures one model interval apart.
    fn pictures(&self, files: &[PathBuf]) -> anyhow::Result<(Vec<Picture>, Vec<Picture>)> {
        ensure!(!files.is_empty(), "the folder holds no .png");
        let interval_s = f64::from(self.geometry.frame_interval_ms) / 1e3;
        let seen = match self.at_s {
            None => files.len(),
            // The picture at the very moment is still of the past; its time may be rounded.
            Some(at_s) => (at_s / interval_s + 1e-6) as usize + 1,
        };
        if seen > files.len() {
            let end_s = (files.len() - 1) as f64 * interval_s;
            bail!("the pictures end at {end_s:.2} s, --at is {} s", self.at_s.unwrap_or_default());
        }
        let (past, rest) = files.split_at(seen);
        let past = &past[past.len().saturating_sub(self.geometry.history)..];
        let read =
            |files: &[PathBuf]| files.iter().map(|file| self.picture(file)).collect::<Result<Vec<_>, _>>();
        Ok((read(past)?, read(&rest[..rest.len().min(self.future)])?))
    }

    /// One picture file, fitted as a film's frame would be.
    fn picture(&self, file: &Path) -> anyhow::Result<Picture> {
        let Geometry { width, height, .. } = self.geometry;
        let mut frames = read_video(file, width, height, self.fit)?;
        let frame = frames.next().with_context(|| format!("{}: it holds no picture", file.display()))??;
        Ok(frame.picture)
    }
}

#[cfg(test)]
mod tests {
    use std::time::Instant;

    use nextclip_media::save_png;

    use super::*;

    fn wanted(at_s: Option<f64>) -> Wanted {
        let geometry = Geometry {
            height: 16,
            width: 16,
            vae_scale: 8,
            latent_channels: 4,
            patch: 2,
            history: 3,
            clip: 2,
            frame_interval_ms: 200,
        };
        Wanted { geometry, fit: Fit::Crop, at_s, future: 4 }
    }

    fn grey(level: usize) -> Picture {
        Picture::from_elem((16, 16, 3), level as u8)
    }

    /// Ten frames a second; every frame's level is its number.
    fn film(frames: usize) -> impl Iterator<Item = Result<Frame, nextclip_media::Error>> {
        (0..frames).map(|n| {
            let captured_ns = n as u64 * 100_000_000;
            Ok(Frame { picture: grey(n), captured_ns, captured_at: Instant::now() })
        })
    }

    fn levels(pictures: &[Picture]) -> Vec<u8> {
        pictures.iter().map(|picture| picture[[0, 0, 0]]).collect()
    }

    #[test]
    fn a_film_is_cut_at_the_moment() {
        let (past, came) = wanted(Some(1.0)).film(film(100)).unwrap();
        assert_eq!((levels(&past), levels(&came)), (vec![6, 8, 10], vec![12, 14, 16, 18]));
        let (past, came) = wanted(None).film(film(21)).unwrap();
        assert_eq!((levels(&past), levels(&came)), (vec![16, 18, 20], vec![]));
        let (past, came) = wanted(Some(0.0)).film(film(4)).unwrap();
        assert_eq!((levels(&past), levels(&came)), (vec![0], vec![2]));
    }

    #[test]
    fn a_moment_beyond_the_end_is_refused() {
        let told = wanted(Some(5.0)).film(film(11)).unwrap_err().to_string();
        assert_eq!(told, "it ends at 1.00 s, --at is 5 s");
    }

    #[test]
    fn pictures_are_taken_by_name() {
        let folder = tempfile::tempdir().unwrap();
        for n in 0..6 {
            save_png(folder.path().join(format!("{n:02}.png")), &grey(40 * n)).unwrap();
        }
        std::fs::write(folder.path().join("notes.txt"), "not a picture").unwrap();
        let input = wanted(Some(0.6)).read(folder.path()).unwrap();
        let past: Vec<_> = input.past.iter().map(|picture| picture[[0, 0, 0]]).collect();
        assert_eq!((past, levels(&input.came)), (vec![40, 80, 120], vec![160, 200]));
        let single = wanted(None).read(&folder.path().join("02.png")).unwrap();
        assert_eq!((single.past.len(), single.past[0][[3, 3, 1]]), (1, 80));
        let told = wanted(Some(9.0)).read(folder.path()).unwrap_err();
        assert!(format!("{told:#}").contains("the pictures end at 1.00 s"), "{told:#}");
        let empty = tempfile::tempdir().unwrap();
        assert!(format!("{:#}", wanted(None).read(empty.path()).unwrap_err()).contains("no .png"));
    }
}
