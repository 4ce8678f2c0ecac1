//! GPTQ, AWQ and rotations against plain rounding, on inputs like those of real layers.

use nextclip_quant::{
    Bits, BlockFormat, BlockScale, Error, GptqSettings, Hessian, Rotation, awq_scales, gptq, max_abs,
    per_block, sqnr_db,
};
use rand::SeedableRng;
use rand_chacha::ChaCha8Rng;
use rand_distr::{Distribution, Normal};

const FORMAT: BlockFormat = BlockFormat { bits: Bits::Four, block: 32 };

fn normal(count: usize, seed: u64) -> Vec<f32> {
    let mut rng = ChaCha8Rng::seed_from_u64(seed);
    Normal::new(0.0_f32, 1.0).expect("a spread of 1").sample_iter(&mut rng).take(count).collect()
}

/// `[rows, K]` times `[K, N]`.
fn product(inputs: &[f32], weights: &[f32], k: usize) -> Vec<f32> {
    let n = weights.len() / k;
    let mut outputs = vec![0.0; inputs.len() / k * n];
    for (row, output) in inputs.chunks(k).zip(outputs.chunks_mut(n)) {
        for (x, weights) in row.iter().zip(weights.chunks(n)) {
            output.iter_mut().zip(weights).for_each(|(sum, weight)| *sum += x * weight);
        }
    }
    outputs
}

/// Rows whose K inputs share a few causes, as the activations of a network do.
fn correlated(rows: usize, k: usize, seed: u64) -> Vec<f32> {
    let causes = k / 8;
    let mut inputs = product(&normal(rows * causes, seed), &normal(causes * k, 99), causes);
    inputs.iter_mut().zip(normal(rows * k, seed + 1)).for_each(|(x, noise)| *x += 0.5 * noise);
    inputs
}

fn hessian(inputs: &[f32], k: usize) -> Hessian {
    let mut hessian = Hessian::new(k);
    hessian.add(inputs).expect("rows of K finite inputs");
    hessian
}

#[test]
fn gptq_beats_round_to_nearest_on_correlated_inputs() {
    for (k, n) in [(64, 24), (200, 50)] {
        let (seen, unseen) = (correlated(1024, k, 1), correlated(512, k, 3));
        let weights = normal(k * n, 5);
        let truth = product(&unseen, &weights, k);
        let outcome = |rounded: Vec<f32>| sqnr_db(&truth, &product(&unseen, &rounded, k));
        let nearest = outcome(per_block(&weights, [k, n], FORMAT, BlockScale::Mse).unwrap().dequantise());
        let hessian = hessian(&seen, k);
        for by_energy in [false, true] {
            let settings = GptqSettings { by_energy, ..GptqSettings::default() };
            let rounded = gptq(&weights, [k, n], &hessian, FORMAT, &settings).unwrap();
            let better = outcome(rounded.dequantise());
            println!("K {k}, by energy {by_energy}: nearest {nearest:.2} dB, GPTQ {better:.2} dB");
            assert!(
                better > nearest + 2.0,
                "nearest {nearest} dB, GPTQ {better} dB on inputs not calibrated with"
            );
        }
    }
}

#[test]
fn gptq_with_independent_inputs_is_round_to_nearest() {
    let k = 48;
    // The identity: no input can make good what another lost.
    let inputs: Vec<f32> = (0..k * k).map(|i| if i % (k + 1) == 0 { 2.0 } else { 0.0 }).collect();
    let weights = normal(k * 7, 8);
    let settings = GptqSettings { scale: BlockScale::MinMax, ..GptqSettings::default() };
    let rounded = gptq(&weights, [k, 7], &hessian(&inputs, k), FORMAT, &settings).unwrap();
    assert_eq!(rounded, per_block(&weights, [k, 7], FORMAT, BlockScale::MinMax).unwrap());
}

