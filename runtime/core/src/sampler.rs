//! Flow-matching sampling with a network that predicts the clean latent x1.
//!
//! t = 0 is noise, t = 1 is clean: `x_t = t x1 + (1 - t) x0`. From an estimate of x1 follows the
//! velocity `(x1 - z) / (1 - t)`, and an Euler step along it.

use rand::SeedableRng;
use rand_chacha::ChaCha8Rng;
use rand_distr::{Distribution, StandardNormal};
use thiserror::Error;

/// A time grid that cannot be stepped along.
#[derive(Debug, Error, PartialEq)]
pub enum GridError {
    /// No step at all.
    #[error("0 denoising steps, must be at least 1")]
    NoSteps,
    /// The shift is not a positive number.
    #[error("time shift {0} must be a positive number")]
    Shift(f32),
}

/// The K + 1 times of a K-step sampler, from 0 to 1.
#[derive(Clone, Debug, PartialEq)]
pub struct TimeGrid(Vec<f32>);

impl TimeGrid {
    /// `sigma_k = u / (u + s - s u)`, `u = k / K`; a time shift s above 1 spends more steps near noise.
    pub fn new(steps: usize, shift: f32) -> Result<Self, GridError> {
        if steps == 0 {
            return Err(GridError::NoSteps);
        }
        if !(shift.is_finite() && shift > 0.0) {
            return Err(GridError::Shift(shift));
        }
        let s = f64::from(shift);
        let sigma = |k: usize| {
            let u = k as f64 / steps as f64;
            (u / (u + s - s * u)) as f32
        };
        Ok(Self((0..=steps).map(sigma).collect()))
    }

    /// Pairs (t, t_next), in order.
    pub fn steps(&self) -> impl Iterator<Item = (f32, f32)> + '_ {
        self.0.windows(2).map(|pair| (pair[0], pair[1]))
    }
}

/// How far an Euler step from `t` to `t_next` moves z towards the estimate of x1: the velocity's
/// 1 / (1 - t) and the step's length in one factor. It is 1 exactly when `t_next` is 1.
pub fn step_fraction(t: f32, t_next: f32) -> f32 {
    (t_next - t) / (1.0 - t)
}

/// One Euler step in place: `z + step_fraction * (x1 - z)`.
pub fn euler_step(z: &mut [f32], x1: &[f32], t: f32, t_next: f32) {
    let fraction = step_fraction(t, t_next);
    for (z, x1) in z.iter_mut().zip(x1) {
        *z += fraction * (x1 - *z);
    }
}

/// Classifier-free guidance towards what the history says. Velocities are affine in x1, so guiding x1
/// estimates guides velocities: `uncond + scale * (cond - uncond)`. Scale 1 is no guidance.
pub fn guide(uncond: &[f32], cond: &[f32], scale: f32) -> Vec<f32> {
    uncond.iter().zip(cond).map(|(u, c)| u + scale * (c - u)).collect()
}

/// The noised latent of training: `t x1 + (1 - t) x0`.
pub fn noised(x1: f32, x0: f32, t: f32) -> f32 {
    t * x1 + (1.0 - t) * x0
}

/// Standard normal noise. The same seed and stream give the same values on every machine;
/// `stream` is the prediction's number, so that no two predictions share their noise.
pub fn noise(seed: u64, stream: u64, len: usize) -> Vec<f32> {
    let mut rng = ChaCha8Rng::seed_from_u64(seed);
    rng.set_stream(stream);
    StandardNormal.sample_iter(rng).take(len).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn a_perfect_estimate_lands_on_x1(
            steps in 1_usize..60, shift in 0.2_f32..5.0, seed: u64
        ) {
            let (mut z, x1) = (noise(seed, 0, 16), noise(seed, 1, 16));
            for (t, t_next) in TimeGrid::new(steps, shift).unwrap().steps() {
                euler_step(&mut z, &x1, t, t_next);
            }
            for (z, x1) in z.iter().zip(&x1) {
                prop_assert!((z - x1).abs() < 1e-5, "{z} is not {x1}");
            }
        }

        #[test]
        fn a_step_stays_on_the_straight_path(t in 0.0_f32..0.9, part in 0.01_f32..1.0, seed: u64) {
            let (x0, x1) = (noise(seed, 0, 1)[0], noise(seed, 1, 1)[0]);
            let t_next = t + part * (1.0 - t);
            let mut z = [noised(x1, x0, t)];
            euler_step(&mut z, &[x1], t, t_next);
            prop_assert!((z[0] - noised(x1, x0, t_next)).abs() < 1e-5);
        }

        #[test]
        fn a_grid_rises_from_0_to_1(steps in 1_usize..100, shift in 0.1_f32..10.0) {
            let grid = TimeGrid::new(steps, shift).unwrap();
            prop_assert_eq!(grid.steps().count(), steps);
            prop_assert!(grid.steps().all(|(t, t_next)| t < t_next));
            prop_assert_eq!(grid.0[0], 0.0);
            prop_assert_eq!(grid.0[steps], 1.0);
        }
    }

    #[test]
    fn refuses_an_empty_grid() {
        assert_eq!(TimeGrid::new(0, 1.0), Err(GridError::NoSteps));
        assert!(TimeGrid::new(1, f32::NAN).is_err());
    }

    #[test]
    fn noise_is_standard_and_seeded() {
        let values = noise(7, 0, 100_000);
        assert_eq!(values, noise(7, 0, 100_000));
        assert_ne!(values, noise(7, 1, 100_000));
        let mean = values.iter().sum::<f32>() / values.len() as f32;
        let variance = values.iter().map(|v| v * v).sum::<f32>() / values.len() as f32;
        assert!(mean.abs() < 0.02 && (variance - 1.0).abs() < 0.02, "mean {mean}, variance {variance}");
    }

    #[test]
    fn guidance_of_one_is_the_conditional_pass() {
        assert_eq!(guide(&[1.0], &[3.0], 1.0), [3.0]);
        assert_eq!(guide(&[1.0], &[3.0], 1.5), [4.0]);
    }
}
