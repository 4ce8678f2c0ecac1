//! Quantisation mathematics: parameters, observers, weight packing.
