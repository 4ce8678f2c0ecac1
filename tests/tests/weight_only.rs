//! Bundles whose weights alone are integers compute what the float one does, to a stated ratio of signal to noise.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::sync::Arc;

use indicatif::ProgressBar;
use nextclip_core::Picture;
use nextclip_core::manifest::Target;
use nextclip_export::model::Checkpoint;
use nextclip_export::onnx::{BlockForm, Rounding, WeightOnly};
use nextclip_export::{
    Arithmetic, Choice, Options, Plan, Sight, Verified, Verify, export, export_with, observe_products,
};
use nextclip_predictor::{Predictor, Provider, Settings};
use nextclip_quant::{Bits, BlockFormat, sqnr_db};
use nextclip_tests::{MOTION, RandomCheckpoint, TINY, spoil};
use tempfile::TempDir;

struct Bench {
    folder: TempDir,
    checkpoint: Checkpoint,
    plan: Plan,
}

fn recipe(bits: Bits, block: usize, form: BlockForm) -> WeightOnly {
    WeightOnly { format: BlockFormat { bits, block }, form, ..WeightOnly::default() }
}

impl Bench {
    fn new() -> Self {
        Self::of(RandomCheckpoint::tiny())
    }

    fn of(mut checkpoint: RandomCheckpoint) -> Self {
        let folder = tempfile::tempdir().unwrap();
        checkpoint.transformer.hidden_size = 64;
        // No multiple of a block of 64 or 128: the last block of `down_proj` is short.
        checkpoint.transformer.intermediate_size = 160;
        checkpoint.write(folder.path()).unwrap();
        let opened = Checkpoint::open(folder.path()).unwrap();
        let plan = Plan::new(&opened, &Options { steps: Some(2), ..Options::default() }).unwrap();
        Self { folder, checkpoint: opened, plan }
    }

    fn float(&self) -> Predictor {
        let out = self.folder.path().join("float");
        export(&self.checkpoint, &self.plan, &out, &ProgressBar::hidden()).unwrap();
        Predictor::open(&out, &Settings::default()).unwrap()
    }

    fn quantised(&self, recipe: WeightOnly) -> Predictor {
        let out = self.folder.path().join("quantised");
        let arithmetic = Arithmetic::Blocks(Arc::new(recipe));
        let bar = ProgressBar::hidden();
        export_with(&self.checkpoint, &self.plan, &arithmetic, Verify::Pieces, &out, &bar).unwrap();
        // What the bar was told to expect was written, to the byte.
        assert_eq!(Some(bar.position()), bar.length());
        let settings = Settings { provider: Some(Provider::Cpu), ..Settings::default() };
        Predictor::open(&out, &settings).unwrap()
    }

    fn refusal(&self, recipe: WeightOnly) -> String {
        let out = self.folder.path().join("refused");
        let arithmetic = Arithmetic::Blocks(Arc::new(recipe));
        let bar = ProgressBar::hidden();
        let result = export_with(&self.checkpoint, &self.plan, &arithmetic, Verify::None, &out, &bar);
        assert!(!out.exists());
        result.unwrap_err().to_string()
    }
}

/// Latents predicted from a few pictures.
fn predicted(predictor: &mut Predictor) -> Vec<f32> {
    let split = nextclip_scenes::Split::HeldOut;
    let pictures: Vec<Picture> = nextclip_scenes::clip(split, 3, TINY.width, TINY.height, TINY.history, 0.1);
    for picture in &pictures {
        predictor.see(picture).unwrap();
    }
    predictor.predict(1, 0).unwrap().iter().copied().collect()
}

#[test]
fn every_width_and_block_agrees_with_float() {
    agrees(&Bench::new());
}

#[test]
fn every_width_and_block_agrees_with_float_in_motion() {
    agrees(&Bench::of(RandomCheckpoint::tiny().with_motion(MOTION)));
}

