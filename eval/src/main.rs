//! `nextclip-eval`: measures a bundle.
#![allow(clippy::print_stdout, reason = "a command line talks to its user")]

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::{Context, Result};
use clap::{Args, Parser, Subcommand};
use indicatif::ProgressBar;
use nextclip_eval::{Clips, Footage, Report, measure, strip};
use nextclip_media::Fit;
use nextclip_predictor::{Predictor, Settings};

/// Measures what a bundle's predictions are worth.
#[derive(Debug, Parser)]
#[command(version)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Compare predictions with what came: PSNR against trivial predictors and the autoencoder's ceiling.
    #[command(after_help = "\
Examples:
  nextclip-eval predict --bundle target/bundles/base-float --videos scenes
  nextclip-eval predict --bundle B --videos films/ --out report
The last line is for scripts: psnr_db=… last_frame_db=… gain_db=…")]
    Predict(PredictArgs),
}

#[derive(Debug, Args)]
struct PredictArgs {
    /// The bundle's folder.
    #[arg(long)]
    bundle: PathBuf,
    /// "scenes" (generated, held out from training), a film, or a folder of films.
    #[arg(long)]
    videos: Footage,
    /// Most clips to measure.
    #[arg(long, default_value_t = 200)]
    clips: usize,
    /// Denoising steps, if not the bundle's own.
    #[arg(long)]
    steps: Option<usize>,
    /// Seed of the noise.
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// How films are fitted to the model's size: crop, letterbox or stretch.
    #[arg(long, default_value = "crop")]
    fit: Fit,
    /// Threads of a graph; all cores if not given.
    #[arg(long)]
    threads: Option<usize>,
    /// Folder for strips of the best, the middle and the worst clips.
    #[arg(long)]
    out: Option<PathBuf>,
    /// The ONNX Runtime library, if not found by itself.
    #[arg(long)]
    onnxruntime: Option<PathBuf>,
}

fn main() -> ExitCode {
    env_logger::init();
    let Command::Predict(args) = Cli::parse().command;
    match args.run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("nextclip-eval: {error:#}");
            ExitCode::FAILURE
        }
    }
}

impl PredictArgs {
    fn run(self) -> Result<()> {
        nextclip_predictor::init_onnx_runtime(self.onnxruntime.as_deref())?;
        let settings = Settings { threads: self.threads, steps: self.steps, ..Settings::default() };
        let mut predictor = Predictor::open(&self.bundle, &settings)?;
        let geometry = predictor.manifest().geometry;
        let clips = Clips::open(&self.videos, &geometry, self.fit, self.clips)?;
        let bar = ProgressBar::new(clips.len() as u64);
        let mut samples = measure(&mut predictor, &clips, self.seed, || bar.inc(1))?;
        bar.finish_and_clear();
        let report = Report::new(&samples, &geometry);
        if let Some(out) = &self.out {
            std::fs::create_dir_all(out).with_context(|| format!("creating {}", out.display()))?;
            let gain = |sample: &nextclip_eval::Sample| {
                sample.predicted_db.iter().sum::<f64>() - sample.last_frame_db.iter().sum::<f64>()
            };
            samples.sort_by(|a, b| gain(b).total_cmp(&gain(a)));
            let middle = samples.len() / 2;
            let parts = [
                ("best", 0),
                ("middle", middle.saturating_sub(2)),
                ("worst", samples.len().saturating_sub(4)),
            ];
            for (name, first) in parts {
                let some: Vec<_> = samples.iter().skip(first).take(4).collect();
                let title = format!("{}: {name} clips by gain", predictor.manifest().source.name);
                let path = out.join(format!("{name}.png"));
                nextclip_media::save_png(&path, &strip(&some, &clips, &geometry, &title))?;
                println!("wrote {}", path.display());
            }
        }
        print!("{report}");
        println!("{}", report.summary());
        Ok(())
    }
}
