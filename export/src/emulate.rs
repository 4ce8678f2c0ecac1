//! Bundles whose brain float is computed in single precision and rounded after every operator, so that a machine without
//! a GPU can run what it exports.

use std::path::Path;

use indicatif::ProgressBar;
use nextclip_core::Manifest;

use crate::arithmetic::Arithmetic;
use crate::built::Built;
use crate::error::{BundleError, fault_at};
use crate::model::Checkpoint;
use crate::plan::Plan;
use crate::verify::{Verified, Verify, verify};

/// Checkpoints up to this much are written once more to be verified by.
const MAX_BYTES: u64 = 2_000_000_000;

/// Writes the bundle that [`crate::export_as`] would, with brain float emulated, into `folder`, which must exist. Its
/// graphs are for ONNX Runtime's CPU provider alone: to compare with, and to verify by. Other arithmetic is as it is.
///
/// # Errors
/// As [`crate::export_as`] has.
pub fn emulate(
    checkpoint: &Checkpoint,
    plan: &Plan,
    arithmetic: &Arithmetic,
    folder: &Path,
    progress: &ProgressBar,
) -> Result<Manifest, BundleError> {
    let precision = arithmetic.precision(plan.target)?.emulated();
    Built::new(checkpoint, plan, &precision)?.write(checkpoint, plan, arithmetic, folder, progress)
}

/// Verifies by the emulated bundle what cannot be run here itself; a large one not at all.
pub(crate) fn verify_emulated(
    checkpoint: &Checkpoint,
    plan: &Plan,
    arithmetic: &Arithmetic,
    how: Verify,
    progress: &ProgressBar,
) -> Result<Verified, BundleError> {
    let bytes = checkpoint.files.bytes() + checkpoint.vae.as_ref().map_or(0, |vae| vae.files.bytes());
    if how == Verify::None {
        return Ok(Verified::Not);
    }
    if bytes > MAX_BYTES {
        log::warn!(
            "brain float runs on no CPU, and a checkpoint of {bytes} bytes is too large to emulate it: only the rules \
             of {} were checked",
            plan.target
        );
        return Ok(Verified::Not);
    }
    let temporary = std::env::temp_dir();
    let folder = tempfile::tempdir().map_err(fault_at(&temporary))?;
    let manifest = emulate(checkpoint, plan, arithmetic, folder.path(), &ProgressBar::hidden())?;
    Ok(verify(folder.path(), &manifest, checkpoint.config.num_attention_heads, how, progress)?)
}
