//! A sensitivity report for people: a table, and a chart that names every layer.

use std::fmt;
use std::path::Path;

use nextclip_media::bars::{Bar, Bars};

use super::{Loss, Report};
use crate::calibrate::CalibrationError;

/// More bars than these nobody reads; the rest cost least.
pub(crate) const MOST_BARS: usize = 80;

/// Width of the chart in pixels.
pub(crate) const WIDTH: usize = 1080;

/// Parts of the model in the order of use, by the first part of their layers' paths.
const PARTS: [(&str, &str); 3] =
    [("encoder", "autoencoder: encoder"), ("llm", "predictor"), ("decoder", "autoencoder: decoder")];

impl Report {
    /// Writes `sensitivity.json`, `sensitivity.txt` and `sensitivity.png` into a folder, which is made where it is
    /// missing.
    ///
    /// # Errors
    /// Where a file cannot be written.
    pub fn save(&self, folder: &Path) -> Result<(), CalibrationError> {
        let fault = |path: &Path| {
            let path = path.to_owned();
            move |source| CalibrationError::Report { path, source }
        };
        std::fs::create_dir_all(folder).map_err(fault(folder))?;
        let json = folder.join("sensitivity.json");
        let text = serde_json::to_vec_pretty(self).map_err(std::io::Error::from);
        text.and_then(|text| std::fs::write(&json, text)).map_err(fault(&json))?;
        let table = folder.join("sensitivity.txt");
        std::fs::write(&table, self.to_string()).map_err(fault(&table))?;
        nextclip_media::save_png(folder.join("sensitivity.png"), &self.chart().draw(WIDTH))?;
        Ok(())
    }

    /// The layers with the dearest first.
    fn sorted(&self) -> Vec<&Loss> {
        let mut sorted: Vec<&Loss> = self.layers.iter().collect();
        sorted.sort_by(|a, b| b.cost_db().total_cmp(&a.cost_db()));
        sorted
    }

    fn chart(&self) -> Bars {
        let bar = |loss: &&Loss| {
            let group = PARTS.iter().position(|(part, _)| loss.layer.starts_with(part));
            Bar::new(loss.layer.clone(), loss.cost_db(), told(loss), group.unwrap_or(1))
        };
        let sorted = self.sorted();
        let left = match sorted.len().saturating_sub(MOST_BARS) {
            0 => String::new(),
            more => format!("; {more} more cost less"),
        };
        Bars {
            subtitle: format!(
                "{}: PSNR lost with this one layer in 8-bit integers and all others in float, {} clips. All together \
                 {:.3} dB of {:.2} dB{left}",
                self.model,
                self.clips,
                self.all.cost_db(),
                self.float_psnr_db
            ),
            groups: PARTS.map(|(_, name)| name.to_owned()).into(),
            bars: sorted.iter().take(MOST_BARS).map(bar).collect(),
            ..Bars::new(
                "What each layer loses in 8 bits",
                "PSNR lost, dB (signal to noise of its result at the right)",
            )
        }
    }
}

/// The number at the end of a bar: cost and signal to noise.
pub(crate) fn told(loss: &Loss) -> String {
    format!("{:.4} dB, SNR {} dB", loss.cost_db(), in_db(nearest(loss)))
}

/// The lower one of both signal-to-noise ratios.
fn nearest(loss: &Loss) -> Option<f64> {
    let ratios = [loss.latent_sqnr_db, loss.picture_sqnr_db];
    ratios.into_iter().flatten().min_by(f64::total_cmp)
}

/// A ratio, or that nothing differs.
pub(crate) fn in_db(ratio: Option<f64>) -> String {
    ratio.map_or_else(|| "exact".into(), |ratio| format!("{ratio:.1}"))
}

impl fmt::Display for Report {
    /// The most sensitive first.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let sorted = self.sorted();
        let width = sorted.iter().map(|loss| loss.layer.len()).max().unwrap_or(0).max("all layers".len());
        writeln!(f, "{:width$}  latents dB  pictures dB  PSNR lost dB  of its noise dB", "layer")?;
        for loss in [&self.all].into_iter().chain(&self.cache).chain(sorted) {
            let (latents, pictures) = (in_db(loss.latent_sqnr_db), in_db(loss.picture_sqnr_db));
            let Loss { layer, psnr_drop_db, noise_drop_db, .. } = loss;
            writeln!(
                f,
                "{layer:width$}  {latents:>10}  {pictures:>11}  {psnr_drop_db:12.4}  {noise_drop_db:15.4}"
            )?;
        }
        writeln!(
            f,
            "ranges by {} of {}; losses on {} other clips, PSNR {:.2} dB in single precision",
            self.observer, self.footage, self.clips, self.float_psnr_db
        )
    }
}
