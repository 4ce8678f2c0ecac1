//! The trainer as a whole, on models small enough for seconds: gradients, mask, resume, layout, progress.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

mod common;

use std::collections::BTreeMap;
use std::path::Path;

use common::{GEOMETRY, MOTION, course, transformer_config, vae_config};
use nextclip_core::checkpoint::{Trained, TransformerConfig};
use nextclip_core::position::Rotary;
use nextclip_core::sequence;
use nextclip_train::footage::Origin;
use nextclip_train::model::Model;
use nextclip_train::optim::Schedule;
use nextclip_train::params::{Params, load_tensors};
use nextclip_train::train_predictor::{self, Batch};
use nextclip_train::transformer::{self, Sequence, Transformer};
use nextclip_train::vae::{self, Vae};
use nextclip_train::{checkpoint, gradients, train_vae};
use rand::SeedableRng;
use rand_chacha::ChaCha8Rng;
use tch::{Device, Kind, Tensor};

fn latents(batch: i64, frames: i64, seed: u64) -> Tensor {
    let size = [batch, frames, 4, 4, 6];
    let len = size.iter().product::<i64>() as usize;
    Tensor::from_slice(&nextclip_core::sampler::noise(seed, 0, len)).reshape(size)
}

#[test]
fn gradients_reach_every_tensor() {
    let config = transformer_config();
    let params = Params::new(&transformer::specs(&config, &GEOMETRY), 1, Kind::Float, Device::Cpu);
    let model = Transformer::new(&config, &GEOMETRY, &params, Device::Cpu).unwrap();
    let mut rng = ChaCha8Rng::seed_from_u64(1);
    let batch = Batch::new(&latents(2, 5, 3), vec![2, 1, 2], 0.3, &mut rng, 1, 0);
    batch.loss(&model).total().backward();
    assert_all_have_gradients(&params);

    let config = vae_config();
    let params = Params::new(&vae::specs(&config), 1, Kind::Float, Device::Cpu);
    let frames = latents(2, 3, 4).reshape([2, 3, 12, 8]).tanh().upsample_nearest2d([32, 48], None, None);
    train_vae::loss(&Vae::new(&config, &params), &frames, 1, 0).total().backward();
    assert_all_have_gradients(&params);
}

fn assert_all_have_gradients(params: &Params) {
    for (name, tensor) in params.trained() {
        let gradient = tensor.grad();
        assert!(gradient.defined(), "{name} has no gradient");
        assert!(gradient.abs().max().double_value(&[]) > 0.0, "{name} has a zero gradient");
    }
}

/// From the pictures that a model with motion shows back to what it reads and says of motion.
#[test]
fn gradients_reach_every_tensor_of_motion() {
    let model = Model {
        config: transformer_config(),
        vae: vae_config(),
        geometry: GEOMETRY,
        motion: Some(MOTION),
        device: Device::Cpu,
    };
    let params = Params::new(&model.specs(), 1, Kind::Float, Device::Cpu);
    let vae = Params::new(&vae::specs(&model.vae), 1, Kind::Float, Device::Cpu);
    // What refines starts by changing nothing.
    let silent = params.iter().find(|(name, _)| *name == "motion.refine.2.weight").unwrap().1;
    let _ = tch::no_grad(|| silent.shallow_clone().fill_(0.01));
    let work = model.with(&params, &vae).unwrap();
    let frames =
        latents(1, 3, 4).reshape([3, 3, 8, 4]).tanh().upsample_bilinear2d([32, 48], false, None, None);
    let past = work.see(&frames);
    assert_eq!(past.costs.as_ref().unwrap().size(), [1, 3, 25, 4, 6]);
    let estimate = work.estimate(&past, &latents(1, 2, 5), 0.0);
    assert_eq!(estimate.motion.as_ref().unwrap().size(), [1, 3, 4, MOTION.channels() as i64, 4, 6]);
    let seen = frames.unsqueeze(0);
    let shown = work.pictures(&estimate, &seen).shown;
    assert_eq!(shown.size(), [1, 2, 3, 32, 48]);
    shown.square().mean(Kind::Float).backward();
    assert_all_have_gradients(&params);

    // What it shows becomes what it saw.
    let (onward, seen) = work.continued(&past, &seen, &latents(1, 2, 5));
    assert_eq!(onward.latents.size(), [1, 5, 4, 4, 6]);
    assert_eq!(onward.costs.unwrap().size(), [1, 5, 25, 4, 6]);
    assert_eq!(seen.size(), [1, 5, 3, 32, 48]);
    assert!(seen.narrow(1, 3, 2).equal(&shown));
}

