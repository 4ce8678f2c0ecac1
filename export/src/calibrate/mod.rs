//! Ranges of activations, seen along the whole denoising trajectory by the runtime's own predictor.
//!
//! [`observe`] runs the float graphs, with every tensor that could be quantised as a further output, over clips of
//! real frames: encode, remember, each denoising step, decode. What the tensors hold is counted, never kept, so
//! memory does not grow with the number of clips. [`Observations::calibrated`] makes ranges of the counts: the
//! observer's rule chooses a range for each stage of denoising by itself, and the widest ends of all stages count,
//! since one scale must serve every step.

mod clips;
mod counts;
mod error;
mod heads;
mod products;

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};

use indicatif::ProgressBar;
use ndarray::{Array3, ArrayViewD};
use nextclip_core::manifest::{CacheElement, CacheShape, Target};
use nextclip_core::sampler::{TimeGrid, noise};
use nextclip_core::{Latents, Picture};
use nextclip_predictor::{Predictor, Probe, Settings};
use nextclip_quant::Observer;

use clips::{Share, clips};
use counts::Counts;
pub use error::CalibrationError;
use heads::Heads;
pub use products::InputProducts;
use products::Products;

use crate::arithmetic::Arithmetic;
use crate::built::Built;
use crate::calibrated::{Calibrated, Footage, Sight};
use crate::census::Census;
use crate::model::Checkpoint;
use crate::onnx::{Choice, Graph, Precision, Recipe, WeightOnly, covers};
use crate::plan::Plan;

/// Fewer steps than these are not looked at: a daemon may take more than the bundle's own number, and noise
/// alone would not show what the later steps hold.
const MIN_STEPS: usize = 4;

/// The rule that was best on the shipped model: its predicted latents keep 25.9 dB of signal to noise, with "mse"
/// 24.4, "percentile:99.99" 25.4 and "entropy" 20.3.
pub const DEFAULT_OBSERVER: Observer = Observer::MinMax;

/// What the activations of a checkpoint were seen to hold.
#[derive(Clone, Debug)]
pub struct Observations {
    counts: Counts,
    heads: Heads,
    cache: CacheShape,
    sight: Sight,
    /// Denoising steps of each clip.
    steps: usize,
    /// Every layer that can be quantised, by its checkpoint path, in the order of use.
    layers: Vec<String>,
    census: Census,
    /// What each use of a layer reads, in order: the tensor, by graph and layer.
    reads: BTreeMap<(String, String), Vec<String>>,
}

/// Runs the checkpoint in single precision over the clips of `sight`, at the sizes of `plan`.
///
/// # Errors
/// A weight that is not a number, footage without a single clip, or a fault of the graphs.
pub fn observe(
    checkpoint: &Checkpoint,
    plan: &Plan,
    sight: &Sight,
    progress: &ProgressBar,
) -> Result<Observations, CalibrationError> {
    let plan = &in_floats(plan);
    let start = |_: &Built, steps: usize| Ok((Counts::new(steps), Heads::default()));
    let Watched { graphs, seen: (counts, heads), sight, steps } =
        watch(checkpoint, plan, sight, start, progress)?;
    let (mut layers, mut reads) = (Vec::new(), BTreeMap::<_, Vec<_>>::new());
    for (graph, used) in graphs.iter().flat_map(|graph| graph.layers.iter().map(move |used| (graph, used))) {
        if !layers.contains(&used.layer) {
            layers.push(used.layer.clone());
        }
        let site = (graph.name.to_owned(), used.layer.clone());
        reads.entry(site).or_default().extend(used.tensors.first().cloned());
    }
    let census = Census::of(graphs.iter(), &layers, plan.sampler.steps);
    Ok(Observations { counts, heads, cache: plan.cache.clone(), sight, steps, layers, census, reads })
}

/// Adds up products of what the linear layers read that weight-only bundles can have in blocks of integers: the same
/// runs as [`observe`] makes.
///
/// # Errors
/// As [`observe`] has, or layers so large that the sums would not fit into memory.
pub fn observe_products(
    checkpoint: &Checkpoint,
    plan: &Plan,
    sight: &Sight,
    progress: &ProgressBar,
) -> Result<InputProducts, CalibrationError> {
    let plan = &in_floats(plan);
    let start = |observed: &Built, _: usize| {
        let blocks = Built::new(checkpoint, plan, &Precision::Blocks(Arc::new(WeightOnly::default())))?;
        Ok(Products::new(observed, &blocks))
    };
    let Watched { seen, sight, steps, .. } = watch(checkpoint, plan, sight, start, progress)?;
    seen.finish(sight, steps)
}

