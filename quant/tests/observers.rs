//! Histograms and the ranges that observers choose.

use nextclip_quant::{Error, Histogram, Observer, Params, Scheme};
use proptest::prelude::*;
use rand::SeedableRng;
use rand_chacha::ChaCha8Rng;
use rand_distr::{Distribution, Normal};

fn normal(count: usize, seed: u64) -> Vec<f32> {
    let mut rng = ChaCha8Rng::seed_from_u64(seed);
    Normal::new(0.0_f32, 1.0).expect("a spread of 1").sample_iter(&mut rng).take(count).collect()
}

fn histogram(values: &[f32]) -> Histogram {
    let mut histogram = Histogram::new();
    histogram.add(values).expect("finite values");
    histogram
}

/// Mean squared error of 8-bit rounding within a range.
fn error_within((low, high): (f32, f32), scheme: Scheme, values: &[f32]) -> f64 {
    let params = Params::of_range(low, high, scheme);
    values.iter().map(|x| f64::from(params.through(*x) - x).powi(2)).sum::<f64>() / values.len() as f64
}

const ALL: [Observer; 4] = [Observer::MinMax, Observer::Percentile(99.9), Observer::Entropy, Observer::Mse];

#[test]
fn min_max_is_exact() {
    let seen = histogram(&[0.1, -7.3, 5.123_456]);
    assert_eq!(seen.range(Observer::MinMax).unwrap(), (-7.3, 5.123_456));
    assert_eq!((seen.count(), seen.min(), seen.max()), (3, Some(-7.3), Some(5.123_456)));
}

#[test]
fn percentile_leaves_out_both_ends() {
    let values: Vec<f32> = (0..10_000).map(|i| i as f32 / 10.0).collect();
    let (low, high) = histogram(&values).range(Observer::Percentile(98.0)).unwrap();
    assert!((low - 10.0).abs() < 1.0 && (high - 990.0).abs() < 1.0, "{low} {high}");
    let all = histogram(&values).range(Observer::Percentile(100.0)).unwrap();
    assert_eq!(all, (0.0, 999.9));
}

#[test]
fn entropy_clips_an_outlier() {
    let mut values = normal(200_000, 1);
    values.push(40.0);
    let (low, high) = histogram(&values).range(Observer::Entropy).unwrap();
    assert!((2.5..8.0).contains(&high), "high {high}");
    assert!((-8.0..-2.5).contains(&low), "low {low}");
}

#[test]
fn entropy_keeps_what_has_no_outlier() {
    let values: Vec<f32> = (0..100_000).map(|i| i as f32 / 50_000.0 - 1.0).collect();
    let (low, high) = histogram(&values).range(Observer::Entropy).unwrap();
    assert!(high > 0.98 && low < -0.98, "{low} {high}");
}

#[test]
fn mse_chooses_about_the_best_range() {
    let mut values = normal(100_000, 2);
    values.extend([30.0, -25.0]);
    let seen = histogram(&values);
    let chosen = error_within(seen.range(Observer::Mse).unwrap(), Scheme::Symmetric, &values);
    let best = (1..=300)
        .map(|tenth| error_within((-0.1 * tenth as f32, 0.1 * tenth as f32), Scheme::Symmetric, &values))
        .fold(f64::INFINITY, f64::min);
    let plain = error_within(seen.range(Observer::MinMax).unwrap(), Scheme::Symmetric, &values);
    assert!(chosen <= 1.05 * best, "chosen {chosen}, best {best}");
    assert!(chosen < 0.7 * plain, "chosen {chosen}, min-max {plain}");
}

#[test]
fn mse_moves_both_ends_for_asymmetric_parameters() {
    // What SiLU leaves: a short tail below zero and a long one above, with an outlier.
    let mut values: Vec<f32> =
        normal(400_000, 4).iter().map(|x| 2.0 * x / (1.0 + (-2.0 * x).exp())).collect();
    values.push(15.0);
    let seen = histogram(&values);
    let error = |range| error_within(range, Scheme::Asymmetric, &values);
    let chosen = seen.range_for(Observer::Mse, Scheme::Asymmetric).unwrap();
    let best = (20..=75).map(|fifth| error((-0.29, 0.2 * fifth as f32))).fold(f64::INFINITY, f64::min);
    assert!(error(chosen) <= 1.1 * best, "{chosen:?}: {}, best {best}", error(chosen));
    assert!(error(chosen) <= 1.001 * error(seen.range(Observer::Mse).unwrap()));
    assert!(chosen.0 > -0.3 && chosen.1 < 13.0);
}

