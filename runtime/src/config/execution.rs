//! The settings of who executes the graphs: one group of a layer, from a file's `[predict]` or from flags.

use std::ops::RangeInclusive;
use std::path::{Path, PathBuf};

use clap::Args;
use nextclip_predictor::{GpuSettings, Provider};

use super::faults::Fault;
use super::layer::{check, path};
use super::reader::Reader;
use super::values;

/// Accelerators that a board may have.
const DLA_CORES: RangeInclusive<i64> = 0..=7;

/// Flags of who executes the graphs.
#[derive(Clone, Debug, Default, Args)]
pub struct ExecutionFlags {
    /// Who executes the graphs: cpu, cuda, tensorrt. A bundle for a GPU runs on cpu too, slowly [default: what the
    /// bundle is made for]
    #[arg(long, value_name = "NAME")]
    pub provider: Option<String>,
    /// Folder for the engines that TensorRT builds, minutes the first time [default: the user's cache]
    #[arg(long, value_name = "DIR")]
    pub engine_cache: Option<PathBuf>,
    /// Load TensorRT's engines without reading graphs and weights from the second start on
    #[arg(long)]
    pub ep_context: bool,
    /// Launch all GPU kernels of a pass at once
    #[arg(long)]
    pub cuda_graph: bool,
    /// Deep-learning accelerator for the autoencoder, on boards with JetPack 6 that have one
    #[arg(long, value_name = "CORE", allow_negative_numbers = true)]
    pub dla_core: Option<i64>,
}

/// What one source of settings says of it; absent is unsaid.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct ExecutionLayer {
    provider: Option<Provider>,
    engine_cache: Option<PathBuf>,
    ep_context: Option<bool>,
    cuda_graph: Option<bool>,
    dla_core: Option<u32>,
}

impl ExecutionLayer {
    pub(super) fn from_toml(reader: &mut Reader<'_>, folder: &Path) -> Self {
        Self {
            provider: reader.parsed("predict.provider"),
            engine_cache: reader.text("predict.engine_cache", |text| path(text, folder)),
            ep_context: reader.switch("predict.ep_context"),
            cuda_graph: reader.switch("predict.cuda_graph"),
            dla_core: reader.whole("predict.dla_core", |value| values::whole(value, DLA_CORES)),
        }
    }

    pub(super) fn from_flags(flags: &ExecutionFlags, faults: &mut Vec<Fault>) -> Self {
        Self {
            provider: check("--provider", &flags.provider, faults, |text| text.parse()),
            engine_cache: flags.engine_cache.clone(),
            ep_context: flags.ep_context.then_some(true),
            cuda_graph: flags.cuda_graph.then_some(true),
            dla_core: check("--dla-core", &flags.dla_core, faults, |n| values::whole(*n, DLA_CORES)),
        }
    }

    pub(super) fn overridden_by(self, over: Self) -> Self {
        Self {
            provider: over.provider.or(self.provider),
            engine_cache: over.engine_cache.or(self.engine_cache),
            ep_context: over.ep_context.or(self.ep_context),
            cuda_graph: over.cuda_graph.or(self.cuda_graph),
            dla_core: over.dla_core.or(self.dla_core),
        }
    }

    /// The provider, if one is asked for, and how a GPU is used.
    pub(super) fn resolve(self) -> (Option<Provider>, GpuSettings) {
        let gpu = GpuSettings {
            cache: self.engine_cache,
            ep_context: self.ep_context.unwrap_or(false),
            cuda_graph: self.cuda_graph.unwrap_or(false),
            dla_core: self.dla_core,
            ..GpuSettings::default()
        };
        (self.provider, gpu)
    }
}
