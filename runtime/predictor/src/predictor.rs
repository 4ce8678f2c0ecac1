//! From frames to predicted clips: the four graphs, the cache between them and the sampling loop.

use std::path::Path;

use log::info;
use ndarray::{
    Array, Array3, Array5, ArrayView, ArrayView1, ArrayView3, ArrayView4, ArrayViewD, Axis, CowArray,
    Dimension, Ix3, Ix4,
};
use nextclip_core::sampler::{TimeGrid, noise};
use nextclip_core::{History, Latents, Manifest, Picture};

use crate::bundle;
use crate::cache::Cache;
use crate::contract::{DECODE, DENOISE, ENCODE, REMEMBER};
use crate::error::Error;
use crate::graph::{GraphSession, Input, Probe};
use crate::provider::{Execution, GpuSettings, Provider};
use crate::recent::Recent;

/// How to run a bundle; `None` takes what the bundle's manifest says, or every core.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Settings {
    /// Threads of one operator.
    pub threads: Option<usize>,
    /// K: denoising steps of [`Predictor::sample`].
    pub steps: Option<usize>,
    /// g: guidance scale. Other than 1 needs a bundle that was exported with guidance.
    pub guidance: Option<f32>,
    /// Who executes the graphs; `None` takes the provider of the bundle's target. [`Provider::Cpu`] runs every
    /// target's graphs but those in brain float, slowly.
    pub provider: Option<Provider>,
    /// How a GPU is used, where one is.
    pub gpu: GpuSettings,
}

/// A bundle at work for one camera.
#[derive(Debug)]
pub struct Predictor {
    manifest: Manifest,
    provider: Provider,
    grid: TimeGrid,
    /// Scale for the denoise graph, where it has both branches.
    guidance: Option<f32>,
    cache: Cache,
    /// The newest frames seen: pictures of the future are made of them.
    recent: Option<Recent>,
    encode: Option<GraphSession>,
    remember: GraphSession,
    denoise: GraphSession,
    decode: Option<GraphSession>,
}

/// A frame as the `encode` graph reads it after the one before.
#[derive(Clone, Debug, PartialEq)]
pub struct Encoded {
    /// (c, h, w).
    pub latent: Array3<f32>,
    /// How unlike the frame before it is, (costs, h, w), of a model with motion; zeros where there was none.
    pub costs: Option<Array3<f32>>,
}

impl Predictor {
    /// Opens a bundle: verifies every file's digest, loads the graphs, compares them with the manifest.
    /// Loads ONNX Runtime first if [`crate::init_onnx_runtime`] was not called.
    pub fn open(bundle_dir: &Path, settings: &Settings) -> Result<Self, Error> {
        let manifest = bundle::open(bundle_dir)?;
        let sampler = &manifest.sampler;
        let grid = TimeGrid::new(settings.steps.unwrap_or(sampler.steps), sampler.time_shift)?;
        let guidance = guidance(sampler.guidance, settings.guidance)?;
        let execution = Execution::new(&manifest, settings.provider, &settings.gpu)?;
        let provider = execution.provider;
        let open = |name, graph| GraphSession::open(name, bundle_dir, graph, &execution, settings.threads);
        let graphs = &manifest.graphs;
        let predictor = Self {
            encode: graphs.encode.as_ref().map(|graph| open(ENCODE, graph)).transpose()?,
            remember: open(REMEMBER, &graphs.remember)?,
            denoise: open(DENOISE, &graphs.denoise)?,
            decode: graphs.decode.as_ref().map(|graph| open(DECODE, graph)).transpose()?,
            cache: Cache::new(&manifest.geometry, &manifest.cache),
            recent: None,
            provider,
            grid,
            guidance,
            manifest,
        };
        let Manifest { source, precision, target, cache, geometry, .. } = &predictor.manifest;
        info!(
            "{} ({precision}, {target}) on {}, {:.1} MB of keys and values in {}",
            source.name,
            predictor.provider(),
            cache.bytes(geometry) as f64 / 1e6,
            cache.element
        );
        Ok(predictor)
    }

