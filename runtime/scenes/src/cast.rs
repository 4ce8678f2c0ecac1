//! Setting scenes up: which objects, where, how fast, in front of what.

use crate::Kind;
use crate::arena::Arena;
use crate::backdrop::{Texture, backdrop};
use crate::belt::Belt;
use crate::body::Surface;
use crate::canvas::Canvas;
use crate::dice::Dice;
use crate::look::{Form, Look, Palette, from_hsv};
use crate::math::{Vec2, unit, vec2};
use crate::swing::Pendulum;

/// What moves in a scene.
#[derive(Clone, Debug)]
pub(crate) enum Stage {
    Arena(Box<Arena>),
    Swing(Vec<Pendulum>),
    Belt(Box<Belt>),
}

impl Stage {
    pub(crate) fn tick(&mut self, dt: f64) {
        match self {
            Stage::Arena(arena) => arena.tick(dt),
            Stage::Swing(pendulums) => pendulums.iter_mut().for_each(|pendulum| pendulum.tick(dt)),
            Stage::Belt(belt) => belt.tick(dt),
        }
    }

    pub(crate) fn draw(&self, canvas: &mut Canvas, camera: Vec2) {
        match self {
            Stage::Arena(arena) => arena.draw(canvas, camera),
            Stage::Swing(pendulums) => pendulums.iter().for_each(|pendulum| pendulum.draw(canvas)),
            Stage::Belt(belt) => belt.draw(canvas),
        }
    }

    /// Every point that must stay in the room, with the radius that must stay in around it.
    #[cfg(test)]
    pub(crate) fn extents(&self) -> Vec<(Vec2, f64)> {
        let outline = |body: &crate::body::Body| {
            let round = body.form.round;
            body.corners().as_slice().iter().map(|&corner| (corner, round)).collect::<Vec<_>>()
        };
        match self {
            Stage::Arena(arena) => arena.bodies.iter().flat_map(outline).collect(),
            Stage::Swing(pendulums) => pendulums.iter().map(Pendulum::extent).collect(),
            Stage::Belt(_) => Vec::new(),
        }
    }
}

/// A thing that stands still in front of the scene.
#[derive(Clone, Debug)]
pub(crate) struct Prop {
    pub(crate) form: Form,
    pub(crate) at: Vec2,
    pub(crate) look: Look,
}

/// A camera on a slow closed path over a ground larger than the frame.
#[derive(Clone, Debug)]
pub(crate) struct Camera {
    swing: Vec2,
    /// In rad/s, per axis.
    rate: Vec2,
    phase: Vec2,
}

impl Camera {
    /// The frame's top left corner on the ground.
    pub(crate) fn corner(&self, now_s: f64) -> Vec2 {
        let x = unit(self.phase.x + self.rate.x * now_s).x;
        let y = unit(self.phase.y + self.rate.y * now_s).x;
        vec2(self.swing.x * (1.0 + x), self.swing.y * (1.0 + y))
    }
}

/// A scene before its warm-up.
pub(crate) struct Set {
    pub(crate) backdrop: Canvas,
    pub(crate) stage: Stage,
    pub(crate) props: Vec<Prop>,
    pub(crate) camera: Option<Camera>,
    pub(crate) warm_up_s: f64,
}

/// Draws everything that a scene of `kind` needs from `dice`; `size` is (width, height) in pixels.
pub(crate) fn set_up(kind: Kind, dice: &mut Dice, size: (usize, usize), endless: bool) -> Set {
    if kind == Kind::Pan {
        return pan(dice, size);
    }
    let aspect = size.0 as f64 / size.1 as f64;
    let (mut canvas, dark) = backdrop(dice, vec2(aspect, 1.0), size.1 as f64, Texture::Calm);
    let mut palette = Palette::new(dice, dark);
    let (low, high) = (vec2(0.0, 0.0), vec2(aspect, 1.0));
    let mut props = Vec::new();
    let mut warm_up_s = dice.range(0.0, 6.0);
    let stage = match kind {
        Kind::Gravity => {
            warm_up_s = dice.range(0.0, 1.2);
            Stage::Arena(Box::new(gravity(dice, aspect, &mut canvas, &mut palette, endless)))
        }
        Kind::Billiard => Stage::Arena(Box::new(billiard(dice, aspect, &mut canvas, &mut palette))),
        Kind::Pendulum => {
            let two = dice.chance(0.55);
            let places: &[f64] = if two { &[0.36, 0.64] } else { &[0.5] };
            Stage::Swing(
                places.iter().map(|x| Pendulum::new(dice, x * aspect, aspect, &mut palette)).collect(),
            )
        }
        Kind::Conveyor => Stage::Belt(Box::new(Belt::new(dice, aspect, dark, palette))),
        Kind::Occlusion => {
            props = pillars(dice, aspect, dark);
            let mut arena = Arena::elastic(low, high);
            arena.collide = false;
            for _ in 0..2 + dice.index(2) {
                let form = Form::random(dice, aspect.min(1.0));
                let velocity = vec2(dice.either(0.2, 0.42), dice.either(0.0, 0.1));
                launch(&mut arena, dice, form, &mut palette, velocity);
            }
            Stage::Arena(Box::new(arena))
        }
        Kind::Bounce | Kind::Pan => {
            let mut arena = Arena::elastic(low, high);
            for _ in 0..2 + dice.index(2) {
                let form = Form::random(dice, aspect.min(1.0));
                let velocity = heading(dice, 0.15, 0.37);
                launch(&mut arena, dice, form, &mut palette, velocity);
            }
            Stage::Arena(Box::new(arena))
        }
    };
    Set { backdrop: canvas, stage, props, camera: None, warm_up_s }
}

