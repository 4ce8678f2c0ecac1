//! Verifies a bundle by predicting with it, in as little memory as it takes.
//!
//! A daemon holds all graphs at once, and ONNX Runtime holds weights twice while it rearranges them. A workstation
//! that exports a model for another machine need not have the room for that: large bundles are run in pieces, and
//! where even one prediction's history is too large, graphs are loaded without being run.

mod cut;
mod held;
mod pieces;

use std::fmt;
use std::io;
use std::path::{Path, PathBuf};
use std::str::FromStr;

use indicatif::ProgressBar;
use ndarray::Array3;
use nextclip_core::manifest::{Dtype, Manifest, Target};
use nextclip_core::{Latents, Picture};
use nextclip_predictor::{GraphSession, Predictor, Provider, Settings, verified_manifest};
use thiserror::Error;

/// Up to this much, estimated, a bundle is opened as the runtime opens it.
const WHOLE_BYTES: u64 = 1_000_000_000;

/// Up to this much history and attention, a bundle is run in pieces.
const RUN_BYTES: u64 = 1_500_000_000;

/// Weights of one piece. ONNX Runtime holds them twice for a moment.
const PIECE_BYTES: u64 = 400_000_000;

/// How to verify.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Verify {
    /// By the bundle's size: the first of the others whose memory stays moderate.
    #[default]
    Auto,
    /// Open the bundle as the runtime does, and predict once.
    Full,
    /// Predict once, with a piece of a graph in memory at a time.
    Pieces,
    /// Load every graph without running it.
    Load,
    /// Not at all.
    None,
}

/// What was verified.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verified {
    /// Opened as the runtime does.
    Whole,
    /// In so many pieces.
    InPieces(usize),
    /// Loaded only.
    Loaded,
    /// Nothing.
    Not,
}

/// A bundle that does not verify.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum VerifyError {
    /// As the runtime sees it.
    #[error("the bundle does not verify")]
    Bundle(#[from] nextclip_predictor::Error),
    /// A graph that does not run.
    #[error("the bundle does not verify: graph {graph:?}, piece {piece} of {pieces}")]
    Run {
        /// The graph.
        graph: &'static str,
        /// Which part of it, from 1.
        piece: usize,
        /// Of how many.
        pieces: usize,
        /// What ONNX Runtime says.
        source: ort::Error,
    },
    /// A graph without a tensor that it should make.
    #[error("the bundle does not verify: nothing makes {0:?}")]
    Lost(&'static str),
    /// A cache of elements that no graph keeps.
    #[error("the bundle does not verify: its cache is of {0}")]
    Cache(Dtype),
    /// It runs and its results are no numbers.
    #[error("the bundle does not verify: {0} has values that are not finite")]
    NotFinite(&'static str),
    /// A file of the bundle.
    #[error("{}: cannot be used", path.display())]
    File {
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
}

/// Verifies the bundle in `folder`. `heads` is n_head, which the manifest does not say.
pub(crate) fn verify(
    folder: &Path,
    manifest: &Manifest,
    heads: usize,
    how: Verify,
    progress: &ProgressBar,
) -> Result<Verified, VerifyError> {
    match how {
        Verify::Auto => verify(folder, manifest, heads, choose(manifest, heads), progress),
        Verify::Full => whole(folder).map(|()| Verified::Whole),
        Verify::Pieces => {
            check_graphs(folder)?;
            let (clip, pieces) = pieces::predict(folder, manifest, PIECE_BYTES, progress)?;
            finite("a predicted clip", clip.iter())?;
            Ok(Verified::InPieces(pieces))
        }
        Verify::Load => check_graphs(folder).map(|()| Verified::Loaded),
        Verify::None => Ok(Verified::Not),
    }
}

/// What [`Verify::Auto`] stands for with this bundle.
fn choose(manifest: &Manifest, heads: usize) -> Verify {
    let (geometry, cache) = (&manifest.geometry, &manifest.cache);
    let tokens = |frames: usize| (frames * geometry.block_tokens()) as u64;
    let weights: u64 = manifest.files.values().map(|file| file.bytes).sum();
    let history = cache.bytes(geometry);
    let scores = 4 * heads as u64 * tokens(geometry.clip) * tokens(geometry.history + geometry.clip);
    // Scores before and after the softmax; history in the caller's hands and on its way.
    let running = 2 * scores + 2 * history;
    if 2 * weights + running <= WHOLE_BYTES {
        Verify::Full
    } else if running <= RUN_BYTES && manifest.target == Target::Cpu {
        // Pieces hand on single precision: graphs of other types are cut nowhere.
        Verify::Pieces
    } else {
        Verify::Load
    }
}

/// Digests and interfaces of all graphs, which stay on disk.
fn check_graphs(folder: &Path) -> Result<(), VerifyError> {
    let manifest = verified_manifest(folder)?;
    for (name, graph) in manifest.graphs.iter() {
        GraphSession::check(name, folder, graph)?;
    }
    Ok(())
}

/// Opens the bundle as the runtime does and predicts once.
fn whole(folder: &Path) -> Result<(), VerifyError> {
    let settings = Settings { steps: Some(1), provider: Some(Provider::Cpu), ..Settings::default() };
    let mut predictor = Predictor::open(folder, &settings)?;
    let geometry = predictor.manifest().geometry;
    if predictor.manifest().graphs.encode.is_some() {
        let grey = Picture::from_elem((geometry.height, geometry.width, 3), 128);
        let latent = predictor.see(&grey)?;
        finite("an encoded frame", latent.iter())?;
    } else {
        let shape = (geometry.latent_channels, geometry.latent_height(), geometry.latent_width());
        predictor.remember(Array3::zeros(shape).view())?;
    }
    let clip: Latents = predictor.predict(0, 0)?;
    finite("a predicted clip", clip.iter())?;
    if predictor.manifest().graphs.decode.is_some() {
        predictor.render(&clip)?;
    }
    Ok(())
}

fn finite<'a>(what: &'static str, mut values: impl Iterator<Item = &'a f32>) -> Result<(), VerifyError> {
    if values.all(|value| value.is_finite()) { Ok(()) } else { Err(VerifyError::NotFinite(what)) }
}

impl FromStr for Verify {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "auto" => Ok(Self::Auto),
            "full" => Ok(Self::Full),
            "pieces" => Ok(Self::Pieces),
            "load" => Ok(Self::Load),
            "none" => Ok(Self::None),
            other => Err(format!("no way {other:?}; there are auto, full, pieces, load and none")),
        }
    }
}

