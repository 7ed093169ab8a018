//! What the versioned file formats share: headers, lists, errors; reading and whole writes.
//!
//! A file is JSON text, or such text compressed with Zstandard. Which of the two is told by how it
//! begins, whatever it is called; what is written is compressed where its name ends in `.zst`.
//! What is read goes through a buffer into typed entries, so that neither the text nor a tree of it
//! lies in memory, and is bounded: [`MAX_FILE_BYTES`], [`MAX_ENTRIES`].
//!
//! Every file says its format and version. A reader takes every version up to its own and refuses
//! what is newer before it looks at anything else, so that a newer file is called newer and not
//! malformed.

mod read;
mod write;

use std::fmt;
use std::io::Read;
use std::marker::PhantomData;

use serde::de::{DeserializeOwned, Error as _, IgnoredAny, MapAccess, SeqAccess, Visitor};
use serde::{Deserialize, Deserializer};

use crate::error::{Error, Result, shortened};

pub(crate) use write::write;

/// The most bytes of text that a file may hold, be it compressed or not: room for about a million
/// ops. More is refused while it is read, with [`Error::TooLarge`].
pub const MAX_FILE_BYTES: u64 = 256 << 20;

/// The most values, ops, steps or measurements that a file may list.
pub const MAX_ENTRIES: usize = 1 << 21;

/// A file format, and the newest version of it that is read and written.
pub(crate) struct Format {
    pub name: &'static str,
    pub version: u64,
}

impl Format {
    /// Read from text that is in memory; `file` names it in errors.
    pub(crate) fn text<T: DeserializeOwned>(&self, text: &str, file: &str) -> Result<T> {
        let fault = |error: serde_json::Error| self.malformed(file, error.to_string());
        self.accept(Header::of(text.as_bytes()).map_err(fault)?, file)?;
        serde_json::from_str(text).map_err(fault)
    }

    fn malformed(&self, file: &str, why: String) -> Error {
        // It may quote the file, and ends in a place.
        let begin = why.char_indices().nth(300).map(|(at, _)| at);
        let end = why.char_indices().rev().nth(99).map(|(at, _)| at);
        let why = match begin.zip(end) {
            Some((from, to)) if from < to => format!("{} ... {}", &why[..from], &why[to..]),
            _ => why,
        };
        Error::Format { file: file.to_owned(), expected: self.name, why }
    }

    /// Whether it is this format, in a version that is understood.
    fn accept(&self, header: Header, file: &str) -> Result<()> {
        let fault = |why: String| Err(self.malformed(file, why));
        match header.format {
            None => return fault("it has no \"format\"".into()),
            Some(found) if found != self.name => {
                return fault(format!("its \"format\" is {:?}", shortened(&found)));
            }
            Some(_) => {}
        }
        match header.version {
            None => fault("it has no \"version\"".into()),
            Some(0) => fault("its \"version\" is 0; the first is 1".into()),
            Some(found) if found > self.version => {
                let (file, format, supported) = (file.to_owned(), self.name, self.version);
                Err(Error::NewerVersion { file, format, found, supported })
            }
            Some(_) => Ok(()),
        }
    }
}

/// What a text says it is.
#[derive(Default)]
struct Header {
    format: Option<String>,
    version: Option<u64>,
}

#[derive(Deserialize)]
#[serde(field_identifier, rename_all = "lowercase")]
enum Key {
    Format,
    Version,
    #[serde(other)]
    Other,
}

impl Header {
    /// Read no further than to the second of the two, which mostly stand first. What follows is not
    /// looked at.
    fn of(text: impl Read) -> serde_json::Result<Self> {
        let mut header = Self::default();
        let mut deserializer = serde_json::Deserializer::from_reader(text);
        let read = deserializer.deserialize_map(&mut header).and_then(|()| deserializer.end());
        if header.format.is_some() && header.version.is_some() {
            return Ok(header);
        }
        read.map(|()| header)
    }
}

impl<'de> Visitor<'de> for &mut Header {
    type Value = ();
    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object with \"format\" and \"version\"")
    }
    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<(), A::Error> {
        while let Some(key) = map.next_key()? {
            match key {
                Key::Format if self.format.is_some() => return Err(A::Error::duplicate_field("format")),
                Key::Version if self.version.is_some() => return Err(A::Error::duplicate_field("version")),
                Key::Format => self.format = map.next_value()?,
                Key::Version => self.version = map.next_value()?,
                Key::Other => drop(map.next_value::<IgnoredAny>()?),
            }
            if self.format.is_some() && self.version.is_some() {
                return Ok(());
            }
        }
        Ok(())
    }
}

/// Read a list into what `make` makes of each entry. Faults name the entry: `op12: missing field ...`.
/// (The JSON reader adds line and column, which say little in a file of one line.)
pub(crate) fn entries<'de, D, T, U>(
    deserializer: D,
    entry: fn(usize) -> String,
    make: fn(T) -> U,
) -> Result<Vec<U>, D::Error>
where
    D: Deserializer<'de>,
    T: Deserialize<'de>,
{
    struct Entries<T, U>(fn(usize) -> String, fn(T) -> U, PhantomData<T>);
    impl<'de, T: Deserialize<'de>, U> Visitor<'de> for Entries<T, U> {
        type Value = Vec<U>;
        fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str("a list")
        }
        fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<Vec<U>, A::Error> {
            let mut items = Vec::new();
            loop {
                match list.next_element() {
                    Ok(Some(_)) if items.len() == MAX_ENTRIES => return Err(too_many()),
                    Ok(Some(item)) => items.push((self.1)(item)),
                    Ok(None) => return Ok(items),
                    Err(error) => return Err(A::Error::custom(format!("{}: {error}", (self.0)(items.len())))),
                }
            }
        }
    }
    deserializer.deserialize_seq(Entries(entry, make, PhantomData))
}

/// More than [`MAX_ENTRIES`].
pub(crate) fn too_many<E: serde::de::Error>() -> E {
    E::custom(format!("a list of more than {MAX_ENTRIES} entries, the most that is read"))
}
