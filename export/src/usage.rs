//! What a command took: the most memory that it ever had, and its time.

use std::fmt;
use std::fs;
use std::time::Instant;

use indicatif::HumanBytes;

/// Time since it was made, and the process's memory.
#[derive(Clone, Copy, Debug)]
pub struct Usage {
    started: Instant,
}

impl Usage {
    /// From now on.
    pub fn start() -> Self {
        Self { started: Instant::now() }
    }

    /// The largest resident set of this process so far, in bytes, parts of mapped files included; `None` where the
    /// system does not tell.
    pub fn peak_memory_bytes() -> Option<u64> {
        let status = fs::read_to_string("/proc/self/status").ok()?;
        let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"))?;
        let kibibytes: u64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
        Some(kibibytes * 1024)
    }
}

impl fmt::Display for Usage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let elapsed = self.started.elapsed();
        match elapsed.as_secs() / 60 {
            0 => write!(f, "{:.1} s", elapsed.as_secs_f64())?,
            minutes => write!(f, "{minutes} min {} s", elapsed.as_secs() % 60)?,
        }
        match Self::peak_memory_bytes() {
            Some(bytes) => write!(f, ", {} of memory at most", HumanBytes(bytes)),
            None => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn memory_once_used_stays_in_the_peak() {
        let before = Usage::peak_memory_bytes().unwrap();
        let filled = vec![1_u8; 64 << 20];
        assert!(filled.iter().all(|byte| *byte == 1));
        drop(filled);
        let after = Usage::peak_memory_bytes().unwrap();
        assert!(after >= before && after > 64 << 20, "{before} then {after}");
        assert!(Usage::start().to_string().starts_with("0.0 s, "));
    }
}
