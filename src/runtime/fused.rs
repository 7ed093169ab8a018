//! Operations that Burn fuses before a device runs them: [`Fusion`] around CubeCL's backend.
//!
//! Fusion puts operations, and drops, into a queue and runs blocks of them once it knows that no more can be
//! fused. So a buffer lives on after the plan has dropped it for as long as the drop waits; the executor empties the queue where
//! that would not fit ([`crate::plan::queue_ends`]).

use std::collections::BTreeSet;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use burn::tensor::{Bool, Int, Tensor};
use burn_backend::{DType, Shape, TensorMetadata};
use burn_cubecl::{CubeBackend, CubeDevice};
use burn_flex::Flex;
use burn_fusion::observer::{BlockOperations, FusionObservation, FusionObserver};
use burn_fusion::stream::StreamId;
use burn_fusion::{Fusion, FusionBackend, FusionTensor, NoOp, get_client};
use burn_ir::{
    BaseOperationIr, HandleKind, InitOperationIr, OperationIr, OperationOutput, RandomOpIr, TensorId, TensorIr,
};
use burn_router::{CustomOpRegistry, TensorInterpreter};

use super::cube;
use super::looks::{Looks, Places};
use super::probe::{Bench, Laid, beside};
use super::random::{self, random_op};
use super::row::time_row;
use super::target::{Coming, Interpreter, Overseer, Seen, Target, Usage, handle_of, through_dispatch};
use super::timing::Windows;
use crate::cost::{Link, OpCost};
use crate::graph::trace::{panic_message, quietly};
use crate::units::{Bytes, Nanos};

/// CubeCL's backend with its operations fused.
pub type Fused = Fusion<CubeBackend>;

type Queued<B> = FusionTensor<<B as FusionBackend>::FusionRuntime>;

/// A tensor as fusion's queue has them.
pub(super) fn queued<B: FusionBackend>(handle: B::Handle, shape: Shape, dtype: DType, device: &B::Device) -> Queued<B> {
    let client = get_client::<B>(device);
    let made = InitOperationIr::create(shape, dtype, || client.register_tensor_handle(handle));
    client.register(StreamId::current(), OperationIr::Init(made), NoOp::<B>::new()).output()
}

/// Tensors in and out through Burn's dispatch, for a backend that it has within [`Fusion`]: what waits in the queue is done
/// before a tensor comes out of it.
macro_rules! through_queue {
    () => {
        fn float_in<const D: usize>(tensor: Tensor<D>) -> Result<HandleKind<Self>, String> {
            let queued = tensor.without_autodiff().try_into_primitive::<burn_fusion::Fusion<Self>>();
            let queued = queued.map_err(|e| format!("{e:?}"))?;
            Ok(HandleKind::Float(queued.client.clone().resolve_tensor_float::<Self>(queued)))
        }
        fn int_in<const D: usize>(tensor: Tensor<D, Int>) -> Result<HandleKind<Self>, String> {
            let queued = tensor.without_autodiff().try_into_primitive::<burn_fusion::Fusion<Self>>();
            let queued = queued.map_err(|e| format!("{e:?}"))?;
            Ok(HandleKind::Int(queued.client.clone().resolve_tensor_int::<Self>(queued)))
        }
        fn bool_in<const D: usize>(tensor: Tensor<D, Bool>) -> Result<HandleKind<Self>, String> {
            let queued = tensor.without_autodiff().try_into_primitive::<burn_fusion::Fusion<Self>>();
            let queued = queued.map_err(|e| format!("{e:?}"))?;
            Ok(HandleKind::Bool(queued.client.clone().resolve_tensor_bool::<Self>(queued)))
        }
        fn float_out<const D: usize>(handle: HandleKind<Self>) -> Option<Tensor<D>> {
            let ((shape, dtype), device) = (Self::form(&handle), Self::device_of(&handle));
            let HandleKind::Float(tensor) = handle else { return None };
            let handle = <Self as burn_ir::BackendIr>::float_tensor_handle(tensor);
            let queued = crate::runtime::fused::queued::<Self>(handle, shape, dtype, &device);
            Some(Tensor::from_primitive::<burn_fusion::Fusion<Self>>(queued))
        }
        fn int_out<const D: usize>(handle: HandleKind<Self>) -> Option<Tensor<D, Int>> {
            let ((shape, dtype), device) = (Self::form(&handle), Self::device_of(&handle));
            let HandleKind::Int(tensor) = handle else { return None };
            let handle = <Self as burn_ir::BackendIr>::int_tensor_handle(tensor);
            let queued = crate::runtime::fused::queued::<Self>(handle, shape, dtype, &device);
            Some(Tensor::from_primitive::<burn_fusion::Fusion<Self>>(queued))
        }
        fn bool_out<const D: usize>(handle: HandleKind<Self>) -> Option<Tensor<D, Bool>> {
            let ((shape, dtype), device) = (Self::form(&handle), Self::device_of(&handle));
            let HandleKind::Bool(tensor) = handle else { return None };
            let handle = <Self as burn_ir::BackendIr>::bool_tensor_handle(tensor);
            let queued = crate::runtime::fused::queued::<Self>(handle, shape, dtype, &device);
            Some(Tensor::from_primitive::<burn_fusion::Fusion<Self>>(queued))
        }
    };
}
pub(super) use through_queue;

