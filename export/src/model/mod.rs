//! The model: its tensors by their checkpoint paths, and its four graphs.

mod attention;
mod checkpoint;
mod decoder;
mod denoise;
mod embed;
mod motion;
mod remember;
mod transformer;
mod vae;
mod vae_graphs;

pub use checkpoint::{Checkpoint, CheckpointVae, Survey};
pub use denoise::denoise;
pub use motion::MotionLayers;
pub(crate) use motion::{COSTS, LANDING};
pub use remember::remember;
pub use transformer::Transformer;
pub use vae::Vae;
pub use vae_graphs::{Pixels, decode, encode};
