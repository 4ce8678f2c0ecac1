//! The greedy choice of precisions.

use std::collections::HashSet;

use super::{
    Budget, LayerChoice, LayerOption, LayerSensitivity, PlanError, Precision, PrecisionPlan, Reason,
    drop_of_noise, noise_of_drop,
};

/// Chooses precisions greedily: again and again the step, from what a layer has to something that saves
/// more, with the greatest gain for the noise that it adds, as long as the total stays within the budget.
///
/// # Errors
/// A budget or measurement that makes no sense, and budgets that are impossible, with what is reachable.
pub fn choose_precisions(layers: &[LayerSensitivity], budget: &Budget) -> Result<PrecisionPlan, PlanError> {
    check_budget(budget)?;
    check_layers(layers)?;
    let possible_saving = layers.iter().map(best_saving).sum();
    let mut choice = Choice::all_float(layers, budget.interaction);
    while choice.take_best_step(noise_of_drop(budget.max_psnr_drop_db)) {}
    let plan = choice.into_plan(budget, possible_saving);
    let nothing_fits = plan.layers.iter().all(|choice| choice.precision == Precision::Float);
    if possible_saving > 0.0 && (nothing_fits || plan.saving < budget.min_saving * possible_saving) {
        return Err(out_of_reach(layers, budget, &plan));
    }
    Ok(plan)
}

/// A choice in progress.
struct Choice<'a> {
    layers: &'a [LayerSensitivity],
    /// What each layer has, if not float, and the total drop at that moment.
    chosen: Vec<Option<(LayerOption, f64)>>,
    interaction: f64,
    noise: f64,
}

impl<'a> Choice<'a> {
    fn all_float(layers: &'a [LayerSensitivity], interaction: f64) -> Self {
        Self { layers, chosen: vec![None; layers.len()], interaction, noise: 0.0 }
    }

    /// Noise and saving that an option adds to what its layer has.
    fn added(&self, layer: usize, option: &LayerOption) -> (f64, f64) {
        let (noise, saving) =
            self.chosen[layer].map_or((0.0, 0.0), |(now, _)| (noise_of_drop(now.psnr_drop_db), now.saving));
        ((noise_of_drop(option.psnr_drop_db) - noise) * self.interaction, option.saving - saving)
    }

    /// False once no step fits into `max_noise`.
    fn take_best_step(&mut self, max_noise: f64) -> bool {
        let mut best: Option<(f64, usize, LayerOption)> = None;
        for (index, layer) in self.layers.iter().enumerate() {
            for option in usable(layer) {
                let (noise, saving) = self.added(index, option);
                if saving <= 0.0 || self.noise + noise > max_noise {
                    continue;
                }
                let worth = if noise > 0.0 { saving / noise } else { f64::INFINITY };
                // Among equals the greater saving, then the first named.
                let better = best.is_none_or(|(best_worth, best_index, now)| {
                    let best_saving = self.added(best_index, &now).1;
                    worth > best_worth || worth == best_worth && saving > best_saving
                });
                if better {
                    best = Some((worth, index, *option));
                }
            }
        }
        let Some((_, index, option)) = best else { return false };
        self.noise = (self.noise + self.added(index, &option).0).max(0.0);
        self.chosen[index] = Some((option, drop_of_noise(self.noise)));
        true
    }

    fn saving(&self) -> f64 {
        self.chosen.iter().flatten().map(|(option, _)| option.saving).sum()
    }