fn tensor(handle: &HandleKind<Fused>) -> &Queued<CubeBackend> {
    match handle {
        HandleKind::Float(t) | HandleKind::Int(t) | HandleKind::Bool(t) | HandleKind::Quantized(t) => t,
    }
}

/// A tensor as the device has it, once what waits in the queue is done.
fn resolved(handle: HandleKind<Fused>) -> Result<HandleKind<CubeBackend>, String> {
    Ok(match handle {
        HandleKind::Float(t) => HandleKind::Float(t.client.clone().resolve_tensor_float::<CubeBackend>(t)),
        HandleKind::Int(t) => HandleKind::Int(t.client.clone().resolve_tensor_int::<CubeBackend>(t)),
        HandleKind::Bool(t) => HandleKind::Bool(t.client.clone().resolve_tensor_bool::<CubeBackend>(t)),
        HandleKind::Quantized(_) => return Err("a quantized tensor".into()),
    })
}

fn all_resolved(handles: &[HandleKind<Fused>]) -> Result<Vec<HandleKind<CubeBackend>>, String> {
    handles.iter().map(|handle| resolved(handle.clone())).collect()
}

/// A tensor of the device's in the queue.
fn in_queue(handle: HandleKind<CubeBackend>) -> Result<HandleKind<Fused>, String> {
    use burn_ir::BackendIr;
    let ((shape, dtype), device) = (CubeBackend::form(&handle), CubeBackend::device_of(&handle));
    let handle = match handle {
        HandleKind::Float(t) => CubeBackend::float_tensor_handle(t),
        HandleKind::Int(t) => CubeBackend::int_tensor_handle(t),
        HandleKind::Bool(t) => CubeBackend::bool_tensor_handle(t),
        HandleKind::Quantized(_) => return Err("a quantized tensor".into()),
    };
    Ok(handle_of!(dtype, queued::<CubeBackend>(handle, shape, dtype, &device)))
}

/// Hands operations to fusion's queue, but for custom ones: those are run by the device's own handlers.
pub struct Filler {
    queue: TensorInterpreter<Fused>,
    device: CubeDevice,
    handlers: CustomOpRegistry<CubeBackend>,
}

/// Whether fused kernels could take a result for another: where an axis of one element comes before others and lies within them in memory, as of
/// a convolution with one channel, whose channels lie innermost, or where such an axis was moved. Burn 0.22.1's fused kernels then read what lies elsewhere
/// (`tests/gpu.rs` shows it of plain Burn).
fn misread(op: &OperationIr, out: &TensorIr) -> bool {
    let units = || (0..out.shape.len()).filter(|&axis| out.shape[axis] == 1 && out.shape.num_elements() > 1);
    match op {
        OperationIr::Module(_) => has_inner_unit(&out.shape),
        OperationIr::BaseFloat(base) | OperationIr::BaseInt(base) | OperationIr::BaseBool(base) => match base {
            BaseOperationIr::SwapDims(swap) => units().any(|axis| axis == swap.dim1 || axis == swap.dim2),
            BaseOperationIr::Permute(permute) => units().any(|axis| permute.axes[axis] != axis),
            _ => false,
        },
        _ => false,
    }
}

/// Whether what comes before an operation must not be fused with what comes after it: Burn 0.22.1 takes both into one kernel if they are of
/// tensors with one channel and with several, as around such a convolution, and writes as if all had several.
fn apart(op: &OperationIr) -> bool {
    matches!(op, OperationIr::Module(_)) && op.inputs().chain(op.outputs()).any(|it| has_inner_unit(&it.shape))
}

