//! How a worker and a client make sure of each other before anything else is said.
//!
//! Four lines, each ended by a line feed and at most [`LINE`] bytes long. Numbers used once and proofs
//! are 64 hexadecimal digits:
//!
//! ```text
//! client   plimsoll-worker <version> <number of the client's>
//! worker   plimsoll-worker <version> <number of the worker's>
//! client   <pulse|ask|session> <the client's name> <proof>
//! worker   welcome <proof>          or: refused
//! ```
//!
//! Versions must be the same. A proof is a keyed hash (BLAKE3) of who says it, both numbers, the purpose and
//! the name; its key is derived from the token, which itself never travels. The client proves
//! that it knows the token first, then the worker does. Nothing after that is encrypted or signed: on a network
//! where others can read or change traffic, put the connection through a tunnel.

use std::io::{ErrorKind, Read, Write};
use std::net::TcpStream;
use std::time::{Duration, Instant};

use blake3::Hash;

/// What both say first.
const NAME: &str = "plimsoll-worker";
/// What both must be.
const VERSION: &str = env!("CARGO_PKG_VERSION");
/// The most bytes of a line.
const LINE: usize = 256;
/// The fewest bytes of a token: who sees a proof can try tokens out.
const TOKEN: usize = 16;

/// What a connection is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Purpose {
    /// Signs of life, both ways.
    Pulse,
    /// Questions to the worker itself.
    Ask,
    /// A session of Burn's, passed on.
    Session,
}

impl Purpose {
    const ALL: [Self; 3] = [Self::Pulse, Self::Ask, Self::Session];

    fn word(self) -> &'static str {
        match self {
            Self::Pulse => "pulse",
            Self::Ask => "ask",
            Self::Session => "session",
        }
    }
}

/// What is made of a token.
#[derive(Clone)]
pub struct Secret([u8; 32]);

impl Secret {
    /// Of a token; spaces around it do not count.
    ///
    /// # Errors
    /// Why it cannot be one.
    pub fn new(token: &str) -> Result<Self, String> {
        let token = token.trim();
        if token.len() < TOKEN {
            return Err(format!("a token of {} bytes is too short: it takes {TOKEN} at least", token.len()));
        }
        Ok(Self(blake3::derive_key("plimsoll 2026 worker token", token.as_bytes())))
    }

    fn prove(&self, who: &str, numbers: [Hash; 2], purpose: Purpose, name: Hash) -> Hash {
        let [client, worker] = numbers.map(|n| n.to_hex());
        let said = format!("{who} {client} {worker} {} {}", purpose.word(), name.to_hex());
        blake3::keyed_hash(&self.0, said.as_bytes())
    }
}

/// A number that nobody can guess.
///
/// # Errors
/// That the system gives none.
pub fn number() -> Result<Hash, String> {
    let mut bytes = [0; 32];
    getrandom::fill(&mut bytes).map_err(|e| format!("the system gives no random numbers: {e}"))?;
    Ok(Hash::from_bytes(bytes))
}

/// The client's part. The stream is left without time limits.
///
/// # Errors
/// Why the worker will not do.
pub fn introduce(
    stream: &mut TcpStream,
    secret: &Secret,
    purpose: Purpose,
    name: Hash,
    deadline: Instant,
) -> Result<(), String> {
    let mine = number()?;
    say(stream, &format!("{NAME} {VERSION} {}", mine.to_hex()), deadline)?;
    let (version, theirs) = greeting(&hear(stream, deadline)?).ok_or("what answers there is no plimsoll worker")?;
    if version != VERSION {
        return Err(another(&version));
    }
    let numbers = [mine, theirs];
    let proof = secret.prove("client", numbers, purpose, name);
    say(stream, &format!("{} {} {}", purpose.word(), name.to_hex(), proof.to_hex()), deadline)?;
    let answer = hear(stream, deadline)?;
    let proof = match answer.split_once(' ') {
        Some(("welcome", proof)) => Hash::from_hex(proof).ok(),
        _ if answer == "refused" => return Err("it has another token".into()),
        _ => None,
    };
    // Hashes compare in constant time.
    match proof == Some(secret.prove("worker", numbers, purpose, name)) {
        true => forever(stream),
        false => Err("it does not prove that it knows the token".into()),
    }
}

