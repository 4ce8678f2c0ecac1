//! 8-bit and blockwise weights, smoothing and the error measures.

use nextclip_quant::{
    Bits, BlockFormat, BlockScale, Error, bias_i32, cosine, max_abs, pack_int4, per_block, per_channel,
    per_channel_in_pairs, per_channel_mse, per_tensor, smooth_scales, sqnr_db, unpack_int4,
};
use proptest::prelude::*;

fn tensor() -> impl Strategy<Value = (Vec<usize>, Vec<f32>, usize)> {
    (prop::collection::vec(1_usize..6, 1..4)).prop_flat_map(|shape| {
        let count: usize = shape.iter().product();
        let axis = 0..shape.len();
        (Just(shape), prop::collection::vec(-100.0_f32..100.0, count), axis)
    })
}

fn matrix() -> impl Strategy<Value = ([usize; 2], Vec<f32>, BlockFormat)> {
    (1_usize..40, 1_usize..20, 1_usize..48, prop::bool::ANY).prop_flat_map(|(k, n, block, four)| {
        let bits = if four { Bits::Four } else { Bits::Eight };
        (Just([k, n]), prop::collection::vec(-3.0_f32..3.0, k * n), Just(BlockFormat { bits, block }))
    })
}

fn squared_error(a: &[f32], b: &[f32]) -> f64 {
    a.iter().zip(b).map(|(a, b)| f64::from(a - b).powi(2)).sum()
}

#[test]
fn neighbours_that_are_too_large_together_are_moved() {
    // In order of their sums: (127, 127), which the finest scale would make 64 and 64, and weights that need it.
    let mut weights = vec![1.0 / 127.0; 2000];
    weights[0] = 1.0;
    weights[1000] = 1.0;
    let rows = |_| (0..1000).flat_map(|index| [index, index + 1000]);
    let found = per_channel_in_pairs(&weights, 1, rows).unwrap();
    assert_eq!((found.values[0], found.values[1000]), (64, 64));
    let apart = per_channel_in_pairs(&weights, 1, |_| 0..2000).unwrap();
    assert_eq!((apart.values[0], apart.values[1000], apart.scales[0]), (127, 127, 1.0 / 127.0));
    assert!(per_channel_in_pairs(&[0.0, f32::NAN], 1, |_| 0..2).unwrap_err().to_string().contains('1'));
}

proptest! {
    #[test]
    fn neighbours_never_leave_16_bits(
        values in prop::collection::vec(-1.0_f32..1.0, 2..40), a: u8, b: u8, outputs in 1_usize..3
    ) {
        let inputs = values.len() / outputs;
        let values = &values[..inputs * outputs];
        let found = per_channel_in_pairs(values, outputs, |row| row * inputs..(row + 1) * inputs).unwrap();
        prop_assert_eq!(found.scales.len(), outputs);
        for (row, floats) in found.values.chunks(inputs).zip(values.chunks(inputs)) {
            for pair in row.chunks_exact(2) {
                let sum = i32::from(a) * i32::from(pair[0]) + i32::from(b) * i32::from(pair[1]);
                prop_assert!(i16::try_from(sum).is_ok(), "{pair:?} times {a} and {b} is {sum}");
            }
            prop_assert!(row.iter().zip(floats).all(|(integer, float)| f32::from(*integer) * float >= 0.0));
        }
        let back = found.dequantise(&[outputs, inputs], 0).unwrap();
        let error = squared_error(&back, values);
        // No worse than with a bit less everywhere.
        let coarse: f64 = values.chunks(inputs).map(|row| {
            let step = row.iter().fold(0.0_f32, |most, value| most.max(value.abs())) / 63.5;
            let round = |value: &f32| (value / step.max(f32::MIN_POSITIVE)).round_ties_even() * step;
            squared_error(&row.iter().map(round).collect::<Vec<_>>(), row)
        }).sum();
        prop_assert!(error <= coarse * 1.001 + 1e-9, "{error} against {coarse}");
    }
}

#[test]
fn each_channel_has_its_own_scale() {
    // [K, N] with outputs in columns: axis 1.
    let weights = [127.0, 1.0, -63.5, 0.5];
    let by_column = per_channel(&weights, &[2, 2], 1).unwrap();
    assert_eq!(by_column.scales, [1.0, 1.0 / 127.0]);
    assert_eq!(by_column.values, [127, 127, -64, 64], "63.5 goes to the even 64 on both sides of zero");
    let by_row = per_channel(&weights, &[2, 2], 0).unwrap();
    assert_eq!(by_row.scales, [1.0, 0.5]);
    assert_eq!(by_row.values, [127, 1, -127, 1]);
    assert_eq!(per_tensor(&weights).unwrap().scales, [1.0]);
}

