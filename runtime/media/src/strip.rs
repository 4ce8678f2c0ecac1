//! Rows of pictures with labels, as one picture: time from left to right, one row for each thing compared.
//!
//! ```
//! use nextclip_media::{Picture, strip::{Group, Row, Section, Strip, difference}};
//!
//! let (seen, came, predicted) = (Picture::zeros((64, 64, 3)), Picture::zeros((64, 64, 3)), Picture::ones((64, 64, 3)));
//! let strip = Strip {
//!     title: "test://".into(),
//!     groups: vec![Group::new("seen", ["now"]), Group::new("future", ["+0.2 s"])],
//!     sections: vec![Section {
//!         rows: vec![
//!             Row::new("actual", [Some(seen), Some(came.clone())]),
//!             Row::new("predicted", [None, Some(predicted.clone())]),
//!             Row::new("difference", [None, difference(&came, &predicted, 4.0)]),
//!         ],
//!         ..Section::default()
//!     }],
//!     ..Strip::default()
//! };
//! assert!(strip.draw().dim().0 > 3 * 64);
//! ```

use crate::Picture;
use crate::draw::{Canvas, Colour, GREY, INK, RULE, Side, font, text_width};

const MARGIN: usize = 20;
/// Between two pictures.
const GAP: usize = 4;
/// Between two groups of columns.
const GROUP_GAP: usize = 16;
/// Between two sections.
const SECTION_GAP: usize = 22;
/// A line of text with its space.
const LINE: usize = 17;
const TITLE_LINE: usize = 28;
/// A line with a section's title, and the space above it.
const SECTION_TITLE: usize = 26;

/// Pictures in rows and columns.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Strip {
    /// Above all, large; may be empty.
    pub title: String,
    /// Below the title, small; may be empty.
    pub subtitle: String,
    /// Columns from left to right.
    pub groups: Vec<Group>,
    /// Rows from top to bottom.
    pub sections: Vec<Section>,
    /// Each pixel becomes a square of this many; 0 chooses so that pictures are at least 112 wide.
    pub scale: usize,
}

/// Columns that belong together, such as the past.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Group {
    /// Above its columns.
    pub title: String,
    /// One label a column.
    pub columns: Vec<String>,
}

/// Rows that belong together, such as one moment of a stream.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Section {
    /// Above its rows; may be empty.
    pub title: String,
    /// From top to bottom.
    pub rows: Vec<Row>,
}

/// A row of pictures.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Row {
    /// At its left.
    pub label: String,
    /// Below the label, small; may be empty, and have several lines.
    pub note: String,
    /// One for each column; `None` and what is missing stay empty.
    pub pictures: Vec<Option<Picture>>,
}

impl Group {
    /// A titled group of labelled columns.
    pub fn new<S: Into<String>>(title: impl Into<String>, columns: impl IntoIterator<Item = S>) -> Self {
        Self { title: title.into(), columns: columns.into_iter().map(Into::into).collect() }
    }
}

impl Row {
    /// A labelled row.
    pub fn new(label: impl Into<String>, pictures: impl IntoIterator<Item = Option<Picture>>) -> Self {
        Self { label: label.into(), note: String::new(), pictures: pictures.into_iter().collect() }
    }

    /// With words below the label.
    pub fn with_note(self, note: impl Into<String>) -> Self {
        Self { note: note.into(), ..self }
    }
}

