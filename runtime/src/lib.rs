//! nextclipd: predicts live cameras, headless.
//!
//! Every frame of a camera that the model is to see goes through a [`session::Session`], which scores
//! what was predicted for this moment, remembers the frame, and predicts the clip that follows. What a
//! prediction covers, how late it came and what it was worth leaves as [`session::Event`]s to
//! [`sinks`]. [`run::run`] puts a camera, a session and sinks together as threads; [`future::predict`]
//! does without a camera.
//!
//! ```
//! use nextclip_runtime::config::{Config, Layer};
//!
//! let text = "bundle = 'base'\n[source]\nuri = 'test://'\n[predict]\nsteps = 0\nsead = 1\n";
//! let (layer, faults) = Layer::from_toml(text, "/etc/nextclip".as_ref());
//! let told = Config::resolve(layer, faults, Some("nextclip.toml".into())).unwrap_err().to_string();
//! assert!(told.contains("nextclip.toml:5: predict.steps: is 0, must be 1 to 1000"));
//! assert!(told.contains("nextclip.toml:6: predict.sead: is unknown, did you mean predict.seed?"));
//! ```

pub mod camera;
pub mod cli;
pub mod clock;
pub mod config;
pub mod crew;
mod drawing;
pub mod future;
pub mod inbox;
pub mod model;
pub mod prediction;
pub mod run;
pub mod session;
pub mod sinks;
pub mod status;
pub mod totals;
