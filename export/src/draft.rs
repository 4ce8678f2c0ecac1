//! The hidden folder in which a bundle is made, and its way to the bundle's name.
//!
//! The folder's name follows from the bundle's, and whoever works in it holds a lock that the system takes back when
//! the program ends, however it ends. So a draft without a holder was left by a program that was killed: the next
//! export to the same name removes it. Two exports to one name at a time are refused.

use std::ffi::OsString;
use std::fs::{self, File, OpenOptions, TryLockError};
use std::io::{self, ErrorKind};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use nextclip_core::manifest;
use rustix::fs::{CWD, RenameFlags, renameat_with};

use crate::error::{BundleError, fault_at};

/// The file that a draft's owner holds locked; also the sign that the folder is a draft.
const LOCK: &str = "nextclip-export.lock";

/// The bundle in the making.
const BUNDLE: &str = "bundle";

/// The bundle that it takes the place of, where a system cannot exchange the two in one go.
const REPLACED: &str = "replaced";

/// A folder of this program's own, removed when it is dropped.
#[derive(Debug)]
pub(crate) struct Draft {
    folder: PathBuf,
    out: PathBuf,
    /// Locked as long as it is open.
    _lock: File,
}

impl Draft {
    /// A clean draft for the bundle `out`, beside it; what a killed program left is removed first.
    pub(crate) fn claim(out: &Path) -> Result<Self, BundleError> {
        refuse_occupied(out)?;
        let parent = match out.parent() {
            Some(parent) if !parent.as_os_str().is_empty() => parent,
            _ => Path::new("."),
        };
        fs::create_dir_all(parent).map_err(fault_at(parent))?;
        let folder = parent.join(draft_name(out));
        let lock = own(&folder, out)?;
        let draft = Self { folder, out: out.into(), _lock: lock };
        draft.recover()?;
        let bundle = draft.bundle();
        fs::create_dir(&bundle).map_err(fault_at(&bundle))?;
        Ok(draft)
    }

    /// The bundle's folder within the draft.
    pub(crate) fn bundle(&self) -> PathBuf {
        self.folder.join(BUNDLE)
    }

    /// Gives the bundle its name. One that has the name already is replaced in the same moment, where the file
    /// system can do that.
    pub(crate) fn publish(self) -> Result<(), BundleError> {
        let (bundle, out) = (self.bundle(), self.out.as_path());
        sync(&bundle)?;
        if !out.exists() {
            fs::rename(&bundle, out).map_err(fault_at(out))?;
        } else if renameat_with(CWD, &bundle, CWD, out, RenameFlags::EXCHANGE).is_err() {
            // A file system without exchange. If the program is killed between the two, `recover` puts the old
            // bundle back.
            let replaced = self.folder.join(REPLACED);
            fs::rename(out, &replaced).map_err(fault_at(out))?;
            if let Err(source) = fs::rename(&bundle, out) {
                // Best effort: the error that matters is the first.
                let _ = fs::rename(&replaced, out);
                return Err(BundleError::Write { path: out.into(), source });
            }
        }
        Ok(())
    }

    /// Puts back a bundle that was about to be replaced, and removes everything else but the lock.
    fn recover(&self) -> Result<(), BundleError> {
        let replaced = self.folder.join(REPLACED);
        if !self.out.exists() && replaced.join(manifest::FILE_NAME).is_file() {
            fs::rename(&replaced, &self.out).map_err(fault_at(&self.out))?;
        }
        for name in entries(&self.folder).map_err(fault_at(&self.folder))? {
            let path = self.folder.join(&name);
            if name != LOCK {
                log::warn!("{}: left by an export that did not end, removed", path.display());
                remove(&path).map_err(fault_at(&path))?;
            }
        }
        Ok(())
    }
}

impl Drop for Draft {
    fn drop(&mut self) {
        // Best effort, the lock last: without it the rest would be nobody's.
        for name in entries(&self.folder).unwrap_or_default() {
            if name != LOCK {
                let _ = remove(&self.folder.join(name));
            }
        }
        let _ = fs::remove_file(self.folder.join(LOCK));
        let _ = fs::remove_dir(&self.folder);
    }
}

fn draft_name(out: &Path) -> OsString {
    let mut name = OsString::from(".");
    name.push(out.file_name().unwrap_or_default());
    name.push(".draft");
    name
}

