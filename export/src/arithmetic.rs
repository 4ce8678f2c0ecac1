//! The numbers that a bundle computes in, and what the graph builder makes of them for a target.

use std::sync::Arc;

use nextclip_core::manifest::{self, Dtype, Target};
use nextclip_quant::Bits;

use crate::calibrated::Calibrated;
use crate::error::BundleError;
use crate::onnx::{BlockForm, Choice, EightBits, Format, Graph, Precision, Typed, WeightOnly, covers};
use crate::targets::{PrecisionName, TargetError};

/// The numbers that a bundle computes in.
#[derive(Clone, Debug, Default)]
pub enum Arithmetic {
    /// Single precision.
    #[default]
    Float,
    /// Half precision, with norms in single.
    Fp16,
    /// Brain float, with norms and softmax in single precision.
    Bf16,
    /// Weights and activations of the large layers in 8-bit integers; the others in the target's float.
    W8A8(Calibrated),
    /// Weights and activations of the large linear layers in 8-bit floats; everything else in half precision.
    Fp8(Calibrated),
    /// Weights of the decoder's linear layers in blocks of 4- or 8-bit integers.
    Blocks(Arc<WeightOnly>),
}

impl Arithmetic {
    /// Its name.
    pub fn name(&self) -> PrecisionName {
        match self {
            Self::Float => PrecisionName::F32,
            Self::Fp16 => PrecisionName::Fp16,
            Self::Bf16 => PrecisionName::Bf16,
            Self::W8A8(_) => PrecisionName::W8A8,
            Self::Fp8(_) => PrecisionName::Fp8,
            Self::Blocks(recipe) if recipe.format.bits == Bits::Four => PrecisionName::W4,
            Self::Blocks(_) => PrecisionName::W8,
        }
    }

    /// How it was calibrated, where it was.
    pub(crate) fn calibrated(&self) -> Option<&Calibrated> {
        match self {
            Self::W8A8(calibrated) | Self::Fp8(calibrated) => Some(calibrated),
            Self::Float | Self::Fp16 | Self::Bf16 | Self::Blocks(_) => None,
        }
    }

    /// Whether ONNX Runtime's CPU provider has every operator of its graphs.
    pub(crate) fn runs_on_cpu(&self) -> bool {
        !matches!(self, Self::Bf16)
    }

    /// What the graph builder makes of it for a target.
    pub(crate) fn precision(&self, target: Target) -> Result<Precision, TargetError> {
        self.name().require(target)?;
        if target == Target::Cpu {
            return Ok(match self {
                Self::W8A8(calibrated) => Precision::Int8(calibrated.recipe.clone()),
                Self::Blocks(recipe) => Precision::Blocks(recipe.clone()),
                _ => Precision::Float,
            });
        }
        let float = match self {
            Self::Float => Dtype::F32,
            Self::Bf16 => Dtype::Bf16,
            // What is not in fewer bits is in half precision.
            Self::Fp16 | Self::W8A8(_) | Self::Fp8(_) | Self::Blocks(_) => Dtype::F16,
        };
        // TensorRT's fused attention adds up in single precision whatever it reads and writes, and a cast between its
        // products would keep it from being fused. Brain float's 8 bits are too few for scores.
        let softmax = if target.is_tensorrt() && float == Dtype::F16 { Dtype::F16 } else { Dtype::F32 };
        let format = if matches!(self, Self::Fp8(_)) { Format::E4m3 } else { Format::Int8 };
        let eight_bits = self.calibrated().map(|calibrated| EightBits {
            format,
            ranges: calibrated.layer_ranges.clone(),
            choice: calibrated.recipe.choice.clone(),
        });
        let blocks = match self {
            Self::Blocks(recipe) => {
                Some(Arc::new(WeightOnly { form: BlockForm::TensorRt, ..(**recipe).clone() }))
            }
            _ => None,
        };
        Ok(Precision::Typed(Typed {
            float,
            softmax,
            own_operators_only: target.is_tensorrt(),
            eight_bits,
            blocks,
            emulated: false,
        }))
    }

    /// Its name in the manifest: f32, w8a8, w4g32 (4-bit weights in groups of 32).
    pub(crate) fn label(&self) -> String {
        match self {
            Self::Blocks(recipe) => {
                let bits = if recipe.format.bits == Bits::Four { 4 } else { 8 };
                format!("w{bits}g{}", recipe.format.block)
            }
            other => other.name().to_string(),
        }
    }

    /// Refuses a choice of layers that the graphs do not have. Calibration has looked at its own.
    pub(crate) fn check_names<'a>(&self, graphs: impl Iterator<Item = &'a Graph>) -> Result<(), BundleError> {
        let Self::Blocks(recipe) = self else { return Ok(()) };
        let mut layers = Vec::new();
        for used in graphs.flat_map(|graph| &graph.layers) {
            if !layers.contains(&used.layer) {
                layers.push(used.layer.clone());
            }
        }
        let (Choice::AllBut(names) | Choice::Only(names)) = &recipe.choice;
        match names.iter().find(|name| !layers.iter().any(|layer| covers(name, layer))) {
            Some(name) => Err(BundleError::NoLayer { name: name.clone(), layers }),
            None => Ok(()),
        }
    }

    /// What the manifest says of how these graphs were quantised.
    pub(crate) fn provenance<'a>(
        &self,
        target: Target,
        graphs: impl Iterator<Item = &'a Graph>,
    ) -> Option<manifest::Quantisation> {
        if let Self::Blocks(recipe) = self {
            let origin = recipe.rounding.origin();
            return origin.map(|(rule, products)| products.provenance(rule, graphs));
        }
        let pairs_fit = target == Target::Cpu && matches!(self, Self::W8A8(_));
        let found = self.calibrated().map(|calibrated| calibrated.provenance(graphs));
        found.map(|found| manifest::Quantisation { pairs_fit, ..found })
    }

    /// Files that tell how it came about.
    pub(crate) fn documents(&self) -> &[(&'static str, Vec<u8>)] {
        self.calibrated().map_or(&[], |calibrated| &calibrated.documents)
    }
}
