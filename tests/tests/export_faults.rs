//! Faulty checkpoints and bundles: one clear line that names the place, the value and the bound.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use indicatif::ProgressBar;
use nextclip_export::model::Checkpoint;
use nextclip_export::{Options, Plan, export, inspect};
use nextclip_predictor::{Predictor, Settings};
use nextclip_tests::{MOTION, RandomCheckpoint};
use safetensors::SafeTensors;
use safetensors::tensor::{Dtype, TensorView, serialize_to_file};
use tempfile::TempDir;

const NORM: &str = "llm.layers.0.input_layernorm.weight";

fn checkpoint() -> TempDir {
    let folder = tempfile::tempdir().unwrap();
    RandomCheckpoint::tiny().write(folder.path()).unwrap();
    folder
}

/// An error and its causes, as the program prints them.
fn told(error: impl Into<anyhow::Error>) -> String {
    format!("{:#}", error.into())
}

fn refusal(folder: &TempDir) -> String {
    told(Checkpoint::open(folder.path()).unwrap_err())
}

/// Rewrites a weight file after a change to its tensors.
fn edit(path: &Path, change: impl FnOnce(&mut Tensors)) {
    let bytes = fs::read(path).unwrap();
    let mut tensors: Tensors = SafeTensors::deserialize(&bytes)
        .unwrap()
        .iter()
        .map(|(name, view)| (name.into(), (view.dtype(), view.shape().to_vec(), view.data().to_vec())))
        .collect();
    change(&mut tensors);
    save(&tensors, path);
}

type Tensors = BTreeMap<String, (Dtype, Vec<usize>, Vec<u8>)>;

fn save(tensors: &Tensors, path: &Path) {
    let views = tensors
        .iter()
        .map(|(name, (dtype, shape, data))| (name, TensorView::new(*dtype, shape.clone(), data).unwrap()));
    serialize_to_file(views, None, path).unwrap();
}

#[test]
fn a_missing_folder_and_a_missing_file() {
    let folder = checkpoint();
    let message = told(Checkpoint::open(&folder.path().join("nowhere")).unwrap_err());
    assert!(message.contains("nowhere: no such folder"), "{message}");
    fs::remove_file(folder.path().join("model.safetensors")).unwrap();
    let message = refusal(&folder);
    assert!(message.ends_with("neither model.safetensors nor model.safetensors.index.json"), "{message}");
    fs::write(folder.path().join("model.pt"), "PK").unwrap();
    let message = refusal(&folder);
    assert!(message.contains("model.pt: weights in PyTorch's pickle format"), "{message}");
    assert!(message.contains("convert them to safetensors"), "{message}");
}

#[test]
fn a_truncated_file_says_how_much_is_there() {
    for (file, left) in [("model.safetensors", 40_000), ("model.safetensors", 100), ("model.safetensors", 3)]
    {
        let folder = checkpoint();
        let path = folder.path().join(file);
        let bytes = fs::read(&path).unwrap();
        fs::write(&path, &bytes[..left]).unwrap();
        let message = refusal(&folder);
        assert!(message.contains(&format!("model.safetensors: truncated: {left} bytes of ")), "{message}");
        assert_eq!(message.lines().count(), 1);
        if left > 1000 {
            assert!(message.ends_with(&format!(" of {}", bytes.len())), "{message}");
        }
    }
    let folder = checkpoint();
    let path = folder.path().join("vae/diffusion_pytorch_model.safetensors");
    let bytes = fs::read(&path).unwrap();
    fs::write(&path, &bytes[..bytes.len() - 1]).unwrap();
    assert!(refusal(&folder).contains("diffusion_pytorch_model.safetensors: truncated: "));
}

#[test]
fn a_file_that_is_something_else() {
    for (text, reason) in [
        ("version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n", "it is a Git LFS pointer"),
        ("{\"this\": \"is json, not safetensors\"}", "not a safetensors file"),
    ] {
        let folder = checkpoint();
        fs::write(folder.path().join("model.safetensors"), text).unwrap();
        let message = refusal(&folder);
        assert!(message.contains(reason), "{message}");
        assert_eq!(message.lines().count(), 1);
    }
}

#[test]
fn a_wrong_shape_names_the_tensor_and_both_shapes() {
    let folder = checkpoint();
    edit(&folder.path().join("model.safetensors"), |tensors| {
        tensors.insert(NORM.into(), (Dtype::F32, vec![31], vec![0; 4 * 31]));
    });
    let message = refusal(&folder);
    let expected = format!("tensor {NORM} has shape [31], the configuration asks for [32]");
    assert!(message.ends_with(&expected), "{message}");
    assert_eq!(message.lines().count(), 1);
}

