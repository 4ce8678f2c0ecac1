//! `nextclipd run`: camera, session and sinks as threads, until the stream ends or someone says stop.

use std::io::{self, Write};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use anyhow::Context;
use nextclip_core::{Geometry, Picture, say};
use nextclip_media::SourceConfig;
use nextclip_predictor::Predictor;

use crate::camera::{self, Intake};
use crate::clock::Moment;
use crate::config::{Config, FileSettings};
use crate::crew::{Crew, Stop};
use crate::inbox::{self, inbox};
use crate::model::{Model, require_pictures};
use crate::session::{DropReason, Dropped, Event, Session};
use crate::sinks::{Sinks, Written};
use crate::status::LiveLine;
use crate::totals::Totals;

/// How long threads have to finish their files once they are asked to stop.
const GRACE: Duration = Duration::from_secs(10);

/// Predicts until the source ends, the duration is over, a signal comes or something fails. Files are
/// finished and the summary is printed in every case.
pub fn run(config: &Config) -> anyhow::Result<()> {
    let stop = Stop::default();
    stop.on_signals().context("cannot listen to signals")?;
    let mut predictor = open_bundle(config)?;
    let geometry = predictor.manifest().geometry;
    warm_up(&mut predictor)?;
    let source = source_config(config, &geometry).build()?;

    let totals = Arc::new(Mutex::new(Totals::default()));
    let written = Arc::new(Mutex::new(Vec::new()));
    let mut crew = Crew::new(stop.clone());
    let sinks = Sinks::start(config, &geometry, &mut crew, &written)?;
    let when_full = if config.source.live { inbox::WhenFull::StartOver } else { inbox::WhenFull::Block };
    let (sender, receiver) = inbox(geometry.history, when_full);
    let session = Session::new(predictor, config.predict.seed, Box::new(Moment::now));
    let intake = Intake::new(u64::from(geometry.frame_interval_ms) * 1_000_000, config.duration);

    let (counted, stopped) = (Arc::clone(&totals), stop.clone());
    crew.start("inference", move || infer(session, &receiver, &sinks, &counted, &stopped))?;
    let (counted, stopped) = (Arc::clone(&totals), stop.clone());
    crew.start("camera", move || Ok(camera::watch(source, intake, &sender, &counted, &stopped)?))?;

    let mut live_line = LiveLine::new();
    let now = || totals.lock().unwrap_or_else(PoisonError::into_inner).clone();
    let result = crew.wait(GRACE, || live_line.show(|| now().live_line()));
    drop(live_line);
    let mut written = written.lock().unwrap_or_else(PoisonError::into_inner);
    written.sort();
    summarise(&now(), &written, config.json);
    result
}

/// `nextclipd validate`: everything that `run` does before it opens the camera.
pub fn validate(config: &Config) -> anyhow::Result<()> {
    let predictor = open_bundle(config)?;
    let manifest = predictor.manifest();
    let geometry = &manifest.geometry;
    say!("bundle    {}: every digest is right", config.bundle.display());
    say!(
        "model     {}, {} for {}, runs on {}",
        manifest.source.name,
        manifest.precision,
        manifest.target,
        predictor.provider()
    );
    say!(
        "predicts  {} frames of {} x {}, {} ms apart, from {} frames, in {} denoising steps",
        geometry.clip,
        geometry.width,
        geometry.height,
        geometry.frame_interval_ms,
        geometry.history,
        predictor.steps()
    );
    let pace = if config.source.live { "the newest frame wins" } else { "every frame, as fast as possible" };
    say!("source    {}, {}, {pace}", config.source.uri, config.source.fit);
    let duration = config.duration.map_or("until it ends".into(), |d| format!("for {} s", d.as_secs_f64()));
    say!("runs      {duration}");
    say!("writes    {}", describe_output(config));
    Ok(())
}

fn describe_output(config: &Config) -> String {
    let mut parts = Vec::new();
    if config.json {
        parts.push("JSON lines to standard output".to_owned());
    }
    if let Some(FileSettings { folder, strip_every, strip_max, video }) = &config.files {
        parts.push(format!("predictions.jsonl to {}", folder.display()));
        if let Some(every) = strip_every {
            parts.push(format!("a strip of every {every}. prediction, at most {strip_max}"));
        }
        if *video {
            parts.push("a film".into());
        }
    }
    if parts.is_empty() { "nothing but the log".into() } else { parts.join(", ") }
}

