//! Films: what is written is read again, every frame once, in order, in its colours and at its time.
#![allow(clippy::unwrap_used)] // also in the helpers of tests

use std::path::Path;
use std::time::Duration;

use nextclip_media::{
    Error, Fit, Frame, Mp4Writer, Picture, Received, SourceConfig, load_png, read_video, save_png,
};

/// Jumps up and down, so that pictures out of order show.
fn mark_of(n: u8) -> u8 {
    20 + 4 * (u32::from(n) * 37 % 50) as u8
}

/// Six upright bars of known colours, and frame `n` of a film marked by its brightness in the lower half.
fn picture(n: u8, width: usize, height: usize) -> Picture {
    const BARS: [[u8; 3]; 6] =
        [[200, 60, 20], [40, 180, 70], [30, 60, 200], [235, 235, 235], [16, 16, 16], [220, 200, 40]];
    Picture::from_shape_fn((height, width, 3), |(y, x, c)| {
        if y < height / 2 { BARS[x * 6 / width][c] } else { mark_of(n) }
    })
}

fn write(path: &Path, frames: u8, size: (usize, usize), rate: (u32, u32)) {
    let mut film = Mp4Writer::create(path, size.0, size.1, rate).unwrap();
    for n in 0..frames {
        film.push(&picture(n, size.0, size.1)).unwrap();
    }
    assert_eq!(film.len(), u64::from(frames));
    film.finish().unwrap();
}

fn read(path: &Path, size: (usize, usize)) -> Vec<Frame> {
    let video = read_video(path, size.0, size.1, Fit::Stretch).unwrap();
    video.collect::<Result<_, Error>>().unwrap()
}

/// Mean of all channels in the lower half.
fn mark(frame: &Frame) -> f64 {
    let (height, ..) = frame.picture.dim();
    let lower = frame.picture.slice(ndarray::s![height * 3 / 4.., .., ..]);
    lower.iter().map(|sample| f64::from(*sample)).sum::<f64>() / lower.len() as f64
}

#[test]
fn a_film_comes_back_whole_in_order_and_in_its_colours() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("new folder/a.mp4");
    for (size, rate) in [((192, 130), (30_000, 1_001)), ((130, 98), (25, 2)), ((1280, 720), (10, 1))] {
        write(&path, 45, size, rate);
        let frames = read(&path, size);
        assert_eq!(frames.len(), 45, "{size:?}");
        for (n, frame) in (0_u64..).zip(&frames) {
            let expected_ns = n * 1_000_000_000 * u64::from(rate.1) / u64::from(rate.0);
            let off = frame.captured_ns.abs_diff(expected_ns);
            assert!(off < 100_000, "frame {n} of {rate:?} is {off} ns off");
            let expected = f64::from(mark_of(n as u8));
            assert!(
                (mark(frame) - expected).abs() < 3.0,
                "frame {n} is marked {}, not {expected}",
                mark(frame)
            );
        }
        let (found, expected) = (&frames[20].picture, picture(20, size.0, size.1));
        for bar in 0..6 {
            let (x, y) = (size.0 * (2 * bar + 1) / 12, size.1 / 4);
            for c in 0..3 {
                let (a, b) = (found[(y, x, c)], expected[(y, x, c)]);
                assert!(a.abs_diff(b) <= 6, "{size:?}, bar {bar}, channel {c}: {a}, not {b}");
            }
        }
        let video = read_video(&path, 32, 32, Fit::Crop).unwrap();
        assert_eq!(video.rate(), Some(rate), "{}", video.describe());
    }
}

#[test]
fn a_slow_reader_of_a_film_loses_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("a.mp4");
    write(&path, 40, (64, 64), (100, 1));
    let uri = nextclip_media::SourceUri::File(path);
    let mut source =
        SourceConfig { uri, width: 64, height: 64, fit: Fit::Crop, realtime: false }.build().unwrap();
    let mut marks = Vec::new();
    while let Received::Frame(frame) = source.receive(Duration::from_secs(10)).unwrap() {
        std::thread::sleep(Duration::from_millis(15));
        marks.push(mark(&frame));
    }
    assert_eq!(marks.len(), 40);
    let in_order = (0..).zip(&marks).all(|(n, mark)| (f64::from(mark_of(n)) - mark).abs() < 4.0);
    assert!(in_order, "{marks:?}");
    let counts = source.counts();
    assert_eq!((counts.arrived, counts.evicted), (40, 0));
}

