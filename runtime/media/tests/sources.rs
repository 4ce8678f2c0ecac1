//! Streams as they arrive: geometry, colours, pace, and what is said when they fail.
#![allow(clippy::unwrap_used)] // also in the helpers of tests

use std::time::{Duration, Instant};

use nextclip_media::{Error, Fit, Picture, Received, Source, SourceConfig};

const WAIT: Duration = Duration::from_secs(10);

fn open(uri: &str, size: (usize, usize), fit: Fit) -> Result<Source, Error> {
    SourceConfig { uri: uri.parse()?, width: size.0, height: size.1, fit, realtime: false }.build()
}

fn first(uri: &str, size: (usize, usize), fit: Fit) -> Picture {
    let mut source = open(uri, size, fit).unwrap_or_else(|err| panic!("{err}"));
    match source.receive(WAIT).unwrap() {
        Received::Frame(frame) => frame.picture,
        other => panic!("{uri}: {other:?}"),
    }
}

fn pixel(picture: &Picture, x: usize, y: usize) -> [u8; 3] {
    std::array::from_fn(|channel| picture[(y, x, channel)])
}

#[track_caller]
fn assert_near(found: [u8; 3], expected: [u8; 3], tolerance: u8) {
    let near = found.iter().zip(expected).all(|(a, b)| a.abs_diff(b) <= tolerance);
    assert!(near, "{found:?} is not {expected:?} within {tolerance}");
}

const WHITE: [u8; 3] = [255; 3];
const BLACK: [u8; 3] = [0; 3];

#[test]
fn rows_of_odd_width_stay_straight() {
    // 130 RGB pixels are 390 bytes, stored as 392: a vertical edge turns slanted where the stride is ignored.
    let uri = "videotestsrc pattern=smpte75 num-buffers=2 ! video/x-raw,format=RGB,width=130,height=98";
    for size in [(130, 98), (65, 49), (61, 37)] {
        let picture = first(uri, size, Fit::Stretch);
        assert_eq!(picture.dim(), (size.1, size.0, 3));
        // The first bar is grey, the fourth green, over two thirds of the height.
        for y in [0, size.1 / 4, size.1 / 2] {
            assert_near(pixel(&picture, 3, y), [191; 3], 2);
            assert_near(pixel(&picture, size.0 / 2, y), [0, 191, 0], 2);
        }
    }
}

#[test]
fn crop_keeps_the_middle_and_the_aspect() {
    // A white disc on black stays a circle.
    let uri = "videotestsrc pattern=circular num-buffers=2 ! video/x-raw,width=320,height=180";
    let whole = first(uri, (320, 180), Fit::Stretch);
    let cropped = first(uri, (180, 180), Fit::Crop);
    for (x, y) in [(0, 0), (90, 90), (30, 120), (179, 179)] {
        assert_near(pixel(&cropped, x, y), pixel(&whole, x + 70, y), 24);
    }
    let wide = first(uri, (320, 80), Fit::Crop);
    for (x, y) in [(0, 0), (160, 40), (250, 70)] {
        assert_near(pixel(&wide, x, y), pixel(&whole, x, y + 50), 24);
    }
}

#[test]
fn letterbox_keeps_everything_between_bars() {
    let uri = "videotestsrc pattern=white num-buffers=2 ! video/x-raw,width=320,height=180";
    let picture = first(uri, (128, 128), Fit::Letterbox);
    // 128 x 72 of picture leave 28 rows above and below.
    for (y, expected) in
        [(0, BLACK), (26, BLACK), (30, WHITE), (64, WHITE), (97, WHITE), (101, BLACK), (127, BLACK)]
    {
        assert_near(pixel(&picture, 64, y), expected, 2);
    }
    let picture = first(uri, (128, 128), Fit::Stretch);
    assert!(picture.iter().all(|sample| *sample >= 253));
}

