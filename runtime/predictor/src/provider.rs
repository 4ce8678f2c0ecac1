//! What executes a bundle's graphs: ONNX Runtime's CPU, CUDA or TensorRT provider, and every setting of theirs.
//!
//! A bundle's target says which provider it is made for; [`Provider::Cpu`] may be asked for instead, to open a GPU's
//! bundle on a workstation. A provider that is not there is an error: ONNX Runtime would leave its work to the CPU
//! without a word.

use std::collections::BTreeMap;
use std::env;
use std::fmt;
use std::fs;
use std::path::{Path, PathBuf};
use std::str::FromStr;

use nextclip_core::Manifest;
use nextclip_core::manifest::{FileDigest, Graph, Target, TensorSpec, hex};
use ort::ep::cuda::ConvAlgorithmSearch;
use ort::ep::{CUDA, ExecutionProviderDispatch, TensorRT};
use ort::session::builder::{GraphOptimizationLevel, SessionBuilder};
use sha2::{Digest, Sha256};

use crate::error::Error;

/// What executes a graph.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Provider {
    /// ONNX Runtime's own kernels on the CPU.
    #[default]
    Cpu,
    /// ONNX Runtime's own kernels on an NVIDIA GPU.
    Cuda,
    /// Engines that TensorRT builds of the graphs, on an NVIDIA GPU.
    TensorRt,
}

impl Provider {
    /// Every provider.
    pub const ALL: [Self; 3] = [Self::Cpu, Self::Cuda, Self::TensorRt];

    /// The provider's name, for logs and metrics.
    pub fn name(self) -> &'static str {
        match self {
            Self::Cpu => "CPU",
            Self::Cuda => "CUDA",
            Self::TensorRt => "TensorRT",
        }
    }

    /// The provider that a bundle's graphs are laid out for.
    pub fn of(target: Target) -> Self {
        match target {
            Target::Cpu => Self::Cpu,
            Target::Cuda => Self::Cuda,
            Target::Trt10 | Target::Trt => Self::TensorRt,
        }
    }
}

impl fmt::Display for Provider {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl FromStr for Provider {
    type Err = String;

    /// Names as they are logged, in any case.
    fn from_str(name: &str) -> Result<Self, Self::Err> {
        let found = Self::ALL.into_iter().find(|provider| provider.name().eq_ignore_ascii_case(name));
        found.ok_or_else(|| format!("provider {name:?} is none of cpu, cuda, tensorrt"))
    }
}

/// How a GPU is used.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct GpuSettings {
    /// Which GPU, counted as CUDA counts them.
    pub device_id: i32,
    /// Folder for what TensorRT builds, since building takes minutes and a built engine loads in seconds. `None` takes
    /// systemd's `CACHE_DIRECTORY`, else `$XDG_CACHE_HOME/nextclip`, else `~/.cache/nextclip`.
    pub cache: Option<PathBuf>,
    /// Whether TensorRT's engines are kept wrapped in graphs of their own, which are loaded in the originals' place
    /// from the second start on: neither the graph nor its weights are read then.
    pub ep_context: bool,
    /// Whether TensorRT launches all kernels of a pass at once. Inputs and outputs must then stay at their addresses:
    /// they are bound to buffers on the GPU.
    pub cuda_graph: bool,
    /// The deep-learning accelerator that runs the autoencoder, for boards that have one. It has no transformer's
    /// operators; what it can't run of the autoencoder stays on the GPU.
    pub dla_core: Option<u32>,
}

/// How one bundle's graphs are executed.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Execution {
    /// Who executes them.
    pub provider: Provider,
    /// How a GPU is used.
    pub gpu: GpuSettings,
    /// What the graphs are laid out for.
    target: Target,
    /// The manifest's precision.
    precision: String,
    /// Whether pairs of integer products can leave 16 bits.
    pub(crate) may_saturate: bool,
    /// The manifest's digests, by path within the bundle.
    files: BTreeMap<String, FileDigest>,
}

/// Graphs of the autoencoder: all that an accelerator for convolutions could run.
const AUTOENCODER: [&str; 2] = [crate::ENCODE, crate::DECODE];

/// Bytes of a digest that names of cached files have, in hexadecimal.
const DIGEST_BYTES: usize = 8;

