//! The measured table: what each op signature costs on one device, kept on disk.

use std::collections::BTreeMap;
use std::path::Path;

use serde::{Deserialize, Serialize};

use super::device::Link;
use crate::error::Result;
use crate::files;
use crate::units::{Bytes, Nanos};

const FORMAT: &str = "plimsoll.profile";
/// 2 added the link.
const VERSION: u64 = 2;

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
    entries: BTreeMap<String, OpCost>,
}

impl Profile {
    /// An empty table.
    pub fn new(device: impl Into<String>) -> Self {
        Self {
            format: FORMAT.to_owned(),
            version: VERSION,
            device: device.into(),
            link: None,
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

    /// Read a profile file.
    ///
    /// # Errors
    /// [`Error::Io`](crate::Error::Io), [`Error::Format`](crate::Error::Format) or
    /// [`Error::NewerVersion`](crate::Error::NewerVersion).
    pub fn load(path: impl AsRef<Path>) -> Result<Self> {
        let path = path.as_ref();
        let (text, file) = (files::read(path)?, path.display().to_string());
        files::check_header(&text, &file, FORMAT, VERSION)?;
        files::parse(&text, &file, FORMAT)
    }

    /// Write a profile file, whole or not at all.
    ///
    /// # Errors
    /// [`Error::Io`](crate::Error::Io).
    pub fn save(&self, path: impl AsRef<Path>) -> Result<()> {
        let text = serde_json::to_string(self).expect("a profile is plain data");
        files::write(path.as_ref(), &text)
    }
}