    /// Shows to `probe` what an observed bundle's graphs hold whenever they run.
    pub fn observe(&mut self, probe: &Probe) {
        let graphs =
            [self.encode.as_mut(), Some(&mut self.remember), Some(&mut self.denoise), self.decode.as_mut()];
        graphs.into_iter().flatten().for_each(|graph| graph.attach(probe));
    }

    /// What the bundle says of itself.
    pub fn manifest(&self) -> &Manifest {
        &self.manifest
    }

    /// Which frames are remembered.
    pub fn history(&self) -> &History {
        self.cache.history()
    }

    /// Where the cells of the newest frame that [`Self::see`] was given are at each moment, (M, m, h, w), of a model with
    /// motion.
    pub fn motion(&self) -> Option<ArrayView4<'_, f32>> {
        let motion = self.recent.as_ref()?.motion.as_ref()?;
        Some(motion.index_axis(Axis(0), 0))
    }

    /// K: denoising steps of [`Self::sample`].
    pub fn steps(&self) -> usize {
        self.grid.steps().count()
    }

    /// Changes the number of denoising steps, as under load.
    pub fn set_steps(&mut self, steps: usize) -> Result<(), Error> {
        self.grid = TimeGrid::new(steps, self.manifest.sampler.time_shift)?;
        Ok(())
    }

    /// The execution provider that runs the graphs, such as "CPU".
    pub fn provider(&self) -> &str {
        self.provider.name()
    }

    /// The latent (c, h, w) of a frame of the bundle's size.
    pub fn encode(&mut self, frame: &Picture) -> Result<Array3<f32>, Error> {
        Ok(self.encode_after(frame, None)?.latent)
    }

    /// The frame as it is remembered after the newest one that [`Self::see`] was given: the first half of `see`.
    pub fn encode_next(&mut self, frame: &Picture) -> Result<Encoded, Error> {
        let recent = self.recent.take();
        let encoded = self.encode_after(frame, recent.as_ref().map(Recent::newest));
        self.recent = recent;
        encoded
    }

    fn encode_after(&mut self, frame: &Picture, before: Option<&Picture>) -> Result<Encoded, Error> {
        let geometry = &self.manifest.geometry;
        check("frame", frame.shape(), &[geometry.height, geometry.width, 3])?;
        let graph = self.encode.as_mut().ok_or(Error::NoVae(ENCODE))?;
        let frame = frame.as_standard_layout();
        if self.manifest.motion.is_none() {
            let latent =
                graph.run(&[("frames", picture(&frame))], ["latents"], |[latents]| owned(latents))?;
            return Ok(Encoded { latent, costs: None });
        }
        let earlier = before.map_or_else(|| frame.view().into(), |before| before.as_standard_layout());
        let inputs = [("frames", picture(&frame)), ("before", picture(&earlier))];
        let (latent, mut costs) = graph.run(&inputs, ["latents", "costs"], |[latents, costs]| {
            Ok((owned(latents)?, owned::<Ix3>(costs)?))
        })?;
        if before.is_none() {
            costs.fill(0.0);
        }
        Ok(Encoded { latent, costs: Some(costs) })
    }

    /// Adds a frame, as its clean latent (c, h, w), to what predictions are made from. The oldest
    /// frame leaves where the window is full.
    ///
    /// A model with motion does not learn of a bare latent how it came about, and has no picture to move: until the
    /// next frame is seen, [`Self::render`] is [`Self::decode`].
    pub fn remember(&mut self, latent: ArrayView3<'_, f32>) -> Result<(), Error> {
        let costs = self.costs_shape().map(Array3::zeros);
        self.keep(latent, costs.as_ref().map(|costs| costs.view()))?;
        if self.manifest.motion.is_some() {
            self.recent = None;
        }
        Ok(())
    }

    /// Adds a frame that [`Self::encode_next`] was given to what predictions are made from: the second half of `see`.
    pub fn remember_next(&mut self, frame: &Picture, encoded: &Encoded) -> Result<(), Error> {
        let geometry = &self.manifest.geometry;
        check("frame", frame.shape(), &[geometry.height, geometry.width, 3])?;
        let motion = self.keep(encoded.latent.view(), encoded.costs.as_ref().map(|costs| costs.view()))?;
        let sizes = self.manifest.motion;
        let recent = match &mut self.recent {
            Some(recent) => {
                recent.push(frame);
                recent
            }
            none => none.insert(Recent::new(frame.clone(), sizes)),
        };
        recent.motion = motion;
        Ok(())
    }

    fn keep(
        &mut self,
        latent: ArrayView3<'_, f32>,
        costs: Option<ArrayView3<'_, f32>>,
    ) -> Result<Option<Array5<f32>>, Error> {
        let geometry = &self.manifest.geometry;
        let expected = [geometry.latent_channels, geometry.latent_height(), geometry.latent_width()];
        check("latent", latent.shape(), &expected)?;
        let (found, expected) = (costs.as_ref().map(|costs| costs.shape().to_vec()), self.costs_shape());
        check("costs", &found.unwrap_or_default(), expected.as_ref().map_or(&[], |shape| shape))?;
        let latent = latent.as_standard_layout();
        let costs = costs.as_ref().map(|costs| costs.as_standard_layout());
        let costs = costs.as_ref().map(|costs| costs.view().insert_axis(Axis(0)));
        self.cache.remember(&mut self.remember, latent.view().insert_axis(Axis(0)), costs)
    }

    /// Encodes and remembers a frame; returns its latent (c, h, w).
    pub fn see(&mut self, frame: &Picture) -> Result<Array3<f32>, Error> {
        let encoded = self.encode_next(frame)?;
        self.remember_next(frame, &encoded)?;
        Ok(encoded.latent)
    }

    /// Forgets every frame, as after a gap in the stream.
    pub fn forget(&mut self) {
        self.cache.clear();
        self.recent = None;
    }

    /// One Euler step from `t` to `t_next` for a clip (N, c, h, w) that follows the remembered frames.
    /// With `t_next` = 1 the result is the estimate of the clean clip.
    pub fn denoise(&mut self, z: &Latents, t: f32, t_next: f32) -> Result<Latents, Error> {
        self.check_clip(z)?;
        let z = z.as_standard_layout();
        let (t, t_next) = ([t], [t_next]);
        let guidance = self.guidance.map(|scale| [scale]);
        let scalar = |value| Input::F32(ArrayView1::from(value).into_dyn());
        let mut inputs = vec![
            ("z", Input::F32(z.view().insert_axis(Axis(0)).into_dyn())),
            ("t", scalar(&t)),
            ("t_next", scalar(&t_next)),
        ];
        inputs.extend(self.cache.now());
        inputs.extend(guidance.as_ref().map(|scale| ("guidance", scalar(scale))));
        self.denoise.run(&inputs, ["z_next"], |[z_next]| Ok(first::<_, Ix4>(z_next)?.to_owned()))
    }

    /// Denoises a clip (N, c, h, w) from noise to clean, in [`Self::steps`] steps.
    pub fn sample(&mut self, noise: Latents) -> Result<Latents, Error> {
        let steps: Vec<_> = self.grid.steps().collect();
        steps.into_iter().try_fold(noise, |z, (t, t_next)| self.denoise(&z, t, t_next))
    }

    /// Predicts the clip (N, c, h, w) that follows the remembered frames. The same seed and stream give
    /// the same clip; `stream` is the prediction's number.
    pub fn predict(&mut self, seed: u64, stream: u64) -> Result<Latents, Error> {
        let shape = self.clip_shape();
        let noise = noise(seed, stream, shape.iter().product());
        let found = [noise.len()];
        let noise = Latents::from_shape_vec(shape, noise).map_err(|_| Error::Shape {
            what: "noise",
            found: found.into(),
            expected: shape.into(),
        })?;
        self.sample(noise)
    }

    /// The pictures of a clip (N, c, h, w), as the autoencoder gives them.
    pub fn decode(&mut self, latents: &Latents) -> Result<Vec<Picture>, Error> {
        let nothing = Recent::nothing(&self.manifest.geometry, self.manifest.motion);
        self.pictures(latents, &nothing, 0.0)
    }

    /// The pictures of a predicted clip (N, c, h, w), made of the newest frames that [`Self::see`] was given: a model with
    /// motion moves the last one; of one without, what is not predicted to change stays as it was. Without such a frame, the same
    /// as [`Self::decode`].
    pub fn render(&mut self, latents: &Latents) -> Result<Vec<Picture>, Error> {
        let Some(recent) = self.recent.take() else { return self.decode(latents) };
        let pictures = self.pictures(latents, &recent, 1.0);
        self.recent = Some(recent);
        pictures
    }

    /// Goes on from a predicted clip as if it had come; `pictures` are what [`Self::render`] made of it.
    ///
    /// A model with motion sees the pictures, and moves the last of them from then on. One without remembers the latents,
    /// without a way through pixels, and goes on to keep of the last real frame what does not change.
    pub fn follow(&mut self, latents: &Latents, pictures: &[Picture]) -> Result<(), Error> {
        self.check_clip(latents)?;
        if self.manifest.motion.is_none() {
            return latents.outer_iter().try_for_each(|latent| self.remember(latent));
        }
        check("pictures of a clip", &[pictures.len()], &[self.manifest.geometry.clip])?;
        pictures.iter().try_for_each(|picture| self.see(picture).map(drop))
    }

    fn pictures(&mut self, latents: &Latents, recent: &Recent, gate: f32) -> Result<Vec<Picture>, Error> {
        self.check_clip(latents)?;
        let graph = self.decode.as_mut().ok_or(Error::NoVae(DECODE))?;
        let (latents, last, gate) = (latents.as_standard_layout(), recent.last_frame(), [gate]);
        let mut inputs = vec![
            ("latents", Input::F32(latents.view().insert_axis(Axis(0)).into_dyn())),
            ("last_frames", picture(&last)),
            ("gate", Input::F32(ArrayView1::from(&gate).into_dyn())),
        ];
        inputs.extend(recent.inputs());
        graph.run(&inputs, ["frames"], |[frames]| {
            Ok(first::<_, Ix4>(frames)?.outer_iter().map(|frame| frame.to_owned()).collect())
        })
    }

    /// (costs, h, w), of a model with motion.
    fn costs_shape(&self) -> Option<[usize; 3]> {
        let [_, _, rows, columns] = self.clip_shape();
        self.manifest.motion.map(|motion| [motion.costs(), rows, columns])
    }

    fn clip_shape(&self) -> [usize; 4] {
        let geometry = &self.manifest.geometry;
        [geometry.clip, geometry.latent_channels, geometry.latent_height(), geometry.latent_width()]
    }

    fn check_clip(&self, clip: &Latents) -> Result<(), Error> {
        check("clip", clip.shape(), &self.clip_shape())
    }
}

