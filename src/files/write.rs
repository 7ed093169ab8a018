//! Writing a file whole or not at all: a reader never sees half of it.

use std::fs::File;
use std::io::{self, BufWriter, Write};
use std::path::Path;

use serde::Serialize;

use super::MAX_FILE_BYTES;
use super::read::{Fault, Limited};
use crate::error::{Error, Result};

/// Zstandard's own default: a twentieth of the size of a problem, at the speed of writing its text.
const LEVEL: i32 = 3;

/// Write `content` as JSON, compressed where the name ends in `.zst`: the same bytes for the same
/// content.
pub(crate) fn write(path: &Path, content: &impl Serialize) -> Result<()> {
    let failed = |source: io::Error| match source.get_ref().is_some_and(|inner| inner.is::<Fault>()) {
        true => Error::TooLarge { file: path.display().to_string(), limit: MAX_FILE_BYTES },
        false => Error::Io { action: "write", path: path.to_owned(), source },
    };
    let compressed = path.extension().is_some_and(|end| end.eq_ignore_ascii_case("zst"));
    // A device or a pipe cannot be replaced by a rename.
    if std::fs::metadata(path).is_ok_and(|m| !m.is_file()) {
        let file = std::fs::OpenOptions::new().write(true).open(path);
        return file.and_then(|file| fill(file, content, compressed)).map_err(failed);
    }
    let mut part = path.as_os_str().to_owned();
    part.push(format!(".{}.part", std::process::id()));
    let part = Path::new(&part);
    let written = File::create(part).and_then(|file| fill(file, content, compressed));
    written.and_then(|()| std::fs::rename(part, path)).map_err(|source| {
        let _ = std::fs::remove_file(part);
        failed(source)
    })
}

fn fill(file: File, content: &impl Serialize, compressed: bool) -> io::Result<()> {
    if !compressed {
        return text(file, content).map(|_| ());
    }
    let mut encoder = zstd::Encoder::new(file, LEVEL)?;
    // So that damage is noticed.
    encoder.include_checksum(true)?;
    text(encoder, content)?.finish().map(|_| ())
}

/// The text through a buffer, since the serializer writes a few bytes at a time.
fn text<W: Write>(to: W, content: &impl Serialize) -> io::Result<W> {
    let mut out = Limited { inner: BufWriter::with_capacity(1 << 16, to), left: MAX_FILE_BYTES };
    serde_json::to_writer(&mut out, content)?;
    out.inner.into_inner().map_err(io::IntoInnerError::into_error)
}
