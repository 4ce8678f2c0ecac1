//! What objects look like: outlines with their signed distance, colours and markings.

use crate::dice::Dice;
use crate::math::{Vec2, vec2};

/// RGB, 0 to 255, as it is shown (not linear light).
pub(crate) type Colour = [f32; 3];

/// A convex outline around the origin: the points within `round` of a core.
///
/// Physics and painting use the same outline, so what touches on the picture touches in the motion.
#[derive(Clone, Debug)]
pub(crate) struct Form {
    pub(crate) core: Core,
    /// Radius of the rounding, in frame heights.
    pub(crate) round: f64,
}

/// The hard inside of a form.
#[derive(Clone, Debug)]
pub(crate) enum Core {
    /// A disc is a rounded point.
    Point,
    /// Half extents.
    Box(Vec2),
    /// Equilateral, one corner up, with this circumradius.
    Triangle(f64),
}

/// Up to four corners; the first `len` count.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Corners {
    points: [Vec2; 4],
    len: usize,
}

impl Corners {
    pub(crate) fn as_slice(&self) -> &[Vec2] {
        &self.points[..self.len]
    }

    pub(crate) fn map(mut self, f: impl Fn(Vec2) -> Vec2) -> Corners {
        self.points = self.points.map(f);
        self
    }
}

/// cos 30 degrees.
const COS_30: f64 = 0.866_025_403_784_438_6;
const CORNER_ROUNDING: f64 = 0.014;

impl Form {
    pub(crate) fn disc(radius: f64) -> Form {
        Form { core: Core::Point, round: radius }
    }

    /// A box with these outer half extents.
    pub(crate) fn rect(half: Vec2) -> Form {
        Form::rounded_rect(half, CORNER_ROUNDING.min(half.x * 0.4).min(half.y * 0.4))
    }

    pub(crate) fn rounded_rect(half: Vec2, round: f64) -> Form {
        Form { core: Core::Box(half - vec2(round, round)), round }
    }

    /// An equilateral triangle with this outer circumradius.
    pub(crate) fn triangle(circumradius: f64) -> Form {
        let round = CORNER_ROUNDING.min(circumradius * 0.25);
        Form { core: Core::Triangle(circumradius - round), round }
    }

    /// A random object, 12 to 25 % of a frame height `scale` across.
    pub(crate) fn random(dice: &mut Dice, scale: f64) -> Form {
        match dice.index(7) {
            0..=2 => Form::disc(scale * dice.range(0.075, 0.125)),
            3 => {
                let half = scale * dice.range(0.065, 0.092);
                Form::rect(vec2(half, half))
            }
            4 => Form::rect(vec2(dice.range(0.095, 0.125), dice.range(0.055, 0.07)) * scale),
            _ => Form::triangle(scale * dice.range(0.1, 0.135)),
        }
    }

    pub(crate) fn corners(&self) -> Corners {
        let o = Vec2::default();
        let (points, len) = match self.core {
            Core::Point => ([o; 4], 1),
            Core::Box(h) => ([vec2(-h.x, -h.y), vec2(h.x, -h.y), vec2(h.x, h.y), vec2(-h.x, h.y)], 4),
            Core::Triangle(r) => {
                ([vec2(0.0, -r), vec2(COS_30 * r, 0.5 * r), vec2(-COS_30 * r, 0.5 * r), o], 3)
            }
        };
        Corners { points, len }
    }

    /// Radius of the smallest circle around the origin that holds the form.
    pub(crate) fn reach(&self) -> f64 {
        self.round
            + match self.core {
                Core::Point => 0.0,
                Core::Box(half) => half.length(),
                Core::Triangle(r) => r,
            }
    }

    /// Height of the origin above a floor on which the form rests upright.
    pub(crate) fn rest_height(&self) -> f64 {
        self.round
            + match self.core {
                Core::Point => 0.0,
                Core::Box(half) => half.y,
                Core::Triangle(r) => 0.5 * r,
            }
    }

    /// Half the length of the flat face on which the form rests; zero for a disc.
    pub(crate) fn half_face(&self) -> f64 {
        match self.core {
            Core::Point => 0.0,
            Core::Box(half) => half.x,
            Core::Triangle(r) => COS_30 * r,
        }
    }

    /// Area in frame heights squared, without the rounding of corners.
    pub(crate) fn area(&self) -> f64 {
        match self.core {
            Core::Point => std::f64::consts::PI * self.round * self.round,
            Core::Box(half) => 4.0 * (half.x + self.round) * (half.y + self.round),
            Core::Triangle(r) => 1.5 * COS_30 * (r + self.round) * (r + self.round),
        }
    }

