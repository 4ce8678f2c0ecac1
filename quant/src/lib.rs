//! Quantisation mathematics: parameters, observers, weight rounding, precision plans, error measures.
//!
//! Nothing here knows a graph, a device or a file; weights and activations come as flat row-major slices,
//! and so the same functions serve a tensor that fits into memory and one that is streamed.
//!
//! | what for | look at |
//! | --- | --- |
//! | the range of an activation | [`Histogram`], [`Observer`], then [`Params`] |
//! | 8-bit weights | [`per_channel`], [`per_channel_mse`], [`per_channel_in_pairs`], [`per_tensor`], [`bias_i32`] |
//! | 4-bit weights | [`per_block`]; better with calibration inputs: [`gptq`], [`awq_scales`] |
//! | 8- and 16-bit floats | [`e4m3_from_f32`], [`to_f16`] |
//! | activations with outliers | [`smooth_scales`], [`Rotation`] |
//! | which layer gets what | [`plan`] |
//! | what it cost | [`sqnr_db`], [`cosine`], [`max_abs`] |
//!
//! A layer's W8A8, from calibration to the error that it makes:
//!
//! ```
//! use nextclip_quant::{Histogram, Observer, Params, Scheme, per_channel, sqnr_db};
//!
//! // Activations seen in calibration, batch by batch; memory does not grow with them.
//! let mut seen = Histogram::new();
//! for batch in 0..10 {
//!     let values: Vec<f32> = (0..1000).map(|i| ((i * 37 + batch) as f32 * 0.1).sin() * 3.0).collect();
//!     seen.add(&values)?;
//! }
//! let observer: Observer = "mse".parse()?;
//! let (low, high) = seen.range(observer)?;
//! let activation = Params::of_range(low, high, Scheme::Symmetric);
//! assert!(high <= 3.0 && activation.zero_point == 0);
//!
//! // Weights [K, N] = [3, 2] with a scale for each output, axis 1.
//! let weights = [0.5, -20.0, 0.25, 10.0, -0.125, 5.0];
//! let quantised = per_channel(&weights, &[3, 2], 1)?;
//! assert_eq!(quantised.scales.len(), 2);
//!
//! // x W in integers, then scaled back, against x W in floats.
//! let x = [1.0_f32, -2.0, 0.5];
//! let exact: Vec<f32> = (0..2).map(|n| (0..3).map(|k| x[k] * weights[k * 2 + n]).sum()).collect();
//! let integers = x.map(|x| i32::from(activation.quantise(x)));
//! let approximated: Vec<f32> = (0..2)
//!     .map(|n| {
//!         let sum: i32 = (0..3).map(|k| integers[k] * i32::from(quantised.values[k * 2 + n])).sum();
//!         sum as f32 * activation.scale * quantised.scales[n]
//!     })
//!     .collect();
//! assert!(sqnr_db(&exact, &approximated) > 35.0);
//! # Ok::<(), nextclip_quant::Error>(())
//! ```

mod awq;
mod block;
mod clip;
mod error;
mod floats;
mod gptq;
mod hadamard;
mod hessian;
mod integers;
mod linear;
mod measures;
mod observer;
mod pairs;
mod params;
pub mod plan;
mod smooth;
mod weights;

pub use awq::{AwqScales, awq_scales};
pub use block::{Bits, BlockFormat, BlockScale, BlockWeights, pack_int4, per_block, unpack_int4};
pub use error::Error;
pub use floats::{E4M3_MAX, e4m3_from_f32, e4m3_scale, f32_from_e4m3, to_f16};
pub use gptq::{GptqSettings, gptq};
pub use hadamard::Rotation;
pub use hessian::Hessian;
pub use measures::{cosine, max_abs, sqnr_db};
pub use observer::{Histogram, Observer};
pub use pairs::per_channel_in_pairs;
pub use params::{Params, Scheme};
pub use smooth::smooth_scales;
pub use weights::{ChannelWeights, bias_i32, channel_abs_max, per_channel, per_channel_mse, per_tensor};
