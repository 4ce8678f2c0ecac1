//! Following in loops and in double precision: where things were, looked up in earlier pictures. Written from the formulas
//! of `nextclip_core::Motion` alone.

use ndarray::{Array3, Array4, Axis, s};
use nextclip_core::{Motion, Picture};

use crate::motion::{Planes, between, unit};
use crate::reference::Reference;

impl Reference {
    /// `motion` (M, m, h, w) of the cells of `last`, corrected by where they were in the `earlier` pictures, those of which
    /// that are `None` were not seen.
    pub fn follow(
        &self,
        motion: &Array4<f32>,
        last: &Picture,
        earlier: &[Option<Picture>],
    ) -> anyhow::Result<Array4<f64>> {
        let (sizes, geometry) = self.sizes()?;
        let scale = geometry.vae_scale as f64;
        let mut motion = motion.mapv(f64::from);
        let last = smooth(&unit(last));
        let followed = sizes.followed_frames().len();
        for (index, picture) in earlier.iter().take(followed).enumerate() {
            let Some(picture) = picture else { continue };
            let (_, response) = self.tensor("motion.response")?;
            let before = smooth(&unit(picture));
            let moment = geometry.clip + index;
            for candidate in 0..sizes.candidates {
                let first = candidate * sizes.candidate_channels();
                let places = motion.slice(s![moment, first..first + 2, .., ..]).mapv(|cells| cells * scale);
                let trust =
                    motion.slice(s![moment, first + 2, .., ..]).mapv(|weight| 1.0 / (1.0 + (-weight).exp()));
                let mut found = places.clone();
                for _ in 0..Motion::FOLLOW_STEPS {
                    let step = step(&last, &before, &found, geometry.vae_scale);
                    found += &step;
                }
                let delta = found - places;
                for (j, mut moved) in motion.axis_iter_mut(Axis(0)).enumerate() {
                    for axis in 0..2 {
                        let correction = &delta.index_axis(Axis(0), axis) * &trust / scale;
                        let mut moved = moved.index_axis_mut(Axis(0), first + axis);
                        moved += &(correction * response[j * followed + index]);
                    }
                }
            }
        }
        Ok(motion)
    }
}

/// A step from `places` (2, h, w) of cells of `scale` pixels to where they are `before`, in pixels.
fn step(last: &Planes, before: &Planes, places: &Array3<f64>, scale: usize) -> Array3<f64> {
    let (_, rows, columns) = last.dim();
    let before = [0, 1, 2].map(|rgb| before.index_axis(Axis(0), rgb).to_owned());
    // b_x, b_y, xx, xy, yy of every pixel, with its trust.
    let mut sums = Array3::<f64>::zeros((5, rows, columns));
    for y in 0..rows {
        for x in 0..columns {
            let [p_x, p_y] = [0, 1].map(|axis| places[[axis, y / scale, x / scale]]);
            let of_colour = |rgb: usize| {
                let off = last[[rgb, y, x]] - between(&before[rgb], y as f64 + p_y, x as f64 + p_x);
                let beside = |at: usize, count: usize| [at.saturating_sub(1), (at + 1).min(count - 1)];
                let [[left, right], [above, below]] = [beside(x, columns), beside(y, rows)];
                let g_x = (last[[rgb, y, right]] - last[[rgb, y, left]]) / 2.0;
                let g_y = (last[[rgb, below, x]] - last[[rgb, above, x]]) / 2.0;
                ([g_x * off, g_y * off, g_x * g_x, g_x * g_y, g_y * g_y], off * off)
            };
            let colours = [0, 1, 2].map(of_colour);
            let square = colours.iter().map(|(_, square)| square).sum::<f64>() / 3.0;
            let trust = 1.0 / (1.0 + square / f64::from(Motion::FOLLOW_LEVEL));
            for value in 0..5 {
                let mean = colours.iter().map(|(values, _)| values[value]).sum::<f64>() / 3.0;
                sums[[value, y, x]] = trust * mean;
            }
        }
    }
    let mut found = Array3::zeros(places.dim());
    let (_, h, w) = places.dim();
    for row in 0..h {
        for column in 0..w {
            let window = |index: usize, count: usize| {
                (index * scale).saturating_sub(scale / 2)..((index + 1) * scale + scale / 2).min(count)
            };
            let window = sums.slice(s![.., window(row, rows), window(column, columns)]);
            let mean = |value: usize| window.index_axis(Axis(0), value).mean().unwrap_or_default();
            let floor = f64::from(Motion::FOLLOW_FLOOR);
            let (b_x, b_y) = (mean(0), mean(1));
            let (xx, xy, yy) = (mean(2) + floor, mean(3), mean(4) + floor);
            let determinant = xx * yy - xy * xy;
            let limit = f64::from(Motion::FOLLOW_LIMIT);
            found[[0, row, column]] = ((yy * b_x - xy * b_y) / determinant).clamp(-limit, limit);
            found[[1, row, column]] = ((xx * b_y - xy * b_x) / determinant).clamp(-limit, limit);
        }
    }
    found
}

/// The mean over 3 x 3 pixels within the picture.
pub(crate) fn smooth(planes: &Planes) -> Planes {
    let (colours, rows, columns) = planes.dim();
    Array3::from_shape_fn((colours, rows, columns), |(rgb, y, x)| {
        let around = |at: usize, count: usize| at.saturating_sub(1)..(at + 2).min(count);
        planes.slice(s![rgb, around(y, rows), around(x, columns)]).mean().unwrap_or_default()
    })
}
