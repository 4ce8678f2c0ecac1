//! What becomes of an export that is killed, or whose disk fills up: nothing under the bundle's name, nothing left.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use indicatif::ProgressBar;
use nextclip_export::random::RandomWeights;
use tempfile::TempDir;

/// A folder with a checkpoint of some megabytes, whose export takes long enough to be interrupted.
struct Bench {
    folder: TempDir,
}

impl Bench {
    fn new() -> Self {
        let mut weights = RandomWeights { table_side: 8, ..RandomWeights::video_gpt() };
        let transformer = &mut weights.transformer;
        (transformer.vocab_size, transformer.hidden_size, transformer.intermediate_size) = (8, 128, 256);
        (transformer.num_hidden_layers, transformer.num_attention_heads) = (4, 4);
        (transformer.num_key_value_heads, transformer.rope_scaling) = (4, None);
        if let Some(vae) = &mut weights.vae {
            (vae.block_out_channels, vae.layers_per_block, vae.norm_num_groups) = (vec![8, 8, 8, 16], 1, 4);
        }
        let bench = Self { folder: tempfile::tempdir().unwrap() };
        weights.write(&bench.at("checkpoint"), &ProgressBar::hidden()).unwrap();
        fs::create_dir(bench.at("out")).unwrap();
        bench
    }

    fn at(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// The export to `out/bundle` below `parent`, as words of a command line.
    fn words(&self, parent: &Path) -> Vec<String> {
        let program = env!("CARGO_BIN_EXE_nextclip-export");
        let (checkpoint, out) = (self.at("checkpoint"), parent.join("bundle"));
        let paths = [program, "export", checkpoint.to_str().unwrap(), "--out", out.to_str().unwrap()];
        let sizes = ["--size", "32x48", "--history", "3", "--clip", "2", "--steps", "1", "--precision", "w4"];
        paths.into_iter().chain(sizes).map(String::from).collect()
    }

    fn start(&self) -> Child {
        let words = self.words(&self.at("out"));
        let mut command = Command::new(&words[0]);
        command.args(&words[1..]).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap()
    }

    /// Kills an export once `sign` is there; returns whether that was in time.
    fn kill_at(&self, sign: &Path) -> bool {
        let mut export = self.start();
        let started = Instant::now();
        while !sign.exists() && export.try_wait().unwrap().is_none() {
            assert!(started.elapsed() < Duration::from_secs(60), "{} never came", sign.display());
            std::thread::yield_now();
        }
        // SIGKILL: the program has no say in it.
        export.kill().unwrap();
        !export.wait().unwrap().success()
    }
}

fn names(folder: &Path) -> Vec<String> {
    let entries = fs::read_dir(folder).unwrap();
    let mut names: Vec<String> =
        entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    names
}

#[test]
fn a_killed_export_leaves_no_bundle_and_the_next_one_cleans_up() {
    let bench = Bench::new();
    let out = bench.at("out");
    let draft = out.join(".bundle.draft");
    let signs = [draft.clone(), draft.join("bundle/weights.bin"), draft.join("bundle/manifest.json")];
    let mut killed = 0;
    for sign in &signs {
        if bench.kill_at(sign) {
            killed += 1;
            assert_eq!(names(&out), [".bundle.draft"], "killed at {}", sign.display());
        } else {
            fs::remove_dir_all(out.join("bundle")).unwrap();
        }
    }
    assert!(killed >= 2, "{killed} of {} were killed in time", signs.len());
    assert!(bench.start().wait().unwrap().success());
    assert_eq!(names(&out), ["bundle"]);

    // With a bundle of the name, a killed export leaves that.
    fs::write(out.join("bundle/note"), "the old one").unwrap();
    while !bench.kill_at(&signs[2]) {
        fs::write(out.join("bundle/note"), "the old one").unwrap();
    }
    assert_eq!(names(&out), [".bundle.draft", "bundle"]);
    assert!(out.join("bundle/note").exists());
    assert!(bench.start().wait().unwrap().success());
    assert_eq!(names(&out), ["bundle"]);
    assert!(!out.join("bundle/note").exists());
}

/// Runs a shell line with the export's words as its arguments; returns what it wrote to standard error.
fn told(line: &str, words: &[String]) -> (bool, String) {
    let output = Command::new("sh").args(["-c", line, "sh"]).args(words).output().unwrap();
    (output.status.success(), String::from_utf8_lossy(&output.stderr).into_owned())
}

#[test]
fn a_disk_that_fills_up_is_named_and_the_draft_removed() {
    let bench = Bench::new();
    let out = bench.at("out");
    // A limit on the size of files stands for the disk: it needs no rights. The signal that would come first is not
    // wanted here.
    let (done, message) = told("trap '' XFSZ; ulimit -f 400; exec \"$@\"", &bench.words(&out));
    assert!(!done);
    assert_eq!(message.lines().count(), 1, "{message}");
    assert!(message.contains("out/.bundle.draft/bundle/weights.bin: no room left: "), "{message}");
    assert!(message.contains("MiB are needed in all, ") && message.contains("KiB were written"), "{message}");
    assert!(names(&out).is_empty(), "{:?}", names(&out));
}

#[test]
fn a_disk_that_is_too_small_is_refused_before_the_start() {
    let bench = Bench::new();
    let out = bench.at("out");
    let mount = format!("mount -t tmpfs -o size=256k none {}", out.display());
    let inside = |line: &str| format!("unshare --user --map-root-user --mount sh -c '{line}' sh \"$@\"");
    let (allowed, reason) = told(&inside(&mount), &[]);
    if !allowed {
        eprintln!("skipped: no small disk can be had here: {}", reason.trim());
        return;
    }
    let (done, message) = told(&inside(&format!("{mount} && exec \"$@\"")), &bench.words(&out));
    assert!(!done);
    assert!(message.contains("bundle: not enough room: ") && message.contains(" are free"), "{message}");
    let left = inside(&format!("{mount} && \"$@\" 2>/dev/null; ls -A {} >&2", out.display()));
    assert_eq!(told(&left, &bench.words(&out)).1, "");
}
