//! Precision plans: they keep to their budget as measured, say why, can be edited and used again, and an impossible
//! budget says what is reachable.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::fs;
use std::path::Path;
use std::sync::LazyLock;

use indicatif::ProgressBar;
use nextclip_core::Manifest;
use nextclip_export::model::Checkpoint;
use nextclip_export::planning::{Document, GivenPlan, LOWERED, Task, plan_precision};
use nextclip_export::sensitivity::sensitivity;
use nextclip_export::{
    Arithmetic, CalibrationError, Choice, DEFAULT_OBSERVER, Footage, Observations, Options, Plan, Sight,
    export_as, observe,
};
use nextclip_media::{Mp4Writer, load_png};
use nextclip_predictor::{Predictor, Settings};
use nextclip_quant::plan::Precision;
use nextclip_tests::{MOTION, RandomCheckpoint, TINY};
use tempfile::TempDir;

struct Bench {
    folder: TempDir,
    checkpoint: Checkpoint,
    plan: Plan,
    seen: Observations,
}

/// Two layers of four products each; the autoencoder is too narrow for 8 bits.
static BENCH: LazyLock<Bench> = LazyLock::new(|| {
    let folder = tempfile::tempdir().unwrap();
    let mut checkpoint = RandomCheckpoint::tiny();
    checkpoint.transformer.hidden_size = 64;
    checkpoint.transformer.intermediate_size = 96;
    checkpoint.vae.block_out_channels = vec![8, 8, 8, 8];
    checkpoint.write(folder.path()).unwrap();
    let checkpoint = Checkpoint::open(folder.path()).unwrap();
    let plan = Plan::new(&checkpoint, &Options { steps: Some(2), ..Options::default() }).unwrap();
    let seen = observe(&checkpoint, &plan, &sight(Footage::Scenes), &ProgressBar::hidden()).unwrap();
    Bench { folder, checkpoint, plan, seen }
});

fn sight(footage: Footage) -> Sight {
    Sight { footage, clips: 4, keep_back: true, ..Sight::default() }
}

fn task(max_psnr_drop_db: f64) -> Task {
    Task { max_psnr_drop_db, clips: 3, observer: DEFAULT_OBSERVER, keep_float: vec![] }
}

fn planned(task: &Task) -> Result<Document, String> {
    let Bench { checkpoint, plan, seen, .. } = &*BENCH;
    let planned = plan_precision(checkpoint, plan, seen, task, &ProgressBar::hidden());
    planned.map_err(|error| format!("{:#}", anyhow::Error::from(error)))
}

/// Every layer in 8 bits.
static ALL: LazyLock<Document> = LazyLock::new(|| planned(&task(50.0)).unwrap());

/// A third of what that costs leaves somebody out.
static SOME: LazyLock<Document> = LazyLock::new(|| planned(&task(ALL.together.cost_db() / 3.0)).unwrap());

