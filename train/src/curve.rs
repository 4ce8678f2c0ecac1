//! Draws a run's loss and validation curve.

use std::path::Path;

use anyhow::Result;
use nextclip_media::plot::{Line, Plot};

/// Points of the smoothed line's mean.
const WINDOW: usize = 10;

/// Writes the curve of (step, loss, validation value) as a PNG.
pub(crate) fn draw(path: &Path, title: &str, log: &[(u64, f64, Option<f64>)]) -> Result<()> {
    let losses = log.iter().map(|&(step, loss, _)| (step as f64, loss)).collect();
    let raw = Line::new("loss", losses);
    let smooth = raw.smoothed("loss, smoothed", WINDOW);
    let plot = Plot { log_y: true, ..Plot::new(format!("{title}: training loss"), "step", "loss") };
    nextclip_media::save_png(path, &plot.with(raw.faint()).with(smooth).draw(960, 540))?;
    let values: Vec<_> = log.iter().filter_map(|&(step, _, value)| Some((step as f64, value?))).collect();
    if values.len() >= 2 {
        let plot = Plot::new(format!("{title}: validation on held-out clips"), "step", "dB");
        let path = path.with_extension("validation.png");
        nextclip_media::save_png(&path, &plot.with(Line::new("validation", values)).draw(960, 540))?;
    }
    Ok(())
}
