//! What a backend must offer for steps to run on it.

use std::fmt::Debug;

use std::time::Instant;

use burn::tensor::{Bool, Int, Tensor};
use burn_backend::{Backend, DType, ProfileOptions, ProfileToken, Shape, TensorData};
use burn_flex::Flex;
use burn_ir::{BackendIr, HandleKind, OperationIr, RandomOpIr, TensorId, TensorIr};
use burn_router::CustomOpRegistry;

use super::looks::{Looks, Places};
use super::recorded::Fixed;
use super::timing::Windows;
use crate::alloc;
use crate::cost::{Link, OpCost};
use crate::error::Error;
use crate::units::{Bytes, Nanos};

/// Where a tensor lies: tensors in one buffer have the same first part.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Place {
    /// The buffer.
    pub buffer: u64,
    /// Bytes before the tensor in it.
    pub offset: u64,
}

/// What is in use on a device.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Usage {
    /// Bytes of live allocations, padding included.
    pub in_use: Bytes,
    /// Bytes held from the device, live or for reuse.
    pub reserved: Bytes,
}

/// Looks at a device's pools by itself as long as it lives.
pub trait Overseer {
    /// The most it has seen of each.
    fn most(&self) -> Usage;
    /// What it has seen, and where.
    fn looks(&self) -> Looks;
}

/// How a tensor that comes from outside lies in memory.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Seen {
    /// Strides, offset and buffer bytes as text; `None` for the plain layout: contiguous, from the
    /// start of a buffer of just its size.
    pub layout: Option<String>,
    /// How many tensors share its buffer, itself counted; `None` where the backend does not tell.
    pub holders: Option<usize>,
}

/// Runs a step's operations and holds its tensors under their ids.
pub trait Interpreter<B: Target>: Sized {
    /// One that holds nothing yet.
    fn new(device: &B::Device, handlers: B::Handlers) -> Self;
    /// Hold a tensor.
    fn bind(&mut self, id: TensorId, tensor: HandleKind<B>);
    /// Run an operation. What its statuses give away is gone afterwards. Panics as the backend does.
    fn run(&mut self, op: OperationIr);
    /// Run a random operation, drawing with a seed.
    ///
    /// # Errors
    /// The element type, when no distribution is defined for it.
    fn draw(&mut self, op: &RandomOpIr, seed: u64) -> Result<(), String>;
    /// A tensor held, to be read, and left where it is.
    fn lend(&mut self, tensor: &TensorIr) -> HandleKind<B>;
}

/// Burn's interpreter as one, for a backend of this process. Written out for each backend, so that the interpreter of all there
/// is in Burn is compiled once, here, and not in every program that takes a step.
macro_rules! interpreted {
    ($backend:ty) => {
        impl Interpreter<$backend> for TensorInterpreter<$backend> {
            fn new(
                device: &<$backend as burn_backend::BackendTypes>::Device,
                handlers: CustomOpRegistry<$backend>,
            ) -> Self {
                Self::with_custom_ops(device.clone(), handlers)
            }

            fn bind(&mut self, id: burn_ir::TensorId, tensor: HandleKind<$backend>) {
                self.register_tensor_to_device(id, tensor);
            }

            fn run(&mut self, op: OperationIr) {
                self.register_op(op);
            }

            fn draw(&mut self, op: &burn_ir::RandomOpIr, seed: u64) -> Result<(), String> {
                self.register_tensor_data_id(op.out.id, super::random::draw(op, seed)?);
                Ok(())
            }

            fn lend(&mut self, tensor: &burn_ir::TensorIr) -> HandleKind<$backend> {
                self.get_tensor(tensor)
            }
        }
    };
}
pub(super) use interpreted;

/// A tensor that is being copied from host memory, and the copy; none where it is there already.
pub type Coming<B> = (HandleKind<B>, Option<<B as Target>::Landing>);

/// The tensor, once all that is asked of its device waits for the copy.
pub fn settled<B: Target>((handle, landing): Coming<B>) -> HandleKind<B> {
    landing.into_iter().for_each(B::met);
    handle
}

/// Why a backend has no tensors for recordings.
fn records_nothing<T>() -> Result<T, String> {
    Err("this backend does not record what its devices run".into())
}