/// The optimiser of two threads must see what one thread computes, to the bit.
#[test]
fn gradients_of_parts_are_those_of_the_whole_whatever_the_threads() {
    let config = vae_config();
    let params = Params::new(&vae::specs(&config), 1, Kind::Float, Device::Cpu);
    let frames = latents(4, 3, 4).reshape([4, 3, 12, 8]).tanh().upsample_nearest2d([32, 48], None, None);
    let loss = |params: &Params, frames: Tensor| {
        let vae = Vae::new(&config, params);
        Ok((vae.decode(&vae.encode(&frames)) - frames).square().mean(Kind::Float).into())
    };
    let of = |threads: i32, parts: i64| {
        tch::set_num_threads(threads);
        gradients::of_parts(&params, frames.chunk(parts, 0), loss).unwrap()
    };
    let ((one_loss, one), (three_loss, three)) = (of(1, 4), of(3, 4));
    assert_eq!(one_loss, three_loss);
    assert!(one.iter().zip(&three).all(|((a, x), (b, y))| a == b && x.equal(y)));

    let (whole_loss, whole) = of(1, 1);
    assert!(
        (whole_loss.total() - one_loss.total()).abs() < 1e-6 * whole_loss.total(),
        "{whole_loss:?} {one_loss:?}"
    );
    for (name, gradient) in &whole {
        let difference = (gradient - &one[name]).norm().double_value(&[]);
        assert!(difference < 1e-4 * gradient.norm().double_value(&[]) + 1e-7, "{name}: {difference}");
    }
}

