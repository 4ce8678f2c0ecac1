//! Cells that belong to one thing, moved as one; the formula is [`nextclip_core::Motion`]'s.

use nextclip_core::{Geometry, Motion};

use super::landing::{places, turned_back};
use super::{LANDING, MotionLayers};
use crate::onnx::{GraphBuilder, Value};

/// Cells that are so far apart in what they belong to, |e_i - e_j|^2, have nothing in common.
const LEAST: f32 = 80.0;

/// Where cells go, how they turn on the way, cosine and sine, and what they carry along.
pub(super) struct Turned {
    /// (B * N * K, 2, h * w) both.
    pub(super) displacements: Value,
    pub(super) turns: Value,
    /// (B * N * K, F, h * w), where that is one of all that belong together.
    pub(super) features: Option<Value>,
    /// How a place of the last frame is where its thing was, of each moment past one after another: what is added to it and,
    /// turned back by which, the place itself, (B * N * K, 4, h * w).
    pub(super) past: Vec<Value>,
    /// How surely each candidate of each cell is of one thing with each, exp(-|e_i - e_j|^2), (B, i, i), where things land in
    /// layers.
    pub(super) alike: Option<Value>,
}

/// Values of two coordinates at some moments, x of all of them, then y: (B, i, 2 M), where the cells of one candidate after the
/// other are the i.
struct Pairs<'a> {
    g: &'a mut GraphBuilder,
    moments: usize,
}

impl MotionLayers {
    /// Where the cells go that are `followed` (B, N and more, m, h, w), together with all that belong to the same thing, as
    /// `motion` (B, M, m, h, w) says.
    pub(super) fn together(
        &self,
        g: &mut GraphBuilder,
        motion: &Value,
        followed: &Value,
        geometry: &Geometry,
    ) -> Turned {
        let Motion { candidates, features, .. } = self.sizes;
        let [batch, moments, _, rows, columns] = [0, 1, 2, 3, 4].map(|axis| followed.size(axis));
        let (clip, cells) = (geometry.clip, rows * columns);
        let each = candidates * cells;
        let [rigidity, reliability, e] = g.within(LANDING, |g| self.belonging(g, motion, geometry));
        let shares = g.within(LANDING, |g| likeness(g, &e, &reliability));
        let alike = self.sizes.layered().then(|| g.within(LANDING, |g| alike(g, &e)));

        let channels = self.sizes.candidate_channels();
        let values = g.reshape(followed, &[batch, moments, candidates, channels, cells]);
        let d = of_each(g, &values, 0..2);
        let common = (self.sizes.whole && features > 0).then(|| {
            let to_come = g.slice(&values, 1, 0..clip);
            let carried = of_each(g, &to_come, 3..3 + features);
            let common = g.within(LANDING, |g| g.matmul(&shares, &carried));
            let change = g.sub(&common, &carried);
            let change = g.mul(&change, &rigidity);
            g.add(&carried, &change)
        });
        let at = places(geometry, 1);
        let places = (0..each).flat_map(|index| [0, cells].map(|axis| at[axis + index % cells]));
        let x: Vec<f32> = places.flat_map(|place| std::iter::repeat_n(place, moments)).collect();
        let x = g.table("places of candidates' cells", &[1, each, 2 * moments], x);
        let y = g.add(&x, &d);

        let wide = g.expand(&x, &[batch, each, 2 * moments]);
        let mut pairs = Pairs { g, moments };
        let (dot, cross) = (pairs.dot(&x, &y), pairs.cross(&x, &y));
        let all = pairs.g.concat(&[&wide, &y, &dot, &cross], 2);
        let means = pairs.g.within(LANDING, |g| g.matmul(&shares, &all));
        let [middle, there, dot, cross] =
            pairs.g.split(&means, 2, [2 * moments, 2 * moments, moments, moments]);
        let (of_middle, across) = (pairs.dot(&middle, &there), pairs.cross(&middle, &there));
        let cosine = pairs.g.sub(&dot, &of_middle);
        let floor = pairs.g.scalar(Motion::RIGID_FLOOR);
        let cosine = pairs.g.add(&cosine, &floor);
        let sine = pairs.g.sub(&cross, &across);
        let (cosine, sine) = pairs.of_length_one(&cosine, &sine);

        let off = pairs.g.sub(&x, &middle);
        let turned = pairs.turned(&off, &cosine, &sine);
        let g = pairs.g;
        let fitted = g.add(&there, &turned);
        let fitted = g.sub(&fitted, &y); // from where each cell went by itself
        let change = g.mul(&fitted, &rigidity);
        let displacements = g.add(&d, &change);
        let one = g.scalar(1.0);
        let cosine = g.sub(&cosine, &one);
        let cosine = g.mul(&cosine, &rigidity);
        let cosine = g.add(&cosine, &one);
        let sine = g.mul(&sine, &rigidity);
        let turns = g.concat(&[&cosine, &sine], 2);
        let displacements = by_moment(g, &displacements, [candidates, cells, moments]);
        let turns = by_moment(g, &turns, [candidates, cells, moments]);
        let features = common.map(|features| {
            let features = by_moment(g, &features, [candidates, cells, clip]);
            to_come(g, &features, clip)
        });
        let past = (clip..moments).map(|moment| {
            let [d, turns] = [&displacements, &turns].map(|values| g.slice(values, 1, moment..moment + 1));
            past(g, &d, &turns, geometry)
        });
        let past = past.collect();
        let [displacements, turns] = [&displacements, &turns].map(|values| to_come(g, values, clip));
        Turned { displacements, turns, features, past, alike }
    }

