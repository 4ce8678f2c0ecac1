//! The dense f64 algebra that GPTQ needs, blocked for the cache, without a library behind it.

/// Rows of a tile: two of 64 by 512 doubles stay in a second-level cache.
const TILE: usize = 64;

/// A square matrix, row-major.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Square {
    pub(crate) size: usize,
    pub(crate) values: Vec<f64>,
}

/// A pivot that is not positive, with its value.
#[derive(Debug, PartialEq)]
pub(crate) struct BadPivot {
    pub(crate) index: usize,
    pub(crate) value: f64,
}

impl Square {
    pub(crate) fn from_fn(size: usize, mut value: impl FnMut(usize, usize) -> f64) -> Self {
        let values = (0..size * size).map(|at| value(at / size, at % size)).collect();
        Self { size, values }
    }

    pub(crate) fn row(&self, row: usize) -> &[f64] {
        &self.values[row * self.size..][..self.size]
    }

    /// Replaces a symmetric positive definite matrix, of which the lower half is read, by its lower
    /// Cholesky factor: `A = L L^T`. What is above the diagonal becomes zero.
    pub(crate) fn cholesky(&mut self) -> Result<(), BadPivot> {
        let n = self.size;
        for first in (0..n).step_by(TILE) {
            let end = (first + TILE).min(n);
            // Rows that this tile's columns depend on are complete: all earlier columns in one product.
            for rows in (first..n).step_by(TILE).map(|row| row..(row + TILE).min(n)) {
                for i in rows {
                    let (before, from_i) = self.values.split_at_mut(i * n);
                    let (done, target) = from_i[..n].split_at_mut(first);
                    for j in first..end.min(i) {
                        target[j - first] -= dot(done, &before[j * n..][..first]);
                    }
                    if i < end {
                        target[i - first] -= dot(done, done);
                    }
                }
            }
            self.factor_diagonal(first, end)?;
            for i in end..n {
                for j in first..end {
                    let (before, row) = self.values.split_at_mut(i * n);
                    let pivot_row = &before[j * n..][..n];
                    let sum = dot(&row[first..j], &pivot_row[first..j]);
                    row[j] = (row[j] - sum) / pivot_row[j];
                }
            }
        }
        for i in 0..n {
            self.values[i * n + i + 1..(i + 1) * n].fill(0.0);
        }
        Ok(())
    }

    fn factor_diagonal(&mut self, first: usize, end: usize) -> Result<(), BadPivot> {
        let n = self.size;
        for i in first..end {
            for j in first..=i {
                let (before, row) = self.values.split_at_mut(i * n);
                if j < i {
                    let pivot_row = &before[j * n..][..n];
                    row[j] = (row[j] - dot(&row[first..j], &pivot_row[first..j])) / pivot_row[j];
                } else {
                    let value = row[i] - dot(&row[first..i], &row[first..i]);
                    if value.is_nan() || value <= 0.0 {
                        return Err(BadPivot { index: i, value });
                    }
                    row[i] = value.sqrt();
                }
            }
        }
        Ok(())
    }

    /// The inverse of a lower triangular matrix without zeroes on its diagonal.
    pub(crate) fn inverse_of_lower(&self) -> Self {
        let n = self.size;
        let mut inverse = Self { size: n, values: vec![0.0; n * n] };
        for i in 0..n {
            let (done, rest) = inverse.values.split_at_mut(i * n);
            let target = &mut rest[..=i];
            let pivot = self.row(i)[i];
            for (k, factor) in self.row(i)[..i].iter().enumerate() {
                if *factor != 0.0 {
                    subtract_scaled(&mut target[..=k], *factor / pivot, &done[k * n..][..=k]);
                }
            }
            target[i] = 1.0 / pivot;
        }
        inverse
    }
}

/// Sum of products; eight partial sums, so that it becomes vector code and errors stay small.
pub(crate) fn dot(a: &[f64], b: &[f64]) -> f64 {
    let mut sums = [0.0_f64; 8];
    let (a8, a_rest) = a.as_chunks::<8>();
    let (b8, b_rest) = b.as_chunks::<8>();
    for (a, b) in a8.iter().zip(b8) {
        for lane in 0..8 {
            sums[lane] += a[lane] * b[lane];
        }
    }
    let rest: f64 = a_rest.iter().zip(b_rest).map(|(a, b)| a * b).sum();
    sums.iter().sum::<f64>() + rest
}

/// `target -= factor * source`.
#[inline]
pub(crate) fn subtract_scaled(target: &mut [f64], factor: f64, source: &[f64]) {
    for (target, source) in target.iter_mut().zip(source) {
        *target -= factor * source;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A well-conditioned symmetric matrix.
    fn definite(size: usize) -> Square {
        Square::from_fn(size, |i, j| {
            let (i, j) = (i as f64, j as f64);
            (-(i - j).abs() / 7.0).exp() + if i == j { 0.1 } else { 0.0 }
        })
    }

    #[test]
    fn the_factor_times_itself_is_the_matrix() {
        for size in [1, 2, 63, 64, 65, 200] {
            let matrix = definite(size);
            let mut factor = matrix.clone();
            factor.cholesky().unwrap();
            for i in 0..size {
                for j in 0..=i {
                    let product = dot(factor.row(i), factor.row(j));
                    assert!((product - matrix.row(i)[j]).abs() < 1e-12, "{size}: {i},{j}");
                }
            }
        }
    }

    #[test]
    fn the_inverse_is_one() {
        let mut lower = definite(130);
        lower.cholesky().unwrap();
        let inverse = lower.inverse_of_lower();
        for i in 0..130 {
            for j in 0..130 {
                let product: f64 = (0..130).map(|k| lower.row(i)[k] * inverse.row(k)[j]).sum();
                assert!((product - if i == j { 1.0 } else { 0.0 }).abs() < 1e-11, "{i},{j}: {product}");
            }
        }
    }

    #[test]
    fn an_indefinite_matrix_names_its_pivot() {
        let mut matrix = Square::from_fn(3, |i, j| if i == j { 1.0 } else { 2.0 });
        assert_eq!(matrix.cholesky(), Err(BadPivot { index: 1, value: -3.0 }));
    }
}
