//! Every target in every arithmetic that it has: its graphs keep the target's rules, run on ONNX Runtime's CPU provider,
//! and agree with single precision as far as the number format allows.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::path::{Path, PathBuf};
use std::sync::Arc;

use indicatif::ProgressBar;
use ndarray::{Array3, Array4};
use nextclip_core::manifest::Target;
use nextclip_core::{Latents, Picture};
use nextclip_export::model::Checkpoint;
use nextclip_export::onnx::WeightOnly;
use nextclip_export::{
    Arithmetic, Calibrated, Choice, DEFAULT_OBSERVER, Options, Plan, PrecisionName, Sight, emulate,
    export_as, observe,
};
use nextclip_predictor::{Encoded, GpuSettings, Predictor, Provider, Settings};
use nextclip_quant::{Bits, BlockFormat, cosine, sqnr_db};
use nextclip_tests::{DecodeGraph, MOTION, RandomCheckpoint, TINY};
use tempfile::TempDir;

/// The signal over the error of one rounding to a fraction of so many bits, the leading one included: the error is
/// half a unit in the last of them, evenly spread.
fn format_db(significant_bits: f64) -> f64 {
    6.02 * significant_bits + 4.8
}

/// How many roundings a result passes, as their power adds up: 16 products, gates and sums a layer in two layers, and
/// the embeddings and the head around them. A convolutional autoencoder of four levels has about as many.
const ROUNDINGS: f64 = 64.0;

/// Terms of the longest sums, a 3 x 3 convolution's of 32 channels. Single precision rounds each of them; the narrower
/// formats add up in single precision.
const TERMS: f64 = 288.0;

/// The signal-to-noise ratio that an arithmetic must keep. Integers are as fine as the greatest value of a tensor says:
/// of their 8 bits a distribution whose peak is 4 times its deviation uses 6.
fn least_db(precision: PrecisionName) -> f64 {
    let of_one = match precision {
        PrecisionName::F32 => format_db(24.0) - 10.0 * TERMS.log10(),
        PrecisionName::Fp16 => format_db(11.0),
        PrecisionName::Bf16 => format_db(8.0),
        PrecisionName::W8A8 => format_db(6.0),
        PrecisionName::Fp8 | PrecisionName::W4 => format_db(4.0),
        PrecisionName::W8 => unreachable!("no GPU's target has {precision}"),
    };
    of_one - 10.0 * ROUNDINGS.log10()
}

/// The same for latents of a random encoder, whose last convolutions leave little signal of what they add up: 3 dB less,
/// and 12 where all before them is in integers. Convolutions have no 8-bit floats and no 4-bit weights: theirs is half
/// precision.
fn least_db_of_latents(precision: PrecisionName) -> f64 {
    match precision {
        PrecisionName::W8A8 => least_db(precision) - 12.0,
        PrecisionName::Fp8 | PrecisionName::W4 => least_db(PrecisionName::Fp16) - 3.0,
        _ => least_db(precision) - 3.0,
    }
}

struct Bench {
    folder: TempDir,
    checkpoint: Checkpoint,
    calibrated: Calibrated,
}

/// What a bundle makes of the same frames and noise.
struct Results {
    /// Of every frame.
    latents: Vec<f32>,
    /// Of the newest frame, of a model that has it.
    motion: Option<Array4<f32>>,
    /// A predicted clip.
    clip: Latents,
    /// Its pictures.
    pictures: Vec<f32>,
}

