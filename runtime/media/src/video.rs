//! Every frame of a film, in order, as fast as they are wanted.

use std::path::Path;
use std::time::Duration;

use crate::{Error, Fit, Frame, Received, Source, SourceConfig, SourceUri};

/// A decoder that takes longer for one frame than this has died.
const PATIENCE: Duration = Duration::from_secs(30);

/// Opens a film to read every frame of it once, in order. Holds a few frames at a time, whatever its length.
pub fn read_video(path: impl AsRef<Path>, width: usize, height: usize, fit: Fit) -> Result<Video, Error> {
    let uri = SourceUri::File(path.as_ref().to_owned());
    let source = SourceConfig { uri, width, height, fit, realtime: false }.build()?;
    Ok(Video { source, over: false })
}

/// The frames of a film; ends after the last one or after a fault.
pub struct Video {
    source: Source,
    over: bool,
}

impl Video {
    /// Frames a second, numerator and denominator, as the film says; `None` where it varies or is not told.
    pub fn rate(&self) -> Option<(u32, u32)> {
        self.source.rate()
    }

    /// Size, rate and format in one line.
    pub fn describe(&self) -> String {
        self.source.describe()
    }
}

impl Iterator for Video {
    type Item = Result<Frame, Error>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.over {
            return None;
        }
        let result = match self.source.receive(PATIENCE) {
            Ok(Received::Frame(frame)) => return Some(Ok(frame)),
            Ok(Received::End) => None,
            Ok(Received::TimedOut) => Some(Err(self.source.silent(PATIENCE))),
            Err(err) => Some(Err(err)),
        };
        self.over = true;
        result
    }
}
