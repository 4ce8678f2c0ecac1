//! Films at the model's pace: which files a path means, and their unbroken stretches of pictures.

use std::fs;
use std::path::{Path, PathBuf};

use nextclip_core::{Geometry, Pace, Pacer, Picture};

use crate::{Error, Fit, read_video};

/// File name endings that a folder of films is searched for.
const FILM_ENDINGS: [&str; 5] = ["mp4", "mkv", "avi", "mov", "webm"];

/// The file itself, or all films of a folder in name order.
///
/// # Errors
/// Where `path` cannot be read, or is a folder without films.
pub fn films(path: &Path) -> Result<Vec<PathBuf>, Error> {
    let fault = |source| Error::Read { path: path.to_owned(), source };
    if !path.is_dir() {
        fs::metadata(path).map_err(fault)?;
        return Ok(vec![path.to_owned()]);
    }
    let is_film = |file: &PathBuf| {
        file.extension().is_some_and(|end| FILM_ENDINGS.iter().any(|film| end.eq_ignore_ascii_case(film)))
    };
    let mut files = Vec::new();
    for entry in fs::read_dir(path).map_err(fault)? {
        files.push(entry.map_err(fault)?.path());
    }
    files.retain(is_film);
    files.sort();
    if files.is_empty() {
        return Err(Error::NoFilms { path: path.to_owned(), endings: FILM_ENDINGS.join(", ") });
    }
    Ok(files)
}

/// The pictures of a film that a model of this geometry would see, of the model's size. A gap in time
/// starts a new stretch.
///
/// # Errors
/// Where the film cannot be read or decoded.
pub fn stretches(film: &Path, geometry: &Geometry, fit: Fit) -> Result<Vec<Vec<Picture>>, Error> {
    let mut pacer = Pacer::new(u64::from(geometry.frame_interval_ms) * 1_000_000);
    let mut stretches: Vec<Vec<Picture>> = Vec::new();
    for frame in read_video(film, geometry.width, geometry.height, fit)? {
        let frame = frame?;
        match (pacer.offer(frame.captured_ns), stretches.last_mut()) {
            (Pace::Skip, _) => {}
            (Pace::Take, Some(stretch)) => stretch.push(frame.picture),
            _ => stretches.push(vec![frame.picture]),
        }
    }
    Ok(stretches)
}
