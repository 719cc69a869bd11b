//! Lines for people: answers on standard output, remarks on standard error.

use std::fmt::Arguments;
use std::io::{Write, stderr, stdout};

use crate::error::{Result, io_failure};

/// Prints a line on standard output; an error if it cannot be written, also if nobody reads it any more.
macro_rules! say {
    ($($text:tt)*) => { $crate::say::to_stdout(format_args!($($text)*)) };
}

/// Prints a line on standard error; nobody is there to be told if that fails.
macro_rules! remark {
    ($($text:tt)*) => { $crate::say::to_stderr(format_args!($($text)*)) };
}

pub(crate) use {remark, say};

/// What `say!` does.
///
/// # Errors
/// What standard output says; see [`crate::error::Failure::is_reader_gone`].
pub(crate) fn to_stdout(text: Arguments<'_>) -> Result<()> {
    writeln!(stdout().lock(), "{text}").map_err(|error| io_failure("standard output", &error))
}

/// What `remark!` does.
pub(crate) fn to_stderr(text: Arguments<'_>) {
    let _ = writeln!(stderr().lock(), "{text}");
}