/// The published order and mask, as one masked sequence: the plain form of what the trainer splits up.
fn masked_forward(config: &TransformerConfig, params: &Params, batch: &Sequence<'_>) -> Tensor {
    let get = |name: &str| params.iter().find(|(n, _)| *n == name).unwrap().1.shallow_clone();
    let (b, l) = (batch.noisy.size()[0], GEOMETRY.block_tokens() as i64);
    let d = config.hidden_size as i64;
    let rows = nextclip_core::position::centre_crop(2, 3, 32).unwrap();
    let rows: Vec<i64> = rows.into_iter().map(|row| row as i64).collect();
    let positions = get("pos_embed").index_select(1, &Tensor::from_slice(&rows));
    let embed = |prefix: &str, frame: &Tensor| {
        let x = frame.conv2d(
            &get(&format!("{prefix}.proj.weight")),
            Some(get(&format!("{prefix}.proj.bias"))),
            [2, 2],
            [0, 0],
            [1, 1],
            1,
        );
        x.flatten(2, 3).transpose(1, 2) + &positions
    };
    let token = |id: i64| get("llm.embed_tokens.weight").get(id).reshape([1, 1, d]).expand([b, 1, d], false);
    let features = |t: &Tensor| {
        let angles = t.unsqueeze(-1) * Tensor::from_slice(&nextclip_core::position::timestep_frequencies());
        Tensor::cat(&[angles.cos(), angles.sin()], -1)
    };
    let mlp = |prefix: &str, x: &Tensor| {
        let part =
            |i: i64| (get(&format!("{prefix}.mlp.{i}.weight")), get(&format!("{prefix}.mlp.{i}.bias")));
        let ((w0, b0), (w2, b2)) = (part(0), part(2));
        x.linear(&w0, Some(b0)).silu().linear(&w2, Some(b2))
    };

    let blocks = sequence::training_blocks(batch.clip_sizes);
    let mut tokens = Vec::new();
    for block in &blocks {
        let frame = block.frame as i64;
        tokens.extend(match block.role {
            sequence::Role::Clean => {
                [token(0), embed("input_x_embedder", &batch.clean.select(1, frame)), token(1)]
            }
            sequence::Role::Noisy => {
                let time = mlp("time_token", &features(&batch.t.select(1, frame))).unsqueeze(1);
                [token(2), time, embed("x_embedder", &batch.noisy.select(1, frame))]
            }
        });
    }
    let mut x = Tensor::cat(&tokens, 1);
    let count = x.size()[1];
    let bias: Vec<f32> =
        sequence::mask(&blocks, l as usize).into_iter().map(|s| if s { 0.0 } else { -1e30 }).collect();
    let bias = Tensor::from_slice(&bias).reshape([count, count]);
    let ids: Vec<i64> = sequence::position_ids(&blocks, l as usize).into_iter().map(|id| id as i64).collect();
    let (cos, sin) = Rotary::new(config).table(1 + *ids.iter().max().unwrap() as usize);
    let table = |values: &[f32]| {
        let half = Tensor::from_slice(values)
            .reshape([-1, config.head_dim() as i64 / 2])
            .index_select(0, &Tensor::from_slice(&ids));
        Tensor::cat(&[&half, &half], 1)
    };
    let (cos, sin) = (table(&cos), table(&sin));
    let rms = |x: &Tensor, weight: &str| {
        x * (x.square().mean_dim([-1_i64].as_slice(), true, Kind::Float) + config.rms_norm_eps).rsqrt()
            * get(weight)
    };
    let (heads, kv, width) = (4, 2, config.head_dim() as i64);
    for i in 0..config.num_hidden_layers {
        let layer = format!("llm.layers.{i}");
        let qkv = rms(&x, &format!("{layer}.input_layernorm.weight"))
            .linear(&get(&format!("{layer}.self_attn.qkv_proj.weight")), None::<Tensor>);
        let part = |first: i64, count: i64| {
            qkv.narrow(2, first * width, count * width).reshape([b, -1, count, width]).transpose(1, 2)
        };
        let turn = |x: Tensor| {
            let halves = x.chunk(2, -1);
            &x * &cos + Tensor::cat(&[-&halves[1], halves[0].shallow_clone()], -1) * &sin
        };
        let share = |x: Tensor| x.repeat_interleave_self_int(heads / kv, 1, None);
        let (q, k, v) = (turn(part(0, heads)), share(turn(part(heads, kv))), share(part(heads + kv, kv)));
        let scores = q.matmul(&k.transpose(2, 3)) / (width as f64).sqrt() + &bias;
        let attended = scores.softmax(-1, None).matmul(&v).transpose(1, 2).reshape([b, count, d]);
        x += attended.linear(&get(&format!("{layer}.self_attn.o_proj.weight")), None::<Tensor>);
        let gate_up = rms(&x, &format!("{layer}.post_attention_layernorm.weight"))
            .linear(&get(&format!("{layer}.mlp.gate_up_proj.weight")), None::<Tensor>)
            .chunk(2, -1);
        x += (gate_up[0].silu() * &gate_up[1])
            .linear(&get(&format!("{layer}.mlp.down_proj.weight")), None::<Tensor>);
    }
    let x = rms(&x, "llm.norm.weight");
    let noisy = blocks.iter().enumerate().filter(|(_, block)| block.role == sequence::Role::Noisy);
    let frames: Vec<Tensor> = noisy
        .map(|(index, block)| {
            let x = x.narrow(1, index as i64 * l + 2, l - 2);
            let conditioning = mlp("t_embedder", &features(&batch.t.select(1, block.frame as i64))).silu();
            let modulation = conditioning
                .linear(
                    &get("final_layer.adaLN_modulation.1.weight"),
                    Some(get("final_layer.adaLN_modulation.1.bias")),
                )
                .unsqueeze(1)
                .chunk(2, -1);
            let x = x.layer_norm([d], None::<Tensor>, None::<Tensor>, 1e-6, false);
            let x = x * (&modulation[1] + 1.0) + &modulation[0];
            let x = x.linear(&get("final_layer.linear.weight"), Some(get("final_layer.linear.bias")));
            x.reshape([b, 2, 3, 2, 2, 4]).permute([0, 5, 1, 3, 2, 4]).reshape([b, 4, 4, 6])
        })
        .collect();
    Tensor::stack(&frames, 1)
}

