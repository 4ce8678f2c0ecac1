//! Times every graph of a bundle: `cargo run --release -p nextclip-predictor --example speed -- BUNDLE [THREADS]`.
#![allow(clippy::print_stdout, reason = "an example's answer goes to standard output")]

use std::error::Error;
use std::path::PathBuf;
use std::time::Instant;

use ndarray::Array3;
use nextclip_core::{Latents, Picture};
use nextclip_predictor::{Predictor, Settings};

const RUNS: usize = 30;

fn main() -> Result<(), Box<dyn Error>> {
    let mut arguments = std::env::args().skip(1);
    let bundle = PathBuf::from(arguments.next().ok_or("usage: speed BUNDLE [THREADS]")?);
    let threads = arguments.next().map(|threads| threads.parse()).transpose()?;
    let mut predictor = Predictor::open(&bundle, &Settings { threads, ..Settings::default() })?;
    let geometry = predictor.manifest().geometry;
    let (c, h, w) = (geometry.latent_channels, geometry.latent_height(), geometry.latent_width());
    let latent = Array3::zeros((c, h, w));
    let clip = Latents::zeros((geometry.clip, c, h, w));
    for _ in 0..geometry.history {
        predictor.remember(latent.view())?;
    }
    if predictor.manifest().graphs.encode.is_some() {
        let frame = Picture::from_elem((geometry.height, geometry.width, 3), 128);
        time("encode", || predictor.encode(&frame).map(drop))?;
    }
    time("remember", || predictor.remember(latent.view()))?;
    time("denoise", || predictor.denoise(&clip, 0.0, 1.0).map(drop))?;
    if predictor.manifest().graphs.decode.is_some() {
        time("decode", || predictor.decode(&clip).map(drop))?;
    }
    Ok(())
}

/// Median and extremes: other programs share the machine.
fn time<E>(graph: &str, mut run: impl FnMut() -> Result<(), E>) -> Result<(), E> {
    run()?;
    let mut times_ms = Vec::with_capacity(RUNS);
    for _ in 0..RUNS {
        let start = Instant::now();
        run()?;
        times_ms.push(start.elapsed().as_secs_f64() * 1e3);
    }
    times_ms.sort_by(f64::total_cmp);
    let (least, median, most) = (times_ms[0], times_ms[RUNS / 2], times_ms[RUNS - 1]);
    println!("{graph:9} median {median:7.2} ms  ({least:.2} to {most:.2}, {RUNS} runs)");
    Ok(())
}
