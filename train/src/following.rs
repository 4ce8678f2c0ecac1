//! Where things were, looked up in earlier pictures, so that where they go is known better; the formula is [`Motion`]'s.

use nextclip_core::Motion;
use tch::{Kind, Tensor};

use crate::params::{Init, Spec};

/// How corrections of where things were move where they go.
pub(crate) const RESPONSE: &str = "motion.response";
/// `motion.response` at first, (M, F): what the latest picture says of a thing's speed holds for all moments, and what the
/// others say besides for none.
fn steady_response(motion: &Motion, clip: usize) -> Vec<f32> {
    let of_moment = |moment: isize| {
        let of_picture = move |(index, &past)| if index == 0 { -moment as f32 / past as f32 } else { 0.0 };
        motion.followed_frames().iter().enumerate().map(of_picture)
    };
    motion.moments(clip).into_iter().flat_map(of_moment).collect()
}

/// The tensor of following, where things are: at first they are followed as if they went steadily on.
pub(crate) fn follow_specs(motion: &Motion, clip: usize) -> Option<Spec> {
    let shape = [motion.moments(clip).len(), motion.followed_frames().len()].map(|size| size as i64);
    let init = Init::Values(steady_response(motion, clip));
    (motion.earlier > 0).then(|| Spec { name: RESPONSE.into(), shape: shape.into(), init })
}

/// The pictures that a prediction is made from.
#[derive(Debug)]
pub struct Recent {
    /// The last one, (n, 1, 3, H, W), in [-1, 1].
    pub last: Tensor,
    /// The earlier ones, (n, E, 3, H, W); in the place of one that was not seen, the last.
    pub earlier: Vec<Tensor>,
    /// Which of them were seen.
    pub known: Vec<bool>,
}

impl Recent {
    /// Of successive pictures (n, F, 3, H, W), the last of which is the last one.
    pub fn of(pictures: &Tensor, motion: Option<&Motion>) -> Self {
        let last = pictures.size()[1] - 1;
        let frames = motion.map_or(&[][..], Motion::earlier_frames);
        let known: Vec<bool> = frames.iter().map(|&frames| frames as i64 <= last).collect();
        let earlier = frames
            .iter()
            .zip(&known)
            .map(|(&frames, &known)| pictures.narrow(1, if known { last - frames as i64 } else { last }, 1));
        Self { last: pictures.narrow(1, last, 1), earlier: earlier.collect(), known }
    }
}

/// `motion` (n, M, m, h, w) of the last picture's cells of `scale` pixels, corrected by where they were. No gradient goes through
/// what is found in the pictures.
pub fn follow(sizes: &Motion, motion: &Tensor, recent: &Recent, response: &Tensor, scale: i64) -> Tensor {
    let followed = sizes.followed_frames().len();
    let clip = motion.size()[1] - followed as i64;
    if followed == 0 {
        return motion.shallow_clone();
    }
    // (n, M, K, 3 + F, h, w)
    let values = motion.unflatten(2, [sizes.candidates as i64, -1].as_slice());
    let mut places = values.narrow(3, 0, 2);
    let last = smooth(&recent.last.squeeze_dim(1));
    let slopes = Slopes::of(&last);
    for (index, (picture, known)) in recent.earlier.iter().zip(&recent.known).take(followed).enumerate() {
        if !known {
            continue;
        }
        let moment = clip + index as i64;
        let delta = tch::no_grad(|| {
            let before = smooth(&picture.squeeze_dim(1));
            let said = places.select(1, moment) * scale;
            let found = (0..Motion::FOLLOW_STEPS).fold(said.shallow_clone(), |places, _| {
                &places + slopes.step(&last, &before, &places, scale)
            });
            found - said
        });
        let trust = values.select(1, moment).narrow(2, 2, 1).sigmoid();
        places = corrected(&places, 1, &(delta * trust / scale), response, index as i64);
    }
    let rest = values.narrow(3, 2, 1 + sizes.features as i64);
    Tensor::cat(&[places, rest], 3).flatten(2, 3)
}

/// `places`, whose moments are along `axis`, where those of one of them were `found` to be so far off in the followed picture
/// `index`.
pub(crate) fn corrected(
    places: &Tensor,
    axis: usize,
    found: &Tensor,
    response: &Tensor,
    index: i64,
) -> Tensor {
    let mut along = vec![1; places.dim()];
    along[axis] = -1;
    places + found.unsqueeze(axis as i64) * response.select(1, index).reshape(along)
}

/// How pictures are read between their pixels.
#[derive(Clone, Copy, Debug)]
pub enum Between {
    /// Bilinear.
    Linear,
    /// Bicubic, as [`nextclip_core::Motion::cubic`] has it.
    Cubic,
}