#[test]
fn a_channel_of_zeroes_has_a_usable_scale() {
    let quantised = per_channel(&[0.0, 0.0, 1.0, -1.0], &[2, 2], 0).unwrap();
    assert!(quantised.scales.iter().all(|scale| scale.is_normal() && *scale > 0.0));
    assert_eq!(quantised.values, [0, 0, 127, -127]);
}

#[test]
fn bad_weights_are_named() {
    let weights = [1.0, 2.0, f32::NAN, 4.0];
    let error = per_channel(&weights, &[2, 2], 0).unwrap_err();
    assert_eq!(error.to_string(), "weights[2] is NaN: only finite values can be quantised");
    let error = per_channel_mse(&[f32::INFINITY], &[1], 0).unwrap_err();
    assert_eq!(error.to_string(), "weights[0] is inf: only finite values can be quantised");
    assert_eq!(per_channel(&weights, &[2, 2], 2).unwrap_err(), Error::Axis { axis: 2, shape: vec![2, 2] });
    let error = per_channel(&weights, &[3, 2], 0).unwrap_err();
    assert_eq!(error.to_string(), "weights holds 4 values, shape [3, 2] needs 6");
    assert!(per_channel(&weights, &[usize::MAX, 2], 0).is_err());
    let format = BlockFormat { bits: Bits::Four, block: 0 };
    assert!(per_block(&[1.0], [1, 1], format, BlockScale::Mse).is_err());
}

#[test]
fn clipping_an_outlier_pays_at_four_bits() {
    // 1023 weights evenly in ±1 and one at 4, within one block.
    let mut weights: Vec<f32> = (0..1023).map(|i| i as f32 / 511.0 - 1.0).collect();
    weights.push(4.0);
    let format = BlockFormat { bits: Bits::Four, block: 1024 };
    let error = |rule| {
        let quantised = per_block(&weights, [1024, 1], format, rule).unwrap();
        squared_error(&weights, &quantised.dequantise())
    };
    let (plain, clipped) = (error(BlockScale::MinMax), error(BlockScale::Mse));
    assert!(clipped < 0.5 * plain, "clipped {clipped}, plain {plain}");
}

#[test]
fn int4_packs_the_first_value_low() {
    assert_eq!(pack_int4(&[1, -1, 7, -8, 3]), [0xf1, 0x87, 0x03]);
    assert_eq!(unpack_int4(&[0xf1, 0x87, 0x03], 5), [1, -1, 7, -8, 3]);
    assert_eq!(unpack_int4(&[0xf1], 5), [1, -1], "fewer where the bytes end");
}

#[test]
fn matmul_nbits_layout() {
    // K = 17: the second block of 16 holds one weight and fifteen zeroes.
    let mut weights = vec![0.0_f32; 17 * 2];
    (weights[0], weights[1], weights[2], weights[32]) = (7.0, -7.0, 1.0, 3.5);
    let format = BlockFormat { bits: Bits::Four, block: 16 };
    let quantised = per_block(&weights, [17, 2], format, BlockScale::MinMax).unwrap();
    assert_eq!(quantised.scales[..3], [1.0, 1.0, 0.5]);
    let (bytes, scales) = quantised.matmul_nbits().unwrap();
    assert_eq!(bytes.len(), 2 * 2 * 8);
    assert_eq!(scales[..3], [1.0, 0.5, 1.0], "[N, blocks]");
    assert_eq!(bytes[0], 0x9f, "input 0 (7 + 8) low, input 1 (1 + 8) high");
    assert_eq!(bytes[8], 0x8f, "second block: 3.5 / 0.5, then padding");
    assert_eq!(bytes[16], 0x81, "second output: -7 + 8");
    let odd = BlockFormat { bits: Bits::Four, block: 24 };
    let error = per_block(&weights, [17, 2], odd, BlockScale::MinMax).unwrap().matmul_nbits().unwrap_err();
    assert_eq!(error.to_string(), "block is 24, must be a power of two from 16 to K rounded up to one");
}

#[test]
fn smoothing_evens_out_and_keeps_the_product() {
    let (activation_max, weight_max) = ([100.0, 1.0, 0.01], [0.5, 0.5, 0.5]);
    let scales = smooth_scales(&activation_max, &weight_max, 0.5).unwrap();
    let smooth: Vec<f32> = activation_max.iter().zip(&scales).map(|(a, s)| a / s).collect();
    let scaled: Vec<f32> = weight_max.iter().zip(&scales).map(|(w, s)| w * s).collect();
    // At one half both sides end up with the same magnitude, channel by channel.
    for (a, w) in smooth.iter().zip(&scaled) {
        assert!((a / w - 1.0).abs() < 1e-5, "{a} {w}");
    }
    let same = smooth_scales(&[2.0, 8.0], &[1.0, 1.0], 1.0).unwrap();
    assert_eq!(same, [2.0, 8.0]);
}