    /// How rigid and how reliable each candidate of each cell is, (B, i, 1), and what it belongs to, e, gathered: (B, i, V).
    fn belonging(&self, g: &mut GraphBuilder, motion: &Value, geometry: &Geometry) -> [Value; 3] {
        let Motion { candidates, features, .. } = self.sizes;
        let [batch, moments, _, rows, columns] = [0, 1, 2, 3, 4].map(|axis| motion.size(axis));
        let (clip, cells) = (geometry.clip, rows * columns);
        let (each, said) = (candidates * cells, self.sizes.belonging());
        let values = g.reshape(motion, &[batch, moments, candidates, self.sizes.candidate_channels(), cells]);
        let past = g.slice(&values, 1, clip..moments);
        let past = g.slice(&past, 3, 3..3 + features);
        let past = g.transpose(&past, &[0, 2, 4, 1, 3]);
        let past = g.reshape(&past, &[batch, each, said]);
        let [rigidity, reliability, e] = g.split(&past, 2, [1, 1, said - 2]);
        let rigidity = g.map("Sigmoid", &rigidity);

        let none = g.scalar(0.0);
        let nobody = g.expand(&none, reliability.shape());
        let (mut e, narrower) = (e, g.scalar(Motion::NARROWER.sqrt()));
        for _ in 0..self.sizes.gathered() {
            let farther = g.mul(&e, &narrower);
            let near = likeness(g, &farther, &nobody);
            e = g.matmul(&near, &e);
        }
        [rigidity, reliability, e]
    }
}

/// Some of the values (B, M, K, m, h * w) of each candidate of each cell, (B, i, M of each of the channels).
fn of_each(g: &mut GraphBuilder, values: &Value, channels: std::ops::Range<usize>) -> Value {
    let [batch, moments, candidates, cells] = [0, 1, 2, 4].map(|axis| values.size(axis));
    let some = g.slice(values, 3, channels.clone());
    let some = g.transpose(&some, &[0, 2, 4, 3, 1]);
    g.reshape(&some, &[batch, candidates * cells, channels.len() * moments])
}

/// The values (B, i, count M) of each candidate of each cell, (B, M, K, count, h * w).
fn by_moment(g: &mut GraphBuilder, values: &Value, [candidates, cells, moments]: [usize; 3]) -> Value {
    let (batch, count) = (values.size(0), values.size(2) / moments);
    let values = g.reshape(values, &[batch, candidates, cells, count, moments]);
    g.transpose(&values, &[0, 4, 1, 3, 2])
}

/// Those of the first `clip` moments, (B * N * K, count, h * w).
fn to_come(g: &mut GraphBuilder, values: &Value, clip: usize) -> Value {
    let [batch, _, candidates, count, cells] = [0, 1, 2, 3, 4].map(|axis| values.size(axis));
    let values = g.slice(values, 1, 0..clip);
    g.reshape(&values, &[batch * clip * candidates, count, cells])
}