/// `frame` (n, c, H, W) read at every pixel's place plus `displacements` (n, M, 2, H, W), x then y in pixels, the border
/// repeated. (n, M, c, H, W)
pub fn warp(frame: &Tensor, displacements: &Tensor, between: Between) -> Tensor {
    let size = displacements.size();
    let (n, count, rows, columns) = (size[0], size[1], size[3], size[4]);
    let places = |len: i64| Tensor::arange(len, (Kind::Float, frame.device()));
    // The centre of pixel i is at (2 i + 1) / len - 1 on the scale of -1 to 1.
    let along = |axis: i64, places: Tensor, len: i64| {
        (displacements.select(2, axis) + places) * (2.0 / len as f64) + (1.0 / len as f64 - 1.0)
    };
    let x = along(0, places(columns), columns);
    let y = along(1, places(rows).unsqueeze(1), rows);
    let grid = Tensor::stack(&[x, y], -1).reshape([n, count * rows, columns, 2]);
    let mode = match between {
        Between::Linear => 0,
        Between::Cubic => 2,
    };
    let border = 1;
    let read = frame.grid_sampler(&grid, mode, border, false); // (n, c, M H, W)
    read.reshape([n, -1, count, rows, columns]).transpose(1, 2)
}

/// How fast a picture (n, 3, H, W) changes from pixel to pixel.
struct Slopes {
    /// (n, 3, H, W) each.
    x: Tensor,
    y: Tensor,
    /// Means over colours of their products, xx, xy, yy, (n, 3, H, W).
    products: Tensor,
}

impl Slopes {
    fn of(picture: &Tensor) -> Self {
        let (rows, columns) = (picture.size()[2], picture.size()[3]);
        let wide = picture.replication_pad2d([1, 1, 1, 1]);
        let x = (wide.narrow(2, 1, rows).narrow(3, 2, columns)
            - wide.narrow(2, 1, rows).narrow(3, 0, columns))
            / 2.0;
        let y = (wide.narrow(2, 2, rows).narrow(3, 1, columns)
            - wide.narrow(2, 0, rows).narrow(3, 1, columns))
            / 2.0;
        let products = Tensor::cat(&[colours(&(&x * &x)), colours(&(&x * &y)), colours(&(&y * &y))], 1);
        Self { x, y, products }
    }

    /// A step from `places` (n, K, 2, h, w), in pixels, to where the cells of `last` are `before`: the same shape.
    fn step(&self, last: &Tensor, before: &Tensor, places: &Tensor, scale: i64) -> Tensor {
        let size = places.size();
        let (rows, columns) = (last.size()[2], last.size()[3]);
        let places =
            places.flatten(0, 1).upsample_nearest2d([rows, columns], None, None).unflatten(0, &size[..2]);
        let (n, candidates) = (size[0], size[1]);
        let each = |x: &Tensor| x.unsqueeze(1).expand([n, candidates, 3, rows, columns], false).flatten(0, 1);
        let off = each(last) - warp(before, &places, Between::Linear).flatten(0, 1); // (n K, 3, H, W)
        let trust = trust(&colours(&off.square()), Motion::FOLLOW_LEVEL);
        let [x, y] = [&self.x, &self.y].map(|slope| colours(&(each(slope) * &off)));
        let sums: Tensor = Tensor::cat(&[each(&self.products), x, y], 1) * trust;
        let (side, margin) = (2 * scale, scale / 2);
        let sums = sums.avg_pool2d([side, side], [scale, scale], [margin, margin], false, false, None);
        let of = |channel: i64| sums.narrow(1, channel, 1);
        let floor = f64::from(Motion::FOLLOW_FLOOR);
        let (xx, xy, yy, bx, by) = (of(0) + floor, of(1), of(2) + floor, of(3), of(4));
        let determinant = &xx * &yy - &xy * &xy;
        let found =
            Tensor::cat(&[(&yy * &bx - &xy * &by) / &determinant, (&xx * &by - &xy * &bx) / &determinant], 1);
        let limit = f64::from(Motion::FOLLOW_LIMIT);
        found.clamp(-limit, limit).reshape(&size)
    }
}

/// How far pixels that are off by such squares are trusted, half where that is the `level`.
pub(crate) fn trust(square: &Tensor, level: f32) -> Tensor {
    (square / f64::from(level) + 1.0).reciprocal()
}

/// The mean over 3 x 3 pixels within the picture.
pub(crate) fn smooth(picture: &Tensor) -> Tensor {
    picture.avg_pool2d([3, 3], [1, 1], [1, 1], false, false, None)
}

/// The mean over colours, (n, 1, H, W).
pub(crate) fn colours(x: &Tensor) -> Tensor {
    x.mean_dim([1_i64].as_slice(), true, Kind::Float)
}

#[cfg(test)]
mod tests {
    use nextclip_core::sampler;

    use super::*;

    fn noise(size: &[i64]) -> Tensor {
        Tensor::from_slice(&sampler::noise(1, 0, size.iter().product::<i64>() as usize)).reshape(size)
    }

