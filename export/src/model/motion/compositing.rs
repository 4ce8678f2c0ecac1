//! Pictures made with motion.

use nextclip_core::{Geometry, Motion};

use super::following::Recent;
use super::rigid::Turned;
use super::{LANDING, MotionLayers, convolved};
use crate::model::vae_graphs::from_bytes;
use crate::onnx::{GraphBuilder, Value};

/// An affinity so far below the greatest counts nothing, 4e-31 of it. Without a floor, exponentials of far cells are
/// subnormal numbers, with which everything takes many times as long.
const NOTHING: f32 = 70.0;

/// What pictures are made of beside the decoded ones.
pub(in crate::model) struct Shown {
    /// The newest real frames, u8 (B, H, W, 3).
    pub(in crate::model) last_frames: Value,
    /// Where it is 0, pictures are the decoded ones.
    pub(in crate::model) gate: Value,
    /// Where the last frames' cells are at each moment, (B, M, m, h, w).
    pub(in crate::model) motion: Value,
    /// Earlier frames, u8 (B, E, H, W, 3), and which of them were seen, f32 (B, E).
    pub(in crate::model) earlier: Option<[Value; 2]>,
}

/// What lands on the cells of predicted frames.
struct Landed {
    /// Where it comes from, x then y in the sampler's unit, in which a frame is 2 wide and 2 high: (B * N * K, 2, h, w). From the
    /// place itself or, where things turn, of what is at the frame's middle, with the turn's cosine and sine after it.
    from: Value,
    /// How surely, and the features that come along, candidate after candidate: (B * N, K * (1 + F), h, w).
    carried: Value,
}

impl MotionLayers {
    /// Pictures made of `decoded` (B * N, 3, H, W), in single precision, and of the last frames, moved: (B * N, 3, H, W) from
    /// -1 to 1.
    pub(in crate::model) fn composite(
        &self,
        g: &mut GraphBuilder,
        decoded: &Value,
        shown: &Shown,
        geometry: &Geometry,
    ) -> Value {
        let [pictures, _, rows, columns] = [0, 1, 2, 3].map(|axis| decoded.size(axis));
        let decoded = g.clip(decoded, -1.0, 1.0);
        let recent = shown.recent(g);
        let motion = self.follow(g, &shown.motion, &recent, geometry);
        let turned = self.sizes.rigid.then(|| self.together(g, &shown.motion, &motion, geometry));
        let landed = g.within(LANDING, |g| self.landed(g, &motion, turned.as_ref(), geometry));
        let carried = g.within(LANDING, |g| g.enlarge_linear(&landed.carried, geometry.vae_scale));
        let (moved, then) = self.moved(g, &recent, &landed.from, geometry);
        let last = repeated(g, &recent.last, geometry.clip);
        let earlier: Vec<Value> =
            recent.earlier.iter().map(|picture| repeated(g, picture, geometry.clip)).collect();
        let sources: Vec<&Value> = [&decoded, &last, &moved].into_iter().chain(&earlier).collect();
        let mut read = vec![&decoded, &last, &moved, &carried];
        read.extend(earlier.iter().chain(&then));
        // How much each source counts at a pixel, (B * N, sources, H, W).
        let logits = convolved(g, &read, &self.blend);
        let sources = g.concat(&sources, 1);

        // Shares of exponentials, the greatest of which is 1: a Softmax across planes would be slower than all this.
        let greatest = g.largest(&logits, 1);
        let logits = g.sub(&logits, &greatest);
        let shares = g.map("Exp", &logits);
        let whole = g.sum_along(&shares, 1);
        let count = self.sizes.sources();
        let sources = g.reshape(&sources, &[pictures, count, 3, rows, columns]);
        let shares = g.reshape(&shares, &[pictures, count, 1, rows, columns]);
        let parts = g.mul(&sources, &shares);
        let blended = g.sum_along(&parts, 1);
        let blended = g.reshape(&blended, decoded.shape());
        let blended = g.div(&blended, &whole);
        let change = g.sub(&blended, &decoded);
        let change = g.mul(&change, &shown.gate);
        g.add(&decoded, &change)
    }

