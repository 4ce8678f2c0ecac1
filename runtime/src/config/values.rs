//! What a single setting may be. A file's key and a flag of the same meaning share one check.

use std::ops::RangeInclusive;
use std::time::Duration;

/// A whole number within bounds.
pub(super) fn whole<T: TryFrom<i64>>(value: i64, bounds: RangeInclusive<i64>) -> Result<T, String> {
    let (low, high) = (bounds.start(), bounds.end());
    let fault = || match *high {
        i64::MAX => format!("is {value}, must be at least {low}"),
        high => format!("is {value}, must be {low} to {high}"),
    };
    if !bounds.contains(&value) {
        return Err(fault());
    }
    T::try_from(value).map_err(|_| fault())
}

/// A number within bounds.
pub(super) fn number(value: f64, bounds: RangeInclusive<f64>) -> Result<f32, String> {
    // A NaN is in no range.
    if bounds.contains(&value) {
        return Ok(value as f32);
    }
    Err(format!("is {value}, must be {} to {}", bounds.start(), bounds.end()))
}

/// A duration with its unit: `30s`, `500ms`, `2m`, `1h`.
pub(super) fn duration(text: &str) -> Result<Duration, String> {
    const UNITS: [(&str, f64); 4] = [("ms", 1e-3), ("s", 1.0), ("m", 60.0), ("h", 3600.0)];
    let fault =
        || format!("{text:?} is not a duration: write a number and a unit, as in 30s, 500ms, 2m or 1h");
    let digits = text.find(|c: char| c.is_ascii_alphabetic()).ok_or_else(fault)?;
    let (amount, unit) = text.split_at(digits);
    let scale = UNITS.iter().find(|(name, _)| *name == unit).ok_or_else(fault)?.1;
    let amount: f64 = amount.trim().parse().map_err(|_| fault())?;
    let duration = Duration::try_from_secs_f64(amount * scale).map_err(|_| fault())?;
    if duration.is_zero() { Err(format!("{text:?} is no time at all")) } else { Ok(duration) }
}

/// The candidate that a mistyped `word` was probably meant to be.
pub(super) fn nearest<'a>(word: &str, candidates: impl Iterator<Item = &'a str>) -> Option<&'a str> {
    let bound = (word.len() / 3).max(1);
    let ranked = candidates.map(|candidate| (edit_distance(word, candidate), candidate));
    ranked.min().filter(|(distance, _)| *distance <= bound).map(|(_, candidate)| candidate)
}

/// Insertions, deletions and replacements (Levenshtein) from one word to another.
fn edit_distance(from: &str, to: &str) -> usize {
    let to: Vec<char> = to.chars().collect();
    let mut row: Vec<usize> = (0..=to.len()).collect();
    for (i, letter) in from.chars().enumerate() {
        let mut diagonal = row[0];
        row[0] = i + 1;
        for (j, other) in to.iter().enumerate() {
            let replaced = diagonal + usize::from(letter != *other);
            diagonal = row[j + 1];
            row[j + 1] = replaced.min(diagonal + 1).min(row[j] + 1);
        }
    }
    row[to.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_have_units() {
        let seconds = |text| duration(text).map(|d| d.as_secs_f64());
        assert_eq!([seconds("30s"), seconds("1.5 s"), seconds("250ms")], [Ok(30.0), Ok(1.5), Ok(0.25)]);
        assert_eq!([seconds("2m"), seconds("1h")], [Ok(120.0), Ok(3600.0)]);
        for wrong in ["30", "", "s", "-1s", "1 parsec", "1e999s", "0s"] {
            assert!(duration(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn a_typing_error_finds_its_word() {
        let keys = || ["steps", "seed", "threads", "guidance"].into_iter();
        assert_eq!(nearest("step", keys()), Some("steps"));
        assert_eq!(nearest("thredas", keys()), Some("threads"));
        assert_eq!(nearest("colour", keys()), None);
        assert_eq!(edit_distance("kitten", "sitting"), 3);
    }

    #[test]
    fn bounds_are_told() {
        assert_eq!(whole::<usize>(4, 1..=100), Ok(4));
        assert_eq!(whole::<usize>(0, 1..=100), Err("is 0, must be 1 to 100".into()));
        assert_eq!(whole::<u64>(-1, 0..=i64::MAX), Err("is -1, must be at least 0".into()));
        assert!(number(f64::NAN, 0.0..=1.0).is_err());
    }
}
