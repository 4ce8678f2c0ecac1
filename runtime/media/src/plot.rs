//! Line plots as pictures: axes, ticks, a legend.
//!
//! ```
//! use nextclip_media::plot::{Line, Plot};
//!
//! let loss = (1..200).map(|step| (f64::from(step), 1.0 / f64::from(step))).collect();
//! let plot = Plot { log_y: true, ..Plot::new("loss", "step", "mean squared error") };
//! let picture = plot.with(Line::new("training", loss)).draw(640, 400);
//! assert_eq!(picture.dim(), (400, 640, 3));
//! ```

use crate::Picture;
use crate::axis::Axis;
use crate::draw::{Canvas, Colour, GREY, INK, RULE, Side, font, text_width};

/// Colours of lines, in order; told apart also by eyes that do not see red and green.
pub(crate) const PALETTE: [Colour; 6] =
    [[31, 98, 178], [224, 112, 32], [24, 142, 108], [168, 60, 140], [90, 100, 112], [196, 160, 0]];

/// Pixels of a dash and of the gap after it, of lines whose colour another line has already.
const DASH: f64 = 6.0;

/// Pixels between two rows of the legend.
const LEGEND_ROW: usize = 18;
/// Pixels that a name of the legend takes beside its letters, for what its line looks like.
const LEGEND_PEN: usize = 44;

/// Lines of up to this many points show each of them as a dot.
const FEW: usize = 40;

/// Some lines over common axes.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Plot {
    /// What is shown.
    pub title: String,
    /// What the horizontal axis counts, with its unit.
    pub x_label: String,
    /// What the vertical axis counts, with its unit.
    pub y_label: String,
    /// Horizontal axis in powers of ten: points at zero or below are left out.
    pub log_x: bool,
    /// Vertical axis in powers of ten: points at zero or below are left out.
    pub log_y: bool,
    /// Drawn in order, the last on top.
    pub lines: Vec<Line>,
}

/// One line.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Line {
    /// In the legend; a line without a name is not in it.
    pub name: String,
    /// Horizontal and vertical values. Points that are not finite break the line.
    pub points: Vec<(f64, f64)>,
    /// Thin and pale, as raw values behind their mean.
    pub faint: bool,
}

impl Line {
    /// A line in full colour.
    pub fn new(name: impl Into<String>, points: Vec<(f64, f64)>) -> Self {
        Self { name: name.into(), points, faint: false }
    }

    /// The running mean over about `window` points, in full colour, to go over the faint raw line.
    pub fn smoothed(&self, name: impl Into<String>, window: usize) -> Self {
        let keep = 1.0 - 1.0 / window.max(1) as f64;
        let (mut mean, mut weight) = (0.0, 0.0);
        let finite = self.points.iter().filter(|(_, y)| y.is_finite());
        let points = finite.map(|(x, y)| {
            // Dividing by the weights so far keeps the start of the curve where its points are.
            (mean, weight) = (keep * mean + (1.0 - keep) * y, keep * weight + (1.0 - keep));
            (*x, mean / weight)
        });
        Self { name: name.into(), points: points.collect(), faint: false }
    }

    /// The same line, thin and pale.
    pub fn faint(self) -> Self {
        Self { faint: true, ..self }
    }
}

impl Plot {
    /// Axes without lines.
    pub fn new(title: impl Into<String>, x_label: impl Into<String>, y_label: impl Into<String>) -> Self {
        Self { title: title.into(), x_label: x_label.into(), y_label: y_label.into(), ..Self::default() }
    }

    /// With one more line.
    pub fn with(mut self, line: Line) -> Self {
        self.lines.push(line);
        self
    }

    /// The plot as a picture of this size; at least 160 x 120, smaller sizes are enlarged.
    pub fn draw(&self, width: usize, height: usize) -> Picture {
        let (width, height) = (width.max(160), height.max(120));
        let mut canvas = Canvas::new(width, height);
        let points = || self.lines.iter().flat_map(|line| &line.points);
        let x = Axis::over(points().map(|point| point.0), self.log_x, width / 90);
        let y = Axis::over(points().map(|point| point.1), self.log_y, height / 48);

        let named = self.lines.iter().filter(|line| !line.name.is_empty());
        let room = width.saturating_sub(64 + text_width(&self.y_label, &font::TEXT));
        let rows = rows(named.map(|line| text_width(&line.name, &font::TEXT) + LEGEND_PEN), room);
        let widest = y.ticks.iter().map(|tick| text_width(&tick.label, &font::TEXT)).max().unwrap_or(0);
        let bottom = height - 52;
        let top = if self.title.is_empty() { 40 } else { 68 } + rows.len().saturating_sub(1) * LEGEND_ROW;
        // Of a small picture the legend takes what it must, the curves keep a few pixels.
        let frame = Frame { left: 18 + widest, right: width - 24, top: top.min(bottom - 8), bottom };
        self.grid(&mut canvas, &frame, &x, &y);
        let mut strong = 0;
        let mut legend = Vec::new();
        for line in &self.lines {
            // A faint line shares its colour with the line that goes over it.
            let pen = Pen::nth(strong, line.faint);
            strong += usize::from(!line.faint);
            curve(&mut canvas, &frame, &x, &y, line, pen);
            if !line.name.is_empty() {
                legend.push((line.name.as_str(), pen));
            }
        }
        self.words(&mut canvas, &frame, &legend, &rows);
        canvas.into_picture()
    }

