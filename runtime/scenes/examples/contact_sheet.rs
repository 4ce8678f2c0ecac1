//! Writes a contact sheet of every kind and prints how well the last picture predicts the next ones.
//!
//! `cargo run --release -p nextclip-scenes --example contact_sheet -- sheet.png`

#![allow(clippy::print_stdout)]

use std::time::Instant;

use anyhow::Context;
use nextclip_core::metrics;
use nextclip_scenes::{Kind, Picture, Scene, Split, clip};

const SIDE_PX: usize = 128;
const FRAMES: usize = 12;
const INTERVAL_S: f64 = 0.2;
const CLIPS: u64 = 200;

fn main() -> anyhow::Result<()> {
    let path = std::env::args().nth(1).unwrap_or_else(|| "contact_sheet.png".into());
    let seeds = [1, 2];
    let rows = Kind::ALL.iter().flat_map(|&kind| seeds.map(|seed| (kind, seed)));
    let gap = 2;
    let tile = SIDE_PX + gap;
    let height = tile * Kind::ALL.len() * seeds.len();
    let mut sheet = image::RgbImage::from_pixel((tile * FRAMES) as u32, height as u32, image::Rgb([255; 3]));
    for (row, (kind, seed)) in rows.enumerate() {
        let mut scene = Scene::of_kind(kind, Split::HeldOut, seed, SIDE_PX, SIDE_PX);
        for column in 0..FRAMES {
            for ((y, x, channel), &value) in scene.render().indexed_iter() {
                let pixel = sheet.get_pixel_mut((column * tile + x) as u32, (row * tile + y) as u32);
                pixel.0[channel] = value;
            }
            scene.advance(INTERVAL_S);
        }
    }
    sheet.save(&path).with_context(|| format!("writing {path}"))?;

    print_last_frame_psnr();
    print_render_times();
    Ok(())
}

/// One exact copy must not make a mean infinite.
fn psnr_db(a: &Picture, b: &Picture) -> f64 {
    metrics::psnr_db(a, b).unwrap_or(f64::NAN).min(metrics::EXACT_COPY_DB)
}

fn print_last_frame_psnr() {
    let (history, horizons) = (7, 5);
    let mut sums = vec![0.0; horizons];
    for seed in 0..CLIPS {
        let pictures = clip(Split::HeldOut, seed, SIDE_PX, SIDE_PX, history + horizons, INTERVAL_S);
        let (last, future) = (&pictures[history - 1], &pictures[history..]);
        for (sum, picture) in sums.iter_mut().zip(future) {
            *sum += psnr_db(last, picture);
        }
    }
    for (horizon, sum) in sums.iter().enumerate() {
        println!("last frame repeated, horizon {}: {:.2} dB", horizon + 1, sum / CLIPS as f64);
    }
}

fn print_render_times() {
    for kind in Kind::ALL {
        let started = Instant::now();
        let mut scenes: Vec<_> =
            (0..10).map(|seed| Scene::of_kind(kind, Split::Train, seed, SIDE_PX, SIDE_PX)).collect();
        let set_up_ms = started.elapsed().as_secs_f64() * 1e3 / 10.0;
        let (mut render_ms, mut psnr) = (0.0, 0.0);
        for scene in &mut scenes {
            let mut last = scene.render();
            for _ in 0..20 {
                scene.advance(INTERVAL_S);
                let started = Instant::now();
                let picture = scene.render();
                render_ms += started.elapsed().as_secs_f64() * 1e3 / 200.0;
                psnr += psnr_db(&last, &picture) / 200.0;
                last = picture;
            }
        }
        println!("{kind:?}: set-up {set_up_ms:.2} ms, render {render_ms:.3} ms, last frame {psnr:.2} dB");
    }
}
