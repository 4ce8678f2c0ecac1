//! `nextclip-eval predict`.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};
use clap::Args;
use nextclip_core::{Geometry, Manifest, Picture, say};
use nextclip_eval::{
    Clips, Drawing, Figure, Forecaster, Measure, Mode, Page, PageSection, Report, Rollout, StepsCurve,
    figures, measure, realism, rollout, steps_curve,
};
use nextclip_predictor::Predictor;

use super::{Material, progress};

pub(crate) const EXAMPLES: &str = "\
Examples:
  nextclip-eval predict --bundle target/bundles/base-float --videos scenes
  nextclip-eval predict --bundle B --videos films/ --part held-out --out report
  nextclip-eval predict --bundle B --videos scenes --mode sample --steps 8 --samples 4
  nextclip-eval predict --bundle B --videos scenes --clips 50 --steps-curve 1,2,4,8 --rollout 8 --out report

mean or sample? One step of this kind of model gives the mean of what may come: nearest by PSNR, blurred
where the future is open. More steps draw one of the possible futures: sharp, and further off in PSNR.
Use mean for scores, sample for pictures. Without --mode the bundle's own number of steps is used.

Generated scenes have one more rival, which no camera has: exact tracking knows where everything was, lets
it go on as it did, and is shown what comes into sight.

The moving area is where what came departs from the last frame seen by more than 12 of 255 levels.
--steps-curve measures realism beside distortion for each number of steps; it wants some hundred clips.
--before draws another bundle's curve over it: a teacher's and its student's, before and after.
--rollout predicts from predictions: clips of films must be that much longer.

The last line is for scripts: psnr_db=... last_frame_db=... gain_db=... moving_gain_db=... sharpness=...
(NaN for the last two where nothing moves).";

#[derive(Debug, Args)]
pub(crate) struct PredictArgs {
    /// The bundle's folder.
    #[arg(long)]
    bundle: PathBuf,
    #[command(flatten)]
    pub(super) material: Material,
    /// mean (what is to be expected) or sample (one of the futures that are possible).
    #[arg(long)]
    mode: Option<Mode>,
    /// Denoising steps [default: 1 for mean; the bundle's own for sample, 4 where that is 1].
    #[arg(long, value_name = "K")]
    steps: Option<usize>,
    /// Draws of each clip: averaged in mode mean, else each is measured. --steps-curve takes 4 where this
    /// is 1.
    #[arg(long, default_value_t = 1, value_name = "S")]
    samples: usize,
    /// Also measure distortion and realism for each of these numbers of steps.
    #[arg(long, value_delimiter = ',', value_name = "K,K,...")]
    steps_curve: Vec<usize>,
    /// A bundle whose steps curve is drawn over it, such as the teacher of a distilled model.
    #[arg(long, value_name = "BUNDLE", requires = "steps_curve")]
    before: Option<PathBuf>,
    /// Also let the model continue its own predictions for this many clips.
    #[arg(long, value_name = "CLIPS")]
    rollout: Option<usize>,
}

/// Draws of each clip in a steps curve: a spread needs several.
const CURVE_SAMPLES: usize = 4;

impl PredictArgs {
    pub(super) fn run(self) -> Result<()> {
        ensure!(self.samples > 0, "--samples is 0, must be at least 1");
        ensure!(!self.steps_curve.contains(&0), "--steps-curve has 0 steps, must be at least 1");
        ensure!(self.rollout != Some(0), "--rollout is 0 clips, must be at least 1");
        let settings = self.material.settings();
        let mut predictor = Predictor::open(&self.bundle, &settings)?;
        let geometry = predictor.manifest().geometry;
        let selection = self.material.selection();
        let clips = Clips::open(&selection, &geometry, geometry.clip)?;
        // Opened before anything long runs, so that footage that is too short says so at once.
        let long = self.rollout.map(|onward| Clips::open(&selection, &geometry, onward * geometry.clip));
        let long = long.transpose()?;
        let drawing = Drawing {
            samples: self.samples,
            seed: self.material.seed,
            ..Drawing::new(self.mode, self.steps, predictor.manifest().sampler.steps)
        };

        let bar = progress("predicting", clips.len());
        let samples = measure(&mut predictor, &clips, &drawing, || bar.inc(1))?;
        bar.finish_and_clear();
        let report = Report::new(samples, &geometry);
        say!("{drawing}");
        if clips.fewest_seen() < geometry.history {
            say!(
                "some films are short: from {} frames seen instead of {}",
                clips.fewest_seen(),
                geometry.history
            );
        }
        for measure in Measure::ALL {
            say!("{}", report.table(measure));
        }
        let curves = self.curves(&mut predictor, &clips)?;
        let rollout = match (self.rollout, &long) {
            (Some(onward), Some(long)) => {
                let bar = progress("rolling out", long.len());
                let rollout = rollout(&mut predictor, long, onward, &drawing, || bar.inc(1))?;
                bar.finish_and_clear();
                rollout.tables().iter().for_each(|table| say!("{table}"));
                say!("{}\n", rollout.verdict());
                Some(rollout)
            }
            _ => None,
        };
        if let Some(out) = &self.material.out {
            let found = Found { report: &report, curves: &curves, rollout: rollout.as_ref() };
            let page = self.page(&found, predictor.manifest(), &clips, &drawing);
            say!("wrote {}", page.write(out)?.display());
        }
        say!("{}", report.verdict());
        say!("{}", report.summary());
        Ok(())
    }

