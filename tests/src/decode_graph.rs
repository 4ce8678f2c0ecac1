//! The `decode` graph of a bundle by itself, with any motion.

use std::path::Path;

use anyhow::Context;
use ndarray::{Array2, Array4, ArrayView1, ArrayViewD, Axis, Ix4, stack};
use nextclip_core::{Latents, Picture};
use nextclip_predictor::{DECODE, Execution, GpuSettings, GraphSession, Input, Provider, verified_manifest};

/// A loaded graph, on the CPU.
#[derive(Debug)]
pub struct DecodeGraph(GraphSession);

impl DecodeGraph {
    /// Of a bundle with motion.
    pub fn open(bundle: &Path) -> anyhow::Result<Self> {
        let manifest = verified_manifest(bundle)?;
        let execution = Execution::new(&manifest, Some(Provider::Cpu), &GpuSettings::default())?;
        let graph = manifest.graphs.decode.as_ref().context("no decode graph")?;
        Ok(Self(GraphSession::open(DECODE, bundle, graph, &execution, None)?))
    }

    /// Pictures of latents (N, c, h, w) with the last frame, moved by `motion` (M, m, h, w), and the `earlier` ones, those of
    /// which that are `None` were not seen.
    pub fn pictures(
        &mut self,
        latents: &Latents,
        last: &Picture,
        earlier: &[Option<Picture>],
        motion: &Array4<f32>,
        gate: f32,
    ) -> anyhow::Result<Vec<Picture>> {
        let gate = [gate];
        let known = earlier.iter().map(|picture| f32::from(u8::from(picture.is_some()))).collect();
        let known = Array2::from_shape_vec((1, earlier.len()), known)?;
        let earlier: Vec<_> = earlier.iter().map(|picture| picture.as_ref().unwrap_or(last).view()).collect();
        let earlier = if earlier.is_empty() { None } else { Some(stack(Axis(0), &earlier)?) };
        let mut inputs = vec![
            ("latents", Input::F32(latents.view().insert_axis(Axis(0)).into_dyn())),
            ("last_frames", Input::U8(last.view().insert_axis(Axis(0)).into_dyn())),
            ("gate", Input::F32(ArrayView1::from(&gate).into_dyn())),
            ("motion", Input::F32(motion.view().insert_axis(Axis(0)).into_dyn())),
        ];
        if let Some(earlier) = &earlier {
            inputs.push(("earlier_frames", Input::U8(earlier.view().insert_axis(Axis(0)).into_dyn())));
            inputs.push(("known", Input::F32(known.view().into_dyn())));
        }
        let owned = |[frames]: [ArrayViewD<'_, u8>; 1]| Ok(frames.to_owned());
        let frames = self.0.run(&inputs, ["frames"], owned)?;
        let frames = frames.index_axis_move(Axis(0), 0).into_dimensionality::<Ix4>()?;
        Ok(frames.outer_iter().map(|frame| frame.to_owned()).collect())
    }
}
