//! Opens a source and shows what comes: `look URI [--size 128x128] [--fit crop] [--frames 20] [--out look.png] [--realtime]`.

#![allow(clippy::print_stdout)] // a program for a terminal

use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use nextclip_media::strip::{Group, Row, Section, Strip};
use nextclip_media::{Fit, Received, SourceConfig, save_png};

fn main() -> anyhow::Result<()> {
    let mut words = std::env::args().skip(1);
    let uri = words
        .next()
        .context("look URI [--size WxH] [--fit crop|letterbox|stretch] [--frames N] [--out PNG]")?;
    let (mut width, mut height, mut fit, mut frames) = (128, 128, Fit::Crop, 20);
    let (mut out, mut realtime) = (None, false);
    while let Some(word) = words.next() {
        if word == "--realtime" {
            realtime = true;
            continue;
        }
        let value = words.next().with_context(|| format!("{word} needs a value"))?;
        match word.as_str() {
            "--size" => {
                let (w, h) = value.split_once('x').context("--size 128x128")?;
                (width, height) = (w.parse()?, h.parse()?);
            }
            "--fit" => fit = value.parse().map_err(anyhow::Error::msg)?,
            "--frames" => frames = value.parse()?,
            "--out" => out = Some(value),
            _ => bail!("{word} is not known"),
        }
    }

    let started = Instant::now();
    let mut source = SourceConfig { uri: uri.parse()?, width, height, fit, realtime }.build()?;
    println!("{} after {:.0} ms", source.describe(), started.elapsed().as_secs_f64() * 1e3);
    let mut pictures = Vec::new();
    let (mut seen, mut newest_ns, mut latency_ms) = (0_usize, 0, 0.0);
    while seen < frames {
        match source.receive(Duration::from_secs(2))? {
            Received::Frame(frame) => {
                latency_ms += frame.captured_at.elapsed().as_secs_f64() * 1e3;
                (seen, newest_ns) = (seen + 1, frame.captured_ns);
                if pictures.len() < 8 && seen % frames.div_ceil(8).max(1) == 1 % frames.div_ceil(8).max(1) {
                    pictures.push((format!("{:.2} s", frame.captured_ns as f64 / 1e9), frame.picture));
                }
            }
            Received::End => break,
            Received::TimedOut => println!("nothing for 2 s"),
        }
    }
    let took_s = started.elapsed().as_secs_f64();
    println!(
        "{seen} frames in {took_s:.2} s, the last at {:.3} s, mean latency {:.1} ms, {:?}",
        newest_ns as f64 / 1e9,
        latency_ms / seen.max(1) as f64,
        source.counts()
    );
    if let Some(out) = out {
        let (labels, pictures): (Vec<_>, Vec<_>) = pictures.into_iter().unzip();
        let row = Row::new("seen", pictures.into_iter().map(Some));
        let strip = Strip {
            title: source.describe(),
            groups: vec![Group::new("stream time", labels)],
            sections: vec![Section { rows: vec![row], ..Section::default() }],
            ..Strip::default()
        };
        save_png(&out, &strip.draw())?;
    }
    Ok(())
}