impl Execution {
    /// How `manifest`'s graphs are executed; `provider` overrides what its target says.
    ///
    /// # Errors
    /// A provider that does not execute graphs laid out for that target, or an accelerator that doesn't.
    pub fn new(manifest: &Manifest, provider: Option<Provider>, gpu: &GpuSettings) -> Result<Self, Error> {
        let (target, own) = (manifest.target, Provider::of(manifest.target));
        let provider = provider.unwrap_or(own);
        // Every target's graphs run on the CPU, where one wants to look at them; on another GPU provider they would
        // be slow or refused.
        if provider != own && provider != Provider::Cpu {
            return Err(Error::ProviderUnfit { provider: provider.name(), target, own: own.name() });
        }
        // Strongly typed networks have no such accelerator.
        if let (Some(core), false) = (gpu.dla_core, is_weakly_typed(target, &manifest.precision)) {
            let precision = manifest.precision.clone();
            return Err(Error::Accelerator { core, target, precision });
        }
        let (precision, files) = (manifest.precision.clone(), manifest.files.clone());
        let may_saturate = !manifest.quantisation.as_ref().is_some_and(|how| how.pairs_fit);
        Ok(Self { provider, gpu: gpu.clone(), target, precision, may_saturate, files })
    }

    /// The file that a session is made of: the graph's own, or the one in the cache that wraps its engine.
    pub(crate) fn file(&self, bundle: &Path, name: &str, graph: &Graph) -> PathBuf {
        let wrapped = self.context_file(name, graph).filter(|path| path.is_file());
        wrapped.unwrap_or_else(|| bundle.join(&graph.path))
    }

    /// Makes the folder for engines, where there is one.
    pub(crate) fn prepare(&self) -> Result<(), Error> {
        match self.cache().filter(|_| self.provider == Provider::TensorRt) {
            Some(path) => fs::create_dir_all(&path).map_err(|source| Error::Cache { path, source }),
            None => Ok(()),
        }
    }

    /// Registers the provider for the graph called `name`. ONNX Runtime does not fall back to its CPU provider, not
    /// even for single nodes.
    pub(crate) fn register(
        &self,
        builder: SessionBuilder,
        name: &str,
        graph: &Graph,
    ) -> ort::Result<SessionBuilder> {
        match self.provider {
            Provider::Cpu => self.on_cpu(builder),
            Provider::Cuda => self.on_gpu(builder, self.cuda().build()),
            Provider::TensorRt => self.on_gpu(builder, self.tensorrt(name, graph).build()),
        }
    }

    fn on_gpu(
        &self,
        builder: SessionBuilder,
        provider: ExecutionProviderDispatch,
    ) -> ort::Result<SessionBuilder> {
        // TensorRT is to see the graph that was checked against its rules, not what ONNX Runtime makes of it: that
        // quantises biases too, for one, which TensorRT has no operator for. It folds constants itself.
        let level = match self.provider {
            Provider::TensorRt => GraphOptimizationLevel::Disable,
            Provider::Cpu | Provider::Cuda => GraphOptimizationLevel::All,
        };
        Ok(builder
            .with_optimization_level(level)?
            .with_disable_cpu_fallback()?
            .with_execution_providers([provider.error_on_failure()])?)
    }

    fn on_cpu(&self, builder: SessionBuilder) -> ort::Result<SessionBuilder> {
        if self.target == Target::Cpu {
            return Ok(builder);
        }
        // Graphs of another target are run as they are written: fusing their Q/DQ gains nothing here, and fails for
        // 8-bit floats.
        Ok(builder
            .with_optimization_level(GraphOptimizationLevel::Level1)?
            .with_config_entry("session.disable_quant_qdq", "1")?)
    }

    fn cuda(&self) -> CUDA {
        CUDA::default()
            .with_device_id(self.gpu.device_id)
            // Searching exhaustively for convolutions takes seconds a shape; there are as many shapes as layers.
            .with_conv_algorithm_search(ConvAlgorithmSearch::Heuristic)
            // Half precision is what graphs of this target compute in where they may; what they keep in single
            // precision is meant to be.
            .with_tf32(false)
            .with_cuda_graph(self.gpu.cuda_graph)
    }

