//! The graphs of a bundle, and how they are written into a folder.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::BufWriter;
use std::path::Path;

use indicatif::{ProgressBar, ProgressBarIter};
use nextclip_core::manifest::{self, FileDigest, Graph as GraphEntry, Graphs, Manifest, SCHEMA, Source};
use prost::Message;

use crate::arithmetic::Arithmetic;
use crate::error::{BundleError, fault_at};
use crate::model::{Checkpoint, Pixels, decode, denoise, encode, remember};
use crate::onnx::{Graph, Planned, Precision, WeightFile, model};
use crate::plan::Plan;

/// The file with the weights of all graphs.
const WEIGHTS: &str = "weights.bin";

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
    pub(crate) fn planned(&self, folder: &Path) -> Result<u64, BundleError> {
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
            quantisation: arithmetic.provenance(plan.target, self.iter()),
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