#[test]
fn gaps_leftovers_shapes_and_types_are_reported_together() {
    let folder = checkpoint();
    edit(&folder.path().join("model.safetensors"), |tensors| {
        tensors.remove("llm.norm.weight");
        tensors.insert("llm.extra.bias".into(), (Dtype::F32, vec![2, 3], vec![0; 24]));
        tensors.insert(NORM.into(), (Dtype::I64, vec![32], vec![0; 8 * 32]));
    });
    edit(&folder.path().join("vae/diffusion_pytorch_model.safetensors"), |tensors| {
        tensors.insert("encoder.conv_in.bias".into(), (Dtype::F32, vec![9], vec![0; 36]));
    });
    let faults = [
        "tensor llm.norm.weight is missing, the configuration asks for [32]",
        "tensor llm.extra.bias of shape [2, 3] is left over: nothing in the model reads it",
        &format!("tensor {NORM} is stored as I64; F32, F16 and BF16 can be read"),
        "tensor encoder.conv_in.bias has shape [9], the configuration asks for [8]",
    ];
    let message = refusal(&folder);
    assert!(message.contains("4 tensors do not fit"), "{message}");
    let report = inspect::inspect(folder.path()).unwrap();
    assert_eq!(report.faults.len(), faults.len());
    for fault in faults {
        assert!(message.contains(fault), "{fault} is not in:\n{message}");
        assert!(report.to_string().contains(fault), "{fault} is not in:\n{report}");
    }
}

#[test]
fn tensors_of_motion_are_named_like_all_others() {
    let folder = tempfile::tempdir().unwrap();
    RandomCheckpoint::tiny().with_motion(MOTION).write(folder.path()).unwrap();
    let weights = folder.path().join("model.safetensors");
    let whole = fs::read(&weights).unwrap();
    edit(&weights, |tensors| {
        tensors.remove("motion.stem.1.bias");
        tensors.remove("motion.linear.weight");
        tensors.insert("motion.blend.2.weight".into(), (Dtype::F32, vec![3, 16, 3, 3], vec![0; 4 * 432]));
        tensors.insert("motion.stem.3.bias".into(), (Dtype::F32, vec![1], vec![0; 4]));
    });
    let message = refusal(&folder);
    for fault in [
        "4 tensors do not fit",
        "tensor motion.stem.1.bias is missing, the configuration asks for [32]",
        // 2 x 2 cells, 3 frames to come and 2 past, 2 candidates of 6 values.
        "tensor motion.linear.weight is missing, the configuration asks for [240, 32]",
        // The decoded picture, the last, 2 earlier ones, and of 3 layers what moves from each of the last three.
        "tensor motion.blend.2.weight has shape [3, 16, 3, 3], the configuration asks for [13, 16, 3, 3]",
        "tensor motion.stem.3.bias of shape [1] is left over: nothing in the model reads it",
    ] {
        assert!(message.contains(fault), "{fault} is not in:\n{message}");
    }

    fs::write(&weights, whole).unwrap();
    let opened = Checkpoint::open(folder.path()).unwrap();
    let report = inspect::inspect(folder.path()).unwrap().to_string();
    let expected = "2 displacements and 3 features a cell, blended in 16 channels; looks 2 steps of two pixels back, in 32 \
                    channels; refined in 24 channels; follows things in 2 earlier pictures; cells of one thing agree on it \
                    and go as one, and land each by itself, 3 deep";
    assert!(report.contains(expected), "{report}");
    let other_clip = Options { clip: Some(2), ..Options::default() };
    let message = told(Plan::new(&opened, &other_clip).unwrap_err());
    assert_eq!(message, "motion: a clip of 2 frames, the checkpoint says where things go in 3");

    let config = folder.path().join("config.json");
    let text = fs::read_to_string(&config).unwrap();
    fs::write(&config, text.replace("\"reach\": 2", "\"reach\": 17")).unwrap();
    assert!(refusal(&folder).ends_with("motion: a reach of 17, must be 1 to 16"));
    fs::write(&config, text.replace("\"reach\": 2", "\"reach\": 3")).unwrap();
    let expected =
        "tensor motion.stem.0.weight has shape [32, 25, 3, 3], the configuration asks for [32, 49, 3, 3]";
    assert!(refusal(&folder).ends_with(expected));
}