/// What is shown the tensors of an observed bundle.
trait Sees: Default + Send + 'static {
    fn add(&mut self, graph: &str, tensor: &str, values: &ArrayViewD<'_, f32>);

    /// What comes next belongs to this denoising step.
    fn at_step(&mut self, step: usize);

    /// What was wrong with the values, if anything.
    fn fault(&mut self) -> Option<CalibrationError>;
}

impl Sees for (Counts, Heads) {
    fn add(&mut self, graph: &str, tensor: &str, values: &ArrayViewD<'_, f32>) {
        if !self.1.add(tensor, values) {
            self.0.add(graph, tensor, values.as_standard_layout().as_slice().unwrap_or_default());
        }
    }

    fn at_step(&mut self, step: usize) {
        self.0.at_step(step);
    }

    fn fault(&mut self) -> Option<CalibrationError> {
        self.0.fault().or_else(|| self.1.fault())
    }
}

/// An observed bundle's run over all clips.
struct Watched<S> {
    graphs: Built,
    seen: S,
    /// With the clips that there were.
    sight: Sight,
    steps: usize,
}

/// Shows what `start` makes, of the observed graphs and the number of steps, all that their tensors hold.
fn watch<S: Sees>(
    checkpoint: &Checkpoint,
    plan: &Plan,
    sight: &Sight,
    start: impl FnOnce(&Built, usize) -> Result<S, CalibrationError>,
    progress: &ProgressBar,
) -> Result<Watched<S>, CalibrationError> {
    progress.set_message("reading footage");
    let share = if sight.keep_back { Share::Ranges } else { Share::All };
    let clips = clips(sight, &plan.geometry, share)?;
    let graphs = Built::new(checkpoint, plan, &Precision::Observed)?;
    for graph in graphs.iter() {
        check_weights(graph)?;
    }
    let folder = tempfile::tempdir()?;
    // Whatever the bundle is for, it is here that these graphs run.
    let here = Plan { target: Target::Cpu, ..plan.clone() };
    graphs.write(checkpoint, &here, &Arithmetic::Float, folder.path(), &ProgressBar::hidden())?;
    let steps = plan.sampler.steps.max(MIN_STEPS);
    let settings = Settings { steps: Some(steps), ..Settings::default() };
    let predictor = Predictor::open(folder.path(), &settings)?;
    let grid: Vec<(f32, f32)> = TimeGrid::new(steps, plan.sampler.time_shift)?.steps().collect();
    let mut run = Run::new(predictor, grid, start(&graphs, steps)?);

    let sight = Sight { clips: clips.len(), ..sight.clone() };
    progress.set_length(clips.len() as u64);
    progress.set_message("calibrating");
    for (index, clip) in clips.into_iter().enumerate() {
        run.watch(&clip.pictures(), sight.seed, index as u64)?;
        progress.inc(1);
    }
    let seen = std::mem::take(&mut *run.seen.lock().unwrap_or_else(PoisonError::into_inner));
    Ok(Watched { graphs, seen, sight, steps })
}

/// The same sizes with a cache in single precision: what is observed is what no rounding has changed.
pub(crate) fn in_floats(plan: &Plan) -> Plan {
    let mut plan = plan.clone();
    plan.cache.element = CacheElement::F32;
    plan
}

impl Observations {
    /// Every layer that can be quantised, by its checkpoint path, in the order of use.
    pub fn layers(&self) -> &[String] {
        &self.layers
    }

    /// What there is in the model besides, and how much each layer does.
    pub(crate) fn census(&self) -> &Census {
        &self.census
    }

    /// What was looked at, in words.
    pub(crate) fn described(&self) -> String {
        let Sight { footage, clips, seed, .. } = &self.sight;
        format!("{footage}, {clips} clips, seed {seed}")
    }

    /// Clips of the same footage to measure on, others than those that were observed: of films those that were kept
    /// back.
    pub(crate) fn unseen_clips(
        &self,
        count: usize,
        plan: &Plan,
    ) -> Result<Vec<Vec<Picture>>, CalibrationError> {
        let seed = self.sight.seed.wrapping_add(self.sight.clips as u64);
        let sight = Sight { clips: count, seed, ..self.sight.clone() };
        if !sight.keep_back && sight.footage != Footage::Scenes {
            return Err(CalibrationError::NothingKeptBack);
        }
        clips(&sight, &plan.geometry, Share::Losses)?.into_iter().map(|clip| Ok(clip.pictures())).collect()
    }

