//! Motion in loops and in double precision: cost volumes, what they add to a frame's patches, where its cells go, and the
//! pictures that are made of it. Written from the formulas of `nextclip_core::Motion` alone.

use anyhow::Context;
use ndarray::{Array1, Array2, Array3, Array4, ArrayView3, Axis, concatenate, s};
use nextclip_core::{Geometry, Motion, Picture};

use crate::following::smooth;
use crate::reference::{Reference, silu};

/// A picture's planes, from -1 to 1.
pub(crate) type Planes = Array3<f64>;

/// What lands on the cells of a predicted frame, of one candidate.
struct Landed {
    /// What `R^T p` is added to where p comes from, x and y in cells; density, features; cosine and sine of R; then, of each moment
    /// past, what `R v` is added to where that was, and cosine and sine: (5 + F + .., h, w).
    cells: Array3<f64>,
}

impl Reference {
    pub(crate) fn sizes(&self) -> anyhow::Result<(Motion, Geometry)> {
        let trained = self.config.nextclip.as_ref().context("no geometry")?;
        Ok((trained.motion.context("no motion")?, trained.geometry))
    }

    /// The cost volume (costs, h, w) of a frame after the one before it.
    pub fn costs(&self, now: &Picture, before: &Picture) -> anyhow::Result<Array3<f64>> {
        let (Motion { reach, .. }, geometry) = self.sizes()?;
        let (now, before) = (half(&unit(now)), half(&unit(before)));
        let (_, rows, columns) = now.dim();
        let (reach, cell) = (reach as isize, geometry.vae_scale as isize / 2);
        let (h, w) = (geometry.latent_height(), geometry.latent_width());
        let mut volume = Vec::new();
        for dy in -reach..=reach {
            for dx in -reach..=reach {
                let unlike = |y: usize, x: usize| {
                    let place = |at: usize, by: isize, count: usize| {
                        (at as isize + by).clamp(0, count as isize - 1) as usize
                    };
                    let (from_y, from_x) = (place(y, dy, rows), place(x, dx, columns));
                    let squares =
                        (0..3).map(|rgb| (now[[rgb, y, x]] - before[[rgb, from_y, from_x]]).powi(2));
                    squares.sum::<f64>() / 3.0
                };
                volume.push(Array2::from_shape_fn((h, w), |(row, column)| {
                    let window = |index: usize, count: usize| {
                        let first = index as isize * cell - 1;
                        (first..first + cell + 2).filter(move |at| (0..count as isize).contains(at))
                    };
                    let (mut sum, mut count) = (0.0, 0.0);
                    for y in window(row, rows) {
                        for x in window(column, columns) {
                            sum += unlike(y as usize, x as usize);
                            count += 1.0;
                        }
                    }
                    (f64::from(Motion::COST_FLOOR) + sum / count).ln()
                }));
            }
        }
        let views: Vec<_> = volume.iter().map(|cost| cost.view().insert_axis(Axis(0))).collect();
        let volume = concatenate(Axis(0), &views)?;
        let mean = volume.mean_axis(Axis(0)).context("no displacements")?;
        Ok(volume - mean)
    }

    /// What the model makes of a cost volume at every cell.
    fn seen(&self, costs: &Array3<f64>) -> anyhow::Result<Array3<f64>> {
        let x = self.convolution("motion.stem.0", costs, 1)?.mapv(silu);
        Ok(self.convolution("motion.stem.1", &x, 1)?.mapv(silu))
    }

    /// What a cost volume adds to the patches of its frame, (S, d).
    pub(crate) fn stem(&self, costs: &Array3<f64>) -> anyhow::Result<Array2<f64>> {
        let x = self.convolution("motion.stem.2", &self.seen(costs)?, self.patch()?)?;
        let (d, rows, columns) = x.dim();
        Ok(Array2::from_shape_fn((rows * columns, d), |(token, feature)| {
            x[[feature, token / columns, token % columns]]
        }))
    }

