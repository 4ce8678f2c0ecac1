//! Named tensors, each taken exactly once by the code path that is its name.

use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::ops::Range;
use std::path::Path;
use std::sync::Arc;

use half::{bf16, f16};
use memmap2::Mmap;

use super::safetensors::release;
use super::{CheckpointError, Fault, WeightFiles};

/// How a checkpoint stores numbers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Storage {
    /// Single precision.
    F32,
    /// Half precision.
    F16,
    /// Brain float.
    BF16,
}

impl Storage {
    pub(super) fn of(dtype: safetensors::Dtype) -> Option<Self> {
        match dtype {
            safetensors::Dtype::F32 => Some(Self::F32),
            safetensors::Dtype::F16 => Some(Self::F16),
            safetensors::Dtype::BF16 => Some(Self::BF16),
            _ => None,
        }
    }

    /// Of one number.
    pub fn bytes(self) -> usize {
        match self {
            Self::F32 => 4,
            Self::F16 | Self::BF16 => 2,
        }
    }
}

/// A tensor of a checkpoint. It stays on disk until [`Self::values`] reads it.
#[derive(Clone)]
pub struct Weight {
    name: String,
    shape: Vec<usize>,
    data: Data,
}

#[derive(Clone)]
enum Data {
    Mapped {
        storage: Storage,
        map: Arc<Mmap>,
        range: Range<usize>,
    },
    /// Those of another, and zeros behind them along the second axis.
    Padded(Box<Weight>),
    /// Not there: the fault is recorded and will be reported.
    Absent,
}

impl Weight {
    pub(super) fn mapped(
        name: String,
        shape: Vec<usize>,
        storage: Storage,
        map: Arc<Mmap>,
        range: Range<usize>,
    ) -> Self {
        Self { name, shape, data: Data::Mapped { storage, map, range } }
    }

    /// The tensor's path in the checkpoint, with the range of rows where it is a part.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Its shape.
    pub fn shape(&self) -> &[usize] {
        &self.shape
    }

    /// How it is stored.
    pub fn storage(&self) -> Option<Storage> {
        match &self.data {
            Data::Mapped { storage, .. } => Some(*storage),
            Data::Padded(weight) => weight.storage(),
            Data::Absent => None,
        }
    }

    /// The rows `rows` along the first axis.
    ///
    /// # Panics
    /// Where there are fewer rows.
    pub fn rows(&self, rows: Range<usize>) -> Self {
        assert!(rows.end <= self.shape[0], "rows {rows:?} of {} {:?}", self.name, self.shape);
        let row_len: usize = self.shape[1..].iter().product();
        let data = match &self.data {
            Data::Mapped { storage, map, range } => {
                let byte = |row: usize| range.start + row * row_len * storage.bytes();
                Data::Mapped { storage: *storage, map: map.clone(), range: byte(rows.start)..byte(rows.end) }
            }
            Data::Padded(weight) => Data::Padded(Box::new(weight.rows(rows.clone()))),
            Data::Absent => Data::Absent,
        };
        let shape = [&[rows.len()], &self.shape[1..]].concat();
        Self { name: format!("{}[{}:{}]", self.name, rows.start, rows.end), shape, data }
    }

    /// A weight (out, in, ...) for so many inputs, of which those that it does not have count nothing.
    ///
    /// # Panics
    /// Where it has more.
    pub fn for_inputs(&self, inputs: usize) -> Self {
        assert!(self.shape[1] <= inputs, "{inputs} inputs of {} {:?}", self.name, self.shape);
        let mut shape = self.shape.clone();
        shape[1] = inputs;
        Self { name: self.name.clone(), shape, data: Data::Padded(Box::new(self.clone())) }
    }

    /// The values in single precision, row-major. Of the file no more stays in memory than before.
    pub fn values(&self) -> Vec<f32> {
        match &self.data {
            Data::Absent => Vec::new(),
            Data::Padded(weight) => {
                let row = |weight: &Self| weight.shape[1..].iter().product::<usize>().max(1);
                let zeros = vec![0.0; row(self) - row(weight)];
                let values = weight.values();
                values.chunks(row(weight)).flat_map(|values| values.iter().chain(&zeros)).copied().collect()
            }
            Data::Mapped { storage, map, range } => {
                let bytes = &map[range.clone()];
                let values = match storage {
                    Storage::F32 => bytes.as_chunks().0.iter().map(|b| f32::from_le_bytes(*b)).collect(),
                    Storage::F16 => {
                        bytes.as_chunks().0.iter().map(|b| f16::from_le_bytes(*b).to_f32()).collect()
                    }
                    Storage::BF16 => {
                        bytes.as_chunks().0.iter().map(|b| bf16::from_le_bytes(*b).to_f32()).collect()
                    }
                };
                release(map, range.clone());
                values
            }
        }
    }
}