impl fmt::Display for Verified {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Whole => write!(f, "opened as the runtime does, predicted once"),
            Self::InPieces(pieces) => write!(f, "predicted once, in {pieces} pieces"),
            Self::Loaded => write!(f, "every graph loaded, none run"),
            Self::Not => write!(f, "not verified, as asked"),
        }
    }
}

#[cfg(test)]
mod tests {
    use indicatif::ProgressBar;
    use nextclip_core::manifest::CacheElement;

    use super::*;

    #[test]
    fn pieces_predict_what_the_whole_does() {
        let folder = tempfile::tempdir().unwrap();
        crate::random::tests::tiny()
            .write(&folder.path().join("checkpoint"), &ProgressBar::hidden())
            .unwrap();
        let checkpoint = crate::model::Checkpoint::open(&folder.path().join("checkpoint")).unwrap();
        let mut plan = crate::Plan::new(&checkpoint, &crate::random::tests::options()).unwrap();
        let out = folder.path().join("bundle");
        plan.cache.element = CacheElement::F16;
        crate::export(&checkpoint, &plan, &out, &ProgressBar::hidden()).unwrap();
        assert!(pieces::predict(&out, &verified_manifest(&out).unwrap(), 1, &ProgressBar::hidden()).is_ok());
        plan.cache.element = CacheElement::F32;
        let manifest = crate::export(&checkpoint, &plan, &out, &ProgressBar::hidden()).unwrap();

        let settings = Settings { steps: Some(1), ..Settings::default() };
        let mut predictor = Predictor::open(&out, &settings).unwrap();
        let geometry = predictor.manifest().geometry;
        predictor.see(&Picture::from_elem((geometry.height, geometry.width, 3), 128)).unwrap();
        let whole = predictor.predict(0, 0).unwrap();
        for (budget, fewest) in [(1 << 30, 4), (20_000, 8), (1, 30)] {
            let (clip, pieces) = pieces::predict(&out, &manifest, budget, &ProgressBar::hidden()).unwrap();
            assert!(pieces >= fewest, "{pieces} with {budget} bytes");
            let most = clip.iter().zip(&whole).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
            assert!(most < 1e-5, "{most} in {pieces} pieces");
        }
        assert_eq!(check_graphs(&out).map_err(|e| e.to_string()), Ok(()));
    }
}
