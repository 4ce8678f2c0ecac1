//! The remembered frames' keys and values: two buffers, made once, and the ring of slots in them.

use half::f16;
use ndarray::{Array2, Array5, ArrayView1, ArrayView4, s};
use nextclip_core::manifest::{CacheElement, CacheShape};
use nextclip_core::{Geometry, History};
use ort::value::PrimitiveTensorElementType;

use crate::error::Error;
use crate::graph::{GraphSession, Input};

/// Keys (before rotation) and values of every remembered frame, in the bundle's element type.
#[derive(Debug)]
pub(crate) struct Cache {
    buffers: Buffers,
    history: History,
    block_tokens: usize,
    places: Places,
}

/// What the graphs read of the history, kept so that it can be borrowed.
#[derive(Debug)]
struct Places {
    /// (1, C).
    slots: Array2<i64>,
    /// (1).
    position: [i64; 1],
}

#[derive(Debug)]
enum Buffers {
    F32(Pair<f32>),
    F16(Pair<f16>),
    Int8(Pair<i8>),
}

/// Keys and values of one element type. What the elements mean is the graphs' business.
#[derive(Debug)]
struct Pair<T> {
    /// Each (layers, B, n_kv, C * L, d_head).
    held: [Array5<T>; 2],
    /// The newest frame's on their way into a slot, each (layers, B, n_kv, L, d_head).
    fresh: [Array5<T>; 2],
}

impl Cache {
    pub(crate) fn new(geometry: &Geometry, shape: &CacheShape) -> Self {
        let buffers = match shape.element {
            CacheElement::F32 => Buffers::F32(Pair::new(geometry, shape)),
            CacheElement::F16 => Buffers::F16(Pair::new(geometry, shape)),
            CacheElement::Int8 { .. } => Buffers::Int8(Pair::new(geometry, shape)),
        };
        Self {
            buffers,
            history: History::new(geometry.history),
            block_tokens: geometry.block_tokens(),
            places: Places { slots: Array2::from_elem((1, geometry.history), -1), position: [0] },
        }
    }

    pub(crate) fn history(&self) -> &History {
        &self.history
    }

    /// Empty slots are masked, so what they hold is never read; no need to wipe it.
    pub(crate) fn clear(&mut self) {
        self.history.clear();
    }

    /// The cache as `denoise` reads it: every frame held, the clip right after them.
    pub(crate) fn now(&mut self) -> [(&'static str, Input<'_>); 4] {
        let positions = self.history.positions();
        let position = self.history.len();
        self.places.set(&positions, position);
        match &self.buffers {
            Buffers::F32(pair) => Pair::inputs(&pair.held, &self.places),
            Buffers::F16(pair) => Pair::inputs(&pair.held, &self.places),
            Buffers::Int8(pair) => Pair::inputs(&pair.held, &self.places),
        }
    }

    /// Runs `remember` on the next frame's latents (B, c, h, w), and its costs (B, costs, h, w) where the model has
    /// motion, (B, N, m, h, w), which is returned. It reads the cache without the frame whose slot the new one takes; then
    /// the new keys and values go there.
    pub(crate) fn remember(
        &mut self,
        graph: &mut GraphSession,
        latents: ArrayView4<'_, f32>,
        costs: Option<ArrayView4<'_, f32>>,
    ) -> Result<Option<Array5<f32>>, Error> {
        let positions = self.history.positions_before_next();
        let position = self.history.next_position();
        self.places.set(&positions, position);
        let first = self.history.next_slot() * self.block_tokens;
        let frame = (latents, costs);
        let motion = match &mut self.buffers {
            Buffers::F32(pair) => pair.remember(graph, frame, &self.places, first),
            Buffers::F16(pair) => pair.remember(graph, frame, &self.places, first),
            Buffers::Int8(pair) => pair.remember(graph, frame, &self.places, first),
        }?;
        self.history.push();
        Ok(motion)
    }
}

impl Places {
    fn set(&mut self, slots: &[i64], position: usize) {
        self.slots.iter_mut().zip(slots).for_each(|(held, now)| *held = *now);
        self.position = [position as i64];
    }
}

impl<T: CacheNumber> Pair<T> {
    fn new(geometry: &Geometry, shape: &CacheShape) -> Self {
        let of_frames = |frames: usize| {
            let tokens = frames * geometry.block_tokens();
            let shape = (shape.layers, shape.batch, shape.kv_heads, tokens, shape.head_dim);
            [(); 2].map(|()| Array5::from_elem(shape, T::default()))
        };
        Self { held: of_frames(geometry.history), fresh: of_frames(1) }
    }

    fn inputs<'a>(held: &'a [Array5<T>; 2], places: &'a Places) -> [(&'static str, Input<'a>); 4] {
        let [keys, values] = held;
        [
            ("keys", T::input(keys)),
            ("values", T::input(values)),
            ("slot_positions", Input::I64(places.slots.view().into_dyn())),
            ("position", Input::I64(ArrayView1::from(&places.position).into_dyn())),
        ]
    }

    /// The new frame goes into the slot whose first token is `first`.
    fn remember(
        &mut self,
        graph: &mut GraphSession,
        (latents, costs): (ArrayView4<'_, f32>, Option<ArrayView4<'_, f32>>),
        places: &Places,
        first: usize,
    ) -> Result<Option<Array5<f32>>, Error> {
        let Self { held, fresh } = self;
        let mut inputs = vec![("latents", Input::F32(latents.into_dyn()))];
        inputs.extend(Self::inputs(held, places));
        let mut outputs = vec!["new_keys", "new_values"];
        let moves = costs.is_some();
        if let Some(costs) = costs {
            inputs.push(("costs", Input::F32(costs.into_dyn())));
            outputs.push("motion");
        }
        let motion = graph.run_any(&inputs, &outputs, |produced| {
            for (index, fresh) in fresh.iter_mut().enumerate() {
                fresh.assign(&produced.array::<T>(index)?);
            }
            let motion = moves.then(|| produced.array::<f32>(2)).transpose()?;
            let motion = motion.map(|motion| motion.to_owned().into_dimensionality());
            motion.transpose().map_err(ort::Error::wrap)
        })?;
        for (held, fresh) in held.iter_mut().zip(fresh) {
            held.slice_mut(s![.., .., .., first..first + fresh.dim().3, ..]).assign(&*fresh);
        }
        Ok(motion)
    }
}

/// What a key or value may be kept as: f32, f16 or i8.
pub trait CacheNumber: PrimitiveTensorElementType + Copy + Default {
    /// All keys or values, (layers, B, n_kv, C * L, d_head), as a graph reads them.
    fn input(array: &Array5<Self>) -> Input<'_>;
}

impl CacheNumber for f32 {
    fn input(array: &Array5<Self>) -> Input<'_> {
        Input::F32(array.view().into_dyn())
    }
}

impl CacheNumber for f16 {
    fn input(array: &Array5<Self>) -> Input<'_> {
        Input::F16(array.view().into_dyn())
    }
}

impl CacheNumber for i8 {
    fn input(array: &Array5<Self>) -> Input<'_> {
        Input::I8(array.view().into_dyn())
    }
}
