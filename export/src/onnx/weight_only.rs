//! Linear layers whose weights are 4- or 8-bit integers with a scale for each block of inputs, and whose activations
//! stay floats: a quarter or an eighth of the size without calibration.
//!
//! Two forms of the same numbers: ONNX Runtime's `MatMulNBits`, which computes in integers, and `DequantizeLinear`
//! with a block size before a plain product (opset 21), which other runtimes read, TensorRT among them. Weights are
//! quantised when the graph is written, a few rows at a time.

use std::num::NonZero;
use std::thread;

use half::{bf16, f16};
use nextclip_core::manifest::Dtype;
use nextclip_quant::{Bits, BlockFormat, BlockScale, Error, per_block};

use super::builder::GraphBuilder;
use super::explicit::positive_in;
use super::graph::{Constant, LayerUse, Layout, Value};
use super::layers::{Linear, path};
use super::operators::int;
use super::quantised::{Choice, Precision};
use super::rounding::{LayerRounding, Rounded, Rounding};
use super::typed::Typed;
use crate::checkpoint::Weight;

/// Activations are brought to 8 bits, block by block, within ONNX Runtime's kernel. The other levels compute in
/// floats: as fast as single precision with 4 bits, and with 8 bits 50 times slower.
const ACCURACY_LEVEL: i64 = 4;

/// The smallest block that ONNX Runtime has kernels for.
pub const MIN_BLOCK: usize = 16;

/// The largest.
pub const MAX_BLOCK: usize = 256;

/// Those that TensorRT's products of 4-bit weights are known to take.
pub const TENSORRT_BLOCKS: [usize; 2] = [64, 128];

/// Weights converted in one go, a thread.
const CHUNK_WEIGHTS: usize = 1 << 20;

/// How weights become integers.
#[derive(Clone, Debug, PartialEq)]
pub struct WeightOnly {
    /// Width and block; a layer of fewer inputs has a smaller block.
    pub format: BlockFormat,
    /// How scales are found.
    pub rule: BlockScale,
    /// Which operators compute with them.
    pub form: BlockForm,
    /// Which linear layers without a bias are quantised.
    pub choice: Choice,
    /// What rounds a weight.
    pub rounding: Rounding,
}

impl Default for WeightOnly {
    /// 4 bits in groups of 32, rounded to the nearest, in every layer.
    fn default() -> Self {
        Self {
            format: BlockFormat { bits: Bits::Four, block: 32 },
            rule: BlockScale::Mse,
            form: BlockForm::MatMulNBits,
            choice: Choice::default(),
            rounding: Rounding::default(),
        }
    }
}

/// How integers in blocks stand in a graph.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum BlockForm {
    /// `com.microsoft.MatMulNBits`.
    MatMulNBits,
    /// ONNX's `DequantizeLinear` of `[K, N]` along axis 0, then `MatMul`.
    Dequantised,
    /// The same in blocks that TensorRT has kernels for.
    TensorRt,
}

impl BlockForm {
    /// The smallest block.
    pub fn least_block(self) -> usize {
        match self {
            Self::MatMulNBits | Self::Dequantised => MIN_BLOCK,
            Self::TensorRt => TENSORRT_BLOCKS[0],
        }
    }
}

/// A weight (out, in) that is stored as integers with scales.
#[derive(Clone, Debug)]
pub struct BlockWeight {
    pub(super) weight: Weight,
    format: BlockFormat,
    rule: BlockScale,
    form: BlockForm,
    rounding: LayerRounding,
    /// Type of the scales, which is what the layer reads and makes.
    scale_type: Dtype,
}

/// One of the tensors that a weight becomes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BlockPart {
    /// The integers.
    Integers,
    /// Their scales.
    Scales,
    /// What each of the layer's inputs is multiplied by; only where weights were scaled.
    Inputs,
}

/// All tensors' bytes, as ONNX stores them.
#[derive(Debug, Default)]
pub(super) struct Packed {
    integers: Vec<u8>,
    scales: Vec<u8>,
    inputs: Vec<u8>,
}

/// The block of a layer with so many inputs. `MatMulNBits` fills the last one up; elsewhere all blocks must be whole,
/// and a layer that has none of them, `None`, stays in floats.
fn block_for(inputs: usize, most: usize, form: BlockForm) -> Option<usize> {
    match form {
        BlockForm::MatMulNBits => Some(most.min(inputs.next_power_of_two())),
        BlockForm::Dequantised | BlockForm::TensorRt => {
            let whole = 1 << inputs.trailing_zeros().min(most.ilog2());
            (whole >= form.least_block()).then_some(whole)
        }
    }
}

