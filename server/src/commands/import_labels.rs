//! `saequel features import-labels`: labels from files, into a database or a dictionary's folder.

use std::collections::BTreeMap;
use std::path::Path;

use saequel_engine::labels::printable;
use saequel_engine::sae::LatentInfo;
use saequel_engine::{Catalog, Engine, ErrorKind, NewLabel, Sae};

use crate::args::ImportLabelsArgs;
use crate::context::Context;
use crate::error::{Failure, Result};
use crate::label::files::{FileLabel, Id, LabelFiles};
use crate::say::say;

/// Positions and ids that a message names.
const NAMED: usize = 5;

pub(super) async fn import_labels(args: ImportLabelsArgs, context: &Context) -> Result<()> {
    let files = LabelFiles::read(&args.files, args.layer.as_deref())?;
    let formats: Vec<&str> = files.formats.iter().copied().collect();
    let usual = format!("imported:{}", formats.join("+"));
    let source = args.source.as_deref();
    if let Some(wrong) = source.filter(|source| source.trim().is_empty() || source.chars().any(char::is_control)) {
        return Err(Failure::usage(format!(
            "--source {wrong:?}: expected a text on one line, such as imported:colleagues"
        )));
    }
    let (matched, n_changed) = match &args.sae {
        Some(dir) => {
            let sae = Sae::load(dir)?;
            let matched = Matched::of(files.labels, |label| in_folder(label, &sae, dir))?;
            let n_changed = put_in_folder(sae, dir, &matched.labels, source, &usual)?;
            (matched, n_changed)
        }
        None => {
            let engine = context.open().await?;
            if let Some(name) = &args.dictionary {
                place_of(&engine, name)?;
            }
            let matched = Matched::of(files.labels, |label| in_database(label, &engine, args.dictionary.as_deref()))?;
            let changed: Vec<NewLabel> = {
                let catalog = engine.catalog();
                let known = |new: &NewLabel| Known::in_database(&catalog, new.feature_id);
                let labels = matched.labels.iter();
                labels.filter_map(|new| changed(new, &known(new)?, source)).collect()
            };
            let n_changed = match changed.is_empty() {
                true => 0,
                false => engine.import_labels(&changed, source.unwrap_or(&usual)).await?,
            };
            (matched, n_changed)
        }
    };
    let origin: Vec<&str> = files.sources.iter().map(String::as_str).filter(|origin| !origin.is_empty()).collect();
    let origin = if origin.is_empty() { String::new() } else { format!(" of {}", origin.join(", ")) };
    say!("{n_changed} of {} labels changed (read as {}{origin})", matched.labels.len(), formats.join(", "))?;
    for (what, ids) in [
        ("with no such feature", &matched.unmatched),
        ("of other dictionaries", &matched.elsewhere),
        ("a second time, of which the first counts", &matched.duplicate),
        ("without a label", &matched.empty),
    ] {
        if !ids.is_empty() {
            say!("{} {what}: {}", ids.len(), named(ids))?;
        }
    }
    Ok(())
}

/// Rows of files, sorted by what becomes of them.
#[derive(Debug, Default)]
struct Matched {
    labels: Vec<NewLabel>,
    unmatched: Vec<Id>,
    elsewhere: Vec<Id>,
    duplicate: Vec<Id>,
    empty: Vec<Id>,
}

