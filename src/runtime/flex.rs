//! Burn's CPU backend.

use burn::tensor::{Bool, Int, Tensor};
use burn_backend::ops::FloatTensorOps;
use burn_backend::{DType, Shape, TensorData};
use burn_flex::{Flex, FlexDevice, FlexTensor, Layout};
use burn_ir::{Handle, HandleKind, OperationIr, TensorId};
use burn_router::{CustomOpRegistry, TensorInterpreter};
use burn_std::sync::Arc;

use super::probe::measure_op;
use super::target::{
    Coming, Interpreter, Local, Place, Seen, Target, Usage, axes_in_memory, filled, handle_of, in_this_process,
    interpreted, parse_layout, through_dispatch, undone,
};
use super::timing::Windows;
use crate::alloc;
use crate::cost::{Link, OpCost};
use crate::units::Bytes;

fn tensor(handle: &HandleKind<Flex>) -> &FlexTensor {
    match handle {
        HandleKind::Float(t) | HandleKind::Int(t) | HandleKind::Bool(t) => t,
        HandleKind::Quantized(t) => t.tensor(),
    }
}

/// What a tensor holds, in plain order and as elements of a type.
///
/// # Errors
/// Why it cannot be of that type.
pub(super) fn data(handle: &HandleKind<Flex>, dtype: DType) -> Result<TensorData, String> {
    tensor(handle).clone().into_data().try_cast(dtype).map_err(|error| error.to_string())
}

interpreted!(Flex);

impl Target for Flex {
    // Set aside is where it was: host memory is the device's.
    type Host = HandleKind<Self>;
    type Landing = std::convert::Infallible;
    type Fixed = std::convert::Infallible;

    through_dispatch!();
    in_this_process!();

    fn form(handle: &HandleKind<Self>) -> (Shape, DType) {
        (tensor(handle).layout().shape().clone(), tensor(handle).dtype())
    }

    fn device_of(_: &HandleKind<Self>) -> FlexDevice {
        FlexDevice
    }

    /// Takes the data over without a copy.
    fn of_data(data: TensorData, _: &FlexDevice) -> HandleKind<Self> {
        let tensor = FlexTensor::from_data(data);
        handle_of!(tensor.dtype(), tensor)
    }

    fn to_host(handle: HandleKind<Self>, _: Option<&mut Windows>) -> Result<Self::Host, String> {
        Ok(handle)
    }

    fn from_host(host: Self::Host, _: &FlexDevice, _: Option<&mut Windows>) -> Result<Coming<Self>, String> {
        Ok((host, None))
    }

    /// The CPU is one device, but each stage of a pipeline has its own copy, as it would on others.
    fn transfer(handle: &HandleKind<Self>, _: &FlexDevice) -> Result<HandleKind<Self>, String> {
        let copy = copied(tensor(handle));
        Ok(handle_of!(copy.dtype(), copy))
    }

    /// Matrix kernels pack their operands into a tile of about two megabytes that each thread keeps.
    fn warm() {
        let square =
            || FlexTensor::new(filled(DType::F32, 1 << 16, 1.0), Layout::contiguous([256, 256].into()), DType::F32);
        let _ = Self::float_matmul(square(), square());
    }

    fn link(_: &FlexDevice) -> Option<Link> {
        None
    }

    fn usage(_: &FlexDevice) -> Option<Usage> {
        None
    }

    fn describe(_: &FlexDevice) -> String {
        let threads = std::thread::available_parallelism().map_or(1, usize::from);
        let workspace = if alloc::installed() { "workspace measured" } else { "workspace not measured" };
        format!("flex 0.22.1 on {} with {threads} threads, {workspace}", processor())
    }

    const ON_ACCOUNTS: bool = true;
    // Handle, shape and strides, an entry in the interpreter's table (measured over the zoo: 240
    // to 490 bytes, views among them; the table grows by doubling, so nearer the upper end).
    const TENSOR_BYTES: Bytes = Bytes(440);
    // The same without a buffer of its own.
    const VIEW_BYTES: Bytes = Bytes(312);
    const ENTRY_BYTES: Bytes = Bytes(size_of::<(TensorId, Handle<HandleKind<Flex>>)>() as u64 + 1);
}

impl Local for Flex {
    fn layout(handle: &HandleKind<Self>) -> Option<String> {
        let tensor = tensor(handle);
        let layout = tensor.layout();
        let plain = layout.is_contiguous()
            && layout.start_offset() == 0
            && tensor.bytes().len() == layout.num_elements() * tensor.dtype().size();
        if plain {
            return None;
        }
        let strides: Vec<String> = layout.strides().iter().map(ToString::to_string).collect();
        Some(format!("{}@{}/{}", strides.join(","), layout.start_offset(), tensor.bytes().len()))
    }

    fn place(handle: &HandleKind<Self>) -> Place {
        Place { buffer: tensor(handle).bytes().as_ptr() as usize as u64, offset: 0 }
    }

    fn holders(handle: &HandleKind<Self>) -> Option<usize> {
        // One more is the one counted through.
        Some(Arc::strong_count(&tensor(handle).data_arc()) - 1)
    }

    fn buffer_bytes(handle: &HandleKind<Self>) -> Bytes {
        Bytes(tensor(handle).bytes().len() as u64)
    }

    fn stand_in(shape: &Shape, dtype: DType, layout: &str, fill: f64, _: &FlexDevice) -> Option<HandleKind<Self>> {
        let elements = shape.num_elements();
        let (layout, buffer) = match layout {
            "" => (Layout::contiguous(shape.clone()), elements * dtype.size()),
            text => {
                let (strides, offset, buffer) = parse_layout(text)?;
                (Layout::new(shape.clone(), strides, offset), buffer)
            }
        };
        let it = FlexTensor::new(filled(dtype, buffer / dtype.size(), fill), layout, dtype);
        Some(handle_of!(dtype, it))
    }

    /// In a step the kernels' threads are awake from the op before; by itself an op must find them
    /// awake too, or small ops would run, and take workspace, on one thread alone.
    fn wake(_: &FlexDevice) {
        rayon::broadcast(|_| ());
    }

    /// Ops are done when they return.
    fn settle(_: &FlexDevice) {}

    const IN_HEAP: bool = true;
}

/// A copy in a buffer of its own size, its dimensions in the same order in memory, so that ops do with it what they do
/// with the original.
fn copied(tensor: &FlexTensor) -> FlexTensor {
    let axes = axes_in_memory(tensor.layout().strides().iter().copied());
    FlexTensor::from_data(tensor.permute(&axes).into_data()).permute(&undone(&axes))
}

fn processor() -> String {
    let info = std::fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let model = info.lines().find(|l| l.starts_with("model name")).and_then(|l| l.split(':').nth(1));
    model.map_or_else(|| std::env::consts::ARCH.to_owned(), |m| m.trim().to_owned())
}
