//! `--target`, `--board` and `--precision`: what a bundle is for, resolved from one another.

use anyhow::{Context, bail};
use nextclip_boards::{Profile, Runtime, board_ids, profile};
use nextclip_core::manifest::Target;
use nextclip_export::PrecisionName;

use crate::arguments::RoundingName;
use crate::precision::Cache;

/// What the bundle is for.
#[derive(clap::Args)]
pub(crate) struct TargetArguments {
    /// What the graphs are laid out for: cpu, cuda (ONNX Runtime on a GPU), trt10 (TensorRT of JetPack 6) or trt (of
    /// JetPack 7.2 and later) [default: the board's, else cpu].
    #[arg(long, conflicts_with = "board")]
    target: Option<Target>,
    /// The board that the bundle is for, which says target and precision: orin-nano-8gb. A wrong name lists the right
    /// ones.
    #[arg(long, value_name = "NAME")]
    board: Option<String>,
    /// Arithmetic: f32, fp16, bf16, w8a8 (8-bit integer weights and activations: a quarter of the size, on cpu about
    /// twice the speed), fp8 (the same in 8-bit floats), w8 or w4 (8- or 4-bit weights alone, without calibration: for
    /// models whose weights hardly fit into memory). cpu has f32, w8a8, w8, w4; cuda f32, fp16; trt10 f32, fp16, w8a8, w4;
    /// trt f32, fp16, bf16, w8a8, fp8, w4 [default: w8a8 with --calibrate; else f32 for cpu, fp16 for the others].
    #[arg(long, value_name = "NAME")]
    precision: Option<PrecisionName>,
}

impl TargetArguments {
    /// Target and precision; `has_footage` says whether there is something to calibrate with, `cache` what is kept of
    /// the past, `rounding` how weights alone become integers.
    pub(crate) fn resolve(
        &self,
        has_footage: bool,
        cache: Cache,
        rounding: RoundingName,
    ) -> anyhow::Result<(Target, PrecisionName)> {
        let board = self.board.as_deref().map(board).transpose()?;
        let target = match board {
            Some(board) => target_of(board),
            None => self.target.unwrap_or_default(),
        };
        if cache.is_calibrated() && target.is_tensorrt() {
            bail!("--cache int8 is not for {target}: TensorRT has one scale for what flows, not one a head");
        }
        // Footage for the cache or for rounding says nothing of the rest.
        let for_part = cache.is_calibrated() || rounding.is_calibrated();
        let for_all = has_footage && !for_part;
        let precision = self.precision.unwrap_or_else(|| PrecisionName::default_of(target, for_all));
        precision.require(target)?;
        if let Some(board) = board {
            require_of(board, precision)?;
        }
        let sources = "a film or folder of the camera's footage, or \"scenes\"";
        match (precision.is_calibrated(), for_part, has_footage) {
            (true, _, false) => bail!("--precision {precision} needs --calibrate: {sources}"),
            (_, true, false) if cache.is_calibrated() => bail!("--cache int8 needs --calibrate: {sources}"),
            (_, true, false) => bail!("--rounding {} needs --calibrate: {sources}", rounding.name()),
            (false, false, true) => {
                bail!(
                    "--calibrate is for --precision w8a8, fp8, --rounding gptq or awq and --cache int8; {target} is to be in \
                     {precision}"
                )
            }
            _ => Ok((target, precision)),
        }
    }
}

fn board(name: &str) -> anyhow::Result<&'static Profile> {
    profile(name).with_context(|| format!("no board {name:?}; there are {}", board_ids()))
}

fn target_of(board: &Profile) -> Target {
    match board.runtime() {
        Runtime::Cpu => Target::Cpu,
        Runtime::TensorRt10 => Target::Trt10,
        Runtime::TensorRt => Target::Trt,
    }
}

/// Refuses arithmetic that the board's GPU does not have.
fn require_of(board: &Profile, precision: PrecisionName) -> anyhow::Result<()> {
    let has_it = match precision {
        PrecisionName::Fp8 => board.has_fp8(),
        PrecisionName::Bf16 => board.has_bf16(),
        _ => true,
    };
    if !has_it {
        bail!("{} has no arithmetic in {precision}", board.name);
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn resolve(
        board: Option<&str>,
        target: Option<Target>,
        precision: Option<PrecisionName>,
        footage: bool,
    ) -> String {
        let arguments = TargetArguments { target, board: board.map(String::from), precision };
        match arguments.resolve(footage, Cache::F32, RoundingName::Nearest) {
            Ok((target, precision)) => format!("{target} {precision}"),
            Err(error) => error.to_string(),
        }
    }

    #[test]
    fn targets_and_boards_say_the_precision() {
        assert_eq!(resolve(None, None, None, false), "cpu f32");
        assert_eq!(resolve(None, Some(Target::Cuda), None, false), "cuda fp16");
        assert_eq!(resolve(None, Some(Target::Trt10), None, true), "trt10 w8a8");
        assert_eq!(resolve(Some("orin-nano-8gb"), None, None, false), "trt10 fp16");
        assert_eq!(resolve(Some("thor-t5000"), None, Some(PrecisionName::Fp8), true), "trt fp8");
        assert_eq!(resolve(Some("raspberry-pi-5"), None, None, true), "cpu w8a8");
    }

    #[test]
    fn what_does_not_go_together_is_refused() {
        let told = resolve(Some("orin"), None, None, false);
        assert!(told.starts_with("no board \"orin\"; there are orin-nano-4gb, orin-nano-8gb, "), "{told}");
        let told = resolve(Some("orin-nano-8gb"), None, Some(PrecisionName::Fp8), true);
        assert_eq!(told, "target trt10 has no fp8; it has f32, fp16, w8a8, w4");
        let told = resolve(None, Some(Target::Trt), Some(PrecisionName::Fp8), false);
        assert!(told.starts_with("--precision fp8 needs --calibrate"), "{told}");
        let told = resolve(None, Some(Target::Cuda), None, true);
        assert_eq!(
            told,
            "--calibrate is for --precision w8a8, fp8, --rounding gptq or awq and --cache int8; cuda is to be in fp16"
        );
    }
}
