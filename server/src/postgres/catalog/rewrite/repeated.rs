//! Columns of a result that have the same name: PostgreSQL allows them, and the engine does not.

use std::collections::{HashMap, HashSet};

use datafusion::sql::sqlparser::ast::{Expr, Ident, Query, Select, SelectItem, SetExpr, Statement};

use super::expressions::{folded, parts, take};

/// Ends the name of a column that is repeated; a number follows. Neither is shown.
const MARK: char = '\u{1f}';

/// The name of a column as it is shown.
pub(crate) fn shown_name(name: &str) -> &str {
    name.split_once(MARK).map_or(name, |(shown, _)| shown)
}

/// Gives columns that are repeated names of their own; whether there were any.
pub(super) fn tell_apart(statement: &mut Statement) -> bool {
    match statement {
        Statement::Query(query) => in_query(query),
        Statement::Explain { statement, .. } => tell_apart(statement),
        _ => false,
    }
}

fn in_query(query: &mut Query) -> bool {
    in_body(&mut query.body)
}

fn in_body(body: &mut SetExpr) -> bool {
    // A chain of UNION is as deep as it is long, to the left.
    match body {
        SetExpr::Select(select) => in_select(select),
        SetExpr::Query(query) => in_query(query),
        SetExpr::SetOperation { left, right, .. } => in_body(left) | in_body(right),
        _ => false,
    }
}

fn in_select(select: &mut Select) -> bool {
    let is_all = |item: &SelectItem| matches!(item, SelectItem::Wildcard(_) | SelectItem::QualifiedWildcard(..));
    let beside_all = select.projection.iter().any(is_all);
    // Columns of two tables may have one name, if both say of which they are.
    let bare: HashSet<String> =
        select.projection.iter().filter_map(name_of).filter(|name| name.table.is_none()).map(|name| name.key).collect();
    let key = |name: &Name| match &name.table {
        Some(table) if !bare.contains(&name.key) => format!("{table}.{}", name.key),
        _ => name.key.clone(),
    };
    let mut times: HashMap<String, usize> = HashMap::new();
    for name in select.projection.iter().filter_map(name_of) {
        *times.entry(key(&name)).or_default() += 1;
    }
    let (mut changed, mut seen) = (false, HashMap::<String, usize>::new());
    for item in &mut select.projection {
        let Some(name) = name_of(item) else { continue };
        let key = key(&name);
        let at = seen.entry(key.clone()).or_default();
        *at += 1;
        let repeated = times.get(&key).is_some_and(|times| *times > 1);
        // The first keeps the name by which it may be sorted. What has none is called as PostgreSQL calls it.
        let is_told = match item {
            SelectItem::UnnamedExpr(_) if name.is_column => (beside_all && *at > 0) || (repeated && *at > 1),
            SelectItem::UnnamedExpr(_) => repeated,
            _ => repeated && *at > 1,
        };
        if !is_told {
            continue;
        }
        let alias = Ident::with_quote('"', format!("{}{MARK}{at}", name.shown));
        if let SelectItem::UnnamedExpr(expr) | SelectItem::ExprWithAlias { expr, .. } = item {
            *item = SelectItem::ExprWithAlias { expr: take(expr), alias };
            changed = true;
        }
    }
    changed
}

/// What a column of a result is called.
struct Name {
    /// The same for columns that the engine would call alike.
    key: String,
    shown: String,
    /// Of which table it says to be.
    table: Option<String>,
    is_column: bool,
}

fn name_of(item: &SelectItem) -> Option<Name> {
    let expr = match item {
        SelectItem::UnnamedExpr(expr) => expr,
        SelectItem::ExprWithAlias { alias, .. } => {
            let shown = folded(alias);
            return Some(Name { key: format!("\"{shown}"), shown, table: None, is_column: false });
        }
        _ => return None,
    };
    // A cast is called as what is cast.
    let mut inner = expr;
    while let Expr::Cast { expr, .. } | Expr::Nested(expr) = inner {
        inner = expr;
    }
    let (shown, table) = match inner {
        Expr::Identifier(ident) => (folded(ident), None),
        Expr::CompoundIdentifier(idents) => {
            let (last, tables) = idents.split_last()?;
            (folded(last), Some(tables.iter().map(folded).collect::<Vec<_>>().join(".")))
        }
        Expr::Function(function) => {
            let shown = parts(&function.name).pop().unwrap_or_default();
            return Some(Name { key: unqualified(inner), shown, table: None, is_column: false });
        }
        other => {
            let shown = "?column?".to_owned();
            return Some(Name { key: unqualified(other), shown, table: None, is_column: false });
        }
    };
    Some(Name { key: format!("\"{shown}"), shown, table, is_column: true })
}

/// The expression as it is written, without the tables of its columns and, if nothing is in quotes, in lower case.
fn unqualified(expr: &Expr) -> String {
    let text = expr.to_string();
    if text.contains(['\'', '"']) {
        return text;
    }
    let (mut kept, mut word) = (String::new(), String::new());
    for letter in text.to_lowercase().chars() {
        match letter {
            '.' if word.starts_with(char::is_alphabetic) => word.clear(),
            letter if letter.is_alphanumeric() || letter == '_' => word.push(letter),
            letter => {
                kept.push_str(&std::mem::take(&mut word));
                kept.push(letter);
            }
        }
    }
    kept + &word
}

#[cfg(test)]
mod tests {
    use super::super::rewrite;
    use super::shown_name;

    #[track_caller]
    fn told(sql: &str) -> String {
        rewrite(sql).unwrap_or_else(|| sql.to_owned()).replace('\u{1f}', "#")
    }

    #[test]
    fn repeated_columns_have_names_of_their_own() {
        for (sql, expected) in [
            ("SELECT 1, 1", "SELECT 1 AS \"?column?#1\", 1 AS \"?column?#2\""),
            ("SELECT tz, tz::date FROM t", "SELECT tz, tz::DATE AS \"tz#2\" FROM t"),
            ("SELECT t.tz, tz FROM t", "SELECT t.tz, tz AS \"tz#2\" FROM t"),
            ("SELECT *, doc_id FROM t ORDER BY doc_id", "SELECT *, doc_id AS \"doc_id#1\" FROM t ORDER BY doc_id"),
            ("SELECT t.x, u.x, t.x FROM t, u", "SELECT t.x, u.x, t.x AS \"x#2\" FROM t, u"),
            ("SELECT 1 AS a, 2 AS a", "SELECT 1 AS a, 2 AS \"a#2\""),
            ("SELECT Max(t.a), max(a) FROM t", "SELECT Max(t.a) AS \"max#1\", max(a) AS \"max#2\" FROM t"),
            ("SELECT max(a), max(a) FROM t", "SELECT max(a) AS \"max#1\", max(a) AS \"max#2\" FROM t"),
        ] {
            assert_eq!(told(sql), expected);
        }
        for sql in
            ["SELECT a, b, 1, 2 FROM t", "SELECT *, a + 1 AS b FROM t ORDER BY b", "SELECT a.x, (SELECT 1) FROM a"]
        {
            assert_eq!(told(sql), sql);
        }
        assert_eq!((shown_name("tz\u{1f}2"), shown_name("tz")), ("tz", "tz"));
    }
}
