//! A model with motion computes what its formulas say: costs, where cells go, and the pictures that are made of it.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::fs;
use std::path::PathBuf;

use ndarray::{Array3, Array4, Axis, s};
use nextclip_core::sampler::noise;
use nextclip_core::{Latents, Motion, Picture};
use nextclip_predictor::{Encoded, Predictor, Settings};
use nextclip_tests::{DecodeGraph, MOTION, RandomCheckpoint, Reference, TINY};
use tempfile::TempDir;

/// `<img>`, `</img>`, `<|diffusion|>` of a vocabulary of four.
const TOKENS: [usize; 3] = [1, 2, 3];

/// Single against double precision, on values near 1.
const TOLERANCE: f64 = 2e-5;

/// Of pictures. The reference knows the decoder's only as whole levels: half a level there, and half a level of the result.
const LEVELS: f64 = 1.0 + 1e-2;

struct Bench {
    folder: TempDir,
    reference: Reference,
    predictor: Predictor,
    sizes: Motion,
}

impl Bench {
    fn new(sizes: Motion) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let random = RandomCheckpoint::tiny().with_motion(sizes);
        random.write(&folder.path().join("checkpoint")).unwrap();
        let bundle = folder.path().join("bundle");
        let manifest = random.export(&bundle).unwrap();
        assert_eq!(manifest.motion, Some(sizes));
        let reference = Reference::open(&folder.path().join("checkpoint"), TOKENS).unwrap();
        let predictor = Predictor::open(&bundle, &Settings::default()).unwrap();
        Self { folder, reference, predictor, sizes }
    }

    fn bundle(&self) -> PathBuf {
        self.folder.path().join("bundle")
    }

    /// Random motion of `cells` cells, as the standard deviation; also of weights and features.
    fn motion(&self, cells: f32) -> Array4<f32> {
        let moments = self.sizes.moments(TINY.clip).len();
        let shape = (moments, self.sizes.channels(), TINY.latent_height(), TINY.latent_width());
        let values = noise(7, 0, shape.0 * shape.1 * shape.2 * shape.3);
        cells * Array4::from_shape_vec(shape, values).unwrap()
    }
}

/// Those of a checkpoint, the same where candidates, not things, land by themselves, where cells need not agree, one candidate without features that looks as far as it can, and following without end.
const SIZES: [Motion; 5] = [
    MOTION,
    Motion { depth: 0, ..MOTION },
    Motion { whole: false, depth: 0, ..MOTION },
    Motion {
        candidates: 1,
        features: 0,
        reach: 16,
        earlier: 0,
        refined: false,
        rigid: false,
        whole: false,
        depth: 0,
    },
    Motion {
        candidates: 1,
        features: 1,
        reach: 1,
        earlier: 3,
        refined: true,
        rigid: false,
        whole: false,
        depth: 0,
    },
];

fn latents(stream: u64, frames: usize) -> Latents {
    let shape = (frames, TINY.latent_channels, TINY.latent_height(), TINY.latent_width());
    Latents::from_shape_vec(shape, noise(5, stream, frames * TINY.latent_len())).unwrap()
}

/// Of noise, where a wrong place is a wrong colour.
fn picture(stream: u64) -> Picture {
    let values = noise(6, stream, TINY.height * TINY.width * 3);
    let samples = values.iter().map(|value| (127.5 + 60.0 * value).clamp(0.0, 255.0) as u8).collect();
    Picture::from_shape_vec((TINY.height, TINY.width, 3), samples).unwrap()
}

/// Of a film, where things move.
fn film(count: usize) -> Vec<Picture> {
    nextclip_scenes::clip(nextclip_scenes::Split::HeldOut, 3, TINY.width, TINY.height, count, 0.1)
}

fn worst<'a>(found: impl IntoIterator<Item = &'a f32>, expected: impl IntoIterator<Item = f64>) -> f64 {
    found.into_iter().zip(expected).map(|(a, b)| (f64::from(*a) - b).abs()).fold(0.0, f64::max)
}

