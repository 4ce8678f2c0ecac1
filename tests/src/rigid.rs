//! Cells that move as one with what they belong to, in loops and in double precision. Written from the formulas of
//! `nextclip_core::Motion` alone.

use ndarray::{Array2, Array4, s};
use nextclip_core::Motion;

use crate::reference::Reference;

/// A candidate of a cell.
struct Cell {
    at: [f64; 2],
    rigidity: f64,
    reliability: f64,
    e: Vec<f64>,
}

/// Cells together with what they belong to.
pub struct Together {
    /// What each says, (M, m, h, w).
    pub moved: Array4<f64>,
    /// How it turns, cosine and sine of candidate after candidate, (M, 2 K, h, w).
    pub turns: Array4<f64>,
    /// |e_i - e_j|^2 of candidates of cells, (i, i), all of the first candidate first; nothing where they belong to none.
    pub apart: Array2<f64>,
}

impl Reference {
    /// Cells `followed` (M, m, h, w) together with what they belong to as `motion` (M, m, h, w) says.
    pub fn together(&self, motion: &Array4<f32>, followed: &Array4<f64>) -> anyhow::Result<Together> {
        let (sizes, geometry) = self.sizes()?;
        let (moments, _, rows, columns) = followed.dim();
        let mut moved = followed.clone();
        let mut turns = Array4::zeros((moments, 2 * sizes.candidates, rows, columns));
        turns.slice_mut(s![.., ..;2, .., ..]).fill(1.0);
        if !sizes.rigid {
            return Ok(Together { moved, turns, apart: Array2::zeros((0, 0)) });
        }
        let places: Vec<[usize; 3]> = (0..sizes.candidates)
            .flat_map(|k| (0..rows).flat_map(move |row| (0..columns).map(move |column| [k, row, column])))
            .collect();
        let mut cells: Vec<Cell> =
            places.iter().map(|&place| Cell::new(&sizes, motion, geometry.clip, place)).collect();
        for _ in 0..sizes.gathered() {
            let gathered: Vec<Vec<f64>> = cells.iter().map(|cell| cell.gathered(&cells)).collect();
            for (cell, e) in cells.iter_mut().zip(gathered) {
                cell.e = e;
            }
        }
        for n in 0..moments {
            let there: Vec<[f64; 2]> = places
                .iter()
                .zip(&cells)
                .map(|(&[k, row, column], cell)| {
                    let first = k * sizes.candidate_channels();
                    [0, 1].map(|axis| cell.at[axis] + followed[[n, first + axis, row, column]])
                })
                .collect();
            for (i, &[k, row, column]) in places.iter().enumerate() {
                let shares: Vec<f64> = cells.iter().map(|other| cells[i].share(other)).collect();
                let whole: f64 = shares.iter().sum();
                let mean = |of: &dyn Fn(usize) -> f64| {
                    shares.iter().enumerate().map(|(j, share)| share * of(j)).sum::<f64>() / whole
                };
                let middle = [0, 1].map(|axis| mean(&|j| cells[j].at[axis]));
                let to = [0, 1].map(|axis| mean(&|j| there[j][axis]));
                let c =
                    mean(&|j| dot(cells[j].at, there[j])) - dot(middle, to) + f64::from(Motion::RIGID_FLOOR);
                let s = mean(&|j| cross(cells[j].at, there[j])) - cross(middle, to);
                let length = (c * c + s * s + f64::from(Motion::NO_TURN)).sqrt();
                let (c, s) = (c / length, s / length);
                let off = [0, 1].map(|axis| cells[i].at[axis] - middle[axis]);
                let fitted = [to[0] + c * off[0] - s * off[1], to[1] + s * off[0] + c * off[1]];
                for axis in 0..2 {
                    moved[[n, k * sizes.candidate_channels() + axis, row, column]] +=
                        cells[i].rigidity * (fitted[axis] - there[i][axis]);
                }
                let first = k * sizes.candidate_channels() + 3;
                let carries = sizes.whole && n < geometry.clip;
                for channel in first..first + if carries { sizes.features } else { 0 } {
                    let of = |j: usize| {
                        let [other, row, column] = places[j];
                        followed[[n, channel + other * sizes.candidate_channels() - first + 3, row, column]]
                    };
                    let own = followed[[n, channel, row, column]];
                    moved[[n, channel, row, column]] += cells[i].rigidity * (mean(&of) - own);
                }
                turns[[n, 2 * k, row, column]] = 1.0 + cells[i].rigidity * (c - 1.0);
                turns[[n, 2 * k + 1, row, column]] = cells[i].rigidity * s;
            }
        }
        let apart = Array2::from_shape_fn((cells.len(), cells.len()), |(i, j)| cells[i].apart(&cells[j]));
        Ok(Together { moved, turns, apart })
    }
}

impl Cell {
    fn new(sizes: &Motion, motion: &Array4<f32>, clip: usize, [k, row, column]: [usize; 3]) -> Self {
        let features = k * sizes.candidate_channels() + 3..(k + 1) * sizes.candidate_channels();
        let said: Vec<f64> = (clip..motion.dim().0)
            .flat_map(|moment| features.clone().map(move |channel| (moment, channel)))
            .map(|(moment, channel)| f64::from(motion[[moment, channel, row, column]]))
            .collect();
        Self {
            at: [column as f64, row as f64],
            rigidity: 1.0 / (1.0 + (-said[0]).exp()),
            reliability: said[1],
            e: said[2..].to_vec(),
        }
    }

    fn apart(&self, other: &Self) -> f64 {
        self.e.iter().zip(&other.e).map(|(a, b)| (a - b).powi(2)).sum()
    }

    fn share(&self, other: &Self) -> f64 {
        (other.reliability - self.apart(other)).exp()
    }

    /// The mean of all vectors e by how near they are to this cell's.
    fn gathered(&self, all: &[Self]) -> Vec<f64> {
        let near: Vec<f64> =
            all.iter().map(|other| (-f64::from(Motion::NARROWER) * self.apart(other)).exp()).collect();
        let whole: f64 = near.iter().sum();
        let mean =
            |index: usize| all.iter().zip(&near).map(|(other, near)| near * other.e[index]).sum::<f64>();
        (0..self.e.len()).map(|index| mean(index) / whole).collect()
    }
}

fn dot(a: [f64; 2], b: [f64; 2]) -> f64 {
    a[0] * b[0] + a[1] * b[1]
}

fn cross(a: [f64; 2], b: [f64; 2]) -> f64 {
    a[0] * b[1] - a[1] * b[0]
}