/// A velocity of this speed in a random direction.
fn heading(dice: &mut Dice, slow: f64, fast: f64) -> Vec2 {
    unit(dice.range(0.0, std::f64::consts::TAU)) * dice.range(slow, fast)
}

fn launch(arena: &mut Arena, dice: &mut Dice, form: Form, palette: &mut Palette, velocity: Vec2) {
    let spin = dice.either(0.1, 0.9);
    if let Some(body) = arena.place(dice, form, palette) {
        (body.velocity, body.spin) = (velocity, spin);
    }
}

fn gravity(dice: &mut Dice, aspect: f64, canvas: &mut Canvas, palette: &mut Palette, endless: bool) -> Arena {
    let floor = dice.range(0.86, 0.94);
    let mut ground = Look::plain(from_hsv(dice.fraction(), 0.25, dice.range(0.3, 0.62)));
    ground.shadow = 0.15;
    let slab = Form::rounded_rect(vec2(aspect, 0.3), 0.002);
    canvas.paint(&slab, vec2(0.5 * aspect, floor + 0.3), 0.0, &ground);
    // Bodies are thrown in the upper part of the room.
    let mut arena = Arena::elastic(vec2(0.0, 0.0), vec2(aspect, 0.6));
    for _ in 0..1 + dice.index(3) {
        let form = Form::random(dice, aspect.min(1.0));
        let velocity = vec2(dice.either(0.1, 0.32), dice.range(-0.3, 0.1));
        launch(&mut arena, dice, form, palette, velocity);
    }
    arena.high.y = floor;
    arena.gravity = dice.range(0.34, 0.52);
    arena.surface = Surface { restitution: dice.range(0.84, 0.95), friction: 0.12 };
    arena.relaunch = endless.then(|| dice.clone());
    arena
}

fn billiard(dice: &mut Dice, aspect: f64, canvas: &mut Canvas, palette: &mut Palette) -> Arena {
    let rim = 0.035;
    let cloth = from_hsv(dice.fraction(), dice.range(0.25, 0.45), dice.range(0.4, 0.54));
    let table = Form::rounded_rect(vec2(0.5 * aspect - rim, 0.5 - rim), 0.02);
    canvas.paint(&table, vec2(0.5 * aspect, 0.5), 0.0, &Look::plain(cloth));
    let mut arena = Arena::elastic(vec2(rim, rim), vec2(aspect - rim, 1.0 - rim));
    for i in 0..3 + dice.index(3) {
        let form = Form::disc(dice.range(0.065, 0.1) * aspect.min(1.0));
        // One fast disc at least; the others wait for it or wander.
        let velocity = if i == 0 { heading(dice, 0.32, 0.48) } else { heading(dice, 0.05, 0.24) };
        launch(&mut arena, dice, form, palette, velocity);
    }
    for body in &mut arena.bodies {
        // Same size, other material: some discs are heavier than they look.
        body.weigh(dice.range(0.7, 1.6));
    }
    arena
}

fn pillars(dice: &mut Dice, aspect: f64, dark: bool) -> Vec<Prop> {
    let count = 1 + dice.index(2);
    let value = if dark { dice.range(0.45, 0.62) } else { dice.range(0.4, 0.58) };
    let mut look = Look::plain(from_hsv(dice.fraction(), dice.range(0.12, 0.4), value));
    look.shadow = 0.28;
    (0..count)
        .map(|i| {
            let half = if count == 1 { dice.range(0.11, 0.15) } else { dice.range(0.065, 0.09) };
            let place = (i as f64 + dice.range(0.4, 0.6)) / count as f64;
            let form = Form::rounded_rect(vec2(half * aspect.min(1.3), 0.7), 0.02);
            Prop { form, at: vec2(place * aspect, 0.5), look }
        })
        .collect()
}

fn pan(dice: &mut Dice, size: (usize, usize)) -> Set {
    let aspect = size.0 as f64 / size.1 as f64;
    let swing = vec2(dice.range(0.35, 0.6), dice.range(0.1, 0.35));
    let speed = dice.range(0.15, 0.28);
    let camera = Camera {
        swing,
        rate: vec2(speed / swing.x, 0.7 * speed / swing.y.max(0.2)),
        phase: vec2(dice.range(0.0, std::f64::consts::TAU), dice.range(0.0, std::f64::consts::TAU)),
    };
    let ground = vec2(aspect + 2.0 * swing.x, 1.0 + 2.0 * swing.y);
    let (canvas, dark) = backdrop(dice, ground, size.1 as f64, Texture::Rich);
    let mut palette = Palette::new(dice, dark);
    let mut arena = Arena::elastic(vec2(0.0, 0.0), ground);
    for i in 0..5 + dice.index(3) {
        let form = Form::random(dice, aspect.min(1.0));
        let velocity = if i % 2 == 0 { Vec2::default() } else { heading(dice, 0.15, 0.36) };
        launch(&mut arena, dice, form, &mut palette, velocity);
    }
    let still = |body: &&mut crate::body::Body| body.velocity == Vec2::default();
    arena.bodies.iter_mut().filter(still).for_each(|body| body.spin = 0.0);
    let warm_up_s = dice.range(0.0, 4.0);
    Set {
        backdrop: canvas,
        stage: Stage::Arena(Box::new(arena)),
        props: Vec::new(),
        camera: Some(camera),
        warm_up_s,
    }
}
