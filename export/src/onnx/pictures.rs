//! ONNX operators for pictures that are displaced, sampled and summed up.

use nextclip_core::manifest::Dtype;

use super::builder::GraphBuilder;
use super::graph::{Constant, Value};
use super::operators::{int, ints, text};

impl GraphBuilder {
    /// Sum over one axis, which stays with size 1.
    pub fn sum_along(&mut self, x: &Value, axis: usize) -> Value {
        self.reduced("ReduceSum", x, axis)
    }

    /// Mean over one axis, which stays with size 1.
    pub fn mean_along(&mut self, x: &Value, axis: usize) -> Value {
        self.reduced("ReduceMean", x, axis)
    }

    fn reduced(&mut self, op: &str, x: &Value, axis: usize) -> Value {
        let mut shape = x.shape.clone();
        shape[axis] = 1;
        let axes = self.indices(&[axis as i64]);
        self.node(op, &[x, &axes], vec![int("keepdims", 1)], &shape, x.dtype)
    }

    /// Whole numbers of any shape; `name` says what they are.
    pub fn index_table(&mut self, name: &str, shape: &[usize], values: Vec<i64>) -> Value {
        assert_eq!(shape.iter().product::<usize>(), values.len(), "table {name} {shape:?}");
        self.constant(name.to_owned(), shape, Constant::I64(values))
    }

    /// Entries of `x` along `axis`, which becomes the axes of `indices`.
    pub fn gather_along(&mut self, x: &Value, axis: usize, indices: &Value) -> Value {
        let shape = [&x.shape[..axis], &indices.shape, &x.shape[axis + 1..]].concat();
        self.node("Gather", &[x, indices], vec![int("axis", axis as i64)], &shape, x.dtype)
    }

    /// Where along `axis` the `count` largest values are, the largest first.
    pub fn places_of_largest(&mut self, x: &Value, axis: usize, count: usize) -> Value {
        let mut shape = x.shape.clone();
        shape[axis] = count;
        let wanted = self.indices(&[count as i64]);
        let [values, places] = ["TopK", "TopK places"].map(|name| self.unique(name));
        let attributes = vec![int("axis", axis as i64), int("largest", 1), int("sorted", 1)];
        self.push_many("TopK", &[x, &wanted], attributes, vec![values, places.clone()]);
        Value { name: places, shape, dtype: Dtype::I64 }
    }

    /// Values of `x` at `places` along `axis`, which may have a size of 1 where `x` has more.
    pub fn pick_along(&mut self, x: &Value, axis: usize, places: &Value) -> Value {
        let mut shape = x.shape.clone();
        shape[axis] = places.shape[axis];
        let places = self.expand(places, &shape);
        self.node("GatherElements", &[x, &places], vec![int("axis", axis as i64)], &shape, x.dtype)
    }

    /// Every cell of (B, c, H, W) `factor` times along both axes, bilinear between the cells' centres. As two products,
    /// which are faster than what the runtime has of Resize.
    pub fn enlarge_linear(&mut self, x: &Value, factor: usize) -> Value {
        let [rows, columns] = [2, 3].map(|axis| x.shape[axis]);
        let across = enlarging(columns, factor);
        let across =
            self.table(&format!("enlarging {columns} columns"), &[columns, factor * columns], across);
        let down = transposed(&enlarging(rows, factor), rows);
        let down = self.table(&format!("enlarging {rows} rows"), &[factor * rows, rows], down);
        let wide = self.matmul(x, &across);
        self.matmul(&down, &wide)
    }

    /// The means of 2 x 2 cells of (B, c, H, W): (B, c, H / 2, W / 2).
    pub fn halve(&mut self, x: &Value) -> Value {
        let shape = [x.shape[0], x.shape[1], x.shape[2] / 2, x.shape[3] / 2];
        let attributes = vec![ints("kernel_shape", vec![2, 2]), ints("strides", vec![2, 2])];
        self.node("AveragePool", &[x], attributes, &shape, x.dtype)
    }

    /// Where the pixels of a picture are for [`Self::sample`], (2, rows, columns), x and then y: their centres, from -1 at
    /// its left and upper edge to 1 at the others.
    pub fn pixel_places(&mut self, rows: usize, columns: usize) -> Value {
        let centre = |index: usize, size: usize| ((2 * index + 1) as f64 / size as f64 - 1.0) as f32;
        let x = (0..rows * columns).map(|pixel| centre(pixel % columns, columns));
        let y = (0..rows * columns).map(|pixel| centre(pixel / columns, rows));
        self.table("places of pixels", &[2, rows, columns], x.chain(y).collect())
    }

    /// (B, c, H, W) at `places` (B, rows, columns, 2), each x and y from -1 at the first edge to 1 at the other, bilinear
    /// between pixels' centres, the border repeated: (B, c, rows, columns).
    pub fn sample(&mut self, x: &Value, places: &Value) -> Value {
        self.sampled(x, places, "bilinear")
    }

    /// The same, but bicubic, as [`nextclip_core::Motion::cubic`] has it.
    pub fn sample_cubic(&mut self, x: &Value, places: &Value) -> Value {
        self.sampled(x, places, "bicubic")
    }

    fn sampled(&mut self, x: &Value, places: &Value, mode: &str) -> Value {
        assert!(x.shape[0] == places.shape[0] && places.shape[3] == 2, "GridSample of {x} at {places}");
        let attributes = vec![text("mode", mode), text("padding_mode", "border"), int("align_corners", 0)];
        let shape = [x.shape[0], x.shape[1], places.shape[1], places.shape[2]];
        self.node("GridSample", &[x, places], attributes, &shape, x.dtype)
    }
}

/// What `factor` times as many places take of (places): (places, factor * places), bilinear between centres.
fn enlarging(places: usize, factor: usize) -> Vec<f32> {
    let mut matrix = vec![0.0; places * factor * places];
    for at in 0..factor * places {
        let from = ((at as f64 + 0.5) / factor as f64 - 0.5).clamp(0.0, (places - 1) as f64);
        let (before, share) = (from.floor() as usize, from.fract());
        let after = (before + 1).min(places - 1);
        matrix[before * factor * places + at] += (1.0 - share) as f32;
        matrix[after * factor * places + at] += share as f32;
    }
    matrix
}

/// A matrix of so many rows, turned.
pub fn transposed(matrix: &[f32], rows: usize) -> Vec<f32> {
    let columns = matrix.len() / rows;
    (0..matrix.len()).map(|index| matrix[index % rows * columns + index / rows]).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn places_between_centres_and_beyond_them() {
        // Two cells to four: the outer ones are beyond the centres.
        assert_eq!(enlarging(2, 2), [1.0, 0.75, 0.25, 0.0, 0.0, 0.25, 0.75, 1.0]);
        assert_eq!(enlarging(1, 3), [1.0, 1.0, 1.0]);
        assert_eq!(transposed(&[1.0, 2.0, 3.0, 4.0, 5.0, 6.0], 3), [1.0, 3.0, 5.0, 2.0, 4.0, 6.0]);
    }
}
