//! Forward runs under a budget: the same bits as the plain model's, within the bytes given.

mod common;

use burn::tensor::{Device, TensorData};
use common::{SLACK, alone, settings, small};
use plimsoll::zoo::{self, ZooModel, ZooVisitor};
use plimsoll::{Budget, Error, Rematerialize, StepReport};

#[global_allocator]
static ALLOCATOR: plimsoll::alloc::Counting = plimsoll::alloc::Counting;

struct Compare;

impl ZooVisitor for Compare {
    type Output = Vec<StepReport>;

    fn visit<M: ZooModel>(
        self,
        name: &'static str,
        model: M,
        batch: impl Fn(u64, &Device) -> M::Inputs + Send + Sync + 'static,
    ) -> Self::Output {
        let device = model.devices()[0].clone();
        let plain_device = device.clone().inner();
        let plain = |n: u64| -> TensorData { model.valid().batch_loss(batch(n, &plain_device)).into_data() };
        let want = [plain(0), plain(1)];
        let mut reports = Vec::new();
        // Measured once: workspace varies from measurement to measurement.
        let profiles = tempfile::tempdir().unwrap();
        let mut run = |budget: Budget, device: &Device| -> plimsoll::Result<()> {
            let settings = settings(budget).profile_directory(Some(profiles.path().to_owned()));
            let wrapped = Rematerialize::with_settings(model.clone(), settings);
            for (n, want) in want.iter().enumerate() {
                let done = wrapped.infer(batch(n as u64, device), |m: &M, inputs| m.batch_loss(inputs))?;
                assert_eq!(&done.output.into_data(), want, "{name} at {budget}");
                reports.push(done.report);
            }
            Ok(())
        };
        run(Budget::Unlimited, &plain_device).unwrap();
        // Inputs that come from a training loop are as good.
        run(Budget::Unlimited, &device).unwrap();
        let Err(Error::Infeasible { minimum: Some(minimum), .. }) = run(Budget::bytes(1), &plain_device) else {
            panic!("{name}: one byte is not enough");
        };
        run(Budget::bytes(minimum.get()), &plain_device).unwrap_or_else(|error| panic!("{name}: {error}"));
        reports
    }
}

#[test]
fn every_zoo_model_infers_identically_in_the_least_memory() {
    let _alone = alone();
    let device = Device::flex().autodiff();
    for spec in zoo::models() {
        let reports = zoo::with_model(spec.name, &small(spec.name), &device, 7, Compare).unwrap();
        assert_eq!(reports.len(), 6);
        for report in &reports {
            let measured = report.measured_peak.unwrap().get();
            assert!(measured <= report.planned_peak.get() + SLACK, "{}: {report:?}", spec.name);
            assert!(measured <= report.budget.get().saturating_add(SLACK), "{}: {report:?}", spec.name);
        }
        println!("{:10} {} at least, {} else", spec.name, reports[4].planned_peak, reports[0].planned_peak);
    }
}

#[test]
fn inferring_does_not_disturb_training() {
    let _alone = alone();
    let device = Device::flex().autodiff();
    let config = zoo::gpt::GptConfig::tiny().dropout(0.5);
    let losses = |infer: bool| -> Vec<TensorData> {
        let model = zoo::Configured::seeded(&config, &device, 0);
        let model = Rematerialize::with_settings(model, settings(Budget::Unlimited));
        (0..3)
            .map(|_| {
                if infer {
                    let done = model.infer(config.data(0, &device), |m: &zoo::gpt::Gpt, (x, y)| m.loss(x, y)).unwrap();
                    assert!(!done.output.is_autodiff());
                }
                let step = model.step(config.data(0, &device), |m: &zoo::gpt::Gpt, (x, y)| m.loss(x, y)).unwrap();
                step.loss.into_data()
            })
            .collect()
    };
    assert_eq!(losses(false), losses(true));
}

#[test]
fn a_module_without_autodiff_infers() {
    let _alone = alone();
    let device = Device::flex();
    let model = burn::nn::LinearConfig::new(8, 4).init(&device);
    let x = burn::tensor::Tensor::<2>::ones([3, 8], &device);
    let want = model.forward(x.clone()).into_data();
    let model = Rematerialize::with_settings(model, settings(Budget::Unlimited));
    let done = model.infer(x.clone(), |m: &burn::nn::Linear, x| m.forward(x)).unwrap();
    assert_eq!(done.output.into_data(), want);
    let error = model.step(x, |m: &burn::nn::Linear, x| m.forward(x).mean()).unwrap_err();
    assert!(error.to_string().contains("not on an autodiff device"), "{error}");
}

#[test]
fn what_cannot_be_inferred_is_a_clear_error() {
    let _alone = alone();
    let device = Device::flex();
    let x = || burn::tensor::Tensor::<2>::ones([3, 8], &device);
    let model = burn::nn::LinearConfig::new(8, 4).init(&device);
    let model = Rematerialize::with_settings(model, settings(Budget::Unlimited));
    let refused = |result: plimsoll::Result<plimsoll::Inferred<burn::tensor::Tensor<2>>>| match result.unwrap_err() {
        Error::Trace { why, .. } => why,
        other => panic!("{other:?}"),
    };
    let panicked = model.infer(x(), |_: &burn::nn::Linear, _| panic!("no forward today"));
    assert!(refused(panicked).contains("no forward today"));
    let read = model.infer(x(), |m: &burn::nn::Linear, x| {
        let largest = m.forward(x.clone()).max().into_scalar::<f32>();
        m.forward(x).mul_scalar(largest)
    });
    assert!(refused(read).contains("reads a computed value back"));
    let outside = x();
    let foreign = model.infer(x(), move |_: &burn::nn::Linear, _| outside.clone());
    assert!(refused(foreign).contains("does not come from the traced step"));
    let done = model.infer(x(), |m: &burn::nn::Linear, x| m.forward(x)).unwrap();
    assert_eq!(done.output.into_data(), model.forward(x()).into_data());

    let error = zoo::device("abacus").unwrap_err();
    assert!(error.to_string().contains("flex"), "{error}");
}
