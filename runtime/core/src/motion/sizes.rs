//! How much of what there is in a model with [`Motion`]: values of a cell, moments, pictures, channels; and which sizes are
//! impossible.

use super::Motion;
use crate::geometry::Geometry;

impl Motion {
    /// Values of a cell and a predicted frame.
    pub fn channels(&self) -> usize {
        self.candidates * self.candidate_channels()
    }

    /// Values of one candidate: displacement, weight, features.
    pub fn candidate_channels(&self) -> usize {
        3 + self.features
    }

    /// Places a cell, along both axes, where it is chosen what lands there, and how sharp that choice is.
    pub fn landing(&self) -> (usize, f32) {
        if self.whole { (Self::FINER, Self::CHOICE) } else { (1, 1.0) }
    }

    /// How often what cells say they belong to is gathered.
    pub fn gathered(&self) -> usize {
        if self.whole { Self::GATHER_STEPS } else { 0 }
    }

    /// How many frames before the last one each of the earlier pictures is.
    pub fn earlier_frames(&self) -> &'static [usize] {
        &Self::EARLIER[..self.earlier.min(Self::EARLIER.len())]
    }

    /// Those of them that things are followed in.
    pub fn followed_frames(&self) -> &'static [usize] {
        &Self::EARLIER[..self.earlier.min(Self::FOLLOWED)]
    }

    /// M: moments that a cell's whereabouts are said of, in frames from its own: `clip` to come, then those past.
    pub fn moments(&self, clip: usize) -> Vec<isize> {
        let past = self.followed_frames().iter().map(|&frames| -(frames as isize));
        (1..=clip as isize).chain(past).collect()
    }

    /// Values of a candidate that say what its cell belongs to: the features of moments past.
    pub fn belonging(&self) -> usize {
        self.features * self.followed_frames().len()
    }

    /// Displacements of a cost volume.
    pub fn costs(&self) -> usize {
        (2 * self.reach + 1).pow(2)
    }

    /// Whether things land each by itself, in layers.
    pub fn layered(&self) -> bool {
        self.depth > 0
    }

    /// Moved pictures: one of each candidate, or of each of what is on top.
    pub fn layers(&self) -> usize {
        if self.layered() { self.depth } else { self.candidates }
    }

    /// Pictures that are blended: decoded, last, the moved ones, the earlier ones, and those moved, too.
    pub fn sources(&self) -> usize {
        2 + self.layers() * (1 + self.witnesses()) + self.earlier
    }

    /// Channels that the blend reads: the sources, densities and features, what was earlier where pixels come from, and how
    /// surely they were seen going that way.
    pub fn blend_inputs(&self) -> usize {
        let carried = 1 + self.features + self.witnesses();
        3 * (self.sources() + self.layers() * self.earlier) + self.layers() * carried
    }

    /// Earlier pictures that are asked what was seen going that way, and how surely a pixel was.
    pub fn witnesses(&self) -> usize {
        if self.whole { self.followed_frames().len() } else { 0 }
    }

    /// What makes these sizes impossible, in words.
    pub fn fault(&self) -> Option<String> {
        let Self { candidates, features, reach, earlier, depth, .. } = *self;
        if !(1..=8).contains(&candidates) {
            return Some(format!("motion: {candidates} candidates, must be 1 to 8"));
        }
        if features > 64 {
            return Some(format!("motion: {features} features, must be 0 to 64"));
        }
        if earlier > Self::EARLIER.len() {
            return Some(format!("motion: {earlier} earlier pictures, must be 0 to {}", Self::EARLIER.len()));
        }
        if !(1..=16).contains(&reach) {
            return Some(format!("motion: a reach of {reach}, must be 1 to 16"));
        }
        if depth > Self::THINGS {
            return Some(format!("motion: a depth of {depth}, must be 0 to {}", Self::THINGS));
        }
        let values = self.belonging();
        let bare =
            || format!("motion: {values} features of moments past say what is rigid, must be 3 or more");
        let torn = || "motion: things that stay whole must be rigid".to_owned();
        let split = || "motion: things that land in layers must stay whole".to_owned();
        let faults = [
            (self.rigid && values < 3).then(bare),
            (self.whole && !self.rigid).then(torn),
            (self.layered() && !self.whole).then(split),
        ];
        faults.into_iter().flatten().next()
    }

    /// The same with frames of this geometry: a cell must be whole pixels of half resolution.
    pub fn fault_with(&self, geometry: &Geometry) -> Option<String> {
        let Geometry { vae_scale, .. } = *geometry;
        let odd = || format!("motion: cells of {vae_scale} x {vae_scale} pixels, must be an even number");
        self.fault().or_else(|| (vae_scale % 2 != 0).then(odd))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_follow_from_candidates_and_features() {
        let motion = Motion {
            candidates: 3,
            features: 2,
            reach: 4,
            earlier: 0,
            refined: false,
            rigid: false,
            whole: false,
            depth: 0,
        };
        assert_eq!((motion.channels(), motion.sources(), motion.blend_inputs()), (15, 5, 24));
        assert_eq!((motion.costs(), motion.moments(2)), (81, vec![1, 2]));
        let followed = Motion { earlier: 2, ..motion };
        assert_eq!((followed.sources(), followed.blend_inputs()), (7, 48));
        assert_eq!(followed.moments(2), [1, 2, -1, -3]);
        assert_eq!((Motion { earlier: 3, ..motion }).moments(2), [1, 2, -1, -3]);
        assert_eq!((Motion { earlier: 1, ..motion }).moments(2), [1, 2, -1]);
        let fault = Motion { earlier: 4, ..motion }.fault();
        assert_eq!(fault.as_deref(), Some("motion: 4 earlier pictures, must be 0 to 3"));
        assert_eq!(motion.fault(), None);
        let whole = Motion { rigid: true, whole: true, ..followed };
        assert_eq!((followed.witnesses(), whole.witnesses(), whole.blend_inputs()), (0, 2, 72));
        assert_eq!((whole.sources(), followed.belonging()), (13, 4));
        assert_eq!(Motion { rigid: true, ..followed }.fault(), None);
        let fault = Motion { rigid: true, ..motion }.fault();
        let bare = "motion: 0 features of moments past say what is rigid, must be 3 or more";
        assert_eq!(fault.as_deref(), Some(bare));
        let fault = Motion { whole: true, ..followed }.fault();
        assert_eq!(fault.as_deref(), Some("motion: things that stay whole must be rigid"));
        let layered = Motion { candidates: 3, depth: 2, ..whole };
        assert_eq!((layered.layers(), layered.sources(), layered.blend_inputs()), (2, 10, 52));
        let fault = Motion { depth: 7, ..layered }.fault();
        assert_eq!(fault.as_deref(), Some("motion: a depth of 7, must be 0 to 6"));
        let fault = Motion { depth: 2, ..followed }.fault();
        let split = "motion: things that land in layers must stay whole";
        assert_eq!(fault.as_deref(), Some(split));
        let fault = Motion { candidates: 0, ..motion }.fault();
        assert_eq!(fault.as_deref(), Some("motion: 0 candidates, must be 1 to 8"));
        let geometry = |vae_scale| Geometry {
            height: 32,
            width: 32,
            vae_scale,
            latent_channels: 4,
            patch: 1,
            history: 1,
            clip: 1,
            frame_interval_ms: 100,
        };
        assert_eq!(motion.fault_with(&geometry(2)), None);
        let fault = motion.fault_with(&geometry(1));
        assert_eq!(fault.as_deref(), Some("motion: cells of 1 x 1 pixels, must be an even number"));
    }
}
