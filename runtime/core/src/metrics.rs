//! How near a predicted picture is to the real one.

use crate::Picture;

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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn psnr_by_hand() {
        let (a, b) = (Picture::from_elem((2, 2, 3), 10), Picture::from_elem((2, 2, 3), 11));
        assert!((psnr_db(&a, &b).unwrap() - 48.1308).abs() < 1e-4);
        assert_eq!(psnr_db(&a, &a), Some(f64::INFINITY));
        assert_eq!(psnr_db(&a, &Picture::zeros((1, 1, 3))), None);
    }
}
