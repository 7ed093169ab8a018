//! Random ops that can be run again.
//!
//! Burn's generators are global to the process, so a replayed dropout mask would depend on every
//! other draw, and re-seeding for the replay would change every other draw in turn. Each random
//! op of a step therefore has a generator of its own, seeded from the caller's seed, the step's
//! number and the op: the same step draws the same bits however often the op runs, two steps draw
//! different ones, and nothing else in the process is touched.

use burn_backend::{DType, TensorData};
use burn_ir::{FloatOperationIr, NumericOperationIr, OperationIr, RandomOpIr};
use burn_std::rand::{SeedableRng, StdRng};
use burn_std::{bf16, f16};

use crate::entity::{Entity, OpId};

/// The seed of op `op` in step `step` of a run seeded with `base` (SplitMix64's finalizer over
/// each part in turn).
pub(crate) fn seed_of(base: u64, step: u64, op: OpId) -> u64 {
    [step, op.index() as u64].into_iter().fold(mix(base), |state, part| mix(state.rotate_left(17) ^ part))
}

fn mix(x: u64) -> u64 {
    let x = x.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let x = (x ^ (x >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let x = (x ^ (x >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    x ^ (x >> 31)
}

/// What a random op draws with a given seed.
///
/// # Errors
/// The element type, when no distribution is defined for it.
pub(crate) fn draw(op: &RandomOpIr, seed: u64) -> Result<TensorData, String> {
    let mut rng = StdRng::seed_from_u64(seed);
    let shape = op.out.shape.clone();
    macro_rules! draw {
        ($($dtype:pat => $element:ty),* $(,)?) => {
            match op.out.dtype {
                $($dtype => Ok(TensorData::random::<$element, _, _>(shape, op.distribution, &mut rng)),)*
                other => Err(format!("random tensors of {other:?} are not supported")),
            }
        };
    }
    draw! {
        DType::F64 => f64,
        DType::F32 | DType::Flex32 => f32,
        DType::F16 => f16,
        DType::BF16 => bf16,
        DType::I64 => i64,
        DType::I32 => i32,
        DType::I16 => i16,
        DType::I8 => i8,
        DType::U64 => u64,
        DType::U32 => u32,
        DType::U16 => u16,
        DType::U8 => u8,
    }
}

/// The op as a random one, if it is.
pub fn random_op(op: &OperationIr) -> Option<&RandomOpIr> {
    match op {
        OperationIr::Float(_, FloatOperationIr::Random(random))
        | OperationIr::NumericFloat(_, NumericOperationIr::IntRandom(random))
        | OperationIr::NumericInt(_, NumericOperationIr::IntRandom(random)) => Some(random),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn seeds_differ_by_base_step_and_op() {
        let mut seen = std::collections::BTreeSet::new();
        for base in 0..4 {
            for step in 0..50 {
                for op in 0..50 {
                    assert!(seen.insert(seed_of(base, step, OpId::from_index(op))));
                }
            }
        }
    }
}
