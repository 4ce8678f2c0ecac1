//! What a checkpoint holds, for people.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::path::Path;

use nextclip_core::Motion;
use nextclip_core::checkpoint::TokenIds;

use crate::checkpoint::{CheckpointError, Fault, Weights};
use crate::model::{Checkpoint, MotionLayers, Survey};
use crate::onnx::Conv;

/// A checkpoint's contents as lines of text.
#[derive(Debug)]
pub struct Report {
    lines: Vec<(String, String)>,
    /// Tensors that do not fit the configuration.
    pub faults: Vec<Fault>,
}

/// Looks into a checkpoint folder. Tensors that do not fit are part of the report; what cannot be read at
/// all is an error.
pub fn inspect(folder: &Path) -> Result<Report, CheckpointError> {
    let Survey { checkpoint, tokens, faults, weights, vae_weights } = Survey::open(folder, None)?;
    let mut lines = vec![("name".into(), checkpoint.name())];
    lines.extend(transformer(&checkpoint, &tokens));
    lines.extend(vae(&checkpoint));
    lines.extend(parameters(&weights, ""));
    if let Some(weights) = &vae_weights {
        lines.extend(parameters(weights, "vae/"));
    }
    Ok(Report { lines, faults })
}

fn transformer(checkpoint: &Checkpoint, tokens: &TokenIds) -> Vec<(String, String)> {
    let config = &checkpoint.config;
    let mut lines = vec![(
        "transformer".into(),
        format!(
            "d {}, {} layers, {} heads of {} ({} for keys and values), d_ff {}, rotary base {}{}",
            config.hidden_size,
            config.num_hidden_layers,
            config.num_attention_heads,
            config.head_dim(),
            config.num_key_value_heads,
            config.intermediate_size,
            config.rope_theta,
            if config.rope_scaling.is_some() { " with long-rope factors" } else { "" }
        ),
    )];
    let side = checkpoint.transformer.pos_embed_side;
    lines.push((
        "frames".into(),
        format!(
            "latents of {} channels, patches of {p} x {p}, up to {pixels} x {pixels} pixels",
            checkpoint.latent_channels,
            p = checkpoint.patch,
            pixels = side * checkpoint.patch * checkpoint.vae_scale
        ),
    ));
    if let Some(trained) = &config.nextclip {
        let geometry = &trained.geometry;
        lines.push((
            "trained for".into(),
            format!(
                "{} x {} pixels, {} frames of history, {} predicted, {} ms apart; {} steps",
                geometry.height,
                geometry.width,
                geometry.history,
                geometry.clip,
                geometry.frame_interval_ms,
                trained.steps
            ),
        ));
    }
    lines.extend(checkpoint.transformer.motion.as_ref().map(motion));
    let ids = [tokens.img, tokens.img_end, tokens.diffusion];
    let ids: Vec<String> =
        TokenIds::SPELLING.iter().zip(ids).map(|(spelling, id)| format!("{spelling} {id}")).collect();
    lines.push(("tokens".into(), ids.join(", ")));
    lines
}

fn motion(layers: &MotionLayers) -> (String, String) {
    let Motion { candidates, features, reach, earlier, rigid, whole, depth, .. } = layers.sizes;
    let hidden = |convolutions: &[Conv]| convolutions[0].weight.shape()[0];
    let refined = layers
        .refine
        .as_ref()
        .map(|refine| format!("; refined in {} channels", hidden(refine)))
        .unwrap_or_default();
    let rigid = match (rigid, whole) {
        (_, true) => "; cells of one thing agree on it and go as one",
        (true, false) => "; cells of one thing go as one",
        (false, false) => "",
    };
    let layered = match depth {
        0 => String::new(),
        depth => format!(", and land each by itself, {depth} deep"),
    };
    let text = format!(
        "{candidates} displacements and {features} features a cell, blended in {} channels; looks {reach} steps of two \
         pixels back, in {} channels{refined}; follows things in {earlier} earlier pictures{rigid}{layered}",
        hidden(&layers.blend),
        hidden(&layers.stem)
    );
    ("motion".into(), text)
}

fn vae(checkpoint: &Checkpoint) -> Vec<(String, String)> {
    let text = match &checkpoint.vae {
        None => "none: the bundle will have latents only".into(),
        Some(vae) => format!(
            "channels {:?}, {} layers a block, {} norm groups, {} mid-block attention, {} latent channels, \
             {} pixels a cell, scaling factor {}",
            vae.config.block_out_channels,
            vae.config.layers_per_block,
            vae.config.norm_num_groups,
            if vae.config.mid_block_add_attention { "with" } else { "no" },
            vae.config.latent_channels,
            vae.config.scale(),
            vae.config.scaling_factor
        ),
    };
    vec![("vae".into(), text)]
}

/// Number of parameters and number formats of each part, the first component of a tensor's name.
fn parameters(weights: &Weights, prefix: &str) -> Vec<(String, String)> {
    let mut parts: BTreeMap<&str, (usize, BTreeSet<&str>)> = BTreeMap::new();
    for (name, shape, dtype) in weights.list() {
        let part = name.split('.').next().unwrap_or(name);
        let (count, dtypes) = parts.entry(part).or_default();
        *count += shape.iter().product::<usize>();
        dtypes.insert(dtype);
    }
    let describe = |count: usize, dtypes: &BTreeSet<&str>| {
        let dtypes: Vec<&str> = dtypes.iter().copied().collect();
        format!("{:>15} {}", grouped(count), dtypes.join(", "))
    };
    let total = parts.values().map(|(count, _)| count).sum();
    let all = parts.values().flat_map(|(_, dtypes)| dtypes.iter().copied()).collect();
    let mut lines: Vec<_> = parts
        .iter()
        .map(|(part, (count, dtypes))| (format!("{prefix}{part}"), describe(*count, dtypes)))
        .collect();
    lines.push((format!("{prefix}total"), describe(total, &all)));
    lines
}

/// 5283840 -> "5 283 840".
fn grouped(number: usize) -> String {
    let digits = number.to_string();
    let mut text = String::new();
    for (i, digit) in digits.chars().enumerate() {
        if i > 0 && (digits.len() - i).is_multiple_of(3) {
            text.push(' ');
        }
        text.push(digit);
    }
    text
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let width = self.lines.iter().map(|(key, _)| key.len()).max().unwrap_or(0);
        for (key, value) in &self.lines {
            writeln!(f, "{key:width$}  {value}")?;
        }
        for fault in &self.faults {
            writeln!(f, "{:width$}  {fault}", "FAULT")?;
        }
        Ok(())
    }
}
