//! The daemon end to end: the real program, real ONNX Runtime, real streams, on a bundle of random weights.

#![allow(clippy::unwrap_used)] // also in the helpers of tests

use std::collections::BTreeMap;
use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::sync::OnceLock;
use std::time::{Duration, Instant, UNIX_EPOCH};

use nextclip_core::Picture;
use nextclip_media::rtsp_server::{RtspCamera, Served};
use nextclip_media::{Fit, Mp4Writer, load_png, read_video};
use nextclip_tests::{RandomCheckpoint, TINY};
use serde_json::Value;

/// Longer than any of these runs may take, on a machine that does much else.
const PATIENCE: Duration = Duration::from_secs(90);

/// The bundle of random weights, exported once for each build of these tests, also where every test has its own process.
fn bundle() -> &'static Path {
    static BUNDLE: OnceLock<PathBuf> = OnceLock::new();
    BUNDLE.get_or_init(|| {
        let tests = std::env::current_exe().unwrap();
        let built = tests.metadata().unwrap().modified().unwrap().duration_since(UNIX_EPOCH).unwrap();
        let folder =
            Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("daemon-bundle-{}", built.as_millis()));
        let lock = File::create(folder.with_file_name("daemon-bundle.lock")).unwrap();
        lock.lock().unwrap();
        if !folder.exists() {
            RandomCheckpoint::tiny().export(&folder).unwrap();
        }
        folder
    })
}

fn nextclipd(arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_nextclipd"));
    command.args(arguments).stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    command.env("RUST_LOG", "info");
    command
}

/// `nextclipd run` on the bundle.
fn run_on(source: &str, arguments: &[&str]) -> Command {
    let mut command = nextclipd(&["run", "--source", source, "--threads", "1", "--bundle"]);
    command.arg(bundle()).args(arguments);
    command
}

/// Waits for the program, and ends it where it hangs.
fn finished(mut child: Child) -> Output {
    // Read while it runs: a full pipe would stop it.
    let (stdout, stderr) = (child.stdout.take().unwrap(), child.stderr.take().unwrap());
    let read = |mut from: Box<dyn std::io::Read + Send>| {
        std::thread::spawn(move || {
            let mut bytes = Vec::new();
            from.read_to_end(&mut bytes).map(|_| bytes).unwrap_or_default()
        })
    };
    let (out, err) = (read(Box::new(stdout)), read(Box::new(stderr)));
    let start = Instant::now();
    let status = loop {
        match child.try_wait().unwrap() {
            Some(status) => break status,
            None if start.elapsed() > PATIENCE => {
                child.kill().unwrap();
                break child.wait().unwrap();
            }
            None => std::thread::sleep(Duration::from_millis(20)),
        }
    };
    Output { status, stdout: out.join().unwrap(), stderr: err.join().unwrap() }
}

