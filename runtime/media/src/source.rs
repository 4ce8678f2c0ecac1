//! One stream of pictures of the model's size, with the time when each was captured.

use std::fmt;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use gstreamer as gst;
use gstreamer::prelude::*;
use gstreamer_app::AppSinkCallbacks;
use gstreamer_video::VideoInfo;

use crate::chain::{self, Chain};
use crate::slot::{Ending, Slot, Taken, WhenFull};
use crate::{Error, Fit, Picture, SourceUri, head};

/// How long a source may take to deliver its first picture.
const CONNECT: Duration = Duration::from_secs(9);
/// How often a film that shows nothing yet is looked at, whether it is still being read.
const GLANCE: Duration = Duration::from_millis(300);
/// A camera that is silent for longer has died, though no error came.
const STALL: Duration = Duration::from_secs(10);
/// Frames held of a film: one in hand, one being made.
const AHEAD: usize = 2;

/// A stream to open.
#[derive(Clone, Debug)]
pub struct SourceConfig {
    /// Where pictures come from.
    pub uri: SourceUri,
    /// Width of the pictures in pixels, after fitting.
    pub width: usize,
    /// Height of the pictures in pixels, after fitting.
    pub height: usize,
    /// What happens where the aspect ratio differs.
    pub fit: Fit,
    /// Films only. `true`: at their own pace, and the newest picture wins as with a camera. `false`: every picture,
    /// as fast as it is taken.
    pub realtime: bool,
}

/// One picture of a stream.
#[derive(Clone, Debug)]
pub struct Frame {
    /// RGB, of the wanted size: (height, width, 3).
    pub picture: Picture,
    /// Position on the stream's clock in nanoseconds; the first frame is near zero.
    pub captured_ns: u64,
    /// When it was captured, as near as the stream tells; for films, when it was read.
    pub captured_at: Instant,
}

/// What [`Source::receive`] found.
#[derive(Clone, Debug)]
pub enum Received {
    /// The next picture, or the newest of a camera.
    Frame(Frame),
    /// The stream is over.
    End,
    /// Nothing came in time.
    TimedOut,
}

/// Frames of a source so far.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// Frames that came out of the decoder.
    pub arrived: u64,
    /// Of these, frames that a newer one replaced before they were taken.
    pub evicted: u64,
}

/// An open stream. Dropping it stops its threads and closes the camera.
pub struct Source {
    uri: String,
    pipeline: gst::Pipeline,
    slot: Arc<Slot<Frame>>,
    format: Arc<OnceLock<Format>>,
    decoder: Arc<OnceLock<String>>,
    fit: Fit,
    size: (usize, usize),
    live: Arc<AtomicBool>,
    /// Of the frame last taken.
    newest_ns: u64,
    /// Since when nothing came.
    silent_since: Instant,
}

/// What the stream turned out to be, before fitting.
struct Format {
    width: u32,
    height: u32,
    /// Width of a pixel by its height.
    pixel_aspect: (i32, i32),
    rate: Option<(u32, u32)>,
    pixels: String,
}

impl SourceConfig {
    /// Opens the stream and waits for its first picture.
    ///
    /// # Errors
    /// A missing file, device or plugin, an unreachable camera, a film that can't be decoded: within ten seconds, in
    /// one line that names the source.
    pub fn build(&self) -> Result<Source, Error> {
        crate::init()?;
        let uri = self.uri.to_string();
        let chain = chain::build(self.width, self.height, self.fit, &uri)?;
        let pipeline = gst::Pipeline::new();
        let slot = Arc::new(Slot::new(AHEAD, WhenFull::Block));
        // From here on, dropping the source stops the pipeline, also where the next step fails.
        let source = Source {
            uri,
            decoder: watch_decoder(&pipeline),
            pipeline,
            slot,
            format: Arc::default(),
            fit: self.fit,
            size: (self.width, self.height),
            live: Arc::default(),
            newest_ns: 0,
            silent_since: Instant::now(),
        };
        watch_bus(&source.pipeline, &source.slot, &source.uri)?;
        source.pipeline.add(&chain.bin).map_err(|err| source.fault(err.to_string()))?;
        head::attach(&source.pipeline, &chain.input, self, &source.slot)?;
        source.receive_from(&chain);
        source.start(&chain, self.realtime)?;
        source.wait_first(matches!(self.uri, SourceUri::File(_)))
    }
}

impl Source {
    fn start(&self, chain: &Chain, realtime: bool) -> Result<(), Error> {
        // A live source says so on the way to "paused", where it delivers nothing yet.
        let paused = self.pipeline.set_state(gst::State::Paused);
        let live = matches!(paused, Ok(gst::StateChangeSuccess::NoPreroll));
        self.live.store(live, Ordering::Relaxed);
        if live || realtime {
            self.slot.keep_newest();
        }
        chain.sink.set_sync(realtime && !live);
        match paused.and_then(|_| self.pipeline.set_state(gst::State::Playing)) {
            Ok(_) => Ok(()),
            // The cause is on its way over the bus, or never comes.
            Err(err) => match self.slot.wait_first(Duration::from_secs(1)) {
                Some(Err(Ending::Fault(cause))) => Err(self.fault(cause)),
                _ => Err(self.fault(err.to_string())),
            },
        }
    }

