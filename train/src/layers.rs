//! Things that land each by itself, and which of them is on top; the formula is [`Motion`]'s.

use nextclip_core::Motion;
use tch::{Kind, Tensor};

use crate::rigid::Belonging;

/// How much of every cell lands at every place, (n, N, 1, p, i), and there of every thing how surely it does and what cells have
/// `brought` (n, N, 1, C, i), (n, N, THINGS, 1 + C, p). That is from where and turns, features, and the same of each moment past as of
/// from where.
pub(crate) fn by_things(
    sizes: &Motion,
    belonging: &Belonging,
    affinity: &Tensor,
    displacements: &Tensor,
    brought: &Tensor,
) -> (Tensor, Tensor) {
    let sharper = f64::from(sizes.landing().1);
    let limit = f64::from(Motion::DENSITY_LIMIT);
    let choice = (affinity * sharper).softmax(-1, Kind::Float);
    let things = belonging.things(&matter(&choice, displacements));

    let belongs = things.pow_tensor_scalar(sharper).unsqueeze(1).unsqueeze(3); // (n, 1, THINGS, 1, i)
    let with_all = Tensor::cat(&[&brought.narrow(3, 0, 1).ones_like(), brought], 3) * belongs;
    let size = with_all.size();
    let lands = (affinity.clamp_max(limit) * sharper).exp().squeeze_dim(2); // (n, N, p, i)
    let sums = lands.matmul(&with_all.flatten(2, 3).transpose(2, 3)); // (n, N, p, THINGS (1 + C))
    let sums = sums.transpose(2, 3).unflatten(2, [size[2], size[3]].as_slice());
    let sums = sums + at_rest(sizes, brought) * (-sharper * limit).exp();
    let all = sums.narrow(3, 0, 1);
    let density = all.log() / sharper;
    (choice, Tensor::cat(&[density, sums.narrow(3, 1, size[3] - 1) / all], 3))
}

/// How much of what lands at the last moment moves, of each candidate of each cell, (n, i).
fn matter(choice: &Tensor, displacements: &Tensor) -> Tensor {
    let last = |x: &Tensor| x.select(1, x.size()[1] - 1).select(1, 0); // (n, .., i)
    let over = |x: Tensor| x.sum_dim_intlist([1_i64].as_slice(), false, Kind::Float);
    let far = over(last(displacements).square()).sqrt();
    tch::no_grad(|| over(last(choice)) * far.clamp_max(1.0))
}

/// What it brings that rests and belongs to nothing, behind the one that counts it, (1 + C, 1): it turns by no angle.
fn at_rest(sizes: &Motion, like: &Tensor) -> Tensor {
    let mut values = vec![1.0_f32, 0.0, 0.0, 1.0, 0.0];
    values.extend(vec![0.0; sizes.features]);
    values.extend([0.0, 0.0, 1.0, 0.0].repeat(sizes.witnesses()));
    Tensor::from_slice(&values).to_device(like.device()).unsqueeze(-1)
}

/// Of what has `landed` of all things, (n, N, THINGS, 1 + .., H, W), at every pixel that of the densest, the first of all values
/// being the density: (n, N, D, 1 + .., H, W).
pub(crate) fn on_top(sizes: &Motion, landed: &Tensor) -> Tensor {
    let (_, densest) = landed.narrow(3, 0, 1).topk(sizes.depth as i64, 2, true, true);
    let mut size = densest.size();
    size[3] = landed.size()[3];
    landed.gather(2, &densest.expand(size, false), false)
}

#[cfg(test)]
mod tests {
    use tch::Device;

    use super::*;
    use crate::landing::Landed;

    /// What lands of 4 x 8 cells, the left half of which go so far to the right, surely, and the right half to the left: where from,
    /// in pixels to the right, and how surely, in a layer at a column of pixels.
    fn landed(far: f64) -> impl Fn(i64, i64) -> [f64; 2] {
        let sizes = Motion { candidates: 1, earlier: 1, features: 3, ..Motion::DEFAULT };
        let motion = Tensor::zeros([1, 2, sizes.channels() as i64, 4, 8], (Kind::Float, Device::Cpu));
        for (first, way, weight, e) in [(0, far, 3.0, 0.0), (4, -far, 1.0, 9.0)] {
            let half = |moment: i64, channel: i64| motion.get(0).get(moment).get(channel).narrow(1, first, 4);
            let _ = half(0, 0).fill_(way);
            let _ = half(0, 2).fill_(weight);
            let _ = half(1, 3).fill_(20.0);
            let _ = half(1, 5).fill_(e);
        }
        let belonging = Belonging::of(&sizes, &motion.unflatten(2, [1_i64, -1].as_slice()), 1);
        let landed = Landed::of(&sizes, &motion, 1, Some(&belonging), 8);
        assert_eq!(landed.from.size(), [1, 1, sizes.depth as i64, 2, 32, 64]);
        move |layer, column| {
            [&landed.from, &landed.carried].map(|x| x.double_value(&[0, 0, layer, 0, 16, column]))
        }
    }

    #[test]
    fn things_that_pass_each_other_are_whole() {
        let at = landed(2.0);
        for column in [20, 31, 32, 43] {
            let ([upper, surely], [lower, less]) = (at(0, column), at(1, column));
            assert!((upper + 16.0).abs() < 0.1 && (lower - 16.0).abs() < 0.1, "{upper} {lower}");
            assert!(surely > less + 1.0, "{surely} {less}");
        }
    }

    #[test]
    fn what_lands_nowhere_rests() {
        let at = landed(20.0);
        for (layer, column) in [(0, 4), (0, 32), (1, 32), (1, 60)] {
            let [from, surely] = at(layer, column);
            assert!(from.abs() < 1e-3 && (surely + 10.0).abs() < 1e-3, "{from} {surely}");
        }
    }
}
