//! Options of the command line that have a file of their own: weight-only bundles, verification, random checkpoints.

use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;

use clap::{Args, ValueEnum};
use indicatif::ProgressBar;
use nextclip_core::manifest::Target;
use nextclip_core::say;
use nextclip_export::onnx::{BlockForm, MAX_BLOCK, MIN_BLOCK, Rounding, TENSORRT_BLOCKS, WeightOnly};
use nextclip_export::random::RandomWeights;
use nextclip_export::usage::Usage;
use nextclip_export::{Arithmetic, Choice, InputProducts, Verify};
use nextclip_quant::{Bits, BlockFormat, BlockScale};

/// Weights that share a scale, unless said otherwise: small enough that 4 bits suffice for most of them.
const GROUP_OF_4_BIT: usize = 32;

/// 8 bits are enough for more weights together, and TensorRT takes no fewer where they have 4.
const LARGE_GROUP: usize = 128;

/// How `w4` and `w8` turn weights into integers.
#[derive(Args)]
#[command(next_help_heading = "Weights alone, for w4 and w8")]
pub(crate) struct WeightOnlyArguments {
    /// Weights of an output that share a scale: 16, 32, 64, 128 or 256, for TensorRT 64 or 128. Fewer are more exact, and
    /// larger [default: 32 for w4, 128 for w8 and for TensorRT].
    #[arg(long, value_name = "N", value_parser = group)]
    group: Option<usize>,
    /// How a group's scale is found: mse (least squared error) or min-max (greatest weight).
    #[arg(long, value_name = "RULE", default_value = "mse", value_parser = ["mse", "min-max"])]
    scale: String,
    /// How weights become integers: nearest; or by the inputs that --calibrate shows (models of up to about 2 GB of such
    /// inputs' products) gptq, which lets each weight make good what others lost, or awq, which scales up those of large
    /// inputs.
    #[arg(long, value_name = "HOW", default_value = "nearest")]
    pub(crate) rounding: RoundingName,
}

/// `--rounding`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub(crate) enum RoundingName {
    #[default]
    Nearest,
    Gptq,
    Awq,
}

impl RoundingName {
    /// Whether it needs footage.
    pub(crate) fn is_calibrated(self) -> bool {
        self != Self::Nearest
    }

    /// As it stands on the command line.
    pub(crate) fn name(self) -> String {
        self.to_possible_value().map(|value| value.get_name().to_owned()).unwrap_or_default()
    }
}

impl WeightOnlyArguments {
    /// Width and group that `precision` means for a target; `None` where it is no weight-only one.
    ///
    /// # Errors
    /// Options that are for others.
    pub(crate) fn width(&self, precision: &str, target: Target) -> anyhow::Result<Option<(Bits, usize)>> {
        let wrong = |group: &usize| target.is_tensorrt() && !TENSORRT_BLOCKS.contains(group);
        if let Some(group) = self.group.filter(wrong) {
            anyhow::bail!("--group {group}: {target} has groups of {TENSORRT_BLOCKS:?}");
        }
        Ok(Some(match precision {
            "w4" if target.is_tensorrt() => (Bits::Four, LARGE_GROUP),
            "w4" => (Bits::Four, GROUP_OF_4_BIT),
            "w8" => (Bits::Eight, LARGE_GROUP),
            _ if self.rounding.is_calibrated() => {
                anyhow::bail!("--rounding {} is for --precision w4 and w8", self.rounding.name())
            }
            _ if self.group.is_some() => anyhow::bail!("--group is for --precision w4 and w8"),
            _ => return Ok(None),
        }))
    }

    /// What a width and group mean with these options.
    pub(crate) fn arithmetic(
        &self,
        (bits, group): (Bits, usize),
        keep_float: &[String],
        products: Option<InputProducts>,
    ) -> Arithmetic {
        let rule = if self.scale == "mse" { BlockScale::Mse } else { BlockScale::MinMax };
        let format = BlockFormat { bits, block: self.group.unwrap_or(group) };
        let choice = Choice::AllBut(keep_float.to_vec());
        let rounding = match (self.rounding, products.map(Arc::new)) {
            (RoundingName::Gptq, Some(products)) => Rounding::Outputs(products),
            (RoundingName::Awq, Some(products)) => Rounding::Scaled(products),
            _ => Rounding::Nearest,
        };
        let recipe = WeightOnly { format, rule, form: BlockForm::MatMulNBits, choice, rounding };
        Arithmetic::Blocks(Arc::new(recipe))
    }
}

/// What is done with a bundle before it gets its name.
#[derive(Args)]
pub(crate) struct VerifyArguments {
    /// How the bundle is verified before it gets its name: full (opened as the runtime does, one prediction), pieces
    /// (one prediction with a piece of a graph in memory at a time), load (graphs loaded and not run), none, or auto,
    /// which takes the first of them that needs little memory.
    #[arg(long, value_name = "HOW", default_value = "auto")]
    pub(crate) verify: Verify,
}

/// A checkpoint to make up.
#[derive(Args)]
pub(crate) struct RandomArguments {
    /// "video-gpt" (3.8 billion parameters, 7.7 GB), or a folder whose config.json and vae/config.json say the sizes.
    #[arg(long, value_name = "MODEL")]
    like: PathBuf,
    /// The checkpoint's folder; must not exist, or be empty.
    #[arg(long)]
    out: PathBuf,
    /// Layers of the decoder, where they are to be other than the model's.
    #[arg(long, value_name = "N")]
    layers: Option<usize>,
    /// The same seed gives the same weights.
    #[arg(long, value_name = "SEED", default_value_t = 0)]
    seed: u64,
}

pub(crate) fn run_random(arguments: &RandomArguments, progress: &ProgressBar) -> anyhow::Result<ExitCode> {
    let usage = Usage::start();
    let like = match arguments.like == Path::new("video-gpt") {
        true => RandomWeights::video_gpt(),
        false => RandomWeights::like(&arguments.like)?,
    };
    let mut weights = RandomWeights { seed: arguments.seed, ..like };
    if let Some(layers) = arguments.layers {
        anyhow::ensure!(layers > 0, "--layers is 0, must be at least 1");
        weights.transformer.num_hidden_layers = layers;
    }
    weights.write(&arguments.out, progress)?;
    progress.finish_and_clear();
    say!("{}: random weights, {usage}", arguments.out.display());
    Ok(ExitCode::SUCCESS)
}

fn group(text: &str) -> Result<usize, String> {
    let group = text.parse().ok().filter(|group: &usize| group.is_power_of_two());
    let group = group.filter(|group| (MIN_BLOCK..=MAX_BLOCK).contains(group));
    group.ok_or_else(|| format!("must be a power of two from {MIN_BLOCK} to {MAX_BLOCK}"))
}
