//! Things move as one: what cells say they belong to, and the motion that fits all of a thing; the formula is [`Motion`]'s.

use nextclip_core::Motion;
use tch::{Device, Kind, Tensor};

/// The least likelihood that two cells are told apart with.
const LEAST: f64 = 1e-3;

/// What each candidate of each cell says it belongs to. One of a cell, one after the other, are its candidates: i is one of K h w.
#[derive(Debug)]
pub(crate) struct Belonging {
    /// How much of the common motion it takes, (n, i).
    rigidity: Tensor,
    /// |e_i - e_j|^2, (n, i, i).
    apart: Tensor,
    /// How much i takes of each j, (n, i, i).
    shares: Tensor,
}

/// Where cells go, and how they turn on the way.
#[derive(Debug)]
pub(crate) struct Turned {
    /// Displacements (n, N, K, 2, h, w), x then y in cells.
    pub(crate) displacements: Tensor,
    /// Cosine and sine, (n, N, K, 2, h, w).
    pub(crate) turns: Tensor,
}

impl Turned {
    /// How a place of the last frame is where its thing was at a moment past: what is added to it and, turned back by which,
    /// the place itself; one under the other, (n, 1, K, 4, cells), of cells at `places` (2, cells).
    pub(crate) fn past(&self, moment: i64, places: &Tensor) -> Tensor {
        let of = |x: &Tensor| x.narrow(1, moment, 1).flatten(-2, -1);
        let turns = of(&self.turns);
        let back = Tensor::cat(&[&turns.narrow(3, 0, 1), &-turns.narrow(3, 1, 1)], 3);
        let added = of(&self.displacements) + places - turned_back(places, &back);
        Tensor::cat(&[added, back], 3)
    }
}

impl Belonging {
    /// Of what a model says, `values` (n, M, K, 3 + F, h, w), of `clip` moments to come and those past.
    pub(crate) fn of(sizes: &Motion, values: &Tensor, clip: i64) -> Self {
        let past = values.size()[1] - clip;
        let said = values.narrow(1, clip, past).narrow(3, 3, sizes.features as i64);
        let said = said.permute([0, 2, 4, 5, 1, 3]).flatten(4, 5).flatten(1, 3); // (n, i, V)
        let mut e = said.narrow(2, 2, said.size()[2] - 2);
        for _ in 0..sizes.gathered() {
            e = (apart(&e) * -f64::from(Motion::NARROWER)).softmax(-1, Kind::Float).matmul(&e);
        }
        let (apart, reliability) = (apart(&e), said.narrow(2, 1, 1).transpose(1, 2));
        let shares = (reliability - &apart).softmax(-1, Kind::Float);
        Self { rigidity: said.select(2, 0).sigmoid(), apart, shares }
    }

    /// Values (n, N, K, F, h, w), as far as cells are rigid the means over all that belong together.
    pub(crate) fn common(&self, values: &Tensor) -> Tensor {
        let size = values.size();
        let each = values.permute([0, 2, 4, 5, 3, 1]).flatten(4, 5).flatten(1, 3); // (n, i, F N)
        let change = (self.shares.matmul(&each) - &each) * self.rigidity.unsqueeze(-1);
        let all = each + change;
        all.reshape([size[0], size[2], size[4], size[5], size[3], size[1]]).permute([0, 5, 1, 4, 2, 3])
    }