    /// The soft choice of every cell among all cells of the last frame.
    ///
    /// `|a - p|^2 = |a|^2 - 2 a p + |p|^2`, where the last term moves all affinities of a place alike: the choice needs
    /// it not, and the density gets it at the end. So that little is lost in the difference, places are counted from the
    /// frame's middle.
    fn landed(
        &self,
        g: &mut GraphBuilder,
        motion: &Value,
        turned: Option<&Turned>,
        geometry: &Geometry,
    ) -> Landed {
        let Motion { candidates, features, .. } = self.sizes;
        let (rows, columns) = (geometry.latent_height(), geometry.latent_width());
        let (cells, pictures) = (rows * columns, motion.size(0) * motion.size(1));
        let each = pictures * candidates;
        let motion = g.reshape(motion, &[each, self.sizes.candidate_channels(), cells]);
        let displacements = match turned {
            Some(turned) => turned.displacements.clone(),
            None => g.slice(&motion, 1, 0..2),
        };
        let weight = g.slice(&motion, 1, 2..3);

        let sharpness = 0.5 / Motion::SPREAD.powi(2);
        let places = places(rows, columns);
        let from = g.table("places of cells", &[2, cells], places.clone());
        let landing = g.add(&displacements, &from);
        let square = g.mul(&landing, &landing);
        let square = g.sum_along(&square, 1);
        let sharp = g.scalar(sharpness);
        let far = g.mul(&square, &sharp);
        let own = g.sub(&weight, &far);
        let weighed = g.concat(&[&landing, &own], 1); // (each, 3, q)
        let to: Vec<f32> = (0..cells)
            .flat_map(|p| [2.0 * sharpness * places[p], 2.0 * sharpness * places[cells + p], 1.0])
            .collect();
        let to = g.table("places to land", &[cells, 3], to);
        let affinity = g.matmul(&to, &weighed); // (each, p, q)
        let greatest = g.largest(&affinity, 2);
        let floor = g.scalar(NOTHING);
        let floor = g.sub(&greatest, &floor);
        let affinity = g.zip("Max", &affinity, &floor);
        let choice = g.softmax(&affinity);

        // The greatest share is exp(greatest affinity) over the sum of all exponentials.
        let share = g.largest(&choice, 2);
        let share = g.map("Log", &share);
        let density = g.sub(&greatest, &share); // (each, p, 1)
        let far: Vec<f32> =
            (0..cells).map(|p| sharpness * (places[p].powi(2) + places[cells + p].powi(2))).collect();
        let far = g.table("distances of cells", &[cells, 1], far);
        let density = g.sub(&density, &far);
        let density = g.clip(&density, -Motion::DENSITY_LIMIT, Motion::DENSITY_LIMIT);
        let density = g.reshape(&density, &[each, 1, cells]);

        let cell = [columns, rows].map(|count| 2.0 / count as f32);
        let unit = g.table("sides of a cell", &[2, 1], cell.into());
        let sources = match turned {
            Some(turned) => {
                let back = turned_back(g, &landing, &turned.turns);
                let middle = g.sub(&from, &back);
                let middle = g.mul(&middle, &unit);
                g.concat(&[&middle, &turned.turns], 1)
            }
            None => {
                let on = g.mul(&displacements, &unit);
                g.map("Neg", &on)
            }
        };
        let places = sources.size(1);
        let brought = g.slice(&motion, 1, 3..3 + features);
        let brought = if features > 0 { g.concat(&[&sources, &brought], 1) } else { sources };
        let brought = g.transpose(&brought, &[0, 2, 1]); // (each, q, .. + F)
        let chosen = g.matmul(&choice, &brought);
        let chosen = g.transpose(&chosen, &[0, 2, 1]); // (each, .. + F, p)
        let from = g.slice(&chosen, 1, 0..places);
        let mut carried = density;
        if features > 0 {
            let features = g.slice(&chosen, 1, places..places + features);
            carried = g.concat(&[&carried, &features], 1);
        }
        Landed {
            from: g.reshape(&from, &[each, places, rows, columns]),
            carried: g.reshape(&carried, &[pictures, candidates * (1 + features), rows, columns]),
        }
    }

