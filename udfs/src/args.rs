//! Reading literals and column arguments, with good messages.
//!
//! A table function's arguments are constants: some by position, some by name. SQL writes the latter as
//! `min_docs => 10`; the statement layer hands them over as `named_argument('min_docs', 10)`, because the SQL planner
//! knows no named arguments of table functions. Each argument is declared by reading it, so that the list of valid
//! options in messages is the list of options that are read:
//!
//! ```
//! use datafusion::prelude::{Expr, lit};
//! use saequel_udfs::args::{Arguments, named_argument};
//!
//! let exprs = [lit("answers"), named_argument("k", lit(5))];
//! let mut args = Arguments::parse("retrieve", &exprs)?;
//! let set = args.positional("set").required_text()?;
//! let k = args.named("k").count_or(10)?;
//! args.finish()?;
//! assert_eq!((set.as_str(), k), ("answers", 5));
//! # Ok::<(), datafusion::error::DataFusionError>(())
//! ```

use std::fmt::Write;

use arrow::array::AsArray;
use arrow::datatypes::DataType;
use datafusion::common::{ScalarValue, plan_err};
use datafusion::error::Result;
use datafusion::logical_expr::expr::ScalarFunction;
use datafusion::logical_expr::{ColumnarValue, Expr, lit};

use crate::scalar::named_argument::named_argument_udf;

/// Name of the scalar function that carries a named argument.
pub const NAMED_ARGUMENT: &str = "named_argument";

/// The expression that stands for `name => value` in a call of a table function.
pub fn named_argument(name: &str, value: Expr) -> Expr {
    named_argument_udf().call(vec![lit(name), value])
}

/// Arguments of one call of a table function.
#[derive(Debug)]
pub struct Arguments {
    function: &'static str,
    positional: Vec<ScalarValue>,
    named: Vec<(String, ScalarValue)>,
    /// Names declared so far, in order; the first ones may come by position.
    declared: Vec<&'static str>,
    /// How many of the declared may come by position.
    n_positional: usize,
}

impl Arguments {
    /// Reads the arguments of `function`, which must be constants.
    ///
    /// # Errors
    /// If one is not a constant, an option comes twice, or a positional one follows a named one.
    pub fn parse(function: &'static str, exprs: &[Expr]) -> Result<Self> {
        let mut positional = Vec::new();
        let mut named: Vec<(String, ScalarValue)> = Vec::new();
        for expr in exprs {
            match unaliased(expr) {
                Expr::ScalarFunction(ScalarFunction { func, args }) if func.name() == NAMED_ARGUMENT => {
                    let [name, value] = args.as_slice() else {
                        return plan_err!("{function}: expected a name and a value in {expr}");
                    };
                    let Some(name) = literal(name).and_then(|name| name.try_as_str().flatten()) else {
                        return plan_err!("{function}: expected the name of an option, got {name}");
                    };
                    let name = name.to_lowercase();
                    let Some(value) = literal(value) else {
                        return plan_err!("{function}: expected a constant for option '{name}', got {value}");
                    };
                    if named.iter().any(|(other, _)| *other == name) {
                        return plan_err!("{function}: option '{name}' is given twice");
                    }
                    named.push((name, value.clone()));
                }
                expr => {
                    let Some(value) = literal(expr) else {
                        return plan_err!(
                            "{function}: expected a constant as argument {}, got {expr}",
                            positional.len() + 1
                        );
                    };
                    if let Some((name, _)) = named.last() {
                        return plan_err!("{function}: argument {value} without a name comes after option '{name}'");
                    }
                    positional.push(value.clone());
                }
            }
        }
        Ok(Self { function, positional, named, declared: Vec::new(), n_positional: 0 })
    }

    /// Reads the next argument by position, or the one with this name. Call before [`Self::named`].
    pub fn positional(&mut self, name: &'static str) -> Argument {
        let position = self.n_positional;
        self.n_positional += 1;
        let by_position = self.positional.get(position).cloned();
        self.declare(name, by_position)
    }

    /// Reads the option with this name.
    pub fn named(&mut self, name: &'static str) -> Argument {
        self.declare(name, None)
    }

    fn declare(&mut self, name: &'static str, by_position: Option<ScalarValue>) -> Argument {
        self.declared.push(name);
        let value = by_position.or_else(|| self.named.iter().find(|(n, _)| n == name).map(|(_, value)| value.clone()));
        Argument { function: self.function, name, value: value.filter(|value| !value.is_null()) }
    }

