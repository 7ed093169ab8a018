//! Stages on workers: two processes train what one device does, and what happens when one of them ends.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use burn::module::Module;
use burn::optim::AdamWConfig;
use plimsoll::joint::Method;
use plimsoll::zoo::{ZooModel, ZooVisitor};
use plimsoll::{PipelineReport, PipelineSettings};

use super::common::accumulate::one_after_the_other;
use super::common::gradients_of;
use super::*;

fn options(microbatches: usize, schedule: &str) -> PipelineSettings {
    let limit = Duration::from_secs(3);
    PipelineSettings::new(microbatches).schedule(schedule).settings(settings(Budget::Unlimited)).time_limit(limit)
}

/// Two steps over the devices of several workers.
struct Over {
    devices: Vec<Device>,
    options: PipelineSettings,
}

impl ZooVisitor for Over {
    type Output = plimsoll::Result<(Vec<Bits>, Vec<PipelineReport>)>;

    fn visit<M: ZooModel>(
        self,
        _name: &'static str,
        model: M,
        batch: impl Fn(u64, &Device) -> M::Inputs + Send + Sync + 'static,
    ) -> Self::Output {
        let home = self.devices[0].clone().autodiff();
        let model = copy_module(&model, &home)?;
        let model = Rematerialize::pipeline(model, self.devices.clone(), Budget::Unlimited, self.options)?;
        let step = |m: &M, inputs| m.batch_loss(inputs);
        let mut model = model.placed(batch(0, &home), step)?;
        let on = |device: &Device| model.devices().iter().filter(|on| (*on).clone().inner() == device.clone()).count();
        assert!(self.devices.iter().all(|device| on(device) > 0), "a device has no parameter: {:?}", model.devices());
        let mut optim = AdamWConfig::new().init();
        let (mut bits, mut reports) = (Vec::new(), Vec::new());
        for number in 0..2 {
            let step = model.step(batch(number, &home), step)?;
            reports.push(step.pipeline.expect("a pipeline"));
            let (loss, gradients) = (step.loss.into_data(), gradients_of(&model, &step.grads));
            model = optim.step(1e-3, model, step.grads);
            bits.push(Bits { loss, gradients, state: state_of(&model) });
        }
        Ok((bits, reports))
    }
}

#[test]
fn two_processes_train_the_same_bits() {
    let _alone = alone();
    let workers = [Running::start(1), Running::start(1)];
    for (name, schedule) in [("gpt", "1f1b"), ("gpt", "zb-h1"), ("gpt", "interleaved"), ("resnet", "gpipe")] {
        let connected = [workers[0].connect(), workers[1].connect()];
        let devices = connected.iter().map(|worker| worker.devices()[0].clone()).collect();
        let want = one_after_the_other(name, &small(name), 2, vec![0; 4]);
        // Where a busy machine measures messages as dearer than all work, the fastest pipeline leaves a device next to nothing.
        let over = Over { devices, options: options(4, schedule).method(Method::EqualTime) };
        let flex = Device::flex().autodiff();
        let (got, reports) = zoo::with_model(name, &small(name), &flex, 7, over).unwrap().unwrap();
        assert_eq!(want, got, "{name} {schedule}");
        for (d, device) in reports.iter().flat_map(|report| report.devices.iter().enumerate()) {
            let (peak, planned) = (device.measured_peak.unwrap(), device.planned_peak);
            println!("{name} {schedule} d{d}: {planned} planned, {peak} measured, {} busy", device.busy());
            // Kernels' tiles for each thread, messages under way.
            assert!(
                peak.get() <= planned.get() + (8 << 20),
                "{name} {schedule} d{d}: {planned} planned, {peak} measured"
            );
        }
        connected.into_iter().for_each(Worker::close);
    }
}

/// Training that a worker's end interrupts again and again, and that goes on from the last record.
struct Interrupted {
    kills: usize,
    /// After the last.
    steps: usize,
}

/// Numbers in the order of a seed.
fn next(state: &mut u64) -> u64 {
    *state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
    *state >> 33
}

impl ZooVisitor for Interrupted {
    type Output = ();

