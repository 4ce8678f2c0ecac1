//! Reads a checkpoint folder: configuration, tokenizer ids, weights, digests.

mod config;
mod error;
mod safetensors;
mod tokens;
mod weights;

pub(crate) use config::read_json;
pub use config::{read_transformer_config, read_vae_config};
pub use error::{CheckpointError, Fault};
pub use safetensors::{WeightFiles, vae_files};
pub use tokens::read_token_ids;
pub use weights::{Scope, Storage, Weight, Weights};
