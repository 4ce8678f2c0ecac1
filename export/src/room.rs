//! Room on the disk: asked for before hours of work begin, and recognised where it ran out all the same.

use std::io::{self, ErrorKind};
use std::path::{Path, PathBuf};

use indicatif::HumanBytes;
use thiserror::Error;

/// A disk that does not hold what is to be written.
#[derive(Debug, Error, PartialEq, Eq)]
pub enum NoRoom {
    /// Known before anything was written.
    #[error("{}: not enough room: {} are needed, {} are free", path.display(), HumanBytes(*needed), HumanBytes(*free))]
    Free {
        /// Where.
        path: PathBuf,
        /// Bytes to be written.
        needed: u64,
        /// Bytes that there are.
        free: u64,
    },
    /// Found in the middle of writing; what was written has been removed.
    #[error("{}: no room left: {} are needed in all, {} were written: {reason}", path.display(), HumanBytes(*needed), HumanBytes(*written))]
    Full {
        /// The file.
        path: PathBuf,
        /// Bytes to be written in all.
        needed: u64,
        /// Bytes of this file that went well.
        written: u64,
        /// The system's word for it.
        reason: String,
    },
}

/// Refuses a folder whose disk has less than `needed` bytes free for this user. A disk that does not tell passes.
pub(crate) fn check(folder: &Path, needed: u64) -> Result<(), NoRoom> {
    let Ok(disk) = rustix::fs::statvfs(folder) else { return Ok(()) };
    let free = disk.f_bavail.saturating_mul(disk.f_frsize);
    if free < needed { Err(NoRoom::Free { path: folder.into(), needed, free }) } else { Ok(()) }
}

/// Whether writing failed for want of room: a full disk, a used-up quota, a limit on file sizes.
pub(crate) fn is_full(error: &io::Error) -> bool {
    matches!(error.kind(), ErrorKind::StorageFull | ErrorKind::QuotaExceeded | ErrorKind::FileTooLarge)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn more_than_any_disk_has_is_refused_with_both_numbers() {
        let folder = tempfile::tempdir().unwrap();
        assert_eq!(check(folder.path(), 1), Ok(()));
        let message = check(folder.path(), 1 << 60).unwrap_err().to_string();
        assert!(message.starts_with(&folder.path().display().to_string()), "{message}");
        assert!(message.contains("not enough room: 1.00 EiB are needed, "), "{message}");
        // What cannot be asked is left to the writing itself.
        assert_eq!(check("/no/such/folder".as_ref(), 1 << 60), Ok(()));
    }
}
