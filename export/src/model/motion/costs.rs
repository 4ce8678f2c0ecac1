//! Cost volumes, in a few large operators instead of a few for each displacement.
//!
//! Samples lie row by row with their colours together, so that all displacements of a frame are two gathers of long
//! pieces: along a row, where the border is repeated by the indices themselves, then of whole rows. Means are matrix
//! products: over colours and along rows, then over rows.

use nextclip_core::{Geometry, Motion};

use super::COSTS;
use crate::onnx::{GraphBuilder, Value, transposed};

const COLOURS: usize = 3;

/// How unlike frames are to those `before` them, both (B, 3, H, W) from -1 to 1 in single precision, for every
/// displacement: (B, costs, h, w).
pub(in crate::model) fn cost_volume(
    g: &mut GraphBuilder,
    sizes: &Motion,
    [frames, before]: [&Value; 2],
    geometry: &Geometry,
) -> Value {
    let (rows, columns) = (geometry.height / 2, geometry.width / 2);
    let (batch, steps, row) = (frames.size(0), 2 * sizes.reach + 1, columns * COLOURS);
    g.within(COSTS, |g| {
        let [now, before] = [frames, before].map(|frames| {
            let half = g.halve(frames);
            g.transpose(&half, &[0, 2, 3, 1]) // (B, rows, columns, 3)
        });
        let all = displaced(g, &before, 2, sizes.reach); // (B, rows, dx, columns, 3)
        let all = g.reshape(&all, &[batch, rows, steps * row]);
        let all = displaced(g, &all, 1, sizes.reach); // (B, dy, rows, dx * columns * 3)
        // Once for every dx, so that all of a dy are subtracted in one piece.
        let now = g.reshape(&now, &[batch, rows, 1, row]);
        let now = g.expand(&now, &[batch, rows, steps, row]);
        let now = g.reshape(&now, &[batch, 1, rows, steps * row]);
        let difference = g.sub(&all, &now);
        let unlike = g.mul(&difference, &difference);
        let unlike = g.reshape(&unlike, &[batch, steps, rows, steps, row]);

        let across = window(columns, geometry.vae_scale, COLOURS);
        let across = g.table(
            &format!("windows across {columns}"),
            &[columns * COLOURS, across.len() / (columns * COLOURS)],
            across,
        );
        let unlike = g.matmul(&unlike, &across); // (B, dy, rows, dx, w)
        let w = unlike.size(4);
        let unlike = g.reshape(&unlike, &[batch, steps, rows, steps * w]);
        let down = transposed(&window(rows, geometry.vae_scale, 1), rows);
        let down = g.table(&format!("windows down {rows}"), &[down.len() / rows, rows], down);
        let unlike = g.matmul(&down, &unlike); // (B, dy, h, dx * w)
        let h = unlike.size(2);
        let unlike = g.reshape(&unlike, &[batch, steps, h, steps, w]);
        let unlike = g.transpose(&unlike, &[0, 1, 3, 2, 4]);

        let floor = g.scalar(Motion::COST_FLOOR);
        let cost = g.add(&unlike, &floor);
        let cost = g.map("Log", &cost);
        let cost = g.reshape(&cost, &[batch, steps * steps, h * w]);
        let mean = g.mean_along(&cost, 1);
        let volume = g.sub(&cost, &mean);
        g.reshape(&volume, &[batch, steps * steps, h, w])
    })
}

/// All displacements along `axis` of n places, which becomes two: (2 reach + 1, n). Beyond the border is the border.
fn displaced(g: &mut GraphBuilder, x: &Value, axis: usize, reach: usize) -> Value {
    let (places, steps) = (x.size(axis), 2 * reach + 1);
    let source = |index: usize| {
        let (step, place) = (index / places, index % places);
        (place + step).saturating_sub(reach).min(places - 1) as i64
    };
    let sources: Vec<i64> = (0..steps * places).map(source).collect();
    let sources = g.index_table(&format!("displaced along {places}"), &[steps, places], sources);
    g.gather_along(x, axis, &sources)
}

/// The mean over a cell and one half-resolution pixel around it, within the picture, as a matrix
/// (places * values, cells): each place has `values` values, whose mean counts.
fn window(places: usize, pixels_per_cell: usize, values: usize) -> Vec<f32> {
    let cell = pixels_per_cell / 2;
    let cells = places / cell;
    let mut matrix = vec![0.0; places * values * cells];
    for index in 0..cells {
        let seen = (index * cell).saturating_sub(1)..((index + 1) * cell + 1).min(places);
        let weight = 1.0 / (seen.len() * values) as f32;
        for row in seen.start * values..seen.end * values {
            matrix[row * cells + index] = weight;
        }
    }
    matrix
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn windows_are_cut_at_the_border() {
        // Two cells of four pixels, two of half resolution.
        let [third, zero] = [1.0 / 3.0, 0.0];
        assert_eq!(window(4, 4, 1), [third, zero, third, third, third, third, zero, third]);
    }
}