/// Whether an axis of one element, not the first, comes before another of more.
fn has_inner_unit(shape: &Shape) -> bool {
    (1..shape.len()).any(|axis| shape[axis] == 1 && shape[axis + 1..].iter().any(|&n| n > 1))
}

impl Filler {
    /// Have a result's axes of one element lie where they would if all its axes followed one another in memory.
    fn realign(&mut self, out: TensorIr) -> Result<(), String> {
        let id = out.id;
        let made = self.queue.get_tensor(&TensorIr { status: burn_ir::TensorStatus::ReadWrite, ..out });
        let made = cube::units_in_order(resolved(made)?);
        self.queue.register_tensor_to_device(id, in_queue(made)?);
        Ok(())
    }

    fn custom(&mut self, op: OperationIr) -> Result<(), String> {
        let mut device = TensorInterpreter::<CubeBackend>::with_custom_ops(self.device.clone(), self.handlers.clone());
        let mut bound = BTreeSet::new();
        for input in op.inputs().filter(|input| bound.insert(input.id)) {
            device.register_tensor_to_device(input.id, resolved(self.queue.get_tensor(input))?);
        }
        let outputs: Vec<TensorIr> = op.outputs().cloned().collect();
        device.register_op(op);
        for output in outputs {
            let made = device.get_tensor(&TensorIr { status: burn_ir::TensorStatus::ReadWrite, ..output.clone() });
            self.queue.register_tensor_to_device(output.id, in_queue(made)?);
        }
        Ok(())
    }
}

impl Interpreter<Fused> for Filler {
    fn new(device: &CubeDevice, handlers: CustomOpRegistry<CubeBackend>) -> Self {
        Self { queue: TensorInterpreter::new(device.clone()), device: device.clone(), handlers }
    }

    fn bind(&mut self, id: TensorId, tensor: HandleKind<Fused>) {
        self.queue.register_tensor_to_device(id, tensor);
    }

    fn run(&mut self, op: OperationIr) {
        // Backends end ops that fail with a panic; so does this.
        match op {
            OperationIr::Custom(_) => self.custom(op).unwrap_or_else(|why| panic!("{why}")),
            op => {
                if apart(&op) {
                    Fused::empty_queue(&self.device).unwrap_or_else(|why| panic!("{why}"));
                }
                let misread: Vec<TensorIr> = op.outputs().filter(|out| misread(&op, out)).cloned().collect();
                self.queue.register_op(op);
                misread.into_iter().for_each(|out| self.realign(out).unwrap_or_else(|why| panic!("{why}")));
            }
        }
    }

    fn draw(&mut self, op: &RandomOpIr, seed: u64) -> Result<(), String> {
        self.queue.register_tensor_data_id(op.out.id, random::draw(op, seed)?);
        Ok(())
    }

    fn lend(&mut self, tensor: &TensorIr) -> HandleKind<Fused> {
        self.queue.get_tensor(tensor)
    }
}

/// Looks at a device's pools whenever fusion runs a block of operations.
///
/// Between two looks a block makes its outputs and then frees what it drops: what stays of its outputs is
/// added to what was in use before it.
///
/// Each look makes whoever asks wait for the device's thread. What a block leaves is what the next one finds, so that it is looked at
/// once for both, and there not always: see [`Places`].
struct Watcher {
    device: CubeDevice,
    looks: Mutex<Looks>,
    /// Whether a block that makes something ran since the last look.
    stale: AtomicBool,
    most: AtomicU64,
    reserved: AtomicU64,
}

impl Watcher {
    /// Look, and say what is in use.
    fn look(&self, made: u64) -> Option<Bytes> {
        let usage = CubeBackend::usage(&self.device)?;
        let in_use = usage.in_use + Bytes(made);
        self.most.fetch_max(in_use.get(), Ordering::Relaxed);
        self.reserved.fetch_max(usage.reserved.get(), Ordering::Relaxed);
        Some(in_use)
    }

