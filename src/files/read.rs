//! Reading, within bounds, whatever a name stands for.

use std::cell::Cell;
use std::fs::File;
use std::io::{self, BufReader, Read, Seek as _};
use std::path::Path;
use std::rc::Rc;

use serde::de::DeserializeOwned;

use super::{Format, Header, MAX_FILE_BYTES};
use crate::error::{Error, Result};

/// How a Zstandard frame begins; no JSON text does.
const MAGIC: [u8; 4] = [0x28, 0xb5, 0x2f, 0xfd];
/// The longest header of a Zstandard frame, which may say how much text is in it.
const FRAME_HEADER: u64 = 18;
/// Where the header of what cannot be read twice should have come: what this crate writes begins
/// with it.
const HEAD: u64 = 64 << 10;
/// The largest window of compressed data: 128 MiB, what `zstd -d` takes by default.
const WINDOW_LOG: u32 = 27;

impl Format {
    /// Read a file: once as far as the header, which may stand last, and once for all.
    pub(crate) fn load<T: DeserializeOwned>(&self, path: &Path) -> Result<T> {
        let failed = |source| Error::Io { action: "read", path: path.to_owned(), source };
        let mut file = open(path).map_err(failed)?;
        let about = file.metadata().map_err(failed)?;
        if !about.is_file() {
            return self.read(file, path);
        }
        if about.len() > MAX_FILE_BYTES {
            return Err(self.unreadable(io::Error::other(Fault::TooLarge), path));
        }
        let header = self.parse(text_of(&file), path, Header::of)?;
        self.accept(header, &path.display().to_string())?;
        file.rewind().map_err(failed)?;
        self.parse(text_of(&file), path, serde_json::from_reader)
    }

    /// Read from anything; `path` names it in errors. A header that does not come early costs the
    /// memory of the text before it.
    pub(crate) fn read<T: DeserializeOwned>(&self, source: impl Read, path: &Path) -> Result<T> {
        let mut text = text_of(source).map_err(|error| self.unreadable(error, path))?;
        let mut head = Vec::new();
        let mut read = text.by_ref().take(HEAD).read_to_end(&mut head);
        let cut_off = head.len() as u64 == HEAD && Header::of(&*head).is_err_and(|error| error.is_eof());
        if read.is_ok() && cut_off {
            read = text.read_to_end(&mut head);
        }
        read.map_err(|error| self.unreadable(error, path))?;
        let header = self.parse(Ok(&*head), path, Header::of)?;
        self.accept(header, &path.display().to_string())?;
        self.parse(Ok(head.chain(text)), path, serde_json::from_reader)
    }

    fn parse<R: Read, T>(
        &self,
        text: io::Result<R>,
        path: &Path,
        parse: impl FnOnce(BufReader<Watched<R>>) -> serde_json::Result<T>,
    ) -> Result<T> {
        let failure = Rc::new(Cell::new(None));
        let inner = text.map_err(|error| self.unreadable(error, path))?;
        let text = BufReader::with_capacity(1 << 16, Watched { inner, failure: failure.clone() });
        parse(text).map_err(|error| match failure.take() {
            Some(failure) => self.unreadable(failure, path),
            None => self.malformed(&path.display().to_string(), error.to_string()),
        })
    }

    fn unreadable(&self, source: io::Error, path: &Path) -> Error {
        let file = path.display().to_string();
        match source.get_ref().and_then(|inner| inner.downcast_ref::<Fault>()) {
            Some(Fault::TooLarge) => Error::TooLarge { file, limit: MAX_FILE_BYTES },
            Some(Fault::Damaged(why)) => self.malformed(&file, format!("its compressed data is damaged: {why}")),
            None => Error::Io { action: "read", path: path.to_owned(), source },
        }
    }
}

/// Remembers why reading failed: what parses makes a message of it, with the place where it was.
struct Watched<R> {
    inner: R,
    failure: Rc<Cell<Option<io::Error>>>,
}

impl<R: Read> Read for Watched<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        self.inner.read(buffer).map_err(|error| {
            if error.kind() == io::ErrorKind::Interrupted {
                return error;
            }
            self.failure.set(Some(error));
            io::ErrorKind::Other.into()
        })
    }
}

/// Open a file that can be read without waiting for somebody who may never come.
fn open(path: &Path) -> io::Result<File> {
    #[cfg(unix)]
    {
        use std::os::unix::fs::FileTypeExt as _;
        // What shells put in the place of a command, and standard input, have a writer.
        let has_writer = path.starts_with("/dev") || path.starts_with("/proc");
        if std::fs::metadata(path)?.file_type().is_fifo() && !has_writer {
            let why = "it is a named pipe: give it as standard input";
            return Err(io::Error::new(io::ErrorKind::InvalidInput, why));
        }
    }
    File::open(path)
}

/// The text that `source` holds, compressed or not, refused where it is too long.
fn text_of<'a>(source: impl Read + 'a) -> io::Result<Box<dyn Read + 'a>> {
    let mut source = Limited { inner: source, left: MAX_FILE_BYTES };
    let mut start = Vec::new();
    source.by_ref().take(FRAME_HEADER).read_to_end(&mut start)?;
    if !start.starts_with(&MAGIC) {
        return Ok(Box::new(io::Cursor::new(start).chain(source)));
    }
    // What a file claims to hold is refused before it is held.
    if zstd::zstd_safe::get_frame_content_size(&start).is_ok_and(|claim| claim > Some(MAX_FILE_BYTES)) {
        return Err(io::Error::other(Fault::TooLarge));
    }
    let mut decoder = zstd::Decoder::new(io::Cursor::new(start).chain(source))?;
    decoder.window_log_max(WINDOW_LOG)?;
    Ok(Box::new(Limited { inner: Decoded(decoder), left: MAX_FILE_BYTES }))
}

/// What is wrong with the bytes of a file, on its way through the readers as an `io::Error`.
#[derive(Debug, thiserror::Error)]
pub(super) enum Fault {
    #[error("too large")]
    TooLarge,
    #[error("{0}")]
    Damaged(String),
}

/// Reads, or writes, so many bytes and no more.
pub(super) struct Limited<T> {
    pub inner: T,
    pub left: u64,
}

impl<R: Read> Read for Limited<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if buffer.is_empty() {
            return Ok(0);
        }
        if self.left == 0 {
            return match self.inner.read(&mut [0])? {
                0 => Ok(0),
                _ => Err(io::Error::other(Fault::TooLarge)),
            };
        }
        let most = buffer.len().min(usize::try_from(self.left).unwrap_or(usize::MAX));
        let read = self.inner.read(&mut buffer[..most])?;
        self.left -= read as u64;
        Ok(read)
    }
}

impl<W: io::Write> io::Write for Limited<W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let left = self.left.checked_sub(bytes.len() as u64);
        self.left = left.ok_or_else(|| io::Error::other(Fault::TooLarge))?;
        self.inner.write_all(bytes)?;
        Ok(bytes.len())
    }
    fn flush(&mut self) -> io::Result<()> {
        self.inner.flush()
    }
}

/// Tells damaged data from what the operating system says.
struct Decoded<R>(R);

impl<R: Read> Read for Decoded<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        self.0.read(buffer).map_err(|error| {
            let passed_on = error.raw_os_error().is_some() || error.get_ref().is_some_and(|inner| inner.is::<Fault>());
            if passed_on { error } else { io::Error::other(Fault::Damaged(error.to_string())) }
        })
    }
}
