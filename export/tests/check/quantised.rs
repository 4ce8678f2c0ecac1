//! Rules of quantisation: symmetric, of the right granularity, in the right places, and worth it.

use std::fs;

use nextclip_export::check::{CheckError, Rule, Summary, Target, check, check_in};
use nextclip_export::onnx::proto::{EXTERNAL, StringStringEntry};

use crate::sketch::*;

#[test]
fn quantised_products_pass() {
    let summary = matmul().passes();
    assert_eq!((summary.products, summary.quantised_products, summary.weight_only_products), (1, 1, 0));
    assert_eq!(conv().passes().quantised_products, 1);
    let turned = quantised_input(&[32, 64])
        .bytes("w", I8, &[48, 64], 3)
        .floats("w scale", &[48], 0.25)
        .node_with("DequantizeLinear", &["w", "w scale"], "w dq", vec![int("axis", 0)])
        .node_with("Gemm", &["x dq", "w dq"], "y", vec![int("transB", 1)])
        .output("y", F32, &[32, 48]);
    assert_eq!(turned.passes().quantised_products, 1);
}

#[test]
fn four_bit_weights_pass() {
    let summary = four_bits().passes();
    assert_eq!((summary.quantised_products, summary.weight_only_products), (0, 1));
    let error = Sketch { opset: 20, ..four_bits() }.check(Target::Trt10).unwrap_err();
    assert_eq!(error.violations[0].rule, Rule::Granularity);
    assert!(error.to_string().contains("block_size 32 in opset 20"), "{error}");
}

#[test]
fn residual_sums_may_be_quantised() {
    let sum = matmul()
        .input("r", F32, &[2, 32, 48])
        .node("QuantizeLinear", &["r", "x scale", "zero"], "r q")
        .node("DequantizeLinear", &["r q", "x scale", "zero"], "r dq")
        .node("Add", &["y", "r dq"], "sum")
        .output("sum", F32, &[2, 32, 48]);
    sum.passes();
}

#[test]
fn zero_points_are_zero() {
    let nonzero = matmul().replace("zero", |s| s.bytes("zero", I8, &[], 1));
    nonzero.breaks(&[("q", Rule::ZeroPoint), ("x dq", Rule::ZeroPoint)]);
    let wide = matmul().replace("w zero", |s| s.bytes("w zero", I8, &[], 0));
    wide.breaks(&[("w dq", Rule::ZeroPoint)]);
    let unsigned = matmul().replace("zero", |s| s.bytes("zero", U8, &[], 0));
    unsigned.breaks(&[("q", Rule::ElementType)]);
    // Without one, ONNX makes unsigned integers of it.
    let none = matmul().change("q", |node| drop(node.input.pop()));
    let none = none.change("x dq", |node| drop(node.input.pop()));
    none.breaks(&[("q", Rule::ElementType)]);
    let computed = matmul().replace("w zero", |s| s.input("w zero", I8, &[48]));
    computed.breaks(&[("w zero", Rule::ElementType), ("w dq", Rule::ZeroPoint)]);
}

#[test]
fn scales_are_positive_constants() {
    let zero = conv().replace("w scale", |s| s.floats("w scale", &[16], 0.0));
    zero.breaks(&[("w dq", Rule::Scale)]);
    let not_a_number = conv().replace("w scale", |s| s.floats("w scale", &[16], f32::NAN));
    not_a_number.breaks(&[("w dq", Rule::Scale)]);
    let input = conv().replace("w scale", |s| s.input("w scale", F32, &[16]));
    input.breaks(&[("w dq", Rule::Scale)]);
    let half = matmul().replace("x scale", |s| s.constant("x scale", F16, &[], vec![0, 60]));
    half.breaks(&[("y", Rule::SameType), ("q", Rule::Scale)]);
    let integer = matmul().replace("w scale", |s| s.constant("w scale", I32, &[48], vec![1; 192]));
    integer.breaks(&[("w dq", Rule::Scale)]);
}

