//! Pictures of the future keep of the newest frame what is not predicted to change, and nothing else.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use nextclip_core::sampler::noise;
use nextclip_core::{Latents, Picture};
use nextclip_predictor::{Predictor, Settings};
use nextclip_tests::{RandomCheckpoint, TINY};

// Levels: too few to count as change, and enough to be one beyond doubt.
const FAINT: u8 = 3;
const CLEAR: u8 = 90;

#[test]
fn what_does_not_change_is_the_last_frame_and_what_does_is_predicted() {
    let folder = tempfile::tempdir().unwrap();
    let bundle = folder.path().join("bundle");
    RandomCheckpoint::tiny().export(&bundle).unwrap();
    let mut predictor = Predictor::open(&bundle, &Settings::default()).unwrap();
    let shape = (TINY.clip, TINY.latent_channels, TINY.latent_height(), TINY.latent_width());
    let one = noise(5, 0, TINY.latent_len());
    let clip = Latents::from_shape_fn(shape, |(_, c, y, x)| {
        one[(c * TINY.latent_height() + y) * TINY.latent_width() + x]
    });
    let predicted = predictor.decode(&clip).unwrap();
    // Nothing was seen yet: nothing can be kept.
    assert_eq!(predictor.render(&clip).unwrap(), predicted);

    // The last frame is a little off the prediction at the left and far off at the right.
    let middle = TINY.width / 2;
    let shifted = |value: u8, by: u8| if value < 128 { value + by } else { value - by };
    let last = Picture::from_shape_fn((TINY.height, TINY.width, 3), |(y, x, c)| {
        shifted(predicted[0][[y, x, c]], if x < middle { FAINT } else { CLEAR })
    });
    predictor.see(&last).unwrap();
    for (frame, plain) in predictor.render(&clip).unwrap().iter().zip(&predicted) {
        for ((y, x, c), value) in frame.indexed_iter() {
            // Around the middle both are mixed.
            if x + 3 < middle {
                assert_eq!(*value, last[[y, x, c]], "not kept at {y} {x} {c}");
            } else if x > middle + 3 {
                assert_eq!(*value, plain[[y, x, c]], "not predicted at {y} {x} {c}");
            }
        }
    }

    predictor.forget();
    assert_eq!(predictor.render(&clip).unwrap(), predicted, "a forgotten frame was kept");
}
