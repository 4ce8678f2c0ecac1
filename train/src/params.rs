//! Named parameters: created by specification, read by checkpoint path, stored as safetensors.

use std::collections::BTreeMap;
use std::path::Path;

use anyhow::{Context, Result, bail};
use nextclip_core::sampler;
use tch::{Device, Kind, Tensor};

/// One tensor of a model before it has values.
#[derive(Clone, Debug)]
pub struct Spec {
    /// Its name in the checkpoint.
    pub name: String,
    /// Its shape.
    pub shape: Vec<i64>,
    /// Its first values.
    pub init: Init,
}

/// How a tensor starts.
#[derive(Clone, Debug)]
pub enum Init {
    /// All 0.
    Zeros,
    /// All 1.
    Ones,
    /// Normal of this standard deviation.
    Normal(f64),
    /// These values.
    Values(Vec<f32>),
    /// These values, and never trained.
    Fixed(Vec<f32>),
}

/// A model's tensors in single precision, by name. A training step reads them cast to `compute`.
#[derive(Debug)]
pub struct Params {
    tensors: BTreeMap<String, Tensor>,
    compute: Kind,
}

impl Params {
    /// New tensors. Every one draws from its own stream of the seed, so that adding a tensor leaves the
    /// others as they were.
    pub fn new(specs: &[Spec], seed: u64, compute: Kind, device: Device) -> Self {
        let tensors = specs
            .iter()
            .enumerate()
            .map(|(stream, spec)| {
                let len = spec.shape.iter().product::<i64>() as usize;
                let values = match &spec.init {
                    Init::Zeros => Tensor::zeros(&spec.shape, (Kind::Float, device)),
                    Init::Ones => Tensor::ones(&spec.shape, (Kind::Float, device)),
                    Init::Normal(std) => {
                        Tensor::from_slice(&sampler::noise(seed, stream as u64, len)).to_device(device) * *std
                    }
                    Init::Values(values) | Init::Fixed(values) => {
                        Tensor::from_slice(values).to_device(device)
                    }
                };
                let trained = !matches!(spec.init, Init::Fixed(_));
                (spec.name.clone(), values.reshape(&spec.shape).set_requires_grad(trained))
            })
            .collect();
        Self { tensors, compute }
    }

    /// The tensors of both, which must have different names.
    pub fn union(self, other: Self) -> Self {
        Self { tensors: self.tensors.into_iter().chain(other.tensors).collect(), compute: self.compute }
    }

    /// The tensors whose name `belongs` accepts, and the others.
    pub fn partition(self, belongs: impl Fn(&str) -> bool) -> (Self, Self) {
        let (ours, theirs) = self.tensors.into_iter().partition(|(name, _)| belongs(name));
        (Self { tensors: ours, compute: self.compute }, Self { tensors: theirs, compute: self.compute })
    }

    /// The same tensors again, for another thread.
    pub fn share(&self) -> Self {
        let tensors = self.iter().map(|(name, tensor)| (name.to_owned(), tensor.shallow_clone()));
        Self { tensors: tensors.collect(), compute: self.compute }
    }

    /// The same tensors, which no gradient reaches.
    pub fn frozen(&self) -> Self {
        let tensors = self.iter().map(|(name, tensor)| (name.to_owned(), tensor.detach()));
        Self { tensors: tensors.collect(), compute: self.compute }
    }

