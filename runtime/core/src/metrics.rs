//! How near a predicted picture is to the real one: in samples, in structure, in edges, and where things move.

use ndarray::{Array2, ArrayView1, Axis, Zip, s};

use crate::Picture;

/// Which pixels count, shape (height, width).
pub type Area = Array2<bool>;

/// Peak signal-to-noise ratio in decibels of 8-bit samples, infinite where both are equal. `None` where
/// the shapes differ.
pub fn psnr_db(a: &Picture, b: &Picture) -> Option<f64> {
    let mse = mean_squared_error(a, b)?;
    Some(psnr_of_mse_db(mse))
}

/// Mean squared difference of 8-bit samples. `None` where the shapes differ or there are no samples.
pub fn mean_squared_error(a: &Picture, b: &Picture) -> Option<f64> {
    if a.dim() != b.dim() || a.is_empty() {
        return None;
    }
    let sum: u64 = a.iter().zip(b).map(|(&a, &b)| u64::from(a.abs_diff(b)).pow(2)).sum();
    Some(sum as f64 / a.len() as f64)
}

/// `10 log10(255^2 / mse)`.
pub fn psnr_of_mse_db(mse: f64) -> f64 {
    10.0 * (255.0_f64.powi(2) / mse).log10()
}

/// What a mean of PSNR values counts an exact copy as: 10 log10(255^2 / 1e-3), about 78 dB. Without a
/// bound one still frame would make every mean infinite.
pub const EXACT_COPY_DB: f64 = 78.13;

/// [`psnr_db`] over some pixels only. `None` where the shapes differ or no pixel counts.
pub fn psnr_within_db(a: &Picture, b: &Picture, area: &Area) -> Option<f64> {
    let (height, width, channels) = a.dim();
    if a.dim() != b.dim() || area.dim() != (height, width) {
        return None;
    }
    let (mut sum, mut pixels) = (0_u64, 0_u64);
    for ((y, x), _) in area.indexed_iter().filter(|(_, counts)| **counts) {
        sum += (0..channels).map(|c| u64::from(a[[y, x, c]].abs_diff(b[[y, x, c]])).pow(2)).sum::<u64>();
        pixels += channels as u64;
    }
    (pixels > 0).then(|| psnr_of_mse_db(sum as f64 / pixels as f64))
}

/// How far a pixel's neighbourhood must depart from the frame before to count as moving, in 8-bit levels.
pub const MOVING_LEVELS: f64 = 12.0;

/// A pixel's neighbourhood are those that are at most so many rows and columns away.
pub const MOVING_RADIUS: usize = 2;

/// The pixels of `picture` that move: where the largest difference of the three channels to `before`,
/// averaged over the pixels within [`MOVING_RADIUS`] (as far as they are in the picture), is above
/// [`MOVING_LEVELS`]. `None` where the shapes differ.
pub fn moving_area(picture: &Picture, before: &Picture) -> Option<Area> {
    if picture.dim() != before.dim() {
        return None;
    }
    let (height, width, channels) = picture.dim();
    let apart = Array2::from_shape_fn((height, width), |(y, x)| {
        let levels = (0..channels).map(|c| picture[[y, x, c]].abs_diff(before[[y, x, c]])).max();
        f64::from(levels.unwrap_or(0))
    });
    Some(Array2::from_shape_fn((height, width), |(y, x)| {
        let rows = y.saturating_sub(MOVING_RADIUS)..(y + MOVING_RADIUS + 1).min(height);
        let columns = x.saturating_sub(MOVING_RADIUS)..(x + MOVING_RADIUS + 1).min(width);
        let pixels = rows.len() * columns.len();
        apart.slice(s![rows, columns]).sum() / pixels as f64 > MOVING_LEVELS
    }))
}

/// Brightness of each pixel, 0 to 255: `0.299 R + 0.587 G + 0.114 B` (ITU-R BT.601).
pub fn luma(picture: &Picture) -> Array2<f64> {
    const WEIGHTS: [f64; 3] = [0.299, 0.587, 0.114];
    picture.map_axis(Axis(2), |pixel| pixel.iter().zip(WEIGHTS).map(|(v, w)| w * f64::from(*v)).sum())
}

