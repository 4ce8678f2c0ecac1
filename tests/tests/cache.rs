//! A cache of keys and values in half precision or in 8 bits holds what the float one holds, to half a step of its
//! numbers, and predictions made from it are at least as near.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::LazyLock;

use half::f16;
use indicatif::ProgressBar;
use ndarray::{Array2, Array5, ArrayD, ArrayView1, Axis, Ix5};
use nextclip_core::manifest::CacheElement;
use nextclip_core::{Latents, Manifest, Picture};
use nextclip_export::model::Checkpoint;
use nextclip_export::{DEFAULT_OBSERVER, Options, Plan, Sight, export, observe};
use nextclip_predictor::{CacheNumber, Execution, GraphSession, Input, Predictor, REMEMBER, Settings};
use nextclip_quant::sqnr_db;
use nextclip_tests::{MOTION, RandomCheckpoint, TINY};
use tempfile::TempDir;

/// The tiny checkpoint as bundles with each cache.
struct Bench {
    _folder: TempDir,
    float: PathBuf,
    half: PathBuf,
    int8: PathBuf,
    /// What the 8-bit one is scaled by.
    element: CacheElement,
}

impl Bench {
    /// A guidance other than 1 adds the branch without history.
    fn new(guidance: f32) -> Self {
        Self::of(&RandomCheckpoint::tiny(), guidance)
    }

    fn of(random: &RandomCheckpoint, guidance: f32) -> Self {
        let folder = tempfile::tempdir().unwrap();
        random.write(folder.path()).unwrap();
        let checkpoint = Checkpoint::open(folder.path()).unwrap();
        let options = Options { guidance: Some(guidance), ..Options::default() };
        let mut plan = Plan::new(&checkpoint, &options).unwrap();
        let sight = Sight { clips: 4, ..Sight::default() };
        let seen = observe(&checkpoint, &plan, &sight, &ProgressBar::hidden()).unwrap();
        let element = seen.cache_element(DEFAULT_OBSERVER).unwrap();
        let [float, half, int8] = [CacheElement::F32, CacheElement::F16, element.clone()].map(|element| {
            let out = folder.path().join(element.to_string());
            plan.cache.element = element;
            export(&checkpoint, &plan, &out, &ProgressBar::hidden()).unwrap();
            out
        });
        Self { _folder: folder, float, half, int8, element }
    }
}

/// Without guidance, for all tests that only read it.
static UNGUIDED: LazyLock<Bench> = LazyLock::new(|| Bench::new(1.0));

fn manifest(bundle: &Path) -> Manifest {
    Manifest::from_json(&fs::read_to_string(bundle.join("manifest.json")).unwrap()).unwrap()
}

/// New keys and values of a first frame, as the graph gives them.
fn first_frame<T: CacheNumber>(bundle: &Path) -> [Array5<T>; 2] {
    let manifest = manifest(bundle);
    let graph = &manifest.graphs.remember;
    let mut session = GraphSession::open(REMEMBER, bundle, graph, &Execution::default(), None).unwrap();
    let latent = Predictor::open(bundle, &Settings::default()).unwrap().encode(&pictures()[0]).unwrap();
    let latents = latent.insert_axis(Axis(0));
    let held = &graph.inputs.iter().find(|spec| spec.name == "keys").unwrap().shape;
    let held = Array5::from_elem((held[0], held[1], held[2], held[3], held[4]), T::default());
    let (slots, position) = (Array2::from_elem((1, TINY.history), -1), [0]);
    let costs = graph.inputs.iter().find(|spec| spec.name == "costs");
    let costs = costs.map(|spec| ArrayD::zeros(spec.shape.clone()));
    let mut inputs = vec![
        ("latents", Input::F32(latents.view().into_dyn())),
        ("keys", T::input(&held)),
        ("values", T::input(&held)),
        ("slot_positions", Input::I64(slots.view().into_dyn())),
        ("position", Input::I64(ArrayView1::from(&position).into_dyn())),
    ];
    inputs.extend(costs.as_ref().map(|costs| ("costs", Input::F32(costs.view()))));
    session
        .run::<T, _, _>(&inputs, ["new_keys", "new_values"], |new| {
            Ok(new.map(|view| view.into_dimensionality::<Ix5>().unwrap().to_owned()))
        })
        .unwrap()
}

#[test]
fn half_precision_holds_every_key_to_half_a_step() {
    let bench = &*UNGUIDED;
    let exact = first_frame::<f32>(&bench.float);
    let kept = first_frame::<f16>(&bench.half);
    for (exact, kept) in exact.iter().flatten().zip(kept.iter().flatten()) {
        // 11 significant bits: half a step is 2^-11 of the number, and 2^-25 where numbers are subnormal.
        let bound = (exact.abs() * 2_f32.powi(-11)).max(2_f32.powi(-25));
        assert!((exact - kept.to_f32()).abs() <= bound, "{exact} became {kept}");
    }
}

