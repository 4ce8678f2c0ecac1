//! A student of a checkpoint: it keeps the layout and the latents, and its critic stays behind.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

mod common;

use std::path::{Path, PathBuf};

use common::{GEOMETRY, MOTION, course, transformer_config, vae_config};
use nextclip_core::checkpoint::Trained;
use nextclip_core::sampler;
use nextclip_train::critic::{self, Critic};
use nextclip_train::distill::CRITIC_FILE;
use nextclip_train::fit::Course;
use nextclip_train::footage::Origin;
use nextclip_train::model::Model;
use nextclip_train::optim::{Optimiser, Schedule, Settings};
use nextclip_train::params::{Params, load_tensors};
use nextclip_train::windows::Windows;
use nextclip_train::{checkpoint, distill, gradients, vae};
use tch::{Device, Kind, Tensor};

fn teacher(dir: &Path) -> PathBuf {
    let dir = dir.join("teacher");
    let model = Model {
        config: transformer_config(),
        vae: vae_config(),
        geometry: GEOMETRY,
        motion: Some(MOTION),
        device: Device::Cpu,
    };
    let params = Params::new(&model.specs(), 1, Kind::Float, Device::Cpu);
    let trained = Trained { geometry: GEOMETRY, name: "teacher".into(), steps: 10, motion: Some(MOTION) };
    checkpoint::save_transformer(&dir, &model.config, trained, &params, Kind::Half).unwrap();
    let vae = Params::new(&vae::specs(&model.vae), 2, Kind::Float, Device::Cpu);
    checkpoint::save_vae(&dir, &model.vae, &vae, Kind::Half).unwrap();
    dir
}

fn plan(dir: &Path, out: &str, steps: u64) -> distill::Plan {
    let schedule = Schedule { peak: 1e-3, warm_up: 5, decay: 20, steps: 60 };
    distill::Plan {
        checkpoint: teacher(dir),
        out: dir.join(out),
        origins: vec![Origin::SCENES],
        motion: None,
        course: Course { validate_every: 50, ..course(&dir.join("run"), steps, schedule) },
        windows: Windows { batch: 2, own_past: 0.0, pool: 3, seed: 1 },
        critic: None,
        steps: vec![1, 2],
        pictures_only: false,
        nearness: 0.2,
        compute: Kind::Float,
        device: Device::Cpu,
    }
}

#[test]
fn a_student_has_the_layout_and_the_latents_of_its_teacher() {
    tch::set_num_threads(1);
    let dir = tempfile::tempdir().unwrap();
    let plan = plan(dir.path(), "student", 60);
    distill::run(&plan).unwrap();

    let both = |file: &str| [&plan.checkpoint, &plan.out].map(|dir| load_tensors(&dir.join(file)).unwrap());
    let [before, after] = both("model.safetensors");
    assert!(before.keys().eq(after.keys()), "the critic stays behind");
    for name in
        ["llm.layers.0.self_attn.qkv_proj.weight", "motion.blend.2.weight", "final_layer.linear.weight"]
    {
        assert!(!before[name].equal(&after[name]), "{name} does not learn");
    }
    let [before, after] = both("vae/diffusion_pytorch_model.safetensors");
    for (name, tensor) in &before {
        let same = tensor.equal(&after[name]);
        let encodes = name.starts_with("encoder.") || name.starts_with("quant_conv.");
        assert!(same || !encodes, "{name} changed, and with it the latents");
    }
    assert!(!before["decoder.conv_out.weight"].equal(&after["decoder.conv_out.weight"]));
    let (_, trained) = checkpoint::load_transformer_config(&plan.out).unwrap();
    assert_eq!((trained.name.as_str(), trained.steps, trained.motion), ("student", 70, Some(MOTION)));
}

