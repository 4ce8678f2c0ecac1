//! A network camera on loopback, from its connection to its loss.
#![cfg(feature = "rtsp-server")]
#![allow(clippy::unwrap_used)] // also in the helpers of tests

use std::time::{Duration, Instant};

use nextclip_media::rtsp_server::{RtspCamera, Served};
use nextclip_media::{Error, Fit, Mp4Writer, Picture, Received, Source, SourceConfig};

const WAIT: Duration = Duration::from_secs(10);

fn open(url: &str) -> Result<Source, Error> {
    let uri = url.parse()?;
    SourceConfig { uri, width: 64, height: 64, fit: Fit::Crop, realtime: true }.build()
}

fn scene(seed: u64) -> RtspCamera {
    let served = Served::Scene { seed, rate: (30_000, 1_001), size: (160, 120) };
    RtspCamera::start(&served, 0).unwrap()
}

#[test]
fn a_scene_arrives_live_by_tcp_and_udp() {
    let camera = scene(4);
    for url in [camera.url().to_owned(), camera.url().replace("rtsp://", "rtspu://")] {
        let mut source = open(&url).unwrap_or_else(|err| panic!("{err}"));
        assert!(source.is_live());
        let (mut times, mut first, mut last) = (Vec::new(), None, None);
        while times.len() < 30 {
            let Received::Frame(frame) = source.receive(WAIT).unwrap() else { panic!("{url} ended") };
            let age = frame.captured_at.elapsed();
            assert!(age < Duration::from_secs(1), "{age:?} from arrival to here");
            times.push(frame.captured_ns);
            first.get_or_insert_with(|| frame.picture.clone());
            last = Some(frame.picture);
        }
        assert!(times.windows(2).all(|pair| pair[0] < pair[1]), "{times:?}");
        let span_s = (times[29] - times[0]) as f64 / 1e9;
        // What the server held back while the connection was made arrives in a burst.
        assert!((0.5..3.0).contains(&span_s), "30 frames of 30 a second took {span_s} s");
        assert_ne!(first, last, "nothing moves");
    }
}

#[test]
fn a_served_film_arrives_to_its_end_in_its_colours() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("film.mp4");
    let mut film = Mp4Writer::create(&path, 128, 128, (20, 1)).unwrap();
    for _ in 0..40 {
        let colour = [200, 60, 20];
        film.push(&Picture::from_shape_fn((128, 128, 3), |(_, _, c)| colour[c])).unwrap();
    }
    film.finish().unwrap();
    let camera = RtspCamera::start(&Served::File(path), 0).unwrap();
    let mut source = open(camera.url()).unwrap();
    let mut frames = 0;
    loop {
        match source.receive(WAIT).unwrap() {
            Received::Frame(frame) => {
                frames += 1;
                let found: [u8; 3] = std::array::from_fn(|c| frame.picture[(32, 32, c)]);
                let near = found.iter().zip([200, 60, 20]).all(|(a, b): (&u8, u8)| a.abs_diff(b) <= 5);
                assert!(near, "{found:?}");
            }
            Received::End => break,
            Received::TimedOut => panic!("it hangs after {frames} frames"),
        }
    }
    assert!((30..=40).contains(&frames), "{frames} of 40 frames");
}

#[test]
fn a_camera_that_vanishes_is_noticed_and_found_again() {
    let camera = scene(5);
    let mut source = open(camera.url()).unwrap();
    assert!(matches!(source.receive(WAIT), Ok(Received::Frame(_))));
    camera.hang_up();
    let started = Instant::now();
    let ended = loop {
        match source.receive(Duration::from_secs(1)) {
            Ok(Received::Frame(_)) => {}
            Ok(Received::End) => break "an end".to_owned(),
            Ok(Received::TimedOut) => {
                assert!(started.elapsed() < Duration::from_secs(12), "nothing was noticed");
            }
            Err(error) => break error.to_string(),
        }
    };
    assert!(!ended.contains('\n'), "{ended}");
    let mut source = open(camera.url()).unwrap();
    assert!(matches!(source.receive(WAIT), Ok(Received::Frame(_))), "no second connection");
}

#[test]
fn a_wrong_path_is_said() {
    let camera = scene(6);
    let error = open(&camera.url().replace("/camera", "/other")).err().unwrap().to_string();
    assert!(error.contains("/other") && error.to_lowercase().contains("not found"), "{error}");
}
