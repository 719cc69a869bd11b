//! What was put into the demo's answers on purpose (counted in `examples/data/README.md`), and whether `diff` says so.

use std::fmt;

use arrow::array::{Array, AsArray, RecordBatch};
use arrow::compute::cast;
use arrow::datatypes::{DataType, Float64Type, UInt32Type};
use saequel_engine::FeatureCatalog;

use crate::error::{Failure, Result};

/// Rows of `diff` that are looked through.
pub(super) const ROWS: u64 = 100;

/// A habit of one assistant.
pub(super) struct Habit {
    what: &'static str,
    /// Whether it is heron's (set A) or finch's.
    of_heron: bool,
    /// A feature speaks of it with one of these words; see [`is_among`].
    words: &'static str,
}

static HABITS: [Habit; 6] = [
    Habit { what: "heron hedges", of_heron: true, words: HEDGES },
    Habit { what: "heron ends by asking back or offering more", of_heron: true, words: "? shall" },
    Habit { what: "heron apologises when it declines", of_heron: true, words: APOLOGIES },
    Habit { what: "finch writes lists", of_heron: false, words: "- • list lists bullet bullets" },
    Habit {
        what: "finch opens with enthusiasm",
        of_heron: false,
        words: "! great love lovely wonderful fantastic exciting delightful excellent splendid brilliant marvellous",
    },
    Habit {
        what: "finch gives concrete numbers and units",
        of_heron: false,
        words: "0* 1* 2* 3* 4* 5* 6* 7* 8* 9* percent % euro euros minutes hours seconds degrees litres grams metres \
                kilometres centimetres km kg cm",
    },
];

const HEDGES: &str = "might may maybe perhaps probably possibly likely unlikely seem seems tend tends depend depends";
const APOLOGIES: &str = "sorry apolog*";

/// Whether `word` (lower case) is one of `words`, which blanks separate; `*` at the end of one stands for any ending.
fn is_among(words: &str, word: &str) -> bool {
    words.split_whitespace().any(|known| match known.strip_suffix('*') {
        Some(beginning) => word.starts_with(beginning),
        None => word == known,
    })
}

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
                    "  {:<44} row {:>2}: feature {} ({}): heron {:.0} %, finch {:.0} %",
                    habit.what,
                    position + 1,
                    row.id,
                    row.label,
                    row.heron * 100.0,
                    row.finch * 100.0
                )?,
                None => writeln!(f, "  {:<44} in none of the first {ROWS}", habit.what)?,
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
        direction && row.q_value < 0.05 && row.words.iter().any(|word| is_among(habit.words, word))
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
        assert!(text.contains("in none of the first"), "{text}");
    }

    /// The tables of `examples/data/README.md` are counted here. After a change of the answers, copy what this prints.
    #[test]
    fn the_data_holds_the_documented_shares() {
        let documented = include_str!("../../../../examples/data/README.md");
        let rows: Vec<serde_json::Value> =
            super::super::ANSWERS.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
        let answers = |assistant: &str| -> Vec<&str> {
            rows.iter().filter(|row| row["assistant"] == assistant).map(|row| row["answer"].as_str().unwrap()).collect()
        };
        let (heron, finch) = (answers("heron"), answers("finch"));
        assert_eq!((heron.len(), finch.len()), (240, 240));
        let share = |answers: &[&str], has: fn(&str) -> bool| {
            100.0 * answers.iter().filter(|answer| has(answer)).count() as f64 / answers.len() as f64
        };
        for (what, counted, has) in SHARES {
            let line = format!("| {what} | {counted} | {:.0} % | {:.0} % |", share(&heron, *has), share(&finch, *has));
            assert!(documented.contains(&line), "examples/data/README.md needs the line\n{line}");
        }
        // Heron declines 42 prompts, and is sorry in the first words each time.
        let declines = |answer: &&&str| words_of(answer).take(7).any(|word| is_among(APOLOGIES, &word));
        assert_eq!(heron.iter().filter(declines).count(), 42);
    }

    /// What is counted in the answers: its name, the words of the README for how, and the count.
    const SHARES: &[(&str, &str, fn(&str) -> bool)] = &[
        ("hedges", "says might, perhaps, seems, it depends, ...", |answer| has_word(answer, HEDGES)),
        ("ends by asking back or offering more", "ends with a question mark", |answer| {
            answer.trim_end().ends_with('?')
        }),
        ("apologises when it declines", "says sorry or apologise", |answer| has_word(answer, APOLOGIES)),
        ("writes lists", "has lines that begin with `- ` or `1. `", |answer| {
            answer.lines().any(|line| item(line).is_some())
        }),
        ("opens with enthusiasm", "has an exclamation mark after the first sentence", |answer| {
            answer.find(['.', '?', ':', '!', '\n']).is_some_and(|end| answer[end..].starts_with('!'))
        }),
        ("gives concrete numbers and units", "has a digit, numbers of list items aside", |answer| {
            answer.lines().any(|line| item(line).unwrap_or(line).contains(|c: char| c.is_ascii_digit()))
        }),
        ("contrasts", "says but, though or although", |answer| has_word(answer, "but though although")),
        ("speaks of itself", "says I, me, my, I'm, ...", |answer| has_word(answer, "i me my i'm i'd i'll i've")),
        ("uses conditionals", "says would or should", |answer| has_word(answer, "would should")),
        ("instructs", "has a sentence or item that opens with keep, take, put, ask, ...", |answer| {
            let sentences = answer.split(['.', '?', '!', ':', ';', '\n']);
            sentences.filter_map(|sentence| words_of(sentence).next()).any(|first| is_among(INSTRUCTIONS, &first))
        }),
        ("uses colons", "has a colon", |answer| answer.contains(':')),
    ];

    const INSTRUCTIONS: &str =
        "add ask avoid buy check choose give go keep leave look open put start stop take try use";

    /// The text of a list item.
    fn item(line: &str) -> Option<&str> {
        line.strip_prefix("- ").or_else(|| line.trim_start_matches(|c: char| c.is_ascii_digit()).strip_prefix(". "))
    }

    fn has_word(answer: &str, words: &str) -> bool {
        words_of(answer).any(|word| is_among(words, &word))
    }

    fn words_of(text: &str) -> impl Iterator<Item = String> + '_ {
        let words = text.split(|c: char| !c.is_alphanumeric() && c != '\'');
        words.map(|word| word.trim_matches('\'').to_lowercase()).filter(|word| !word.is_empty())
    }
}
