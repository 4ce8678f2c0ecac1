//! What can go wrong, each in one line that names the stream or file and the cause.

use std::path::PathBuf;

/// A fault of a source, a film or a picture file.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// GStreamer does not start.
    #[error("GStreamer does not start: {0}")]
    Init(gstreamer::glib::Error),
    /// The text names no source.
    #[error("source {uri:?}: {why}")]
    Uri {
        /// As given.
        uri: String,
        /// What is wrong with it, and what would be right.
        why: String,
    },
    /// A GStreamer element that this stream needs is not installed.
    #[error("{place}: the GStreamer element {element:?} is missing; {hint}")]
    Element {
        /// The source's URI or the file.
        place: String,
        /// Name of the element.
        element: String,
        /// Where it comes from.
        hint: String,
    },
    /// The stream broke, or never started.
    #[error("{uri}: {cause}")]
    Stream {
        /// The source, without its password.
        uri: String,
        /// GStreamer's words.
        cause: String,
    },
    /// Neither a picture nor an error came in time.
    #[error("{uri}: no picture within {waited_s} s")]
    Silent {
        /// The source, without its password.
        uri: String,
        /// How long was waited.
        waited_s: u64,
    },
    /// A size that can't be.
    #[error("{place}: a size of {width}x{height} is not possible: {why}")]
    Size {
        /// What was to have that size.
        place: String,
        /// In pixels.
        width: usize,
        /// In pixels.
        height: usize,
        /// The rule that it breaks.
        why: &'static str,
    },
    /// A film could not be written.
    #[error("{}: {cause}", path.display())]
    Write {
        /// The film.
        path: PathBuf,
        /// Why.
        cause: String,
    },
    /// A picture file could not be written or read.
    #[error("{}: {source}", path.display())]
    Png {
        /// The picture file.
        path: PathBuf,
        /// Why.
        source: image::ImageError,
    },
    /// A file or folder could not be read.
    #[error("{}: {source}", path.display())]
    Read {
        /// The file or folder.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// A folder has nothing to read.
    #[error("{}: no films in this folder ({endings})", path.display())]
    NoFilms {
        /// The folder.
        path: PathBuf,
        /// What was looked for.
        endings: String,
    },
}