#[test]
fn split_attention_is_the_published_mask() {
    let config = transformer_config();
    let params = Params::new(&transformer::specs(&config, &GEOMETRY), 5, Kind::Float, Device::Cpu);
    let model = Transformer::new(&config, &GEOMETRY, &params, Device::Cpu).unwrap();
    for clip_sizes in [vec![1, 1], vec![2, 1, 2], vec![3, 2], vec![1, 2, 1, 1]] {
        let frames = clip_sizes.iter().sum::<usize>() as i64;
        let history = frames - *clip_sizes.last().unwrap() as i64;
        let t: Vec<f32> = clip_sizes.iter().enumerate().flat_map(|(i, &n)| vec![0.2 * i as f32; n]).collect();
        let sequence = Sequence {
            noisy: &latents(2, frames, 1),
            clean: &latents(2, history, 2),
            costs: None,
            t: &Tensor::from_slice(&t).reshape([1, -1]).expand([2, -1], false),
            clip_sizes: &clip_sizes,
        };
        let worst = |a: &Tensor, b: &Tensor| (a - b).abs().max().double_value(&[]);
        let masked = masked_forward(&config, &params, &sequence);
        let off = worst(&model.forward(&sequence).x1, &masked);
        assert!(off < 1e-5, "{clip_sizes:?}: off by {off}");

        // Without the first clip's noisy blocks the others are what they were.
        let first = clip_sizes[0] as i64;
        let rest = |x: &Tensor| x.narrow(1, first, frames - first);
        let (noisy, t) = (rest(sequence.noisy), rest(sequence.t));
        let without = model.forward(&Sequence { noisy: &noisy, t: &t, ..sequence }).x1;
        let off = worst(&without, &rest(&masked));
        assert!(off < 1e-5, "{clip_sizes:?} without the first: off by {off}");
    }
}

fn vae_plan(dir: &Path, steps: u64) -> train_vae::Plan {
    train_vae::Plan {
        course: course(dir, steps, Schedule { peak: 2e-3, warm_up: 100, decay: steps, steps }),
        from: None,
        origins: vec![Origin::SCENES],
        config: vae_config(),
        geometry: GEOMETRY,
        batch: 4,
        crop: 32,
        seed: 1,
        pool: 64,
        compute: Kind::Float,
        device: Device::Cpu,
    }
}

fn predictor_plan(dir: &Path, steps: u64) -> train_predictor::Plan {
    train_predictor::Plan {
        course: course(dir, steps, Schedule { peak: 2e-3, warm_up: 10, decay: 50, steps: 200 }),
        from: None,
        origins: vec![Origin::SCENES],
        config: transformer_config(),
        geometry: GEOMETRY,
        lora: None,
        motion: None,
        batch: 2,
        frames: GEOMETRY.history + GEOMETRY.clip,
        longest_stride: 2,
        seed: 1,
        pool: 16,
        pure_noise: 0.4,
        unconditional: 0.5,
        compute: Kind::Float,
        device: Device::Cpu,
    }
}

fn losses(dir: &Path, name: &str) -> Vec<f64> {
    let text = std::fs::read_to_string(dir.join(format!("{name}.loss.csv"))).unwrap();
    text.lines().skip(1).map(|line| line.split(',').nth(1).unwrap().parse().unwrap()).collect()
}

fn weights(params: &Params) -> BTreeMap<String, Vec<f32>> {
    let values = |tensor: &Tensor| Vec::try_from(tensor.flatten(0, -1)).unwrap();
    params.iter().map(|(name, tensor)| (name.to_owned(), values(&tensor.detach()))).collect()
}

