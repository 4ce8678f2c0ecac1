//! How far where a model says that things go is from where they truly do.

use nextclip_core::Motion;
use tch::{Kind, Tensor};

use crate::following::corrected;
use crate::rigid::Belonging;
use crate::ways::{MOVES_PX, POINT_STRIDE, Ways};

/// How much a point at rest counts, against one that moves: there are many more of them.
const REST_WEIGHT: f64 = 0.1;
/// Weight of how badly cells know what they belong to, beside the distance of things in log(1 + pixels).
const BELONGING_WEIGHT: f64 = 0.4;

impl Ways {
    /// How far the displacements of `motion` (B, H, M, m, h, w) of cells of `scale` pixels are from the true ones, in
    /// log(1 + pixels): at the moments to come, corrected by `response` as if the pictures said exactly where the points were; and
    /// how far from there they are looked for.
    pub fn error(&self, sizes: &Motion, motion: &Tensor, response: Option<&Tensor>, scale: f64) -> Tensor {
        let (size, points) = (motion.size(), self.displacements.size());
        let (rows, columns) = (size[4], size[5]);
        let per_cell = points[4] / rows;
        // (B, H, M, K, .., h, 1, w, 1) against (B, H, M, 1, 2, h, r, w, r)
        let values = motion.unflatten(3, [sizes.candidates as i64, -1].as_slice()).unsqueeze(6).unsqueeze(-1);
        let truth = self
            .displacements
            .unsqueeze(3)
            .reshape([&points[..3], &[1, 2, rows, per_cell, columns, per_cell]].concat());
        let mut places = values.narrow(4, 0, 2) * scale;
        let followed = sizes.followed_frames().len() as i64;
        let clip = size[2] - followed;
        let mut missed = Vec::new();
        for index in 0..followed {
            let moment = clip + index;
            let there = truth.select(2, moment);
            let off = (&there - places.select(2, moment))
                .where_self(&there.isnan().logical_not(), &there.zeros_like());
            let limit = f64::from(Motion::FOLLOW_LIMIT) * Motion::FOLLOW_STEPS as f64;
            // How far pictures are to be trusted is learned where there are pictures.
            let trust = values.select(2, moment).narrow(3, 2, 1).sigmoid().detach();
            let found = off.clamp(-limit, limit) * trust;
            if let Some(response) = response {
                places = corrected(&places, 2, &found, response, index);
            }
            missed.push(off);
        }
        let to_come = truth.narrow(2, 0, clip);
        let places = places.narrow(2, 0, clip);
        let error = if sizes.rigid {
            let values = values.squeeze_dim(-1).squeeze_dim(6).flatten(0, 1);
            self.rigid_error(sizes, &Belonging::of(sizes, &values, clip), &places, &to_come, scale)
        } else {
            self.things_error(sizes, &places, &to_come).0
        };
        if missed.is_empty() {
            return error;
        }
        let first = values.narrow(2, 0, 1).narrow(4, 0, 2) * scale;
        let chosen = match sizes.layered() {
            true => own_candidate(sizes, &self.things)
                .reshape([&points[..2], &[1, 1, rows, per_cell, columns, per_cell]].concat()),
            false => nearest(&first, &to_come.narrow(2, 0, 1)),
        };
        error + missed_error(&Tensor::stack(&missed, 2), &truth.narrow(2, clip, followed), &chosen, &to_come)
    }

    /// The same of cells that move as one with what they belong to, and how badly they know that.
    fn rigid_error(
        &self,
        sizes: &Motion,
        belonging: &Belonging,
        places: &Tensor,
        truth: &Tensor,
        scale: f64,
    ) -> Tensor {
        // Points of a cell were corrected each by itself; pictures say it of all of a cell.
        let places = places.mean_dim([6_i64, 8].as_slice(), true, Kind::Float);
        let size = places.size();
        let (cells, points) = ([size[5], size[7]], truth.size()[6]);
        let flat = places.squeeze_dim(-1).squeeze_dim(6).flatten(0, 1) / scale;
        let together = belonging.together(&flat);
        let mut one = size.clone();
        one[4] = 1;
        // Where points are from the middle of their cell, x then y.
        let at = (Tensor::arange(points, (Kind::Float, places.device())) - (points - 1) as f64 / 2.0)
            * POINT_STRIDE as f64;
        let (x, y) = (at.reshape([1, 1, 1, 1, points]), at.reshape([1, 1, points, 1, 1]));
        let [cosine, sine] = [0, 1].map(|index| together.turns.narrow(3, index, 1).reshape(&one));
        let turn = Tensor::cat(&[(&cosine - 1.0) * &x - &sine * &y, &sine * &x + (&cosine - 1.0) * &y], 4);
        let displacements = together.displacements.reshape(&size) * scale + turn;
        let (error, best) = self.things_error(sizes, &displacements, truth);
        error + belonging.error(&self.members(&best, size[3], cells)) * BELONGING_WEIGHT
    }