#[test]
fn one_sided_values_keep_their_side() {
    let values: Vec<f32> = normal(50_000, 3).iter().map(|x| x.abs() + 0.5).collect();
    for rule in ALL {
        let (low, high) = histogram(&values).range(rule).unwrap();
        assert!(low >= 0.49 && high > 2.0 && high < 6.0, "{rule}: {low} {high}");
    }
}

#[test]
fn odd_inputs_still_give_a_range() {
    for values in [vec![0.0; 9], vec![3.0], vec![-1e-40, 1e-40], vec![f32::MAX, f32::MIN, 0.0, 1e-30]] {
        for rule in ALL {
            let (low, high) = histogram(&values).range(rule).unwrap();
            assert!(low.is_finite() && high.is_finite() && low <= high, "{rule} of {values:?}: {low} {high}");
        }
    }
}

#[test]
fn bad_input_is_named() {
    assert_eq!(Histogram::new().range(Observer::Mse), Err(Error::Empty));
    let mut seen = histogram(&[1.0]);
    let error = seen.add(&[2.0, f32::NEG_INFINITY]).unwrap_err();
    assert_eq!(error.to_string(), "values[1] is -inf: only finite values can be quantised");
    assert_eq!(seen, histogram(&[1.0]), "nothing of a bad batch is counted");
    assert!(seen.range(Observer::Percentile(20.0)).is_err());
}

#[test]
fn observers_are_read_and_written() {
    for text in ["min-max", "percentile:99.99", "entropy", "mse"] {
        let observer: Observer = text.parse().unwrap();
        assert_eq!(observer.to_string(), text);
        let json = serde_json::to_string(&observer).unwrap();
        assert_eq!(serde_json::from_str::<Observer>(&json).unwrap(), observer);
    }
    let error = "median".parse::<Observer>().unwrap_err().to_string();
    assert_eq!(
        error,
        "observer `median` is unknown: min-max, percentile:P with 50 < P <= 100, entropy or mse"
    );
    let error = "percentile:101".parse::<Observer>().unwrap_err().to_string();
    assert_eq!(error, "percentile is 101, must be above 50 and at most 100");
    assert!("percentile:x".parse::<Observer>().is_err() && "percentile:NaN".parse::<Observer>().is_err());
}

/// Values over many magnitudes, zero and subnormals among them.
fn wild() -> impl Strategy<Value = Vec<f32>> {
    let value = prop_oneof![
        Just(0.0),
        -1.0_f32..1.0,
        (-40_i32..38, -9.9_f32..9.9).prop_map(|(power, x)| x * 10_f32.powi(power)),
    ];
    prop::collection::vec(value.prop_filter("finite", |x: &f32| x.is_finite()), 0..60)
}

proptest! {
    #[test]
    fn merged_is_the_same_as_seen_by_one(a in wild(), b in wild(), c in wild()) {
        let together = histogram(&[a.clone(), b.clone(), c.clone()].concat());
        let mut left = histogram(&a);
        left.merge(&histogram(&b));
        left.merge(&histogram(&c));
        let mut right = histogram(&c);
        right.merge(&histogram(&a));
        right.add(&b).unwrap();
        prop_assert_eq!(&left, &together);
        prop_assert_eq!(&right, &together);
    }

    #[test]
    fn ranges_lie_within_what_was_seen(values in wild()) {
        prop_assume!(!values.is_empty());
        let seen = histogram(&values);
        let (min, max) = seen.range(Observer::MinMax).unwrap();
        for (rule, scheme) in ALL.into_iter().flat_map(|rule| [Scheme::Symmetric, Scheme::Asymmetric].map(|s| (rule, s))) {
            let (low, high) = seen.range_for(rule, scheme).unwrap();
            prop_assert!(min <= low && low <= high && high <= max, "{}: {} {} in {} {}", rule, low, high, min, max);
        }
    }
}
