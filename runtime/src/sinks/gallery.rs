//! Strips: what was seen, predicted and came, side by side, for a person to judge.

use std::path::{Path, PathBuf};

use nextclip_media::save_png;

use super::{Sink, Written};
use crate::config::FileSettings;
use crate::drawing::Comparison;
use crate::prediction::Scored;
use crate::session::Event;

/// Draws every Nth scored prediction, up to a number, and at the end the one in which most moved: where
/// nothing moves, a picture of a prediction shows nothing.
pub struct Gallery {
    folder: PathBuf,
    every: Option<u64>,
    /// Strips that may still be drawn.
    left: u64,
    scored: u64,
    most_motion: Option<Box<Scored>>,
}

impl Gallery {
    /// A gallery in the folder of `files`.
    pub fn new(files: &FileSettings) -> Self {
        let every = files.strip_every.map(std::num::NonZeroU64::get);
        Self { folder: files.folder.clone(), every, left: files.strip_max, scored: 0, most_motion: None }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.join("strips").join(name)
    }
}

impl Sink for Gallery {
    fn take(&mut self, event: &Event) -> anyhow::Result<()> {
        let (Event::Scored(scored), Some(every)) = (event, self.every) else { return Ok(()) };
        if self.scored.is_multiple_of(every) && self.left > 0 {
            self.left -= 1;
            draw(&self.path(&format!("{:06}.png", scored.prediction.id)), scored)?;
        }
        self.scored += 1;
        // The worse the last frame is as a guess, the more has moved.
        if self.most_motion.as_ref().is_none_or(|most| scored.last_frame.mean_db < most.last_frame.mean_db) {
            self.most_motion = Some(scored.clone());
        }
        Ok(())
    }

    fn finish(self: Box<Self>) -> anyhow::Result<Vec<Written>> {
        let Some(scored) = &self.most_motion else { return Ok(Vec::new()) };
        let path = self.path("most-motion.png");
        draw(&path, scored)?;
        Ok(vec![Written { what: "strip", path }])
    }
}

fn draw(path: &Path, scored: &Scored) -> anyhow::Result<()> {
    let prediction = &scored.prediction;
    let gain_db = scored.gain_db();
    let comparison = Comparison {
        title: format!("prediction {}: {gain_db:+.1} dB over the last frame repeated", prediction.id),
        subtitle: format!(
            "from {:.1} s of the stream, reaching {:.0} ms ahead, there after {:.0} ms",
            prediction.span.from_ns as f64 / 1e9,
            prediction.horizon_ms(),
            prediction.latency_ms()
        ),
        interval_s: prediction.span.interval_ns as f64 / 1e9,
        past: &prediction.past,
        future: &prediction.future,
        came: scored.actual.iter().map(Option::as_deref).collect(),
        psnr_db: Some((scored.psnr.mean_db, scored.last_frame.mean_db)),
    };
    Ok(save_png(path, &comparison.strip())?)
}

#[cfg(test)]
mod tests {
    use std::num::NonZeroU64;
    use std::sync::Arc;
    use std::time::{Duration, SystemTime};

    use nextclip_core::{Picture, Span};

    use super::*;
    use crate::prediction::Prediction;

    fn scored(id: u64, last: u8) -> Event {
        let picture = |level| Picture::from_elem((16, 16, 3), level);
        let prediction = Prediction {
            id,
            span: Span { from_ns: 0, interval_ns: 200_000_000, frames: 2 },
            issued_at: SystemTime::UNIX_EPOCH,
            latency: Duration::ZERO,
            steps: 1,
            past: vec![Arc::new(picture(last))],
            future: vec![picture(100); 2],
        };
        let actual = vec![Some(Arc::new(picture(100))); 2];
        Event::Scored(Box::new(Scored::new(Arc::new(prediction), actual).unwrap()))
    }

    #[test]
    fn draws_every_nth_up_to_a_bound_and_the_most_moving() {
        let folder = tempfile::tempdir().unwrap();
        let files = FileSettings {
            folder: folder.path().into(),
            strip_every: NonZeroU64::new(2),
            strip_max: 2,
            video: false,
        };
        let mut gallery = Box::new(Gallery::new(&files));
        for (id, last) in [(0, 99), (1, 90), (2, 20), (3, 80), (4, 99), (5, 99)] {
            gallery.take(&scored(id, last)).unwrap();
        }
        assert_eq!(gallery.most_motion.as_ref().unwrap().prediction.id, 2);
        let written = gallery.finish().unwrap();
        assert_eq!(written[0].path, folder.path().join("strips/most-motion.png"));
        let mut names: Vec<_> = std::fs::read_dir(folder.path().join("strips"))
            .unwrap()
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .collect();
        names.sort();
        assert_eq!(names, ["000000.png", "000002.png", "most-motion.png"]);
    }
}