impl Bench {
    fn new(change: impl FnOnce(&mut RandomCheckpoint)) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let mut random = RandomCheckpoint::tiny();
        random.transformer.hidden_size = 64;
        random.transformer.intermediate_size = 160;
        random.vae.block_out_channels = vec![16, 16, 32, 32];
        change(&mut random);
        random.write(folder.path()).unwrap();
        let checkpoint = Checkpoint::open(folder.path()).unwrap();
        let plan = plan(&checkpoint, Target::Cpu);
        let sight = Sight { clips: 4, ..Sight::default() };
        let seen = observe(&checkpoint, &plan, &sight, &ProgressBar::hidden()).unwrap();
        let calibrated = seen.calibrated(DEFAULT_OBSERVER, Choice::default()).unwrap();
        Self { folder, checkpoint, calibrated }
    }

    fn arithmetic(&self, precision: PrecisionName) -> Arithmetic {
        match precision {
            PrecisionName::F32 => Arithmetic::Float,
            PrecisionName::Fp16 => Arithmetic::Fp16,
            PrecisionName::Bf16 => Arithmetic::Bf16,
            PrecisionName::W8A8 => Arithmetic::W8A8(self.calibrated.clone()),
            PrecisionName::Fp8 => Arithmetic::Fp8(self.calibrated.clone()),
            PrecisionName::W4 => {
                let format = BlockFormat { bits: Bits::Four, block: 64 };
                Arithmetic::Blocks(Arc::new(WeightOnly { format, ..WeightOnly::default() }))
            }
            PrecisionName::W8 => unreachable!("no GPU's target has {precision}"),
        }
    }

    fn export(&self, target: Target, precision: PrecisionName) -> PathBuf {
        let out = self.folder.path().join(format!("{target}-{precision}"));
        let plan = plan(&self.checkpoint, target);
        let arithmetic = self.arithmetic(precision);
        let manifest = export_as(&self.checkpoint, &plan, &arithmetic, &out, &ProgressBar::hidden()).unwrap();
        assert_eq!(manifest.target, target);
        assert!(manifest.precision.starts_with(precision.name()), "{} {precision}", manifest.precision);
        assert_eq!(manifest.quantisation.is_some(), precision.is_calibrated());
        out
    }

    fn emulated(&self, target: Target) -> PathBuf {
        let out = self.folder.path().join(format!("{target}-emulated"));
        std::fs::create_dir(&out).unwrap();
        let plan = plan(&self.checkpoint, target);
        emulate(&self.checkpoint, &plan, &Arithmetic::Bf16, &out, &ProgressBar::hidden()).unwrap();
        out
    }
}

fn plan(checkpoint: &Checkpoint, target: Target) -> Plan {
    Plan::new(checkpoint, &Options { steps: Some(2), target, ..Options::default() }).unwrap()
}

fn pictures(count: usize) -> Vec<Picture> {
    nextclip_scenes::clip(nextclip_scenes::Split::HeldOut, 3, TINY.width, TINY.height, count, 0.1)
}

/// The pictures before the last of `frames` that things are followed in.
fn earlier(frames: &[Picture]) -> Vec<Option<Picture>> {
    let before = |back: &usize| frames.len().checked_sub(1 + back).map(|index| frames[index].clone());
    MOTION.earlier_frames().iter().map(before).collect()
}

/// Every graph by itself: `given` takes the place of what this bundle's encoder and predictor make.
fn results(bundle: &Path, given: Option<&Results>) -> Results {
    let settings = Settings { provider: Some(Provider::Cpu), ..Settings::default() };
    let mut predictor = Predictor::open(bundle, &settings).unwrap();
    let shape = (TINY.latent_channels, TINY.latent_height(), TINY.latent_width());
    let mut latents = Vec::new();
    let frames = pictures(TINY.history + 1);
    for (index, picture) in frames.iter().enumerate() {
        let own = predictor.encode_next(picture).unwrap();
        let start = latents.len();
        latents.extend(own.latent.iter().copied());
        let latent = given.map_or(own.latent, |given| {
            let values = given.latents[start..start + TINY.latent_len()].to_vec();
            Array3::from_shape_vec(shape, values).unwrap()
        });
        assert_eq!(start, index * TINY.latent_len());
        predictor.remember_next(picture, &Encoded { latent, ..own }).unwrap();
    }
    let motion = predictor.motion().map(|motion| motion.to_owned());
    let clip = predictor.predict(1, 0).unwrap();
    let same_clip = given.map_or(&clip, |given| &given.clip);
    let shown = match given.map_or(&motion, |given| &given.motion) {
        Some(motion) => {
            let mut decode = DecodeGraph::open(bundle).unwrap();
            let earlier = earlier(&frames[..=TINY.history]);
            decode.pictures(same_clip, &frames[TINY.history], &earlier, motion, 1.0).unwrap()
        }
        None => predictor.decode(same_clip).unwrap(),
    };
    let pictures = shown.iter().flatten().map(|&sample| f32::from(sample)).collect();
    Results { latents, motion, clip, pictures }
}

#[test]
fn every_target_agrees_with_single_precision() {
    agrees(&Bench::new(|_| {}));
}

#[test]
fn every_target_agrees_with_single_precision_in_motion_and_with_keys_for_every_query_head() {
    agrees(&Bench::new(|random| {
        *random = random.clone().with_motion(MOTION);
        random.transformer.num_key_value_heads = random.transformer.num_attention_heads;
    }));
}

