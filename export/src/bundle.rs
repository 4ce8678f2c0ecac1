//! Writes a bundle: into a draft beside the final folder, verified there, then renamed.

use std::path::Path;

use indicatif::ProgressBar;
use nextclip_core::Manifest;

use crate::arithmetic::Arithmetic;
use crate::built::Built;
use crate::draft::Draft;
use crate::emulate::verify_emulated;
use crate::error::BundleError;
use crate::model::Checkpoint;
use crate::plan::Plan;
use crate::room;
use crate::targets::check_rules;
use crate::verify::{Verified, Verify, verify};

/// Exports `checkpoint` as the bundle `out`, in single precision. A bundle of that name is replaced once the new
/// one is complete and verified; until then, and if the program is killed, nothing there changes.
pub fn export(
    checkpoint: &Checkpoint,
    plan: &Plan,
    out: &Path,
    progress: &ProgressBar,
) -> Result<Manifest, BundleError> {
    export_as(checkpoint, plan, &Arithmetic::Float, out, progress)
}

/// The same in other arithmetic.
pub fn export_as(
    checkpoint: &Checkpoint,
    plan: &Plan,
    arithmetic: &Arithmetic,
    out: &Path,
    progress: &ProgressBar,
) -> Result<Manifest, BundleError> {
    Ok(export_with(checkpoint, plan, arithmetic, Verify::Auto, out, progress)?.0)
}

/// The same, verified in a certain way; also returns what was verified.
///
/// Tensors are read, quantised and written one by one: memory does not grow with the checkpoint.
pub fn export_with(
    checkpoint: &Checkpoint,
    plan: &Plan,
    arithmetic: &Arithmetic,
    how: Verify,
    out: &Path,
    progress: &ProgressBar,
) -> Result<(Manifest, Verified), BundleError> {
    let draft = Draft::claim(out)?;
    let folder = draft.bundle();
    progress.set_message("building graphs");
    let graphs = Built::new(checkpoint, plan, &arithmetic.precision(plan.target)?)?;
    arithmetic.check_names(graphs.iter())?;
    let needed = graphs.planned(&folder)?;
    room::check(&folder, needed)?;
    let written = || -> Result<_, BundleError> {
        let manifest = graphs.write(checkpoint, plan, arithmetic, &folder, progress)?;
        progress.set_message("verifying");
        check_rules(&folder, &manifest)?;
        let heads = checkpoint.config.num_attention_heads;
        let verified = if arithmetic.runs_on_cpu() {
            verify(&folder, &manifest, heads, how, progress)?
        } else {
            verify_emulated(checkpoint, plan, arithmetic, how, progress)?
        };
        Ok((manifest, verified))
    };
    let written = written().map_err(|error| error.of_room(needed))?;
    progress.set_message("putting it in place");
    draft.publish().map_err(|error| error.of_room(needed))?;
    Ok(written)
}
