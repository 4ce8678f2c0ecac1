//! Pictures for eyes: curves over the horizon, strips of clips, a rollout's ends.

use nextclip_core::{Geometry, Picture};
use nextclip_media::plot::{Line, Plot};
use nextclip_media::strip::{Group, Row, Section, Strip, difference};

use crate::clips::Clips;
use crate::measure::{Forecaster, Sample};
use crate::report::{Measure, Report};
use crate::rollout::Rollout;

/// Differences are shown this many times as bright.
pub(crate) const DIFFERENCE_GAIN: f32 = 4.0;

/// Size of plots, in pixels.
const PLOT: (usize, usize) = (600, 370);

/// The plot as a picture of the report's size.
pub fn drawn(plot: &Plot) -> Picture {
    plot.draw(PLOT.0, PLOT.1)
}

/// Forecasters over the horizon. The decoder alone runs so close to the prediction that only the tables have it.
pub fn curve(report: &Report, measure: Measure) -> Plot {
    let (title, y_label) = heading(measure);
    let plot = Plot::new(title, "seconds after the last frame seen", y_label);
    // A linear continuation is many times as sharp as anything real.
    let plot = Plot { log_y: measure == Measure::Sharpness, ..plot };
    let lines = [
        ("prediction", Forecaster::Prediction),
        ("last frame", Forecaster::LastFrame),
        ("linear", Forecaster::Linear),
        ("tracked", Forecaster::Tracked),
        ("ceiling", Forecaster::Ceiling),
    ];
    lines.into_iter().filter(|(_, forecaster)| report.has(*forecaster)).fold(
        plot,
        |plot, (name, forecaster)| {
            let values = report.horizon_s().iter().copied().zip(report.curve(measure, forecaster));
            plot.with(Line::new(name, values.collect()))
        },
    )
}

/// Title and vertical axis; short, since the legend stands beside the axis' name.
fn heading(measure: Measure) -> (&'static str, &'static str) {
    match measure {
        Measure::Psnr => ("Whole frame", "PSNR in dB"),
        Measure::MovingPsnr => ("Where it moves", "PSNR in dB"),
        Measure::Ssim => ("Structure", "SSIM"),
        Measure::MovingSsim => ("Structure where it moves", "SSIM"),
        Measure::Gmsd => ("Perceived difference", "GMSD"),
        Measure::Sharpness => ("Sharpness where it moves", "ratio, 1 is real"),
    }
}

/// The samples to show: names of files and headings, with their samples.
pub fn choice(report: &Report) -> Vec<(&'static str, String, Vec<&Sample>)> {
    // The first draw of each clip: several of one would crowd out the others.
    let mut samples: Vec<&Sample> = report.samples().iter().collect();
    samples.dedup_by_key(|sample| sample.index);
    let mut by_gain = samples.clone();
    by_gain.sort_by(|a, b| b.gain_db().total_cmp(&a.gain_db()));
    let from = |first: usize| by_gain.iter().skip(first).take(3).copied().collect::<Vec<_>>();
    let ten = samples.len().min(10);
    // Evenly over the clips, so that nobody chose them.
    let even: Vec<&Sample> = (0..ten).map(|n| samples[n * samples.len() / ten]).collect();
    let (first, second) = even.split_at(ten.div_ceil(2));
    let middle = (samples.len() / 2).saturating_sub(1);
    let mut chosen = vec![("even-1", "Clips spaced evenly".to_owned(), first.to_vec())];
    if !second.is_empty() {
        chosen.push(("even-2", "Clips spaced evenly, continued".to_owned(), second.to_vec()));
    }
    chosen.push(("best", "Best clips by gain".to_owned(), from(0)));
    chosen.push(("middle", "Middle clips by gain".to_owned(), from(middle)));
    chosen.push(("worst", "Worst clips by gain".to_owned(), from(samples.len().saturating_sub(3))));
    chosen
}

/// What the model saw, what came, what it predicted and how far apart, for some of the samples.
pub fn strip(samples: &[&Sample], clips: &Clips, geometry: &Geometry, title: &str) -> Picture {
    let shown = geometry.history.min(4);
    let sections = samples.iter().map(|sample| {
        let clip = clips.clip(sample.index);
        let past = past(&clip.seen, shown);
        let blank = || std::iter::repeat_n(None, shown);
        let differences = sample
            .predicted
            .iter()
            .zip(&clip.came)
            .map(|(predicted, came)| difference(predicted, came, DIFFERENCE_GAIN));
        Section {
            title: format!(
                "clip {}: {:.1} dB, {:+.1} dB against the last frame",
                sample.index,
                sample.psnr_db(Forecaster::Prediction),
                sample.gain_db()
            ),
            rows: vec![
                Row::new("actual", past.into_iter().chain(clip.came.iter().cloned().map(Some))),
                Row::new("predicted", blank().chain(sample.predicted.iter().cloned().map(Some))),
                Row::new("difference", blank().chain(differences)).with_note(format!("x {DIFFERENCE_GAIN}")),
            ],
        }
    });
    Strip {
        title: title.to_owned(),
        groups: groups(shown, geometry),
        sections: sections.collect(),
        ..Strip::default()
    }
    .draw()
}

/// The newest `shown` pictures seen, empty places first where fewer were.
pub(crate) fn past(seen: &[Picture], shown: usize) -> Vec<Option<Picture>> {
    let newest = &seen[seen.len().saturating_sub(shown)..];
    let missing = std::iter::repeat_n(None, shown - newest.len());
    missing.chain(newest.iter().cloned().map(Some)).collect()
}

/// Columns of `shown` frames seen and of a predicted clip.
pub(crate) fn groups(shown: usize, geometry: &Geometry) -> Vec<Group> {
    let second = |k: usize| k as f64 * f64::from(geometry.frame_interval_ms) / 1e3;
    let past = (0..shown).rev().map(|k| if k == 0 { "now".into() } else { format!("-{:.1} s", second(k)) });
    let future = (1..=geometry.clip).map(|k| format!("+{:.1} s", second(k)));
    vec![Group::new("seen", past), Group::new("future", future)]
}

/// The end of each predicted clip of a rollout's example, above what came.
pub fn rollout_strip(rollout: &Rollout) -> Picture {
    let times = rollout.points.iter().map(|point| format!("+{:.1} s", point.until_s));
    let row = |label: &str, pictures: Vec<Option<Picture>>| Row::new(label, pictures);
    let example = || rollout.example.iter();
    Strip {
        title: "The model on its own predictions: clip 0".into(),
        groups: vec![Group::new("last frame of each predicted clip", times)],
        sections: vec![Section {
            title: String::new(),
            rows: vec![
                row("actual", example().map(|(_, came)| Some(came.clone())).collect()),
                row("predicted", example().map(|(drawn, _)| Some(drawn.clone())).collect()),
                row("difference", example().map(|(a, b)| difference(a, b, DIFFERENCE_GAIN)).collect()),
            ],
        }],
        ..Strip::default()
    }
    .draw()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_short_past_starts_with_empty_places() {
        let picture = |value| Picture::from_elem((2, 2, 3), value);
        let seen = [picture(1), picture(2)];
        assert_eq!(past(&seen, 3), [None, Some(picture(1)), Some(picture(2))]);
        assert_eq!(past(&seen, 1), [Some(picture(2))]);
    }
}