    /// The steps curve of the bundle, and of the one before it, where they are asked for.
    fn curves(&self, predictor: &mut Predictor, clips: &Clips) -> Result<Vec<(String, StepsCurve)>> {
        let mut curves = Vec::new();
        if self.steps_curve.is_empty() {
            return Ok(curves);
        }
        let samples = if self.samples == 1 { CURVE_SAMPLES } else { self.samples };
        let seed = self.material.seed;
        let mut curve = |name: &str, predictor: &mut Predictor| -> Result<()> {
            let bar = progress("steps curve", clips.len());
            let curve = steps_curve(predictor, clips, &self.steps_curve, samples, seed, || bar.inc(1))?;
            bar.finish_and_clear();
            say!("{}", curve.table(name));
            curves.push((name.to_owned(), curve));
            Ok(())
        };
        let Some(before) = &self.before else {
            curve("", predictor)?;
            return Ok(curves);
        };
        let settings = self.material.settings();
        let mut before = Predictor::open(before, &settings)?;
        let (mine, other) = (predictor.manifest(), before.manifest());
        ensure!(mine.geometry == other.geometry, "--before differs in geometry: {:?}", other.geometry);
        // Distances in the latents of two encoders are not in one unit.
        ensure!(same_encoder(predictor, &mut before, &clips.clip(0).seen)?, "--before has another encoder");
        curve("before", &mut before)?;
        curve("after", predictor)?;
        Ok(curves)
    }

    fn page(&self, found: &Found<'_>, manifest: &Manifest, clips: &Clips, drawing: &Drawing) -> Page {
        let report = found.report;
        let Geometry { width, height, history, clip, frame_interval_ms, .. } = manifest.geometry;
        let fact = |name: &str, value: String| (name.to_owned(), value);
        let digest = manifest.source.transformer_sha256.get(..16).unwrap_or_default();
        let mut facts = vec![
            fact("model", format!("{}, weights sha256 {digest}…", manifest.source.name)),
            fact(
                "bundle",
                format!("{}, {} for {}", name_of(&self.bundle), manifest.precision, manifest.target),
            ),
            fact(
                "frames",
                format!("{width} x {height}, {frame_interval_ms} ms apart, {history} seen, {clip} predicted"),
            ),
            fact("drawing", drawing.to_string()),
        ];
        facts.extend(self.material.facts(report.clips()));
        let all = |measure, forecaster| report.overall(measure, forecaster);
        let gain = |measure| all(measure, Forecaster::Prediction) - all(measure, Forecaster::LastFrame);
        let head = |value: String, what: &str| (value, what.to_owned());
        let mut sections = vec![horizon_section(report), strips_section(report, clips, &manifest.geometry)];
        sections.extend((!found.curves.is_empty()).then(|| curve_section(found.curves)));
        sections.extend(found.rollout.map(rollout_section));
        sections.push(tables_section(report));
        Page {
            title: format!("{} on {}", manifest.source.name, self.material.videos),
            verdict: report.verdict(),
            headline: vec![
                head(
                    format!("{:.2} dB", all(Measure::Psnr, Forecaster::Prediction)),
                    "PSNR of the prediction",
                ),
                head(format!("{:+.2} dB", gain(Measure::Psnr)), "over the last frame repeated"),
                head(format!("{:+.2} dB", gain(Measure::MovingPsnr)), "over it where something moves"),
                head(format!("{:.3}", all(Measure::Ssim, Forecaster::Prediction)), "SSIM"),
                head(
                    format!("{:.2}", all(Measure::Sharpness, Forecaster::Prediction)),
                    "sharpness, 1 is real",
                ),
                head(
                    format!("{:.2} dB", all(Measure::Psnr, Forecaster::Ceiling)),
                    "the autoencoder's ceiling",
                ),
            ],
            facts,
            sections,
        }
    }
}

