//! Settings of a model: names and values as text, checked when a configuration is made of them.

use std::collections::BTreeMap;
use std::fmt::Display;
use std::ops::RangeInclusive;
use std::str::FromStr;

use super::spec;
use crate::error::{Error, Result};

/// One setting of a model.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Setting {
    /// Its name, as in `--set name=value`.
    pub name: &'static str,
    /// Its value when none is given.
    pub default: &'static str,
    /// Its value in the preset for tests, see [`Settings::tiny`].
    pub tiny: &'static str,
    /// What it sets.
    pub about: &'static str,
}

/// A model of the zoo and the settings it takes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Spec {
    /// The model's name.
    pub name: &'static str,
    /// What it is.
    pub about: &'static str,
    /// The settings it takes, in the order its documentation gives them.
    pub settings: &'static [Setting],
}

/// Values given for a model's settings; what is not given has the model's default.
///
/// Names and values are checked when a model is made, by [`with_model`](super::with_model).
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Settings(BTreeMap<String, String>);

impl Settings {
    /// No settings: a model with all its defaults.
    pub fn new() -> Self {
        Self::default()
    }

    /// The preset of the model `name` for tests: one training step takes milliseconds.
    pub fn tiny(name: &str) -> Result<Self> {
        let settings = spec(name)?.settings;
        Ok(Self(settings.iter().map(|setting| (setting.name.to_owned(), setting.tiny.to_owned())).collect()))
    }

    /// Adds or replaces one setting.
    #[must_use]
    pub fn set(mut self, name: impl Into<String>, value: impl Display) -> Self {
        self.0.insert(name.into(), value.to_string());
        self
    }

    /// Adds or replaces settings given as `name=value`, the later of two with one name winning.
    pub fn with<T: AsRef<str>>(mut self, pairs: impl IntoIterator<Item = T>) -> Result<Self> {
        for pair in pairs {
            let pair = pair.as_ref();
            let (name, value) = match pair.split_once('=') {
                Some((name, value)) if !name.trim().is_empty() => (name.trim(), value.trim()),
                _ => return Err(invalid(pair, "write a setting as name=value".to_owned())),
            };
            self.0.insert(name.to_owned(), value.to_owned());
        }
        Ok(self)
    }

    /// The settings given, by name.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &str)> {
        self.0.iter().map(|(name, value)| (name.as_str(), value.as_str()))
    }

    /// Refuses a setting that `spec` does not have.
    pub(super) fn only_those_of(&self, spec: &Spec) -> Result<()> {
        let stranger = self.0.keys().find(|name| spec.settings.iter().all(|setting| setting.name != name.as_str()));
        match stranger {
            None => Ok(()),
            Some(name) => {
                let known = spec.settings.iter().map(|setting| setting.name).collect::<Vec<_>>().join(", ");
                Err(invalid(name, format!("{} has no such setting; it has: {known}", spec.name)))
            }
        }
    }

    /// The value of `name`, or `default`.
    pub(super) fn get<T: FromStr>(&self, name: &str, default: T) -> Result<T> {
        let Some(text) = self.0.get(name) else { return Ok(default) };
        text.parse().map_err(|_| {
            let kind = match std::any::type_name::<T>() {
                "usize" => "a whole number, zero or more",
                "bool" => "`true` or `false`",
                _ => "a number",
            };
            invalid(name, format!("`{text}` is not {kind}"))
        })
    }
}

/// Refuses a value outside `range`.
pub(super) fn within<T: PartialOrd + Display>(name: &str, value: &T, range: &RangeInclusive<T>) -> Result<()> {
    match range.contains(value) {
        true => Ok(()),
        false => Err(invalid(name, format!("{value} is not between {} and {}", range.start(), range.end()))),
    }
}

/// Refuses a setting unless `holds`.
pub(super) fn require(holds: bool, name: &str, why: impl FnOnce() -> String) -> Result<()> {
    match holds {
        true => Ok(()),
        false => Err(invalid(name, why())),
    }
}

/// The error for the setting `name`.
pub(super) fn invalid(name: &str, why: String) -> Error {
    Error::InvalidSetting { name: name.to_owned(), why }
}

/// Declares a model's configuration: a struct with public fields, its defaults, a setter per field, and
/// its [`Spec`], all from one list of `field: type = default, value in the tiny preset, allowed range;`.
///
/// The type also needs a method `consistent(&self) -> Result<()>` for what ranges cannot say.
macro_rules! config {
    (
        $(#[doc = $about:literal])+
        pub struct $config:ident($name:literal) -> $model:ty {
            $($(#[doc = $doc:literal])+ $field:ident: $kind:ty = $default:literal, $tiny:literal, $range:expr;)+
        }
    ) => {
        $(#[doc = $about])+
        #[derive(Clone, Debug, PartialEq)]
        pub struct $config {
            $($(#[doc = $doc])+ pub $field: $kind,)+
        }

        impl Default for $config {
            fn default() -> Self {
                Self { $($field: $default),+ }
            }
        }

        impl $config {
            /// The preset for tests: one training step takes milliseconds.
            pub fn tiny() -> Self {
                Self { $($field: $tiny),+ }
            }

            $($(#[doc = $doc])+
            #[must_use]
            pub fn $field(mut self, $field: $kind) -> Self {
                self.$field = $field;
                self
            })+
        }

        impl $crate::zoo::Configured for $config {
            type Model = $model;

            const SPEC: $crate::zoo::Spec = $crate::zoo::Spec {
                name: $name,
                about: concat!($($about),+).trim_ascii(),
                settings: &[$($crate::zoo::Setting {
                    name: stringify!($field),
                    default: stringify!($default),
                    tiny: stringify!($tiny),
                    about: concat!($($doc),+).trim_ascii(),
                }),+],
            };

            fn from_settings(settings: &$crate::zoo::Settings) -> $crate::error::Result<Self> {
                settings.only_those_of(&Self::SPEC)?;
                let config = Self { $($field: settings.get(stringify!($field), $default)?),+ };
                config.validate()?;
                Ok(config)
            }

            fn validate(&self) -> $crate::error::Result<()> {
                $($crate::zoo::settings::within(stringify!($field), &self.$field, &($range))?;)+
                self.consistent()
            }

            fn model(&self, device: &burn::tensor::Device) -> Self::Model {
                self.init(device)
            }

            fn data(
                &self,
                seed: u64,
                device: &burn::tensor::Device,
            ) -> <Self::Model as $crate::zoo::ZooModel>::Inputs {
                self.data(seed, device)
            }
        }
    };
}
pub(super) use config;
