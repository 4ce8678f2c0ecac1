//! A plan for people: `plan.md` and the chart `plan.png`.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::{fs, io};

use nextclip_core::Picture;
use nextclip_media::bars::{Bar, Bars};
use nextclip_quant::plan::Precision;

use super::{Document, Kept, LOWERED, LayerPlan};
use crate::calibrate::CalibrationError;
use crate::onnx::Choice;
use crate::sensitivity::{MOST_BARS, WIDTH, in_db};

impl Document {
    /// The plan in a sentence.
    pub fn verdict(&self) -> String {
        format!(
            "{} of {} layers in {LOWERED}, {:.0} % of a prediction's multiply-adds: {:.3} dB PSNR lost of {:.3} dB \
             allowed",
            self.lowered().count(),
            self.layers.len(),
            100.0 * self.share,
            self.together.cost_db(),
            self.max_psnr_drop_db
        )
    }

    /// The layers below float.
    pub fn choice(&self) -> Choice {
        Choice::Only(self.lowered().map(|layer| layer.layer.clone()).collect())
    }

    /// `plan.json`, which `--plan` reads, `plan.md` and `plan.png`.
    ///
    /// # Errors
    /// Where there is no room for temporary files.
    pub fn files(&self) -> Result<Vec<(&'static str, Vec<u8>)>, CalibrationError> {
        let json = serde_json::to_string_pretty(self).map_err(io::Error::from)? + "\n";
        let folder = tempfile::tempdir()?;
        let chart = folder.path().join("plan.png");
        nextclip_media::save_png(&chart, &self.chart())?;
        Ok(vec![
            ("plan.json", json.into()),
            ("plan.md", self.to_markdown().into()),
            ("plan.png", fs::read(&chart)?),
        ])
    }

    /// The dearest layers as bars, by what became of them.
    pub fn chart(&self) -> Picture {
        let bar = |layer: &&LayerPlan| {
            let text = format!("{:.4} dB, {:.1} %", layer.cost_db, 100.0 * layer.share);
            Bar::new(
                layer.layer.clone(),
                layer.cost_db,
                text,
                usize::from(layer.precision == Precision::Float),
            )
        };
        let bars: Vec<Bar> = self.dearest_first().iter().take(MOST_BARS).map(bar).collect();
        let subtitle = format!(
            "{}: PSNR lost with this one layer in 8-bit integers, {} clips. The plan loses {:.3} of {:.3} dB allowed",
            self.model,
            self.clips,
            self.together.cost_db(),
            self.max_psnr_drop_db
        );
        let groups = vec![format!("{LOWERED} in the plan"), "float in the plan".to_owned()];
        let chart = Bars::new(
            "Precision plan: which layers compute in 8 bits, and what each of them costs",
            "PSNR lost by this layer alone, dB (at the right also its part of a prediction's multiply-adds)",
        );
        Bars { subtitle, groups, bars, ..chart }.draw(WIDTH)
    }

    /// The report as Markdown; the chart is expected beside it as `plan.png`.
    pub fn to_markdown(&self) -> String {
        let mut page = String::new();
        // Writing into a String cannot fail.
        let _ = self.write(&mut page);
        page
    }