#[expect(clippy::print_stdout, reason = "tests say what they measured")]
fn agrees(bench: &Bench) {
    let float = results(&bench.export(Target::Cpu, PrecisionName::F32), None);
    for target in [Target::Cuda, Target::Trt10, Target::Trt] {
        for &precision in PrecisionName::of(target) {
            let bundle = bench.export(target, precision);
            // ONNX Runtime's CPU provider has no products of brain float.
            let bundle = if precision == PrecisionName::Bf16 { bench.emulated(target) } else { bundle };
            let found = results(&bundle, Some(&float));
            let least = least_db(precision);
            // Samples are whole numbers: their own rounding is what bounds the finer formats.
            let decoder = match precision {
                PrecisionName::Fp8 | PrecisionName::W4 => PrecisionName::Fp16,
                of_all => of_all,
            };
            let least_of_samples = least_db(decoder).min(format_db(7.0));
            let all = |clip: &Latents| clip.iter().copied().collect::<Vec<f32>>();
            let moved = |results: &Results| results.motion.iter().flatten().copied().collect::<Vec<f32>>();
            let (clips, motions) = ((all(&float.clip), all(&found.clip)), (moved(&float), moved(&found)));
            let mut pairs = vec![
                ("latents", &float.latents, &found.latents, least_db_of_latents(precision)),
                ("clip", &clips.0, &clips.1, least),
                ("pictures", &float.pictures, &found.pictures, least_of_samples),
            ];
            pairs.extend(float.motion.is_some().then_some(("motion", &motions.0, &motions.1, least)));
            for (what, exact, rounded, least) in pairs {
                let (ratio, cosine) = (sqnr_db(exact, rounded), cosine(exact, rounded));
                println!(
                    "{target} {precision} {what}: {ratio:.1} dB, cosine {cosine:.6}, least {least:.1} dB"
                );
                assert!(ratio > least, "{target} {precision} {what}: {ratio:.1} dB, must be over {least:.1}");
            }
        }
    }
}

#[test]
fn an_autoencoder_beyond_half_precision_stays_in_single() {
    let bench = Bench::new(|random| random.vae.force_upcast = true);
    let float = results(&bench.export(Target::Cpu, PrecisionName::F32), None);
    let found = results(&bench.export(Target::Trt, PrecisionName::Fp16), Some(&float));
    let (latents, pictures) =
        (sqnr_db(&float.latents, &found.latents), sqnr_db(&float.pictures, &found.pictures));
    assert!(latents > least_db_of_latents(PrecisionName::F32), "{latents}");
    assert!(pictures > format_db(7.0), "{pictures}");
    let clip = sqnr_db(float.clip.as_slice().unwrap(), found.clip.as_slice().unwrap());
    assert!(clip > least_db(PrecisionName::Fp16) && clip < least_db(PrecisionName::F32), "{clip}");
}

#[test]
fn buffers_that_stay_in_place_change_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let bundle = folder.path().join("bundle");
    let predict = |gpu: GpuSettings| {
        let settings = Settings { steps: Some(3), gpu, ..Settings::default() };
        let mut predictor = Predictor::open(&bundle, &settings).unwrap();
        pictures(TINY.history + 2).iter().for_each(|picture| drop(predictor.see(picture).unwrap()));
        let clip = predictor.predict(1, 0).unwrap();
        let shown = predictor.render(&clip).unwrap();
        (clip, shown)
    };
    let bound = GpuSettings { cuda_graph: true, ..GpuSettings::default() };
    for random in [RandomCheckpoint::tiny(), RandomCheckpoint::tiny().with_motion(MOTION)] {
        random.export(&bundle).unwrap();
        assert_eq!(predict(bound.clone()), predict(GpuSettings::default()));
    }
}

#[test]
fn a_provider_that_is_missing_is_an_error() {
    let folder = tempfile::tempdir().unwrap();
    RandomCheckpoint::tiny().write(folder.path()).unwrap();
    let checkpoint = Checkpoint::open(folder.path()).unwrap();
    for (target, provider) in [(Target::Cuda, "CUDA"), (Target::Trt, "TensorRT")] {
        let out = folder.path().join(target.name());
        let plan = plan(&checkpoint, target);
        export_as(&checkpoint, &plan, &Arithmetic::Fp16, &out, &ProgressBar::hidden()).unwrap();
        let cache = Some(folder.path().join("engines"));
        let gpu = GpuSettings { cache, ..GpuSettings::default() };
        // A machine with a GPU and such an ONNX Runtime opens it; none takes another provider without a word.
        match Predictor::open(&out, &Settings { gpu, ..Settings::default() }) {
            Ok(predictor) => assert_eq!(predictor.provider(), provider),
            Err(error) => {
                let told = format!("{:#}", anyhow::Error::from(error));
                println!("{told}");
                let start = format!("{provider} cannot be used: it needs an NVIDIA GPU");
                assert!(told.starts_with(&start), "{told}");
            }
        }
    }
}