impl Matched {
    fn of(rows: Vec<FileLabel>, find: impl Fn(&FileLabel) -> Result<Found>) -> Result<Self> {
        let mut matched = Self::default();
        let mut labels: BTreeMap<u32, NewLabel> = BTreeMap::new();
        for row in rows {
            let feature_id = match find(&row)? {
                Found::Feature(feature_id) => feature_id,
                Found::Nothing => {
                    matched.unmatched.push(row.id);
                    continue;
                }
                Found::Elsewhere => {
                    matched.elsewhere.push(row.id);
                    continue;
                }
            };
            if row.label.is_empty() {
                matched.empty.push(row.id);
            } else if labels.contains_key(&feature_id) {
                matched.duplicate.push(row.id);
            } else {
                let FileLabel { label, description, detection, score, source, evidence_version, .. } = row;
                let score = score.filter(|score| (0.0..=1.0).contains(score));
                let new = NewLabel::new(feature_id, label);
                labels.insert(feature_id, NewLabel { description, detection, score, evidence_version, source, ..new });
            }
        }
        matched.labels = labels.into_values().collect();
        if matched.labels.is_empty() {
            let message = format!(
                "none of the labels can be used: {} with no such feature{}, {} of other dictionaries, {} empty",
                matched.unmatched.len(),
                if matched.unmatched.is_empty() { String::new() } else { format!(" ({})", named(&matched.unmatched)) },
                matched.elsewhere.len(),
                matched.empty.len()
            );
            return Err(Failure::new(ErrorKind::Data, message)
                .hint("labels of another dictionary? `saequel sae list` shows the widths and first ids of yours"));
        }
        Ok(matched)
    }
}

/// What a row is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Found {
    Feature(u32),
    Nothing,
    /// A feature of another dictionary than is wanted or there.
    Elsewhere,
}

impl Found {
    fn of(feature: Option<u32>) -> Self {
        feature.map_or(Self::Nothing, Self::Feature)
    }
}

/// The first few.
fn named(ids: &[Id]) -> String {
    let shown: Vec<String> = ids
        .iter()
        .take(NAMED)
        .map(|id| match id {
            Id::Feature(id) => format!("feature {id}"),
            Id::Latent(latent) => format!("position {latent}"),
        })
        .collect();
    let more = if ids.len() > NAMED { ", ..." } else { "" };
    format!("{}{more}", shown.join(", "))
}

fn in_database(label: &FileLabel, engine: &Engine, dictionary: Option<&str>) -> Result<Found> {
    let catalog = engine.catalog();
    let features = &catalog.features;
    let dictionaries = features.dictionaries();
    let own = label.dictionary.as_deref();
    let is_there = |name: &str| dictionaries.iter().any(|known| known.name == name);
    if own.is_some_and(|own| !is_there(own) || dictionary.is_some_and(|dictionary| dictionary != own)) {
        return Ok(Found::Elsewhere);
    }
    let wanted = dictionary.or(own);
    let latent = match label.id {
        Id::Feature(id) if features.feature(id).is_none() => return Ok(Found::Nothing),
        Id::Feature(id) => {
            let holds = |(first, width): (u32, u32)| (first..first + width).contains(&id);
            let is_of = wanted.map(|name| place_of(engine, name)).transpose()?.is_none_or(holds);
            return Ok(if is_of { Found::Feature(id) } else { Found::Elsewhere });
        }
        Id::Latent(latent) => latent,
    };
    let found = match (wanted, dictionaries) {
        (Some(name), _) => place_of(engine, name)?,
        (None, [one]) => (one.first_id, one.width),
        (None, _) => {
            let names = dictionary_names(engine);
            let message = format!("the file has positions in a dictionary, but not in which; there are {names}");
            return Err(Failure::usage(message).hint("say it with --dictionary NAME"));
        }
    };
    let (first_id, width) = found;
    Ok(Found::of((latent < width).then(|| first_id + latent)))
}

/// First id and width of a dictionary.
fn place_of(engine: &Engine, name: &str) -> Result<(u32, u32)> {
    let catalog = engine.catalog();
    let found = catalog.features.dictionaries().iter().find(|known| known.name == name);
    found.map(|found| (found.first_id, found.width)).ok_or_else(|| {
        let names = dictionary_names(engine);
        Failure::new(ErrorKind::NotFound, format!("dictionary '{name}' not found; there are {names}"))
    })
}

