//! What lands where, in loops and in double precision: candidate by candidate, or thing by thing. Written from the formulas of
//! `nextclip_core::Motion` alone.

use ndarray::{Array2, Array3, ArrayView3, Axis, concatenate, s};
use nextclip_core::{Geometry, Motion};

use crate::motion::between;
use crate::rigid::Together;

/// What lands on the places of a predicted frame.
pub(crate) struct Landed {
    /// Of each candidate or thing: what `R^T p` is added to where p comes from, x and y in cells; density, features; cosine and sine
    /// of R; then, of each moment past, what `R v` is added to where that was, and cosine and sine: (5 + F + .., h, w).
    pub(crate) cells: Vec<Vec<Array2<f64>>>,
    /// Whether they are things, of which the densest are on top.
    things: bool,
}

/// What cells send.
struct Sent {
    /// Values, turns, and what [`past`] gives for each moment past, (5 + F and more, h, w), or of those of several candidates, under
    /// one another.
    values: Array3<f64>,
    /// The rows of one candidate.
    rows: usize,
    features: usize,
    /// Places a cell, along both axes, and how sharp the choice is.
    finer: usize,
    sharper: f64,
}

impl Landed {
    /// On those of the frame to come `n`, of cells that go `together`.
    pub(crate) fn all(sizes: &Motion, geometry: &Geometry, together: &Together, n: usize) -> Self {
        let of = |candidate, n| Sent::of(sizes, geometry, together, candidate, n);
        let planes =
            |cells: Array3<f64>| cells.outer_iter().map(|plane| plane.to_owned()).collect::<Vec<_>>();
        if !sizes.layered() {
            let cells = (0..sizes.candidates).map(|candidate| planes(of(candidate, n).choose(None)));
            return Self { cells: cells.collect(), things: false };
        }
        let pooled = |n| {
            let all: Vec<Sent> = (0..sizes.candidates).map(|candidate| of(candidate, n)).collect();
            let views: Vec<_> = all.iter().map(|sent| sent.values.view()).collect();
            let values = concatenate(Axis(1), &views).unwrap_or_default();
            Sent { values, ..of(0, n) }
        };
        let things = found(&pooled(geometry.clip - 1), &together.apart);
        let sent = pooled(n);
        let cells = things.iter().map(|thing| planes(sent.choose(Some(thing))));
        Self { cells: cells.collect(), things: true }
    }

    /// Which of them is in a layer at a place.
    pub(crate) fn layer(&self, layer: usize, y: f64, x: f64) -> usize {
        let mut all: Vec<usize> = (0..self.cells.len()).collect();
        if self.things {
            let density = |thing: usize| between(&self.cells[thing][2], y, x);
            all.sort_by(|&a, &b| density(b).total_cmp(&density(a)));
        }
        all[layer]
    }
}

/// How much the candidates of cells are of each thing.
fn found(last: &Sent, apart: &Array2<f64>) -> Vec<Vec<f64>> {
    let count = apart.nrows();
    let mut matter = vec![0.0; count];
    for (row, column) in last.places() {
        let affinity: Vec<f64> = (0..count).map(|i| last.affinity(i, row, column) * last.sharper).collect();
        let greatest = affinity.iter().copied().fold(f64::NEG_INFINITY, f64::max);
        let sum: f64 = affinity.iter().map(|a| (a - greatest).exp()).sum();
        for (matter, a) in matter.iter_mut().zip(affinity) {
            *matter += (a - greatest).exp() / sum;
        }
    }
    for (i, matter) in matter.iter_mut().enumerate() {
        let (row, column) = (i / last.columns(), i % last.columns());
        let [x, y] = [0, 1].map(|axis| last.values[[axis, row, column]]);
        *matter *= x.hypot(y).min(1.0);
    }
    let alike = apart.mapv(|apart| (-apart).exp());
    let (mut free, mut things) = (vec![1.0; count], Vec::new());
    for _ in 0..Motion::THINGS {
        let mass = |i: usize| (0..count).map(|j| alike[[i, j]] * free[j] * matter[j]).sum::<f64>();
        let masses: Vec<f64> = (0..count).map(mass).collect();
        let most = (1..count).fold(0, |most, i| if masses[i] > masses[most] { i } else { most });
        things.push((0..count).map(|j| alike[[j, most]] * free[j]).collect());
        for (j, free) in free.iter_mut().enumerate() {
            *free *= 1.0 - alike[[j, most]];
        }
    }
    things
}