impl GraphBuilder {
    /// The product of a linear layer whose weight is stored in blocks, without its bias; `None` where this graph's
    /// precision, or its choice of layers, has it otherwise. x (..., in) -> (..., out).
    pub(super) fn block_product(&mut self, x: &Value, layer: &Linear) -> Option<Value> {
        let recipe = match &self.precision {
            Precision::Blocks(recipe) | Precision::Typed(Typed { blocks: Some(recipe), .. }) => recipe,
            _ => return None,
        };
        let outputs = layer.weight.shape()[0];
        let inputs: usize = layer.weight.shape()[1..].iter().product();
        if layer.bias.is_some() || inputs.min(outputs) < MIN_BLOCK {
            return None;
        }
        // Queries, keys and values are products of their own and one layer to choose.
        let place = path(&layer.weight);
        let place = place.split_once('[').map_or(place.as_str(), |(whole, _)| whole).to_owned();
        let quantised = recipe.choice.takes(&place);
        let block = block_for(inputs, recipe.format.block, recipe.form)?;
        let weight = BlockWeight {
            weight: layer.weight.clone(),
            format: BlockFormat { block, ..recipe.format },
            rule: recipe.rule,
            form: recipe.form,
            rounding: recipe.rounding.of_layer(&place),
            scale_type: x.dtype,
        };
        let tensors = vec![x.name.clone()];
        self.graph.layers.push(LayerUse { layer: place, tensors, quantised });
        quantised.then(|| {
            let scaled = weight.rounding.scales_inputs().then(|| {
                let scales = self.block_tensor(&weight, BlockPart::Inputs);
                self.mul(x, &scales)
            });
            let x = scaled.as_ref().unwrap_or(x);
            match weight.form {
                BlockForm::MatMulNBits => self.matmul_nbits(x, &weight),
                BlockForm::Dequantised | BlockForm::TensorRt => {
                    let weight = self.dequantised_blocks(&weight);
                    self.matmul(x, &weight)
                }
            }
        })
    }

    fn matmul_nbits(&mut self, x: &Value, weight: &BlockWeight) -> Value {
        let [outputs, inputs] = weight.sizes();
        let [integers, scales] =
            [BlockPart::Integers, BlockPart::Scales].map(|part| self.block_tensor(weight, part));
        let attributes = vec![
            int("K", inputs as i64),
            int("N", outputs as i64),
            int("bits", weight.bits() as i64),
            int("block_size", weight.format.block as i64),
            int("accuracy_level", ACCURACY_LEVEL),
        ];
        let shape = [&x.shape[..x.rank() - 1], &[outputs]].concat();
        self.node("MatMulNBits", &[x, &integers, &scales], attributes, &shape, x.dtype)
    }

    /// The float weight `[K, N]` that blocks of integers stand for.
    fn dequantised_blocks(&mut self, weight: &BlockWeight) -> Value {
        let [outputs, inputs] = weight.sizes();
        let [integers, scales] =
            [BlockPart::Integers, BlockPart::Scales].map(|part| self.block_tensor(weight, part));
        let attributes = vec![int("axis", 0), int("block_size", weight.format.block as i64)];
        // Where ONNX Runtime makes signed 8-bit weights unsigned, it gives those without a zero point one that does
        // not fit blocks, and then refuses it; nor may two weights share one.
        let zeros = (weight.format.bits == Bits::Eight).then(|| {
            let shape = scales.shape();
            let zeros = Constant::I8(vec![0; shape.iter().product()]);
            self.constant(format!("{} zero points", weight.name(BlockPart::Integers)), shape, zeros)
        });
        let operands: Vec<&Value> = [&integers, &scales].into_iter().chain(&zeros).collect();
        self.node("DequantizeLinear", &operands, attributes, &[inputs, outputs], weight.scale_type)
    }

    fn block_tensor(&mut self, weight: &BlockWeight, part: BlockPart) -> Value {
        self.constant(weight.name(part), &weight.shape(part), Constant::Blocks(weight.clone(), part))
    }
}

impl Packed {
    pub(super) fn take(&mut self, part: BlockPart) -> Vec<u8> {
        std::mem::take(match part {
            BlockPart::Integers => &mut self.integers,
            BlockPart::Scales => &mut self.scales,
            BlockPart::Inputs => &mut self.inputs,
        })
    }
}

impl BlockWeight {
    /// N and K.
    fn sizes(&self) -> [usize; 2] {
        let shape = self.weight.shape();
        [shape[0], shape[1..].iter().product()]
    }

    fn bits(&self) -> usize {
        match self.format.bits {
            Bits::Four => 4,
            Bits::Eight => 8,
        }
    }

    /// Which tensor this is, among all of a bundle.
    pub(super) fn name(&self, part: BlockPart) -> String {
        let Self { format, rule, form, .. } = self;
        let (name, bits) = (self.weight.name(), self.bits());
        format!("{name} int{bits} in {} {rule:?} {form:?} {part:?}", format.block)
    }

    /// Whether the integers are ONNX's INT4, two a byte.
    pub(super) fn is_int4(&self, part: BlockPart) -> bool {
        part == BlockPart::Integers && self.form != BlockForm::MatMulNBits && self.format.bits == Bits::Four
    }

    pub(super) fn dtype(&self, part: BlockPart) -> Dtype {
        match (part, self.form) {
            (BlockPart::Scales | BlockPart::Inputs, _) => self.scale_type,
            (BlockPart::Integers, BlockForm::MatMulNBits) => Dtype::U8,
            (BlockPart::Integers, BlockForm::Dequantised | BlockForm::TensorRt) => Dtype::I8,
        }
    }