/// [`Turned::past`] of displacements and turns (B, 1, K, 2, h * w) of one moment.
fn past(g: &mut GraphBuilder, d: &Value, turns: &Value, geometry: &Geometry) -> Value {
    let [batch, _, candidates, _, cells] = [0, 1, 2, 3, 4].map(|axis| d.size(axis));
    let [d, turns] = [d, turns].map(|values| g.reshape(values, &[batch * candidates, 2, cells]));
    let [cosine, sine] = g.split(&turns, 1, [1; 2]);
    let sine = g.map("Neg", &sine);
    let at = g.table("places of cells", &[2, cells], places(geometry, 1));
    let turned = turned_back(g, &at, [&cosine, &sine]);
    let added = g.add(&d, &at);
    let added = g.sub(&added, &turned);
    let all = g.concat(&[&added, &cosine, &sine], 1);
    // The same for every moment to come.
    let all = g.reshape(&all, &[batch, 1, candidates * 4, cells]);
    let all = g.expand(&all, &[batch, geometry.clip, candidates * 4, cells]);
    g.reshape(&all, &[batch * geometry.clip * candidates, 4, cells])
}

/// What each of the vectors e (B, i, V) takes of each, softmax over j of own_j - |e_i - e_j|^2 with `own` (B, i, 1): (B, i, i).
fn likeness(g: &mut GraphBuilder, e: &Value, own: &Value) -> Value {
    // |e_i - e_j|^2 = |e_i|^2 - 2 e_i e_j + |e_j|^2, where the first term moves all of a row alike.
    let square = g.mul(e, e);
    let square = g.sum_along(&square, 2);
    let own = g.sub(own, &square);
    let to = g.concat(&[e, &own], 2);
    let to = g.transpose(&to, &[0, 2, 1]);
    let (two, one) = (g.scalar(2.0), g.scalar(1.0));
    let twice = g.mul(e, &two);
    let one = g.expand(&one, own.shape());
    let from = g.concat(&[&twice, &one], 2);
    let likeness = g.matmul(&from, &to);
    g.softmax(&likeness)
}

/// exp(-|e_i - e_j|^2) of vectors (B, i, V): (B, i, i).
fn alike(g: &mut GraphBuilder, e: &Value) -> Value {
    let square = g.mul(e, e);
    let square = g.sum_along(&square, 2);
    let across = g.transpose(&square, &[0, 2, 1]);
    let two = g.scalar(2.0);
    let twice = g.mul(e, &two);
    let turned = g.transpose(e, &[0, 2, 1]);
    let products = g.matmul(&twice, &turned);
    let squares = g.add(&square, &across);
    let alike = g.sub(&products, &squares);
    // Numbers that are subnormal would take many times as long.
    let alike = g.clip(&alike, -LEAST, 0.0);
    g.map("Exp", &alike)
}

impl Pairs<'_> {
    fn coordinates(&mut self, pairs: &Value) -> [Value; 2] {
        self.g.split(pairs, 2, [self.moments; 2])
    }

    fn dot(&mut self, a: &Value, b: &Value) -> Value {
        let products = self.g.mul(a, b);
        let [x, y] = self.coordinates(&products);
        self.g.add(&x, &y)
    }

    fn cross(&mut self, a: &Value, b: &Value) -> Value {
        let [x, y] = self.coordinates(b);
        let across = self.g.concat(&[&y, &x], 2);
        let products = self.g.mul(a, &across);
        let [x, y] = self.coordinates(&products);
        self.g.sub(&x, &y)
    }

    fn of_length_one(&mut self, cosine: &Value, sine: &Value) -> (Value, Value) {
        let squares = [cosine, sine].map(|side| self.g.mul(side, side));
        let square = self.g.add(&squares[0], &squares[1]);
        let none = self.g.scalar(Motion::NO_TURN);
        let square = self.g.add(&square, &none);
        let length = self.g.map("Sqrt", &square);
        (self.g.div(cosine, &length), self.g.div(sine, &length))
    }

    fn turned(&mut self, pairs: &Value, cosine: &Value, sine: &Value) -> Value {
        let [x, y] = self.coordinates(pairs);
        let along = [self.g.mul(&x, cosine), self.g.mul(&y, sine)];
        let across = [self.g.mul(&x, sine), self.g.mul(&y, cosine)];
        let x = self.g.sub(&along[0], &along[1]);
        let y = self.g.add(&across[0], &across[1]);
        self.g.concat(&[&x, &y], 2)
    }
}
