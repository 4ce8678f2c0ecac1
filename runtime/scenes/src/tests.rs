//! What every scene promises: repeatable pixels, disjoint splits, closed rooms, kept energy and motion.

use crate::cast::Stage;
use crate::{Kind, Picture, Scene, Split, Way, clip};

const INTERVAL_S: f64 = 0.2;

fn mean_difference(a: &Picture, b: &Picture) -> f64 {
    a.iter().zip(b).map(|(&a, &b)| f64::from(a.abs_diff(b))).sum::<f64>() / a.len() as f64
}

#[test]
fn the_same_seed_gives_the_same_pixels() {
    for seed in 0..12 {
        let one = clip(Split::Train, seed, 48, 40, 6, INTERVAL_S);
        assert_eq!(one, clip(Split::Train, seed, 48, 40, 6, INTERVAL_S), "seed {seed}");
        assert_eq!(one[0].dim(), (40, 48, 3));
    }
}

#[test]
fn how_time_is_split_into_calls_does_not_matter() {
    for kind in Kind::ALL {
        let at_once = {
            let mut scene = Scene::of_kind(kind, Split::Train, 3, 48, 48);
            scene.advance(3.0);
            scene.render()
        };
        for calls in [15, 37, 90, 3001] {
            let mut scene = Scene::of_kind(kind, Split::Train, 3, 48, 48);
            for _ in 0..calls {
                scene.advance(3.0 / f64::from(calls));
            }
            assert_eq!(scene.render(), at_once, "{kind:?} in {calls} calls");
        }
    }
}

#[test]
fn training_and_held_out_clips_differ() {
    for seed in 0..200 {
        let picture = |split| Scene::new(split, seed, 24, 24).render();
        let [train, validation, held_out] = [Split::Train, Split::Validation, Split::HeldOut].map(picture);
        assert!(train != held_out && train != validation && validation != held_out, "seed {seed}");
    }
    let first = |split, seed| Scene::new(split, seed, 16, 16).render();
    let held_out: Vec<_> = (0..60).map(|seed| first(Split::HeldOut, seed)).collect();
    for seed in 0..60 {
        assert!(!held_out.contains(&first(Split::Train, seed)), "training seed {seed} is held out too");
    }
}

#[test]
fn seeds_reach_every_kind() {
    for split in [Split::Train, Split::Validation, Split::HeldOut] {
        let kinds: Vec<_> = (0..60).map(|seed| crate::kind_of(split, seed)).collect();
        for kind in Kind::ALL {
            assert!(kinds.contains(&kind), "{split:?} {kind:?}");
        }
    }
}

#[test]
fn objects_stay_in_closed_rooms_for_a_minute() {
    for kind in [Kind::Bounce, Kind::Gravity, Kind::Billiard, Kind::Pendulum, Kind::Occlusion] {
        for seed in 0..6 {
            let mut scene = Scene::of_kind(kind, Split::Train, seed, 64, 48);
            let aspect = 64.0 / 48.0;
            for _ in 0..600 {
                scene.advance(0.1);
                for (at, reach) in scene.stage.extents() {
                    let reach = reach - 1e-9;
                    let inside = at.x > reach && at.x < aspect - reach && at.y > reach && at.y < 1.0 - reach;
                    assert!(inside, "{kind:?} seed {seed}: {at:?} with reach {reach}");
                }
            }
        }
    }
}

#[test]
fn elastic_rooms_and_pendulums_keep_their_energy() {
    for kind in [Kind::Billiard, Kind::Bounce, Kind::Pendulum] {
        for seed in 0..8 {
            let mut scene = Scene::of_kind(kind, Split::Train, seed, 32, 32);
            let energy = |scene: &Scene| match &scene.stage {
                Stage::Arena(arena) => arena.bodies.iter().map(|body| body.energy()).sum::<f64>(),
                Stage::Swing(pendulums) => pendulums.iter().map(|pendulum| pendulum.energy()).sum(),
                Stage::Belt(_) => 0.0,
            };
            let before = energy(&scene);
            scene.advance(60.0);
            let ratio = energy(&scene) / before;
            assert!((ratio - 1.0).abs() < 0.01, "{kind:?} seed {seed}: energy times {ratio}");
        }
    }
}

/// In levels of 255 over the whole picture, 200 ms apart; the mean over a clip of four seconds.
const LEAST_MOTION: f64 = 0.5;

#[test]
fn every_kind_moves_from_the_first_picture() {
    for kind in Kind::ALL {
        for seed in 0..20 {
            let mut scene = Scene::of_kind(kind, Split::HeldOut, seed, 64, 64);
            let mut last = scene.render();
            let mut steps = Vec::new();
            for _ in 0..20 {
                scene.advance(INTERVAL_S);
                let picture = scene.render();
                steps.push(mean_difference(&last, &picture));
                last = picture;
            }
            let mean = steps.iter().sum::<f64>() / steps.len() as f64;
            assert!(mean > LEAST_MOTION, "{kind:?} seed {seed}: {mean:.3}");
            for (when, part) in [("starts", &steps[..4]), ("ends", &steps[16..])] {
                let motion = part.iter().sum::<f64>() / 4.0;
                assert!(motion > 0.2 * LEAST_MOTION, "{kind:?} seed {seed} {when} with {motion:.3}");
            }
        }
    }
}

