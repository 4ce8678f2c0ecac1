//! Backgrounds: muted gradients with soft blobs, drawn once per scene.

use crate::canvas::Canvas;
use crate::dice::Dice;
use crate::look::{Colour, from_hsv, mix};
use crate::math::{Vec2, vec2};

/// How lively a background is.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Texture {
    /// A few wide blobs: the picture behind a fixed camera.
    Calm,
    /// Many smaller blobs, so that a moving camera is seen to move.
    Rich,
}

/// Fills a canvas of `size` frame heights, `scale` pixels each; true in the second place if it came out dark.
pub(crate) fn backdrop(dice: &mut Dice, size: Vec2, scale: f64, texture: Texture) -> (Canvas, bool) {
    let dark = dice.chance(0.5);
    let hue = dice.fraction();
    let value = if dark { dice.range(0.34, 0.46) } else { dice.range(0.62, 0.75) };
    let saturation = dice.range(0.08, 0.28);
    let one = from_hsv(hue, saturation, value * dice.range(0.86, 1.0));
    let two = from_hsv((hue + dice.range(0.0, 0.18)).fract(), saturation, value * dice.range(1.0, 1.14));
    // A window between pixels needs the next ones too; nothing but their number may depend on the resolution.
    let margin = match texture {
        Texture::Calm => 0,
        Texture::Rich => 2,
    };
    let pixels = |length: f64| ((length * scale - 1e-6).ceil() as usize).max(1) + margin;
    let mut canvas = Canvas::new(pixels(size.x), pixels(size.y), scale);
    let down = dice.range(0.3, 0.9) as f32;
    let (columns, rows) = ((size.x * scale) as f32, (size.y * scale) as f32);
    for (y, row) in canvas.rows_mut().enumerate() {
        for (x, pixel) in row.chunks_exact_mut(3).enumerate() {
            let share = down * (y as f32 / rows) + (1.0 - down) * (x as f32 / columns);
            pixel.copy_from_slice(&mix(two, one, share));
        }
    }
    let (per_area, small, large, strength) = match texture {
        Texture::Calm => (5.0, 0.3, 0.75, 0.05),
        Texture::Rich => (11.0, 0.14, 0.42, 0.11),
    };
    let blobs = (per_area * size.x * size.y) as usize;
    for _ in 0..blobs {
        let centre = vec2(dice.range(0.0, size.x), dice.range(0.0, size.y));
        let radius = dice.range(small, large);
        canvas.add_bump(centre, radius, tint(dice, strength));
    }
    (canvas, dark)
}

/// A shift of brightness with a little colour, in parts of the full range.
fn tint(dice: &mut Dice, strength: f64) -> Colour {
    let level = dice.either(0.3, 1.0);
    std::array::from_fn(|_| (255.0 * strength * (level + dice.range(-0.45, 0.45))) as f32)
}
