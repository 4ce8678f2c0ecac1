//! Optimisers with state that is saved: AdamW, Muon for weight matrices, an average of the weights.

use std::collections::BTreeMap;

use anyhow::{Context, Result};
use tch::{Kind, Tensor};

use crate::gradients::Gradients;
use crate::params::Params;

/// Which rule moves the weight matrices of layers and the kernels of residual blocks. Everything else is
/// always AdamW's.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Rule {
    /// AdamW, as published.
    Adamw,
    /// Muon: momentum made orthogonal (Jordan et al. 2024); fewer steps to the same loss.
    Muon,
}

/// Settings of the optimiser.
#[derive(Clone, Copy, Debug)]
pub struct Settings {
    /// Rule of the layers' weight matrices.
    pub rule: Rule,
    /// AdamW's decay rates of first and second moment.
    pub betas: (f64, f64),
    /// AdamW's epsilon.
    pub eps: f64,
    /// Decoupled weight decay of matrices, a step and unit of learning rate.
    pub weight_decay: f64,
    /// Largest norm of all gradients together.
    pub clip_norm: f64,
    /// Decay of the weights' average.
    pub average: f64,
    /// Muon's learning rate, relative to AdamW's.
    pub muon_ratio: f64,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            rule: Rule::Muon,
            betas: (0.9, 0.95),
            eps: 1e-8,
            weight_decay: 0.05,
            clip_norm: 1.0,
            average: 0.999,
            muon_ratio: 10.0,
        }
    }
}

impl Settings {
    /// The published ones: AdamW alone, and what it was used with.
    pub fn published() -> Self {
        Self { rule: Rule::Adamw, eps: 1e-5, weight_decay: 0.1, ..Self::default() }
    }
}

const MUON_MOMENTUM: f64 = 0.95;

/// Moments and averages of every trained tensor.
#[derive(Debug)]
pub struct Optimiser {
    settings: Settings,
    slots: BTreeMap<String, Slot>,
}

#[derive(Debug)]
struct Slot {
    rule: Rule,
    decay: f64,
    first: Tensor,
    second: Tensor,
    average: Tensor,
}

impl Optimiser {
    /// Zero moments; averages start at the weights.
    pub fn new(params: &Params, settings: Settings) -> Self {
        let slots = params.trained().map(|(name, tensor)| {
            let matrix = match tensor.dim() {
                2 => name.contains(".layers.") && name.ends_with(".weight"),
                4 => name.contains("_block"),
                _ => false,
            };
            let rule = if matrix { settings.rule } else { Rule::Adamw };
            let second = match rule {
                Rule::Adamw => tensor.zeros_like(),
                Rule::Muon => Tensor::zeros([0], (Kind::Float, tensor.device())),
            };
            let slot = Slot {
                rule,
                // Norms, biases and embeddings are not decayed.
                decay: if tensor.dim() >= 2 && !name.contains("embed_tokens") {
                    settings.weight_decay
                } else {
                    0.0
                },
                first: tensor.zeros_like(),
                second,
                average: tensor.detach().copy(),
            };
            (name.to_owned(), slot)
        });
        Self { settings, slots: slots.collect() }
    }

    /// Applies the gradients at step `step` (from 0). Returns their norm before clipping.
    pub fn step(&mut self, params: &Params, gradients: &Gradients, step: u64, lr: f64) -> f64 {
        tch::no_grad(|| {
            let norm = gradient_norm(gradients);
            let scale = (self.settings.clip_norm / (norm + 1e-6)).min(1.0);
            for (name, tensor) in params.trained() {
                let Some(slot) = self.slots.get_mut(name) else { continue };
                let Some(gradient) = gradients.get(name) else { continue };
                let gradient = if scale < 1.0 { gradient * scale } else { gradient.shallow_clone() };
                slot.apply(tensor, &gradient, step, lr, &self.settings);
                // Young averages follow fast, so that the start is soon forgotten.
                let average = self.settings.average.min((step as f64 + 1.0) / (step as f64 + 10.0));
                let _ = slot.average.lerp_(tensor, 1.0 - average);
            }
            norm
        })
    }

    /// The averaged weights, by name.
    pub fn averages(&self) -> BTreeMap<String, Tensor> {
        self.slots.iter().map(|(name, slot)| (name.clone(), slot.average.shallow_clone())).collect()
    }

    /// Everything that a resumed run needs, by name.
    pub fn state(&self) -> impl Iterator<Item = (String, Tensor)> + '_ {
        self.slots.iter().flat_map(|(name, slot)| {
            slot.tensors().map(|(kind, tensor)| (format!("{kind}/{name}"), tensor.shallow_clone()))
        })
    }

    /// Takes back what [`Self::state`] gave.
    pub fn restore(&mut self, state: &BTreeMap<String, Tensor>) -> Result<()> {
        for (name, slot) in &mut self.slots {
            for (kind, tensor) in slot.tensors() {
                let key = format!("{kind}/{name}");
                let saved =
                    state.get(&key).with_context(|| format!("{key} is missing from the saved state"))?;
                anyhow::ensure!(
                    saved.size() == tensor.size(),
                    "{key} has shape {:?}, this run needs {:?}: was it started with other settings?",
                    saved.size(),
                    tensor.size()
                );
                tensor.shallow_clone().copy_(saved);
            }
        }
        Ok(())
    }
}

