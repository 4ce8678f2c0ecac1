//! What the session asks of a model.

use nextclip_core::manifest::Graphs;
use nextclip_core::{Geometry, Picture};
use nextclip_predictor::{Error, Predictor};

/// A model with a memory: frames go in one by one, clips of the future come out. It is the
/// [`Predictor`] when the daemon runs, and one that always or never errs when the session is tested.
pub trait Model {
    /// Sizes of frames and clips.
    fn geometry(&self) -> Geometry;
    /// K: denoising steps of a prediction.
    fn steps(&self) -> usize;
    /// Remembers a frame, (height, width, 3).
    fn see(&mut self, frame: &Picture) -> Result<(), Error>;
    /// Whether as many frames are remembered as the model can use.
    fn is_ready(&self) -> bool;
    /// The clip that follows the newest frame, N pictures; `number` tells its noise from other predictions'.
    fn predict(&mut self, seed: u64, number: u64) -> Result<Vec<Picture>, Error>;
    /// Forgets every frame.
    fn forget(&mut self);
}

impl Model for Predictor {
    fn geometry(&self) -> Geometry {
        self.manifest().geometry
    }

    fn steps(&self) -> usize {
        Predictor::steps(self)
    }

    fn see(&mut self, frame: &Picture) -> Result<(), Error> {
        Predictor::see(self, frame).map(drop)
    }

    fn is_ready(&self) -> bool {
        self.history().is_full()
    }

    fn predict(&mut self, seed: u64, number: u64) -> Result<Vec<Picture>, Error> {
        let latents = Predictor::predict(self, seed, number)?;
        self.render(&latents)
    }

    fn forget(&mut self) {
        Predictor::forget(self);
    }
}

/// Refuses a bundle that knows latents only: a camera gives pictures, and predictions are scored as pictures.
pub fn require_pictures(graphs: &Graphs) -> Result<(), Error> {
    if graphs.encode.is_none() {
        return Err(Error::NoVae("encode"));
    }
    if graphs.decode.is_none() {
        return Err(Error::NoVae("decode"));
    }
    Ok(())
}