#[test]
fn costs_are_those_of_the_formula() {
    for sizes in SIZES {
        let mut bench = Bench::new(sizes);
        let first = bench.predictor.encode_next(&picture(0)).unwrap();
        assert!(first.costs.as_ref().unwrap().iter().all(|cost| *cost == 0.0), "nothing came before");
        bench.predictor.see(&picture(0)).unwrap();
        // Of pictures alike, costs go down to the floor; of others they do not.
        let mut shifted = picture(1);
        shifted.slice_mut(s![.., 4.., ..]).assign(&picture(0).slice(s![.., ..TINY.width - 4, ..]));
        for now in [picture(1), picture(0), shifted] {
            let found = bench.predictor.encode_next(&now).unwrap().costs.unwrap();
            let expected = bench.reference.costs(&now, &picture(0)).unwrap();
            assert_eq!(found.dim(), expected.dim());
            let (difference, size) =
                (worst(&found, expected.iter().copied()), expected.fold(0.0, |a: f64, b| a.max(b.abs())));
            println!("{sizes:?}: max_abs={difference:.1e} of {size:.1}");
            assert!(difference < TOLERANCE * size.max(1.0), "{difference}");
        }
    }
}

#[test]
fn frames_say_where_they_go_and_predictions_follow_from_their_costs() {
    let mut bench = Bench::new(SIZES[0]);
    let z = latents(1, TINY.clip);
    let double = |x: &Latents| x.mapv(f64::from);
    let frames = film(2 * TINY.history);
    let (mut seen, mut costs): (Vec<Array3<f32>>, Vec<Array3<f32>>) = (vec![], vec![]);
    for frame in frames.iter().take(TINY.history) {
        let encoded = bench.predictor.encode_next(frame).unwrap();
        bench.predictor.remember_next(frame, &encoded).unwrap();
        seen.push(encoded.latent);
        costs.push(encoded.costs.unwrap());
        let stacked = |frames: &[Array3<f32>]| {
            let views: Vec<_> = frames.iter().map(|frame| frame.view()).collect();
            double(&ndarray::stack(Axis(0), &views).unwrap())
        };
        let (history, costs) = (stacked(&seen), stacked(&costs));
        let expected = bench.reference.x1_after(&history, Some(&costs), &double(&z), 0.4).unwrap();
        let difference = worst(&bench.predictor.denoise(&z, 0.4, 1.0).unwrap(), expected);
        let motion = bench.reference.motion(&history, &costs).unwrap();
        let off = worst(bench.predictor.motion().unwrap(), motion);
        println!("{} frames: clip max_abs={difference:.1e}, motion max_abs={off:.1e}", seen.len());
        assert!(difference < TOLERANCE && off < TOLERANCE, "{difference} {off}");
    }
    // Costs change what is remembered; without a word of them they are zeros.
    let told = bench.predictor.denoise(&z, 0.0, 1.0).unwrap();
    bench.predictor.forget();
    for latent in &seen {
        bench.predictor.remember(latent.view()).unwrap();
    }
    let untold = bench.predictor.denoise(&z, 0.0, 1.0).unwrap();
    assert!(worst(&told, untold.mapv(f64::from)) > 1e-3);
    let zeros = Array4::zeros((seen.len(), SIZES[0].costs(), TINY.latent_height(), TINY.latent_width()));
    let views: Vec<_> = seen.iter().map(|frame| frame.view()).collect();
    let history = double(&ndarray::stack(Axis(0), &views).unwrap());
    let expected = bench.reference.x1_after(&history, Some(&zeros), &double(&z), 0.0).unwrap();
    assert!(worst(&untold, expected) < TOLERANCE);
}