    fn grid(&self, canvas: &mut Canvas, frame: &Frame, x: &Axis, y: &Axis) {
        for tick in &y.ticks {
            let row = frame.y(y.place(tick.value).unwrap_or(0.0)) as usize;
            canvas.fill((frame.left, row), (frame.right - frame.left, 1), RULE);
            canvas.text((frame.left - 8, row.saturating_sub(6)), &tick.label, &font::TEXT, GREY, Side::Left);
        }
        for tick in &x.ticks {
            let column = frame.x(x.place(tick.value).unwrap_or(0.0)) as usize;
            canvas.fill((column, frame.bottom), (1, 5), GREY);
            canvas.text((column, frame.bottom + 9), &tick.label, &font::TEXT, GREY, Side::Middle);
        }
        canvas.fill((frame.left, frame.bottom), (frame.right - frame.left, 1), GREY);
    }

    fn words(&self, canvas: &mut Canvas, frame: &Frame, legend: &[(&str, Pen)], rows: &[usize]) {
        if !self.title.is_empty() {
            canvas.text((16, 12), &self.title, &font::TITLE, INK, Side::Right);
        }
        canvas.text((16, frame.top - 24), &self.y_label, &font::TEXT, GREY, Side::Right);
        let middle = usize::midpoint(frame.left, frame.right);
        canvas.text((middle, frame.bottom + 30), &self.x_label, &font::TEXT, GREY, Side::Middle);
        // The legend stands above the plot, at its right end, where no curve runs.
        let mut rest = legend;
        for (row, &names) in rows.iter().enumerate() {
            let (these, after) = rest.split_at(names);
            rest = after;
            let below = rows.len() - 1 - row;
            legend_row(canvas, frame.right, (frame.top - 24).saturating_sub(below * LEGEND_ROW), these);
        }
    }
}

/// How many of names of such widths stand in each row, where a row has so much room.
fn rows(widths: impl Iterator<Item = usize>, room: usize) -> Vec<usize> {
    let (mut rows, mut used) = (Vec::new(), 0);
    for width in widths {
        match rows.last_mut() {
            Some(names) if used + width <= room => *names += 1,
            _ => {
                rows.push(1);
                used = 0;
            }
        }
        used += width;
    }
    rows
}

/// Names that end at `right`, each after what its line looks like.
fn legend_row(canvas: &mut Canvas, mut right: usize, top: usize, names: &[(&str, Pen)]) {
    for (name, pen) in names.iter().rev() {
        canvas.text((right, top), name, &font::TEXT, INK, Side::Left);
        right = right.saturating_sub(text_width(name, &font::TEXT) + 8);
        let (left, row) = (right.saturating_sub(18), top + 5);
        if pen.dashed {
            for dash in [0, 12] {
                canvas.fill((left + dash, row), (DASH as usize, 3), pen.colour);
            }
        } else {
            canvas.fill((left, row), (18, 3), pen.colour);
        }
        right = right.saturating_sub(36);
    }
}

/// What a line is drawn with.
#[derive(Clone, Copy)]
struct Pen {
    colour: Colour,
    thickness: f64,
    dashed: bool,
}

impl Pen {
    /// That of line `index`, faint ones not counted.
    fn nth(index: usize, faint: bool) -> Self {
        let colour = PALETTE[index % PALETTE.len()];
        let dashed = index >= PALETTE.len();
        let (colour, thickness) = if faint { (pale(colour), 1.0) } else { (colour, 2.0) };
        Self { colour, thickness, dashed }
    }
}

fn curve(canvas: &mut Canvas, frame: &Frame, x: &Axis, y: &Axis, line: &Line, pen: Pen) {
    let (mut last, mut drawn) = (None, 0.0);
    for point in &line.points {
        let at = x.place(point.0).zip(y.place(point.1)).map(|(right, up)| (frame.x(right), frame.y(up)));
        // Points on the same pixel column are still drawn: their spread is what a noisy curve shows.
        if let (Some(from), Some(to)) = (last, at) {
            segment(canvas, from, to, pen, &mut drawn);
        }
        if let (Some(at), 1..=FEW) = (at, line.points.len()) {
            canvas.line(at, at, pen.thickness + 4.0, pen.colour);
        }
        last = at;
    }
}

