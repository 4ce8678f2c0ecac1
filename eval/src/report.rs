//! What was measured, as a table, one line for scripts, and a picture for eyes.

use std::fmt;

use nextclip_core::{Geometry, Picture};
use nextclip_media::strip::{Group, Row, Section, Strip, difference};

use crate::clips::Clips;
use crate::measure::Sample;

/// Means over clips, one value a predicted frame.
#[derive(Clone, Debug, PartialEq)]
pub struct Report {
    clips: usize,
    interval_ms: u32,
    rows: Vec<(&'static str, Vec<f64>)>,
}

impl Report {
    /// Means of all samples. An empty slice gives an empty report.
    pub fn new(samples: &[Sample], geometry: &Geometry) -> Self {
        let mean = |values: fn(&Sample) -> &[f64]| {
            let of_frame = |k: usize| {
                let sum: f64 = samples.iter().filter_map(|sample| values(sample).get(k)).sum();
                sum / samples.len() as f64
            };
            (0..geometry.clip).map(of_frame).collect()
        };
        let rows = vec![
            ("prediction", mean(|sample| &sample.predicted_db)),
            ("prediction, decoder alone", mean(|sample| &sample.plain_db)),
            ("last frame repeated", mean(|sample| &sample.last_frame_db)),
            ("linear continuation", mean(|sample| &sample.linear_db)),
            ("autoencoder's ceiling", mean(|sample| &sample.ceiling_db)),
        ];
        Self { clips: samples.len(), interval_ms: geometry.frame_interval_ms, rows }
    }

    /// Mean PSNR of the prediction, in decibels.
    pub fn psnr_db(&self) -> f64 {
        mean(&self.rows[0].1)
    }

    /// Mean PSNR of the last frame repeated, in decibels.
    pub fn last_frame_db(&self) -> f64 {
        mean(&self.rows[2].1)
    }

    /// The line that scripts read.
    pub fn summary(&self) -> String {
        let (psnr, last) = (self.psnr_db(), self.last_frame_db());
        format!("psnr_db={psnr:.2} last_frame_db={last:.2} gain_db={:.2}", psnr - last)
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "mean PSNR in dB, {} clips{:10}", self.clips, "")?;
        for k in 1..=self.rows[0].1.len() {
            write!(f, "{:>8}", format!("+{:.1} s", k as f64 * f64::from(self.interval_ms) / 1e3))?;
        }
        writeln!(f, "{:>8}", "all")?;
        for (name, values) in &self.rows {
            write!(f, "  {name:<33}")?;
            for value in values {
                write!(f, "{value:8.2}")?;
            }
            writeln!(f, "{:8.2}", mean(values))?;
        }
        Ok(())
    }
}

fn mean(values: &[f64]) -> f64 {
    values.iter().sum::<f64>() / values.len() as f64
}

/// What the model saw, what came, what it predicted and how far apart, for some of the samples.
pub fn strip(samples: &[&Sample], clips: &Clips, geometry: &Geometry, title: &str) -> Picture {
    let second = |k: usize| k as f64 * f64::from(geometry.frame_interval_ms) / 1e3;
    let shown = geometry.history.min(4);
    let past = (0..shown).rev().map(|k| format!("-{:.1} s", second(k)));
    let future = (1..=geometry.clip).map(|k| format!("+{:.1} s", second(k)));
    let sections = samples.iter().map(|sample| {
        let frames = clips.clip(sample.index);
        let (seen, came) = frames.split_at(geometry.history);
        let seen = seen[geometry.history - shown..].iter().cloned().map(Some);
        let blank = std::iter::repeat_n(None, shown);
        let differences = sample.predicted.iter().zip(came).map(|(p, c)| difference(p, c, 4.0));
        let gain = mean(&sample.predicted_db) - mean(&sample.last_frame_db);
        Section {
            title: format!(
                "clip {}: {:.1} dB, {gain:+.1} dB against the last frame",
                sample.index,
                mean(&sample.predicted_db)
            ),
            rows: vec![
                Row::new("actual", seen.chain(came.iter().cloned().map(Some))),
                Row::new("predicted", blank.clone().chain(sample.predicted.iter().cloned().map(Some))),
                Row::new("difference", blank.chain(differences)).with_note("x 4"),
            ],
        }
    });
    let strip = Strip {
        title: title.to_owned(),
        groups: vec![Group::new("seen", past), Group::new("future", future)],
        sections: sections.collect(),
        ..Strip::default()
    };
    strip.draw()
}
