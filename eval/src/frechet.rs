//! Fréchet distance between two sets of feature vectors, each taken as a Gaussian.

use ndarray::{Array1, Array2, ArrayView1, Axis};

/// Mean and covariance of feature vectors, gathered one by one in bounded memory.
#[derive(Clone, Debug, PartialEq)]
pub struct Moments {
    count: usize,
    sum: Array1<f64>,
    /// Sum of x x^T.
    outer: Array2<f64>,
}

impl Moments {
    /// Of vectors with `dims` numbers; none yet.
    pub fn new(dims: usize) -> Self {
        Self { count: 0, sum: Array1::zeros(dims), outer: Array2::zeros((dims, dims)) }
    }

    /// Vectors gathered.
    pub fn count(&self) -> usize {
        self.count
    }

    /// One more vector.
    pub fn push(&mut self, vector: ArrayView1<'_, f64>) {
        self.count += 1;
        self.sum += &vector;
        for (mut row, value) in self.outer.rows_mut().into_iter().zip(vector) {
            row.scaled_add(*value, &vector);
        }
    }

    fn mean(&self) -> Array1<f64> {
        &self.sum / self.count as f64
    }

    /// With n - 1 below the line.
    fn covariance(&self) -> Array2<f64> {
        let mean = self.mean();
        let column = mean.view().insert_axis(Axis(1));
        let centred = &self.outer - column.dot(&column.t()) * self.count as f64;
        centred / (self.count - 1) as f64
    }
}

/// `|m1 - m2|^2 + tr(C1 + C2 - 2 (C1^1/2 C2 C1^1/2)^1/2)`: 0 for equal Gaussians, in the features' unit
/// squared. `None` where one side has no more vectors than dimensions, so that its covariance says nothing.
pub fn frechet_distance(a: &Moments, b: &Moments) -> Option<f64> {
    let dims = a.sum.len();
    if dims != b.sum.len() || a.count.min(b.count) <= dims {
        return None;
    }
    let shift = (a.mean() - b.mean()).mapv(|v| v * v).sum();
    let (cov_a, cov_b) = (a.covariance(), b.covariance());
    let root = square_root(&cov_a);
    let product = root.dot(&cov_b).dot(&root);
    let cross: f64 = eigen(&product).0.iter().map(|value| value.max(0.0).sqrt()).sum();
    Some((shift + cov_a.diag().sum() + cov_b.diag().sum() - 2.0 * cross).max(0.0))
}

/// The symmetric square root of a symmetric matrix without negative eigenvalues.
fn square_root(matrix: &Array2<f64>) -> Array2<f64> {
    let (values, vectors) = eigen(matrix);
    let scaled = &vectors * &values.mapv(|value| value.max(0.0).sqrt());
    scaled.dot(&vectors.t())
}

/// Eigenvalues and, as columns, eigenvectors of a symmetric matrix, by Jacobi's cyclic rotations.
fn eigen(matrix: &Array2<f64>) -> (Array1<f64>, Array2<f64>) {
    // Convergence is quadratic; a handful of sweeps suffices and this bound is never met.
    const SWEEPS: usize = 60;
    let dims = matrix.nrows();
    // Rounding of a product leaves the two halves a little apart.
    let mut a = (matrix + &matrix.t()) / 2.0;
    let mut vectors = Array2::eye(dims);
    let scale = a.iter().map(|v| v * v).sum::<f64>().max(f64::MIN_POSITIVE);
    for _ in 0..SWEEPS {
        let off: f64 = a.indexed_iter().filter(|((r, c), _)| r != c).map(|(_, v)| v * v).sum();
        if off <= 1e-24 * scale {
            break;
        }
        for p in 0..dims {
            for q in p + 1..dims {
                if a[[p, q]] != 0.0 {
                    rotate(&mut a, &mut vectors, p, q);
                }
            }
        }
    }
    (a.diag().to_owned(), vectors)
}