    /// Displacements (n, N, K, 2, h, w) in cells, as far as cells are rigid those of the turn and shift that fit best all that
    /// belong together.
    pub(crate) fn together(&self, displacements: &Tensor) -> Turned {
        let size = displacements.size();
        let (n, moments, candidates, rows, columns) = (size[0], size[1], size[2], size[4], size[5]);
        let x = from_middle([rows, columns], displacements.device()).repeat([candidates, 1]); // (i, 2)
        let d = displacements.permute([0, 2, 4, 5, 3, 1]).reshape([n, -1, 2, moments]);
        let x = x.unsqueeze(-1).expand_as(&d);
        let y = &x + &d; // (n, i, 2, N)
        let mean = |values: &Tensor| self.shares.matmul(&values.flatten(2, 3)).reshape(values.size());
        let (middle, there) = (mean(&x.contiguous()), mean(&y));
        let cosine = mean(&dot(&x, &y)) - dot(&middle, &there) + f64::from(Motion::RIGID_FLOOR);
        let sine = mean(&cross(&x, &y)) - cross(&middle, &there);
        let length = (cosine.square() + sine.square() + f64::from(Motion::NO_TURN)).sqrt();
        let (cosine, sine) = (cosine / &length, sine / length); // (n, i, 1, N)

        let rigidity = self.rigidity.unsqueeze(-1).unsqueeze(-1);
        let fitted = there + turned(&(&x - middle), &cosine, &sine) - &x;
        let displaced = &d + &rigidity * (fitted - &d);
        let turns = Tensor::cat(&[(cosine - 1.0) * &rigidity + 1.0, sine * &rigidity], 2);
        let back = |values: Tensor| {
            values.reshape([n, candidates, rows, columns, 2, moments]).permute([0, 5, 1, 4, 2, 3])
        };
        Turned { displacements: back(displaced), turns: back(turns) }
    }

    /// Things that matter, one after another: how much all are of that which the most belongs to of what is in none before,
    /// (n, THINGS, i). `matter` (n, i) says how much each counts.
    pub(crate) fn things(&self, matter: &Tensor) -> Tensor {
        let alike = (-&self.apart).exp();
        let (mut free, mut things) = (matter.ones_like().unsqueeze(1), Vec::new());
        for _ in 0..Motion::THINGS {
            let left = matter * free.squeeze_dim(1);
            let most = alike.matmul(&left.unsqueeze(-1)).argmax(1, true); // (n, 1, 1)
            let own = alike.gather(1, &most.expand([-1, 1, alike.size()[2]], false), false);
            let thing = own * &free;
            let rest = &free - &thing;
            things.push(thing);
            free = rest; // in place it would change what gradients need
        }
        Tensor::cat(&things, 1)
    }

    /// How badly they tell things apart: the mean of -log of the likelihood exp(-|e_i - e_j|^2) that two belong together, over
    /// those that do and over those that do not. `things` (n, i, T) says of each which it is one of; each pair of things
    /// counts alike.
    pub(crate) fn error(&self, things: &Tensor) -> Tensor {
        let cells = things.sum_dim_intlist([1_i64].as_slice(), true, Kind::Float).clamp_min(1.0);
        let part = things / cells;
        let one = part.matmul(&part.transpose(1, 2));
        let any = part.sum_dim_intlist([2_i64].as_slice(), true, Kind::Float);
        let two = any.matmul(&any.transpose(1, 2)) - &one;
        let mean = |error: &Tensor, weights: &Tensor| {
            (error * weights).sum(Kind::Float) / weights.sum(Kind::Float).clamp_min(1e-6)
        };
        let alike = -self.apart.neg().expm1();
        mean(&self.apart, &one) + mean(&-(alike + LEAST).log(), &two)
    }
}

/// Motion (.., M, m, h, w), of `clip` moments to come and those past, of which it is not learned what belongs together nor, where
/// that is `known`, where things go.
pub(crate) fn as_told(sizes: &Motion, motion: &Tensor, clip: i64, known: bool) -> Tensor {
    let axis = motion.dim() as i64 - 4;
    let past = motion.size()[axis as usize] - clip;
    let values = motion.unflatten(axis + 1, [sizes.candidates as i64, -1].as_slice());
    let part = |first: i64, channels: usize| values.narrow(axis + 2, first, channels as i64);
    let displacements = if known { part(0, 2).detach() } else { part(0, 2) };
    let features = part(3, sizes.features);
    let told = features.narrow(axis, clip, past).detach();
    let features = Tensor::cat(&[features.narrow(axis, 0, clip), told], axis);
    Tensor::cat(&[displacements, part(2, 1), features], axis + 2).flatten(axis + 1, axis + 2)
}

