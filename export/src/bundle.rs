//! Writes a bundle: into a folder beside the final one, verified there, then renamed.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{self, BufWriter};
use std::path::{Path, PathBuf};

use indicatif::ProgressBar;
use ndarray::Array3;
use nextclip_core::manifest::{
    self, FileDigest, Graph as GraphEntry, Graphs, Manifest, ManifestError, SCHEMA, Source,
};
use nextclip_core::position::TableTooSmall;
use nextclip_core::{Latents, Picture};
use nextclip_predictor::{Predictor, Settings};
use prost::Message;
use thiserror::Error;

use crate::calibrate::Calibrated;
use crate::model::{Checkpoint, Pixels, decode, denoise, encode, remember};
use crate::onnx::{Graph, Precision, WeightFile, model};
use crate::plan::Plan;

/// The file with the weights of all graphs.
const WEIGHTS: &str = "weights.bin";

/// A bundle that could not be written.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum BundleError {
    /// The position table of the checkpoint is too small for the frames.
    #[error(transparent)]
    Frame(#[from] TableTooSmall),
    /// Something else has the bundle's name.
    #[error("{}: exists and is not a bundle (it has no {}); remove it or choose another name", .0.display(), manifest::FILE_NAME)]
    Occupied(PathBuf),
    /// A file of the bundle.
    #[error("{}: cannot be written", path.display())]
    Write {
        /// The file or folder.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The manifest.
    #[error(transparent)]
    Manifest(#[from] ManifestError),
    /// The bundle was written and does not run.
    #[error("the bundle does not verify")]
    Verify(#[source] nextclip_predictor::Error),
    /// The bundle runs and its results are no numbers.
    #[error("the bundle does not verify: {0} has values that are not finite")]
    NotFinite(&'static str),
}

/// Exports `checkpoint` as the bundle `out`, in single precision. A bundle of that name is replaced once the new
/// one is complete and verified; until then, and if the program is killed, nothing there changes.
pub fn export(
    checkpoint: &Checkpoint,
    plan: &Plan,
    out: &Path,
    progress: &ProgressBar,
) -> Result<Manifest, BundleError> {
    export_as(checkpoint, plan, &Arithmetic::Float, out, progress)
}

/// The same in other arithmetic.
pub fn export_as(
    checkpoint: &Checkpoint,
    plan: &Plan,
    arithmetic: &Arithmetic,
    out: &Path,
    progress: &ProgressBar,
) -> Result<Manifest, BundleError> {
    refuse_occupied(out)?;
    let parent = match out.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ => Path::new("."),
    };
    fs::create_dir_all(parent).map_err(fault_at(parent))?;
    let prefix = format!(".{}.", out.file_name().unwrap_or_default().to_string_lossy());
    let workplace = tempfile::Builder::new().prefix(&prefix).tempdir_in(parent).map_err(fault_at(parent))?;
    // A folder of its own within, since a temporary folder is closed to other users.
    let draft = workplace.path().join("bundle");
    fs::create_dir(&draft).map_err(fault_at(&draft))?;

    progress.set_message("building graphs");
    let graphs = Built::new(checkpoint, plan, &arithmetic.precision())?;
    let manifest = graphs.write(checkpoint, plan, arithmetic, &draft, progress)?;
    progress.set_message("verifying");
    verify(&draft)?;

    let replaced = workplace.path().join("replaced");
    let replaces = out.exists();
    if replaces {
        fs::rename(out, &replaced).map_err(fault_at(out))?;
    }
    if let Err(source) = fs::rename(&draft, out) {
        if replaces {
            // Best effort: the error that matters is the first.
            let _ = fs::rename(&replaced, out);
        }
        return Err(BundleError::Write { path: out.into(), source });
    }
    Ok(manifest)
}

/// The numbers that a bundle computes in.
#[derive(Clone, Debug, Default)]
pub enum Arithmetic {
    /// Single precision.
    #[default]
    Float,
    /// Weights and activations of the large layers in 8-bit integers.
    W8A8(Calibrated),
}

impl Arithmetic {
    fn precision(&self) -> Precision {
        match self {
            Self::Float => Precision::Float,
            Self::W8A8(calibrated) => Precision::Int8(calibrated.recipe.clone()),
        }
    }
}

impl Arithmetic {
    /// Files that tell how it came about.
    fn documents(&self) -> &[(&'static str, Vec<u8>)] {
        match self {
            Self::Float => &[],
            Self::W8A8(calibrated) => &calibrated.documents,
        }
    }
}

/// Only a bundle or an empty folder may be replaced.
fn refuse_occupied(out: &Path) -> Result<(), BundleError> {
    let empty = || fs::read_dir(out).is_ok_and(|mut entries| entries.next().is_none());
    if !out.exists() || out.join(manifest::FILE_NAME).is_file() || empty() {
        return Ok(());
    }
    Err(BundleError::Occupied(out.into()))
}

/// The graphs of a bundle, in the order of [`Graphs`].
pub(crate) struct Built {
    encode: Option<Graph>,
    remember: Graph,
    denoise: Graph,
    decode: Option<Graph>,
}

impl Built {
    pub(crate) fn new(
        checkpoint: &Checkpoint,
        plan: &Plan,
        precision: &Precision,
    ) -> Result<Self, BundleError> {
        let Plan { geometry, cache, sampler, .. } = plan;
        let (transformer, config) = (&checkpoint.transformer, &checkpoint.config);
        let vae = checkpoint.vae.as_ref().map(|vae| &vae.vae);
        let guided = sampler.guidance != 1.0;
        Ok(Self {
            encode: vae.map(|vae| encode(vae, geometry, cache, Pixels::U8, precision)),
            remember: remember(transformer, config, geometry, cache, precision)?,
            denoise: denoise(transformer, config, geometry, cache, guided, precision)?,
            decode: vae.map(|vae| decode(vae, geometry, cache, Pixels::U8, precision)),
        })
    }

    /// The graphs that there are.
    pub(crate) fn iter(&self) -> impl Iterator<Item = &Graph> {
        let all = [self.encode.as_ref(), Some(&self.remember), Some(&self.denoise), self.decode.as_ref()];
        all.into_iter().flatten()
    }

    /// Writes the bundle into a folder that exists.
    pub(crate) fn write(
        &self,
        checkpoint: &Checkpoint,
        plan: &Plan,
        arithmetic: &Arithmetic,
        folder: &Path,
        progress: &ProgressBar,
    ) -> Result<Manifest, BundleError> {
        write(checkpoint, plan, (self, arithmetic), folder, progress)
    }
}

fn write(
    checkpoint: &Checkpoint,
    plan: &Plan,
    (graphs, arithmetic): (&Built, &Arithmetic),
    folder: &Path,
    progress: &ProgressBar,
) -> Result<Manifest, BundleError> {
    progress.set_message("reading the checkpoint");
    let vae_files = checkpoint.vae.as_ref().map(|vae| &vae.files);
    progress.set_length(checkpoint.files.bytes() + vae_files.map_or(0, |files| files.bytes()));
    let source = Source {
        name: checkpoint.name(),
        transformer_sha256: checkpoint.files.sha256(&|bytes| progress.inc(bytes)),
        vae_sha256: vae_files.map(|files| files.sha256(&|bytes| progress.inc(bytes))),
    };

    let mut writer = GraphWriter::create(folder, progress)?;
    let mut entry = |graph: &Graph| writer.add(graph);
    let entries = Graphs {
        encode: graphs.encode.as_ref().map(&mut entry).transpose()?,
        remember: entry(&graphs.remember)?,
        denoise: entry(&graphs.denoise)?,
        decode: graphs.decode.as_ref().map(&mut entry).transpose()?,
    };
    for (name, bytes) in arithmetic.documents() {
        writer.attach(name, bytes)?;
    }
    let manifest = Manifest {
        schema: SCHEMA,
        producer: format!("nextclip-export {}", env!("CARGO_PKG_VERSION")),
        source,
        target: plan.target,
        precision: match arithmetic {
            Arithmetic::Float => "f32".into(),
            Arithmetic::W8A8(_) => "w8a8".into(),
        },
        quantisation: match arithmetic {
            Arithmetic::Float => None,
            Arithmetic::W8A8(calibrated) => Some(calibrated.provenance(graphs.iter())),
        },
        geometry: plan.geometry,
        cache: plan.cache.clone(),
        sampler: plan.sampler,
        graphs: entries,
        files: writer.finish()?,
    };
    let path = folder.join(manifest::FILE_NAME);
    fs::write(&path, manifest.to_json()?).map_err(fault_at(&path))?;
    Ok(manifest)
}

/// Writes graphs and their shared weights into a folder.
#[derive(Debug)]
pub struct GraphWriter<'a> {
    folder: &'a Path,
    weights: WeightFile<BufWriter<File>>,
    files: BTreeMap<String, FileDigest>,
    progress: &'a ProgressBar,
}

impl<'a> GraphWriter<'a> {
    /// Starts the weight file in `folder`, which must exist.
    pub fn create(folder: &'a Path, progress: &'a ProgressBar) -> Result<Self, BundleError> {
        let path = folder.join(WEIGHTS);
        let file = File::create(&path).map_err(fault_at(&path))?;
        let weights = WeightFile::new(WEIGHTS, BufWriter::with_capacity(1 << 20, file));
        Ok(Self { folder, weights, files: BTreeMap::new(), progress })
    }

    /// Writes one graph; returns what the manifest says of it.
    pub fn add(&mut self, graph: &Graph) -> Result<GraphEntry, BundleError> {
        self.progress.set_message(format!("writing {}", graph.name));
        let name = format!("{}.onnx", graph.name);
        let weights_path = self.folder.join(WEIGHTS);
        let model = model(graph, &mut self.weights).map_err(fault_at(&weights_path))?;
        let path = self.folder.join(&name);
        let bytes = model.encode_to_vec();
        fs::write(&path, &bytes).map_err(fault_at(&path))?;
        self.files.insert(name.clone(), FileDigest::of(&bytes));
        Ok(GraphEntry { path: name, inputs: graph.inputs.clone(), outputs: graph.outputs.clone() })
    }

    /// Writes a file that goes with the graphs.
    pub fn attach(&mut self, name: &str, bytes: &[u8]) -> Result<(), BundleError> {
        let path = self.folder.join(name);
        fs::write(&path, bytes).map_err(fault_at(&path))?;
        self.files.insert(name.into(), FileDigest::of(bytes));
        Ok(())
    }

    /// Digests of all files written.
    pub fn finish(mut self) -> Result<BTreeMap<String, FileDigest>, BundleError> {
        let path = self.folder.join(WEIGHTS);
        let (file, digest) = self.weights.finish().map_err(fault_at(&path))?;
        let file = file.into_inner().map_err(|e| fault_at(&path)(e.into_error()))?;
        // The rename that follows must not be on disk before the data.
        file.sync_all().map_err(fault_at(&path))?;
        self.files.insert(WEIGHTS.into(), digest);
        Ok(self.files)
    }
}

/// Opens the bundle as the runtime does and predicts once.
fn verify(folder: &Path) -> Result<(), BundleError> {
    let fault = BundleError::Verify;
    let settings = Settings { steps: Some(1), ..Settings::default() };
    let mut predictor = Predictor::open(folder, &settings).map_err(fault)?;
    let geometry = predictor.manifest().geometry;
    if predictor.manifest().graphs.encode.is_some() {
        let grey = Picture::from_elem((geometry.height, geometry.width, 3), 128);
        let latent = predictor.see(&grey).map_err(fault)?;
        finite("an encoded frame", latent.iter())?;
    } else {
        let shape = (geometry.latent_channels, geometry.latent_height(), geometry.latent_width());
        predictor.remember(Array3::zeros(shape).view()).map_err(fault)?;
    }
    let clip: Latents = predictor.predict(0, 0).map_err(fault)?;
    finite("a predicted clip", clip.iter())?;
    if predictor.manifest().graphs.decode.is_some() {
        predictor.render(&clip).map_err(fault)?;
    }
    Ok(())
}

fn finite<'a>(what: &'static str, mut values: impl Iterator<Item = &'a f32>) -> Result<(), BundleError> {
    if values.all(|value| value.is_finite()) { Ok(()) } else { Err(BundleError::NotFinite(what)) }
}

fn fault_at(path: &Path) -> impl Fn(io::Error) -> BundleError + use<'_> {
    move |source| BundleError::Write { path: path.into(), source }
}
