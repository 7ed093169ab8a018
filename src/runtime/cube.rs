//! Burn's CubeCL backends: one type for Vulkan, CUDA and the others; the device says which.

use std::pin::Pin;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use burn::tensor::{Bool, Int, Tensor};
use burn_backend::cubecl::dtype_to_storage_type;
use burn_backend::{Backend, DType, Shape, TensorData, TensorMetadata};
use burn_cubecl::cubecl::client::Client;
use burn_cubecl::cubecl::server::{CopyDescriptor, Handle, ServerError};
use burn_cubecl::cubecl::std::tensor::copy_into;
use burn_cubecl::cubecl::{MemoryScope, MemoryUsage};
use burn_cubecl::kernel::into_contiguous_aligned;
use burn_cubecl::{CubeBackend, CubeDevice, tensor::CubeTensor};
use burn_flex::Flex;
use burn_ir::{HandleKind, OperationIr, TensorId};
use burn_router::{CustomOpRegistry, TensorInterpreter};
use burn_std::Metadata;
use burn_std::id::StreamId;
use burn_std::reader::try_read_sync;

#[cfg(feature = "fusion")]
use super::fused::through_queue as through_cube_dispatch;
use super::probe::measure_op;
use super::recorded::Fixed;
use super::row::time_row;
#[cfg(not(feature = "fusion"))]
use super::target::through_dispatch as through_cube_dispatch;
use super::target::{
    Coming, Interpreter, Local, Place, Seen, Target, Usage, axes_in_memory, filled, handle_of, in_this_process,
    interpreted, parse_layout, settled,
};
use super::timing::{Lane, Windows};
use crate::cost::{Link, OpCost};
use crate::units::{Bytes, Nanos};

fn tensor(handle: &HandleKind<CubeBackend>) -> &CubeTensor {
    match handle {
        HandleKind::Float(t) | HandleKind::Int(t) | HandleKind::Bool(t) | HandleKind::Quantized(t) => t,
    }
}

/// Streams that copies to host memory and back are made on, beside those of threads, which are numbered from zero.
const OUTWARD: StreamId = StreamId { value: u64::MAX };
const INWARD: StreamId = StreamId { value: u64::MAX - 1 };
/// The stream that ops are run on to see what they allocate.
const MEASURED: StreamId = StreamId { value: u64::MAX - 2 };

/// Bytes written only to be newer than all that was written before.
const MARK: usize = 16;

type Leaving = Pin<Box<dyn Future<Output = Result<burn_std::Bytes, ServerError>> + Send>>;

/// A tensor on its way to host memory, or there, in memory that the runtime keeps for copies (pinned, where
/// there is such) and uses again.
pub struct OnHost {
    leaving: Option<Leaving>,
    /// What is being copied must not be used again before it is.
    _source: Option<CubeTensor>,
    data: Option<burn_std::Bytes>,
    shape: Shape,
    dtype: DType,
    /// As they follow one another in memory.
    axes: Vec<usize>,
}

/// The client of a tensor's device, for good: what is being read borrows it. One is kept for each device.
fn lasting(tensor: &CubeTensor) -> &'static Client {
    static KEPT: Mutex<Vec<(CubeDevice, &'static Client)>> = Mutex::new(Vec::new());
    let mut kept = KEPT.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some((_, client)) = kept.iter().find(|(device, _)| *device == tensor.device) {
        return client;
    }
    let client: &'static Client = Box::leak(Box::new(tensor.client.clone()));
    kept.push((tensor.device.clone(), client));
    client
}

impl OnHost {
    fn wait(&mut self) -> Result<(), String> {
        let Some(leaving) = self.leaving.take() else { return Ok(()) };
        let data = try_read_sync(leaving).ok_or("this platform cannot wait for its device")?;
        self.data = Some(data.map_err(|e| e.to_string())?);
        self._source = None;
        Ok(())
    }
}

impl Drop for OnHost {
    /// Memory that a copy is being written to must outlive the copy.
    fn drop(&mut self) {
        let _ = self.wait();
    }
}

/// Something new on the current stream: what another does after it has [stamped](stamp) that comes after all that this one was
/// asked for before.
fn marked(client: &Client) -> Handle {
    let mark = client.empty(MARK);
    stamp(client, &mark);
    mark
}

fn stamp(client: &Client, mark: &Handle) {
    client.write(mark, burn_std::Bytes::from_bytes_vec(vec![0; MARK]));
}

/// A copy from host memory that has been begun, and what its stream wrote after it.
pub struct Landing {
    client: Client,
    mark: Handle,
}