    /// Which thing each candidate of each cell is one of, (B H, K h w, things): of those whose `best` (B H, things) one it is the
    /// thing that has the most of the cell, be it little, as of a rod. None of them, where nothing is known.
    pub(crate) fn members(&self, best: &Tensor, candidates: i64, [rows, columns]: [i64; 2]) -> Tensor {
        let size = self.things.size();
        let (frames, per_cell) = (size[0] * size[1], size[2] / rows);
        let of_thing = self.things.flatten(0, 1).one_hot(-1).to_kind(Kind::Float);
        let points = of_thing.reshape([frames, rows, per_cell, columns, per_cell, -1]).sum_dim_intlist(
            [2_i64, 4].as_slice(),
            false,
            Kind::Float,
        );
        let known = self.displacements.isnan().logical_not().flatten(0, 1).flatten(1, -1).any_dim(1, false);
        let best = best.one_hot(candidates).transpose(1, 2).unsqueeze(2); // (B H, K, 1, things)
        let points = points.flatten(1, 2).unsqueeze(1) * best;
        let most = points.amax([3_i64].as_slice(), true);
        let own = points.eq_tensor(&most).logical_and(&points.gt(0.0));
        own.logical_and(&known.reshape([-1, 1, 1, 1])).flatten(1, 2).to_kind(Kind::Float)
    }

    /// How far things are where they are going, by displacements (B, H, M, K, 2, h, 1, w, 1) against true ones (B, H, M, 1, 2, h, r,
    /// w, r): the mean over all points of log(1 + d), d the root of a thing's mean square distance by its best candidate.
    /// A thing goes one way: were each of its points free to take another candidate, or each the likeliest
    /// of several futures, it would go to pieces. In layers, where all candidates land on one another, the first is the ground's and
    /// the second is the things'. And which candidate that is, (B H, things).
    pub(crate) fn things_error(
        &self,
        sizes: &Motion,
        displacements: &Tensor,
        truth: &Tensor,
    ) -> (Tensor, Tensor) {
        let sum = |x: Tensor| x.sum_dim_intlist([4_i64].as_slice(), false, Kind::Float);
        let size = displacements.size();
        let (frames, moments, candidates) = (size[0] * size[1], size[2], size[3]);
        let by_point = |x: Tensor, of_each: i64| x.reshape([frames, moments, of_each, -1]);
        let way = sum(truth.square());
        let moves = way.ge(MOVES_PX * MOVES_PX).to_kind(Kind::Float);
        let rests = way.lt(MOVES_PX * MOVES_PX).to_kind(Kind::Float);
        let counts = by_point(moves + rests * REST_WEIGHT, 1); // what is not known does neither
        let square = sum((displacements - truth.nan_to_num(0.0, None, None)).square());
        let square = by_point(square, candidates) * &counts;
        let of_thing = self.things.reshape([frames, -1]).one_hot(-1).to_kind(Kind::Float).unsqueeze(1);
        let points = counts.matmul(&of_thing); // (B H, M, 1, things)
        let off = log_distance(&(square.matmul(&of_thing) / points.clamp_min(REST_WEIGHT)));
        let all = (off * &points).sum_dim_intlist([1_i64].as_slice(), false, Kind::Float); // (B H, K, things)
        let (least, best) = match sizes.layered() {
            true => {
                let things = Tensor::arange(all.size()[2], (Kind::Int64, all.device()));
                let best = own_candidate(sizes, &things).expand([frames, -1], false);
                (all.gather(1, &best.unsqueeze(1), false).squeeze_dim(1), best)
            }
            false => all.min_dim(1, false),
        };
        (least.sum(Kind::Float) / points.sum(Kind::Float).clamp_min(1.0), best)
    }
}

/// How far the places (n, N, K, 2, H, W) that pixels are taken from are from the true ones (n, N, 2, H, W): the mean of
/// log(1 + pixels) of the nearest candidate, over all that moves. NaN where the truth is not known.
pub(crate) fn source_error(sources: &Tensor, truth: &Tensor) -> Tensor {
    let truth = truth.unsqueeze(2);
    let sum = |x: Tensor| x.sum_dim_intlist([3_i64].as_slice(), false, Kind::Float);
    let moves = sum(truth.square()).ge(MOVES_PX * MOVES_PX);
    let off = log_distance(&sum((sources - truth.nan_to_num(0.0, None, None)).square()));
    let nearest = off.amin([2_i64].as_slice(), true);
    (nearest * &moves).sum(Kind::Float) / moves.sum(Kind::Float).clamp_min(1.0)
}

