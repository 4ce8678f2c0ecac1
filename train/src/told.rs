//! The pictures that there would be if the things of a generated scene went where a model says: what a blend is to show of
//! things that are whole, wherever they go. What came is no such picture: where a thing goes astray, it would have of it
//! only what is where it should be.

use nextclip_core::Motion;
use nextclip_scenes::{Trace, Way};
use tch::{Kind, Tensor};

use crate::following::{Between, warp};
use crate::placed::Placed;
use crate::rigid::{Turned, from_middle};
use crate::ways::{MOVES_PX, Ways, displacement, mirrored, numbers};

/// Where the pixels of such pictures are from.
#[derive(Debug)]
pub(crate) struct Told {
    /// The numbers of what they have there, (N, H, W).
    things: Tensor,
    /// Where that is in the last picture and in earlier ones, x then y in pixels, (N, pictures, 2, H, W); NaN where one does not
    /// show it.
    before: Tensor,
    /// The same in those that came, each in its own, (N, 1, 2, H, W).
    after: Tensor,
    /// Whether both have the ground there, which stays, (N, 1, H, W).
    ground: Tensor,
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
    /// Of things that go such `ways` from the last of the moments seen, from which it goes back in `seen`, to those `to_come`; of
    /// pictures left for right, where those are `over`. What was not seen has no trace.
    pub(crate) fn of(
        seen: &[Option<&Trace>],
        to_come: &[&Trace],
        ways: &[Vec<Way>],
        over: bool,
    ) -> Option<Self> {
        let last = seen.first().copied().flatten()?;
        let (mut things, mut before, mut after, mut ground) =
            (Vec::new(), Vec::new(), Vec::new(), Vec::new());
        for (came, ways) in to_come.iter().zip(ways) {
            let ways: Vec<Way> = ways.iter().map(|&way| if over { turned_over(way) } else { way }).collect();
            let told = last.moved(&ways);
            let shown = numbers(told.things(1).mapv(Some));
            let alike = shown.eq_tensor(&numbers(came.things_as_of(last, 1)));
            let stays = ways.first().is_none_or(|ground| *ground == Way::default());
            ground.push(shown.eq(0).logical_and(&alike).logical_and(&Tensor::from(stays)));
            things.push(shown);
            let at = |picture: &Option<&Trace>| match picture {
                Some(picture) => displacement(&told, picture, 1),
                None => displacement(&told, &told, 1) * f64::NAN,
            };
            before.push(Tensor::stack(&seen.iter().map(at).collect::<Vec<_>>(), 0));
            after.push(displacement(&told, came, 1));
        }
        let [things, before, after, ground] =
            [things, before, after, ground].map(|all| Tensor::stack(&all, 0));
        let (after, ground) = (after.unsqueeze(1), ground.unsqueeze(1));
        Some(match over {
            false => Self { things, before, after, ground },
            true => Self {
                things: things.flip([-1]),
                before: mirrored(&before),
                after: mirrored(&after),
                ground: ground.flip([-1]),
            },
        })
    }

    /// What is to be where in them, as things are `going`; `members` (K, h w, things) are of them by their numbers.
    pub(crate) fn placed(&self, going: &Going, members: &Tensor) -> Placed {
        let device = members.device();
        let count = members.size()[2].max(self.things.max().int64_value(&[]) + 1);
        let padded = |x: &Tensor, axis: usize| x.constant_pad_nd([0, count - x.size()[axis]]);
        Placed {
            things: self.things.to_device(device),
            sources: self.before.to_device(device),
            moves: Placed::moves(&going.ways, count as usize).to_device(device),
            members: padded(members, 2),
        }
    }

    /// These pictures (1, N, 3, H, W), of the `last` one and, of what that does not show, of those that `came`, both
    /// (1, .., 3, H, W); where neither shows it, those that are `shown`.
    pub(crate) fn pictures(&self, last: &Tensor, came: &Tensor, shown: &Tensor) -> Tensor {
        let to = |x: &Tensor| x.to_device(last.device());
        let came = came.squeeze_dim(0);
        let read = |from: &Tensor, picture: &Tensor, otherwise: &Tensor| {
            let moved = warp(picture, &from.nan_to_num(0.0, None, None), Between::Cubic).squeeze_dim(1);
            moved.clamp(-1.0, 1.0).where_self(&from.select(2, 0).isnan().logical_not(), otherwise)
        };
        let hidden = read(&to(&self.after), &came, &shown.squeeze_dim(0).detach());
        let each = last.squeeze_dim(1).expand_as(&came);
        let moved = read(&to(&self.before.narrow(1, 0, 1)), &each, &hidden);
        // The ground that came has the shadows that the last one had elsewhere.
        came.where_self(&to(&self.ground), &moved).unsqueeze(0)
    }
}

