//! What tells a file from any other: its size and its SHA-256.

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use super::ManifestError;

/// A file's digest and size.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct FileDigest {
    /// SHA-256, lower-case hexadecimal.
    pub sha256: String,
    /// Size in bytes.
    pub bytes: u64,
}

impl FileDigest {
    /// The digest of a file's bytes.
    pub fn of(bytes: &[u8]) -> Self {
        Self { sha256: hex(&Sha256::digest(bytes)), bytes: bytes.len() as u64 }
    }

    /// Refuses a file (named `path` for the message) that is not the one described.
    pub fn verify(&self, path: &str, found: &Self) -> Result<(), ManifestError> {
        let fault = |field, found: String, expected: String| {
            Err(ManifestError::Digest { path: path.into(), field, found, expected })
        };
        if found.bytes != self.bytes {
            return fault("size", found.bytes.to_string(), self.bytes.to_string());
        }
        if found.sha256 != self.sha256 {
            return fault("sha256", found.sha256.clone(), self.sha256.clone());
        }
        Ok(())
    }
}

/// Lower-case hexadecimal.
pub fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_changed_byte_is_found() {
        let (written, found) = (FileDigest::of(b"abc"), FileDigest::of(b"abd"));
        assert!(written.verify("f", &written).is_ok());
        assert!(written.verify("f", &found).unwrap_err().to_string().starts_with("f: sha256 is "));
        assert_eq!(written.sha256, "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad");
    }
}