    fn looks(&self) -> MutexGuard<'_, Looks> {
        self.looks.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl FusionObserver for Watcher {
    fn registered(&self, _: &OperationIr) {}

    fn block_starts(&self, block: BlockOperations<'_>) {
        let works = block.iter().filter(|op| !matches!(op, OperationIr::Drop(_) | OperationIr::Init(_))).count();
        // One alone may work in place, and what it reads is still there when it has run.
        let made = if works > 1 { stays(block) } else { 0 };
        if self.stale.swap(works > 0, Ordering::Relaxed) || made > 0 {
            self.looks().pass(|| self.look(made));
        }
    }

    fn block_ran(&self) {}
}

/// Bytes of what a block makes and does not drop again.
fn stays(block: BlockOperations<'_>) -> u64 {
    let dropped: BTreeSet<TensorId> = block
        .iter()
        .flat_map(|op| match op {
            OperationIr::Drop(tensor) => vec![tensor.id],
            op => op.inputs().filter(|t| t.status == burn_ir::TensorStatus::ReadWrite).map(|t| t.id).collect(),
        })
        .collect();
    // What comes from outside is there already.
    let works = block.iter().filter(|op| !matches!(op, OperationIr::Drop(_) | OperationIr::Init(_)));
    let made = works.flat_map(OperationIr::outputs);
    let stays = made.filter(|t| !dropped.contains(&t.id));
    stays.map(|t| (t.shape.num_elements() * t.dtype.size()) as u64).sum()
}

/// What an op alone in the queue takes at the most beyond its inputs; number `given_away` is its to overwrite.
fn takes(bench: &Bench<'_, CubeBackend>, fill: f64, given_away: Option<usize>) -> Result<Bytes, String> {
    let run = || {
        let Laid { tensors, ready, .. } = bench.laid_out(fill, given_away)?;
        let mut filler = Filler::new(bench.device, bench.handlers.clone());
        for (id, tensor) in tensors {
            filler.bind(id, in_queue(tensor)?);
        }
        Fused::empty_queue(bench.device)?;
        let watch = Fused::oversee(bench.device, Places::All).ok_or("the device has no pools")?;
        let before = watch.most().in_use;
        filler.run(ready);
        Fused::empty_queue(bench.device)?;
        Ok(watch.most().in_use.saturating_sub(before))
    };
    quietly(run).unwrap_or_else(|panic| Err(panic_message(&*panic)))
}

/// Watches while it lives.
struct Watch {
    watcher: Arc<Watcher>,
    _observation: FusionObservation,
}

impl Overseer for Watch {
    fn most(&self) -> Usage {
        self.watcher.look(0);
        let most = |bytes: &AtomicU64| Bytes(bytes.load(Ordering::Relaxed));
        Usage { in_use: most(&self.watcher.most), reserved: most(&self.watcher.reserved) }
    }

    fn looks(&self) -> Looks {
        self.watcher.looks().clone()
    }
}

/// Watches what a CubeCL device's pools hold for as long as the result lives, plain Burn's work too; `None` for any other
/// device. Operations that are not [fused](crate::Settings::fusion) are not seen.
pub fn watch(device: &burn::tensor::Device) -> Option<Box<dyn Overseer>> {
    match device.clone().inner().as_dispatch() {
        burn::backend::DispatchDevice::Cube(device) => Fused::oversee(device, Places::All),
        _ => None,
    }
}

impl Target for Fused {
    type Host = <CubeBackend as Target>::Host;
    type Landing = <CubeBackend as Target>::Landing;
    type Fixed = <CubeBackend as Target>::Fixed;
    type Handlers = CustomOpRegistry<CubeBackend>;
    type Interpreter = Filler;

    through_dispatch!();

    fn form(handle: &HandleKind<Self>) -> (Shape, DType) {
        let tensor = tensor(handle);
        (tensor.shape(), tensor.dtype)
    }

    fn device_of(handle: &HandleKind<Self>) -> CubeDevice {
        tensor(handle).device()
    }

    fn look(tensors: &[HandleKind<Self>]) -> Result<Vec<Seen>, String> {
        CubeBackend::look(&all_resolved(tensors)?)
    }

    fn fixed(handle: &HandleKind<Self>) -> Result<Self::Fixed, String> {
        resolved(handle.clone())
    }

    fn at(fixed: &Self::Fixed) -> Result<HandleKind<Self>, String> {
        in_queue(fixed.clone())
    }

    fn load(
        tensor: &HandleKind<Flex>,
        dtype: DType,
        device: &CubeDevice,
        windows: Option<&mut Windows>,
    ) -> Result<Coming<Self>, String> {
        let (handle, landing) = CubeBackend::load(tensor, dtype, device, windows)?;
        Ok((in_queue(handle)?, landing))
    }

