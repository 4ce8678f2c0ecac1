//! `nextclip-export`: looks into checkpoints, writes bundles, compares them with reference tensors.

mod arguments;
mod precision;
mod target_arguments;

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use arguments::{RandomArguments, VerifyArguments, WeightOnlyArguments, run_random};
use clap::{Parser, Subcommand};
use indicatif::{ProgressBar, ProgressStyle};
use nextclip_core::say;
use nextclip_export::model::Checkpoint;
use nextclip_export::sensitivity::{DEFAULT_CLIPS, sensitivity};
use nextclip_export::usage::Usage;
use nextclip_export::{
    Arithmetic, DEFAULT_OBSERVER, Footage, Observations, Options, Plan, PrecisionName, Sight, export_with,
    inspect, observe, observe_products, parity,
};
use nextclip_quant::Observer;

use precision::PrecisionArguments;
use target_arguments::TargetArguments;

/// Turns a checkpoint into a bundle: the folder of ONNX graphs that nextclipd runs.
#[derive(Parser)]
#[command(version, after_help = EXAMPLES)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

const EXAMPLES: &str = "\
A checkpoint is a folder with config.json, model.safetensors (or shards with model.safetensors.index.json),
tokenizer files and, for pixels in and out, vae/config.json and vae/diffusion_pytorch_model.safetensors.

Examples:
  nextclip-export inspect models/base
  nextclip-export export models/base --out target/bundles/base-float
  nextclip-export export models/base --out target/bundles/base-int8 --precision w8a8 --calibrate scenes
  nextclip-export export models/base --out target/bundles/base-orin --board orin-nano-8gb --calibrate scenes
  nextclip-export export models/base --out mine-int8 --precision w8a8 --calibrate my-camera/ --observer percentile:99.99
  nextclip-export export models/base --out mine-w4 --precision w4 --group 32
  nextclip-export export models/base --out planned --precision w8a8 --calibrate scenes --max-psnr-drop 0.1
  nextclip-export export models/base --out again --precision w8a8 --calibrate scenes --plan planned/plan.json
  nextclip-export export video-gpt --out bundle --size 176x320 --history 56 --clip 24 --steps 50 --guidance 1.5
  nextclip-export parity reference/a";

#[derive(Subcommand)]
enum Command {
    /// Shows what a checkpoint holds: sizes, parameters of each part, number formats, VAE, faults.
    ///
    /// Ends with code 1 where tensors are missing, left over or of the wrong shape; each is listed.
    Inspect {
        /// The checkpoint's folder.
        checkpoint: PathBuf,
    },
    /// Writes a bundle, verifies it by opening and running it, then gives it its name.
    ///
    /// Sizes that are not given are those that the checkpoint was trained for, else the published model's.
    /// A bundle of the same name is replaced only once the new one is complete.
    Export(Box<ExportArguments>),
    /// Measures what quantising costs: every layer by itself, and all together.
    ///
    /// Prints a table, the most sensitive layer first, and writes it as sensitivity.txt and sensitivity.json with a
    /// chart, sensitivity.png. `export --max-psnr-drop` makes a plan of the same measurements.
    Sensitivity {
        /// The checkpoint's folder.
        checkpoint: PathBuf,
        /// Folder for the report.
        #[arg(long)]
        out: PathBuf,
        /// Clips to measure on.
        #[arg(long, value_name = "N", default_value_t = DEFAULT_CLIPS)]
        clips: usize,
        #[command(flatten)]
        calibration: CalibrationArguments,
    },
    /// Exports a reference folder and compares the bundle with the published implementation's tensors.
    ///
    /// Prints one line a tensor and ends with code 1 above a difference of 1e-3.
    Parity {
        /// A checkpoint with case.json and expected.safetensors.
        reference: PathBuf,
    },
    /// Writes a checkpoint of random weights, to see what exporting a model of its size takes.
    MakeRandom(RandomArguments),
}

