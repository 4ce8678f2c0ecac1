//! Pictures of the future are the last frame moved, blended with what the decoder paints.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::path::{Path, PathBuf};

use ndarray::{Array4, ArrayView4};
use nextclip_core::sampler::noise;
use nextclip_core::{Latents, Motion, Picture};
use nextclip_predictor::{PredictedClip, Predictor, Settings};
use nextclip_tests::{MotionReference, RandomCheckpoint, Reference, TINY};
use tempfile::TempDir;

/// `<img>`, `</img>`, `<|diffusion|>` of a vocabulary of four.
const TOKENS: [usize; 3] = [1, 2, 3];

/// Of the reference, which knows the decoder's pictures as whole levels only.
const LEVELS: f64 = 1.0;

struct Bench {
    folder: TempDir,
    predictor: Predictor,
    sizes: Motion,
}

impl Bench {
    fn new(change: impl FnOnce(&mut RandomCheckpoint)) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let mut random = RandomCheckpoint::tiny_with_motion();
        change(&mut random);
        random.write(&folder.path().join("checkpoint")).unwrap();
        let bundle = folder.path().join("bundle");
        let manifest = random.export(&bundle).unwrap();
        let predictor = Predictor::open(&bundle, &Settings::default()).unwrap();
        Self { folder, predictor, sizes: manifest.motion.unwrap() }
    }

    fn checkpoint(&self) -> PathBuf {
        self.folder.path().join("checkpoint")
    }

    /// Random motion of `cells` cells, as the standard deviation.
    fn motion(&self, cells: f32) -> Array4<f32> {
        let shape = (TINY.clip, self.sizes.channels(), TINY.latent_height(), TINY.latent_width());
        let values = noise(7, 0, shape.0 * shape.1 * shape.2 * shape.3);
        cells * Array4::from_shape_vec(shape, values).unwrap()
    }
}

fn latents(stream: u64, frames: usize) -> Latents {
    let shape = (frames, TINY.latent_channels, TINY.latent_height(), TINY.latent_width());
    Latents::from_shape_vec(shape, noise(5, stream, frames * TINY.latent_len())).unwrap()
}

fn pictures(count: usize) -> Vec<Picture> {
    nextclip_scenes::clip(nextclip_scenes::Split::HeldOut, 3, TINY.width, TINY.height, count, 0.1)
}

/// The greatest difference in levels from the reference's formula, and that of its pictures from the decoder's.
fn apart(bench: &mut Bench, motion: &Array4<f32>) -> (f64, f64) {
    let last = pictures(1).remove(0);
    bench.predictor.see(&last).unwrap();
    let clip = PredictedClip { latents: latents(1, TINY.clip), motion: Some(motion.clone()) };
    let decoded = bench.predictor.decode(&clip.latents).unwrap();
    let shown = bench.predictor.render(&clip).unwrap();
    let reference = MotionReference::open(&bench.checkpoint()).unwrap();
    let (mut worst, mut moved) = (0.0_f64, 0.0_f64);
    for ((decoded, shown), motion) in decoded.iter().zip(&shown).zip(motion.outer_iter()) {
        let expected = reference.composite(decoded, &last, motion);
        for ((expected, &shown), &decoded) in expected.iter().zip(shown).zip(decoded) {
            worst = worst.max((expected - f64::from(shown)).abs());
            moved = moved.max((expected - f64::from(decoded)).abs());
        }
    }
    (worst, moved)
}

#[test]
fn pictures_are_those_of_the_formula() {
    for sizes in [Motion { candidates: 2, features: 3 }, Motion { candidates: 1, features: 0 }] {
        let mut bench =
            Bench::new(|random| random.transformer.nextclip.as_mut().unwrap().motion = Some(sizes));
        // Up to far beyond the frame, which is 6 cells wide.
        for cells in [0.0, 0.3, 4.0] {
            let motion = bench.motion(cells);
            let (worst, moved) = apart(&mut bench, &motion);
            println!(
                "{sizes:?}, {cells} cells: {worst:.2} levels off the formula, which changes up to {moved:.0}"
            );
            assert!(worst <= LEVELS, "{worst} levels with {sizes:?} and {cells} cells");
            assert!(moved > 20.0, "nothing to see: {moved}");
        }
    }
}
