//! What can be wrong with a bundle.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use nextclip_core::manifest::{self, ManifestError};
use nextclip_core::position::TableTooSmall;
use thiserror::Error;

use crate::room::{self, NoRoom};
use crate::targets::TargetError;
use crate::verify::VerifyError;

/// A bundle that could not be written.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum BundleError {
    /// The target does not take the graphs.
    #[error(transparent)]
    Target(#[from] TargetError),
    /// The position table of the checkpoint is too small for the frames.
    #[error(transparent)]
    Frame(#[from] TableTooSmall),
    /// Something else has the bundle's name.
    #[error("{}: exists and is not a bundle (it has no {}); remove it or choose another name", .0.display(), manifest::FILE_NAME)]
    Occupied(PathBuf),
    /// A file of the bundle.
    #[error("{}: cannot be written", path.display())]
    Write {
        /// The file or folder.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The manifest.
    #[error(transparent)]
    Manifest(#[from] ManifestError),
    /// The bundle was written and does not run.
    #[error(transparent)]
    Verify(#[from] VerifyError),
    /// The disk is too small.
    #[error(transparent)]
    Room(#[from] NoRoom),
    /// A weight that the bundle's numbers cannot stand for.
    #[error("{0}")]
    Weight(String),
    /// A layer that is none.
    #[error("no layer {name:?} can be quantised; there are {}", layers.join(", "))]
    NoLayer {
        /// The name.
        name: String,
        /// The right ones.
        layers: Vec<String>,
    },
    /// Another program is at work on this bundle.
    #[error("{}: another export is writing this bundle", .0.display())]
    Busy(PathBuf),
    /// Something else has the name of the folder to work in.
    #[error("{}: exists and is not a draft of this program's; remove it", .0.display())]
    NoDraft(PathBuf),
}

impl BundleError {
    /// Says what a full disk means for a bundle of `needed` bytes; other faults stay as they are.
    pub(crate) fn of_room(self, needed: u64) -> Self {
        let (path, source) = match &self {
            Self::Write { path, source } | Self::Verify(VerifyError::File { path, source }) => (path, source),
            _ => return self,
        };
        if source.kind() == io::ErrorKind::InvalidData && source.get_ref().is_some() {
            return Self::Weight(source.to_string());
        }
        if !room::is_full(source) {
            return self;
        }
        let written = fs::metadata(path).map_or(0, |data| data.len());
        let full = NoRoom::Full { path: path.clone(), needed, written, reason: source.to_string() };
        Self::Room(full)
    }
}

pub(crate) fn fault_at(path: &Path) -> impl Fn(io::Error) -> BundleError + use<'_> {
    move |source| BundleError::Write { path: path.into(), source }
}