/// The scale to hand to the denoise graph, if it takes one.
fn guidance(exported: f32, asked: Option<f32>) -> Result<Option<f32>, Error> {
    match (exported != 1.0, asked) {
        (true, asked) => Ok(Some(asked.unwrap_or(exported))),
        (false, None | Some(1.0)) => Ok(None),
        (false, Some(asked)) => Err(Error::Unguided { asked }),
    }
}

fn check(what: &'static str, found: &[usize], expected: &[usize]) -> Result<(), Error> {
    if found == expected {
        return Ok(());
    }
    Err(Error::Shape { what, found: found.into(), expected: expected.into() })
}

/// A picture as a graph reads that of one camera.
fn picture<'a>(frame: &'a CowArray<'_, u8, Ix3>) -> Input<'a> {
    Input::U8(frame.view().insert_axis(Axis(0)).into_dyn())
}

/// The one camera's part of an output, copied.
fn owned<D: Dimension>(batch: ArrayViewD<'_, f32>) -> ort::Result<Array<f32, D>> {
    Ok(first::<_, D>(batch)?.to_owned())
}

/// The one camera's part of an output.
fn first<T, D: Dimension>(batch: ArrayViewD<'_, T>) -> ort::Result<ArrayView<'_, T, D>> {
    batch.index_axis_move(Axis(0), 0).into_dimensionality().map_err(ort::Error::wrap)
}
