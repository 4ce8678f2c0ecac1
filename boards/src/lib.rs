//! Facts of the boards that nextclip runs on.