#[test]
fn granularity() {
    let channels = quantised_input(&[2, 32, 64])
        .replace("x scale", |s| s.floats("x scale", &[64], 0.5))
        .replace("zero", |s| s.bytes("zero", I8, &[64], 0))
        .floats("w", &[64, 48], 0.5)
        .node("MatMul", &["x dq", "w"], "y")
        .output("y", F32, &[2, 32, 48]);
    channels.breaks(&[("q", Rule::Granularity), ("x dq", Rule::Granularity), ("y", Rule::Placement)]);
    let square = |axis: i64| {
        matmul()
            .replace("w", |s| s.bytes("w", I8, &[64, 64], 3))
            .replace("w scale", |s| s.floats("w scale", &[64], 0.5))
            .replace("w zero", |s| s.bytes("w zero", I8, &[64], 0))
            .change("w dq", |node| node.attribute = vec![int("axis", axis)])
    };
    let narrow = |sketch: Sketch| {
        let mut sketch = sketch;
        sketch.graph.output = vec![value("y", F32, &[2, 32, 64])];
        sketch
    };
    narrow(square(1)).passes();
    narrow(square(-1)).passes();
    narrow(square(0)).breaks(&[("w dq", Rule::Granularity)]);
    conv().change("w dq", |node| node.attribute.clear()).breaks(&[("w dq", Rule::Granularity)]);
}

#[test]
fn blocks_of_four_bits() {
    let unblocked = four_bits().change("w dq", |node| drop(node.attribute.pop()));
    unblocked.breaks(&[("w dq", Rule::Granularity)]);
    let odd = four_bits().change("w dq", |node| node.attribute[1] = int("block_size", 24));
    odd.breaks(&[("w dq", Rule::Granularity)]);
    let columns = four_bits()
        .replace("w scale", |s| s.floats("w scale", &[64, 3], 0.25))
        .change("w dq", |node| node.attribute = vec![int("axis", 1), int("block_size", 16)]);
    columns.breaks(&[("w dq", Rule::Granularity)]);
    let eight = four_bits().replace("w", |s| s.bytes("w", I8, &[64, 48], 1));
    eight.clone().breaks_on(Target::Trt, &[("w dq", Rule::Granularity), ("y", Rule::Placement)]);
}

#[test]
fn quantised_are_inputs_and_not_results() {
    let result = matmul()
        .node("QuantizeLinear", &["y", "x scale", "zero"], "y q")
        .node("DequantizeLinear", &["y q", "x scale", "zero"], "y dq")
        .node("Sigmoid", &["y dq"], "z")
        .output("z", F32, &[2, 32, 48]);
    result.clone().breaks(&[("y dq", Rule::Placement)]);
    result.output("y dq", F32, &[2, 32, 48]).breaks(&[("y dq", Rule::Placement), ("y dq", Rule::Placement)]);
    let bias = conv()
        .bytes("b", I8, &[16], 1)
        .node("DequantizeLinear", &["b", "x scale"], "b dq")
        .change("y", |node| node.input[2] = "b dq".into());
    let mut bias = bias;
    bias.graph.node.swap(3, 4);
    bias.breaks(&[("b dq", Rule::Placement)]);
    let half = matmul().floats("float", &[64, 48], 0.5).change("y", |node| node.input[1] = "float".into());
    half.breaks(&[("y", Rule::Placement)]);
    let weights = matmul().change("y", |node| node.input[0] = "x".into());
    weights.breaks(&[("y", Rule::Placement)]);
}

#[test]
fn small_products_stay_float() {
    let product = |rows: i64, inner: i64, columns: i64| {
        quantised_input(&[rows, inner])
            .bytes("w", I8, &[inner, columns], 3)
            .node("DequantizeLinear", &["w", "x scale"], "w dq")
            .node("MatMul", &["x dq", "w dq"], "y")
            .output("y", F32, &[rows, columns])
    };
    product(2, 16, 16).passes();
    for (rows, inner, columns) in [(1, 64, 64), (8, 15, 64), (8, 64, 15), (8, 64, 1)] {
        product(rows, inner, columns).breaks(&[("y", Rule::SmallProduct)]);
    }
    let channels = quantised_input(&[2, 8, 16, 16])
        .bytes("w", I8, &[16, 8, 1, 1], 3)
        .node("DequantizeLinear", &["w", "x scale"], "w dq")
        .node("Conv", &["x dq", "w dq"], "y")
        .output("y", F32, &[2, 16, 16, 16]);
    channels.breaks(&[("y", Rule::SmallProduct)]);
}

