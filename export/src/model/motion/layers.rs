//! Things that land each by itself, and which of them is on top; the formula is [`nextclip_core::Motion`]'s.

use nextclip_core::{Geometry, Motion};

use super::landing::{Chosen, Sent, places};
use super::{LANDING, MotionLayers};
use crate::onnx::{GraphBuilder, Value};

/// A share of a thing that is as good as none, and the logarithm of one of what lands: far below what counts, and above numbers that
/// are subnormal, with which everything takes many times as long.
const NONE_OF_IT: f32 = 1e-11;
const NOTHING: f32 = -50.0;

impl MotionLayers {
    /// Of what is `sent`, at every pixel that of the things that land there most surely; the candidates of all cells are
    /// so much `alike`, (B, i, i).
    pub(super) fn on_top(
        &self,
        g: &mut GraphBuilder,
        sent: &Sent,
        alike: &Value,
        geometry: &Geometry,
    ) -> Chosen {
        let sent = self.pooled(g, sent, geometry);
        let (features, channels) = (self.sizes.features, 1 + sent.brought.size(1));
        let pictures = sent.landing.size(0);
        let all = self.by_things(g, &sent, alike, geometry);
        let all = self.to_pixels(g, &all, [pictures, Motion::THINGS * channels], geometry);

        let [rows, columns] = [2, 3].map(|axis| all.size(axis));
        let all = g.reshape(&all, &[pictures, Motion::THINGS, channels, rows * columns]);
        let density = g.slice(&all, 2, 0..1);
        let densest = g.places_of_largest(&density, 1, self.sizes.depth);
        let top = g.pick_along(&all, 1, &densest); // (B * N, D, 1 + .., H * W)
        let top = g.reshape(&top, &[pictures * self.sizes.depth, channels, rows, columns]);
        let [density, from, brought] = g.split(&top, 1, [1, channels - 1 - features, features]);
        let carried = if features > 0 { g.concat(&[&density, &brought], 1) } else { density };
        let carried = g.reshape(&carried, &[pictures, self.sizes.depth * (1 + features), rows, columns]);
        Chosen { from, carried }
    }

    /// What is sent of each candidate, those of all candidates one after another: (B * N, .., i).
    fn pooled(&self, g: &mut GraphBuilder, sent: &Sent, geometry: &Geometry) -> Sent {
        let candidates = self.sizes.candidates;
        let cells = geometry.latent_height() * geometry.latent_width();
        let pooled = |g: &mut GraphBuilder, values: &Value| {
            let (pictures, channels) = (values.size(0) / candidates, values.size(1));
            let values = g.reshape(values, &[pictures, candidates, channels, cells]);
            let values = g.transpose(&values, &[0, 2, 1, 3]);
            g.reshape(&values, &[pictures, channels, candidates * cells])
        };
        let [landing, weight, brought] = [&sent.landing, &sent.weight, &sent.brought].map(|of| pooled(g, of));
        Sent { landing, weight, brought }
    }

    /// Of every thing how surely it lands and what it brings, (B * N, THINGS * (1 + ..), places).
    fn by_things(&self, g: &mut GraphBuilder, sent: &Sent, alike: &Value, geometry: &Geometry) -> Value {
        let [batch, each] = [0, 1].map(|axis| alike.size(axis));
        let (clip, things, channels) = (geometry.clip, Motion::THINGS, 1 + sent.brought.size(1));
        let (_, sharper) = self.sizes.landing();
        let sharp = g.scalar(sharper);
        let [affinity, far] = self.affinity(g, sent, geometry); // (B * N, p, i)
        let matter = self.matter(g, sent, &affinity, geometry);
        let of_things = g.within(LANDING, |g| found(g, alike, &matter)); // (B, THINGS, i)

        let belongs = g.zip("Pow", &of_things, &sharp);
        let belongs = g.reshape(&belongs, &[batch, 1, things, 1, each]);
        let one = g.scalar(1.0);
        let one = g.expand(&one, &[batch * clip, 1, each]);
        let brought = g.concat(&[&one, &sent.brought], 1);
        let brought = g.reshape(&brought, &[batch, clip, 1, channels, each]);
        let brought = g.mul(&brought, &belongs);
        let brought = g.reshape(&brought, &[batch * clip, things * channels, each]);

        let far = g.mul(&far, &sharp);
        let lands = g.sub(&affinity, &far);
        let lands = g.clip(&lands, NOTHING, sharper * Motion::DENSITY_LIMIT);
        let lands = g.map("Exp", &lands);
        let lands = g.transpose(&lands, &[0, 2, 1]);
        let count = lands.size(2);
        let sums = g.within(LANDING, |g| g.matmul(&brought, &lands));
        let sums = g.reshape(&sums, &[batch * clip, things, channels, count]);
        let nothing = (-sharper * Motion::DENSITY_LIMIT).exp();
        let rest = self.at_rest().into_iter().map(|value| value * nothing).collect();
        let rest = g.table("what rests", &[1, 1, channels, 1], rest);
        let sums = g.add(&sums, &rest);
        let [all, brought] = g.split(&sums, 2, [1, channels - 1]);
        let density = g.map("Log", &all);
        let density = g.div(&density, &sharp);
        let brought = g.div(&brought, &all);
        let both = g.concat(&[&density, &brought], 2);
        g.reshape(&both, &[batch * clip, things * channels, count])
    }