/// A straight part of a line of which `drawn` pixels lie before it, so that dashes go on where they were.
fn segment(canvas: &mut Canvas, from: (f64, f64), to: (f64, f64), pen: Pen, drawn: &mut f64) {
    if !pen.dashed {
        canvas.line(from, to, pen.thickness, pen.colour);
        return;
    }
    let (across, down) = (to.0 - from.0, to.1 - from.1);
    let length = across.hypot(down);
    let at = |done: f64| (from.0 + across * done / length, from.1 + down * done / length);
    let mut done = 0.0;
    while done < length {
        let phase = *drawn % (2.0 * DASH);
        let step = (DASH - phase % DASH).max(0.5).min(length - done);
        if phase < DASH {
            canvas.line(at(done), at(done + step), pen.thickness, pen.colour);
        }
        done += step;
        *drawn += step;
    }
}

fn pale(colour: Colour) -> Colour {
    colour.map(|value| value / 3 + 166)
}

/// The plotted area, in pixels.
struct Frame {
    left: usize,
    right: usize,
    top: usize,
    bottom: usize,
}

impl Frame {
    fn x(&self, share: f64) -> f64 {
        self.left as f64 + share * (self.right - self.left) as f64
    }

    fn y(&self, share: f64) -> f64 {
        self.bottom as f64 - share * (self.bottom - self.top) as f64
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn odd_data_draws_something() {
        for points in [
            vec![],
            vec![(1.0, 1.0)],
            vec![(0.0, f64::NAN), (1.0, f64::INFINITY)],
            vec![(0.0, -1.0), (1.0, -1.0)],
            vec![(1e-300, 1e300), (1e300, 1e-300)],
        ] {
            for log in [false, true] {
                let plot = Plot { log_x: log, log_y: log, ..Plot::new("t", "x", "y") };
                assert_eq!(plot.with(Line::new("a", points.clone())).draw(1, 1).dim(), (120, 160, 3));
            }
        }
    }

    #[test]
    fn a_long_legend_has_several_rows() {
        assert_eq!(rows([40, 40, 40, 90, 10].into_iter(), 90), [2, 1, 1, 1]);
        assert_eq!(rows(std::iter::empty(), 90), [0; 0]);
        let many =
            (0..20).fold(Plot::new("t", "x", "y"), |plot, _| plot.with(Line::new("name", vec![(0.0, 1.0)])));
        assert_eq!(many.draw(1, 1).dim(), (120, 160, 3));
        // A second row pushes the plot down; the first begins where a short legend's does.
        let inked =
            |picture: &Picture, row: usize| (0..320).any(|x| picture[[row, x, 0]] != picture[[0, 0, 0]]);
        let picture = many.draw(320, 400);
        assert!((50..150).step_by(LEGEND_ROW).all(|top| (top..top + 8).any(|row| inked(&picture, row))));
    }

    #[test]
    fn lines_beyond_the_palette_are_dashed() {
        let few = (0..PALETTE.len()).map(|index| Pen::nth(index, false));
        assert!(few.into_iter().all(|pen| !pen.dashed));
        let again = Pen::nth(PALETTE.len(), false);
        assert!(again.dashed && again.colour == PALETTE[0]);

        let ink = |pen: Pen| {
            let mut canvas = Canvas::new(200, 20);
            let mut drawn = 0.0;
            for part in 0..18 {
                let at = |part: i32| (f64::from(10 + 10 * part), 10.0);
                segment(&mut canvas, at(part), at(part + 1), pen, &mut drawn);
            }
            let picture = canvas.into_picture();
            (10..190).filter(|&x| picture[[10, x, 2]] == pen.colour[2]).count()
        };
        let (whole, dashes) = (ink(Pen::nth(0, false)), ink(again));
        assert!(whole > 170 && (60..120).contains(&dashes), "{dashes} of {whole} pixels");
    }

    #[test]
    fn the_running_mean_starts_at_the_first_point() {
        let raw = Line::new("raw", vec![(0.0, 4.0), (1.0, 2.0), (2.0, f64::NAN), (3.0, 2.0)]);
        let mean = raw.smoothed("mean", 2);
        assert_eq!(mean.points.len(), 3);
        assert_eq!(mean.points[0], (0.0, 4.0));
        assert!((mean.points[1].1 - 8.0 / 3.0).abs() < 1e-12);
    }
}