/// A backend that steps run on: how its tensors come in and go out, how its ops are run and measured, and
/// how its work is waited for. Sealed by what it asks for: Burn's dispatch knows the backends.
pub trait Target: Backend + Debug {
    /// A tensor set aside in host memory.
    type Host: Send;
    /// A copy from host memory that has been begun.
    type Landing: Send;
    /// A tensor where a recording of the device's can find it again.
    type Fixed: Fixed;
    /// Handlers of custom operations.
    type Handlers: Clone + 'static;
    /// What runs its ops.
    type Interpreter: Interpreter<Self> + Send;

    /// A tensor of Burn's as this backend's.
    ///
    /// # Errors
    /// Why it is none: it is another backend's.
    fn float_in<const D: usize>(tensor: Tensor<D>) -> Result<HandleKind<Self>, String>;
    /// See [`float_in`](Self::float_in).
    ///
    /// # Errors
    /// Why it is none of this backend.
    fn int_in<const D: usize>(tensor: Tensor<D, Int>) -> Result<HandleKind<Self>, String>;
    /// See [`float_in`](Self::float_in).
    ///
    /// # Errors
    /// Why it is none of this backend.
    fn bool_in<const D: usize>(tensor: Tensor<D, Bool>) -> Result<HandleKind<Self>, String>;

    /// A float tensor as Burn's; `None` for one of another kind.
    fn float_out<const D: usize>(handle: HandleKind<Self>) -> Option<Tensor<D>>;
    /// An integer tensor as Burn's; `None` for one of another kind.
    fn int_out<const D: usize>(handle: HandleKind<Self>) -> Option<Tensor<D, Int>>;
    /// A bool tensor as Burn's; `None` for one of another kind.
    fn bool_out<const D: usize>(handle: HandleKind<Self>) -> Option<Tensor<D, Bool>>;

    /// Shape and element type.
    fn form(handle: &HandleKind<Self>) -> (Shape, DType);
    /// The device it is on.
    fn device_of(handle: &HandleKind<Self>) -> Self::Device;
    /// How tensors lie in memory, all of one device.
    ///
    /// # Errors
    /// Why that cannot be told.
    fn look(tensors: &[HandleKind<Self>]) -> Result<Vec<Seen>, String>;

    /// Where a tensor is, once all that makes it has been asked of the device.
    ///
    /// # Errors
    /// Why it is nowhere.
    fn fixed(_: &HandleKind<Self>) -> Result<Self::Fixed, String> {
        records_nothing()
    }
    /// The tensor that is there.
    ///
    /// # Errors
    /// Why it cannot be one.
    fn at(_: &Self::Fixed) -> Result<HandleKind<Self>, String> {
        records_nothing()
    }
    /// A tensor of host data.
    fn of_data(data: TensorData, device: &Self::Device) -> HandleKind<Self> {
        match data.dtype() {
            d if d.is_float() => HandleKind::Float(Self::float_from_data(data, device)),
            d if d.is_bool() => HandleKind::Bool(Self::bool_from_data(data, device)),
            _ => HandleKind::Int(Self::int_from_data(data, device)),
        }
    }
    /// Begin to copy a tensor in host memory, as [`from_host`](Self::from_host) does, to one of the element type given.
    ///
    /// # Errors
    /// Why there cannot be one.
    fn load(
        tensor: &HandleKind<Flex>,
        dtype: DType,
        device: &Self::Device,
        _: Option<&mut Windows>,
    ) -> Result<Coming<Self>, String> {
        Ok((Self::of_data(super::flex::data(tensor, dtype)?, device), None))
    }
    /// Bring a tensor that stays: in memory of just its size, beside the pools that serve what comes and goes.
    ///
    /// # Errors
    /// Those of [`load`](Self::load).
    fn load_for_good(
        tensor: &HandleKind<Flex>,
        dtype: DType,
        device: &Self::Device,
    ) -> Result<HandleKind<Self>, String> {
        Self::load(tensor, dtype, device, None).map(settled)
    }
    /// Begin to copy a tensor to host memory; it comes back with its axes in the same order in memory. What it lies in may be
    /// overwritten once it has [`arrived`](Self::arrived). Its time is taken for `windows`.
    ///
    /// # Errors
    /// What went wrong on the device, of this or of earlier work.
    fn to_host(handle: HandleKind<Self>, windows: Option<&mut Windows>) -> Result<Self::Host, String>;
    /// Wait until it is there.
    ///
    /// # Errors
    /// What went wrong on the device, of this or of earlier work.
    fn arrived(_: &mut Self::Host) -> Result<(), String> {
        Ok(())
    }
    /// Begin to bring it back. What is asked of the device before the copy has been [`met`](Self::met) may come before it.
    ///
    /// # Errors
    /// Why it is not there.
    fn from_host(
        host: Self::Host,
        device: &Self::Device,
        windows: Option<&mut Windows>,
    ) -> Result<Coming<Self>, String>;
    /// Have all that is asked of the device from now on wait for a copy.
    fn met(_: Self::Landing) {}
    /// A copy of a tensor in the memory of a device; the tensor itself where it is there already.
    ///
    /// # Errors
    /// What went wrong on either device.
    fn transfer(handle: &HandleKind<Self>, to: &Self::Device) -> Result<HandleKind<Self>, String> {
        match Self::device_of(handle) == *to {
            true => Ok(handle.clone()),
            false => Ok(settled(Self::from_host(Self::to_host(handle.clone(), None)?, to, None)?)),
        }
    }
    /// How fast tensors move to host memory and back, measured now; `None` where they lie in host
    /// memory already.
    fn link(device: &Self::Device) -> Option<Link>;

