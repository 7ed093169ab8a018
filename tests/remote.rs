//! Devices of other processes: workers on this machine, started by the tests.

mod common;
#[path = "remote/stages.rs"]
mod stages;

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Barrier};
use std::time::{Duration, Instant};

use burn::nn::{Embedding, EmbeddingConfig, Linear, LinearConfig};
use burn::tensor::{Device, Int, Tensor, TensorData};
use common::{Bits, Planned, alone, settings, small, state_of};
use plimsoll::remote::{self, Worker, connect, copy, copy_module};
use plimsoll::zoo;
use plimsoll::{Budget, Error, Rematerialize};

const TOKEN: &str = "a token of a test, long enough";
const TIMEOUT: Duration = Duration::from_secs(5);
/// No error may take longer.
const LONG: Duration = Duration::from_secs(10);

/// Kernels choose by how their inputs lie how they add up: a copy must lie as the original does for results to have the same bits.
#[test]
fn a_copy_on_another_worker_lies_as_the_original_does() {
    use plimsoll::remote::Router;
    use plimsoll::runtime::Target;
    let _alone = alone();
    let workers = [Running::start(1), Running::start(1)];
    let connected = [workers[0].connect(), workers[1].connect()];
    let [from, to] = [0, 1].map(|w| connected[w].devices()[0].clone());
    let plain = Tensor::<1, Int>::arange(0..120, &from).reshape([2, 3, 4, 5]).float();
    let there = Router::device_of(&Router::float_in(Tensor::<1>::zeros([1], &to)).unwrap());
    let (forward, swapped) = (plain.clone(), plain.clone().swap_dims(2, 3));
    let part = plain.clone().permute([3, 0, 2, 1]).slice([1..4, 0..2, 0..4, 1..3]);
    // Of strides and offset; a part comes in a buffer of its own size.
    for (tensor, lies) in [(forward, ""), (swapped, "60,20,1,5@0/480"), (part, "1,24,3,12@0/192")] {
        let want = tensor.clone().into_data();
        let copy = Router::transfer(&Router::float_in(tensor).unwrap(), &there).unwrap();
        let seen = Router::look(std::slice::from_ref(&copy)).unwrap();
        assert_eq!(seen[0].layout.as_deref().unwrap_or_default(), lies);
        assert_eq!(Router::float_out::<4>(copy).unwrap().into_data(), want);
    }
    connected.into_iter().for_each(Worker::close);
}

/// A worker process, ended with the test.
struct Running {
    process: Child,
    address: String,
}

impl Running {
    fn start(devices: usize) -> Self {
        let mut process = Command::new(env!("CARGO_BIN_EXE_plimsoll"))
            .args(["worker", "--listen", "127.0.0.1:0", "--token-env", "TOKEN_OF_A_TEST"])
            .args(["--devices", &devices.to_string()])
            .env("TOKEN_OF_A_TEST", TOKEN)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let mut line = String::new();
        BufReader::new(process.stdout.take().unwrap()).read_line(&mut line).unwrap();
        let address = line.split_whitespace().last().unwrap().to_owned();
        assert!(line.starts_with(&format!("serving {devices} device")), "{line}");
        Self { process, address }
    }

    fn connect(&self) -> Worker {
        connect(&self.address, TOKEN, TIMEOUT).unwrap()
    }

