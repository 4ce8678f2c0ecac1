//! A quantised bundle computes what the float one does, to a stated ratio of signal to noise; the same seed makes the
//! same bundle; bad calibration is refused by name.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::fs;
use std::path::Path;

use indicatif::ProgressBar;
use nextclip_core::Picture;
use nextclip_core::manifest::Quantisation;
use nextclip_core::sampler::noise;
use nextclip_export::model::Checkpoint;
use nextclip_export::{
    Arithmetic, Choice, DEFAULT_OBSERVER, Footage, Observations, Options, Plan, Sight, export, export_as,
    observe,
};
use nextclip_media::Mp4Writer;
use nextclip_predictor::{Encoded, OBSERVED, Predictor, Settings};
use nextclip_quant::{Observer, sqnr_db};
use nextclip_tests::{MOTION, RandomCheckpoint, TINY, spoil};
use tempfile::TempDir;

/// Signal to noise of predicted latents after two denoising steps, 8-bit against float. Measured: 32.1 dB.
const LATENT_SQNR_DB: f64 = 28.0;

/// Of encoded latents. Measured: 12.3 dB, as random convolutions leave little signal; trained ones give about 24 dB.
const ENCODED_SQNR_DB: f64 = 9.0;

/// Of decoded pictures. Measured: 31.5 dB.
const DECODED_SQNR_DB: f64 = 28.0;

/// The decoder of the smaller reference case, and an autoencoder with enough channels to be quantised.
fn checkpoint() -> RandomCheckpoint {
    let mut checkpoint = RandomCheckpoint::tiny();
    checkpoint.transformer.hidden_size = 64;
    checkpoint.transformer.intermediate_size = 160;
    checkpoint.vae.block_out_channels = vec![16, 16, 32, 32];
    checkpoint
}

struct Bench {
    folder: TempDir,
    checkpoint: Checkpoint,
    plan: Plan,
}

impl Bench {
    fn new() -> Self {
        Self::of(&checkpoint())
    }

    fn of(random: &RandomCheckpoint) -> Self {
        Self::with(random, Options::default())
    }

    fn with(random: &RandomCheckpoint, options: Options) -> Self {
        let folder = tempfile::tempdir().unwrap();
        random.write(folder.path()).unwrap();
        let opened = Checkpoint::open(folder.path()).unwrap();
        let options = Options { steps: Some(2), ..options };
        let plan = Plan::new(&opened, &options).unwrap();
        Self { folder, checkpoint: opened, plan }
    }

    fn observe(&self, seed: u64) -> Observations {
        let sight = Sight { clips: 6, seed, ..Sight::default() };
        observe(&self.checkpoint, &self.plan, &sight, &ProgressBar::hidden()).unwrap()
    }

    fn quantised(&self, name: &str, seen: &Observations, choice: Choice) -> Predictor {
        let arithmetic = Arithmetic::W8A8(seen.calibrated(DEFAULT_OBSERVER, choice).unwrap());
        let out = self.folder.path().join(name);
        export_as(&self.checkpoint, &self.plan, &arithmetic, &out, &ProgressBar::hidden()).unwrap();
        Predictor::open(&out, &Settings::default()).unwrap()
    }

    fn float(&self) -> Predictor {
        let out = self.folder.path().join("float");
        export(&self.checkpoint, &self.plan, &out, &ProgressBar::hidden()).unwrap();
        Predictor::open(&out, &Settings::default()).unwrap()
    }

    fn refusal(&self, sight: &Sight) -> String {
        let error = observe(&self.checkpoint, &self.plan, sight, &ProgressBar::hidden()).unwrap_err();
        format!("{:#}", anyhow::Error::from(error))
    }
}

fn pictures(count: usize) -> Vec<Picture> {
    nextclip_scenes::clip(nextclip_scenes::Split::HeldOut, 3, TINY.width, TINY.height, count, 0.1)
}

#[test]
fn eight_bits_agree_with_float_and_are_smaller() {
    agrees(&Bench::new());
}

#[test]
fn eight_bits_agree_with_float_in_motion() {
    let record = agrees(&Bench::of(&checkpoint().with_motion(MOTION)));
    for layer in [
        "remember: motion.stem.0",
        "remember: motion.stem.2",
        "remember: motion.refine.0",
        "remember: motion.refine.1",
        "decode: motion.blend.0",
        "decode: motion.blend.1",
    ] {
        assert!(record.layers.contains(&layer.into()), "{layer} is not in {:?}", record.layers);
    }
    // The results themselves: four outputs of the blend, and motion.
    let kept = ["blend.2", "motion.linear", "refine.2"];
    assert!(!record.layers.iter().any(|layer| kept.iter().any(|kept| layer.contains(kept))));
}