#[derive(clap::Args)]
struct ExportArguments {
    /// The checkpoint's folder.
    checkpoint: PathBuf,
    /// The bundle's folder.
    #[arg(long)]
    out: PathBuf,
    /// Height and width of frames in pixels, each a multiple of 16: 176x320.
    #[arg(long, value_name = "HxW", value_parser = size)]
    size: Option<(usize, usize)>,
    /// Frames that the model remembers (C).
    #[arg(long, value_name = "C")]
    history: Option<usize>,
    /// Frames that it predicts at once (N).
    #[arg(long, value_name = "N")]
    clip: Option<usize>,
    /// Time between two frames that the model sees, in milliseconds.
    #[arg(long, value_name = "MS")]
    interval_ms: Option<u32>,
    /// Denoising steps a prediction; the runtime may choose others [default: 1 for a model trained by
    /// nextclip, else 50].
    #[arg(long, value_name = "K")]
    steps: Option<usize>,
    /// Shift of the time grid; above 1 spends more steps near noise [default: 1].
    #[arg(long, value_name = "S")]
    time_shift: Option<f32>,
    /// Guidance scale; other than 1 adds a second branch to every step [default: 1].
    #[arg(long, value_name = "G")]
    guidance: Option<f32>,
    #[command(flatten)]
    target: TargetArguments,
    /// With w8a8, fp8, w8 and w4, a layer to leave in float, by its checkpoint path, with all below it: llm.layers.0.mlp. May be
    /// given several times; a wrong name lists the right ones.
    #[arg(long, value_name = "LAYER")]
    keep_float: Vec<String>,
    #[command(flatten)]
    verify: VerifyArguments,
    #[command(flatten)]
    weight_only: WeightOnlyArguments,
    #[command(flatten)]
    parts: PrecisionArguments,
    #[command(flatten)]
    calibration: CalibrationArguments,
}

/// How 8 bits find their ranges.
#[derive(clap::Args)]
#[command(next_help_heading = "Calibration, for w8a8, fp8, rounding by gptq or awq and a cache in int8")]
struct CalibrationArguments {
    /// Frames to take ranges from: "scenes" (generated), a film, or a folder of films. The best are of the camera
    /// that the bundle is for.
    #[arg(long, value_name = "SOURCE")]
    calibrate: Option<Footage>,
    /// Clips of C + N frames to look at; of films, chosen by the seed among all that do not overlap.
    #[arg(long, value_name = "N", default_value_t = Sight::default().clips)]
    calibration_clips: usize,
    /// Of scenes, noise and choice: the same seed gives the same bundle.
    #[arg(long, value_name = "SEED", default_value_t = Sight::default().seed)]
    calibration_seed: u64,
    /// Rule that makes a range of the values seen: min-max, percentile:P, entropy or mse.
    #[arg(long, value_name = "RULE", default_value_t = DEFAULT_OBSERVER)]
    observer: Observer,
}

impl CalibrationArguments {
    fn sight(&self, footage: &Footage, keep_back: bool) -> Sight {
        let Self { calibration_clips: clips, calibration_seed: seed, .. } = *self;
        Sight { footage: footage.clone(), clips, seed, keep_back }
    }
}

fn main() -> ExitCode {
    env_logger::Builder::from_env(env_logger::Env::default().default_filter_or("warn")).init();
    let result = match Arguments::parse().command {
        Command::Inspect { checkpoint } => run_inspect(&checkpoint),
        Command::Export(arguments) => run_export(&arguments),
        Command::Sensitivity { checkpoint, out, clips, calibration } => {
            run_sensitivity(&checkpoint, &out, clips, &calibration)
        }
        Command::Parity { reference } => run_parity(&reference),
        Command::MakeRandom(arguments) => run_random(&arguments, &byte_bar()),
    };
    result.unwrap_or_else(|error| {
        eprintln!("nextclip-export: {error:#}");
        ExitCode::FAILURE
    })
}

