//! A bundle computes what the published model computes: against its own tensors where they are at hand,
//! and always against a plain double-precision implementation of the whole masked sequence.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::path::Path;

use indicatif::ProgressBar;
use ndarray::{Array2, Array3, Array4, Array5, ArrayD, Axis, s};
use nextclip_core::checkpoint::{RopeKind, RopeScaling, TransformerConfig};
use nextclip_core::manifest::{CacheElement, CacheShape};
use nextclip_core::sampler::{TimeGrid, noise};
use nextclip_core::{Geometry, Latents, Manifest, Picture};
use nextclip_export::model::{Checkpoint, Pixels, decode, encode};
use nextclip_export::onnx::Precision;
use nextclip_export::{GraphWriter, Options, Plan, export, parity};
use nextclip_predictor::{DENOISE, Execution, GraphSession, Input, Predictor, REMEMBER, Settings};
use nextclip_tests::{RandomCheckpoint, Reference, TINY};

/// Ids of `<img>`, `</img>`, `<|diffusion|>` in a random checkpoint.
const TOKENS: [usize; 3] = [1, 2, 3];

/// Single against double precision, on values near 1.
const TOLERANCE: f64 = 2e-5;

#[test]
fn the_published_implementation_agrees() {
    let references = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../shared/reference");
    for case in ["a", "b"] {
        let folder = references.join(case);
        if !folder.is_dir() {
            println!("skipped: no reference tensors at {}", folder.display());
            continue;
        }
        let lines = parity::parity(&folder).unwrap();
        assert!(lines.len() >= 3);
        for line in lines {
            println!("{case}: {line}");
            assert!(line.max_abs <= 1e-4, "{case}: {line}");
        }
    }
}

/// A decoder with everything that varies between checkpoints: shared keys, long-rope, uneven frames.
fn checkpoint() -> RandomCheckpoint {
    let mut checkpoint = RandomCheckpoint::tiny();
    checkpoint.transformer = TransformerConfig {
        num_hidden_layers: 3,
        max_position_embeddings: 131_072,
        rope_scaling: Some(RopeScaling {
            kind: RopeKind::LongRope,
            short_factor: vec![],
            long_factor: vec![1.5, 2.25, 1.0, 3.0],
        }),
        ..checkpoint.transformer
    };
    checkpoint
}

struct Bench {
    _folder: tempfile::TempDir,
    checkpoint: Checkpoint,
    reference: Reference,
    bundle: std::path::PathBuf,
}

impl Bench {
    fn new(guidance: f32, steps: usize, time_shift: f32) -> Self {
        let folder = tempfile::tempdir().unwrap();
        checkpoint().write(folder.path()).unwrap();
        let checkpoint = Checkpoint::open(folder.path()).unwrap();
        let options = Options {
            guidance: Some(guidance),
            steps: Some(steps),
            time_shift: Some(time_shift),
            ..Options::default()
        };
        let bundle = folder.path().join("bundle");
        export(&checkpoint, &Plan::new(&checkpoint, &options).unwrap(), &bundle, &ProgressBar::hidden())
            .unwrap();
        let reference = Reference::open(folder.path(), TOKENS).unwrap();
        Self { _folder: folder, checkpoint, reference, bundle }
    }

    fn predictor(&self) -> Predictor {
        Predictor::open(&self.bundle, &Settings::default()).unwrap()
    }
}

/// Seeded clean frames, or a noisy clip: (frames, c, h, w).
fn latents(stream: u64, frames: usize) -> Latents {
    let shape = (frames, TINY.latent_channels, TINY.latent_height(), TINY.latent_width());
    Latents::from_shape_vec(shape, noise(5, stream, frames * TINY.latent_len())).unwrap()
}

fn double(x: &Latents) -> Array4<f64> {
    x.mapv(f64::from)
}

fn worst(found: &Latents, expected: &Array4<f64>) -> f64 {
    found.iter().zip(expected).map(|(a, b)| (f64::from(*a) - b).abs()).fold(0.0, f64::max)
}

#[test]
fn one_step_over_any_length_of_history() {
    let bench = Bench::new(1.0, 1, 1.0);
    let mut predictor = bench.predictor();
    let (history, z) = (latents(0, TINY.history), latents(1, TINY.clip));
    for held in 0..=TINY.history {
        let expected =
            bench.reference.x1(&double(&history.slice(s![..held, .., .., ..]).to_owned()), &double(&z), 0.4);
        let x1 = predictor.denoise(&z, 0.4, 1.0).unwrap();
        let difference = worst(&x1, &expected.unwrap());
        println!("{held} frames of history: max_abs={difference:.1e}");
        assert!(difference < TOLERANCE, "{held} frames of history: {difference}");
        if held < TINY.history {
            predictor.remember(history.index_axis(Axis(0), held)).unwrap();
        }
    }
}

