//! The command line: what a person types, before it is known to make sense.

use std::path::PathBuf;

use clap::{Args, Parser, Subcommand};

use crate::config::ExecutionFlags;

/// nextclipd predicts what a camera will see next.
#[derive(Debug, Parser)]
#[command(name = "nextclipd", version, about, long_about = None, arg_required_else_help = true, after_help = EXAMPLES)]
pub struct Cli {
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

const EXAMPLES: &str = "\
Examples:
  nextclipd run --bundle BUNDLE --source test:// --duration 30s --out runs/demo --video
  nextclipd validate --config nextclip.toml
  nextclipd predict --bundle BUNDLE --input film.mp4 --at 4 --out runs/future

`nextclipd help run` shows every setting. The log follows RUST_LOG, as in RUST_LOG=debug.
Exit codes: 0 done, 1 the run failed, 2 the command line or the configuration is wrong.";

const RUN_EXAMPLES: &str = "\
Sources:
  test://?seed=1                   a generated scene, live
  file:///films/a.mp4              a file, played at its own pace (--as-fast-as-possible: every frame)
  rtsp://user:password@host/path   a network camera
  v4l2:///dev/video0               a USB camera
  csi://0                          a board's own camera
  'videotestsrc is-live=true ! …'  any GStreamer pipeline that ends in raw video

Examples:
  nextclipd run --bundle BUNDLE --source rtsp://camera.local/main --json
  nextclipd run --bundle BUNDLE --source film.mp4 --as-fast-as-possible --out runs/film --video
  nextclipd run --config nextclip.toml --duration 10s

The same settings in a file (flags go over it; its paths count from its own folder):
  bundle = \"bundles/base-float\"
  out = \"runs/live\"            # predictions.jsonl, strips, the film; nothing is written without it
  duration = \"1h\"
  [source]
  uri = \"rtsp://camera.local/main\"
  fit = \"crop\"                 # or letterbox, stretch
  as_fast_as_possible = false
  [predict]
  steps = 4
  guidance = 1.0
  seed = 0
  threads = 2
  provider = \"tensorrt\"      # or cuda, cpu; absent: what the bundle is made for
  engine_cache = \"engines\"   # TensorRT's; also ep_context, cuda_graph, dla_core
  [output]
  json = false                 # JSON lines on standard output, too
  strip_every = 10             # a picture of every 10th scored prediction, 0 for none
  strip_max = 20
  video = true

It runs until the source ends, the duration is over, or SIGTERM or SIGINT (Ctrl-C) comes; all of these finish the
files that are being written. A second signal ends it at once.";

const PREDICT_EXAMPLES: &str = "\
Examples:
  nextclipd predict --bundle BUNDLE --input frames/ --out future       a folder of PNGs, one model interval apart
  nextclipd predict --bundle BUNDLE --input film.mp4 --at 4 --out future   from second 4 of a film
  nextclipd predict --bundle BUNDLE --input film.mp4 --clips 3 --out future   further, on its own predictions

OUT then holds predicted-01.png, …; strip.png (past and future, and what really came where the input goes on); and
predicted.mp4. Where the input goes on, the prediction is scored against it.";

/// The subcommands.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Predict a camera or a file as it plays
    #[command(after_help = RUN_EXAMPLES)]
    Run(RunFlags),
    /// Check a configuration and its bundle, and say what would run
    #[command(after_help = "Takes the flags of `run`. Exit code 0 means that `run` would start.")]
    Validate(RunFlags),
    /// Predict once, from pictures or a film, without a camera
    #[command(after_help = PREDICT_EXAMPLES)]
    Predict(PredictFlags),
}

