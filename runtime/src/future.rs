//! `nextclipd predict`: the future of some pictures or of a film, without a camera.

mod input;

use std::path::Path;
use std::sync::Arc;
use std::time::{Instant, SystemTime};

use nextclip_core::{Picture, Span, say};
use nextclip_media::{Mp4Writer, save_png};
use nextclip_predictor::{Predictor, Settings};

use crate::cli::PredictFlags;
use crate::drawing::{Comparison, film_frame};
use crate::model::require_pictures;
use crate::prediction::{Prediction, Scored};
use input::{Input, Wanted};

/// Reads the input, predicts, writes the pictures, the strip and the film, and prints where they are.
pub fn predict(flags: &PredictFlags) -> anyhow::Result<()> {
    nextclip_predictor::init_onnx_runtime(None)?;
    let settings = Settings {
        threads: flags.threads.map(usize::from),
        steps: flags.steps.map(usize::from),
        provider: flags.provider,
        ..Settings::default()
    };
    let mut predictor = Predictor::open(&flags.bundle, &settings)?;
    require_pictures(&predictor.manifest().graphs)?;
    let geometry = predictor.manifest().geometry;
    let future = usize::from(flags.clips) * geometry.clip;
    let Input { past, came } =
        Wanted { geometry, fit: flags.fit, at_s: flags.at, future }.read(&flags.input)?;
    if past.len() < geometry.history {
        log::warn!("{} frames to predict from; the model was made for {}", past.len(), geometry.history);
    }

    let start = Instant::now();
    let future = roll_out(&mut predictor, &past, flags)?;
    let prediction = Arc::new(Prediction {
        id: 0,
        span: Span {
            from_ns: (flags.at.unwrap_or_default() * 1e9) as u64,
            interval_ns: u64::from(geometry.frame_interval_ms) * 1_000_000,
            frames: future.len(),
        },
        issued_at: SystemTime::now(),
        latency: start.elapsed(),
        steps: predictor.steps(),
        past,
        future,
    });
    let mut came: Vec<_> = came.into_iter().map(|picture| Some(Arc::new(picture))).collect();
    came.resize(prediction.future.len(), None);
    let scored = Scored::new(Arc::clone(&prediction), came);
    write(&flags.out, &prediction, scored.as_ref())?;
    print(&flags.out, &prediction, scored.as_ref());
    Ok(())
}

/// Predicts clip after clip, each from those before it.
fn roll_out(
    predictor: &mut Predictor,
    past: &[Arc<Picture>],
    flags: &PredictFlags,
) -> Result<Vec<Picture>, nextclip_predictor::Error> {
    for picture in past {
        predictor.see(picture)?;
    }
    let mut future = Vec::new();
    for clip in 0..flags.clips {
        let latents = predictor.predict(flags.seed, u64::from(clip))?;
        let pictures = predictor.render(&latents)?;
        if clip + 1 < flags.clips {
            predictor.follow(&latents, &pictures)?;
        }
        future.extend(pictures);
    }
    Ok(future)
}

fn write(out: &Path, prediction: &Prediction, scored: Option<&Scored>) -> anyhow::Result<()> {
    for (index, picture) in prediction.future.iter().enumerate() {
        save_png(out.join(format!("predicted-{:02}.png", index + 1)), picture)?;
    }
    let came = || match scored {
        Some(scored) => scored.actual.iter().map(Option::as_deref).collect(),
        None => vec![None; prediction.future.len()],
    };
    let title = match scored {
        Some(scored) => format!("{:+.1} dB over the last frame repeated", scored.gain_db()),
        None => "the future, as predicted".into(),
    };
    let comparison = Comparison {
        title,
        subtitle: format!(
            "{} frames seen, {:.1} s predicted in {:.0} ms",
            prediction.past.len(),
            prediction.horizon_ms() / 1e3,
            prediction.latency_ms()
        ),
        interval_s: prediction.span.interval_ns as f64 / 1e9,
        past: &prediction.past,
        future: &prediction.future,
        came: came(),
        psnr_db: scored.map(|scored| (scored.psnr.mean_db, scored.last_frame.mean_db)),
    };
    save_png(out.join("strip.png"), &comparison.strip())?;
    write_film(&out.join("predicted.mp4"), prediction, &came())
}

/// The past, then the prediction, beside what came where anything did.
fn write_film(path: &Path, prediction: &Prediction, came: &[Option<&Picture>]) -> anyhow::Result<()> {
    let compares = came.iter().any(Option::is_some);
    let nothing = prediction.past.first().map(|picture| Picture::zeros(picture.dim()));
    let caption = |text: &str, index: usize| {
        let ahead_s = (index + 1) as f64 * prediction.span.interval_ns as f64 / 1e9;
        format!("{text}, {ahead_s:+.1} s")
    };
    let past = prediction.past.iter().map(|picture| {
        let both = [("seen".to_owned(), picture.as_ref()), ("seen".to_owned(), picture.as_ref())];
        film_frame(both.into_iter().take(if compares { 2 } else { 1 }))
    });
    let future = prediction.future.iter().zip(came).enumerate().map(|(index, (predicted, came))| {
        let came = came.or(nothing.as_ref()).filter(|_| compares);
        let predicted = (caption("predicted", index), predicted);
        film_frame([predicted].into_iter().chain(came.map(|came| (caption("actual", index), came))))
    });
    let mut writer: Option<Mp4Writer> = None;
    for frame in past.chain(future) {
        let writer = match &mut writer {
            Some(writer) => writer,
            None => {
                let (height, width, _) = frame.dim();
                let interval_ms = u32::try_from(prediction.span.interval_ns / 1_000_000)?;
                writer.insert(Mp4Writer::create(path, width, height, (1000, interval_ms))?)
            }
        };
        writer.push(&frame)?;
    }
    Ok(writer.map_or(Ok(()), Mp4Writer::finish)?)
}

fn print(out: &Path, prediction: &Prediction, scored: Option<&Scored>) {
    say!("strip: {}", out.join("strip.png").display());
    say!("video: {}", out.join("predicted.mp4").display());
    let compared = scored.map_or(0, |scored| scored.actual.iter().flatten().count());
    let (seen, predicted) = (prediction.past.len(), prediction.future.len());
    let measures = scored.map_or_else(String::new, |scored| {
        let [psnr, last, linear] =
            [&scored.psnr, &scored.last_frame, &scored.linear].map(|score| score.mean_db);
        let gain = scored.gain_db();
        format!(" psnr_db={psnr:.2} last_frame_db={last:.2} linear_db={linear:.2} gain_db={gain:.2}")
    });
    say!("seen={seen} predicted={predicted} compared={compared}{measures}");
}
