//! Where in a told picture every thing is, is known to the pixel. So what is to land there, and which of its sources a blend is to
//! show, need not be guessed from colours alone: two things that pass each other look whole only if one of them is in front.

use nextclip_scenes::Way;
use tch::{Kind, Tensor};

use crate::compositing::Moved;

/// The least share whose logarithm is taken, of what lands: the choice there is sharp, and what is outweighed by far is to
/// learn, too.
const LEAST_LANDED: f64 = 1e-6;
/// And of what the blend shows.
const LEAST: f64 = 1e-3;
/// What is from so far off, in pixels, is still right.
const RIGHT_PX: f64 = 1.5;
/// So many pixels of the ground beside a thing go its way, as its shadow does.
const BESIDE_PX: i64 = 5;
/// What there is to place, as a share of all pixels, at least: a sliver that is left of a thing is not to count as a whole one.
const LEAST_AREA: f64 = 0.01;

/// What is to be where in N pictures of the future.
#[derive(Debug)]
pub(crate) struct Placed {
    /// The number of each pixel's thing, (N, H, W).
    pub(crate) things: Tensor,
    /// Where in the last picture, and in each that things are followed in, that is from, x then y in pixels, (N, 1 + F, 2, H, W); NaN
    /// where that does not show it.
    pub(crate) sources: Tensor,
    /// Whether things move, (N, things), 1 or 0.
    pub(crate) moves: Tensor,
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

    /// How little of what moves is where it is to be, of pictures that are `moved` so. First of what lands there: the mean over its
    /// pixels of -log of the share of its thing, in the layer that has the most of it. Then of what the blend shows: the same of the
    /// share of those sources that have the right pixel, where any has; and, where nothing is to move nor beside, of what is left
    /// by those that have a wrong one.
    pub(crate) fn errors(&self, moved: &Moved) -> [Tensor; 2] {
        let landing = self.landing_error(&moved.landed.choice.squeeze_dim(0));
        let from: Vec<&Tensor> = std::iter::once(&moved.landed.from).chain(&moved.landed.was).collect();
        let right = self.right(&Tensor::stack(&from, 2).detach());
        [landing, self.blend_error(&moved.weights.squeeze_dim(0), &right)]
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
        let members = match choice.size()[3] == self.members.size()[1] {
            true => self.members.unsqueeze(0),
            false => self.members.flatten(0, 1), // of all candidates on one another
        };
        let of_things = choice.matmul(&members); // (N, layers, places, things)
        let of = things.unsqueeze(1).unsqueeze(-1).expand([-1, choice.size()[1], -1, -1], false);
        let own = of_things.gather(3, &of, false).squeeze_dim(3);
        let share = own.amax([1_i64].as_slice(), false);
        let moving = middles(&self.moving());
        (-(share + LEAST_LANDED).log() * &moving).sum(Kind::Float) / enough(&moving)
    }

    /// Whether the pixels that are taken `from` there, (1, N, 1 + F, K, 2, H, W), are those that are to be here,
    /// (N, (1 + F) K, H, W), 1 or 0.
    fn right(&self, from: &Tensor) -> Tensor {
        let off = from.squeeze_dim(0) - self.sources.unsqueeze(2);
        let far = off.square().sum_dim_intlist([3_i64].as_slice(), false, Kind::Float);
        far.lt(RIGHT_PX * RIGHT_PX).to_kind(Kind::Float).flatten(1, 2) // not where it is NaN
    }

    /// Of the shares of moved sources in the blend, (N, (1 + F) K, H, W), of which these are right. Which of the other sources shows
    /// what rests is left to what that looks like: told where generated scenes know it, by colours, the blend showed on films, which
    /// have noise, earlier pictures and paint where nothing moved.
    fn blend_error(&self, weights: &Tensor, right: &Tensor) -> Tensor {
        let over_sources = |x: &Tensor| x.sum_dim_intlist([1_i64].as_slice(), false, Kind::Float);
        let moving = self.moving();
        // Ground that moves is mostly as well painted.
        let things = &moving * right.amax([1_i64].as_slice(), false) * self.things.gt(0);
        let shown = -(over_sources(&(weights * right)) + LEAST).log() * &things;
        let side = 2 * BESIDE_PX + 1;
        let beside = moving.max_pool2d([side, side], [1, 1], [BESIDE_PX, BESIDE_PX], [1, 1], false);
        let beside = moving.maximum(&(beside * self.things.eq(0)));
        let wrong = over_sources(&(weights * (-right + 1.0)));
        let free = -(-wrong + 1.0 + LEAST).clamp_min(LEAST).log() * (-beside + 1.0);
        (shown + free).sum(Kind::Float) / enough(&things)
    }

    /// Where what moves is to be, (N, H, W), 1 or 0.
    fn moving(&self) -> Tensor {
        self.moves.gather(1, &self.things.flatten(1, 2), false).reshape(self.things.size())
    }
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
        let sources = Tensor::zeros([1, 2, 8, 16], (Kind::Float, Device::Cpu));
        let _ = sources.select(1, 0).narrow(2, 0, 8).fill_(8.0);
        let _ = sources.narrow(3, 8, 8).fill_(f64::NAN);
        Placed {
            things: Tensor::from_slice(&[1_i64, 0])
                .repeat_interleave_self_int(8, 0, None)
                .expand([1, 8, 16], false),
            sources: sources.unsqueeze(1),
            moves: Placed::moves(&[vec![Way::default(), Way { turn_rad: 0.0, shift: [-8.0, 0.0] }]], 2),
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
        let error = |from_px: f64, shares: [f64; 2]| {
            let from = Tensor::zeros([1, 1, 1, 1, 2, 8, 16], (Kind::Float, Device::Cpu));
            let _ = from.select(4, 0).fill_(from_px);
            let right = placed.right(&from);
            let weights = Tensor::from_slice(&shares.map(|share| share as f32));
            let weights = weights.repeat_interleave_self_int(8, 0, None).expand([1, 1, 8, 16], false);
            placed.blend_error(&weights, &right).double_value(&[])
        };
        assert!(error(8.0, [1.0, 0.0]).abs() < 0.01);
        assert!(error(8.0, [0.0, 0.0]) > 6.0);
        // Beside it what moves may go on a little.
        let wrong = error(8.0, [1.0, 1.0]);
        assert!(wrong > 1.0 && wrong < error(8.0, [0.0, 1.0]), "{wrong}");
        // Nothing right landed: then something else has to show it.
        assert!(error(0.0, [0.0, 0.0]).abs() < 0.05);
    }

    #[test]
    fn what_has_no_way_rests() {
        let moves = Placed::moves(&[vec![Way { turn_rad: 0.1, shift: [0.0; 2] }, Way::default()]], 3);
        assert_eq!(Vec::<f32>::try_from(moves.flatten(0, 1)).unwrap(), [1.0, 0.0, 0.0]);
    }
}
