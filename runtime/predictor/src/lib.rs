//! Runs a bundle's graphs in ONNX Runtime with cached history.
//!
//! A [`Predictor`] owns one camera's memory of the past and the sessions that use it. Frames go in one
//! by one, clips of the future come out:
//!
//! ```no_run
//! use nextclip_predictor::{Predictor, Settings};
//!
//! let mut predictor = Predictor::open("bundle".as_ref(), &Settings::default())?;
//! # let frames: Vec<nextclip_core::Picture> = Vec::new();
//! for frame in &frames {
//!     predictor.see(frame)?;
//! }
//! let clip = predictor.predict(7, 0)?;
//! let pictures = predictor.render(&clip)?;
//! # Ok::<(), nextclip_predictor::Error>(())
//! ```

mod bound;
mod bundle;
mod cache;
mod contract;
mod error;
mod graph;
mod library;
mod predictor;
mod processor;
mod provider;
mod recent;

pub use bundle::open as verified_manifest;
pub use cache::CacheNumber;
pub use contract::{DECODE, DENOISE, ENCODE, GraphSpecs, OBSERVED, REMEMBER};
pub use error::Error;
pub use graph::{GraphSession, Input, Probe, options as session_options};
pub use library::{environment as onnx_environment, init_onnx_runtime};
pub use predictor::{Encoded, Predictor, Settings};
pub use provider::{Execution, GpuSettings, Provider};