impl Strip {
    /// The whole as one picture, as large as it must be.
    pub fn draw(&self) -> Picture {
        let layout = Layout::of(self);
        let mut canvas = Canvas::new(layout.width, layout.height);
        if !self.title.is_empty() {
            canvas.text((MARGIN, MARGIN), &self.title, &font::TITLE, INK, Side::Right);
        }
        if !self.subtitle.is_empty() {
            let y = MARGIN + if self.title.is_empty() { 0 } else { TITLE_LINE - 2 };
            canvas.text((MARGIN, y), &self.subtitle, &font::TEXT, GREY, Side::Right);
        }
        self.head(&mut canvas, &layout);
        let mut y = layout.top;
        for (index, section) in self.sections.iter().enumerate() {
            if index > 0 {
                y += SECTION_GAP / 2;
                canvas.fill((MARGIN, y), (layout.width - 2 * MARGIN, 1), RULE);
                y += SECTION_GAP / 2;
            }
            if !section.title.is_empty() {
                canvas.text(
                    (MARGIN, y + SECTION_TITLE - LINE - 3),
                    &section.title,
                    &font::TEXT,
                    GREY,
                    Side::Right,
                );
                y += SECTION_TITLE;
            }
            for row in &section.rows {
                self.row(&mut canvas, &layout, row, y);
                y += layout.cell.1 + GAP;
            }
            y = y.saturating_sub(if section.rows.is_empty() { 0 } else { GAP });
        }
        canvas.into_picture()
    }

    /// Titles of groups with a rule over their columns, and the columns' labels.
    fn head(&self, canvas: &mut Canvas, layout: &Layout) {
        let mut columns = layout.columns.iter();
        for group in &self.groups {
            let places: Vec<usize> = columns.by_ref().take(group.columns.len()).copied().collect();
            let (Some(first), Some(last)) = (places.first(), places.last()) else { continue };
            let rule = layout.top - 2 * LINE - 10;
            canvas.text((*first, rule), &group.title, &font::BOLD, INK, Side::Right);
            canvas.fill((*first, rule + LINE), (last + layout.cell.0 - first, 1), GREY);
            for (x, label) in places.iter().zip(&group.columns) {
                let middle = x + layout.cell.0 / 2;
                canvas.text((middle, layout.top - LINE), label, &font::TEXT, GREY, Side::Middle);
            }
        }
    }

    fn row(&self, canvas: &mut Canvas, layout: &Layout, row: &Row, y: usize) {
        let lines = 1 + row.note.lines().count();
        let top = y + (layout.cell.1.saturating_sub(lines * LINE)) / 2;
        canvas.text((MARGIN, top), &row.label, &font::BOLD, INK, Side::Right);
        for (index, line) in row.note.lines().enumerate() {
            canvas.text((MARGIN, top + (index + 1) * LINE), line, &font::TEXT, GREY, Side::Right);
        }
        for (index, x) in layout.columns.iter().enumerate() {
            if let Some(Some(picture)) = row.pictures.get(index) {
                canvas.paste((*x, y), picture, layout.scale);
            }
        }
    }
}

/// Where everything goes, in pixels.
struct Layout {
    scale: usize,
    /// Width and height of a picture's field.
    cell: (usize, usize),
    /// Left edges.
    columns: Vec<usize>,
    /// Of the first row.
    top: usize,
    width: usize,
    height: usize,
}

impl Layout {
    fn of(strip: &Strip) -> Self {
        let rows = || strip.sections.iter().flat_map(|section| &section.rows);
        let sizes = || rows().flat_map(|row| row.pictures.iter().flatten().map(|picture| picture.dim()));
        let largest = (sizes().map(|size| size.1).max(), sizes().map(|size| size.0).max());
        let (width, height) = (largest.0.unwrap_or(64).max(1), largest.1.unwrap_or(64).max(1));
        let scale = if strip.scale > 0 { strip.scale } else { 112_usize.div_ceil(width) };
        let cell = (width * scale, height * scale);

        let texts = rows().flat_map(|row| {
            let notes = row.note.lines().map(|line| text_width(line, &font::TEXT));
            notes.chain([text_width(&row.label, &font::BOLD)])
        });
        let labels = texts.max().map_or(0, |widest| widest + 18);
        let mut x = MARGIN + labels;
        let mut columns = Vec::new();
        for group in strip.groups.iter().filter(|group| !group.columns.is_empty()) {
            for _ in &group.columns {
                columns.push(x);
                x += cell.0 + GAP;
            }
            x += GROUP_GAP - GAP;
        }
        let pictures_end = columns.last().map_or(MARGIN + labels, |last| last + cell.0);
        let words = text_width(&strip.title, &font::TITLE).max(text_width(&strip.subtitle, &font::TEXT));
        let titles = strip.sections.iter().map(|section| text_width(&section.title, &font::TEXT)).max();
        let widest = words.max(titles.unwrap_or(0));

        let mut top = MARGIN + 2 * LINE + 10;
        top += if strip.title.is_empty() { 0 } else { TITLE_LINE };
        top += if strip.subtitle.is_empty() { 0 } else { LINE + 4 };
        top += if strip.title.is_empty() && strip.subtitle.is_empty() { 0 } else { 8 };
        let sections = strip.sections.iter().map(|section| {
            let title = if section.title.is_empty() { 0 } else { SECTION_TITLE };
            title + (section.rows.len() * (cell.1 + GAP)).saturating_sub(GAP)
        });
        let gaps = strip.sections.len().saturating_sub(1) * 2 * (SECTION_GAP / 2);
        Self {
            scale,
            cell,
            columns,
            top,
            width: pictures_end.max(MARGIN + widest) + MARGIN,
            height: top + sections.sum::<usize>() + gaps + MARGIN,
        }
    }
}

