//! Adapting a checkpoint to a film: what may change changes, what must stay stays.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

mod common;

use std::path::{Path, PathBuf};

use common::{GEOMETRY, MOTION, course, transformer_config, vae_config};
use nextclip_core::checkpoint::Trained;
use nextclip_core::{Geometry, Motion, sampler};
use nextclip_media::Mp4Writer;
use nextclip_scenes::Split;
use nextclip_train::fit::Course;
use nextclip_train::footage::{Origin, What};
use nextclip_train::model::Model;
use nextclip_train::optim::Schedule;
use nextclip_train::params::{Params, load_tensors};
use nextclip_train::transformer::Sequence;
use nextclip_train::windows::Windows;
use nextclip_train::{checkpoint, finetune, transformer, vae};
use tch::{Device, Kind, Tensor};

const FILM_FRAMES: usize = 90;

/// A film of one scene at the model's pace, long enough to be divided.
fn film(dir: &Path) -> PathBuf {
    film_of(dir, "camera.mp4", FILM_FRAMES)
}

fn film_of(dir: &Path, name: &str, frames: usize) -> PathBuf {
    nextclip_media::init().unwrap();
    let path = dir.join(name);
    let mut writer = Mp4Writer::create(&path, GEOMETRY.width, GEOMETRY.height, (5, 1)).unwrap();
    for picture in nextclip_scenes::clip(Split::Train, 3, GEOMETRY.width, GEOMETRY.height, frames, 0.2) {
        writer.push(&picture).unwrap();
    }
    writer.finish().unwrap();
    path
}

fn random_checkpoint(dir: &Path, geometry: Geometry) -> PathBuf {
    let dir = dir.join("start");
    let config = transformer_config();
    let params = Params::new(&transformer::specs(&config, &geometry), 1, Kind::Float, Device::Cpu);
    let trained = Trained { geometry, name: "start".into(), steps: 10, motion: None };
    checkpoint::save_transformer(&dir, &config, trained, &params, Kind::Float).unwrap();
    let vae = Params::new(&vae::specs(&vae_config()), 2, Kind::Float, Device::Cpu);
    checkpoint::save_vae(&dir, &vae_config(), &vae, Kind::Float).unwrap();
    dir
}

fn plan(dir: &Path, out: &str, lora: Option<i64>) -> finetune::Plan {
    finetune::Plan {
        checkpoint: random_checkpoint(dir, GEOMETRY),
        origins: vec![Origin { what: What::Video(film(dir)), weight: 1.0 }],
        out: dir.join(out),
        course: Course {
            validate_every: 50,
            patience: Some(2),
            ..course(
                &dir.join(format!("{out}-run")),
                100,
                Schedule { peak: 1e-3, warm_up: 10, decay: 100, steps: 100 },
            )
        },
        lora,
        motion: None,
        pictures_only: false,
        reconstruction: 0.2,
        windows: Windows { batch: 2, own_past: 0.5, pool: 4, seed: 1 },
        pure_noise: 0.5,
        compute: Kind::Float,
        device: Device::Cpu,
    }
}

#[test]
fn all_weights_or_low_rank_changes_are_adapted_and_latents_stay() {
    tch::set_num_threads(1);
    let dir = tempfile::tempdir().unwrap();
    for (out, lora) in [("full", None), ("lora", Some(2))] {
        let plan = plan(dir.path(), out, lora);
        finetune::run(&plan).unwrap();

        let tensors = |dir: &Path, file: &str| load_tensors(&dir.join(file)).unwrap();
        let file = "model.safetensors";
        let (before, after) = (tensors(&plan.checkpoint, file), tensors(&plan.out, file));
        assert!(before.keys().eq(after.keys()), "an adapted checkpoint has the layout of its origin");
        let moved = |name: &str| {
            let difference = before[name].to_kind(Kind::Half) - &after[name];
            difference.abs().max().double_value(&[]) > 0.0
        };
        assert!(moved("llm.layers.0.self_attn.qkv_proj.weight"), "{out}");
        assert_eq!(moved("x_embedder.proj.weight"), lora.is_none(), "{out}");

        let file = "vae/diffusion_pytorch_model.safetensors";
        let (before, after) = (tensors(&plan.checkpoint, file), tensors(&plan.out, file));
        for (name, tensor) in &before {
            let same = tensor.to_kind(Kind::Half).equal(&after[name]);
            let decodes = name.starts_with("decoder.") || name.starts_with("post_quant_conv.");
            assert!(same || decodes, "{out}: {name} changed, and with it the latents");
        }
        let config = std::fs::read_to_string(plan.out.join("config.json")).unwrap();
        assert!(config.contains(&format!("\"name\": \"{out}\"")), "{config}");
    }
}

