//! Trains next-clip-diffusion checkpoints: a small AutoencoderKL, then the decoder transformer on its
//! latents, saved in the layout of the published model.
//!
//! [`train_vae`] and [`train_predictor`] are the two runs, [`finetune`] is both together on pictures, also on one
//! camera's, [`distill`] makes a sharp few-step student; [`checkpoint`] writes what they made. All randomness of a step follows from the seed and the step's number, so a resumed run is the unbroken one.

mod attention;
pub mod checkpoint;
pub mod compositing;
pub mod costs;
pub mod critic;
mod curve;
pub mod distill;
pub mod finetune;
pub mod fit;
pub mod following;
pub mod footage;
pub mod gradients;
mod growth;
mod landing;
mod layers;
pub mod loss;
mod loss_table;
pub mod model;
pub mod motion;
mod motion_error;
pub mod noise;
pub mod optim;
pub mod params;
mod placed;
pub mod pool;
mod rigid;
mod run;
mod sharpness;
mod told;
pub mod train_predictor;
pub mod train_vae;
pub mod transformer;
pub mod vae;
mod validation;
pub mod ways;
pub mod windows;
