//! Both commands on tiny random bundles: what they print last, write and refuse.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use nextclip_core::Picture;
use nextclip_eval::{
    Clips, Drawing, Footage, Forecaster, Measure, Mode, Report, Selection, Stage, compare, measure, rollout,
    steps_curve,
};
use nextclip_media::{Fit, Mp4Writer};
use nextclip_predictor::{Predictor, Settings};
use nextclip_tests::{RandomCheckpoint, TINY};
use tempfile::TempDir;

fn bundle(seed: u64) -> (TempDir, PathBuf) {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join(format!("bundle-{seed}"));
    RandomCheckpoint { seed, ..RandomCheckpoint::tiny() }.export(&path).unwrap();
    (folder, path)
}

fn open(path: &Path) -> Predictor {
    Predictor::open(path, &Settings { threads: Some(1), ..Settings::default() }).unwrap()
}

fn scenes(most: usize, future: usize) -> Clips {
    let selection = Selection { footage: Footage::Scenes, part: None, fit: Fit::Crop, most };
    Clips::open(&selection, &TINY, future).unwrap()
}

fn nextclip_eval(arguments: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_nextclip-eval"))
        .args(arguments)
        .args(["--threads", "1"])
        .output()
        .unwrap()
}

/// The last line's keys, after checking that every value is a number.
fn keys_of_last_line(output: &Output) -> Vec<String> {
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let pairs = text.lines().last().unwrap().split(' ').map(|pair| pair.split_once('=').unwrap());
    pairs
        .inspect(|(_, value)| assert!(value.parse::<f64>().is_ok(), "{value}"))
        .map(|(key, _)| key.into())
        .collect()
}

#[test]
fn trivial_predictors_and_the_ceiling_are_measured_beside_the_model() {
    let (_folder, bundle) = bundle(1);
    let mut predictor = open(&bundle);
    let clips = scenes(4, TINY.clip);
    let drawing = Drawing { samples: 2, ..Drawing::new(Some(Mode::Sample), Some(2), 1) };
    let samples = measure(&mut predictor, &clips, &drawing, || ()).unwrap();
    assert_eq!(samples.len(), 4 * 2, "each draw is measured");
    assert_ne!(samples[0].predicted, samples[1].predicted, "two draws are two futures");
    assert_eq!(samples[0].scores(Forecaster::LastFrame), samples[1].scores(Forecaster::LastFrame));
    let report = Report::new(samples, &TINY);
    assert_eq!(report.clips(), 4);
    for forecaster in Forecaster::ALL {
        assert!(report.curve(Measure::Psnr, forecaster).iter().all(|db| db.is_finite()));
    }
    // Random weights foretell nothing, and the report says so.
    assert!(report.verdict().contains("no frame of the horizon"), "{}", report.verdict());
    let averaged = Drawing { samples: 2, ..Drawing::new(Some(Mode::Mean), None, 1) };
    assert_eq!(measure(&mut predictor, &clips, &averaged, || ()).unwrap().len(), 4);
}

#[test]
fn realism_and_rollout_have_a_point_for_each_number() {
    let (_folder, bundle) = bundle(1);
    let mut predictor = open(&bundle);
    let curve = steps_curve(&mut predictor, &scenes(6, TINY.clip), &[1, 3], 3, 1, || ()).unwrap();
    assert_eq!(curve.points.iter().map(|point| point.steps).collect::<Vec<_>>(), [1, 3]);
    assert!(curve.cells > 8, "{} cells move", curve.cells);
    for point in &curve.points {
        assert!(point.frechet > 0.0 && point.spread > 0.0 && point.error > 0.0, "{point:?}");
    }
    let drawing = Drawing::new(None, None, 1);
    let rollout = rollout(&mut predictor, &scenes(2, 3 * TINY.clip), 3, &drawing, || ()).unwrap();
    assert_eq!((rollout.points.len(), rollout.example.len()), (3, 3));
    assert!((rollout.points[2].until_s - 0.9).abs() < 1e-9);
    assert!(rollout.points.iter().all(|point| point.psnr_db.is_finite() && point.contrast.is_finite()));
}

