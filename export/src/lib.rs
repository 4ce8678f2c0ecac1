//! Turns a checkpoint into a bundle of ONNX graphs.
//!
//! A [`model::Checkpoint`] is a folder as the published code saves it, read and found whole; a [`Plan`]
//! is what to make of it; [`export`] writes the bundle that `nextclipd` runs.
//!
//! ```no_run
//! use nextclip_export::{Options, Plan, export, model::Checkpoint};
//!
//! let checkpoint = Checkpoint::open("models/base".as_ref())?;
//! let plan = Plan::new(&checkpoint, &Options::default())?;
//! export(&checkpoint, &plan, "bundle".as_ref(), &indicatif::ProgressBar::hidden())?;
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```

mod arithmetic;
mod built;
mod bundle;
mod calibrate;
mod calibrated;
mod census;
pub mod check;
pub mod checkpoint;
mod draft;
mod emulate;
mod error;
pub mod inspect;
pub mod model;
pub mod onnx;
pub mod parity;
mod plan;
pub mod planning;
pub mod random;
mod room;
pub mod sensitivity;
mod targets;
pub mod usage;
mod verify;

pub use arithmetic::Arithmetic;
pub use built::GraphWriter;
pub use bundle::{export, export_as, export_with};
pub use calibrate::{
    CalibrationError, DEFAULT_OBSERVER, InputProducts, Observations, observe, observe_products,
};
pub use calibrated::{Calibrated, Footage, Sight};
pub use emulate::emulate;
pub use error::BundleError;
pub use onnx::Choice;
pub use plan::{Options, Plan, PlanError};
pub use room::NoRoom;
pub use targets::{PrecisionName, TargetError};
pub use verify::{Verified, Verify, VerifyError};