    #[test]
    fn warping_reads_at_displaced_places_and_repeats_the_border() {
        let frame = noise(&[1, 3, 6, 8]);
        let moved = |x: f64, y: f64| {
            let displacement = Tensor::from_slice(&[x as f32, y as f32]).reshape([1, 1, 2, 1, 1]);
            warp(&frame, &displacement.expand([1, 1, 2, 6, 8], false), Between::Linear).squeeze_dim(1)
        };
        let off = |a: &Tensor, b: &Tensor| (a - b).abs().max().double_value(&[]);
        assert!(off(&moved(0.0, 0.0), &frame) < 1e-5);
        let (near, exact) = (moved(2.0, 1.0), frame.narrow(2, 1, 5).narrow(3, 2, 6));
        assert!(off(&near.narrow(2, 0, 5).narrow(3, 0, 6), &exact) < 1e-5);
        let border = frame.narrow(3, 7, 1).expand([1, 3, 6, 8], false);
        assert!(off(&moved(50.0, 0.0), &border) < 1e-5);
    }

    #[test]
    fn cubic_reading_is_the_formula_of_the_contract() {
        let frame = noise(&[1, 1, 6, 8]);
        let (x, y) = (0.3, -0.4);
        let by = Tensor::from_slice(&[x as f32, y as f32]).reshape([1, 1, 2, 1, 1]);
        let read = warp(&frame, &by.expand([1, 1, 2, 6, 8], false), Between::Cubic);
        let shares = |share: f64| Tensor::from_slice(&Motion::cubic(share));
        for [row, column] in [[3, 1], [2, 4], [4, 5]] {
            // The second of the four pixels of an axis is the one before the place.
            let around =
                frame.get(0).get(0).narrow(0, row - 2, 4).narrow(1, column - 1, 4).to_kind(Kind::Double);
            let there = shares(1.0 + y).dot(&around.matmul(&shares(x))).double_value(&[]);
            let found = read.double_value(&[0, 0, 0, row, column]);
            assert!((found - there).abs() < 1e-4, "row {row}, column {column}: {found}, not {there}");
        }
    }

    /// A texture that moves steadily; what the network says of it is half a pixel a frame off.
    #[test]
    fn places_past_are_found_and_move_those_to_come() {
        let sizes = Motion {
            candidates: 1,
            features: 1,
            reach: 2,
            earlier: 2,
            refined: false,
            rigid: false,
            whole: false,
            depth: 0,
        };
        let noise = Tensor::from_slice(&sampler::noise(1, 0, 3 * 16 * 24)).reshape([1, 3, 16, 24]) * 0.5;
        let texture = noise.upsample_bicubic2d([64, 96], false, None, None);
        let at = |x: f64, y: f64| {
            let by = Tensor::from_slice(&[-x as f32, -y as f32]).reshape([1, 1, 2, 1, 1]);
            warp(&texture, &by.expand([1, 1, 2, 64, 96], false), Between::Linear).squeeze_dim(1)
        };
        let (x, y) = (1.5, -0.75);
        let pictures = (0..4).map(|frame| at(x * f64::from(frame), y * f64::from(frame))).collect::<Vec<_>>();
        let pictures = Tensor::stack(&pictures, 1);
        let recent = Recent::of(&pictures, Some(&sizes));
        assert_eq!((recent.earlier.len(), &recent.known), (2, &vec![true, true]));
        let steady = steady_response(&sizes, 2);
        let said =
            |frames: f32| [frames * (x as f32 + 0.5) / 8.0, frames * (y as f32 - 0.5) / 8.0, 20.0, 0.3];
        let motion: Vec<f32> = sizes.moments(2).into_iter().flat_map(|frames| said(frames as f32)).collect();
        let motion =
            Tensor::from_slice(&motion).reshape([1, 4, 4, 1, 1]).expand([1, 4, 4, 8, 12], false).contiguous();
        let response = Tensor::from_slice(&steady).reshape([4, 2]);
        let found = follow(&sizes, &motion, &recent, &response, 8);
        assert_eq!(found.size(), [1, 4, 4, 8, 12]);
        for frame in 0..2 {
            for (axis, truth) in [x, y].into_iter().enumerate() {
                let off = found.get(0).get(frame).get(axis as i64) * 8.0 - truth * (frame + 1) as f64;
                let off = off.narrow(0, 2, 4).narrow(1, 2, 8).abs().max().double_value(&[]);
                assert!(off < 0.15, "frame {frame}, axis {axis}: {off} pixels");
            }
        }
        // Pictures that were not seen correct nothing.
        let recent = Recent::of(&pictures.narrow(1, 3, 1), Some(&sizes));
        assert_eq!(recent.known, [false, false]);
        let left = follow(&sizes, &motion, &recent, &response, 8);
        assert!(left.equal(&motion));
    }
}