#[test]
fn motion_is_added_to_a_checkpoint_without_and_kept_where_it_is() {
    tch::set_num_threads(1);
    let dir = tempfile::tempdir().unwrap();
    let origins = || vec![Origin::SCENES, Origin { what: What::Video(film(dir.path())), weight: 1.0 }];
    let short = |plan: finetune::Plan| finetune::Plan {
        origins: origins(),
        course: Course { steps: 50, ..plan.course.clone() },
        ..plan
    };
    let added = finetune::Plan { motion: Some(MOTION), ..short(plan(dir.path(), "added", None)) };
    finetune::run(&added).unwrap();
    let motion_of = |dir: &Path| checkpoint::load_transformer_config(dir).unwrap().1.motion;
    assert_eq!(motion_of(&added.out), Some(MOTION));

    let again = finetune::Plan { checkpoint: added.out.clone(), ..short(plan(dir.path(), "again", None)) };
    finetune::run(&again).unwrap();
    assert_eq!(motion_of(&again.out), Some(MOTION));
    let tensors = |dir: &Path| load_tensors(&dir.join("model.safetensors")).unwrap();
    let (before, after) = (tensors(&added.out), tensors(&again.out));
    for name in ["motion.stem.0.weight", "motion.linear.weight", "motion.blend.2.weight"] {
        assert!(!before[name].equal(&after[name]), "{name} does not learn");
    }

    let low_rank = short(plan(dir.path(), "low-rank", Some(2)));
    // As long as it takes: nobody asks here whether it got better.
    let course = Course { patience: None, ..low_rank.course.clone() };
    let low_rank = finetune::Plan { checkpoint: added.out.clone(), course, ..low_rank };
    finetune::run(&low_rank).unwrap();
    let after = tensors(&low_rank.out);
    assert!(!before["motion.linear.weight"].equal(&after["motion.linear.weight"]));
    assert!(before["motion.stem.0.weight"].equal(&after["motion.stem.0.weight"]));

    let painted = short(plan(dir.path(), "painted", None));
    let painted = finetune::Plan {
        checkpoint: added.out.clone(),
        pictures_only: true,
        course: Course { patience: None, ..painted.course },
        ..painted
    };
    finetune::run(&painted).unwrap();
    let after = tensors(&painted.out);
    for (name, tensor) in &before {
        assert!(tensor.equal(&after[name]) || name.starts_with("motion.blend."), "{name} changed");
    }
    assert!(!before["motion.blend.0.weight"].equal(&after["motion.blend.0.weight"]));
    let decoder = |dir: &Path| load_tensors(&dir.join("vae/diffusion_pytorch_model.safetensors")).unwrap();
    let [before, after] = [&added.out, &painted.out].map(|dir| decoder(dir).remove("decoder.conv_in.weight"));
    assert!(!before.unwrap().equal(&after.unwrap()));

    let lora = finetune::Plan { motion: Some(MOTION), ..plan(dir.path(), "lora", Some(2)) };
    let error = finetune::run(&lora).unwrap_err().to_string();
    assert!(error.contains("low-rank"), "{error}");
}

#[test]
fn a_film_that_is_too_short_is_refused_by_name() {
    let dir = tempfile::tempdir().unwrap();
    let path = film_of(dir.path(), "short.mp4", 3);
    let origins = vec![Origin { what: What::Video(path), weight: 1.0 }];
    let plan = finetune::Plan { origins, ..plan(dir.path(), "out", None) };
    let error = format!("{:#}", finetune::run(&plan).unwrap_err());
    assert!(error.contains("short.mp4"), "{error}");
}