    fn write(&self, page: &mut String) -> std::fmt::Result {
        let Self { model, target, clips, float_psnr_db, together, all, .. } = self;
        writeln!(page, "# Precision plan of {model} for {target}\n\n{}.\n", self.verdict())?;
        writeln!(page, "![loss of each layer](plan.png)\n")?;
        writeln!(
            page,
            "Losses are those of decoded predictions against the frames that came, on {clips} clips; single precision \
             has {float_psnr_db:.2} dB there ({}). A layer is charged what was measured, and no less than its noise \
             alone would cost.\n",
            self.measured
        )?;
        writeln!(page, "| | PSNR lost, dB | of its noise, dB | signal to noise of latents, dB |")?;
        writeln!(page, "| --- | ---: | ---: | ---: |")?;
        for loss in [together, all].into_iter().chain(&self.cache) {
            let latents = in_db(loss.latent_sqnr_db);
            let (psnr, noise) = (loss.psnr_drop_db, loss.noise_drop_db);
            writeln!(page, "| {} | {psnr:.4} | {noise:.4} | {latents} |", loss.layer)?;
        }
        self.write_rounds(page)?;
        writeln!(page, "\n## Layers that have a choice, the dearest first\n")?;
        writeln!(page, "| layer | precision | alone, dB | latents, dB | pictures, dB | work | why |")?;
        writeln!(page, "| --- | --- | ---: | ---: | ---: | ---: | --- |")?;
        for planned in self.dearest_first() {
            let LayerPlan { layer, precision, why, cost_db, share, .. } = planned;
            let (latents, pictures) = (in_db(planned.latent_sqnr_db), in_db(planned.picture_sqnr_db));
            let work = 100.0 * share;
            writeln!(
                page,
                "| {layer} | {precision} | {cost_db:.4} | {latents} | {pictures} | {work:.2} % | {why} |"
            )?;
        }
        writeln!(page, "\n## What stays in float whatever the budget\n")?;
        for (why, layers) in grouped(&self.kept) {
            writeln!(page, "- {why}: {}", layers.join(", "))?;
        }
        writeln!(
            page,
            "\nTo change the plan, edit a `precision` in `plan.json` ({LOWERED} or float) and export with `--plan plan.json`."
        )
    }

    fn write_rounds(&self, page: &mut String) -> std::fmt::Result {
        writeln!(page, "\n| plan tried | layers in {LOWERED} | expected, dB | measured, dB |")?;
        writeln!(page, "| ---: | ---: | ---: | ---: |")?;
        for (number, round) in self.rounds.iter().enumerate() {
            let (expected, measured) = (round.predicted_drop_db, round.measured_drop_db);
            writeln!(page, "| {} | {} | {expected:.4} | {measured:.4} |", number + 1, round.layers)?;
        }
        if self.rounds.len() > 1 {
            writeln!(
                page,
                "\nTogether the layers lost more than each promised; the plan was made smaller until it kept to the \
                 budget."
            )?;
        }
        Ok(())
    }

    fn lowered(&self) -> impl Iterator<Item = &LayerPlan> {
        self.layers.iter().filter(|layer| layer.precision == LOWERED)
    }

    fn dearest_first(&self) -> Vec<&LayerPlan> {
        let mut sorted: Vec<&LayerPlan> = self.layers.iter().collect();
        sorted.sort_by(|a, b| b.cost_db.total_cmp(&a.cost_db));
        sorted
    }
}

/// Layers by reason; those that differ by a number only are one name with a star.
fn grouped(kept: &[Kept]) -> BTreeMap<&str, Vec<String>> {
    let mut groups: BTreeMap<&str, Vec<String>> = BTreeMap::new();
    for Kept { layer, why } in kept {
        let starred: Vec<&str> = layer
            .split('.')
            .map(|part| if part.starts_with(|c: char| c.is_ascii_digit()) { star(part) } else { part })
            .collect();
        let starred = starred.join(".");
        let group = groups.entry(why).or_default();
        if !group.contains(&starred) {
            group.push(starred);
        }
    }
    groups
}

/// A number, with what follows it, as a star.
fn star(part: &str) -> &str {
    if part.ends_with(": attention products") { "*: attention products" } else { "*" }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_become_stars() {
        let kept = |layer: &str| Kept { layer: layer.into(), why: "norm".into() };
        let kept =
            [kept("llm.layers.0.norm"), kept("llm.layers.11.norm"), kept("llm.layers.3: attention products")];
        assert_eq!(grouped(&kept)["norm"], ["llm.layers.*.norm", "llm.layers.*: attention products"]);
    }
}
