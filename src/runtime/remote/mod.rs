//! Devices of other processes and machines.
//!
//! A *worker* (`plimsoll worker`) serves its machine's devices; [`connect`] gives them as Burn's own
//! [`Device`]s, on which models, inputs and optimizers live as on any other. A wrapped module on such a device
//! is planned with costs measured on the worker and runs there; only results that are asked for travel back.
//!
//! ```no_run
//! use std::time::Duration;
//!
//! use burn::nn::{Linear, LinearConfig};
//! use burn::tensor::{Distribution, Tensor};
//! use plimsoll::{Budget, Rematerialize, remote};
//!
//! let token = std::env::var("PLIMSOLL_TOKEN").expect("the worker's token");
//! let worker = remote::connect("gpu7:4000", &token, Duration::from_secs(10))?;
//! let device = worker.devices()[0].clone().autodiff();
//! let model = Rematerialize::wrap(LinearConfig::new(64, 64).init(&device), Budget::percent(40.0));
//! let x = Tensor::<2>::random([32, 64], Distribution::Default, &device);
//! let step = model.step(x, |linear: &Linear, x| (linear.forward(x.clone()) - x).powi_scalar(2).mean())?;
//! println!("loss {}", step.loss.into_scalar::<f32>());
//! # Ok::<(), plimsoll::Error>(())
//! ```
//!
//! # Who may use a worker
//! Who knows its token and runs the same version of plimsoll. Both are made sure of before anything else is
//! served; the token never travels, and the worker proves that it knows it too. Nothing is encrypted:
//! across a network that others can read, use a tunnel.
//!
//! # When a worker fails
//! Worker and client exchange signs of life. A worker that closes its connections is noticed at once, one
//! that says nothing for as long as [`connect`] was given as its time limit is given up; either way steps end
//! with [`Error::Worker`], and what was on its devices is lost. An op that fails on a worker ends the device's
//! session too. Save a module now and then ([`copy_module`] to a device of this process) to go on from there
//! on another worker. Burn's own calls (`into_data`, `into_scalar`) panic where a worker is gone; [`copy`] does
//! not. A worker frees what a client left behind when the client ends, or has been silent for a minute.
//!
//! # What is measured where
//! The worker measures what each op costs, how its results lie and what it takes beside them, as this process would
//! of its own devices; other work on the worker at that time shows in it. Times do not count sending
//! operations, which goes on beside computing. The measured peak of a step is that of the worker's whole heap:
//! what its other sessions allocate at that time counts too, and so do messages, a few hundred kilobytes, and in a
//! session's first step the tiles that kernels keep for its thread, about two megabytes. Inputs stay in memory for the
//! whole step. Nothing is moved to this process's memory (`Settings::host_memory`).

mod backend;
mod copy;
mod handshake;
mod hosted;
mod link;
mod serve;
mod wire;

use std::net::{SocketAddr, ToSocketAddrs};
use std::sync::{Arc, mpsc};
use std::time::{Duration, Instant};

use burn::backend::DispatchDevice;
use burn::remote::RemoteHost;
use burn::tensor::Device;
use burn_remote::RemoteDevice;

#[doc(hidden)]
pub use backend::Router;
pub use copy::{copy, copy_module};
pub use serve::Server;

use crate::error::{Error, Result};
use crate::graph::trace::{panic_message, quietly};
use handshake::Secret;
use link::Link;

/// A worker that this process is connected to. Its devices stay usable when this is dropped.
#[derive(Clone)]
pub struct Worker {
    link: Arc<Link>,
    devices: Vec<Device>,
}

impl Worker {
    /// Its devices, without autodiff.
    pub fn devices(&self) -> Vec<Device> {
        self.devices.clone()
    }

    /// Where it is, as [`connect`] was told.
    pub fn address(&self) -> &str {
        &self.link.address
    }

    /// What it computes with, in its own words.
    pub fn description(&self) -> &str {
        &self.link.about.description
    }

    /// Whether it still gives signs of life.
    ///
    /// # Errors
    /// [`Error::Worker`] where it does not, or was given up.
    pub fn check(&self) -> Result<()> {
        self.link.gone().map_or(Ok(()), Err)
    }

    /// End every connection. What is on its devices is lost.
    pub fn close(self) {
        self.link.give_up("this program closed the connection".into());
    }
}

impl std::fmt::Debug for Worker {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Worker").field("address", &self.link.address).field("devices", &self.devices).finish()
    }
}

/// Connect to the worker at `address` (`host:port`). `timeout` bounds this call, and afterwards how long the worker
/// may give no sign of life; some seconds do for a machine that is busy.
///
/// Every call makes new devices, also to the same worker.
///
/// # Errors
/// [`Error::Worker`] saying what is wrong: nothing listens, it does not answer in time, it is no worker,
/// or one with another token or version.
pub fn connect(address: &str, token: &str, timeout: Duration) -> Result<Worker> {
    let error = |why: String| Error::Worker { address: address.to_owned(), why };
    let deadline = Instant::now() + timeout;
    let left = || deadline.saturating_duration_since(Instant::now());
    let secret = Secret::new(token).map_err(error)?;
    let mut why = "its name stands for no address".to_owned();
    let mut link = None;
    for at in resolve(address, left()).map_err(error)? {
        match Link::open(address, at, secret.clone(), deadline, timeout) {
            Ok(found) => {
                link = Some(found);
                break;
            }
            Err(said) => why = said,
        }
    }
    let link = link.ok_or_else(|| error(why))?;
    let devices = sessions(&link, left()).map_err(|why| {
        let lost = link.gone().unwrap_or_else(|| error(why));
        link.give_up("this program closed the connection".into());
        lost
    })?;
    for device in devices.iter().filter_map(remote_of) {
        link.owns(&device);
    }
    Ok(Worker { link, devices })
}

/// The remote device that a device is.
pub(crate) fn remote_of(device: &Device) -> Option<RemoteDevice> {
    match device.clone().inner().as_dispatch() {
        DispatchDevice::Remote(remote) => Some(remote.clone()),
        _ => None,
    }
}

/// The addresses of a name. Asking for them may take longer than we do.
fn resolve(address: &str, limit: Duration) -> Result<Vec<SocketAddr>, String> {
    let name = address.to_owned();
    within(limit, move || name.to_socket_addrs().map(Iterator::collect).map_err(|e| format!("not an address: {e}")))
        .unwrap_or_else(|| Err("its name was not found in time".into()))
}

/// A session of Burn's for each device.
fn sessions(link: &Arc<Link>, limit: Duration) -> Result<Vec<Device>, String> {
    let here = link.relay().map_err(|e| format!("no way to it can be made on this machine: {e}"))?;
    let host = RemoteHost::websocket(&format!("ws://{here}")).with_credential(link.about.credential.as_str());
    let count = link.about.devices;
    let open = move |index: usize| {
        let device = Device::remote_options(&host).device_index(index).init();
        device.map_err(|e| format!("its device {index} cannot be used: {e}"))
    };
    let all = move || quietly(|| (0..count).map(open).collect()).unwrap_or_else(|panic| Err(panic_message(&*panic)));
    within(limit, all).unwrap_or_else(|| Err("its devices were not ready in time".into()))
}

/// The result of something that may take too long; it goes on by itself then.
fn within<T: Send + 'static>(limit: Duration, work: impl FnOnce() -> T + Send + 'static) -> Option<T> {
    let (sender, receiver) = mpsc::channel();
    let work = move || drop(sender.send(work()));
    std::thread::Builder::new().name("plimsoll-connect".into()).spawn(work).ok()?;
    receiver.recv_timeout(limit).ok()
}
