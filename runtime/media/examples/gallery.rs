//! Draws a strip and a loss curve from a generated scene: `gallery FOLDER`, to see how they look.

use anyhow::Context;
use nextclip_media::plot::{Line, Plot};
use nextclip_media::strip::{Group, Row, Section, Strip, difference};
use nextclip_media::{Picture, save_png};
use nextclip_scenes::Scene;

fn main() -> anyhow::Result<()> {
    let folder = std::env::args().nth(1).context("gallery FOLDER")?;
    let mut sections = Vec::new();
    for seed in [3, 11] {
        let mut scene = Scene::endless(seed, 128, 128);
        let mut next = || {
            scene.advance(0.2);
            Some(scene.render())
        };
        let actual: Vec<Option<Picture>> = std::iter::repeat_with(&mut next).take(8).collect();
        // A predictor that is always one frame late, to have something to see.
        let predicted = actual[2..7].iter().cloned();
        let repeated = std::iter::repeat_n(actual[2].clone(), 5);
        let past = [None, None, None];
        let apart = |pictures: Vec<Option<Picture>>| {
            let pairs = actual[3..].iter().zip(pictures);
            pairs.map(|(a, b)| difference(a.as_ref()?, b.as_ref()?, 4.0)).collect::<Vec<_>>()
        };
        let rows = vec![
            Row::new("camera", actual.clone()).with_note("what came"),
            Row::new("predicted", past.iter().cloned().chain(predicted.clone())).with_note("24.1 dB"),
            Row::new("last frame", past.iter().cloned().chain(repeated)).with_note("repeated\n20.3 dB"),
            Row::new("difference", past.iter().cloned().chain(apart(predicted.collect())))
                .with_note("of predicted\nx 4"),
        ];
        sections.push(Section { title: format!("at {seed}.0 s of the stream"), rows });
    }
    let strip = Strip {
        title: "test://?seed=3: one second ahead".into(),
        subtitle: "made at \"now\", before the pictures to its right existed".into(),
        groups: vec![
            Group::new("seen", ["-0.4 s", "-0.2 s", "now"]),
            Group::new("future", ["+0.2 s", "+0.4 s", "+0.6 s", "+0.8 s", "+1.0 s"]),
        ],
        sections,
        ..Strip::default()
    };
    save_png(format!("{folder}/strip.png"), &strip.draw())?;

    let noise = |step: f64| (step * 12.9898).sin() * 43_758.547 % 1.0;
    let loss = |step: f64| 0.8 * (step / 50.0 + 1.0).powf(-0.7) * (1.0 + 0.25 * noise(step)) + 0.01;
    let raw = Line::new("", (0..3000).map(|step| (f64::from(step), loss(f64::from(step)))).collect());
    let held_out = (0..=6).map(|n| (f64::from(n * 500), 1.1 * loss(f64::from(n * 500)))).collect();
    let plot =
        Plot { log_y: true, ..Plot::new("training loss", "step", "mean squared error of the estimate") };
    let smooth = raw.smoothed("training", 60);
    let plot = plot.with(raw.faint()).with(smooth).with(Line::new("held out", held_out));
    save_png(format!("{folder}/plot.png"), &plot.draw(900, 500))?;
    let linear = Plot { log_y: false, ..plot };
    save_png(format!("{folder}/linear.png"), &linear.draw(480, 300))?;
    Ok(())
}
