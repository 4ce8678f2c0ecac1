//! Opens a bundle's folder: the manifest parsed, its interface checked, every file's digest verified.

use std::fs::{self, File};
use std::io::{self, Read};
use std::path::Path;

use nextclip_core::Manifest;
use nextclip_core::manifest::{self, FileDigest, hex};
use sha2::{Digest, Sha256};

use crate::contract::{DECODE, DENOISE, ENCODE, GraphSpecs, REMEMBER};
use crate::error::Error;

/// Reads the manifest of a bundle and believes it only as far as it was checked: its interface, and the digest of
/// every file.
pub fn open(bundle: &Path) -> Result<Manifest, Error> {
    let path = bundle.join(manifest::FILE_NAME);
    let text = fs::read_to_string(&path).map_err(|source| Error::Read { path, source })?;
    let fault = |source| Error::Manifest { bundle: bundle.into(), source };
    let manifest = Manifest::from_json(&text).map_err(fault)?;
    check_interface(&manifest)?;
    for (name, digest) in &manifest.files {
        let path = bundle.join(name);
        let found = digest_of(&path).map_err(|source| Error::Read { path, source })?;
        digest.verify(name, &found).map_err(fault)?;
    }
    Ok(manifest)
}

fn check_interface(manifest: &Manifest) -> Result<(), Error> {
    let (geometry, cache, graphs) = (&manifest.geometry, &manifest.cache, &manifest.graphs);
    if cache.batch != 1 {
        return Err(Error::Batch(cache.batch));
    }
    let (motion, guided) = (manifest.motion, manifest.sampler.guidance != 1.0);
    if let Some(encode) = &graphs.encode {
        GraphSpecs::encode(geometry, cache, motion).check(ENCODE, encode)?;
    }
    GraphSpecs::remember(geometry, cache, motion).check(REMEMBER, &graphs.remember)?;
    GraphSpecs::denoise(geometry, cache, guided).check(DENOISE, &graphs.denoise)?;
    if let Some(decode) = &graphs.decode {
        GraphSpecs::decode(geometry, cache, motion).check(DECODE, decode)?;
    }
    Ok(())
}

/// Digest of a file, read in pieces: weights may be larger than memory.
fn digest_of(path: &Path) -> io::Result<FileDigest> {
    let mut file = File::open(path)?;
    let (mut hash, mut bytes) = (Sha256::new(), 0);
    let mut piece = vec![0; 1 << 20];
    loop {
        match file.read(&mut piece)? {
            0 => return Ok(FileDigest { sha256: hex(&hash.finalize()), bytes }),
            read => {
                hash.update(&piece[..read]);
                bytes += read as u64;
            }
        }
    }
}
