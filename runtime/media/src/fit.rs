//! How a camera's picture becomes one of the model's size.

use std::fmt;
use std::str::FromStr;

/// What happens where the camera's aspect ratio is not the model's. Pixels that are not square count as seen.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Fit {
    /// The largest centred part with the model's aspect ratio is kept.
    #[default]
    Crop,
    /// All of the picture is kept, between black bars.
    Letterbox,
    /// All of the picture is kept, distorted.
    Stretch,
}

impl FromStr for Fit {
    type Err = String;

    fn from_str(name: &str) -> Result<Self, String> {
        match name {
            "crop" => Ok(Fit::Crop),
            "letterbox" => Ok(Fit::Letterbox),
            "stretch" => Ok(Fit::Stretch),
            _ => Err(format!("fit {name:?} is none of crop, letterbox, stretch")),
        }
    }
}

impl fmt::Display for Fit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Fit::Crop => "crop",
            Fit::Letterbox => "letterbox",
            Fit::Stretch => "stretch",
        })
    }
}
