//! Between luma and chroma and RGB, rounded to the nearest: GStreamer's 8-bit paths come out two or three levels dark.

use gstreamer_video::{VideoColorMatrix, VideoColorRange, VideoColorimetry};

use crate::Picture;

/// Fixed-point numbers have this many fractional bits.
const BITS: u32 = 16;

/// The weights of a YUV matrix: shares of red and blue in luma.
fn weights(matrix: VideoColorMatrix) -> (f64, f64) {
    match matrix {
        VideoColorMatrix::Bt709 => (0.2126, 0.0722),
        VideoColorMatrix::Bt2020 => (0.2627, 0.0593),
        VideoColorMatrix::Smpte240m => (0.212, 0.087),
        VideoColorMatrix::Fcc => (0.30, 0.11),
        // BT.601, and what nobody named.
        _ => (0.299, 0.114),
    }
}

/// From 8-bit YUV to 8-bit RGB.
pub(crate) struct ToRgb {
    luma_offset: i32,
    luma: i32,
    red_from_v: i32,
    green_from_u: i32,
    green_from_v: i32,
    blue_from_u: i32,
}

impl ToRgb {
    /// The matrix of a stream's colorimetry.
    pub(crate) fn new(colours: &VideoColorimetry) -> Self {
        let (kr, kb) = weights(colours.matrix());
        let kg = 1.0 - kr - kb;
        let (offset, luma_span, chroma_span) = match colours.range() {
            VideoColorRange::Range0_255 => (0, 255.0, 255.0),
            _ => (16, 219.0, 224.0),
        };
        let fixed = |factor: f64| (factor * f64::from(1 << BITS)).round_ties_even() as i32;
        let chroma = |factor: f64| fixed(factor * 255.0 / chroma_span);
        Self {
            luma_offset: offset,
            luma: fixed(255.0 / luma_span),
            red_from_v: chroma(2.0 * (1.0 - kr)),
            green_from_u: chroma(-2.0 * kb * (1.0 - kb) / kg),
            green_from_v: chroma(-2.0 * kr * (1.0 - kr) / kg),
            blue_from_u: chroma(2.0 * (1.0 - kb)),
        }
    }

    pub(crate) fn rgb(&self, y: u8, u: u8, v: u8) -> [u8; 3] {
        let luma = (i32::from(y) - self.luma_offset) * self.luma + (1 << (BITS - 1));
        let (u, v) = (i32::from(u) - 128, i32::from(v) - 128);
        [
            luma + self.red_from_v * v,
            luma + self.green_from_u * u + self.green_from_v * v,
            luma + self.blue_from_u * u,
        ]
        .map(|value| (value >> BITS).clamp(0, 255) as u8)
    }
}

/// A picture as planes Y, U, V in BT.709 of limited range; U and V are means over 2 x 2 pixels. Strides and offsets in
/// bytes, `planes` is long enough for them; sizes are even.
pub(crate) fn to_bt709_i420(picture: &Picture, planes: &mut [u8], strides: [usize; 3], offsets: [usize; 3]) {
    let (height, width, _) = picture.dim();
    let (kr, kb) = weights(VideoColorMatrix::Bt709);
    let shares = [kr, 1.0 - kr - kb, kb].map(|share| share as f32);
    let (blue_reach, red_reach) = ((2.0 * (1.0 - kb)) as f32, (2.0 * (1.0 - kr)) as f32);
    let rgb =
        |y: usize, x: usize| -> [f32; 3] { std::array::from_fn(|c| f32::from(picture[(y, x, c)]) / 255.0) };
    let luma = |rgb: [f32; 3]| rgb.iter().zip(shares).map(|(value, share)| value * share).sum::<f32>();
    // Casting rounds towards zero, so half is added; all values are positive.
    for y in 0..height {
        for x in 0..width {
            planes[offsets[0] + y * strides[0] + x] = (16.5 + 219.0 * luma(rgb(y, x))) as u8;
        }
    }
    for y in 0..height / 2 {
        for x in 0..width / 2 {
            let corners =
                [(0, 0), (0, 1), (1, 0), (1, 1)].map(|(down, right)| rgb(2 * y + down, 2 * x + right));
            let mean: [f32; 3] = std::array::from_fn(|c| corners.iter().map(|rgb| rgb[c]).sum::<f32>() / 4.0);
            let grey = luma(mean);
            planes[offsets[1] + y * strides[1] + x] = (128.5 + 224.0 * (mean[2] - grey) / blue_reach) as u8;
            planes[offsets[2] + y * strides[2] + x] = (128.5 + 224.0 * (mean[0] - grey) / red_reach) as u8;
        }
    }
}

#[cfg(test)]
mod tests {
    use std::str::FromStr;

    use super::*;

    fn to_rgb(colorimetry: &str) -> ToRgb {
        gstreamer::init().unwrap();
        ToRgb::new(&VideoColorimetry::from_str(colorimetry).unwrap())
    }

    #[test]
    fn the_ends_of_the_range_and_a_known_colour() {
        for name in ["bt601", "bt709", "bt2020"] {
            let matrix = to_rgb(name);
            assert_eq!([matrix.rgb(16, 128, 128), matrix.rgb(235, 128, 128)], [[0; 3], [255; 3]]);
            assert_eq!([matrix.rgb(0, 128, 128), matrix.rgb(255, 128, 128)], [[0; 3], [255; 3]]);
        }
        let full = to_rgb("1:4:0:0");
        assert_eq!(
            [full.rgb(0, 128, 128), full.rgb(77, 128, 128), full.rgb(255, 128, 128)],
            [[0; 3], [77; 3], [255; 3]]
        );
        // Pure red of the standards' own tables.
        assert_eq!(to_rgb("bt601").rgb(81, 90, 240), [254, 0, 0]);
        assert_eq!(to_rgb("bt709").rgb(63, 102, 240), [255, 1, 0]);
    }

    #[test]
    fn there_and_back_is_within_two_levels() {
        let matrix = to_rgb("bt709");
        for colour in
            [[0, 0, 0], [255; 3], [20; 3], [168; 3], [200, 60, 20], [3, 250, 130], [0, 0, 255], [255, 0, 0]]
        {
            let picture = Picture::from_shape_fn((2, 2, 3), |(_, _, c)| colour[c]);
            let mut planes = [0; 6];
            to_bt709_i420(&picture, &mut planes, [2, 1, 1], [0, 4, 5]);
            let back = matrix.rgb(planes[0], planes[4], planes[5]);
            let near = back.iter().zip(colour).all(|(a, b)| a.abs_diff(b) <= 2);
            assert!(near, "{colour:?} came back as {back:?}");
        }
    }
}
