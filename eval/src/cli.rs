//! The command line: what it takes, and what both commands share.

mod compare;
mod predict;

use std::path::PathBuf;

use anyhow::Result;
use clap::{Args, Parser, Subcommand};
use indicatif::{ProgressBar, ProgressStyle};
use nextclip_eval::{Footage, Part, Selection};
use nextclip_media::Fit;
use nextclip_predictor::{Provider, Settings, init_onnx_runtime};

use self::compare::CompareArgs;
use self::predict::PredictArgs;

/// Measures what a bundle's predictions are worth.
#[derive(Debug, Parser)]
#[command(version)]
pub(crate) struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Compares predictions with what came: distortion and realism, against predictors that need no model.
    ///
    /// Every clip is predicted from the frames before it and measured frame by frame: PSNR, SSIM, GMSD (a
    /// perceptual measure, 0 for a copy) and sharpness, over the whole frame and where something moves.
    #[command(after_help = predict::EXAMPLES)]
    Predict(PredictArgs),
    /// Puts two bundles of one model side by side, such as a quantised and a float one.
    ///
    /// Both predict every clip from the same noise, in turn in one run, so that a busy or a warming machine
    /// slows both alike.
    #[command(after_help = compare::EXAMPLES)]
    Compare(CompareArgs),
}

/// What is measured on.
#[derive(Debug, Args)]
pub(crate) struct Material {
    /// "scenes" (generated), a film, or a folder of films.
    #[arg(long, value_name = "scenes|PATH")]
    videos: Footage,
    /// Which part, by the division that training keeps to: all, train, validation or held-out [default:
    /// held-out for scenes, all for films].
    #[arg(long)]
    part: Option<Part>,
    /// Most clips to measure; of films they are spaced evenly.
    #[arg(long, default_value_t = 200)]
    clips: usize,
    /// How films are fitted to the model's size: crop, letterbox or stretch.
    #[arg(long, default_value = "crop")]
    fit: Fit,
    /// Seed of the noise.
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// Folder for a report page with its pictures.
    #[arg(long)]
    out: Option<PathBuf>,
    /// Threads of a graph; all cores if not given.
    #[arg(long)]
    threads: Option<usize>,
    /// Who executes the graphs: cpu, cuda or tensorrt, if not what the bundle is made for. A GPU's bundle runs on cpu
    /// too: its quality can be measured there, its speed can't.
    #[arg(long, value_name = "NAME")]
    provider: Option<Provider>,
    /// The ONNX Runtime library, if not found by itself.
    #[arg(long)]
    onnxruntime: Option<PathBuf>,
}

impl Material {
    /// How bundles are run.
    fn settings(&self) -> Settings {
        Settings { threads: self.threads, provider: self.provider, ..Settings::default() }
    }

    fn selection(&self) -> Selection {
        Selection { footage: self.videos.clone(), part: self.part, fit: self.fit, most: self.clips }
    }

    /// Where the numbers of a page come from.
    fn facts(&self, clips: usize) -> Vec<(String, String)> {
        let fact = |name: &str, value: String| (name.to_owned(), value);
        vec![
            fact("data", format!("{}, part {}", self.videos, self.selection().part())),
            fact("clips", clips.to_string()),
            fact("seed", self.seed.to_string()),
            fact("machine", nextclip_eval::describe_machine()),
            fact("command", command()),
        ]
    }
}

impl Cli {
    pub(crate) fn run(self) -> Result<()> {
        match self.command {
            Command::Predict(args) => {
                init_onnx_runtime(args.material.onnxruntime.as_deref())?;
                args.run()
            }
            Command::Compare(args) => {
                init_onnx_runtime(args.material.onnxruntime.as_deref())?;
                args.run()
            }
        }
    }
}

/// The command as it was typed, so that a page can be made again.
fn command() -> String {
    let mut words = std::env::args();
    let program = words.next().unwrap_or_default();
    let program = program.rsplit(['/', '\\']).next().unwrap_or_default().to_owned();
    std::iter::once(program).chain(words).collect::<Vec<_>>().join(" ")
}

fn progress(what: &'static str, clips: usize) -> ProgressBar {
    let style = ProgressStyle::with_template("{msg:14} {bar:40} {pos}/{len} clips, {eta} left");
    let bar = ProgressBar::new(clips as u64).with_message(what);
    bar.with_style(style.unwrap_or_else(|_| ProgressStyle::default_bar()))
}
