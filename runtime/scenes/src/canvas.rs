//! Painting: forms with analytic antialiasing over a background that is drawn once.

use ndarray::Array3;

use crate::Picture;
use crate::look::{Colour, Form, Look, Marking, mix};
use crate::math::{Vec2, unit, vec2};
use crate::trace::Stroke;

/// A float picture under construction; positions are in frame heights from its top left corner.
#[derive(Clone, Debug)]
pub(crate) struct Canvas {
    width: usize,
    height: usize,
    /// Pixels in one frame height.
    scale: f32,
    /// (height, width, 3), row by row.
    rgb: Vec<f32>,
    /// What was painted, where that is kept instead of pixels.
    strokes: Option<Vec<Stroke>>,
}

/// Where the light stands, seen from an object; also the way shadows do not fall.
const LIGHT: [f32; 2] = [-0.55, -0.83];
const SHADOW_OFFSET: Vec2 = vec2(0.010, 0.018);
const SHADOW_SOFTNESS: f32 = 0.03;
/// Objects darken towards their outline over this width.
const RIM: f32 = 0.016;

impl Canvas {
    pub(crate) fn new(width: usize, height: usize, scale: f64) -> Canvas {
        Canvas { width, height, scale: scale as f32, rgb: vec![0.0; width * height * 3], strokes: None }
    }

    /// A canvas without pixels, which keeps what is painted on it.
    pub(crate) fn listing() -> Canvas {
        Canvas { strokes: Some(Vec::new()), ..Canvas::new(0, 0, 1.0) }
    }

    /// What was painted on a [`Self::listing`], from the back to the front.
    pub(crate) fn into_strokes(self) -> Vec<Stroke> {
        self.strokes.unwrap_or_default()
    }

    pub(crate) fn rows_mut(&mut self) -> impl Iterator<Item = &mut [f32]> {
        self.rgb.chunks_exact_mut(self.width * 3)
    }

    /// The `width` x `height` window whose top left corner is `corner`, between pixels if need be.
    pub(crate) fn window(&self, corner: Vec2, width: usize, height: usize) -> Canvas {
        let (x, y) = (corner.x * f64::from(self.scale), corner.y * f64::from(self.scale));
        let x0 = (x.max(0.0) as usize).min(self.width.saturating_sub(width + 1));
        let y0 = (y.max(0.0) as usize).min(self.height.saturating_sub(height + 1));
        let fx = (x - x0 as f64).clamp(0.0, 1.0) as f32;
        let fy = (y - y0 as f64).clamp(0.0, 1.0) as f32;
        let mut rgb = Vec::with_capacity(width * height * 3);
        let row = |y: usize| &self.rgb[(y * self.width + x0) * 3..(y * self.width + x0 + width + 1) * 3];
        let weights = [(1.0 - fx) * (1.0 - fy), fx * (1.0 - fy), (1.0 - fx) * fy, fx * fy];
        for y in y0..y0 + height {
            let (top, below) = (row(y), row(y + 1));
            let right = top[3..].iter().zip(&below[3..]);
            rgb.extend(
                top.iter().zip(below).zip(right).map(|((a, c), (b, d))| {
                    a * weights[0] + b * weights[1] + c * weights[2] + d * weights[3]
                }),
            );
        }
        Canvas { width, height, scale: self.scale, rgb, strokes: None }
    }

    /// Paints what is fixed to what was painted last: both are one thing.
    pub(crate) fn paint_fixed(&mut self, form: &Form, at: Vec2, angle_rad: f64, look: &Look) {
        self.paint(form, at, angle_rad, look);
        if let Some([.., before, last]) = self.strokes.as_deref_mut() {
            last.fix_to(before);
        }
    }

    /// Paints a form at a position and angle in radians.
    pub(crate) fn paint(&mut self, form: &Form, at: Vec2, angle_rad: f64, look: &Look) {
        if let Some(strokes) = &mut self.strokes {
            let thing = strokes.last().map_or(0, |last| last.thing()) + 1;
            strokes.push(Stroke::new(form, look, at, angle_rad, thing));
            return;
        }
        if look.shadow > 0.0 {
            self.shade(form, at + SHADOW_OFFSET, angle_rad, look.shadow);
        }
        let px = 1.0 / self.scale;
        let reach = 1.0 / form.reach().max(1e-6) as f32;
        let turn = unit(angle_rad);
        let light = [LIGHT[0] * reach * 0.09, LIGHT[1] * reach * 0.09];
        let shaded = |x: f32, y: f32, distance: f32| {
            // Light depends on the place on the screen, so turn the point back.
            let (c, s) = (turn.x as f32, turn.y as f32);
            let lit = (x * c - y * s) * light[0] + (x * s + y * c) * light[1];
            let rim = (1.0 + distance / RIM).clamp(0.0, 1.0);
            1.0 + lit.clamp(-0.12, 0.12) - 0.16 * rim * rim
        };
        let second = |x: f32, y: f32| {
            let distance = match look.marking {
                Marking::None => return 0.0,
                Marking::Half => -y,
                Marking::Stripe { half } => y.abs() - half,
                Marking::Spot { x: centre, radius } => ((x - centre) * (x - centre) + y * y).sqrt() - radius,
            };
            (0.5 - distance / px).clamp(0.0, 1.0)
        };
        self.each_pixel(form, at, turn, px, |pixel, x, y, distance| {
            let coverage = (0.5 - distance / px).clamp(0.0, 1.0);
            if coverage > 0.0 {
                let (share, light) = (second(x, y), shaded(x, y, distance));
                for (value, colour) in pixel.iter_mut().zip(mix(look.colour, look.second, share)) {
                    *value += (colour * light - *value) * coverage;
                }
            }
        });
    }

