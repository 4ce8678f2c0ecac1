//! Serves a film, or a generated scene, as a network camera: `serve_rtsp FILE [--port N]` or `serve_rtsp scene:SEED`.

#![allow(clippy::print_stdout)] // a program for a terminal

use anyhow::{Context, bail};
use nextclip_media::rtsp_server::{RtspCamera, Served};

fn main() -> anyhow::Result<()> {
    let mut words = std::env::args().skip(1);
    let what = words.next().context("serve_rtsp FILE|scene:SEED [--port N]")?;
    let port = match (words.next().as_deref(), words.next()) {
        (None, None) => 8554,
        (Some("--port"), Some(port)) => port.parse().with_context(|| format!("--port {port}"))?,
        _ => bail!("serve_rtsp FILE|scene:SEED [--port N]"),
    };
    let served = match what.strip_prefix("scene:") {
        Some(seed) => {
            let seed = seed.parse().with_context(|| format!("scene:{seed}"))?;
            Served::Scene { seed, rate: (30, 1), size: (640, 480) }
        }
        None => Served::File(what.as_str().into()),
    };
    let camera = RtspCamera::start(&served, port)?;
    println!("{what} at {} until interrupted", camera.url());
    loop {
        std::thread::park();
    }
}
