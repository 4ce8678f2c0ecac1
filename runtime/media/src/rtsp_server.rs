//! Serves a film or a generated scene over RTSP on loopback, as H.264: a network camera for tests and demonstrations.

use std::path::PathBuf;

use gstreamer as gst;
use gstreamer::glib;
use gstreamer::prelude::*;
use gstreamer_app::AppSrc;
use gstreamer_rtsp_server::prelude::*;
use gstreamer_rtsp_server::{RTSPFilterResult, RTSPMediaFactory, RTSPServer};

use crate::{Error, feed};

const PATH: &str = "/camera";
/// A key frame a second: who connects later waits no longer.
const ENCODE: &str = "videoconvert ! video/x-raw,format=I420,colorimetry=bt709 ! \
                      x264enc tune=zerolatency speed-preset=veryfast pass=qual quantizer=20";

/// What the camera shows.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Served {
    /// A film, from its beginning for whoever comes first, at its own pace; the stream ends with it. H.264 is sent as
    /// it is.
    File(PathBuf),
    /// A generated scene without end.
    Scene {
        /// Which scene.
        seed: u64,
        /// Frames a second, numerator and denominator.
        rate: (u32, u32),
        /// Width and height in pixels, both even.
        size: (usize, usize),
    },
}

/// A running server; dropping it hangs up on everyone.
pub struct RtspCamera {
    url: String,
    server: RTSPServer,
    main_loop: glib::MainLoop,
    thread: Option<std::thread::JoinHandle<()>>,
}

impl RtspCamera {
    /// Starts serving on 127.0.0.1; port 0 takes a free one.
    ///
    /// # Errors
    /// A missing file, a port that is taken.
    pub fn start(served: &Served, port: u16) -> Result<Self, Error> {
        crate::init()?;
        let fault = |cause: String| Error::Stream { uri: format!("rtsp://127.0.0.1:{port}{PATH}"), cause };
        let factory = RTSPMediaFactory::new();
        factory.set_shared(true);
        match served {
            Served::File(path) => {
                std::fs::metadata(path).map_err(|err| fault(format!("{}: {err}", path.display())))?;
                let location = path.to_string_lossy().replace('\\', "\\\\").replace('"', "\\\"");
                factory.set_launch(&format!(
                    "( filesrc location=\"{location}\" ! parsebin ! h264parse ! rtph264pay name=pay0 config-interval=-1 )"
                ));
            }
            Served::Scene { seed, rate, size } => {
                let (width, height) = *size;
                let camera = feed::Camera { seed: *seed, rate: *rate, width, height, seconds: None };
                serve_scene(&factory, camera)?;
            }
        }
        let server = RTSPServer::new();
        server.set_address("127.0.0.1");
        server.set_service(&port.to_string());
        let mounts = server.mount_points().ok_or_else(|| fault("the server has no mount points".into()))?;
        mounts.add_factory(PATH, factory);

        let context = glib::MainContext::new();
        let main_loop = glib::MainLoop::new(Some(&context), false);
        server.attach(Some(&context)).map_err(|err| fault(err.to_string()))?;
        let url = format!("rtsp://127.0.0.1:{}{PATH}", server.bound_port());
        let running = main_loop.clone();
        let thread = std::thread::Builder::new().name("rtsp".into()).spawn(move || running.run());
        let thread = thread.map_err(|err| fault(err.to_string()))?;
        Ok(Self { url, server, main_loop, thread: Some(thread) })
    }

    /// Where it serves.
    pub fn url(&self) -> &str {
        &self.url
    }

    /// Breaks every connection, as a camera does that loses its power; new ones are still taken.
    pub fn hang_up(&self) {
        self.server.client_filter(Some(&mut |_, _| RTSPFilterResult::Remove));
    }
}

impl Drop for RtspCamera {
    fn drop(&mut self) {
        self.hang_up();
        self.main_loop.quit();
        if let Some(thread) = self.thread.take()
            && thread.join().is_err()
        {
            log::warn!("{}: the server's thread panicked", self.url);
        }
    }
}

fn serve_scene(factory: &RTSPMediaFactory, camera: feed::Camera) -> Result<(), Error> {
    let caps = feed::caps(&camera)?;
    let keys = (camera.rate.0 / camera.rate.1.max(1)).max(1);
    factory.set_launch(&format!(
        "( appsrc name=scene is-live=true format=time max-buffers=2 leaky-type=downstream ! {ENCODE} key-int-max={keys} ! \
         rtph264pay name=pay0 config-interval=-1 )"
    ));
    factory.connect_media_configure(move |_, media| {
        let Some(source) = media.element().downcast::<gst::Bin>().ok().and_then(|bin| bin.by_name("scene"))
        else {
            return log::error!("the media has no scene");
        };
        let Ok(source) = source.downcast::<AppSrc>() else { return log::error!("the scene is no appsrc") };
        source.set_caps(Some(&caps));
        // The media lets go of its elements when the last client has gone; the thread must not keep them.
        let media = media.downgrade();
        if let Err(err) = feed::start(&camera, source, move || media.upgrade().is_none()) {
            log::error!("{err}");
        }
    });
    Ok(())
}
