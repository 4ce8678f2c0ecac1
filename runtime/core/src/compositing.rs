//! Change-gated compositing: a picture of the future keeps of the last real frame what is not predicted to change.
//!
//! With `change = predicted - last` on the scale of 0 to 255 and `size` the largest |change| of the three
//! channels, averaged over the square of [`CHANGE_RADIUS`] around a pixel (at the border over what there is of
//! it): `out = m predicted + (1 - m) last`, `m = sigmoid((size - CHANGE_LEVELS) / CHANGE_SOFTNESS)`. Where all
//! of the picture moves, all of it is predicted. The exporter puts it into the `decode` graph; the trainer
//! judges by it.

/// A change of this many levels counts half.
pub const CHANGE_LEVELS: f32 = 12.0;
/// How many levels around it the passage from kept to predicted takes.
pub const CHANGE_SOFTNESS: f32 = 3.0;
/// Radius of the square that a change is averaged over, in pixels: 5 x 5.
pub const CHANGE_RADIUS: usize = 2;