/// Makes the folder, or takes it from a program that is no more; returns its lock, held.
fn own(folder: &Path, out: &Path) -> Result<File, BundleError> {
    let lock_path = folder.join(LOCK);
    loop {
        match fs::create_dir(folder) {
            Ok(()) => {}
            Err(error) if error.kind() == ErrorKind::AlreadyExists => {
                let names = match entries(folder) {
                    Err(error) if error.kind() == ErrorKind::NotFound => continue,
                    names => names.map_err(fault_at(folder))?,
                };
                if !names.is_empty() && names.iter().all(|name| name != LOCK) {
                    return Err(BundleError::NoDraft(folder.into()));
                }
            }
            Err(source) => return Err(fault_at(folder)(source)),
        }
        let lock = match OpenOptions::new().create(true).append(true).open(&lock_path) {
            Ok(lock) => lock,
            // Its owner has just removed it.
            Err(error) if error.kind() == ErrorKind::NotFound => continue,
            Err(source) => return Err(fault_at(&lock_path)(source)),
        };
        match lock.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => return Err(BundleError::Busy(out.into())),
            Err(TryLockError::Error(source)) => return Err(fault_at(&lock_path)(source)),
        }
        // Locked, but perhaps a file that its owner removed a moment before.
        let same = |path: &Path| -> io::Result<bool> {
            let (held, named) = (lock.metadata()?, fs::metadata(path)?);
            Ok((held.dev(), held.ino()) == (named.dev(), named.ino()))
        };
        match same(&lock_path) {
            Ok(true) => return Ok(lock),
            Ok(false) => {}
            Err(error) if error.kind() == ErrorKind::NotFound => {}
            Err(source) => return Err(fault_at(&lock_path)(source)),
        }
    }
}

/// Only a bundle or an empty folder may be replaced.
fn refuse_occupied(out: &Path) -> Result<(), BundleError> {
    let empty = || fs::read_dir(out).is_ok_and(|mut entries| entries.next().is_none());
    if !out.exists() || out.join(manifest::FILE_NAME).is_file() || empty() {
        return Ok(());
    }
    Err(BundleError::Occupied(out.into()))
}

/// The rename that follows must not be on disk before the data.
fn sync(bundle: &Path) -> Result<(), BundleError> {
    let names = entries(bundle).map_err(fault_at(bundle))?;
    for path in names.iter().map(|name| bundle.join(name)).chain([bundle.to_path_buf()]) {
        File::open(&path).and_then(|file| file.sync_all()).map_err(fault_at(&path))?;
    }
    Ok(())
}

fn entries(folder: &Path) -> io::Result<Vec<OsString>> {
    fs::read_dir(folder)?.map(|entry| Ok(entry?.file_name())).collect()
}

fn remove(path: &Path) -> io::Result<()> {
    if fs::symlink_metadata(path)?.is_dir() { fs::remove_dir_all(path) } else { fs::remove_file(path) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(folder: &Path) -> Vec<OsString> {
        let mut names = entries(folder).unwrap();
        names.sort();
        names
    }

    fn bundle(at: &Path, content: &str) {
        fs::create_dir_all(at).unwrap();
        fs::write(at.join(manifest::FILE_NAME), content).unwrap();
    }

    fn content(at: &Path) -> String {
        fs::read_to_string(at.join(manifest::FILE_NAME)).unwrap()
    }

    #[test]
    fn a_bundle_gets_its_name_and_nothing_else_stays() {
        let parent = tempfile::tempdir().unwrap();
        let out = parent.path().join("b");
        for version in ["first", "second"] {
            let draft = Draft::claim(&out).unwrap();
            bundle(&draft.bundle(), version);
            draft.publish().unwrap();
            assert_eq!(content(&out), version);
            assert_eq!(names(parent.path()), ["b"]);
        }
        drop(Draft::claim(&out).unwrap());
        assert_eq!((content(&out).as_str(), names(parent.path())), ("second", vec!["b".into()]));
    }

    #[test]
    fn two_at_a_time_are_refused() {
        let parent = tempfile::tempdir().unwrap();
        let out = parent.path().join("b");
        let draft = Draft::claim(&out).unwrap();
        let message = Draft::claim(&out).unwrap_err().to_string();
        assert_eq!(message, format!("{}: another export is writing this bundle", out.display()));
        assert!(Draft::claim(&parent.path().join("c")).is_ok());
        drop(draft);
        assert!(Draft::claim(&out).is_ok());
    }

    #[test]
    fn what_a_killed_export_left_is_removed_and_what_is_not_ours_is_not() {
        let parent = tempfile::tempdir().unwrap();
        let (out, folder) = (parent.path().join("b"), parent.path().join(".b.draft"));
        fs::create_dir_all(folder.join("bundle")).unwrap();
        fs::write(folder.join("bundle/weights.bin"), "half").unwrap();
        let message = Draft::claim(&out).unwrap_err().to_string();
        assert!(message.contains(".b.draft: exists and is not a draft of this program's"), "{message}");
        assert!(folder.join("bundle/weights.bin").exists());
        // With the sign that it is a draft, and nobody who holds it.
        fs::write(folder.join(LOCK), "").unwrap();
        let draft = Draft::claim(&out).unwrap();
        assert_eq!(names(&draft.bundle()), Vec::<OsString>::new());
        drop(draft);
        assert!(names(parent.path()).is_empty());
    }

    #[test]
    fn a_bundle_that_was_being_replaced_comes_back() {
        let parent = tempfile::tempdir().unwrap();
        let (out, folder) = (parent.path().join("b"), parent.path().join(".b.draft"));
        bundle(&folder.join(REPLACED), "old");
        fs::write(folder.join(LOCK), "").unwrap();
        drop(Draft::claim(&out).unwrap());
        assert_eq!((content(&out).as_str(), names(parent.path())), ("old", vec!["b".into()]));
    }
}
