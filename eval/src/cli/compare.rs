//! `nextclip-eval compare`.

use std::path::PathBuf;

use anyhow::Result;
use clap::Args;
use nextclip_core::{Manifest, say};
use nextclip_eval::{Clips, Comparison, Figure, Page, PageSection, Stage, compare, describe_machine};
use nextclip_predictor::{Predictor, Settings};

use super::{Material, progress};

pub(crate) const EXAMPLES: &str = "\
Examples:
  nextclip-eval compare --bundle target/bundles/base-int8 --against target/bundles/base-float --videos scenes
  nextclip-eval compare --bundle Q --against F --videos films/ --part held-out --clips 50 --out report

\"compared\" is --bundle, \"against\" is --against, \"between\" measures the pictures of the one against those
of the other. Speeds are medians; a speed depends on the processor's instruction sets, which are printed.

The last line is for scripts: speedup=... psnr_drop_db=... size_ratio=...
speedup is of a denoising step; a positive drop means that --bundle is further from what came.";

#[derive(Debug, Args)]
pub(crate) struct CompareArgs {
    /// The bundle that is compared, such as a quantised one.
    #[arg(long)]
    bundle: PathBuf,
    /// The bundle that it is compared against, such as the float one.
    #[arg(long)]
    against: PathBuf,
    #[command(flatten)]
    pub(super) material: Material,
    /// Denoising steps, if not the bundles' own.
    #[arg(long, value_name = "K")]
    steps: Option<usize>,
}

impl CompareArgs {
    pub(super) fn run(self) -> Result<()> {
        let settings = Settings { steps: self.steps, ..self.material.settings() };
        let mut compared = Predictor::open(&self.bundle, &settings)?;
        let mut against = Predictor::open(&self.against, &settings)?;
        let geometry = compared.manifest().geometry;
        let clips = Clips::open(&self.material.selection(), &geometry, geometry.clip)?;
        let bar = progress("comparing", clips.len());
        let comparison = compare(&mut compared, &mut against, &clips, self.material.seed, || bar.inc(1))?;
        bar.finish_and_clear();
        say!("compared: {}\nagainst:  {}", named(compared.manifest()), named(against.manifest()));
        say!("{}\n", describe_machine());
        comparison.tables().iter().for_each(|table| say!("{table}"));
        if let Some(out) = &self.material.out {
            let page = self.page(&comparison, &clips, [compared.manifest(), against.manifest()]);
            say!("wrote {}", page.write(out)?.display());
        }
        say!("{}", comparison.summary());
        Ok(())
    }

    fn page(&self, comparison: &Comparison, clips: &Clips, [compared, against]: [&Manifest; 2]) -> Page {
        let speedup = |stage| format!("{:.2} x", comparison.speedup(stage));
        let head = |value: String, what: &str| (value, what.to_owned());
        let mut facts =
            vec![("compared".to_owned(), named(compared)), ("against".to_owned(), named(against))];
        facts.extend(self.material.facts(clips.len()));
        let title = format!("{}: {} against {}", compared.source.name, compared.precision, against.precision);
        let strip = comparison.strip(clips, &compared.geometry, &title);
        Page {
            verdict: format!(
                "{} the speed of a denoising step, {:.2} dB less PSNR, {:.2} of the size.",
                speedup(Stage::Denoise),
                comparison.psnr_drop_db(),
                comparison.size_ratio()
            ),
            headline: vec![
                head(speedup(Stage::Denoise), "speed of a denoising step"),
                head(speedup(Stage::Whole), "speed of a frame in, a clip out"),
                head(format!("{:.2} dB", comparison.psnr_drop_db()), "lower PSNR against what came"),
                head(format!("{:.2}", comparison.size_ratio()), "of the size"),
            ],
            facts,
            sections: vec![
                PageSection {
                    title: "Quality, speed and size".into(),
                    text: vec![
                        "Quality is measured against what came; \"between\" measures the one bundle's pictures \
                         against the other's. Both predicted every clip from the same noise, in turn in one \
                         run, changing who went first; times are medians over all runs."
                            .into(),
                    ],
                    tables: comparison.tables().into(),
                    figures: Vec::new(),
                },
                PageSection {
                    title: "What it looks like".into(),
                    figures: vec![Figure {
                        name: "compare".into(),
                        caption: "The first clips, nobody's choice".into(),
                        picture: strip,
                        wide: true,
                    }],
                    ..PageSection::default()
                },
            ],
            title,
        }
    }
}

fn named(manifest: &Manifest) -> String {
    let bytes: u64 = manifest.files.values().map(|file| file.bytes).sum();
    format!(
        "{}, {} for {}, {:.1} MB, keys and values in {}",
        manifest.source.name,
        manifest.precision,
        manifest.target,
        bytes as f64 / 1e6,
        manifest.cache.element
    )
}