    /// Handlers of the custom operations Burn itself records (the Fourier transforms).
    fn custom_ops() -> Self::Handlers;
    /// What an op costs, run by itself on inputs that lie as `layouts` say.
    ///
    /// # Errors
    /// Why it cannot be run by itself.
    fn measure(
        device: &Self::Device,
        handlers: &Self::Handlers,
        op: &OperationIr,
        layouts: &[&str],
    ) -> Result<OpCost, String>;
    /// Ask for ops one after the other, on inputs that lie as `layout` says where none of them makes them, and say how long all
    /// but the first `lead` take until they are done. `None` where an op is done when it was asked for.
    ///
    /// # Errors
    /// Why they cannot be run without those before them.
    fn row(
        _: &Self::Device,
        _: &Self::Handlers,
        _ops: &[&OperationIr],
        _lead: usize,
        _layout: &dyn Fn(TensorId) -> String,
    ) -> Result<Option<Nanos>, String> {
        Ok(None)
    }
    /// Whether what tensors hold can be trusted, as far as that is known without waiting for the device: backends that do
    /// their work behind the program's back mark what a failed operation should have written.
    ///
    /// # Errors
    /// Why not.
    fn sound(_: &[HandleKind<Self>]) -> Result<(), String> {
        Ok(())
    }
    /// End a step: with an error where work that was begun cannot have been done.
    ///
    /// # Errors
    /// Why.
    fn finish(_: &Self::Device) -> Result<(), String> {
        Ok(())
    }
    /// The error to give instead of any other where the device is gone.
    fn lost(_: &Self::Device) -> Option<Error> {
        None
    }
    /// What went wrong `at` some place, by a backend's last words; of a device that is gone, that it is.
    fn failure(device: &Self::Device, at: String, why: String) -> Error {
        Self::lost(device).unwrap_or_else(|| while_running(at, why))
    }
    /// Have a thread take what kernels keep for it from their first use on.
    fn warm() {}
    /// Whether what is asked of the device may wait in a queue, drops too, for [`empty_queue`](Self::empty_queue).
    const QUEUES: bool = false;
    /// Have all that waits in the queue done, without waiting for the device.
    ///
    /// # Errors
    /// Why that cannot be.
    fn empty_queue(_: &Self::Device) -> Result<(), String> {
        Ok(())
    }
    /// What the device's pools hold; `None` where the backend has none.
    fn usage(device: &Self::Device) -> Option<Usage>;
    /// One that looks at the pools whenever work is really done, at these places of it; `None` where that is when it is asked for, so that whoever
    /// asks can look for itself.
    fn oversee(_: &Self::Device, _: Places) -> Option<Box<dyn Overseer>> {
        None
    }
    /// Begin to watch how much is allocated where its tensors lie: what is now. `None` where nobody
    /// counts.
    fn watch(_: &Self::Device) -> Option<Bytes> {
        alloc::installed().then(|| {
            alloc::start_watch();
            alloc::live()
        })
    }
    /// The most that was allocated at once since then.
    fn watched(_: &Self::Device) -> Option<Bytes> {
        alloc::installed().then(alloc::watched)
    }
    /// Threads that its kernels run on.
    fn threads(_: &Self::Device) -> usize {
        std::thread::available_parallelism().map_or(1, usize::from)
    }
    /// The backend, its version and the device, for profiles of costs.
    fn describe(device: &Self::Device) -> String;
    /// Whether all its devices are this process's heap, in which each thread's account tells what it takes.
    const ON_ACCOUNTS: bool = false;
    /// What a live tensor takes beside its elements.
    const TENSOR_BYTES: Bytes;
    /// What a live view takes.
    const VIEW_BYTES: Bytes;
    /// What an entry of the interpreter's table takes, where that is counted as the device's.
    const ENTRY_BYTES: Bytes;
}

