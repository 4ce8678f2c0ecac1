//! Runs a bundle's graphs piece by piece: one prediction, for which no more than a piece's weights are in memory.

use std::borrow::Cow;
use std::collections::{BTreeMap, HashMap};
use std::fs;
use std::path::Path;

use indicatif::ProgressBar;
use ndarray::{ArrayD, Axis, arr1};
use nextclip_core::manifest::{self, Manifest};
use nextclip_core::sampler::noise;
use nextclip_predictor::{DECODE, DENOISE, ENCODE, REMEMBER, onnx_environment, session_options};
use ort::session::Session;
use prost::Message;

use super::VerifyError;
use super::cut::{Piece, cut};
use super::held::Held;
use crate::onnx::proto;

/// The model file of the piece at work.
const PIECE_FILE: &str = "piece.onnx";

type Tensors = BTreeMap<String, Held>;

/// Predicts once as [`nextclip_predictor::Predictor`] does after one grey frame, with a single step; returns the
/// latents of the predicted clip and the number of pieces.
pub(super) fn predict(
    folder: &Path,
    manifest: &Manifest,
    weight_bytes: u64,
    progress: &ProgressBar,
) -> Result<(ArrayD<f32>, usize), VerifyError> {
    let (geometry, cache) = (&manifest.geometry, &manifest.cache);
    let mut run = Run { folder, manifest, weight_bytes, progress, pieces: 0 };
    let grey = ArrayD::from_elem(vec![cache.batch, geometry.height, geometry.width, 3], 128);
    let moves = manifest.motion.is_some();
    let before = moves.then(|| ("before", Held::U8(grey.clone())));
    let seen = run.graph(ENCODE, [("frames", Held::U8(grey.clone()))].into_iter().chain(before))?;
    let latent = [cache.batch, geometry.latent_channels, geometry.latent_height(), geometry.latent_width()];
    let latents = match seen {
        Some(mut seen) => take(&mut seen, "latents")?,
        None => Held::F32(ArrayD::zeros(latent.to_vec())),
    };

    let slots = geometry.history * geometry.block_tokens();
    let held = [cache.layers, cache.batch, cache.kv_heads, slots, cache.head_dim];
    let mut keys = Held::zeros(cache.element.dtype(), &held)?;
    let mut values = keys.clone();
    let mut slot_positions = ArrayD::from_elem(vec![cache.batch, geometry.history], -1_i64);
    let history = |keys: &Held, values: &Held, slot_positions: &ArrayD<i64>, position: i64| {
        [
            ("keys", keys.clone()),
            ("values", values.clone()),
            ("slot_positions", Held::I64(slot_positions.clone())),
            ("position", Held::I64(ArrayD::from_elem(vec![cache.batch], position))),
        ]
    };
    // The first frame has none before it.
    let costs = manifest.motion.map(|motion| {
        let shape = [cache.batch, motion.costs(), geometry.latent_height(), geometry.latent_width()];
        ("costs", Held::F32(ArrayD::zeros(shape.to_vec())))
    });
    let past = history(&keys, &values, &slot_positions, 0);
    let inputs = [("latents", latents)].into_iter().chain(past).chain(costs);
    let mut fresh = run.graph(REMEMBER, inputs)?.unwrap_or_default();
    for (kept, name) in [(&mut keys, "new_keys"), (&mut values, "new_values")] {
        kept.begin_with(&take(&mut fresh, name)?, Axis(3)).ok_or(VerifyError::Lost(name))?;
    }
    let motion = moves.then(|| take(&mut fresh, "motion")).transpose()?;
    slot_positions.index_axis_mut(Axis(1), 0).fill(0);

    let clip = [&[cache.batch, geometry.clip], &latent[1..]].concat();
    let scalar = |value: f32| Held::F32(arr1(&[value]).into_dyn());
    let z = ArrayD::from_shape_vec(clip.clone(), noise(0, 0, clip.iter().product())).unwrap_or_default();
    let guided = manifest.sampler.guidance != 1.0;
    let inputs = [("z", Held::F32(z)), ("t", scalar(0.0)), ("t_next", scalar(1.0))]
        .into_iter()
        .chain(history(&keys, &values, &slot_positions, 1))
        .chain(guided.then(|| ("guidance", scalar(manifest.sampler.guidance))));
    let mut predicted = run.graph(DENOISE, inputs)?.unwrap_or_default();
    let Held::F32(clip) = take(&mut predicted, "z_next")? else { return Err(VerifyError::Lost("z_next")) };

    // No frame was seen before the first.
    let earlier = manifest.motion.map_or(0, |motion| motion.earlier);
    let earlier = (earlier > 0).then(|| {
        let frames = vec![cache.batch, earlier, geometry.height, geometry.width, 3];
        let known = ArrayD::zeros(vec![cache.batch, earlier]);
        [("earlier_frames", Held::U8(ArrayD::zeros(frames))), ("known", Held::F32(known))]
    });
    let shown =
        [("latents", Held::F32(clip.clone())), ("last_frames", Held::U8(grey)), ("gate", scalar(1.0))];
    let motion = motion.map(|motion| ("motion", motion));
    run.graph(DECODE, shown.into_iter().chain(motion).chain(earlier.into_iter().flatten()))?;
    Ok((clip, run.pieces))
}

