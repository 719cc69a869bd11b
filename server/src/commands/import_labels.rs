//! `saequel features import-labels`: labels from files, into a database or a dictionary's folder.

use std::collections::BTreeMap;
use std::path::Path;

use saequel_engine::{Engine, ErrorKind, IMPORTED, NewLabel, Sae};

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
    let source = args.source.unwrap_or_else(|| format!("{IMPORTED}{}", formats.join("+")));
    let (matched, n_changed) = match &args.sae {
        Some(dir) => {
            let sae = Sae::load(dir)?;
            let matched = Matched::of(files.labels, |label| in_folder(label, &sae, dir))?;
            let n_changed = put_in_folder(sae, dir, &matched.labels, &source)?;
            (matched, n_changed)
        }
        None => {
            let engine = context.open().await?;
            if let Some(name) = &args.dictionary {
                place_of(&engine, name)?;
            }
            let matched = Matched::of(files.labels, |label| in_database(label, &engine, args.dictionary.as_deref()))?;
            let n_changed = engine.import_labels(&matched.labels, &source).await?;
            (matched, n_changed)
        }
    };
    let origin: Vec<&str> = files.sources.iter().map(String::as_str).filter(|origin| !origin.is_empty()).collect();
    let origin = if origin.is_empty() { String::new() } else { format!(" of {}", origin.join(", ")) };
    say!("{n_changed} of {} labels changed (read as {}{origin})", matched.labels.len(), formats.join(", "))?;
    for (what, ids) in [
        ("with no such feature", &matched.unmatched),
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
    duplicate: Vec<Id>,
    empty: Vec<Id>,
}

impl Matched {
    /// `find`: the feature of a row, if there is one.
    fn of(rows: Vec<FileLabel>, find: impl Fn(&FileLabel) -> Result<Option<u32>>) -> Result<Self> {
        let mut matched = Self::default();
        let mut labels: BTreeMap<u32, NewLabel> = BTreeMap::new();
        for row in rows {
            let Some(feature_id) = find(&row)? else {
                matched.unmatched.push(row.id);
                continue;
            };
            if row.label.is_empty() {
                matched.empty.push(row.id);
            } else if labels.contains_key(&feature_id) {
                matched.duplicate.push(row.id);
            } else {
                let FileLabel { label, description, detection, score, .. } = row;
                let score = score.filter(|score| (0.0..=1.0).contains(score));
                labels
                    .insert(feature_id, NewLabel { description, detection, score, ..NewLabel::new(feature_id, label) });
            }
        }
        matched.labels = labels.into_values().collect();
        if matched.labels.is_empty() {
            let message = format!(
                "none of the labels can be used: {} with no such feature{}, {} empty",
                matched.unmatched.len(),
                if matched.unmatched.is_empty() { String::new() } else { format!(" ({})", named(&matched.unmatched)) },
                matched.empty.len()
            );
            return Err(Failure::new(ErrorKind::Data, message)
                .hint("labels of another dictionary? `saequel sae list` shows the widths and first ids of yours"));
        }
        Ok(matched)
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

fn in_database(label: &FileLabel, engine: &Engine, dictionary: Option<&str>) -> Result<Option<u32>> {
    let catalog = engine.catalog();
    let features = &catalog.features;
    let latent = match label.id {
        Id::Feature(id) => return Ok(features.feature(id).map(|_| id)),
        Id::Latent(latent) => latent,
    };
    let dictionaries = features.dictionaries();
    let wanted = dictionary.or(label.dictionary.as_deref());
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
    Ok((latent < width).then(|| first_id + latent))
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

fn in_folder(label: &FileLabel, sae: &Sae, dir: &Path) -> Result<Option<u32>> {
    match label.id {
        Id::Latent(latent) => Ok(Some(latent).filter(|&latent| (latent as usize) < sae.width())),
        Id::Feature(_) => Err(Failure::new(
            ErrorKind::Data,
            format!("the file has ids of a database (feature_id), but {} is a dictionary", dir.display()),
        )
        .hint("without --sae they go into the database (--db)")),
    }
}

/// Returns how many changed.
fn put_in_folder(sae: Sae, dir: &Path, labels: &[NewLabel], source: &str) -> Result<u64> {
    let mut latents = sae.latents().to_vec();
    let mut n_changed = 0;
    for new in labels {
        let latent = &mut latents[new.feature_id as usize];
        let before = latent.clone();
        // A file that only repeats a name is not where it is from.
        let is_told_again = source.starts_with(IMPORTED)
            && new.label == latent.label
            && new.description.as_ref().is_none_or(|description| *description == latent.description)
            && new.score.is_none_or(|score| latent.label_score == Some(score))
            && new.detection.is_none_or(|detection| latent.detection == Some(detection));
        if is_told_again {
            continue;
        }
        latent.label.clone_from(&new.label);
        if let Some(description) = &new.description {
            latent.description.clone_from(description);
        }
        source.clone_into(&mut latent.label_source);
        (latent.label_score, latent.detection, latent.evidence_version) = (new.score, new.detection, None);
        n_changed += u64::from(*latent != before);
    }
    sae.with_latents(latents)?.save(dir)?;
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
        }
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
            Ok(match label.id {
                Id::Latent(latent) => Some(latent + 10).filter(|_| latent < 10),
                Id::Feature(id) => Some(id),
            })
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