    /// The last frames moved by each candidate of each picture, (B * N, 3 * K, H, W), and, where there are earlier ones, what
    /// those have where these come from, (B * N, K * 3 * E, H, W). A camera's places of all its pictures lie under one
    /// another, so that its frames are read where they are, not copied for each of them.
    fn moved(
        &self,
        g: &mut GraphBuilder,
        recent: &Recent,
        from: &Value,
        geometry: &Geometry,
    ) -> (Value, Option<Value>) {
        let [batch, rows, columns] = [0, 2, 3].map(|axis| recent.last.size(axis));
        let from = g.within(LANDING, |g| g.enlarge_linear(from, geometry.vae_scale));
        let pixels = g.pixel_places(rows, columns);
        let places = if self.sizes.rigid {
            let [middle, cosine, sine] = g.split(&from, 1, [2, 1, 1]);
            // The pixels' places, and what a turn by a right angle makes of them, of which all turns are sums.
            let right = g.table("places turned back", &[2, rows, columns], turned_pixels(rows, columns));
            let straight = g.mul(&cosine, &pixels);
            let across = g.mul(&sine, &right);
            let turned = g.add(&straight, &across);
            g.add(&middle, &turned)
        } else {
            g.add(&from, &pixels)
        };
        let places = g.transpose(&places, &[0, 2, 3, 1]);
        let candidates = self.sizes.candidates;
        let each = geometry.clip * candidates;
        let places = g.reshape(&places, &[batch, each * rows, columns, 2]);
        let all: Vec<&Value> = std::iter::once(&recent.last).chain(&recent.earlier).collect();
        let channels = 3 * all.len();
        let all = if channels > 3 { g.concat(&all, 1) } else { recent.last.clone() };
        let moved = g.sample_cubic(&all, &places); // (B, 3 (1 + E), N * K * H, W)
        let moved = g.reshape(&moved, &[batch, channels, each, rows, columns]);
        let moved = g.transpose(&moved, &[0, 2, 1, 3, 4]);
        let mut of_candidates = |channels: std::ops::Range<usize>| {
            let some = g.slice(&moved, 2, channels.clone());
            g.reshape(&some, &[batch * geometry.clip, candidates * channels.len(), rows, columns])
        };
        let last = of_candidates(0..3);
        (last, (channels > 3).then(|| of_candidates(3..channels)))
    }
}

impl Shown {
    fn recent(&self, g: &mut GraphBuilder) -> Recent {
        let last = from_bytes(g, &self.last_frames);
        let mut earlier = Vec::new();
        if let Some([frames, _]) = &self.earlier {
            let pictures = from_bytes(g, frames); // (B, E, 3, H, W)
            for index in 0..pictures.size(1) {
                let one = g.slice(&pictures, 1, index..index + 1);
                earlier.push(g.reshape(&one, last.shape()));
            }
        }
        Recent { last, earlier, known: self.earlier.as_ref().map(|[_, known]| known.clone()) }
    }
}

/// Each of (B, 3, H, W) `count` times: (B * count, 3, H, W).
fn repeated(g: &mut GraphBuilder, x: &Value, count: usize) -> Value {
    let [batch, rows, columns] = [0, 2, 3].map(|axis| x.size(axis));
    let each = g.reshape(x, &[batch, 1, 3, rows, columns]);
    let all = g.expand(&each, &[batch, count, 3, rows, columns]);
    g.reshape(&all, &[batch * count, 3, rows, columns])
}

/// Vectors (each, 2, q) turned back by the cosines and sines of `turns`, (each, 2, q).
fn turned_back(g: &mut GraphBuilder, vectors: &Value, turns: &Value) -> Value {
    let [x, y] = g.split(vectors, 1, [1; 2]);
    let [cosine, sine] = g.split(turns, 1, [1; 2]);
    let straight = g.mul(vectors, &cosine);
    let minus = g.map("Neg", &x);
    let right = g.concat(&[&y, &minus], 1);
    let across = g.mul(&right, &sine);
    g.add(&straight, &across)
}

/// The places of pixels from the frame's middle, turned back by a right angle, in the sampler's unit, which differs between the
/// axes: all x, then all y.
fn turned_pixels(rows: usize, columns: usize) -> Vec<f32> {
    let from_middle = |index: usize, count: usize| (2 * index + 1) as f32 - count as f32;
    let x = (0..rows * columns).map(|pixel| from_middle(pixel / columns, rows) / columns as f32);
    let y = (0..rows * columns).map(|pixel| -from_middle(pixel % columns, columns) / rows as f32);
    x.chain(y).collect()
}

/// Where cells are from the frame's middle, in cells: all x, then all y.
pub(super) fn places(rows: usize, columns: usize) -> Vec<f32> {
    let from_middle = |index: usize, count: usize| index as f32 - (count - 1) as f32 / 2.0;
    let x = (0..rows * columns).map(|cell| from_middle(cell % columns, columns));
    let y = (0..rows * columns).map(|cell| from_middle(cell / columns, rows));
    x.chain(y).collect()
}
