//! Steps on a CubeCL device: the same bits as plain Burn's, within the budget by the device's own pools.
//!
//! Any Vulkan device will do; without a GPU that is a software driver (Debian: mesa-vulkan-drivers).
//! Where there is none the tests say so and end: look for "SKIPPED".

mod common;

use burn::tensor::Device;
use common::{Bits, Plain, Planned, alone, settings, small};
use plimsoll::plan::Step;
use plimsoll::zoo::{self, ZooModel, ZooVisitor};
use plimsoll::{Budget, Bytes, Rematerialize};

/// Padding of buffers that no plan knows of.
const PADDING: Bytes = Bytes(1024);

/// The device, if there is one.
fn device() -> Option<Device> {
    let found = zoo::device("wgpu");
    if let Err(error) = &found {
        println!("SKIPPED: {error}");
    }
    found.ok().map(Device::autodiff)
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
                let peak = m.report.measured_peak.unwrap();
                assert!(peak <= m.report.planned_peak + PADDING && peak <= m.report.budget, "{name}: {:?}", m.report);
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
        for m in &measured {
            let peak = m.report.measured_peak.unwrap();
            assert!(peak <= m.report.budget, "{name}: {:?}", m.report);
        }
        assert!(moved > 0, "{name}: nothing is moved");
        assert_same(name, &want, &got);
    }
}

/// The pools hold no more after many steps than after a few.
#[test]
fn reserved_memory_does_not_creep() {
    let _alone = alone();
    let Some(device) = device() else { return };
    let plan = settings(Budget::percent(75.0));
    let (_, measured, _) =
        zoo::with_model("frozen", &small("frozen"), &device, 7, Planned { steps: 500, settings: plan })
            .unwrap()
            .unwrap();
    let reserved: Vec<Bytes> = measured.iter().map(|m| m.report.reserved.unwrap()).collect();
    let after = |steps: usize| reserved[steps - 1];
    println!("reserved after {:?}", [1, 10, 50, 100, 200, 300, 400, 500].map(|n| (n, after(n))));
    assert_eq!(after(500), after(250));
}

#[test]
fn forward_runs_are_the_same_on_the_device() {
    struct Infer;
    impl ZooVisitor for Infer {
        type Output = ();
        fn visit<M: ZooModel>(
            self,
            name: &'static str,
            model: M,
            batch: impl Fn(u64, &Device) -> M::Inputs + Send + Sync + 'static,
        ) {
            let plain = model.devices()[0].clone().inner();
            let want = model.valid().batch_loss(batch(0, &plain)).into_data();
            let wrapped = Rematerialize::with_settings(model, settings(Budget::Unlimited));
            let done = wrapped.infer(batch(0, &plain), |m: &M, inputs| m.batch_loss(inputs)).unwrap();
            assert_eq!(done.output.into_data(), want, "{name}");
            assert!(done.report.measured_peak.unwrap() <= done.report.planned_peak + PADDING, "{name}");
        }
    }
    let _alone = alone();
    let Some(device) = device() else { return };
    for name in ["frozen", "gpt"] {
        zoo::with_model(name, &small(name), &device, 7, Infer).unwrap();
    }
}
