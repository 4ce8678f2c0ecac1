//! The program's own manners: one line and an exit code for every fault.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::path::Path;
use std::process::{Command, Output, Stdio};

fn run(arguments: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_nextclip-export")).args(arguments).output().unwrap()
}

fn refused(arguments: &[&str]) -> String {
    let output = run(arguments);
    let message = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(1), "{message}");
    assert_eq!(message.lines().count(), 1, "{message}");
    assert!(message.starts_with("nextclip-export: "), "{message}");
    message
}

#[test]
fn a_missing_checkpoint_is_one_line() {
    let folder = tempfile::tempdir().unwrap();
    let missing = folder.path().join("nowhere");
    for command in [&["inspect"][..], &["export", "--out", "bundle"], &["parity"]] {
        let message = refused(&[command, &[missing.to_str().unwrap()]].concat());
        assert!(message.contains("nowhere"), "{message}");
    }
}

#[test]
fn a_folder_without_weights_is_one_line() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().to_str().unwrap();
    assert!(refused(&["inspect", path]).contains("config.json: no such file"));
    write(folder.path(), "config.json", "{\"hidden_size\": 8}");
    assert!(refused(&["inspect", path]).contains("config.json: missing field"));
    write(folder.path(), "config.json", CONFIG);
    assert!(refused(&["inspect", path]).contains("neither model.safetensors nor"));
    write(folder.path(), "pytorch_model.bin", "PK");
    assert!(refused(&["inspect", path]).contains("convert them to safetensors first"));
}

#[test]
fn a_reader_that_goes_away_is_no_fault() {
    let model = concat!(env!("CARGO_MANIFEST_DIR"), "/../models/base");
    let mut program = Command::new(env!("CARGO_BIN_EXE_nextclip-export"));
    program.args(["inspect", model]).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut program = program.spawn().unwrap();
    drop(program.stdout.take());
    let output = program.wait_with_output().unwrap();
    assert_eq!(String::from_utf8(output.stderr).unwrap(), "");
    assert_eq!(output.status.code(), Some(0));
}

#[test]
fn wrong_usage_ends_with_2() {
    assert_eq!(run(&["export", "x", "--out", "y", "--size", "12"]).status.code(), Some(2));
    assert_eq!(run(&["export", "x"]).status.code(), Some(2));
    assert_eq!(run(&["export", "x", "--out", "y", "--target", "toaster"]).status.code(), Some(2));
    assert_eq!(run(&["--help"]).status.code(), Some(0));
}

#[test]
fn precision_by_part_is_checked_before_anything_takes_time() {
    let folder = tempfile::tempdir().unwrap();
    let model = concat!(env!("CARGO_MANIFEST_DIR"), "/../models/base");
    let out = folder.path().join("bundle");
    let export =
        |more: &[&str]| refused(&[&["export", model, "--out", out.to_str().unwrap()][..], more].concat());
    let message = export(&["--cache", "int8"]);
    assert!(message.contains("--cache int8 needs --calibrate"), "{message}");
    let message = export(&["--precision", "w4", "--rounding", "gptq"]);
    assert!(message.contains("--rounding gptq needs --calibrate"), "{message}");
    let message = export(&["--rounding", "gptq", "--calibrate", "scenes"]);
    assert!(message.contains("--rounding gptq is for --precision w4 and w8"), "{message}");
    let message = export(&["--max-psnr-drop", "0.3"]);
    assert!(message.contains("--max-psnr-drop is for --precision w8a8"), "{message}");
    let w8a8 = ["--precision", "w8a8", "--calibrate", "scenes"];
    let missing = folder.path().join("missing.json");
    let message = export(&[&w8a8[..], &["--plan", missing.to_str().unwrap()]].concat());
    assert!(message.contains("missing.json: cannot be read"), "{message}");
    write(folder.path(), "other.json", r#"{"layers": 3}"#);
    let other = folder.path().join("other.json");
    let message = export(&[&w8a8[..], &["--plan", other.to_str().unwrap()]].concat());
    assert!(message.contains("other.json: invalid type"), "{message}");
    let both = ["export", model, "--out", "x", "--plan", "p", "--max-psnr-drop", "1"];
    assert_eq!(run(&both).status.code(), Some(2));
    assert_eq!(run(&["export", model, "--out", "x", "--cache", "fp8"]).status.code(), Some(2));
    assert!(!out.exists());
}

const CONFIG: &str = r#"{"vocab_size": 16, "hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2,
    "num_attention_heads": 4, "num_key_value_heads": 2, "rms_norm_eps": 1e-5, "rope_theta": 10000.0,
    "max_position_embeddings": 4096}"#;

fn write(folder: &Path, name: &str, text: &str) {
    std::fs::write(folder.join(name), text).unwrap();
}