#[test]
fn eight_bits_hold_every_key_to_half_a_step_of_its_head() {
    let bench = &*UNGUIDED;
    let exact = first_frame::<f32>(&bench.float);
    let kept = first_frame::<i8>(&bench.int8);
    let CacheElement::Int8 { key_scales, value_scales, .. } = &bench.element else { panic!("not int8") };
    let (mut beyond, mut numbers) = (0, 0);
    for ((exact, kept), scales) in exact.iter().zip(&kept).zip([key_scales, value_scales]) {
        let heads = exact.dim().2;
        for ((at, exact), kept) in exact.indexed_iter().zip(kept) {
            let scale = scales[at.0 * heads + at.2];
            // What calibration has not seen saturates.
            let within = exact.clamp(-128.0 * scale, 127.0 * scale);
            beyond += usize::from(within != *exact);
            numbers += 1;
            // Half a step, and the last bits of a quotient and a product.
            let error = (within - f32::from(*kept) * scale).abs();
            assert!(error <= scale * (0.5 + 1e-4), "{exact} became {kept} x {scale} in {at:?}");
        }
    }
    assert!(beyond * 100 < numbers, "{beyond} of {numbers} numbers were never seen");
}

/// Sees more frames than the window has, then predicts.
fn predicted(bundle: &Path) -> Latents {
    let mut predictor = Predictor::open(bundle, &Settings::default()).unwrap();
    for picture in pictures() {
        predictor.see(&picture).unwrap();
    }
    predictor.predict(1, 0).unwrap()
}

fn pictures() -> Vec<Picture> {
    let count = 2 * TINY.history + 1;
    nextclip_scenes::clip(nextclip_scenes::Split::HeldOut, 3, TINY.width, TINY.height, count, 0.1)
}

/// Signal to noise of what a cache holds of a frame, in dB.
fn kept_sqnr_db(bench: &Bench) -> [f64; 2] {
    let flat = |[keys, values]: [Array5<f32>; 2]| keys.into_iter().chain(values).collect::<Vec<f32>>();
    let exact = flat(first_frame::<f32>(&bench.float));
    let half = flat(first_frame::<f16>(&bench.half).map(|array| array.mapv(f16::to_f32)));
    let CacheElement::Int8 { key_scales, value_scales, .. } = &bench.element else { panic!("not int8") };
    let int8 = first_frame::<i8>(&bench.int8);
    let real = |(array, scales): (&Array5<i8>, &Vec<f32>)| {
        let heads = array.dim().2;
        let real = |(at, kept): ((usize, usize, usize, usize, usize), &i8)| {
            f32::from(*kept) * scales[at.0 * heads + at.2]
        };
        Array5::from_shape_vec(array.dim(), array.indexed_iter().map(real).collect()).unwrap()
    };
    let int8 = flat([(&int8[0], key_scales), (&int8[1], value_scales)].map(real));
    [sqnr_db(&exact, &half), sqnr_db(&exact, &int8)]
}

#[test]
fn predictions_are_at_least_as_near_as_what_the_cache_holds() {
    let guided = Bench::new(1.5);
    let moving = Bench::of(&RandomCheckpoint::tiny().with_motion(MOTION), 1.0);
    for (guidance, bench) in [(1.0, &*UNGUIDED), (1.5, &guided), (1.0, &moving)] {
        let float = predicted(&bench.float);
        let near = |bundle| sqnr_db(float.as_slice().unwrap(), predicted(bundle).as_slice().unwrap());
        let [half, int8] = [near(&bench.half), near(&bench.int8)];
        // Attention averages keys and values, and a prediction has more to go by than the past: no noise grows.
        let [kept_half, kept_int8] = kept_sqnr_db(bench);
        println!(
            "guidance {guidance}: fp16 {half:.1} dB of {kept_half:.1}, int8 {int8:.1} dB of {kept_int8:.1}"
        );
        assert!(half >= kept_half, "{half} dB from a cache with {kept_half}");
        assert!(int8 >= kept_int8, "{int8} dB from a cache with {kept_int8}");
        assert!(half.is_finite() && int8.is_finite(), "nothing was rounded");
    }
}

#[test]
fn memory_halves_and_halves_again() {
    let bench = &*UNGUIDED;
    let bytes = |bundle: &Path| manifest(bundle).cache.bytes(&TINY);
    // 2 x 2 layers x 2 heads x 3 frames of 8 tokens x 8 numbers.
    assert_eq!([&bench.float, &bench.half, &bench.int8].map(|bundle| bytes(bundle)), [6144, 3072, 1536]);
}

#[test]
fn a_manifest_that_lies_about_its_cache_is_refused() {
    let bench = Bench::new(1.0);
    let mut told = manifest(&bench.half);
    told.cache.element = CacheElement::F32;
    fs::write(bench.half.join("manifest.json"), told.to_json().unwrap()).unwrap();
    let message = Predictor::open(&bench.half, &Settings::default()).unwrap_err().to_string();
    let expected = "graph \"remember\" input \"keys\": manifest says f16[2, 1, 2, 24, 8], this program needs \
                    f32[2, 1, 2, 24, 8]";
    assert_eq!(message, expected);
}
