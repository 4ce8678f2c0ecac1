//! One graph in one ONNX Runtime session, checked against its description by name.

use std::borrow::Cow;
use std::fmt;
use std::num::NonZero;
use std::path::Path;
use std::sync::Arc;
use std::thread;

use half::f16;
use ndarray::ArrayViewD;
use nextclip_core::manifest::{Dtype, Graph};
use ort::session::builder::{GraphOptimizationLevel, SessionBuilder};
use ort::session::{Session, SessionInputValue, SessionOutputs};
use ort::value::{DynTensor, PrimitiveTensorElementType, TensorElementType, TensorRef, ValueType};

use crate::bound::Bound;
use crate::contract::{OBSERVED, first_difference, listed};
use crate::error::Error;
use crate::library;
use crate::processor;
use crate::provider::{Execution, Provider};

/// A tensor that a graph reads, borrowed from the caller; it must be contiguous.
#[derive(Clone, Debug)]
pub enum Input<'a> {
    /// 8-bit samples.
    U8(ArrayViewD<'a, u8>),
    /// Positions.
    I64(ArrayViewD<'a, i64>),
    /// Keys and values kept in 8 bits.
    I8(ArrayViewD<'a, i8>),
    /// Keys and values kept in half precision.
    F16(ArrayViewD<'a, f16>),
    /// Everything else.
    F32(ArrayViewD<'a, f32>),
}

impl Input<'_> {
    fn value(&self) -> ort::Result<SessionInputValue<'_>> {
        Ok(match self {
            Self::U8(array) => TensorRef::from_array_view(array.view())?.into(),
            Self::I64(array) => TensorRef::from_array_view(array.view())?.into(),
            Self::I8(array) => TensorRef::from_array_view(array.view())?.into(),
            Self::F16(array) => TensorRef::from_array_view(array.view())?.into(),
            Self::F32(array) => TensorRef::from_array_view(array.view())?.into(),
        })
    }
}

/// Is shown what tensors within graphs hold, every time that a graph runs: the graph's name, the tensor's name,
/// its values. Only graphs exported for calibration have such tensors.
#[derive(Clone)]
pub struct Probe(Arc<Show>);

type Show = dyn Fn(&'static str, &str, ArrayViewD<'_, f32>) + Send + Sync;

impl Probe {
    /// A probe that calls `show`.
    pub fn new(show: impl Fn(&'static str, &str, ArrayViewD<'_, f32>) + Send + Sync + 'static) -> Self {
        Self(Arc::new(show))
    }
}

impl fmt::Debug for Probe {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Probe")
    }
}

/// A loaded graph.
#[derive(Debug)]
pub struct GraphSession {
    name: &'static str,
    session: Session,
    /// Outputs for the probe.
    observed: Vec<String>,
    probe: Option<Probe>,
    /// Where inputs and outputs must stay at their addresses.
    bound: Option<Bound>,
}

impl GraphSession {
    /// Loads the graph called `name` from its bundle's folder and compares its inputs and outputs with
    /// their description. `threads` bounds the threads of one operator; `None` takes every core.
    pub fn open(
        name: &'static str,
        bundle: &Path,
        graph: &Graph,
        execution: &Execution,
        threads: Option<usize>,
    ) -> Result<Self, Error> {
        execution.prepare()?;
        let path = execution.file(bundle, name, graph);
        let registered = |source| match execution.provider {
            Provider::Cpu => Error::Load { graph: name, path: path.clone(), source },
            missing => Error::ProviderMissing { provider: missing.name(), source },
        };
        let mut loaded = Self::load(name, &path, graph, |builder| {
            let fault = |source| Error::Load { graph: name, path: path.clone(), source };
            let builder = options(builder, threads, execution.may_saturate).map_err(fault)?;
            execution.register(builder, name, graph).map_err(registered)
        })?;
        if execution.gpu.cuda_graph {
            let fault = |source| Error::Load { graph: name, path: path.clone(), source };
            loaded.bound = Some(Bound::new(&loaded.session, graph, execution).map_err(fault)?);
        }
        Ok(loaded)
    }

    /// Loads the graph as it stands in its file, without making it fast, and compares it as [`Self::open`] does. Its
    /// weights stay on disk, so that graphs larger than memory can be looked at.
    pub fn check(name: &'static str, bundle: &Path, graph: &Graph) -> Result<(), Error> {
        let path = bundle.join(&graph.path);
        Self::load(name, &path, graph, |builder| {
            as_stored(builder).map_err(|source| Error::Load { graph: name, path: path.clone(), source })
        })?;
        Ok(())
    }

    fn load(
        name: &'static str,
        path: &Path,
        graph: &Graph,
        configure: impl FnOnce(SessionBuilder) -> Result<SessionBuilder, Error>,
    ) -> Result<Self, Error> {
        let environment = library::environment()?;
        let fault = |source| Error::Load { graph: name, path: path.into(), source };
        let builder = configure(Session::builder(&environment).map_err(fault)?)?;
        let session = { builder }.commit_from_file(path).map_err(fault)?;
        let sides =
            [("input", session.inputs(), &graph.inputs), ("output", session.outputs(), &graph.outputs)];
        for (side, outlets, specs) in sides {
            let found: Vec<_> =
                outlets.iter().map(|outlet| (outlet.name().to_owned(), described(outlet.dtype()))).collect();
            if let Some((tensor, found, expected)) = first_difference(&found, &listed(specs)) {
                return Err(Error::Mismatch { graph: name, side, name: tensor, found, expected });
            }
        }
        let observed = graph.outputs.iter().map(|output| &output.name);
        let observed = observed.filter(|name| name.starts_with(OBSERVED)).cloned().collect();
        Ok(Self { name, session, observed, probe: None, bound: None })
    }

    /// Shows the graph's observed tensors to `probe` from now on.
    pub(crate) fn attach(&mut self, probe: &Probe) {
        self.probe = Some(probe.clone());
    }

    /// Runs the graph and hands its outputs, in the order of `outputs`, to `read`. They are borrowed
    /// from ONNX Runtime: nothing is copied but what `read` copies.
    pub fn run<T: PrimitiveTensorElementType, R, const N: usize>(
        &mut self,
        inputs: &[(&str, Input<'_>)],
        outputs: [&str; N],
        read: impl FnOnce([ArrayViewD<'_, T>; N]) -> ort::Result<R>,
    ) -> Result<R, Error> {
        self.run_any(inputs, &outputs, |produced| {
            let views = (0..N).map(|index| produced.array::<T>(index));
            read(exactly(views.collect::<ort::Result<Vec<_>>>()?)?)
        })
    }

    /// The same where outputs are of several types.
    pub(crate) fn run_any<R>(
        &mut self,
        inputs: &[(&str, Input<'_>)],
        outputs: &[&str],
        read: impl FnOnce(&Produced<'_, '_>) -> ort::Result<R>,
    ) -> Result<R, Error> {
        let Self { name: graph, session, observed, probe, bound } = self;
        let run = || {
            if let Some(bound) = bound {
                return read(&Produced::Copied(&bound.run(session, inputs, outputs)?));
            }
            let values = inputs
                .iter()
                .map(|(name, input)| Ok((Cow::Borrowed(*name), input.value()?)))
                .collect::<ort::Result<Vec<_>>>()?;
            let produced = session.run(values)?;
            if let Some(Probe(show)) = probe {
                for name in observed.iter() {
                    let values = produced[name.as_str()].try_extract_array::<f32>()?;
                    show(graph, name.strip_prefix(OBSERVED).unwrap_or(name), values);
                }
            }
            read(&Produced::Named(outputs, &produced))
        };
        run().map_err(|source| Error::Run { graph: self.name, source })
    }
}

/// Outputs of a run.
pub(crate) enum Produced<'a, 's> {
    /// In the order that was asked for.
    Copied(&'a [DynTensor]),
    /// All that the graph has, and the names that were asked for.
    Named(&'a [&'a str], &'a SessionOutputs<'s>),
}

impl Produced<'_, '_> {
    /// The output that was asked for as number `index`.
    pub(crate) fn array<T: PrimitiveTensorElementType>(
        &self,
        index: usize,
    ) -> ort::Result<ArrayViewD<'_, T>> {
        match self {
            Self::Copied(tensors) => tensors[index].try_extract_array::<T>(),
            Self::Named(names, outputs) => {
                let missing = || ort::Error::new(format!("it has no output {:?}", names[index]));
                outputs.get(names[index]).ok_or_else(missing)?.try_extract_array::<T>()
            }
        }
    }
}

fn exactly<V, const N: usize>(views: Vec<V>) -> ort::Result<[V; N]> {
    <[V; N]>::try_from(views).map_err(|_| ort::Error::new("outputs were lost"))
}

/// How long threads wait in a loop for the next operator, in microseconds: as long as one of the small ones takes.
const SPIN_US: &str = "20";

/// The first release whose threads can be told how long to wait; older ones wait for milliseconds or not at all.
const BOUNDED_SPINNING: (u32, u32) = (1, 27);

/// Nothing is made faster, and weights are not copied.
fn as_stored(builder: SessionBuilder) -> ort::Result<SessionBuilder> {
    Ok(builder.with_optimization_level(GraphOptimizationLevel::Disable)?.with_prepacking(false)?)
}

/// The settings that every session of a bundle's graph has. `may_saturate` says that its weights are so large that pairs of
/// integer products can leave 16 bits.
pub fn options(
    builder: SessionBuilder,
    threads: Option<usize>,
    may_saturate: bool,
) -> ort::Result<SessionBuilder> {
    // A number, always: without one ONNX Runtime ties its threads to cores, which it may have to share.
    let threads = threads.unwrap_or_else(|| thread::available_parallelism().map_or(1, NonZero::get));
    let builder =
        builder.with_optimization_level(GraphOptimizationLevel::All)?.with_intra_threads(threads)?;
    // Threads that wait in a loop for long take the cores that decode the camera's stream: on two busy cores a pass
    // took half the time without. Threads that sleep after every small operator cost a tenth of a pass.
    let briefly = library::release().is_some_and(|release| release >= BOUNDED_SPINNING);
    let mut builder = builder.with_intra_op_spinning(briefly)?;
    if briefly {
        builder = builder.with_config_entry("session.intra_op.spin_duration_us", SPIN_US)?;
    }
    if may_saturate && processor::saturates() {
        builder = builder.with_config_entry("session.x64quantprecision", "1")?;
    }
    Ok(builder)
}

/// A session's input or output as a manifest would write it: `f32[1, 4, 22, 40]`, `?` for an open size.
fn described(value: &ValueType) -> String {
    let (Some(element), Some(shape)) = (value.tensor_type(), value.tensor_shape()) else {
        return value.to_string();
    };
    let sizes: Vec<String> =
        shape.iter().map(|&size| if size < 0 { "?".into() } else { size.to_string() }).collect();
    let element = match element {
        TensorElementType::Uint8 => Dtype::U8.to_string(),
        TensorElementType::Int8 => Dtype::I8.to_string(),
        TensorElementType::Int64 => Dtype::I64.to_string(),
        TensorElementType::Float32 => Dtype::F32.to_string(),
        TensorElementType::Float16 => Dtype::F16.to_string(),
        other => other.to_string(),
    };
    format!("{element}[{}]", sizes.join(", "))
}
