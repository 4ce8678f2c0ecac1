//! Compares a float bundle with reference tensors of the published implementation.
//!
//! A reference folder is a checkpoint with `case.json` (sizes, steps, guidance, token ids) and
//! `expected.safetensors`, and maybe `vae/expected.safetensors`. The bundle is exported to a temporary
//! folder and run by the runtime's own predictor with cached history, as on a device.

use std::fmt;
use std::path::{Path, PathBuf};

use indicatif::ProgressBar;
use ndarray::{Array4, ArrayView, Axis, Dimension};
use nextclip_core::checkpoint::TokenIds;
use nextclip_core::manifest::{CacheElement, CacheShape, Graph as GraphEntry};
use nextclip_core::{Geometry, GeometryError, Latents};
use nextclip_predictor::{Execution, GraphSession, Input, Predictor, Settings};
use serde::Deserialize;
use thiserror::Error;

use crate::built::GraphWriter;
use crate::bundle::export;
use crate::checkpoint::{CheckpointError, WeightFiles, Weights, read_json};
use crate::error::BundleError;
use crate::model::{Checkpoint, CheckpointVae, Pixels, decode, encode};
use crate::onnx::{Graph, Precision};
use crate::plan::{Options, Plan, PlanError};

/// The largest difference from the published implementation that counts as parity.
pub const TOLERANCE: f32 = 1e-3;

/// One comparison.
#[derive(Clone, Debug, PartialEq)]
pub struct Line {
    /// What was compared: "denoise", "sample", "sample_cfg", "latent", "decoded".
    pub name: &'static str,
    /// Largest absolute difference; infinite where a value is not a number.
    pub max_abs: f32,
}

impl fmt::Display for Line {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} max_abs={:.2e}", self.name, self.max_abs)
    }
}