/// |e_i - e_j|^2 of vectors (n, i, V): (n, i, i).
fn apart(e: &Tensor) -> Tensor {
    let square = e.square().sum_dim_intlist([2_i64].as_slice(), true, Kind::Float);
    (&square + square.transpose(1, 2) - e.matmul(&e.transpose(1, 2)) * 2.0).clamp_min(0.0)
}

/// Places of cells from the frame's middle, x then y, (rows * columns, 2).
pub(crate) fn from_middle([rows, columns]: [i64; 2], device: Device) -> Tensor {
    let along = |count: i64| Tensor::arange(count, (Kind::Float, device)) - (count - 1) as f64 / 2.0;
    let grid = Tensor::meshgrid_indexing(&[along(rows), along(columns)], "ij");
    Tensor::stack(&[grid[1].flatten(0, 1), grid[0].flatten(0, 1)], 1)
}

/// Vectors (.., 2, N) turned by angles (.., 1, N).
fn turned(vectors: &Tensor, cosine: &Tensor, sine: &Tensor) -> Tensor {
    let (x, y) = (vectors.narrow(2, 0, 1), vectors.narrow(2, 1, 1));
    Tensor::cat(&[&x * cosine - &y * sine, x * sine + y * cosine], 2)
}

/// Vectors, x then y, the fourth axis of those of `turns`, turned back by their cosines and sines.
pub(crate) fn turned_back(vectors: &Tensor, turns: &Tensor) -> Tensor {
    let axis = 3 - (turns.dim() - vectors.dim()) as i64;
    let [x, y] = [0, 1].map(|index| vectors.narrow(axis, index, 1));
    let [cosine, sine] = [0, 1].map(|index| turns.narrow(3, index, 1));
    Tensor::cat(&[&x * &cosine + &y * &sine, y * cosine - x * sine], 3)
}

fn dot(a: &Tensor, b: &Tensor) -> Tensor {
    (a * b).sum_dim_intlist([2_i64].as_slice(), true, Kind::Float)
}

