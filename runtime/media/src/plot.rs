//! Line plots as pictures: axes, ticks, a legend.