/// The algorithm as its paper writes it, one column at a time on the inverse Hessian itself.
fn plain_gptq(weights: &[f32], [k, n]: [usize; 2], inputs: &[f32], scales: &[f32]) -> Vec<i8> {
    let mut h = vec![vec![0.0_f64; k]; k];
    for row in inputs.chunks(k) {
        for i in 0..k {
            for j in 0..k {
                h[i][j] += f64::from(row[i]) * f64::from(row[j]);
            }
        }
    }
    let mean = (0..k).map(|i| h[i][i]).sum::<f64>() / k as f64;
    (0..k).for_each(|i| h[i][i] += 0.01 * mean);
    let mut inverse = inverted(h);
    let mut work: Vec<f64> = weights.iter().map(|weight| f64::from(*weight)).collect();
    let mut values = vec![0_i8; k * n];
    for i in 0..k {
        for column in 0..n {
            let scale = f64::from(scales[i / FORMAT.block * n + column]);
            let weight = work[i * n + column];
            let rounded = (weight / scale).round_ties_even().clamp(-8.0, 7.0);
            values[i * n + column] = rounded as i8;
            let error = (weight - rounded * scale) / inverse[i][i];
            for j in i + 1..k {
                work[j * n + column] -= error * inverse[i][j];
            }
        }
        // The inverse of the Hessian without input i.
        let row = inverse[i].clone();
        for j in i + 1..k {
            for l in i + 1..k {
                inverse[j][l] -= row[j] * row[l] / row[i];
            }
        }
    }
    values
}

fn inverted(mut matrix: Vec<Vec<f64>>) -> Vec<Vec<f64>> {
    let k = matrix.len();
    let mut inverse: Vec<Vec<f64>> =
        (0..k).map(|i| (0..k).map(|j| f64::from(u8::from(i == j))).collect()).collect();
    for i in 0..k {
        let pivot = matrix[i][i];
        matrix[i].iter_mut().chain(&mut inverse[i]).for_each(|value| *value /= pivot);
        for j in (0..k).filter(|j| *j != i) {
            let factor = matrix[j][i];
            for l in 0..k {
                matrix[j][l] -= factor * matrix[i][l];
                inverse[j][l] -= factor * inverse[i][l];
            }
        }
    }
    inverse
}

#[test]
fn the_blocked_gptq_is_the_plain_one() {
    let [k, n] = [150, 40];
    let (inputs, weights) = (correlated(400, k, 21), normal(k * n, 23));
    let settings = GptqSettings { by_energy: false, ..GptqSettings::default() };
    let fast = gptq(&weights, [k, n], &hessian(&inputs, k), FORMAT, &settings).unwrap();
    let plain = plain_gptq(&weights, [k, n], &inputs, &fast.scales);
    let different = fast.values.iter().zip(&plain).filter(|(a, b)| a != b).count();
    // Sums in another order may turn a tie, and that turns a few after it.
    assert!(different <= 6, "{different} of {} integers differ", plain.len());
}

#[test]
fn gptq_stands_dead_inputs_and_few_rows() {
    let k = 64;
    let mut inputs = correlated(10, k, 31);
    inputs.chunks_mut(k).for_each(|row| row[7] = 0.0);
    let weights = normal(k * 8, 33);
    let rounded = gptq(&weights, [k, 8], &hessian(&inputs, k), FORMAT, &GptqSettings::default()).unwrap();
    let dead = BlockFormat { bits: Bits::Four, block: 32 };
    let nearest = per_block(&weights, [k, 8], dead, BlockScale::Mse).unwrap();
    assert_eq!(
        rounded.values[7 * 8..8 * 8],
        nearest.values[7 * 8..8 * 8],
        "nothing is carried to or from it"
    );
    let settings = GptqSettings { damping: 0.0, ..GptqSettings::default() };
    let error = gptq(&weights, [k, 8], &hessian(&inputs, k), FORMAT, &settings).unwrap_err();
    assert!(matches!(error, Error::NotPositiveDefinite { size: 64, .. }), "{error}");
}

#[test]
fn a_hessian_is_the_same_in_parts() {
    let k = 20;
    let inputs = correlated(64, k, 41);
    let whole = hessian(&inputs, k);
    let mut parts = hessian(&inputs[..k * 24], k);
    parts.merge(&hessian(&inputs[k * 24..], k)).unwrap();
    assert_eq!(parts.rows(), whole.rows());
    let errors = normal(k * 3, 43);
    let exact: f64 = inputs
        .chunks(k)
        .map(|row| row.iter().zip(&errors).map(|(x, e)| f64::from(*x) * f64::from(*e)).sum::<f64>().powi(2))
        .sum();
    for hessian in [&parts, &whole] {
        let first = hessian.output_errors(&errors).unwrap()[0];
        assert!((first / exact - 1.0).abs() < 1e-9, "{first} {exact}");
    }
    assert!(parts.merge(&Hessian::new(3)).is_err());
    assert!(parts.add(&[1.0; 21]).is_err() && parts.add(&[f32::NAN; 20]).is_err());
}

