//! What of the last frame lands where in those predicted; the formula is [`nextclip_core::Motion`]'s.

use nextclip_core::Motion;
use tch::{Device, Kind, Tensor};

use crate::layers;
use crate::rigid::{Belonging, Turned, from_middle, turned_back};

/// What lands on the pixels of predicted frames, of every candidate or, where things land so, in every layer.
#[derive(Debug)]
pub(crate) struct Landed {
    /// Where it comes from, x then y in pixels, (n, N, K, 2, H, W).
    pub(crate) from: Tensor,
    /// How surely, and the features that it brings, (n, N, K, 1 + F, H, W).
    pub(crate) carried: Tensor,
    /// Where it was at each moment past, where things stay whole, (n, N, K, 2, H, W).
    pub(crate) was: Vec<Tensor>,
    /// How much of what lands at a place is from each cell, (n, N, K, places, cells).
    pub(crate) choice: Tensor,
    /// How the cells go that are rigid, at the moments to come and, where things stay whole, those past.
    pub(crate) turned: Option<Turned>,
}

impl Landed {
    /// Of the last frame's cells of `scale` pixels that go where `motion` (n, M, m, h, w) says, together with what they belong to;
    /// of its moments `clip` = N are to come.
    pub(crate) fn of(
        sizes: &Motion,
        motion: &Tensor,
        clip: i64,
        belonging: Option<&Belonging>,
        scale: i64,
    ) -> Self {
        let size = motion.size();
        let cells = [size[3], size[4]];
        let values = motion.unflatten(2, [sizes.candidates as i64, -1].as_slice());
        let moments = if sizes.whole { size[1] } else { clip };
        let together =
            belonging.map(|belonging| belonging.together(&values.narrow(1, 0, moments).narrow(3, 0, 2)));
        let values = values.narrow(1, 0, clip);
        let features = values.narrow(3, 3, sizes.features as i64);
        let common = belonging.filter(|_| sizes.whole).map(|belonging| belonging.common(&features));
        let features = common.unwrap_or(features);
        // In layers, the cells of all candidates land on one another.
        let pooled = |x: &Tensor| match sizes.layered() {
            true => x.transpose(2, 3).flatten(3, 4).unsqueeze(2),
            false => x.shallow_clone(),
        };
        let flat = |x: &Tensor| pooled(&x.flatten(-2, -1));
        let values = flat(&values); // (n, N, K, 3 + F, cells)
        let displacements = match &together {
            Some(together) => flat(&together.displacements.narrow(1, 0, clip)),
            None => values.narrow(3, 0, 2),
        };
        let of_cells = from_middle(cells, motion.device()).transpose(0, 1); // (2, cells)
        let places = of_cells.repeat([1, if sizes.layered() { sizes.candidates as i64 } else { 1 }]);
        let landing = &displacements + &places;
        let mut brought = match &together {
            Some(together) => {
                let turns = flat(&together.turns.narrow(1, 0, clip));
                vec![&places - turned_back(&landing, &turns), turns]
            }
            None => vec![-&displacements],
        };
        let first = brought.iter().map(|part| part.size()[3]).sum::<i64>();
        brought.push(flat(&features));
        let past = together.as_ref().map_or(clip..clip, |_| clip..moments);
        let past = past.filter_map(|moment| Some(pooled(&together.as_ref()?.past(moment, &of_cells))));
        brought.extend(past.map(|past| past.expand([-1, clip, -1, -1, -1], false)));
        let brought = Tensor::cat(&brought, 3);

        let finer = cells.map(|count| count * sizes.landing().0 as i64);
        let to = places_within(cells, finer, motion.device());
        let affinity = affinity(&landing, &values.narrow(3, 2, 1), &to);
        let (choice, all) = match belonging.filter(|_| sizes.layered()) {
            Some(belonging) => layers::by_things(sizes, belonging, &affinity, &displacements, &brought),
            None => chosen(sizes, &affinity, &brought),
        };
        let pixels = cells.map(|count| count * scale);
        let landed = all.unflatten(-1, finer.as_slice()).flatten(0, 2);
        let landed = landed.upsample_bilinear2d(pixels, false, None, None);
        let landed = landed.unflatten(0, [size[0], clip, -1].as_slice());
        let landed = if sizes.layered() { layers::on_top(sizes, &landed) } else { landed };

        let part = |first: i64, count: usize| landed.narrow(3, first, count as i64);
        let carried = Tensor::cat(&[part(0, 1), part(1 + first, sizes.features)], 3);
        let Some(together) = together else {
            return Self { from: part(1, 2) * scale, carried, was: Vec::new(), choice, turned: None };
        };
        let here = places_within(cells, pixels, motion.device()).unflatten(1, pixels.as_slice());
        let placed = |first: i64, from: &Tensor| part(first, 2) + turned_back(from, &part(first + 2, 2));
        let there = placed(1, &here);
        let of_past = |moment: i64| {
            let past = 1 + first + sizes.features as i64 + 4 * (moment - clip);
            (placed(past, &there) - &here) * scale
        };
        Self {
            from: (&there - &here) * scale,
            carried,
            was: (clip..moments).map(of_past).collect(),
            choice,
            turned: Some(together),
        }
    }
}

/// How near cells that are `landing` (n, N, K, 2, q), with such weights, (n, N, K, 1, q), come to the places `to` (2, p):
/// a(p, q), (n, N, K, p, q).
fn affinity(landing: &Tensor, weights: &Tensor, to: &Tensor) -> Tensor {
    // |a - p|^2 = |a|^2 - 2 a p + |p|^2, as a product.
    let cross = to.transpose(0, 1).matmul(landing);
    let squares =
        |x: &Tensor, axis: i64, keep: bool| x.square().sum_dim_intlist([axis].as_slice(), keep, Kind::Float);
    let distance = squares(landing, 3, true) - cross * 2.0 + squares(to, 0, false).unsqueeze(-1);
    weights - distance / f64::from(2.0 * Motion::SPREAD * Motion::SPREAD)
}

