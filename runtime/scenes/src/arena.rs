//! Bodies in a room: walls, gravity, collisions, and launches that keep a live scene alive.

use crate::body::{Body, Surface, walls};
use crate::canvas::Canvas;
use crate::dice::Dice;
use crate::look::{Form, Look, Palette};
use crate::math::{Vec2, vec2};

/// Bodies and the rules of their room.
#[derive(Clone, Debug)]
pub(crate) struct Arena {
    pub(crate) bodies: Vec<Body>,
    /// Top left corner of the room.
    pub(crate) low: Vec2,
    /// Bottom right corner.
    pub(crate) high: Vec2,
    /// Downwards, in frame heights per second squared.
    pub(crate) gravity: f64,
    pub(crate) surface: Surface,
    /// False where bodies pass in front of one another.
    pub(crate) collide: bool,
    /// Throws bodies up again when they run low, so that the scene never dies out.
    pub(crate) relaunch: Option<Dice>,
}

impl Arena {
    /// An elastic room without gravity.
    pub(crate) fn elastic(low: Vec2, high: Vec2) -> Arena {
        Arena {
            bodies: Vec::new(),
            low,
            high,
            gravity: 0.0,
            surface: Surface { restitution: 1.0, friction: 0.0 },
            collide: true,
            relaunch: None,
        }
    }

    /// Adds a body at a free place, if one is found; its motion is up to the caller.
    pub(crate) fn place(&mut self, dice: &mut Dice, form: Form, palette: &mut Palette) -> Option<&mut Body> {
        let look = Look::random(dice, &form, palette);
        let mut body = Body::new(form, look, Vec2::default());
        body.angle_rad = dice.range(0.0, std::f64::consts::TAU);
        let reach = body.form.reach() + 0.005;
        for _ in 0..60 {
            body.at = vec2(
                dice.range(self.low.x + reach, (self.high.x - reach).max(self.low.x + reach)),
                dice.range(self.low.y + reach, (self.high.y - reach).max(self.low.y + reach)),
            );
            let free = |other: &Body| {
                !self.collide || (other.at - body.at).length() > other.form.reach() + reach + 0.01
            };
            if self.bodies.iter().all(free) {
                self.bodies.push(body);
                return self.bodies.last_mut();
            }
        }
        None
    }

    pub(crate) fn tick(&mut self, dt: f64) {
        for body in &mut self.bodies {
            body.velocity.y += self.gravity * dt;
            body.drift(dt);
        }
        if self.collide {
            for second in 1..self.bodies.len() {
                let (before, rest) = self.bodies.split_at_mut(second);
                for body in before {
                    body.meet(&mut rest[0], self.surface.restitution);
                }
            }
        }
        // Walls come last: whatever bodies do to one another, they end every step inside the room.
        for body in &mut self.bodies {
            for (normal, offset) in walls(self.low, self.high) {
                body.meet_wall(normal, offset, self.surface);
            }
        }
        if let Some(dice) = &mut self.relaunch {
            for body in &mut self.bodies {
                let climb = self.high.y - body.at.y - body.form.reach()
                    + body.velocity.dot(body.velocity) / (2.0 * self.gravity);
                if climb < 0.07 {
                    let rise = dice.range(0.3, 0.5) * (self.high.y - self.low.y);
                    body.velocity = vec2(dice.either(0.12, 0.3), -(2.0 * self.gravity * rise).sqrt());
                    body.spin = dice.either(0.3, 1.2);
                }
            }
        }
    }

    pub(crate) fn draw(&self, canvas: &mut Canvas, camera: Vec2) {
        for body in &self.bodies {
            canvas.paint(&body.form, body.at - camera, body.angle_rad, &body.look);
        }
    }
}
