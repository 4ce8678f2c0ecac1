//! Conveyor belts: marks, wheels and cargo at one speed, and cargo that tips over the belt's end.

use crate::canvas::Canvas;
use crate::dice::Dice;
use crate::look::{Form, Look, Marking, Palette, mix};
use crate::math::{Vec2, unit, vec2};

const MARK_SPACING: f64 = 0.16;
const WHEEL: f64 = 0.07;
const THICKNESS: f64 = 0.022;
/// In frame heights per second squared.
const GRAVITY: f64 = 0.7;

/// What cargo is doing.
#[derive(Clone, Copy, Debug)]
enum Motion {
    Carried,
    /// Turning about the belt's end, `slide` past it.
    Tipping {
        slide: f64,
        rate: f64,
    },
    Falling {
        velocity: Vec2,
        spin: f64,
    },
}

#[derive(Clone, Debug)]
struct Cargo {
    form: Form,
    look: Look,
    at: Vec2,
    angle_rad: f64,
    motion: Motion,
}

/// A belt that runs to the right, or to the left where `mirrored`, and feeds itself for ever.
#[derive(Clone, Debug)]
pub(crate) struct Belt {
    aspect: f64,
    mirrored: bool,
    /// Height of the carrying surface.
    top: f64,
    /// Where the belt ends; beyond the frame for one that runs through.
    end: f64,
    /// In frame heights per second.
    speed: f64,
    travelled: f64,
    /// Travel at which the next piece of cargo enters.
    next_at: f64,
    cargo: Vec<Cargo>,
    steel: Look,
    rubber: Look,
    mark: Look,
    wheel: Look,
    palette: Palette,
    dice: Dice,
}

impl Belt {
    pub(crate) fn new(dice: &mut Dice, aspect: f64, dark: bool, mut palette: Palette) -> Belt {
        let ends = dice.chance(0.6);
        let tint = palette.next(dice);
        let shade = if dark { [112.0, 115.0, 122.0] } else { [96.0, 100.0, 108.0] };
        let mut rubber = Look::plain([66.0, 68.0, 74.0]);
        rubber.shadow = 0.2;
        let steel = Look::plain(mix(shade, tint, 0.25));
        let mut wheel = Look::plain(mix([150.0, 152.0, 158.0], tint, 0.15));
        wheel.second = [104.0, 106.0, 114.0];
        wheel.marking = Marking::Stripe { half: 0.013 };
        let mut belt = Belt {
            aspect,
            mirrored: dice.chance(0.5),
            top: dice.range(0.52, 0.72),
            end: aspect * if ends { dice.range(0.6, 0.82) } else { 1.4 } + if ends { 0.0 } else { 0.3 },
            speed: if ends { dice.range(0.17, 0.25) } else { dice.range(0.15, 0.25) },
            travelled: 0.0,
            next_at: 0.0,
            cargo: Vec::new(),
            steel,
            rubber,
            mark: Look::plain(mix([140.0, 137.0, 130.0], tint, 0.2)),
            wheel,
            palette,
            dice: dice.clone(),
        };
        // Run until the first cargo has crossed the frame.
        let warm_up_s = (aspect + 0.8) / belt.speed + dice.range(0.0, 5.0);
        for _ in 0..(warm_up_s * crate::TICKS_PER_S) as usize {
            belt.tick(1.0 / crate::TICKS_PER_S);
        }
        belt
    }

    pub(crate) fn tick(&mut self, dt: f64) {
        self.travelled += self.speed * dt;
        if self.travelled >= self.next_at {
            self.feed();
        }
        let (end, top, speed) = (self.end, self.top, self.speed);
        for cargo in &mut self.cargo {
            cargo.tick(dt, vec2(end, top), speed);
        }
        let right = self.aspect + 0.4;
        self.cargo.retain(|cargo| cargo.at.x < right && cargo.at.y < 1.3);
    }

    fn feed(&mut self) {
        let form = Form::random(&mut self.dice, self.aspect.min(1.0));
        let look = Look::random(&mut self.dice, &form, &mut self.palette);
        let width = form.half_face().max(form.rest_height());
        let at = vec2(-0.3, self.top - form.rest_height());
        self.next_at += 2.0 * width + 0.13 + self.dice.range(0.05, 0.32);
        let angle_rad = match form.core {
            crate::look::Core::Point => self.dice.range(0.0, std::f64::consts::TAU),
            _ => 0.0,
        };
        self.cargo.push(Cargo { form, look, at, angle_rad, motion: Motion::Carried });
    }