fn dictionary_names(engine: &Engine) -> String {
    let catalog = engine.catalog();
    catalog.features.dictionaries().iter().map(|known| known.name.as_str()).collect::<Vec<_>>().join(", ")
}

fn in_folder(label: &FileLabel, sae: &Sae, dir: &Path) -> Result<Found> {
    if label.dictionary.as_ref().is_some_and(|own| own != sae.name()) {
        return Ok(Found::Elsewhere);
    }
    match label.id {
        Id::Latent(latent) => Ok(Found::of(Some(latent).filter(|&latent| (latent as usize) < sae.width()))),
        Id::Feature(_) => Err(Failure::new(
            ErrorKind::Data,
            format!("the file has ids of a database (feature_id), but {} is a dictionary", dir.display()),
        )
        .hint("without --sae they go into the database (--db)")),
    }
}

/// What is known of a feature before.
struct Known<'a> {
    label: &'a str,
    description: &'a str,
    source: &'a str,
    score: Option<f32>,
    detection: Option<f32>,
}

impl<'a> Known<'a> {
    fn in_database(catalog: &'a Catalog, id: u32) -> Option<Self> {
        let feature = catalog.features.feature(id)?;
        Some(Self {
            label: &feature.label,
            description: &feature.description,
            source: &feature.label_source,
            score: feature.label_score,
            detection: catalog.feature_detail(id)?.detection,
        })
    }

    fn of(latent: &'a LatentInfo) -> Self {
        Self {
            label: &latent.label,
            description: &latent.description,
            source: &latent.label_source,
            score: latent.label_score,
            detection: latent.detection,
        }
    }
}

/// A label with its source, that of the command (`source`) or of its row; `None` if it says nothing new.
fn changed(new: &NewLabel, known: &Known<'_>, source: Option<&str>) -> Option<NewLabel> {
    let same_text = new.label == printable(known.label)
        && new.description.as_deref().is_none_or(|description| description == printable(known.description));
    let same_measures = new.score.is_none_or(|score| known.score == Some(score))
        && new.detection.is_none_or(|detection| known.detection == Some(detection));
    if same_text && same_measures && source.is_none_or(|source| source == known.source) {
        return None;
    }
    let own = new.source.as_deref();
    // A name that was edited in an exported file comes from there, and what was measured was the name of before.
    let has_measures = known.score.is_some() || known.detection.is_some();
    let is_exported = own == Some(known.source)
        && (matches!(known.source, "words" | "none")
            || has_measures && (new.score, new.detection) == (known.score, known.detection));
    if !same_text && is_exported {
        let own = own.filter(|own| *own == "user");
        let source = source.or(own).map(str::to_owned);
        return Some(NewLabel { source, score: None, detection: None, evidence_version: None, ..new.clone() });
    }
    let own = own.or(same_text.then_some(known.source));
    Some(NewLabel { source: source.or(own).map(str::to_owned), ..new.clone() })
}