impl fmt::Debug for Weight {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {:?}", self.name, self.shape)
    }
}

/// A tensor as it was found in a file.
#[derive(Debug)]
pub(super) struct Found {
    pub(super) shape: Vec<usize>,
    pub(super) dtype: String,
    /// `None` where it is stored in numbers that cannot be read.
    pub(super) weight: Option<Weight>,
}

/// All tensors of one model, and which of them were taken.
#[derive(Debug)]
pub struct Weights {
    found: BTreeMap<String, Found>,
    taken: RefCell<BTreeSet<String>>,
    faults: RefCell<Vec<Fault>>,
}

impl Weights {
    /// The tensors of `files`.
    pub fn open(files: &WeightFiles) -> Result<Self, CheckpointError> {
        Ok(Self { found: files.tensors()?, taken: RefCell::default(), faults: RefCell::default() })
    }

    /// Where every path starts.
    pub fn root(&self) -> Scope<'_> {
        Scope { weights: self, path: String::new() }
    }

    /// Name, shape and stored type of every tensor in the files, for people.
    pub fn list(&self) -> impl Iterator<Item = (&str, &[usize], &str)> {
        self.found.iter().map(|(name, found)| (name.as_str(), found.shape.as_slice(), found.dtype.as_str()))
    }

    /// What did not fit so far, and what nobody took.
    pub fn faults(&self) -> Vec<Fault> {
        let taken = self.taken.borrow();
        let left = self.found.iter().filter(|(name, _)| !taken.contains(*name));
        let leftovers =
            left.map(|(name, found)| Fault::Leftover { name: name.clone(), found: found.shape.clone() });
        self.faults.borrow().iter().cloned().chain(leftovers).collect()
    }

    /// Ends the taking: refuses gaps, wrong shapes and leftovers of the model in `folder`, all at once.
    pub fn finish(&self, folder: &Path) -> Result<(), CheckpointError> {
        let faults = self.faults();
        if faults.is_empty() {
            Ok(())
        } else {
            Err(CheckpointError::Tensors { folder: folder.into(), faults })
        }
    }
}

/// A place in the tree of names: `llm.layers.0.self_attn`.
#[derive(Clone, Debug)]
pub struct Scope<'a> {
    weights: &'a Weights,
    path: String,
}

impl<'a> Scope<'a> {
    /// The place `part` below this one.
    pub fn at(&self, part: impl fmt::Display) -> Self {
        Self { weights: self.weights, path: self.name(part) }
    }

    /// Whether there is a tensor `name` here.
    pub fn has(&self, name: &str) -> bool {
        self.weights.found.contains_key(&self.name(name))
    }

    /// The stored shape of the tensor `name` here, without taking it.
    pub fn shape(&self, name: &str) -> Option<&'a [usize]> {
        self.weights.found.get(&self.name(name)).map(|found| found.shape.as_slice())
    }

    /// Takes the tensor `name` here, which must have this shape. What does not fit is recorded for
    /// [`Weights::finish`], so that all faults are reported at once.
    pub fn tensor(&self, name: &str, shape: &[usize]) -> Weight {
        let name = self.name(name);
        let found = self.weights.found.get(&name);
        let fault = match found {
            None => Some(Fault::Missing { name: name.clone(), expected: shape.into() }),
            Some(found) if found.shape != shape => {
                Some(Fault::Shape { name: name.clone(), found: found.shape.clone(), expected: shape.into() })
            }
            Some(Found { weight: None, dtype, .. }) => {
                Some(Fault::Storage { name: name.clone(), found: dtype.clone() })
            }
            Some(_) => None,
        };
        self.weights.taken.borrow_mut().insert(name.clone());
        let absent = Weight { name, shape: shape.into(), data: Data::Absent };
        match (fault, found.and_then(|found| found.weight.clone())) {
            (None, Some(weight)) => weight,
            (fault, _) => {
                self.weights.faults.borrow_mut().extend(fault);
                absent
            }
        }
    }

    fn name(&self, part: impl fmt::Display) -> String {
        if self.path.is_empty() { part.to_string() } else { format!("{}.{part}", self.path) }
    }
}