struct Run<'a> {
    folder: &'a Path,
    manifest: &'a Manifest,
    weight_bytes: u64,
    progress: &'a ProgressBar,
    pieces: usize,
}

impl Run<'_> {
    /// Runs a graph if the bundle has it, and returns its outputs.
    fn graph(
        &mut self,
        name: &'static str,
        inputs: impl IntoIterator<Item = (&'static str, Held)>,
    ) -> Result<Option<Tensors>, VerifyError> {
        let Some(entry) = self.entry(name) else { return Ok(None) };
        let path = self.folder.join(&entry.path);
        let bytes = fs::read(&path).map_err(|source| VerifyError::File { path: path.clone(), source })?;
        let model = proto::Model::decode(&*bytes)
            .map_err(|source| VerifyError::File { path: path.clone(), source: source.into() })?;
        let pieces = cut(&model, self.weight_bytes);
        let mut held: Tensors = inputs.into_iter().map(|(name, held)| (name.to_owned(), held)).collect();
        for (index, piece) in pieces.iter().enumerate() {
            self.progress.set_message(format!("running {name}, {} of {}", index + 1, pieces.len()));
            let fault =
                |source| VerifyError::Run { graph: name, piece: index + 1, pieces: pieces.len(), source };
            let made = self.piece(piece, &held)?.map_err(fault)?;
            held.extend(made);
            let later = |tensor: &String| {
                pieces[index + 1..].iter().any(|piece| piece.inputs.contains(tensor))
                    || entry.outputs.iter().any(|output| output.name == *tensor)
            };
            held.retain(|tensor, _| later(tensor));
        }
        self.pieces += pieces.len();
        Ok(Some(held))
    }

    fn entry(&self, name: &str) -> Option<manifest::Graph> {
        let mut graphs = self.manifest.graphs.iter();
        graphs.find(|(graph, _)| *graph == name).map(|(_, graph)| graph.clone())
    }

    /// Runs one piece on the tensors that it reads.
    fn piece(&self, piece: &Piece, held: &Tensors) -> Result<ort::Result<Tensors>, VerifyError> {
        let path = self.folder.join(PIECE_FILE);
        let mut model = piece.model.clone();
        if let Some(graph) = &mut model.graph {
            let known = |name: &String| Some(held.get(name)?.value_info(name));
            graph.input = piece.inputs.iter().filter_map(known).collect();
            let named = |name: &String| proto::ValueInfo { name: name.clone(), r#type: None };
            graph.output = piece.outputs.iter().map(named).collect();
        }
        let fault = |source| VerifyError::File { path: path.clone(), source };
        fs::write(&path, model.encode_to_vec()).map_err(fault)?;
        let environment = onnx_environment().map_err(VerifyError::Bundle)?;
        let run = || -> ort::Result<Tensors> {
            let mut session =
                session_options(Session::builder(&environment)?, None, false)?.commit_from_file(&path)?;
            let read: HashMap<&str, &Held> =
                piece.inputs.iter().filter_map(|name| Some((name.as_str(), held.get(name)?))).collect();
            let inputs = read
                .into_iter()
                .map(|(name, held)| Ok((Cow::Borrowed(name), held.value()?)))
                .collect::<ort::Result<Vec<_>>>()?;
            let made = session.run(inputs)?;
            made.iter().map(|(name, value)| Ok((name.to_owned(), Held::copy(&value)?))).collect()
        };
        let result = run();
        fs::remove_file(&path).map_err(fault)?;
        Ok(result)
    }
}

fn take(tensors: &mut Tensors, name: &'static str) -> Result<Held, VerifyError> {
    tensors.remove(name).ok_or(VerifyError::Lost(name))
}
