//! Graphs that TensorRT takes and graphs that it refuses, each with the rule it breaks.

mod quantised;
#[expect(unreachable_pub, reason = "it is public in the crate that it belongs to")]
#[path = "../../../tests/src/random_checkpoint.rs"]
mod random_checkpoint;
mod sketch;

use std::fs;
use std::path::Path;

use nextclip_export::check::{Rule, Target, check, check_in};
use nextclip_export::onnx::proto::Model;
use prost::Message;
use random_checkpoint::{MOTION, RandomCheckpoint};
use sketch::*;

#[test]
fn float_graphs_pass() {
    let summary = Sketch::new(20)
        .input("x", F32, &[2, 4, 16])
        .input("bytes", U8, &[2, 4, 8])
        .input("places", I64, &[3])
        .integers("flat", &[-1, 16])
        .integers("axes", &[-1])
        .integers("parts", &[6, 2])
        .floats("w", &[16, 8], 0.5)
        .node("Reshape", &["x", "flat"], "rows")
        .node("Gather", &["rows", "places"], "some")
        .node("MatMul", &["rows", "w"], "product")
        .node("ReduceMean", &["product", "axes"], "mean")
        .node("Sub", &["product", "mean"], "centred")
        .node_with("Cast", &["bytes"], "numbers", vec![int("to", F32.into())])
        .node_with("Transpose", &["numbers"], "turned", vec![ints("perm", &[1, 0, 2])])
        .node_with("Split", &["turned", "parts"], "left", vec![int("axis", 2)])
        .change("left", |node| node.output.push("right".into()))
        .output("some", F32, &[3, 16])
        .output("centred", F32, &[8, 8])
        .output("right", F32, &[4, 2, 2])
        .passes();
    assert_eq!((summary.nodes, summary.products, summary.quantised_products), (8, 1, 0));
    assert_eq!(summary.operators["MatMul"], 1);
}

#[test]
fn newer_operators_need_the_newer_target() {
    attention().check(Target::Trt).unwrap();
    attention().breaks_on(Target::Trt10, &[("model", Rule::Opset), ("y", Rule::Version)]);
    let older = Sketch { opset: 20, ..attention() };
    older.breaks_on(Target::Trt, &[("y", Rule::Opset)]);
    let past = attention().change("y", |node| node.input.extend(["".into(), "k".into(), "v".into()]));
    past.breaks_on(Target::Trt, &[("y", Rule::Condition), ("y", Rule::Condition)]);
}

#[test]
fn opsets() {
    Sketch { opset: 25, ..matmul() }.breaks(&[("model", Rule::Opset)]);
    Sketch { opset: 21, ..matmul() }.breaks_on(Target::Trt10, &[("model", Rule::Opset)]);
    Sketch { opset: 24, ..matmul() }.check(Target::Trt).unwrap();
    let mut none = matmul().model();
    none.opset_import.clear();
    let error = check(&none, Target::Trt10).unwrap_err();
    assert_eq!((error.violations[0].node.as_str(), error.violations[0].rule), ("model", Rule::Opset));
}

#[test]
fn foreign_operators() {
    let foreign = |op: &str, domain: &str| {
        let sketch = Sketch::new(20).input("x", F32, &[4, 4]).node(op, &["x"], "y").output("y", F32, &[4, 4]);
        sketch.change("y", |node| node.domain = domain.into())
    };
    foreign("Relu", "ai.onnx").passes();
    foreign("RotaryEmbedding", "com.microsoft").breaks(&[("y", Rule::Domain)]);
    foreign("MatMulNBits", "com.microsoft").breaks(&[("y", Rule::Operator)]);
    for op in ["QLinearConv", "QLinearMatMul", "ConvInteger", "MatMulInteger", "DynamicQuantizeLinear", "If"]
    {
        foreign(op, "").breaks(&[("y", Rule::Operator)]);
    }
}

#[test]
fn types() {
    let sum = |left: i32, right: i32| {
        let graph = Sketch::new(20).input("a", left, &[4]).input("b", right, &[4]);
        graph.node("Add", &["a", "b"], "y").output("y", left, &[4])
    };
    sum(F16, F16).passes();
    sum(I64, I64).passes();
    sum(F32, F16).breaks(&[("y", Rule::SameType)]);
    sum(U8, U8).breaks(&[("y", Rule::ElementType), ("y", Rule::ElementType)]);
    let doubles = ["a", "b", "y", "y", "y"].map(|name| (name, Rule::ElementType));
    sum(F64, F64).breaks(&doubles);
    let cast = sum(F32, F16).node_with("Cast", &["y"], "half", vec![int("to", F16.into())]);
    let cast = cast.change("y", |node| node.input[1] = "a".into()).output("half", F16, &[4]);
    cast.clone().passes();
    cast.output("half", F32, &[4]).breaks(&[("half", Rule::SameType)]);
}

#[test]
fn bytes_stay_at_the_border() {
    let cast = Sketch::new(20)
        .input("x", F32, &[4])
        .node_with("Cast", &["x"], "y", vec![int("to", U8.into())])
        .output("y", U8, &[4]);
    cast.clone().passes();
    let copied = cast.node("Identity", &["y"], "copy").output("copy", U8, &[4]);
    copied.breaks(&[("copy", Rule::ElementType)]);
    let inner = Sketch::new(20)
        .input("x", F32, &[4])
        .node_with("Cast", &["x"], "inner", vec![int("to", U8.into())])
        .node_with("Cast", &["inner"], "y", vec![int("to", F32.into())])
        .output("y", F32, &[4]);
    inner.breaks(&[("inner", Rule::ElementType)]);
}