fn output(mut command: Command) -> Output {
    finished(command.spawn().unwrap())
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

fn assert_code(output: &Output, code: i32) {
    assert_eq!(output.status.code(), Some(code), "{}\n{}", text(&output.stdout), text(&output.stderr));
}

/// The `key=value` pairs of the last line.
fn summary(told: &str) -> BTreeMap<String, f64> {
    let line = told.lines().last().unwrap_or_default();
    let pair = |pair: &str| {
        let (key, value) = pair.split_once('=')?;
        Some((key.to_owned(), value.parse().ok()?))
    };
    line.split(' ').filter_map(pair).collect()
}

/// The lines of `predictions.jsonl` by their event, after checking that every prediction ends once.
fn journal(out: &Path) -> BTreeMap<String, Vec<Value>> {
    let lines = std::fs::read_to_string(out.join("predictions.jsonl")).unwrap();
    let mut events: BTreeMap<String, Vec<Value>> = BTreeMap::new();
    for line in lines.lines() {
        let line: Value = serde_json::from_str(line).unwrap();
        events.entry(line["event"].as_str().unwrap().into()).or_default().push(line);
    }
    let ids = |name: &str| -> Vec<u64> {
        events.get(name).into_iter().flatten().map(|line| line["id"].as_u64().unwrap()).collect()
    };
    let issued = ids("prediction");
    assert_eq!(issued, (0..issued.len() as u64).collect::<Vec<_>>());
    let mut ended = [ids("scored"), ids("dropped")].concat();
    ended.sort_unstable();
    assert_eq!(ended, issued);
    events
}

fn film_frames(path: &Path) -> usize {
    read_video(path, 64, 32, Fit::Stretch).unwrap().map(Result::unwrap).count()
}

/// A film of a bright square that moves, `frames` of them, ten a second.
fn write_film(path: &Path, frames: usize) {
    let mut writer = Mp4Writer::create(path, 96, 64, (10, 1)).unwrap();
    for frame in 0..frames {
        let left = 2 * frame % 70;
        let pixel =
            |(y, x, _)| if (20..40).contains(&y) && (left..left + 20).contains(&x) { 230 } else { 60 };
        writer.push(&Picture::from_shape_fn((64, 96, 3), pixel)).unwrap();
    }
    writer.finish().unwrap();
}

/// Asks a process to end as a service manager does; the shell's own `kill` is always there.
fn terminate(child: &Child) {
    let status = Command::new("sh").args(["-c", &format!("kill -TERM {}", child.id())]).status().unwrap();
    assert!(status.success());
}

/// Waits until so many predictions have been scored.
fn wait_for_scores(count: usize, out: &Path, mut child: Child) -> Child {
    let start = Instant::now();
    let journal = out.join("predictions.jsonl");
    let scored = || std::fs::read_to_string(&journal).map_or(0, |lines| lines.matches("\"scored\"").count());
    while scored() < count {
        if start.elapsed() > PATIENCE || child.try_wait().unwrap().is_some() {
            let _ = child.kill();
            panic!("{} of {count} predictions were scored: {}", scored(), text(&finished(child).stderr));
        }
        std::thread::sleep(Duration::from_millis(50));
    }
    child
}

#[test]
fn a_generated_scene_is_predicted_live() {
    let out = tempfile::tempdir().unwrap();
    let path = out.path().to_str().unwrap();
    let flags = ["--out", path, "--video", "--json", "--strip-every", "5"];
    let child = wait_for_scores(5, out.path(), run_on("test://?seed=3", &flags).spawn().unwrap());
    terminate(&child);
    let output = finished(child);
    assert_code(&output, 0);

    let events = journal(out.path());
    let predictions = &events["prediction"];
    assert!(predictions.len() >= 5, "{} predictions", predictions.len());
    for line in predictions {
        assert_eq!(line["horizon_ms"], 300.0);
        let (latency_ms, look_ahead_ms) = (line["latency_ms"].as_f64(), line["look_ahead_ms"].as_f64());
        let sum_ms = latency_ms.unwrap() + look_ahead_ms.unwrap();
        assert!(latency_ms > Some(0.0) && (sum_ms - 300.0).abs() < 0.01, "{line}");
    }
    let file = std::fs::read(out.path().join("predictions.jsonl")).unwrap();
    assert_eq!(text(&output.stdout), text(&file), "--json prints what the file holds, and nothing else");

    let told = text(&output.stderr);
    let summary = summary(&told);
    assert_eq!(summary["predictions"], predictions.len() as f64);
    for key in ["psnr_db", "last_frame_db", "gain_db", "latency_ms_p50", "look_ahead_ms"] {
        assert!(summary.contains_key(key), "{key} is not in {told}");
    }
    let strip = out.path().join("strips/most-motion.png");
    assert!(load_png(&strip).unwrap().dim().1 > 6 * TINY.width);
    let video = out.path().join("predicted-beside-actual.mp4");
    assert!(film_frames(&video) >= events["scored"].len());
    for path in [strip, video] {
        assert!(told.contains(path.to_str().unwrap()), "{told}");
    }
}

#[test]
fn a_film_is_predicted_to_its_end_and_again_the_same() {
    let folder = tempfile::tempdir().unwrap();
    let film = folder.path().join("film.mp4");
    write_film(&film, 30);
    let scores = ["a", "b"].map(|name| {
        let out = folder.path().join(name);
        let flags = ["--as-fast-as-possible", "--seed", "5", "--out", out.to_str().unwrap()];
        let output = output(run_on(&format!("file://{}", film.display()), &flags));
        assert_code(&output, 0);
        let events = journal(&out);
        // 30 frames at the model's own pace: none before the third, three still open at the end.
        assert_eq!((events["prediction"].len(), events["scored"].len()), (28, 25));
        assert!(events["dropped"].iter().all(|line| line["reason"] == "end"));
        let summary = summary(&text(&output.stdout));
        assert_eq!((summary["frames"], summary["predictions"], summary["scored"]), (30.0, 28.0, 25.0));
        let gain_db = summary["psnr_db"] - summary["last_frame_db"];
        assert!((gain_db - summary["gain_db"]).abs() < 0.011);
        events["scored"].clone()
    });
    assert_eq!(scores[0], scores[1]);
}

#[test]
fn an_rtsp_camera_is_predicted() {
    let served = Served::Scene { seed: 2, rate: (30, 1), size: (160, 120) };
    let camera = RtspCamera::start(&served, 0).unwrap();
    let out = tempfile::tempdir().unwrap();
    let child = run_on(camera.url(), &["--out", out.path().to_str().unwrap(), "--video"]).spawn().unwrap();
    let child = wait_for_scores(3, out.path(), child);
    terminate(&child);
    assert_code(&finished(child), 0);
    journal(out.path());
    assert!(film_frames(&out.path().join("predicted-beside-actual.mp4")) > 0);
}

#[test]
fn a_film_served_over_rtsp_is_predicted_to_its_end() {
    let folder = tempfile::tempdir().unwrap();
    let (film, out) = (folder.path().join("film.mp4"), folder.path().join("out"));
    write_film(&film, 40);
    let camera = RtspCamera::start(&Served::File(film), 0).unwrap();
    let output = output(run_on(camera.url(), &["--out", out.to_str().unwrap()]));
    assert_code(&output, 0);
    assert!(text(&output.stderr).contains("the stream has ended"));
    // How many predictions there are depends on how even the stream's timestamps are.
    journal(&out);
    let frames = summary(&text(&output.stdout))["frames"];
    assert!((30.0..=40.0).contains(&frames), "{frames} of 40 frames");
}

#[test]
fn a_camera_that_goes_away_ends_the_run_in_order() {
    let served = Served::Scene { seed: 2, rate: (30, 1), size: (160, 120) };
    let camera = RtspCamera::start(&served, 0).unwrap();
    let url = camera.url().to_owned();
    let out = tempfile::tempdir().unwrap();
    let child = run_on(&url, &["--out", out.path().to_str().unwrap(), "--video"]).spawn().unwrap();
    let child = wait_for_scores(1, out.path(), child);
    drop(camera);
    let output = finished(child);
    let told = text(&output.stderr);
    // A server that says goodbye has ended its stream; one that only hangs up has failed. It is a matter
    // of moments which of the two is seen first.
    match output.status.code() {
        Some(0) => assert!(told.contains("the stream has ended"), "{told}"),
        Some(1) => assert!(told.lines().last().is_some_and(|line| line.contains(&url)), "{told}"),
        other => panic!("{other:?}: {told}"),
    }
    journal(out.path());
    assert!(film_frames(&out.path().join("predicted-beside-actual.mp4")) > 0, "the film is finished");
}

#[test]
fn a_run_ends_after_its_duration() {
    let out = tempfile::tempdir().unwrap();
    let start = Instant::now();
    let output = output(run_on("test://", &["--duration", "4s", "--out", out.path().to_str().unwrap()]));
    assert_code(&output, 0);
    assert!(start.elapsed() >= Duration::from_secs(4), "it took {:?}", start.elapsed());
    journal(out.path());
    assert!(summary(&text(&output.stdout)).contains_key("frames"));
}

#[test]
fn sigterm_finishes_the_files() {
    let out = tempfile::tempdir().unwrap();
    let child = run_on("test://", &["--out", out.path().to_str().unwrap(), "--video"]).spawn().unwrap();
    let child = wait_for_scores(1, out.path(), child);
    let start = Instant::now();
    terminate(&child);
    let output = finished(child);
    assert_code(&output, 0);
    assert!(start.elapsed() < Duration::from_secs(10), "it took {:?}", start.elapsed());
    journal(out.path());
    assert!(film_frames(&out.path().join("predicted-beside-actual.mp4")) > 0);
    assert!(summary(&text(&output.stdout))["predictions"] > 0.0);
}

#[test]
fn a_wrong_configuration_is_told_whole() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("nextclip.toml");
    std::fs::write(&file, "bundle = 'b'\n[source]\nuri = 'test:/'\nfits = 'crop'\n[predict]\nsteps = 0\n")
        .unwrap();
    for command in ["run", "validate"] {
        let output = output(nextclipd(&[command, "--config", file.to_str().unwrap(), "--threads", "-2"]));
        assert_code(&output, 2);
        let told = text(&output.stderr);
        for place in
            ["--threads: is -2", ":3: source.uri: ", ":4: source.fits: is unknown", ":6: predict.steps: is 0"]
        {
            assert!(told.contains(place), "{place} is not in {told}");
        }
    }
    let output = output(nextclipd(&["run", "--config", "/no/such/nextclip.toml"]));
    assert_code(&output, 2);
    assert!(text(&output.stderr).contains("/no/such/nextclip.toml"));
}

