//! Measures a bundle against trivial predictors.
