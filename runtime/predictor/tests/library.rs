//! Finding and loading ONNX Runtime: a process of its own, since it is loaded once.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use nextclip_predictor::{Error, init_onnx_runtime};

#[test]
fn a_named_library_must_serve_and_the_first_that_does_stays() {
    let folder = tempfile::tempdir().unwrap();
    let missing = folder.path().join("libonnxruntime.so");
    let error = init_onnx_runtime(Some(&missing)).unwrap_err();
    assert!(
        matches!(&error, Error::LibraryNotFound { searched } if *searched == [missing.clone()]),
        "{error}"
    );

    std::fs::write(&missing, "not a library").unwrap();
    let error = init_onnx_runtime(Some(&missing)).unwrap_err();
    assert!(matches!(&error, Error::Library { path, .. } if *path == missing), "{error}");

    let loaded = init_onnx_runtime(None).unwrap();
    assert!(loaded.is_absolute());
    assert_eq!(init_onnx_runtime(Some(&missing)).unwrap(), loaded);
}