    /// Copies every picture that reaches the sink into the slot.
    fn receive_from(&self, chain: &Chain) {
        let (slot, slot_at_end, input) = (self.slot.clone(), self.slot.clone(), chain.input.clone());
        let (format, live) = (self.format.clone(), self.live.clone());
        let mut newest_ns = 0;
        let new_sample = move |sink: &gstreamer_app::AppSink| {
            let sample = sink.pull_sample().map_err(|_| gst::FlowError::Eos)?;
            let picture = chain::picture_of(&sample).map_err(|cause| {
                slot.end(Ending::Fault(cause));
                gst::FlowError::Error
            })?;
            if format.get().is_none()
                && let Some(found) = input.current_caps().as_deref().and_then(format_of)
            {
                let _ = format.set(found);
            }
            let running = running_time(&sample);
            // Streams without times of their own are counted on by their frame's length.
            let captured_ns = running.map_or(newest_ns, gst::ClockTime::nseconds);
            let length = sample.buffer().and_then(|buffer| buffer.duration());
            newest_ns = captured_ns + length.map_or(1, gst::ClockTime::nseconds);
            let age = if live.load(Ordering::Relaxed) { age(sink, captured_ns) } else { Duration::ZERO };
            let now = Instant::now();
            let captured_at = now.checked_sub(age).unwrap_or(now);
            slot.put(Frame { picture, captured_ns, captured_at }).map_err(|_| gst::FlowError::Flushing)?;
            Ok(gst::FlowSuccess::Ok)
        };
        let eos = move |_: &gstreamer_app::AppSink| slot_at_end.end(Ending::End);
        // The slot holds what waits, so appsink's own queue need not.
        chain.sink.set_max_buffers(1);
        chain.sink.set_callbacks(AppSinkCallbacks::builder().new_sample(new_sample).eos(eos).build());
    }

    fn wait_first(mut self, is_film: bool) -> Result<Source, Error> {
        let started = Instant::now();
        let mut idle_before = false;
        loop {
            match self.slot.wait_first(GLANCE) {
                Some(Ok(())) => break,
                Some(Err(Ending::Fault(cause))) => return Err(self.fault(cause)),
                Some(Err(Ending::End)) => return Err(self.fault("the stream holds no picture".into())),
                None if started.elapsed() > CONNECT => return Err(self.silent(CONNECT)),
                None => {}
            }
            // decodebin drops the error of a demuxer that fails while it is being connected, and waits for ever. What
            // can be seen then is that no thread reads any more.
            let idle = is_film && !self.is_reading();
            if idle && idle_before {
                return Err(
                    self.fault("it is damaged or no film: reading stopped before the first picture".into())
                );
            }
            idle_before = idle;
        }
        log::info!("{}", self.describe());
        self.silent_since = Instant::now();
        Ok(self)
    }

    /// Whether any of the pipeline's streaming threads runs.
    fn is_reading(&self) -> bool {
        let mut elements = self.pipeline.iterate_recurse().into_iter().flatten();
        elements.any(|element| element.pads().iter().any(|pad| pad.task_state() == gst::TaskState::Started))
    }

    /// The next frame of a film, the newest one of a camera.
    ///
    /// # Errors
    /// The stream broke; or it is a camera that has been silent for ten seconds, whatever the timeouts.
    pub fn receive(&mut self, timeout: Duration) -> Result<Received, Error> {
        match self.slot.take(timeout) {
            Taken::Item(frame) => {
                self.silent_since = Instant::now();
                self.newest_ns = frame.captured_ns;
                Ok(Received::Frame(frame))
            }
            Taken::Ended(Ending::End) => {
                self.note_truncation();
                Ok(Received::End)
            }
            Taken::Ended(Ending::Fault(cause)) => Err(self.fault(cause)),
            Taken::TimedOut if self.is_live() && self.silent_since.elapsed() > STALL => {
                Err(self.silent(STALL))
            }
            Taken::TimedOut => Ok(Received::TimedOut),
        }
    }

    /// Frames so far.
    pub fn counts(&self) -> Counts {
        let (arrived, evicted) = self.slot.counts();
        Counts { arrived, evicted }
    }

    /// Whether pictures come at their own pace from somewhere that can't wait.
    pub fn is_live(&self) -> bool {
        self.live.load(Ordering::Relaxed)
    }

    /// Frames a second, numerator and denominator, as the stream says; `None` where it varies or is not told.
    pub fn rate(&self) -> Option<(u32, u32)> {
        self.format.get().and_then(|format| format.rate)
    }

