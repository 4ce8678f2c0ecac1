//! What can be wrong with a calibration.

use std::path::PathBuf;

use nextclip_core::sampler::GridError;
use thiserror::Error;

use crate::error::BundleError;

/// Activations that could not be observed.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum CalibrationError {
    /// No clip was asked for.
    #[error("0 calibration clips, must be at least 1")]
    NoClips,
    /// No film has a whole clip.
    #[error(
        "{}: no whole clip: a clip takes {frames} frames {interval_ms} ms apart ({:.1} s without a gap), the \
         longest stretch has {longest}",
        path.display(),
        *frames as f64 * f64::from(*interval_ms) / 1e3
    )]
    TooShort {
        /// The film or folder.
        path: PathBuf,
        /// Frames of the longest stretch.
        longest: usize,
        /// C + N.
        frames: usize,
        /// Time between frames.
        interval_ms: u32,
    },
    /// All clips of films were needed for ranges.
    #[error(
        "{}: {clips} whole clip{}: losses are measured on clips that ranges were not taken from, so there must be at \
         least 2",
        path.display(),
        if *clips == 1 { "" } else { "s" }
    )]
    NothingLeft {
        /// The film or folder.
        path: PathBuf,
        /// Whole clips of it.
        clips: usize,
    },
    /// Losses were asked for of footage of which nothing was kept back.
    #[error("losses cannot be measured: no clip of the films was kept back when ranges were taken")]
    NothingKeptBack,
    /// The footage cannot be read.
    #[error(transparent)]
    Footage(#[from] nextclip_media::Error),
    /// A weight that is not a number.
    #[error("tensor {name} holds {value}: only finite weights can be quantised")]
    Weight {
        /// The checkpoint's tensor.
        name: String,
        /// What it holds.
        value: f32,
    },
    /// An activation that is not a number.
    #[error("{place}")]
    Values {
        /// Graph and tensor.
        place: String,
        /// What is wrong.
        source: nextclip_quant::Error,
    },
    /// Layers too large for products of their inputs.
    #[error(
        "layer {layer} has {inputs} inputs: with the layers before it, products of inputs take more than {} MiB",
        bound >> 20
    )]
    Products {
        /// The first layer beyond the bound.
        layer: String,
        /// Its inputs.
        inputs: usize,
        /// In bytes.
        bound: usize,
    },
    /// A layer that no graph showed.
    #[error("layer {0} was never seen at work: what it reads is not known")]
    Unseen(String),
    /// A layer's name that is none.
    #[error("no layer {name:?} can be quantised; there are {}", layers.join(", "))]
    NoLayer {
        /// As given.
        name: String,
        /// Those that can.
        layers: Vec<String>,
    },
    /// The float graphs.
    #[error(transparent)]
    Bundle(#[from] BundleError),
    /// Running them.
    #[error(transparent)]
    Run(#[from] nextclip_predictor::Error),
    /// The steps.
    #[error(transparent)]
    Grid(#[from] GridError),
    /// A report.
    #[error("{}: cannot be written", path.display())]
    Report {
        /// The file or folder.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// No room for the float graphs.
    #[error("no temporary folder")]
    Temporary(#[from] std::io::Error),
}