/// Which candidate `things` of these numbers go by, in layers: the ground by the first, all else by the second.
fn own_candidate(sizes: &Motion, things: &Tensor) -> Tensor {
    things.clamp_max(1.min(sizes.candidates as i64 - 1))
}

/// Which candidate is nearest to where points truly are at the `first` moment to come, (B, H, 1, 1, h, r, w, r).
fn nearest(first: &Tensor, truth: &Tensor) -> Tensor {
    let off = (first - truth.nan_to_num(0.0, None, None)).square();
    off.sum_dim_intlist([4_i64].as_slice(), false, Kind::Float).argmin(3, true)
}

/// Mean of log(1 + distance) of what is `missed` (B, H, F, K, 2, ..) of where points were, `truth`, by the candidate that is
/// `chosen` for them: one candidate is one thing. Points at rest count as much as those that move, or nobody says where they were.
fn missed_error(missed: &Tensor, truth: &Tensor, chosen: &Tensor, to_come: &Tensor) -> Tensor {
    let sum = |x: &Tensor| x.square().sum_dim_intlist([4_i64].as_slice(), false, Kind::Float);
    let next = to_come.narrow(2, 0, 1);
    let off = log_distance(&sum(missed));
    let chosen = chosen.expand([&[-1, -1, off.size()[2], -1], &off.size()[4..]].concat(), false);
    let off = off.gather(3, &chosen, false);
    let square = sum(truth);
    let known = next.isnan().logical_not().select(4, 0);
    let mean = |counts: Tensor| {
        let counts = counts.logical_and(&known);
        (&off * &counts).sum(Kind::Float) / counts.sum(Kind::Float).clamp_min(1.0)
    };
    mean(square.ge(MOVES_PX * MOVES_PX)) + mean(square.lt(MOVES_PX * MOVES_PX))
}

/// log(1 + d) of squared distances d^2 in pixels. The root has no slope at zero without the addition.
fn log_distance(square: &Tensor) -> Tensor {
    (square + 0.01).sqrt().log1p()
}

#[cfg(test)]
mod tests {
    use super::*;

    const SIZES: Motion = Motion {
        candidates: 2,
        features: 0,
        reach: 1,
        earlier: 0,
        refined: false,
        rigid: false,
        whole: false,
        depth: 0,
    };

    /// Two cells of 8 x 8 pixels side by side, 2 x 2 points each, that move by 8 and by 16 pixels to the right, or only as
    /// one of both does.
    fn ways(things: [i64; 2], moved: [f32; 2]) -> Ways {
        let by_cell = |values: Tensor| values.repeat_interleave_self_int(2, -1, None);
        let x = by_cell(Tensor::from_slice(&moved)).expand([1, 1, 1, 2, 4], false);
        let displacements = Tensor::stack(&[&x, &x.zeros_like()], 3);
        let things = by_cell(Tensor::from_slice(&things)).expand([1, 1, 2, 4], false).contiguous();
        Ways { displacements, things }
    }

    /// Candidates' x in cells, the first cell's and the second's.
    fn said(candidates: [[f32; 2]; 2]) -> Tensor {
        let candidate = |x: &[f32; 2]| {
            let x = Tensor::from_slice(x);
            Tensor::stack(&[&x, &x.zeros_like(), &x.zeros_like()], 0)
        };
        let all: Vec<Tensor> = candidates.iter().map(candidate).collect();
        Tensor::cat(&all, 0).reshape([1, 1, 1, 6, 1, 2])
    }

    fn error(ways: &Ways, motion: &Tensor) -> f64 {
        ways.error(&SIZES, motion, None, 8.0).double_value(&[])
    }

    #[test]
    fn a_thing_goes_by_one_candidate() {
        let torn = said([[1.0, 9.0], [9.0, 1.0]]);
        let whole = said([[1.0, 1.0], [9.0, 9.0]]);
        let one_thing = ways([1, 1], [8.0, 8.0]);
        assert!(error(&one_thing, &whole) < 0.1);
        assert!(error(&one_thing, &torn) > 3.0);
        // Two things may each take their own.
        assert!(error(&ways([1, 2], [8.0, 8.0]), &torn) < 0.1);
        // What is not known does not count; what rests counts less than what moves.
        assert_eq!(error(&ways([0, 1], [f32::NAN, f32::NAN]), &torn), 0.0);
        let beside = |rests: f32| error(&ways([1, 2], [rests, 8.0]), &said([[9.0, 1.0], [9.0, 1.0]]));
        assert!(0.1 < beside(0.0) && beside(0.0) < 0.3 * beside(8.0), "{} {}", beside(0.0), beside(8.0));
    }