#[test]
fn pixels_that_are_not_square_count_as_seen() {
    // PAL: 720 x 576 samples seen as 768 x 576, hence 128 x 96 between bars of 16.
    let uri = "videotestsrc pattern=white num-buffers=2 ! video/x-raw,width=720,height=576,pixel-aspect-ratio=16/15";
    let picture = first(uri, (128, 128), Fit::Letterbox);
    for (y, expected) in [(13, BLACK), (18, WHITE), (109, WHITE), (114, BLACK)] {
        assert_near(pixel(&picture, 64, y), expected, 2);
    }
    // Cropped to a square, 540 of 720 columns stay: the bars of 720 / 7 columns at both ends go down to a seventh
    // less an eighth.
    let uri = "videotestsrc pattern=smpte75 num-buffers=2 ! \
               video/x-raw,format=RGB,width=720,height=576,pixel-aspect-ratio=16/15";
    let picture = first(uri, (540, 576), Fit::Stretch);
    assert_near(pixel(&picture, 60, 100), [191; 3], 2);
    let picture = first(uri, (576, 576), Fit::Crop);
    let grey = (0..576).take_while(|x| pixel(&picture, *x, 100)[2] > 96).count();
    let expected = (720.0 / 7.0 - 90.0) / 540.0 * 576.0;
    assert!((grey as f64 - expected).abs() <= 2.0, "{grey} columns of grey, expected {expected:.1}");
}

#[test]
fn colours_follow_the_stream_whatever_its_matrix_range_and_size() {
    // The source paints RGB, so that the matrix is the converter's and not the painter's, who knows only two.
    for size in ["width=320,height=240", "width=1280,height=720"] {
        for colorimetry in ["bt601", "bt709", "bt2020", "1:4:0:0", "1:3:0:0"] {
            for format in ["I420", "NV12", "YUY2", "AYUV", "I420_10LE"] {
                let uri = format!(
                    "videotestsrc pattern=solid-color foreground-color=0xffc83c14 num-buffers=2 ! \
                     video/x-raw,format=RGB,{size} ! videoconvert ! \
                     video/x-raw,format={format},colorimetry=(string){colorimetry}"
                );
                let found = pixel(&first(&uri, (128, 128), Fit::Crop), 64, 64);
                let near = found.iter().zip([200, 60, 20]).all(|(a, b): (&u8, u8)| a.abs_diff(b) <= 4);
                assert!(near, "{found:?} through {format}, {size}, {colorimetry}");
            }
        }
    }
}

#[test]
fn a_matrix_that_nobody_named_is_guessed_before_scaling() {
    // By convention 720 lines mean BT.709; after scaling to 128 lines the guess would be BT.601.
    for (size, colorimetry) in [("width=1280,height=720", "bt709"), ("width=320,height=240", "bt601")] {
        let uri = format!(
            "videotestsrc pattern=solid-color foreground-color=0xffc83c14 num-buffers=2 ! \
             video/x-raw,format=I420,{size},framerate=10/1,colorimetry=(string){colorimetry} ! \
             capssetter replace=true join=false caps=\"video/x-raw,format=I420,{size},framerate=10/1\""
        );
        assert_near(pixel(&first(&uri, (128, 128), Fit::Crop), 64, 64), [200, 60, 20], 3);
    }
}

#[test]
fn a_live_scene_keeps_its_rate_and_its_times() {
    let mut source = open("test://?seed=5&fps=30000/1001", (96, 64), Fit::Crop).unwrap();
    assert!(source.is_live());
    assert_eq!(source.rate(), Some((30_000, 1_001)));
    let (mut times, mut pictures) = (Vec::new(), Vec::new());
    while times.len() < 20 {
        let Received::Frame(frame) = source.receive(WAIT).unwrap() else { panic!("it ended") };
        assert!(frame.captured_at.elapsed() < Duration::from_millis(500));
        times.push(frame.captured_ns);
        pictures.push(frame.picture);
    }
    for time in &times {
        let frame = (*time as f64 * 30_000.0 / 1_001.0 / 1e9).round() as u64;
        assert_eq!(*time, frame * 1_001 * 1_000_000_000 / 30_000, "off the grid of 30000/1001");
    }
    assert!(times.windows(2).all(|pair| pair[0] < pair[1]));
    assert_ne!(pictures[0], pictures[19], "nothing moves");
    assert!(source.describe().contains("96x64, 30000/1001 fps"), "{}", source.describe());
}

#[test]
fn a_scene_with_an_end_ends() {
    let mut source = open("test://?seed=2&fps=25&seconds=1&size=64x48", (32, 32), Fit::Crop).unwrap();
    let mut newest_ns = 0;
    loop {
        match source.receive(WAIT).unwrap() {
            Received::Frame(frame) => newest_ns = frame.captured_ns,
            Received::End => break,
            Received::TimedOut => panic!("it hangs"),
        }
    }
    assert_eq!(newest_ns, 960_000_000);
    assert!(matches!(source.receive(WAIT), Ok(Received::End)), "the end stays");
}