/// Flags of `run` and `validate`. Numbers and names are checked with the file's, so that all mistakes
/// are told at once; clap checks only that a number is one.
#[derive(Clone, Debug, Default, Args)]
pub struct RunFlags {
    /// Folder of the bundle that nextclip-export wrote
    #[arg(long, value_name = "DIR")]
    pub bundle: Option<PathBuf>,
    /// Camera, file or pipeline (see below)
    #[arg(long, value_name = "URI")]
    pub source: Option<String>,
    /// Settings in a file; flags go over it
    #[arg(long, value_name = "FILE")]
    pub config: Option<PathBuf>,
    /// Folder for predictions.jsonl, strips and the film
    #[arg(long, value_name = "DIR")]
    pub out: Option<PathBuf>,
    /// Denoising steps a prediction: fewer are faster [default: the bundle's]
    #[arg(long, value_name = "K", allow_negative_numbers = true)]
    pub steps: Option<i64>,
    /// How strongly the past guides, where the bundle can be guided [default: the bundle's]
    #[arg(long, value_name = "SCALE", allow_negative_numbers = true)]
    pub guidance: Option<f64>,
    /// Seed of the noise: the same seed and frames give the same predictions [default: 0]
    #[arg(long, value_name = "S", allow_negative_numbers = true)]
    pub seed: Option<i64>,
    /// Stop after this much of the stream, as in 30s, 500ms, 2m, 1h
    #[arg(long, value_name = "TIME")]
    pub duration: Option<String>,
    /// What to do where the camera's aspect is not the model's: crop, letterbox, stretch [default: crop]
    #[arg(long, value_name = "FIT")]
    pub fit: Option<String>,
    /// Predict every frame of a file, however long it takes, instead of playing it
    #[arg(long)]
    pub as_fast_as_possible: bool,
    /// Threads of inference [default: all cores]
    #[arg(long, value_name = "N", allow_negative_numbers = true)]
    pub threads: Option<i64>,
    /// Who executes the graphs
    #[command(flatten)]
    pub execution: ExecutionFlags,
    /// Write JSON lines to standard output
    #[arg(long)]
    pub json: bool,
    /// Draw a strip of every Nth scored prediction, 0 for none [default: 10]
    #[arg(long, value_name = "N", allow_negative_numbers = true)]
    pub strip_every: Option<i64>,
    /// Stop drawing those after so many [default: 20]
    #[arg(long, value_name = "N", allow_negative_numbers = true)]
    pub strip_max: Option<i64>,
    /// Write a film of what was predicted beside what came
    #[arg(long)]
    pub video: bool,
}

/// Flags of `predict`.
#[derive(Clone, Debug, Args)]
pub struct PredictFlags {
    /// Folder of the bundle that nextclip-export wrote
    #[arg(long, value_name = "DIR")]
    pub bundle: PathBuf,
    /// A film, a PNG, or a folder of PNGs in the order of their names, one model interval apart
    #[arg(long, value_name = "FILE_OR_DIR")]
    pub input: PathBuf,
    /// Folder for the pictures and the film
    #[arg(long, value_name = "DIR")]
    pub out: PathBuf,
    /// Where in the input the future begins, in seconds [default: at its end]
    #[arg(long, value_name = "SECONDS", value_parser = seconds)]
    pub at: Option<f64>,
    /// Clips to predict, one after the other, each remembering those before
    #[arg(long, value_name = "K", default_value_t = 1, value_parser = clap::value_parser!(u16).range(1..=1000))]
    pub clips: u16,
    /// Denoising steps a clip [default: the bundle's]
    #[arg(long, value_name = "K", value_parser = clap::value_parser!(u16).range(1..=1000))]
    pub steps: Option<u16>,
    /// Seed of the noise
    #[arg(long, value_name = "S", default_value_t = 0)]
    pub seed: u64,
    /// What to do where the input's aspect is not the model's: crop, letterbox, stretch
    #[arg(long, value_name = "FIT", default_value_t)]
    pub fit: nextclip_media::Fit,
    /// Threads of inference [default: all cores]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..=1024))]
    pub threads: Option<u16>,
    /// Who executes the graphs: cpu, cuda, tensorrt. A bundle for a GPU runs on cpu too, slowly [default: what the
    /// bundle is made for]
    #[arg(long, value_name = "NAME")]
    pub provider: Option<nextclip_predictor::Provider>,
}

fn seconds(text: &str) -> Result<f64, String> {
    let value: f64 = text.parse().map_err(|_| format!("{text:?} is not a number of seconds"))?;
    if (0.0..=1e7).contains(&value) { Ok(value) } else { Err(format!("is {text}, must be 0 to 10000000")) }
}