    /// Checks that nothing was given that was not read.
    ///
    /// # Errors
    /// For an unknown option (with the nearest name and all valid ones), for too many arguments, and for one that is
    /// given by position and by name.
    pub fn finish(self) -> Result<()> {
        let function = self.function;
        if self.positional.len() > self.n_positional {
            let expected = self.declared[..self.n_positional].join(", ");
            return plan_err!(
                "{function}: expected at most {} arguments without a name ({expected}), got {}",
                self.n_positional,
                self.positional.len()
            );
        }
        for (name, _) in &self.named {
            match self.declared.iter().position(|declared| declared == name) {
                None => {
                    let hint = did_you_mean(name, self.declared.iter().copied());
                    let valid = self.declared.join(", ");
                    return plan_err!("{function}: unknown option '{name}'{hint}; options are {valid}");
                }
                Some(position) if position < self.positional.len() => {
                    return plan_err!("{function}: argument '{name}' is given by position and by name");
                }
                Some(_) => {}
            }
        }
        Ok(())
    }
}

/// One argument, given or not. Null counts as not given.
#[derive(Debug, Clone)]
pub struct Argument {
    function: &'static str,
    name: &'static str,
    value: Option<ScalarValue>,
}

impl Argument {
    /// Whether it was given.
    pub fn is_given(&self) -> bool {
        self.value.is_some()
    }

    fn wrong<T>(&self, expected: &str, value: &ScalarValue) -> Result<T> {
        plan_err!("{}: expected {expected} for '{}', got {}", self.function, self.name, show(value))
    }

    /// Text, if given.
    ///
    /// # Errors
    /// If it is no text.
    pub fn text(&self) -> Result<Option<String>> {
        match &self.value {
            None => Ok(None),
            Some(value) => match value.try_as_str() {
                Some(Some(text)) => Ok(Some(text.to_string())),
                _ => self.wrong("text", value),
            },
        }
    }

    /// Text that must be given and not be blank.
    ///
    /// # Errors
    /// If it is missing, blank, or no text.
    pub fn required_text(&self) -> Result<String> {
        match self.text()? {
            Some(text) if !text.trim().is_empty() => Ok(text),
            Some(_) => plan_err!("{}: argument '{}' is empty", self.function, self.name),
            None => plan_err!("{}: argument '{}' is missing", self.function, self.name),
        }
    }

    /// Text or whole number that names a thing; must be given.
    ///
    /// # Errors
    /// If it is missing or something else.
    pub fn required_name(&self) -> Result<ScalarValue> {
        match &self.value {
            Some(value) if value.data_type().is_integer() => Ok(value.clone()),
            _ => self.required_text().map(ScalarValue::from),
        }
    }

    /// Whole number, zero or more, if given.
    ///
    /// # Errors
    /// If it is negative, has a fraction, or is no number.
    pub fn count(&self) -> Result<Option<usize>> {
        let Some(value) = &self.value else { return Ok(None) };
        let number = match value {
            value if value.data_type().is_integer() => match value.cast_to(&DataType::Int64) {
                Ok(ScalarValue::Int64(Some(number))) => usize::try_from(number).ok(),
                _ => None,
            },
            value => match number_of(value) {
                Some(number) if number.fract() == 0.0 && (0.0..9e15).contains(&number) => Some(number as usize),
                _ => None,
            },
        };
        number.map_or_else(|| self.wrong("a whole number, zero or more,", value), |number| Ok(Some(number)))
    }

    /// Whole number, zero or more; `default` if not given.
    ///
    /// # Errors
    /// As [`Self::count`].
    pub fn count_or(&self, default: usize) -> Result<usize> {
        Ok(self.count()?.unwrap_or(default))
    }

    /// Number, if given.
    ///
    /// # Errors
    /// If it is no finite number.
    pub fn number(&self) -> Result<Option<f64>> {
        let Some(value) = &self.value else { return Ok(None) };
        match number_of(value) {
            Some(number) if number.is_finite() => Ok(Some(number)),
            _ => self.wrong("a number", value),
        }
    }

    /// Number between `low` and `high`, both included; `default` if not given.
    ///
    /// # Errors
    /// As [`Self::number`], and if it is outside.
    pub fn number_between(&self, low: f64, high: f64, default: f64) -> Result<f64> {
        match (self.number()?, &self.value) {
            (Some(number), Some(value)) if !(low..=high).contains(&number) => {
                self.wrong(&format!("a number from {low} to {high}"), value)
            }
            (number, _) => Ok(number.unwrap_or(default)),
        }
    }