    /// How much of what lands at the last moment moves, of each candidate of each cell: (B, i, 1).
    fn matter(&self, g: &mut GraphBuilder, sent: &Sent, affinity: &Value, geometry: &Geometry) -> Value {
        let clip = geometry.clip;
        let [count, each] = [1, 2].map(|axis| affinity.size(axis));
        let batch = affinity.size(0) / clip;
        let last = |g: &mut GraphBuilder, values: &Value| {
            let [_, rows, columns] = [0, 1, 2].map(|axis| values.size(axis));
            let values = g.reshape(values, &[batch, clip, rows, columns]);
            let values = g.slice(&values, 1, clip - 1..clip);
            g.reshape(&values, &[batch, rows, columns])
        };
        let affinity = last(g, affinity);
        let choice = g.softmax(&affinity);
        let one = g.scalar(1.0);
        let ones = g.expand(&one, &[1, 1, count]);
        let takes = g.within(LANDING, |g| g.matmul(&ones, &choice)); // (B, 1, i)
        let landing = last(g, &sent.landing);
        let at = places(geometry, 1);
        let cells = at.len() / 2;
        let at = (0..2 * each).map(|index| at[index / each * cells + index % each % cells]);
        let at = g.table("places of all candidates' cells", &[2, each], at.collect());
        let d = g.sub(&landing, &at);
        let square = g.mul(&d, &d);
        let square = g.sum_along(&square, 1);
        let far = g.map("Sqrt", &square);
        let far = g.zip("Min", &far, &one);
        let matter = g.mul(&takes, &far);
        g.reshape(&matter, &[batch, each, 1])
    }

    /// What it brings that rests and belongs to nothing, behind the one that counts it: it turns by no angle.
    fn at_rest(&self) -> Vec<f32> {
        let mut values = vec![1.0, 0.0, 0.0, 1.0, 0.0];
        values.extend([0.0, 0.0, 1.0, 0.0].repeat(self.sizes.witnesses()));
        values.extend(vec![0.0; self.sizes.features]);
        values
    }
}

/// The things that `matter` (B, i, 1) says count most: how much all are of each, (B, THINGS, i), of those that are so much `alike`,
/// (B, i, i).
fn found(g: &mut GraphBuilder, alike: &Value, matter: &Value) -> Value {
    let [batch, each] = [0, 1].map(|axis| alike.size(axis));
    let one = g.scalar(1.0);
    let (mut free, mut things) = (g.expand(&one, &[batch, each, 1]), Vec::new());
    for _ in 0..Motion::THINGS {
        let left = g.mul(matter, &free);
        let mass = g.matmul(alike, &left);
        let most = g.places_of_largest(&mass, 1, 1);
        let own = g.pick_along(alike, 1, &most);
        let own = g.reshape(&own, &[batch, each, 1]);
        let thing = g.mul(&own, &free);
        things.push(g.reshape(&thing, &[batch, 1, each]));
        let other = g.sub(&one, &own);
        free = g.mul(&free, &other);
    }
    let things = g.concat(&things.iter().collect::<Vec<_>>(), 1);
    g.clip(&things, NONE_OF_IT, 1.0)
}
