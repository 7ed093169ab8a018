//! Burn's remote backend as one that steps run on.
//!
//! Operations are sent as the plan has them, with the statuses the plan sets, so that the worker's backend
//! works in place, makes views and frees exactly where it would if it were this process's. What an op
//! costs and how its results lie is measured on the worker, by the worker. A step waits once before it
//! begins, for how its tensors lie, and once at its end.

use std::collections::BTreeMap;

use burn::tensor::{Bool, Int, Tensor};
use burn_backend::ops::{BoolTensorOps, FloatTensorOps, IntTensorOps, QTensorOps};
use burn_backend::{Backend, DType, Shape, TensorData, TensorMetadata};
use burn_flex::Flex;
use burn_ir::{CustomOpIr, HandleKind, OperationIr, RandomOpIr, TensorId, TensorIr, TensorStatus};
use burn_remote::{RemoteChannel, RemoteDevice, RouterClient};
use burn_router::{BackendRouter, RouterChannel, RouterTensor, get_client};
use burn_std::reader::try_read_sync;

use super::hosted::{self, DRAW, LOOK};
use super::link::Link;
use super::wire::{Answer, Question};
use crate::cost::{Link as HostLink, OpCost};
use crate::error::Error;
use crate::graph::trace::SetIr;
#[cfg(feature = "fusion")]
use crate::runtime::fused::through_queue as through_remote_dispatch;
#[cfg(not(feature = "fusion"))]
use crate::runtime::target::through_dispatch as through_remote_dispatch;
use crate::runtime::target::{
    Coming, Interpreter, Seen, Target, Usage, axes_in_memory, handle_of, parse_layout, undone,
};
use crate::runtime::timing::Windows;
use crate::units::Bytes;

/// Burn's remote backend without the queue that its feature `fusion` puts before it.
pub type Router = BackendRouter<RemoteChannel>;

type Client = <RemoteChannel as RouterChannel>::Client;
type Remote = RouterTensor<Client>;

fn tensor(handle: &HandleKind<Router>) -> &Remote {
    match handle {
        HandleKind::Float(t) | HandleKind::Int(t) | HandleKind::Bool(t) | HandleKind::Quantized(t) => t,
    }
}

fn into_tensor(handle: HandleKind<Router>) -> Remote {
    match handle {
        HandleKind::Float(t) | HandleKind::Int(t) | HandleKind::Bool(t) | HandleKind::Quantized(t) => t,
    }
}

fn not_ours() -> String {
    "it is on a device of a server that is no worker of plimsoll's: see `plimsoll::remote::connect`".into()
}

/// Sends a step's operations to the worker, and knows its tensors there by the program's ids.
pub struct Sender {
    client: Client,
    held: BTreeMap<TensorId, Remote>,
}

impl Sender {
    /// A tensor that is to be there once what was sent is done.
    fn made(&self, ir: &TensorIr) -> Remote {
        RouterTensor::new(self.client.create_empty_handle(), ir.shape.clone(), ir.dtype, self.client.clone())
    }
}

impl Interpreter<Router> for Sender {
    fn new(device: &RemoteDevice, (): ()) -> Self {
        Self { client: get_client::<RemoteChannel>(device), held: BTreeMap::new() }
    }

    fn bind(&mut self, id: TensorId, tensor: HandleKind<Router>) {
        self.held.insert(id, into_tensor(tensor));
    }