    /// Truth value; `default` if not given.
    ///
    /// # Errors
    /// If it is neither a truth value nor the text `true` or `false`.
    pub fn flag_or(&self, default: bool) -> Result<bool> {
        let Some(value) = &self.value else { return Ok(default) };
        match value {
            ScalarValue::Boolean(Some(flag)) => Ok(*flag),
            value => match value.try_as_str().flatten().map(str::to_lowercase).as_deref() {
                Some("true") => Ok(true),
                Some("false") => Ok(false),
                _ => self.wrong("true or false", value),
            },
        }
    }

    /// One of `choices`, ignoring case; `default` if not given.
    ///
    /// # Errors
    /// For another word, with the nearest choice and all of them.
    pub fn choice_or(&self, choices: &[&'static str], default: &'static str) -> Result<&'static str> {
        let Some(text) = self.text()? else { return Ok(default) };
        if let Some(choice) = choices.iter().find(|choice| choice.eq_ignore_ascii_case(text.trim())) {
            return Ok(choice);
        }
        let hint = did_you_mean(&text, choices.iter().copied());
        plan_err!("{}: '{}' cannot be '{text}'{hint}; expected one of {}", self.function, self.name, choices.join(", "))
    }

    /// Texts: an array (`['a', 'b']`), or one text; empty if not given.
    ///
    /// # Errors
    /// If it is neither.
    pub fn texts(&self) -> Result<Vec<String>> {
        let Some(value) = &self.value else { return Ok(Vec::new()) };
        if let Some(text) = value.try_as_str().flatten() {
            return Ok(vec![text.to_string()]);
        }
        if value.data_type().is_integer() {
            return Ok(vec![value.to_string()]);
        }
        let ScalarValue::List(list) = value else { return self.wrong("a list of texts", value) };
        let items = arrow::compute::cast(list.values(), &DataType::Utf8)?;
        let items = items.as_string::<i32>();
        Ok(items.iter().flatten().map(str::to_string).collect())
    }
}

/// The constant an expression stands for.
pub fn literal(expr: &Expr) -> Option<&ScalarValue> {
    match unaliased(expr) {
        Expr::Literal(value, _) => Some(value),
        _ => None,
    }
}

fn unaliased(expr: &Expr) -> &Expr {
    match expr {
        Expr::Alias(alias) => unaliased(&alias.expr),
        expr => expr,
    }
}

fn number_of(value: &ScalarValue) -> Option<f64> {
    if !value.data_type().is_numeric() {
        return None;
    }
    match value.cast_to(&DataType::Float64) {
        Ok(ScalarValue::Float64(number)) => number,
        _ => None,
    }
}

fn show(value: &ScalarValue) -> String {
    match value.try_as_str() {
        Some(Some(text)) => format!("'{text}'"),
        _ => format!("{value} ({})", value.data_type()),
    }
}

/// The constant in argument `name` of a scalar function's call.
///
/// # Errors
/// If it is a column.
pub fn constant<'a>(function: &str, name: &str, value: &'a ColumnarValue) -> Result<&'a ScalarValue> {
    match value {
        ColumnarValue::Scalar(value) => Ok(value),
        ColumnarValue::Array(array) => {
            plan_err!("{function}: expected a constant for '{name}', got a column of {}", array.data_type())
        }
    }
}

/// The names among `candidates` that are spelt most like `name`, best first, at most `limit`.
///
/// Likeness is 1 minus the Damerau-Levenshtein distance over the longer length, ignoring case; a name that contains
/// the other as a whole counts as near. Names under 0.6 are left out.
pub fn nearest<'a>(name: &str, candidates: impl IntoIterator<Item = &'a str>, limit: usize) -> Vec<&'a str> {
    let wanted = name.trim().to_lowercase();
    let mut scored: Vec<(f64, &str)> = candidates
        .into_iter()
        .filter_map(|candidate| {
            let have = candidate.to_lowercase();
            let contains = wanted.chars().count() >= 3 && have.contains(&wanted)
                || have.chars().count() >= 3 && wanted.contains(&have);
            let likeness = strsim::normalized_damerau_levenshtein(&wanted, &have);
            let score = if contains { likeness.max(0.6) } else { likeness };
            (score >= 0.6).then_some((score, candidate))
        })
        .collect();
    scored.sort_by(|a, b| b.0.total_cmp(&a.0).then_with(|| a.1.cmp(b.1)));
    scored.dedup_by(|a, b| a.1 == b.1);
    scored.into_iter().take(limit).map(|(_, candidate)| candidate).collect()
}