/// A backend of this process: what is needed to measure its ops by looking at their tensors.
pub trait Local: Target<Handlers = CustomOpRegistry<Self>> + BackendIr {
    /// How a tensor lies in its buffer, as text: see [`Seen::layout`].
    fn layout(handle: &HandleKind<Self>) -> Option<String>;
    /// Where it lies.
    fn place(handle: &HandleKind<Self>) -> Place;
    /// See [`Seen::holders`].
    fn holders(handle: &HandleKind<Self>) -> Option<usize>;
    /// Bytes of its buffer.
    fn buffer_bytes(handle: &HandleKind<Self>) -> Bytes;
    /// A tensor with the given layout over a buffer of its own, filled with `fill`; `None` where
    /// the text is no layout.
    fn stand_in(
        shape: &Shape,
        dtype: DType,
        layout: &str,
        fill: f64,
        device: &Self::Device,
    ) -> Option<HandleKind<Self>>;
    /// Wake what an op in the middle of a step would find awake.
    fn wake(device: &Self::Device);
    /// Wait until all that was begun is done.
    fn settle(device: &Self::Device);
    /// Do work, and say how much it allocates from beginning to end, what it frees again counted too; `None`, and nothing is
    /// done, where the counting allocator says more.
    fn allocated(_: &Self::Device, _: &mut (dyn FnMut() + Send)) -> Option<Bytes> {
        None
    }
    /// Whether tensors lie in the process's heap, where the counting allocator sees them.
    const IN_HEAP: bool;
}

/// Takes the time of what is done between its start and its stop, by the device's clock where it
/// has one.
pub(super) struct Clock {
    window: Option<ProfileToken>,
    start: Instant,
}

impl Clock {
    pub fn start<B: Local>(device: &B::Device) -> Self {
        B::wake(device);
        let window = B::profile_start(device).ok().flatten();
        Self { window, start: Instant::now() }
    }

    /// Waits for what was begun.
    pub fn stop<B: Local>(self, device: &B::Device) -> Nanos {
        let closed = self.window.and_then(|window| {
            let window = B::profile_end(device, window, ProfileOptions::default().flush()).ok()?;
            burn_std::reader::try_read_sync(window.resolve()).flatten()
        });
        B::settle(device);
        let time = closed.map_or_else(|| self.start.elapsed(), |ticks| ticks.duration());
        Nanos(u64::try_from(time.as_nanos()).unwrap_or(u64::MAX))
    }
}

/// What backends of this process have in common.
macro_rules! in_this_process {
    () => {
        type Handlers = CustomOpRegistry<Self>;
        type Interpreter = TensorInterpreter<Self>;

        fn look(tensors: &[HandleKind<Self>]) -> Result<Vec<Seen>, String> {
            Ok(tensors.iter().map(|t| Seen { layout: Self::layout(t), holders: Self::holders(t) }).collect())
        }

        fn measure(
            device: &Self::Device,
            handlers: &Self::Handlers,
            op: &OperationIr,
            layouts: &[&str],
        ) -> Result<OpCost, String> {
            measure_op::<Self>(device, handlers, op, layouts)
        }

        fn custom_ops() -> CustomOpRegistry<Self> {
            let mut registry = CustomOpRegistry::new();
            burn::signal::register_fft_ops::<Self>(&mut registry);
            registry
        }
    };
}
pub(super) use in_this_process;