#[test]
fn several_steps_with_and_without_guidance() {
    for (guidance, steps, shift) in [(1.0_f32, 3, 1.0), (1.5, 3, 2.0), (0.0, 2, 1.0)] {
        let bench = Bench::new(guidance, steps, shift);
        let mut predictor = bench.predictor();
        assert_eq!(predictor.steps(), steps);
        let (history, z) = (latents(2, 2), latents(3, TINY.clip));
        for latent in history.outer_iter() {
            predictor.remember(latent).unwrap();
        }
        let grid = TimeGrid::new(steps, shift).unwrap();
        let times: Vec<f64> =
            std::iter::once(0.0).chain(grid.steps().map(|(_, t_next)| f64::from(t_next))).collect();
        let expected =
            bench.reference.sample(&double(&history), &double(&z), &times, f64::from(guidance)).unwrap();
        let difference = worst(&predictor.sample(z).unwrap(), &expected);
        println!("guidance {guidance}, {steps} steps: max_abs={difference:.1e}");
        assert!(difference < 5.0 * TOLERANCE, "guidance {guidance}: {difference}");
    }
}

#[test]
fn guidance_may_change_at_run_time_where_both_branches_are_there() {
    let bench = Bench::new(1.5, 1, 1.0);
    let z = latents(3, TINY.clip);
    let history = latents(2, 1);
    let settings = Settings { guidance: Some(1.0), ..Settings::default() };
    let mut predictor = Predictor::open(&bench.bundle, &settings).unwrap();
    predictor.remember(history.index_axis(Axis(0), 0)).unwrap();
    let expected = bench.reference.x1(&double(&history), &double(&z), 0.0).unwrap();
    assert!(worst(&predictor.denoise(&z, 0.0, 1.0).unwrap(), &expected) < TOLERANCE);

    let plain = Bench::new(1.0, 1, 1.0);
    let settings = Settings { guidance: Some(1.5), ..Settings::default() };
    let message = Predictor::open(&plain.bundle, &settings).unwrap_err().to_string();
    assert!(message.contains("guidance 1.5 needs a bundle exported with guidance"), "{message}");
}

/// The two graphs driven by hand, with frames of the cache in any slots.
struct ByHand {
    manifest: Manifest,
    remember: GraphSession,
    denoise: GraphSession,
}

/// One frame's keys and values, each (layers, 1, n_kv, L, d_head).
type Block = [Array5<f32>; 2];

impl ByHand {
    fn open(bundle: &Path) -> Self {
        let text = std::fs::read_to_string(bundle.join("manifest.json")).unwrap();
        let manifest = Manifest::from_json(&text).unwrap();
        let open =
            |name, graph| GraphSession::open(name, bundle, graph, &Execution::default(), None).unwrap();
        let remember = open(REMEMBER, &manifest.graphs.remember);
        let denoise = open(DENOISE, &manifest.graphs.denoise);
        Self { manifest, remember, denoise }
    }

    /// Keys and values of the whole cache with frame i of `held` in slot `slots[i]`; other slots hold
    /// what must not matter.
    fn cache(&self, held: &[Block], slots: &[usize]) -> ([Array5<f32>; 2], Array2<i64>) {
        let geometry = &self.manifest.geometry;
        let CacheShape { layers, batch, kv_heads, head_dim, .. } = self.manifest.cache;
        let tokens = geometry.block_tokens();
        let mut cache = [(); 2]
            .map(|()| Array5::from_elem((layers, batch, kv_heads, geometry.history * tokens, head_dim), 3.5));
        let mut positions = Array2::from_elem((1, geometry.history), -1);
        for (position, (block, slot)) in held.iter().zip(slots).enumerate() {
            positions[[0, *slot]] = position as i64;
            for (cache, block) in cache.iter_mut().zip(block) {
                cache.slice_mut(s![.., .., .., slot * tokens..(slot + 1) * tokens, ..]).assign(block);
            }
        }
        (cache, positions)
    }

    fn remember(&mut self, latent: &Array3<f32>, held: &[Block], slots: &[usize]) -> Block {
        let ([keys, values], positions) = self.cache(held, slots);
        let position = ndarray::arr1(&[held.len() as i64]);
        let inputs = [
            ("latents", Input::F32(latent.view().insert_axis(Axis(0)).into_dyn())),
            ("keys", Input::F32(keys.view().into_dyn())),
            ("values", Input::F32(values.view().into_dyn())),
            ("slot_positions", Input::I64(positions.view().into_dyn())),
            ("position", Input::I64(position.view().into_dyn())),
        ];
        self.remember
            .run(&inputs, ["new_keys", "new_values"], |new| {
                Ok(new.map(|view| view.into_dimensionality().unwrap().to_owned()))
            })
            .unwrap()
    }