/// Clips of three frames make whole columns of keys, clips of two have spare ones.
#[test]
fn eight_bits_agree_with_float_in_attention() {
    let mut random = checkpoint();
    random.transformer.num_key_value_heads = random.transformer.num_attention_heads;
    for (clip, guidance) in [(TINY.clip, 1.0), (TINY.clip - 1, 1.0), (TINY.clip - 1, 1.5)] {
        let options = Options { clip: Some(clip), guidance: Some(guidance), ..Options::default() };
        let record = agrees(&Bench::with(&random, options));
        for product in ["scores", "mix"] {
            let layer = format!("denoise: llm.layers.1.self_attn.{product}");
            assert!(record.layers.contains(&layer), "{layer} is not in {:?}", record.layers);
        }
    }
}

#[expect(clippy::print_stdout, reason = "tests say what they measured")]
fn agrees(bench: &Bench) -> Quantisation {
    let mut float = bench.float();
    let mut quantised = bench.quantised("int8", &bench.observe(0), Choice::default());

    let record = quantised.manifest().quantisation.clone().unwrap();
    assert_eq!((record.clips, record.steps, record.seed), (6, 4, 0));
    assert_eq!(record.calibration, "scenes");
    assert_eq!(quantised.manifest().precision, "w8a8");
    assert!(record.layers.contains(&"denoise: llm.layers.1.mlp.down_proj".into()), "{:?}", record.layers);
    assert!(record.layers.contains(&"decode: decoder.up_blocks.0.resnets.0.conv1".into()));
    assert!(!record.layers.iter().any(|layer| layer.contains("final_layer") || layer.ends_with("conv_out")));
    let size = |predictor: &Predictor| predictor.manifest().files["weights.bin"].bytes;
    assert!(3 * size(&quantised) < 2 * size(&float), "{} of {}", size(&quantised), size(&float));

    let (mut exact, mut rounded) = (Vec::new(), Vec::new());
    for picture in pictures(TINY.history + 1) {
        let own = quantised.encode_next(&picture).unwrap();
        let latent = float.see(&picture).unwrap();
        exact.extend(latent.iter().copied());
        rounded.extend(own.latent);
        // The same latent for both, so that each graph is compared by itself.
        quantised.remember_next(&picture, &Encoded { latent, costs: own.costs }).unwrap();
    }
    let ratio = sqnr_db(&exact, &rounded);
    println!("encode {ratio:.1} dB");
    assert!(ratio > ENCODED_SQNR_DB, "{ratio}");

    let (exact, rounded) = (float.predict(1, 0).unwrap(), quantised.predict(1, 0).unwrap());
    let ratio = sqnr_db(exact.as_slice().unwrap(), rounded.as_slice().unwrap());
    println!("denoise {ratio:.1} dB");
    assert!(ratio > LATENT_SQNR_DB, "{ratio}");
    let samples = |pictures: Vec<Picture>| -> Vec<f32> {
        pictures.iter().flatten().map(|&sample| f32::from(sample)).collect()
    };
    let pictures = (float.decode(&exact).unwrap(), quantised.decode(&exact).unwrap());
    let ratio = sqnr_db(&samples(pictures.0), &samples(pictures.1));
    println!("decode {ratio:.1} dB");
    assert!(ratio > DECODED_SQNR_DB, "{ratio}");
    let motions = [&float, &quantised].map(|predictor| predictor.motion().map(|motion| motion.to_owned()));
    if let [Some(whole), Some(rounded)] = &motions {
        let ratio = sqnr_db(whole.as_slice().unwrap(), rounded.as_slice().unwrap());
        println!("motion {ratio:.1} dB");
        assert!(ratio > LATENT_SQNR_DB, "{ratio}");
        let pictures = (float.render(&exact).unwrap(), quantised.render(&exact).unwrap());
        let ratio = sqnr_db(&samples(pictures.0), &samples(pictures.1));
        println!("moved {ratio:.1} dB");
        assert!(ratio > DECODED_SQNR_DB, "{ratio}");
    }
    record
}

#[test]
fn the_same_seed_makes_the_same_bundle() {
    let bench = Bench::new();
    let digests = |name: &str, seed: u64| {
        let predictor = bench.quantised(name, &bench.observe(seed), Choice::default());
        predictor.manifest().files.clone()
    };
    let first = digests("first", 5);
    assert_eq!(first, digests("again", 5));
    assert_ne!(first, digests("other", 6));
}

