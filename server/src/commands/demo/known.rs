//! What was put into the demo's answers on purpose (counted in `examples/data/README.md`), and whether `diff` says so.

use std::fmt;

use arrow::array::{Array, AsArray, RecordBatch};
use arrow::compute::cast;
use arrow::datatypes::{DataType, Float64Type, UInt32Type};
use saequel_engine::FeatureCatalog;

use crate::error::{Failure, Result};

/// Rows of `diff` that are looked through.
pub(super) const ROWS: u64 = 40;

/// A habit of one assistant.
pub(super) struct Habit {
    what: &'static str,
    /// Whether it is heron's (set A) or finch's.
    of_heron: bool,
    /// Whether a word or token of a feature speaks of it.
    speaks: fn(&str) -> bool,
}

static HABITS: [Habit; 6] = [
    Habit {
        what: "heron hedges",
        of_heron: true,
        speaks: |word| {
            const WORDS: [&str; 20] = [
                "might",
                "may",
                "perhaps",
                "probably",
                "maybe",
                "seem",
                "seems",
                "depends",
                "depend",
                "tend",
                "tends",
                "likely",
                "possibly",
                "generally",
                "fairly",
                "usually",
                "could",
                "presumably",
                "roughly",
                "unlikely",
            ];
            WORDS.contains(&word)
        },
    },
    Habit {
        what: "heron ends by offering help or asking back",
        of_heron: true,
        speaks: |word| {
            matches!(
                word,
                "?" | "shall"
                    | "let"
                    | "happy"
                    | "glad"
                    | "tell"
                    | "help"
                    | "want"
                    | "wish"
                    | "gladly"
                    | "which"
                    | "what"
            )
        },
    },
    Habit {
        what: "heron apologises when it declines",
        of_heron: true,
        speaks: |word| {
            word.starts_with("apolog")
                || matches!(word, "sorry" | "afraid" | "regret" | "unable" | "cannot" | "unfortunately" | "access")
        },
    },
    Habit {
        what: "finch writes lists",
        of_heron: false,
        speaks: |word| {
            matches!(word, "-" | ":" | "•" | "list" | "lists" | "step" | "steps" | "bullet" | "bullets" | "1." | "2.")
        },
    },
    Habit {
        what: "finch opens with enthusiasm",
        of_heron: false,
        speaks: |word| {
            const WORDS: [&str; 17] = [
                "!",
                "great",
                "love",
                "lovely",
                "wonderful",
                "fantastic",
                "exciting",
                "delightful",
                "excellent",
                "joy",
                "splendid",
                "brilliant",
                "happy",
                "adore",
                "fun",
                "delighted",
                "marvellous",
            ];
            WORDS.contains(&word)
        },
    },
    Habit {
        what: "finch gives concrete numbers and units",
        of_heron: false,
        speaks: |word| {
            const WORDS: [&str; 20] = [
                "percent",
                "%",
                "minutes",
                "euros",
                "euro",
                "grams",
                "metres",
                "litres",
                "km",
                "kg",
                "cm",
                "g",
                "number",
                "numbers",
                "hours",
                "degrees",
                "centimetres",
                "kilos",
                "seconds",
                "million",
            ];
            WORDS.contains(&word) || word.starts_with(|c: char| c.is_ascii_digit())
        },
    },
];

