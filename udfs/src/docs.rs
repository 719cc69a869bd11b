//! What users read about a function; `functions.md` is made of it.

/// Kind of a function.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// One value per row.
    Scalar,
    /// One value per group of rows.
    Aggregate,
    /// A table, in FROM.
    Table,
}

/// Documentation of one function.
#[derive(Debug, Clone, Copy)]
pub struct FunctionDoc {
    /// Name in SQL.
    pub name: &'static str,
    /// Kind.
    pub kind: Kind,
    /// Call with its arguments, optional ones in brackets.
    pub syntax: &'static str,
    /// What it gives, in Markdown; also what nulls and empty input give.
    pub text: &'static str,
    /// Arguments and options: name, then type, meaning and default.
    pub arguments: &'static [(&'static str, &'static str)],
    /// A query over the corpus `answers` of `test_support.rs`; its result is printed below it.
    pub example: &'static str,
}
