//! What can be wrong with a checkpoint folder.

use std::fmt;
use std::path::PathBuf;

use thiserror::Error;

/// A checkpoint that cannot be used.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum CheckpointError {
    /// Nothing there.
    #[error("{}: no such folder; a checkpoint is a folder with config.json and model.safetensors", .0.display())]
    NoFolder(PathBuf),
    /// A file is missing.
    #[error("{}: no such file; {role}", path.display())]
    NoFile {
        /// The file.
        path: PathBuf,
        /// What it would say.
        role: &'static str,
    },
    /// A file cannot be read.
    #[error("{}: cannot be read", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// A file is not the JSON that it should be.
    #[error("{}", path.display())]
    Json {
        /// The file.
        path: PathBuf,
        /// What is wrong and where.
        source: serde_json::Error,
    },
    /// Sizes that no model has.
    #[error("{}: {}", path.display(), faults.join("; "))]
    Config {
        /// The configuration file.
        path: PathBuf,
        /// Each in words.
        faults: Vec<String>,
    },
    /// Weights in Python's own format.
    #[error(
        "{}: weights in PyTorch's pickle format, which can run code when read; convert them to safetensors first \
         (in Python: safetensors.torch.save_file(torch.load(\"{file}\", weights_only=True), \"{stem}.safetensors\"))",
        path.display()
    )]
    Pickle {
        /// The file.
        path: PathBuf,
        /// Its name.
        file: String,
        /// What the weights must be called.
        stem: &'static str,
    },
    /// No weights at all.
    #[error("{}: neither {stem}.safetensors nor {stem}.safetensors.index.json", folder.display())]
    NoWeights {
        /// Where they should be.
        folder: PathBuf,
        /// Their name without extension.
        stem: &'static str,
    },
    /// A weight file that ends early.
    #[error("{}: truncated: {bytes} bytes of {needed}", path.display())]
    Truncated {
        /// The file.
        path: PathBuf,
        /// What is there.
        bytes: u64,
        /// What its header promises, at least.
        needed: u64,
    },
    /// A weight file that is something else.
    #[error("{}: not a safetensors file: {reason}", path.display())]
    Format {
        /// The file.
        path: PathBuf,
        /// Why.
        reason: String,
    },
    /// An index that does not fit its shards.
    #[error("{}: {reason}", path.display())]
    Index {
        /// The index.
        path: PathBuf,
        /// What does not fit.
        reason: String,
    },
    /// The special tokens are nowhere.
    #[error(
        "{}: none of tokenizer.json, added_tokens.json, tokenizer_config.json has ids for <img>, </img> and <|diffusion|>",
        .0.display()
    )]
    NoTokens(PathBuf),
    /// Tensors that do not fit the configuration.
    #[error("{}", faults_message(folder, faults))]
    Tensors {
        /// The folder of the configuration and the weights.
        folder: PathBuf,
        /// Every one of them.
        faults: Vec<Fault>,
    },
}

/// A tensor that does not fit the configuration.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Fault {
    /// The configuration asks for it and it is not there.
    Missing {
        /// The tensor.
        name: String,
        /// Its shape, had it been there.
        expected: Vec<usize>,
    },
    /// It has another shape.
    Shape {
        /// The tensor.
        name: String,
        /// In the file.
        found: Vec<usize>,
        /// By the configuration.
        expected: Vec<usize>,
    },
    /// It is stored in numbers that weights are not stored in.
    Storage {
        /// The tensor.
        name: String,
        /// As safetensors calls it.
        found: String,
    },
    /// Nothing reads it.
    Leftover {
        /// The tensor.
        name: String,
        /// In the file.
        found: Vec<usize>,
    },
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Missing { name, expected } => {
                write!(f, "tensor {name} is missing, the configuration asks for {expected:?}")
            }
            Self::Shape { name, found, expected } => {
                write!(f, "tensor {name} has shape {found:?}, the configuration asks for {expected:?}")
            }
            Self::Storage { name, found } => {
                write!(f, "tensor {name} is stored as {found}; F32, F16 and BF16 can be read")
            }
            Self::Leftover { name, found } => {
                write!(f, "tensor {name} of shape {found:?} is left over: nothing in the model reads it")
            }
        }
    }
}

/// One fault on the folder's line, several on lines of their own.
fn faults_message(folder: &std::path::Path, faults: &[Fault]) -> String {
    match faults {
        [fault] => format!("{}: {fault}", folder.display()),
        faults => faults
            .iter()
            .fold(format!("{}: {} tensors do not fit", folder.display(), faults.len()), |text, fault| {
                format!("{text}\n  {fault}")
            }),
    }
}