/// Loads ONNX Runtime and the bundle, and refuses one that cannot make pictures.
fn open_bundle(config: &Config) -> anyhow::Result<Predictor> {
    nextclip_predictor::init_onnx_runtime(None)?;
    let predictor = Predictor::open(&config.bundle, &config.predict.predictor())?;
    require_pictures(&predictor.manifest().graphs)?;
    Ok(predictor)
}

/// One prediction that nobody sees: the first one of a session allocates and is slow, and the camera is
/// not to wait for that. It also tells whether this machine is fast enough.
fn warm_up(predictor: &mut Predictor) -> anyhow::Result<()> {
    let geometry = predictor.manifest().geometry;
    let grey = Picture::from_elem((geometry.height, geometry.width, 3), 127);
    let predict = |predictor: &mut Predictor| -> anyhow::Result<Duration> {
        let start = Instant::now();
        Model::see(predictor, &grey)?;
        Model::predict(predictor, 0, 0)?;
        Ok(start.elapsed())
    };
    predict(predictor)?;
    let took = predict(predictor)?;
    Model::forget(predictor);
    let (took_ms, interval_ms) = (took.as_millis(), u128::from(geometry.frame_interval_ms));
    log::info!("a prediction takes {took_ms} ms, a frame comes every {interval_ms} ms");
    if took_ms > interval_ms {
        log::warn!("this machine cannot predict from every frame: it will skip some");
    }
    Ok(())
}

fn source_config(config: &Config, geometry: &Geometry) -> SourceConfig {
    SourceConfig {
        uri: config.source.uri.clone(),
        width: geometry.width,
        height: geometry.height,
        fit: config.source.fit,
        realtime: config.source.live,
    }
}

/// The inference thread: owns the model, drives the session, hands its events on.
fn infer(
    mut session: Session<Predictor>,
    inbox: &inbox::Receiver,
    sinks: &Sinks,
    totals: &Mutex<Totals>,
    stop: &Stop,
) -> anyhow::Result<()> {
    let publish = |events: &[Event]| {
        let mut totals = totals.lock().unwrap_or_else(PoisonError::into_inner);
        events.iter().for_each(|event| totals.note(event));
        drop(totals);
        events.iter().for_each(|event| sinks.offer(event));
    };
    let mut gaps = GapLog { in_a_row: 0, frame_interval_ms: session.model().geometry().frame_interval_ms };
    while let Some((paced, haste)) = inbox.receive() {
        if stop.is_set() {
            break;
        }
        let at_s = paced.frame.captured_ns as f64 / 1e9;
        let events = session.on_frame(paced, haste)?;
        gaps.note(at_s, &events);
        publish(&events);
    }
    publish(&session.end());
    Ok(())
}

/// Says what a gap cost, and does not repeat itself where a source is too slow for the model: then every
/// frame comes after a gap.
struct GapLog {
    in_a_row: u32,
    frame_interval_ms: u32,
}

impl GapLog {
    fn note(&mut self, at_s: f64, events: &[Event]) {
        if !events.iter().any(|event| matches!(event, Event::Gap)) {
            self.in_a_row = 0;
            return;
        }
        self.in_a_row = self.in_a_row.saturating_add(1);
        let by_gap =
            |event: &&Event| matches!(event, Event::Dropped(Dropped { reason: DropReason::Gap, .. }));
        let open = events.iter().filter(by_gap).count();
        let interval_ms = self.frame_interval_ms;
        match self.in_a_row {
            1 => log::warn!(
                "gap before {at_s:.2} s: history is forgotten, {open} open predictions are dropped"
            ),
            3 => log::warn!("every frame comes after a gap: the model needs one every {interval_ms} ms"),
            _ => log::debug!("gap before {at_s:.2} s"),
        }
    }
}

/// The last lines of a run. Standard output carries nothing but JSON where that was asked for.
fn summarise(totals: &Totals, written: &[Written], json: bool) {
    let files = written.iter().map(|Written { what, path }| format!("{what}: {}", path.display()));
    for line in files.chain([totals.to_string()]) {
        if json {
            // Nobody is left to tell if standard error is gone.
            let _ = writeln!(io::stderr(), "{line}");
        } else {
            say!("{line}");
        }
    }
}
