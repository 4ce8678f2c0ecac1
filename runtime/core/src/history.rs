//! Which frames the model remembers: a ring of slots in the key-value cache.

/// Where the cached keys and values of each remembered frame lie. A frame keeps its slot until a newer
/// one takes it; what moves when the window slides is only its position, counted from the oldest frame,
/// so positions stay below C however long the camera runs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct History {
    slots: usize,
    /// Frames ever remembered since the last clear.
    remembered: u64,
}

impl History {
    /// An empty history of `slots` (C) frames.
    pub fn new(slots: usize) -> Self {
        Self { slots, remembered: 0 }
    }

    /// Frames held now.
    pub fn len(&self) -> usize {
        self.remembered.min(self.slots as u64) as usize
    }

    /// Whether nothing is held.
    pub fn is_empty(&self) -> bool {
        self.remembered == 0
    }

    /// Whether the window holds all the frames that it can.
    pub fn is_full(&self) -> bool {
        self.len() == self.slots
    }

    /// Forgets every frame.
    pub fn clear(&mut self) {
        self.remembered = 0;
    }

    /// The slot that the next frame will take: the oldest frame's, once the window is full.
    pub fn next_slot(&self) -> usize {
        (self.remembered % self.slots as u64) as usize
    }

    /// The frame that was asked for at [`Self::next_slot`] is in its slot.
    pub fn push(&mut self) {
        self.remembered += 1;
    }

    /// For every slot its frame's position in the window, 0 the oldest, or -1 where the slot is empty.
    pub fn positions(&self) -> Vec<i64> {
        self.positions_of(self.len())
    }

    /// The same as the next frame will see it: without the frame whose slot it takes. The next frame's
    /// own position is [`Self::next_position`].
    pub fn positions_before_next(&self) -> Vec<i64> {
        self.positions_of(self.next_position())
    }

    /// Position of the next frame in the window.
    pub fn next_position(&self) -> usize {
        self.len().min(self.slots - 1)
    }

    /// Positions with only the newest `held` frames in the window.
    fn positions_of(&self, held: usize) -> Vec<i64> {
        let mut positions = vec![-1; self.slots];
        for position in 0..held {
            let frame = self.remembered - held as u64 + position as u64;
            positions[(frame % self.slots as u64) as usize] = position as i64;
        }
        positions
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn the_oldest_frame_leaves_first() {
        let mut history = History::new(3);
        assert_eq!((history.positions(), history.next_position()), (vec![-1, -1, -1], 0));
        history.push();
        history.push();
        assert_eq!((history.positions(), history.next_position()), (vec![0, 1, -1], 2));
        history.push();
        history.push();
        // Slot 0 now holds the newest frame, slot 1 the oldest.
        assert_eq!(history.positions(), [2, 0, 1]);
        assert_eq!((history.next_slot(), history.positions_before_next()), (1, vec![1, -1, 0]));
    }

    proptest! {
        #[test]
        fn positions_count_from_0_however_long_it_runs(slots in 1_usize..9, pushes in 0_u64..100) {
            let mut history = History::new(slots);
            for _ in 0..pushes {
                history.push();
            }
            let mut held: Vec<i64> = history.positions().into_iter().filter(|p| *p >= 0).collect();
            held.sort_unstable();
            prop_assert_eq!(held, (0..pushes.min(slots as u64) as i64).collect::<Vec<_>>());
            prop_assert_eq!(history.positions_before_next()[history.next_slot()], -1);
        }
    }
}