#[test]
fn sizes_that_no_model_has() {
    let folder = checkpoint();
    let path = folder.path().join("config.json");
    let text = fs::read_to_string(&path).unwrap();
    fs::write(&path, text.replace("\"num_key_value_heads\": 2", "\"num_key_value_heads\": 3")).unwrap();
    let message = refusal(&folder);
    assert!(
        message.ends_with("config.json: num_attention_heads 4 is not a multiple of num_key_value_heads 3"),
        "{message}"
    );
    fs::write(&path, text.replace("\"vocab_size\": 4", "\"vocab_size\": 3")).unwrap();
    assert!(refusal(&folder).contains("token <|diffusion|> has id 3, and vocab_size is 3"));
    fs::write(&path, &text).unwrap();
    fs::remove_file(folder.path().join("added_tokens.json")).unwrap();
    assert!(refusal(&folder).contains("has ids for <img>, </img> and <|diffusion|>"));
}

#[test]
fn a_frame_size_that_is_no_multiple_of_16() {
    let folder = checkpoint();
    let checkpoint = Checkpoint::open(folder.path()).unwrap();
    let plan = |options| told(Plan::new(&checkpoint, &options).unwrap_err());
    let message = plan(Options { size: Some((30, 48)), ..Options::default() });
    assert_eq!(message, "frame height 30 is not a multiple of 16 (VAE scale x patch size)");
    assert_eq!(plan(Options { clip: Some(0), ..Options::default() }), "clip is 0, must be at least 1");
    assert!(plan(Options { steps: Some(0), ..Options::default() }).contains("must be at least 1"));
    assert!(plan(Options { guidance: Some(f32::NAN), ..Options::default() }).contains("guidance NaN"));

    let options = Options { size: Some((160, 160)), ..Options::default() };
    let plan = Plan::new(&checkpoint, &options).unwrap();
    let out = folder.path().join("bundle");
    let message = told(export(&checkpoint, &plan, &out, &ProgressBar::hidden()).unwrap_err());
    assert_eq!(message, "a frame of 10 x 10 patches exceeds the position table of 8 x 8");
    assert!(!out.exists());
}

#[test]
fn shards_are_one_model_and_must_fit_their_index() {
    let folder = checkpoint();
    let whole = folder.path().join("model.safetensors");
    let bundle = |name: &str| {
        let checkpoint = Checkpoint::open(folder.path()).unwrap();
        let plan = Plan::new(&checkpoint, &Options::default()).unwrap();
        let out = folder.path().join(name);
        export(&checkpoint, &plan, &out, &ProgressBar::hidden()).unwrap().files
    };
    let from_one_file = bundle("one");
    let (mut first, mut second, mut index) = (Tensors::new(), Tensors::new(), BTreeMap::new());
    edit(&whole, |tensors| {
        for (i, (name, tensor)) in tensors.iter().enumerate() {
            let (shard, file) = if i % 2 == 0 {
                (&mut first, "model-1.safetensors")
            } else {
                (&mut second, "model-2.safetensors")
            };
            shard.insert(name.clone(), tensor.clone());
            index.insert(name.clone(), file);
        }
    });
    fs::remove_file(&whole).unwrap();
    save(&first, &folder.path().join("model-1.safetensors"));
    save(&second, &folder.path().join("model-2.safetensors"));
    let write_index = |index: &BTreeMap<String, &str>| {
        let text = serde_json::json!({"metadata": {"total_size": 0}, "weight_map": index}).to_string();
        fs::write(folder.path().join("model.safetensors.index.json"), text).unwrap();
    };
    write_index(&index);
    assert_eq!(bundle("shards"), from_one_file);

    let [here, other] = match index[NORM] {
        "model-1.safetensors" => ["model-1.safetensors", "model-2.safetensors"],
        _ => ["model-2.safetensors", "model-1.safetensors"],
    };
    index.insert(NORM.into(), other);
    write_index(&index);
    let message = refusal(&folder);
    let expected = [
        format!("tensor {NORM} is in {here}, and the index does not say so"),
        format!("tensor {NORM} is not in {other}, where the index says it is"),
    ];
    assert!(expected.iter().any(|expected| message.contains(expected)), "{message}");
    index.insert(NORM.into(), "../model-2.safetensors");
    write_index(&index);
    assert!(refusal(&folder).contains("leaves the folder"));
    index.insert(NORM.into(), "model-3.safetensors");
    write_index(&index);
    assert!(refusal(&folder).contains("model-3.safetensors: cannot be read"));
}