#[test]
fn endless_scenes_move_after_five_minutes() {
    let mut seen = Vec::new();
    for seed in 0..30 {
        let mut scene = Scene::endless(seed, 48, 48);
        let often_enough = seen.iter().filter(|&&kind| kind == scene.kind()).count() >= 2;
        if often_enough {
            continue;
        }
        seen.push(scene.kind());
        scene.advance(300.0);
        let mut last = scene.render();
        let mut motion = 0.0;
        for _ in 0..20 {
            scene.advance(INTERVAL_S);
            let picture = scene.render();
            motion += mean_difference(&last, &picture) / 20.0;
            last = picture;
        }
        assert!(motion > LEAST_MOTION, "{:?} seed {seed}: {motion:.3}", scene.kind());
    }
    assert!(Kind::ALL.iter().all(|kind| seen.contains(kind)), "{seen:?}");
}

#[test]
fn odd_sizes_and_times_are_survived() {
    for (width, height) in [(1, 1), (0, 0), (7, 90), (200, 9), (33, 17)] {
        for kind in Kind::ALL {
            let mut scene = Scene::of_kind(kind, Split::Train, 5, width, height);
            scene.advance(f64::NAN);
            scene.advance(-1.0);
            scene.advance(1.0);
            assert_eq!(scene.render().dim(), (height.max(1), width.max(1), 3));
        }
    }
}

#[test]
fn a_scene_looks_the_same_at_any_resolution() {
    for kind in Kind::ALL {
        let small = Scene::of_kind(kind, Split::Train, 11, 64, 64).render();
        let large = Scene::of_kind(kind, Split::Train, 11, 128, 128).render();
        let halved = Picture::from_shape_fn((64, 64, 3), |(y, x, c)| {
            let at = |dy, dx| u32::from(large[[2 * y + dy, 2 * x + dx, c]]);
            ((at(0, 0) + at(0, 1) + at(1, 0) + at(1, 1) + 2) / 4) as u8
        });
        let difference = mean_difference(&small, &halved);
        assert!(difference < 1.5, "{kind:?}: {difference:.2}");
    }
}

/// What a trace says moved can be moved back: pixels read at their displaced places are the earlier picture's.
#[test]
fn traces_say_where_things_were() {
    for kind in Kind::ALL {
        let (mut known, mut off, mut still_off) = (0, 0.0, 0.0);
        for seed in 0..4 {
            let mut scene = Scene::of_kind(kind, Split::Train, seed, 96, 80);
            let (before, then) = (scene.render(), scene.trace());
            scene.advance(INTERVAL_S);
            let (after, displacements) = (scene.render(), scene.trace().displacements_to(&then, 1));
            for ((row, column), moved) in ndarray::indices((80, 96)).into_iter().zip(displacements.rows()) {
                let (x, y) = (column as f32 + moved[0], row as f32 + moved[1]);
                if moved[0].is_nan() || moved.iter().all(|pixels| pixels.abs() < 0.5) {
                    continue;
                }
                let (near_x, near_y) = (x.round_ties_even() as usize, y.round_ties_even() as usize);
                let levels = |from: (usize, usize)| -> f64 {
                    let (from_row, from_column) = (from.0.min(79), from.1.min(95));
                    let off = |i| before[[from_row, from_column, i]].abs_diff(after[[row, column, i]]);
                    (0..3).map(|i| f64::from(off(i))).sum()
                };
                known += 1;
                off += levels((near_y, near_x));
                still_off += levels((row, column));
            }
        }
        assert!(known > 200, "{kind:?}: {known} pixels");
        assert!(off < 0.3 * still_off, "{kind:?}: {off} against {still_off} where nothing is moved");
    }
}

/// Points of one thing keep their distances, whatever it does.
#[test]
fn things_move_as_a_whole() {
    for kind in Kind::ALL {
        let mut pairs = 0;
        for seed in 0..4 {
            let mut scene = Scene::of_kind(kind, Split::Train, seed, 96, 80);
            let now = scene.trace();
            scene.advance(INTERVAL_S);
            let displacements = now.displacements_to(&scene.trace(), 4);
            let points: Vec<_> = now
                .things(4)
                .indexed_iter()
                .map(|((row, column), &thing)| {
                    let [x, y] = [0, 1].map(|axis| displacements[[row, column, axis]]);
                    (thing, [4.0 * column as f32, 4.0 * row as f32], [x, y])
                })
                .filter(|(thing, _, moved)| *thing > 0 && !moved[0].is_nan())
                .collect();
            for (index, (thing, place, moved)) in points.iter().enumerate() {
                for (_, other, by) in points[..index].iter().filter(|(number, ..)| number == thing) {
                    let between = |a: [f32; 2], b: [f32; 2]| (a[0] - b[0]).hypot(a[1] - b[1]);
                    let after = |place: &[f32; 2], by: &[f32; 2]| [place[0] + by[0], place[1] + by[1]];
                    let (then, before) =
                        (between(after(place, moved), after(other, by)), between(*place, *other));
                    assert!((then - before).abs() < 0.01, "{kind:?}: {before} pixels apart, then {then}");
                    pairs += 1;
                }
            }
        }
        assert!(pairs > 50, "{kind:?}: {pairs} pairs");
    }
}

