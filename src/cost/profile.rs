//! The measured table: what each op signature costs on one device, kept on disk.

use std::collections::BTreeMap;
use std::fmt;
use std::path::Path;

use serde::de::{Error as _, MapAccess, Visitor};
use serde::{Deserialize, Deserializer, Serialize};

use super::device::Link;
use crate::error::{Result, shortened};
use crate::files::{self, Format, MAX_ENTRIES};
use crate::units::{Bytes, Nanos};

/// Version 2 added the link, version 3 the pace.
const FORMAT: Format = Format { name: "plimsoll.profile", version: 3 };

/// What one op does on a device, as measured there.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct OpCost {
    /// Median time.
    pub time: Nanos,
    /// The most bytes held while it runs, beyond its inputs and outputs.
    pub workspace: Bytes,
    /// For each output, the index of the input whose storage it shares, if it is a view.
    pub views: Vec<Option<usize>>,
    /// `(input, output)` pairs for which the op reuses the input's storage when it may.
    pub inplace: Vec<(usize, usize)>,
    /// Size of each output's buffer.
    pub sizes: Vec<Bytes>,
    /// How each output lies in its storage; opaque outside the backend that wrote it.
    pub layouts: Vec<String>,
}

impl OpCost {
    /// Whether it makes anything that does not lie in its inputs' storages.
    pub fn computes(&self) -> bool {
        self.views.iter().any(Option::is_none)
    }

    /// Of an op that does nothing, with so many outputs.
    pub(crate) fn nothing(outputs: usize) -> Self {
        Self {
            views: vec![None; outputs],
            sizes: vec![Bytes::ZERO; outputs],
            layouts: vec![String::new(); outputs],
            ..Self::default()
        }
    }
}

/// What ops take as some of many that are asked for one after the other, by what each takes by itself.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Pace {
    /// Between one and the next; and by how much whoever asks slows down a device that shares its processor.
    pub gap: Nanos,
    /// What each takes at least: a device that is done sooner waits for whoever asks.
    pub floor: Nanos,
}

impl Pace {
    /// What an op takes in a row that takes so long by itself.
    pub fn of(&self, time: Nanos) -> Nanos {
        Nanos(time.get().saturating_add(self.gap.get())).max(self.floor)
    }
}

/// A table of op costs for one device.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Profile {
    format: String,
    version: u64,
    /// The device, and what it was measured with.
    pub device: String,
    /// Its link to host memory, if that was measured.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub link: Option<Link>,
    /// What ops that compute take in a row, if that was measured.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pace: Option<Pace>,
    #[serde(deserialize_with = "entries")]
    entries: BTreeMap<String, OpCost>,
}

/// A table in which no signature stands twice.
fn entries<'de, D: Deserializer<'de>>(deserializer: D) -> Result<BTreeMap<String, OpCost>, D::Error> {
    struct Entries;
    impl<'de> Visitor<'de> for Entries {
        type Value = BTreeMap<String, OpCost>;
        fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str("a table of op signatures")
        }
        fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
            let mut entries = BTreeMap::new();
            while let Some(signature) = map.next_key::<String>()? {
                let short = shortened(&signature).into_owned();
                let at = |error: A::Error| A::Error::custom(format!("{short:?}: {error}"));
                let cost = map.next_value().map_err(at)?;
                if entries.insert(signature, cost).is_some() {
                    return Err(A::Error::custom(format!("{short:?} stands in it twice")));
                }
                if entries.len() > MAX_ENTRIES {
                    return Err(files::too_many());
                }
            }
            Ok(entries)
        }
    }
    deserializer.deserialize_map(Entries)
}

impl Profile {
    /// An empty table.
    pub fn new(device: impl Into<String>) -> Self {
        Self {
            format: FORMAT.name.to_owned(),
            version: FORMAT.version,
            device: device.into(),
            link: None,
            pace: None,
            entries: BTreeMap::new(),
        }
    }

    /// The cost of an op signature, if it was measured.
    pub fn get(&self, signature: &str) -> Option<&OpCost> {
        self.entries.get(signature)
    }

    /// Record a measurement.
    pub fn insert(&mut self, signature: String, cost: OpCost) {
        self.entries.insert(signature, cost);
    }

    /// Number of signatures.
    pub fn len(&self) -> usize {
        self.entries.len()
    }

    /// Whether nothing was measured yet.
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// Read a profile from JSON text; `file` names it in errors.
    ///
    /// # Errors
    /// [`Error::Format`](crate::Error::Format) or [`Error::NewerVersion`](crate::Error::NewerVersion).
    pub fn from_json(text: &str, file: &str) -> Result<Self> {
        FORMAT.text(text, file).map(Self::renewed)
    }

    /// Read a profile file, compressed with Zstandard or not.
    ///
    /// # Errors
    /// [`Error::Io`](crate::Error::Io), [`Error::TooLarge`](crate::Error::TooLarge), and those of
    /// [`from_json`](Self::from_json).
    pub fn load(path: impl AsRef<Path>) -> Result<Self> {
        FORMAT.load(path.as_ref()).map(Self::renewed)
    }

    /// What an older version left out has its default; what is written is of the newest version.
    fn renewed(self) -> Self {
        Self { version: FORMAT.version, ..self }
    }

    /// Write a profile file, whole or not at all; compressed where its name ends in `.zst`.
    ///
    /// # Errors
    /// [`Error::Io`](crate::Error::Io), [`Error::TooLarge`](crate::Error::TooLarge).
    pub fn save(&self, path: impl AsRef<Path>) -> Result<()> {
        files::write(path.as_ref(), self)
    }
}