    fn shape(&self, part: BlockPart) -> Vec<usize> {
        let [outputs, inputs] = self.sizes();
        let blocks = inputs.div_ceil(self.format.block);
        match (part, self.form) {
            (BlockPart::Integers, BlockForm::MatMulNBits) => {
                vec![outputs, blocks, self.format.block * self.bits() / 8]
            }
            (BlockPart::Scales, BlockForm::MatMulNBits) => vec![outputs, blocks],
            (BlockPart::Inputs, _) => vec![inputs],
            (BlockPart::Integers, _) => vec![inputs, outputs],
            (BlockPart::Scales, _) => vec![blocks, outputs],
        }
    }

    /// The tensors that it becomes.
    pub(super) fn parts(&self) -> impl Iterator<Item = BlockPart> {
        let inputs = self.rounding.scales_inputs().then_some(BlockPart::Inputs);
        [BlockPart::Integers, BlockPart::Scales].into_iter().chain(inputs)
    }

    /// Reads and quantises the weight.
    pub(super) fn pack(&self) -> Result<Packed, Error> {
        if self.form == BlockForm::MatMulNBits && matches!(self.rounding, LayerRounding::Nearest) {
            return self.pack_rows();
        }
        let [outputs, inputs] = self.sizes();
        let values = Layout::Transposed.values(&self.weight);
        let rounded = self.rounding.round(&values, [inputs, outputs], self.format, self.rule)?;
        let Rounded { blocks, inputs } = rounded;
        let (integers, scales) = match self.form {
            BlockForm::MatMulNBits => blocks.matmul_nbits()?,
            BlockForm::Dequantised | BlockForm::TensorRt => (blocks.onnx_bytes(), blocks.scales),
        };
        let bytes = |factors: &[f32]| bytes(factors, self.scale_type);
        Ok(Packed { integers, scales: bytes(&scales), inputs: bytes(&inputs) })
    }

    /// A band of outputs to each core.
    fn pack_rows(&self) -> Result<Packed, Error> {
        let [outputs, _] = self.sizes();
        let threads = thread::available_parallelism().map_or(1, NonZero::get);
        let band = outputs.div_ceil(threads).max(1);
        thread::scope(|scope| {
            let bands: Vec<_> = (0..outputs)
                .step_by(band)
                .map(|first| scope.spawn(move || self.pack_band(first..outputs.min(first + band))))
                .collect();
            bands.into_iter().try_fold(Packed::default(), |mut all, band| {
                let band = band.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))?;
                all.integers.extend(band.integers);
                all.scales.extend(band.scales);
                Ok(all)
            })
        })
    }

    /// In the checkpoint an output's weights lie together, and so do they in the result: a run of whole blocks is a
    /// matrix of one output, however many outputs it spans.
    fn pack_band(&self, rows: std::ops::Range<usize>) -> Result<Packed, Error> {
        let [_, inputs] = self.sizes();
        let run = if inputs.is_multiple_of(self.format.block) { CHUNK_WEIGHTS } else { inputs };
        let chunk_rows = (CHUNK_WEIGHTS / inputs).max(1);
        let mut packed = Packed::default();
        for first in rows.clone().step_by(chunk_rows) {
            let values = self.weight.rows(first..rows.end.min(first + chunk_rows)).values();
            for run in values.chunks(run.next_multiple_of(inputs)) {
                let blocks = per_block(run, [run.len(), 1], self.format, self.rule)?;
                let (integers, scales) = blocks.matmul_nbits()?;
                packed.integers.extend(integers);
                packed.scales.extend(bytes(&scales, self.scale_type));
            }
        }
        Ok(packed)
    }
}

/// Factors above zero as bytes of a float type, and still above zero.
fn bytes(factors: &[f32], dtype: Dtype) -> Vec<u8> {
    let fitting = factors.iter().map(|factor| positive_in(dtype, *factor));
    match dtype {
        Dtype::F16 => fitting.flat_map(|factor| f16::from_f32(factor).to_le_bytes()).collect(),
        Dtype::Bf16 => fitting.flat_map(|factor| bf16::from_f32(factor).to_le_bytes()).collect(),
        _ => fitting.flat_map(f32::to_le_bytes).collect(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn blocks_fit_the_inputs() {
        let nbits = |inputs, most| block_for(inputs, most, BlockForm::MatMulNBits);
        assert_eq!([nbits(3072, 32), nbits(160, 128), nbits(24, 128)], [Some(32), Some(128), Some(32)]);
        let whole = |inputs, most| block_for(inputs, most, BlockForm::Dequantised);
        assert_eq!([whole(3072, 128), whole(160, 128), whole(24, 128)], [Some(128), Some(32), None]);
        let tensorrt = |inputs, most| block_for(inputs, most, BlockForm::TensorRt);
        assert_eq!(
            [tensorrt(3072, 128), tensorrt(704, 128), tensorrt(160, 128)],
            [Some(128), Some(64), None]
        );
    }
}
