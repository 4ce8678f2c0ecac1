//! Draws a run's loss and validation curve.

use std::path::Path;

use anyhow::Result;
use nextclip_media::plot::{Line as Curve, Plot};

use crate::loss_table::{Line, names};

/// Writes the curves as PNGs: `path` is the loss and its terms, beside it the validation value.
pub(crate) fn draw(path: &Path, title: &str, log: &[Line]) -> Result<()> {
    let curve = |value: &dyn Fn(&Line) -> Option<f64>| -> Vec<(f64, f64)> {
        log.iter().filter_map(|line| Some((line.step as f64, value(line)?))).collect()
    };
    let mut curves = vec![("sum".to_owned(), curve(&|line| Some(line.loss.total())))];
    let names = names(log);
    if names.len() > 1 {
        curves.extend(names.iter().map(|name| (name.clone(), curve(&|line| line.loss.get(name)))));
    }
    // Sums of logarithms are losses, too, and below zero.
    let log_y = curves.iter().flat_map(|(_, points)| points).all(|&(_, loss)| loss > 0.0);
    let plot =
        Plot { log_y, ..Plot::new(format!("{title}: training loss, means of 50 steps"), "step", "loss") };
    let plot = curves.into_iter().fold(plot, |plot, (name, points)| plot.with(Curve::new(name, points)));
    nextclip_media::save_png(path, &plot.draw(960, 540))?;
    let values = curve(&|line| line.validation);
    if values.len() >= 2 {
        let plot = Plot::new(format!("{title}: validation on held-out clips"), "step", "dB");
        let path = path.with_extension("validation.png");
        nextclip_media::save_png(&path, &plot.with(Curve::new("validation", values)).draw(960, 540))?;
    }
    Ok(())
}
