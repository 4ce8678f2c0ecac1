//! The remembered frames' keys and values: two buffers, made once, and the ring of slots in them.

use ndarray::{Array2, Array5, ArrayView1, s};
use nextclip_core::manifest::CacheShape;
use nextclip_core::{Geometry, History};

use crate::graph::Input;

/// Keys (before rotation) and values of every remembered frame, each (layers, B, n_kv, C * L, d_head).
#[derive(Debug)]
pub(crate) struct Cache {
    keys: Array5<f32>,
    values: Array5<f32>,
    history: History,
    block_tokens: usize,
    /// What the graphs read of the history, kept here so that it can be borrowed: (1, C) and (1).
    slot_positions: Array2<i64>,
    position: [i64; 1],
}

impl Cache {
    pub(crate) fn new(geometry: &Geometry, shape: &CacheShape) -> Self {
        let tokens = geometry.history * geometry.block_tokens();
        let held = (shape.layers, shape.batch, shape.kv_heads, tokens, shape.head_dim);
        Self {
            keys: Array5::zeros(held),
            values: Array5::zeros(held),
            history: History::new(geometry.history),
            block_tokens: geometry.block_tokens(),
            slot_positions: Array2::from_elem((1, geometry.history), -1),
            position: [0],
        }
    }

    /// An empty buffer for one frame's keys or values, (layers, B, n_kv, L, d_head).
    pub(crate) fn block(geometry: &Geometry, shape: &CacheShape) -> Array5<f32> {
        let tokens = geometry.block_tokens();
        Array5::zeros((shape.layers, shape.batch, shape.kv_heads, tokens, shape.head_dim))
    }

    pub(crate) fn history(&self) -> &History {
        &self.history
    }

    /// Empty slots are masked, so what they hold is never read; no need to wipe it.
    pub(crate) fn clear(&mut self) {
        self.history.clear();
    }

    /// The cache as `remember` reads it: without the frame whose slot the next one takes.
    pub(crate) fn before_next(&mut self) -> [(&'static str, Input<'_>); 4] {
        let positions = self.history.positions_before_next();
        let position = self.history.next_position();
        self.inputs(positions, position)
    }

    /// The cache as `denoise` reads it: every frame held, the clip right after them.
    pub(crate) fn now(&mut self) -> [(&'static str, Input<'_>); 4] {
        let positions = self.history.positions();
        let position = self.history.len();
        self.inputs(positions, position)
    }

    fn inputs(&mut self, positions: Vec<i64>, position: usize) -> [(&'static str, Input<'_>); 4] {
        self.slot_positions.iter_mut().zip(positions).for_each(|(held, now)| *held = now);
        self.position = [position as i64];
        [
            ("keys", Input::F32(self.keys.view().into_dyn())),
            ("values", Input::F32(self.values.view().into_dyn())),
            ("slot_positions", Input::I64(self.slot_positions.view().into_dyn())),
            ("position", Input::I64(ArrayView1::from(&self.position).into_dyn())),
        ]
    }

    /// Puts a new frame's keys and values, each (layers, B, n_kv, L, d_head), into its slot.
    pub(crate) fn push(&mut self, [new_keys, new_values]: &[Array5<f32>; 2]) {
        let first = self.history.next_slot() * self.block_tokens;
        let slot = s![.., .., .., first..first + self.block_tokens, ..];
        self.keys.slice_mut(slot).assign(new_keys);
        self.values.slice_mut(slot).assign(new_values);
        self.history.push();
    }
}