/// The rotation in the plane of axes p and q that makes `a[p][q]` vanish.
fn rotate(a: &mut Array2<f64>, vectors: &mut Array2<f64>, p: usize, q: usize) {
    let theta = (a[[q, q]] - a[[p, p]]) / (2.0 * a[[p, q]]);
    let sign = if theta < 0.0 { -1.0 } else { 1.0 };
    let t = sign / (theta.abs() + theta.hypot(1.0));
    let c = 1.0 / t.hypot(1.0);
    let s = t * c;
    for k in 0..a.nrows() {
        let (kp, kq) = (a[[k, p]], a[[k, q]]);
        (a[[k, p]], a[[k, q]]) = (c * kp - s * kq, s * kp + c * kq);
    }
    for k in 0..a.nrows() {
        let (pk, qk) = (a[[p, k]], a[[q, k]]);
        (a[[p, k]], a[[q, k]]) = (c * pk - s * qk, s * pk + c * qk);
        let (kp, kq) = (vectors[[k, p]], vectors[[k, q]]);
        (vectors[[k, p]], vectors[[k, q]]) = (c * kp - s * kq, s * kp + c * kq);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use nextclip_core::sampler::noise;
    use proptest::prelude::*;

    /// `count` vectors, each number normal with this mean and deviation.
    fn gaussian(seed: u64, count: usize, shape: &[(f64, f64)]) -> Moments {
        let mut moments = Moments::new(shape.len());
        for vector in noise(seed, 0, count * shape.len()).chunks(shape.len()) {
            let values =
                vector.iter().zip(shape).map(|(v, (mean, deviation))| mean + deviation * f64::from(*v));
            moments.push(Array1::from_iter(values).view());
        }
        moments
    }

    #[test]
    fn the_distance_of_axis_aligned_gaussians_is_known() {
        // |m1 - m2|^2 + sum of (s1 - s2)^2.
        let a = gaussian(1, 200_000, &[(0.0, 1.0), (2.0, 3.0), (0.0, 0.5)]);
        let b = gaussian(2, 200_000, &[(1.0, 2.0), (2.0, 1.0), (0.0, 0.5)]);
        let distance = frechet_distance(&a, &b).unwrap();
        assert!((distance - 6.0).abs() < 0.1, "{distance}");
        assert!(frechet_distance(&a, &a).unwrap() < 1e-9);
    }

    #[test]
    fn too_few_vectors_have_no_distance() {
        let shape = [(0.0, 1.0); 4];
        assert_eq!(frechet_distance(&gaussian(1, 4, &shape), &gaussian(2, 90, &shape)), None);
        assert_eq!(frechet_distance(&gaussian(1, 90, &shape), &gaussian(2, 90, &shape[..2])), None);
    }

    proptest! {
        #[test]
        fn eigenvectors_rebuild_the_matrix(dims in 1_usize..12, seed: u64) {
            let half = Array2::from_shape_vec((dims, dims), noise(seed, 0, dims * dims)).unwrap();
            let half = half.mapv(f64::from);
            let matrix = half.dot(&half.t());
            let (values, vectors) = eigen(&matrix);
            let rebuilt = (&vectors * &values).dot(&vectors.t());
            let turned = vectors.t().dot(&vectors);
            for (at, value) in matrix.indexed_iter() {
                prop_assert!((rebuilt[at] - value).abs() < 1e-9 * (1.0 + value.abs()));
                prop_assert!((turned[at] - f64::from(u8::from(at.0 == at.1))).abs() < 1e-9);
            }
            let root = square_root(&matrix);
            for (at, value) in root.dot(&root).indexed_iter() {
                prop_assert!((matrix[at] - value).abs() < 1e-8 * (1.0 + value.abs()));
            }
        }

        #[test]
        fn a_distance_is_symmetric(one: u64, other: u64) {
            let a = gaussian(one, 50, &[(0.0, 1.0), (1.0, 2.0)]);
            let b = gaussian(other, 60, &[(0.5, 1.5), (1.0, 0.1)]);
            let (there, back) = (frechet_distance(&a, &b).unwrap(), frechet_distance(&b, &a).unwrap());
            prop_assert!((there - back).abs() < 1e-9 * (1.0 + there));
        }
    }
}
