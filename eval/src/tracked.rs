//! How far knowing the past exactly would go: what things would look like that are followed without error and go on as
//! they did.
//!
//! Of a generated scene it is known where everything is at every moment. A point that was q_1 away one frame before the
//! last one seen and q_2 two frames before goes on by the parabola through these places:
//! ```text
//! x(n)   = n (n + 1) / 2 q_2 - n (n + 2) q_1, n frames later; - n q_1 where q_2 is not known, 0 where neither is
//! out(p) = last(p - x(n)), bicubic as in [`Motion`], the border repeated, with x(n) of the point that will truly be at the pixel p
//! ```
//! No camera has this forecaster. It is even told what nobody can know: what was not to be seen in the last frame is shown as it
//! comes, and what goes wrong hides nothing else. What is above it has foreseen that things do not go on as they did.

use ndarray::Array3;
use nextclip_core::{Motion, Picture};
use nextclip_scenes::Trace;

/// Foretells the pictures that `came` after `last`, of a scene whose things are where `traces` say, from before `last` on.
pub(crate) fn continued(traces: &[Trace], last: &Picture, came: &[Picture]) -> Vec<Picture> {
    let (past, future) = traces.split_at(traces.len() - came.len());
    let Some((now, before)) = past.split_last() else { return Vec::new() };
    let (rows, columns, _) = last.dim();
    let mut ways = before.iter().rev().map(|then| now.displacements_to(then, 1));
    let [q_1, q_2] = [ways.next(), ways.next()];
    let of_frame = |(index, (trace, came)): (usize, (&Trace, &Picture))| {
        let from = trace.displacements_to(now, 1);
        let mut picture = came.clone();
        for ((y, x), mut pixel) in ndarray::indices((rows, columns)).into_iter().zip(picture.rows_mut()) {
            let seen = [from[[y, x, 0]], from[[y, x, 1]]];
            if seen[0].is_nan() {
                continue;
            }
            let place = place(last, [x as f32 + seen[0], y as f32 + seen[1]]);
            let way = |ways: &Option<Array3<f32>>, axis| match ways {
                Some(ways) => ways[[place[1], place[0], axis]],
                None => f32::NAN,
            };
            let goes = [0, 1].map(|axis| goes_on(index + 1, way(&q_1, axis), way(&q_2, axis)));
            let source = [x as f32 - goes[0], y as f32 - goes[1]];
            pixel.iter_mut().enumerate().for_each(|(channel, value)| *value = colour(last, source, channel));
        }
        picture
    };
    future.iter().zip(came).enumerate().map(of_frame).collect()
}

/// How far something goes in `frames` frames that was `q_1` away one frame ago and `q_2` two frames ago; NaN where that is not
/// known.
fn goes_on(frames: usize, q_1: f32, q_2: f32) -> f32 {
    let n = frames as f32;
    match (q_1.is_nan(), q_2.is_nan()) {
        (true, _) => 0.0,
        (false, true) => -n * q_1,
        (false, false) => n * (n + 1.0) / 2.0 * q_2 - n * (n + 2.0) * q_1,
    }
}

/// The pixel nearest to a place, x then y.
fn place(picture: &Picture, at: [f32; 2]) -> [usize; 2] {
    let (height, width, _) = picture.dim();
    [(at[0], width), (at[1], height)].map(|(at, side)| at.round().clamp(0.0, (side - 1) as f32) as usize)
}

/// A channel between pixels, bicubic, the border repeated.
fn colour(picture: &Picture, at: [f32; 2], channel: usize) -> u8 {
    let floor = at.map(f32::floor);
    let [across, down] = [0, 1].map(|axis| Motion::cubic(f64::from(at[axis] - floor[axis])));
    let value = |x: usize, y: usize| {
        let [column, row] = place(picture, [floor[0] - 1.0 + x as f32, floor[1] - 1.0 + y as f32]);
        across[x] * down[y] * f64::from(picture[[row, column, channel]])
    };
    let sum: f64 = (0..4).flat_map(|y| (0..4).map(move |x| value(x, y))).sum();
    sum.round() as u8
}

#[cfg(test)]
mod tests {
    use nextclip_core::metrics::psnr_db;
    use nextclip_scenes::{Kind, Scene, Split};

    use super::*;

    #[test]
    fn what_falls_goes_on_falling() {
        let way = |t: f32| 3.0 * t + 0.5 * t * t;
        assert_eq!(goes_on(4, way(-1.0), way(-2.0)), way(4.0));
        assert_eq!(goes_on(4, -2.0, f32::NAN), 8.0);
        assert_eq!(goes_on(4, f32::NAN, 1.0), 0.0);
    }

    #[test]
    fn colours_lie_between_pixels() {
        let picture = Picture::from_shape_vec((2, 2, 1), vec![0, 100, 50, 150]).unwrap();
        assert_eq!(colour(&picture, [0.5, 0.0], 0), 50);
        assert_eq!(colour(&picture, [0.25, 0.5], 0), 48);
        assert_eq!(colour(&picture, [-3.0, 7.0], 0), 50);
    }

    /// A belt runs evenly: what is on it is foretold nearly to the pixel, by far better than by standing still.
    #[test]
    fn a_belt_is_foretold() {
        let mut scene = Scene::of_kind(Kind::Conveyor, Split::Validation, 3, 96, 96);
        let mut pictures = Vec::new();
        let mut traces = Vec::new();
        for _ in 0..5 {
            pictures.push(scene.render());
            traces.push(scene.trace());
            scene.advance(0.2);
        }
        let (seen, came) = pictures.split_at(3);
        let foretold = continued(&traces, &seen[2], came);
        for (foretold, came) in foretold.iter().zip(came) {
            let [exact, still] = [foretold, &seen[2]].map(|picture| psnr_db(picture, came).unwrap());
            assert!(exact > still + 6.0, "{exact} dB, {still} dB by standing still");
        }
    }
}