/// Everything that was measured.
struct Found<'a> {
    report: &'a Report,
    curves: &'a [(String, StepsCurve)],
    rollout: Option<&'a Rollout>,
}

/// Whether both encode pictures alike: decoders may differ, as those of a student and its teacher do.
fn same_encoder(a: &mut Predictor, b: &mut Predictor, pictures: &[Picture]) -> Result<bool> {
    let picture = pictures.first().context("no picture to compare encoders on")?;
    let (a, b) = (a.encode(picture)?, b.encode(picture)?);
    Ok(a.iter().zip(&b).all(|(a, b)| (a - b).abs() < 1e-3))
}

fn name_of(path: &Path) -> String {
    path.file_name().unwrap_or(path.as_os_str()).to_string_lossy().into_owned()
}

fn horizon_section(report: &Report) -> PageSection {
    let names = [
        (Measure::Psnr, "horizon-psnr"),
        (Measure::MovingPsnr, "horizon-moving-psnr"),
        (Measure::Ssim, "horizon-ssim"),
        (Measure::MovingSsim, "horizon-moving-ssim"),
        (Measure::Gmsd, "horizon-gmsd"),
        (Measure::Sharpness, "horizon-sharpness"),
    ];
    let figures = names.into_iter().map(|(measure, name)| {
        figure(name, measure.definition(), figures::drawn(&figures::curve(report, measure)), false)
    });
    PageSection {
        title: "How far ahead".into(),
        text: vec![
            "Each line is one way to foretell the coming frames. The last frame repeated and the linear \
             continuation need no model: a prediction is worth something only above both. Exact tracking, of \
             generated scenes, knows without error where everything was, lets it go on as it did, and is shown \
             what comes into sight: above it, a prediction has foreseen more than that. The ceiling is what \
             a perfect prediction of latents would reach through this autoencoder; a prediction that keeps \
             real background may pass it."
                .into(),
        ],
        figures: figures.collect(),
        ..PageSection::default()
    }
}

fn strips_section(report: &Report, clips: &Clips, geometry: &Geometry) -> PageSection {
    let figures = figures::choice(report).into_iter().map(|(name, title, samples)| {
        figure(name, title.clone(), figures::strip(&samples, clips, geometry, &title), true)
    });
    PageSection {
        title: "What it looks like".into(),
        text: vec![
            "Clips spaced evenly over the footage are nobody's choice; the best, the middle and the worst are \
             chosen by their gain over the last frame repeated."
                .into(),
        ],
        figures: figures.collect(),
        ..PageSection::default()
    }
}

fn curve_section(curves: &[(String, StepsCurve)]) -> PageSection {
    let named: Vec<(&str, &StepsCurve)> = curves.iter().map(|(name, curve)| (name.as_str(), curve)).collect();
    let figures = realism::plots(&named).into_iter().map(|(name, plot)| {
        figure(name, format!("{}: {}", plot.title, plot.y_label), figures::drawn(&plot), false)
    });
    PageSection {
        title: "Distortion and realism against steps".into(),
        text: vec![realism::DEFINITION.into()],
        figures: figures.collect(),
        tables: curves.iter().map(|(name, curve)| curve.table(name)).collect(),
    }
}

fn rollout_section(rollout: &Rollout) -> PageSection {
    let mut figures: Vec<Figure> = rollout
        .plots()
        .into_iter()
        .map(|(name, plot)| {
            figure(name, format!("{}: {}", plot.title, plot.y_label), figures::drawn(&plot), false)
        })
        .collect();
    let strip = figures::rollout_strip(rollout);
    figures.push(figure("rollout-strip", "The end of each predicted clip".into(), strip, true));
    PageSection {
        title: "On its own predictions".into(),
        text: vec![rollout.verdict(), nextclip_eval::rollout::DEFINITION.into()],
        tables: rollout.tables().into(),
        figures,
    }
}

fn tables_section(report: &Report) -> PageSection {
    PageSection {
        title: "All numbers".into(),
        text: Measure::ALL.map(|measure| format!("{}: {}", measure.title(), measure.definition())).into(),
        tables: Measure::ALL.map(|measure| report.table(measure)).into(),
        figures: Vec::new(),
    }
}

fn figure(name: &str, caption: String, picture: nextclip_core::Picture, wide: bool) -> Figure {
    Figure { name: name.into(), caption, picture, wide }
}
