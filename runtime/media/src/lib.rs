//! Pictures and video outside the model: GStreamer streams and files, PNG strips and plots.
//!
//! A [`SourceUri`] names a camera, a film or a generated scene; [`SourceConfig::build`] turns it into a [`Source`] of
//! RGB pictures of the model's size, in the right colours and with the time of capture. [`read_video`] is the same
//! for every frame of a film, in order. [`Mp4Writer`], [`save_png`], [`strip`], [`plot`] and [`bars`] show
//! what came of it.
//!
//! ```
//! use std::time::Duration;
//! use nextclip_media::{Fit, Received, SourceConfig};
//!
//! let uri = "test://?seed=1&fps=30".parse()?;
//! let mut camera = SourceConfig { uri, width: 128, height: 96, fit: Fit::Crop, realtime: true }.build()?;
//! if let Received::Frame(frame) = camera.receive(Duration::from_secs(2))? {
//!     assert_eq!(frame.picture.dim(), (96, 128, 3));
//! }
//! # Ok::<(), nextclip_media::Error>(())
//! ```

mod axis;
pub mod bars;
mod chain;
mod colour;
mod draw;
mod error;
mod feed;
mod fit;
mod head;
mod mp4;
mod paced;
pub mod plot;
mod png;
#[cfg(feature = "rtsp-server")]
pub mod rtsp_server;
mod slot;
mod source;
pub mod strip;
mod uri;
mod video;

use std::path::Path;
use std::sync::Once;

use gstreamer::prelude::PluginFeatureExtManual;

pub use nextclip_core::Picture;

pub use error::Error;
pub use fit::Fit;
pub use mp4::Mp4Writer;
pub use paced::{films, footage, learnable, stretches};
pub use png::{load_png, save_png};
pub use source::{Counts, Frame, Received, Source, SourceConfig};
pub use uri::SourceUri;
pub use video::{Video, read_video};

/// Starts GStreamer; further calls do nothing. Everything here that needs GStreamer calls it.
pub fn init() -> Result<(), Error> {
    static PREFER: Once = Once::new();
    gstreamer::init().map_err(Error::Init)?;
    PREFER.call_once(prefer_board_decoders);
    Ok(())
}

/// Lets automatic choices take the board's own decoders, in the order of its profile.
fn prefer_board_decoders() {
    let board = nextclip_boards::detect(Path::new("/proc/device-tree"));
    if board.family == nextclip_boards::Family::Generic {
        // GStreamer's own order knows more kinds of graphics cards than we do.
        return;
    }
    let elements = board.elements();
    for decoders in [elements.decoders_h264, elements.decoders_h265] {
        for (rank, name) in (1..).zip(decoders.iter().rev()) {
            if let Some(factory) = gstreamer::ElementFactory::find(name) {
                factory.set_rank(gstreamer::Rank::PRIMARY + 100 + rank);
            }
        }
    }
    log::debug!("{}: decoders {:?}, {:?}", board.name(), elements.decoders_h264, elements.decoders_h265);
}
