//! The contract between exporter and device, and all pure logic of next-clip prediction.
//!
//! Nothing here opens a file, a camera or an inference session: [`Manifest`] says what a bundle is,
//! [`Geometry`] how frames become tokens, [`sequence`] who sees whom, [`sampler`] how noise becomes a
//! clip, [`History`] which frames the model remembers, [`Pacer`] and [`Ledger`] how predictions meet
//! the frames that they were made for. Exporter, trainer and runtime call the same functions.
//!
//! ```
//! use nextclip_core::sampler::{TimeGrid, euler_step};
//!
//! // A model that always knows the answer lands on it, whatever the number of steps.
//! let (mut z, answer) = (vec![0.3_f32, -1.2], [1.0, 0.5]);
//! for (t, t_next) in TimeGrid::new(4, 1.0)?.steps() {
//!     euler_step(&mut z, &answer, t, t_next);
//! }
//! assert!(z.iter().zip(answer).all(|(z, x)| (z - x).abs() < 1e-6));
//! # Ok::<(), nextclip_core::sampler::GridError>(())
//! ```

mod cache;
pub mod checkpoint;
pub mod compositing;
pub mod console;
mod geometry;
mod history;
mod ledger;
pub mod manifest;
pub mod metrics;
mod motion;
mod pacer;
pub mod position;
pub mod sampler;
pub mod sequence;

pub use geometry::{Geometry, GeometryError};
pub use history::History;
pub use ledger::{Due, Ledger, Span};
pub use manifest::Manifest;
pub use motion::Motion;
pub use pacer::{Pace, Pacer};

/// One RGB picture, 8 bit, shape (height, width, 3).
pub type Picture = ndarray::Array3<u8>;

/// One clip of latents, f32, shape (frames, channels, height / 8, width / 8).
pub type Latents = ndarray::Array4<f32>;
