//! From frames to predicted clips: the four graphs, the cache between them and the sampling loop.

use std::path::Path;

use log::info;
use ndarray::{
    Array3, Array4, ArrayView, ArrayView1, ArrayView3, ArrayView4, ArrayViewD, Axis, Dimension, Ix3, Ix4,
};
use nextclip_core::sampler::{TimeGrid, noise};
use nextclip_core::{History, Latents, Manifest, Picture};

use crate::bundle;
use crate::cache::Cache;
use crate::clip::PredictedClip;
use crate::contract::{DECODE, DENOISE, ENCODE, REMEMBER};
use crate::error::Error;
use crate::graph::{GraphSession, Input, Probe};
use crate::provider::{Execution, GpuSettings, Provider};

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
    /// The newest frame seen: pictures of the future are made with its help.
    last_frame: Option<Picture>,
    encode: Option<GraphSession>,
    remember: GraphSession,
    denoise: GraphSession,
    decode: Option<GraphSession>,
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
            last_frame: None,
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
        let geometry = &self.manifest.geometry;
        check("frame", frame.shape(), &[geometry.height, geometry.width, 3])?;
        let graph = self.encode.as_mut().ok_or(Error::NoVae(ENCODE))?;
        let frame = frame.as_standard_layout();
        let inputs = [("frames", Input::U8(frame.view().insert_axis(Axis(0)).into_dyn()))];
        graph.run(&inputs, ["latents"], |[latents]| Ok(first::<_, Ix3>(latents)?.to_owned()))
    }

    /// Adds a frame, as its clean latent (c, h, w), to what predictions are made from. The oldest
    /// frame leaves where the window is full.
    pub fn remember(&mut self, latent: ArrayView3<'_, f32>) -> Result<(), Error> {
        let geometry = &self.manifest.geometry;
        let expected = [geometry.latent_channels, geometry.latent_height(), geometry.latent_width()];
        check("latent", latent.shape(), &expected)?;
        let latent = latent.as_standard_layout();
        self.cache.remember(&mut self.remember, latent.view().insert_axis(Axis(0)))
    }

    /// Encodes and remembers a frame; returns its latent (c, h, w).
    pub fn see(&mut self, frame: &Picture) -> Result<Array3<f32>, Error> {
        let latent = self.encode(frame)?;
        self.remember(latent.view())?;
        match &mut self.last_frame {
            Some(last) => last.assign(frame),
            none => *none = Some(frame.clone()),
        }
        Ok(latent)
    }

    /// Forgets every frame, as after a gap in the stream.
    pub fn forget(&mut self) {
        self.cache.clear();
        self.last_frame = None;
    }

    /// One Euler step from `t` to `t_next` for a clip (N, c, h, w) that follows the remembered frames.
    /// With `t_next` = 1 the result is the estimate of the clean clip. Motion is that of the clean clip, wherever
    /// the step ends.
    pub fn denoise(&mut self, z: &Latents, t: f32, t_next: f32) -> Result<PredictedClip, Error> {
        self.check_clip(z)?;
        let z = z.as_standard_layout();
        let (t, t_next) = ([t], [t_next]);
        let guidance = self.guidance.map(|scale| [scale]);
        let scalar = |value| Input::F32(ArrayView1::from(value).into_dyn());
        let mut inputs = vec![("z", of_clip(z.view())), ("t", scalar(&t)), ("t_next", scalar(&t_next))];
        inputs.extend(self.cache.now());
        inputs.extend(guidance.as_ref().map(|scale| ("guidance", scalar(scale))));
        if self.manifest.motion.is_none() {
            let latents = self.denoise.run(&inputs, ["z_next"], |[z_next]| clip_of(z_next))?;
            return Ok(PredictedClip { latents, motion: None });
        }
        self.denoise.run(&inputs, ["z_next", "motion"], |[z_next, motion]| {
            Ok(PredictedClip { latents: clip_of(z_next)?, motion: Some(clip_of(motion)?) })
        })
    }

    /// Denoises a clip (N, c, h, w) from noise to clean, in [`Self::steps`] steps; the last one's motion counts.
    pub fn sample(&mut self, noise: Latents) -> Result<PredictedClip, Error> {
        let steps: Vec<_> = self.grid.steps().collect();
        let noise = PredictedClip { latents: noise, motion: None };
        steps.into_iter().try_fold(noise, |clip, (t, t_next)| self.denoise(&clip.latents, t, t_next))
    }

    /// Predicts the clip that follows the remembered frames. The same seed and stream give the same clip; `stream` is
    /// the prediction's number.
    pub fn predict(&mut self, seed: u64, stream: u64) -> Result<PredictedClip, Error> {
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
        let geometry = &self.manifest.geometry;
        let blank = Picture::zeros((geometry.height, geometry.width, 3));
        let still = self.motion_shape().map(Array4::zeros);
        self.pictures(latents, still.as_ref(), &blank, 0.0)
    }

    /// The pictures of a predicted clip, made with the newest frame that [`Self::see`] was given: a model with motion
    /// moves it to where it is predicted to be; of one without, what is not predicted to change stays as it was. Without
    /// a frame, the same as [`Self::decode`].
    pub fn render(&mut self, clip: &PredictedClip) -> Result<Vec<Picture>, Error> {
        let Some(last) = self.last_frame.take() else { return self.decode(&clip.latents) };
        let pictures = self.pictures(&clip.latents, clip.motion.as_ref(), &last, 1.0);
        self.last_frame = Some(last);
        pictures
    }

    /// Goes on from a predicted clip as if it had been seen; `pictures` are what [`Self::render`] made of it.
    ///
    /// Motion begins at the last frame of the history, so that a model with motion sees the pictures, as the published
    /// code does. One without remembers the latents, without a way through pixels, and goes on to keep of the last real
    /// frame what does not change.
    pub fn follow(&mut self, clip: &PredictedClip, pictures: &[Picture]) -> Result<(), Error> {
        self.check_clip(&clip.latents)?;
        if self.manifest.motion.is_none() {
            return clip.latents.outer_iter().try_for_each(|latent| self.remember(latent));
        }
        check("pictures of a clip", &[pictures.len()], &[self.manifest.geometry.clip])?;
        pictures.iter().try_for_each(|picture| self.see(picture).map(drop))
    }

    fn pictures(
        &mut self,
        latents: &Latents,
        motion: Option<&Array4<f32>>,
        last: &Picture,
        gate: f32,
    ) -> Result<Vec<Picture>, Error> {
        self.check_clip(latents)?;
        let nothing: &[usize] = &[];
        check(
            "motion of a clip",
            motion.map_or(nothing, |motion| motion.shape()),
            self.motion_shape().as_ref().map_or(nothing, |shape| shape),
        )?;
        let graph = self.decode.as_mut().ok_or(Error::NoVae(DECODE))?;
        let (latents, last, gate) = (latents.as_standard_layout(), last.as_standard_layout(), [gate]);
        let motion = motion.map(|motion| motion.as_standard_layout());
        let mut inputs = vec![
            ("latents", of_clip(latents.view())),
            ("last_frames", Input::U8(last.view().insert_axis(Axis(0)).into_dyn())),
            ("gate", Input::F32(ArrayView1::from(&gate).into_dyn())),
        ];
        inputs.extend(motion.as_ref().map(|motion| ("motion", of_clip(motion.view()))));
        graph.run(&inputs, ["frames"], |[frames]| {
            Ok(first::<_, Ix4>(frames)?.outer_iter().map(|frame| frame.to_owned()).collect())
        })
    }

    fn clip_shape(&self) -> [usize; 4] {
        let geometry = &self.manifest.geometry;
        [geometry.clip, geometry.latent_channels, geometry.latent_height(), geometry.latent_width()]
    }

    /// (N, m, h, w), of a model with motion.
    fn motion_shape(&self) -> Option<[usize; 4]> {
        let [frames, _, rows, columns] = self.clip_shape();
        self.manifest.motion.map(|motion| [frames, motion.channels(), rows, columns])
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

/// A clip (N, c, h, w) as a graph reads that of one camera.
fn of_clip(array: ArrayView4<'_, f32>) -> Input<'_> {
    Input::F32(array.insert_axis(Axis(0)).into_dyn())
}

/// And back.
fn clip_of(batch: ArrayViewD<'_, f32>) -> ort::Result<Array4<f32>> {
    Ok(first::<_, Ix4>(batch)?.to_owned())
}

/// The one camera's part of an output.
fn first<T, D: Dimension>(batch: ArrayViewD<'_, T>) -> ort::Result<ArrayView<'_, T, D>> {
    batch.index_axis_move(Axis(0), 0).into_dimensionality().map_err(ort::Error::wrap)
}