/// Tensors in and out through Burn's dispatch: the same words for every backend.
macro_rules! through_dispatch {
    () => {
        fn float_in<const D: usize>(tensor: Tensor<D>) -> Result<HandleKind<Self>, String> {
            let plain = tensor.without_autodiff().try_into_primitive::<Self>();
            plain.map(HandleKind::Float).map_err(|e| format!("{e:?}"))
        }
        fn int_in<const D: usize>(tensor: Tensor<D, Int>) -> Result<HandleKind<Self>, String> {
            let plain = tensor.without_autodiff().try_into_primitive::<Self>();
            plain.map(HandleKind::Int).map_err(|e| format!("{e:?}"))
        }
        fn bool_in<const D: usize>(tensor: Tensor<D, Bool>) -> Result<HandleKind<Self>, String> {
            let plain = tensor.without_autodiff().try_into_primitive::<Self>();
            plain.map(HandleKind::Bool).map_err(|e| format!("{e:?}"))
        }
        fn float_out<const D: usize>(handle: HandleKind<Self>) -> Option<Tensor<D>> {
            match handle {
                HandleKind::Float(t) => Some(Tensor::from_primitive::<Self>(t)),
                _ => None,
            }
        }
        fn int_out<const D: usize>(handle: HandleKind<Self>) -> Option<Tensor<D, Int>> {
            match handle {
                HandleKind::Int(t) => Some(Tensor::from_primitive::<Self>(t)),
                _ => None,
            }
        }
        fn bool_out<const D: usize>(handle: HandleKind<Self>) -> Option<Tensor<D, Bool>> {
            match handle {
                HandleKind::Bool(t) => Some(Tensor::from_primitive::<Self>(t)),
                _ => None,
            }
        }
    };
}
pub(super) use through_dispatch;

/// The kind of handle that a tensor of this type is.
macro_rules! handle_of {
    ($dtype:expr, $tensor:expr) => {
        match $dtype {
            d if d.is_float() => HandleKind::Float($tensor),
            d if d.is_bool() => HandleKind::Bool($tensor),
            _ => HandleKind::Int($tensor),
        }
    };
}
pub(super) use handle_of;

/// Elements of a type, all the same. One-byte and other types: all zero is a valid value of each.
pub(super) fn filled(dtype: DType, count: usize, fill: f64) -> burn_std::Bytes {
    use burn_std::Bytes as Buffer;
    match dtype {
        DType::F64 => Buffer::from_elems(vec![fill; count]),
        DType::F32 | DType::Flex32 => Buffer::from_elems(vec![fill as f32; count]),
        DType::F16 => Buffer::from_elems(vec![burn_std::f16::from_f64(fill); count]),
        DType::BF16 => Buffer::from_elems(vec![burn_std::bf16::from_f64(fill); count]),
        DType::I64 => Buffer::from_elems(vec![fill as i64; count]),
        DType::I32 => Buffer::from_elems(vec![fill as i32; count]),
        _ => Buffer::from_bytes_vec(vec![0u8; count * dtype.size()]),
    }
}

/// The axes of a tensor as they follow one another in memory, the widest apart first. A copy whose axes lie in the same order is read as the original
/// is: kernels choose by that how they add up.
pub(super) fn axes_in_memory(strides: impl IntoIterator<Item = isize>) -> Vec<usize> {
    let strides: Vec<usize> = strides.into_iter().map(isize::unsigned_abs).collect();
    let mut axes: Vec<usize> = (0..strides.len()).collect();
    axes.sort_by_key(|&axis| std::cmp::Reverse(strides[axis]));
    axes
}

/// The permutation that undoes another.
pub(super) fn undone(axes: &[usize]) -> Vec<usize> {
    let mut back = vec![0; axes.len()];
    axes.iter().enumerate().for_each(|(at, &axis)| back[axis] = at);
    back
}

/// Strides, offset and buffer bytes of a layout's text.
pub(super) fn parse_layout(text: &str) -> Option<(Vec<isize>, usize, usize)> {
    let (strides, rest) = text.split_once('@')?;
    let (offset, buffer) = rest.split_once('/')?;
    let strides: Option<Vec<isize>> = match strides {
        "" => Some(Vec::new()),
        _ => strides.split(',').map(|s| s.parse().ok()).collect(),
    };
    Some((strides?, offset.parse().ok()?, buffer.parse().ok()?))
}

/// What a backend's last words mean: backends end ops that fail with a panic, and say why only in its text.
fn while_running(at: String, why: String) -> Error {
    let text = why.to_lowercase();
    // CubeCL's `IoError` and `LaunchError`, CUDA's and Vulkan's own names.
    let memory = ["out of memory", "out of device memory", "out-of-memory", "out_of_memory", "can't allocate buffer"];
    match memory.iter().any(|words| text.contains(words)) {
        true => Error::OutOfMemory { at, why },
        false => Error::Execution { at, why },
    }
}
