//! Options of `nextclip-export export` that say which part of a bundle is kept in how many bits.

use std::path::PathBuf;

use clap::ValueEnum;
use indicatif::ProgressBar;
use nextclip_core::manifest::CacheElement;
use nextclip_core::say;
use nextclip_export::model::Checkpoint;
use nextclip_export::planning::{GivenPlan, LOWERED, Task, plan_precision};
use nextclip_export::sensitivity::DEFAULT_CLIPS;
use nextclip_export::{CalibrationError, Choice, Observations, Plan};
use nextclip_quant::Observer;

/// What keys and values are kept as.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub(crate) enum Cache {
    /// Single precision.
    #[default]
    F32,
    /// Half precision: half the memory.
    Fp16,
    /// 8-bit integers with a scale for each head, from --calibrate: a quarter of the memory.
    Int8,
}

/// How much may be lost, and where.
#[derive(Debug, clap::Args)]
#[command(next_help_heading = "Precision by part")]
pub(crate) struct PrecisionArguments {
    /// What the remembered frames' keys and values are kept as, in memory that grows with --history.
    #[arg(long, value_enum, default_value_t)]
    pub(crate) cache: Cache,
    /// With w8a8, the PSNR in dB that predictions may lose against single precision: every layer's loss is measured, and
    /// only as many are taken to 8 bits as keep to it together. The plan goes into the bundle: plan.json, plan.md with its
    /// reasons, plan.png.
    #[arg(long, value_name = "DB")]
    max_psnr_drop: Option<f64>,
    /// Clips that losses are measured on, none of which ranges are taken from: other scenes, or every fourth clip of
    /// the films.
    #[arg(long, value_name = "N", default_value_t = DEFAULT_CLIPS)]
    measure_clips: usize,
    /// With w8a8, an earlier plan.json, edited or not, in place of measuring.
    #[arg(long, value_name = "FILE", conflicts_with_all = ["max_psnr_drop", "keep_float"])]
    plan: Option<PathBuf>,
}

/// Layers in 8 bits, and the files that tell why.
type Chosen = (Choice, Vec<(&'static str, Vec<u8>)>);

impl PrecisionArguments {
    /// Whether losses are measured.
    pub(crate) fn is_measured(&self) -> bool {
        self.max_psnr_drop.is_some()
    }

    /// Refuses what only w8a8 has, and reads the plan that is given, before anything takes time.
    pub(crate) fn check(&self, quantised: bool) -> anyhow::Result<Option<Earlier>> {
        for (option, given) in [("--max-psnr-drop", self.is_measured()), ("--plan", self.plan.is_some())] {
            anyhow::ensure!(quantised || !given, "{option} is for --precision w8a8");
        }
        Ok(self.plan.as_deref().map(GivenPlan::read).transpose()?.map(Earlier))
    }

    /// The layers that keep to the budget, or all but those of `keep_float` where there is none.
    pub(crate) fn choice(
        &self,
        checkpoint: &Checkpoint,
        plan: &Plan,
        (seen, observer): (&Observations, Observer),
        keep_float: Vec<String>,
        progress: &ProgressBar,
    ) -> anyhow::Result<Chosen> {
        let Some(max_psnr_drop_db) = self.max_psnr_drop else {
            return Ok((Choice::AllBut(keep_float), vec![]));
        };
        let task = Task { max_psnr_drop_db, clips: self.measure_clips, observer, keep_float };
        let document = plan_precision(checkpoint, plan, seen, &task, progress)?;
        say!("{}", document.verdict());
        Ok((document.choice(), document.files()?))
    }
}

/// A plan that was given.
#[derive(Debug)]
pub(crate) struct Earlier(GivenPlan);

impl Earlier {
    /// Its choice among the layers that were seen; it goes into the bundle as it is.
    pub(crate) fn choice(&self, seen: &Observations) -> anyhow::Result<Chosen> {
        let choice = self.0.choice(seen.layers(), LOWERED)?;
        Ok((choice, vec![("plan.json", self.0.text().into())]))
    }
}

impl Cache {
    /// Whether it needs scales from calibration.
    pub(crate) fn is_calibrated(self) -> bool {
        self == Self::Int8
    }

    /// The element type; `seen` must be there where it is calibrated.
    pub(crate) fn element(
        self,
        seen: Option<&Observations>,
        observer: Observer,
    ) -> Result<CacheElement, CalibrationError> {
        match (self, seen) {
            (Self::Int8, Some(seen)) => seen.cache_element(observer),
            (Self::Fp16, _) => Ok(CacheElement::F16),
            (Self::F32, _) | (Self::Int8, None) => Ok(CacheElement::F32),
        }
    }
}