/// Energy of a picture's edges within an area: the squared differences of [`luma`] to the next pixel
/// right and below, summed over the area's pixels. Over the same of the real frame it says how sharp a
/// prediction is: below 1 blurred, above 1 noisy. `None` where the shapes differ.
pub fn gradient_energy_within(picture: &Picture, area: &Area) -> Option<f64> {
    let luma = luma(picture);
    if luma.dim() != area.dim() {
        return None;
    }
    let at = |y, x, here: f64| luma.get([y, x]).map_or(0.0, |next| (next - here).powi(2));
    let energy = area.indexed_iter().filter(|(_, counts)| **counts).map(|((y, x), _)| {
        let here = luma[[y, x]];
        at(y, x + 1, here) + at(y + 1, x, here)
    });
    Some(energy.sum())
}

/// Structural similarity at each place of a picture (Wang, Bovik, Sheikh and Simoncelli, 2004).
///
/// On [`luma`], in windows of 11 x 11 pixels weighted by a Gaussian of sigma 1.5 that lie whole in the
/// picture: `(2 ma mb + C1) (2 sab + C2) / ((ma^2 + mb^2 + C1) (sa^2 + sb^2 + C2))` with means m,
/// variances and covariance s, `C1 = (0.01 * 255)^2`, `C2 = (0.03 * 255)^2`.
#[derive(Clone, Debug, PartialEq)]
pub struct Ssim {
    /// One value for each window, by the window's centre less 5.
    map: Array2<f64>,
}

impl Ssim {
    const WINDOW: usize = 11;

    /// Compares two pictures. `None` where the shapes differ or a side is under 11 pixels.
    pub fn of(a: &Picture, b: &Picture) -> Option<Self> {
        let (height, width, _) = a.dim();
        if a.dim() != b.dim() || height.min(width) < Self::WINDOW {
            return None;
        }
        let (a, b) = (luma(a), luma(b));
        let (mean_a, mean_b) = (gaussian_mean(&a), gaussian_mean(&b));
        let variance_a = gaussian_mean(&(&a * &a)) - &mean_a * &mean_a;
        let variance_b = gaussian_mean(&(&b * &b)) - &mean_b * &mean_b;
        let covariance = gaussian_mean(&(&a * &b)) - &mean_a * &mean_b;
        let (c1, c2) = ((0.01 * 255.0_f64).powi(2), (0.03 * 255.0_f64).powi(2));
        let mut map = mean_a.clone();
        Zip::from(&mut map).and(&mean_b).and(&variance_a).and(&variance_b).and(&covariance).for_each(
            |value, &mb, &va, &vb, &cov| {
                let ma = *value;
                *value =
                    (2.0 * ma * mb + c1) * (2.0 * cov + c2) / ((ma * ma + mb * mb + c1) * (va + vb + c2));
            },
        );
        Some(Self { map })
    }

    /// The usual index: mean over all windows, 1 for equal pictures.
    pub fn mean(&self) -> f64 {
        self.map.sum() / self.map.len() as f64
    }

    /// Mean over the windows whose centre is in the area. `None` where there is none.
    pub fn mean_within(&self, area: &Area) -> Option<f64> {
        let margin = Self::WINDOW / 2;
        let counts =
            |(y, x): (usize, usize)| area.get([y + margin, x + margin]).is_some_and(|counts| *counts);
        let values = || self.map.indexed_iter().filter(|(at, _)| counts(*at)).map(|(_, value)| value);
        let windows = values().count();
        (windows > 0).then(|| values().sum::<f64>() / windows as f64)
    }
}

/// Weighted means of all windows that lie whole in the picture.
fn gaussian_mean(values: &Array2<f64>) -> Array2<f64> {
    const SIGMA: f64 = 1.5;
    let weight = |k: usize| (-((k as f64 - 5.0) / SIGMA).powi(2) / 2.0).exp();
    let sum: f64 = (0..Ssim::WINDOW).map(weight).sum();
    let weights: [f64; Ssim::WINDOW] = std::array::from_fn(|k| weight(k) / sum);
    let along = |values: &Array2<f64>, axis: Axis| {
        let mut shape = values.raw_dim();
        shape[axis.index()] -= Ssim::WINDOW - 1;
        let mut means = Array2::zeros(shape);
        let places = shape[axis.index()];
        for (k, weight) in weights.iter().enumerate() {
            let part = values.slice_axis(axis, (k..k + places).into());
            means.scaled_add(*weight, &part);
        }
        means
    };
    along(&along(values, Axis(0)), Axis(1))
}

