//! Measures what a bundle's predictions are worth, against predictors that need no model.
//!
//! [`Clips`] gives windows of generated scenes or films, [`measure`] runs the bundle over them, and
//! [`Report`] says by how much its pictures are nearer to what came than the last frame repeated, a linear
//! continuation, and than the autoencoder alone could bring them. [`steps_curve`] measures realism beside
//! distortion for different numbers of steps, [`rollout()`] lets the model continue its own predictions,
//! [`compare`] puts two bundles side by side. Formulas are those of [`nextclip_core::metrics`].
//!
//! ```no_run
//! use nextclip_eval::{Clips, Drawing, Footage, Report, Selection, measure};
//! use nextclip_media::Fit;
//! use nextclip_predictor::{Predictor, Settings};
//!
//! let mut predictor = Predictor::open("bundle".as_ref(), &Settings::default())?;
//! let geometry = predictor.manifest().geometry;
//! let selection = Selection { footage: Footage::Scenes, part: None, fit: Fit::Crop, most: 20 };
//! let clips = Clips::open(&selection, &geometry, geometry.clip)?;
//! let drawing = Drawing::new(None, None, predictor.steps());
//! let report = Report::new(measure(&mut predictor, &clips, &drawing, || ())?, &geometry);
//! assert!(report.summary().starts_with("psnr_db="));
//! # Ok::<(), anyhow::Error>(())
//! ```

mod clips;
mod compare;
mod draw;
pub mod figures;
mod frechet;
mod machine;
mod measure;
mod page;
pub mod realism;
mod report;
pub mod rollout;
mod score;
mod table;
mod tracked;

pub use clips::{Clip, Clips, FEWEST_SEEN, Footage, Part, Selection};
pub use compare::{Comparison, Pair, Stage, compare};
pub use draw::{Drawing, Mode};
pub use frechet::{Moments, frechet_distance};
pub use machine::describe as describe_machine;
pub use measure::{Forecaster, Sample, measure};
pub use page::{Figure, Page, PageSection};
pub use realism::{StepsCurve, StepsPoint, steps_curve};
pub use report::{Measure, Report};
pub use rollout::{Rollout, RolloutPoint, rollout};
pub use score::{MovingScore, Score, Truth};
pub use table::{Table, TableRow};
