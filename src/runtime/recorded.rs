//! A step as one launch: what its device recorded of it, replayed.
//!
//! Devices with hardware graphs record what they are asked to run between two calls, with the memory it reads and writes
//! ([`Backend::graph_start_capture`](burn_backend::Backend::graph_start_capture) and its neighbours), and run all of that
//! again at one request. So a step is run once on tensors that stay where they are; later, what it reads is
//! copied there, the record is replayed, and what it made is copied from where it lies.
//!
//! The protocol: `graph_prepare`, runs that leave the pools with what the recorded run will ask for, `graph_start_capture`, the run
//! (recorded and not done), `graph_stop_capture`. Within the recording nothing may wait for the device or be allocated anew.

use std::convert::Infallible;

use burn_backend::{BackendGraph, TensorData};
use burn_ir::HandleKind;
use burn_std::id::StreamId;
use burn_std::reader::try_read_sync;

use super::executor::Binding;
use super::target::Target;
use crate::entity::ValueId;
use crate::error::Result;
use crate::graph::trace::{panic_message, quietly};
use crate::units::Bytes;

/// A tensor where its device has it, for good.
pub trait Fixed: Sized + Send {
    /// What is there, copied to another place, where its axes lie in the same order.
    fn copy(&self) -> Self;
    /// Copy what is at `from` here; both have the same shape.
    fn overwrite(&self, from: &Self);
    /// Whether it is the same place.
    fn is(&self, other: &Self) -> bool;
    /// Bytes of its elements.
    fn bytes(&self) -> Bytes;
}

/// The tensors of a backend that records nothing: there are none.
impl Fixed for Infallible {
    fn copy(&self) -> Self {
        match *self {}
    }
    fn overwrite(&self, _: &Self) {
        match *self {}
    }
    fn is(&self, _: &Self) -> bool {
        match *self {}
    }
    fn bytes(&self) -> Bytes {
        match *self {}
    }
}

/// What a recorded run reads, kept for it.
struct Read<B: Target> {
    value: ValueId,
    there: B::Fixed,
    /// What was copied last, where nobody changes it: while this is held it cannot be overwritten.
    of: Option<B::Fixed>,
}

/// What goes into a step, copied to where a recording of it will read it.
pub struct Inlet<B: Target> {
    reads: Vec<Read<B>>,
}

impl<B: Target> Inlet<B> {
    /// Copy `bindings`. Those that are `steady` are expected to be the same tensors in later steps.
    ///
    /// # Errors
    /// Why that cannot be.
    pub fn of(bindings: &[Binding<B>], steady: impl Fn(ValueId) -> bool) -> Result<Self, String> {
        let copied = quietly(|| {
            let read = bindings.iter().map(|(value, handle)| {
                let from = B::fixed(handle)?;
                Ok(Read { value: *value, there: from.copy(), of: steady(*value).then_some(from) })
            });
            read.collect::<Result<Vec<_>, String>>()
        });
        Ok(Self { reads: copied.unwrap_or_else(|panic| Err(panic_message(&*panic)))? })
    }

    fn bindings(&self) -> Result<Vec<Binding<B>>, String> {
        self.reads.iter().map(|read| Ok((read.value, B::at(&read.there)?))).collect()
    }

    /// Copy what the step reads now.
    fn refresh(&mut self, bindings: &[Binding<B>]) -> Result<(), String> {
        for (read, (value, handle)) in self.reads.iter_mut().zip(bindings) {
            debug_assert_eq!(read.value, *value);
            let from = B::fixed(handle)?;
            if read.of.as_ref().is_none_or(|of| !of.is(&from)) {
                read.there.overwrite(&from);
                read.of = read.of.take().map(|_| from);
            }
        }
        Ok(())
    }
}

/// Runs before the recorded one. Fusion decides at the first what it fuses and tries kernels at the second; what is allocated
/// from then on is always the same.
const RUNS_BEFORE: usize = 3;

/// A step that its device has recorded.
pub struct Recorded<B: Target> {
    graph: BackendGraph<B>,
    device: B::Device,
    /// A replay is in order with what is asked for on the stream that it was recorded on, and with nothing else.
    stream: StreamId,
    inlet: Inlet<B>,
    results: Vec<B::Fixed>,
}