impl Sent {
    fn of(sizes: &Motion, geometry: &Geometry, together: &Together, candidate: usize, n: usize) -> Self {
        let first = candidate * sizes.candidate_channels();
        let motion = together.moved.slice(s![.., first..first + sizes.candidate_channels(), .., ..]);
        let turns = together.turns.slice(s![.., 2 * candidate..2 * candidate + 2, .., ..]);
        let at = |n| [&motion, &turns].map(|of| of.index_axis(Axis(0), n).to_owned());
        let [own, turned] = at(n);
        let rows = own.dim().1;
        let mut values = concatenate![Axis(0), own, turned];
        for moment in geometry.clip..geometry.clip + sizes.witnesses() {
            let [motion, turns] = at(moment);
            values = concatenate![Axis(0), values, past(&motion.view(), &turns.view())];
        }
        let (finer, sharper) = sizes.landing();
        Self { values, rows, features: sizes.features, finer, sharper: sharper.into() }
    }

    fn columns(&self) -> usize {
        self.values.dim().2
    }

    /// Rows and columns of the places that something can land at.
    fn places(&self) -> impl Iterator<Item = (usize, usize)> + use<> {
        let (rows, columns) = (self.rows * self.finer, self.columns() * self.finer);
        (0..rows).flat_map(move |row| (0..columns).map(move |column| (row, column)))
    }

    /// Where the candidate i of a cell lands, x and y in cells.
    fn landing(&self, i: usize) -> [f64; 2] {
        let (row, column) = (i / self.columns(), i % self.columns());
        [
            column as f64 + self.values[[0, row, column]],
            (row % self.rows) as f64 + self.values[[1, row, column]],
        ]
    }

    /// a(p, i), of the place of that row and column.
    fn affinity(&self, i: usize, row: usize, column: usize) -> f64 {
        let place = |index: usize| (index as f64 + 0.5) / self.finer as f64 - 0.5;
        let sharpness = 1.0 / (2.0 * f64::from(Motion::SPREAD).powi(2));
        let [x, y] = self.landing(i);
        let (x, y) = (x - place(column), y - place(row));
        self.values[[2, i / self.columns(), i % self.columns()]] - sharpness * (x * x + y * y)
    }

    /// What is chosen for every place: of all or, as one thing, of those that are so much `of_it`.
    fn choose(&self, of_it: Option<&Vec<f64>>) -> Array3<f64> {
        let (channels, all, columns) = self.values.dim();
        let mut brought = self.values.clone();
        for i in 0..all * columns {
            let (row, column) = (i / columns, i % columns);
            let [x, y] = self.landing(i);
            let [cosine, sine] = [3, 4].map(|channel| self.values[[channel + self.features, row, column]]);
            brought[[0, row, column]] = column as f64 - (cosine * x + sine * y);
            brought[[1, row, column]] = (row % self.rows) as f64 - (cosine * y - sine * x);
        }
        let limit = f64::from(Motion::DENSITY_LIMIT);
        let mut cells = Array3::zeros((channels, self.rows * self.finer, columns * self.finer));
        for (row, column) in self.places() {
            let affinity = Array2::from_shape_fn((all, columns), |(from_row, from_column)| {
                let i = from_row * columns + from_column;
                let a = self.affinity(i, row, column);
                self.sharper * of_it.map_or(a, |of_it| a.min(limit) + of_it[i].ln())
            });
            // What rests and belongs to nothing turns by no angle.
            let nothing = if of_it.is_some() { (-self.sharper * limit).exp() } else { 0.0 };
            let greatest = affinity.fold(f64::NEG_INFINITY, |a, b| a.max(*b)).max(nothing.ln());
            let shares = affinity.mapv(|a| (a - greatest).exp());
            let nothing = nothing * (-greatest).exp();
            let sum = shares.sum() + nothing;
            for channel in 0..channels {
                let is_cosine =
                    channel.checked_sub(3 + self.features).is_some_and(|turn| turn == 0 || turn % 4 == 0);
                let rest = if is_cosine { nothing } else { 0.0 };
                let values = brought.index_axis(Axis(0), channel);
                cells[[channel, row, column]] = ((&shares * &values).sum() + rest) / sum;
            }
            let density = (greatest + sum.ln()) / self.sharper;
            let most = if of_it.is_some() { f64::INFINITY } else { limit };
            cells[[2, row, column]] = density.clamp(-limit, most);
        }
        cells
    }
}

/// What `R v` is added to where the place v was at a moment past, and the cosine and sine of R, (4, h, w), of the values of that
/// moment (3 + F, h, w) and its turns, (2, h, w).
fn past(motion: &ArrayView3<'_, f64>, turns: &ArrayView3<'_, f64>) -> Array3<f64> {
    let (_, rows, columns) = motion.dim();
    Array3::from_shape_fn((4, rows, columns), |(channel, row, column)| {
        let (x, y) = (column as f64, row as f64);
        let (cosine, sine) = (turns[[0, row, column]], turns[[1, row, column]]);
        match channel {
            0 => x + motion[[0, row, column]] - (cosine * x - sine * y),
            1 => y + motion[[1, row, column]] - (sine * x + cosine * y),
            2 => cosine,
            _ => sine,
        }
    })
}
