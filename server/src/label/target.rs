//! Which features there are, and where their new names go: the database, a dictionary's folder, or only a file.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use saequel_engine::evidence::FeatureEvidence;
use saequel_engine::sae::LatentInfo;
use saequel_engine::{Engine, ErrorKind, FeatureRef, NewLabel, Sae};

use super::work::Named;
use crate::context::Context;
use crate::error::{Failure, Result};

/// Source of names that were made without a language model.
const FROM_WORDS: &str = "words";
/// Source of names that a person gave.
const FROM_USER: &str = "user";

/// Features that get names without being called by name.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum Only {
    /// Those shown to users that have no name but the one made from words
    Unlabelled,
    /// Those shown to users
    Shown,
    /// Also hidden ones
    All,
}

/// Where names are, and go.
pub(crate) enum Target {
    /// A database.
    Database(Engine),
    /// A dictionary's folder.
    Folder {
        /// The folder.
        dir: PathBuf,
        /// What is in it.
        sae: Box<Sae>,
    },
    /// Nowhere: the evidence is all there is.
    Evidence,
}

/// A feature that is to be named.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Job {
    /// Its id in the database, if there is one.
    pub(crate) feature_id: Option<u32>,
    /// The name that it has.
    pub(crate) label: String,
    /// Where that comes from.
    pub(crate) source: String,
    /// What it does.
    pub(crate) evidence: FeatureEvidence,
}

/// What is known of a feature before.
struct Known {
    feature_id: Option<u32>,
    label: String,
    source: String,
    hidden: bool,
}

impl Target {
    /// The dictionary in the folder `sae`, else the database; if there is none and `optional`, nothing.
    ///
    /// # Errors
    /// As [`Sae::load`] and [`Context::open`].
    pub(crate) async fn open(sae: Option<&Path>, optional: bool, context: &Context) -> Result<Self> {
        match sae {
            Some(dir) => Ok(Self::Folder { dir: dir.to_owned(), sae: Box::new(Sae::load(dir)?) }),
            None if optional && !context.db_dir().exists() => Ok(Self::Evidence),
            None => Ok(Self::Database(context.open().await?)),
        }
    }

    /// The features of `evidence` that are meant: those called by `names`, else those that `only` says; of these, if they
    /// are `renamed`, not those whose name a person gave.
    ///
    /// # Errors
    /// [`ErrorKind::NotFound`] for a name that stands for nothing, or for nothing that there is evidence of;
    /// [`ErrorKind::Data`] if the evidence is of another database or dictionary.
    pub(crate) fn select(
        &self,
        evidence: Vec<FeatureEvidence>,
        names: &[String],
        only: Only,
        renamed: bool,
    ) -> Result<Vec<Job>> {
        let known: Vec<Known> = evidence.iter().map(|evidence| self.known(evidence)).collect::<Result<_>>()?;
        let mut chosen: BTreeSet<usize> = BTreeSet::new();
        for name in names {
            chosen.extend(self.called(name, &evidence, &known)?);
        }
        let wanted = |at: usize, known: &Known| {
            let by_words = known.source == FROM_WORDS || known.label.is_empty();
            let may = !renamed || known.source != FROM_USER;
            match only {
                _ if !names.is_empty() => chosen.contains(&at),
                Only::Unlabelled => by_words && !known.hidden,
                Only::Shown => may && !known.hidden,
                Only::All => may,
            }
        };
        let all = evidence.into_iter().zip(known).enumerate();
        Ok(all
            .filter(|(at, (_, known))| wanted(*at, known))
            .map(|(_, (evidence, Known { feature_id, label, source, .. }))| Job { feature_id, label, source, evidence })
            .collect())
    }

    fn known(&self, evidence: &FeatureEvidence) -> Result<Known> {
        let FeatureEvidence { dictionary, latent, feature_id, .. } = evidence;
        let foreign = |what: &str| {
            Failure::new(
                ErrorKind::Data,
                format!("the evidence of feature {latent} of dictionary '{dictionary}': {what}"),
            )
        };
        match self {
            Self::Evidence => Ok(Known {
                feature_id: *feature_id,
                label: evidence.label.clone(),
                source: FROM_WORDS.to_owned(),
                hidden: evidence.hidden.is_some(),
            }),
            Self::Folder { dir, sae } => {
                let info = sae.latents().get(*latent as usize).filter(|_| sae.name() == dictionary);
                let LatentInfo { label, label_source, hidden, .. } = info.ok_or_else(|| {
                    foreign(&format!("{} holds dictionary '{}', {} wide", dir.display(), sae.name(), sae.width()))
                        .hint(format!("--dictionary {} takes only the evidence of that one", sae.name()))
                })?;
                Ok(Known {
                    feature_id: *feature_id,
                    label: label.clone(),
                    source: label_source.clone(),
                    hidden: hidden.is_some(),
                })
            }
            Self::Database(engine) => {
                let catalog = engine.catalog();
                let features = &catalog.features;
                let known = features.dictionaries().iter().find(|known| known.name == *dictionary);
                let id = known.filter(|known| *latent < known.width).map(|known| known.first_id + latent);
                let id = id.ok_or_else(|| {
                    foreign("the database has no such dictionary")
                        .hint("`saequel sae list` tells which it has; --dictionary NAME takes only the evidence of one")
                })?;
                if feature_id.is_some_and(|other| other != id) {
                    return Err(foreign(&format!("it is feature {id} here; the evidence is of another database")));
                }
                let feature = features.feature(id).ok_or_else(|| foreign("the database has no such feature"))?;
                Ok(Known {
                    feature_id: Some(id),
                    label: feature.label.clone(),
                    source: feature.label_source.clone(),
                    hidden: feature.hidden,
                })
            }
        }
    }

