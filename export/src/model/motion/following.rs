//! Where things were, looked up in earlier pictures; the formula is [`nextclip_core::Motion`]'s.

use nextclip_core::manifest::Dtype;
use nextclip_core::{Geometry, Motion};

use super::{LANDING, MotionLayers};
use crate::checkpoint::Weight;
use crate::onnx::{GraphBuilder, Layout, Value};

/// The pictures that a prediction is made from, (B, 3, H, W) from -1 to 1.
pub(super) struct Recent {
    pub(super) last: Value,
    /// The earlier ones, the latest first.
    pub(super) earlier: Vec<Value>,
    /// Which of them were seen, f32 (B, E).
    pub(super) known: Option<Value>,
}

/// How fast a picture changes from pixel to pixel.
struct Slopes {
    /// The picture itself, smoothed, (B, 1, 3, H, W).
    picture: Value,
    /// (B, 1, 3, H, W) each.
    x: Value,
    y: Value,
    /// Means over colours of their products, xx, xy, yy, (B, 1, 3, H, W).
    products: Value,
}

impl MotionLayers {
    /// `motion` (B, M, m, h, w) of the last picture's cells, corrected by where they were, at the N moments to come and those
    /// past that are still of use.
    pub(super) fn follow(
        &self,
        g: &mut GraphBuilder,
        motion: &Value,
        recent: &Recent,
        geometry: &Geometry,
    ) -> Value {
        let (Some(response), Some(known)) = (&self.response, &recent.known) else { return motion.clone() };
        let Motion { candidates, features, .. } = self.sizes;
        let [batch, moments, channels, rows, columns] = [0, 1, 2, 3, 4].map(|axis| motion.size(axis));
        let (clip, cells) = (geometry.clip, rows * columns);
        let values = [batch, moments, candidates, self.sizes.candidate_channels(), cells];
        let values = g.reshape(motion, &values);
        let slopes = Slopes::of(g, &recent.last);
        let mut places = g.slice(&values, 3, 0..2); // (B, M, K, 2, cells)
        for (index, picture) in recent.earlier.iter().take(Motion::FOLLOWED).enumerate() {
            let moment = clip + index;
            let past = g.slice(&places, 1, moment..moment + 1);
            let past = g.reshape(&past, &[batch * candidates, 2, rows, columns]);
            let before = g.box_mean(picture, 1);
            let found = (0..Motion::FOLLOW_STEPS).fold(past.clone(), |past, _| {
                let step = slopes.step(g, &before, &past, geometry);
                g.add(&past, &step)
            });
            let delta = g.sub(&found, &past); // (B * K, 2, h, w), in cells
            let delta = g.reshape(&delta, &[batch, 1, candidates, 2, cells]);
            let weight = g.slice(&values, 1, moment..moment + 1);
            let weight = g.slice(&weight, 3, 2..3);
            let trust = g.map("Sigmoid", &weight);
            let known = g.slice(known, 1, index..index + 1);
            let known = g.reshape(&known, &[batch, 1, 1, 1, 1]);
            let trust = g.mul(&trust, &known);
            let delta = g.mul(&delta, &trust);
            let response = self.response_to(g, response, index, moments);
            let moved = g.mul(&delta, &response);
            places = g.add(&places, &moved);
        }
        let kept = clip + self.sizes.witnesses();
        let [places, values] = [&places, &values].map(|values| g.slice(values, 1, 0..kept));
        let rest = g.slice(&values, 3, 2..3 + features);
        let all = g.concat(&[&places, &rest], 3);
        g.reshape(&all, &[batch, kept, channels, rows, columns])
    }

    /// How far a correction found in the earlier picture `index` moves each moment, (1, M, 1, 1, 1).
    fn response_to(&self, g: &mut GraphBuilder, response: &Weight, index: usize, moments: usize) -> Value {
        let all = g.weight(response, Layout::AsStored);
        let all = g.as_type(&all, Dtype::F32);
        let column = g.slice(&all, 1, index..index + 1);
        g.reshape(&column, &[1, moments, 1, 1, 1])
    }
}

impl Slopes {
    fn of(g: &mut GraphBuilder, picture: &Value) -> Self {
        let [batch, rows, columns] = [0, 2, 3].map(|axis| picture.size(axis));
        let picture = g.box_mean(picture, 1);
        let mut along = |axis: usize, places: usize| {
            let neighbour = |by: isize| {
                let at = |place: usize| place.saturating_add_signed(by).min(places - 1) as i64;
                (0..places).map(at).collect::<Vec<_>>()
            };
            let [before, after] = [("before", -1), ("after", 1)].map(|(side, by)| {
                let indices =
                    g.index_table(&format!("neighbours {side} of {places}"), &[places], neighbour(by));
                g.gather_along(&picture, axis, &indices)
            });
            let difference = g.sub(&after, &before);
            let half = g.scalar(0.5);
            let slope = g.mul(&difference, &half);
            g.reshape(&slope, &[batch, 1, 3, rows, columns])
        };
        let (x, y) = (along(3, columns), along(2, rows));
        let products = [(&x, &x), (&x, &y), (&y, &y)].map(|(a, b)| {
            let product = g.mul(a, b);
            g.mean_along(&product, 2)
        });
        let products = g.concat(&products.each_ref(), 2);
        let picture = g.reshape(&picture, &[batch, 1, 3, rows, columns]);
        Self { picture, x, y, products }
    }

