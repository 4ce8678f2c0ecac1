//! Pictures made with motion.

use nextclip_core::{Geometry, Motion};

use super::following::{Recent, trust};
use super::{LANDING, MotionLayers, convolved};
use crate::model::vae_graphs::from_bytes;
use crate::onnx::{GraphBuilder, Value};

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
        let (moved, then) = self.moved(g, &recent, &landed.places, geometry);
        let was: Vec<Value> = landed
            .was
            .iter()
            .zip(&recent.earlier)
            .map(|(places, earlier)| self.read(g, earlier, places, geometry, GraphBuilder::sample))
            .collect();
        let witnesses = self.witnesses(g, &recent, &was, &moved);
        let last = repeated(g, &recent.last, geometry.clip);
        let earlier: Vec<Value> =
            recent.earlier.iter().map(|picture| repeated(g, picture, geometry.clip)).collect();
        let sources: Vec<&Value> =
            [&decoded, &last, &moved].into_iter().chain(&earlier).chain(&was).collect();
        let mut read = vec![&decoded, &last, &moved, &landed.carried];
        read.extend(earlier.iter().chain(&then).chain(&witnesses).chain(&was));
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

    /// The last frames' pixels at `places` (B * N, K * H, W, 2) of each layer of each picture, (B * N, 3 * K, H, W), and,
    /// where there are earlier ones, what those have there, (B * N, K * 3 * E, H, W).
    fn moved(
        &self,
        g: &mut GraphBuilder,
        recent: &Recent,
        places: &Value,
        geometry: &Geometry,
    ) -> (Value, Option<Value>) {
        // Bicubic is for what is shown; earlier pictures are read here to be compared alone.
        let moved = self.read(g, &recent.last, places, geometry, GraphBuilder::sample_cubic);
        let then = (!recent.earlier.is_empty()).then(|| {
            let earlier = match recent.earlier.as_slice() {
                [one] => one.clone(),
                several => g.concat(&several.iter().collect::<Vec<_>>(), 1),
            };
            self.read(g, &earlier, places, geometry, GraphBuilder::sample)
        });
        (moved, then)
    }

    /// How surely the pixels `moved` (B * N, 3 * K, H, W) were seen going that way, of what `was` where they were at each moment
    /// past, the same each: (B * N, K * F, H, W).
    fn witnesses(
        &self,
        g: &mut GraphBuilder,
        recent: &Recent,
        was: &[Value],
        moved: &Value,
    ) -> Option<Value> {
        let known = recent.known.as_ref().filter(|_| !was.is_empty())?;
        let [pictures, _, rows, columns] = [0, 1, 2, 3].map(|axis| moved.size(axis));
        let (batch, layers) = (recent.last.size(0), self.sizes.layers());
        let each = pictures / batch * layers;
        let of_each = was.iter().enumerate().map(|(index, was)| {
            let off = g.sub(moved, was);
            let square = g.mul(&off, &off);
            let square = g.reshape(&square, &[pictures * layers, 3, rows, columns]);
            let square = g.mean_along(&square, 1);
            let square = g.box_mean(&square, 1);
            let sure = trust(g, &square, Motion::WITNESS_LEVEL);
            let sure = g.reshape(&sure, &[batch, each, rows, columns]);
            let known = g.slice(known, 1, index..index + 1);
            let known = g.reshape(&known, &[batch, 1, 1, 1]);
            let sure = g.mul(&sure, &known);
            g.reshape(&sure, &[pictures, layers, 1, rows, columns])
        });
        let of_each: Vec<Value> = of_each.collect();
        let all = g.concat(&of_each.iter().collect::<Vec<_>>(), 2);
        Some(g.reshape(&all, &[pictures, layers * was.len(), rows, columns]))
    }

    /// Pictures (B, c, H, W), read at `places` (B * N, K * H, W, 2) of each layer of each picture, (B * N, K * c, H, W). A
    /// camera's places of all its pictures lie under one another, so that its frames are read where they are, not copied for
    /// each of them.
    fn read(
        &self,
        g: &mut GraphBuilder,
        pictures: &Value,
        places: &Value,
        geometry: &Geometry,
        sample: fn(&mut GraphBuilder, &Value, &Value) -> Value,
    ) -> Value {
        let [batch, channels, rows, columns] = [0, 1, 2, 3].map(|axis| pictures.size(axis));
        let layers = self.sizes.layers();
        let each = geometry.clip * layers;
        let places = g.reshape(places, &[batch, each * rows, columns, 2]);
        let read = sample(g, pictures, &places);
        // (B, c, N * K * H, W) to (B * N, K * c, H, W)
        let read = g.reshape(&read, &[batch, channels, each, rows, columns]);
        let read = g.transpose(&read, &[0, 2, 1, 3, 4]);
        g.reshape(&read, &[batch * geometry.clip, layers * channels, rows, columns])
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
