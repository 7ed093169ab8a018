//! The client's end of a worker: its connections, its signs of life, and which devices are its.

use std::collections::BTreeMap;
use std::io::{ErrorKind, Read, Write};
use std::net::{Ipv4Addr, Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::{Duration, Instant};

use blake3::Hash;
use burn_remote::RemoteDevice;
use burn_std::device::Device as _;

use super::handshake::{Purpose, Secret, introduce, left, number, said};
use super::wire::{self, About, Answer, Question};
use crate::error::Error;

/// How long between two signs of life at most.
const PULSE: Duration = Duration::from_secs(1);

/// A worker as its client knows it.
pub struct Link {
    /// Where it is, as the caller said.
    pub address: String,
    pub about: About,
    at: SocketAddr,
    secret: Secret,
    /// Names this client to the worker.
    name: Hash,
    patience: Duration,
    state: Mutex<State>,
    /// Questions are asked one by one.
    asking: Mutex<Option<TcpStream>>,
    /// Where Burn connects to.
    relay: OnceLock<SocketAddr>,
}

#[derive(Default)]
struct State {
    /// Why the worker is given up.
    gone: Option<String>,
    /// Connections that are cut then.
    open: BTreeMap<u64, TcpStream>,
    next: u64,
}

/// By the number of the device in Burn's registry, which never gives one twice.
static LINKS: Mutex<BTreeMap<u16, Arc<Link>>> = Mutex::new(BTreeMap::new());

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Link {
    /// Reach the worker and begin to exchange signs of life.
    pub fn open(
        address: &str,
        at: SocketAddr,
        secret: Secret,
        deadline: Instant,
        patience: Duration,
    ) -> Result<Arc<Self>, String> {
        let name = number()?;
        let mut pulse = dial(at, &secret, Purpose::Pulse, name, deadline)?;
        pulse.set_read_timeout(Some(left(deadline)?)).map_err(|e| said(&e))?;
        let about: About = wire::receive(&mut pulse).map_err(|e| said(&e))?;
        let link = Arc::new(Self {
            address: address.to_owned(),
            about,
            at,
            secret,
            name,
            patience,
            state: Mutex::default(),
            asking: Mutex::new(None),
            relay: OnceLock::new(),
        });
        link.watch_over(&pulse).map_err(|e| said(&e))?;
        let beating = link.clone();
        let run = move || beating.give_up(beating.beat(&pulse));
        std::thread::Builder::new().name("plimsoll-pulse".into()).spawn(run).map_err(|e| e.to_string())?;
        Ok(link)
    }

    /// The link of a device; `None` for one of a server that is no worker of plimsoll's.
    pub fn of(device: &RemoteDevice) -> Option<Arc<Self>> {
        lock(&LINKS).get(&device.to_id().index_id).cloned()
    }

    /// This worker has the device.
    pub fn owns(self: &Arc<Self>, device: &RemoteDevice) {
        lock(&LINKS).insert(device.to_id().index_id, self.clone());
    }

    /// Cut every connection and remember why.
    pub fn give_up(&self, why: String) {
        let mut state = lock(&self.state);
        state.gone.get_or_insert(why);
        for stream in std::mem::take(&mut state.open).values() {
            let _ = stream.shutdown(Shutdown::Both);
        }
        drop(state);
        // Whoever waits for Burn to connect need not wait any longer.
        if let Some(relay) = self.relay.get() {
            let _ = TcpStream::connect_timeout(relay, Duration::from_millis(100));
        }
    }

    /// Why it was given up, if it was.
    pub fn gone(&self) -> Option<Error> {
        lock(&self.state).gone.clone().map(|why| self.error(why))
    }

    /// An error of this worker's.
    pub fn error(&self, why: impl Into<String>) -> Error {
        Error::Worker { address: self.address.clone(), why: why.into() }
    }

    /// The connections of a session are broken: wait until it is known whether the worker is gone.
    pub fn after_break(&self) -> Error {
        let deadline = Instant::now() + PULSE;
        loop {
            match self.gone() {
                Some(error) => return error,
                None if Instant::now() > deadline => {
                    return self.error(
                        "it ended the session of the device, as it does when an op fails there (its log says which); \
                         what was on the device is lost: connect anew",
                    );
                }
                None => std::thread::sleep(Duration::from_millis(10)),
            }
        }
    }

    /// Ask the worker itself.
    pub fn ask(&self, question: &Question) -> Result<Answer, Error> {
        let mut asking = lock(&self.asking);
        let answer = self.ask_on(&mut asking, question);
        if answer.is_err() {
            *asking = None;
        }
        answer.map_err(|why| self.gone().unwrap_or_else(|| self.error(why)))
    }

    fn ask_on(&self, asking: &mut Option<TcpStream>, question: &Question) -> Result<Answer, String> {
        let stream = match asking {
            Some(stream) => stream,
            None => {
                let stream = dial(self.at, &self.secret, Purpose::Ask, self.name, Instant::now() + self.patience)?;
                self.watch_over(&stream).map_err(|e| said(&e))?;
                asking.insert(stream)
            }
        };
        // No time limit: an op may take long. A worker that is gone has its connections cut.
        wire::send(stream, question).and_then(|()| wire::receive(stream)).map_err(|e| said(&e))
    }

    /// A place in this process that passes on to the worker what is said there: where Burn connects to.
    pub fn relay(self: &Arc<Self>) -> std::io::Result<SocketAddr> {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
        let here = listener.local_addr()?;
        let _ = self.relay.set(here);
        let link = self.clone();
        let accept = move || {
            for local in listener.incoming() {
                if link.gone().is_some() {
                    return;
                }
                let (Ok(local), link) = (local, link.clone()) else { continue };
                let _ = std::thread::Builder::new().name("plimsoll-relay".into()).spawn(move || link.pass_on(&local));
            }
        };
        std::thread::Builder::new().name("plimsoll-relays".into()).spawn(accept)?;
        Ok(here)
    }

    fn pass_on(&self, local: &TcpStream) {
        let deadline = Instant::now() + self.patience;
        let Ok(worker) = dial(self.at, &self.secret, Purpose::Session, self.name, deadline) else { return };
        let _ = local.set_nodelay(true);
        let held = self.watch_over(local).and_then(|a| self.watch_over(&worker).map(|b| [a, b]));
        wire::join(local, &worker);
        held.into_iter().flatten().for_each(|key| drop(lock(&self.state).open.remove(&key)));
    }

    /// Cut this connection too when the worker is given up.
    fn watch_over(&self, stream: &TcpStream) -> std::io::Result<u64> {
        let stream = stream.try_clone()?;
        let mut state = lock(&self.state);
        if state.gone.is_some() {
            let _ = stream.shutdown(Shutdown::Both);
        }
        let key = state.next;
        state.next += 1;
        state.open.insert(key, stream);
        Ok(key)
    }

    /// Exchange signs of life until there are none; why there are none.
    fn beat(&self, mut pulse: &TcpStream) -> String {
        let interval = PULSE.min(self.patience / 4).max(Duration::from_millis(10));
        let mut heard = Instant::now();
        if let Err(error) = pulse.set_read_timeout(Some(interval)) {
            return said(&error);
        }
        let mut bytes = [0; 64];
        loop {
            match pulse.write(b".") {
                Ok(_) => {}
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) => return format!("{}: was it stopped?", said(&error)),
            }
            let round = Instant::now();
            while round.elapsed() < interval {
                match pulse.read(&mut bytes) {
                    Ok(0) => return "it closed the connection: was it stopped?".into(),
                    Ok(_) => heard = Instant::now(),
                    Err(e) if matches!(e.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => break,
                    Err(e) if e.kind() == ErrorKind::Interrupted => {}
                    Err(error) => return format!("{}: was it stopped?", said(&error)),
                }
            }
            if heard.elapsed() > self.patience {
                return format!("it has given no sign of life for {:?}", self.patience);
            }
        }
    }
}

/// A connection to a worker, introduced.
fn dial(at: SocketAddr, secret: &Secret, purpose: Purpose, name: Hash, deadline: Instant) -> Result<TcpStream, String> {
    let mut stream = TcpStream::connect_timeout(&at, left(deadline)?).map_err(|error| match error.kind() {
        ErrorKind::ConnectionRefused => "nothing listens there: is it running?".to_owned(),
        _ => said(&error),
    })?;
    stream.set_nodelay(true).map_err(|e| said(&e))?;
    introduce(&mut stream, secret, purpose, name, deadline)?;
    Ok(stream)
}
