//! Where in a told picture every thing is, is known to the pixel. So what is to land there, and which of its sources a blend is to
//! show, need not be guessed from colours alone: two things that pass each other look whole only if one of them is in front.

use nextclip_scenes::Way;
use tch::{Kind, Tensor};

use crate::compositing::Blended;

/// The least share whose logarithm is taken.
const LEAST: f64 = 1e-3;
/// What is from so far off, in pixels, is still right.
const RIGHT_PX: f64 = 1.5;
/// Mean squared difference, on the scale of -1 to 1, below which colours are right: 2.5 levels.
const ALIKE: f64 = 4e-4;
/// What there is to place, as a share of all pixels, at least: a sliver that is left of a thing is not to count as a whole one.
const LEAST_AREA: f64 = 0.01;

/// What is to be where in N pictures of the future.
#[derive(Debug)]
pub(crate) struct Placed {
    /// The number of each pixel's thing, (N, H, W).
    pub(crate) things: Tensor,
    /// Where that is in the last picture, and in each that things are followed in, x then y in pixels, (N, 1 + F, 2, H, W); NaN
    /// where that does not show it.
    pub(crate) before: Tensor,
    /// Whether things move, (N, things), 1 or 0.
    pub(crate) moves: Tensor,
    /// The candidate that each goes by, (things).
    pub(crate) best: Tensor,
    /// Which thing each candidate of each cell is of, (K, h w, things), 1 or 0.
    pub(crate) members: Tensor,
}

impl Placed {
    /// Whether those of `count` things move that go such `ways`, moment by moment; what has no way rests. (N, things)
    pub(crate) fn moves(ways: &[Vec<Way>], count: usize) -> Tensor {
        let of = |ways: &Vec<Way>| {
            let moves = |thing: usize| ways.get(thing).is_some_and(|way| *way != Way::default());
            Tensor::from_slice(&(0..count).map(|thing| f32::from(u8::from(moves(thing)))).collect::<Vec<_>>())
        };
        Tensor::stack(&ways.iter().map(of).collect::<Vec<_>>(), 0)
    }

    /// How little is where it is to be, of pictures that are `blended` so and are to be `aim`, (1, N, 3, H, W). First of what lands
    /// there: the mean over the pixels of what moves of -log of the share of its thing, by the thing's candidate. Then of what is
    /// shown: of -log of the share of those sources that are right.
    pub(crate) fn errors(&self, blended: &Blended, aim: &Tensor) -> [Tensor; 2] {
        let landed = &blended.landed;
        let from: Vec<&Tensor> = std::iter::once(&landed.from).chain(&landed.was).collect();
        let [own, alike] = tch::no_grad(|| {
            [
                self.own(&Tensor::stack(&from, 2), blended.sources.size()[1]),
                alike(&blended.sources, &aim.squeeze_dim(0)),
            ]
        });
        [self.landing_error(&landed.choice.squeeze_dim(0)), self.shown_error(&blended.weights, &own, &alike)]
    }

    /// Of what lands, (N, K, places, cells).
    fn landing_error(&self, choice: &Tensor) -> Tensor {
        let size = self.things.size();
        let per_place = ((size[1] * size[2] / choice.size()[2]) as f64).sqrt() as i64;
        let middles = |x: &Tensor| {
            let first = per_place / 2;
            x.slice(1, first, None, per_place).slice(2, first, None, per_place).flatten(1, 2)
        };
        let things = middles(&self.things); // (N, places)
        let of_things = choice.matmul(&self.members.unsqueeze(0)); // (N, K, places, things)
        let of = things.unsqueeze(1).unsqueeze(-1).expand([-1, choice.size()[1], -1, -1], false);
        let own = of_things.gather(3, &of, false).squeeze_dim(3);
        let share = own.gather(1, &self.best.take(&things).unsqueeze(1), false).squeeze_dim(1);
        let moving = middles(&self.moving());
        (-(share + LEAST).log() * &moving).sum(Kind::Float) / enough(&moving)
    }

    /// Which of so many `sources` have at a pixel that of the thing that is to be there, (N, S, H, W), 1 or 0, of moved ones that
    /// take it `from` there, (1, N, 1 + F, K, 2, H, W).
    fn own(&self, from: &Tensor, sources: i64) -> Tensor {
        let off = from.squeeze_dim(0) - self.before.unsqueeze(2);
        let far = off.square().sum_dim_intlist([3_i64].as_slice(), false, Kind::Float);
        let own = far.lt(RIGHT_PX * RIGHT_PX).to_kind(Kind::Float); // not where it is NaN
        let (last, earlier) = (own.select(1, 0), own.slice(1, 1, None, 1).flatten(1, 2));
        let none = |count: i64| last.narrow(1, 0, 1).zeros_like().expand([-1, count, -1, -1], false);
        let still = sources - 2 - last.size()[1] - earlier.size()[1];
        Tensor::cat(&[&none(2), &last, &none(still), &earlier], 1)
    }

    /// Of the shares of sources in the blend, (N, S, H, W): where something moves those that are its `own` are right, elsewhere the
    /// last picture, or else those that are `alike`, too. The decoder paints what none of them has.
    fn shown_error(&self, weights: &Tensor, own: &Tensor, alike: &Tensor) -> Tensor {
        let moving = (self.moving() * self.things.gt(0)).unsqueeze(1);
        let any = |sources: &Tensor| sources.amax([1_i64].as_slice(), true);
        let last = alike.narrow(1, 1, 1);
        let rest = alike.narrow(1, 2, alike.size()[1] - 2);
        let alike = Tensor::cat(&[&last.zeros_like(), &last, &(rest * (-&last + 1.0))], 1);
        let right = own.where_self(&moving.gt(0.5), &alike);
        let right = Tensor::cat(&[&(-any(&right) + 1.0), &right.slice(1, 1, None, 1)], 1);
        let share = (weights * right).sum_dim_intlist([1_i64].as_slice(), false, Kind::Float);
        -(share + LEAST).log().sum(Kind::Float) / enough(&moving)
    }