/// How far two pictures are apart, as heat: dark where they are equal, over red to bright. The largest difference of a
/// pixel's three channels counts, `gain` times. `None` where the shapes differ.
pub fn difference(a: &Picture, b: &Picture, gain: f32) -> Option<Picture> {
    if a.dim() != b.dim() {
        return None;
    }
    let (height, width, _) = a.dim();
    let mut heat = Picture::zeros((height, width, 3));
    for y in 0..height {
        for x in 0..width {
            let apart = (0..3).map(|c| a[(y, x, c)].abs_diff(b[(y, x, c)])).max().unwrap_or(0);
            let colour = heat_colour((f32::from(apart) / 255.0 * gain).clamp(0.0, 1.0));
            (0..3).for_each(|c| heat[(y, x, c)] = colour[c]);
        }
    }
    Some(heat)
}

/// From nearly black at 0 to pale yellow at 1.
fn heat_colour(share: f32) -> Colour {
    const STOPS: [[f32; 3]; 5] = [
        [10.0, 8.0, 20.0],
        [88.0, 20.0, 104.0],
        [190.0, 48.0, 82.0],
        [246.0, 132.0, 36.0],
        [252.0, 248.0, 184.0],
    ];
    let place = share * (STOPS.len() - 1) as f32;
    let below = (place as usize).min(STOPS.len() - 2);
    let part = place - below as f32;
    std::array::from_fn(|c| (STOPS[below][c] + part * (STOPS[below + 1][c] - STOPS[below][c]) + 0.5) as u8)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_picture_lands_whole_and_apart() {
        let picture = |value| Some(Picture::from_elem((4, 6, 3), value));
        let strip = Strip {
            groups: vec![Group::new("past", ["now"]), Group::new("future", ["+1", "+2"])],
            sections: vec![
                Section {
                    title: "one".into(),
                    rows: vec![Row::new("a", [picture(1), picture(2), picture(3)])],
                },
                Section {
                    title: String::new(),
                    rows: vec![Row::new("b", [None, picture(4)]).with_note("x\ny")],
                },
            ],
            scale: 3,
            ..Strip::default()
        };
        let drawn = strip.draw();
        for value in 1..=4 {
            let count = drawn.iter().filter(|sample| **sample == value).count();
            assert_eq!(count, 4 * 6 * 9 * 3, "picture {value}");
        }
        assert_eq!(Strip::default().draw().dim().1, 2 * MARGIN);
    }

    #[test]
    fn equal_pictures_have_no_heat() {
        let grey = Picture::from_elem((2, 3, 3), 100);
        let mut other = grey.clone();
        other[(0, 0, 1)] = 228;
        let heat = difference(&grey, &other, 4.0).unwrap();
        assert_eq!(heat[(1, 1, 0)], 10);
        assert_eq!(heat[(0, 0, 0)], 252);
        assert_eq!(difference(&grey, &Picture::zeros((1, 1, 3)), 1.0), None);
    }
}