    pub(crate) fn draw(&self, canvas: &mut Canvas) {
        let flip = |at: Vec2| if self.mirrored { vec2(self.aspect - at.x, at.y) } else { at };
        let sign = if self.mirrored { -1.0 } else { 1.0 };
        let start = -0.4;
        let middle = vec2(0.5 * (start + self.end), self.top + WHEEL + THICKNESS);
        let half = 0.5 * (self.end - start);
        let outer = Form::rounded_rect(vec2(half + WHEEL, WHEEL + THICKNESS), WHEEL + THICKNESS - 0.001);
        canvas.paint(&outer, flip(middle), 0.0, &self.rubber);
        let inner = Form::rounded_rect(vec2(half + WHEEL - THICKNESS, WHEEL), WHEEL - 0.001);
        canvas.paint(&inner, flip(middle), 0.0, &self.steel);
        let turned = self.travelled / (WHEEL + THICKNESS);
        let mut x = self.end;
        while x > -0.1 {
            let wheel = Form::disc(WHEEL - 0.012);
            canvas.paint(&wheel, flip(vec2(x, middle.y)), sign * turned, &self.wheel);
            x -= 0.38;
        }
        self.draw_marks(canvas, flip);
        for cargo in &self.cargo {
            canvas.paint(&cargo.form, flip(cargo.at), sign * cargo.angle_rad, &cargo.look);
        }
    }

    /// Marks ride along the top and back along the underside; at the ends they shrink instead of going round.
    fn draw_marks(&self, canvas: &mut Canvas, flip: impl Fn(Vec2) -> Vec2) {
        let phase = self.travelled % MARK_SPACING;
        let count = ((self.end + 0.4) / MARK_SPACING) as usize + 1;
        let under = self.top + 2.0 * WHEEL + 1.5 * THICKNESS;
        for i in 0..=count {
            let forth = -0.3 + phase + i as f64 * MARK_SPACING;
            let back = self.end - forth - 0.3;
            for (x, y) in [(forth, self.top + 0.5 * THICKNESS), (back, under)] {
                let half = (self.end - x).min(0.032);
                if half > 0.008 {
                    let form = Form::rounded_rect(vec2(half, 0.3 * THICKNESS), 0.005);
                    canvas.paint(&form, flip(vec2(x, y)), 0.0, &self.mark);
                }
            }
        }
    }
}

impl Cargo {
    fn tick(&mut self, dt: f64, end: Vec2, speed: f64) {
        match &mut self.motion {
            Motion::Carried => {
                self.at.x += speed * dt;
                let slide = self.at.x - end.x;
                if slide >= 0.0 {
                    self.motion = if self.form.half_face() > 0.0 {
                        Motion::Tipping { slide, rate: 0.0 }
                    } else {
                        Motion::Falling { velocity: vec2(speed, 0.0), spin: 0.4 * speed / self.form.round }
                    };
                }
            }
            Motion::Tipping { slide, rate } => {
                let height = self.form.rest_height();
                let turn = unit(self.angle_rad);
                // Gravity's torque about the belt's end; the squared radius of gyration is near half the reach's.
                let arm = *slide * *slide + height * height + 0.4 * self.form.reach() * self.form.reach();
                *rate += GRAVITY * (*slide * turn.x + height * turn.y) / arm * dt;
                self.angle_rad += *rate * dt;
                *slide += speed * dt;
                let turn = unit(self.angle_rad);
                let place = vec2(*slide, -height).turned(turn);
                self.at = end + place;
                if *slide > self.form.half_face() || self.angle_rad > 1.1 {
                    let velocity = turn * speed + place.perp() * *rate;
                    self.motion = Motion::Falling { velocity, spin: *rate };
                }
            }
            Motion::Falling { velocity, spin } => {
                velocity.y += GRAVITY * dt;
                self.at += *velocity * dt;
                self.angle_rad += *spin * dt;
            }
        }
    }
}
