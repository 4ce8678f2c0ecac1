//! How often each value came, by graph, tensor and stage of denoising.

use std::collections::BTreeMap;

use nextclip_predictor::DENOISE;
use nextclip_quant::{Histogram, Observer, Scheme};

use super::error::CalibrationError;
use crate::onnx::Ranges;

/// More stages than these tell nothing more: steps share a stage where there are more of them.
const STAGES: usize = 8;

/// Counts of every observed tensor's values.
#[derive(Clone, Debug, Default)]
pub(super) struct Counts {
    steps: usize,
    stage: usize,
    /// For each graph and tensor one histogram a stage; graphs without steps have one.
    seen: BTreeMap<(String, String), Vec<Histogram>>,
    /// The first tensor that held something else than numbers.
    fault: Option<(String, nextclip_quant::Error)>,
}

impl Counts {
    /// Nothing seen yet of trajectories with this many steps.
    pub(super) fn new(steps: usize) -> Self {
        Self { steps, stage: 0, seen: BTreeMap::new(), fault: None }
    }

    /// What comes next belongs to this denoising step.
    pub(super) fn at_step(&mut self, step: usize) {
        self.stage = step * self.steps.min(STAGES) / self.steps.max(1);
    }

    pub(super) fn add(&mut self, graph: &str, tensor: &str, values: &[f32]) {
        let stages = self.seen.entry((graph.into(), tensor.into())).or_default();
        let stage = if graph == DENOISE { self.stage } else { 0 };
        if stages.len() <= stage {
            stages.resize_with(stage + 1, Histogram::new);
        }
        if let Err(error) = stages[stage].add(values) {
            self.fault.get_or_insert_with(|| (format!("graph {graph:?}, tensor {tensor:?}"), error));
        }
    }

    /// What was wrong with the values, if anything.
    pub(super) fn fault(&self) -> Option<CalibrationError> {
        let (place, source) = self.fault.clone()?;
        Some(CalibrationError::Values { place, source })
    }

    /// A range for every tensor: the rule's for each stage, then the widest of all stages.
    pub(super) fn ranges(&self, observer: Observer) -> Result<Ranges, CalibrationError> {
        let mut ranges = Ranges::new();
        for (site, stages) in &self.seen {
            let (mut low, mut high) = (f32::INFINITY, f32::NEG_INFINITY);
            for histogram in stages.iter().filter(|histogram| histogram.count() > 0) {
                let place = || format!("graph {:?}, tensor {:?}", site.0, site.1);
                // What is quantised around zero takes the greater magnitude of these ends.
                let range = histogram.range_for(observer, Scheme::Asymmetric);
                let range = range.map_err(|source| CalibrationError::Values { place: place(), source })?;
                (low, high) = (low.min(range.0), high.max(range.1));
            }
            ranges.insert(site.clone(), (low, high));
        }
        Ok(ranges)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test fails by panicking")]
    use super::*;

    #[test]
    fn the_widest_stage_counts() {
        let mut counts = Counts::new(2);
        counts.at_step(0);
        counts.add(DENOISE, "x", &[-1.0, 0.5]);
        counts.at_step(1);
        counts.add(DENOISE, "x", &[0.25, 3.0]);
        counts.add("decode", "x", &[9.0, -2.0]);
        let ranges = counts.ranges(Observer::MinMax).unwrap();
        assert_eq!(ranges[&(DENOISE.into(), "x".into())], (-1.0, 3.0));
        assert_eq!(ranges[&("decode".into(), "x".into())], (-2.0, 9.0));
    }

    #[test]
    fn stages_are_bounded_however_many_steps_there_are() {
        let mut counts = Counts::new(50);
        for step in 0..50 {
            counts.at_step(step);
            counts.add(DENOISE, "x", &[step as f32]);
        }
        assert_eq!(counts.seen.values().next().unwrap().len(), STAGES);
        assert_eq!(counts.ranges(Observer::MinMax).unwrap().values().next(), Some(&(0.0, 49.0)));
    }

    #[test]
    fn what_is_no_number_is_named() {
        let mut counts = Counts::new(1);
        counts.add("encode", "y", &[1.0, f32::NAN]);
        let told = counts.fault().unwrap().to_string();
        assert!(told.contains("graph \"encode\", tensor \"y\""), "{told}");
    }
}