#[test]
fn long_attention_stays_float() {
    let scores = |tokens: i64| {
        quantised_input(&[4, 64, 64])
            .input("k", F32, &[4, 64, tokens])
            .node("QuantizeLinear", &["k", "x scale", "zero"], "k q")
            .node("DequantizeLinear", &["k q", "x scale", "zero"], "k dq")
            .node("MatMul", &["x dq", "k dq"], "y")
            .output("y", F32, &[4, 64, tokens])
    };
    scores(512).passes();
    scores(513).breaks(&[("y", Rule::LongAttention)]);
}

#[test]
fn external_data_is_read_from_the_folder() {
    let folder = tempfile::tempdir().unwrap();
    let scales: Vec<u8> = 0.5_f32.to_le_bytes().repeat(16);
    fs::write(folder.path().join("weights.bin"), [vec![0; 8], scales].concat()).unwrap();
    let placed = |location: &str, offset: u64| {
        let mut sketch = conv();
        let tensor = sketch.graph.initializer.iter_mut().find(|tensor| tensor.name == "w scale").unwrap();
        let entry = |key: &str, value: String| StringStringEntry { key: key.into(), value };
        tensor.raw_data = None;
        tensor.data_location = EXTERNAL;
        tensor.external_data = vec![
            entry("location", location.into()),
            entry("offset", offset.to_string()),
            entry("length", "64".into()),
        ];
        sketch.model()
    };
    check_in(&placed("weights.bin", 8), Target::Trt10, folder.path()).unwrap();
    let broken = |result: Result<Summary, CheckError>| {
        let violations = result.expect_err("a rule is broken").violations;
        violations.iter().map(|violation| (violation.node.clone(), violation.rule)).collect::<Vec<_>>()
    };
    let zeros = broken(check_in(&placed("weights.bin", 0), Target::Trt10, folder.path()));
    assert_eq!(zeros, [("w dq".to_owned(), Rule::Scale)]);
    let unreadable = [("w dq".to_owned(), Rule::Readable)];
    assert_eq!(broken(check_in(&placed("weights.bin", 9), Target::Trt10, folder.path())), unreadable);
    assert_eq!(broken(check_in(&placed("../weights.bin", 8), Target::Trt10, folder.path())), unreadable);
    assert_eq!(broken(check_in(&placed("none.bin", 8), Target::Trt10, folder.path())), unreadable);
    assert_eq!(broken(check(&placed("weights.bin", 8), Target::Trt10)), unreadable);
}

#[test]
fn scales_of_half_precision_need_their_opset() {
    let half = |opset| {
        Sketch::new(opset)
            .input("x", F16, &[2, 32, 64])
            .constant("x scale", F16, &[], vec![0x00, 0x38])
            .bytes("zero", I8, &[], 0)
            .node("QuantizeLinear", &["x", "x scale", "zero"], "q")
            .node("DequantizeLinear", &["q", "x scale", "zero"], "x dq")
            .bytes("w", I8, &[64, 48], 3)
            .constant("w scale", F16, &[48], [0x00, 0x34].repeat(48))
            .node_with("DequantizeLinear", &["w", "w scale"], "w dq", vec![int("axis", 1)])
            .node("MatMul", &["x dq", "w dq"], "y")
            .output("y", F16, &[2, 32, 48])
    };
    assert_eq!(half(20).passes().quantised_products, 1);
    half(18).breaks(&["q", "x dq", "w dq"].map(|node| (node, Rule::Opset)));
}