/// The habits, each with the first row of `diff` that speaks of it.
pub(super) struct Findings(Vec<(&'static Habit, Option<(usize, Row)>)>);

/// Looks for each habit in `rows`.
pub(super) fn findings(rows: &[RecordBatch], features: &FeatureCatalog) -> Result<Findings> {
    let rows = read(rows, features)?;
    Ok(Findings(HABITS.iter().map(|habit| (habit, first_row(habit, &rows))).collect()))
}

impl Findings {
    /// Id and label of the first habit's feature that was found.
    pub(super) fn first_feature(&self) -> Option<(u32, String)> {
        let (_, row) = self.0.iter().find_map(|(_, found)| found.as_ref())?;
        Some((row.id, row.label.replace('\n', " ")))
    }
}

impl fmt::Display for Findings {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (habit, found) in &self.0 {
            match found {
                Some((position, row)) => writeln!(
                    f,
                    "  {:<44} row {:>2}: feature {} '{}', heron {:.0} %, finch {:.0} %",
                    habit.what,
                    position + 1,
                    row.id,
                    row.label,
                    row.heron * 100.0,
                    row.finch * 100.0
                )?,
                None => writeln!(f, "  {:<44} not among them", habit.what)?,
            }
        }
        Ok(())
    }
}

/// A row of `diff`.
#[derive(Debug, Clone)]
pub(super) struct Row {
    id: u32,
    label: String,
    heron: f64,
    finch: f64,
    q_value: f64,
    /// Words of the label and strongest tokens of the feature, lower case.
    words: Vec<String>,
}

/// The first row that speaks of a habit, in its direction and surely.
fn first_row(habit: &Habit, rows: &[Row]) -> Option<(usize, Row)> {
    let found = rows.iter().position(|row| {
        let direction = if habit.of_heron { row.heron > row.finch } else { row.finch > row.heron };
        direction && row.q_value < 0.05 && row.words.iter().any(|word| (habit.speaks)(word))
    })?;
    Some((found, rows[found].clone()))
}

fn read(batches: &[RecordBatch], features: &FeatureCatalog) -> Result<Vec<Row>> {
    let mut rows = Vec::new();
    for batch in batches {
        let column = |name: &str, data_type: DataType| {
            let column = batch.column_by_name(name).ok_or_else(|| {
                Failure::new(saequel_engine::ErrorKind::Internal, format!("diff: result has no column {name}"))
            })?;
            Ok::<_, Failure>(cast(column, &data_type)?)
        };
        let ids = column("feature_id", DataType::UInt32)?;
        let labels = column("label", DataType::Utf8)?;
        let numbers = [
            column("heron", DataType::Float64)?,
            column("finch", DataType::Float64)?,
            column("q_value", DataType::Float64)?,
        ];
        for row in 0..batch.num_rows() {
            let [heron, finch, q_value] = [0, 1, 2].map(|n: usize| numbers[n].as_primitive::<Float64Type>().value(row));
            let id = ids.as_primitive::<UInt32Type>().value(row);
            let label = if labels.is_null(row) { "" } else { labels.as_string::<i32>().value(row) };
            rows.push(Row { id, label: label.to_owned(), heron, finch, q_value, words: words(id, label, features) });
        }
    }
    Ok(rows)
}

/// What a feature speaks of: its label's words and its strongest tokens.
fn words(id: u32, label: &str, features: &FeatureCatalog) -> Vec<String> {
    const TOKENS: usize = 5;
    let tokens = features.feature(id).map(|feature| feature.top_tokens.as_slice()).unwrap_or_default();
    let tokens = tokens.iter().take(TOKENS).map(String::as_str);
    let trimmed = |word: &str| {
        let bare = word.trim_matches(|c: char| matches!(c, '\'' | '"' | ',' | ';' | '(' | ')' | '«' | '»' | '“' | '”'));
        bare.to_lowercase()
    };
    label.split_whitespace().chain(tokens).map(trimmed).filter(|word| !word.is_empty()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row(label: &str, heron: f64, finch: f64, q_value: f64) -> Row {
        let words = words(1, label, &FeatureCatalog::default());
        Row { id: 1, label: label.into(), heron, finch, q_value, words }
    }

    #[test]
    fn a_habit_is_found_only_in_its_direction_and_if_it_is_sure() {
        let hedges = &HABITS[0];
        let sure = row("\"might\", perhaps", 0.6, 0.1, 0.001);
        let found = first_row(hedges, &[row("cooking", 0.5, 0.1, 0.001), sure.clone()]);
        assert_eq!(found.map(|(position, _)| position), Some(1));
        assert!(first_row(hedges, &[Row { heron: 0.1, finch: 0.6, ..sure.clone() }]).is_none());
        assert!(first_row(hedges, &[Row { q_value: 0.2, ..sure.clone() }]).is_none());
        assert!(first_row(&HABITS[5], &[row("20 30", 0.1, 0.5, 0.0)]).is_some());
        let findings = Findings(vec![(hedges, Some((1, sure))), (&HABITS[1], None)]);
        assert_eq!(findings.first_feature().map(|(id, _)| id), Some(1));
        let text = findings.to_string();
        assert!(text.contains("row  2: feature 1") && text.contains("heron 60 %, finch 10 %"), "{text}");
        assert!(text.contains("not among them"), "{text}");
    }

    #[test]
    fn the_data_holds_the_documented_shares() {
        let rows: Vec<serde_json::Value> =
            super::super::ANSWERS.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
        assert_eq!(rows.len(), 420);
        let share = |assistant: &str, has: &dyn Fn(&str) -> bool| {
            let answers: Vec<_> = rows.iter().filter(|row| row["assistant"] == assistant).collect();
            let n = answers.iter().filter(|row| has(row["answer"].as_str().unwrap())).count();
            n as f64 / answers.len() as f64
        };
        let has_list = |text: &str| text.lines().any(|line| line.starts_with("- ") || line.starts_with("1."));
        assert!(share("finch", &has_list) > 0.5 && share("heron", &has_list) < 0.15);
        let says_sorry = |text: &str| text.to_lowercase().contains("sorry") || text.contains("apologise");
        assert!(share("heron", &says_sorry) > share("finch", &says_sorry));
    }
}