    /// What a cache in 8 bits needs to know: a scale for each layer's heads by `observer`'s rule.
    ///
    /// # Errors
    /// A head that was seen to hold something else than numbers.
    pub fn cache_element(&self, observer: Observer) -> Result<CacheElement, CalibrationError> {
        self.heads.element(&self.cache, observer, format!("{observer} of {}", self.described()))
    }

    /// Ranges by `observer`'s rule, for the layers of `choice`.
    ///
    /// # Errors
    /// A name in `choice` that no layer has.
    pub fn calibrated(&self, observer: Observer, choice: Choice) -> Result<Calibrated, CalibrationError> {
        let (Choice::AllBut(names) | Choice::Only(names)) = &choice;
        if let Some(name) = names.iter().find(|name| !self.layers.iter().any(|layer| covers(name, layer))) {
            return Err(CalibrationError::NoLayer { name: name.clone(), layers: self.layers.clone() });
        }
        let ranges = self.counts.ranges(observer)?;
        let range = |graph: &String, tensor: &String| ranges.get(&(graph.clone(), tensor.clone())).copied();
        let of_layer = |(site, tensors): (&(String, String), &Vec<String>)| {
            (site.clone(), tensors.iter().filter_map(|tensor| range(&site.0, tensor)).collect())
        };
        let layer_ranges = Arc::new(self.reads.iter().map(of_layer).collect());
        let (recipe, documents) = (Arc::new(Recipe { ranges, choice }), vec![]);
        let (sight, steps) = (self.sight.clone(), self.steps);
        Ok(Calibrated { recipe, layer_ranges, observer, sight, steps, documents })
    }
}

/// Every weight of the graph must be a number: a scale made of anything else quantises nothing.
fn check_weights(graph: &Graph) -> Result<(), CalibrationError> {
    for weight in graph.weights() {
        if let Some(value) = weight.values().into_iter().find(|value| !value.is_finite()) {
            return Err(CalibrationError::Weight { name: weight.name().into(), value });
        }
    }
    Ok(())
}

/// The observed bundle at work.
struct Run<S> {
    predictor: Predictor,
    grid: Vec<(f32, f32)>,
    seen: Arc<Mutex<S>>,
}

impl<S: Sees> Run<S> {
    fn new(mut predictor: Predictor, grid: Vec<(f32, f32)>, seen: S) -> Self {
        let seen = Arc::new(Mutex::new(seen));
        let shared = seen.clone();
        predictor.observe(&Probe::new(move |graph, tensor, values| {
            shared.lock().unwrap_or_else(PoisonError::into_inner).add(graph, tensor, &values);
        }));
        Self { predictor, grid, seen }
    }

    /// One clip: its first C frames are seen, the next N predicted step by step and decoded; the N that came are
    /// encoded and decoded, too.
    fn watch(&mut self, pictures: &[Picture], seed: u64, index: u64) -> Result<(), CalibrationError> {
        let geometry = self.predictor.manifest().geometry;
        let (c, h, w) = (geometry.latent_channels, geometry.latent_height(), geometry.latent_width());
        let has_vae = self.predictor.manifest().graphs.decode.is_some();
        self.predictor.forget();
        let (seen, came) = pictures.split_at(geometry.history);
        for picture in seen {
            self.predictor.see(picture)?;
        }
        let mut latents: Vec<Array3<f32>> = Vec::with_capacity(came.len());
        for picture in came {
            latents.push(self.predictor.encode(picture)?);
        }
        let len = geometry.clip * c * h * w;
        let mut z =
            Latents::from_shape_vec((geometry.clip, c, h, w), noise(seed, index, len)).unwrap_or_default();
        for (step, &(t, t_next)) in self.grid.iter().enumerate() {
            self.seen.lock().unwrap_or_else(PoisonError::into_inner).at_step(step);
            z = self.predictor.denoise(&z, t, t_next)?;
        }
        if has_vae {
            let mut clip = Latents::zeros(z.raw_dim());
            clip.outer_iter_mut().zip(&latents).for_each(|(mut frame, latent)| frame.assign(latent));
            for clip in [&z, &clip] {
                self.predictor.render(clip)?;
            }
        }
        let mut seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        seen.fault().map_or(Ok(()), Err)
    }
}