    fn signal(&self, name: &str) {
        let sent = Command::new("kill").args([format!("-{name}"), self.process.id().to_string()]).status();
        assert!(sent.unwrap().success());
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

fn device(worker: &Worker, index: usize) -> Device {
    worker.devices()[index].clone().autodiff()
}

/// Why a worker will not do, and that it was said in time.
fn why<T: std::fmt::Debug>(limit: Duration, call: impl FnOnce() -> plimsoll::Result<T>) -> String {
    let start = Instant::now();
    let error = call().unwrap_err();
    assert!(start.elapsed() < limit, "{:?}: {error}", start.elapsed());
    match error {
        Error::Worker { why, .. } => why,
        other => panic!("another error: {other}"),
    }
}

fn train(
    name: &str,
    model: &zoo::Settings,
    device: &Device,
    budget: Budget,
) -> (Vec<Bits>, Vec<common::Measured>, plimsoll::plan::Plan) {
    let planned = Planned { steps: 3, settings: settings(budget) };
    zoo::with_model(name, model, device, 7, planned).unwrap().unwrap_or_else(|e| panic!("{name} at {budget}: {e}"))
}

#[test]
fn a_worker_trains_the_same_bits_within_the_budget() {
    let _alone = alone();
    let worker = Running::start(1);
    let connected = worker.connect();
    assert!(connected.description().starts_with("flex"), "{}", connected.description());
    // One that draws masks, one with running statistics.
    for (name, model, tight) in [("gpt", small("gpt").set("dropout", 0.1), 60.0), ("buffers", small("buffers"), 75.0)] {
        let (want, here, _) = train(name, &model, &Device::flex().autodiff(), Budget::Unlimited);
        let here: Vec<Duration> = here.iter().map(|m| m.report.ran).collect();
        for budget in [Budget::Unlimited, Budget::percent(tight)] {
            let (got, measured, plan) = train(name, &model, &device(&connected, 0), budget);
            assert_eq!(want, got, "{name} at {budget}");
            let repeated = plan.predicted.overhead > 0.0;
            assert_eq!(repeated, budget != Budget::Unlimited, "{name} at {budget}");
            for (step, m) in measured.iter().enumerate() {
                let (peak, planned) = (m.report.measured_peak.unwrap(), m.report.planned_peak);
                println!(
                    "{name} {budget}: {planned} planned, {peak} measured, {:?} ({:?} here)",
                    m.report.ran, here[step]
                );
                // The tile that the kernels keep for the session's thread.
                let kept = if step == 0 { 4 << 20 } else { 0 };
                let most = planned.get() + common::SLACK + kept;
                assert!(peak.get() <= most, "{name} at {budget}: {peak} measured, {planned} planned");
                // And it is the worker's heap that was measured, with all of the model in it.
                assert!(peak.get() * 2 > planned.get(), "{name} at {budget}: {peak} measured, {planned} planned");
            }
        }
    }
}

#[test]
fn tensors_that_do_not_lie_plainly_are_planned_as_they_lie() {
    let _alone = alone();
    let worker = Running::start(1);
    let connected = worker.connect();
    let run = |device: &Device| {
        let x = Tensor::<2>::from_data(ramp(6, 8), device);
        let inputs = (x.clone().swap_dims(0, 1), x.slice([1..5, 2..7]));
        let model = Rematerialize::with_settings(linear(device), settings(Budget::Unlimited));
        let step = |linear: &Linear, (turned, part): (Tensor<2>, Tensor<2>)| {
            let rows = linear.forward(turned.reshape([8, 6]) + part.reshape([20, 1]).mean_dim(0));
            rows.powi_scalar(2).mean()
        };
        let problem = model.problem(inputs.clone(), step).unwrap();
        let step = model.step(inputs, step).unwrap();
        let loss = step.loss.into_data();
        let views: Vec<_> = problem.graph.values().values().map(|v| (v.bytes, v.alias_of)).collect();
        (loss, common::gradients_of(&*model, &step.grads), views)
    };
    assert_eq!(run(&Device::flex().autodiff()), run(&device(&connected, 0)));
}

fn ramp(rows: usize, columns: usize) -> TensorData {
    let values: Vec<f32> = (0..rows * columns).map(|i| (i as f32 * 0.37).sin()).collect();
    TensorData::new(values, [rows, columns])
}

fn linear(device: &Device) -> Linear {
    let model = LinearConfig::new(6, 6).with_bias(false).init(device);
    let weight = Tensor::from_data(ramp(6, 6), device);
    Linear { weight: model.weight.map(|w| if w.is_autodiff() { weight.require_grad() } else { weight }), ..model }
}

#[test]
fn two_workers_compute_at_once_and_tensors_go_between_them() {
    let _alone = alone();
    let workers = [Running::start(2), Running::start(1)];
    let connected: Vec<Worker> = workers.iter().map(Running::connect).collect();
    assert_eq!(connected[0].devices().len(), 2);
    let model = small("frozen");
    let (want, ..) = train("frozen", &model, &Device::flex().autodiff(), Budget::Unlimited);
    let devices = [device(&connected[0], 0), device(&connected[0], 1), device(&connected[1], 0)];
    let start = Arc::new(Barrier::new(devices.len()));
    let threads: Vec<_> = devices
        .iter()
        .map(|device| {
            let (device, model, start) = (device.clone(), model.clone(), start.clone());
            std::thread::spawn(move || {
                start.wait();
                train("frozen", &model, &device, Budget::percent(75.0)).0
            })
        })
        .collect();
    for thread in threads {
        assert_eq!(thread.join().unwrap(), want);
    }

    // Round all of them and back, each adding something.
    let mut x = Tensor::<2>::from_data(ramp(64, 64), &Device::flex());
    let mut y = x.clone();
    for plain in devices.iter().map(|device| device.clone().inner()) {
        x = copy(x, &plain).unwrap() + 0.5;
        assert_eq!(x.device(), plain);
        y = y + 0.5;
    }
    let x = copy((x, Tensor::<1, Int>::from_data([3, 4], &devices[2].clone().inner())), &Device::flex()).unwrap();
    assert_eq!(x.0.into_data(), y.into_data());
    assert_eq!(x.1.into_data(), Tensor::<1, Int>::from_data([3, 4], &Device::flex()).into_data());
    // Between devices of one worker Burn's own way does.
    let there = Tensor::<2>::from_data(ramp(8, 8), &connected[0].devices()[0]);
    assert_eq!(there.to_device(&connected[0].devices()[1]).into_data(), ramp(8, 8));
}

#[test]
fn who_is_not_let_in_is_told_why() {
    let mut worker = Running::start(1);
    let reach = |address: &str, token: &str| why(LONG, || connect(address, token, Duration::from_secs(1)));
    assert!(reach(&worker.address, "another token, long enough").contains("another token"));
    assert!(reach(&worker.address, "short").contains("too short"));
    assert!(reach("no such address", TOKEN).contains("not an address"));

    // A port that was free a moment ago.
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let nobody = listener.local_addr().unwrap().to_string();
    drop(listener);
    assert!(reach(&nobody, TOKEN).contains("nothing listens"));

    // Servers that are no workers of this version: what they say when somebody connects.
    let number = "7".repeat(64);
    let another = format!("plimsoll-worker 99.1.2 {number}\n");
    for (says, expected) in [
        (&*another, "it is plimsoll 99.1.2"),
        ("HTTP/1.1 400 Bad Request\r\n\r\n", "no plimsoll worker"),
        ("", "did not answer in time"),
    ] {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let says = says.to_owned();
        let server = std::thread::spawn(move || {
            let (mut stream, _) = listener.accept().unwrap();
            stream.write_all(says.as_bytes()).unwrap();
            // Until the client has had enough.
            let _ = stream.read_to_end(&mut Vec::new());
        });
        let said = reach(&address, TOKEN);
        assert!(said.contains(expected), "{said}");
        server.join().unwrap();
    }

    // The worker, for its part, says its version to a client of another one, and nothing else.
    let mut stream = TcpStream::connect(&worker.address).unwrap();
    stream.write_all(another.as_bytes()).unwrap();
    let mut said = String::new();
    stream.read_to_string(&mut said).unwrap();
    assert!(said.starts_with(&format!("plimsoll-worker {} ", env!("CARGO_PKG_VERSION"))), "{said}");
    assert_eq!(said.lines().count(), 1, "{said}");
    // Nor does it answer what is no greeting, such as Burn's own.
    let mut stream = TcpStream::connect(&worker.address).unwrap();
    stream.write_all(b"GET /session HTTP/1.1\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n").unwrap();
    let mut said = Vec::new();
    let _ = stream.read_to_end(&mut said);
    assert!(said.is_empty(), "{said:?}");
    // It goes on serving, until it is told to end; a client that is connected learns of it.
    let connected = worker.connect();
    connected.check().unwrap();
    worker.signal("TERM");
    assert_eq!(worker.process.wait().unwrap().code(), Some(0));
    let x = Tensor::<1>::from_data([1.0], &connected.devices()[0]);
    assert!(why(LONG, || copy(x, &Device::flex())).contains("was it stopped?"));
}

/// A step in the middle of which something happens to the worker: the error, then what is left of the model.
fn fails_in_mid_step(happens: impl Fn(&Running), timeout: Duration) -> String {
    let loss = |linear: &Linear, x: Tensor<2>| (linear.forward(x.clone()) - x).powi_scalar(2).mean();
    let input = |device: &Device| Tensor::<2>::from_data(ramp(9, 6), device);
    let plain = Device::flex().autodiff();
    let want = Rematerialize::with_settings(linear(&plain), settings(Budget::Unlimited))
        .step(input(&plain), loss)
        .unwrap()
        .loss
        .into_data();

    let worker = Running::start(1);
    let connected = connect(&worker.address, TOKEN, timeout).unwrap();
    let there = device(&connected, 0);
    let model = Rematerialize::with_settings(linear(&there), settings(Budget::Unlimited));
    assert_eq!(model.step(input(&there), loss).unwrap().loss.into_data(), want);
    let saved = copy_module(&model, &plain).unwrap();
    assert_eq!(state_of(&saved), state_of(&*model));

    let x = input(&there);
    let mut at = 0;
    let said = why(LONG, || {
        model.step_observed(x, loss, &mut |_| {
            at += 1;
            if at == 3 {
                happens(&worker);
            }
        })
    });
    assert!(at > 3);
    // Nothing hangs or panics from now on.
    assert_eq!(why(LONG, || connected.check()), said);
    let x = Tensor::<2>::from_data(ramp(9, 6), &there);
    assert_eq!(why(LONG, || model.step(x, loss)), said);
    assert_eq!(why(LONG, || copy_module(&model, &plain)), said);
    drop(model);

    // What was saved goes on elsewhere, with the plans it had.
    let other = Running::start(1);
    let connected = other.connect();
    let there = device(&connected, 0);
    let model = copy_module(&saved, &there).unwrap();
    assert_eq!(model.step(input(&there), loss).unwrap().loss.into_data(), want);
    said
}

#[test]
fn a_worker_that_dies_in_mid_step_is_an_error() {
    let _alone = alone();
    let said = fails_in_mid_step(|worker| worker.signal("KILL"), TIMEOUT);
    assert!(said.contains("was it stopped?"), "{said}");
}

#[test]
fn a_worker_that_hangs_in_mid_step_is_an_error() {
    let _alone = alone();
    let said = fails_in_mid_step(|worker| worker.signal("STOP"), Duration::from_secs(2));
    assert!(said.contains("no sign of life"), "{said}");
}

#[test]
fn an_op_that_fails_on_a_worker_ends_its_session_alone() {
    let _alone = alone();
    let worker = Running::start(2);
    let connected = worker.connect();
    let (bad, good) = (device(&connected, 0), device(&connected, 1));
    let loss = |table: &Embedding, x: Tensor<2, Int>| table.forward(x).powi_scalar(2).mean();
    let table = EmbeddingConfig::new(4, 3).init(&bad);
    let model = Rematerialize::with_settings(table, settings(Budget::Unlimited));
    let x = Tensor::<2, Int>::from_data([[0, 1], [2, 99]], &bad);
    let said = why(LONG, || model.step(x, loss));
    assert!(said.contains("ended the session"), "{said}");
    connected.check().unwrap();
    let x = Tensor::<2>::from_data(ramp(8, 8), &good.inner());
    assert_eq!(x.into_data(), ramp(8, 8));

    // Closed by the client, it says so.
    let x = Tensor::<2>::from_data(ramp(8, 8), &connected.devices()[1]);
    connected.clone().close();
    assert!(why(LONG, || copy(x, &Device::flex())).contains("this program closed"));
    assert!(why(LONG, || connected.check()).contains("this program closed"));
}

#[test]
fn a_server_refuses_what_it_cannot_serve() {
    let bind = |address: &str, token: &str, devices| {
        why(LONG, || remote::Server::bind(address, token, devices).map(|server| server.address()))
    };
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap().to_string();
    assert!(bind(&address, TOKEN, 1).contains("cannot listen"));
    assert!(bind("127.0.0.1:0", "short", 1).contains("too short"));
    assert!(bind("127.0.0.1:0", TOKEN, 0).contains("0 devices"));
    let server = remote::Server::bind("127.0.0.1:0", TOKEN, 1).unwrap();
    assert!(server.address().unwrap().ip().is_loopback());
}
