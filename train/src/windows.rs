//! Windows of pictures: what the runs learn from that train predictor and decoder together.

use anyhow::Result;
use nextclip_core::{Geometry, Motion};
use nextclip_scenes::Trace;
use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;
use tch::{Kind, Tensor};

use crate::fit::{Course, fit};
use crate::footage::{self, Origin};
use crate::gradients;
use crate::loss::Loss;
use crate::model::{AtWork, Model, Past, Pictures};
use crate::motion_error::source_error;
use crate::noise::{noised_history, normal};
use crate::params::Params;
use crate::placed::Placed;
use crate::pool::{Pool, Wanted};
use crate::told::{Told, going};
use crate::transformer::Estimate;
use crate::vae::{Vae, is_autoencoders, is_encoders};
use crate::validation::Validation;
use crate::ways::{self, Ways};

/// Pictures of a window that are rebuilt from their latents beside the predicted ones.
const REBUILT: usize = 2;

/// How windows are drawn.
#[derive(Clone, Copy, Debug)]
pub struct Windows {
    /// Windows a step.
    pub batch: usize,
    /// Share of windows whose history ends with the model's own prediction, where the footage is long enough.
    pub own_past: f64,
    /// Clips of generated scenes held in memory, where they are a source.
    pub pool: usize,
    /// Seed of everything random.
    pub seed: u64,
}

impl Windows {
    /// What a pool must hold for them.
    pub(crate) fn wanted(&self, geometry: &Geometry) -> Wanted {
        Wanted {
            scenes: self.pool,
            frames: geometry.history + 2 * geometry.clip,
            shortest: footage::shortest(geometry),
            motion: None,
        }
    }

    /// The windows of step `step`; the same for the same seed, whatever ran before.
    pub(crate) fn draw<'a>(&self, model: &Model, pool: &'a Pool, step: u64) -> Vec<Window<'a>> {
        let first = step * self.batch as u64;
        (first..first + self.batch as u64).map(|stream| Window::draw(self, model, pool, stream)).collect()
    }
}

/// Successive pictures of one film, and what is random about them.
#[derive(Debug)]
pub(crate) struct Window<'a> {
    /// (F, H, W, 3)
    pictures: Tensor,
    /// Where things are in these pictures, where that is known.
    traces: Option<Vec<&'a Trace>>,
    /// Whether the pictures are left for right.
    mirrored: bool,
    /// Whether the first N frames to come are predicted, and those after them learned from.
    onward: bool,
    pub(crate) rng: ChaCha8Rng,
    seed: u64,
    stream: u64,
}

/// What a noise is for: each has a stream of its own.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Noise {
    /// Of the clip that is learned from.
    Clip,
    /// Of its history.
    History,
    /// Of the clip that the model puts before it.
    Onward,
    /// That a critic's pictures are disturbed by.
    Critic,
}

/// A window as a model sees it, from where it predicts.
#[derive(Debug)]
pub(crate) struct Start {
    /// All of the window's pictures, (F, 3, H, W), in [-1, 1].
    frames: Tensor,
    /// Their latents, (1, F, c, h, w).
    latents: Tensor,
    /// What is remembered, slightly noised.
    pub(crate) past: Past,
    /// The pictures up to the last of it, (1, F, 3, H, W).
    pub(crate) seen: Tensor,
    clip: i64,
}

impl Start {
    /// The last picture that is remembered, (1, 1, 3, H, W).
    pub(crate) fn last(&self) -> Tensor {
        self.seen.narrow(1, self.seen.size()[1] - 1, 1)
    }

    /// The pictures that came, (N, 3, H, W).
    pub(crate) fn truth(&self) -> Tensor {
        self.frames.narrow(0, self.frames.size()[0] - self.clip, self.clip)
    }

    /// Their latents, (1, N, c, h, w).
    pub(crate) fn x1(&self) -> Tensor {
        self.latents.narrow(1, self.latents.size()[1] - self.clip, self.clip)
    }