/// Gradient magnitude similarity deviation (Xue, Zhang, Mou and Bovik, 2014): how unevenly the edges of
/// two pictures differ, which follows people's judgement well and needs no trained network. 0 for equal
/// pictures, larger is worse; 0.3 is very bad.
///
/// On [`luma`], halved by means of 2 x 2 pixels; gradient magnitudes m by Prewitt's filters over the
/// pixels that have all eight neighbours; the standard deviation of
/// `(2 ma mb + 170) / (ma^2 + mb^2 + 170)`. `None` where the shapes differ or a side is under 6 pixels.
pub fn gmsd(a: &Picture, b: &Picture) -> Option<f64> {
    const C: f64 = 170.0;
    let (height, width, _) = a.dim();
    if a.dim() != b.dim() || height.min(width) < 6 {
        return None;
    }
    let (a, b) = (gradients(&halved(&luma(a))), gradients(&halved(&luma(b))));
    let similarity = a.iter().zip(&b).map(|(a, b)| (2.0 * a * b + C) / (a * a + b * b + C));
    let similarity: Vec<f64> = similarity.collect();
    let mean = ArrayView1::from(&similarity).mean()?;
    let variance = similarity.iter().map(|value| (value - mean).powi(2)).sum::<f64>();
    Some((variance / similarity.len() as f64).sqrt())
}

fn halved(values: &Array2<f64>) -> Array2<f64> {
    let (height, width) = values.dim();
    Array2::from_shape_fn((height / 2, width / 2), |(y, x)| {
        values.slice(s![2 * y..2 * y + 2, 2 * x..2 * x + 2]).sum() / 4.0
    })
}