    /// The root scope: names as they are in the checkpoint.
    pub fn root(&self) -> Scope<'_> {
        Scope { params: self, prefix: String::new() }
    }

    /// Tensors with their names, in name order.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &Tensor)> {
        self.tensors.iter().map(|(name, tensor)| (name.as_str(), tensor))
    }

    /// Tensors that training changes, in name order.
    pub fn trained(&self) -> impl Iterator<Item = (&str, &Tensor)> {
        self.iter().filter(|(_, tensor)| tensor.requires_grad())
    }

    /// The arithmetic of a training step.
    pub fn compute(&self) -> Kind {
        self.compute
    }

    /// Freezes all tensors but those whose name `trains` accepts.
    pub fn freeze_unless(&mut self, trains: impl Fn(&str) -> bool) {
        for (name, tensor) in &mut self.tensors {
            let trains = trains(name) && tensor.requires_grad();
            *tensor = tensor.set_requires_grad(trains);
        }
    }

    /// Freezes everything and gives the weight matrices of layers and of motion low-rank changes to be trained instead
    /// (LoRA, Hu et al. 2021): W + B A with A of `rank` rows, B zero at first.
    pub fn add_lora(&mut self, rank: i64, seed: u64) {
        self.freeze_unless(|_| false);
        let adapts = |name: &str| name.contains(".layers.") || name.starts_with("motion.");
        let matrices = self.tensors.iter().filter(|(name, tensor)| tensor.dim() == 2 && adapts(name));
        let shapes: Vec<_> = matrices.map(|(name, tensor)| (name.clone(), tensor.size())).collect();
        let specs = shapes.iter().flat_map(|(name, size)| {
            let std = (1.0 / size[1] as f64).sqrt();
            [
                Spec { name: format!("{name}{LORA_A}"), shape: vec![rank, size[1]], init: Init::Normal(std) },
                Spec { name: format!("{name}{LORA_B}"), shape: vec![size[0], rank], init: Init::Zeros },
            ]
        });
        let device = self.device();
        let added = Self::new(&specs.collect::<Vec<_>>(), seed, self.compute, device);
        self.tensors.extend(added.tensors);
    }

    /// Adds the low-rank changes to their matrices and removes them: what is left is the layout of the
    /// model that was adapted.
    pub fn merge_lora(&mut self) {
        let changed: Vec<String> =
            self.tensors.keys().filter_map(|name| name.strip_suffix(LORA_A)).map(str::to_owned).collect();
        for name in changed {
            let full = tch::no_grad(|| self.weight(&name).copy());
            self.tensors.insert(name.clone(), full);
            for suffix in [LORA_A, LORA_B] {
                self.tensors.remove(&format!("{name}{suffix}"));
            }
        }
    }

    /// A tensor with its low-rank change, single precision.
    fn weight(&self, name: &str) -> Tensor {
        let full = self.tensors.get(name).unwrap_or_else(|| panic!("no tensor {name} in the specification"));
        let change = |suffix: &str| self.tensors.get(&format!("{name}{suffix}"));
        match (change(LORA_A), change(LORA_B)) {
            (Some(a), Some(b)) => full + b.matmul(a),
            _ => full.shallow_clone(),
        }
    }

    /// Where the tensors live.
    pub fn device(&self) -> Device {
        self.tensors.values().next().map_or(Device::Cpu, Tensor::device)
    }

    /// Number of values.
    pub fn len(&self) -> usize {
        self.tensors.values().map(Tensor::numel).sum()
    }

    /// Whether there is no value at all.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Like [`Self::assign`], but tensors whose name `may_be_new` accepts stay as they are where `source` has none of them.
    pub fn assign_but_new(
        &mut self,
        source: &BTreeMap<String, Tensor>,
        may_be_new: impl Fn(&str) -> bool,
    ) -> Result<()> {
        let mut source: BTreeMap<_, _> =
            source.iter().map(|(name, tensor)| (name.clone(), tensor.shallow_clone())).collect();
        if !source.keys().any(|name| may_be_new(name)) {
            let new = self.iter().filter(|(name, _)| may_be_new(name));
            source.extend(new.map(|(name, tensor)| (name.to_owned(), tensor.detach().copy())));
        }
        self.assign(&source)
    }

    /// Overwrites every tensor from `source`, which must have exactly these names and shapes.
    pub fn assign(&mut self, source: &BTreeMap<String, Tensor>) -> Result<()> {
        for (name, tensor) in &mut self.tensors {
            let new = source.get(name).with_context(|| format!("tensor {name} is missing"))?;
            if new.size() != tensor.size() {
                bail!("tensor {name} has shape {:?}, the model needs {:?}", new.size(), tensor.size());
            }
            tch::no_grad(|| tensor.copy_(new));
        }
        match source.keys().find(|name| !self.tensors.contains_key(*name)) {
            Some(name) => bail!("tensor {name} is not part of the model"),
            None => Ok(()),
        }
    }

    /// Writes all tensors as `kind`.
    pub fn save(&self, path: &Path, kind: Kind) -> Result<()> {
        save_tensors(path, self.iter().map(|(name, tensor)| (name.to_owned(), tensor.to_kind(kind))))
    }
}

