//! A generated scene as a live camera: it draws a picture when its time has come, and leaves out what it is late for.

use std::time::Duration;

use gstreamer as gst;
use gstreamer::prelude::*;
use gstreamer_app::AppSrc;
use gstreamer_video::{VideoCapsBuilder, VideoFormat, VideoInfo};
use nextclip_scenes::Scene;

use crate::{Error, Picture};

#[derive(Clone, Debug)]
pub(crate) struct Camera {
    pub(crate) seed: u64,
    /// Frames a second, numerator and denominator.
    pub(crate) rate: (u32, u32),
    pub(crate) width: usize,
    pub(crate) height: usize,
    pub(crate) seconds: Option<u32>,
}

/// A live appsrc for this camera's pictures.
pub(crate) fn source(camera: &Camera) -> Result<AppSrc, Error> {
    let source = AppSrc::builder()
        .caps(&caps(camera)?)
        .is_live(true)
        .format(gst::Format::Time)
        .max_buffers(2)
        .leaky_type(gstreamer_app::AppLeakyType::Downstream)
        .build();
    Ok(source)
}

/// What an appsrc must deliver for this camera.
pub(crate) fn caps(camera: &Camera) -> Result<gst::Caps, Error> {
    let fault = |why| Error::Size { place: camera.name(), width: camera.width, height: camera.height, why };
    let size = i32::try_from(camera.width).ok().zip(i32::try_from(camera.height).ok());
    let (width, height) = size.ok_or_else(|| fault("more than 31 bits"))?;
    let rate = i32::try_from(camera.rate.0).ok().zip(i32::try_from(camera.rate.1).ok());
    let rate = rate.ok_or_else(|| fault("its rate has more than 31 bits"))?;
    let caps = VideoCapsBuilder::new()
        .format(VideoFormat::Rgb)
        .width(width)
        .height(height)
        .framerate(gst::Fraction::new(rate.0, rate.1))
        .pixel_aspect_ratio((1, 1).into());
    Ok(caps.build())
}

/// Starts the thread that draws for an appsrc until `stop` says so or the source refuses.
pub(crate) fn start(
    camera: &Camera,
    source: AppSrc,
    stop: impl Fn() -> bool + Send + 'static,
) -> Result<(), Error> {
    let fault = |cause: String| Error::Stream { uri: camera.name(), cause };
    let caps = caps(camera)?;
    let info = VideoInfo::from_caps(&caps).map_err(|err| fault(err.to_string()))?;
    let scene = Scene::endless(camera.seed, camera.width, camera.height);
    let frames = camera.seconds.map(|s| u64::from(s) * u64::from(camera.rate.0) / u64::from(camera.rate.1));
    let painter = Painter { scene, info, rate: camera.rate, frames, source };
    let started = std::thread::Builder::new().name("scene".into()).spawn(move || painter.run(&stop));
    started.map(|_| ()).map_err(|err| fault(err.to_string()))
}

impl Camera {
    fn name(&self) -> String {
        format!("test scene {}", self.seed)
    }
}

struct Painter {
    scene: Scene,
    info: VideoInfo,
    rate: (u32, u32),
    frames: Option<u64>,
    source: AppSrc,
}

impl Painter {
    fn run(mut self, stop: &dyn Fn() -> bool) {
        let mut drawn: Option<u64> = None;
        while !stop() {
            // Before "playing" there may be a clock already and no time to count from: years would have passed.
            let playing = self.source.current_state() == gst::State::Playing;
            let Some(now) = self.source.current_running_time().filter(|_| playing) else {
                std::thread::sleep(Duration::from_millis(2));
                continue;
            };
            let newest = self.frame_at(now.nseconds());
            let next = drawn.map_or(newest, |last| (last + 1).max(newest));
            if self.frames.is_some_and(|frames| next >= frames) {
                let _ = self.source.end_of_stream();
                return;
            }
            let due_ns = self.time_ns(next);
            if due_ns > now.nseconds() {
                // Short enough that a closed source is left soon.
                std::thread::sleep(
                    Duration::from_nanos(due_ns - now.nseconds()).min(Duration::from_millis(100)),
                );
                continue;
            }
            let passed_ns = due_ns - drawn.map_or(0, |last| self.time_ns(last));
            self.scene.advance(passed_ns as f64 / 1e9);
            drawn = Some(next);
            let Some(buffer) = self.picture(due_ns, self.time_ns(next + 1) - due_ns) else { return };
            if self.source.push_buffer(buffer).is_err() {
                return;
            }
        }
    }

    /// When frame `n` is due. Exact to the nanosecond, for any rate and however long.
    fn time_ns(&self, n: u64) -> u64 {
        let ns = u128::from(n) * 1_000_000_000 * u128::from(self.rate.1) / u128::from(self.rate.0);
        u64::try_from(ns).unwrap_or(u64::MAX)
    }

    /// The newest frame due at a time.
    fn frame_at(&self, ns: u64) -> u64 {
        let n = u128::from(ns) * u128::from(self.rate.0) / (u128::from(self.rate.1) * 1_000_000_000);
        u64::try_from(n).unwrap_or(u64::MAX)
    }

    fn picture(&self, pts_ns: u64, duration_ns: u64) -> Option<gst::Buffer> {
        let picture = self.scene.render();
        let bytes = padded_rows(&picture, &self.info);
        let mut buffer = gst::Buffer::from_mut_slice(bytes);
        let fields = buffer.get_mut()?;
        fields.set_pts(gst::ClockTime::from_nseconds(pts_ns));
        fields.set_duration(gst::ClockTime::from_nseconds(duration_ns));
        Some(buffer)
    }
}

/// The rows of a picture as GStreamer wants them, each padded to its stride.
fn padded_rows(picture: &Picture, info: &VideoInfo) -> Vec<u8> {
    let row = 3 * info.width() as usize;
    let stride = usize::try_from(info.stride()[0]).unwrap_or(row).max(row).max(1);
    let mut bytes = vec![0_u8; info.size()];
    for (line, pixels) in bytes.chunks_mut(stride).zip(picture.outer_iter()) {
        line.iter_mut().zip(pixels).for_each(|(byte, sample)| *byte = *sample);
    }
    bytes
}
