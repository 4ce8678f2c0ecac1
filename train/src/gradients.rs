//! The gradients of a step: its parts side by side, one thread for each.
//!
//! Two threads inside every product wait for each other at its end, and leave small operations to one of them; two
//! threads with a window each never wait. A part's gradients do not depend on the others, and they are added in the
//! parts' order, so that the sum is the same whatever the number of threads.

use std::collections::BTreeMap;
use std::thread;

use anyhow::{Result, ensure};
use tch::Tensor;

use crate::loss::{Loss, Terms};
use crate::params::Params;

/// Gradients by parameter; those that the loss does not depend on are missing.
pub type Gradients = BTreeMap<String, Tensor>;

/// Mean loss of `parts`, and its gradients. `loss` is called for every part, in several threads at once where
/// tensors live on the CPU.
pub fn of_parts<P: Send>(
    params: &Params,
    parts: Vec<P>,
    loss: impl Fn(&Params, P) -> Result<Loss> + Sync,
) -> Result<(Terms, Gradients)> {
    ensure!(!parts.is_empty(), "a step of no parts");
    let count = parts.len() as f64;
    let results: Vec<Result<(Terms, Gradients)>> = if parts.len() == 1 || params.device().is_cuda() {
        parts.into_iter().map(|part| of_part(params, part, &loss)).collect()
    } else {
        side_by_side(params, parts, &loss)
    };
    let mut losses = Vec::new();
    let mut sum = Gradients::new();
    for result in results {
        let (loss, gradients) = result?;
        losses.push(loss);
        for (name, gradient) in gradients {
            match sum.get_mut(&name) {
                Some(sum) => drop(sum.g_add_(&gradient)),
                None => drop(sum.insert(name, gradient)),
            }
        }
    }
    sum.values_mut().for_each(|gradient| drop(gradient.g_mul_scalar_(1.0 / count)));
    Ok((Terms::mean(&losses), sum))
}

/// Every part in turn by as many threads as the user gave to tensors, each computing alone.
fn side_by_side<P: Send>(
    params: &Params,
    parts: Vec<P>,
    loss: &(impl Fn(&Params, P) -> Result<Loss> + Sync),
) -> Vec<Result<(Terms, Gradients)>> {
    let workers = (tch::get_num_threads().max(1) as usize).min(parts.len());
    let mut shares: Vec<Vec<(usize, P)>> = (0..workers).map(|_| Vec::new()).collect();
    for (index, part) in parts.into_iter().enumerate() {
        shares[index % workers].push((index, part));
    }
    let mut results: Vec<_> = thread::scope(|scope| {
        let threads: Vec<_> = shares
            .into_iter()
            .map(|share| {
                let params = params.share();
                scope.spawn(move || {
                    // The setting is this thread's own.
                    tch::set_num_threads(1);
                    let of = |(index, part)| (index, of_part(&params, part, loss));
                    share.into_iter().map(of).collect::<Vec<_>>()
                })
            })
            .collect();
        threads
            .into_iter()
            .flat_map(|thread| thread.join().unwrap_or_else(|e| std::panic::resume_unwind(e)))
            .collect()
    });
    results.sort_by_key(|(index, _)| *index);
    results.into_iter().map(|(_, result)| result).collect()
}

fn of_part<P>(
    params: &Params,
    part: P,
    loss: &impl Fn(&Params, P) -> Result<Loss>,
) -> Result<(Terms, Gradients)> {
    let loss = loss(params, part)?;
    let (names, trained): (Vec<&str>, Vec<&Tensor>) = params.trained().unzip();
    let gradients = Tensor::f_run_backward(&[loss.total()], &trained, false, false)?;
    let gradients = names.into_iter().map(str::to_owned).zip(gradients).filter(|(_, g)| g.defined());
    Ok((loss.values(), gradients.collect()))
}
