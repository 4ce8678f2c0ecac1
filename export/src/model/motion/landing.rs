//! What of the last frame lands where in those predicted; the formula is [`nextclip_core::Motion`]'s.

use nextclip_core::{Geometry, Motion};

use super::MotionLayers;
use super::rigid::Turned;
use crate::onnx::{GraphBuilder, Value};

/// An affinity so far below the greatest counts nothing, 4e-31 of it. Without a floor, exponentials of far cells are
/// subnormal numbers, with which everything takes many times as long.
const NOTHING: f32 = 70.0;

/// What lands on the pixels of predicted frames.
pub(super) struct Landed {
    /// Where it comes from, x then y in the sampler's unit, in which a frame is 2 wide and 2 high: (B * N, K * H, W, 2).
    pub(super) places: Value,
    /// How surely, and the features that come along, candidate after candidate: (B * N, K * (1 + F), H, W).
    pub(super) carried: Value,
    /// Where it was at moments past, as `places` are, where the blend is to know that.
    pub(super) was: Vec<Value>,
}

/// What cells send, each of a candidate of each picture.
pub(super) struct Sent {
    /// Where to, x then y in cells from the frame's middle, (B * N * K, 2, q).
    pub(super) landing: Value,
    /// (B * N * K, 1, q).
    pub(super) weight: Value,
    /// From where, as [`Chosen::from`], then features: (B * N * K, .. + F, q).
    pub(super) brought: Value,
}

/// The same of pixels, of a layer of each picture.
pub(super) struct Chosen {
    /// From where, x then y in cells: from the place itself or, where things turn, of what is at the frame's middle, with the turn's
    /// cosine and sine after it, then the same of where that was at each moment past, (B * N * K, 2 or 4 or more, H, W).
    pub(super) from: Value,
    /// (B * N, K * (1 + F), H, W).
    pub(super) carried: Value,
}

impl MotionLayers {
    /// What the cells bring along that go where `motion` (B, N and more, m, h, w) says or, together with what they belong to,
    /// where they are `turned`.
    pub(super) fn landed(
        &self,
        g: &mut GraphBuilder,
        motion: &Value,
        turned: Option<&Turned>,
        geometry: &Geometry,
    ) -> Landed {
        let (rows, columns) = (geometry.latent_height(), geometry.latent_width());
        let pictures = motion.size(0) * geometry.clip;
        let Motion { candidates, .. } = self.sizes;
        let each = [pictures * candidates, self.sizes.candidate_channels(), rows * columns];
        let motion = g.slice(motion, 1, 0..geometry.clip);
        let motion = g.reshape(&motion, &each);
        let sent = self.sent(g, &motion, turned, geometry);
        let alike = turned.and_then(|turned| turned.alike.as_ref());
        let Chosen { from, carried } = match alike {
            Some(alike) => self.on_top(g, &sent, alike, geometry),
            None => self.chosen(g, &sent, geometry),
        };
        let (height, width) = (geometry.height, geometry.width);
        let here = places(geometry, geometry.vae_scale);
        let pixels = g.table("places of pixels in cells", &[2, height, width], here);
        let turned_from = |g: &mut GraphBuilder, first: usize, vectors: &Value| {
            let of = g.slice(&from, 1, first..first + 4);
            let [added, cosine, sine] = g.split(&of, 1, [2, 1, 1]);
            let back = turned_back(g, vectors, [&cosine, &sine]);
            g.add(&added, &back)
        };
        let there = match turned {
            Some(_) => turned_from(g, 0, &pixels),
            None => g.add(&from, &pixels),
        };
        let unit = [columns, rows].map(|count| 2.0 / count as f32);
        let unit = g.table("sides of a cell", &[2, 1, 1], unit.into());
        let layers = self.sizes.layers();
        let in_unit = |g: &mut GraphBuilder, places: &Value| {
            let places = g.mul(places, &unit);
            let places = g.transpose(&places, &[0, 2, 3, 1]);
            g.reshape(&places, &[pictures, layers * height, width, 2])
        };
        let moments = 0..turned.map_or(0, |turned| turned.past.len());
        let was = moments.map(|moment| {
            let then = turned_from(g, 4 + 4 * moment, &there);
            in_unit(g, &then)
        });
        let was = was.collect();
        Landed { places: in_unit(g, &there), carried, was }
    }

    /// What the cells send, whose `motion` is (B * N * K, m, q).
    fn sent(
        &self,
        g: &mut GraphBuilder,
        motion: &Value,
        turned: Option<&Turned>,
        geometry: &Geometry,
    ) -> Sent {
        let (cells, features) = (motion.size(2), self.sizes.features);
        let displacements = match turned {
            Some(turned) => turned.displacements.clone(),
            None => g.slice(motion, 1, 0..2),
        };
        let at = g.table("places of cells", &[2, cells], places(geometry, 1));
        let landing = g.add(&displacements, &at);
        let weight = g.slice(motion, 1, 2..3);
        let sources = match turned {
            Some(turned) => {
                let [cosine, sine] = g.split(&turned.turns, 1, [1; 2]);
                let back = turned_back(g, &landing, [&cosine, &sine]);
                let middle = g.sub(&at, &back);
                let all: Vec<&Value> = [&middle, &turned.turns].into_iter().chain(&turned.past).collect();
                g.concat(&all, 1)
            }
            None => g.map("Neg", &displacements),
        };
        let common = turned.and_then(|turned| turned.features.clone());
        let brought = common.unwrap_or_else(|| g.slice(motion, 1, 3..3 + features));
        let brought = if features > 0 { g.concat(&[&sources, &brought], 1) } else { sources };
        Sent { landing, weight, brought }
    }

