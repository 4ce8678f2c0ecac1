//! Axes of plots and bars: values to places, and round ticks.

/// A mark on an axis.
pub(crate) struct Tick {
    pub(crate) value: f64,
    pub(crate) label: String,
}

/// From values to shares of an axis' length.
pub(crate) struct Axis {
    low: f64,
    high: f64,
    log: bool,
    pub(crate) ticks: Vec<Tick>,
}

impl Axis {
    pub(crate) fn over(values: impl Iterator<Item = f64>, log: bool, most_ticks: usize) -> Self {
        let scaled = values.filter_map(|value| scale(value, log));
        let (mut low, mut high) = scaled
            .fold((f64::INFINITY, f64::NEG_INFINITY), |(low, high), value| (low.min(value), high.max(value)));
        if low > high {
            (low, high) = (0.0, 1.0);
        }
        if high - low < 1e-9 * high.abs().max(1e-9) {
            let half = if low == 0.0 || log { 0.5 } else { low.abs() / 2.0 };
            (low, high) = (low - half, high + half);
        }
        let most = most_ticks.max(2);
        let mut axis = Self { low, high, log, ticks: Vec::new() };
        axis.ticks = if log { axis.log_ticks(most) } else { axis.even_ticks(most) };
        axis
    }

    /// 0 at the low end, 1 at the high one; `None` for what the axis can't show.
    pub(crate) fn place(&self, value: f64) -> Option<f64> {
        scale(value, self.log).map(|value| (value - self.low) / (self.high - self.low))
    }

    /// Ticks at 1, 2 or 5 times a power of ten; the axis grows to its outer ones.
    fn even_ticks(&mut self, most: usize) -> Vec<Tick> {
        let rough = (self.high - self.low) / most as f64;
        let power = 10_f64.powf(rough.log10().floor());
        let step =
            [1.0, 2.0, 5.0, 10.0].into_iter().map(|m| m * power).find(|s| *s >= rough).unwrap_or(rough);
        let (first, last) = ((self.low / step + 1e-9).floor(), (self.high / step - 1e-9).ceil());
        (self.low, self.high) = (first * step, last * step);
        let decimals = (-step.log10().floor()).clamp(0.0, 9.0) as usize;
        let count = (last - first).min(100.0) as usize;
        let ticks = (0..=count).map(|n| (first + n as f64) * step);
        ticks.map(|value| Tick { value, label: number(value, decimals) }).collect()
    }

    /// Ticks at powers of ten, and at twice and five times them where there is room.
    fn log_ticks(&self, most: usize) -> Vec<Tick> {
        let powers = (self.low.floor().max(-300.0) as i32)..=(self.high.ceil().min(300.0) as i32);
        for (multiples, every) in
            [(&[1.0, 2.0, 5.0][..], 1), (&[1.0], 1), (&[1.0], 2), (&[1.0], 5), (&[1.0], 20)]
        {
            let chosen = powers.clone().filter(|power| power % every == 0);
            let values = chosen.flat_map(|power| multiples.iter().map(move |m| m * 10_f64.powi(power)));
            let within = |value: &f64| (self.low - 1e-9..=self.high + 1e-9).contains(&value.log10());
            let values: Vec<f64> = values.filter(within).collect();
            if (2..=most).contains(&values.len()) {
                return values.into_iter().map(|value| Tick { value, label: short(value) }).collect();
            }
        }
        // Less than a tick's distance, or far too many: the ends speak for themselves.
        [self.low, self.high]
            .map(|end| 10_f64.powf(end))
            .map(|value| Tick { value, label: short(value) })
            .into()
    }
}

fn scale(value: f64, log: bool) -> Option<f64> {
    match log {
        _ if !value.is_finite() => None,
        true => (value > 0.0).then(|| value.log10()),
        false => Some(value),
    }
}

fn number(value: f64, decimals: usize) -> String {
    if value.abs() >= 1e6 || (value != 0.0 && decimals >= 6) {
        return short(value);
    }
    let value = if value == 0.0 { 0.0 } else { value };
    format!("{value:.decimals$}")
}

/// Up to three digits.
fn short(value: f64) -> String {
    let size = value.abs();
    if size != 0.0 && !(1e-3..1e5).contains(&size) {
        return format!("{value:.1e}").replace(".0e", "e");
    }
    let decimals = (2.0 - size.max(1e-9).log10().floor()).clamp(0.0, 6.0) as usize;
    let text = format!("{value:.decimals$}");
    if text.contains('.') { text.trim_end_matches('0').trim_end_matches('.').to_owned() } else { text }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn labels(axis: &Axis) -> Vec<&str> {
        axis.ticks.iter().map(|tick| tick.label.as_str()).collect()
    }

    #[test]
    fn ticks_are_round_numbers() {
        let axis = Axis::over([0.03, 0.97].into_iter(), false, 6);
        assert_eq!(labels(&axis), ["0.0", "0.2", "0.4", "0.6", "0.8", "1.0"]);
        assert_eq!((axis.place(0.0), axis.place(1.0)), (Some(0.0), Some(1.0)));
        let axis = Axis::over([0.02, 3.0].into_iter(), true, 8);
        assert_eq!(labels(&axis), ["0.02", "0.05", "0.1", "0.2", "0.5", "1", "2"]);
        let axis = Axis::over([1.0, 12_000.0].into_iter(), true, 6);
        assert_eq!(labels(&axis), ["1", "10", "100", "1000", "10000"]);
        assert_eq!(axis.place(0.0), None);
    }
}