    /// All candidates land on one another there: which of them is a thing's must not depend on where it goes.
    #[test]
    fn in_layers_things_go_by_the_second_candidate() {
        const LAYERED: Motion = Motion { depth: 2, ..SIZES };
        let error = |things: [i64; 2], candidates: [[f32; 2]; 2]| {
            ways(things, [8.0, 8.0]).error(&LAYERED, &said(candidates), None, 8.0).double_value(&[])
        };
        let [right, wrong] = [[1.0, 1.0], [9.0, 9.0]];
        assert!(error([1, 2], [wrong, right]) < 0.1);
        assert!(error([1, 2], [right, wrong]) > 3.0, "the first is the ground's");
        assert!(error([0, 0], [right, wrong]) < 0.1);
    }

    #[test]
    fn cells_of_a_thing_go_as_one_where_they_know_it() {
        const RIGID: Motion = Motion { features: 2, earlier: 2, rigid: true, ..SIZES };
        // Both cells say wrong, but together right; rigid or not, and belonging to one thing or to none.
        let of = |rigidity: f32, apart: f32| {
            let past = |features: [f32; 2]| [0.0, 0.0, 0.0, features[0], features[1]];
            let moments = |x: f32, e: f32| {
                let values = [[x, 0.0, 0.0, 0.0, 0.0], past([rigidity, 0.0]), past([e, 0.0])];
                // The second candidate is nobody's.
                values.map(|values| [values, [9.0, 9.0, 0.0, values[3], values[4] + 9.0]].concat()).concat()
            };
            let values = [moments(0.5, 0.0), moments(1.5, apart)].concat();
            Tensor::from_slice(&values).reshape([1, 1, 1, 2, 3, 10]).permute([0, 1, 4, 5, 2, 3]).contiguous()
        };
        let Ways { displacements, things } = ways([1, 1], [8.0, 8.0]);
        let still = displacements.zeros_like();
        let ways = Ways { displacements: Tensor::cat(&[&displacements, &still, &still], 2), things };
        let error = |motion: &Tensor| ways.error(&RIGID, motion, None, 8.0).double_value(&[]);
        let (loose, whole, torn) = (error(&of(-20.0, 0.0)), error(&of(20.0, 0.0)), error(&of(20.0, 9.0)));
        assert!(whole < loose - 1.0, "{whole} is not below {loose}");
        assert!(torn > loose + 1.0, "{torn} is not above {loose}: they do not know that they are one");
    }

    #[test]
    fn what_has_little_of_a_cell_is_a_candidate_of_its_own() {
        let Ways { displacements, .. } = ways([1, 1], [8.0, 8.0]);
        let things = Tensor::from_slice(&[1_i64, 1, 1, 1, 1, 2, 1, 1]).reshape([1, 1, 2, 4]);
        let ways = Ways { displacements, things };
        let members = |best: [i64; 3]| {
            let members = ways.members(&Tensor::from_slice(&best).unsqueeze(0), 2, [1, 2]);
            Vec::<Vec<f32>>::try_from(members.get(0)).unwrap()
        };
        // Both cells' first candidates, then their second ones: of the ground, the one thing and the other.
        let [none, one, other] = [[0.0; 3], [0.0, 1.0, 0.0], [0.0, 0.0, 1.0]];
        assert_eq!(members([0, 0, 1]), [one, one, other, none]);
        assert_eq!(members([1, 0, 0]), [one, one, none, none], "the greater part counts");
    }

    #[test]
    fn sources_count_by_the_nearest_candidate_where_they_are_known() {
        let candidates = Tensor::from_slice(&[-16.0_f32, 8.0, 3.0, 3.0]).reshape([1, 1, 2, 2, 1, 1]);
        let truth = Tensor::from_slice(&[-16.0_f32, 8.0]).reshape([1, 1, 2, 1, 1]);
        assert!(source_error(&candidates, &truth).double_value(&[]) < 0.1);
        assert!(source_error(&candidates, &(&truth + 20.0)).double_value(&[]) > 2.0);
        assert_eq!(source_error(&candidates, &(truth * f64::NAN)).double_value(&[]), 0.0);
    }

    #[test]
    fn pictures_left_for_right_move_the_other_way() {
        let ways = ways([1, 2], [8.0, -16.0]).mirrored();
        assert!(error(&ways, &said([[2.0, -1.0], [9.0, 9.0]])) < 0.1);
        assert!(Vec::<i64>::try_from(ways.things.flatten(0, -1)).unwrap().starts_with(&[2, 2, 1, 1]));
    }
}
