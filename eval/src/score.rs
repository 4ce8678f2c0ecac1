//! How near one picture came to the one that came, over the whole frame and where something moved.

use anyhow::{Context, Result};
use nextclip_core::Picture;
use nextclip_core::metrics::{self, Area, Ssim};

/// Measures of one picture.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Score {
    /// Peak signal-to-noise ratio in decibels; an exact copy counts [`metrics::EXACT_COPY_DB`].
    pub psnr_db: f64,
    /// Structural similarity, 1 for a copy.
    pub ssim: f64,
    /// Gradient magnitude similarity deviation, 0 for a copy.
    pub gmsd: f64,
    /// The same where something moved; `None` where nothing did.
    pub moving: Option<MovingScore>,
}

/// Measures within the moving area.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct MovingScore {
    /// Peak signal-to-noise ratio in decibels.
    pub psnr_db: f64,
    /// Structural similarity; `None` where the area is nearer to the border than half a window.
    pub ssim: Option<f64>,
    /// Gradient energy of the picture.
    pub gradient_energy: f64,
    /// Gradient energy of the picture that came.
    pub gradient_energy_came: f64,
}

/// What came, prepared for comparisons.
#[derive(Clone, Debug)]
pub struct Truth<'a> {
    came: &'a Picture,
    moving: Area,
    gradient_energy: f64,
}

impl<'a> Truth<'a> {
    /// `came` is measured against `last`, the newest frame that was seen, to find what moved.
    pub fn new(came: &'a Picture, last: &Picture) -> Result<Self> {
        let moving = metrics::moving_area(came, last).with_context(|| sizes(came, last))?;
        let gradient_energy = metrics::gradient_energy_within(came, &moving).unwrap_or_default();
        Ok(Self { came, moving, gradient_energy })
    }

    /// The pixels that moved.
    pub fn moving(&self) -> &Area {
        &self.moving
    }

    /// Measures a picture.
    pub fn score(&self, picture: &Picture) -> Result<Score> {
        let odd = || sizes(picture, self.came);
        let ssim = Ssim::of(picture, self.came).with_context(odd)?;
        let bounded = |db: f64| db.min(metrics::EXACT_COPY_DB);
        let moving = metrics::psnr_within_db(picture, self.came, &self.moving).map(|psnr_db| MovingScore {
            psnr_db: bounded(psnr_db),
            ssim: ssim.mean_within(&self.moving),
            gradient_energy: metrics::gradient_energy_within(picture, &self.moving).unwrap_or_default(),
            gradient_energy_came: self.gradient_energy,
        });
        Ok(Score {
            psnr_db: bounded(metrics::psnr_db(picture, self.came).with_context(odd)?),
            ssim: ssim.mean(),
            gmsd: metrics::gmsd(picture, self.came).with_context(odd)?,
            moving,
        })
    }
}

fn sizes(a: &Picture, b: &Picture) -> String {
    format!("pictures of {:?} and {:?} cannot be compared", a.dim(), b.dim())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_copy_is_perfect_and_a_still_scene_has_no_moving_area() {
        let picture = Picture::from_shape_fn((16, 16, 3), |(y, x, _)| (y * 8 + x) as u8);
        let score = Truth::new(&picture, &picture).unwrap().score(&picture).unwrap();
        assert_eq!((score.psnr_db, score.gmsd, score.moving), (metrics::EXACT_COPY_DB, 0.0, None));
        assert!((score.ssim - 1.0).abs() < 1e-12);
    }

    #[test]
    fn odd_sizes_are_named() {
        let (a, b) = (Picture::zeros((16, 16, 3)), Picture::zeros((16, 24, 3)));
        let error = Truth::new(&a, &a).unwrap().score(&b).unwrap_err().to_string();
        assert!(error.contains("(16, 24, 3)"), "{error}");
    }
}