/// `; did you mean 'x'?` with up to three names, or nothing if none is near.
pub fn did_you_mean<'a>(name: &str, candidates: impl IntoIterator<Item = &'a str>) -> String {
    let near = nearest(name, candidates, 3);
    let mut hint = String::new();
    for (position, candidate) in near.iter().enumerate() {
        let before = match position {
            0 => "; did you mean ",
            _ if position + 1 == near.len() => " or ",
            _ => ", ",
        };
        let _ = write!(hint, "{before}'{candidate}'");
    }
    if !hint.is_empty() {
        hint.push('?');
    }
    hint
}

#[cfg(test)]
mod tests {
    use super::*;

    fn message<T: std::fmt::Debug>(result: Result<T>) -> String {
        result.unwrap_err().strip_backtrace()
    }

    #[test]
    fn reads_positions_names_and_defaults() {
        let exprs = [lit("a"), named_argument("LIMIT", lit(7i64)), named_argument("words", lit(false))];
        let mut args = Arguments::parse("diff", &exprs).unwrap();
        assert_eq!(args.positional("a").required_text().unwrap(), "a");
        assert!(message(args.positional("b").required_text()).contains("diff: argument 'b' is missing"));
        assert_eq!(args.named("limit").count_or(1).unwrap(), 7);
        assert_eq!(args.named("min_docs").count_or(5).unwrap(), 5);
        assert!(!args.named("words").flag_or(true).unwrap());
        args.finish().unwrap();
    }

    #[test]
    fn an_argument_may_come_by_name_in_place_of_its_position() {
        let exprs = [named_argument("set", lit("answers"))];
        let mut args = Arguments::parse("correlate", &exprs).unwrap();
        assert_eq!(args.positional("set").required_text().unwrap(), "answers");
        args.finish().unwrap();

        let exprs = [lit("answers"), named_argument("set", lit("answers"))];
        let mut args = Arguments::parse("correlate", &exprs).unwrap();
        args.positional("set");
        assert!(message(args.finish()).contains("'set' is given by position and by name"));
    }

    #[test]
    fn unknown_options_name_the_nearest_and_all() {
        let mut args = Arguments::parse("diff", &[named_argument("min_doc", lit(1))]).unwrap();
        args.named("min_docs");
        args.named("limit");
        let message = message(args.finish());
        let expected = "diff: unknown option 'min_doc'; did you mean 'min_docs'?; options are min_docs, limit";
        assert!(message.contains(expected), "{message}");
    }

    #[test]
    fn wrong_types_say_what_came() {
        let exprs = [named_argument("limit", lit(-1)), named_argument("level", lit("tokn"))];
        let mut args = Arguments::parse("diff", &exprs).unwrap();
        let limit = message(args.named("limit").count());
        assert!(limit.contains("diff: expected a whole number, zero or more, for 'limit', got -1"), "{limit}");
        let level = message(args.named("level").choice_or(&["token", "span"], "token"));
        assert!(
            level.contains("'level' cannot be 'tokn'; did you mean 'token'?; expected one of token, span"),
            "{level}"
        );
    }

    #[test]
    fn columns_and_repeats_are_refused() {
        let column = datafusion::prelude::col("a");
        assert!(message(Arguments::parse("diff", &[column])).contains("expected a constant as argument 1"));
        let twice = [named_argument("k", lit(1)), named_argument("K", lit(2))];
        assert!(message(Arguments::parse("diff", &twice)).contains("option 'k' is given twice"));
        let many = [lit("a"), lit("b")];
        let mut args = Arguments::parse("correlate", &many).unwrap();
        args.positional("set");
        assert!(message(args.finish()).contains("at most 1 arguments without a name (set), got 2"));
        let many = [lit("a"), lit(7), named_argument("limit", lit(5))];
        let mut args = Arguments::parse("correlate", &many).unwrap();
        args.positional("set");
        args.named("limit");
        assert!(message(args.finish()).contains("at most 1 arguments without a name (set), got 2"));
    }

    #[test]
    fn near_names_survive_transpositions_and_parts() {
        assert_eq!(nearest("apolgy", ["apology", "hedging", "list"], 3), ["apology"]);
        assert_eq!(nearest("news_v2", ["news-v2", "olds-v2"], 1), ["news-v2"]);
        assert_eq!(nearest("apology", ["apology and regret"], 3), ["apology and regret"]);
        assert!(nearest("zebra", ["apology", "hedging"], 3).is_empty());
        assert_eq!(did_you_mean("lst", ["list", "last"]), "; did you mean 'last' or 'list'?");
    }
}