/// Begin to copy data to the device, on a stream of its own.
///
/// The memory is the current stream's, where it is used and freed: a stream keeps hold of another's memory until what it was asked to do with that
/// is known to be done, which may be long after. The copy waits for what may still be done there with memory that is used again, and whoever reads
/// the tensor has to wait for the copy: streams wait by themselves only for memory that is another's.
fn inward(
    data: burn_std::Bytes,
    form: (Shape, DType),
    axes: impl DoubleEndedIterator<Item = usize>,
    device: &CubeDevice,
    windows: Option<&mut Windows>,
) -> Coming<CubeBackend> {
    let (shape, dtype) = form;
    let strides = dense(&shape, axes);
    let client = device.client();
    let handle = client.empty(data.len());
    let here = marked(&client);
    let mark = INWARD.executes(|| {
        stamp(&client, &here);
        timed(device, Lane::FromHost, windows, || client.write(&handle, data));
        marked(&client)
    });
    let tensor = CubeTensor::new(client.clone(), handle, Metadata::new(shape, strides), device.clone(), dtype);
    (handle_of!(dtype, tensor), Some(Landing { client, mark }))
}

/// Ask something of the current stream and have its time taken, without what the stream waits for before it.
fn timed<T>(device: &CubeDevice, lane: Lane, windows: Option<&mut Windows>, ask: impl FnOnce() -> T) -> T {
    let Some(windows) = windows else { return ask() };
    windows.open::<CubeBackend>(device);
    let asked = ask();
    windows.close::<CubeBackend>(device, lane);
    asked
}

/// Bytes moved to measure the link.
const MOVED: usize = 1 << 24;

fn rate(bytes: usize, times: &mut [Duration]) -> u64 {
    times.sort_unstable();
    let seconds = times[times.len() / 2].as_secs_f64().max(1e-9);
    (bytes as f64 / seconds) as u64
}

impl Fixed for HandleKind<CubeBackend> {
    fn copy(&self) -> Self {
        let source = tensor(self);
        let (shape, dtype) = (source.meta.shape.clone(), source.dtype);
        let handle = source.client.empty(shape.num_elements() * dtype.size());
        let metadata = Metadata::new(shape.clone(), dense(&shape, axes_of(source).into_iter()));
        let it = CubeTensor::new(source.client.clone(), handle, metadata, source.device.clone(), dtype);
        let it = handle_of!(dtype, it);
        it.overwrite(self);
        it
    }

    fn overwrite(&self, from: &Self) {
        let (mut from, mut to) = (tensor(from).clone(), tensor(self).clone());
        let (client, dtype) = (to.client.clone(), dtype_to_storage_type(to.dtype));
        // The kernel writes plain tensors.
        let axes = axes_of(&to);
        [&mut from, &mut to].into_iter().for_each(|it| in_order(it, &axes));
        copy_into(&client, from.binding(), to.binding(), dtype);
    }

    fn is(&self, other: &Self) -> bool {
        let strides = |it: &Self| tensor(it).meta.strides.clone();
        CubeBackend::place(self) == CubeBackend::place(other) && strides(self) == strides(other)
    }

    fn bytes(&self) -> Bytes {
        let it = tensor(self);
        Bytes((it.meta.shape.num_elements() * it.dtype.size()) as u64)
    }
}

fn axes_of(tensor: &CubeTensor) -> Vec<usize> {
    axes_in_memory(tensor.meta.strides.iter().map(|&stride| stride as isize))
}

/// Put the axes of a tensor in another order; what lies in memory stays as it is.
fn in_order(tensor: &mut CubeTensor, axes: &[usize]) {
    let ordered = |of: &[usize]| -> Vec<usize> { axes.iter().map(|&axis| of[axis]).collect() };
    let (shape, strides) = (ordered(&tensor.meta.shape), ordered(&tensor.meta.strides));
    *tensor.meta = Metadata::new(Shape::from(shape), strides);
}

/// A tensor whose axes of one element have the strides they would have if it were contiguous from there on; the same elements.
#[cfg(feature = "fusion")]
pub(super) fn units_in_order(mut handle: HandleKind<CubeBackend>) -> HandleKind<CubeBackend> {
    let (HandleKind::Float(it) | HandleKind::Int(it) | HandleKind::Bool(it) | HandleKind::Quantized(it)) = &mut handle;
    let (shape, mut strides) = (it.meta.shape.clone(), it.meta.strides().to_vec());
    for axis in (0..shape.len()).rev().filter(|&axis| shape[axis] == 1) {
        strides[axis] = if axis + 1 < shape.len() { shape[axis + 1] * strides[axis + 1] } else { 1 };
    }
    *it.meta = Metadata::new(shape, strides);
    handle
}

