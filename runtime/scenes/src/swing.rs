//! Pendulums: bobs on rigid rods, without friction.

use crate::canvas::Canvas;
use crate::dice::Dice;
use crate::look::{Form, Look, Palette, mix};
use crate::math::{Vec2, unit, vec2};

/// One pendulum; its angle is measured from straight down.
#[derive(Clone, Debug)]
pub(crate) struct Pendulum {
    pivot: Vec2,
    length: f64,
    /// Gravity over length, in 1/s^2.
    pull: f64,
    angle_rad: f64,
    /// In rad/s.
    rate: f64,
    bob: Form,
    look: Look,
}

impl Pendulum {
    /// Hangs in a frame of this aspect with its pivot at `x`; the bob never leaves the frame.
    pub(crate) fn new(dice: &mut Dice, x: f64, aspect: f64, palette: &mut Palette) -> Pendulum {
        let scale = aspect.min(1.0);
        let bob = Form::random(dice, scale);
        let look = Look::random(dice, &bob, palette);
        let pivot = vec2(x, dice.range(0.06, 0.14));
        let length = dice.range(0.5, 0.82 - bob.reach());
        let room = pivot.x.min(aspect - pivot.x) - bob.reach() - 0.01;
        let mut angle_rad = dice.range(0.5, 1.05);
        while unit(angle_rad).y * length > room && angle_rad > 0.05 {
            angle_rad -= 0.02;
        }
        // A swing of this top speed, in frame heights per second, can be followed at five pictures a second.
        let speed = dice.range(0.34, 0.56);
        let drop = 2.0 * (1.0 - unit(angle_rad).x);
        let pull = (speed / length) * (speed / length) / drop;
        if dice.chance(0.5) {
            angle_rad = -angle_rad;
        }
        Pendulum { pivot, length, pull: pull.min(9.0), angle_rad, rate: 0.0, bob, look }
    }

    pub(crate) fn tick(&mut self, dt: f64) {
        // Kick before drift: this order keeps the energy over any time.
        self.rate -= self.pull * unit(self.angle_rad).y * dt;
        self.angle_rad += self.rate * dt;
    }

    fn bob_at(&self) -> Vec2 {
        let direction = unit(self.angle_rad);
        self.pivot + vec2(direction.y, direction.x) * self.length
    }

    /// Centre and reach of the bob.
    #[cfg(test)]
    pub(crate) fn extent(&self) -> (Vec2, f64) {
        (self.bob_at(), self.bob.reach())
    }

    #[cfg(test)]
    pub(crate) fn energy(&self) -> f64 {
        0.5 * self.rate * self.rate + self.pull * (1.0 - unit(self.angle_rad).x)
    }

    pub(crate) fn draw(&self, canvas: &mut Canvas) {
        let bob = self.bob_at();
        let rod = Form::rounded_rect(vec2(0.011, 0.5 * self.length), 0.01);
        let mut metal = Look::plain(mix(self.look.colour, [70.0, 72.0, 78.0], 0.8));
        metal.shadow = 0.16;
        canvas.paint(&rod, (self.pivot + bob) * 0.5, -self.angle_rad, &metal);
        canvas.paint_fixed(&self.bob, bob, -self.angle_rad, &self.look);
        canvas.paint(&Form::disc(0.026), self.pivot, 0.0, &metal);
    }
}