    fn load_for_good(tensor: &HandleKind<Flex>, dtype: DType, device: &CubeDevice) -> Result<HandleKind<Self>, String> {
        in_queue(CubeBackend::load_for_good(tensor, dtype, device)?)
    }

    fn to_host(handle: HandleKind<Self>, windows: Option<&mut Windows>) -> Result<Self::Host, String> {
        CubeBackend::to_host(resolved(handle)?, windows)
    }

    fn arrived(host: &mut Self::Host) -> Result<(), String> {
        CubeBackend::arrived(host)
    }

    fn from_host(host: Self::Host, device: &CubeDevice, windows: Option<&mut Windows>) -> Result<Coming<Self>, String> {
        let (handle, landing) = CubeBackend::from_host(host, device, windows)?;
        Ok((in_queue(handle)?, landing))
    }

    fn met(landing: Self::Landing) {
        CubeBackend::met(landing);
    }

    fn sound(handles: &[HandleKind<Self>]) -> Result<(), String> {
        CubeBackend::sound(&all_resolved(handles)?)
    }

    fn link(device: &CubeDevice) -> Option<Link> {
        CubeBackend::link(device)
    }

    fn custom_ops() -> CustomOpRegistry<CubeBackend> {
        CubeBackend::custom_ops()
    }

    /// What an op costs by itself: what it would in a block with others is not known before there is a plan. Fusion makes several
    /// operations of some, which take more memory than the one kernel they are otherwise.
    fn measure(
        device: &CubeDevice,
        handlers: &CustomOpRegistry<CubeBackend>,
        op: &OperationIr,
        layouts: &[&str],
    ) -> Result<OpCost, String> {
        let mut cost = CubeBackend::measure(device, handlers, op, layouts)?;
        if random_op(op).is_some() {
            return Ok(cost);
        }
        let bench = Bench::<CubeBackend> { device, handlers, op, layouts };
        let own: Bytes =
            cost.sizes.iter().zip(&cost.views).filter(|(_, view)| view.is_none()).map(|(&size, _)| size).sum();
        let (fill, all) = match takes(&bench, 0.5, None) {
            Ok(all) => (0.5, all),
            Err(_) => (1.5, takes(&bench, 1.5, None)?),
        };
        let mut workspace = cost.workspace.max(beside(all, own));
        for &(a, b) in &cost.inplace {
            workspace = workspace.max(beside(takes(&bench, fill, Some(a))?, own.saturating_sub(cost.sizes[b])));
        }
        cost.workspace = workspace;
        Ok(cost)
    }

    fn row(
        device: &CubeDevice,
        handlers: &CustomOpRegistry<CubeBackend>,
        ops: &[&OperationIr],
        lead: usize,
        layout: &dyn Fn(TensorId) -> String,
    ) -> Result<Option<Nanos>, String> {
        time_row::<CubeBackend, Self>(device, handlers, ops, lead, layout, &in_queue).map(Some)
    }

    const QUEUES: bool = true;

    fn empty_queue(device: &CubeDevice) -> Result<(), String> {
        get_client::<CubeBackend>(device).try_sync(|| ()).map_err(|e| format!("{e:?}"))
    }

    fn finish(device: &CubeDevice) -> Result<(), String> {
        Self::empty_queue(device)
    }

    fn usage(device: &CubeDevice) -> Option<Usage> {
        CubeBackend::usage(device)
    }

    fn oversee(device: &CubeDevice, places: Places) -> Option<Box<dyn Overseer>> {
        let looks = Mutex::new(Looks::at(places));
        let watcher = Arc::new(Watcher {
            device: device.clone(),
            looks,
            stale: false.into(),
            most: 0.into(),
            reserved: 0.into(),
        });
        Some(Box::new(Watch { _observation: FusionObservation::new(watcher.clone()), watcher }))
    }

    fn describe(device: &CubeDevice) -> String {
        format!("{}, fused", CubeBackend::describe(device))
    }

    const TENSOR_BYTES: Bytes = CubeBackend::TENSOR_BYTES;
    const VIEW_BYTES: Bytes = CubeBackend::VIEW_BYTES;
    const ENTRY_BYTES: Bytes = CubeBackend::ENTRY_BYTES;
}