/// How much of every cell lands at every place, (n, N, K, p, q), and there how surely anything does and what is `brought`
/// (n, N, K, C, q), (n, N, K, 1 + C, p).
fn chosen(sizes: &Motion, affinity: &Tensor, brought: &Tensor) -> (Tensor, Tensor) {
    let sharper = f64::from(sizes.landing().1);
    let limit = f64::from(Motion::DENSITY_LIMIT);
    let affinity = affinity * sharper;
    let density = (affinity.logsumexp([-1_i64].as_slice(), false) / sharper).clamp(-limit, limit);
    let choice = affinity.softmax(-1, Kind::Float);
    let carried = brought.matmul(&choice.transpose(-2, -1));
    (choice, Tensor::cat(&[density.unsqueeze(3), carried], 3))
}

/// Places from the frame's middle, in cells, x then y, of a finer grid of so many rows and columns than that of `cells`: (2, places).
fn places_within(cells: [i64; 2], finer: [i64; 2], device: Device) -> Tensor {
    let factor = finer[0] / cells[0];
    from_middle(finer, device).transpose(0, 1) / factor as f64
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A thing that turns by a quarter each frame, and shifts: its pixels are looked for where they were.
    #[test]
    fn what_lands_knows_where_it_was() {
        let sizes = Motion { candidates: 1, earlier: 1, features: 3, ..Motion::DEFAULT };
        let cells = from_middle([6, 6], Device::Cpu).transpose(0, 1); // (2, 36)
        // Turned by a quarter (x, y) is (-y, x) a frame later, and (y, -x) one before.
        let [x, y] = [0, 1].map(|axis| cells.get(axis));
        let moments =
            [Tensor::stack(&[-&y - &x + 1.0, &x - &y], 0), Tensor::stack(&[&y - &x, -&x - &y - 0.5], 0)];
        let motion = Tensor::zeros([1, 2, sizes.channels() as i64, 6, 6], (Kind::Float, Device::Cpu));
        for (moment, displacements) in moments.iter().enumerate() {
            motion.get(0).get(moment as i64).narrow(0, 0, 2).copy_(&displacements.reshape([2, 6, 6]));
        }
        let _ = motion.get(0).get(1).get(3).fill_(20.0);
        let belonging = Belonging::of(&sizes, &motion.unflatten(2, [1_i64, -1].as_slice()), 1);
        let landed = Landed::of(&sizes, &motion, 1, Some(&belonging), 8);
        // Pixels from the frame's middle: p was at R^T (p - shift) in the last frame, and at R^T of that, shifted, before.
        let (row, column) = (20, 27);
        let (p_x, p_y) = (column as f64 - 23.5, row as f64 - 23.5);
        let (last_x, last_y) = (p_y, -(p_x - 8.0));
        let (then_x, then_y) = (last_y, -last_x - 4.0);
        let at = |x: &Tensor, axis: i64| x.double_value(&[0, 0, 0, axis, row, column]);
        let off = [
            at(&landed.from, 0) - (last_x - p_x),
            at(&landed.from, 1) - (last_y - p_y),
            at(&landed.was[0], 0) - (then_x - p_x),
            at(&landed.was[0], 1) - (then_y - p_y),
        ];
        assert!(off.iter().all(|off| off.abs() < 0.2), "{off:?} pixels off");
    }

    /// A cell that moves takes the places before it along; where nothing lands, the density is low.
    #[test]
    fn what_lands_is_what_was_sent_there() {
        let sizes = Motion {
            candidates: 1,
            features: 1,
            reach: 2,
            earlier: 0,
            refined: false,
            rigid: false,
            whole: false,
            depth: 0,
        };
        // All cells but one have no weight; that of row 2, column 3 goes two to the right and one up.
        let motion = Tensor::zeros([1, 1, sizes.channels() as i64, 6, 8], (Kind::Float, Device::Cpu));
        let cell = |channel: i64| motion.select(2, channel).select(2, 2).select(2, 3);
        let _ = motion.select(2, 2).fill_(-40.0);
        for (channel, value) in [2.0, -1.0, 5.0, 0.7].into_iter().enumerate() {
            let _ = cell(channel as i64).fill_(value);
        }
        let landed = Landed::of(&sizes, &motion, 1, None, 8);
        assert_eq!(
            (landed.from.size(), landed.carried.size()),
            (vec![1, 1, 1, 2, 48, 64], vec![1, 1, 1, 2, 48, 64])
        );
        let landed = Tensor::cat(&[landed.from, landed.carried], 3);
        // The middle of cell (row 1, column 5).
        let at = |channel: i64| landed.double_value(&[0, 0, 0, channel, 12, 44]);
        assert!((at(0) + 16.0).abs() < 0.5 && (at(1) - 8.0).abs() < 0.5, "from {} {}", at(0), at(1));
        assert!(at(2) > 3.0 && (at(3) - 0.7).abs() < 0.05, "density {} feature {}", at(2), at(3));
        let far = landed.double_value(&[0, 0, 0, 2, 44, 4]);
        assert!(far < -9.0, "density {far} where nothing lands");

        let still = Landed::of(&sizes, &motion.zeros_like(), 1, None, 8);
        assert_eq!(still.from.abs().max().double_value(&[]), 0.0);
    }
}
