//! What the versioned file formats share: reading, whole writes, headers, errors.

use std::fmt;
use std::io::Write as _;
use std::marker::PhantomData;
use std::path::Path;

use serde::de::{DeserializeOwned, Error as _, SeqAccess, Visitor};
use serde::{Deserialize, Deserializer};

use crate::error::{Error, Result};

/// Read a whole text file.
pub(crate) fn read(path: &Path) -> Result<String> {
    std::fs::read_to_string(path).map_err(|source| Error::Io { action: "read", path: path.to_owned(), source })
}

/// Write a file whole or not at all: a reader never sees half of it.
pub(crate) fn write(path: &Path, text: &str) -> Result<()> {
    let io = |source| Error::Io { action: "write", path: path.to_owned(), source };
    // A device or a pipe cannot be replaced by a rename.
    if std::fs::metadata(path).is_ok_and(|m| !m.is_file()) {
        let mut file = std::fs::OpenOptions::new().write(true).open(path).map_err(io)?;
        return file.write_all(text.as_bytes()).map_err(io);
    }
    let mut part = path.as_os_str().to_owned();
    part.push(format!(".{}.part", std::process::id()));
    let part = Path::new(&part);
    std::fs::write(part, text).and_then(|()| std::fs::rename(part, path)).map_err(|source| {
        let _ = std::fs::remove_file(part);
        io(source)
    })
}

/// Parse JSON, naming the file and the place of a fault.
pub(crate) fn parse<T: DeserializeOwned>(text: &str, file: &str, expected: &'static str) -> Result<T> {
    serde_json::from_str(text).map_err(|e| Error::Format { file: file.to_owned(), expected, why: e.to_string() })
}

/// Read a list whose faults name the entry at fault: `op12: missing field ...`. (The JSON reader
/// adds line and column, which say little in a file of one line.)
pub(crate) fn entries<'de, D, T>(deserializer: D, entry: fn(usize) -> String) -> Result<Vec<T>, D::Error>
where
    D: Deserializer<'de>,
    T: Deserialize<'de>,
{
    struct Entries<T>(fn(usize) -> String, PhantomData<T>);
    impl<'de, T: Deserialize<'de>> Visitor<'de> for Entries<T> {
        type Value = Vec<T>;
        fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str("a list")
        }
        fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<Vec<T>, A::Error> {
            let mut items = Vec::new();
            loop {
                match list.next_element() {
                    Ok(Some(item)) => items.push(item),
                    Ok(None) => return Ok(items),
                    Err(error) => return Err(A::Error::custom(format!("{}: {error}", (self.0)(items.len())))),
                }
            }
        }
    }
    deserializer.deserialize_seq(Entries(entry, PhantomData))
}

/// Check `format` and `version` before anything else is interpreted, so that a newer file is
/// called newer and not malformed.
pub(crate) fn check_header(text: &str, file: &str, format: &'static str, supported: u64) -> Result<()> {
    #[derive(Deserialize)]
    struct Header {
        format: Option<String>,
        version: Option<u64>,
    }
    let header: Header = parse(text, file, format)?;
    let fault = |why: String| Error::Format { file: file.to_owned(), expected: format, why };
    match header.format {
        None => return Err(fault("it has no \"format\"".into())),
        Some(found) if found != format => return Err(fault(format!("its \"format\" is {found:?}"))),
        Some(_) => {}
    }
    match header.version {
        None => Err(fault("it has no \"version\"".into())),
        Some(0) => Err(fault("its \"version\" is 0; the first is 1".into())),
        Some(found) if found > supported => {
            Err(Error::NewerVersion { file: file.to_owned(), format, found, supported })
        }
        Some(_) => Ok(()),
    }
}