fn run_inspect(checkpoint: &Path) -> anyhow::Result<ExitCode> {
    let report = inspect::inspect(checkpoint)?;
    say!("{}", report.to_string().trim_end());
    Ok(if report.faults.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

fn run_export(arguments: &ExportArguments) -> anyhow::Result<ExitCode> {
    let usage = Usage::start();
    let checkpoint = Checkpoint::open(&arguments.checkpoint)?;
    let footage = arguments.calibration.calibrate.is_some();
    let (target, precision) =
        arguments.target.resolve(footage, arguments.parts.cache, arguments.weight_only.rounding)?;
    let options = Options {
        target,
        size: arguments.size,
        history: arguments.history,
        clip: arguments.clip,
        interval_ms: arguments.interval_ms,
        steps: arguments.steps,
        time_shift: arguments.time_shift,
        guidance: arguments.guidance,
    };
    let mut plan = Plan::new(&checkpoint, &options)?;
    let arithmetic = arithmetic(&checkpoint, &mut plan, precision, arguments)?;
    let progress = byte_bar();
    let how = arguments.verify.verify;
    let (manifest, verified) = export_with(&checkpoint, &plan, &arithmetic, how, &arguments.out, &progress)?;
    progress.finish_and_clear();
    let bytes: u64 = manifest.files.values().map(|file| file.bytes).sum();
    say!(
        "{}: {} for {} in {}, {:.1} MB; at work it keeps {:.1} MB of keys and values in {}",
        arguments.out.display(),
        manifest.source.name,
        manifest.target,
        manifest.precision,
        bytes as f64 / 1e6,
        manifest.cache.bytes(&manifest.geometry) as f64 / 1e6,
        manifest.cache.element
    );
    say!("{verified}");
    say!("{usage}");
    Ok(ExitCode::SUCCESS)
}

/// What precision and `--cache` mean, calibrated where they need to be.
fn arithmetic(
    checkpoint: &Checkpoint,
    plan: &mut Plan,
    precision: PrecisionName,
    arguments: &ExportArguments,
) -> anyhow::Result<Arithmetic> {
    let (given, parts) = (&arguments.calibration, &arguments.parts);
    let kept = parts.check(precision == PrecisionName::W8A8)?;
    let width = arguments.weight_only.width(precision.name(), plan.target)?;
    // Whether there is footage where it is needed, and only there, was checked with the precision.
    let for_ranges = precision.is_calibrated() || parts.cache.is_calibrated();
    let seen = match &given.calibrate {
        Some(footage) if for_ranges => {
            Some(observed(checkpoint, plan, footage, (given, parts.is_measured()))?)
        }
        _ => None,
    };
    let products = match &given.calibrate {
        Some(footage) if arguments.weight_only.rounding.is_calibrated() => {
            let progress = progress_bar("{pos}/{len} clips, {eta} left");
            let products = observe_products(checkpoint, plan, &given.sight(footage, false), &progress)?;
            progress.finish_and_clear();
            Some(products)
        }
        _ => None,
    };
    plan.cache.element = parts.cache.element(seen.as_ref(), given.observer)?;
    let weight_only =
        width.map(|width| arguments.weight_only.arithmetic(width, &arguments.keep_float, products));
    let Some(seen) = seen.filter(|_| precision.is_calibrated()) else {
        return Ok(weight_only.unwrap_or(match precision {
            PrecisionName::Fp16 => Arithmetic::Fp16,
            PrecisionName::Bf16 => Arithmetic::Bf16,
            _ => Arithmetic::Float,
        }));
    };
    let progress = progress_bar("{pos}/{len}, {eta} left");
    let keep_float = arguments.keep_float.clone();
    let (choice, documents) = match kept {
        Some(earlier) => earlier.choice(&seen)?,
        None => parts.choice(checkpoint, plan, (&seen, given.observer), keep_float, &progress)?,
    };
    progress.finish_and_clear();
    let calibrated = seen.calibrated(given.observer, choice)?.with_documents(documents);
    Ok(match precision {
        PrecisionName::Fp8 => Arithmetic::Fp8(calibrated),
        _ => Arithmetic::W8A8(calibrated),
    })
}

/// Observes footage, of which a part is kept back where losses will be measured.
fn observed(
    checkpoint: &Checkpoint,
    plan: &Plan,
    footage: &Footage,
    (given, keep_back): (&CalibrationArguments, bool),
) -> anyhow::Result<Observations> {
    let sight = given.sight(footage, keep_back);
    let progress = progress_bar("{pos}/{len} clips, {eta} left");
    let seen = observe(checkpoint, plan, &sight, &progress)?;
    progress.finish_and_clear();
    Ok(seen)
}

fn run_sensitivity(
    checkpoint: &Path,
    out: &Path,
    clips: usize,
    given: &CalibrationArguments,
) -> anyhow::Result<ExitCode> {
    let checkpoint = Checkpoint::open(checkpoint)?;
    let plan = Plan::new(&checkpoint, &Options::default())?;
    let footage = given.calibrate.as_ref().unwrap_or(&Footage::Scenes);
    let seen = observed(&checkpoint, &plan, footage, (given, true))?;
    let progress = progress_bar("{pos}/{len}, {eta} left");
    let report = sensitivity(&checkpoint, &plan, &seen, (given.observer, clips), &progress)?;
    progress.finish_and_clear();
    report.save(out)?;
    say!("{}", report.to_string().trim_end());
    say!("{}", out.join("sensitivity.png").display());
    Ok(ExitCode::SUCCESS)
}

fn run_parity(reference: &Path) -> anyhow::Result<ExitCode> {
    let lines = parity::parity(reference)?;
    for line in &lines {
        say!("{line}");
    }
    let within = lines.iter().all(|line| line.max_abs <= parity::TOLERANCE);
    Ok(if within { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// Bytes and the time that is left.
fn byte_bar() -> ProgressBar {
    progress_bar("{bytes}/{total_bytes}, {bytes_per_sec}, {eta} left")
}

/// Shown on a terminal only.
fn progress_bar(count: &str) -> ProgressBar {
    let style = ProgressStyle::with_template(&format!("{{msg:24}} {{bar:40}} {count}"));
    ProgressBar::new(0).with_style(style.unwrap_or_else(|_| ProgressStyle::default_bar()))
}

fn size(text: &str) -> Result<(usize, usize), String> {
    let parts = text.split_once('x').and_then(|(h, w)| Some((h.parse().ok()?, w.parse().ok()?)));
    parts.ok_or_else(|| "must be height x width in pixels, like 176x320".into())
}