#[test]
fn a_slow_reader_gets_the_newest_picture_and_the_others_count() {
    let mut source = open("test://?seed=1&fps=100", (32, 32), Fit::Crop).unwrap();
    let mut taken = 0;
    for _ in 0..5 {
        std::thread::sleep(Duration::from_millis(120));
        let Received::Frame(frame) = source.receive(WAIT).unwrap() else { panic!("it ended") };
        taken += 1;
        let age = frame.captured_at.elapsed();
        assert!(age < Duration::from_millis(60), "the newest picture is {age:?} old");
    }
    let counts = source.counts();
    assert!(counts.evicted >= 20, "{counts:?}");
    let waiting = counts.arrived - counts.evicted - taken;
    assert!(waiting <= 1, "{counts:?} with {taken} taken");
}

#[test]
fn sources_stop_at_once_when_dropped() {
    for uri in [
        "test://?fps=2",
        "videotestsrc ! video/x-raw,width=64,height=64",
        "videotestsrc is-live=true ! identity",
    ] {
        let source = open(uri, (32, 32), Fit::Crop).unwrap();
        let started = Instant::now();
        drop(source);
        assert!(started.elapsed() < Duration::from_secs(1), "{uri}: {:?}", started.elapsed());
    }
}

#[test]
fn faults_are_one_line_that_names_source_and_cause() {
    let folder = tempfile::tempdir().unwrap();
    let text = folder.path().join("text.mp4");
    std::fs::write(&text, "this is not a film, however one looks at it\n".repeat(50)).unwrap();
    let (text, folder) = (text.display().to_string(), folder.path().display().to_string());
    // A port that was free a moment ago refuses.
    let port = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let refused = format!("rtsp://user:secret@127.0.0.1:{port}/camera");
    for (uri, says) in [
        ("file:///no/such/film.mp4", "No such file"),
        (folder.as_str(), "folder"),
        (text.as_str(), ""),
        ("v4l2:///dev/no-such-camera", "No such file"),
        ("csi://0", "nvarguscamerasrc"),
        (refused.as_str(), "refused"),
        ("rtsp://camera.invalid/stream", "camera.invalid"),
        ("nosuchelement ! identity", "\"nosuchelement\" is missing"),
        ("videotestsrc ! audioconvert", "link"),
        ("audiotestsrc ! audioconvert", "no video"),
        ("videotestsrc num-buffers=0 ! identity", ""),
    ] {
        let started = Instant::now();
        let Err(error) = open(uri, (32, 32), Fit::Crop) else { panic!("{uri} opened") };
        let error = error.to_string();
        assert!(started.elapsed() < Duration::from_secs(10), "{uri} took {:?}", started.elapsed());
        assert!(error.contains(says), "{uri}: {error}");
        assert!(!error.contains('\n') && !error.contains("secret"), "{error}");
        let name = uri.rsplit('/').next().unwrap_or(uri);
        assert!(error.contains(name), "{error} does not name {uri}");
    }
    for size in [(0, 32), (32, 20_000)] {
        let error = open("test://", size, Fit::Crop).err().unwrap().to_string();
        assert!(error.contains("1 to 16384"), "{error}");
    }
}

#[test]
fn a_camera_that_accepts_and_says_nothing_is_given_up() {
    let mute = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let uri = format!("rtsp://127.0.0.1:{}/camera", mute.local_addr().unwrap().port());
    let started = Instant::now();
    let error = open(&uri, (32, 32), Fit::Crop).err().unwrap().to_string();
    assert!(started.elapsed() < Duration::from_secs(11), "took {:?}", started.elapsed());
    assert!(error.contains(&uri), "{error}");
}

#[test]
fn a_stream_that_breaks_half_way_is_a_fault_after_its_pictures() {
    let uri = "videotestsrc num-buffers=20 ! video/x-raw,width=64,height=64 ! identity error-after=6";
    let mut source = open(uri, (32, 32), Fit::Crop).unwrap();
    let mut pictures = 0;
    let error = loop {
        match source.receive(WAIT) {
            Ok(Received::Frame(_)) => pictures += 1,
            Ok(other) => panic!("{other:?} after {pictures}"),
            Err(error) => break error.to_string(),
        }
    };
    assert_eq!(pictures, 5, "{error}");
    assert!(error.contains("error-after") || error.contains("Failed"), "{error}");
}
