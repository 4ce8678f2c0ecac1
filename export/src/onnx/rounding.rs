//! What decides how a weight becomes an integer.

use std::sync::Arc;

use nextclip_quant::{
    BlockFormat, BlockScale, BlockWeights, Error, GptqSettings, Hessian, awq_scales, gptq, per_block,
};

use crate::calibrate::InputProducts;

/// What decides between the two integers next to a weight.
#[derive(Clone, Debug, Default, PartialEq)]
pub enum Rounding {
    /// The nearer one.
    #[default]
    Nearest,
    /// The output that comes of all weights together, for the inputs that were seen (GPTQ).
    Outputs(Arc<InputProducts>),
    /// The nearer one, of weights that are scaled up where the inputs that were seen are large; these are scaled down as
    /// much at work (AWQ).
    Scaled(Arc<InputProducts>),
}

impl Rounding {
    /// What a manifest says of it, and the inputs that it was found by; of the nearest there is nothing to say.
    pub(crate) fn origin(&self) -> Option<(&'static str, &InputProducts)> {
        match self {
            Self::Nearest => None,
            Self::Outputs(products) => Some(("gptq", products)),
            Self::Scaled(products) => Some(("awq", products)),
        }
    }

    /// The same for one layer, by its checkpoint path. Calibration has seen every layer that there can be in blocks.
    pub(super) fn of_layer(&self, layer: &str) -> LayerRounding {
        let found = |products: &InputProducts| products.of(layer).cloned();
        match self {
            Self::Nearest => None,
            Self::Outputs(products) => found(products).map(LayerRounding::Outputs),
            Self::Scaled(products) => found(products).map(LayerRounding::Scaled),
        }
        .unwrap_or_default()
    }
}

/// [`Rounding`] of one layer, with the products of its inputs.
#[derive(Clone, Debug, Default)]
pub(super) enum LayerRounding {
    #[default]
    Nearest,
    Outputs(Arc<Hessian>),
    Scaled(Arc<Hessian>),
}

/// A layer's weights as integers.
#[derive(Debug)]
pub(super) struct Rounded {
    pub(super) blocks: BlockWeights,
    /// What each input is multiplied by before the product, where weights were scaled.
    pub(super) inputs: Vec<f32>,
}

impl LayerRounding {
    /// Whether the layer's inputs are scaled.
    pub(super) fn scales_inputs(&self) -> bool {
        matches!(self, Self::Scaled(_))
    }

    /// Rounds `weights` `[K, N]`.
    pub(super) fn round(
        &self,
        weights: &[f32],
        shape: [usize; 2],
        format: BlockFormat,
        scale: BlockScale,
    ) -> Result<Rounded, Error> {
        let plain = |blocks| Rounded { blocks, inputs: Vec::new() };
        match self {
            Self::Nearest => per_block(weights, shape, format, scale).map(plain),
            Self::Outputs(products) => {
                let settings = GptqSettings { scale, ..GptqSettings::default() };
                gptq(weights, shape, products, format, &settings).map(plain)
            }
            Self::Scaled(products) => {
                let scales = awq_scales(weights, shape, products, format, scale)?.scales;
                let rows = weights.chunks(shape[1].max(1)).zip(&scales);
                let scaled: Vec<f32> =
                    rows.flat_map(|(row, scale)| row.iter().map(move |w| w * scale)).collect();
                let blocks = per_block(&scaled, shape, format, scale)?;
                Ok(Rounded { blocks, inputs: scales.iter().map(|scale| scale.recip()).collect() })
            }
        }
    }
}