impl Slot {
    fn tensors(&self) -> [(&'static str, &Tensor); 3] {
        [("first", &self.first), ("second", &self.second), ("average", &self.average)]
    }

    fn apply(&mut self, tensor: &Tensor, gradient: &Tensor, step: u64, lr: f64, settings: &Settings) {
        let mut tensor = tensor.shallow_clone();
        match self.rule {
            Rule::Adamw => {
                let _ = tensor.g_mul_scalar_(1.0 - lr * self.decay);
                let (b1, b2) = settings.betas;
                let _ = self.first.lerp_(gradient, 1.0 - b1);
                let _ = self.second.g_mul_scalar_(b2).addcmul_(&(gradient * (1.0 - b2)), gradient);
                let age = step as i32 + 1;
                let scale = (1.0 - b2.powi(age)).sqrt();
                let denominator = self.second.sqrt() / scale + settings.eps;
                let update = &self.first / denominator * (-lr / (1.0 - b1.powi(age)));
                let _ = tensor.g_add_(&update);
            }
            Rule::Muon => {
                let lr = lr * settings.muon_ratio;
                let _ = tensor.g_mul_scalar_(1.0 - lr * self.decay);
                let _ = self.first.lerp_(gradient, 1.0 - MUON_MOMENTUM);
                let ahead = gradient.lerp(&self.first, MUON_MOMENTUM);
                // A convolution is a matrix of its outputs by all that one output reads.
                let ahead = ahead.flatten(1, -1);
                let size = ahead.size();
                let stretch = (size[0] as f64 / size[1] as f64).max(1.0).sqrt();
                let _ = tensor.g_add_(&(orthogonal(&ahead).reshape(tensor.size()) * (-lr * stretch)));
            }
        }
    }
}

/// The nearest matrix with all singular values near 1, by five quintic Newton-Schulz iterations.
fn orthogonal(matrix: &Tensor) -> Tensor {
    let (a, b, c) = (3.4445, -4.7750, 2.0315);
    let size = matrix.size();
    let tall = size[0] > size[1];
    let kind = crate::params::fastest_kind(matrix.device());
    let mut x = if tall { matrix.transpose(0, 1) } else { matrix.shallow_clone() };
    x = (&x / (x.norm() + 1e-7)).to_kind(kind);
    for _ in 0..5 {
        let gram = x.matmul(&x.transpose(0, 1));
        let polynomial = &gram * b + gram.matmul(&gram) * c;
        x = &x * a + polynomial.matmul(&x);
    }
    let x = x.to_kind(Kind::Float);
    if tall { x.transpose(0, 1) } else { x }
}

fn gradient_norm(gradients: &Gradients) -> f64 {
    let squares: Vec<Tensor> =
        gradients.values().map(|gradient| gradient.square().sum(Kind::Float)).collect();
    if squares.is_empty() {
        0.0
    } else {
        Tensor::stack(&squares, 0).sum(Kind::Float).sqrt().double_value(&[])
    }
}

/// Learning rate of a step: linear warm-up, constant, then linear to zero over the last `decay` steps.
#[derive(Clone, Copy, Debug)]
pub struct Schedule {
    /// The constant rate.
    pub peak: f64,
    /// Steps of warm-up.
    pub warm_up: u64,
    /// Steps of the fall at the end.
    pub decay: u64,
    /// Steps of the run.
    pub steps: u64,
}

impl Schedule {
    /// The rate at `step`, from 0.
    pub fn at(&self, step: u64) -> f64 {
        let rise = (step + 1) as f64 / self.warm_up.max(1) as f64;
        let fall = self.steps.saturating_sub(step) as f64 / self.decay.max(1) as f64;
        self.peak * rise.min(fall).min(1.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn schedule_rises_stays_and_falls() {
        let schedule = Schedule { peak: 1.0, warm_up: 10, decay: 20, steps: 100 };
        let rates = [0, 4, 9, 50, 80, 90, 99].map(|step| schedule.at(step));
        assert_eq!(rates, [0.1, 0.5, 1.0, 1.0, 1.0, 0.5, 0.05]);
    }

    #[test]
    fn orthogonal_makes_singular_values_near_one() {
        let matrix = Tensor::from_slice(&nextclip_core::sampler::noise(1, 0, 24 * 8)).reshape([24, 8]);
        let q = orthogonal(&matrix);
        let gram = q.transpose(0, 1).matmul(&q);
        let (least, most) = (gram.diag(0).min().double_value(&[]), gram.diag(0).max().double_value(&[]));
        assert!(least > 0.3 && most < 1.6, "{least} to {most}");
    }
}