#[test]
fn a_right_configuration_says_what_would_run() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("nextclip.toml");
    let text_of_file = format!(
        "bundle = '{}'\nout = 'here'\n[source]\nuri = 'test://'\n[predict]\nsteps = 3\n",
        bundle().display()
    );
    std::fs::write(&file, text_of_file).unwrap();
    let output = output(nextclipd(&["validate", "--config", file.to_str().unwrap()]));
    assert_code(&output, 0);
    let told = text(&output.stdout);
    for part in ["tiny-random", "48 x 32", "3 denoising steps", "test://", folder.path().to_str().unwrap()] {
        assert!(told.contains(part), "{part} is not in {told}");
    }
    assert!(!folder.path().join("here").exists(), "validating writes nothing");
}

#[test]
fn a_damaged_bundle_is_refused_by_name() {
    let folder = tempfile::tempdir().unwrap();
    for entry in std::fs::read_dir(bundle()).unwrap() {
        let entry = entry.unwrap();
        std::fs::copy(entry.path(), folder.path().join(entry.file_name())).unwrap();
    }
    let weights = folder.path().join("weights.bin");
    let mut bytes = std::fs::read(&weights).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    std::fs::write(&weights, bytes).unwrap();
    let path = folder.path().to_str().unwrap();
    let output = output(nextclipd(&["run", "--bundle", path, "--source", "test://"]));
    assert_code(&output, 1);
    let told = text(&output.stderr);
    assert!(told.contains("weights.bin: sha256 is "), "{told}");
}

