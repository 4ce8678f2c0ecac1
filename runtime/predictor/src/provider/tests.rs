//! The options that providers are given, and what is refused.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]
use nextclip_core::Geometry;
use nextclip_core::manifest::{CacheElement, CacheShape, Dtype, Graphs, SCHEMA, SamplerDefaults, Source};

use super::*;

fn manifest(target: Target, precision: &str, weights: &[u8]) -> Manifest {
    let spec = |name: &str, shape: &[usize]| TensorSpec {
        name: name.into(),
        dtype: Dtype::F32,
        shape: shape.into(),
    };
    let graph = |name: &str| Graph {
        path: format!("{name}.onnx"),
        inputs: vec![spec("z", &[1, 5, 16]), spec("t", &[1])],
        outputs: vec![],
    };
    let files = [("denoise.onnx", &b"g"[..]), ("encode.onnx", b"e"), ("weights.bin", weights)];
    Manifest {
        schema: SCHEMA,
        producer: "test".into(),
        source: Source { name: "m".into(), transformer_sha256: "00".into(), vae_sha256: None },
        target,
        precision: precision.into(),
        quantisation: None,
        geometry: Geometry {
            height: 32,
            width: 48,
            vae_scale: 8,
            latent_channels: 4,
            patch: 2,
            history: 2,
            clip: 2,
            frame_interval_ms: 200,
        },
        cache: CacheShape { layers: 1, batch: 1, kv_heads: 1, head_dim: 8, element: CacheElement::F32 },
        motion: None,
        sampler: SamplerDefaults { steps: 2, time_shift: 1.0, guidance: 1.0 },
        graphs: Graphs {
            encode: Some(graph("encode")),
            remember: graph("remember"),
            denoise: graph("denoise"),
            decode: None,
        },
        files: files.map(|(path, bytes)| (path.into(), FileDigest::of(bytes))).into(),
    }
}

fn execution(manifest: &Manifest, gpu: &GpuSettings) -> Execution {
    Execution::new(manifest, None, gpu).unwrap()
}

fn cached(folder: &str) -> GpuSettings {
    GpuSettings { cache: Some(folder.into()), ..GpuSettings::default() }
}

/// The options of a provider, as ONNX Runtime will read them: `"key": "value"`.
fn options(provider: &impl fmt::Debug) -> String {
    format!("{provider:?}")
}

fn has(options: &str, key: &str, value: &str) -> bool {
    options.contains(&format!("{key:?}: {value:?}"))
}

#[test]
fn targets_have_their_providers() {
    let of = |target| execution(&manifest(target, "fp16", b"w"), &GpuSettings::default()).provider;
    assert_eq!(Target::ALL.map(of), [Provider::Cpu, Provider::Cuda, Provider::TensorRt, Provider::TensorRt]);
    let gpu = GpuSettings::default();
    let asked = |target, provider| Execution::new(&manifest(target, "f32", b"w"), Some(provider), &gpu);
    assert_eq!(asked(Target::Trt, Provider::Cpu).unwrap().provider, Provider::Cpu);
    let told = asked(Target::Trt10, Provider::Cuda).unwrap_err().to_string();
    assert_eq!(told, "the bundle is laid out for trt10, which CUDA does not run: choose TensorRT, or CPU");
    assert_eq!("TensorRT".parse(), Ok(Provider::TensorRt));
    assert_eq!("cpu".parse(), Ok(Provider::Cpu));
    assert!("npu".parse::<Provider>().unwrap_err().contains("none of cpu, cuda, tensorrt"));
}

#[test]
fn tensorrt_10_is_allowed_the_types_that_its_graphs_have() {
    let of = |target, precision: &str| {
        let manifest = manifest(target, precision, b"w");
        let made = execution(&manifest, &cached("/engines"));
        options(&made.tensorrt("denoise", &manifest.graphs.denoise))
    };
    let flags = |options: &str| {
        ["trt_fp16_enable", "trt_int8_enable", "trt_layer_norm_fp32_fallback"]
            .map(|key| has(options, key, "true"))
    };
    assert_eq!(flags(&of(Target::Trt10, "fp16")), [true, false, true]);
    assert_eq!(flags(&of(Target::Trt10, "w8a8")), [true, true, true]);
    // No flag at all: a strongly typed network.
    for (target, precision) in [
        (Target::Trt10, "f32"),
        (Target::Trt10, "w4g128"),
        (Target::Trt, "fp16"),
        (Target::Trt, "w8a8"),
        (Target::Trt, "fp8"),
        (Target::Trt, "w4g64"),
    ] {
        let options = of(target, precision);
        assert!(!options.contains("fp16_enable") && !options.contains("int8_enable"), "{options}");
        assert!(!options.contains("bf16_enable"), "{options}");
    }
}

