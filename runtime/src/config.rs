//! What to run: from a TOML file and flags to settings that later code can't find invalid.
//!
//! Both become a [`Layer`] of values that are each right by themselves; flags go over the file, and
//! [`Config::resolve`] fills in defaults and checks what concerns several values. Every mistake found on
//! the way is reported, not the first one only.

mod execution;
mod faults;
mod layer;
mod reader;
mod values;

use std::num::NonZeroU64;
use std::path::{Path, PathBuf};
use std::time::Duration;

use nextclip_media::{Fit, SourceUri};
use nextclip_predictor::{GpuSettings, Provider};

pub use execution::{ExecutionFlags, ExecutionLayer};
pub use faults::{Fault, Faults};
pub use layer::Layer;

use crate::cli::RunFlags;

/// A strip of every so many scored predictions, unless the settings say otherwise.
const DEFAULT_STRIP_EVERY: u64 = 10;
/// At most so many strips, unless the settings say otherwise: a daemon runs for months.
const DEFAULT_STRIP_MAX: u64 = 20;

/// Everything that a run needs to know.
#[derive(Clone, Debug, PartialEq)]
pub struct Config {
    /// Folder of the bundle.
    pub bundle: PathBuf,
    /// The camera.
    pub source: SourceSettings,
    /// How to predict.
    pub predict: PredictSettings,
    /// How much of the stream is predicted; all of it where absent.
    pub duration: Option<Duration>,
    /// JSON lines on standard output.
    pub json: bool,
    /// What is written to files, if anything.
    pub files: Option<FileSettings>,
}

/// Where frames come from.
#[derive(Clone, Debug, PartialEq)]
pub struct SourceSettings {
    /// The camera or file.
    pub uri: SourceUri,
    /// How its picture becomes the model's size.
    pub fit: Fit,
    /// Frames come when they come and the newest wins; otherwise every frame of a file is waited for.
    pub live: bool,
}

/// How predictions are made; absent values are the bundle's own.
#[derive(Clone, Debug, PartialEq)]
pub struct PredictSettings {
    /// K: denoising steps.
    pub steps: Option<usize>,
    /// g: guidance scale.
    pub guidance: Option<f32>,
    /// Seed of the noise.
    pub seed: u64,
    /// Threads of inference; ONNX Runtime's choice where absent.
    pub threads: Option<usize>,
    /// Who executes the graphs.
    pub provider: Option<Provider>,
    /// How a GPU is used.
    pub gpu: GpuSettings,
}

impl PredictSettings {
    /// The predictor's part of these settings.
    pub fn predictor(&self) -> nextclip_predictor::Settings {
        nextclip_predictor::Settings {
            threads: self.threads,
            steps: self.steps,
            guidance: self.guidance,
            provider: self.provider,
            gpu: self.gpu.clone(),
        }
    }
}

/// What is written to files.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FileSettings {
    /// The folder; it is made.
    pub folder: PathBuf,
    /// A strip of every so many scored predictions.
    pub strip_every: Option<NonZeroU64>,
    /// At most so many of those strips.
    pub strip_max: u64,
    /// Whether to write the film of predicted beside actual.
    pub video: bool,
}

/// A configuration that nothing can be run with.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// The file cannot be read.
    #[error("{}: cannot be read", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// The settings have mistakes.
    #[error(transparent)]
    Faults(#[from] Faults),
}

impl Config {
    /// Reads the file that the flags name, if any, puts the flags over it, and resolves.
    pub fn load(flags: &RunFlags) -> Result<Self, ConfigError> {
        let (over, mut faults) = Layer::from_flags(flags);
        let mut layer = Layer::default();
        if let Some(path) = &flags.config {
            let text = std::fs::read_to_string(path)
                .map_err(|source| ConfigError::Read { path: path.clone(), source })?;
            let folder = path.parent().unwrap_or(Path::new(""));
            let (file, file_faults) = Layer::from_toml(&text, folder);
            layer = file;
            faults.extend(file_faults);
        }
        let file = flags.config.as_ref().map(|path| path.display().to_string());
        Ok(Self::resolve(layer.overridden_by(over), faults, file)?)
    }

