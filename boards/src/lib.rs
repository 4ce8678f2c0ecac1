//! Facts of the boards that nextclip runs on.

/// Boards that share their video elements.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Family { 
    /// Orin.
    JetsonOrin }

/// GStreamer elements.
pub struct Elements { 
    /// Out of GPU memory.
    pub converters: &'static [&'static str] }

impl Family {
    /// Elements.
    pub fn elements(self) -> &'static Elements { &Elements { converters: &["nvvidconv", "nvvideoconvert"] } }
}