impl<B: Target> Recorded<B> {
    /// Record what `run` does with the tensors of `inlet`, of which `want` are the results when the step runs as usual: a recording that
    /// gives others, in any bit, is of no use. `run` is told whether it is recorded.
    ///
    /// # Errors
    /// Why the step cannot be recorded. The device is as it was.
    pub fn of(
        device: &B::Device,
        inlet: Inlet<B>,
        want: &[HandleKind<B>],
        run: &mut dyn FnMut(Vec<Binding<B>>, bool) -> Result<Vec<HandleKind<B>>>,
    ) -> Result<Self, String> {
        let recorded = quietly(|| Self::record(device, inlet, run)).unwrap_or_else(|panic| Err(panic_message(&*panic)));
        if recorded.is_err() {
            // Whatever is open is closed by this; where nothing is it fails, which is as well.
            let _ = quietly(|| B::graph_stop_capture(device).is_ok());
        }
        let mut recorded = recorded?;
        let same = quietly(|| recorded.gives(want)).unwrap_or_else(|panic| Err(panic_message(&*panic)))?;
        if same { Ok(recorded) } else { Err("what was recorded gives other results than the step run as usual".into()) }
    }

    fn record(
        device: &B::Device,
        inlet: Inlet<B>,
        run: &mut dyn FnMut(Vec<Binding<B>>, bool) -> Result<Vec<HandleKind<B>>>,
    ) -> Result<Self, String> {
        let told = |error: burn_backend::ExecutionError| format!("{error:?}");
        B::graph_prepare(device).map_err(told)?;
        for _ in 0..RUNS_BEFORE {
            // Held until it is done: what nobody wants any more need not be done.
            let results = run(inlet.bindings()?, false).map_err(|e| e.to_string())?;
            B::sync(device).map_err(told)?;
            drop(results);
        }
        B::graph_start_capture(device).map_err(told)?;
        let results = run(inlet.bindings()?, true).map_err(|e| e.to_string())?;
        let results = results.iter().map(B::fixed).collect::<Result<Vec<_>, String>>()?;
        let graph = B::graph_stop_capture(device).map_err(told)?;
        Ok(Self { graph, device: device.clone(), stream: StreamId::current(), inlet, results })
    }

    /// Whether a replay gives `want`, bit for bit.
    fn gives(&mut self, want: &[HandleKind<B>]) -> Result<bool, String> {
        let got = self.launch()?;
        for (got, want) in got.into_iter().zip(want) {
            let (got, want) = (read::<B>(got)?, read::<B>(want.clone())?);
            if got.as_bytes() != want.as_bytes() {
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// Whether it can be replayed where this is called.
    pub fn is_here(&self) -> bool {
        StreamId::current() == self.stream
    }

    /// Bytes of the copies of what goes in.
    pub fn copies(&self) -> Bytes {
        self.inlet.reads.iter().map(|read| read.there.bytes()).sum()
    }

    /// Do the step with these tensors, in the order that the first had; those at the end that never change may be left out.
    ///
    /// # Errors
    /// What went wrong on the device.
    pub fn replay(&mut self, bindings: &[Binding<B>]) -> Result<Vec<HandleKind<B>>, String> {
        let done = quietly(|| {
            self.inlet.refresh(bindings)?;
            self.launch()
        });
        done.unwrap_or_else(|panic| Err(panic_message(&*panic)))
    }

    /// Do what was recorded. The results are copies, because the next launch overwrites what this one wrote.
    fn launch(&mut self) -> Result<Vec<HandleKind<B>>, String> {
        // SAFETY: what the recorded run was bound to and what it made as results is held by `self`, and nothing else has either; what it used in between is
        // guarded by the recording. Refreshes, this call and the copies are asked for on the stream of the recording
        // (`is_here`), one after the other.
        #[allow(unsafe_code)]
        let replayed = unsafe { B::graph_replay(&self.device, &self.graph) };
        replayed.map_err(|error| format!("{error:?}"))?;
        let results = self.results.iter().map(|result| B::at(&result.copy())).collect::<Result<Vec<_>, String>>()?;
        B::finish(&self.device)?;
        B::sound(&results)?;
        Ok(results)
    }
}

fn read<B: Target>(handle: HandleKind<B>) -> Result<TensorData, String> {
    let data = match handle {
        HandleKind::Float(t) => try_read_sync(B::float_into_data(t)),
        HandleKind::Int(t) => try_read_sync(B::int_into_data(t)),
        HandleKind::Bool(t) => try_read_sync(B::bool_into_data(t)),
        HandleKind::Quantized(_) => return Err("a quantized tensor".into()),
    };
    data.ok_or("this platform cannot wait for its device")?.map_err(|e| format!("{e:?}"))
}