/// A bob and its rod are one thing.
#[test]
fn what_is_fixed_to_each_other_is_one_thing() {
    for seed in 0..4 {
        let now = Scene::of_kind(Kind::Pendulum, Split::Train, seed, 96, 80).trace();
        let shift = [7.0, 0.0];
        let moved = now.moved(&[Way::default(), Way { turn_rad: 0.0, shift }]);
        let (back, things) = (moved.displacements_to(&now, 1), moved.things(1));
        let of_it: Vec<_> = things.indexed_iter().filter(|(_, thing)| **thing == 1).collect();
        let rows = of_it.iter().map(|((row, _), _)| *row);
        // Half of the frame is higher than any bob.
        assert!(rows.clone().max().unwrap() - rows.min().unwrap() > 40, "{} pixels", of_it.len());
        for ((row, column), _) in of_it {
            let x = back[[row, column, 0]];
            assert!(x.is_nan() || (x + 7.0).abs() < 0.01, "{x} pixels");
        }
    }
}

/// Things keep their numbers when others come and go.
#[test]
fn things_are_numbered_as_before() {
    let (mut known, mut kept, mut shifted) = (0, 0, 0);
    for seed in 0..8 {
        let mut scene = Scene::of_kind(Kind::Conveyor, Split::Train, seed, 96, 80);
        for _ in 0..10 {
            let before = scene.trace();
            scene.advance(5.0 * INTERVAL_S);
            let now = scene.trace();
            let (back, numbers) = (now.displacements_to(&before, 2), now.things_as_of(&before, 2));
            let (plain, at_first) = (now.things(2), before.things(1));
            for ((row, column), moved) in ndarray::indices(plain.dim()).into_iter().zip(back.rows()) {
                if moved[0].is_nan() || plain[[row, column]] == 0 {
                    continue;
                }
                let at = |index: usize, by: f32| (2.0 * index as f32 + 0.5 + by).round_ties_even() as usize;
                let (y, x) = (at(row, moved[1]).clamp(1, 78), at(column, moved[0]).clamp(1, 94));
                let thing = at_first[[y, x]];
                // Away from edges, where a pixel has more than one thing.
                let around = at_first.slice(ndarray::s![y - 1..=y + 1, x - 1..=x + 1]);
                if around.iter().any(|&other| other != thing) {
                    continue;
                }
                known += 1;
                kept += usize::from(numbers[[row, column]] == Some(thing));
                shifted += usize::from(plain[[row, column]] != thing);
            }
        }
    }
    assert!(known > 5000 && kept == known, "{kept} of {known} pixels");
    assert!(shifted > 500, "{shifted} pixels of things that had other numbers");
}

/// What is moved by a trace is as far from where it was as it was told to go.
#[test]
fn things_go_the_way_they_are_told() {
    let scene = Scene::of_kind(Kind::Bounce, Split::Train, 1, 96, 80);
    let now = scene.trace();
    let things = now.things(1).iter().max().copied().unwrap_or_default();
    let quarter = Way { turn_rad: std::f64::consts::FRAC_PI_2, shift: [3.0, -2.0] };
    let turned = now.moved(&vec![quarter; things + 1]);
    let (back, labels) = (turned.displacements_to(&now, 1), turned.things(1));
    let mut found = 0;
    for ((row, column), moved) in ndarray::indices((80, 96)).into_iter().zip(back.rows()) {
        if moved[0].is_nan() {
            continue;
        }
        // From the frame's middle; the ground does not turn.
        let (x, y) = (column as f32 + 0.5 - 48.0, row as f32 + 0.5 - 40.0);
        let expected = match labels[[row, column]] {
            0 => [-3.0, 2.0],
            _ => [(y + 2.0) - x, -(x - 3.0) - y],
        };
        found += usize::from(labels[[row, column]] > 0);
        let off = [0, 1].map(|axis| (moved[axis] - expected[axis]).abs());
        assert!(off.iter().all(|off| *off < 0.01), "{off:?} pixels off");
    }
    assert!(found > 50, "{found} pixels of things");
    assert_eq!(now.moved(&[]).displacements_to(&now, 8), now.displacements_to(&now, 8));
}