    /// Where what moves is to be, (N, H, W), 1 or 0.
    fn moving(&self) -> Tensor {
        self.moves.gather(1, &self.things.flatten(1, 2), false).reshape(self.things.size())
    }
}

/// Which sources, (N, S, 3, H, W), look like the `aim` (N, 3, H, W), (N, S, H, W), 1 or 0.
fn alike(sources: &Tensor, aim: &Tensor) -> Tensor {
    let square = (sources - aim.unsqueeze(1)).square().mean_dim([2_i64].as_slice(), false, Kind::Float);
    square.lt(ALIKE).to_kind(Kind::Float)
}

/// How many of the places there are, at least a share of all.
fn enough(places: &Tensor) -> Tensor {
    places.sum(Kind::Float).clamp_min(LEAST_AREA * places.numel() as f64)
}

#[cfg(test)]
mod tests {
    use tch::Device;

    use super::*;

    /// Two cells of 8 x 8 pixels side by side, one candidate. The left one has the ground, the right one a thing that goes one
    /// cell to the left; in the picture the right one's place is new.
    fn placed() -> Placed {
        let before = Tensor::zeros([1, 2, 8, 16], (Kind::Float, Device::Cpu));
        let _ = before.select(1, 0).narrow(2, 0, 8).fill_(8.0);
        let _ = before.narrow(3, 8, 8).fill_(f64::NAN);
        Placed {
            things: Tensor::from_slice(&[1_i64, 0])
                .repeat_interleave_self_int(8, 0, None)
                .expand([1, 8, 16], false),
            before: before.unsqueeze(1),
            moves: Placed::moves(&[vec![Way::default(), Way { turn_rad: 0.0, shift: [-8.0, 0.0] }]], 2),
            best: Tensor::from_slice(&[0_i64, 0]),
            members: Tensor::from_slice(&[1.0_f32, 0.0, 0.0, 1.0]).reshape([1, 2, 2]),
        }
    }

    #[test]
    fn what_lands_is_to_be_of_the_thing() {
        // So much of both cells lands at the left place, and then at the right one, where nothing is asked for.
        let error = |choice: [f32; 4]| {
            placed().landing_error(&Tensor::from_slice(&choice).reshape([1, 1, 2, 2])).double_value(&[])
        };
        assert!(error([0.0, 1.0, 0.5, 0.5]).abs() < 0.01);
        assert!((error([0.5, 0.5, 1.0, 0.0]) - 2.0_f64.ln()).abs() < 0.01);
        assert!(error([1.0, 0.0, 0.0, 1.0]) > 6.0);
    }

    #[test]
    fn what_is_right_is_to_be_shown_and_nothing_else() {
        let placed = placed();
        // Decoded, last, moved and one earlier picture; the last and the earlier one are alike.
        let alike =
            Tensor::from_slice(&[0.0_f32, 1.0, 0.0, 0.0]).reshape([1, 4, 1, 1]).expand([1, 4, 8, 16], false);
        let error = |from_px: f64, thing: [f32; 4], ground: [f32; 4]| {
            let from = Tensor::zeros([1, 1, 1, 1, 2, 8, 16], (Kind::Float, Device::Cpu));
            let _ = from.select(4, 0).fill_(from_px);
            let weights = Tensor::from_slice(&[thing, ground].concat()).reshape([2, 4]).transpose(0, 1);
            let weights = weights.repeat_interleave_self_int(8, 1, None).reshape([1, 4, 1, 16]);
            let weights = weights.expand([1, 4, 8, 16], false);
            placed.shown_error(&weights, &placed.own(&from, 4), &alike).double_value(&[])
        };
        let [decoded, last, moved, earlier] = [0, 1, 2, 3].map(|source| {
            let mut weights = [0.0; 4];
            weights[source] = 1.0;
            weights
        });
        assert!(error(8.0, moved, last).abs() < 0.01);
        assert!(error(8.0, last, last) > 6.0);
        for wrong in [decoded, moved, earlier] {
            assert!(error(8.0, moved, wrong) > 6.0, "{wrong:?}");
        }
        // Nothing right landed: then it has to be painted.
        assert!(error(0.0, decoded, last).abs() < 0.01 && error(0.0, moved, last) > 6.0);
    }

    #[test]
    fn what_looks_like_the_aim_is_alike() {
        let source = |level: f64| Tensor::full([1, 1, 3, 2, 2], level, (Kind::Float, Device::Cpu));
        let found =
            alike(&Tensor::cat(&[source(0.5), source(0.49), source(0.4)], 1), &source(0.5).squeeze_dim(1));
        assert_eq!(
            Vec::<f32>::try_from(found.mean_dim([0_i64, 2, 3].as_slice(), false, Kind::Float)).unwrap(),
            [1.0, 1.0, 0.0]
        );
    }

    #[test]
    fn what_has_no_way_rests() {
        let moves = Placed::moves(&[vec![Way { turn_rad: 0.1, shift: [0.0; 2] }, Way::default()]], 3);
        assert_eq!(Vec::<f32>::try_from(moves.flatten(0, 1)).unwrap(), [1.0, 0.0, 0.0]);
    }
}