/// Strides of a tensor whose axes follow one another in memory like this, without gaps.
fn dense(shape: &Shape, axes: impl DoubleEndedIterator<Item = usize>) -> Vec<usize> {
    let (mut strides, mut next) = (vec![1; shape.len()], 1);
    for axis in axes.rev() {
        strides[axis] = next;
        next *= shape[axis];
    }
    strides
}

interpreted!(CubeBackend);

impl Target for CubeBackend {
    type Host = OnHost;
    type Landing = Landing;
    type Fixed = HandleKind<Self>;

    through_cube_dispatch!();
    in_this_process!();

    fn form(handle: &HandleKind<Self>) -> (Shape, DType) {
        let tensor = tensor(handle);
        (tensor.shape(), tensor.dtype)
    }

    fn device_of(handle: &HandleKind<Self>) -> CubeDevice {
        tensor(handle).device.clone()
    }

    fn fixed(handle: &HandleKind<Self>) -> Result<Self::Fixed, String> {
        Ok(handle.clone())
    }

    fn at(fixed: &Self::Fixed) -> Result<HandleKind<Self>, String> {
        Ok(fixed.clone())
    }

    fn load(
        tensor: &HandleKind<Flex>,
        dtype: DType,
        device: &CubeDevice,
        windows: Option<&mut Windows>,
    ) -> Result<Coming<Self>, String> {
        let data = super::flex::data(tensor, dtype)?;
        let (shape, dtype) = (data.shape().clone(), data.dtype());
        let axes = 0..shape.len();
        Ok(inward(data.into_bytes(), (shape, dtype), axes, device, windows))
    }

    fn load_for_good(tensor: &HandleKind<Flex>, dtype: DType, device: &CubeDevice) -> Result<HandleKind<Self>, String> {
        Self::memory_persistent_allocations(device, tensor.clone(), |tensor| {
            Self::load(&tensor, dtype, device, None).map(settled)
        })
    }

    fn to_host(handle: HandleKind<Self>, windows: Option<&mut Windows>) -> Result<OnHost, String> {
        let mut source = match handle {
            HandleKind::Float(t) | HandleKind::Int(t) | HandleKind::Bool(t) => t,
            HandleKind::Quantized(_) => return Err("a quantized tensor".into()),
        };
        let (whole, axes) = (source.meta.shape().clone(), axes_of(&source));
        in_order(&mut source, &axes);
        let source = into_contiguous_aligned(source);
        let client = lasting(&source);
        let (shape, strides) = (source.meta.shape().clone(), source.meta.strides().clone());
        let copied = CopyDescriptor::new(source.handle.clone().binding(), shape, strides, source.dtype.size());
        // A stream waits for another only where it meets memory that is newer than what it has waited for: what has been
        // overwritten since would be read too early.
        let mark = marked(client);
        let leaving = OUTWARD.executes(|| {
            stamp(client, &mark);
            timed(&source.device, Lane::ToHost, windows, || client.read_one_tensor_async(copied))
        });
        let (shape, dtype) = (whole, source.dtype);
        Ok(OnHost { leaving: Some(Box::pin(leaving)), _source: Some(source), data: None, shape, dtype, axes })
    }

    fn arrived(host: &mut OnHost) -> Result<(), String> {
        host.wait()
    }

    fn from_host(mut host: OnHost, device: &CubeDevice, windows: Option<&mut Windows>) -> Result<Coming<Self>, String> {
        host.wait()?;
        let data = host.data.take().ok_or("it is not in host memory")?;
        Ok(inward(data, (host.shape.clone(), host.dtype), host.axes.iter().copied(), device, windows))
    }

    fn met(landing: Landing) {
        stamp(&landing.client, &landing.mark);
    }

    fn sound(handles: &[HandleKind<Self>]) -> Result<(), String> {
        let Some(first) = handles.first() else { return Ok(()) };
        let checked = tensor(first).client.check(handles.iter().map(|handle| &tensor(handle).handle));
        checked.map_err(|e| e.to_string())
    }

    fn link(device: &CubeDevice) -> Option<Link> {
        let (mut there, mut back) = (Vec::new(), Vec::new());
        for _ in 0..5 {
            let data = TensorData::from_bytes(filled(DType::F32, MOVED / 4, 0.5), [MOVED / 4], DType::F32);
            Self::settle(device);
            let start = Instant::now();
            let tensor = Self::of_data(data, device);
            Self::settle(device);
            there.push(start.elapsed());
            let start = Instant::now();
            let mut host = Self::to_host(tensor, None).ok()?;
            Self::arrived(&mut host).ok()?;
            back.push(start.elapsed());
        }
        Some(Link { d2h_bytes_per_s: rate(MOVED, &mut back), h2d_bytes_per_s: rate(MOVED, &mut there) })
    }

