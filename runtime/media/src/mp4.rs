//! Writes pictures as an H.264 film.

use std::path::{Path, PathBuf};

use gstreamer as gst;
use gstreamer::prelude::*;
use gstreamer_app::AppSrc;
use gstreamer_video::{VideoCapsBuilder, VideoFormat, VideoInfo};

use crate::colour::to_bt709_i420;
use crate::{Error, Picture, chain};

/// How long an encoder may take to finish its last pictures.
const FINISH_S: u64 = 30;

/// A film being written. [`Mp4Writer::finish`] completes it; dropping it does the same, but can only log a fault.
pub struct Mp4Writer {
    path: PathBuf,
    pipeline: gst::Pipeline,
    source: AppSrc,
    info: VideoInfo,
    encoder: &'static str,
    pushed: u64,
    open: bool,
}

impl Mp4Writer {
    /// Opens a film of `width` x `height` pixels, both even, at a rate given as numerator and denominator. Missing
    /// folders are made.
    ///
    /// # Errors
    /// An odd size, no H.264 encoder, a path that can't be written.
    pub fn create(
        path: impl AsRef<Path>,
        width: usize,
        height: usize,
        frames_per_second: (u32, u32),
    ) -> Result<Self, Error> {
        crate::init()?;
        let path = path.as_ref();
        let fail = |cause: String| Error::Write { path: path.to_owned(), cause };
        let info = format(width, height, frames_per_second).map_err(|why| Error::Size {
            place: path.display().to_string(),
            width,
            height,
            why,
        })?;
        if let Some(folder) = path.parent() {
            std::fs::create_dir_all(folder).map_err(|err| fail(err.to_string()))?;
        }
        // GStreamer says "could not open resource" where the system says why.
        std::fs::File::create(path).map_err(|err| fail(err.to_string()))?;

        let caps = info.to_caps().map_err(|err| fail(err.to_string()))?;
        let source = AppSrc::builder().caps(&caps).format(gst::Format::Time).block(true);
        let source = source.max_bytes(4 * info.size() as u64).build();
        let (encode, encoder) = encoder(path)?;
        let parse = chain::make("h264parse", &path.display().to_string())?;
        let mux = chain::make("mp4mux", &path.display().to_string())?;
        let sink = chain::make("filesink", &path.display().to_string())?;
        sink.set_property("location", path);
        let pipeline = gst::Pipeline::new();
        let line = [source.upcast_ref(), &encode, &parse, &mux, &sink];
        let wired = pipeline.add_many(line).and_then(|()| gst::Element::link_many(line));
        wired.map_err(|err| fail(err.to_string()))?;
        let writer = Self { path: path.to_owned(), pipeline, source, info, encoder, pushed: 0, open: true };
        match writer.pipeline.set_state(gst::State::Playing) {
            Ok(_) => Ok(writer),
            Err(err) => Err(writer.fault(&err.to_string())),
        }
    }

    /// Adds a picture of the film's size. Waits while the encoder is busy.
    pub fn push(&mut self, picture: &Picture) -> Result<(), Error> {
        let (height, width, channels) = picture.dim();
        let expected = (self.info.height() as usize, self.info.width() as usize, 3);
        if (height, width, channels) != expected {
            let why = "all pictures of a film have its size";
            return Err(Error::Size { place: self.path.display().to_string(), width, height, why });
        }
        let bytes = self.planes(picture);
        let (from, to) = (self.time(self.pushed), self.time(self.pushed + 1));
        let mut buffer = gst::Buffer::from_mut_slice(bytes);
        if let Some(fields) = buffer.get_mut() {
            fields.set_pts(from);
            fields.set_duration(to - from);
        }
        self.source.push_buffer(buffer).map_err(|err| self.fault(&err.to_string()))?;
        self.pushed += 1;
        Ok(())
    }

    /// Pictures so far.
    pub fn len(&self) -> u64 {
        self.pushed
    }

    /// Whether no picture was added yet.
    pub fn is_empty(&self) -> bool {
        self.pushed == 0
    }