#[test]
fn pictures_are_those_of_the_formula() {
    for sizes in SIZES {
        let mut bench = Bench::new(sizes);
        let mut decoder = DecodeGraph::open(&bench.bundle()).unwrap();
        let clip = latents(1, TINY.clip);
        let decoded = bench.predictor.decode(&clip).unwrap();
        // The second earlier picture was not seen: in its place stands the last.
        let noise = (picture(3), [Some(picture(10)), None, Some(picture(12))]);
        // In a film much of what is taken for moving was seen going that way.
        let frames = film(7);
        let film = (frames[6].clone(), [5, 3, 0].map(|index| Some(frames[index].clone())));
        // Up to far beyond the frame, which is 6 cells wide.
        let cases = [(0.0, &noise), (0.3, &noise), (4.0, &noise), (0.0, &film), (0.3, &film)];
        for (cells, (last, earlier)) in cases {
            let (motion, earlier) = (bench.motion(cells), &earlier[..sizes.earlier]);
            let shown = decoder.pictures(&clip, last, earlier, &motion, 1.0).unwrap();
            let followed = bench.reference.follow(&motion, last, earlier).unwrap();
            let together = bench.reference.together(&motion, &followed).unwrap();
            let (mut off, mut changed) = (0.0_f64, 0.0_f64);
            for (n, (decoded, shown)) in decoded.iter().zip(&shown).enumerate() {
                let reference = &bench.reference;
                let expected = reference.composite(decoded, last, earlier, &together, n).unwrap();
                for ((expected, &shown), &decoded) in expected.iter().zip(shown).zip(decoded) {
                    off = off.max((expected - f64::from(shown)).abs());
                    changed = changed.max((expected - f64::from(decoded)).abs());
                }
            }
            println!(
                "{sizes:?}, {cells} cells: {off:.3} levels off the formula, which changes up to {changed:.0}"
            );
            assert!(off <= LEVELS, "{off} levels with {sizes:?} and {cells} cells");
            assert!(changed > 20.0, "nothing to see: {changed}");
            // With the gate shut, the last frame and its motion are nothing to the pictures.
            assert_eq!(decoder.pictures(&clip, last, earlier, &motion, 0.0).unwrap(), decoded);
        }
    }
}

#[test]
fn what_is_seen_is_moved_and_what_is_only_remembered_is_not() {
    let mut bench = Bench::new(SIZES[0]);
    let predictor = &mut bench.predictor;
    let clip = latents(1, TINY.clip);
    let decoded = predictor.decode(&clip).unwrap();
    assert_eq!(predictor.render(&clip).unwrap(), decoded, "there is no frame to move");
    let [first, second] = [picture(0), picture(1)];
    predictor.see(&first).unwrap();
    let of_first = predictor.render(&clip).unwrap();
    let latent = predictor.see(&second).unwrap();
    let of_second = predictor.render(&clip).unwrap();
    assert!(of_first != decoded && of_second != decoded && of_first != of_second);
    assert_eq!(predictor.render(&clip).unwrap(), of_second);
    // The decode graph with the newest frame's own motion.
    let motion = predictor.motion().unwrap().to_owned();
    let mut decoder = DecodeGraph::open(&bench.bundle()).unwrap();
    let earlier = [Some(first.clone()), None];
    assert_eq!(decoder.pictures(&clip, &second, &earlier, &motion, 1.0).unwrap(), of_second);
    assert_ne!(decoder.pictures(&clip, &second, &[None, None], &motion, 1.0).unwrap(), of_second);

    let predictor = &mut bench.predictor;
    predictor.remember(latent.view()).unwrap();
    assert_eq!(predictor.render(&clip).unwrap(), decoded, "a bare latent has no picture");
    let alone = predictor.encode_next(&second).unwrap().costs.unwrap();
    assert!(alone.iter().all(|cost| *cost == 0.0), "the frame before was never seen");
    predictor.see(&first).unwrap();
    predictor.forget();
    assert_eq!(predictor.render(&clip).unwrap(), decoded);
    let wrong = Encoded { costs: None, latent };
    let message = predictor.remember_next(&second, &wrong).unwrap_err().to_string();
    assert_eq!(message, "costs has shape [], the bundle needs [25, 4, 6]");
}