    fn tensorrt(&self, name: &str, graph: &Graph) -> TensorRT {
        let shapes = profile(&graph.inputs);
        let mut options = TensorRT::default()
            .with_device_id(self.gpu.device_id)
            // Shapes are static; said all the same, so that no other ever rebuilds an engine while a camera runs.
            .with_profile_min_shapes(&shapes)
            .with_profile_opt_shapes(&shapes)
            .with_profile_max_shapes(&shapes)
            .with_cuda_graph(self.gpu.cuda_graph);
        if is_weakly_typed(self.target, &self.precision) {
            options = options
                .with_fp16(true)
                .with_int8(self.precision == "w8a8")
                // The graphs say that norms are in single precision; the flag above would overrule them.
                .with_layer_norm_fp32_fallback(true);
        }
        if let Some(folder) = self.cache() {
            options = options
                .with_engine_cache(true)
                // ONNX Runtime's own name for an engine knows the graph's nodes, not its weights.
                .with_engine_cache_prefix(self.prefix(name, graph))
                .with_engine_cache_path(folder.display())
                // Timings of kernels serve every graph and bundle: the second one builds faster.
                .with_timing_cache(true)
                .with_timing_cache_path(folder.display());
        }
        if let Some(path) = self.context_file(name, graph) {
            options = options
                .with_dump_ep_context_model(true)
                .with_ep_context_file_path(path.display())
                // The engine beside the wrapping graph, not in it: a protobuf file ends at 2 GB.
                .with_ep_context_embed_mode(0)
                // Here ONNX Runtime wants a path that counts from the wrapping graph's folder.
                .with_engine_cache_path(".");
        }
        if let Some(core) = self.gpu.dla_core.filter(|_| AUTOENCODER.contains(&name)) {
            options = options.with_dla(true).with_dla_core(core);
        }
        options
    }

    /// Begins the names of a graph's files in the cache. Another graph, other weights, another precision: another name.
    fn prefix(&self, name: &str, graph: &Graph) -> String {
        let is_read = |path: &str| path == graph.path || !path.ends_with(".onnx");
        let mut hash = Sha256::new();
        for (path, file) in self.files.iter().filter(|(path, _)| is_read(path)) {
            hash.update(path);
            hash.update(&file.sha256);
        }
        format!("{name}-{}-{}-{}", self.target, self.precision, hex(&hash.finalize()[..DIGEST_BYTES]))
    }

    fn context_file(&self, name: &str, graph: &Graph) -> Option<PathBuf> {
        let wraps = self.provider == Provider::TensorRt && self.gpu.ep_context;
        let folder = self.cache().filter(|_| wraps)?;
        Some(folder.join(format!("{}_ctx.onnx", self.prefix(name, graph))))
    }

    /// The folder for engines.
    fn cache(&self) -> Option<PathBuf> {
        self.gpu.cache.clone().or_else(|| default_cache(|name| env::var_os(name).map(PathBuf::from)))
    }
}

/// Whether TensorRT chooses among the types that it is allowed, as version 10 does where a flag allows any. Without flags
/// ONNX Runtime builds a strongly typed network, where the graph's own types hold: the only kind that TensorRT 11 has, and
/// the one for 4-bit weights, which ONNX Runtime has no flag for.
fn is_weakly_typed(target: Target, precision: &str) -> bool {
    target == Target::Trt10 && precision != "f32" && !precision.starts_with("w4")
}

/// Where engines are kept unless the settings say otherwise; nowhere for a user without a home.
fn default_cache(variable: impl Fn(&str) -> Option<PathBuf>) -> Option<PathBuf> {
    let set = |name: &str| variable(name).filter(|path| path.is_absolute());
    set("CACHE_DIRECTORY")
        .or_else(|| Some(set("XDG_CACHE_HOME")?.join("nextclip")))
        .or_else(|| Some(set("HOME")?.join(".cache/nextclip")))
}

/// Shapes as TensorRT's profiles have them: `z:1x24x4x22x40,t:1`.
fn profile(inputs: &[TensorSpec]) -> String {
    let shape = |spec: &TensorSpec| {
        let sizes: Vec<String> = spec.shape.iter().map(ToString::to_string).collect();
        format!("{}:{}", spec.name, sizes.join("x"))
    };
    inputs.iter().map(shape).collect::<Vec<_>>().join(",")
}

#[cfg(test)]
mod tests;
