//! How a prediction is drawn for a person: as a strip over time, and as one moment of a film.

use std::sync::Arc;

use nextclip_core::Picture;
use nextclip_media::strip::{Group, Row, Section, Strip, difference};

/// Frames of the past that a strip shows at most; a long history would push the future off the page.
const PAST_SHOWN: usize = 7;
/// Differences are drawn this much stronger: a quarter of the range is already full heat.
const DIFFERENCE_GAIN: f32 = 4.0;
/// A film shows each picture at least this wide, in pixels.
const FILM_WIDTH: usize = 256;

/// A prediction to draw.
pub(crate) struct Comparison<'a> {
    /// Large, above all.
    pub(crate) title: String,
    /// Small, below it.
    pub(crate) subtitle: String,
    /// Time between two frames, in seconds.
    pub(crate) interval_s: f64,
    /// What the model had seen, oldest first.
    pub(crate) past: &'a [Arc<Picture>],
    /// What it predicted, earliest first.
    pub(crate) future: &'a [Picture],
    /// What came, as far as it did.
    pub(crate) came: Vec<Option<&'a Picture>>,
    /// Mean PSNR of the prediction and of the last frame repeated, where anything came.
    pub(crate) psnr_db: Option<(f64, f64)>,
}

impl Comparison<'_> {
    /// Past, predicted, actual and the differences as rows over time. Where nothing came, the rows that
    /// would compare are left out.
    pub(crate) fn strip(&self) -> Picture {
        let past = &self.past[self.past.len().saturating_sub(PAST_SHOWN)..];
        let label = |intervals: f64| format!("{:+.1} s", intervals * self.interval_s);
        let past_labels = (0..past.len()).map(|index| match past.len() - 1 - index {
            0 => "now".to_owned(),
            before => label(-(before as f64)),
        });
        let future_labels = (0..self.future.len()).map(|index| label(index as f64 + 1.0));
        let strip = Strip {
            title: self.title.clone(),
            subtitle: self.subtitle.clone(),
            groups: vec![Group::new("past", past_labels), Group::new("future", future_labels)],
            sections: vec![Section { rows: self.rows(past), ..Section::default() }],
            ..Strip::default()
        };
        strip.draw()
    }

    fn rows(&self, past: &[Arc<Picture>]) -> Vec<Row> {
        let seen = || past.iter().map(|picture| Some(picture.as_ref().clone()));
        let blank = || past.iter().map(|_| None);
        let predicted = self.future.iter().cloned().map(Some);
        let (Some(last), true) = (past.last(), self.came.iter().any(Option::is_some)) else {
            return vec![Row::new("predicted", seen().chain(predicted))];
        };
        let came = self.came.iter().map(|came| came.cloned());
        let off = |(guess, came): (&Picture, &Option<&Picture>)| difference(guess, (*came)?, DIFFERENCE_GAIN);
        let predicted_off = self.future.iter().zip(&self.came).map(off);
        let last_off = self.came.iter().map(|came| off((last, came)));
        let notes = self.psnr_db.map_or(Default::default(), |(predicted_db, last_db)| {
            [format!("{predicted_db:.1} dB"), format!("{last_db:.1} dB")]
        });
        let [predicted_note, last_note] = notes;
        vec![
            Row::new("actual", seen().chain(came)),
            Row::new("predicted", blank().chain(predicted)).with_note(predicted_note.clone()),
            Row::new("difference", blank().chain(predicted_off))
                .with_note(format!("predicted\n{predicted_note}")),
            Row::new("difference", blank().chain(last_off)).with_note(format!("last frame\n{last_note}")),
        ]
    }
}

/// One moment of a film: captioned pictures of one size side by side. Both sides of the result are even,
/// as films need them.
pub(crate) fn film_frame<'a>(pictures: impl IntoIterator<Item = (String, &'a Picture)>) -> Picture {
    let (captions, pictures): (Vec<_>, Vec<_>) = pictures.into_iter().unzip();
    let width = pictures.first().map_or(1, |picture| picture.dim().1.max(1));
    let strip = Strip {
        groups: captions.into_iter().map(|caption| Group::new(caption, [""])).collect(),
        sections: vec![Section {
            rows: vec![Row::new("", pictures.into_iter().cloned().map(Some))],
            ..Section::default()
        }],
        scale: FILM_WIDTH.div_ceil(width),
        ..Strip::default()
    };
    let picture = strip.draw();
    let (height, width, _) = picture.dim();
    let even = |side: usize| side - side % 2;
    picture.slice(ndarray::s![..even(height), ..even(width), ..]).to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn picture(level: u8) -> Picture {
        Picture::from_elem((32, 48, 3), level)
    }

    #[test]
    fn a_strip_without_what_came_has_one_row() {
        let past = [1, 2].map(|level| Arc::new(picture(level)));
        let future = [3, 4].map(picture);
        let came = picture(5);
        let comparison = |came: Vec<Option<&Picture>>| {
            let (title, subtitle) = ("a".into(), "b".into());
            let comparison = Comparison {
                title,
                subtitle,
                interval_s: 0.2,
                past: &past,
                future: &future,
                came,
                psnr_db: Some((20.0, 10.0)),
            };
            comparison.strip().dim()
        };
        let (alone, _, _) = comparison(vec![None, None]);
        let (compared, _, _) = comparison(vec![Some(&came), None]);
        assert!(compared > 3 * alone / 2, "{compared} against {alone}");
    }

    #[test]
    fn a_film_frame_is_even() {
        for count in 1..4 {
            let pictures = vec![picture(9); count];
            let frame = film_frame(pictures.iter().map(|picture| ("now".to_owned(), picture)));
            let (height, width, _) = frame.dim();
            assert_eq!((height % 2, width % 2), (0, 0));
        }
    }
}