    fn denoise(&mut self, z: &Latents, held: &[Block], slots: &[usize]) -> Latents {
        let ([keys, values], positions) = self.cache(held, slots);
        let position = ndarray::arr1(&[held.len() as i64]);
        let (t, t_next) = (ndarray::arr1(&[0.25]), ndarray::arr1(&[0.75]));
        let inputs = [
            ("z", Input::F32(z.view().insert_axis(Axis(0)).into_dyn())),
            ("t", Input::F32(t.view().into_dyn())),
            ("t_next", Input::F32(t_next.view().into_dyn())),
            ("keys", Input::F32(keys.view().into_dyn())),
            ("values", Input::F32(values.view().into_dyn())),
            ("slot_positions", Input::I64(positions.view().into_dyn())),
            ("position", Input::I64(position.view().into_dyn())),
        ];
        self.denoise
            .run(&inputs, ["z_next"], |[z_next]| {
                Ok(z_next.index_axis(Axis(0), 0).into_dimensionality().unwrap().to_owned())
            })
            .unwrap()
    }
}

/// A window that slid: the ring's slots are out of order and positions start at 0 again. The same frames
/// laid out in order by hand give the same clip.
#[test]
fn a_slid_window_equals_its_frames_in_order() {
    let bench = Bench::new(1.0, 1, 1.0);
    let (mut predictor, mut by_hand) = (bench.predictor(), ByHand::open(&bench.bundle));
    let (frames, z) = (latents(4, 2 * TINY.history + 2), latents(5, TINY.clip));
    let mut window: Vec<Block> = Vec::new();
    for (count, frame) in frames.outer_iter().enumerate() {
        predictor.remember(frame).unwrap();
        if window.len() == TINY.history {
            window.remove(0);
        }
        let in_order: Vec<usize> = (0..window.len()).collect();
        let block = by_hand.remember(&frame.to_owned(), &window, &in_order);
        window.push(block);

        let in_order: Vec<usize> = (0..window.len()).collect();
        let ordered = by_hand.denoise(&z, &window, &in_order);
        let ring = predictor.denoise(&z, 0.25, 0.75).unwrap();
        let difference = worst(&ring, &double(&ordered));
        assert!(difference < 1e-5, "after {} frames: {difference}", count + 1);
    }
    // Any other order of slots, too.
    let ordered = by_hand.denoise(&z, &window, &[0, 1, 2]);
    for slots in [[2, 0, 1], [1, 0, 2]] {
        let shuffled = by_hand.denoise(&z, &window, &slots);
        assert!(worst(&shuffled, &double(&ordered)) < 1e-5, "{slots:?}");
    }
}

#[test]
fn forgetting_is_a_fresh_start() {
    let bench = Bench::new(1.0, 1, 1.0);
    let (mut used, mut fresh) = (bench.predictor(), bench.predictor());
    for frame in latents(6, 5).outer_iter() {
        used.remember(frame).unwrap();
    }
    used.forget();
    assert!(used.history().is_empty());
    let frame = latents(7, 1);
    for predictor in [&mut used, &mut fresh] {
        predictor.remember(frame.index_axis(Axis(0), 0)).unwrap();
    }
    assert_eq!(used.predict(1, 2).unwrap(), fresh.predict(1, 2).unwrap());
    assert_ne!(used.predict(1, 2).unwrap(), fresh.predict(1, 3).unwrap());
}

#[test]
fn pictures_go_in_and_come_out() {
    let bench = Bench::new(1.0, 1, 1.0);
    let mut predictor = bench.predictor();
    let picture =
        Picture::from_shape_fn((TINY.height, TINY.width, 3), |(y, x, c)| (7 * y + 3 * x + 80 * c) as u8);
    let latent = predictor.see(&picture).unwrap();
    assert_eq!(latent.dim(), (TINY.latent_channels, TINY.latent_height(), TINY.latent_width()));
    assert!(latent.iter().all(|value| value.is_finite()));
    assert_eq!(predictor.history().len(), 1);

    let clip = predictor.predict(0, 0).unwrap();
    let pictures = predictor.decode(&clip).unwrap();
    assert_eq!(pictures.len(), TINY.clip);
    assert!(pictures.iter().all(|picture| picture.dim() == (TINY.height, TINY.width, 3)));

    let message = predictor.encode(&Picture::zeros((16, 16, 3))).unwrap_err().to_string();
    assert_eq!(message, "frame has shape [16, 16, 3], the bundle needs [32, 48, 3]");
}

