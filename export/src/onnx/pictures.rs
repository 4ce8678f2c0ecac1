//! ONNX operators for pictures that are displaced, sampled and summed up.

use nextclip_core::manifest::Dtype;

use super::builder::GraphBuilder;
use super::graph::{Constant, Value};
use super::operators::{int, text};

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

    /// Softmax over any axis.
    pub fn softmax_along(&mut self, x: &Value, axis: usize) -> Value {
        self.node("Softmax", &[x], vec![int("axis", axis as i64)], &x.shape, x.dtype)
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

    /// Every cell of (B, c, H, W) `factor` times along both axes, bilinear between the cells' centres.
    pub fn enlarge_linear(&mut self, x: &Value, factor: usize) -> Value {
        let [batch, channels, rows, columns] = [0, 1, 2, 3].map(|axis| x.shape[axis]);
        let scale = factor as f32;
        let scales = self.table(&format!("enlarge {factor} times"), &[4], vec![1.0, 1.0, scale, scale]);
        let none = Value { name: String::new(), shape: vec![], dtype: Dtype::F32 };
        let attributes = vec![text("mode", "linear"), text("coordinate_transformation_mode", "half_pixel")];
        let shape = [batch, channels, factor * rows, factor * columns];
        self.node("Resize", &[x, &none, &scales], attributes, &shape, x.dtype)
    }

    /// (B, c, H, W) at `places` (B, rows, columns, 2), each x and y from -1 at the first edge to 1 at the other, bilinear
    /// between pixels' centres, the border repeated: (B, c, rows, columns).
    pub fn sample(&mut self, x: &Value, places: &Value) -> Value {
        assert!(x.shape[0] == places.shape[0] && places.shape[3] == 2, "GridSample of {x} at {places}");
        let attributes =
            vec![text("mode", "bilinear"), text("padding_mode", "border"), int("align_corners", 0)];
        let shape = [x.shape[0], x.shape[1], places.shape[1], places.shape[2]];
        self.node("GridSample", &[x, places], attributes, &shape, x.dtype)
    }
}
