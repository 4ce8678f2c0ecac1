//! The film: for every moment what had been predicted for it at the full horizon, beside what came.

use std::path::{Path, PathBuf};

use nextclip_core::{Geometry, Picture};
use nextclip_media::Mp4Writer;

use super::{Sink, Written};
use crate::drawing::film_frame;
use crate::prediction::Scored;
use crate::session::Event;

/// File name within the output folder.
const FILE_NAME: &str = "predicted-beside-actual.mp4";
/// Film frames that one moment fills at most where moments are missing, so that a long pause stays short.
const REPEAT_BOUND: u64 = 25;

/// Writes one film frame a model interval, in the camera's time: where no prediction was made for a
/// moment, the moment before stays.
pub struct Film {
    path: PathBuf,
    frame_interval_ms: u32,
    horizon_s: f64,
    /// Opened with the first picture: a film without one cannot be played.
    open: Option<Reel>,
}

struct Reel {
    writer: Mp4Writer,
    newest: Picture,
    /// The moment of the newest picture, in nanoseconds of the camera's clock.
    newest_ns: u64,
}

impl Film {
    /// A film in `folder`.
    pub fn new(folder: &Path, geometry: &Geometry) -> Self {
        let horizon_s = geometry.horizon_ms() as f64 / 1e3;
        let frame_interval_ms = geometry.frame_interval_ms;
        Self { path: folder.join(FILE_NAME), frame_interval_ms, horizon_s, open: None }
    }

    fn show(&mut self, picture: Picture, now_ns: u64) -> Result<(), nextclip_media::Error> {
        let interval_ns = u64::from(self.frame_interval_ms) * 1_000_000;
        let reel = match &mut self.open {
            Some(reel) => reel,
            None => {
                let (height, width, _) = picture.dim();
                let rate = (1000, self.frame_interval_ms);
                let writer = Mp4Writer::create(&self.path, width, height, rate)?;
                self.open.insert(Reel { writer, newest: picture.clone(), newest_ns: now_ns })
            }
        };
        let passed_ns = now_ns.saturating_sub(reel.newest_ns);
        let missing = ((passed_ns + interval_ns / 2) / interval_ns).saturating_sub(1);
        for _ in 0..missing.min(REPEAT_BOUND) {
            reel.writer.push(&reel.newest)?;
        }
        reel.writer.push(&picture)?;
        (reel.newest, reel.newest_ns) = (picture, now_ns);
        Ok(())
    }
}

impl Sink for Film {
    fn take(&mut self, event: &Event) -> anyhow::Result<()> {
        let Event::Scored(scored) = event else { return Ok(()) };
        let Some(picture) = moment(scored, self.horizon_s) else { return Ok(()) };
        Ok(self.show(picture, scored.prediction.span.until_ns())?)
    }

    fn finish(self: Box<Self>) -> anyhow::Result<Vec<Written>> {
        let Some(reel) = self.open else { return Ok(Vec::new()) };
        reel.writer.finish()?;
        Ok(vec![Written { what: "video", path: self.path }])
    }
}

/// The last moment of a prediction's span; `None` where no frame came for it.
fn moment(scored: &Scored, horizon_s: f64) -> Option<Picture> {
    let prediction = &scored.prediction;
    Some(film_frame([
        (format!("seen {horizon_s:.1} s before"), prediction.past.last()?.as_ref()),
        (format!("predicted from it, {horizon_s:.1} s ahead"), prediction.future.last()?),
        ("what came".to_owned(), scored.actual.last()?.as_deref()?),
    ]))
}

#[cfg(test)]
mod tests {
    use nextclip_media::{Fit, read_video};

    use super::*;

    const GEOMETRY: Geometry = Geometry {
        height: 64,
        width: 64,
        vae_scale: 8,
        latent_channels: 4,
        patch: 2,
        history: 2,
        clip: 5,
        frame_interval_ms: 200,
    };

    #[test]
    fn a_film_keeps_the_cameras_time() {
        let folder = tempfile::tempdir().unwrap();
        let mut film = Film::new(folder.path(), &GEOMETRY);
        let picture = Picture::from_elem((64, 64, 3), 90);
        // Two moments are missing between the second and the third; then time runs backwards.
        for now_ms in [1_000, 1_210, 1_795, 0] {
            film.show(picture.clone(), now_ms * 1_000_000).unwrap();
        }
        let written = Box::new(film).finish().unwrap();
        let frames = read_video(&written[0].path, 64, 64, Fit::Stretch).unwrap();
        let times: Vec<_> = frames.map(|frame| frame.unwrap().captured_ns / 1_000_000).collect();
        assert_eq!(times, [0, 200, 400, 600, 800, 1000]);
    }

    #[test]
    fn no_picture_no_film() {
        let folder = tempfile::tempdir().unwrap();
        let film = Box::new(Film::new(folder.path(), &GEOMETRY));
        assert_eq!(film.finish().unwrap(), []);
        assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 0);
    }
}
