//! What can go wrong between a bundle's folder and a prediction.

use std::path::PathBuf;

use nextclip_core::manifest::{ManifestError, Target};
use nextclip_core::sampler::GridError;
use thiserror::Error;

/// A fault of a bundle, of ONNX Runtime, or of a caller's tensor; the message names the place, the value
/// and what was expected.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum Error {
    /// The ONNX Runtime library is nowhere.
    #[error(
        "ONNX Runtime's library was not found (looked for {}): name it by ORT_DYLIB_PATH",
        searched.iter().map(|path| path.display().to_string()).collect::<Vec<_>>().join(", ")
    )]
    LibraryNotFound {
        /// Where it was looked for, in order.
        searched: Vec<PathBuf>,
    },
    /// The library is there and does not serve.
    #[error("ONNX Runtime at {} cannot be used: {reason}", path.display())]
    Library {
        /// The library.
        path: PathBuf,
        /// What the loader says.
        reason: String,
    },
    /// A file of the bundle cannot be read.
    #[error("{}: cannot be read", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// The manifest, or a file that is not the one that the manifest describes.
    #[error("bundle {}", bundle.display())]
    Manifest {
        /// The bundle's folder.
        bundle: PathBuf,
        /// What is wrong.
        source: ManifestError,
    },
    /// The manifest describes another interface than this program has.
    #[error("graph {graph:?} {side} {name:?}: manifest says {found}, this program needs {needed}")]
    Contract {
        /// The graph.
        graph: &'static str,
        /// "input" or "output".
        side: &'static str,
        /// The tensor.
        name: String,
        /// What the manifest says, or "nothing".
        found: String,
        /// What follows from the manifest's geometry, or "nothing".
        needed: String,
    },
    /// A graph is not what the manifest says.
    #[error("graph {graph:?} {side} {name:?} is {found}, manifest says {expected}")]
    Mismatch {
        /// The graph.
        graph: &'static str,
        /// "input" or "output".
        side: &'static str,
        /// The tensor.
        name: String,
        /// What the session reports, or "nothing".
        found: String,
        /// What the manifest says, or "nothing".
        expected: String,
    },
    /// Several cameras in one pass.
    #[error("the bundle serves {0} cameras a pass, this program 1: export it with a batch of 1")]
    Batch(usize),
    /// A provider that does not execute a target's graphs.
    #[error("the bundle is laid out for {target}, which {provider} does not run: choose {own}, or CPU")]
    ProviderUnfit {
        /// The provider asked for.
        provider: &'static str,
        /// The bundle's target.
        target: Target,
        /// The target's provider.
        own: &'static str,
    },
    /// An accelerator asked of a target that has none.
    #[error(
        "deep-learning accelerator {core} was asked for, and graphs laid out for {target} in {precision} can use none: \
         only trt10 in fp16 and w8a8 can"
    )]
    Accelerator {
        /// The core.
        core: u32,
        /// The bundle's target.
        target: Target,
        /// The bundle's precision.
        precision: String,
    },
    /// The provider is not in the ONNX Runtime that is loaded, or finds no GPU or library of its own.
    #[error(
        "{provider} cannot be used: it needs an NVIDIA GPU, its libraries, and an ONNX Runtime built with it (name that \
         by ORT_DYLIB_PATH); to run the bundle without a GPU, slowly, choose the provider CPU"
    )]
    ProviderMissing {
        /// The provider.
        provider: &'static str,
        /// What ONNX Runtime says.
        source: ort::Error,
    },
    /// The folder for engines.
    #[error("{}: the folder for engines cannot be made", path.display())]
    Cache {
        /// The folder.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// ONNX Runtime refuses a graph.
    #[error("graph {graph:?} ({}) cannot be loaded", path.display())]
    Load {
        /// The graph.
        graph: &'static str,
        /// Its file.
        path: PathBuf,
        /// What ONNX Runtime says.
        source: ort::Error,
    },
    /// A pass failed.
    #[error("graph {graph:?} failed")]
    Run {
        /// The graph.
        graph: &'static str,
        /// What ONNX Runtime says.
        source: ort::Error,
    },
    /// Pixels were asked of a bundle that has latents only.
    #[error("the bundle has no graph {0:?}: its checkpoint had no VAE")]
    NoVae(&'static str),
    /// A tensor of the caller's has another shape than the graph's.
    #[error("{what} has shape {found:?}, the bundle needs {expected:?}")]
    Shape {
        /// "frame", "latent", "costs", "clip", "pictures of a clip".
        what: &'static str,
        /// Its shape.
        found: Vec<usize>,
        /// The shape that the manifest's geometry gives.
        expected: Vec<usize>,
    },
    /// Guidance was asked of a graph without a second branch.
    #[error(
        "guidance {asked} needs a bundle exported with guidance; this one has the conditional branch only"
    )]
    Unguided {
        /// The scale asked for.
        asked: f32,
    },
    /// A sampler setting.
    #[error(transparent)]
    Grid(#[from] GridError),
}