#[test]
fn awq_helps_where_few_inputs_carry_the_energy() {
    let [k, n] = [128, 64];
    let mut inputs = normal(2048 * k, 51);
    inputs.chunks_mut(k).for_each(|row| row.iter_mut().step_by(37).for_each(|x| *x *= 20.0));
    let weights = normal(k * n, 53);
    let found = awq_scales(&weights, [k, n], &hessian(&inputs, k), FORMAT, BlockScale::MinMax).unwrap();
    println!("alpha {}, error {:.3} of unscaled", found.alpha, found.error_ratio);
    assert!(found.alpha > 0.0 && found.error_ratio < 0.7, "{found:?}");
    // The same by multiplying out, with the scales folded in.
    let scaled: Vec<f32> = weights.iter().enumerate().map(|(i, w)| w * found.scales[i / n]).collect();
    let rounded = per_block(&scaled, [k, n], FORMAT, BlockScale::MinMax).unwrap().dequantise();
    let folded: Vec<f32> =
        inputs.chunks(k).flat_map(|row| row.iter().zip(&found.scales).map(|(x, s)| x / s)).collect();
    let truth = product(&inputs, &weights, k);
    let plain = per_block(&weights, [k, n], FORMAT, BlockScale::MinMax).unwrap().dequantise();
    let before = sqnr_db(&truth, &product(&inputs, &plain, k));
    let after = sqnr_db(&truth, &product(&folded, &rounded, k));
    let gained = -10.0 * found.error_ratio.log10();
    assert!((after - before - gained).abs() < 0.05, "{before} dB to {after} dB, promised {gained} dB");
}

#[test]
fn awq_leaves_even_inputs_about_alone() {
    let k = 32;
    let weights = normal(k * 16, 61);
    let found =
        awq_scales(&weights, [k, 16], &hessian(&normal(512 * k, 63), k), FORMAT, BlockScale::Mse).unwrap();
    assert!(found.error_ratio <= 1.0 && found.scales.iter().all(|scale| (0.5..2.0).contains(scale)));
    assert_eq!(
        awq_scales(&weights, [k, 16], &Hessian::new(k), FORMAT, BlockScale::Mse).unwrap_err(),
        Error::Empty
    );
}

#[test]
fn rotation_keeps_products_and_lengths() {
    for k in [1, 2, 6, 64, 100, 768] {
        for rotation in [Rotation::plain(k), Rotation::seeded(k, 7)] {
            let (inputs, weights) = (normal(3 * k, 71), normal(k * 5, 73));
            let (mut turned, mut turned_weights) = (inputs.clone(), weights.clone());
            rotation.rotate_rows(&mut turned).unwrap();
            rotation.rotate_inputs(&mut turned_weights).unwrap();
            let (before, after) = (product(&inputs, &weights, k), product(&turned, &turned_weights, k));
            assert!(sqnr_db(&before, &after) > 100.0, "K {k}: {} dB", sqnr_db(&before, &after));
            assert!(max_abs(&product(&inputs, &rotation.matrix(), k), &turned) < 1e-4);
        }
    }
    assert_eq!(Rotation::seeded(64, 7), Rotation::seeded(64, 7));
    assert_ne!(Rotation::seeded(64, 7), Rotation::seeded(64, 8));
    assert!(Rotation::plain(4).rotate_rows(&mut [0.0; 6]).is_err());
    assert!(Rotation::plain(0).rotate_inputs(&mut []).is_err());
}

#[test]
fn rotation_tames_outliers() {
    for k in [256, 768, 100] {
        // One channel a hundred times louder than the rest, as in transformers' residual streams.
        let mut inputs = normal(64 * k, 81);
        inputs.chunks_mut(k).for_each(|row| row[3] *= 100.0);
        let error = |values: &[f32]| {
            let mut seen = nextclip_quant::Histogram::new();
            seen.add(values).unwrap();
            let (low, high) = seen.range(nextclip_quant::Observer::MinMax).unwrap();
            let params = nextclip_quant::Params::of_range(low, high, nextclip_quant::Scheme::Symmetric);
            values.iter().map(|x| f64::from(params.through(*x) - x).powi(2)).sum::<f64>()
        };
        let before = error(&inputs);
        Rotation::seeded(k, 1).rotate_rows(&mut inputs).unwrap();
        let after = error(&inputs);
        println!("K {k}: error {:.4} of unrotated", after / before);
        assert!(after < 0.2 * before, "K {k}: {after} of {before}");
    }
}
