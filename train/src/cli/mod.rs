//! The command line: what can be trained, and with which settings.

mod distill;
mod finetune;
mod predictor;
mod vae;

use std::path::{Path, PathBuf};

use anyhow::Result;
use clap::{Args, Parser, Subcommand, ValueEnum};
use nextclip_core::{Geometry, say};
use nextclip_train::footage::Origin;
use nextclip_train::params;
use tch::{Device, Kind};

use self::distill::DistillArgs;
use self::finetune::FinetuneArgs;
use self::predictor::PredictorArgs;
use self::vae::VaeArgs;

/// Trains checkpoints for nextclip: first the autoencoder, then the predictor on its latents.
#[derive(Debug, Parser)]
#[command(
    version,
    after_help = "\
Example, a model of generated scenes (about two hours on two cores with AVX512-BF16; scripts/train-base is how the
shipped one was trained):
  nextclip-train vae       --run runs/mine
  nextclip-train predictor --run runs/mine --checkpoint models/mine --name mine
Both go on where they stopped when they are started again with the same --run."
)]
pub(crate) struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Train the autoencoder (frames to latents and back) into RUN/vae.
    Vae(VaeArgs),
    /// Train the predictor on RUN/vae's latents and write the whole checkpoint.
    Predictor(PredictorArgs),
    /// Adapt a checkpoint to one camera, from minutes of its normal footage.
    #[command(after_help = "\
Of long films the first seven tenths are learned from, the next tenth decides when to stop, and the last two
are not looked at: `nextclip-eval predict --part held-out` measures on them.
Example:
  nextclip-train finetune --checkpoint models/base --video yard.mp4 --out models/yard")]
    Finetune(FinetuneArgs),
    /// Make a student of a checkpoint that draws sharp clips in a few denoising steps.
    #[command(after_help = "\
The student is for pictures; for scores its teacher stays the better choice, whose mean is nearer to what comes.
Example:
  nextclip-train distill --checkpoint models/base --source scenes --out models/sharp")]
    Distill(DistillArgs),
}

#[derive(Debug, Args)]
struct Common {
    /// Folder of the run: its state, loss table and curve; a run found there goes on.
    #[arg(long)]
    run: PathBuf,
    /// What to learn from: "scenes" (generated), a video file or a folder of videos. May be repeated; a
    /// weight says how often each is drawn, as in --source scenes=3 --source films/=1.
    #[arg(long, default_value = "scenes")]
    source: Vec<Origin>,
    /// Frame size, HEIGHTxWIDTH, multiples of 16.
    #[arg(long, default_value = "128x128", value_parser = parse_size)]
    size: (usize, usize),
    /// Frames remembered.
    #[arg(long, default_value_t = 7)]
    history: usize,
    /// Frames predicted at once.
    #[arg(long, default_value_t = 5)]
    clip: usize,
    /// Time between frames, in milliseconds.
    #[arg(long, default_value_t = 200)]
    interval_ms: u32,
    #[command(flatten)]
    machine: Machine,
}

/// How it is computed.
#[derive(Debug, Args)]
struct Machine {
    /// Seed of everything random.
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// Arithmetic of a step; "auto" takes bf16 where the processor multiplies it, else fp32.
    #[arg(long, value_enum, default_value = "auto")]
    precision: Precision,
    /// Threads of the matrix products.
    #[arg(long)]
    threads: Option<i32>,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum Precision {
    Auto,
    Bf16,
    Fp32,
}

impl Cli {
    pub(crate) fn run(self) -> Result<()> {
        match self.command {
            Command::Vae(args) => args.run(),
            Command::Predictor(args) => args.run(),
            Command::Finetune(args) => args.run(),
            Command::Distill(args) => args.run(),
        }
    }
}

impl Common {
    /// Geometry, arithmetic and device, after the global settings are made.
    fn resolve(&self) -> Result<(Geometry, Kind, Device)> {
        let (height, width) = self.size;
        let config = nextclip_train::vae::small_config();
        let geometry = Geometry {
            height,
            width,
            vae_scale: config.scale(),
            latent_channels: config.latent_channels,
            patch: 2,
            history: self.history,
            clip: self.clip,
            frame_interval_ms: self.interval_ms,
        };
        geometry.validate()?;
        let (kind, device) = self.machine.resolve();
        Ok((geometry, kind, device))
    }
}

impl Machine {
    /// Arithmetic and device, after the number of threads is set.
    fn resolve(&self) -> (Kind, Device) {
        if let Some(threads) = self.threads {
            tch::set_num_threads(threads);
        }
        let device = Device::cuda_if_available();
        let kind = match self.precision {
            Precision::Auto => params::fastest_kind(device),
            Precision::Bf16 => Kind::BFloat16,
            Precision::Fp32 => Kind::Float,
        };
        (kind, device)
    }
}

fn check_share(name: &str, share: f64) -> Result<()> {
    anyhow::ensure!((0.0..=1.0).contains(&share), "--{name} {share} is not in 0..1");
    Ok(())
}

fn check_weight(name: &str, weight: f64) -> Result<()> {
    anyhow::ensure!(weight.is_finite() && weight >= 0.0, "--{name} {weight} is not 0 or more");
    Ok(())
}

fn announce(checkpoint: &Path) {
    let name = checkpoint.file_name().unwrap_or_default().to_string_lossy();
    say!("wrote {0}; next: nextclip-export export {0} --out target/bundles/{name}", checkpoint.display());
}

/// "128x160" to (height, width).
fn parse_size(text: &str) -> Result<(usize, usize), String> {
    let sides = text.split_once('x').and_then(|(h, w)| Some((h.parse().ok()?, w.parse().ok()?)));
    sides.ok_or_else(|| format!("{text:?} is not HEIGHTxWIDTH, as in 128x160"))
}
