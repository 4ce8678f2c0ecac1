//! The pictures that there would be if the things of a generated scene went where a model says: what a blend is to show of
//! things that are whole, wherever they go. What came is no such picture: where a thing goes astray, it would have of it
//! only what is where it should be.

use nextclip_scenes::{Trace, Way};
use tch::{Kind, Tensor};

use crate::following::{Between, warp};
use crate::placed::Placed;
use crate::rigid::{Turned, from_middle};
use crate::ways::{MOVES_PX, Ways, displacement, mirrored, numbers};

/// Where the pixels of such pictures are from.
#[derive(Debug)]
pub(crate) struct Told {
    /// In the last picture, x then y in pixels, (1, N, 2, H, W); NaN where that does not show them.
    sources: Tensor,
    /// Whether what came has the same thing there, (1, N, 1, H, W).
    same: Tensor,
    /// Whether both have the ground there, which stays.
    ground: Tensor,
    /// The numbers of what they have there, (N, H, W).
    things: Tensor,
}

/// How a model says that things go.
#[derive(Debug)]
pub(crate) struct Going {
    /// At every moment to come the ways of all, the ground's first, then those of things by their numbers.
    pub(crate) ways: Vec<Vec<Way>>,
    /// The candidate of each that it goes by, (1, things).
    pub(crate) best: Tensor,
}

impl Told {
    /// Of things that go such `ways` from the `last` moment to those `to_come`; of pictures left for right, where those are
    /// `over`.
    pub(crate) fn of(last: &Trace, to_come: &[&Trace], ways: &[Vec<Way>], over: bool) -> Self {
        let (mut sources, mut same, mut ground, mut things) =
            (Vec::new(), Vec::new(), Vec::new(), Vec::new());
        for (came, ways) in to_come.iter().zip(ways) {
            let ways: Vec<Way> = ways.iter().map(|&way| if over { turned_over(way) } else { way }).collect();
            let told = last.moved(&ways);
            let shown = numbers(told.things(1).mapv(Some));
            let alike = shown.eq_tensor(&numbers(came.things_as_of(last, 1)));
            let stays = ways.first().is_none_or(|ground| *ground == Way::default());
            ground.push(shown.eq(0).logical_and(&alike).logical_and(&Tensor::from(stays)));
            same.push(alike);
            things.push(shown);
            sources.push(displacement(&told, last, 1));
        }
        let stack = |all: &[Tensor]| Tensor::stack(all, 0).unsqueeze(0);
        let (sources, same, ground) =
            (stack(&sources), stack(&same).unsqueeze(2), stack(&ground).unsqueeze(2));
        let things = Tensor::stack(&things, 0);
        if !over {
            return Self { sources, same, ground, things };
        }
        let [same, ground, things] = [same, ground, things].map(|x| x.flip([-1]));
        Self { sources: mirrored(&sources), same, ground, things }
    }

    /// What is to be where in them, as things are `going`; `members` (K, h w, things) are of them by their numbers.
    pub(crate) fn placed(&self, going: &Going, members: &Tensor) -> Placed {
        let device = members.device();
        let count = members.size()[2].max(self.things.max().int64_value(&[]) + 1);
        let padded = |x: &Tensor, axis: usize| x.constant_pad_nd([0, count - x.size()[axis]]);
        Placed {
            things: self.things.to_device(device),
            sources: self.sources.squeeze_dim(0).to_device(device),
            moves: Placed::moves(&going.ways, count as usize).to_device(device),
            best: padded(&going.best.squeeze_dim(0), 0),
            members: padded(members, 2),
        }
    }

    /// These pictures (1, N, 3, H, W), of the `last` one and, of what that does not show, of those that `came`, both
    /// (1, .., 3, H, W); where neither shows it, those that are `shown`.
    pub(crate) fn pictures(&self, last: &Tensor, came: &Tensor, shown: &Tensor) -> Tensor {
        let to = |x: &Tensor| x.to_device(last.device());
        let (sources, same, ground) = (to(&self.sources), to(&self.same), to(&self.ground));
        let known = sources.narrow(2, 0, 1).isnan().logical_not();
        let moved = warp(&last.squeeze_dim(1), &sources.nan_to_num(0.0, None, None), Between::Cubic);
        let hidden = came.where_self(&same, &shown.detach());
        // The ground that came has the shadows that the last one had elsewhere.
        came.where_self(&ground, &moved.clamp(-1.0, 1.0).where_self(&known, &hidden))
    }
}

/// A way in pictures left for right.
fn turned_over(Way { turn_rad, shift: [x, y] }: Way) -> Way {
    Way { turn_rad: -turn_rad, shift: [-x, y] }
}

