//! A run folder: where training keeps its state, its loss and its curve, so that it can go on.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use indicatif::{ProgressBar, ProgressStyle};
use tch::Tensor;

use crate::curve;
use crate::loss::Terms;
use crate::loss_table::{self, Line};
use crate::optim::Optimiser;
use crate::params::{Params, load_tensors, save_tensors};

/// How often the state is written while training.
const SAVE_EVERY: Duration = Duration::from_secs(180);

/// One training run's folder, progress bar and clock.
#[derive(Debug)]
pub(crate) struct Run {
    state: PathBuf,
    losses: PathBuf,
    curve: PathBuf,
    title: String,
    bar: ProgressBar,
    saved: Instant,
    /// Of which a line each is in the CSV file.
    log: Vec<Line>,
    recent: Vec<Terms>,
}

impl Run {
    /// Opens the folder `dir` for the run called `name` ("vae", "predictor") and takes up what an earlier
    /// process left there. Returns the step to go on with.
    pub(crate) fn open(
        dir: &Path,
        name: &str,
        steps: u64,
        params: &mut Params,
        optimiser: &mut Optimiser,
    ) -> Result<(Self, u64)> {
        fs::create_dir_all(dir).with_context(|| format!("creating {}", dir.display()))?;
        let style = "{prefix} {wide_bar} {pos}/{len} {msg} {elapsed}<{eta}";
        let bar = ProgressBar::new(steps).with_prefix(name.to_owned());
        bar.set_style(ProgressStyle::with_template(style)?);
        let mut run = Self {
            state: dir.join(format!("{name}.state.safetensors")),
            losses: dir.join(format!("{name}.loss.csv")),
            curve: dir.join(format!("{name}.loss.png")),
            title: name.to_owned(),
            bar,
            saved: Instant::now(),
            log: Vec::new(),
            recent: Vec::new(),
        };
        let step = run.resume(params, optimiser)?;
        run.bar.set_position(step);
        run.bar.reset_eta();
        Ok((run, step))
    }

    fn resume(&mut self, params: &mut Params, optimiser: &mut Optimiser) -> Result<u64> {
        if !self.state.exists() {
            return Ok(0);
        }
        let mut state = load_tensors(&self.state)?;
        let step = state.remove("step").with_context(|| format!("{}: no step", self.state.display()))?;
        let step = u64::try_from(step.int64_value(&[0]))?;
        optimiser.restore(&state)?;
        params.assign(
            &state
                .iter()
                .filter_map(|(key, tensor)| {
                    Some((key.strip_prefix("param/")?.to_owned(), tensor.shallow_clone()))
                })
                .collect(),
        )?;
        if let Ok(text) = fs::read_to_string(&self.losses) {
            self.log = loss_table::parse(&text).into_iter().filter(|line| line.step < step).collect();
        }
        log::info!("{} goes on at step {step}", self.title);
        Ok(step)
    }

    /// Takes a step's loss. Every `every` steps their mean goes to the log, with `validate`'s value where
    /// it gives one.
    pub(crate) fn record(
        &mut self,
        step: u64,
        loss: Terms,
        every: u64,
        validate: impl FnOnce() -> Result<Option<f64>>,
    ) -> Result<()> {
        self.recent.push(loss);
        self.bar.set_position(step + 1);
        if !(step + 1).is_multiple_of(every) {
            return Ok(());
        }
        let loss = Terms::mean(&self.recent);
        self.recent.clear();
        let validation = validate()?;
        let total = loss.total();
        self.bar.set_message(format!("loss {total:.5}"));
        // A bar that goes to a file shows nothing: say it there, too.
        if let Some(value) = validation {
            let terms: Vec<String> =
                loss.0.iter().map(|(name, value)| format!("{name} {value:.4}")).collect();
            log::info!(
                "{} step {} loss {total:.5} ({}) validation {value:.3}",
                self.title,
                step + 1,
                terms.join(", ")
            );
        }
        self.log.push(Line { step, loss, validation });
        Ok(())
    }

    /// Whether enough time has passed to save.
    pub(crate) fn save_due(&self) -> bool {
        self.saved.elapsed() > SAVE_EVERY
    }

    /// Writes everything that the run needs to go on from `step`.
    pub(crate) fn save(&mut self, step: u64, params: &Params, optimiser: &Optimiser) -> Result<()> {
        let weights = params.iter().map(|(name, tensor)| (format!("param/{name}"), tensor.shallow_clone()));
        let count = [("step".to_owned(), Tensor::from_slice(&[step as i64]))];
        save_tensors(&self.state, weights.chain(optimiser.state()).chain(count))?;
        self.write_log()?;
        self.saved = Instant::now();
        Ok(())
    }

    fn write_log(&self) -> Result<()> {
        fs::write(&self.losses, loss_table::table(&self.log))?;
        if self.log.len() >= 2 {
            curve::draw(&self.curve, &self.title, &self.log)?;
        }
        Ok(())
    }
}
