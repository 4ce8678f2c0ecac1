//! A small typed builder of ONNX graphs: operators with static shapes, layers made of them, and the
//! weight file that graphs share.

mod builder;
mod layers;
pub mod proto;
mod serialize;

pub use builder::{Constant, Graph, GraphBuilder, Layout, Value};
pub use layers::{Conv, GroupNorm, Linear, Rotation};
pub use serialize::{OPSET, WeightFile, model};
