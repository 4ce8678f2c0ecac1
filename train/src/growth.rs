//! How a model that is given more motion than it had starts: from what it knew, with what is new to it hardly in use.

use std::collections::BTreeMap;

use nextclip_core::Motion;
use tch::Tensor;

use crate::model::Model;
use crate::motion;
use crate::params::Params;

/// What the logits of sources that are new to a blend start from.
const SELDOM: f64 = -4.0;
/// The same of layers below those that there were, which are else taken as the lowest of those was.
const DEEPER: f64 = -2.0;

/// Whether `new` is the same motion as `had`, but uses earlier pictures, or is refined, rigid or whole, where that is not, or lands
/// deeper. What refines reads where things were in earlier pictures: a motion that is refined gets no such pictures any more.
fn grows(had: Motion, new: Motion) -> bool {
    let earlier = if had.earlier == 0 && !had.refined { 0 } else { new.earlier };
    had != new
        && had
            == Motion {
                earlier,
                refined: had.refined && new.refined,
                rigid: had.rigid && new.rigid,
                whole: had.whole && new.whole,
                depth: had.depth.min(new.depth),
                ..new
            }
}

/// The motion of a model that is `wanted` where the one that was `trained` grows to it, or had none.
pub(crate) fn grown(trained: Option<Motion>, wanted: Option<Motion>) -> Option<Motion> {
    let grows = wanted.filter(|new| trained.is_some_and(|had| grows(had, *new)));
    grows.or(trained).or(wanted)
}

/// A picture that is blended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Source {
    Decoded,
    Last,
    Moved { layer: usize },
    Earlier { picture: usize },
    Was { layer: usize, picture: usize },
}

impl Source {
    /// The same of the lowest layer of those that the motion `had`, where it is of a layer below.
    fn known(self, had: &Motion) -> Self {
        let lowest = had.layers() - 1;
        match self {
            Self::Moved { layer } => Self::Moved { layer: layer.min(lowest) },
            Self::Was { layer, picture } => Self::Was { layer: layer.min(lowest), picture },
            other => other,
        }
    }
}

/// What the blend reads; pictures have 3 channels.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Read {
    Source(Source),
    Carried { layer: usize, value: usize },
    Then { layer: usize, picture: usize },
    Witness { layer: usize, picture: usize },
}

/// All that is blended, in the order of the blend's results.
fn sources(sizes: &Motion) -> Vec<Source> {
    let mut all = vec![Source::Decoded, Source::Last];
    all.extend((0..sizes.layers()).map(|layer| Source::Moved { layer }));
    all.extend((0..sizes.earlier).map(|picture| Source::Earlier { picture }));
    all.extend(were(sizes));
    all
}

fn were(sizes: &Motion) -> impl Iterator<Item = Source> {
    let layers = sizes.layers();
    (0..sizes.witnesses())
        .flat_map(move |picture| (0..layers).map(move |layer| Source::Was { layer, picture }))
}

/// What each channel is that the blend reads: of a picture its red, green and blue.
fn reads(sizes: &Motion) -> Vec<(Read, usize)> {
    let of_layers =
        |count: usize| (0..sizes.layers()).flat_map(move |layer| (0..count).map(move |of| (layer, of)));
    let mut all = vec![Read::Source(Source::Decoded), Read::Source(Source::Last)];
    all.extend((0..sizes.layers()).map(|layer| Read::Source(Source::Moved { layer })));
    all.extend(of_layers(1 + sizes.features).map(|(layer, value)| Read::Carried { layer, value }));
    all.extend((0..sizes.earlier).map(|picture| Read::Source(Source::Earlier { picture })));
    all.extend(of_layers(sizes.earlier).map(|(layer, picture)| Read::Then { layer, picture }));
    all.extend(of_layers(sizes.witnesses()).map(|(layer, picture)| Read::Witness { layer, picture }));
    all.extend(were(sizes).map(Read::Source));
    let colours =
        |read: &Read| if matches!(read, Read::Carried { .. } | Read::Witness { .. }) { 1 } else { 3 };
    all.into_iter().flat_map(|read| (0..colours(&read)).map(move |colour| (read, colour))).collect()
}

/// Weights of the blend's first convolution: `old` ones of the motion `had` where a channel of `has` is known, else none.
fn reading(old: &Tensor, had: &Motion, has: &Motion) -> Tensor {
    let known = reads(had);
    let channel = |read: &(Read, usize)| match known.iter().position(|other| other == read) {
        Some(at) => old.narrow(1, at as i64, 1),
        None => old.narrow(1, 0, 1).zeros_like(),
    };
    Tensor::cat(&reads(has).iter().map(channel).collect::<Vec<_>>(), 1)
}

/// Weights or biases of its last convolution: `old` ones where a picture is known, else `fresh` ones; with what `offset` is added to
/// where it is new, or deeper than those before.
fn showing(old: &Tensor, fresh: &Tensor, had: &Motion, has: &Motion, offset: [f64; 2]) -> Tensor {
    let known = sources(had);
    let row =
        |(at, source): (usize, &Source)| match known.iter().position(|other| *other == source.known(had)) {
            Some(before) => {
                old.narrow(0, before as i64, 1) + if known.contains(source) { 0.0 } else { offset[1] }
            }
            None => fresh.narrow(0, at as i64, 1) + offset[0],
        };
    Tensor::cat(&sources(has).iter().enumerate().map(row).collect::<Vec<_>>(), 0)
}