#[test]
fn a_film_in_real_time_keeps_its_pace_and_evicts() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("a.mp4");
    write(&path, 50, (64, 64), (50, 1));
    let uri = nextclip_media::SourceUri::File(path);
    let mut source =
        SourceConfig { uri, width: 64, height: 64, fit: Fit::Crop, realtime: true }.build().unwrap();
    let (started, mut taken) = (std::time::Instant::now(), 0);
    while let Received::Frame(_) = source.receive(Duration::from_secs(10)).unwrap() {
        std::thread::sleep(Duration::from_millis(100));
        taken += 1;
    }
    let took = started.elapsed();
    assert!(took > Duration::from_millis(900) && took < Duration::from_secs(4), "{took:?}");
    let counts = source.counts();
    assert_eq!((counts.arrived, counts.arrived - counts.evicted), (50, taken));
    assert!(counts.evicted >= 30, "{counts:?}");
}

#[test]
fn broken_films_are_faults_or_ends_but_no_panics() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("whole.mp4");
    write(&path, 40, (128, 128), (25, 1));
    let whole = std::fs::read(&path).unwrap();
    let broken = folder.path().join("broken.mp4");
    for cut in [0, 10, 40, whole.len() / 3, whole.len() - 200, whole.len() - 1] {
        std::fs::write(&broken, &whole[..cut]).unwrap();
        let frames: Result<Vec<_>, Error> =
            read_video(&broken, 32, 32, Fit::Crop).and_then(Iterator::collect);
        match frames {
            Ok(frames) => assert!(frames.len() <= 40),
            Err(error) => assert!(error.to_string().contains("broken.mp4"), "{error}"),
        }
    }
    let mut state = 1_u32;
    for _ in 0..12 {
        let mut bytes = whole.clone();
        for _ in 0..30 {
            state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            let at = state as usize % bytes.len();
            bytes[at] ^= (state >> 24) as u8;
        }
        std::fs::write(&broken, &bytes).unwrap();
        let started = std::time::Instant::now();
        if let Ok(video) = read_video(&broken, 32, 32, Fit::Crop) {
            assert!(video.take(200).count() < 200);
        }
        assert!(started.elapsed() < Duration::from_secs(5), "{:?} to give up", started.elapsed());
    }
}

#[test]
fn films_that_can_not_be_written_say_why() {
    let folder = tempfile::tempdir().unwrap();
    let fault = |path: &Path, size: (usize, usize), rate| match Mp4Writer::create(path, size.0, size.1, rate)
    {
        Ok(_) => panic!("{size:?} was opened"),
        Err(error) => error.to_string(),
    };
    let path = folder.path().join("a.mp4");
    assert!(fault(&path, (33, 32), (30, 1)).contains("33x32"));
    assert!(fault(&path, (32, 32), (0, 1)).contains("rate"));
    let file = folder.path().join("file");
    std::fs::write(&file, "").unwrap();
    assert!(fault(&file.join("a.mp4"), (32, 32), (30, 1)).contains("a.mp4"));
    assert!(fault(folder.path(), (32, 32), (30, 1)).contains("directory"));

    let mut film = Mp4Writer::create(&path, 32, 32, (30, 1)).unwrap();
    assert!(film.push(&Picture::zeros((32, 34, 3))).unwrap_err().to_string().contains("34x32"));
    assert!(film.finish().unwrap_err().to_string().contains("no picture"));
}

#[test]
fn pictures_come_back_from_png_exactly() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("deep/a.png");
    let saved = picture(3, 37, 21);
    save_png(&path, &saved).unwrap();
    assert_eq!(load_png(&path).unwrap(), saved);
    std::fs::write(&path, "no picture").unwrap();
    assert!(load_png(&path).unwrap_err().to_string().contains("a.png"));
    assert!(load_png(folder.path().join("none.png")).unwrap_err().to_string().contains("none.png"));
    assert!(save_png(&path, &Picture::zeros((0, 4, 3))).is_err());
}
