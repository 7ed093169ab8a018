//! The worker's side: one port, behind which is Burn's own server.

use std::collections::BTreeMap;
use std::io::{Read, Write};
use std::net::{Ipv4Addr, Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use blake3::Hash;
use burn_flex::{Flex, FlexDevice};
use burn_remote::server::{BackendServer, TokenAuthorizer, WebSocketTransport};

use super::handshake::{Purpose, Secret, admit, number};
use super::hosted;
use super::wire::{self, About, Answer, Question};
use crate::error::{Error, Result};
use crate::runtime::target::Target;

/// How long who connects may take to say who it is.
const INTRODUCTION: Duration = Duration::from_secs(10);
/// How long a client may be silent.
const SILENCE: Duration = Duration::from_secs(60);
/// How many may be introducing themselves at once.
const STRANGERS: usize = 64;

/// Serves this machine's devices to other processes: see [`connect`](super::connect).
pub struct Server {
    listener: TcpListener,
    secret: Secret,
    devices: usize,
}

impl Server {
    /// Listen at `address` (`host:port`; port 0 is any that is free), with `devices` devices of the CPU. They
    /// share its threads.
    ///
    /// # Errors
    /// [`Error::Worker`] where the address is taken or no address, the token too short, or there are no devices.
    pub fn bind(address: &str, token: &str, devices: usize) -> Result<Self> {
        let error = |why: String| Error::Worker { address: address.to_owned(), why };
        let secret = Secret::new(token).map_err(error)?;
        if devices == 0 || devices > 256 {
            return Err(error(format!("cannot serve {devices} devices: between 1 and 256 it can")));
        }
        let listener = TcpListener::bind(address).map_err(|e| error(format!("cannot listen: {e}")))?;
        Ok(Self { listener, secret, devices })
    }

    /// Where it listens.
    ///
    /// # Errors
    /// [`Error::Worker`] where the system does not say.
    pub fn address(&self) -> Result<SocketAddr> {
        self.listener.local_addr().map_err(|e| failed("this", &e.to_string()))
    }

    /// Serve until the process is told to end (Ctrl+C or `SIGTERM`).
    ///
    /// # Errors
    /// [`Error::Worker`] where the server behind the port cannot be started, or breaks.
    pub fn run(self) -> Result<()> {
        let address = self.address()?.to_string();
        let error = |why: String| failed(&address, &why);
        let inner = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).map_err(|e| error(e.to_string()))?;
        // What is accepted inherits it. Without it each answer of two parts waits 40 ms for the first to be
        // acknowledged.
        socket2::SockRef::from(&inner).set_tcp_nodelay(true).map_err(|e| error(e.to_string()))?;
        let credential = number().map_err(error)?.to_hex().to_string();
        let about = About {
            devices: self.devices,
            description: Flex::describe(&FlexDevice),
            threads: Flex::threads(&FlexDevice),
            credential: credential.clone(),
        };
        let door = Arc::new(Door {
            secret: self.secret,
            about,
            inner: inner.local_addr().map_err(|e| error(e.to_string()))?,
            strangers: AtomicUsize::new(0),
            clients: Mutex::default(),
        });
        let listener = self.listener;
        let accept = move || listener.incoming().flatten().for_each(|stream| door.clone().welcome(stream));
        std::thread::Builder::new().name("plimsoll-door".into()).spawn(accept).map_err(|e| error(e.to_string()))?;
        let authorizer = TokenAuthorizer::new(credential).map_err(|e| error(e.to_string()))?;
        BackendServer::<Flex>::new(vec![FlexDevice; self.devices])
            .with_authorizer(authorizer)
            .with_custom_ops(hosted::custom_ops())
            .serve(WebSocketTransport::from_listener(inner))
            .map_err(|e| error(e.to_string()))
    }
}

fn failed(address: &str, why: &str) -> Error {
    Error::Worker { address: address.to_owned(), why: why.to_owned() }
}

