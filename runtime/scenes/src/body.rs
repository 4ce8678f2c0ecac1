//! Rigid bodies in the plane: free flight, contact points and collision impulses.

use crate::look::{Corners, Form, Look};
use crate::math::{Vec2, unit, vec2};

/// A moving object; lengths in frame heights, times in seconds.
#[derive(Clone, Debug)]
pub(crate) struct Body {
    pub(crate) form: Form,
    pub(crate) look: Look,
    pub(crate) at: Vec2,
    pub(crate) velocity: Vec2,
    pub(crate) angle_rad: f64,
    /// In rad/s.
    pub(crate) spin: f64,
    pub(crate) mass: f64,
    inertia: f64,
}

/// How two surfaces answer a touch.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Surface {
    /// Part of the approach speed that comes back; 1 is elastic.
    pub(crate) restitution: f64,
    /// Coulomb's coefficient.
    pub(crate) friction: f64,
}

impl Body {
    pub(crate) fn new(form: Form, look: Look, at: Vec2) -> Body {
        let mass = form.area();
        let reach = form.reach();
        // All mass at the outline: collisions then turn little of the motion into spins too fast for a camera.
        let inertia = mass * reach * reach;
        Body { form, look, at, velocity: Vec2::default(), angle_rad: 0.0, spin: 0.0, mass, inertia }
    }

    /// Makes the body `factor` times as heavy.
    pub(crate) fn weigh(&mut self, factor: f64) {
        self.mass *= factor;
        self.inertia *= factor;
    }

    pub(crate) fn drift(&mut self, dt: f64) {
        self.at += self.velocity * dt;
        self.angle_rad += self.spin * dt;
    }

    #[cfg(test)]
    pub(crate) fn energy(&self) -> f64 {
        0.5 * (self.mass * self.velocity.dot(self.velocity) + self.inertia * self.spin * self.spin)
    }

    #[cfg(test)]
    pub(crate) fn angular_momentum(&self) -> f64 {
        self.mass * self.at.cross(self.velocity) + self.inertia * self.spin
    }

    pub(crate) fn corners(&self) -> Corners {
        let turn = unit(self.angle_rad);
        self.form.corners().map(|corner| self.at + corner.turned(turn))
    }

    fn velocity_at(&self, arm: Vec2) -> Vec2 {
        self.velocity + arm.perp() * self.spin
    }

    /// How much speed along `direction` a unit impulse there gives.
    fn yielding(&self, arm: Vec2, direction: Vec2) -> f64 {
        let lever = arm.cross(direction);
        1.0 / self.mass + lever * lever / self.inertia
    }

    fn push(&mut self, arm: Vec2, impulse: Vec2) {
        self.velocity += impulse * (1.0 / self.mass);
        self.spin += arm.cross(impulse) / self.inertia;
    }

    /// Bounces off the wall `normal . p = offset`, on whose positive side the body lives.
    pub(crate) fn meet_wall(&mut self, normal: Vec2, offset: f64, surface: Surface) {
        if normal.dot(self.at) - offset > self.form.reach() {
            return;
        }
        let corners = self.corners();
        let heights = corners.as_slice().iter().map(|p| (normal.dot(*p) - offset - self.form.round, *p));
        let Some((height, corner)) = heights.min_by(|a, b| a.0.total_cmp(&b.0)) else {
            return;
        };
        if height >= 0.0 {
            return;
        }
        let arm = corner - normal * self.form.round - self.at;
        self.at -= normal * height;
        let approach = -normal.dot(self.velocity_at(arm));
        if approach > 0.0 {
            let impulse = (1.0 + surface.restitution) * approach / self.yielding(arm, normal);
            self.push(arm, normal * impulse);
            let along = normal.perp();
            let stop = -along.dot(self.velocity_at(arm)) / self.yielding(arm, along);
            let most = surface.friction * impulse;
            self.push(arm, along * stop.clamp(-most, most));
        }
    }

