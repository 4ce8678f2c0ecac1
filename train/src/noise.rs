//! Noise of clips and of their history.

use nextclip_core::sampler;
use rand::RngExt;
use rand_chacha::ChaCha8Rng;
use tch::Tensor;

/// History is trained slightly noised: its timestep is uniform from here to 1.
const HISTORY_T_MIN: f64 = 0.9;

/// Standard normal values of the size and place of `like`; the same for the same seed and stream.
pub fn normal(like: &Tensor, seed: u64, stream: u64) -> Tensor {
    let values = sampler::noise(seed, stream, like.numel());
    Tensor::from_slice(&values).reshape(like.size()).to_device(like.device())
}

/// `t x1 + (1 - t) x0` with t per frame, (B, F); the formula of [`sampler::noised`].
pub fn noised(x1: &Tensor, x0: &Tensor, t: &Tensor) -> Tensor {
    let t = t.reshape([t.size()[0], t.size()[1], 1, 1, 1]);
    x0.lerp_tensor(x1, &t.expand_as(x1))
}

/// The history `past` (B, H, c, h, w) on its way to `x0`, each frame about as far as training meets it.
pub fn noised_history(past: &Tensor, x0: &Tensor, rng: &mut ChaCha8Rng) -> Tensor {
    let (batch, frames) = (past.size()[0], past.size()[1]);
    let t: Vec<f32> = (0..batch * frames).map(|_| rng.random_range(HISTORY_T_MIN..=1.0) as f32).collect();
    let t = Tensor::from_slice(&t).reshape([batch, frames]).to_device(past.device());
    noised(past, x0, &t)
}