/// The worker's part: what the client wants, and its name. The stream is left without time limits.
///
/// # Errors
/// Why it is not let in.
pub fn admit(stream: &mut TcpStream, secret: &Secret, deadline: Instant) -> Result<(Purpose, Hash), String> {
    let (version, theirs) = greeting(&hear(stream, deadline)?).ok_or("what it says is not a client's greeting")?;
    let mine = number()?;
    say(stream, &format!("{NAME} {VERSION} {}", mine.to_hex()), deadline)?;
    if version != VERSION {
        return Err(another(&version));
    }
    let asked = hear(stream, deadline)?;
    let mut words = asked.split(' ');
    let purpose = words.next().and_then(|word| Purpose::ALL.into_iter().find(|p| p.word() == word));
    let mut hash = || words.next().and_then(|word| Hash::from_hex(word).ok());
    let (Some(purpose), Some(name), Some(proof)) = (purpose, hash(), hash()) else {
        return Err("what it says is not a client's".into());
    };
    let numbers = [theirs, mine];
    if proof != secret.prove("client", numbers, purpose, name) {
        say(stream, "refused", deadline)?;
        return Err("it has another token".into());
    }
    say(stream, &format!("welcome {}", secret.prove("worker", numbers, purpose, name).to_hex()), deadline)?;
    forever(stream)?;
    Ok((purpose, name))
}

fn greeting(line: &str) -> Option<(String, Hash)> {
    let mut words = line.split(' ');
    let (name, version, number) = (words.next()?, words.next()?, words.next()?);
    (name == NAME && words.next().is_none()).then_some(())?;
    Some((version.to_owned(), Hash::from_hex(number).ok()?))
}

fn another(version: &str) -> String {
    // It may be anybody's words.
    let version: String = version.chars().filter(|c| c.is_ascii_graphic()).take(32).collect();
    format!("it is plimsoll {version} and this is {VERSION}: use the same version on both sides")
}

fn forever(stream: &TcpStream) -> Result<(), String> {
    let endless = stream.set_read_timeout(None).and_then(|()| stream.set_write_timeout(None));
    endless.map_err(|e| e.to_string())
}

/// What is left of the time.
///
/// # Errors
/// That nothing is.
pub fn left(deadline: Instant) -> Result<Duration, String> {
    let left = deadline.saturating_duration_since(Instant::now());
    if left.is_zero() { Err("it did not answer in time".into()) } else { Ok(left) }
}

/// An error of a connection in words.
pub fn said(error: &std::io::Error) -> String {
    match error.kind() {
        ErrorKind::WouldBlock | ErrorKind::TimedOut => "it did not answer in time".into(),
        ErrorKind::UnexpectedEof | ErrorKind::ConnectionReset | ErrorKind::BrokenPipe => {
            "it closed the connection".into()
        }
        _ => error.to_string(),
    }
}

fn say(stream: &mut TcpStream, line: &str, deadline: Instant) -> Result<(), String> {
    stream.set_write_timeout(Some(left(deadline)?)).map_err(|e| said(&e))?;
    stream.write_all(format!("{line}\n").as_bytes()).map_err(|e| said(&e))
}

/// One line, read byte by byte, so that nothing of what follows it is taken.
fn hear(stream: &mut TcpStream, deadline: Instant) -> Result<String, String> {
    let mut line = Vec::new();
    loop {
        stream.set_read_timeout(Some(left(deadline)?)).map_err(|e| said(&e))?;
        let mut byte = [0];
        stream.read_exact(&mut byte).map_err(|e| said(&e))?;
        match byte[0] {
            b'\n' => return String::from_utf8(line).map_err(|_| "it does not say text".into()),
            _ if line.len() == LINE => return Err("it talks too much to be one of ours".into()),
            byte => line.push(byte),
        }
    }
}
