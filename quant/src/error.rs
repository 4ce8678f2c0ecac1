//! What can be wrong with the numbers that come in, each with its value, its bound and its place.

use thiserror::Error;

/// Why numbers could not be quantised, observed or planned with.
#[derive(Clone, Debug, PartialEq, Error)]
pub enum Error {
    /// A NaN or an infinity where numbers are needed.
    #[error("{what}[{index}] is {value}: only finite values can be quantised")]
    NonFinite {
        /// What the values are, such as `weights`.
        what: &'static str,
        /// Position in the flat values.
        index: usize,
        /// The value found.
        value: f32,
    },
    /// The number of values is not what the shape says.
    #[error("{what} holds {got} values, shape {shape:?} needs {expected}")]
    Length {
        /// What the values are.
        what: &'static str,
        /// Number of values given.
        got: usize,
        /// Number of values needed.
        expected: usize,
        /// The shape that needs them.
        shape: Vec<usize>,
    },
    /// An axis that the shape does not have.
    #[error("axis {axis} is outside shape {shape:?}")]
    Axis {
        /// The axis asked for.
        axis: usize,
        /// The shape.
        shape: Vec<usize>,
    },
    /// A setting outside its bounds.
    #[error("{name} is {value}, must be {bound}")]
    Setting {
        /// Name of the setting.
        name: &'static str,
        /// Its value, written out.
        value: String,
        /// What it may be.
        bound: &'static str,
    },
    /// An observer that has seen nothing.
    #[error("no values were observed: there is no range to choose")]
    Empty,
    /// An observer's name that is none.
    #[error("observer `{0}` is unknown: min-max, percentile:P with 50 < P <= 100, entropy or mse")]
    UnknownObserver(String),
    /// A weight beyond what a 16-bit half holds.
    #[error("weights[{index}] is {value}, beyond the 65504 of a 16-bit half")]
    HalfOverflow {
        /// Position in the flat weights.
        index: usize,
        /// The weight.
        value: f32,
    },
    /// A bias that a 32-bit accumulator does not hold.
    #[error("bias[{index}] is {value}: in units of {unit:e} that is beyond 32 bits")]
    BiasOverflow {
        /// Position in the bias.
        index: usize,
        /// The bias.
        value: f32,
        /// What one integer stands for.
        unit: f64,
    },
    /// A Hessian that is not positive definite even with its damping.
    #[error(
        "the Hessian's pivot {index} of {size} is {value:e} after damping by {damping}: raise the damping"
    )]
    NotPositiveDefinite {
        /// The pivot that failed.
        index: usize,
        /// Rows of the Hessian.
        size: usize,
        /// The pivot's value.
        value: f64,
        /// Damping, as a fraction of the mean diagonal.
        damping: f64,
    },
}

/// The first value that is no finite number becomes an error that names it.
pub(crate) fn all_finite(what: &'static str, values: &[f32]) -> Result<(), Error> {
    match values.iter().position(|value| !value.is_finite()) {
        Some(index) => Err(Error::NonFinite { what, index, value: values[index] }),
        None => Ok(()),
    }
}

/// `got` values must fill `shape`.
pub(crate) fn fills(what: &'static str, got: usize, shape: &[usize]) -> Result<(), Error> {
    // A shape too large to count is one that nothing fills.
    let expected = shape.iter().try_fold(1_usize, |all, size| all.checked_mul(*size)).unwrap_or(usize::MAX);
    if got == expected {
        return Ok(());
    }
    Err(Error::Length { what, got, expected, shape: shape.to_vec() })
}