#[test]
fn engines_are_cached_by_what_they_are_made_of() {
    let manifest_a = manifest(Target::Trt, "fp16", b"a");
    let made = execution(&manifest_a, &cached("/engines"));
    let graph = &manifest_a.graphs.denoise;
    let prefix = made.prefix("denoise", graph);
    let set = options(&made.tensorrt("denoise", graph));
    for (key, value) in [
        ("trt_engine_cache_enable", "true"),
        ("trt_engine_cache_path", "/engines"),
        ("trt_engine_cache_prefix", prefix.as_str()),
        ("trt_timing_cache_enable", "true"),
        ("trt_timing_cache_path", "/engines"),
        ("trt_profile_min_shapes", "z:1x5x16,t:1"),
        ("trt_profile_opt_shapes", "z:1x5x16,t:1"),
        ("trt_profile_max_shapes", "z:1x5x16,t:1"),
        ("trt_cuda_graph_enable", "false"),
        ("device_id", "0"),
    ] {
        assert!(has(&set, key, value), "{key} = {value}: {set}");
    }
    assert!(!set.contains("ep_context") && !set.contains("dla"), "{set}");
    assert!(prefix.starts_with("denoise-trt-fp16-"), "{prefix}");
    let prefix_of = |manifest: &Manifest| {
        execution(manifest, &GpuSettings::default()).prefix("denoise", &manifest.graphs.denoise)
    };
    assert_eq!(prefix_of(&manifest_a), prefix);
    assert_ne!(prefix_of(&manifest(Target::Trt, "fp16", b"b")), prefix);
    assert_ne!(made.prefix("encode", manifest_a.graphs.encode.as_ref().unwrap()), prefix);
    assert_eq!(made.file(Path::new("/b"), "denoise", graph), Path::new("/b/denoise.onnx"));
}

#[test]
fn wrapped_engines_take_the_graphs_place() {
    let folder = tempfile::tempdir().unwrap();
    let manifest = manifest(Target::Trt, "fp16", b"w");
    let graph = &manifest.graphs.denoise;
    let gpu =
        GpuSettings { ep_context: true, cuda_graph: true, ..cached(&folder.path().display().to_string()) };
    let made = execution(&manifest, &gpu);
    let wrapped = folder.path().join(format!("{}_ctx.onnx", made.prefix("denoise", graph)));
    let set = options(&made.tensorrt("denoise", graph));
    for (key, value) in [
        ("trt_dump_ep_context_model", "true"),
        ("trt_ep_context_embed_mode", "0"),
        ("trt_ep_context_file_path", &wrapped.display().to_string()),
        // ONNX Runtime refuses an absolute path here.
        ("trt_engine_cache_path", "."),
        ("trt_cuda_graph_enable", "true"),
    ] {
        assert!(has(&set, key, value), "{key} = {value}: {set}");
    }
    assert_eq!(made.file(Path::new("/b"), "denoise", graph), Path::new("/b/denoise.onnx"));
    fs::write(&wrapped, b"").unwrap();
    assert_eq!(made.file(Path::new("/b"), "denoise", graph), wrapped);
}

#[test]
fn accelerators_run_the_autoencoder_of_the_boards_that_have_them() {
    let gpu = GpuSettings { dla_core: Some(1), ..cached("/engines") };
    let jetpack_6 = manifest(Target::Trt10, "w8a8", b"w");
    let made = execution(&jetpack_6, &gpu);
    let encode = options(&made.tensorrt("encode", jetpack_6.graphs.encode.as_ref().unwrap()));
    assert!(has(&encode, "trt_dla_enable", "true") && has(&encode, "trt_dla_core", "1"), "{encode}");
    assert!(!options(&made.tensorrt("denoise", &jetpack_6.graphs.denoise)).contains("dla"));
    let told =
        |target, precision| Execution::new(&manifest(target, precision, b"w"), None, &gpu).unwrap_err();
    let start = "accelerator 1 was asked for, and graphs laid out for";
    assert!(told(Target::Trt, "fp16").to_string().contains(&format!("{start} trt in fp16 can use none")));
    assert!(
        told(Target::Trt10, "w4g64").to_string().contains(&format!("{start} trt10 in w4g64 can use none"))
    );
}

#[test]
fn cuda_computes_in_the_types_of_the_graph() {
    let made =
        execution(&manifest(Target::Cuda, "fp16", b"w"), &GpuSettings { device_id: 1, ..cached("/c") });
    let set = options(&made.cuda());
    assert!(has(&set, "device_id", "1") && has(&set, "use_tf32", "false"), "{set}");
    assert!(has(&set, "cudnn_conv_algo_search", "HEURISTIC"), "{set}");
}

#[test]
fn a_user_without_a_home_has_no_cache() {
    let of = |known: &'static [(&str, &str)]| {
        default_cache(|name| known.iter().find(|(known, _)| *known == name).map(|(_, path)| path.into()))
    };
    assert_eq!(of(&[]), None);
    assert_eq!(of(&[("HOME", "/home/a")]), Some("/home/a/.cache/nextclip".into()));
    assert_eq!(of(&[("HOME", "/home/a"), ("XDG_CACHE_HOME", "/c")]), Some("/c/nextclip".into()));
    assert_eq!(of(&[("HOME", "/home/a"), ("CACHE_DIRECTORY", "/var/cache/d")]), Some("/var/cache/d".into()));
    assert_eq!(of(&[("XDG_CACHE_HOME", "relative")]), None);
}