#[test]
fn an_unreachable_camera_is_told_in_one_line() {
    let start = Instant::now();
    let output = output(run_on("rtsp://user:secret@127.0.0.1:1/none", &[]));
    assert_code(&output, 1);
    assert!(start.elapsed() < Duration::from_secs(30));
    let told = text(&output.stderr);
    let line = told.lines().last().unwrap();
    assert!(line.starts_with("nextclipd: rtsp://") && line.contains("127.0.0.1:1"), "{told}");
    assert!(!told.contains("secret"), "{told}");
}

#[test]
fn the_future_of_a_film_without_a_camera() {
    let folder = tempfile::tempdir().unwrap();
    let (film, out) = (folder.path().join("film.mp4"), folder.path().join("out"));
    write_film(&film, 25);
    let predict = |more: &[&str]| {
        let mut command = nextclipd(&["predict", "--threads", "1", "--bundle"]);
        command.arg(bundle()).arg("--input").arg(&film).arg("--out").arg(&out).args(more);
        output(command)
    };
    let told = predict(&["--at", "1.0", "--clips", "2"]);
    assert_code(&told, 0);
    let summary = summary(&text(&told.stdout));
    assert_eq!((summary["seen"], summary["predicted"], summary["compared"]), (3.0, 6.0, 6.0));
    assert!(summary.contains_key("gain_db"));
    assert_eq!(load_png(out.join("predicted-06.png")).unwrap().dim(), (TINY.height, TINY.width, 3));
    assert!(load_png(out.join("strip.png")).is_ok());
    assert_eq!(film_frames(&out.join("predicted.mp4")), 9);

    let told = predict(&["--at", "60"]);
    assert_code(&told, 1);
    assert!(text(&told.stderr).contains("it ends at 2.40 s, --at is 60 s"), "{}", text(&told.stderr));
}