/// A way in pictures left for right.
fn turned_over(Way { turn_rad, shift: [x, y] }: Way) -> Way {
    Way { turn_rad: -turn_rad, shift: [-x, y] }
}

/// The ways of things from the last of the frames of `truth` to the `clip` moments to come, of cells of `scale` pixels that are
/// `turned`, each of its best candidate. What truly rests has none.
pub(crate) fn going(sizes: &Motion, truth: &Ways, turned: &Turned, clip: i64, scale: f64) -> Going {
    let displacements = turned.displacements.narrow(1, 0, clip); // (1, N, K, 2, h, w)
    let cells = [4, 5].map(|axis| displacements.size()[axis]);
    let per_cell = truth.displacements.size()[4] / cells[0];
    let came = truth.displacements.narrow(2, 0, clip);
    let came = came.reshape([1, 1, clip, 1, 2, cells[0], per_cell, cells[1], per_cell]);
    let displacements = displacements.unsqueeze(0).unsqueeze(6).unsqueeze(-1) * scale;
    let (_, by) = truth.things_error(sizes, &displacements, &came);
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
        let of = |ways: &[Way], over| {
            Told::of(&[Some(&last), Some(&came), None], &[&came], &[ways.into()], over).unwrap()
        };
        let told = of(&ways, false);
        // All of it is where it came, and where it was if it had come before, but nobody knows where it was when nothing was seen.
        let [was, before, unseen] = [0, 1, 2].map(|picture| told.before.select(1, picture));
        for found in [&told.after.squeeze_dim(1), &before] {
            let exact = found.abs().lt(1e-3).to_kind(Kind::Float).mean(Kind::Float).double_value(&[]);
            assert!(exact > 0.99, "{exact} of it");
        }
        assert!(bool::try_from(unseen.isnan().all()).unwrap());
        let over = of(&ways.iter().map(|&way| turned_over(way)).collect::<Vec<_>>(), true);
        let off = (over.before.select(1, 0) - mirrored(&was)).abs().nan_to_num(0.0, None, None).max();
        assert!(off.double_value(&[]) < 1e-3, "{off:?} pixels off in pictures left for right");

        let picture = |level: f64| Tensor::full([1, 1, 3, 48, 64], level, (Kind::Float, Device::Cpu));
        let shown = told.pictures(&picture(0.5), &picture(-0.5), &picture(0.0));
        let share = |level: f64| shown.eq(level).to_kind(Kind::Float).mean(Kind::Float).double_value(&[]);
        // Of the thing, the last picture's; of the ground that stays, that which came.
        assert!(share(0.5) > 0.005 && share(-0.5) > 0.5 && share(0.0) == 0.0, "{shown:?}");
        // What the last picture does not show is as it came.
        let hidden = Told { before: &told.before * f64::NAN, ..told };
        let shown = hidden.pictures(&picture(0.5), &picture(-0.5), &picture(0.0));
        let came = shown.eq(-0.5).to_kind(Kind::Float).mean(Kind::Float).double_value(&[]);
        assert!(came > 0.99, "{came} of it");
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
        let Going { ways: mut gone, best } =
            going(&Motion { depth: 0, ..Motion::DEFAULT }, &ways, &turned, 1, 8.0);
        assert_eq!(best.int64_value(&[0, 1]), 1);
        let gone = gone.remove(0);
        assert_eq!((gone.len(), gone[2]), (3, Way::default()));
        // Its middle is 4 pixels left of the frame's; a quarter turn takes that to 4 pixels above.
        let Way { turn_rad, shift: [x, y] } = gone[1];
        let off = [turn_rad - std::f64::consts::FRAC_PI_2, x - (-4.0 + 8.0), y - (4.0 + 4.0)];
        assert!(off.iter().all(|off| off.abs() < 1e-4), "{:?}", gone[1]);
    }
}
