//! What a worker does for plimsoll beside what Burn's server does: it says how tensors lie, draws random
//! numbers, and measures ops. Custom operations, because these see a session's tensors and stand in its order.

use burn_backend::ops::IntTensorOps;
use burn_backend::{TensorData, distribution::Distribution};
use burn_flex::{Flex, FlexDevice};
use burn_ir::{BackendIr, CustomOpIr, HandleContainer, HandleKind, OperationIr, RandomOpIr, ScalarIr, TensorIr};
use burn_router::CustomOpRegistry;

use crate::cost::OpCost;
use crate::runtime::random;
use crate::runtime::target::{Local, Target, parse_layout};

type Handles = HandleContainer<<Flex as BackendIr>::Handle>;

/// Says how its inputs lie: for each an offset, the bytes of its buffer, and its strides.
pub const LOOK: &str = "plimsoll.look";
/// Draws its output.
pub const DRAW: &str = "plimsoll.draw";

/// Burn's own custom operations and plimsoll's.
pub fn custom_ops() -> CustomOpRegistry<Flex> {
    let mut registry = <Flex as Target>::custom_ops();
    registry.register(LOOK, look);
    registry.register(DRAW, draw);
    registry
}

/// What an op costs here.
pub fn measure(op: &OperationIr, layouts: &[String]) -> Result<OpCost, String> {
    // Not two at once, nor while it waits for a processor that the other has.
    static ONE: std::sync::Mutex<()> = std::sync::Mutex::new(());
    let _one = ONE.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
    let layouts: Vec<&str> = layouts.iter().map(String::as_str).collect();
    if layouts.len() != op.inputs().count() {
        return Err("there is not a layout for every input".into());
    }
    Flex::measure(&FlexDevice, &custom_ops(), op, &layouts)
}

/// How many numbers [`LOOK`] says of these tensors.
pub fn looked<'a>(tensors: impl Iterator<Item = &'a TensorIr>) -> usize {
    tensors.map(|t| 2 + t.shape.num_dims()).sum()
}

fn look(handles: &mut Handles, op: &CustomOpIr, device: &FlexDevice) {
    let mut said: Vec<i64> = Vec::with_capacity(looked(op.inputs.iter()));
    for input in &op.inputs {
        let handle = handles.get_tensor_handle(input).handle;
        match Flex::layout(&handle).as_deref().and_then(parse_layout) {
            Some((strides, offset, buffer)) => {
                said.extend([offset as i64, buffer as i64]);
                said.extend(strides.iter().map(|&s| s as i64));
            }
            // No buffer has fewer bytes than none.
            None => said.extend([0, -1].into_iter().chain(std::iter::repeat_n(0, input.shape.num_dims()))),
        }
    }
    let count = said.len();
    let tensor = Flex::int_from_data(TensorData::new(said, [count]), device);
    handles.register_int_tensor::<Flex>(&op.outputs[0].id, tensor);
}

/// What [`LOOK`] said of tensors, as layouts.
pub fn layouts<'a>(said: &[i64], tensors: impl Iterator<Item = &'a TensorIr>) -> Option<Vec<Option<String>>> {
    let mut rest = said;
    let mut layouts = Vec::new();
    for tensor in tensors {
        let (row, after) = rest.split_at_checked(2 + tensor.shape.num_dims())?;
        rest = after;
        let strides: Vec<String> = row[2..].iter().map(ToString::to_string).collect();
        layouts.push((row[1] >= 0).then(|| format!("{}@{}/{}", strides.join(","), row[0], row[1])));
    }
    rest.is_empty().then_some(layouts)
}

/// The scalars that say what [`DRAW`] draws.
pub fn to_draw(op: &RandomOpIr, seed: u64) -> Vec<ScalarIr> {
    let (kind, a, b) = match op.distribution {
        Distribution::Default => (0, 0.0, 0.0),
        Distribution::Bernoulli(p) => (1, p, 0.0),
        Distribution::Uniform(low, high) => (2, low, high),
        Distribution::Normal(mean, deviation) => (3, mean, deviation),
    };
    vec![ScalarIr::UInt(seed), ScalarIr::UInt(kind), ScalarIr::Float(a), ScalarIr::Float(b)]
}

fn draw(handles: &mut Handles, op: &CustomOpIr, device: &FlexDevice) {
    let [ScalarIr::UInt(seed), ScalarIr::UInt(kind), ScalarIr::Float(a), ScalarIr::Float(b)] = op.scalars[..] else {
        panic!("a random op with other scalars than its own");
    };
    let distribution = match kind {
        0 => Distribution::Default,
        1 => Distribution::Bernoulli(a),
        2 => Distribution::Uniform(a, b),
        3 => Distribution::Normal(a, b),
        _ => panic!("an unknown distribution"),
    };
    let random = RandomOpIr { out: op.outputs[0].clone(), distribution };
    let data = random::draw(&random, seed).unwrap_or_else(|why| panic!("{why}"));
    match Flex::of_data(data, device) {
        HandleKind::Float(t) => handles.register_float_tensor::<Flex>(&op.outputs[0].id, t),
        HandleKind::Int(t) => handles.register_int_tensor::<Flex>(&op.outputs[0].id, t),
        HandleKind::Bool(t) => handles.register_bool_tensor::<Flex>(&op.outputs[0].id, t),
        HandleKind::Quantized(_) => panic!("a random op of quantized numbers"),
    }
}
