//! Motion in loops and in double precision: cost volumes, what they add to a frame's patches, where its cells go, and the
//! pictures that are made of it. Written from the formulas of `nextclip_core::Motion` alone.

use anyhow::Context;
use ndarray::{Array1, Array2, Array3, Array4, Axis, concatenate, s};
use nextclip_core::{Geometry, Motion, Picture};

use crate::following::smooth;
use crate::landing::Landed;
use crate::reference::{Reference, silu};
use crate::rigid::Together;

/// A picture's planes, from -1 to 1.
pub(crate) type Planes = Array3<f64>;

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

    /// What cells `together` make of the last frame, of the `earlier` ones, those of which that are `None` were not seen, and of the
    /// decoder's picture of the frame to come `n`: levels (H, W, 3), not rounded.
    pub fn composite(
        &self,
        decoded: &Picture,
        last: &Picture,
        earlier: &[Option<Picture>],
        together: &Together,
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
        let (finer, _) = sizes.landing();
        let landed = Landed::all(&sizes, &geometry, together, n);
        let place = |pixel: usize| (pixel as f64 + 0.5) / scale * finer as f64 - 0.5;
        for layer in 0..sizes.layers() {
            let of_layer =
                Array2::from_shape_fn((rows, columns), |(y, x)| landed.layer(layer, place(y), place(x)));
            let cell = |pixel: usize| (pixel as f64 + 0.5) / scale - 0.5;
            let at = |channel: usize, y: usize, x: usize| {
                between(&landed.cells[of_layer[[y, x]]][channel], place(y), place(x))
            };
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