#[test]
fn shapes_are_static_and_fit() {
    let sigmoid = |shape: &[i64]| {
        Sketch::new(20).input("x", F32, shape).node("Sigmoid", &["x"], "y").output("y", F32, &[2, 4])
    };
    sigmoid(&[2, 4]).passes();
    sigmoid(&[0, 4]).breaks(&[("x", Rule::StaticShape)]);
    sigmoid(&[4, 2]).breaks(&[("y", Rule::Graph)]);
    let reshaped = Sketch::new(20)
        .input("x", F32, &[8])
        .input("shape", I64, &[2])
        .node("Reshape", &["x", "shape"], "y")
        .output("y", F32, &[2, 4]);
    reshaped.breaks(&[("y", Rule::StaticShape)]);
    let unfit = Sketch::new(20)
        .input("x", F32, &[8, 4])
        .floats("w", &[5, 2], 0.0)
        .node("MatMul", &["x", "w"], "y")
        .output("y", F32, &[8, 2]);
    unfit.breaks(&[("y", Rule::Graph)]);
}

#[test]
fn tensors_are_made_once_before_they_are_read() {
    let missing = matmul().change("y", |node| node.input[0] = "nowhere".into());
    let found = missing.check(Target::Trt10).unwrap_err();
    assert!(found.violations.iter().any(|v| v.node == "y" && v.rule == Rule::Graph), "{found}");
    let twice = Sketch::new(20)
        .input("x", F32, &[4])
        .node("Sin", &["x"], "y")
        .node("Cos", &["x"], "y")
        .output("y", F32, &[4]);
    twice.breaks(&[("y", Rule::Graph)]);
    conv().output("no one", F32, &[4]).breaks(&[("no one", Rule::Graph)]);
}

#[test]
fn operators_conditions() {
    let resize = |mode: &str| {
        let scales: Vec<u8> = [1.0_f32, 1.0, 2.0, 2.0].iter().flat_map(|scale| scale.to_le_bytes()).collect();
        Sketch::new(20)
            .input("x", F32, &[1, 3, 4, 4])
            .constant("scales", F32, &[4], scales)
            .node_with("Resize", &["x", "", "scales"], "y", vec![text("mode", mode)])
            .output("y", F32, &[1, 3, 8, 8])
    };
    resize("nearest").passes();
    resize("cubic").breaks(&[("y", Rule::Condition)]);
    let pool = |rank: usize| {
        let shape = &[1, 3, 4, 4][..rank];
        let kernel = vec![ints("kernel_shape", &vec![1; rank - 2])];
        Sketch::new(20)
            .input("x", F32, shape)
            .node_with("AveragePool", &["x"], "y", kernel)
            .output("y", F32, shape)
    };
    pool(4).passes();
    pool(3).breaks(&[("y", Rule::Condition)]);
    // Parsers take the name of opset 20 for the nearest pixel.
    let sample = |opset: i64, mode: &str| {
        Sketch::new(opset)
            .input("x", F32, &[1, 3, 4, 4])
            .input("places", F32, &[1, 6, 5, 2])
            .node_with("GridSample", &["x", "places"], "y", vec![text("mode", mode)])
            .output("y", F32, &[1, 3, 6, 5])
    };
    sample(19, "bilinear").passes();
    sample(20, "linear").breaks(&[("y", Rule::Condition)]);
    sample(15, "bilinear").breaks(&[("y", Rule::Opset)]);
}

#[test]
fn all_violations_are_reported_at_once() {
    let sketch = matmul()
        .replace("zero", |s| s.bytes("zero", I8, &[], 1))
        .replace("w scale", |s| s.floats("w scale", &[48], -1.0))
        .node("QLinearMatMul", &["y"], "z");
    let error = sketch.check(Target::Trt10).unwrap_err();
    let text = error.to_string();
    assert_eq!(error.violations.len(), 4, "{text}");
    assert!(text.starts_with("TensorRT 10.3 does not accept the graph, 4 places:"), "{text}");
    assert!(text.contains("\n  w dq: scale: w scale[0] is -1, and must be above 0"), "{text}");
    assert!(text.contains("\n  z: operator: QLinearMatMul is none of TensorRT's; write MatMul"), "{text}");
}

/// Graphs that are made for ONNX Runtime's CPU provider keep all rules but one: it has a rotary embedding of its own.
#[test]
fn exported_graphs() {
    let folder = tempfile::tempdir().unwrap();
    let bundle = folder.path().join("bundle");
    RandomCheckpoint::tiny().with_motion(MOTION).export(&bundle).unwrap();
    for name in ["encode", "remember", "denoise", "decode"] {
        for target in [Target::Trt10, Target::Trt] {
            let result = check_in(&model(&bundle.join(format!("{name}.onnx"))), target, &bundle);
            for violation in result.err().into_iter().flat_map(|error| error.violations) {
                let is_rotary =
                    violation.rule == Rule::Domain && violation.detail.contains("RotaryEmbedding");
                assert!(is_rotary, "{name} for {target}: {violation}");
            }
        }
    }
}

fn model(path: &Path) -> Model {
    Model::decode(&*fs::read(path).expect("a file")).expect("a model")
}