/// Returns how many changed.
fn put_in_folder(sae: Sae, dir: &Path, labels: &[NewLabel], source: Option<&str>, usual: &str) -> Result<u64> {
    let mut latents = sae.latents().to_vec();
    let mut n_changed = 0;
    for new in labels {
        let latent = &mut latents[new.feature_id as usize];
        let Some(new) = changed(new, &Known::of(latent), source) else { continue };
        let before = (latent.label.clone(), latent.description.clone());
        latent.label = new.label;
        if let Some(description) = new.description {
            latent.description = description;
        }
        if before != (latent.label.clone(), latent.description.clone()) {
            (latent.label_score, latent.detection, latent.evidence_version) = (None, None, None);
        }
        latent.label_source = new.source.unwrap_or_else(|| usual.to_owned());
        latent.label_score = new.score.or(latent.label_score);
        if new.detection.is_some() || new.evidence_version.is_some() {
            (latent.detection, latent.evidence_version) = (new.detection, new.evidence_version);
        }
        n_changed += 1;
    }
    if n_changed > 0 {
        sae.with_latents(latents)?.save(dir)?;
    }
    Ok(n_changed)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row(id: Id, label: &str) -> FileLabel {
        FileLabel {
            id,
            dictionary: None,
            label: label.to_owned(),
            description: None,
            detection: None,
            score: Some(3.0),
            source: None,
            evidence_version: None,
        }
    }

    #[test]
    fn only_what_is_new_changes_and_keeps_where_it_comes_from() {
        let known = |source: &'static str| Known {
            label: "a",
            description: "Says a.",
            source,
            score: Some(0.5),
            detection: Some(0.75),
        };
        let row = |label: &str, source: &str| NewLabel {
            description: Some("Says a.".to_owned()),
            score: Some(0.5),
            detection: Some(0.75),
            source: Some(source.to_owned()),
            ..NewLabel::new(0, label)
        };
        let source = |new: &NewLabel, of: &'static str, given: Option<&str>| {
            changed(new, &known(of), given).map(|new| new.source.unwrap_or_else(|| "usual".to_owned()))
        };
        // As exported, and what another database calls it.
        assert_eq!(source(&row("a", "words"), "words", None), None);
        assert_eq!(source(&row("a", "user"), "read", None), None);
        assert_eq!(source(&NewLabel::new(0, "a"), "read", None), None);
        // Names that a person gave elsewhere stay such; an edited name of words is none any more.
        assert_eq!(source(&row("b", "user"), "words", None).as_deref(), Some("user"));
        assert_eq!(source(&row("b", "words"), "words", None).as_deref(), Some("usual"));
        assert_eq!(source(&row("b", "llm:m"), "llm:m", None).as_deref(), Some("usual"));
        assert_eq!(changed(&row("b", "llm:m"), &known("llm:m"), None).map(|new| new.detection), Some(None));
        let again = NewLabel { detection: Some(0.9), ..row("b", "llm:m") };
        assert_eq!(source(&again, "llm:m", None).as_deref(), Some("llm:m"));
        assert_eq!(source(&row("b", "user"), "user", None).as_deref(), Some("user"));
        // A new measure of the same name.
        let measured = NewLabel { detection: Some(0.9), ..NewLabel::new(0, "a") };
        assert_eq!(source(&measured, "read", None).as_deref(), Some("read"));
        // What the command says goes first.
        assert_eq!(source(&row("a", "words"), "words", Some("llm:x")).as_deref(), Some("llm:x"));
        assert_eq!(source(&row("b", "user"), "words", Some("llm:x")).as_deref(), Some("llm:x"));
    }

    #[test]
    fn rows_without_feature_twice_or_empty_are_told() {
        let rows = vec![
            row(Id::Latent(1), "a"),
            row(Id::Latent(90), "b"),
            row(Id::Latent(1), "c"),
            row(Id::Feature(2), ""),
            row(Id::Feature(0), "d"),
        ];
        let find = |label: &FileLabel| {
            Ok(Found::of(match label.id {
                Id::Latent(latent) => Some(latent + 10).filter(|_| latent < 10),
                Id::Feature(id) => Some(id),
            }))
        };
        let matched = Matched::of(rows, find).unwrap();
        let labels: Vec<(u32, &str)> =
            matched.labels.iter().map(|label| (label.feature_id, label.label.as_str())).collect();
        assert_eq!(labels, [(0, "d"), (11, "a")]);
        // A measure that is no share is not taken for one.
        assert_eq!(matched.labels[0].score, None);
        assert_eq!((named(&matched.unmatched), named(&matched.duplicate)), ("position 90".into(), "position 1".into()));
        assert_eq!(matched.empty, [Id::Feature(2)]);
        let failure = Matched::of(vec![row(Id::Latent(90), "b")], find).unwrap_err();
        assert!(
            failure.line().contains("none of the labels can be used: 1 with no such feature (position 90)"),
            "{failure}"
        );
    }
}
