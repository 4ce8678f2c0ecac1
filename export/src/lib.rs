//! Turns a checkpoint into a bundle of ONNX graphs.