#[test]
fn layers_that_are_kept_are_exact() {
    let bench = Bench::new();
    let seen = bench.observe(0);
    let everything = ["llm", "encoder", "decoder"].map(String::from).to_vec();
    let mut kept = bench.quantised("kept", &seen, Choice::AllBut(everything));
    let record = kept.manifest().quantisation.clone().unwrap();
    assert!(record.layers.is_empty(), "{:?}", record.layers);
    assert_eq!(record.kept_float, seen.layers());
    let mut float = bench.float();
    let z = noise(2, 0, TINY.latent_len() * TINY.clip);
    let shape = (TINY.clip, TINY.latent_channels, TINY.latent_height(), TINY.latent_width());
    let z = nextclip_core::Latents::from_shape_vec(shape, z).unwrap();
    assert_eq!(kept.denoise(&z, 0.0, 1.0).unwrap(), float.denoise(&z, 0.0, 1.0).unwrap());

    let wrong = seen.calibrated(Observer::MinMax, Choice::AllBut(vec!["llm.layers.9".into()]));
    let message = wrong.unwrap_err().to_string();
    assert!(message.starts_with("no layer \"llm.layers.9\" can be quantised; there are"), "{message}");
    assert!(message.contains("llm.layers.0.self_attn.o_proj"), "{message}");
}

#[test]
fn every_observer_makes_a_bundle() {
    let bench = Bench::new();
    let seen = bench.observe(0);
    for observer in [Observer::MinMax, Observer::Percentile(99.99), Observer::Entropy, Observer::Mse] {
        let arithmetic = Arithmetic::W8A8(seen.calibrated(observer, Choice::default()).unwrap());
        let out = bench.folder.path().join("any");
        let manifest =
            export_as(&bench.checkpoint, &bench.plan, &arithmetic, &out, &ProgressBar::hidden()).unwrap();
        assert_eq!(manifest.quantisation.unwrap().observer, observer.to_string());
        assert!(manifest.graphs.denoise.outputs.iter().all(|output| !output.name.starts_with(OBSERVED)));
    }
}

#[test]
fn a_film_calibrates_and_a_short_one_is_refused() {
    let bench = Bench::new();
    let film = |name: &str, frames: usize| {
        let path = bench.folder.path().join(name);
        let mut writer = Mp4Writer::create(&path, TINY.width, TINY.height, (10, 1)).unwrap();
        pictures(frames).iter().for_each(|picture| writer.push(picture).unwrap());
        writer.finish().unwrap();
        path
    };
    let whole = film("whole.mp4", 2 * (TINY.history + TINY.clip) + 1);
    let sight = |path: &Path| Sight { footage: Footage::Films(path.into()), ..Sight::default() };
    let seen = observe(&bench.checkpoint, &bench.plan, &sight(&whole), &ProgressBar::hidden()).unwrap();
    let quantised = bench.quantised("of-film", &seen, Choice::default());
    let record = quantised.manifest().quantisation.clone().unwrap();
    assert_eq!((record.clips, record.calibration), (2, whole.display().to_string()));

    let short = film("short.mp4", TINY.history + TINY.clip - 2);
    let message = bench.refusal(&sight(&short));
    assert!(message.contains("short.mp4: no whole clip: a clip takes 6 frames 100 ms apart"), "{message}");
    let message = bench.refusal(&sight(&bench.folder.path().join("nowhere.mp4")));
    assert!(message.contains("nowhere.mp4"), "{message}");
    let empty = bench.folder.path().join("empty.mp4");
    fs::write(&empty, []).unwrap();
    assert!(bench.refusal(&sight(&empty)).contains("empty.mp4"));
    let folder = tempfile::tempdir().unwrap();
    let message = bench.refusal(&sight(folder.path()));
    assert!(message.contains(&folder.path().display().to_string()), "{message}");
    assert_eq!(
        bench.refusal(&Sight { clips: 0, ..Sight::default() }),
        "0 calibration clips, must be at least 1"
    );
}

#[test]
fn a_weight_that_is_no_number_is_named() {
    let bench = Bench::new();
    let name = "llm.layers.1.mlp.down_proj.weight";
    spoil(bench.folder.path(), name, f32::INFINITY).unwrap();
    let opened = Checkpoint::open(bench.folder.path()).unwrap();
    let error = observe(&opened, &bench.plan, &Sight::default(), &ProgressBar::hidden()).unwrap_err();
    assert_eq!(error.to_string(), format!("tensor {name} holds inf: only finite weights can be quantised"));
}