    /// Where the cells of the newest of the frames `history` (C, c, h, w) with `costs` (C, costs, h, w) go:
    /// (M, m, h, w).
    pub fn motion(&self, history: &Array4<f64>, costs: &Array4<f64>) -> anyhow::Result<Array4<f64>> {
        let (sizes, Geometry { clip, .. }) = self.sizes()?;
        let hidden = self.hidden_of_newest(history, costs)?;
        let patches = self.linear(&hidden, "motion.linear", true)?;
        let (_, _, rows, columns) = history.dim();
        let moments = sizes.moments(clip).len();
        let mut cells = self.cells(&patches, [moments * sizes.channels(), rows, columns])?;
        if sizes.refined {
            let seen = self.seen(&costs.index_axis(Axis(0), costs.dim().0 - 1).to_owned())?;
            let read = concatenate(Axis(0), &[cells.view(), seen.view()])?;
            let x = self.convolution("motion.refine.0", &read, 1)?.mapv(silu);
            let x = self.convolution("motion.refine.1", &x, 1)?.mapv(silu);
            cells += &self.convolution("motion.refine.2", &x, 1)?;
        }
        Ok(cells.into_shape_with_order((moments, sizes.channels(), rows, columns))?)
    }

    /// What `motion` (M, m, h, w) with its `turns` (M, 3 K, h, w) makes of the last frame, of the `earlier` ones, those of which
    /// that are `None` were not seen, and of the decoder's picture of the frame to come `n`: levels (H, W, 3), not rounded.
    pub fn composite(
        &self,
        decoded: &Picture,
        last: &Picture,
        earlier: &[Option<Picture>],
        [motion, turns]: [&Array4<f64>; 2],
        n: usize,
    ) -> anyhow::Result<Array3<f64>> {
        let (sizes, geometry) = self.sizes()?;
        let scale = geometry.vae_scale as f64;
        let (rows, columns, _) = last.dim();
        let known: Vec<bool> = earlier.iter().map(Option::is_some).collect();
        let earlier: Vec<Planes> =
            earlier.iter().map(|picture| unit(picture.as_ref().unwrap_or(last))).collect();
        let mut sources: Vec<Planes> = vec![unit(decoded), unit(last)];
        let (mut carried, mut then, mut witnesses) = (Vec::new(), Vec::new(), Vec::new());
        let mut then_moved = vec![Vec::new(); sizes.witnesses()];
        let (finer, sharper) = sizes.landing();
        for layer in 0..sizes.layers() {
            let of = if sizes.sided { 0..sizes.candidates } else { layer..layer + 1 };
            let sent = |candidate: usize| {
                let first = candidate * sizes.candidate_channels();
                let motion = motion.slice(s![.., first..first + sizes.candidate_channels(), .., ..]);
                let turns = turns.slice(s![.., 3 * candidate..3 * candidate + 3, .., ..]);
                let [mut own, turned] = [&motion, &turns].map(|of| of.index_axis(Axis(0), n).to_owned());
                if sizes.sided {
                    let to = f64::from(Motion::SIDES[layer]);
                    let more = turned.index_axis(Axis(0), 2).mapv(|side| (to * side).max(0.0));
                    own.index_axis_mut(Axis(0), 2).zip_mut_with(&more, |weight, more| *weight += more);
                }
                let mut sent = concatenate![Axis(0), own, turned.slice(s![..2, .., ..])];
                for moment in geometry.clip..geometry.clip + sizes.witnesses() {
                    let past = past(&motion.index_axis(Axis(0), moment), &turns.index_axis(Axis(0), moment));
                    sent = concatenate![Axis(0), sent, past];
                }
                sent
            };
            let sent: Vec<_> = of.map(sent).collect();
            let sent = concatenate(Axis(1), &sent.iter().map(|sent| sent.view()).collect::<Vec<_>>())?;
            let rows_of_cells = motion.dim().2;
            let landed = Landed::new(&sent, sizes.features, rows_of_cells, finer, f64::from(sharper));
            let landed: Vec<_> = landed.cells.outer_iter().map(|plane| plane.to_owned()).collect();
            let cell = |pixel: usize| (pixel as f64 + 0.5) / scale - 0.5;
            let place = |pixel: usize| (pixel as f64 + 0.5) / scale * finer as f64 - 0.5;
            let at = |channel: usize, y: usize, x: usize| between(&landed[channel], place(y), place(x));
            let from = |y: usize, x: usize| {
                let (p_x, p_y) = (cell(x), cell(y));
                let [cosine, sine] = [3, 4].map(|channel| at(channel + sizes.features, y, x));
                [at(0, y, x) + cosine * p_x + sine * p_y, at(1, y, x) - sine * p_x + cosine * p_y]
            };
            let was = |moment: usize, y: usize, x: usize| {
                let [v_x, v_y] = from(y, x);
                let [x_then, y_then, cosine, sine] =
                    [0, 1, 2, 3].map(|channel| at(5 + sizes.features + 4 * moment + channel, y, x));
                [x_then + cosine * v_x - sine * v_y, y_then + sine * v_x + cosine * v_y]
            };
            let read = |picture: &Planes,
                        from: &dyn Fn(usize, usize) -> [f64; 2],
                        between: fn(&Array2<f64>, f64, f64) -> f64| {
                let picture = [0, 1, 2].map(|rgb| picture.index_axis(Axis(0), rgb).to_owned());
                Array3::from_shape_fn((3, rows, columns), |(rgb, y, x)| {
                    let [from_x, from_y] = from(y, x).map(|cell| (cell + 0.5) * scale - 0.5);
                    between(&picture[rgb], from_y, from_x)
                })
            };
            let of_last = read(&sources[1], &from, cubic_between);
            for moment in 0..sizes.witnesses() {
                let was = read(&earlier[moment], &|y, x| was(moment, y, x), between);
                let off = smooth(&(&of_last - &was).mapv(|off| off * off));
                let known = f64::from(u8::from(known[moment]));
                let off = off.mean_axis(Axis(0)).context("no colours")?.insert_axis(Axis(0));
                witnesses.push(off.mapv(|off| known / (1.0 + off / f64::from(Motion::WITNESS_LEVEL))));
                then_moved[moment].push(was);
            }
            sources.push(of_last);
            then.extend(earlier.iter().map(|picture| read(picture, &from, between)));
            carried.push(Array3::from_shape_fn((1 + sizes.features, rows, columns), |(channel, y, x)| {
                at(2 + channel, y, x)
            }));
        }
        let then_moved: Vec<Planes> = then_moved.into_iter().flatten().collect();
        let views = sources.iter().chain(&carried).chain(&earlier).chain(&then).chain(&witnesses);
        let views = views.chain(&then_moved);
        let views: Vec<_> = views.map(|planes| planes.view()).collect();
        let mut seen = concatenate(Axis(0), &views)?;
        for layer in 0..Motion::LAYERS {
            let read = if layer > 0 { seen.mapv(silu) } else { seen };
            seen = self.convolution(&format!("motion.blend.{layer}"), &read, 1)?;
        }
        sources.extend(earlier.into_iter().chain(then_moved));
        Ok(Array3::from_shape_fn((rows, columns, 3), |(y, x, rgb)| {
            let shares: Vec<f64> = (0..sources.len()).map(|source| seen[[source, y, x]].exp()).collect();
            let colour: f64 =
                shares.iter().zip(&sources).map(|(share, source)| share * source[[rgb, y, x]]).sum();
            ((colour / shares.iter().sum::<f64>()).clamp(-1.0, 1.0) + 1.0) * 127.5
        }))
    }

