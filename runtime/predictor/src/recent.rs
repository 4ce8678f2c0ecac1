//! The newest frames as they were seen: pictures of the future are made of them.

use std::collections::VecDeque;

use ndarray::{Array2, Array4, Array5, Axis, CowArray, Ix3};
use nextclip_core::{Geometry, Motion, Picture};

use crate::graph::Input;

/// The newest frame, and of a model that follows things in earlier pictures those before it.
#[derive(Debug)]
pub(crate) struct Recent {
    newest: Picture,
    /// Where its cells are at each moment, (1, M, m, h, w), of a model with motion.
    pub(crate) motion: Option<Array5<f32>>,
    earlier: Option<Earlier>,
}

#[derive(Debug)]
struct Earlier {
    /// How many frames before the newest each of them is.
    frames: &'static [usize],
    /// The frames before the newest, the latest first, as many as may be asked for.
    before: VecDeque<Picture>,
    /// The pictures that the graph reads, (E, H, W, 3).
    pictures: Array4<u8>,
    /// Which of them were seen, (1, E).
    known: Array2<f32>,
}

impl Recent {
    /// Of the first frame seen.
    pub(crate) fn new(newest: Picture, sizes: Option<Motion>) -> Self {
        let frames = sizes.as_ref().map_or(&[][..], Motion::earlier_frames);
        let (rows, columns, colours) = newest.dim();
        let earlier = (!frames.is_empty()).then(|| {
            let mut earlier = Earlier {
                frames,
                before: VecDeque::new(),
                pictures: Array4::zeros((frames.len(), rows, columns, colours)),
                known: Array2::zeros((1, frames.len())),
            };
            earlier.arrange(&newest);
            earlier
        });
        Self { newest, motion: None, earlier }
    }

    /// Of a frame and motion that count for nothing, where pictures are made of latents alone.
    pub(crate) fn nothing(geometry: &Geometry, sizes: Option<Motion>) -> Self {
        let newest = Picture::zeros((geometry.height, geometry.width, 3));
        let (rows, columns) = (geometry.latent_height(), geometry.latent_width());
        let shape = |sizes: Motion| (1, sizes.moments(geometry.clip).len(), sizes.channels(), rows, columns);
        Self { motion: sizes.map(|sizes| Array5::zeros(shape(sizes))), ..Self::new(newest, sizes) }
    }

    /// The newest frame.
    pub(crate) fn newest(&self) -> &Picture {
        &self.newest
    }

    /// Takes the next frame of the same size.
    pub(crate) fn push(&mut self, frame: &Picture) {
        if let Some(earlier) = &mut self.earlier {
            earlier.push(&self.newest);
            earlier.arrange(frame);
        }
        self.newest.assign(frame);
    }

    /// The newest frame, rows first.
    pub(crate) fn last_frame(&self) -> CowArray<'_, u8, Ix3> {
        self.newest.as_standard_layout()
    }

    /// What the `decode` graph reads besides the newest frame.
    pub(crate) fn inputs(&self) -> impl Iterator<Item = (&'static str, Input<'_>)> {
        let motion = self.motion.as_ref().map(|motion| ("motion", Input::F32(motion.view().into_dyn())));
        let earlier = self.earlier.as_ref().map(|earlier| {
            let pictures = earlier.pictures.view().insert_axis(Axis(0)).into_dyn();
            [("earlier_frames", Input::U8(pictures)), ("known", Input::F32(earlier.known.view().into_dyn()))]
        });
        motion.into_iter().chain(earlier.into_iter().flatten())
    }
}

impl Earlier {
    /// Takes what was the newest frame until now.
    fn push(&mut self, newest: &Picture) {
        let longest = self.frames.iter().copied().max().unwrap_or_default();
        let room = (self.before.len() == longest).then(|| self.before.pop_back()).flatten();
        match room {
            Some(mut room) => {
                room.assign(newest);
                self.before.push_front(room);
            }
            None => self.before.push_front(newest.clone()),
        }
    }

    /// Puts the pictures in their places; the newest in those of pictures that were not seen.
    fn arrange(&mut self, newest: &Picture) {
        for (index, &frames) in self.frames.iter().enumerate() {
            let seen = self.before.get(frames - 1);
            self.pictures.index_axis_mut(Axis(0), index).assign(seen.unwrap_or(newest));
            self.known[[0, index]] = f32::from(u8::from(seen.is_some()));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn earlier_pictures_are_so_many_frames_back() {
        let sizes = Motion { earlier: 3, ..Motion::DEFAULT };
        let picture = |level: u8| Picture::from_elem((2, 4, 3), level);
        let mut recent = Recent::new(picture(0), Some(sizes));
        for level in 1..10 {
            let earlier =
                recent.earlier.as_ref().map(|earlier| (earlier.known.clone(), earlier.pictures.clone()));
            let (known, pictures) = earlier.unwrap_or_default();
            for (index, frames) in Motion::EARLIER.into_iter().enumerate() {
                let seen = level > frames as u8;
                assert_eq!(known[[0, index]], f32::from(u8::from(seen)), "{level}: {frames} back");
                let expected = if seen { level - 1 - frames as u8 } else { level - 1 };
                assert_eq!(pictures[[index, 0, 0, 0]], expected);
            }
            recent.push(&picture(level));
            assert_eq!(recent.newest()[[0, 0, 0]], level);
        }
        assert!(Recent::new(picture(0), None).earlier.is_none());
    }
}
