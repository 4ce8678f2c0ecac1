//! Generated scenes of moving objects: seeded, endless, free of licences.
//!
//! A camera watches things move and collide. The pictures train and test a model that predicts the next pictures, so
//! the motion is lawful: what seven pictures 200 ms apart show decides what comes next. Lengths are in frame heights,
//! so a scene looks the same at any resolution; the same seed gives the same pixels.
//!
//! ```
//! use nextclip_scenes::{Scene, Split, clip};
//!
//! let pictures = clip(Split::Train, 7, 64, 64, 12, 0.2);
//! assert_eq!(pictures.len(), 12);
//! let mut live = Scene::endless(7, 128, 96);
//! live.advance(0.04);
//! assert_eq!(live.render().dim(), (96, 128, 3));
//! ```

mod arena;
mod backdrop;
mod belt;
mod body;
mod canvas;
mod cast;
mod dice;
mod look;
mod math;
mod swing;
#[cfg(test)]
mod tests;
mod trace;

use crate::canvas::Canvas;
use crate::cast::{Camera, Prop, Stage};
use crate::dice::Dice;
use crate::math::{Vec2, vec2};

pub use crate::trace::{Trace, Way};

/// RGB, (height, width, 3).
pub type Picture = nextclip_core::Picture;

/// Internal steps per second; 200 ms, 40 ms and 1/60 s are whole numbers of steps.
pub(crate) const TICKS_PER_S: f64 = 240.0;

/// Disjoint families of scenes: a held-out clip is never a training clip, whatever the seeds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Split {
    /// For training.
    Train,
    /// For what is decided during training: when to stop, which settings.
    Validation,
    /// For evaluation and demonstration; decides nothing.
    HeldOut,
}

/// What happens in a scene.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Kind {
    /// Objects fly through a room without gravity and bounce off its walls and each other.
    Bounce,
    /// Objects are thrown and bounce on a floor.
    Gravity,
    /// Discs of different mass collide on a table.
    Billiard,
    /// One or two pendulums swing.
    Pendulum,
    /// A belt carries objects, in some scenes over its end.
    Conveyor,
    /// Objects pass behind pillars and come out again.
    Occlusion,
    /// The camera itself moves over a textured ground with objects.
    Pan,
}

impl Kind {
    /// Every kind, in the order of declaration.
    pub const ALL: [Kind; 7] = [
        Kind::Bounce,
        Kind::Gravity,
        Kind::Billiard,
        Kind::Pendulum,
        Kind::Conveyor,
        Kind::Occlusion,
        Kind::Pan,
    ];
}

/// A scene at one moment.
#[derive(Clone, Debug)]
pub struct Scene {
    kind: Kind,
    width: usize,
    height: usize,
    elapsed_s: f64,
    ticks: u64,
    backdrop: Canvas,
    stage: Stage,
    /// Things in front of everything that moves.
    props: Vec<Prop>,
    camera: Option<Camera>,
}

impl Scene {
    /// A scene whose kind the seed chooses, in the middle of its motion; `width` and `height` in pixels, at least 1.
    pub fn new(split: Split, seed: u64, width: usize, height: usize) -> Scene {
        Scene::of_kind(kind_of(split, seed), split, seed, width, height)
    }

    /// A scene of this kind.
    pub fn of_kind(kind: Kind, split: Split, seed: u64, width: usize, height: usize) -> Scene {
        Scene::build(kind, split, seed, (width, height), false)
    }

    /// A held-out scene that never comes to rest: what has lost its energy is thrown again.
    pub fn endless(seed: u64, width: usize, height: usize) -> Scene {
        Scene::build(kind_of(Split::HeldOut, seed), Split::HeldOut, seed, (width, height), true)
    }

    fn build(kind: Kind, split: Split, seed: u64, size: (usize, usize), endless: bool) -> Scene {
        let (width, height) = (size.0.max(1), size.1.max(1));
        let mut dice = Dice::new(split, 1 + kind as u8, seed);
        let set = cast::set_up(kind, &mut dice, (width, height), endless);
        let mut scene = Scene {
            kind,
            width,
            height,
            elapsed_s: 0.0,
            ticks: 0,
            backdrop: set.backdrop,
            stage: set.stage,
            props: set.props,
            camera: set.camera,
        };
        for _ in 0..(set.warm_up_s * TICKS_PER_S) as usize {
            scene.stage.tick(1.0 / TICKS_PER_S);
        }
        scene
    }

    /// What happens here.
    pub fn kind(&self) -> Kind {
        self.kind
    }

    /// Lets time pass, in whole steps of 1/240 s; what is left of a step counts towards the next call.
    ///
    /// Negative and non-finite times are ignored.
    pub fn advance(&mut self, seconds: f64) {
        if !(seconds.is_finite() && seconds > 0.0) {
            return;
        }
        self.elapsed_s += seconds;
        // The margin absorbs the rounding of sums, so that three calls of 0.2 s are one of 0.6 s.
        let due = (self.elapsed_s * TICKS_PER_S + 1e-4) as u64;
        while self.ticks < due {
            self.stage.tick(1.0 / TICKS_PER_S);
            self.ticks += 1;
        }
    }

    /// The picture of this moment, (height, width, 3).
    pub fn render(&self) -> Picture {
        let corner = self.corner();
        let mut canvas = match self.camera {
            Some(_) => self.backdrop.window(corner, self.width, self.height),
            None => self.backdrop.clone(),
        };
        self.paint(&mut canvas, corner);
        canvas.into_picture()
    }

    /// Where everything is at this moment.
    pub fn trace(&self) -> Trace {
        let corner = self.corner();
        let mut canvas = Canvas::listing();
        self.paint(&mut canvas, corner);
        Trace { width: self.width, height: self.height, corner, strokes: canvas.into_strokes() }
    }

    /// The frame's top left corner on the ground.
    fn corner(&self) -> Vec2 {
        let now_s = self.ticks as f64 / TICKS_PER_S;
        self.camera.as_ref().map_or(vec2(0.0, 0.0), |camera| camera.corner(now_s))
    }

    fn paint(&self, canvas: &mut Canvas, corner: Vec2) {
        self.stage.draw(canvas, corner);
        for prop in &self.props {
            canvas.paint(&prop.form, prop.at, 0.0, &prop.look);
        }
    }
}

fn kind_of(split: Split, seed: u64) -> Kind {
    Kind::ALL[Dice::new(split, 0, seed).index(Kind::ALL.len())]
}

/// `frames` pictures of [`Scene::new`], `interval_s` seconds apart.
pub fn clip(
    split: Split,
    seed: u64,
    width: usize,
    height: usize,
    frames: usize,
    interval_s: f64,
) -> Vec<Picture> {
    moments(split, seed, (width, height), frames, interval_s).map(|scene| scene.render()).collect()
}

/// Where everything is in the pictures of [`clip`].
pub fn traces(
    split: Split,
    seed: u64,
    width: usize,
    height: usize,
    frames: usize,
    interval_s: f64,
) -> Vec<Trace> {
    moments(split, seed, (width, height), frames, interval_s).map(|scene| scene.trace()).collect()
}

/// `frames` moments of [`Scene::new`], `interval_s` seconds apart.
fn moments(
    split: Split,
    seed: u64,
    (width, height): (usize, usize),
    frames: usize,
    interval_s: f64,
) -> impl Iterator<Item = Scene> {
    let first = Scene::new(split, seed, width, height);
    let next = move |scene: &Scene| {
        let mut scene = scene.clone();
        scene.advance(interval_s);
        Some(scene)
    };
    std::iter::successors(Some(first), next).take(frames)
}