    /// Bounces off another body.
    pub(crate) fn meet(&mut self, other: &mut Body, restitution: f64) {
        let reach = self.form.reach() + other.form.reach();
        let between = other.at - self.at;
        if between.dot(between) > reach * reach {
            return;
        }
        let touching = self.form.round + other.form.round;
        let Some((mine, theirs)) = closest(&self.corners(), &other.corners(), touching) else {
            return;
        };
        let gap = theirs - mine;
        let distance = gap.length();
        let (normal, depth) = if distance < 1e-9 {
            let length = between.length().max(1e-9);
            (between * (1.0 / length), touching)
        } else if gap.dot(between) < 0.0 {
            // The hard insides overlap, so the gap points inwards.
            (gap * (-1.0 / distance), touching + distance)
        } else {
            (gap * (1.0 / distance), touching - distance)
        };
        let point = mine + normal * self.form.round;
        let share = other.mass / (self.mass + other.mass);
        let (arm, other_arm) = (point - self.at, point - other.at);
        self.at -= normal * (depth * share);
        other.at += normal * (depth * (1.0 - share));
        let approach = normal.dot(self.velocity_at(arm) - other.velocity_at(other_arm));
        if approach > 0.0 {
            let yielding = self.yielding(arm, normal) + other.yielding(other_arm, normal);
            let impulse = normal * ((1.0 + restitution) * approach / yielding);
            self.push(arm, impulse * -1.0);
            other.push(other_arm, impulse);
        }
    }
}

/// The nearest points of two convex outlines that do not overlap, if nearer than `within`.
fn closest(a: &Corners, b: &Corners, within: f64) -> Option<(Vec2, Vec2)> {
    let mut best = within * within;
    let mut pair = None;
    for (one, two, swapped) in [(a, b, false), (b, a, true)] {
        let edges = two.as_slice();
        for &point in one.as_slice() {
            for (i, &start) in edges.iter().enumerate() {
                let near = nearest_on_edge(point, start, edges[(i + 1) % edges.len()]);
                let gap = near - point;
                if gap.dot(gap) < best {
                    best = gap.dot(gap);
                    pair = Some(if swapped { (near, point) } else { (point, near) });
                }
            }
        }
    }
    pair
}

fn nearest_on_edge(point: Vec2, start: Vec2, end: Vec2) -> Vec2 {
    let along = end - start;
    let length = along.dot(along);
    if length == 0.0 {
        return start;
    }
    start + along * ((point - start).dot(along) / length).clamp(0.0, 1.0)
}

/// The four walls of a rectangle, as `(normal, offset)`; the floor comes last.
pub(crate) fn walls(low: Vec2, high: Vec2) -> [(Vec2, f64); 4] {
    [(vec2(1.0, 0.0), low.x), (vec2(-1.0, 0.0), -high.x), (vec2(0.0, 1.0), low.y), (vec2(0.0, -1.0), -high.y)]
}

#[cfg(test)]
mod tests {
    use super::*;

    fn body(form: Form, at: Vec2, velocity: Vec2, spin: f64) -> Body {
        let mut body = Body::new(form, Look::plain([0.0; 3]), at);
        (body.velocity, body.spin) = (velocity, spin);
        body
    }

    /// Momentum, angular momentum and energy through an elastic collision of every pair of outlines.
    #[test]
    fn collisions_keep_what_nature_keeps() {
        let forms = [Form::disc(0.1), Form::rect(vec2(0.1, 0.05)), Form::triangle(0.11)];
        for a in &forms {
            for b in &forms {
                let mut a = body(a.clone(), vec2(0.3, 0.5), vec2(0.5, 0.05), 1.3);
                let mut b = body(b.clone(), vec2(0.8, 0.55), vec2(-0.4, 0.0), -0.7);
                let momentum = |a: &Body, b: &Body| a.velocity * a.mass + b.velocity * b.mass;
                let before = (momentum(&a, &b), a.angular_momentum() + b.angular_momentum());
                let (energy, velocity) = (a.energy() + b.energy(), a.velocity);
                for _ in 0..240 {
                    a.drift(1.0 / 240.0);
                    b.drift(1.0 / 240.0);
                    a.meet(&mut b, 1.0);
                }
                assert!((a.velocity - velocity).length() > 0.1, "no collision: {:?} {:?}", a.form, b.form);
                assert!((momentum(&a, &b) - before.0).length() < 1e-12);
                assert!((a.angular_momentum() + b.angular_momentum() - before.1).abs() < 1e-4);
                assert!((a.energy() + b.energy() - energy).abs() < 1e-9 * energy);
            }
        }
    }

    #[test]
    fn an_elastic_wall_keeps_the_energy_of_a_tumbling_box() {
        let mut tumbling = body(Form::rect(vec2(0.1, 0.05)), vec2(0.5, 0.5), vec2(0.4, 0.3), 2.0);
        let energy = tumbling.energy();
        let surface = Surface { restitution: 1.0, friction: 0.0 };
        for _ in 0..240 * 20 {
            tumbling.drift(1.0 / 240.0);
            for (normal, offset) in walls(vec2(0.0, 0.0), vec2(1.0, 1.0)) {
                tumbling.meet_wall(normal, offset, surface);
            }
        }
        assert!((tumbling.energy() / energy - 1.0).abs() < 1e-9);
    }
}