#[expect(clippy::print_stdout, reason = "tests say what they measured")]
fn agrees(bench: &Bench) {
    let mut float = bench.float();
    let exact = predicted(&mut float);
    // Measured: 37.4, 36.4, 36.5; 15.8, 15.6, 14.4 dB. Random weights are hard on 4 bits: see models/base for trained.
    let cases = [
        (Bits::Eight, 32, "w8g32", 34.0),
        (Bits::Eight, 64, "w8g64", 33.0),
        (Bits::Eight, 128, "w8g128", 33.0),
        (Bits::Four, 32, "w4g32", 13.0),
        (Bits::Four, 64, "w4g64", 13.0),
        (Bits::Four, 128, "w4g128", 12.0),
    ];
    let size = |predictor: &Predictor| predictor.manifest().files["weights.bin"].bytes;
    let mut low = vec![];
    for (bits, block, precision, least_db) in cases {
        let mut quantised = bench.quantised(recipe(bits, block, BlockForm::MatMulNBits));
        assert_eq!(quantised.manifest().precision, precision);
        assert!(size(&quantised) < size(&float), "{}", size(&quantised));
        let ratio = sqnr_db(&exact, &predicted(&mut quantised));
        println!("{precision}: {ratio:.1} dB");
        low.extend((ratio <= least_db).then(|| format!("{precision}: {ratio:.1} of {least_db} dB")));
    }
    assert!(low.is_empty(), "{low:?}");
}

#[test]
fn rounding_by_outputs_keeps_more_of_them() {
    let bench = Bench::new();
    let exact = predicted(&mut bench.float());
    let sight = Sight { clips: 6, ..Sight::default() };
    let seen = || observe_products(&bench.checkpoint, &bench.plan, &sight, &ProgressBar::hidden()).unwrap();
    let products = Arc::new(seen());
    assert_eq!(*products, seen(), "the same seed");
    for form in [BlockForm::MatMulNBits, BlockForm::Dequantised] {
        let nearest = recipe(Bits::Four, 32, form);
        let by_outputs = WeightOnly { rounding: Rounding::Outputs(products.clone()), ..nearest.clone() };
        let mut predictor = bench.quantised(by_outputs);
        let record = predictor.manifest().quantisation.clone().unwrap();
        assert_eq!((record.observer.as_str(), record.clips, record.steps), ("gptq", 6, 4));
        assert!(record.layers.contains(&"denoise: llm.layers.1.mlp.down_proj".into()), "{:?}", record.layers);
        let by_outputs = sqnr_db(&exact, &predicted(&mut predictor));
        let nearest = sqnr_db(&exact, &predicted(&mut bench.quantised(nearest)));
        println!("{form:?}: nearest {nearest:.1} dB, by outputs {by_outputs:.1} dB");
        assert!(by_outputs > nearest + 1.0, "{form:?}: nearest {nearest} dB, by outputs {by_outputs} dB");
    }
}

/// That what weights are scaled by is undone at their inputs, 8 bits show. With random weights it gains nothing.
#[test]
fn weights_that_are_scaled_up_compute_the_same() {
    let bench = Bench::of(RandomCheckpoint::tiny().with_motion(MOTION));
    let exact = predicted(&mut bench.float());
    let sight = Sight { clips: 6, ..Sight::default() };
    let products = observe_products(&bench.checkpoint, &bench.plan, &sight, &ProgressBar::hidden()).unwrap();
    let scaled = Rounding::Scaled(Arc::new(products));
    // Measured: 38.2 and 15.8 dB in either form.
    let scaled = |bits, block, form| WeightOnly { rounding: scaled.clone(), ..recipe(bits, block, form) };
    for (bits, least_db) in [(Bits::Eight, 34.0), (Bits::Four, 13.0)] {
        for form in [BlockForm::MatMulNBits, BlockForm::Dequantised] {
            let recipe = scaled(bits, 32, form);
            let mut predictor = bench.quantised(recipe);
            assert_eq!(predictor.manifest().quantisation.as_ref().unwrap().observer, "awq");
            let ratio = sqnr_db(&exact, &predicted(&mut predictor));
            println!("{bits:?}, {form:?}: {ratio:.1} dB");
            assert!(ratio > least_db, "{bits:?}, {form:?}: {ratio} dB");
        }
    }

    // The same in TensorRT's form, beside half precision.
    let options = Options { steps: Some(2), target: Target::Trt, ..Options::default() };
    let plan = Plan::new(&bench.checkpoint, &options).unwrap();
    let bench = Bench { plan, ..bench };
    let mut predictor = bench.quantised(scaled(Bits::Four, 64, BlockForm::TensorRt));
    let ratio = sqnr_db(&exact, &predicted(&mut predictor));
    println!("for TensorRT: {ratio:.1} dB");
    assert!(ratio > 13.0, "for TensorRT: {ratio} dB");
}

