//! Plane vectors and a portable sine, so that a seed gives the same pictures on every machine.

use std::ops::{Add, AddAssign, Mul, Sub, SubAssign};

/// A point or direction in frame heights; x to the right, y down.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(crate) struct Vec2 {
    pub(crate) x: f64,
    pub(crate) y: f64,
}

pub(crate) const fn vec2(x: f64, y: f64) -> Vec2 {
    Vec2 { x, y }
}

impl Vec2 {
    pub(crate) fn dot(self, other: Vec2) -> f64 {
        self.x * other.x + self.y * other.y
    }

    pub(crate) fn cross(self, other: Vec2) -> f64 {
        self.x * other.y - self.y * other.x
    }

    pub(crate) fn length(self) -> f64 {
        self.dot(self).sqrt()
    }

    /// A quarter turn, in the direction in which angles grow.
    pub(crate) fn perp(self) -> Vec2 {
        vec2(-self.y, self.x)
    }

    /// This vector turned by the angle whose unit vector is `turn`.
    pub(crate) fn turned(self, turn: Vec2) -> Vec2 {
        vec2(self.x * turn.x - self.y * turn.y, self.x * turn.y + self.y * turn.x)
    }
}

impl Add for Vec2 {
    type Output = Vec2;
    fn add(self, other: Vec2) -> Vec2 {
        vec2(self.x + other.x, self.y + other.y)
    }
}

impl Sub for Vec2 {
    type Output = Vec2;
    fn sub(self, other: Vec2) -> Vec2 {
        vec2(self.x - other.x, self.y - other.y)
    }
}

impl Mul<f64> for Vec2 {
    type Output = Vec2;
    fn mul(self, factor: f64) -> Vec2 {
        vec2(self.x * factor, self.y * factor)
    }
}

impl AddAssign for Vec2 {
    fn add_assign(&mut self, other: Vec2) {
        *self = *self + other;
    }
}

impl SubAssign for Vec2 {
    fn sub_assign(&mut self, other: Vec2) {
        *self = *self - other;
    }
}

/// `(cos, sin)` of `angle_rad`.
///
/// The standard library calls the platform's C library, whose last bits differ between systems; in a scene with
/// collisions such a bit grows into another picture. Additions and products are the same everywhere.
pub(crate) fn unit(angle_rad: f64) -> Vec2 {
    use std::f64::consts::FRAC_PI_2;
    let quarters = (angle_rad / FRAC_PI_2 + 0.5).floor();
    let x = angle_rad - quarters * FRAC_PI_2;
    let xx = x * x;
    // Taylor series on [-pi/4, pi/4]: the first omitted terms are below 1e-12.
    let sin =
        x * (1.0 - xx / 6.0 * (1.0 - xx / 20.0 * (1.0 - xx / 42.0 * (1.0 - xx / 72.0 * (1.0 - xx / 110.0)))));
    let cos = 1.0
        - xx / 2.0
            * (1.0
                - xx / 12.0 * (1.0 - xx / 30.0 * (1.0 - xx / 56.0 * (1.0 - xx / 90.0 * (1.0 - xx / 132.0)))));
    match quarters.rem_euclid(4.0) as u8 {
        0 => vec2(cos, sin),
        1 => vec2(-sin, cos),
        2 => vec2(-cos, -sin),
        _ => vec2(sin, -cos),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn unit_matches_the_standard_library() {
        for i in -5000..5000 {
            let angle = f64::from(i) * 0.0137;
            let got = unit(angle);
            assert!((got.x - angle.cos()).abs() < 1e-11, "cos {angle}");
            assert!((got.y - angle.sin()).abs() < 1e-11, "sin {angle}");
        }
    }
}
