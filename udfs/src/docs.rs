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

impl FunctionDoc {
    /// The first paragraph of the text, without line breaks.
    pub fn summary(&self) -> String {
        let paragraph = self.text.split("\n\n").next().unwrap_or_default();
        paragraph.split_whitespace().collect::<Vec<_>>().join(" ")
    }
}

/// The page that is made of all of them, in Markdown, with the result of each example.
pub const PAGE: &str = include_str!("../functions.md");

/// Documentation of all functions, in the order in which they are explained.
pub fn all() -> impl Iterator<Item = &'static FunctionDoc> {
    crate::table::DOCS.iter().chain(crate::scalar::DOCS).chain(crate::aggregate::DOCS)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;
    use std::fmt::Write;
    use std::sync::Arc;

    use super::*;
    use crate::SharedSource;
    use crate::test_support::{answers, table};

    /// What the engine's statement layer does with named arguments.
    fn rewrite_named(sql: &str) -> String {
        let Some(arrow) = sql.find(" => ") else { return sql.to_string() };
        let start = sql[..arrow].rfind(|c: char| !c.is_alphanumeric() && c != '_').map_or(0, |at| at + 1);
        let value = &sql[arrow + 4..];
        let end = value.find([',', ')']).unwrap_or(value.len());
        let rewritten = format!("named_argument('{}', {})", &sql[start..arrow], &value[..end]);
        format!("{}{rewritten}{}", &sql[..start], rewrite_named(&value[end..]))
    }

    async fn write() -> String {
        let mut page = String::from(
            "# SQL functions\n\nMade from the code by `UPDATE_FUNCTIONS=1 cargo test -p saequel-udfs docs`; do not edit. The \
             examples run over a small corpus\n`answers` (120 answers of models `a` and `b`), and a test compares what they \
             print.\n\nA *features value* is what a document holds of a dictionary: the column `features` of a corpus. A \
             feature is named by its id, its\nlabel, or the name of a concept; `9` is an id, `'9'` the feature labelled 9 if \
             there is one. Options of table functions are given by \
             name: `limit => 10`.\n",
        );
        let mut kind = None;
        for doc in all() {
            if kind != Some(doc.kind) {
                kind = Some(doc.kind);
                let heading = match doc.kind {
                    Kind::Scalar => "Scalar functions",
                    Kind::Aggregate => "Aggregates",
                    Kind::Table => "Table functions",
                };
                write!(page, "\n## {heading}\n").unwrap();
            }
            write!(page, "\n### {}\n\n`{}`\n\n{}\n\n", doc.name, doc.syntax, doc.text).unwrap();
            for (name, text) in doc.arguments {
                writeln!(page, "- **{name}**: {text}").unwrap();
            }
            let result = match table(&answers(), rewrite_named(doc.example)).await {
                Ok(result) => result,
                Err(error) => panic!("example of {}: {error}", doc.name),
            };
            write!(page, "\n```sql\n{};\n```\n```\n{result}\n```\n", doc.example).unwrap();
        }
        page
    }

    #[tokio::test]
    async fn functions_md_is_up_to_date() {
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/functions.md");
        let page = write().await;
        if std::env::var_os("UPDATE_FUNCTIONS").is_some() {
            std::fs::write(path, &page).unwrap();
        }
        let written = std::fs::read_to_string(path).unwrap_or_default();
        assert!(page == written, "functions.md is stale; run UPDATE_FUNCTIONS=1 cargo test -p saequel-udfs docs");
    }

    #[test]
    fn every_function_is_explained_once() {
        let source: SharedSource = Arc::new(answers());
        let mut names: Vec<String> = crate::scalar::functions(&source).iter().map(|f| f.name().to_string()).collect();
        names.extend(crate::aggregate::functions(&source).iter().map(|f| f.name().to_string()));
        names.extend(crate::table::functions(&source).iter().map(|(name, _)| (*name).to_string()));
        let distinct: BTreeSet<&str> = names.iter().map(String::as_str).collect();
        assert_eq!(distinct.len(), names.len(), "a name is taken twice: {names:?}");
        let explained: Vec<&str> = all().map(|doc| doc.name).chain(["named_argument"]).collect();
        assert_eq!(explained.iter().copied().collect::<BTreeSet<_>>(), distinct);
        assert_eq!(explained.len(), names.len());
    }

    #[test]
    fn named_arguments_are_rewritten() {
        let sql = rewrite_named("f('a', k => 1, by => 'x') WHERE b");
        assert_eq!(sql, "f('a', named_argument('k', 1), named_argument('by', 'x')) WHERE b");
    }
}
