//! What a layer's inputs look like together: streamed sums of products, in memory that only K decides.

use crate::error::{Error, all_finite};
use crate::linear::dot;

/// `X^T X` over all inputs X `[rows, K]` that were added, in f64. Half of the layer's Hessian of squared
/// output error; the factor changes no rounding.
#[derive(Clone, Debug, PartialEq)]
pub struct Hessian {
    inputs: usize,
    /// `[K, K]` row-major; only the upper half is kept up to date.
    upper: Vec<f64>,
    rows: u64,
}

impl Hessian {
    /// For a layer of `inputs` inputs (K): takes `8 K^2` bytes.
    pub fn new(inputs: usize) -> Self {
        Self { inputs, upper: vec![0.0; inputs * inputs], rows: 0 }
    }

    /// Adds rows of inputs, `[rows, K]` row-major.
    ///
    /// # Errors
    /// A length that is no multiple of K, a value that is not finite, with its index; then nothing is added.
    pub fn add(&mut self, values: &[f32]) -> Result<(), Error> {
        /// Rows that are added at once: each sum is then read and written once for all four.
        const ROWS: usize = 4;
        let k = self.inputs;
        if k == 0 || !values.len().is_multiple_of(k) {
            let rows = values.len() / k.max(1);
            let shape = vec![rows, k];
            return Err(Error::Length { what: "inputs", got: values.len(), expected: rows * k, shape });
        }
        all_finite("inputs", values)?;
        let mut four = vec![0.0_f64; ROWS * k];
        for rows in values.chunks(ROWS * k) {
            four.fill(0.0);
            four.iter_mut().zip(rows).for_each(|(wide, value)| *wide = f64::from(*value));
            let (a, rest) = four.split_at(k);
            let (b, rest) = rest.split_at(k);
            let (c, d) = rest.split_at(k);
            for i in 0..k {
                let sums = &mut self.upper[i * k + i..(i + 1) * k];
                let (ai, bi, ci, di) = (a[i], b[i], c[i], d[i]);
                let columns = a[i..].iter().zip(&b[i..]).zip(&c[i..]).zip(&d[i..]);
                for (sum, (((a, b), c), d)) in sums.iter_mut().zip(columns) {
                    *sum += (ai * a + bi * b) + (ci * c + di * d);
                }
            }
        }
        self.rows += (values.len() / k) as u64;
        Ok(())
    }

    /// Adds all that `other` has seen.
    ///
    /// # Errors
    /// Another number of inputs.
    pub fn merge(&mut self, other: &Self) -> Result<(), Error> {
        let (got, expected) = (other.inputs, self.inputs);
        if got != expected {
            return Err(Error::Length { what: "inputs", got, expected, shape: vec![expected] });
        }
        self.upper.iter_mut().zip(&other.upper).for_each(|(sum, more)| *sum += more);
        self.rows += other.rows;
        Ok(())
    }

    /// Number of inputs, K.
    pub fn inputs(&self) -> usize {
        self.inputs
    }

    /// Number of rows added.
    pub fn rows(&self) -> u64 {
        self.rows
    }

    /// Root mean square of each input; zero before the first row.
    pub fn rms(&self) -> Vec<f64> {
        (0..self.inputs).map(|i| (self.at(i, i) / self.rows.max(1) as f64).sqrt()).collect()
    }

    /// Sum over all rows of the squared error that errors in the weights of one output cause:
    /// `d^T (X^T X) d`, for each of the outputs of `weight_errors`, `[outputs, K]` row-major.
    ///
    /// # Errors
    /// A length that is no multiple of K.
    pub fn output_errors(&self, weight_errors: &[f32]) -> Result<Vec<f64>, Error> {
        /// Outputs that are worked on together while a row of the Hessian is in the first-level cache.
        const OUTPUTS: usize = 32;
        let k = self.inputs;
        if k == 0 || !weight_errors.len().is_multiple_of(k) {
            let outputs = weight_errors.len() / k.max(1);
            let (got, expected, shape) = (weight_errors.len(), outputs * k, vec![outputs, k]);
            return Err(Error::Length { what: "weight errors", got, expected, shape });
        }
        let mut totals = Vec::with_capacity(weight_errors.len() / k);
        for group in weight_errors.chunks(OUTPUTS * k) {
            let wide: Vec<f64> = group.iter().map(|error| f64::from(*error)).collect();
            let first = totals.len();
            totals.resize(first + wide.len() / k, 0.0);
            for i in 0..k {
                let row = &self.upper[i * k + i..(i + 1) * k];
                for (total, errors) in totals[first..].iter_mut().zip(wide.chunks_exact(k)) {
                    // The diagonal counts once, all else for both halves.
                    *total += errors[i] * (2.0 * dot(row, &errors[i..]) - row[0] * errors[i]);
                }
            }
        }
        Ok(totals.into_iter().map(|total: f64| total.max(0.0)).collect())
    }

    pub(crate) fn at(&self, i: usize, j: usize) -> f64 {
        self.upper[i.min(j) * self.inputs + i.max(j)]
    }
}