/// The ways of things from the last of the frames of `truth` to the `clip` moments to come, of cells of `scale` pixels that are
/// `turned`, each of its best candidate. What truly rests has none.
pub(crate) fn going(truth: &Ways, turned: &Turned, clip: i64, scale: f64) -> Going {
    let displacements = turned.displacements.narrow(1, 0, clip); // (1, N, K, 2, h, w)
    let cells = [4, 5].map(|axis| displacements.size()[axis]);
    let per_cell = truth.displacements.size()[4] / cells[0];
    let came = truth.displacements.narrow(2, 0, clip);
    let came = came.reshape([1, 1, clip, 1, 2, cells[0], per_cell, cells[1], per_cell]);
    let (_, by) = truth.things_error(&(displacements.unsqueeze(0).unsqueeze(6).unsqueeze(-1) * scale), &came);
    let best = Vec::<i64>::try_from(by.flatten(0, -1)).unwrap_or_default();

    let of_thing = truth.things.flatten(0, 2).one_hot(-1).to_kind(Kind::Float); // (rows, columns, things)
    let far = came.square().sum_dim_intlist([4_i64].as_slice(), false, Kind::Float).reshape([clip, -1]);
    let points = |of: Tensor| of.to_kind(Kind::Float).matmul(&of_thing.flatten(0, 1)).gt(0.5); // (N, things)
    let moves = points(far.ge(MOVES_PX * MOVES_PX));
    let rests = points(far.lt(MOVES_PX * MOVES_PX)).logical_and(&moves.logical_not());

    // Means over the cells that a thing is in: where it has most of a cell, what is said there is the thing's.
    let covered = of_thing.reshape([cells[0], per_cell, cells[1], per_cell, -1]);
    let covered = covered.sum_dim_intlist([1_i64, 3].as_slice(), false, Kind::Float).flatten(0, 1).square();
    let all = covered.sum_dim_intlist([0_i64].as_slice(), true, Kind::Float).clamp_min(1e-6);
    let mean = |values: &Tensor| values.matmul(&(&covered / &all));
    let of_cells = |values: &Tensor| mean(&values.narrow(1, 0, clip).flatten(-2, -1)); // (1, N, K, 2, things)
    let middles = mean(&from_middle(cells, covered.device()).transpose(0, 1)); // (2, things)
    let (shifts, turns) = (of_cells(&turned.displacements), of_cells(&turned.turns));
    let way = |moment: i64, thing: i64, candidate: i64| {
        if rests.int64_value(&[moment, thing]) != 0 {
            return Way::default();
        }
        let of = |x: &Tensor, axis: i64| x.double_value(&[0, moment, candidate, axis, thing]);
        let turn_rad = if thing == 0 { 0.0 } else { of(&turns, 1).atan2(of(&turns, 0)) };
        let (sine, cosine) = turn_rad.sin_cos();
        let [x, y] = [0, 1].map(|axis| middles.double_value(&[axis, thing]));
        let [to_x, to_y] = [x + of(&shifts, 0), y + of(&shifts, 1)];
        let shift = [to_x - (cosine * x - sine * y), to_y - (sine * x + cosine * y)];
        Way { turn_rad, shift: shift.map(|cells| cells * scale) }
    };
    let at = |moment: i64| best.iter().zip(0..).map(|(&best, thing)| way(moment, thing, best)).collect();
    Going { ways: (0..clip).map(at).collect(), best: by }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::footage;
    use nextclip_core::Geometry;
    use nextclip_scenes::Split;
    use tch::Device;

    fn scene() -> Trace {
        let geometry = Geometry {
            height: 48,
            width: 64,
            vae_scale: 8,
            latent_channels: 4,
            patch: 1,
            history: 1,
            clip: 1,
            frame_interval_ms: 200,
        };
        footage::scene_traces(Split::Train, 2, &geometry, 1).remove(0)
    }

    #[test]
    fn things_are_shown_where_they_are_told_to_be() {
        let last = scene();
        let ways = vec![Way::default(), Way { turn_rad: 0.2, shift: [3.0, -2.0] }];
        let came = last.moved(&ways);
        let told = Told::of(&last, &[&came], std::slice::from_ref(&ways), false);
        assert!(bool::try_from(told.same.all()).unwrap());
        let over = Told::of(&last, &[&came], &[ways.into_iter().map(turned_over).collect()], true);
        let off = (over.sources - mirrored(&told.sources)).abs().nan_to_num(0.0, None, None).max();
        assert!(off.double_value(&[]) < 1e-3, "{off:?} pixels off in pictures left for right");

        let picture = |level: f64| Tensor::full([1, 1, 3, 48, 64], level, (Kind::Float, Device::Cpu));
        let shown = told.pictures(&picture(0.5), &picture(-0.5), &picture(0.0));
        let share = |level: f64| shown.eq(level).to_kind(Kind::Float).mean(Kind::Float).double_value(&[]);
        // Of the thing, the last picture's; of the ground that stays, that which came.
        assert!(share(0.5) > 0.005 && share(-0.5) > 0.5 && share(0.0) == 0.0, "{shown:?}");
    }

    /// The left cell's thing turns by a quarter about its own middle and goes on, as the second of two candidates says; the right
    /// one's rests, whatever is said.
    #[test]
    fn things_go_as_their_cells_say() {
        let by_cell = |values: Tensor| values.repeat_interleave_self_int(2, -1, None);
        let x = by_cell(Tensor::from_slice(&[8.0_f32, 0.0])).expand([1, 1, 1, 2, 4], false);
        let things = by_cell(Tensor::from_slice(&[1_i64, 2])).expand([1, 1, 2, 4], false).contiguous();
        let ways = Ways { displacements: Tensor::stack(&[&x, &x.zeros_like()], 3), things };
        let of = |values: [f32; 8]| Tensor::from_slice(&values).reshape([1, 1, 2, 2, 1, 2]);
        let turned = Turned {
            displacements: of([9.0, 9.0, 9.0, 9.0, 1.0, 9.0, 0.5, 9.0]),
            turns: of([1.0, 1.0, 0.0, 0.0, 0.0, 1.0, 1.0, 0.0]),
        };
        let Going { ways: mut gone, best } = going(&ways, &turned, 1, 8.0);
        assert_eq!(best.int64_value(&[0, 1]), 1);
        let gone = gone.remove(0);
        assert_eq!((gone.len(), gone[2]), (3, Way::default()));
        // Its middle is 4 pixels left of the frame's; a quarter turn takes that to 4 pixels above.
        let Way { turn_rad, shift: [x, y] } = gone[1];
        let off = [turn_rad - std::f64::consts::FRAC_PI_2, x - (-4.0 + 8.0), y - (4.0 + 4.0)];
        assert!(off.iter().all(|off| off.abs() < 1e-4), "{:?}", gone[1]);
    }
}
