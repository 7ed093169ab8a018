//! Burn's CubeCL backends: one type for Vulkan, CUDA and the others; the device says which.

use std::time::{Duration, Instant};

use burn::tensor::{Bool, Int, Tensor};
use burn_backend::ops::{BoolTensorOps, FloatTensorOps, IntTensorOps, QTensorOps};
use burn_backend::{Backend, DType, Shape, TensorData, TensorMetadata};
use burn_cubecl::{CubeBackend, CubeDevice, tensor::CubeTensor};
use burn_ir::{HandleKind, OperationIr};
use burn_router::{CustomOpRegistry, TensorInterpreter};
use burn_std::Metadata;
use burn_std::reader::try_read_sync;

use super::probe::measure_op;
use super::target::{
    Local, Place, Seen, Target, Usage, filled, handle_of, in_this_process, parse_layout, through_dispatch,
};
use crate::cost::{Link, OpCost};
use crate::units::Bytes;

fn tensor(handle: &HandleKind<CubeBackend>) -> &CubeTensor {
    match handle {
        HandleKind::Float(t) | HandleKind::Int(t) | HandleKind::Bool(t) | HandleKind::Quantized(t) => t,
    }
}

/// Bytes moved to measure the link.
const MOVED: usize = 1 << 24;

fn rate(bytes: usize, times: &mut [Duration]) -> u64 {
    times.sort_unstable();
    let seconds = times[times.len() / 2].as_secs_f64().max(1e-9);
    (bytes as f64 / seconds) as u64
}

impl Target for CubeBackend {
    type Host = TensorData;

    through_dispatch!();
    in_this_process!();

    fn form(handle: &HandleKind<Self>) -> (Shape, DType) {
        let tensor = tensor(handle);
        (tensor.shape(), tensor.dtype)
    }

    fn device_of(handle: &HandleKind<Self>) -> CubeDevice {
        tensor(handle).device.clone()
    }

    fn of_data(data: TensorData, device: &CubeDevice) -> HandleKind<Self> {
        match data.dtype() {
            d if d.is_float() => HandleKind::Float(Self::float_from_data(data, device)),
            d if d.is_bool() => HandleKind::Bool(Self::bool_from_data(data, device)),
            _ => HandleKind::Int(Self::int_from_data(data, device)),
        }
    }

    fn to_host(handle: HandleKind<Self>) -> Result<TensorData, String> {
        let data = match handle {
            HandleKind::Float(t) => try_read_sync(Self::float_into_data(t)),
            HandleKind::Int(t) => try_read_sync(Self::int_into_data(t)),
            HandleKind::Bool(t) => try_read_sync(Self::bool_into_data(t)),
            HandleKind::Quantized(t) => try_read_sync(Self::q_into_data(t)),
        };
        let data = data.ok_or("this platform cannot wait for its device")?.map_err(|e| format!("{e:?}"))?;
        // What was read may lie in the runtime's own staging memory, or not be read before somebody
        // looks; both keep a buffer of the device's.
        Ok(TensorData::from_bytes_vec(data.as_bytes().to_vec(), data.shape().clone(), data.dtype()))
    }

    fn from_host(host: TensorData, device: &CubeDevice) -> HandleKind<Self> {
        Self::of_data(host, device)
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
            Self::to_host(tensor).ok()?;
            back.push(start.elapsed());
        }
        Some(Link { d2h_bytes_per_s: rate(MOVED, &mut back), h2d_bytes_per_s: rate(MOVED, &mut there) })
    }

    fn usage(device: &CubeDevice) -> Option<Usage> {
        Self::memory_pool_usage(device).map(|usage| Usage {
            in_use: Bytes(usage.bytes_in_use + usage.bytes_padding),
            reserved: Bytes(usage.bytes_reserved),
        })
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

    const IN_HEAP: bool = false;
}
