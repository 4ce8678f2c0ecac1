//! Facts of the boards that nextclip runs on, as data: which board this is, what it can compute, which GStreamer
//! elements decode, convert and encode on it.
//!
//! Every number says how far it can be trusted ([`Basis`]); what is only remembered counts as unknown until checked.
//!
//! ```
//! use std::path::Path;
//!
//! let board = nextclip_boards::detect(Path::new("/proc/device-tree"));
//! assert!(board.elements().decoders_h264.contains(&"avdec_h264"));
//! ```

mod deploy;
mod detect;
mod elements;
mod fact;
mod profile;

pub use deploy::{Runtime, board_ids};
pub use detect::{Board, L4t, detect};
pub use elements::{Elements, Encoder};
pub use fact::{Basis, Fact};
pub use profile::{Family, PROFILES, Profile, Tops, profile};