#[test]
fn a_student_of_pictures_alone_keeps_its_predictor() {
    tch::set_num_threads(1);
    let dir = tempfile::tempdir().unwrap();
    let plan = distill::Plan { pictures_only: true, ..plan(dir.path(), "painter", 50) };
    distill::run(&plan).unwrap();
    let [before, after] =
        [&plan.checkpoint, &plan.out].map(|dir| load_tensors(&dir.join("model.safetensors")).unwrap());
    for (name, tensor) in &before {
        assert!(tensor.equal(&after[name]) || name.starts_with("motion.blend."), "{name} changed");
    }
    assert!(!before["motion.blend.0.weight"].equal(&after["motion.blend.0.weight"]));
}

#[test]
fn a_critic_goes_on_in_the_next_run() {
    tch::set_num_threads(1);
    let dir = tempfile::tempdir().unwrap();
    let first = plan(dir.path(), "first", 50);
    distill::run(&first).unwrap();
    let critic = Some(first.course.dir.join(CRITIC_FILE));
    let course = Course { dir: dir.path().join("next run"), ..first.course.clone() };
    let next = distill::Plan { critic, course, pictures_only: true, ..plan(dir.path(), "next", 50) };
    distill::run(&next).unwrap();
    let [before, after] =
        [&first, &next].map(|plan| load_tensors(&plan.course.dir.join(CRITIC_FILE)).unwrap());
    let tensors = before.iter().map(|(name, tensor)| (name, tensor, &after[name]));
    for (name, before, after) in tensors.filter(|(name, ..)| name.ends_with("look.weight")) {
        let far = (after - before).norm().double_value(&[]) / before.norm().double_value(&[]);
        assert!(far > 0.0 && far < 0.5, "{name} is {far} of its size from where it went on");
    }
    let missing = distill::Plan { critic: Some(dir.path().join("none")), ..next };
    let error = format!("{:#}", distill::run(&missing).unwrap_err());
    assert!(error.contains("none"), "{error}");
}

#[test]
fn numbers_of_steps_that_mean_nothing_are_refused() {
    let dir = tempfile::tempdir().unwrap();
    for steps in [vec![], vec![2, 0]] {
        let plan = distill::Plan { steps, ..plan(dir.path(), "student", 50) };
        let error = distill::run(&plan).unwrap_err().to_string();
        assert!(error.contains("denoising steps"), "{error}");
    }
}

/// What came has edges, what was predicted has none: a few steps of a critic tell them apart.
#[test]
fn a_critic_learns_to_prefer_what_came() {
    tch::set_num_threads(1);
    let noise = |stream: u64, size: &[i64]| {
        let values = sampler::noise(7, stream, size.iter().product::<i64>() as usize);
        Tensor::from_slice(&values).reshape(size)
    };
    let params = Params::new(&critic::specs(&GEOMETRY), 1, Kind::Float, Device::Cpu);
    let mut optimiser = Optimiser::new(&params, Settings::default());
    let pair = |step: u64| {
        let size = [2, GEOMETRY.clip as i64, 3, GEOMETRY.height as i64, GEOMETRY.width as i64];
        let came = noise(2 * step, &size).clamp(-1.0, 1.0);
        let smooth = came.flatten(0, 1).avg_pool2d([5, 5], [1, 1], [2, 2], false, true, None).reshape(size);
        (noise(2 * step + 1, &size).narrow(1, 0, 1) * 0.3, came, smooth)
    };
    let lost = |step: u64| {
        let (last, came, smooth) = pair(step);
        tch::no_grad(|| Critic::new(&params).lost(&last, &came, &smooth).double_value(&[]))
    };
    let before = lost(1000);
    for step in 0..40 {
        let (last, came, smooth) = pair(step);
        let disturbance = noise(5000 + step, &came.size());
        let part = (last, came, smooth, disturbance);
        let (_, found) =
            gradients::of_parts(&params, vec![part], |params, (last, came, smooth, disturbance)| {
                Ok(Critic::new(params).loss(&last, &came, &smooth, &disturbance).into())
            })
            .unwrap();
        optimiser.step(&params, &found, step, 1e-3);
    }
    let after = lost(1000);
    assert!(after > before + 0.5, "{before} to {after} nats");
}