    /// (in, H, W) to (out, H, W): of stride 1 with zeros around, or of the kernel's own size.
    fn convolution(&self, at: &str, x: &Array3<f64>, stride: usize) -> anyhow::Result<Array3<f64>> {
        let (shape, weight) = self.tensor(&format!("{at}.weight"))?;
        let bias: Array1<f64> = self.vector(&format!("{at}.bias"))?;
        let (inputs, kernel) = (shape[1], shape[2]);
        let margin = if stride == 1 { kernel / 2 } else { 0 };
        let (_, rows, columns) = x.dim();
        let size = (shape[0], rows / stride, columns / stride);
        Ok(Array3::from_shape_fn(size, |(output, row, column)| {
            let mut sum = bias[output];
            for input in 0..inputs {
                for dy in 0..kernel {
                    for dx in 0..kernel {
                        let y = (row * stride + dy).wrapping_sub(margin);
                        let across = (column * stride + dx).wrapping_sub(margin);
                        if let Some(value) = x.get([input, y, across]) {
                            sum += weight[((output * inputs + input) * kernel + dy) * kernel + dx] * value;
                        }
                    }
                }
            }
            sum
        }))
    }
}

impl Landed {
    /// Of what cells send, values, turns, and what [`past`] gives for each moment past, (5 + F and more, h, w), or of those of several
    /// candidates, each with so many `rows`, under one another.
    fn new(sent: &Array3<f64>, features: usize, rows: usize, finer: usize, sharper: f64) -> Self {
        let (_, all, columns) = sent.dim();
        let place = |index: usize| (index as f64 + 0.5) / finer as f64 - 0.5;
        let sharpness = 1.0 / (2.0 * f64::from(Motion::SPREAD).powi(2));
        let to = |row: usize, column: usize| {
            [column as f64 + sent[[0, row, column]], (row % rows) as f64 + sent[[1, row, column]]]
        };
        let mut brought = sent.clone();
        for row in 0..all {
            for column in 0..columns {
                let [x, y] = to(row, column);
                let [cosine, sine] = [3, 4].map(|channel| sent[[channel + features, row, column]]);
                brought[[0, row, column]] = column as f64 - (cosine * x + sine * y);
                brought[[1, row, column]] = (row % rows) as f64 - (cosine * y - sine * x);
            }
        }
        let mut cells = Array3::zeros((brought.dim().0, rows * finer, columns * finer));
        for row in 0..rows * finer {
            for column in 0..columns * finer {
                let affinity = Array2::from_shape_fn((all, columns), |(from_row, from_column)| {
                    let [x, y] = to(from_row, from_column);
                    let (x, y) = (x - place(column), y - place(row));
                    (sent[[2, from_row, from_column]] - sharpness * (x * x + y * y)) * sharper
                });
                let greatest = affinity.fold(f64::NEG_INFINITY, |a, b| a.max(*b));
                let shares = affinity.mapv(|a| (a - greatest).exp());
                let sum = shares.sum();
                for channel in 0..brought.dim().0 {
                    let values = brought.index_axis(Axis(0), channel);
                    cells[[channel, row, column]] = (&shares * &values).sum() / sum;
                }
                let limit = f64::from(Motion::DENSITY_LIMIT);
                cells[[2, row, column]] = ((greatest + sum.ln()) / sharper).clamp(-limit, limit);
            }
        }
        Self { cells }
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

/// The value at a place between cells, bilinear; beyond the border that of the border.
pub(crate) fn between(plane: &Array2<f64>, y: f64, x: f64) -> f64 {
    let (rows, columns) = plane.dim();
    let (y, x) = (y.clamp(0.0, (rows - 1) as f64), x.clamp(0.0, (columns - 1) as f64));
    let (top, left) = (y.floor() as usize, x.floor() as usize);
    let (below, right) = ((top + 1).min(rows - 1), (left + 1).min(columns - 1));
    let (down, across) = (y - top as f64, x - left as f64);
    let row = |row: usize| plane[[row, left]] * (1.0 - across) + plane[[row, right]] * across;
    row(top) * (1.0 - down) + row(below) * down
}

/// The same, bicubic; pixels beyond the border are those of the border.
fn cubic_between(plane: &Array2<f64>, y: f64, x: f64) -> f64 {
    let (rows, columns) = plane.dim();
    let at = |place: f64, count: usize| place.clamp(0.0, (count - 1) as f64) as usize;
    let mut sum = 0.0;
    for (down, share_y) in Motion::cubic(y - y.floor()).into_iter().enumerate() {
        for (across, share_x) in Motion::cubic(x - x.floor()).into_iter().enumerate() {
            let row = at(y.floor() - 1.0 + down as f64, rows);
            let column = at(x.floor() - 1.0 + across as f64, columns);
            sum += share_y * share_x * plane[[row, column]];
        }
    }
    sum
}

/// (H, W, 3) of samples to (3, H, W) from -1 to 1.
pub(crate) fn unit(picture: &Picture) -> Planes {
    let (rows, columns, _) = picture.dim();
    Array3::from_shape_fn((3, rows, columns), |(rgb, y, x)| f64::from(picture[[y, x, rgb]]) / 127.5 - 1.0)
}

/// The mean over 2 x 2 pixels.
fn half(planes: &Planes) -> Planes {
    let (_, rows, columns) = planes.dim();
    Array3::from_shape_fn((3, rows / 2, columns / 2), |(rgb, y, x)| {
        let square = planes.slice(s![rgb, 2 * y..2 * y + 2, 2 * x..2 * x + 2]);
        square.sum() / 4.0
    })
}