    /// Signed distance of a point in the form's own coordinates; negative inside.
    #[inline]
    pub(crate) fn distance(&self, x: f32, y: f32) -> f32 {
        let round = self.round as f32;
        match self.core {
            Core::Point => (x * x + y * y).sqrt() - round,
            Core::Box(half) => {
                let (dx, dy) = (x.abs() - half.x as f32, y.abs() - half.y as f32);
                let (ox, oy) = (dx.max(0.0), dy.max(0.0));
                (ox * ox + oy * oy).sqrt() + dx.max(dy).min(0.0) - round
            }
            Core::Triangle(r) => {
                // After Quilez, "2D distance functions", equilateral triangle; his y points up.
                let (root, half) = (1.732_050_8_f32, (COS_30 * r) as f32);
                let (mut x, mut y) = (x.abs() - half, -y + half / root);
                if x + root * y > 0.0 {
                    (x, y) = (0.5 * (x - root * y), 0.5 * (-root * x - y));
                }
                x -= x.clamp(-2.0 * half, 0.0);
                -(x * x + y * y).sqrt() * y.signum() - round
            }
        }
    }
}

/// Where an object carries its second colour, in its own coordinates.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Marking {
    None,
    /// The half with positive y.
    Half,
    /// A band along the x axis, `half` its width.
    Stripe {
        half: f32,
    },
    /// A round spot at `x`.
    Spot {
        x: f32,
        radius: f32,
    },
}

/// How a form is painted.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Look {
    pub(crate) colour: Colour,
    pub(crate) second: Colour,
    pub(crate) marking: Marking,
    /// Opacity of the soft shadow; 0 for none.
    pub(crate) shadow: f32,
}

impl Look {
    pub(crate) fn plain(colour: Colour) -> Look {
        Look { colour, second: colour, marking: Marking::None, shadow: 0.0 }
    }

    /// A marked object in a hue.
    pub(crate) fn random(dice: &mut Dice, form: &Form, palette: &mut Palette) -> Look {
        let colour = palette.next(dice);
        let second = match dice.index(3) {
            0 => mix(colour, [250.0, 245.0, 235.0], 0.36),
            1 => mix(colour, [30.0, 32.0, 40.0], 0.28),
            _ => palette.other(dice),
        };
        let reach = form.reach() as f32;
        let marking = match dice.index(4) {
            0 => Marking::Half,
            1 => Marking::Stripe { half: reach * dice.range(0.2, 0.32) as f32 },
            2 => Marking::Spot { x: reach * 0.42, radius: reach * 0.25 },
            _ if matches!(form.core, Core::Point) => Marking::Half,
            _ => Marking::None,
        };
        Look { colour, second, marking, shadow: 0.22 }
    }
}

/// Object colours of one scene: hues far apart, lighter or darker than the background.
#[derive(Clone, Debug)]
pub(crate) struct Palette {
    hue: f64,
    bright: bool,
}

impl Palette {
    /// For objects in front of a background that is `dark` or light.
    pub(crate) fn new(dice: &mut Dice, dark: bool) -> Palette {
        Palette { hue: dice.fraction(), bright: dark }
    }

    /// The next object's colour.
    pub(crate) fn next(&mut self, dice: &mut Dice) -> Colour {
        // Steps of the golden ratio keep any number of hues apart.
        self.hue = (self.hue + 0.618_034).fract();
        self.tone(self.hue, dice)
    }

    fn other(&self, dice: &mut Dice) -> Colour {
        let hue = (self.hue + dice.range(0.3, 0.7)).fract();
        self.tone(hue, dice)
    }

    fn tone(&self, hue: f64, dice: &mut Dice) -> Colour {
        let value = if self.bright { dice.range(0.6, 0.76) } else { dice.range(0.45, 0.62) };
        from_hsv(hue, dice.range(0.3, 0.54), value)
    }
}

pub(crate) fn mix(a: Colour, b: Colour, share: f32) -> Colour {
    std::array::from_fn(|i| a[i] + (b[i] - a[i]) * share)
}

/// Hue, saturation and value in 0 to 1.
pub(crate) fn from_hsv(hue: f64, saturation: f64, value: f64) -> Colour {
    let channel = |shift: f64| {
        let k = (shift + hue * 6.0) % 6.0;
        let part = k.min(4.0 - k).clamp(0.0, 1.0);
        (255.0 * value * (1.0 - saturation * part)) as f32
    };
    [channel(5.0), channel(3.0), channel(1.0)]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn outlines_lie_where_the_distance_is_zero() {
        for form in [Form::disc(0.1), Form::rect(vec2(0.1, 0.05)), Form::triangle(0.12)] {
            assert!(form.distance(0.0, form.rest_height() as f32).abs() < 1e-6, "{form:?}");
            for corner in form.corners().as_slice() {
                let d = form.distance(corner.x as f32, corner.y as f32) + form.round as f32;
                assert!(d.abs() < 1e-6, "{form:?} {corner:?} {d}");
            }
            assert!(form.distance(0.0, -0.5) > 0.3 && form.distance(0.5, 0.01) > 0.3, "{form:?}");
            assert!(form.distance(0.0, 0.0) < -0.04, "{form:?}");
        }
    }
}