    /// Fills in defaults and checks what concerns several settings; `faults` are those found so far, in
    /// `file` and flags.
    pub fn resolve(layer: Layer, mut faults: Vec<Fault>, file: Option<String>) -> Result<Self, Faults> {
        let told: Vec<String> = faults.iter().map(|fault| fault.place.clone()).collect();
        let mut fault = |places: [&str; 2], message: &str| {
            // What was given and is wrong is not missing as well.
            if !told.iter().any(|told| places.contains(&told.as_str())) {
                faults.push(Fault { line: None, place: places[0].into(), message: message.into() });
            }
        };
        if layer.bundle.is_none() {
            fault(["bundle", "--bundle"], "is missing: name the bundle's folder here or by --bundle");
        }
        if layer.source.is_none() {
            fault(["source.uri", "--source"], "is missing: name a camera here or by --source");
        }
        let fast = layer.as_fast_as_possible.unwrap_or(false);
        if fast && !matches!(layer.source, None | Some(SourceUri::File(_))) {
            let place = ["source.as_fast_as_possible", "--as-fast-as-possible"];
            fault(place, "is for files only: a camera cannot be made to wait");
        }
        if layer.video == Some(true) && layer.out.is_none() {
            fault(["output.video", "--video"], "needs a folder to write to: add out");
        }
        let (true, Some(bundle), Some(uri)) = (faults.is_empty(), layer.bundle, layer.source) else {
            return Err(Faults::new(file, faults));
        };
        let files = layer.out.map(|folder| FileSettings {
            folder,
            strip_every: NonZeroU64::new(layer.strip_every.unwrap_or(DEFAULT_STRIP_EVERY)),
            strip_max: layer.strip_max.unwrap_or(DEFAULT_STRIP_MAX),
            video: layer.video.unwrap_or(false),
        });
        let (provider, gpu) = layer.execution.resolve();
        Ok(Self {
            bundle,
            source: SourceSettings { uri, fit: layer.fit.unwrap_or_default(), live: !fast },
            predict: PredictSettings {
                steps: layer.steps,
                guidance: layer.guidance,
                seed: layer.seed.unwrap_or(0),
                threads: layer.threads,
                provider,
                gpu,
            },
            duration: layer.duration,
            json: layer.json.unwrap_or(false),
            files,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const GOOD: &str = r#"
        bundle = "base"
        out = "/runs/1"
        duration = "90s"
        [source]
        uri = "test://?seed=3"
        fit = "letterbox"
        [predict]
        steps = 3
        seed = 0x10
        guidance = 1
        provider = "tensorrt"
        engine_cache = "engines"
        dla_core = 1
        [output]
        strip_every = 0
    "#;

    fn read(text: &str, flags: &RunFlags) -> Result<Config, Faults> {
        let (file, mut faults) = Layer::from_toml(text, Path::new("/etc/nextclip"));
        let (over, flag_faults) = Layer::from_flags(flags);
        faults.extend(flag_faults);
        Config::resolve(file.overridden_by(over), faults, Some("nextclip.toml".into()))
    }

    #[test]
    fn a_file_becomes_settings() {
        let config = read(GOOD, &RunFlags::default()).unwrap();
        assert_eq!(config.bundle, Path::new("/etc/nextclip/base"));
        assert_eq!(config.predict.steps, Some(3));
        assert_eq!((config.predict.seed, config.predict.guidance), (16, Some(1.0)));
        assert_eq!(config.predict.provider, Some(Provider::TensorRt));
        let cache = Some("/etc/nextclip/engines".into());
        let gpu = GpuSettings { cache, dla_core: Some(1), ..GpuSettings::default() };
        assert_eq!(config.predict.predictor().gpu, gpu);
        assert_eq!(config.source.fit, Fit::Letterbox);
        assert!(config.source.live);
        let files = config.files.unwrap();
        assert_eq!((files.folder.as_path(), files.strip_every), (Path::new("/runs/1"), None));
        assert_eq!(config.duration, Some(Duration::from_secs(90)));
    }

    #[test]
    fn flags_go_over_the_file() {
        let flags = RunFlags {
            steps: Some(1),
            source: Some("rtsp://camera/1".into()),
            video: true,
            execution: ExecutionFlags { provider: Some("cpu".into()), ..ExecutionFlags::default() },
            ..RunFlags::default()
        };
        let config = read(GOOD, &flags).unwrap();
        assert_eq!(config.predict.provider, Some(Provider::Cpu));
        assert_eq!(config.predict.gpu.dla_core, Some(1));
        assert_eq!(config.predict.steps, Some(1));
        assert_eq!(config.source.uri.to_string(), "rtsp://camera/1");
        assert!(config.files.unwrap().video);
        assert_eq!(config.predict.seed, 16);
    }

    #[test]
    fn every_mistake_is_reported_at_once() {
        let text = "bundle = 7\nstep = 4\n\n[source]\nurl = 'test://'\nfit = 'zoom'\n[predict]\nsteps = 0\nseed = -1\n";
        let flags = RunFlags { duration: Some("soon".into()), threads: Some(0), ..RunFlags::default() };
        let faults = read(text, &flags).unwrap_err();
        assert_eq!(
            faults.to_string().lines().collect::<Vec<_>>(),
            [
                "the configuration has 9 mistakes:",
                "  --duration: \"soon\" is not a duration: write a number and a unit, as in 30s, 500ms, 2m or 1h",
                "  --threads: is 0, must be 1 to 1024",
                "  source.uri: is missing: name a camera here or by --source",
                "  nextclip.toml:1: bundle: is the whole number 7, must be a string in quotes",
                "  nextclip.toml:2: step: is unknown, did you mean predict.steps?",
                "  nextclip.toml:5: source.url: is unknown, did you mean source.uri?",
                "  nextclip.toml:6: source.fit: fit \"zoom\" is none of crop, letterbox, stretch",
                "  nextclip.toml:8: predict.steps: is 0, must be 1 to 1000",
                "  nextclip.toml:9: predict.seed: is -1, must be at least 0",
            ]
        );
    }

    #[test]
    fn settings_that_do_not_go_together() {
        let text =
            "bundle = 'b'\n[source]\nuri = 'test://'\nas_fast_as_possible = true\n[output]\nvideo = true\n";
        let told = read(text, &RunFlags::default()).unwrap_err().to_string();
        assert!(told.contains("source.as_fast_as_possible: is for files only"), "{told}");
        assert!(told.contains("output.video: needs a folder"), "{told}");
        let told = read("", &RunFlags::default()).unwrap_err().to_string();
        assert!(told.contains("bundle: is missing") && told.contains("source.uri: is missing"), "{told}");
    }
}
