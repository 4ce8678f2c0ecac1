//! Measures what a bundle's predictions are worth, against predictors that need no model.
//!
//! [`Clips`] gives held-out windows of generated scenes or films, [`measure`] runs the bundle over them,
//! and [`Report`] says by how much its pictures are nearer to what came than the last frame repeated, a
//! linear continuation, and than the autoencoder alone could bring them.

mod clips;
mod measure;
mod report;

pub use clips::{Clips, Footage};
pub use measure::{Sample, measure};
pub use report::{Report, strip};
