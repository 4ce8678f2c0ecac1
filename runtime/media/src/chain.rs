//! From a decoded stream to RGB pictures of the wanted size: crop or bars, scale, colours, rows without padding.

use gstreamer as gst;
use gstreamer::prelude::*;
use gstreamer_app::AppSink;
use gstreamer_video::{VideoCapsBuilder, VideoFormat, VideoFrameExt, VideoFrameRef, VideoInfo};

use crate::colour::ToRgb;
use crate::{Error, Fit, Picture};

/// Elements between decoder and reader, linked, in a bin with a `sink` pad.
pub(crate) struct Chain {
    pub(crate) bin: gst::Bin,
    pub(crate) input: gst::Pad,
    pub(crate) sink: AppSink,
}

/// Makes an element, or says what it needs to be installed.
pub(crate) fn make(factory: &str, place: &str) -> Result<gst::Element, Error> {
    gst::ElementFactory::make(factory).build().map_err(|_| Error::Element {
        place: place.to_owned(),
        element: factory.to_owned(),
        hint: origin(factory).to_owned(),
    })
}

/// Which package brings an element.
pub(crate) fn origin(factory: &str) -> &'static str {
    match factory {
        "nvarguscamerasrc" => {
            "it comes with NVIDIA Jetson Linux (nvidia-l4t-gstreamer), so csi:// works only there"
        }
        "nvvidconv" | "nvv4l2decoder" | "nvv4l2h264enc" => {
            "it comes with NVIDIA Jetson Linux (nvidia-l4t-gstreamer)"
        }
        "rtspsrc" | "v4l2src" | "mp4mux" | "aspectratiocrop" => "install gstreamer1.0-plugins-good",
        "x264enc" => "install gstreamer1.0-plugins-ugly",
        "h264parse" | "openh264enc" => "install gstreamer1.0-plugins-bad",
        _ => "install gstreamer1.0-plugins-base",
    }
}

pub(crate) fn build(width: usize, height: usize, fit: Fit, place: &str) -> Result<Chain, Error> {
    let size_error = |why| Error::Size { place: place.to_owned(), width, height, why };
    let (w, h) = match (i32::try_from(width), i32::try_from(height)) {
        (Ok(w @ 1..=16384), Ok(h @ 1..=16384)) => (w, h),
        _ => return Err(size_error("expected 1 to 16384 pixels each way")),
    };
    // Cropping claims to know every format and fails with some: those are converted first, others pass through.
    let mut line = vec![converter(place)?, common_formats(place)?];
    // Cropping comes first: it moves pointers, and nothing is scaled that is then thrown away.
    if fit == Fit::Crop {
        let crop = make("aspectratiocrop", place)?;
        crop.set_property("aspect-ratio", gst::Fraction::new(w, h));
        line.push(crop);
    }
    // Scaled before this, the colours of most films would lose half of their sharpness: they have a pixel for four.
    line.push(converter(place)?);
    // "bilinear2" averages over all pixels that fall into one, where "bilinear" looks at two and flickers.
    let scale = make("videoscale", place)?;
    scale.set_property_from_str("method", "bilinear2");
    scale.set_property("add-borders", fit == Fit::Letterbox);
    line.push(scale);
    // YUV becomes RGB here, not in GStreamer, which rounds down.
    let caps = VideoCapsBuilder::new()
        .format_list([VideoFormat::Y444, VideoFormat::Rgb])
        .width(w)
        .height(h)
        .pixel_aspect_ratio((1, 1).into());
    let sink = AppSink::builder().caps(&caps.build()).sync(false).enable_last_sample(false).build();
    sink.set_property("qos", false);
    line.push(sink.clone().upcast());

    let bin = gst::Bin::with_name("pictures");
    let wired = bin.add_many(&line).and_then(|()| gst::Element::link_many(&line));
    wired.map_err(|err| Error::Stream { uri: place.to_owned(), cause: err.to_string() })?;
    let broken = |cause: &str| Error::Stream { uri: place.to_owned(), cause: cause.to_owned() };
    let inner = line[0].static_pad("sink").ok_or_else(|| broken("the first element has no input"))?;
    let input = gst::GhostPad::with_target(&inner).map_err(|err| broken(&err.to_string()))?;
    name_colours(input.upcast_ref());
    bin.add_pad(&input).map_err(|err| broken(&err.to_string()))?;
    Ok(Chain { bin, input: input.upcast(), sink })
}

fn converter(place: &str) -> Result<gst::Element, Error> {
    let convert = make("videoconvert", place)?;
    convert.set_property_from_str("dither", "none");
    Ok(convert)
}