/// Endings of the names of a matrix's low-rank change.
const LORA_A: &str = ".lora_a";
const LORA_B: &str = ".lora_b";

/// Writes tensors to a temporary file first: a killed run leaves the old file whole.
pub fn save_tensors(path: &Path, tensors: impl IntoIterator<Item = (String, Tensor)>) -> Result<()> {
    let tensors: Vec<_> = tensors
        .into_iter()
        .map(|(name, tensor)| (name, tensor.detach().to_device(Device::Cpu).contiguous()))
        .collect();
    if let Some(folder) = path.parent() {
        std::fs::create_dir_all(folder).with_context(|| format!("creating {}", folder.display()))?;
    }
    let temporary = path.with_extension("tmp");
    Tensor::write_safetensors(&tensors, &temporary)
        .and_then(|()| Ok(std::fs::rename(&temporary, path)?))
        .with_context(|| format!("writing {}", path.display()))
}

/// Reads all tensors of a safetensors file.
pub fn load_tensors(path: &Path) -> Result<BTreeMap<String, Tensor>> {
    let tensors = Tensor::read_safetensors(path).with_context(|| format!("reading {}", path.display()))?;
    Ok(tensors.into_iter().collect())
}

/// A place in the name tree: the code path is the checkpoint path.
#[derive(Clone, Debug)]
pub struct Scope<'a> {
    params: &'a Params,
    prefix: String,
}

impl<'a> Scope<'a> {
    /// One level down.
    pub fn pp(&self, part: impl std::fmt::Display) -> Scope<'a> {
        Scope { params: self.params, prefix: format!("{}{part}.", self.prefix) }
    }

    /// A tensor of this scope, single precision, without a low-rank change.
    ///
    /// # Panics
    /// Where the model was not specified with it: a mistake of the code, not of any input.
    pub fn full(&self, name: &str) -> &'a Tensor {
        let name = format!("{}{name}", self.prefix);
        self.params.tensors.get(&name).unwrap_or_else(|| panic!("no tensor {name} in the specification"))
    }

    /// A tensor of this scope in the arithmetic of the training step.
    pub fn get(&self, name: &str) -> Tensor {
        self.params.weight(&format!("{}{name}", self.prefix)).to_kind(self.params.compute)
    }

    /// `x W^T + b`; the bias is left out where `bias` is false.
    pub fn linear(&self, x: &Tensor, bias: bool) -> Tensor {
        x.linear(&self.get("weight"), bias.then(|| self.get("bias")))
    }

    /// A 2-D convolution with bias; the weight's shape says the kernel's size.
    pub fn conv(&self, x: &Tensor, stride: i64, padding: i64) -> Tensor {
        x.conv2d(&self.get("weight"), Some(self.get("bias")), [stride, stride], [padding, padding], [1, 1], 1)
    }
}

/// The fastest arithmetic of this machine: bf16 where the processor multiplies it, else single precision
/// (on processors that only emulate bf16 it is the slower of the two).
pub fn fastest_kind(device: Device) -> Kind {
    if device.is_cuda() {
        return Kind::BFloat16;
    }
    #[cfg(target_arch = "x86_64")]
    let native = std::arch::is_x86_feature_detected!("avx512bf16");
    #[cfg(not(target_arch = "x86_64"))]
    let native = false;
    if native { Kind::BFloat16 } else { Kind::Float }
}