#[test]
fn both_forms_hold_the_same_numbers() {
    let bench = Bench::new();
    for (bits, least_db) in [(Bits::Eight, 60.0), (Bits::Four, 60.0)] {
        let [nbits, plain] = [BlockForm::MatMulNBits, BlockForm::Dequantised]
            .map(|form| predicted(&mut bench.quantised(recipe(bits, 32, form))));
        // ONNX Runtime turns the second form into the first, if it has understood it.
        let ratio = sqnr_db(&plain, &nbits);
        println!("{bits:?}: {ratio:.1} dB");
        assert!(ratio > least_db, "{bits:?}: {ratio}");
    }
}

#[test]
fn layers_that_are_kept_are_exact_and_wrong_names_are_told() {
    let bench = Bench::new();
    let kept = |name: &str| {
        let choice = Choice::AllBut(vec![name.into()]);
        WeightOnly { choice, ..recipe(Bits::Four, 32, BlockForm::MatMulNBits) }
    };
    let exact = predicted(&mut bench.float());
    assert_eq!(predicted(&mut bench.quantised(kept("llm"))), exact);
    assert_ne!(predicted(&mut bench.quantised(kept("llm.layers.0"))), exact);
    let message = bench.refusal(kept("llm.layers.9"));
    assert!(
        message.starts_with("no layer \"llm.layers.9\" can be quantised; there are llm.layers.0."),
        "{message}"
    );
    assert!(message.contains("llm.layers.1.mlp.down_proj"), "{message}");
}

#[test]
fn a_weight_that_is_no_number_is_named() {
    let bench = Bench::new();
    let name = "llm.layers.1.mlp.down_proj.weight";
    spoil(bench.folder.path(), name, f32::NAN).unwrap();
    let checkpoint = Checkpoint::open(bench.folder.path()).unwrap();
    let bench = Bench { checkpoint, ..bench };
    for form in [BlockForm::MatMulNBits, BlockForm::Dequantised] {
        let message = bench.refusal(recipe(Bits::Four, 32, form));
        assert!(message.starts_with(&format!("tensor {name}: weights[")), "{message}");
        assert!(message.ends_with("is NaN: only finite values can be quantised"), "{message}");
    }
}

#[test]
fn every_way_to_verify_says_what_it_did() {
    let bench = Bench::new();
    let out = bench.folder.path().join("bundle");
    let verified = |how| {
        let bar = ProgressBar::hidden();
        export_with(&bench.checkpoint, &bench.plan, &Arithmetic::Float, how, &out, &bar).unwrap().1
    };
    assert_eq!(verified(Verify::Auto), Verified::Whole);
    assert_eq!(verified(Verify::Full), Verified::Whole);
    assert_eq!(verified(Verify::Pieces), Verified::InPieces(4));
    assert_eq!(verified(Verify::Load), Verified::Loaded);
    assert_eq!(verified(Verify::None), Verified::Not);
    // The piece at work is no part of the bundle.
    assert!(!out.join("piece.onnx").exists());
}
