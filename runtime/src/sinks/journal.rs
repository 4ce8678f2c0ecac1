//! Predictions as JSON lines: one when a prediction is issued, one when it is scored or given up.

use std::fs::File;
use std::io::{BufWriter, Write};
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use anyhow::Context;
use nextclip_core::Span;
use serde::Serialize;

use super::{Sink, Written};
use crate::prediction::{Prediction, Score, Scored};
use crate::session::{Dropped, Event};

/// File name within the output folder.
const FILE_NAME: &str = "predictions.jsonl";

/// A writer of JSON lines. Every line is flushed: whoever follows the file sees it at once.
pub struct Journal {
    writer: Box<dyn Write + Send>,
    place: String,
    path: Option<PathBuf>,
}

/// One line. Times are seconds of the camera's clock but for `issued_at`.
#[derive(Serialize)]
#[serde(tag = "event", rename_all = "lowercase")]
enum Line {
    Prediction {
        id: u64,
        issued_at: String,
        from_s: f64,
        until_s: f64,
        horizon_ms: f64,
        latency_ms: f64,
        look_ahead_ms: f64,
        steps: usize,
    },
    Scored {
        id: u64,
        from_s: f64,
        until_s: f64,
        psnr_db: f64,
        last_frame_db: f64,
        linear_db: f64,
        gain_db: f64,
        frame_psnr_db: Vec<Option<f64>>,
        frame_last_frame_db: Vec<Option<f64>>,
        frame_linear_db: Vec<Option<f64>>,
    },
    Dropped {
        id: u64,
        reason: &'static str,
    },
}

impl Journal {
    /// Lines to standard output.
    pub fn to_stdout() -> Self {
        Self { writer: Box::new(std::io::stdout()), place: "standard output".into(), path: None }
    }

    /// Lines to `predictions.jsonl` in `folder`; an older one is replaced.
    pub fn to_file(folder: &Path) -> anyhow::Result<Self> {
        let path = folder.join(FILE_NAME);
        let place = path.display().to_string();
        let file = File::create(&path).with_context(|| format!("{place}: cannot be written"))?;
        Ok(Self { writer: Box::new(BufWriter::new(file)), place, path: Some(path) })
    }
}

impl Sink for Journal {
    fn take(&mut self, event: &Event) -> anyhow::Result<()> {
        if let Some(line) = line_of(event)? {
            let written = self.writer.write_all(line.as_bytes()).and_then(|()| self.writer.flush());
            written.with_context(|| format!("{}: cannot be written", self.place))?;
        }
        Ok(())
    }

    fn finish(mut self: Box<Self>) -> anyhow::Result<Vec<Written>> {
        self.writer.flush().with_context(|| format!("{}: cannot be written", self.place))?;
        Ok(self.path.into_iter().map(|path| Written { what: "journal", path }).collect())
    }
}

/// The JSON line of an event, with its newline; `None` for events that no prediction is concerned by.
fn line_of(event: &Event) -> serde_json::Result<Option<String>> {
    let line = match event {
        Event::Issued(prediction) => issued(prediction),
        Event::Scored(scored) => scored_line(scored),
        Event::Dropped(Dropped { id, reason }) => Line::Dropped { id: *id, reason: reason.name() },
        Event::Gap | Event::SkippedBehind => return Ok(None),
    };
    Ok(Some(serde_json::to_string(&line)? + "\n"))
}

fn issued(prediction: &Prediction) -> Line {
    let (from_s, until_s) = span_s(&prediction.span);
    Line::Prediction {
        id: prediction.id,
        issued_at: rfc3339(prediction.issued_at),
        from_s,
        until_s,
        horizon_ms: prediction.horizon_ms(),
        latency_ms: rounded(prediction.latency_ms()),
        look_ahead_ms: rounded(prediction.look_ahead_ms()),
        steps: prediction.steps,
    }
}

fn scored_line(scored: &Scored) -> Line {
    let (from_s, until_s) = span_s(&scored.prediction.span);
    Line::Scored {
        id: scored.prediction.id,
        from_s,
        until_s,
        psnr_db: rounded(scored.psnr.mean_db),
        last_frame_db: rounded(scored.last_frame.mean_db),
        linear_db: rounded(scored.linear.mean_db),
        gain_db: rounded(scored.gain_db()),
        frame_psnr_db: frames(&scored.psnr),
        frame_last_frame_db: frames(&scored.last_frame),
        frame_linear_db: frames(&scored.linear),
    }
}

fn frames(score: &Score) -> Vec<Option<f64>> {
    score.frame_db.iter().map(|db| db.map(rounded)).collect()
}

/// When the first and the last predicted frame are due.
fn span_s(span: &Span) -> (f64, f64) {
    (span.due_ns(0) as f64 / 1e9, span.until_ns() as f64 / 1e9)
}

/// To a thousandth: more digits of a decibel or a millisecond are noise.
fn rounded(value: f64) -> f64 {
    (value * 1e3).round() / 1e3
}

/// UTC to the millisecond. A clock before 1970 or beyond the year 9999 is not a time of the world's.
fn rfc3339(time: SystemTime) -> String {
    let timestamp = jiff::Timestamp::try_from(time).unwrap_or(jiff::Timestamp::UNIX_EPOCH);
    format!("{timestamp:.3}")
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::time::Duration;

    use nextclip_core::Picture;
    use serde_json::{Value, json};

    use super::*;
    use crate::session::DropReason;

    fn parsed(event: &Event) -> Value {
        let line = line_of(event).unwrap().unwrap();
        assert_eq!(line.matches('\n').count(), 1);
        serde_json::from_str(&line).unwrap()
    }

    #[test]
    fn lines_are_json_with_units() {
        let picture = |level| Picture::from_elem((1, 1, 3), level);
        let prediction = Arc::new(Prediction {
            id: 7,
            span: Span { from_ns: 3_000_000_000, interval_ns: 200_000_000, frames: 2 },
            issued_at: SystemTime::UNIX_EPOCH + Duration::from_millis(1_500),
            latency: Duration::from_micros(143_210),
            steps: 4,
            past: vec![Arc::new(picture(0))],
            future: vec![picture(1), picture(1)],
        });
        assert_eq!(
            parsed(&Event::Issued(Arc::clone(&prediction))),
            json!({
                "event": "prediction", "id": 7, "issued_at": "1970-01-01T00:00:01.500Z",
                "from_s": 3.2, "until_s": 3.4, "horizon_ms": 400.0, "latency_ms": 143.21,
                "look_ahead_ms": 256.79, "steps": 4
            })
        );
        let scored = Scored::new(prediction, vec![Some(Arc::new(picture(1))), None]).unwrap();
        let line = parsed(&Event::Scored(Box::new(scored)));
        // An exact copy is a number too: JSON has no infinity.
        assert_eq!(line["psnr_db"], 78.13);
        assert_eq!(line["frame_psnr_db"], json!([78.13, null]));
        assert_eq!((&line["event"], &line["gain_db"]), (&json!("scored"), &json!(29.999)));
        let dropped = Event::Dropped(Dropped { id: 7, reason: DropReason::End });
        assert_eq!(parsed(&dropped), json!({"event": "dropped", "id": 7, "reason": "end"}));
        assert!(line_of(&Event::Gap).unwrap().is_none());
    }
}
