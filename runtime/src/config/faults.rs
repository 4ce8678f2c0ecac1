//! Mistakes in a configuration, gathered so that all of them are reported at once.

use std::fmt;

/// One mistake, and where it is.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Fault {
    /// Line in the file, from 1; none for a command line flag.
    pub line: Option<usize>,
    /// The key or the flag: `predict.steps`, `--steps`.
    pub place: String,
    /// What is wrong, with the value and the bound.
    pub message: String,
}

/// All mistakes that were found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Faults {
    /// The file that lines count in, if one was read.
    file: Option<String>,
    faults: Vec<Fault>,
}

impl Faults {
    /// These mistakes; lines count in `file`.
    pub fn new(file: Option<String>, mut faults: Vec<Fault>) -> Self {
        // What has no line (flags, missing keys) comes first.
        faults.sort();
        faults.dedup();
        Self { file, faults }
    }

    /// The mistakes, in the order of the file.
    pub fn iter(&self) -> impl Iterator<Item = &Fault> {
        self.faults.iter()
    }
}

impl fmt::Display for Faults {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.faults.len() {
            1 => write!(f, "the configuration has a mistake:")?,
            several => write!(f, "the configuration has {several} mistakes:")?,
        }
        let file = self.file.as_deref().unwrap_or("configuration");
        for Fault { line, place, message } in &self.faults {
            match line {
                Some(line) => write!(f, "\n  {file}:{line}: {place}: {message}")?,
                None => write!(f, "\n  {place}: {message}")?,
            }
        }
        Ok(())
    }
}

impl std::error::Error for Faults {}