    fn run(&mut self, mut op: OperationIr) {
        if let OperationIr::Drop(tensor) = &op {
            self.held.remove(&tensor.id);
            return;
        }
        // The program's ids, and the tensors as they are called on the worker.
        let mut sent: BTreeMap<TensorId, TensorIr> = BTreeMap::new();
        let mut after: Vec<Remote> = Vec::new();
        let inputs: Vec<(TensorId, TensorStatus)> = op.inputs().map(|t| (t.id, t.status)).collect();
        for &(id, status) in &inputs {
            if sent.contains_key(&id) {
                continue;
            }
            let alone = inputs.iter().filter(|t| t.0 == id).count() == 1;
            let held = match status {
                // What the op reads twice is dropped once it has.
                TensorStatus::ReadWrite if !alone => {
                    let held = self.held.remove(&id);
                    after.extend(held.clone());
                    held
                }
                TensorStatus::ReadWrite => self.held.remove(&id),
                _ => self.held.get(&id).cloned(),
            };
            // The only holder gives the tensor away: Burn's own count says which.
            sent.insert(id, held.unwrap_or_else(|| panic!("an input of the op is gone")).into_ir());
        }
        let mut made: Vec<(TensorId, Remote)> = Vec::new();
        for output in op.outputs() {
            let remote = self.made(output);
            let ir = TensorIr { id: remote.id(), ..TensorIr::uninit(remote.id(), output.shape.clone(), output.dtype) };
            sent.insert(output.id, ir);
            made.push((output.id, remote));
        }
        op.visit_mut(&mut SetIr(|t: &TensorIr| sent.get(&t.id).map(|ir| (ir.id, ir.status))));
        self.client.register_op(op);
        self.held.extend(made);
    }

    fn draw(&mut self, op: &RandomOpIr, seed: u64) -> Result<(), String> {
        let remote = self.made(&op.out);
        let out = TensorIr::uninit(remote.id(), op.out.shape.clone(), op.out.dtype);
        let scalars = hosted::to_draw(op, seed);
        let op_there = CustomOpIr { id: DRAW.to_owned(), inputs: Vec::new(), outputs: vec![out], scalars };
        self.client.register_op(OperationIr::Custom(op_there));
        self.held.insert(op.out.id, remote);
        Ok(())
    }

    fn lend(&mut self, tensor: &TensorIr) -> HandleKind<Router> {
        let held = self.held.get(&tensor.id).unwrap_or_else(|| panic!("a tensor asked for is gone")).clone();
        handle_of!(tensor.dtype, held)
    }
}

/// Data of a tensor, waited for.
fn read(handle: HandleKind<Router>) -> Result<TensorData, String> {
    let data = match handle {
        HandleKind::Float(t) => try_read_sync(Router::float_into_data(t)),
        HandleKind::Int(t) => try_read_sync(Router::int_into_data(t)),
        HandleKind::Bool(t) => try_read_sync(Router::bool_into_data(t)),
        HandleKind::Quantized(t) => try_read_sync(Router::q_into_data(t)),
    };
    data.ok_or("this platform cannot wait for a device")?.map_err(|e| e.to_string())
}

/// What a tensor held, its axes in the order that they had in memory; none where that is their own.
pub struct Read {
    data: TensorData,
    axes: Option<Vec<usize>>,
}

fn permuted(handle: HandleKind<Router>, axes: &[usize]) -> HandleKind<Router> {
    match handle {
        HandleKind::Float(t) => HandleKind::Float(Router::float_permute(t, axes)),
        HandleKind::Int(t) => HandleKind::Int(Router::int_permute(t, axes)),
        HandleKind::Bool(t) => HandleKind::Bool(Router::bool_permute(t, axes)),
        HandleKind::Quantized(t) => HandleKind::Quantized(Router::q_permute(t, axes)),
    }
}

impl Target for Router {
    type Host = Read;
    type Landing = std::convert::Infallible;
    type Fixed = std::convert::Infallible;
    // The worker's are there.
    type Handlers = ();
    type Interpreter = Sender;

    through_remote_dispatch!();

    fn form(handle: &HandleKind<Self>) -> (Shape, DType) {
        let tensor = tensor(handle);
        (tensor.shape(), tensor.dtype())
    }

    fn device_of(handle: &HandleKind<Self>) -> RemoteDevice {
        tensor(handle).device()
    }