#[test]
fn half_precision_checkpoints_are_read() {
    for dtype in [Dtype::F16, Dtype::BF16] {
        let folder = checkpoint();
        let name = "final_layer.linear.bias";
        edit(&folder.path().join("model.safetensors"), |tensors| {
            let halves = match dtype {
                Dtype::F16 => [0x3e00_u16; 16], // 1.5
                _ => [0x3fc0_u16; 16],          // 1.5
            };
            let bytes = halves.iter().flat_map(|half| half.to_le_bytes()).collect();
            tensors.insert(name.into(), (dtype, vec![16], bytes));
        });
        let checkpoint = Checkpoint::open(folder.path()).unwrap();
        let bias = checkpoint.transformer.final_layer.linear.bias.unwrap();
        assert_eq!((bias.name(), bias.values()), (name, vec![1.5; 16]));
    }
}

fn bundle() -> (TempDir, std::path::PathBuf) {
    let folder = tempfile::tempdir().unwrap();
    let bundle = folder.path().join("bundle");
    RandomCheckpoint::tiny().export(&bundle).unwrap();
    (folder, bundle)
}

fn refusal_of_bundle(bundle: &Path) -> String {
    told(Predictor::open(bundle, &Settings::default()).unwrap_err())
}

#[test]
fn a_changed_bundle_is_refused_by_the_file_that_changed() {
    let (_folder, bundle) = bundle();
    let weights = bundle.join("weights.bin");
    let whole = fs::read(&weights).unwrap();
    let mut changed = whole.clone();
    changed[whole.len() / 2] ^= 1;
    fs::write(&weights, &changed).unwrap();
    let message = refusal_of_bundle(&bundle);
    assert!(message.contains("weights.bin: sha256 is "), "{message}");
    fs::write(&weights, &whole[1..]).unwrap();
    let message = refusal_of_bundle(&bundle);
    assert!(message.contains(&format!("weights.bin: size is {}", whole.len() - 1)), "{message}");
    fs::remove_file(&weights).unwrap();
    assert!(refusal_of_bundle(&bundle).contains("weights.bin: cannot be read"));
    fs::remove_file(bundle.join("manifest.json")).unwrap();
    assert!(refusal_of_bundle(&bundle).contains("manifest.json: cannot be read"));
}

#[test]
fn a_manifest_that_lies_is_refused_by_the_tensor() {
    let (_folder, bundle) = bundle();
    let path = bundle.join("manifest.json");
    let text = fs::read_to_string(&path).unwrap();
    let edit = |change: &dyn Fn(&mut serde_json::Value)| {
        let mut value: serde_json::Value = serde_json::from_str(&text).unwrap();
        change(&mut value);
        fs::write(&path, value.to_string()).unwrap();
        refusal_of_bundle(&bundle)
    };
    let message = edit(&|manifest| manifest["graphs"]["denoise"]["inputs"][0]["dtype"] = "f16".into());
    let expected = "graph \"denoise\" input \"z\": manifest says f16[1, 3, 4, 4, 6], this program needs f32[1, 3, 4, 4, 6]";
    assert_eq!(message, expected);
    // Consistent within itself, and not what the graphs are.
    let message = edit(&|manifest| {
        manifest["geometry"]["clip"] = 2.into();
        for (graph, side) in
            [("denoise", "inputs"), ("denoise", "outputs"), ("decode", "inputs"), ("decode", "outputs")]
        {
            manifest["graphs"][graph][side][0]["shape"][1] = 2.into();
        }
    });
    let expected = "graph \"denoise\" input \"z\" is f32[1, 3, 4, 4, 6], manifest says f32[1, 2, 4, 4, 6]";
    assert_eq!(message, expected);
    let message = edit(&|manifest| manifest["schema"] = 7.into());
    assert!(message.contains("schema 7, this program reads 1 to 3"), "{message}");
}

#[test]
fn only_a_bundle_is_replaced_and_only_by_a_whole_one() {
    let (folder, bundle) = bundle();
    let before = fs::read_to_string(bundle.join("manifest.json")).unwrap();
    fs::write(bundle.join("note.txt"), "of the old one").unwrap();
    RandomCheckpoint { seed: 2, ..RandomCheckpoint::tiny() }.export(&bundle).unwrap();
    assert_ne!(fs::read_to_string(bundle.join("manifest.json")).unwrap(), before);
    assert!(!bundle.join("note.txt").exists());

    let precious = folder.path().join("precious");
    fs::create_dir(&precious).unwrap();
    fs::write(precious.join("photo.jpg"), "x").unwrap();
    let message = told(RandomCheckpoint::tiny().export(&precious).unwrap_err());
    assert!(message.contains("precious: exists and is not a bundle"), "{message}");
    assert!(precious.join("photo.jpg").exists());

    // Nothing of the work is left beside the bundle.
    let mut names: Vec<_> = fs::read_dir(folder.path()).unwrap().map(|e| e.unwrap().file_name()).collect();
    names.sort();
    assert_eq!(names, ["bundle", "precious"]);
}