    fn visit<M: ZooModel>(
        self,
        _name: &'static str,
        fresh: M,
        batch: impl Fn(u64, &Device) -> M::Inputs + Send + Sync + 'static,
    ) {
        let profiles = tempfile::tempdir().unwrap();
        let flex = Device::flex().autodiff();
        let step = |m: &M, inputs| m.batch_loss(inputs);
        let own = || {
            let settings = settings(Budget::Unlimited).profile_directory(Some(profiles.path().to_owned()));
            options(2, "1f1b").method(Method::EqualTime).settings(settings).patience(TIMEOUT)
        };
        let first = Running::start(1);
        let mut record = (fresh.clone().into_record().into_bytes().unwrap(), None);
        let (mut got, mut seed, mut killed) = (Vec::new(), 7, 0);
        let mut done_at = usize::MAX;
        while got.len() < done_at {
            let second = Running::start(1);
            let connected = [first.connect(), second.connect()];
            let devices: Vec<Device> = connected.iter().map(|worker| worker.devices()[0].clone()).collect();
            let home = devices[0].clone().autodiff();
            let saved = burn::store::ModuleRecord::from_bytes(record.0.clone()).unwrap();
            let model = copy_module(&fresh.clone().load_record(saved), &home).unwrap();
            let model = Rematerialize::pipeline(model, devices, Budget::Unlimited, own()).unwrap();
            let mut model = model.placed(batch(0, &home), step).unwrap();
            let mut optim = AdamWConfig::new().init();
            if let Some(saved) = record.1.clone() {
                optim = optim.from_bytes(saved).unwrap();
            }
            // The end comes at some moment of the next steps, in a thread of its own.
            let after = Duration::from_micros(next(&mut seed) % 1_500_000);
            let dead = Arc::new(AtomicBool::new(false));
            let (told, process) = (dead.clone(), second.process.id());
            let last = killed == self.kills;
            if last {
                done_at = got.len() + self.steps;
            }
            let killer = std::thread::spawn(move || {
                if !last {
                    std::thread::sleep(after);
                    told.store(true, Ordering::SeqCst);
                    let sent = Command::new("kill").args(["-KILL", &process.to_string()]).status();
                    assert!(sent.unwrap().success());
                }
            });
            loop {
                let number = got.len();
                if number == done_at {
                    break;
                }
                let start = Instant::now();
                let done = match model.step(batch(number as u64, &home), step) {
                    Ok(done) => done,
                    Err(error) => {
                        assert!(
                            dead.load(Ordering::SeqCst) && start.elapsed() < LONG,
                            "{:?}: {error}",
                            start.elapsed()
                        );
                        assert!(matches!(error, Error::Worker { .. } | Error::Execution { .. }), "{error:?}");
                        break;
                    }
                };
                // Saving reads from both workers; what cannot be read any more is no record, and the step does not count.
                let after = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
                    let loss = done.loss.try_into_data().ok()?;
                    let model = optim.step(1e-3, model.clone(), done.grads);
                    let here = copy_module(model.module(), &flex).ok()?;
                    let bytes = here.into_record().into_bytes().ok()?;
                    Some((loss, model, bytes, optim.into_bytes().ok()?))
                }));
                let Ok(Some((loss, next, bytes, state))) = after else {
                    assert!(dead.load(Ordering::SeqCst) && start.elapsed() < LONG, "{:?}", start.elapsed());
                    break;
                };
                record = (bytes, Some(state));
                got.push(loss);
                model = next;
            }
            killer.join().unwrap();
            killed += usize::from(!last);
            connected.into_iter().for_each(Worker::close);
        }
        // What it comes to when nothing goes wrong.
        let devices = vec![Device::flex(); 2];
        let mut model = Rematerialize::pipeline(fresh, devices, Budget::Unlimited, own()).unwrap();
        let mut optim = AdamWConfig::new().init();
        for (number, got) in got.iter().enumerate() {
            let done = model.step(batch(number as u64, &flex), step).unwrap();
            assert_eq!(*got, done.loss.into_data(), "step {number} of {}", self.steps);
            model = optim.step(1e-3, model, done.grads);
        }
        println!("{killed} ends of a worker in {} steps", got.len());
        assert_eq!(killed, self.kills);
        assert!(got.len() > self.steps, "no step came between two ends");
    }
}

/// A worker killed at some moment of training, twenty times: each time an error within ten seconds, and from the last record on
/// the losses that there would have been.
#[test]
fn training_goes_on_after_a_worker_is_killed() {
    let _alone = alone();
    let model = zoo::Settings::tiny("gpt").unwrap().set("batch", 4);
    let interrupted = Interrupted { kills: 20, steps: 3 };
    zoo::with_model("gpt", &model, &Device::flex().autodiff(), 7, interrupted).unwrap();
}

/// The other device waits for a worker that does not go on.
#[test]
fn a_worker_that_stops_in_a_step_is_told() {
    let _alone = alone();
    let workers = [Running::start(1), Running::start(1)];
    let connected = [workers[0].connect(), workers[1].connect()];
    let devices: Vec<Device> = connected.iter().map(|worker| worker.devices()[0].clone()).collect();
    let home = devices[0].clone().autodiff();
    let model: Vec<Linear> = (0..4).map(|_| LinearConfig::new(64, 64).init(&home)).collect();
    let step = |layers: &Vec<Linear>, x: Tensor<2>| {
        layers.iter().fold(x, |x, layer| layer.forward(x).tanh()).powi_scalar(2).mean()
    };
    let own = options(2, "1f1b").patience(TIMEOUT);
    let model = Rematerialize::pipeline(model, devices, Budget::Unlimited, own).unwrap();
    let x = || Tensor::<2>::from_data(ramp(8, 64), &home);
    model.step(x(), step).unwrap();
    workers[1].signal("STOP");
    let start = Instant::now();
    let error = model.step(x(), step).unwrap_err();
    assert!(start.elapsed() < LONG, "{:?}: {error}", start.elapsed());
    assert!(matches!(error, Error::Worker { .. } | Error::Execution { .. }), "{error:?}");
    workers[1].signal("CONT");
}