    /// Some of the window's pictures and what the decoder makes of their latents, each (n, 3, H, W).
    pub(crate) fn rebuilt(&self, model: &AtWork<'_>, rng: &mut ChaCha8Rng) -> (Tensor, Tensor) {
        let some = rand::seq::index::sample(rng, self.frames.size()[0] as usize, REBUILT);
        let some: Vec<i64> = some.iter().map(|frame| frame as i64).collect();
        let some = Tensor::from_slice(&some).to_device(self.frames.device());
        let latents = self.latents.get(0).index_select(0, &some);
        (self.frames.index_select(0, &some), model.vae.decode(&latents))
    }
}

impl<'a> Window<'a> {
    fn draw(windows: &Windows, model: &Model, pool: &'a Pool, stream: u64) -> Self {
        let Geometry { history, clip, .. } = model.geometry;
        let mut rng = ChaCha8Rng::seed_from_u64(windows.seed ^ 0x9011_5b1e);
        rng.set_stream(stream);
        let wanted = history + if rng.random_bool(windows.own_past) { 2 * clip } else { clip };
        let drawn = pool.draw(&mut rng, 1, wanted, 1).remove(0);
        let found = drawn.frames.size()[0] as usize;
        let onward = found == history + 2 * clip;
        let frames = if onward { found } else { found.min(history + clip) };
        let mirrored = rng.random();
        let pictures = drawn.frames.narrow(0, 0, frames as i64).to_device(model.device);
        let pictures = if mirrored { pictures.flip([2]) } else { pictures };
        let traces = drawn.traces.map(|mut traces| {
            traces.truncate(frames);
            traces
        });
        Self { pictures, traces, mirrored, onward, rng, seed: windows.seed, stream }
    }

    /// The window as `model` sees it. Where it goes on from its own prediction, that is made here, without gradients.
    pub(crate) fn start(&mut self, model: &AtWork<'_>, geometry: &Geometry) -> Start {
        let (most, clip) = (geometry.history as i64, geometry.clip as i64);
        let frames = footage::normalised(&self.pictures);
        let count = frames.size()[0];
        let all = tch::no_grad(|| model.see(&frames));
        let known = count - if self.onward { 2 * clip } else { clip };

        let mut past = all.narrow(0, known);
        let mut seen = frames.narrow(0, 0, known).unsqueeze(0);
        if self.onward {
            let noise = self.noise(&all.latents.narrow(1, known, clip), Noise::Onward);
            (past, seen) = tch::no_grad(|| model.continued(&past, &seen, &noise));
            past = past.narrow((known + clip - most).max(0), (known + clip).min(most));
        }
        let noise = self.noise(&past.latents, Noise::History);
        past.latents = noised_history(&past.latents, &noise, &mut self.rng);
        Start { frames, latents: all.latents, past, seen, clip }
    }

    /// Whether it is known where things are in its pictures.
    pub(crate) fn is_traced(&self) -> bool {
        self.traces.is_some()
    }

    /// Distance of where things go and of where pixels come from, as the model says, from where they truly do, in
    /// log(1 + pixels); 0 where that is not known.
    pub(crate) fn motion_loss(&self, model: &AtWork<'_>, estimate: &Estimate, pictures: &Pictures) -> Tensor {
        let moved = pictures.moved.as_ref().zip(self.sources(pictures.shown.size()[1] as usize));
        let sources = moved.map(|(moved, truth)| source_error(&moved.landed.from, &truth));
        let motion = model.transformer.motion().zip(estimate.motion.as_ref());
        let motion = motion.and_then(|(sizes, motion)| {
            let clip = pictures.shown.size()[1] as usize;
            let truth = self.ways(motion.size()[1] as usize, clip, &sizes)?;
            let (response, scale) = (model.transformer.response(), model.transformer.pixels_per_cell());
            Some(truth.error(&sizes, motion, response, scale))
        });
        let none = Tensor::zeros([], (Kind::Float, self.pictures.device()));
        sources.into_iter().chain(motion).fold(none, |sum, error| sum + error)
    }

