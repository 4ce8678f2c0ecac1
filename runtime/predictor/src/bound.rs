//! Inputs and outputs of a graph in buffers that stay where they are: a CUDA graph replays its kernels on the addresses
//! that it was recorded with.

use half::f16;
use nextclip_core::manifest::{Dtype, Graph, TensorSpec};
use ort::memory::{AllocationDevice, Allocator, AllocatorType, MemoryInfo, MemoryType};
use ort::session::{IoBinding, Session};
use ort::value::{DynTensor, TensorElementType};

use crate::graph::Input;
use crate::provider::{Execution, Provider};

/// A session's tensors, allocated once on the device that runs it.
#[derive(Debug)]
pub(crate) struct Bound {
    binding: IoBinding,
    inputs: Vec<Held>,
    outputs: Vec<(String, DynTensor)>,
}

/// An input on both sides.
#[derive(Debug)]
struct Held {
    name: String,
    host: DynTensor,
    device: DynTensor,
}

impl Bound {
    /// Buffers for every input and output of `graph`, which `session` was made of.
    pub(crate) fn new(session: &Session, graph: &Graph, execution: &Execution) -> ort::Result<Self> {
        let (device, id) = match execution.provider {
            Provider::Cpu => (AllocationDevice::CPU, 0),
            Provider::Cuda | Provider::TensorRt => (AllocationDevice::CUDA, execution.gpu.device_id),
        };
        let memory = MemoryInfo::new(device, id, AllocatorType::Device, MemoryType::Default)?;
        let (there, here) = (Allocator::new(session, memory)?, Allocator::default());
        let mut binding = session.create_binding()?;
        let (mut inputs, mut outputs) = (Vec::new(), Vec::new());
        for spec in &graph.inputs {
            let device = buffer(&there, spec)?;
            binding.bind_input(&spec.name, &device)?;
            inputs.push(Held { name: spec.name.clone(), host: buffer(&here, spec)?, device });
        }
        for spec in &graph.outputs {
            let mut device = buffer(&there, spec)?;
            binding.bind_output(&spec.name, &mut device)?;
            outputs.push((spec.name.clone(), device));
        }
        Ok(Self { binding, inputs, outputs })
    }

    /// Runs the session on these inputs; returns the outputs, on the CPU, in the order of `names`.
    pub(crate) fn run(
        &mut self,
        session: &mut Session,
        inputs: &[(&str, Input<'_>)],
        names: &[&str],
    ) -> ort::Result<Vec<DynTensor>> {
        let missing = |name: &str| ort::Error::new(format!("no buffer is bound to {name:?}"));
        for (name, input) in inputs {
            let held = self.inputs.iter_mut().find(|held| held.name == *name).ok_or_else(|| missing(name))?;
            match input {
                Input::U8(array) => held.host.try_extract_array_mut::<u8>()?.assign(array),
                Input::I64(array) => held.host.try_extract_array_mut::<i64>()?.assign(array),
                Input::I8(array) => held.host.try_extract_array_mut::<i8>()?.assign(array),
                Input::F16(array) => held.host.try_extract_array_mut::<f16>()?.assign(array),
                Input::F32(array) => held.host.try_extract_array_mut::<f32>()?.assign(array),
            }
            held.host.copy_into(&mut held.device)?;
        }
        session.run_binding(&self.binding)?;
        let output = |name: &&str| {
            let found = self.outputs.iter().find(|(held, _)| held == name).ok_or_else(|| missing(name))?;
            found.1.to(AllocationDevice::CPU, 0)
        };
        names.iter().map(output).collect()
    }
}

fn buffer(allocator: &Allocator, spec: &TensorSpec) -> ort::Result<DynTensor> {
    let element = match spec.dtype {
        Dtype::U8 => TensorElementType::Uint8,
        Dtype::I64 => TensorElementType::Int64,
        Dtype::F32 => TensorElementType::Float32,
        Dtype::I8 => TensorElementType::Int8,
        Dtype::F16 => TensorElementType::Float16,
        other => return Err(ort::Error::new(format!("{} of {other} cannot be bound", spec.name))),
    };
    DynTensor::new(allocator, element, spec.shape.clone())
}