impl Model {
    /// The `tensors` of a checkpoint with the motion `had`, with what they lack of this one.
    pub fn adopted(
        &self,
        tensors: BTreeMap<String, Tensor>,
        had: Option<Motion>,
        new: &Params,
    ) -> BTreeMap<String, Tensor> {
        match (had, self.motion) {
            (Some(had), Some(has)) if grows(had, has) => self.grown(tensors, had, has, new),
            _ => tensors,
        }
    }

    /// The tensors of a checkpoint that `had` less motion than this one `has`; what is new to it is as in `new`, but things were
    /// where they would be if they went the other way, new pictures are hardly shown at first, and cells are hardly rigid.
    fn grown(
        &self,
        tensors: BTreeMap<String, Tensor>,
        had: Motion,
        has: Motion,
        new: &Params,
    ) -> BTreeMap<String, Tensor> {
        let showing = |old: &Tensor, new: &Tensor, offset| showing(old, &new.detach(), &had, &has, offset);
        let widen = |name: &str, old: Tensor, new: &Tensor| match name {
            _ if old.size() == new.size() => old,
            "motion.linear.weight" | "motion.linear.bias" => self.with_past(&has, &old, new),
            "motion.blend.0.weight" => reading(&old, &had, &has),
            "motion.blend.2.weight" => showing(&old, new, [0.0; 2]),
            "motion.blend.2.bias" => showing(&old, new, [SELDOM, DEEPER]),
            _ => old,
        };
        let mut old = tensors;
        let mut grown: BTreeMap<String, Tensor> = new
            .iter()
            .filter_map(|(name, new)| {
                let tensor = match (old.remove(name), name) {
                    (Some(old), _) => widen(name, old, new),
                    (None, "motion.response") => new.detach().copy(),
                    (None, name) if name.starts_with("motion.refine.") => new.detach().copy(),
                    (None, _) => return None,
                };
                Some((name.to_owned(), tensor))
            })
            .collect();
        // What tokens had nothing to say in, they may have said anything in; what refines has never touched that.
        let said = !had.rigid && has.rigid && had.followed_frames() == has.followed_frames();
        if let (true, Some(bias)) = (said, grown.get_mut("motion.refine.2.bias")) {
            let seldom = motion::seldom_rigid(&has, self.geometry.clip);
            *bias = &*bias + Tensor::from_slice(&seldom).to_device(bias.device());
        }
        grown
    }

    /// Rows of `motion.linear` of a model without moments past with those of `new`, whose displacements are those of the
    /// moments to come, turned round.
    fn with_past(&self, sizes: &Motion, old: &Tensor, new: &Tensor) -> Tensor {
        let (patches, clip) = (self.geometry.patch.pow(2) as i64, self.geometry.clip);
        let rows = |x: &Tensor, moments: usize| {
            x.detach().unflatten(0, [patches, moments as i64, sizes.candidates as i64, -1].as_slice())
        };
        let old = rows(old, clip);
        let new = rows(new, sizes.moments(clip).len());
        let past = sizes.followed_frames().iter().enumerate().map(|(index, &frames)| {
            let nearest = frames.min(clip);
            let turned =
                old.narrow(1, nearest as i64 - 1, 1).narrow(3, 0, 2) * -(frames as f64 / nearest as f64);
            let rest = new.narrow(1, (clip + index) as i64, 1);
            Tensor::cat(&[turned, rest.narrow(3, 2, rest.size()[3] - 2)], 3)
        });
        let past: Vec<Tensor> = past.collect();
        Tensor::cat(&[old, Tensor::cat(&past, 1)], 1).flatten(0, 3)
    }
}

#[cfg(test)]
mod tests {
    use tch::{Device, Kind};

    use super::*;

    #[test]
    fn channels_are_as_many_as_the_blend_has() {
        let two = Motion { depth: 2, ..Motion::DEFAULT };
        for sizes in
            [Motion::DEFAULT, two, Motion { earlier: 0, rigid: false, whole: false, depth: 0, ..two }]
        {
            assert_eq!(reads(&sizes).len(), sizes.blend_inputs());
            assert_eq!(sources(&sizes).len(), sizes.sources());
        }
    }

    #[test]
    fn what_is_deeper_keeps_the_layers_above() {
        let [had, has] = [2, 3].map(|depth| Motion { earlier: 1, depth, ..Motion::DEFAULT });
        assert!(grows(had, has) && !grows(has, had));
        let (float, cpu) = (Kind::Float, Device::Cpu);
        let old = Tensor::arange(sources(&had).len() as i64, (float, cpu));
        let grown = showing(&old, &Tensor::zeros([9], (float, cpu)), &had, &has, [0.0, 0.5]);
        let grown: Vec<f64> = grown.try_into().unwrap();
        // Decoded, last, three that moved, the earlier one, and where those three were.
        assert_eq!(grown, [0.0, 1.0, 2.0, 3.0, 3.5, 4.0, 5.0, 6.0, 6.5]);
        let old = Tensor::ones([1, had.blend_inputs() as i64], (float, cpu));
        let grown = reading(&old, &had, &has);
        assert_eq!(grown.size(), [1, has.blend_inputs() as i64]);
        assert_eq!(grown.sum(float).double_value(&[]), had.blend_inputs() as f64);
    }
}