#[test]
fn a_prediction_is_followed_by_its_pictures() {
    let mut bench = Bench::new(SIZES[0]);
    let predictor = &mut bench.predictor;
    let frames = film(TINY.history);
    frames.iter().for_each(|frame| drop(predictor.see(frame).unwrap()));
    let clip = predictor.predict(1, 0).unwrap();
    let pictures = predictor.render(&clip).unwrap();
    predictor.follow(&clip, &pictures).unwrap();
    let (next, motion) = (predictor.predict(1, 1).unwrap(), predictor.motion().unwrap().to_owned());
    let shown = predictor.render(&next).unwrap();

    predictor.forget();
    frames.iter().chain(&pictures).for_each(|frame| drop(predictor.see(frame).unwrap()));
    assert_eq!(predictor.predict(1, 1).unwrap(), next);
    assert_eq!(predictor.motion().unwrap(), motion);
    assert_eq!(predictor.render(&next).unwrap(), shown);
    let message = predictor.follow(&next, &shown[1..]).unwrap_err().to_string();
    assert_eq!(message, "pictures of a clip has shape [2], the bundle needs [3]");
}

#[test]
fn a_model_without_motion_says_none() {
    let folder = tempfile::tempdir().unwrap();
    let manifest = RandomCheckpoint::tiny().export(folder.path()).unwrap();
    assert_eq!(manifest.motion, None);
    assert!(!manifest.to_json().unwrap().contains("\"motion\""));
    let mut predictor = Predictor::open(folder.path(), &Settings::default()).unwrap();
    predictor.see(&picture(0)).unwrap();
    assert!(predictor.motion().is_none());
    let encoded = predictor.encode_next(&picture(1)).unwrap();
    assert_eq!(encoded.costs, None);
    let costs = Some(Array3::zeros((25, TINY.latent_height(), TINY.latent_width())));
    assert!(predictor.remember_next(&picture(1), &Encoded { costs, ..encoded }).is_err());
}

#[test]
fn motion_that_the_graphs_do_not_have_is_refused_by_the_tensor() {
    let folder = tempfile::tempdir().unwrap();
    let bundle = folder.path().join("bundle");
    let open = |random: RandomCheckpoint, change: &dyn Fn(&mut serde_json::Value)| {
        random.export(&bundle).unwrap();
        let path = bundle.join("manifest.json");
        let mut manifest: serde_json::Value = serde_json::from_slice(&fs::read(&path).unwrap()).unwrap();
        change(&mut manifest);
        fs::write(&path, manifest.to_string()).unwrap();
        let error = Predictor::open(&bundle, &Settings::default()).unwrap_err();
        format!("{:#}", anyhow::Error::from(error))
    };
    let moving = || RandomCheckpoint::tiny().with_motion(MOTION);
    let message = open(RandomCheckpoint::tiny(), &|manifest| {
        manifest["motion"] = serde_json::to_value(MOTION).unwrap();
    });
    let expected =
        "graph \"encode\" input \"before\": manifest says nothing, this program needs u8[1, 32, 48, 3]";
    assert_eq!(message, expected);
    let message = open(moving(), &|manifest| drop(manifest.as_object_mut().unwrap().remove("motion")));
    let expected =
        "graph \"encode\" input \"before\": manifest says u8[1, 32, 48, 3], this program needs nothing";
    assert_eq!(message, expected);
    let message = open(moving(), &|manifest| manifest["motion"]["features"] = 4.into());
    let expected = "graph \"remember\" output \"motion\": manifest says f32[1, 5, 12, 4, 6], this program needs \
                    f32[1, 5, 14, 4, 6]";
    assert_eq!(message, expected);
    let message = open(moving(), &|manifest| manifest["motion"]["candidates"] = 9.into());
    assert!(message.contains("manifest.json: motion: 9 candidates, must be 1 to 8"), "{message}");
    let message = open(moving(), &|manifest| manifest["geometry"]["vae_scale"] = 1.into());
    assert!(message.contains("motion: cells of 1 x 1 pixels, must be an even number"), "{message}");
}
