//! Areas, smooth lines and words on a picture.

use embedded_graphics::mono_font::{MonoFont, MonoTextStyle};
use embedded_graphics::pixelcolor::Rgb888;
use embedded_graphics::prelude::*;
use embedded_graphics::text::{Alignment, Baseline, Text, TextStyleBuilder};

use crate::Picture;

/// Red, green, blue.
pub(crate) type Colour = [u8; 3];

pub(crate) const PAPER: Colour = [252, 252, 250];
pub(crate) const INK: Colour = [36, 38, 44];
pub(crate) const GREY: Colour = [112, 116, 124];
pub(crate) const RULE: Colour = [222, 222, 218];

/// Fonts from small to large. They hold Latin-1; other letters become "?".
pub(crate) mod font {
    pub(crate) use embedded_graphics::mono_font::iso_8859_1::{
        FONT_7X13 as TEXT, FONT_7X13_BOLD as BOLD, FONT_10X20 as TITLE,
    };
}

/// Where a text stands beside its point.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Side {
    /// It starts at the point.
    Right,
    /// It ends at the point.
    Left,
    /// Its middle is at the point.
    Middle,
}

/// A picture to draw on; what falls outside is left out.
pub(crate) struct Canvas {
    picture: Picture,
}

impl Canvas {
    pub(crate) fn new(width: usize, height: usize) -> Self {
        let mut canvas = Self { picture: Picture::zeros((height, width, 3)) };
        canvas.fill((0, 0), (width, height), PAPER);
        canvas
    }

    pub(crate) fn into_picture(self) -> Picture {
        self.picture
    }

    /// A filled rectangle: left and top, width and height.
    pub(crate) fn fill(&mut self, at: (usize, usize), size: (usize, usize), colour: Colour) {
        let (height, width, _) = self.picture.dim();
        for y in at.1..(at.1 + size.1).min(height) {
            for x in at.0..(at.0 + size.0).min(width) {
                self.set(x, y, colour);
            }
        }
    }

    /// A picture, each pixel a square of `scale`.
    pub(crate) fn paste(&mut self, at: (usize, usize), picture: &Picture, scale: usize) {
        let (height, width, _) = picture.dim();
        for y in 0..height {
            for x in 0..width {
                let colour = [picture[(y, x, 0)], picture[(y, x, 1)], picture[(y, x, 2)]];
                self.fill((at.0 + x * scale, at.1 + y * scale), (scale, scale), colour);
            }
        }
    }

    /// One line of text whose top is at the point.
    pub(crate) fn text(
        &mut self,
        at: (usize, usize),
        text: &str,
        font: &MonoFont<'_>,
        colour: Colour,
        side: Side,
    ) {
        let alignment = match side {
            Side::Right => Alignment::Left,
            Side::Left => Alignment::Right,
            Side::Middle => Alignment::Center,
        };
        let character = MonoTextStyle::new(font, Rgb888::new(colour[0], colour[1], colour[2]));
        let style = TextStyleBuilder::new().alignment(alignment).baseline(Baseline::Top).build();
        let point =
            Point::new(i32::try_from(at.0).unwrap_or(i32::MAX), i32::try_from(at.1).unwrap_or(i32::MAX));
        match Text::with_text_style(text, point, character, style).draw(self) {
            Ok(_) => {}
            Err(never) => match never {},
        }
    }

    /// A line from point to point, `thickness` pixels wide, with soft edges. Points outside the picture are fine.
    pub(crate) fn line(&mut self, from: (f64, f64), to: (f64, f64), thickness: f64, colour: Colour) {
        let reach = thickness / 2.0 + 1.0;
        let (height, width, _) = self.picture.dim();
        let span = |a: f64, b: f64, end: usize| {
            let low = (a.min(b) - reach).floor().clamp(0.0, end as f64) as usize;
            let high = (a.max(b) + reach).ceil().clamp(0.0, end as f64) as usize;
            low..high
        };
        for y in span(from.1, to.1, height) {
            for x in span(from.0, to.0, width) {
                let distance = distance_to_segment((x as f64 + 0.5, y as f64 + 0.5), from, to);
                let cover = (thickness / 2.0 + 0.5 - distance).clamp(0.0, 1.0);
                if cover > 0.0 {
                    self.blend(x, y, colour, cover);
                }
            }
        }
    }

    fn blend(&mut self, x: usize, y: usize, colour: Colour, cover: f64) {
        for (channel, value) in colour.into_iter().enumerate() {
            let below = f64::from(self.picture[(y, x, channel)]);
            let mixed = below + (f64::from(value) - below) * cover;
            self.picture[(y, x, channel)] = (mixed + 0.5) as u8;
        }
    }

    fn set(&mut self, x: usize, y: usize, colour: Colour) {
        for (channel, value) in colour.into_iter().enumerate() {
            self.picture[(y, x, channel)] = value;
        }
    }
}

fn distance_to_segment(point: (f64, f64), from: (f64, f64), to: (f64, f64)) -> f64 {
    let (along, off) = ((to.0 - from.0, to.1 - from.1), (point.0 - from.0, point.1 - from.1));
    let length2 = along.0 * along.0 + along.1 * along.1;
    let t = if length2 > 0.0 { ((off.0 * along.0 + off.1 * along.1) / length2).clamp(0.0, 1.0) } else { 0.0 };
    (off.0 - t * along.0).hypot(off.1 - t * along.1)
}

/// Width of a line of text in pixels.
pub(crate) fn text_width(text: &str, font: &MonoFont<'_>) -> usize {
    text.chars().count() * (font.character_size.width + font.character_spacing) as usize
}

impl OriginDimensions for Canvas {
    fn size(&self) -> Size {
        let (height, width, _) = self.picture.dim();
        Size::new(u32::try_from(width).unwrap_or(u32::MAX), u32::try_from(height).unwrap_or(u32::MAX))
    }
}

impl DrawTarget for Canvas {
    type Color = Rgb888;
    type Error = std::convert::Infallible;

    fn draw_iter<I: IntoIterator<Item = Pixel<Rgb888>>>(&mut self, pixels: I) -> Result<(), Self::Error> {
        let (height, width, _) = self.picture.dim();
        for Pixel(point, colour) in pixels {
            if let (Ok(x), Ok(y)) = (usize::try_from(point.x), usize::try_from(point.y))
                && x < width
                && y < height
            {
                self.set(x, y, [colour.r(), colour.g(), colour.b()]);
            }
        }
        Ok(())
    }
}
