//! What travels between a client and a worker beside Burn's sessions, and how streams are joined.

use std::io::{ErrorKind, Read, Write};
use std::net::{Shutdown, TcpStream};

use burn_ir::OperationIr;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use crate::cost::OpCost;
use crate::units::Bytes;

/// The most bytes of a message.
const MESSAGE: usize = 64 << 20;

/// What a worker says of itself.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct About {
    /// How many devices it serves.
    pub devices: usize,
    /// Their backend, its version and the machine.
    pub description: String,
    /// Threads that kernels run on.
    pub threads: usize,
    /// What Burn's own server wants to be shown. Others on either machine can reach that server, or the
    /// client's end of the relay, without having said the token.
    pub credential: String,
}

/// A question to a worker.
#[derive(Debug, Serialize, Deserialize)]
pub enum Question {
    /// What an op costs, run by itself on inputs that lie like this.
    Measure(Box<OperationIr>, Vec<String>),
    /// Begin to watch the heap: how much is allocated now?
    Watch,
    /// The most that was allocated at once since then.
    Watched,
}

/// Its answer.
#[derive(Debug, Serialize, Deserialize)]
pub enum Answer {
    /// To `Measure`.
    Cost(Result<OpCost, String>),
    /// To the others; `None` where nobody counts.
    Held(Option<Bytes>),
}

/// Write a message.
///
/// # Errors
/// Those of the stream.
pub fn send<T: Serialize>(stream: &mut TcpStream, message: &T) -> std::io::Result<()> {
    let body = rmp_serde::to_vec(message).map_err(std::io::Error::other)?;
    if body.len() > MESSAGE {
        return Err(std::io::Error::other("a message too long to be sent"));
    }
    let mut whole = (body.len() as u32).to_le_bytes().to_vec();
    whole.extend(body);
    stream.write_all(&whole)
}

/// Read a message.
///
/// # Errors
/// Those of the stream, and of what is no message.
pub fn receive<T: DeserializeOwned>(stream: &mut TcpStream) -> std::io::Result<T> {
    let mut length = [0; 4];
    stream.read_exact(&mut length)?;
    let length = u32::from_le_bytes(length) as usize;
    if length > MESSAGE {
        return Err(std::io::Error::other("a message too long to be one of ours"));
    }
    let mut body = Vec::new();
    stream.take(length as u64).read_to_end(&mut body)?;
    rmp_serde::from_slice(&body).map_err(std::io::Error::other)
}

/// Pass on what either stream says to the other, until both have ended.
pub fn join(one: &TcpStream, other: &TcpStream) {
    std::thread::scope(|scope| {
        scope.spawn(|| forward(one, other));
        forward(other, one);
    });
}

fn forward(mut from: &TcpStream, mut to: &TcpStream) {
    // Large, so that many small messages go on as one while the receiver is busy.
    let mut bytes = vec![0; 256 << 10];
    loop {
        let read = match from.read(&mut bytes) {
            Err(error) if error.kind() == ErrorKind::Interrupted => continue,
            read => read,
        };
        match read {
            Ok(count) if count > 0 && to.write_all(&bytes[..count]).is_ok() => {}
            _ => break,
        }
    }
    // However it ended, the receiver learns of it, and what the sender says after that goes nowhere.
    let _ = to.shutdown(Shutdown::Write);
    let _ = from.shutdown(Shutdown::Read);
}
