//! Bar charts with a name on every bar, from top to bottom.
//!
//! ```
//! use nextclip_media::bars::{Bar, Bars};
//!
//! let bars = vec![Bar::new("first", 0.5, "0.50 dB", 0), Bar::new("second", 0.2, "0.20 dB", 1)];
//! let chart = Bars { groups: vec!["kept".into(), "changed".into()], bars, ..Bars::new("loss", "dB") };
//! assert_eq!(chart.draw(640).dim().1, 640);
//! ```

use crate::Picture;
use crate::axis::Axis;
use crate::draw::{Canvas, Colour, GREY, INK, PAPER, RULE, Side, font, text_width};
use crate::plot::PALETTE;

/// Pixels from one bar to the next.
const ROW: usize = 19;
/// Thickness of a bar, in pixels.
const THICK: usize = 11;
/// Above the bars: title, subtitle, legend, names of marks.
const HEAD: usize = 104;
/// Below them: ticks and what the axis counts.
const FOOT: usize = 56;

/// A bar chart.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Bars {
    /// What is shown.
    pub title: String,
    /// What it was measured on.
    pub subtitle: String,
    /// What the axis counts, with its unit.
    pub x_label: String,
    /// Names of the bars' colours.
    pub groups: Vec<String>,
    /// From top to bottom.
    pub bars: Vec<Bar>,
    /// Values that are marked across all bars, with their names.
    pub marks: Vec<(f64, String)>,
}

/// One bar.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Bar {
    /// At its left.
    pub name: String,
    /// Its length. What is not finite or below 0 has no bar, but its text.
    pub value: f64,
    /// At its right end.
    pub text: String,
    /// Its colour, by place in [`Bars::groups`].
    pub group: usize,
}

impl Bar {
    /// A bar.
    pub fn new(name: impl Into<String>, value: f64, text: impl Into<String>, group: usize) -> Self {
        Self { name: name.into(), value, text: text.into(), group }
    }
}

impl Bars {
    /// A chart without bars.
    pub fn new(title: impl Into<String>, x_label: impl Into<String>) -> Self {
        Self { title: title.into(), x_label: x_label.into(), ..Self::default() }
    }

    /// The chart as a picture of this width, at least 480; its height follows from the number of bars.
    pub fn draw(&self, width: usize) -> Picture {
        let width = width.max(480);
        let widest = |texts: &mut dyn Iterator<Item = &str>| {
            texts.map(|text| text_width(text, &font::TEXT)).max().unwrap_or(0)
        };
        let names = widest(&mut self.bars.iter().map(|bar| bar.name.as_str())).min(width / 2);
        let texts = widest(&mut self.bars.iter().map(|bar| bar.text.as_str())).min(width / 4);
        let (left, right) = (28 + names, (width - 28 - texts).max(60 + names));
        let (top, bottom) = (HEAD, HEAD + ROW * self.bars.len().max(1) + 4);
        let mut canvas = Canvas::new(width, bottom + FOOT);

        let values = self.bars.iter().map(|bar| bar.value).chain(self.marks.iter().map(|mark| mark.0));
        let values = values.filter(|value| value.is_finite() && *value >= 0.0).chain([0.0]);
        let axis = Axis::over(values, false, (right - left) / 80);
        let place = |value: f64| left + (axis.place(value).unwrap_or(0.0) * (right - left) as f64) as usize;

        for tick in &axis.ticks {
            canvas.fill((place(tick.value), top), (1, bottom - top), RULE);
            canvas.text((place(tick.value), bottom + 8), &tick.label, &font::TEXT, GREY, Side::Middle);
        }
        for (row, bar) in self.bars.iter().enumerate() {
            let y = top + 4 + row * ROW;
            let length = if bar.value > 0.0 { place(bar.value).max(left + 1) - left } else { 0 };
            canvas.fill((left, y + (ROW - THICK) / 2), (length, THICK), colour(bar.group));
            canvas.text((left - 8, y + 3), &bar.name, &font::TEXT, INK, Side::Left);
            // Grid lines stop at a text, so that its numbers can be read.
            canvas.fill((left + length + 3, y + 1), (text_width(&bar.text, &font::TEXT) + 6, ROW - 2), PAPER);
            canvas.text((left + length + 6, y + 3), &bar.text, &font::TEXT, GREY, Side::Right);
        }
        canvas.fill((left, top), (1, bottom - top), GREY);
        for (value, name) in &self.marks {
            let x = place(*value) as f64;
            canvas.line((x, top as f64 - 6.0), (x, bottom as f64), 2.0, INK);
            // A name near the right border stands left of its mark.
            let side =
                if x as usize + text_width(name, &font::TEXT) > width { Side::Left } else { Side::Right };
            canvas.text((x as usize, top - 22), name, &font::TEXT, INK, side);
        }
        self.words(&mut canvas, usize::midpoint(left, right), bottom);
        canvas.into_picture()
    }

    fn words(&self, canvas: &mut Canvas, middle: usize, bottom: usize) {
        canvas.text((16, 12), &self.title, &font::TITLE, INK, Side::Right);
        canvas.text((16, 37), &self.subtitle, &font::TEXT, GREY, Side::Right);
        canvas.text((middle, bottom + 30), &self.x_label, &font::TEXT, GREY, Side::Middle);
        let mut x = 16;
        for (group, name) in self.groups.iter().enumerate() {
            canvas.fill((x, 61), (18, THICK), colour(group));
            canvas.text((x + 25, 60), name, &font::TEXT, INK, Side::Right);
            x += 25 + text_width(name, &font::TEXT) + 24;
        }
    }
}

fn colour(group: usize) -> Colour {
    PALETTE[group % PALETTE.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn longer_bars_have_more_colour() {
        let chart = |value| {
            let bars = vec![Bar::new("long", 1.0, "1", 0), Bar::new("short", value, "", 1)];
            Bars { bars, ..Bars::new("t", "dB") }.draw(640)
        };
        let count = |picture: &Picture, group: usize| {
            picture.rows().into_iter().filter(|pixel| pixel.iter().eq(&colour(group))).count()
        };
        let [half, quarter, none, lost] = [0.5, 0.25, 0.0, f64::NAN].map(chart);
        let longest = count(&half, 0);
        assert!((count(&half, 1) as f64 / longest as f64 - 0.5).abs() < 0.02);
        assert!((count(&quarter, 1) as f64 / longest as f64 - 0.25).abs() < 0.02);
        assert_eq!((count(&none, 1), count(&lost, 1)), (0, 0));
    }

    #[test]
    fn odd_data_draws_something() {
        assert_eq!(Bars::default().draw(1).dim(), (HEAD + ROW + 4 + FOOT, 480, 3));
        let long = "a name that is longer than any chart is wide ".repeat(20);
        let bars = vec![Bar::new(long.clone(), 1e300, long.clone(), 99), Bar::new("", -1.0, "", 0)];
        let chart = Bars { bars, groups: vec![long.clone()], marks: vec![(2.0, long)], ..Bars::default() };
        assert_eq!(chart.draw(500).dim().1, 500);
    }
}