fn bundle(name: &str, choice: Choice, documents: Vec<(&'static str, Vec<u8>)>) -> Manifest {
    let calibrated = BENCH.seen.calibrated(DEFAULT_OBSERVER, choice).unwrap().with_documents(documents);
    let out = BENCH.folder.path().join(name);
    let arithmetic = Arithmetic::W8A8(calibrated);
    export_as(&BENCH.checkpoint, &BENCH.plan, &arithmetic, &out, &ProgressBar::hidden()).unwrap()
}

#[test]
fn a_plan_keeps_to_its_budget_and_says_why() {
    let (all, some) = (&*ALL, &*SOME);
    assert_eq!(all.layers.len(), 8);
    assert!(all.layers.iter().all(|layer| layer.precision == LOWERED && layer.cost_db > 0.0));
    assert!(all.layers.iter().all(|layer| layer.why.starts_with("fits")), "{:?}", all.layers);
    assert!((all.share - all.possible_share).abs() < 1e-12 && all.share > 0.0 && all.share < 1.0);

    let budget = some.max_psnr_drop_db;
    assert!(some.together.cost_db() <= budget, "{} of {budget}", some.together.cost_db());
    let floats: Vec<_> = some.layers.iter().filter(|layer| layer.precision == Precision::Float).collect();
    assert!(!floats.is_empty() && floats.len() < 8, "{} of 8 in float", floats.len());
    assert!(floats.iter().all(|layer| layer.why.starts_with("too sensitive")), "{floats:?}");
    assert!(some.share < all.share);
    // Every plan that was tried but the last lost too much, and each was smaller than the one before.
    let (last, tried) = some.rounds.split_last().unwrap();
    assert!(last.measured_drop_db <= budget && tried.iter().all(|round| round.measured_drop_db > budget));
    assert!(some.rounds.windows(2).all(|pair| pair[1].layers <= pair[0].layers), "{:?}", some.rounds);
    assert_eq!(planned(&task(budget)).unwrap(), *some, "the same seed makes the same plan");

    let why = |name: &str| some.kept.iter().find(|kept| kept.layer == name).map(|kept| kept.why.as_str());
    assert!(why("llm.layers.0.input_layernorm").unwrap().starts_with("normalisation"));
    assert!(why("time_token.mlp.0").unwrap().starts_with("time path"));
    assert!(why("llm.layers.1.self_attn: attention products").unwrap().starts_with("attention products"));
    assert!(why("x_embedder.proj").unwrap().starts_with("first layer"));
    assert!(why("final_layer.linear").unwrap().starts_with("last layer"));
}

#[test]
fn a_plan_goes_into_the_bundle_and_is_used_again() {
    let (all, some) = (&*ALL, &*SOME);
    let first = bundle("planned", some.choice(), some.files().unwrap());
    let out = BENCH.folder.path().join("planned");
    Predictor::open(&out, &Settings::default()).unwrap();
    for name in ["plan.json", "plan.md", "plan.png"] {
        assert!(first.files.contains_key(name), "{name}");
    }
    let float = some.layers.iter().find(|layer| layer.precision == Precision::Float).unwrap();
    assert!(first.quantisation.unwrap().kept_float.contains(&float.layer));
    let page = fs::read_to_string(out.join("plan.md")).unwrap();
    assert!(
        page.contains(&some.verdict()) && page.contains(&format!("| {} | float |", float.layer)),
        "{page}"
    );
    assert!(page.contains("- normalisation") && page.contains("llm.layers.*.input_layernorm"), "{page}");
    assert_eq!(load_png(out.join("plan.png")).unwrap().dim().2, 3);

    let path = out.join("plan.json");
    let again = GivenPlan::read(&path).unwrap().choice(BENCH.seen.layers(), LOWERED).unwrap();
    let second = bundle("again", again, vec![]);
    assert_eq!(second.files["denoise.onnx"], first.files["denoise.onnx"]);
    assert_eq!(second.files["weights.bin"], first.files["weights.bin"]);

    let text = fs::read_to_string(&path).unwrap();
    let edited = BENCH.folder.path().join("edited.json");
    fs::write(&edited, text.replace("\"precision\": \"float\"", "\"precision\": \"w8a8\"")).unwrap();
    let choice = GivenPlan::read(&edited).unwrap().choice(BENCH.seen.layers(), LOWERED).unwrap();
    assert_eq!(choice, all.choice());
    fs::write(&edited, text.replace("llm.layers.1.mlp.down_proj", "llm.layers.7.mlp.down_proj")).unwrap();
    let told =
        GivenPlan::read(&edited).unwrap().choice(BENCH.seen.layers(), LOWERED).unwrap_err().to_string();
    let expected = "edited.json: the model has no layer llm.layers.7.mlp.down_proj; no precision for layer \
                    llm.layers.1.mlp.down_proj";
    assert!(told.ends_with(expected), "{told}");
}

#[test]
fn an_impossible_budget_says_what_is_reachable() {
    let told = planned(&task(0.0)).unwrap_err();
    assert!(
        told.starts_with("a PSNR drop of at most 0.000 dB allows no layer below float; the least is"),
        "{told}"
    );
    assert!(told.contains("; all 8 layers below float are reachable with "), "{told}");
    let told = planned(&task(-1.0)).unwrap_err();
    assert_eq!(told, "budget: max_psnr_drop_db is -1, must be finite and at least 0");
    let told = planned(&task(f64::NAN)).unwrap_err();
    assert!(told.contains("max_psnr_drop_db is NaN"), "{told}");
}

#[test]
fn layers_that_somebody_wants_in_float_stay_there() {
    let keep_float = vec!["llm.layers.1".to_owned()];
    let plan = planned(&Task { keep_float, ..task(50.0) }).unwrap();
    let kept = plan.layers.iter().filter(|layer| layer.precision == Precision::Float);
    let kept: Vec<_> = kept.map(|layer| (layer.layer.as_str(), layer.why.as_str())).collect();
    assert_eq!(kept.len(), 4);
    for (layer, why) in kept {
        assert!(layer.starts_with("llm.layers.1."));
        assert_eq!(why, "kept float: asked for by --keep-float llm.layers.1");
    }
    let told = planned(&Task { keep_float: vec!["nobody".into()], ..task(50.0) }).unwrap_err();
    assert!(told.starts_with("no layer \"nobody\" can be quantised"), "{told}");
}

#[test]
fn losses_are_measured_on_clips_that_ranges_were_not_taken_from() {
    let Bench { folder, checkpoint, plan, .. } = &*BENCH;
    let film = |clips: usize| {
        let path = folder.path().join(format!("{clips}-clips.mp4"));
        let mut writer = Mp4Writer::create(&path, TINY.width, TINY.height, (10, 1)).unwrap();
        let count = clips * (TINY.history + TINY.clip) + 1;
        let scene =
            nextclip_scenes::clip(nextclip_scenes::Split::Train, 3, TINY.width, TINY.height, count, 0.1);
        scene.iter().for_each(|picture| writer.push(picture).unwrap());
        writer.finish().unwrap();
        path
    };
    let measured = |path: &Path, keep_back: bool| {
        let sight = Sight { keep_back, ..sight(Footage::Films(path.into())) };
        let hidden = ProgressBar::hidden();
        let seen = observe(checkpoint, plan, &sight, &hidden)?;
        sensitivity(checkpoint, plan, &seen, (DEFAULT_OBSERVER, 3), &hidden)
    };
    let report = measured(&film(2), true).unwrap();
    assert_eq!(report.clips, 1);
    assert!(report.footage.contains("2-clips.mp4, 1 clips"), "{}", report.footage);
    let out = folder.path().join("report");
    report.save(&out).unwrap();
    let json = fs::read_to_string(out.join("sensitivity.json")).unwrap();
    assert!(json.contains("\"layer\": \"llm.layers.0.self_attn.qkv_proj\""), "{json}");
    assert_eq!(fs::read_to_string(out.join("sensitivity.txt")).unwrap(), report.to_string());
    assert!(load_png(out.join("sensitivity.png")).unwrap().dim().0 > 100);

    let error = measured(&film(1), true).unwrap_err();
    assert!(matches!(error, CalibrationError::NothingLeft { clips: 1, .. }), "{error}");
    let error = measured(&film(3), false).unwrap_err();
    assert!(matches!(error, CalibrationError::NothingKeptBack), "{error}");
}

#[test]
fn layers_of_motion_are_planned_like_all_others() {
    let folder = tempfile::tempdir().unwrap();
    RandomCheckpoint::tiny().with_motion(MOTION).write(folder.path()).unwrap();
    let checkpoint = Checkpoint::open(folder.path()).unwrap();
    let plan = Plan::new(&checkpoint, &Options::default()).unwrap();
    let seen = observe(&checkpoint, &plan, &sight(Footage::Scenes), &ProgressBar::hidden()).unwrap();
    let task = Task { clips: 1, ..task(50.0) };
    let document = plan_precision(&checkpoint, &plan, &seen, &task, &ProgressBar::hidden()).unwrap();
    let lowered = ["stem.0", "stem.1", "stem.2", "refine.0", "refine.1", "blend.0", "blend.1"];
    for name in lowered.map(|layer| format!("motion.{layer}")) {
        let layer = document.layers.iter().find(|layer| layer.layer == name);
        assert_eq!(layer.map(|layer| layer.precision), Some(LOWERED), "{name}");
    }
    for (name, why) in [
        ("motion.linear", "last layer"),
        ("motion.refine.2", "last layer"),
        ("motion.blend.2", "too few channels"),
        ("motion.costs: means", "means of squared differences"),
        ("motion.landing: products of places", "places"),
    ] {
        let kept = document.kept.iter().find(|kept| kept.layer == name);
        assert!(kept.is_some_and(|kept| kept.why.starts_with(why)), "{name}: {kept:?}");
    }
}
