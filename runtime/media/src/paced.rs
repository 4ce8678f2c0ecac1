//! Films at the model's pace: which files a path means, their unbroken stretches of pictures, and which of
//! these are for training and which are held out.

use std::fs;
use std::ops::Range;
use std::path::{Path, PathBuf};

use nextclip_core::{Geometry, Pace, Pacer, Picture};
use nextclip_scenes::Split;

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

/// From this many pictures on a stretch is divided; a shorter one goes to one part whole.
const DIVIDED_FROM: usize = 60;

/// All stretches of a film, or of a folder of films, as far as they belong to `part` (all of it without).
/// The parts never overlap: of a long stretch the first seven tenths are for training, the next tenth for
/// validation and the last two are held out; of every ten short ones in a row seven, one and two.
///
/// # Errors
/// Where a film cannot be read or decoded.
pub fn footage(
    path: &Path,
    geometry: &Geometry,
    fit: Fit,
    part: Option<Split>,
) -> Result<Vec<Vec<Picture>>, Error> {
    let mut chosen = Vec::new();
    let mut short = 0;
    for film in films(path)? {
        for stretch in stretches(&film, geometry, fit)? {
            let range = match part {
                None => 0..stretch.len(),
                Some(part) if stretch.len() >= DIVIDED_FROM => span(part, stretch.len()),
                Some(part) => {
                    short += 1;
                    if short_part(short - 1) == part { 0..stretch.len() } else { 0..0 }
                }
            };
            if !range.is_empty() {
                chosen.push(stretch[range].to_vec());
            }
        }
    }
    Ok(chosen)
}

/// How many pictures from the start of each stretch, in order, are not held out: what may be learned from or decided
/// by, where the rest measures what came of it. By the division that [`footage`] makes.
pub fn learnable(lengths: &[usize]) -> Vec<usize> {
    let mut short = 0;
    let usable = lengths.iter().map(|&length| {
        if length >= DIVIDED_FROM {
            return span(Split::HeldOut, length).start;
        }
        short += 1;
        if short_part(short - 1) == Split::HeldOut { 0 } else { length }
    });
    usable.collect()
}

/// Where `part` lies in a stretch of `len` pictures.
fn span(part: Split, len: usize) -> Range<usize> {
    let (seven, eight) = (len * 7 / 10, len * 8 / 10);
    match part {
        Split::Train => 0..seven,
        Split::Validation => seven..eight,
        Split::HeldOut => eight..len,
    }
}

/// The part that the short stretch `index` goes to.
fn short_part(index: usize) -> Split {
    match index % 10 {
        4 | 9 => Split::HeldOut,
        2 => Split::Validation,
        _ => Split::Train,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_cover_everything_once() {
        for len in [60, 61, 377, 1000] {
            let spans = [Split::Train, Split::Validation, Split::HeldOut].map(|part| span(part, len));
            assert_eq!((spans[0].start, spans[2].end), (0, len));
            assert!(spans.windows(2).all(|pair| pair[0].end == pair[1].start), "{spans:?}");
        }
        assert_eq!(learnable(&[100, 59, 8, 7, 6, 5, 60]), [80, 59, 8, 7, 6, 0, 48]);
        let count = |part| (0..20).filter(|&index| short_part(index) == part).count();
        assert_eq!([Split::Train, Split::Validation, Split::HeldOut].map(count), [14, 2, 4]);
    }
}