    /// Name of the encoder in use.
    pub fn encoder(&self) -> &'static str {
        self.encoder
    }

    /// Completes the film: only then it can be played.
    ///
    /// # Errors
    /// No picture was added, or the encoder or the disk failed.
    pub fn finish(mut self) -> Result<(), Error> {
        self.close()
    }

    fn close(&mut self) -> Result<(), Error> {
        if !std::mem::take(&mut self.open) {
            return Ok(());
        }
        let ended = self.source.end_of_stream();
        let ending = self.pipeline.bus().and_then(|bus| {
            let wanted = [gst::MessageType::Eos, gst::MessageType::Error];
            bus.timed_pop_filtered(gst::ClockTime::from_seconds(FINISH_S), &wanted)
        });
        let result = match ending.as_deref().map(gst::MessageRef::view) {
            _ if self.pushed == 0 => Err("no picture was added".to_owned()),
            Some(gst::MessageView::Eos(_)) => Ok(()),
            Some(gst::MessageView::Error(error)) => Err(crate::head::cause(error)),
            _ => {
                Err(ended.map_or_else(|err| err.to_string(), |_| format!("not finished within {FINISH_S} s")))
            }
        };
        let stopped = self.pipeline.set_state(gst::State::Null);
        result
            .and(stopped.map(|_| ()).map_err(|err| err.to_string()))
            .map_err(|cause| self.write_error(cause))
    }

    fn planes(&self, picture: &Picture) -> Vec<u8> {
        let mut bytes = vec![0_u8; self.info.size()];
        let (strides, offsets) = (self.info.stride(), self.info.offset());
        let stride = |plane: usize| usize::try_from(strides[plane]).unwrap_or_default();
        to_bt709_i420(picture, &mut bytes, [0, 1, 2].map(stride), [offsets[0], offsets[1], offsets[2]]);
        bytes
    }

    /// When picture `n` is shown. Exact to the nanosecond, for any rate and however long.
    fn time(&self, n: u64) -> gst::ClockTime {
        let (numerator, denominator) = (self.info.fps().numer(), self.info.fps().denom());
        let ns = u128::from(n) * 1_000_000_000 * u128::from(denominator.unsigned_abs());
        let ns = ns / u128::from(numerator.unsigned_abs().max(1));
        gst::ClockTime::from_nseconds(u64::try_from(ns).unwrap_or(u64::MAX / 2))
    }

    /// The pipeline's own words where it has said something, else these.
    fn fault(&self, otherwise: &str) -> Error {
        let message = self.pipeline.bus().and_then(|bus| bus.pop_filtered(&[gst::MessageType::Error]));
        let cause = match message.as_deref().map(gst::MessageRef::view) {
            Some(gst::MessageView::Error(error)) => crate::head::cause(error),
            _ => otherwise.to_owned(),
        };
        self.write_error(cause)
    }

    fn write_error(&self, cause: String) -> Error {
        Error::Write { path: self.path.clone(), cause }
    }
}

impl Drop for Mp4Writer {
    fn drop(&mut self) {
        if let Err(err) = self.close() {
            log::warn!("{err}");
        }
        let _ = self.pipeline.set_state(gst::State::Null);
    }
}

fn format(width: usize, height: usize, rate: (u32, u32)) -> Result<VideoInfo, &'static str> {
    let even = |pixels: usize| (2..=16384).contains(&pixels) && pixels.is_multiple_of(2);
    if !even(width) || !even(height) {
        return Err("expected even numbers from 2 to 16384, as H.264 halves its colours");
    }
    let rate =
        i32::try_from(rate.0).ok().zip(i32::try_from(rate.1).ok()).filter(|rate| rate.0 > 0 && rate.1 > 0);
    let (numerator, denominator) = rate.ok_or("the rate must be positive and below 2^31")?;
    let caps = VideoCapsBuilder::new()
        .format(VideoFormat::I420)
        .width(i32::try_from(width).map_err(|_| "more than 31 bits")?)
        .height(i32::try_from(height).map_err(|_| "more than 31 bits")?)
        .framerate(gst::Fraction::new(numerator, denominator))
        .pixel_aspect_ratio((1, 1).into())
        .field("colorimetry", "bt709");
    VideoInfo::from_caps(&caps.build()).map_err(|_| "no format of GStreamer's")
}

/// The board's best encoder that is installed, with what feeds it.
fn encoder(path: &Path) -> Result<(gst::Element, &'static str), Error> {
    let elements = nextclip_boards::detect(Path::new("/proc/device-tree")).elements();
    let installed = |name: &str| gst::ElementFactory::find(name).is_some();
    let Some(encoder) = elements.encoders_h264.iter().find(|encoder| installed(encoder.element)) else {
        let names: Vec<_> = elements.encoders_h264.iter().map(|encoder| encoder.element).collect();
        return Err(Error::Element {
            place: path.display().to_string(),
            element: names.join(" or "),
            hint: chain::origin("x264enc").to_owned(),
        });
    };
    let settings: String = encoder.settings.iter().map(|(name, value)| format!(" {name}={value}")).collect();
    let description = format!("{} ! {}{settings}", encoder.feed, encoder.element);
    let bin = gst::parse::bin_from_description(&description, true)
        .map_err(|err| Error::Write { path: path.to_owned(), cause: err.message().to_owned() })?;
    Ok((bin.upcast(), encoder.element))
}