#[test]
fn smoothing_bad_input() {
    assert!(smooth_scales(&[1.0], &[1.0, 2.0], 0.5).is_err());
    assert!(smooth_scales(&[-1.0], &[1.0], 0.5).is_err());
    assert!(smooth_scales(&[f32::NAN], &[1.0], 0.5).is_err());
    let error = smooth_scales(&[1.0], &[1.0], 1.5).unwrap_err();
    assert_eq!(error.to_string(), "alpha is 1.5, must be between 0 and 1");
}

#[test]
fn a_bias_is_counted_in_the_accumulators_unit() {
    assert_eq!(bias_i32(&[1.0, -1.0, 0.25], 0.5, &[0.1, 1.0, 1.0]).unwrap(), [20, -2, 0]);
    assert_eq!(bias_i32(&[1.0, 2.0], 0.5, &[0.5]).unwrap(), [4, 8]);
    assert!(bias_i32(&[1.0, 2.0], 0.5, &[0.5; 3]).is_err());
    let error = bias_i32(&[0.0, 1.0], 0.5_f32.powi(20), &[0.5_f32.powi(20)]).unwrap_err();
    assert_eq!(error.to_string(), "bias[1] is 1: in units of 9.094947017729282e-13 that is beyond 32 bits");
}

#[test]
fn measures_of_known_errors() {
    assert_eq!(sqnr_db(&[3.0, 4.0], &[3.0, 4.0]), f64::INFINITY);
    assert!((sqnr_db(&[10.0, 0.0], &[9.0, 0.0]) - 20.0).abs() < 1e-12);
    assert_eq!(cosine(&[1.0, 0.0], &[0.0, 2.0]), 0.0);
    assert!((cosine(&[1.0, 2.0], &[2.0, 4.0]) - 1.0).abs() < 1e-12);
    assert_eq!(max_abs(&[1.0, 2.0], &[1.0, -2.0]), 4.0);
    assert!(max_abs(&[f32::NAN, 1.0], &[1.0, 3.0]).is_nan());
    assert!(sqnr_db(&[1.0], &[]).is_nan() && cosine(&[1.0], &[]).is_nan() && max_abs(&[1.0], &[]).is_nan());
}

proptest! {
    #[test]
    fn channel_round_trip_is_within_half_a_step((shape, weights, axis) in tensor()) {
        let quantised = per_channel(&weights, &shape, axis).unwrap();
        let back = quantised.dequantise(&shape, axis).unwrap();
        let inner: usize = shape[axis + 1..].iter().product();
        for (i, (weight, back)) in weights.iter().zip(&back).enumerate() {
            let scale = quantised.scales[i / inner % shape[axis]];
            prop_assert!((weight - back).abs() <= scale * 0.5001);
        }
        prop_assert!(quantised.values.iter().all(|value| *value != -128));
    }

    #[test]
    fn searching_the_scale_never_hurts((shape, weights, axis) in tensor()) {
        let plain = per_channel(&weights, &shape, axis).unwrap().dequantise(&shape, axis).unwrap();
        let searched = per_channel_mse(&weights, &shape, axis).unwrap().dequantise(&shape, axis).unwrap();
        let bound = squared_error(&weights, &plain) * 1.001 + 1e-9;
        prop_assert!(squared_error(&weights, &searched) <= bound);
    }

    #[test]
    fn block_round_trip_is_within_half_a_step((shape, weights, format) in matrix()) {
        let quantised = per_block(&weights, shape, format, BlockScale::MinMax).unwrap();
        prop_assert_eq!(quantised.scales.len(), shape[0].div_ceil(format.block) * shape[1]);
        for (i, (weight, back)) in weights.iter().zip(quantised.dequantise()).enumerate() {
            let scale = quantised.scales[i / shape[1] / format.block * shape[1] + i % shape[1]];
            prop_assert!((weight - back).abs() <= scale * 0.5001);
        }
        let searched = per_block(&weights, shape, format, BlockScale::Mse).unwrap().dequantise();
        let plain = squared_error(&weights, &quantised.dequantise());
        prop_assert!(squared_error(&weights, &searched) <= plain * 1.001 + 1e-9);
    }

    #[test]
    fn packed_integers_come_back(values in prop::collection::vec(-8_i8..8, 0..40)) {
        prop_assert_eq!(unpack_int4(&pack_int4(&values), values.len()), values);
    }

    #[test]
    fn smoothing_factors_are_usable(
        channels in prop::collection::vec((0.0_f32..1e30, 0.0_f32..1e30), 1..20), alpha in 0.0_f32..=1.0
    ) {
        let (activations, weights): (Vec<f32>, Vec<f32>) = channels.into_iter().unzip();
        let scales = smooth_scales(&activations, &weights, alpha).unwrap();
        prop_assert!(scales.iter().all(|scale| scale.is_normal() && *scale > 0.0));
    }
}