    fn row(
        device: &CubeDevice,
        handlers: &CustomOpRegistry<Self>,
        ops: &[&OperationIr],
        lead: usize,
        layout: &dyn Fn(TensorId) -> String,
    ) -> Result<Option<Nanos>, String> {
        time_row::<Self, Self>(device, handlers, ops, lead, layout, &|tensor| Ok(tensor)).map(Some)
    }

    /// Of tensors: buffers that the runtime reads through are the host's, and those that pass numbers to kernels its own.
    fn usage(device: &CubeDevice) -> Option<Usage> {
        let streams = device.client().memory_report(MemoryScope::Device).streams;
        let usage =
            streams.iter().map(|stream| stream.pools.usage()).fold(MemoryUsage::default(), |all, one| all.combine(one));
        let in_use = Bytes(usage.bytes_in_use + usage.bytes_padding);
        Some(Usage { in_use, reserved: Bytes(usage.bytes_reserved) })
    }

    fn describe(device: &CubeDevice) -> String {
        format!("{} 0.22.1, {device:?}", Self::name(device))
    }

    // Handles lie in host memory.
    const TENSOR_BYTES: Bytes = Bytes::ZERO;
    const VIEW_BYTES: Bytes = Bytes::ZERO;
    const ENTRY_BYTES: Bytes = Bytes::ZERO;
}

impl Local for CubeBackend {
    fn layout(handle: &HandleKind<Self>) -> Option<String> {
        let tensor = tensor(handle);
        let (shape, dtype) = Self::form(handle);
        let offset = tensor.handle.offset_start.unwrap_or(0);
        let plain = tensor.is_contiguous()
            && offset == 0
            && Self::buffer_bytes(handle).get() == (shape.num_elements() * dtype.size()) as u64;
        if plain {
            return None;
        }
        let strides: Vec<String> = tensor.meta.strides().iter().map(ToString::to_string).collect();
        let elements = offset / dtype.size().max(1) as u64;
        Some(format!("{}@{elements}/{}", strides.join(","), Self::buffer_bytes(handle).get()))
    }

    fn place(handle: &HandleKind<Self>) -> Place {
        let handle = &tensor(handle).handle;
        let buffer = handle.clone().binding().memory.id().value as u64;
        Place { buffer, offset: handle.offset_start.unwrap_or(0) }
    }

    /// Handles tell only whether they are the last.
    fn holders(_: &HandleKind<Self>) -> Option<usize> {
        None
    }

    fn buffer_bytes(handle: &HandleKind<Self>) -> Bytes {
        Bytes(tensor(handle).handle.size())
    }

    fn stand_in(shape: &Shape, dtype: DType, layout: &str, fill: f64, device: &CubeDevice) -> Option<HandleKind<Self>> {
        if layout.is_empty() {
            let data = filled(dtype, shape.num_elements(), fill);
            return Some(Self::of_data(TensorData::from_bytes(data, shape.clone(), dtype), device));
        }
        let (strides, offset, buffer) = parse_layout(layout)?;
        let count = buffer / dtype.size();
        let data = TensorData::from_bytes(filled(dtype, count, fill), Shape::new([count]), dtype);
        let whole = Self::of_data(data, device);
        let whole = tensor(&whole).clone();
        let strides: Vec<usize> = strides.into_iter().map(usize::try_from).collect::<Result<_, _>>().ok()?;
        let metadata = Metadata::new(shape.clone(), strides);
        let handle = match offset {
            0 => whole.handle,
            offset => whole.handle.offset_start((offset * dtype.size()) as u64),
        };
        let it = CubeTensor::new(whole.client, handle, metadata, device.clone(), dtype);
        Some(handle_of!(dtype, it))
    }

    fn wake(device: &CubeDevice) {
        Self::settle(device);
    }

    fn settle(device: &CubeDevice) {
        // What went wrong shows where results are read.
        let _ = Self::sync(device);
    }

    /// By the buffers that are made for it, each of just its size, on a stream that has none yet. One that is freed serves what
    /// comes after it only if that has the same size, so this is the peak or somewhat more.
    fn allocated(device: &CubeDevice, work: &mut (dyn FnMut() + Send)) -> Option<Bytes> {
        let client = device.client();
        let held = || {
            let streams = client.memory_report(MemoryScope::CurrentStream).streams;
            streams.iter().map(|stream| stream.pools.persistent.usage.bytes_reserved).sum::<u64>()
        };
        MEASURED.executes(|| {
            Self::memory_cleanup(device);
            let before = held();
            Self::memory_persistent_allocations(device, work, |work| work());
            let made = held().saturating_sub(before);
            Self::settle(device);
            Some(Bytes(made))
        })
    }

    const IN_HEAP: bool = false;
}