    /// The soft choice of every place among all cells of the last frame that are `sent`.
    ///
    /// `|a - p|^2 = |a|^2 - 2 a p + |p|^2`, where the last term moves all affinities of a place alike: the choice needs
    /// it not, and the density gets it at the end. So that little is lost in the difference, places are counted from the
    /// frame's middle.
    fn chosen(&self, g: &mut GraphBuilder, sent: &Sent, geometry: &Geometry) -> Chosen {
        let (features, layers) = (self.sizes.features, self.sizes.layers());
        let [each, count] = [sent.landing.size(0), places(geometry, self.sizes.landing().0).len() / 2];
        let (_, sharper) = self.sizes.landing();
        let [affinity, far] = self.affinity(g, sent, geometry);
        let greatest = g.largest(&affinity, 2);
        let floor = g.scalar(NOTHING);
        let floor = g.sub(&greatest, &floor);
        let affinity = g.zip("Max", &affinity, &floor);
        let choice = g.softmax(&affinity);

        // The greatest share is exp(greatest affinity) over the sum of all exponentials.
        let share = g.largest(&choice, 2);
        let share = g.map("Log", &share);
        let mut density = g.sub(&greatest, &share); // (each, p, 1)
        if sharper != 1.0 {
            let sharper = g.scalar(sharper);
            density = g.div(&density, &sharper);
        }
        let density = g.sub(&density, &far);
        let density = g.clip(&density, -Motion::DENSITY_LIMIT, Motion::DENSITY_LIMIT);
        let density = g.reshape(&density, &[each, 1, count]);

        let from = sent.brought.size(1) - features;
        let brought = g.transpose(&sent.brought, &[0, 2, 1]); // (each, q, .. + F)
        let chosen = g.matmul(&choice, &brought);
        let chosen = g.transpose(&chosen, &[0, 2, 1]); // (each, .. + F, p)
        let mut carried = density;
        if features > 0 {
            let features = g.slice(&chosen, 1, from..from + features);
            carried = g.concat(&[&carried, &features], 1);
        }
        let chosen = g.slice(&chosen, 1, 0..from);
        Chosen {
            from: self.to_pixels(g, &chosen, [each, from], geometry),
            carried: self.to_pixels(g, &carried, [each / layers, layers * (1 + features)], geometry),
        }
    }

    /// How near every cell that is `sent` comes to every place, as sharp as the choice, (each, p, q), and what all of a place lack of
    /// that, (p, 1): `a(p, q)` is the one less the other.
    pub(super) fn affinity(&self, g: &mut GraphBuilder, sent: &Sent, geometry: &Geometry) -> [Value; 2] {
        let (finer, sharper) = self.sizes.landing();
        let sharpness = 0.5 / Motion::SPREAD.powi(2);
        let square = g.mul(&sent.landing, &sent.landing);
        let square = g.sum_along(&square, 1);
        let sharp = g.scalar(sharpness);
        let own = g.mul(&square, &sharp);
        let own = g.sub(&sent.weight, &own);
        let weighed = g.concat(&[&sent.landing, &own], 1); // (each, 3, q)
        let places = places(geometry, finer);
        let count = places.len() / 2;
        let far = (0..count).map(|p| sharpness * (places[p].powi(2) + places[count + p].powi(2)));
        let far = g.table("distances of places", &[count, 1], far.collect());
        let to =
            (0..count).flat_map(|p| [2.0 * sharpness * places[p], 2.0 * sharpness * places[count + p], 1.0]);
        let to = g.table("places to land", &[count, 3], to.map(|value| value * sharper).collect());
        [g.matmul(&to, &weighed), far]
    }

    /// Values of the places that things land at, of so many pictures and channels, brought to pixels.
    pub(super) fn to_pixels(
        &self,
        g: &mut GraphBuilder,
        values: &Value,
        [each, channels]: [usize; 2],
        geometry: &Geometry,
    ) -> Value {
        let (finer, _) = self.sizes.landing();
        let [rows, columns] = [geometry.latent_height(), geometry.latent_width()].map(|side| side * finer);
        let values = g.reshape(values, &[each, channels, rows, columns]);
        g.enlarge_linear(&values, geometry.vae_scale / finer)
    }
}

/// Vectors, x then y, of (2, H, W) or (each, 2, q), turned back by cosines and sines (each, 1, ..).
pub(super) fn turned_back(g: &mut GraphBuilder, vectors: &Value, [cosine, sine]: [&Value; 2]) -> Value {
    let axis = vectors.shape().len() + 1 - cosine.shape().len();
    let [x, y] = g.split(vectors, axis, [1; 2]);
    let minus = g.map("Neg", &x);
    let right = g.concat(&[&y, &minus], axis);
    let straight = g.mul(vectors, cosine);
    let across = g.mul(&right, sine);
    g.add(&straight, &across)
}

/// Where places are from the frame's middle, in cells, so many a cell along both axes: all x, then all y.
pub(super) fn places(geometry: &Geometry, finer: usize) -> Vec<f32> {
    let [rows, columns] = [geometry.latent_height(), geometry.latent_width()].map(|side| side * finer);
    let from_middle = |index: usize, count: usize| (index as f32 - (count - 1) as f32 / 2.0) / finer as f32;
    let x = (0..rows * columns).map(|place| from_middle(place % columns, columns));
    let y = (0..rows * columns).map(|place| from_middle(place / columns, rows));
    x.chain(y).collect()
}