/// Prewitt's gradient magnitudes of all inner pixels.
fn gradients(values: &Array2<f64>) -> Array2<f64> {
    let (height, width) = values.dim();
    Array2::from_shape_fn((height - 2, width - 2), |(y, x)| {
        let side = |rows: [usize; 3], columns: [usize; 3]| -> f64 {
            rows.iter().zip(columns).map(|(row, column)| values[[y + row, x + column]]).sum()
        };
        let across = side([0, 1, 2], [2; 3]) - side([0, 1, 2], [0; 3]);
        let down = side([2; 3], [0, 1, 2]) - side([0; 3], [0, 1, 2]);
        (across / 3.0).hypot(down / 3.0)
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// A textured picture.
    fn texture(seed: usize) -> Picture {
        Picture::from_shape_fn((24, 32, 3), |(y, x, c)| {
            (60 + (y * 31 + x * 17 + c * 7 + seed * 13) * (seed + 3) % 120) as u8
        })
    }

    fn blurred(picture: &Picture) -> Picture {
        let (height, width, _) = picture.dim();
        Picture::from_shape_fn(picture.raw_dim(), |(y, x, c)| {
            let (rows, columns) =
                (y.saturating_sub(1)..(y + 2).min(height), x.saturating_sub(1)..(x + 2).min(width));
            let window = picture.slice(s![rows, columns, c]);
            (window.iter().map(|v| u32::from(*v)).sum::<u32>() / window.len() as u32) as u8
        })
    }

    #[test]
    fn psnr_by_hand() {
        let (a, b) = (Picture::from_elem((2, 2, 3), 10), Picture::from_elem((2, 2, 3), 11));
        assert!((psnr_db(&a, &b).unwrap() - 48.1308).abs() < 1e-4);
        assert_eq!(psnr_db(&a, &a), Some(f64::INFINITY));
        assert_eq!(psnr_db(&a, &Picture::zeros((1, 1, 3))), None);
    }

    #[test]
    fn psnr_of_an_area_sees_nothing_else() {
        let (a, mut b) = (texture(1), texture(1));
        b[[0, 0, 0]] ^= 0x40;
        let mut area = Area::from_elem((24, 32), false);
        assert_eq!(psnr_within_db(&a, &b, &area), None, "no pixel counts");
        area[[5, 5]] = true;
        assert_eq!(psnr_within_db(&a, &b, &area), Some(f64::INFINITY));
        area.fill(true);
        assert_eq!(psnr_within_db(&a, &b, &area), psnr_db(&a, &b));
    }

    #[test]
    fn a_square_that_jumps_moves_where_it_was_and_where_it_is() {
        let square = |left: usize| {
            Picture::from_shape_fn((32, 32, 3), |(y, x, _)| {
                if (8..16).contains(&y) && (left..left + 6).contains(&x) { 200 } else { 40 }
            })
        };
        let area = moving_area(&square(16), &square(4)).unwrap();
        assert!(area[[12, 6]] && area[[12, 18]], "old and new place");
        assert!(!area[[12, 30]] && !area[[28, 6]]);
        assert!(moving_area(&square(4), &square(4)).unwrap().iter().all(|moves| !moves));
        // 12 levels everywhere are just not enough, 13 are.
        let grey = |value| Picture::from_elem((8, 8, 3), value);
        assert!(moving_area(&grey(112), &grey(100)).unwrap().iter().all(|moves| !moves));
        assert!(moving_area(&grey(113), &grey(100)).unwrap().iter().all(|moves| *moves));
    }

    #[test]
    fn ssim_of_flat_pictures_is_its_luminance_term() {
        let grey = |value| Picture::from_elem((16, 16, 3), value);
        let ssim = Ssim::of(&grey(100), &grey(140)).unwrap().mean();
        let c1 = 2.55_f64.powi(2);
        let expected = (2.0 * 100.0 * 140.0 + c1) / (100.0_f64.powi(2) + 140.0_f64.powi(2) + c1);
        assert!((ssim - expected).abs() < 1e-9, "{ssim} is not {expected}");
        assert_eq!(Ssim::of(&grey(1), &Picture::zeros((16, 12, 3))), None);
        assert_eq!(Ssim::of(&Picture::zeros((10, 16, 3)), &Picture::zeros((10, 16, 3))), None);
    }

    #[test]
    fn ssim_of_a_constant_shift_loses_luminance_only() {
        // Structure and contrast are untouched, so each window has (2 m (m + d) + C1) / (m^2 + (m + d)^2 + C1),
        // which lies between its values at the darkest and the brightest mean.
        let (a, shift) = (texture(2), 30.0);
        let ssim = Ssim::of(&a, &a.mapv(|value| value + 30)).unwrap().mean();
        let c1 = 2.55_f64.powi(2);
        let term = |m: f64| (2.0 * m * (m + shift) + c1) / (m * m + (m + shift).powi(2) + c1);
        assert!((term(60.0)..=term(180.0)).contains(&ssim), "{ssim}");
    }

    #[test]
    fn ssim_of_an_area_sees_only_its_windows() {
        let (a, mut b) = (texture(3), texture(3));
        b.slice_mut(s![.., ..4, ..]).fill(0);
        let ssim = Ssim::of(&a, &b).unwrap();
        let mut area = Area::from_elem((24, 32), false);
        assert_eq!(ssim.mean_within(&area), None);
        area[[12, 25]] = true;
        assert!((ssim.mean_within(&area).unwrap() - 1.0).abs() < 1e-9);
        area.fill(true);
        assert!((ssim.mean_within(&area).unwrap() - ssim.mean()).abs() < 1e-12);
        assert!(ssim.mean() < 0.99);
    }

    #[test]
    fn gmsd_by_hand_on_one_vertical_edge() {
        // Halved to 6 x 6: 4 x 4 inner pixels, of which the two columns beside the edge have gradient d.
        let edge = |d: u8| Picture::from_shape_fn((12, 12, 3), |(_, x, _)| if x < 6 { 20 } else { 20 + d });
        let flat = Picture::from_elem((12, 12, 3), 20);
        let similarity = 170.0 / (60.0_f64.powi(2) + 170.0);
        // Half of the values are 1, half `similarity`: the deviation is half their distance.
        let expected = (1.0 - similarity) / 2.0;
        assert!((gmsd(&edge(60), &flat).unwrap() - expected).abs() < 1e-9);
        assert_eq!(gmsd(&edge(60), &edge(60)), Some(0.0));
    }

    #[test]
    fn edges_have_energy_and_blur_takes_it() {
        let all = Area::from_elem((24, 32), true);
        let energy = |picture: &Picture| gradient_energy_within(picture, &all).unwrap();
        let one = Picture::from_shape_fn((24, 32, 3), |(y, x, _)| if (y, x) == (3, 4) { 10 } else { 0 });
        // Its own two differences, its left and its upper neighbour's.
        assert!((energy(&one) - 400.0).abs() < 1e-6);
        assert!(energy(&blurred(&texture(4))) < 0.5 * energy(&texture(4)));
    }

    proptest! {
        #[test]
        fn measures_are_symmetric_bounded_and_best_for_equals(one in 0_usize..50, other in 0_usize..50) {
            let (a, b) = (texture(one), blurred(&texture(other)));
            let ssim = Ssim::of(&a, &b).unwrap().mean();
            prop_assert!((ssim - Ssim::of(&b, &a).unwrap().mean()).abs() < 1e-12);
            prop_assert!((-1.0..=1.0).contains(&ssim));
            prop_assert!((Ssim::of(&a, &a).unwrap().mean() - 1.0).abs() < 1e-12);
            let deviation = gmsd(&a, &b).unwrap();
            prop_assert!((deviation - gmsd(&b, &a).unwrap()).abs() < 1e-12);
            prop_assert!((0.0..=0.5).contains(&deviation));
        }
    }
}
