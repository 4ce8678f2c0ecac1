//! How fast the mathematics is: `cargo bench -p nextclip-quant` prints a table. Nothing here can fail on a
//! slow day.
#![allow(clippy::print_stdout)]

use std::hint::black_box;
use std::time::Instant;

use nextclip_quant::{
    Bits, BlockFormat, BlockScale, Error, GptqSettings, Hessian, Histogram, Observer, Rotation, awq_scales,
    gptq, per_block, per_channel, per_channel_mse,
};

const K: usize = 1024;
const N: usize = 1024;

fn main() -> Result<(), Error> {
    let weights = wavy(K * N);
    let inputs = wavy(2048 * K);
    let four = BlockFormat { bits: Bits::Four, block: 32 };
    println!("{K} x {N} weights, {} rows of inputs; one thread", inputs.len() / K);
    println!("{:34} {:>10} {:>16}", "what", "ms", "million values/s");
    row("per_channel, 8 bit", weights.len(), || per_channel(&weights, &[K, N], 1))?;
    row("per_channel_mse, 8 bit", weights.len(), || per_channel_mse(&weights, &[K, N], 1))?;
    row("per_block min-max, 4 bit", weights.len(), || per_block(&weights, [K, N], four, BlockScale::MinMax))?;
    row("per_block mse, 4 bit", weights.len(), || per_block(&weights, [K, N], four, BlockScale::Mse))?;

    let mut histogram = Histogram::new();
    row("Histogram::add", inputs.len(), || histogram.add(&inputs))?;
    row("range by entropy", 1, || histogram.range(Observer::Entropy))?;
    row("range by mse", 1, || histogram.range(Observer::Mse))?;

    let mut hessian = Hessian::new(K);
    row("Hessian::add", inputs.len(), || hessian.add(&inputs))?;
    row("gptq, 4 bit", weights.len(), || gptq(&weights, [K, N], &hessian, four, &GptqSettings::default()))?;
    row("awq_scales, 4 bit", weights.len(), || {
        awq_scales(&weights, [K, N], &hessian, four, BlockScale::MinMax)
    })?;
    let mut rotated = weights.clone();
    row("Rotation::rotate_inputs", weights.len(), || Rotation::seeded(K, 1).rotate_inputs(&mut rotated))
}

fn row<T>(what: &str, values: usize, mut work: impl FnMut() -> Result<T, Error>) -> Result<(), Error> {
    let start = Instant::now();
    black_box(work()?);
    let seconds = start.elapsed().as_secs_f64();
    println!("{what:34} {:10.1} {:16.1}", 1e3 * seconds, values as f64 / seconds / 1e6);
    Ok(())
}

/// Values without a pattern that matters, some of them large.
fn wavy(count: usize) -> Vec<f32> {
    let value = |i: usize| {
        let phase = (i.wrapping_mul(2_654_435_761) % 1_000_003) as f32;
        let wave = (phase * 0.37).sin() + 0.5 * (phase * 1.91).cos();
        wave * wave * wave
    };
    (0..count).map(value).collect()
}