    /// A step from `places` (B * K, 2, h, w) to where the cells of the picture are in the one `before`, smoothed too, both in
    /// cells.
    fn step(&self, g: &mut GraphBuilder, before: &Value, places: &Value, geometry: &Geometry) -> Value {
        let [batch, rows, columns] = [0, 2, 3].map(|axis| before.size(axis));
        let candidates = places.size(0) / batch;
        let moved = self.moved(g, before, places, geometry); // (B, K, 3, H, W)
        let off = g.sub(&self.picture, &moved);

        let square = g.mul(&off, &off);
        let square = g.mean_along(&square, 2);
        let trust = trust(g, &square, Motion::FOLLOW_LEVEL); // (B, K, 1, H, W)

        let [x, y] = [&self.x, &self.y].map(|slope| {
            let product = g.mul(slope, &off);
            g.mean_along(&product, 2)
        });
        let products = g.mul(&self.products, &trust);
        let differences = g.concat(&[&x, &y], 2);
        let differences = g.mul(&differences, &trust);
        let sums = g.concat(&[&products, &differences], 2); // (B, K, 5, H, W)
        let sums = g.reshape(&sums, &[batch * candidates, 5, rows, columns]);
        let sums = g.window_mean(&sums, geometry.vae_scale, geometry.vae_scale / 2);

        let floor = g.scalar(Motion::FOLLOW_FLOOR);
        let [xx, xy, yy, b_x, b_y] = g.split(&sums, 1, [1; 5]);
        let (xx, yy) = (g.add(&xx, &floor), g.add(&yy, &floor));
        let mut minor = |[a, d]: [&Value; 2], [b, c]: [&Value; 2]| {
            let (first, second) = (g.mul(a, d), g.mul(b, c));
            g.sub(&first, &second)
        };
        let determinant = minor([&xx, &yy], [&xy, &xy]);
        let (x, y) = (minor([&yy, &b_x], [&xy, &b_y]), minor([&xx, &b_y], [&xy, &b_x]));
        let solved = g.concat(&[&x, &y], 1);
        let solved = g.div(&solved, &determinant);
        let delta = g.clip(&solved, -Motion::FOLLOW_LIMIT, Motion::FOLLOW_LIMIT);
        let cell = g.scalar(1.0 / geometry.vae_scale as f32);
        g.mul(&delta, &cell)
    }

    /// The picture `before`, read at the places (B * K, 2, h, w) of each cell's pixels: (B, K, 3, H, W).
    fn moved(&self, g: &mut GraphBuilder, before: &Value, places: &Value, geometry: &Geometry) -> Value {
        let [batch, rows, columns] = [0, 2, 3].map(|axis| before.size(axis));
        let [each, h, w] = [0, 2, 3].map(|axis| places.size(axis));
        let (scale, candidates) = (geometry.vae_scale, each / batch);
        g.within(LANDING, |g| {
            // A picture is 2 wide and 2 high for the sampler.
            let unit = g.table("a cell on", &[2, 1, 1], vec![2.0 / w as f32, 2.0 / h as f32]);
            let shifts = g.mul(places, &unit);
            let shifts = g.reshape(&shifts, &[each, 2, h, 1, w, 1]);
            let shifts = g.expand(&shifts, &[each, 2, h, scale, w, scale]);
            let shifts = g.reshape(&shifts, &[each, 2, rows, columns]);
            let pixels = g.pixel_places(rows, columns);
            let at = g.add(&shifts, &pixels);
            let at = g.transpose(&at, &[0, 2, 3, 1]);
            let at = g.reshape(&at, &[batch, candidates * rows, columns, 2]);
            let moved = g.sample(before, &at); // (B, 3, K * H, W)
            let moved = g.reshape(&moved, &[batch, 3, candidates, rows, columns]);
            g.transpose(&moved, &[0, 2, 1, 3, 4])
        })
    }
}

/// How far pixels that are off by such squares are trusted, half where that is the `level`.
pub(super) fn trust(g: &mut GraphBuilder, square: &Value, level: f32) -> Value {
    let level = g.scalar(1.0 / level);
    let square = g.mul(square, &level);
    let one = g.scalar(1.0);
    let square = g.add(&square, &one);
    g.map("Reciprocal", &square)
}
