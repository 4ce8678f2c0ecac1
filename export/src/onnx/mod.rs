//! A small typed builder of ONNX graphs: operators with static shapes, layers made of them in every
//! precision, and the weight file that graphs share.

mod builder;
mod cached;
mod explicit;
mod graph;
mod integers;
mod layers;
mod operators;
mod pictures;
pub mod proto;
mod quantised;
mod rounding;
mod serialize;
mod typed;
mod weight_only;

pub use builder::GraphBuilder;
pub use cached::Cached;
pub use explicit::{EightBitWeight, EightBits, Format, LayerRanges};
pub use graph::{Constant, Graph, LayerUse, Layout, Value};
pub use integers::{Beside, Integers};
pub use layers::{Conv, GroupNorm, Linear, Rotation};
pub use pictures::transposed;
pub(crate) use quantised::covers;
pub use quantised::{Choice, Precision, Ranges, Recipe};
pub use rounding::Rounding;
pub use serialize::{OPSET, Planned, WeightFile, model};
pub use typed::Typed;
pub use weight_only::{BlockForm, BlockPart, BlockWeight, MAX_BLOCK, MIN_BLOCK, TENSORRT_BLOCKS, WeightOnly};
