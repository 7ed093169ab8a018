//! Steps on a CubeCL device: the same bits as plain Burn's, within the budget by the device's own pools.
//!
//! Any Vulkan device will do; without a GPU that is a software driver (Debian: mesa-vulkan-drivers).
//! Where there is none the tests say so and end: look for "SKIPPED".

mod common;

use burn::tensor::Device;
use common::{Bits, Plain, Planned, alone, settings, small};
use plimsoll::plan::Step;
use plimsoll::zoo;
use plimsoll::{Budget, Bytes};

/// The device, if there is one.
fn device() -> Option<Device> {
    let found = std::panic::catch_unwind(|| Device::wgpu(burn::tensor::DeviceKind::DefaultDevice).autodiff());
    match found {
        Ok(device) => Some(device),
        Err(_) => {
            println!(
                "SKIPPED: no Vulkan device; on Debian `apt-get install mesa-vulkan-drivers` brings a software one"
            );
            None
        }
    }
}

fn assert_same(name: &str, want: &[Bits], got: &[Bits]) {
    for (step, (want, got)) in want.iter().zip(got).enumerate() {
        assert_eq!(want.loss, got.loss, "{name}: loss of step {step}");
        assert_eq!(want.gradients, got.gradients, "{name}: gradients of step {step}");
        assert_eq!(want.state, got.state, "{name}: parameters and statistics after step {step}");
    }
}

#[test]
fn zoo_models_train_identically_on_the_device() {
    let _alone = alone();
    let Some(device) = device() else { return };
    let only = std::env::var("PLIMSOLL_MODELS").unwrap_or_else(|_| "frozen,gpt,resnet,fno,buffers".into());
    for name in only.split(',') {
        let model = small(name);
        let (want, _) = zoo::with_model(name, &model, &device, 7, Plain { steps: 2 }).unwrap();
        for budget in [Budget::Unlimited, Budget::percent(75.0)] {
            let planned = Planned { steps: 2, settings: settings(budget) };
            let (got, measured, plan) = zoo::with_model(name, &model, &device, 7, planned)
                .unwrap()
                .unwrap_or_else(|error| panic!("{name} at {budget}: {error}"));
            for m in &measured {
                println!(
                    "{name} {budget}: planned {} measured {:?} budget {} overhead {:.4}",
                    m.report.planned_peak, m.report.measured_peak, m.report.budget, plan.predicted.overhead
                );
            }
            assert_same(name, &want, &got);
        }
    }
}

#[test]
fn offloaded_activations_come_back_as_they_were() {
    let _alone = alone();
    let Some(device) = device() else { return };
    for name in ["gpt", "resnet", "frozen"] {
        let model = small(name);
        let (want, _) = zoo::with_model(name, &model, &device, 7, Plain { steps: 2 }).unwrap();
        let settings = settings(Budget::percent(75.0)).host_memory(Bytes(1 << 30));
        let (got, measured, plan) = zoo::with_model(name, &model, &device, 7, Planned { steps: 2, settings })
            .unwrap()
            .unwrap_or_else(|error| panic!("{name}: {error}"));
        let moved = plan.steps.iter().filter(|step| matches!(step, Step::Offload(_))).count();
        println!("{name}: {moved} tensors are moved; {:?}", measured[1].report);
        assert!(moved > 0, "{name}: nothing is moved");
        assert_same(name, &want, &got);
    }
}