/// A comparison that could not be made.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum ParityError {
    /// The reference's files.
    #[error(transparent)]
    Checkpoint(#[from] CheckpointError),
    /// The reference's sizes.
    #[error(transparent)]
    Plan(#[from] PlanError),
    /// The size of the VAE's reference pictures.
    #[error("vae/expected.safetensors: image: {0}")]
    Image(#[from] GeometryError),
    /// Exporting.
    #[error(transparent)]
    Bundle(#[from] BundleError),
    /// Running.
    #[error(transparent)]
    Run(#[from] nextclip_predictor::Error),
    /// A tensor that the reference should have.
    #[error("{}: {reason}", path.display())]
    Expected {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        reason: String,
    },
    /// No room for the bundle.
    #[error("no temporary folder")]
    Temporary(#[from] std::io::Error),
}

/// `case.json`.
#[derive(Deserialize)]
struct Case {
    clean_frames: usize,
    noisy_frames: usize,
    latent_h: usize,
    latent_w: usize,
    steps: usize,
    cfg: f32,
    timestep: f32,
    token_ids: TokenIds,
}

/// Runs every comparison that the folder has tensors for.
pub fn parity(folder: &Path) -> Result<Vec<Line>, ParityError> {
    let case: Case = read_json(&folder.join("case.json"), "it holds the sizes of the reference case")?;
    let checkpoint = Checkpoint::open_with_tokens(folder, Some(case.token_ids))?;
    let mut lines = transformer(&checkpoint, &case)?;
    if let Some(vae) = &checkpoint.vae {
        lines.extend(autoencoder(vae, &folder.join("vae"))?);
    }
    Ok(lines)
}

fn transformer(checkpoint: &Checkpoint, case: &Case) -> Result<Vec<Line>, ParityError> {
    let expected = Expected::open(&checkpoint.folder)?;
    let history = expected.frames("history")?;
    let noise = expected.frames("noise")?;
    let workplace = tempfile::tempdir()?;

    let open = |guidance: f32| -> Result<Predictor, ParityError> {
        let options = Options {
            size: Some((case.latent_h * checkpoint.vae_scale, case.latent_w * checkpoint.vae_scale)),
            history: Some(case.clean_frames),
            clip: Some(case.noisy_frames),
            steps: Some(case.steps),
            guidance: Some(guidance),
            ..Options::default()
        };
        let bundle = workplace.path().join(format!("guidance-{guidance}"));
        export(checkpoint, &Plan::new(checkpoint, &options)?, &bundle, &ProgressBar::hidden())?;
        let mut predictor = Predictor::open(&bundle, &Settings::default())?;
        for latent in history.outer_iter() {
            predictor.remember(latent)?;
        }
        Ok(predictor)
    };

    let mut plain = open(1.0)?;
    let x1 = plain.denoise(&noise, case.timestep, 1.0)?;
    let sample = plain.sample(noise.clone())?;
    let mut guided = open(case.cfg)?;
    let sample_cfg = guided.sample(noise)?;
    let line = |name, found: &Latents, tensor: &str| -> Result<Line, ParityError> {
        Ok(Line { name, max_abs: max_abs(found.view(), expected.frames(tensor)?.view()) })
    };
    Ok(vec![
        line("denoise", &x1, &format!("denoise_t{}", case.timestep))?,
        line("sample", &sample, "sample")?,
        line("sample_cfg", &sample_cfg, "sample_cfg")?,
    ])
}

/// The VAE's graphs with float pictures at the border: rounding to 8 bits would hide differences.
fn autoencoder(source: &CheckpointVae, folder: &Path) -> Result<Vec<Line>, ParityError> {
    let expected = Expected::open(folder)?;
    let (images, latents) = (expected.frames("image")?, expected.frames("latent")?);
    let geometry = Geometry {
        height: images.shape()[2],
        width: images.shape()[3],
        vae_scale: source.config.scale(),
        latent_channels: source.config.latent_channels,
        patch: 1,
        history: 1,
        clip: images.shape()[0],
        frame_interval_ms: 1,
    };
    geometry.validate()?;
    let cache = CacheShape { layers: 0, batch: 1, kv_heads: 0, head_dim: 0, element: CacheElement::F32 };
    let graphs = [
        encode(&source.vae, None, &geometry, &cache, Pixels::F32, &Precision::Float),
        decode(&source.vae, None, &geometry, &cache, Pixels::F32, &Precision::Float),
    ];
    let workplace = tempfile::tempdir()?;
    let [mut encoder, mut decoder] = open_sessions(workplace.path(), &graphs)?;

    let mut found = Latents::zeros(latents.raw_dim());
    for (mut found, image) in found.outer_iter_mut().zip(images.outer_iter()) {
        let input = Input::F32(image.insert_axis(Axis(0)).into_dyn());
        encoder.run(&[("frames", input)], ["latents"], |[latent]| {
            found.assign(&latent.index_axis(Axis(0), 0));
            Ok(())
        })?;
    }
    let input = Input::F32(latents.view().insert_axis(Axis(0)).into_dyn());
    let reference = expected.frames("decoded")?.into_dyn();
    let decoded = decoder.run(&[("latents", input)], ["frames"], |[frames]| {
        Ok(max_abs(frames.index_axis(Axis(0), 0), reference.view()))
    })?;
    Ok(vec![
        Line { name: "latent", max_abs: max_abs(found.view(), latents.view()) },
        Line { name: "decoded", max_abs: decoded },
    ])
}

fn open_sessions(folder: &Path, graphs: &[Graph; 2]) -> Result<[GraphSession; 2], ParityError> {
    let progress = ProgressBar::hidden();
    let mut writer = GraphWriter::create(folder, &progress)?;
    let [first, second]: [GraphEntry; 2] = [writer.add(&graphs[0])?, writer.add(&graphs[1])?];
    writer.finish()?;
    let open =
        |graph: &Graph, entry| GraphSession::open(graph.name, folder, entry, &Execution::default(), None);
    Ok([open(&graphs[0], &first)?, open(&graphs[1], &second)?])
}

/// `expected.safetensors` of a folder.
struct Expected {
    path: PathBuf,
    weights: Weights,
}

impl Expected {
    fn open(folder: &Path) -> Result<Self, ParityError> {
        let weights = Weights::open(&WeightFiles::open(folder, "expected")?)?;
        Ok(Self { path: folder.join("expected.safetensors"), weights })
    }

    /// A float tensor of frames: (frames, channels, rows, columns).
    fn frames(&self, name: &str) -> Result<Array4<f32>, ParityError> {
        let fault = |reason: String| ParityError::Expected { path: self.path.clone(), reason };
        let root = self.weights.root();
        let shape = root.shape(name).ok_or_else(|| fault(format!("tensor {name} is missing")))?;
        let &[frames, channels, rows, columns] = shape else {
            return Err(fault(format!("tensor {name} has shape {shape:?}, must have 4 axes")));
        };
        Array4::from_shape_vec((frames, channels, rows, columns), root.tensor(name, shape).values())
            .map_err(|_| fault(format!("tensor {name} is not stored as F32, F16 or BF16")))
    }
}

fn max_abs<D: Dimension>(found: ArrayView<'_, f32, D>, expected: ArrayView<'_, f32, D>) -> f32 {
    if found.shape() != expected.shape() {
        return f32::INFINITY;
    }
    let worse = |worst: f32, (a, b): (&f32, &f32)| {
        let difference = (a - b).abs();
        if difference.is_nan() { f32::INFINITY } else { worst.max(difference) }
    };
    found.iter().zip(expected.iter()).fold(0.0, worse)
}