    /// Who else holds a buffer is not told: inputs stay the caller's for the whole step.
    fn look(tensors: &[HandleKind<Self>]) -> Result<Vec<Seen>, String> {
        let Some(first) = tensors.first().map(tensor) else { return Ok(Vec::new()) };
        let device = first.device();
        Link::of(&device).ok_or_else(not_ours)?;
        if tensors.iter().any(|t| tensor(t).device() != device) {
            return Err("the tensors are on several devices: move them to one".into());
        }
        let inputs: Vec<TensorIr> = tensors
            .iter()
            .map(tensor)
            .map(|t| TensorIr { status: TensorStatus::ReadOnly, ..TensorIr::uninit(t.id(), t.shape(), t.dtype()) })
            .collect();
        let client = &first.client;
        let said = Shape::new([hosted::looked(inputs.iter())]);
        let out = RouterTensor::new(client.create_empty_handle(), said.clone(), DType::I64, client.clone());
        let outputs = vec![TensorIr::uninit(out.id(), said, DType::I64)];
        let op = CustomOpIr { id: LOOK.to_owned(), inputs: inputs.clone(), outputs, scalars: Vec::new() };
        client.register_op(OperationIr::Custom(op));
        let said = read(HandleKind::Int(out))?;
        let said = said.as_slice::<i64>().map_err(|e| format!("{e:?}"))?;
        let layouts = hosted::layouts(said, inputs.iter()).ok_or("the worker does not say how its tensors lie")?;
        Ok(layouts.into_iter().map(|layout| Seen { layout, holders: None }).collect())
    }

    fn to_host(handle: HandleKind<Self>, _: Option<&mut Windows>) -> Result<Read, String> {
        let seen = match Self::form(&handle).0.num_dims() {
            0 | 1 => None,
            _ => Self::look(std::slice::from_ref(&handle))?.pop().and_then(|seen| seen.layout),
        };
        let axes = seen.as_deref().and_then(parse_layout).map(|(strides, ..)| axes_in_memory(strides));
        let axes = axes.filter(|axes| !axes.is_sorted());
        let data = read(axes.iter().fold(handle, |handle, axes| permuted(handle, axes)))?;
        Ok(Read { data, axes })
    }

    fn from_host(host: Read, device: &RemoteDevice, _: Option<&mut Windows>) -> Result<Coming<Self>, String> {
        let handle = Self::of_data(host.data, device);
        Ok((host.axes.iter().fold(handle, |handle, axes| permuted(handle, &undone(axes))), None))
    }

    /// Tensors lie in the worker's host memory; this process's is on the other side of a network.
    fn link(_: &RemoteDevice) -> Option<HostLink> {
        None
    }

    fn custom_ops() {}

    fn measure(device: &RemoteDevice, (): &(), op: &OperationIr, layouts: &[&str]) -> Result<OpCost, String> {
        let link = Link::of(device).ok_or_else(not_ours)?;
        let layouts = layouts.iter().map(|&layout| layout.to_owned()).collect();
        match link.ask(&Question::Measure(Box::new(op.clone()), layouts)).map_err(|e| e.to_string())? {
            Answer::Cost(cost) => cost,
            Answer::Held(_) => Err("the worker answers another question".into()),
        }
    }

    fn finish(device: &RemoteDevice) -> Result<(), String> {
        Self::sync(device).map_err(|e| e.to_string())
    }

    fn lost(device: &RemoteDevice) -> Option<Error> {
        let link = Link::of(device)?;
        link.gone().or_else(|| Self::sync(device).is_err().then(|| link.after_break()))
    }

    fn usage(_: &RemoteDevice) -> Option<Usage> {
        None
    }

    fn watch(device: &RemoteDevice) -> Option<Bytes> {
        held(device, &Question::Watch)
    }

    fn watched(device: &RemoteDevice) -> Option<Bytes> {
        held(device, &Question::Watched)
    }

    fn threads(device: &RemoteDevice) -> usize {
        Link::of(device).map_or(1, |link| link.about.threads)
    }

    fn describe(device: &RemoteDevice) -> String {
        Link::of(device).map_or_else(not_ours, |link| format!("worker with {}", link.about.description))
    }

    const TENSOR_BYTES: Bytes = Flex::TENSOR_BYTES;
    const VIEW_BYTES: Bytes = Flex::VIEW_BYTES;
    const ENTRY_BYTES: Bytes = Flex::ENTRY_BYTES;
}

fn held(device: &RemoteDevice, question: &Question) -> Option<Bytes> {
    match Link::of(device)?.ask(question) {
        Ok(Answer::Held(held)) => held,
        _ => None,
    }
}