    /// Positions of the features that `name` stands for: a number (the id in a database, else the position in the
    /// dictionary) or a label.
    fn called(&self, name: &str, evidence: &[FeatureEvidence], known: &[Known]) -> Result<Vec<usize>> {
        let found: Vec<usize> = if let Self::Database(engine) = self {
            let catalog = engine.catalog();
            let found = catalog.features.resolve("label", name).map_err(|error| {
                Failure::new(ErrorKind::NotFound, Failure::from(error).line())
                    .hint("`saequel features search WORDS` finds features by what they mean")
            })?;
            let ids: Vec<u32> = match found {
                FeatureRef::Feature(id) => vec![id],
                FeatureRef::Concept(members) => members.into_iter().map(|(id, _)| id).collect(),
            };
            let has_id = |known: &Known| known.feature_id.is_some_and(|id| ids.contains(&id));
            (0..known.len()).filter(|at| has_id(&known[*at])).collect()
        } else if let Ok(number) = name.trim().parse::<u32>() {
            (0..evidence.len()).filter(|at| evidence[*at].latent == number).collect()
        } else {
            (0..known.len()).filter(|at| known[*at].label.eq_ignore_ascii_case(name.trim())).collect()
        };
        if found.is_empty() {
            let message = format!("there is no evidence of feature '{name}'; there is of {} others", evidence.len());
            return Err(Failure::new(ErrorKind::NotFound, message));
        }
        Ok(found)
    }

    /// Stores names with `source`; returns how many changed.
    ///
    /// # Errors
    /// As [`Engine::import_labels`] and [`Sae::save`].
    pub(crate) async fn put(&self, named: &[(Job, Named)], source: &str) -> Result<u64> {
        match self {
            Self::Evidence => Ok(0),
            Self::Database(engine) => {
                let label = |(job, named): &(Job, Named)| {
                    Some(NewLabel {
                        description: Some(named.label.description.clone()),
                        evidence_version: Some(job.evidence.version),
                        ..NewLabel::new(job.feature_id?, named.label.label.clone())
                    })
                };
                let labels: Vec<NewLabel> = named.iter().filter_map(label).collect();
                Ok(engine.import_labels(&labels, source).await?)
            }
            Self::Folder { dir, .. } => {
                let sae = Sae::load(dir)?;
                let by_latent: BTreeMap<u32, &(Job, Named)> =
                    named.iter().map(|named| (named.0.evidence.latent, named)).collect();
                let mut latents = sae.latents().to_vec();
                let mut n_changed = 0;
                for latent in &mut latents {
                    let Some((job, named)) = by_latent.get(&latent.latent) else { continue };
                    n_changed += u64::from(latent.label != named.label.label || latent.label_source != source);
                    latent.label.clone_from(&named.label.label);
                    latent.description.clone_from(&named.label.description);
                    (latent.detection, latent.evidence_version) = (None, Some(job.evidence.version));
                    source.clone_into(&mut latent.label_source);
                    latent.label_score = named.detection.map(|detection| detection.balanced_accuracy);
                }
                sae.with_latents(latents)?.save(dir)?;
                Ok(n_changed)
            }
        }
    }

    /// Where names go, for people.
    pub(crate) fn place(&self) -> String {
        match self {
            Self::Database(_) => "the database".to_owned(),
            Self::Folder { dir, .. } => dir.display().to_string(),
            Self::Evidence => "nowhere".to_owned(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::label::testing::evidence;

    fn chosen(names: &[&str], only: Only) -> Result<Vec<u32>> {
        let mut all = vec![evidence("sorry"), evidence("thanks"), evidence("the")];
        for (latent, evidence) in (0..).zip(&mut all) {
            evidence.latent = latent;
        }
        all[2].hidden = Some("dense".to_owned());
        let names: Vec<String> = names.iter().map(|name| (*name).to_owned()).collect();
        let jobs = Target::Evidence.select(all, &names, only, true)?;
        Ok(jobs.into_iter().map(|job| job.evidence.latent).collect())
    }

    #[test]
    fn features_are_chosen_by_name_or_by_state() {
        assert_eq!(chosen(&[], Only::Unlabelled).unwrap(), [0, 1]);
        assert_eq!(chosen(&[], Only::All).unwrap(), [0, 1, 2]);
        assert_eq!(chosen(&["2", "Sorry"], Only::Unlabelled).unwrap(), [0, 2]);
        let failure = chosen(&["9"], Only::All).unwrap_err();
        assert!(failure.wire().exit == 4 && failure.line().contains("'9'"), "{failure}");
    }
}