fn cross(a: &Tensor, b: &Tensor) -> Tensor {
    a.narrow(2, 0, 1) * b.narrow(2, 1, 1) - a.narrow(2, 1, 1) * b.narrow(2, 0, 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    const SIZES: Motion = Motion {
        candidates: 2,
        features: 2,
        reach: 2,
        earlier: 2,
        refined: false,
        rigid: true,
        whole: true,
        depth: 0,
    };

    /// What cells of 4 x 6 say: rigid, alike reliable, and e of 8 in the left half, of 0 in the right one; of one candidate
    /// as of the other.
    fn halves() -> Belonging {
        let values = Tensor::zeros([1, 1 + 2, 2, 5, 4, 6], (Kind::Float, Device::Cpu));
        let feature = |moment: i64, index: i64| values.select(1, moment).select(2, 3 + index);
        let _ = feature(1, 0).fill_(20.0);
        let _ = feature(2, 0).narrow(3, 0, 3).fill_(8.0);
        Belonging::of(&SIZES, &values, 1)
    }

    #[test]
    fn cells_that_belong_together_turn_as_one() {
        // Each half turns by 30 degrees about its own middle, and one shifts; but of every cell it is said a little wrong.
        let (sine, cosine) = (0.5_f64, 0.75_f64.sqrt());
        let x = from_middle([4, 6], Device::Cpu).transpose(0, 1).reshape([2, 4, 6]);
        let sides = Tensor::from_slice(&[-1.5_f32, -1.5, -1.5, 1.5, 1.5, 1.5]).expand([4, 6], false);
        let (x_off, y_off) = (x.get(0) - &sides, x.get(1));
        let shift = (&sides + 1.5) / 3.0 * 2.0;
        let truth = Tensor::stack(
            &[&x_off * (cosine - 1.0) - &y_off * sine + &shift, &x_off * sine + &y_off * (cosine - 1.0)],
            0,
        );
        let truth = truth.expand([1, 1, 2, 2, 4, 6], false);
        let wrong = Tensor::from_slice(&nextclip_core::sampler::noise(1, 0, 96)).reshape([1, 1, 2, 2, 4, 6]);
        let found = halves().together(&(&truth + wrong * 0.3));
        let off = |a: &Tensor, b: &Tensor| (a - b).square().mean(Kind::Float).sqrt().double_value(&[]);
        assert!(off(&found.displacements, &truth) < 0.15, "{} cells off", off(&found.displacements, &truth));
        let angle = found.turns.select(3, 1).atan2(&found.turns.select(3, 0));
        assert!((angle - std::f64::consts::FRAC_PI_6).abs().max().double_value(&[]) < 0.15);
    }

    #[test]
    fn cells_that_are_told_apart_well_have_no_error() {
        let half = |left: f32, right: f32| Tensor::from_slice(&[left, left, left, right, right, right]);
        let things = |a: Tensor, b: Tensor| {
            Tensor::stack(&[a, b], 1).repeat([8, 1]).unsqueeze(0) // (1, 48, 2)
        };
        let error = |things: Tensor| halves().error(&things).double_value(&[]);
        assert!(error(things(half(1.0, 0.0), half(0.0, 1.0))) < 0.01);
        let every_other = |first: f32| Tensor::from_slice(&[first, 1.0 - first].repeat(3));
        assert!(error(things(every_other(1.0), every_other(0.0))) > 10.0);
        assert_eq!(error(things(half(0.0, 0.0), half(0.0, 0.0))), 0.0);
    }

    /// What cells of a thing say of it is a little different each, up to 1.4 apart, which is 2 by the kernel's measure; that of two
    /// things is 6 apart.
    #[test]
    fn cells_that_say_nearly_the_same_come_to_agree() {
        let between = between([-0.7, 0.0, 0.7, 6.7, 7.4, 8.1]);
        assert!(between(0, 2) < 0.1, "{} apart", between(0, 2));
        assert!(between(2, 3) > 30.0, "{} apart", between(2, 3));
    }

    #[test]
    fn things_that_say_nearly_the_same_stay_two() {
        let between = between([0.0, 0.0, 0.0, 1.5, 1.5, 1.5]);
        assert!(between(2, 3) > 1.5, "{} apart", between(2, 3));
    }

    /// How far candidates are apart of cells whose six columns say so.
    fn between(said: [f32; 6]) -> impl Fn(i64, i64) -> f64 {
        let values = Tensor::zeros([1, 1 + 2, 2, 5, 4, 6], (Kind::Float, Device::Cpu));
        values.select(1, 2).select(2, 3).copy_(&Tensor::from_slice(&said).expand([1, 2, 4, 6], false));
        let apart = Belonging::of(&SIZES, &values, 1).apart;
        move |i, j| apart.double_value(&[0, i, j])
    }

    #[test]
    fn what_is_told_otherwise_is_not_learned() {
        let learned = |known: bool| {
            let motion = Tensor::zeros([1, 3, 10, 4, 6], (Kind::Float, Device::Cpu)).set_requires_grad(true);
            let told = as_told(&SIZES, &motion, 1, known);
            assert!(told.equal(&motion));
            told.sum(Kind::Float).backward();
            let slopes = motion.grad().select(3, 0).select(3, 0).select(0, 0); // (moments, channels)
            [0, 1].map(|moment| Vec::<f32>::try_from(slopes.select(0, moment)).unwrap())
        };
        assert_eq!(learned(false), [[1.0; 10], [1.0, 1.0, 1.0, 0.0, 0.0, 1.0, 1.0, 1.0, 0.0, 0.0]]);
        let [to_come, past] = learned(true);
        assert_eq!(to_come, [0.0, 0.0, 1.0, 1.0, 1.0, 0.0, 0.0, 1.0, 1.0, 1.0]);
        assert_eq!(past, [0.0, 0.0, 1.0, 0.0, 0.0, 0.0, 0.0, 1.0, 0.0, 0.0]);
    }
}