/// 8-bit pictures are the float ones, scaled and rounded half to even, channels last.
#[test]
fn samples_of_8_bits_are_float_pictures_rounded() {
    let bench = Bench::new(1.0, 1, 1.0);
    let folder = tempfile::tempdir().unwrap();
    let vae = &bench.checkpoint.vae.as_ref().unwrap().vae;
    let cache = CacheShape { layers: 0, batch: 1, kv_heads: 0, head_dim: 0, element: CacheElement::F32 };
    let progress = ProgressBar::hidden();
    let mut writer = GraphWriter::create(folder.path(), &progress).unwrap();
    let graphs = [
        encode(vae, None, &TINY, &cache, Pixels::F32, &Precision::Float),
        decode(vae, None, &TINY, &cache, Pixels::F32, &Precision::Float),
    ];
    let entries = graphs.each_ref().map(|graph| writer.add(graph).unwrap());
    writer.finish().unwrap();
    let open = |i: usize| {
        GraphSession::open(graphs[i].name, folder.path(), &entries[i], &Execution::default(), None).unwrap()
    };
    let (mut float_encode, mut float_decode) = (open(0), open(1));
    let mut predictor = bench.predictor();

    let picture =
        Picture::from_shape_fn((TINY.height, TINY.width, 3), |(y, x, c)| (9 * y + 5 * x + 60 * c) as u8);
    let latent = predictor.encode(&picture).unwrap();
    let planes = picture.mapv(|sample| f32::from(sample) / 127.5 - 1.0).permuted_axes([2, 0, 1]);
    let planes = planes.as_standard_layout().into_owned().insert_axis(Axis(0)).into_dyn();
    let float_latent: ArrayD<f32> = float_encode
        .run(&[("frames", Input::F32(planes.view()))], ["latents"], |[latent]| Ok(latent.to_owned()))
        .unwrap();
    let difference = latent.iter().zip(&float_latent).map(|(a, b): (&f32, &f32)| (a - b).abs());
    let difference = difference.fold(0.0, f32::max);
    assert!(difference < 1e-5, "{difference}");

    let clip = latents(8, TINY.clip) * 2.0;
    let pictures = predictor.decode(&clip).unwrap();
    let input = clip.view().insert_axis(Axis(0)).into_dyn();
    let float: ArrayD<f32> = float_decode
        .run(&[("latents", Input::F32(input))], ["frames"], |[frames]| Ok(frames.to_owned()))
        .unwrap();
    for (frame, picture) in pictures.iter().enumerate() {
        for ((y, x, c), sample) in picture.indexed_iter() {
            let exact = (f64::from(float[[0, frame, c, y, x]]) + 1.0) * 127.5;
            let expected = exact.round_ties_even().clamp(0.0, 255.0);
            // A tie may fall either way by the last bit of single precision.
            let tie = (exact.fract().abs() - 0.5).abs() < 1e-3;
            let off = (f64::from(*sample) - expected).abs();
            assert!(off == 0.0 || (tie && off <= 1.0), "{sample} at {frame} {y} {x} {c}, float {exact}");
        }
    }
}

/// Other sizes than those that a checkpoint was trained for.
#[test]
fn a_bundle_may_have_other_sizes() {
    let bench = Bench::new(1.0, 1, 1.0);
    let options = Options { size: Some((48, 32)), history: Some(1), clip: Some(2), ..Options::default() };
    let plan = Plan::new(&bench.checkpoint, &options).unwrap();
    let bundle = bench.bundle.with_file_name("other");
    export(&bench.checkpoint, &plan, &bundle, &ProgressBar::hidden()).unwrap();
    let mut predictor = Predictor::open(&bundle, &Settings::default()).unwrap();
    let geometry: Geometry = predictor.manifest().geometry;
    assert_eq!((geometry.height, geometry.width, geometry.history, geometry.clip), (48, 32, 1, 2));
    let z = Latents::from_shape_vec((2, 4, 6, 4), noise(1, 0, 192)).unwrap();
    let frame = Latents::from_shape_vec((1, 4, 6, 4), noise(1, 1, 96)).unwrap();
    predictor.remember(frame.index_axis(Axis(0), 0)).unwrap();
    let expected = bench.reference.x1(&double(&frame), &double(&z), 0.0).unwrap();
    assert!(worst(&predictor.denoise(&z, 0.0, 1.0).unwrap(), &expected) < TOLERANCE);
}
