//! Where the things of generated scenes truly go.

use std::ops::Range;

use ndarray::Array2;
use nextclip_scenes::Trace;
use tch::{Device, Kind, Tensor};

/// Every so many pixels, along both axes, a point is followed.
pub const POINT_STRIDE: usize = 4;
/// What moves less, in pixels, is at rest.
pub(crate) const MOVES_PX: f64 = 0.5;

/// Where points of some frames are at some moments.
#[derive(Debug)]
pub struct Ways {
    /// Displacements (B, H, M, 2, rows, columns), x then y in pixels; NaN where they are not known.
    pub(crate) displacements: Tensor,
    /// What the points belong to, numbered frame by frame, (B, H, rows, columns); 0 is the ground.
    pub(crate) things: Tensor,
}

impl Ways {
    /// Of points of each of the `frames` at the `moments`, so many frames later or, below 0, earlier; not known at moments beyond
    /// the first and the last.
    pub fn of(traces: &[&Trace], frames: Range<usize>, moments: &[isize]) -> Self {
        let of_frame = |from: usize| {
            let at = |moment: &isize| match from.checked_add_signed(*moment).and_then(|to| traces.get(to)) {
                Some(to) => displacement(traces[from], to, POINT_STRIDE),
                None => displacement(traces[from], traces[from], POINT_STRIDE) * f64::NAN,
            };
            Tensor::stack(&moments.iter().map(at).collect::<Vec<_>>(), 0)
        };
        let things = |frame: usize| numbers(traces[frame].things(POINT_STRIDE).mapv(Some));
        Self {
            displacements: Tensor::stack(&frames.clone().map(of_frame).collect::<Vec<_>>(), 0).unsqueeze(0),
            things: Tensor::stack(&frames.map(things).collect::<Vec<_>>(), 0).unsqueeze(0),
        }
    }

    /// Of `frames` frames of `height` x `width` pixels at so many moments, none of them known.
    pub fn unknown([frames, moments, height, width]: [usize; 4]) -> Self {
        let [rows, columns] = [height, width].map(|side| side / POINT_STRIDE);
        let size = |sides: &[usize]| sides.iter().map(|&side| side as i64).collect::<Vec<_>>();
        let displacements = size(&[1, frames, moments, 2, rows, columns]);
        Self {
            displacements: Tensor::full(displacements, f64::NAN, (Kind::Float, Device::Cpu)),
            things: Tensor::zeros(size(&[1, frames, rows, columns]), (Kind::Int64, Device::Cpu)),
        }
    }

    /// Those of several windows as one.
    pub fn cat(all: &[Self]) -> Self {
        let each = |part: fn(&Self) -> &Tensor| Tensor::cat(&all.iter().map(part).collect::<Vec<_>>(), 0);
        Self { displacements: each(|ways| &ways.displacements), things: each(|ways| &ways.things) }
    }

    /// The same of pictures that are left for right.
    pub fn mirrored(&self) -> Self {
        Self { displacements: mirrored(&self.displacements), things: self.things.flip([-1]) }
    }

    /// The same on a device.
    pub fn to_device(&self, device: Device) -> Self {
        let to = |x: &Tensor| x.to_device(device);
        Self { displacements: to(&self.displacements), things: to(&self.things) }
    }
}

/// Where the pixels of `later` moments were at the moment `last`, (n, 2, H, W), x then y in pixels; NaN where they could not be
/// seen.
pub fn sources(last: &Trace, later: &[&Trace]) -> Tensor {
    Tensor::stack(&later.iter().map(|later| displacement(later, last, 1)).collect::<Vec<_>>(), 0)
}

/// Displacements (.., 2, rows, columns) of pictures that are left for right.
pub fn mirrored(displacements: &Tensor) -> Tensor {
    displacements.flip([-1]) * Tensor::from_slice(&[-1.0_f32, 1.0]).reshape([2, 1, 1])
}

/// Numbers of things (rows, columns); -1 where there is none.
pub(crate) fn numbers(things: Array2<Option<usize>>) -> Tensor {
    let shape = [things.nrows() as i64, things.ncols() as i64];
    let numbers: Vec<i64> = things.iter().map(|thing| thing.map_or(-1, |thing| thing as i64)).collect();
    Tensor::from_slice(&numbers).reshape(shape)
}

pub(crate) fn displacement(from: &Trace, to: &Trace, stride: usize) -> Tensor {
    let found = from.displacements_to(to, stride);
    let (rows, columns, axes) = found.dim();
    let values: Vec<f32> = found.iter().copied().collect();
    Tensor::from_slice(&values).reshape([rows as i64, columns as i64, axes as i64]).permute([2, 0, 1])
}
