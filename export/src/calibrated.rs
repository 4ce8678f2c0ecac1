//! Ranges of activations, and the footage that they are of.

use std::convert::Infallible;
use std::fmt;
use std::path::PathBuf;
use std::str::FromStr;
use std::sync::Arc;

use nextclip_core::manifest;
use nextclip_quant::Observer;

use crate::onnx::{Graph, LayerRanges, Recipe};

/// Where frames come from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Footage {
    /// Generated scenes of the training family.
    Scenes,
    /// A film, or a folder of films.
    Films(PathBuf),
}

impl FromStr for Footage {
    type Err = Infallible;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        Ok(if text == "scenes" { Self::Scenes } else { Self::Films(text.into()) })
    }
}

impl fmt::Display for Footage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Scenes => f.write_str("scenes"),
            Self::Films(path) => write!(f, "{}", path.display()),
        }
    }
}

/// What to look at.
#[derive(Clone, Debug, PartialEq)]
pub struct Sight {
    /// Where frames come from.
    pub footage: Footage,
    /// Clips of C + N frames; of films as many as there are, where there are fewer.
    pub clips: usize,
    /// Of scenes, of noise, and of the choice among a film's clips.
    pub seed: u64,
    /// Whether every fourth clip of films is left out, for losses to be measured on.
    pub keep_back: bool,
}

impl Default for Sight {
    fn default() -> Self {
        Self { footage: Footage::Scenes, clips: 24, seed: 0, keep_back: false }
    }
}

/// Ranges, and where they came from.
#[derive(Clone, Debug)]
pub struct Calibrated {
    pub(crate) recipe: Arc<Recipe>,
    /// The same ranges by layer: graphs of other targets have other tensors.
    pub(crate) layer_ranges: Arc<LayerRanges>,
    pub(crate) observer: Observer,
    pub(crate) sight: Sight,
    pub(crate) steps: usize,
    /// Files that go into the bundle, by name: how the choice came about.
    pub(crate) documents: Vec<(&'static str, Vec<u8>)>,
}

impl Calibrated {
    /// With files that tell how the choice of layers came about; they go into the bundle.
    pub fn with_documents(mut self, documents: Vec<(&'static str, Vec<u8>)>) -> Self {
        self.documents = documents;
        self
    }

    /// What the manifest says of a bundle with these graphs.
    pub(crate) fn provenance<'a>(&self, graphs: impl Iterator<Item = &'a Graph>) -> manifest::Quantisation {
        provenance(self.observer.to_string(), (&self.sight, self.steps), graphs)
    }
}

/// What the manifest says of a bundle with these graphs, quantised by the rule `observer`.
pub(crate) fn provenance<'a>(
    observer: String,
    (sight, steps): (&Sight, usize),
    graphs: impl Iterator<Item = &'a Graph>,
) -> manifest::Quantisation {
    let (mut layers, mut kept_float) = (Vec::new(), Vec::new());
    for graph in graphs {
        for used in &graph.layers {
            let (list, entry) = if used.quantised {
                (&mut layers, format!("{}: {}", graph.name, used.layer))
            } else {
                (&mut kept_float, used.layer.clone())
            };
            if !list.contains(&entry) {
                list.push(entry);
            }
        }
    }
    manifest::Quantisation {
        observer,
        calibration: sight.footage.to_string(),
        seed: sight.seed,
        clips: sight.clips,
        steps,
        layers,
        kept_float,
        pairs_fit: false,
    }
}