    fn shade(&mut self, form: &Form, at: Vec2, angle_rad: f64, opacity: f32) {
        self.each_pixel(form, at, unit(angle_rad), SHADOW_SOFTNESS, |pixel, _, _, distance| {
            let depth = (0.5 - 0.5 * distance / SHADOW_SOFTNESS).clamp(0.0, 1.0);
            let keep = 1.0 - opacity * depth * depth * (3.0 - 2.0 * depth);
            for value in pixel {
                *value *= keep;
            }
        });
    }

    /// Calls `f` with every pixel within `margin` of a form's bounding box, its place in the form's coordinates
    /// and its signed distance.
    fn each_pixel(
        &mut self,
        form: &Form,
        at: Vec2,
        turn: Vec2,
        margin: f32,
        f: impl Fn(&mut [f32], f32, f32, f32),
    ) {
        let px = 1.0 / self.scale;
        let (mut low, mut high) = (vec2(f64::MAX, f64::MAX), vec2(f64::MIN, f64::MIN));
        for corner in form.corners().as_slice() {
            let corner = at + corner.turned(turn);
            low = vec2(low.x.min(corner.x), low.y.min(corner.y));
            high = vec2(high.x.max(corner.x), high.y.max(corner.y));
        }
        let grow = form.round as f32 + margin.max(px);
        let span = |low: f64, high: f64, size: usize| {
            let first = ((low as f32 - grow) * self.scale).max(0.0) as usize;
            let last = ((high as f32 + grow) * self.scale + 1.0).max(0.0) as usize;
            first.min(size)..last.min(size)
        };
        let columns = span(low.x, high.x, self.width);
        let (cos, sin) = (turn.x as f32, turn.y as f32);
        for row in span(low.y, high.y, self.height) {
            let y = (row as f32 + 0.5) * px - at.y as f32;
            let line = &mut self.rgb[(row * self.width + columns.start) * 3..][..columns.len() * 3];
            for (column, pixel) in columns.clone().zip(line.chunks_exact_mut(3)) {
                let x = (column as f32 + 0.5) * px - at.x as f32;
                let (local_x, local_y) = (x * cos + y * sin, y * cos - x * sin);
                f(pixel, local_x, local_y, form.distance(local_x, local_y));
            }
        }
    }

    pub(crate) fn into_picture(self) -> Picture {
        let bytes = self.rgb.iter().map(|v| (v + 0.5).clamp(0.0, 255.0) as u8);
        let mut picture = Array3::zeros((self.height, self.width, 3));
        picture.iter_mut().zip(bytes).for_each(|(to, byte)| *to = byte);
        picture
    }

    /// Adds `amount` of a soft round bump, `1` at `centre` and `0` beyond `radius`.
    pub(crate) fn add_bump(&mut self, centre: Vec2, radius: f64, amount: Colour) {
        // (1 - d^2)^3 looks like a Gaussian and needs no exponential, whose last bits differ between systems.
        let (px, inverse) = (1.0 / self.scale, 1.0 / (radius * radius) as f32);
        for (y, row) in self.rgb.chunks_exact_mut(self.width * 3).enumerate() {
            let dy = (y as f32 + 0.5) * px - centre.y as f32;
            let rest = 1.0 - dy * dy * inverse;
            if rest <= 0.0 {
                continue;
            }
            for (x, pixel) in row.chunks_exact_mut(3).enumerate() {
                let dx = (x as f32 + 0.5) * px - centre.x as f32;
                let bump = (rest - dx * dx * inverse).max(0.0);
                let weight = bump * bump * bump;
                for (value, amount) in pixel.iter_mut().zip(amount) {
                    *value += amount * weight;
                }
            }
        }
    }
}