fn common_formats(place: &str) -> Result<gst::Element, Error> {
    use VideoFormat as F;
    let known = [F::I420, F::Yv12, F::Nv12, F::Y42b, F::Y444, F::Yuy2, F::Uyvy, F::Ayuv, F::Gray8];
    let known =
        known.into_iter().chain([F::Rgb, F::Bgr, F::Rgbx, F::Bgrx, F::Xrgb, F::Xbgr, F::Rgba, F::Bgra]);
    let filter = make("capsfilter", place)?;
    filter.set_property("caps", VideoCapsBuilder::new().format_list(known).build());
    Ok(filter)
}

/// Writes down the colour matrix where a stream leaves it to be guessed. The guess depends on the height (BT.709 from
/// 576 lines on), so it must be made before scaling: a small picture of a large one would come out in the wrong one.
fn name_colours(input: &gst::Pad) {
    input.add_probe(gst::PadProbeType::EVENT_DOWNSTREAM, |_, probe| {
        if let Some(gst::PadProbeData::Event(event)) = &mut probe.data
            && let gst::EventView::Caps(caps) = event.view()
            && caps.caps().structure(0).is_some_and(|fields| !fields.has_field("colorimetry"))
            && let Ok(info) = VideoInfo::from_caps(caps.caps())
        {
            let mut named = caps.caps_owned();
            if let Some(fields) = named.make_mut().structure_mut(0) {
                fields.set("colorimetry", info.colorimetry().to_string());
            }
            *event = gst::event::Caps::new(&named);
        }
        gst::PadProbeReturn::Ok
    });
}

/// A sample as an RGB picture; what its rows are padded with stays behind.
pub(crate) fn picture_of(sample: &gst::SampleRef) -> Result<Picture, String> {
    let (Some(buffer), Some(caps)) = (sample.buffer(), sample.caps()) else {
        return Err("a sample without picture or format".into());
    };
    let info = VideoInfo::from_caps(caps).map_err(|err| err.to_string())?;
    let frame = VideoFrameRef::from_buffer_ref_readable(buffer, &info).map_err(|err| err.to_string())?;
    let size = (info.width() as usize, info.height() as usize);
    let plane = |index: u32| -> Result<(&[u8], usize), String> {
        let stride = usize::try_from(frame.plane_stride()[index as usize]);
        let bytes = frame.plane_data(index).map_err(|err| err.to_string())?;
        Ok((bytes, stride.map_err(|_| "a picture stored upside down")?))
    };
    match info.format() {
        VideoFormat::Rgb => {
            let (bytes, stride) = plane(0)?;
            from_rgb(bytes, size.0, size.1, stride)
        }
        VideoFormat::Y444 => {
            let planes = [plane(0)?, plane(1)?, plane(2)?];
            from_yuv(planes, size.0, size.1, &ToRgb::new(&info.colorimetry()))
        }
        other => Err(format!("a picture in {other} where RGB or Y444 was asked for")),
    }
}

/// Three planes of `height` rows, each with its bytes from one row to the next.
fn from_yuv(
    planes: [(&[u8], usize); 3],
    width: usize,
    height: usize,
    to_rgb: &ToRgb,
) -> Result<Picture, String> {
    for (bytes, stride) in planes {
        check(bytes, width, height, stride)?;
    }
    let mut pixels = Vec::with_capacity(3 * width * height);
    for y in 0..height {
        let [luma, u, v] = planes.map(|(bytes, stride)| &bytes[y * stride..y * stride + width]);
        for ((luma, u), v) in luma.iter().zip(u).zip(v) {
            pixels.extend_from_slice(&to_rgb.rgb(*luma, *u, *v));
        }
    }
    Picture::from_shape_vec((height, width, 3), pixels).map_err(|err| err.to_string())
}

/// Whether `height` rows of `row` bytes fit. The last one may end without padding.
fn check(plane: &[u8], row: usize, height: usize, stride: usize) -> Result<(), String> {
    if row == 0 || stride < row || plane.len() < stride * height.saturating_sub(1) + row {
        return Err(format!("{} bytes, stride {stride}, are not {height} rows of {row} bytes", plane.len()));
    }
    Ok(())
}

/// `height` rows of `width` RGB pixels, `stride` bytes from one to the next.
fn from_rgb(plane: &[u8], width: usize, height: usize, stride: usize) -> Result<Picture, String> {
    let row = 3 * width;
    check(plane, row, height, stride)?;
    let mut pixels = Vec::with_capacity(row * height);
    for line in plane.chunks(stride).take(height) {
        pixels.extend_from_slice(&line[..row]);
    }
    Picture::from_shape_vec((height, width, 3), pixels).map_err(|err| err.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn padding_of_rows_stays_behind() {
        let plane = [1, 2, 3, 4, 5, 6, 99, 99, 7, 8, 9, 10, 11, 12];
        let picture = from_rgb(&plane, 2, 2, 8).unwrap();
        assert_eq!(picture.as_slice().unwrap(), &[1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12]);
        assert!(from_rgb(&plane, 2, 3, 8).unwrap_err().contains("14 bytes, stride 8"));
        assert!(from_rgb(&plane, 3, 1, 8).is_err());
    }
}