#[test]
fn a_bundle_is_as_good_as_itself_and_another_is_not() {
    let ((_one, first), (_other, second)) = (bundle(1), bundle(2));
    let clips = scenes(3, TINY.clip);
    let itself = compare(&mut open(&first), &mut open(&first), &clips, 1, || ()).unwrap();
    assert_eq!((itself.psnr_drop_db(), itself.size_ratio()), (0.0, 1.0));
    assert_eq!(itself.sqnr_db(), [f64::INFINITY]);
    assert!(Stage::ALL.iter().all(|stage| itself.speedup(*stage) > 0.0));
    let other = compare(&mut open(&second), &mut open(&first), &clips, 1, || ()).unwrap();
    assert!(other.sqnr_db()[0] < 10.0);
    let swapped = compare(&mut open(&first), &mut open(&second), &clips, 1, || ()).unwrap();
    assert!((other.psnr_drop_db() + swapped.psnr_drop_db()).abs() < 1e-9);
}

#[test]
fn predict_writes_a_page_and_ends_with_the_line_for_scripts() {
    let (folder, bundle) = bundle(1);
    let out = folder.path().join("report");
    let output = nextclip_eval(&[
        "predict",
        "--bundle",
        bundle.to_str().unwrap(),
        "--videos",
        "scenes",
        "--clips",
        "3",
        "--steps-curve",
        "1,2",
        "--before",
        bundle.to_str().unwrap(),
        "--rollout",
        "2",
        "--out",
        out.to_str().unwrap(),
    ]);
    let keys = keys_of_last_line(&output);
    assert_eq!(keys, ["psnr_db", "last_frame_db", "gain_db", "moving_gain_db", "sharpness"]);
    let page = std::fs::read_to_string(out.join("report.html")).unwrap();
    for part in ["tiny-random", "On its own predictions", "Distortion and realism", "data:image/png"] {
        assert!(page.contains(part), "no {part}");
    }
    for picture in ["even-1.png", "worst.png", "horizon-psnr.png", "steps-both.png", "rollout-psnr.png"] {
        assert!(out.join(picture).is_file(), "no {picture}");
    }
}

#[test]
fn compare_ends_with_the_line_for_scripts() {
    let (folder, bundle) = bundle(1);
    let (out, bundle) = (folder.path().join("report"), bundle.to_str().unwrap());
    let output = nextclip_eval(&[
        "compare",
        "--bundle",
        bundle,
        "--against",
        bundle,
        "--videos",
        "scenes",
        "--clips",
        "2",
        "--out",
        out.to_str().unwrap(),
    ]);
    assert_eq!(keys_of_last_line(&output), ["speedup", "psnr_drop_db", "size_ratio"]);
    assert!(out.join("report.html").is_file() && out.join("compare.png").is_file());
}

#[test]
fn short_films_are_seen_for_less_long_and_shorter_ones_refused() {
    let (folder, bundle) = bundle(1);
    let film = |name: &str, frames: usize| {
        let path = folder.path().join(name);
        let mut writer = Mp4Writer::create(&path, TINY.width, TINY.height, (10, 1)).unwrap();
        for frame in 0..frames {
            writer.push(&Picture::from_elem((TINY.height, TINY.width, 3), (frame * 30) as u8)).unwrap();
        }
        writer.finish().unwrap();
        path
    };
    let run = |film: &Path, part: &str| {
        let (bundle, film) = (bundle.to_str().unwrap(), film.to_str().unwrap());
        nextclip_eval(&["predict", "--bundle", bundle, "--videos", film, "--part", part])
    };
    // Three remembered, three predicted: five frames leave two to see.
    let short = film("short.mp4", 5);
    let output = run(&short, "all");
    assert_eq!(keys_of_last_line(&output).len(), 5);
    assert!(String::from_utf8_lossy(&output.stdout).contains("from 2 frames seen instead of 3"));
    for (film, part) in [(film("tiny.mp4", 4), "all"), (short, "validation")] {
        let output = run(&film, part);
        let error = String::from_utf8_lossy(&output.stderr);
        assert!(!output.status.success() && error.contains("the longest unbroken stretch has"), "{error}");
    }
}
