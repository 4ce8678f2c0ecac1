//! The loop of every training: gradients, optimiser, validation of the averaged weights, saving, stopping early.

use std::collections::BTreeMap;
use std::path::PathBuf;

use anyhow::{Result, ensure};
use tch::Tensor;

use crate::gradients::Gradients;
use crate::loss::Terms;
use crate::optim::{Optimiser, Schedule, Settings};
use crate::params::Params;
use crate::run::Run;

/// How long and how fast a model is trained, and where its run is kept.
#[derive(Clone, Debug)]
pub struct Course {
    /// Run folder.
    pub dir: PathBuf,
    /// Optimiser steps, at most.
    pub steps: u64,
    /// Steps between two validations, at least 1; they come with the log, every 50 steps at the most.
    pub validate_every: u64,
    /// Stops after so many validations without a new best, and takes the weights of the best.
    pub patience: Option<u64>,
    /// Learning rate and its course.
    pub schedule: Schedule,
    /// Optimiser settings.
    pub optimiser: Settings,
}

/// Steps whose losses are logged as their mean.
const LOGGED_EVERY: u64 = 50;

/// Trains `params` under the name `name`, or goes on where an earlier process stopped. `gradients` gives the loss of
/// a step and its gradients; `validate` says how good weights are, more is better. Returns the weights' average, or,
/// with patience, the best.
pub(crate) fn fit(
    name: &str,
    course: &Course,
    mut params: Params,
    gradients: impl Fn(&Params, u64) -> Result<(Terms, Gradients)>,
    validate: impl Fn(&Params) -> Result<f64>,
) -> Result<Params> {
    let mut optimiser = Optimiser::new(&params, course.optimiser);
    let (mut run, start) = Run::open(&course.dir, name, course.steps, &mut params, &mut optimiser)?;
    let trained = params.trained().map(|(_, tensor)| tensor.numel()).sum::<usize>();
    log::info!("{trained} parameters in {:?}", params.compute());
    let mut best = Best::default();
    if start == 0 {
        let value = validate(&params)?;
        log::info!("before training: {value:.3}");
        best.offer(value, &params);
    }
    for step in start..course.steps {
        let (loss, gradients) = gradients(&params, step)?;
        optimiser.step(&params, &gradients, step, course.schedule.at(step));
        ensure!(
            loss.total().is_finite(),
            "the loss is {} at step {step}: lower the learning rate",
            loss.total()
        );
        run.record(step, loss, LOGGED_EVERY, || {
            // Due where a multiple has come since the last line of the log.
            if (step + 1) % course.validate_every >= LOGGED_EVERY && step + 1 != course.steps {
                return Ok(None);
            }
            with_averages(&mut params, &optimiser, |params| {
                let value = validate(params)?;
                best.offer(value, params);
                Ok(Some(value))
            })
        })?;
        if course.patience.is_some_and(|patience| best.age > patience) {
            log::info!("no better for {} validations: stopped at step {}", best.age - 1, step + 1);
            break;
        }
        if (step + 1) % LOGGED_EVERY == 0 && run.save_due() {
            run.save(step + 1, &params, &optimiser)?;
        }
    }
    match (course.patience, best.weights) {
        (Some(_), Some(weights)) => {
            log::info!("best: {:.3}", best.value);
            params.assign(&weights)?;
        }
        _ => {
            run.save(course.steps, &params, &optimiser)?;
            assign_averages(&mut params, &optimiser)?;
        }
    }
    Ok(params)
}

/// The best weights so far, and for how many validations they have been.
#[derive(Default)]
struct Best {
    value: f64,
    age: u64,
    weights: Option<BTreeMap<String, Tensor>>,
}

impl Best {
    fn offer(&mut self, value: f64, params: &Params) {
        self.age += 1;
        if self.weights.is_none() || value > self.value {
            let copy = |(name, tensor): (&str, &Tensor)| (name.to_owned(), tensor.detach().copy());
            *self = Self { value, age: 1, weights: Some(params.iter().map(copy).collect()) };
        }
    }
}

fn assign_averages(params: &mut Params, optimiser: &Optimiser) -> Result<()> {
    let mut weights = optimiser.averages();
    weights.extend(params.iter().filter(|(_, t)| !t.requires_grad()).map(|(n, t)| (n.to_owned(), t.copy())));
    params.assign(&weights)
}

/// Runs `f` with the averaged weights in place, then puts the training weights back.
fn with_averages<T>(
    params: &mut Params,
    optimiser: &Optimiser,
    f: impl FnOnce(&Params) -> Result<T>,
) -> Result<T> {
    let kept = params.iter().map(|(name, tensor)| (name.to_owned(), tensor.detach().copy())).collect();
    assign_averages(params, optimiser)?;
    let result = f(params);
    params.assign(&kept)?;
    result
}
