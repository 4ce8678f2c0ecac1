//! Times every graph of one bundle, or of several in turn, so that what else runs on the machine slows all of
//! them alike: `cargo run --release -p nextclip-predictor --example speed -- BUNDLE... [--threads N]`.
#![allow(clippy::print_stdout, reason = "an example's answer goes to standard output")]

use std::error::Error;
use std::path::PathBuf;
use std::time::Instant;

use ndarray::{Array3, Array4};
use nextclip_core::sampler::noise;
use nextclip_core::{Latents, Picture};
use nextclip_predictor::{DECODE, DENOISE, ENCODE, Predictor, REMEMBER, Settings};

const RUNS: usize = 31;

fn main() -> Result<(), Box<dyn Error>> {
    let (mut bundles, mut threads) = (Vec::new(), None);
    let mut arguments = std::env::args().skip(1);
    while let Some(argument) = arguments.next() {
        match argument.as_str() {
            "--threads" => threads = Some(arguments.next().ok_or("--threads needs a number")?.parse()?),
            _ => bundles.push(PathBuf::from(argument)),
        }
    }
    if bundles.is_empty() {
        return Err("usage: speed BUNDLE... [--threads N]".into());
    }
    let settings = Settings { threads, ..Settings::default() };
    let mut subjects = bundles
        .iter()
        .map(|bundle| Subject::open(Predictor::open(bundle, &settings)?))
        .collect::<Result<Vec<_>, Box<dyn Error>>>()?;
    println!("{} threads, {}", threads.map_or("all".into(), |n: usize| n.to_string()), instructions());
    println!("graph     median ms (least)           the first's time over each one's");
    for graph in [ENCODE, REMEMBER, DENOISE, DECODE] {
        let mut times_ms = vec![Vec::with_capacity(RUNS); subjects.len()];
        for run in 0..=RUNS {
            for (subject, times_ms) in subjects.iter_mut().zip(&mut times_ms) {
                let start = Instant::now();
                subject.run(graph)?;
                // The first run of each warms up.
                if run > 0 {
                    times_ms.push(start.elapsed().as_secs_f64() * 1e3);
                }
            }
        }
        times_ms.iter_mut().for_each(|times| times.sort_by(f64::total_cmp));
        let median = |times: &[f64]| times[RUNS / 2];
        let first = median(&times_ms[0]);
        let cells: Vec<String> =
            times_ms.iter().map(|times| format!("{:7.2} ({:6.2})", median(times), times[0])).collect();
        let ratios: Vec<String> =
            times_ms.iter().map(|times| format!("{:.2}x", first / median(times))).collect();
        println!("{graph:9} {}   {}", cells.join("  "), ratios.join("  "));
    }
    Ok(())
}

/// A bundle with its inputs.
struct Subject {
    predictor: Predictor,
    frame: Picture,
    latent: Array3<f32>,
    clip: Latents,
}

impl Subject {
    /// Fills the history, as after the first seconds of a stream.
    fn open(mut predictor: Predictor) -> Result<Self, Box<dyn Error>> {
        let geometry = predictor.manifest().geometry;
        let (c, h, w) = (geometry.latent_channels, geometry.latent_height(), geometry.latent_width());
        let latent = Array3::from_shape_vec((c, h, w), noise(1, 0, c * h * w))?;
        let clip = Array4::from_shape_vec((geometry.clip, c, h, w), noise(1, 1, geometry.clip * c * h * w))?;
        for _ in 0..geometry.history {
            predictor.remember(latent.view())?;
        }
        let frame = Picture::from_elem((geometry.height, geometry.width, 3), 128);
        Ok(Self { predictor, frame, latent, clip })
    }

    fn run(&mut self, graph: &str) -> Result<(), nextclip_predictor::Error> {
        match graph {
            ENCODE => self.predictor.encode(&self.frame).map(drop),
            REMEMBER => self.predictor.remember(self.latent.view()),
            DENOISE => self.predictor.denoise(&self.clip, 0.0, 1.0).map(drop),
            _ => self.predictor.decode(&self.clip).map(drop),
        }
    }
}

/// What integer products are made of here: 8-bit speed depends on it.
fn instructions() -> &'static str {
    #[cfg(target_arch = "x86_64")]
    {
        if std::arch::is_x86_feature_detected!("avx512vnni") {
            return "AVX-512 with VNNI";
        }
        if std::arch::is_x86_feature_detected!("avxvnni") {
            return "AVX2 with VNNI";
        }
        if std::arch::is_x86_feature_detected!("avx2") {
            return "AVX2";
        }
    }
    std::env::consts::ARCH
}