    /// Size, rate, format and decoder in one line, and what becomes of the size.
    pub fn describe(&self) -> String {
        let (width, height) = self.size;
        let (Some(format), fit) = (self.format.get(), self.fit) else {
            return format!("{}: no picture yet", self.uri);
        };
        let decoder = self.decoder.get().map_or(String::new(), |name| format!(" from {name}"));
        format!("{}: {format}{decoder}, {fit} to {width}x{height}", self.uri)
    }

    /// A cut-off film ends like a whole one, but long before its own idea of its length.
    fn note_truncation(&self) {
        let told = self.pipeline.query_duration::<gst::ClockTime>().map_or(0, gst::ClockTime::nseconds);
        let (told_s, seen_s) = (told as f64 / 1e9, self.newest_ns as f64 / 1e9);
        if told_s > seen_s * 1.1 + 2.0 {
            log::warn!("{}: ended at {seen_s:.1} s of {told_s:.1} s; the film may be cut off", self.uri);
        }
    }

    pub(crate) fn silent(&self, waited: Duration) -> Error {
        Error::Silent { uri: self.uri.clone(), waited_s: waited.as_secs() }
    }

    fn fault(&self, cause: String) -> Error {
        Error::Stream { uri: self.uri.clone(), cause }
    }
}

impl Drop for Source {
    fn drop(&mut self) {
        // A streaming thread that waits for room would keep the pipeline from stopping.
        self.slot.close();
        if self.pipeline.set_state(gst::State::Null).is_err() {
            log::warn!("{}: the pipeline did not stop cleanly", self.uri);
        }
    }
}

impl fmt::Display for Format {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}x{}", self.width, self.height)?;
        if self.pixel_aspect.0 != self.pixel_aspect.1 {
            write!(f, " (pixels {}:{})", self.pixel_aspect.0, self.pixel_aspect.1)?;
        }
        match self.rate {
            Some((numerator, 1)) => write!(f, ", {numerator} fps")?,
            Some((numerator, denominator)) => write!(f, ", {numerator}/{denominator} fps")?,
            None => write!(f, ", no fixed rate")?,
        }
        write!(f, ", {}", self.pixels)
    }
}

fn running_time(sample: &gst::SampleRef) -> Option<gst::ClockTime> {
    let segment = sample.segment()?.downcast_ref::<gst::ClockTime>()?;
    segment.to_running_time(sample.buffer()?.pts()?)
}

/// How long ago the pipeline's clock passed a running time; zero for a time to come.
fn age(sink: &gstreamer_app::AppSink, running_ns: u64) -> Duration {
    let now_ns = sink.current_running_time().map_or(0, gst::ClockTime::nseconds);
    Duration::from_nanos(now_ns.saturating_sub(running_ns))
}

fn format_of(caps: &gst::CapsRef) -> Option<Format> {
    let info = VideoInfo::from_caps(caps).ok()?;
    let rate = (u32::try_from(info.fps().numer()).ok()?, u32::try_from(info.fps().denom()).ok()?);
    Some(Format {
        width: info.width(),
        height: info.height(),
        pixel_aspect: (info.par().numer(), info.par().denom()),
        rate: (rate.0 > 0).then_some(rate),
        pixels: info.format().to_string(),
    })
}

/// Notes which element decodes the video.
fn watch_decoder(pipeline: &gst::Pipeline) -> Arc<OnceLock<String>> {
    let name = Arc::new(OnceLock::new());
    let found = name.clone();
    pipeline.connect_deep_element_added(move |_, _, element| {
        if let Some(factory) = element.factory()
            && factory.metadata("klass").is_some_and(|klass| klass.starts_with("Codec/Decoder/Video"))
        {
            let _ = found.set(factory.name().to_string());
        }
    });
    name
}

/// Ends the slot at the first error, in whichever thread it is posted.
fn watch_bus(pipeline: &gst::Pipeline, slot: &Arc<Slot<Frame>>, uri: &str) -> Result<(), Error> {
    let (slot, uri) = (slot.clone(), uri.to_owned());
    let Some(bus) = pipeline.bus() else {
        return Err(Error::Stream { uri, cause: "the pipeline has no bus".into() });
    };
    let missing = OnceLock::new();
    bus.set_sync_handler(move |_, message| {
        match message.view() {
            gst::MessageView::Error(error) => {
                let missing = missing.get().map(|name| format!("GStreamer lacks a plugin: {name}"));
                slot.end(Ending::Fault(missing.unwrap_or_else(|| head::cause(error))));
            }
            // Comes before the error, and alone says what it is about: "H.265 decoder".
            gst::MessageView::Element(note) => {
                let fields = note.structure().filter(|fields| fields.name() == "missing-plugin");
                if let Some(name) = fields.and_then(|fields| fields.get::<String>("name").ok()) {
                    let _ = missing.set(name);
                }
            }
            gst::MessageView::Warning(warning) => {
                log::warn!("{uri}: {}", head::one_line(&warning.error(), warning.debug()));
            }
            _ => {}
        }
        gst::BusSyncReply::Drop
    });
    Ok(())
}