/// What every connection comes through.
struct Door {
    secret: Secret,
    about: About,
    /// Burn's server.
    inner: SocketAddr,
    strangers: AtomicUsize,
    /// The connections of each client that gives signs of life, cut when it gives none.
    clients: Mutex<BTreeMap<[u8; 32], Vec<TcpStream>>>,
}

impl Door {
    fn welcome(self: Arc<Self>, stream: TcpStream) {
        if self.strangers.fetch_add(1, Ordering::Relaxed) >= STRANGERS {
            self.strangers.fetch_sub(1, Ordering::Relaxed);
            return;
        }
        let door = self.clone();
        let spawned = std::thread::Builder::new().name("plimsoll-client".into()).spawn(move || door.serve(stream));
        if spawned.is_err() {
            self.strangers.fetch_sub(1, Ordering::Relaxed);
        }
    }

    fn serve(&self, mut stream: TcpStream) {
        let _ = stream.set_nodelay(true);
        let who = stream.peer_addr().map_or_else(|_| "somebody".to_owned(), |at| at.to_string());
        let admitted = admit(&mut stream, &self.secret, Instant::now() + INTRODUCTION);
        self.strangers.fetch_sub(1, Ordering::Relaxed);
        let ended = match admitted {
            Err(why) => Err(format!("not let in: {why}")),
            Ok((Purpose::Pulse, name)) => self.feel(stream, name).map_err(|e| e.to_string()),
            Ok((Purpose::Ask, name)) => {
                self.held(&stream, name).and_then(|()| answer(stream).map_err(|e| e.to_string()))
            }
            Ok((Purpose::Session, name)) => self.pass_on(&stream, name),
        };
        if let Err(why) = ended {
            tracing::warn!("{who}: {why}");
        }
    }

    fn clients(&self) -> std::sync::MutexGuard<'_, BTreeMap<[u8; 32], Vec<TcpStream>>> {
        self.clients.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Signs of life, until there are none.
    fn feel(&self, mut stream: TcpStream, name: Hash) -> std::io::Result<()> {
        self.clients().insert(*name.as_bytes(), Vec::new());
        let ended = self.beat(&mut stream);
        for stream in self.clients().remove(name.as_bytes()).into_iter().flatten() {
            let _ = stream.shutdown(Shutdown::Both);
        }
        ended
    }

    fn beat(&self, stream: &mut TcpStream) -> std::io::Result<()> {
        wire::send(stream, &self.about)?;
        stream.set_read_timeout(Some(SILENCE))?;
        let mut bytes = [0; 64];
        loop {
            match stream.read(&mut bytes)? {
                0 => return Ok(()),
                count => stream.write_all(&bytes[..count])?,
            }
        }
    }

    /// Keep a connection for as long as its client gives signs of life.
    fn held(&self, stream: &TcpStream, name: Hash) -> Result<(), String> {
        let stream = stream.try_clone().map_err(|e| e.to_string())?;
        let mut clients = self.clients();
        let streams = clients.get_mut(name.as_bytes()).ok_or("its client gives no signs of life")?;
        streams.push(stream);
        Ok(())
    }

    fn pass_on(&self, stream: &TcpStream, name: Hash) -> Result<(), String> {
        let inner = TcpStream::connect_timeout(&self.inner, INTRODUCTION).map_err(|e| e.to_string())?;
        let _ = inner.set_nodelay(true);
        self.held(stream, name)?;
        self.held(&inner, name)?;
        wire::join(stream, &inner);
        Ok(())
    }
}

/// Answer questions until there are none.
fn answer(mut stream: TcpStream) -> std::io::Result<()> {
    loop {
        let question = match wire::receive(&mut stream) {
            Err(error) if error.kind() == std::io::ErrorKind::UnexpectedEof => return Ok(()),
            question => question?,
        };
        let answer = match question {
            Question::Measure(op, layouts) => Answer::Cost(hosted::measure(&op, &layouts)),
            Question::Watch => Answer::Held(Flex::watch(&FlexDevice)),
            Question::Watched => Answer::Held(Flex::watched(&FlexDevice)),
        };
        wire::send(&mut stream, &answer)?;
    }
}
