//! Writes a bundle: into a draft beside the final folder, verified there, then renamed.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{self, BufWriter};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use indicatif::{ProgressBar, ProgressBarIter};
use nextclip_core::manifest::{
    self, FileDigest, Graph as GraphEntry, Graphs, Manifest, ManifestError, SCHEMA, Source, Target,
};
use nextclip_core::position::TableTooSmall;
use nextclip_quant::Bits;
use prost::Message;
use thiserror::Error;

use crate::calibrate::Calibrated;
use crate::draft::Draft;
use crate::emulate::verify_emulated;
use crate::model::{Checkpoint, Pixels, decode, denoise, encode, remember};
use crate::onnx::{Choice, Graph, Planned, Precision, Rounding, WeightFile, WeightOnly, covers, model};
use crate::plan::Plan;
use crate::room::{self, NoRoom};
use crate::targets::{TargetError, check_rules};
use crate::verify::{Verified, Verify, VerifyError, verify};

/// The file with the weights of all graphs.
const WEIGHTS: &str = "weights.bin";

/// A bundle that could not be written.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum BundleError {
    /// The target does not take the graphs.
    #[error(transparent)]
    Target(#[from] TargetError),
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
    #[error(transparent)]
    Verify(#[from] VerifyError),
    /// The disk is too small.
    #[error(transparent)]
    Room(#[from] NoRoom),
    /// A weight that the bundle's numbers cannot stand for.
    #[error("{0}")]
    Weight(String),
    /// A layer that is none.
    #[error("no layer {name:?} can be quantised; there are {}", layers.join(", "))]
    NoLayer {
        /// The name.
        name: String,
        /// The right ones.
        layers: Vec<String>,
    },
    /// Another program is at work on this bundle.
    #[error("{}: another export is writing this bundle", .0.display())]
    Busy(PathBuf),
    /// Something else has the name of the folder to work in.
    #[error("{}: exists and is not a draft of this program's; remove it", .0.display())]
    NoDraft(PathBuf),
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
    Ok(export_with(checkpoint, plan, arithmetic, Verify::Auto, out, progress)?.0)
}

/// The same, verified in a certain way; also returns what was verified.
///
/// Tensors are read, quantised and written one by one: memory does not grow with the checkpoint.
pub fn export_with(
    checkpoint: &Checkpoint,
    plan: &Plan,
    arithmetic: &Arithmetic,
    how: Verify,
    out: &Path,
    progress: &ProgressBar,
) -> Result<(Manifest, Verified), BundleError> {
    let draft = Draft::claim(out)?;
    let folder = draft.bundle();
    progress.set_message("building graphs");
    let graphs = Built::new(checkpoint, plan, &arithmetic.precision(plan.target)?)?;
    arithmetic.check_names(&graphs)?;
    let needed = graphs.planned(&folder)?;
    room::check(&folder, needed)?;
    let written = || -> Result<_, BundleError> {
        let manifest = graphs.write(checkpoint, plan, arithmetic, &folder, progress)?;
        progress.set_message("verifying");
        check_rules(&folder, &manifest)?;
        let heads = checkpoint.config.num_attention_heads;
        let verified = if arithmetic.runs_on_cpu() {
            verify(&folder, &manifest, heads, how, progress)?
        } else {
            verify_emulated(checkpoint, plan, arithmetic, how, progress)?
        };
        Ok((manifest, verified))
    };
    let written = written().map_err(|error| error.of_room(needed))?;
    progress.set_message("putting it in place");
    draft.publish().map_err(|error| error.of_room(needed))?;
    Ok(written)
}

/// The numbers that a bundle computes in.
#[derive(Clone, Debug, Default)]
pub enum Arithmetic {
    /// Single precision.
    #[default]
    Float,
    /// Half precision, with norms in single.
    Fp16,
    /// Brain float, with norms and softmax in single precision.
    Bf16,
    /// Weights and activations of the large layers in 8-bit integers; the others in the target's float.
    W8A8(Calibrated),
    /// Weights and activations of the large linear layers in 8-bit floats; everything else in half precision.
    Fp8(Calibrated),
    /// Weights of the decoder's linear layers in blocks of 4- or 8-bit integers.
    Blocks(Arc<WeightOnly>),
}

impl Arithmetic {
    /// Its name in the manifest: f32, w8a8, w4g32 (4-bit weights in groups of 32).
    fn label(&self) -> String {
        match self {
            Self::Blocks(recipe) => {
                let bits = if recipe.format.bits == Bits::Four { 4 } else { 8 };
                format!("w{bits}g{}", recipe.format.block)
            }
            other => other.name().to_string(),
        }
    }

    /// Refuses a choice of layers that the graphs do not have. Calibration has looked at its own.
    fn check_names(&self, graphs: &Built) -> Result<(), BundleError> {
        let Self::Blocks(recipe) = self else { return Ok(()) };
        let mut layers = Vec::new();
        for used in graphs.iter().flat_map(|graph| &graph.layers) {
            if !layers.contains(&used.layer) {
                layers.push(used.layer.clone());
            }
        }
        let (Choice::AllBut(names) | Choice::Only(names)) = &recipe.choice;
        match names.iter().find(|name| !layers.iter().any(|layer| covers(name, layer))) {
            Some(name) => Err(BundleError::NoLayer { name: name.clone(), layers }),
            None => Ok(()),
        }
    }
}

impl Arithmetic {
    /// What the manifest says of how these graphs were quantised.
    fn provenance(&self, target: Target, graphs: &Built) -> Option<manifest::Quantisation> {
        if let Self::Blocks(recipe) = self {
            return match &recipe.rounding {
                Rounding::Nearest => None,
                Rounding::Outputs(products) => Some(products.provenance(Rounding::GPTQ, graphs.iter())),
            };
        }
        let pairs_fit = target == Target::Cpu && matches!(self, Self::W8A8(_));
        let found = self.calibrated().map(|calibrated| calibrated.provenance(graphs.iter()));
        found.map(|found| manifest::Quantisation { pairs_fit, ..found })
    }

    /// Files that tell how it came about.
    fn documents(&self) -> &[(&'static str, Vec<u8>)] {
        self.calibrated().map_or(&[], |calibrated| &calibrated.documents)
    }
}

impl BundleError {
    /// Says what a full disk means for a bundle of `needed` bytes; other faults stay as they are.
    fn of_room(self, needed: u64) -> Self {
        let (path, source) = match &self {
            Self::Write { path, source } | Self::Verify(VerifyError::File { path, source }) => (path, source),
            _ => return self,
        };
        if source.kind() == io::ErrorKind::InvalidData && source.get_ref().is_some() {
            return Self::Weight(source.to_string());
        }
        if !room::is_full(source) {
            return self;
        }
        let written = fs::metadata(path).map_or(0, |data| data.len());
        let full = NoRoom::Full { path: path.clone(), needed, written, reason: source.to_string() };
        Self::Room(full)
    }
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
        let upcast = checkpoint.vae.as_ref().is_some_and(|vae| vae.config.force_upcast);
        let vae_precision = if upcast { &precision.with_range_of_single() } else { precision };
        let guided = sampler.guidance != 1.0;
        let (motion, sizes) = (transformer.motion.as_ref(), config.motion());
        Ok(Self {
            encode: vae.map(|vae| encode(vae, sizes.as_ref(), geometry, cache, Pixels::U8, vae_precision)),
            remember: remember(transformer, config, geometry, cache, precision)?,
            denoise: denoise(transformer, config, geometry, cache, guided, precision)?,
            decode: vae.map(|vae| decode(vae, motion, geometry, cache, Pixels::U8, vae_precision)),
        })
    }

    /// The graphs that there are.
    pub(crate) fn iter(&self) -> impl Iterator<Item = &Graph> {
        let all = [self.encode.as_ref(), Some(&self.remember), Some(&self.denoise), self.decode.as_ref()];
        all.into_iter().flatten()
    }

    /// Bytes of the bundle's files, about.
    fn planned(&self, folder: &Path) -> Result<u64, BundleError> {
        let planned = self.plan(folder)?;
        Ok(planned.weight_bytes + planned.graph_bytes)
    }

    fn plan(&self, folder: &Path) -> Result<Planned, BundleError> {
        let mut planned = Planned::default();
        self.iter().try_for_each(|graph| planned.add(graph)).map_err(fault_at(folder))?;
        Ok(planned)
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
        progress.set_message("reading the checkpoint");
        progress.reset();
        let vae_files = checkpoint.vae.as_ref().map(|vae| &vae.files);
        progress.set_length(checkpoint.files.bytes() + vae_files.map_or(0, |files| files.bytes()));
        let source = Source {
            name: checkpoint.name(),
            transformer_sha256: checkpoint.files.sha256(&|bytes| progress.inc(bytes)),
            vae_sha256: vae_files.map(|files| files.sha256(&|bytes| progress.inc(bytes))),
        };

        progress.reset();
        progress.set_length(self.plan(folder)?.weight_bytes);
        let mut writer = GraphWriter::create(folder, progress)?;
        let mut entry = |graph: &Graph| writer.add(graph);
        let entries = Graphs {
            encode: self.encode.as_ref().map(&mut entry).transpose()?,
            remember: entry(&self.remember)?,
            denoise: entry(&self.denoise)?,
            decode: self.decode.as_ref().map(&mut entry).transpose()?,
        };
        for (name, bytes) in arithmetic.documents() {
            writer.attach(name, bytes)?;
        }
        let manifest = Manifest {
            schema: SCHEMA,
            producer: format!("nextclip-export {}", env!("CARGO_PKG_VERSION")),
            source,
            target: plan.target,
            precision: arithmetic.label(),
            quantisation: arithmetic.provenance(plan.target, self),
            geometry: plan.geometry,
            cache: plan.cache.clone(),
            motion: checkpoint.config.motion(),
            sampler: plan.sampler,
            graphs: entries,
            files: writer.finish()?,
        };
        let path = folder.join(manifest::FILE_NAME);
        fs::write(&path, manifest.to_json()?).map_err(fault_at(&path))?;
        Ok(manifest)
    }
}

/// Writes graphs and their shared weights into a folder.
#[derive(Debug)]
pub struct GraphWriter<'a> {
    folder: &'a Path,
    weights: WeightFile<BufWriter<ProgressBarIter<File>>>,
    files: BTreeMap<String, FileDigest>,
    progress: &'a ProgressBar,
}

impl<'a> GraphWriter<'a> {
    /// Starts the weight file in `folder`, which must exist.
    pub fn create(folder: &'a Path, progress: &'a ProgressBar) -> Result<Self, BundleError> {
        let path = folder.join(WEIGHTS);
        let file = File::create(&path).map_err(fault_at(&path))?;
        let file = BufWriter::with_capacity(1 << 20, progress.wrap_write(file));
        let weights = WeightFile::new(WEIGHTS, file);
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
        let (_, digest) = self.weights.finish().map_err(fault_at(&path))?;
        self.files.insert(WEIGHTS.into(), digest);
        Ok(self.files)
    }
}

pub(crate) fn fault_at(path: &Path) -> impl Fn(io::Error) -> BundleError + use<'_> {
    move |source| BundleError::Write { path: path.into(), source }
}
