//! The settings as options of the command line.

use std::collections::BTreeMap;
use std::fmt;
use std::path::PathBuf;

use clap::builder::{PathBufValueParser, TypedValueParser};
use clap::parser::ValueSource;
use clap::{Arg, ArgAction, ArgMatches, Command, FromArgMatches};

use super::settings::SETTINGS;
use super::value::{Kind, Value};

/// Where a value comes from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Source {
    Default,
    File { path: PathBuf, line: usize },
    Environment(String),
    Option(String),
}

impl fmt::Display for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Source::Default => write!(f, "default"),
            Source::File { path, line } => write!(f, "{}, line {line}", path.display()),
            Source::Environment(variable) => write!(f, "{variable}"),
            Source::Option(option) => write!(f, "--{option}"),
        }
    }
}

/// What was said on the command line, by key.
#[derive(Debug, Clone, Default)]
pub(crate) struct Given(pub(super) BTreeMap<&'static str, (Value, Source)>);

impl Given {
    /// As `--postgres off`.
    pub(crate) fn no_postgres(&mut self) {
        self.0.insert("postgres", (Value::Nothing, Source::Option("no-postgres".to_owned())));
    }
}

impl clap::Args for Given {
    fn augment_args(command: Command) -> Command {
        command.args(SETTINGS.iter().filter(|setting| !setting.global).map(|setting| {
            let kind = setting.kind;
            let read = move |text: &str| kind.read(text).ok_or_else(|| format!("expected {}", kind.expected()));
            let arg = match kind {
                // A path need not be UTF-8, and may hold a colon.
                Kind::File => Arg::new(setting.key).value_parser(PathBufValueParser::new().map(Value::Path)),
                Kind::Folders => Arg::new(setting.key)
                    .value_parser(PathBufValueParser::new().map(|folder| Value::Paths(vec![folder]))),
                _ => Arg::new(setting.key).value_parser(read),
            };
            let arg = arg
                .long(setting.option())
                .value_name(kind.value_name())
                .help(match kind {
                    Kind::Flag => setting.help.to_owned(),
                    _ => format!("{} [default: {}]", setting.help, setting.default_shown()),
                })
                .help_heading(setting.section);
            match kind {
                // `--write`, and `--write=false` against a file that says otherwise.
                Kind::Flag => arg.num_args(0..=1).require_equals(true).default_missing_value("true"),
                Kind::Folders => arg.action(ArgAction::Append),
                _ => arg,
            }
        }))
    }

    fn augment_args_for_update(command: Command) -> Command {
        Self::augment_args(command)
    }
}

impl FromArgMatches for Given {
    fn from_arg_matches(matches: &ArgMatches) -> Result<Self, clap::Error> {
        let mut given = Self::default();
        for setting in SETTINGS {
            let value = if setting.global {
                let number = matches.try_get_one::<usize>(setting.key).ok().flatten();
                number.map(|number| Value::Number(*number as u64))
            } else if matches!(setting.kind, Kind::Folders) {
                matches.get_many::<Value>(setting.key).map(|values| {
                    let folders = values.flat_map(|value| match value {
                        Value::Paths(paths) => paths.clone(),
                        _ => Vec::new(),
                    });
                    Value::Paths(folders.collect())
                })
            } else {
                matches.get_one::<Value>(setting.key).cloned()
            };
            let Some(value) = value else { continue };
            let source = match matches.value_source(setting.key) {
                Some(ValueSource::EnvVariable) => Source::Environment(setting.variable()),
                _ => Source::Option(setting.option().to_owned()),
            };
            given.0.insert(setting.key, (value, source));
        }
        Ok(given)
    }

    fn update_from_arg_matches(&mut self, matches: &ArgMatches) -> Result<(), clap::Error> {
        self.0.extend(Self::from_arg_matches(matches)?.0);
        Ok(())
    }
}