/// As a robot's episodes are: each is watched with what little it has before the clip.
#[test]
fn films_that_are_shorter_than_a_window_are_learned_from_and_validated_on() {
    tch::set_num_threads(1);
    let dir = tempfile::tempdir().unwrap();
    let films = dir.path().join("episodes");
    std::fs::create_dir(&films).unwrap();
    let geometry = Geometry { history: 7, ..GEOMETRY };
    let frames = geometry.history + geometry.clip - 1;
    for episode in 0..3 {
        film_of(&films, &format!("{episode}.mp4"), frames);
    }
    let plan = plan(dir.path(), "out", None);
    let plan = finetune::Plan {
        checkpoint: random_checkpoint(dir.path(), geometry),
        origins: vec![Origin { what: What::Video(films), weight: 1.0 }],
        course: Course { steps: 50, ..plan.course },
        ..plan
    };
    finetune::run(&plan).unwrap();
    assert!(plan.out.join("model.safetensors").exists());
}

#[test]
fn a_model_whose_motion_gets_what_it_lacks_says_the_same_of_what_is_to_come() {
    for earlier in [0, MOTION.earlier] {
        says_the_same(Motion { earlier, refined: false, rigid: false, whole: false, ..MOTION });
    }
    says_the_same(Motion { rigid: false, whole: false, ..MOTION });
}

/// Of the frames to come it says what it said; where things were, if it said nothing of that, is where they would be if they
/// went the other way.
fn says_the_same(had: Motion) {
    let of = |motion: Motion, seed: u64| {
        let (config, vae, motion) = (transformer_config(), vae_config(), Some(motion));
        let model = Model { config, vae, geometry: GEOMETRY, motion, device: Device::Cpu };
        let params = Params::new(&model.specs(), seed, Kind::Float, Device::Cpu);
        (model, params)
    };
    let ((old, old_params), (new, mut new_params)) = (of(had, 1), of(MOTION, 2));
    let tensors = old_params.iter().map(|(name, tensor)| (name.to_owned(), tensor.shallow_clone())).collect();
    let grown = new.adopted(tensors, Some(had), &new_params);
    new_params.assign(&grown).unwrap();

    let (rows, columns) = (GEOMETRY.latent_height() as i64, GEOMETRY.latent_width() as i64);
    let noise = |frames: i64, channels: usize, stream: u64| {
        let values = sampler::noise(3, stream, (frames * channels as i64 * rows * columns) as usize);
        Tensor::from_slice(&values).reshape([1, frames, channels as i64, rows, columns])
    };
    let (history, clip) = (GEOMETRY.history as i64, GEOMETRY.clip as i64);
    let channels = GEOMETRY.latent_channels;
    let (noisy, clean) = (noise(clip, channels, 0), noise(history, channels, 1));
    let costs = noise(history, MOTION.costs(), 2);
    let motion = |model: &Model, params: &Params| {
        let sequence = Sequence {
            noisy: &noisy,
            clean: &clean,
            costs: Some(&costs),
            t: &Tensor::zeros([1, clip], (Kind::Float, Device::Cpu)),
            clip_sizes: &[GEOMETRY.history, GEOMETRY.clip],
        };
        let motion = model.transformer(params).unwrap().forward(&sequence).motion.unwrap();
        motion.unflatten(3, [MOTION.candidates as i64, -1].as_slice()) // (1, H, M, K, 3 + F, h, w)
    };
    let (before, after) = (motion(&old, &old_params), motion(&new, &new_params));
    let off = |a: &Tensor, b: &Tensor| (a - b).abs().max().double_value(&[]);
    // Cells are hardly rigid at first; but for that, all of it is as it was.
    let rigidity = |motion: &Tensor| motion.select(2, clip).select(3, 3);
    assert!((-4.0..-2.0).contains(&rigidity(&after).mean(Kind::Float).double_value(&[])));
    if had.earlier > 0 {
        rigidity(&before).copy_(&(rigidity(&before) - 3.0));
    }
    assert!(off(&after.narrow(2, 0, before.size()[2]), &before) < 1e-5);
    if had.earlier > 0 {
        return;
    }
    let displacements = |motion: &Tensor, moment: i64| motion.select(2, moment).narrow(3, 0, 2);
    // One frame back, and three, of which it said no more than two ahead.
    for (past, ahead, scale) in [(clip, 0, -1.0), (clip + 1, 1, -1.5)] {
        assert!(off(&displacements(&after, past), &(displacements(&before, ahead) * scale)) < 1e-5);
    }
}
