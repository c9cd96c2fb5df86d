//! Settings of the authors' own code, as they are written in its files.

use serde::de::DeserializeOwned;
use serde_json::Value;

use crate::error::{Error, Result};

/// The settings of one model.
pub(crate) struct Settings<'a> {
    of: &'static str,
    value: &'a Value,
}

impl<'a> Settings<'a> {
    /// Refuses settings that would change the model and are not known.
    pub fn new(of: &'static str, value: &'a Value, known: &[&str]) -> Result<Self> {
        let settings = Self { of, value };
        let Some(all) = value.as_object() else { return Err(settings.refused(format!("are {value}, not named"))) };
        match all.keys().find(|name| !known.contains(&name.as_str())) {
            Some(name) => Err(settings.refused(format!("have {name:?}, which is not known; known are {known:?}"))),
            None => Ok(settings),
        }
    }

    pub fn refused(&self, message: String) -> Error {
        Error::Config { message: format!("the settings of {} {message}", self.of) }
    }

    /// A setting that there is: Python's `None` is none, and YAML reads it as a text.
    fn get(&self, name: &str) -> Option<&'a Value> {
        self.value.get(name).filter(|value| !value.is_null() && *value != "None")
    }

    pub fn has(&self, name: &str) -> bool {
        self.get(name).is_some()
    }

    /// A setting, or what the code has where nothing is said.
    pub fn or<T: DeserializeOwned>(&self, name: &str, default: T) -> Result<T> {
        if self.has(name) { self.required(name) } else { Ok(default) }
    }

    pub fn required<T: DeserializeOwned>(&self, name: &str) -> Result<T> {
        let value = self.get(name).ok_or_else(|| self.refused(format!("lack {name:?}")))?;
        serde_json::from_value(value.clone()).map_err(|error| self.refused(format!("have {name} {value}: {error}")))
    }
}