    /// The pictures (1, N, 3, H, W) that there would be if things went where the model says, and what is to be where in them, where
    /// that is as one and it is known where they are.
    pub(crate) fn told(
        &self,
        model: &AtWork<'_>,
        start: &Start,
        pictures: &Pictures,
    ) -> Option<(Tensor, Placed)> {
        let sizes = model.transformer.motion().filter(|sizes| sizes.whole && !self.onward)?;
        let (traces, turned) = (self.traces.as_ref()?, pictures.moved.as_ref()?.landed.turned.as_ref()?);
        let clip = start.clip as usize;
        let ways = self.ways(1, clip, &sizes)?;
        let scale = model.transformer.pixels_per_cell();
        let (past, to_come) = traces.split_at(traces.len() - clip);
        tch::no_grad(|| {
            let going = going(&sizes, &ways, turned, start.clip, scale);
            let cells = [4, 5].map(|axis| turned.displacements.size()[axis]);
            let members = ways.members(&going.best, sizes.candidates as i64, cells).squeeze_dim(0);
            let members = members.unflatten(0, [sizes.candidates as i64, -1].as_slice());
            let back = |&frames: &usize| Some(past[past.len().checked_sub(1 + frames)?]);
            let seen: Vec<_> = [0].iter().chain(sizes.followed_frames()).map(back).collect();
            let told = Told::of(&seen, to_come, &going.ways, self.mirrored)?;
            let aim = told.pictures(&start.last(), &start.truth().unsqueeze(0), &pictures.shown);
            Some((aim, told.placed(&going, &members)))
        })
    }

    /// Where the pixels of the last `clip` frames were in the last frame before them, (1, N, 2, H, W), x then y in pixels,
    /// where that is known.
    fn sources(&self, clip: usize) -> Option<Tensor> {
        let traces = self.traces.as_ref()?;
        let (past, future) = traces.split_at(traces.len() - clip);
        let sources = ways::sources(past[past.len() - 1], future);
        let sources = if self.mirrored { ways::mirrored(&sources) } else { sources };
        Some(sources.unsqueeze(0).to_device(self.pictures.device()))
    }

    /// Where points of the last `history` frames before the last `clip` are at the moments of each, where that is known.
    fn ways(&self, history: usize, clip: usize, sizes: &Motion) -> Option<Ways> {
        let traces = self.traces.as_ref()?;
        let first = traces.len() - clip - history;
        let ways = Ways::of(traces, first..first + history, &sizes.moments(clip));
        Some(if self.mirrored { ways.mirrored() } else { ways }.to_device(self.pictures.device()))
    }

    pub(crate) fn noise(&self, like: &Tensor, purpose: Noise) -> Tensor {
        normal(like, self.seed, 4 * self.stream + purpose as u64)
    }
}

/// Trains those of `params` that are not frozen on `windows` of the origins' pictures, or goes on; `loss` is that of one window.
/// Returns what [`fit`] does.
pub(crate) fn learn(
    name: &str,
    course: &Course,
    windows: &Windows,
    origins: &[Origin],
    model: &Model,
    params: Params,
    loss: impl Fn(Window<'_>, &Params) -> Result<Loss> + Sync,
) -> Result<Params> {
    let pool = Pool::of_pictures(origins, &model.geometry, &windows.wanted(&model.geometry))?;
    let validation = Validation::new(origins, model, windows.seed, &Vae::new(&model.vae, &params))?;
    let gradients = |params: &Params, step| {
        gradients::of_parts(params, windows.draw(model, &pool, step), |params, window| loss(window, params))
    };
    let validate = |params: &Params| Ok(validation.gain_db(&model.with(params, params)?));
    fit(name, course, params, gradients, validate)
}

/// Added to a frame's mean squared error on the scale of [-1, 1] before its logarithm: 40 dB. A frame that is better
/// has little more to gain.
pub(crate) const PIXEL_FLOOR: f64 = 4e-4;

/// Mean over frames (n, c, h, w) of the logarithm of their mean square plus `floor`.
pub(crate) fn log_mse(difference: &Tensor, floor: f64) -> Tensor {
    let mse = difference.square().mean_dim([1_i64, 2, 3].as_slice(), false, Kind::Float);
    (mse + floor).log().mean(Kind::Float)
}

/// Whether a tensor makes pictures of what was predicted: the decoder's, and the blend's.
pub(crate) fn paints(name: &str) -> bool {
    (is_autoencoders(name) && !is_encoders(name)) || name.starts_with("motion.blend.")
}