#[test]
fn training_learns_resumes_exactly_and_saves_the_published_layout() {
    tch::set_num_threads(1);
    let (unbroken, broken) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let (unbroken, broken) = (unbroken.path(), broken.path());

    // The VAE: its loss falls, and standardised latents reconstruct alike.
    let vae_params = train_vae::train(&vae_plan(unbroken, 300)).unwrap();
    let losses_vae = losses(unbroken, "vae");
    assert!(losses_vae.last() < losses_vae.first(), "{losses_vae:?}");
    checkpoint::save_vae(unbroken, &vae_config(), &vae_params, Kind::Float).unwrap();
    let (config, vae_params) = checkpoint::load_vae(unbroken, Kind::Float, Device::Cpu).unwrap();

    // The predictor, once straight through and once killed half way.
    let straight = train_predictor::train(&predictor_plan(unbroken, 200), &config, &vae_params).unwrap();
    train_predictor::train(&predictor_plan(broken, 100), &config, &vae_params).unwrap();
    let resumed = train_predictor::train(&predictor_plan(broken, 200), &config, &vae_params).unwrap();
    assert_eq!(losses(unbroken, "predictor"), losses(broken, "predictor"));
    assert!(weights(&straight) == weights(&resumed), "a resumed run is not the unbroken one");
    let losses = losses(unbroken, "predictor");
    assert!(losses.last() < losses.first(), "{losses:?}");
    assert!(unbroken.join("predictor.loss.png").exists());

    // The checkpoint: names and shapes as published.
    let dir = unbroken.join("checkpoint");
    let trained = Trained { geometry: GEOMETRY, name: "tiny".into(), steps: 200, motion: None };
    checkpoint::save_transformer(&dir, &transformer_config(), trained, &straight, Kind::Half).unwrap();
    let tensors = load_tensors(&dir.join("model.safetensors")).unwrap();
    let shape = |name: &str| tensors[name].size();
    assert_eq!(tensors.len(), 19 + 2 * 6);
    assert_eq!(shape("x_embedder.proj.weight"), [32, 4, 2, 2]);
    assert_eq!(shape("llm.layers.1.self_attn.qkv_proj.weight"), [32 + 2 * 2 * 8, 32]);
    assert_eq!(shape("llm.layers.0.mlp.gate_up_proj.weight"), [96, 32]);
    assert_eq!(shape("final_layer.linear.weight"), [16, 32]);
    assert_eq!(tensors["pos_embed"].kind(), Kind::Half);

    // A new run may start from it: its first loss is near the old run's last.
    let further = unbroken.join("further");
    let plan = train_predictor::Plan { from: Some(dir.clone()), ..predictor_plan(&further, 50) };
    train_predictor::train(&plan, &vae_config(), &vae_params).unwrap();
    let further = self::losses(&further, "predictor");
    assert!(further[0] < losses[0], "{further:?} after {losses:?}");

    // The same with motion besides, which the start has nothing of, killed half way.
    let moving = |name: &str, steps| train_predictor::Plan {
        from: Some(dir.clone()),
        motion: Some(MOTION),
        longest_stride: 1,
        ..predictor_plan(&unbroken.join(name), steps)
    };
    let train = |plan| train_predictor::train(&plan, &vae_config(), &vae_params);
    let straight = train(moving("moving", 100)).unwrap();
    train(moving("killed", 50)).unwrap();
    assert!(weights(&straight) == weights(&train(moving("killed", 100)).unwrap()));
    let strided = train(train_predictor::Plan { longest_stride: 2, ..moving("strided", 1) }).unwrap_err();
    assert!(strided.to_string().contains("longest stride of 2"), "{strided}");
    let ids = std::fs::read_to_string(dir.join("added_tokens.json")).unwrap();
    assert!(ids.contains(r#""<|diffusion|>": 2"#), "{ids}");
    let config = std::fs::read_to_string(dir.join("config.json")).unwrap();
    let config: TransformerConfig = serde_json::from_str(&config).unwrap();
    assert_eq!(config.nextclip.map(|trained| trained.geometry), Some(GEOMETRY));
}
