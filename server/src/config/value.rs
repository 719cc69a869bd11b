//! Values of settings: what each kind takes, in the help, on the command line, in the environment and in the file.

use std::fmt;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use toml::de::DeValue;

use crate::args::parse_bytes;

/// What a setting takes.
#[derive(Debug, Clone, Copy)]
pub(super) enum Kind {
    Address,
    /// `off`: that door stays shut.
    AddressOrOff,
    File,
    Folders,
    Flag,
    Number(u64, u64),
    /// `none`: no limit.
    NumberOrNone(u64, u64),
    Seconds(f64, f64),
    Bytes,
    BytesOrNone,
    /// These, and how the help shows them.
    Word(&'static [&'static str], &'static str),
}

/// A value that was understood.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Value {
    Address(SocketAddr),
    Path(PathBuf),
    Paths(Vec<PathBuf>),
    Flag(bool),
    Number(u64),
    Seconds(Duration),
    Word(&'static str),
    /// `off`, `none`.
    Nothing,
}

impl fmt::Display for Value {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Value::Address(address) => write!(f, "{address}"),
            Value::Path(path) => write!(f, "{}", path.display()),
            Value::Paths(paths) => {
                let paths = paths.iter().map(|path| path.display().to_string());
                write!(f, "{}", paths.collect::<Vec<_>>().join(":"))
            }
            Value::Flag(flag) => write!(f, "{flag}"),
            Value::Number(number) => write!(f, "{number}"),
            Value::Seconds(duration) => write!(f, "{}", duration.as_secs_f64()),
            Value::Word(word) => write!(f, "{word}"),
            Value::Nothing => write!(f, "none"),
        }
    }
}

/// `2GiB`, or the plain number where no unit fits exactly.
pub(super) fn show_bytes(bytes: u64) -> String {
    [("GiB", 30), ("MiB", 20), ("KiB", 10)]
        .into_iter()
        .find(|(_, shift)| bytes > 0 && bytes.trailing_zeros() >= *shift)
        .map_or_else(|| bytes.to_string(), |(unit, shift)| format!("{}{unit}", bytes >> shift))
}

impl Kind {
    /// Name of the value in the help.
    pub(super) fn value_name(self) -> &'static str {
        match self {
            Kind::Address => "ADDRESS",
            Kind::AddressOrOff => "ADDRESS|off",
            Kind::File => "FILE",
            Kind::Folders => "DIR",
            Kind::Flag => "true|false",
            Kind::Number(..) => "N",
            Kind::NumberOrNone(..) => "N|none",
            Kind::Seconds(..) => "SECONDS",
            Kind::Bytes => "SIZE",
            Kind::BytesOrNone => "SIZE|none",
            Kind::Word(_, name) => name,
        }
    }

    /// What is expected, in words.
    pub(super) fn expected(self) -> String {
        match self {
            Kind::Address => "an address and a port such as 127.0.0.1:5434".to_owned(),
            Kind::AddressOrOff => "an address and a port such as 127.0.0.1:5433, or off".to_owned(),
            Kind::File => "the path of a file".to_owned(),
            Kind::Folders => "paths of folders".to_owned(),
            Kind::Flag => "true or false".to_owned(),
            Kind::Number(least, most) => format!("a whole number from {least} to {most}"),
            Kind::NumberOrNone(least, most) => format!("a whole number from {least} to {most}, or none"),
            Kind::Seconds(least, most) => format!("a number of seconds from {least} to {most}"),
            Kind::Bytes => "a size such as 512MiB or 4GiB".to_owned(),
            Kind::BytesOrNone => "a size such as 512MiB or 4GiB, or none".to_owned(),
            Kind::Word(words, _) => format!("one of {}", words.join(", ")),
        }
    }

    /// Reads what stands after an option, or in the environment.
    pub(super) fn read(self, text: &str) -> Option<Value> {
        let off = |word: &str| text.eq_ignore_ascii_case(word).then_some(Value::Nothing);
        match self {
            Kind::Address => text.parse().ok().map(Value::Address),
            Kind::AddressOrOff => off("off").or_else(|| text.parse().ok().map(Value::Address)),
            Kind::File => (!text.is_empty()).then(|| Value::Path(text.into())),
            Kind::Folders => {
                let folders = text.split(':').filter(|folder| !folder.is_empty());
                Some(Value::Paths(folders.map(PathBuf::from).collect()))
            }
            Kind::Flag => match text.to_ascii_lowercase().as_str() {
                "true" | "yes" | "on" | "1" => Some(Value::Flag(true)),
                "false" | "no" | "off" | "0" => Some(Value::Flag(false)),
                _ => None,
            },
            Kind::Number(least, most) => {
                let number = text.parse().ok().filter(|number| (least..=most).contains(number));
                number.map(Value::Number)
            }
            Kind::NumberOrNone(least, most) => off("none").or_else(|| Kind::Number(least, most).read(text)),
            Kind::Seconds(least, most) => {
                let seconds = text.parse::<f64>().ok().filter(|seconds| (least..=most).contains(seconds))?;
                Duration::try_from_secs_f64(seconds).ok().map(Value::Seconds)
            }
            Kind::Bytes => parse_bytes(text).ok().map(|bytes| Value::Number(bytes as u64)),
            Kind::BytesOrNone => off("none").or_else(|| Kind::Bytes.read(text)),
            Kind::Word(words, _) => words.iter().find(|word| word.eq_ignore_ascii_case(text)).copied().map(Value::Word),
        }
    }

    /// Reads a value of the file: a number where one is expected, text where that is.
    pub(super) fn read_toml(self, value: &DeValue<'_>) -> Option<Value> {
        match (self, value) {
            (Kind::Flag, DeValue::Boolean(flag)) => Some(Value::Flag(*flag)),
            (Kind::Folders, DeValue::Array(values)) => {
                let path = |value: &DeValue<'_>| value.as_str().filter(|path| !path.is_empty()).map(PathBuf::from);
                Some(Value::Paths(values.iter().map(|value| path(value.get_ref())).collect::<Option<_>>()?))
            }
            (
                Kind::Number(..) | Kind::NumberOrNone(..) | Kind::Seconds(..) | Kind::Bytes | Kind::BytesOrNone,
                DeValue::Integer(number),
            ) => {
                let number = u64::from_str_radix(number.as_str(), number.radix()).ok()?;
                self.read(&number.to_string())
            }
            (Kind::Seconds(..), DeValue::Float(number)) => self.read(number.as_str()),
            (Kind::Address | Kind::AddressOrOff | Kind::File | Kind::Word(..), DeValue::String(text)) => {
                self.read(text)
            }
            (Kind::Bytes | Kind::BytesOrNone, DeValue::String(text)) => self.read(text),
            (Kind::NumberOrNone(..), DeValue::String(text)) => self.read(text).filter(|value| *value == Value::Nothing),
            _ => None,
        }
    }
}
