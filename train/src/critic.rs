//! The critic of an adversarial training: tells clips that came from clips that were predicted.

use nextclip_core::Geometry;
use tch::{Kind, Tensor};

use crate::params::{Init, Params, Scope, Spec};
use crate::sharpness::moving;

/// Channels of each level, which has half the side of the one before.
const WIDTHS: [usize; 4] = [48, 96, 192, 192];
const SLOPE: f64 = 0.2;
/// Pictures are disturbed by so much, on the scale of [-1, 1], where the critic must stay smooth.
const DISTURBANCE: f64 = 0.02;
/// Weight of its unevenness there.
const SMOOTHNESS_WEIGHT: f64 = 20.0;
/// Weight of a part in which nothing moves, beside 1 where everything does.
const QUIET_WEIGHT: f64 = 0.05;

/// Every tensor of the critic.
pub fn specs(geometry: &Geometry) -> Vec<Spec> {
    let mut specs = Vec::new();
    let mut conv = |name: String, from: usize, to: usize, side: usize, scale: f64| {
        let shape = [to, from, side, side].map(|side| side as i64).to_vec();
        let std = scale * (2.0 / (from * side * side) as f64).sqrt();
        specs.push(Spec { name: format!("critic.{name}.weight"), shape, init: Init::Normal(std) });
        specs.push(Spec { name: format!("critic.{name}.bias"), shape: vec![to as i64], init: Init::Zeros });
    };
    let mut from = 3 * (1 + geometry.clip);
    for (level, to) in WIDTHS.into_iter().enumerate() {
        conv(format!("{level}.halve"), from, to, 4, 1.0);
        conv(format!("{level}.look"), to, to, 3, 1.0);
        from = to;
    }
    // No opinion at first.
    conv("score".into(), from, 1, 1, 0.1);
    specs
}

/// Whether a tensor is the critic's.
pub fn is_critics(name: &str) -> bool {
    name.starts_with("critic.")
}

/// The critic over its parameters.
#[derive(Debug)]
pub struct Critic<'a> {
    params: &'a Params,
}

impl<'a> Critic<'a> {
    /// A view of `params`, which hold [`specs`].
    pub fn new(params: &'a Params) -> Self {
        Self { params }
    }

    /// How real every part of clips (n, N, 3, H, W) looks after `last` (n, 1, 3, H, W), (n, 1, rows, columns). All
    /// frames are read at once, so that what moves must do so as things do.
    pub fn scores(&self, last: &Tensor, clips: &Tensor) -> Tensor {
        let mut x = Tensor::cat(&[last, clips], 1).flatten(1, 2).to_kind(self.params.compute());
        let critic = self.params.root().pp("critic");
        let part = |scope: &Scope<'_>, x: &Tensor, stride: i64| {
            let bent = scope.conv(x, stride, 1);
            bent.maximum(&(&bent * SLOPE))
        };
        for level in 0..WIDTHS.len() {
            let level = critic.pp(level);
            x = part(&level.pp("halve"), &x, 2);
            x = &x + part(&level.pp("look"), &x, 1);
        }
        critic.pp("score").conv(&x, 1, 0).to_kind(Kind::Float)
    }

    /// How clearly the predicted clips lose against those that came, in nats: what the predictor learns from.
    pub fn lost(&self, last: &Tensor, came: &Tensor, predicted: &Tensor) -> Tensor {
        let lead = tch::no_grad(|| self.scores(last, came)) - self.scores(last, predicted);
        self.where_lively(&lead.softplus(), last, [came, predicted])
    }

    /// What the critic itself learns from: to prefer what came, and to do so smoothly around both, where `noise`
    /// like them leads (an approximation of the gradient penalties R1 and R2, Lin et al. 2025).
    pub fn loss(&self, last: &Tensor, came: &Tensor, predicted: &Tensor, noise: &Tensor) -> Tensor {
        let noise = noise * DISTURBANCE;
        let unevenness =
            |clips: &Tensor, scores: &Tensor| (self.scores(last, &(clips + &noise)) - scores).square();
        let (real, fake) = (self.scores(last, came), self.scores(last, predicted));
        let uneven = unevenness(came, &real) + unevenness(predicted, &fake);
        let behind = (fake - real).softplus();
        self.where_lively(&(behind + uneven * SMOOTHNESS_WEIGHT), last, [came, predicted])
    }

    /// Mean of `values` of parts (n, 1, rows, columns), each with the share of its pixels where a clip departs from `last`
    /// in any frame as its weight: where nothing moves there is nothing to tell apart.
    fn where_lively(&self, values: &Tensor, last: &Tensor, clips: [&Tensor; 2]) -> Tensor {
        let weights = tch::no_grad(|| {
            let lively = clips.map(|clip| moving(clip, last).amax([1], true));
            let [rows, columns] = [2, 3].map(|axis| values.size()[axis]);
            lively[0].maximum(&lively[1]).adaptive_avg_pool2d([rows, columns]) + QUIET_WEIGHT
        });
        (values * &weights).sum(Kind::Float) / weights.sum(Kind::Float)
    }
}
