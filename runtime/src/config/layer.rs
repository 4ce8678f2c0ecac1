//! One layer of settings, from a file or from flags: every value in it has been checked by itself.

use std::path::{Path, PathBuf};
use std::time::Duration;

use nextclip_media::{Fit, SourceUri};

use super::execution::ExecutionLayer;
use super::faults::Fault;
use super::reader::Reader;
use super::values;
use crate::cli::RunFlags;

/// Bounds that a file's key and a flag share.
mod bounds {
    use std::ops::RangeInclusive;

    pub(super) const STEPS: RangeInclusive<i64> = 1..=1000;
    pub(super) const GUIDANCE: RangeInclusive<f64> = 0.0..=20.0;
    pub(super) const SEED: RangeInclusive<i64> = 0..=i64::MAX;
    pub(super) const THREADS: RangeInclusive<i64> = 1..=1024;
    /// 0 is "none".
    pub(super) const STRIPS: RangeInclusive<i64> = 0..=1_000_000;
}

/// What one source of settings says; absent is unsaid.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Layer {
    /// Folder of the bundle.
    pub bundle: Option<PathBuf>,
    /// Folder for what is written.
    pub out: Option<PathBuf>,
    /// How much of the stream is predicted.
    pub duration: Option<Duration>,
    /// The camera.
    pub source: Option<SourceUri>,
    /// How its picture becomes the model's size.
    pub fit: Option<Fit>,
    /// Every frame of a file, at whatever speed.
    pub as_fast_as_possible: Option<bool>,
    /// Denoising steps.
    pub steps: Option<usize>,
    /// Guidance scale.
    pub guidance: Option<f32>,
    /// Seed of the noise.
    pub seed: Option<u64>,
    /// Threads of inference.
    pub threads: Option<usize>,
    /// Who executes the graphs.
    pub execution: ExecutionLayer,
    /// JSON lines on standard output.
    pub json: Option<bool>,
    /// A strip of every so many scored predictions.
    pub strip_every: Option<u64>,
    /// At most so many strips.
    pub strip_max: Option<u64>,
    /// Whether to write the film of predicted beside actual.
    pub video: Option<bool>,
}

impl Layer {
    /// Reads a file's text. Paths in it count from `folder`, the file's own.
    pub fn from_toml(text: &str, folder: &Path) -> (Self, Vec<Fault>) {
        let mut reader = match Reader::new(text) {
            Ok(reader) => reader,
            Err(faults) => return (Self::default(), faults),
        };
        let layer = Self {
            bundle: reader.text("bundle", |text| path(text, folder)),
            out: reader.text("out", |text| path(text, folder)),
            duration: reader.text("duration", values::duration),
            source: reader.parsed("source.uri"),
            fit: reader.parsed("source.fit"),
            as_fast_as_possible: reader.switch("source.as_fast_as_possible"),
            steps: reader.whole("predict.steps", |value| values::whole(value, bounds::STEPS)),
            guidance: reader.number("predict.guidance", |value| values::number(value, bounds::GUIDANCE)),
            seed: reader.whole("predict.seed", |value| values::whole(value, bounds::SEED)),
            threads: reader.whole("predict.threads", |value| values::whole(value, bounds::THREADS)),
            execution: ExecutionLayer::from_toml(&mut reader, folder),
            json: reader.switch("output.json"),
            strip_every: reader.whole("output.strip_every", |value| values::whole(value, bounds::STRIPS)),
            strip_max: reader.whole("output.strip_max", |value| values::whole(value, bounds::STRIPS)),
            video: reader.switch("output.video"),
        };
        (layer, reader.finish())
    }

    /// Takes what the command line says. A switch that is not given is unsaid, not off.
    pub fn from_flags(flags: &RunFlags) -> (Self, Vec<Fault>) {
        let mut faults = Vec::new();
        let layer = Self {
            bundle: flags.bundle.clone(),
            out: flags.out.clone(),
            duration: check("--duration", &flags.duration, &mut faults, |text| values::duration(text)),
            source: check("--source", &flags.source, &mut faults, |text| {
                text.parse().map_err(|error: nextclip_media::Error| error.to_string())
            }),
            fit: check("--fit", &flags.fit, &mut faults, |text| text.parse()),
            as_fast_as_possible: flags.as_fast_as_possible.then_some(true),
            steps: check("--steps", &flags.steps, &mut faults, |n| values::whole(*n, bounds::STEPS)),
            guidance: check("--guidance", &flags.guidance, &mut faults, |x| {
                values::number(*x, bounds::GUIDANCE)
            }),
            seed: check("--seed", &flags.seed, &mut faults, |n| values::whole(*n, bounds::SEED)),
            threads: check("--threads", &flags.threads, &mut faults, |n| values::whole(*n, bounds::THREADS)),
            execution: ExecutionLayer::from_flags(&flags.execution, &mut faults),
            json: flags.json.then_some(true),
            strip_every: check("--strip-every", &flags.strip_every, &mut faults, |n| {
                values::whole(*n, bounds::STRIPS)
            }),
            strip_max: check("--strip-max", &flags.strip_max, &mut faults, |n| {
                values::whole(*n, bounds::STRIPS)
            }),
            video: flags.video.then_some(true),
        };
        (layer, faults)
    }

    /// This layer where `over` says nothing.
    #[must_use]
    pub fn overridden_by(self, over: Self) -> Self {
        Self {
            bundle: over.bundle.or(self.bundle),
            out: over.out.or(self.out),
            duration: over.duration.or(self.duration),
            source: over.source.or(self.source),
            fit: over.fit.or(self.fit),
            as_fast_as_possible: over.as_fast_as_possible.or(self.as_fast_as_possible),
            steps: over.steps.or(self.steps),
            guidance: over.guidance.or(self.guidance),
            seed: over.seed.or(self.seed),
            threads: over.threads.or(self.threads),
            execution: self.execution.overridden_by(over.execution),
            json: over.json.or(self.json),
            strip_every: over.strip_every.or(self.strip_every),
            strip_max: over.strip_max.or(self.strip_max),
            video: over.video.or(self.video),
        }
    }
}

pub(super) fn check<V, T>(
    flag: &str,
    value: &Option<V>,
    faults: &mut Vec<Fault>,
    check: impl FnOnce(&V) -> Result<T, String>,
) -> Option<T> {
    let fault = |message| faults.push(Fault { line: None, place: flag.into(), message });
    check(value.as_ref()?).map_err(fault).ok()
}

pub(super) fn path(text: &str, folder: &Path) -> Result<PathBuf, String> {
    if text.is_empty() { Err("is empty, must be a folder".into()) } else { Ok(folder.join(text)) }
}