    fn into_plan(self, budget: &Budget, possible_saving: f64) -> PrecisionPlan {
        let layers = self.layers.iter().enumerate().map(|(index, layer)| {
            let float = |reason| LayerChoice {
                layer: layer.layer.clone(),
                precision: Precision::Float,
                psnr_drop_db: 0.0,
                saving: 0.0,
                reason,
            };
            if let Some(why) = &layer.keep_float {
                return float(Reason::Kept { why: why.clone() });
            }
            if let Some((option, total_drop_db)) = self.chosen[index] {
                let LayerOption { precision, psnr_drop_db, saving } = option;
                let layer = layer.layer.clone();
                return LayerChoice {
                    layer,
                    precision,
                    psnr_drop_db,
                    saving,
                    reason: Reason::Fits { total_drop_db },
                };
            }
            let least = usable(layer).min_by(|a, b| a.psnr_drop_db.total_cmp(&b.psnr_drop_db));
            float(least.map_or(Reason::NothingToGain, |option| Reason::TooSensitive {
                precision: option.precision,
                total_drop_db: drop_of_noise(self.noise + self.added(index, option).0),
            }))
        });
        PrecisionPlan {
            budget: *budget,
            predicted_drop_db: drop_of_noise(self.noise),
            saving: self.saving(),
            possible_saving,
            layers: layers.collect(),
        }
    }
}

/// The options that a plan may use.
fn usable(layer: &LayerSensitivity) -> impl Iterator<Item = &LayerOption> {
    let options = if layer.keep_float.is_some() { &[][..] } else { &layer.options };
    options.iter().filter(|option| option.saving > 0.0)
}

fn best_saving(layer: &LayerSensitivity) -> f64 {
    usable(layer).map(|option| option.saving).fold(0.0, f64::max)
}

/// The error that says what a larger budget would reach.
fn out_of_reach(layers: &[LayerSensitivity], budget: &Budget, plan: &PrecisionPlan) -> PlanError {
    let budget_db = budget.max_psnr_drop_db;
    if plan.saving > 0.0 {
        let mut choice = Choice::all_float(layers, budget.interaction);
        let wanted = budget.min_saving * plan.possible_saving;
        while choice.saving() < wanted && choice.take_best_step(f64::INFINITY) {}
        return PlanError::SavingOutOfReach {
            budget_db,
            min_saving: budget.min_saving,
            reached: plan.saving / plan.possible_saving,
            needed_db: drop_of_noise(choice.noise),
        };
    }
    let options = layers.iter().flat_map(|layer| usable(layer).map(move |option| (layer, option)));
    let least = options.min_by(|(_, a), (_, b)| a.psnr_drop_db.total_cmp(&b.psnr_drop_db));
    let (layer, precision, drop_db) = least
        .map_or((String::new(), Precision::Float, 0.0), |(layer, option)| {
            (layer.layer.clone(), option.precision, option.psnr_drop_db)
        });
    let needed_db = drop_of_noise(noise_of_drop(drop_db) * budget.interaction);
    PlanError::NothingFits { budget_db, needed_db, layer, precision }
}

fn check_budget(budget: &Budget) -> Result<(), PlanError> {
    let Budget { max_psnr_drop_db, min_saving, interaction } = *budget;
    let fault = |name, value, bound| Err(PlanError::Budget { name, value, bound });
    if !(max_psnr_drop_db.is_finite() && max_psnr_drop_db >= 0.0) {
        return fault("max_psnr_drop_db", max_psnr_drop_db, "finite and at least 0");
    }
    if !(0.0..=1.0).contains(&min_saving) {
        return fault("min_saving", min_saving, "between 0 and 1");
    }
    if !(interaction.is_finite() && interaction > 0.0) {
        return fault("interaction", interaction, "finite and above 0");
    }
    Ok(())
}

fn check_layers(layers: &[LayerSensitivity]) -> Result<(), PlanError> {
    let mut names = HashSet::new();
    for LayerSensitivity { layer, options, .. } in layers {
        if !names.insert(layer) {
            return Err(PlanError::Duplicate(layer.clone()));
        }
        for option in options {
            let numbers = [("psnr_drop_db", option.psnr_drop_db), ("saving", option.saving)];
            if let Some((name, value)) = numbers.into_iter().find(|(_, value)| !value.is_finite()) {
                let (layer, precision) = (layer.clone(), option.precision);
                return Err(PlanError::Measurement { layer, precision, name, value });
            }
        }
    }
    Ok(())
}
