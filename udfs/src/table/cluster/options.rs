//! What a call of `cluster` or `cluster_summary` asks for, and the features that it is about.

use std::collections::HashSet;
use std::fmt;
use std::sync::Arc;

use datafusion::common::{exec_err, plan_err};
use datafusion::error::Result;
use datafusion::logical_expr::Expr;

use crate::SharedSource;
use crate::args::Arguments;
use crate::catalog::{FeatureCatalog, FeatureRef, FeatureSelection};
use crate::feature_source::EncodedText;
use crate::features::FeatureId;
use crate::kernels::axis::Axis;
use crate::kernels::retrieval::most_similar;
use crate::table::exec::{blocking, quoted, quoted_list};

/// A label below this cosine is not even distantly about the phrase.
const ABOUT_FLOOR: f32 = 0.05;
/// Features that the only phrase of `about` stands for.
const ONE_PHRASE: usize = 200;
/// Features that each of several phrases stands for by its label. Few do not tell documents apart: on texts of 6 topics in 4
/// styles, the styles named, 8 give an ARI of 0.33 with the styles, 40 0.34, 80 0.46, 100 0.43, 160 0.68; the topics named,
/// 8 to 80 a phrase give 0.25 with the topics, 110 0.16.
const PER_PHRASE: usize = 100;
/// Features that each of several phrases stands for by firing on it.
const OWN_FEATURES: usize = 5;
/// Directions in which labels differ that embeddings are looked at along. With 10, 20 and 40, emotions of tweets are found
/// with an NMI of .14, .15 and .14, styles that are named with an ARI of .82, .93 and .83.
const AXIS_WIDTH: usize = 20;
/// Labels that EXPLAIN lists.
const MOST_SHOWN: usize = 20;
/// Most groups that may be asked for.
const MOST_CLUSTERS: usize = 1_000;
/// Most groups for which eigenvectors are computed: the time grows with the cube.
const MOST_SPECTRAL: usize = 50;

/// Words that begin a question.
const QUESTION_WORDS: &[&str] = &["which", "what", "how", "who", "whose", "where", "when", "why"];
/// Words that say nothing of what is asked for.
const EMPTY_WORDS: &[&str] = &[
    "",
    "a",
    "an",
    "the",
    "this",
    "that",
    "it",
    "its",
    "they",
    "their",
    "is",
    "are",
    "was",
    "were",
    "be",
    "being",
    "been",
    "do",
    "does",
    "did",
    "has",
    "have",
    "had",
    "can",
    "could",
    "of",
    "in",
    "by",
    "to",
    "for",
    "on",
    "with",
    "there",
    "kind",
    "kinds",
    "sort",
    "type",
    "text",
    "texts",
    "document",
    "documents",
    "answer",
    "answers",
    "writer",
    "author",
    "expressed",
    "expresses",
    "express",
    "used",
    "uses",
    "use",
    "shown",
    "shows",
    "show",
    "conveyed",
    "conveys",
];

/// How documents are grouped.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Method {
    /// Spectral clustering on the Jaccard similarity of present features.
    JaccardSpectral,
    /// Spherical k-means.
    KMeans,
}

/// What documents are compared by.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum View {
    /// Their features.
    Features,
    /// Their embeddings.
    Dense,
    /// Their features, and where their embeddings lie along what the call is about.
    Both {
        /// Whether that was said: then documents without an embedding are an error.
        asked_for: bool,
    },
}

/// A call, checked.
#[derive(Debug, Clone)]
pub(super) struct Options {
    pub(super) function: &'static str,
    pub(super) set: String,
    /// What the groups shall be about, one text or the items of a list; all visible features otherwise.
    pub(super) about: Option<Vec<String>>,
    /// Groups wanted; chosen if not given.
    pub(super) k: Option<usize>,
    pub(super) seed: u64,
    pub(super) method: Method,
    pub(super) view: View,
    /// Features that the phrases of `about` stand for together, if said.
    pub(super) n_features: Option<usize>,
    pub(super) selection: FeatureSelection,
}

impl Options {
    pub(super) fn parse(function: &'static str, exprs: &[Expr]) -> Result<Self> {
        let mut args = Arguments::parse(function, exprs)?;
        let set = args.positional("set").required_text()?;
        let about = match args.positional("about") {
            about if about.is_given() => Some(about.texts()?),
            _ => None,
        };
        if about.as_ref().is_some_and(|about| about.iter().all(|part| part.trim().is_empty())) {
            return plan_err!("{function}: argument 'about' is empty; leave it out to group by everything");
        }
        let k = args.named("k").count()?;
        let seed = args.named("seed").count_or(0)? as u64;
        // `auto` is k-means: of four news topics it finds more than spectral clustering (NMI 0.46 against 0.28).
        let method = match args.named("method").choice_or(&["auto", "jaccard-spectral", "kmeans"], "auto")? {
            "jaccard-spectral" => Method::JaccardSpectral,
            _ => Method::KMeans,
        };
        let view = match args.named("view").choice_or(&["features", "dense", "both", "auto"], "auto")? {
            "features" => View::Features,
            "dense" => View::Dense,
            "both" => View::Both { asked_for: true },
            _ if about.is_some() && method == Method::KMeans => View::Both { asked_for: false },
            _ => View::Features,
        };
        let n_features = args.named("n_features").count()?;
        let selection = FeatureSelection::from_args(&mut args)?;
        args.finish()?;
        if let Some(k) = k
            && !(1..=MOST_CLUSTERS).contains(&k)
        {
            return plan_err!("{function}: expected from 1 to {MOST_CLUSTERS} for 'k', got {k}");
        }
        if let (Method::JaccardSpectral, Some(k)) = (method, k)
            && k > MOST_SPECTRAL
        {
            return plan_err!(
                "{function}: method 'jaccard-spectral' takes at most {MOST_SPECTRAL} for 'k', got {k}; use method => 'kmeans'"
            );
        }
        if n_features == Some(0) {
            return plan_err!("{function}: expected at least 1 for 'n_features', got 0");
        }
        if view == View::Dense && about.is_some() {
            return plan_err!(
                "{function}: view 'dense' groups by everything at once and cannot be narrowed by 'about'; leave out one of \
                 them, or use view => 'both'"
            );
        }
        if view == (View::Both { asked_for: true }) && about.is_none() {
            return plan_err!(
                "{function}: view 'both' looks at embeddings along what 'about' names; say what, or use view => 'dense'"
            );
        }
        if view != View::Features && method == Method::JaccardSpectral {
            return plan_err!(
                "{function}: method 'jaccard-spectral' compares features; with view '{view}' use 'kmeans'"
            );
        }
        Ok(Self { function, set, about, k, seed, method, view, n_features, selection })
    }
}

impl fmt::Display for View {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            View::Features => "features",
            View::Dense => "dense",
            View::Both { .. } => "both",
        })
    }
}

impl fmt::Display for Options {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}({}", self.function, quoted(&self.set))?;
        match self.about.as_deref() {
            Some([about]) => write!(f, ", about => {}", quoted(about))?,
            Some(parts) => write!(f, ", about => [{}]", quoted_list(parts))?,
            None => {}
        }
        if let Some(k) = self.k {
            write!(f, ", k => {k}")?;
        }
        let method = match self.method {
            Method::JaccardSpectral => "jaccard-spectral",
            Method::KMeans => "kmeans",
        };
        write!(f, ", seed => {}, method => '{method}', view => '{}')", self.seed, self.view)
    }
}

/// The features that documents are compared by: `slots[id]` is a feature's column, if it is among them.
#[derive(Debug, Clone)]
pub(super) struct Selected {
    slots: Vec<Option<u32>>,
    pub(super) n_slots: usize,
    /// Where the labels that the phrases of `about` stand for differ; none for features that were named.
    pub(super) axis: Option<Arc<Axis>>,
    /// Labels of what `about` stands for, for EXPLAIN.
    shown: Vec<String>,
}

impl Selected {
    fn from_ids(ids: impl IntoIterator<Item = FeatureId>, catalog: &FeatureCatalog) -> Self {
        let mut slots = vec![None; catalog.id_bound()];
        for id in ids {
            if let Some(slot) = slots.get_mut(id as usize) {
                *slot = Some(0);
            }
        }
        let mut n_slots = 0;
        for slot in slots.iter_mut().flatten() {
            *slot = n_slots;
            n_slots += 1;
        }
        Self { slots, n_slots: n_slots as usize, axis: None, shown: Vec::new() }
    }

    /// Column of a feature.
    pub(super) fn slot(&self, id: FeatureId) -> Option<u32> {
        self.slots.get(id as usize).copied().flatten()
    }
}

impl fmt::Display for Selected {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let labels: Vec<&str> = self.shown.iter().take(MOST_SHOWN).map(String::as_str).collect();
        write!(f, "{} feature{}", self.n_slots, if self.n_slots == 1 { "" } else { "s" })?;
        if !labels.is_empty() {
            write!(f, ": {}", labels.join("; "))?;
        }
        if self.shown.len() > MOST_SHOWN { write!(f, "; ...") } else { Ok(()) }
    }
}

/// Finds the features that the call is about.
///
/// Each part of `about` between commas, or each item of a list, is an id, a label or a concept, or else a phrase, which stands for the features
/// whose labels are most like it, and, of several phrases, for those that fire most strongly on it; the union counts
/// (arXiv 2512.10092, 4.3). See [`explicit`] for labels that are phrases.
pub(super) async fn select(source: &SharedSource, options: &Options) -> Result<Selected> {
    let catalog = source.catalog();
    let function = options.function;
    let mut visible = catalog.select(function, &options.selection)?;
    let set = std::slice::from_ref(&options.set);
    if options.view == View::Dense {
        catalog.keep_read(&mut visible, source, set).await?;
    } else {
        catalog.restrict(function, &mut visible, source, set).await?;
    }
    let Some(about) = &options.about else {
        let ids = (0..).zip(&visible).filter(|(_, selected)| **selected).map(|(id, _)| id);
        return Ok(Selected::from_ids(ids, &catalog));
    };
    let (mut ids, phrases) = explicit(function, &catalog, about, &visible)?;
    let mut axis = None;
    if !phrases.is_empty() {
        let (source, known, n_features) = (Arc::clone(source), Arc::clone(&catalog), options.n_features);
        let (found, along) = blocking(function, move |cancellation| {
            let labels = source.label_embeddings()?;
            let texts: Vec<String> = phrases.iter().map(|phrase| topic(phrase)).collect();
            let texts: Vec<&str> = texts.iter().map(String::as_str).collect();
            let allowed = |id: &FeatureId| visible.get(*id as usize).copied().unwrap_or(false);
            let several = texts.len() > 1;
            let per_phrase = match n_features {
                Some(n_features) => (n_features / texts.len()).max(1),
                None if several => PER_PHRASE,
                None => ONE_PHRASE,
            };
            let (mut ids, mut named): (Vec<FeatureId>, Vec<f32>) = (Vec::new(), Vec::new());
            for encoded in source.encode(&texts)? {
                let rows =
                    most_similar(&encoded.embedding, &labels.values, labels.width, labels.ids.len(), ABOUT_FLOOR);
                let rows = rows.into_iter().map(|(row, _)| row).filter(|&row| allowed(&labels.ids[row]));
                for row in rows.take(per_phrase) {
                    ids.push(labels.ids[row]);
                    named.extend(&labels.values[row * labels.width..(row + 1) * labels.width]);
                }
                if several {
                    ids.extend(strongest(&encoded, &known).filter(allowed).take(OWN_FEATURES));
                }
            }
            Ok((ids, Axis::of_names(&named, labels.width, AXIS_WIDTH, cancellation)))
        })
        .await?;
        ids.extend(found);
        axis = Some(Arc::new(along)).filter(|axis| !axis.is_empty());
    }
    if ids.is_empty() {
        let about = about.join(", ");
        return exec_err!(
            "{function}: no feature is about '{about}'; look for names with SELECT * FROM search_features({})",
            quoted(&about)
        );
    }
    let mut seen = HashSet::new();
    ids.retain(|id| seen.insert(*id));
    let shown = ids.iter().map(|id| catalog.label(*id).to_owned()).collect();
    Ok(Selected { shown, axis, ..Selected::from_ids(ids, &catalog) })
}

/// What a question is about: `emotion` of `which emotion is expressed?`. Other phrases stay as they are, and so does a
/// question of nothing but such words.
fn topic(phrase: &str) -> String {
    let words = || phrase.split_whitespace().map(|word| word.trim_matches(|c: char| c.is_ascii_punctuation()));
    let is_one_of = |list: &[&str], word: &str| list.iter().any(|known| known.eq_ignore_ascii_case(word));
    if !words().next().is_some_and(|first| is_one_of(QUESTION_WORDS, first)) {
        return phrase.to_owned();
    }
    let kept: Vec<&str> =
        words().filter(|word| !is_one_of(QUESTION_WORDS, word) && !is_one_of(EMPTY_WORDS, word)).collect();
    if kept.is_empty() { phrase.to_owned() } else { kept.join(" ") }
}

/// Features of a text; the strongest, by activation over its 90th percentile, first.
fn strongest(text: &EncodedText, catalog: &FeatureCatalog) -> impl Iterator<Item = FeatureId> {
    let strength = |(id, activation): (&FeatureId, &f32)| Some((*id, activation / catalog.feature(*id)?.scales().1));
    let mut found: Vec<(FeatureId, f32)> = text.ids.iter().zip(&text.activations).filter_map(strength).collect();
    found.sort_by(|a, b| b.1.total_cmp(&a.1).then(a.0.cmp(&b.0)));
    found.into_iter().map(|(id, _)| id)
}

/// The features that parts of `about` name, and the parts that are phrases.
///
/// Ids and the members of concepts are taken as they are, of the features with a label those that are selected. A label
/// alone is a phrase, too, and so is one of which no feature is selected.
fn explicit(
    function: &str,
    catalog: &FeatureCatalog,
    about: &[String],
    selected: &[bool],
) -> Result<(Vec<FeatureId>, Vec<String>)> {
    let parts: Vec<&str> = match about {
        // A label may hold a comma.
        [about] if catalog.resolve_text(function, about).is_err() => about.split(',').collect(),
        items => items.iter().map(String::as_str).collect(),
    };
    let parts: Vec<&str> = parts.into_iter().map(str::trim).filter(|part| !part.is_empty()).collect();
    let (mut ids, mut phrases) = (Vec::new(), Vec::new());
    for part in &parts {
        let mut found: Vec<FeatureId> = match catalog.resolve_text(function, part) {
            Ok(FeatureRef::Feature(id)) => vec![id],
            Ok(FeatureRef::Concept(members)) => {
                members.into_iter().filter(|member| member.1 > 0.0).map(|member| member.0).collect()
            }
            // A number is meant as an id; that there is no such feature must be said.
            Err(error) if part.parse::<FeatureId>().is_ok() => return Err(error),
            Err(_) => {
                phrases.push((*part).to_owned());
                continue;
            }
        };
        if is_label(catalog, part) {
            found.retain(|id| selected.get(*id as usize).copied().unwrap_or(false));
            // One feature makes no groups: a phrase that happens to be a label stands for features like it.
            if parts.len() == 1 || found.is_empty() {
                phrases.push((*part).to_owned());
            }
        }
        ids.extend(found);
    }
    Ok((ids, phrases))
}

/// Whether a name that is known is a label: a concept's name comes before it, an id behind it.
fn is_label(catalog: &FeatureCatalog, name: &str) -> bool {
    let lower = name.to_lowercase();
    !catalog.concepts().iter().any(|concept| concept.name.eq_ignore_ascii_case(name))
        && catalog.features().iter().any(|feature| feature.label.to_lowercase() == lower)
}

#[cfg(test)]
mod tests {
    use super::{FeatureId, explicit, topic};
    use crate::MemorySource;
    use crate::catalog::Concept;
    use crate::feature_source::FeatureSource;

    #[test]
    fn labels_are_of_the_selection_and_alone_are_phrases() {
        let concept = Concept { name: "polite".to_owned(), members: vec![(1, 1.0), (0, -1.0)] };
        let features: [(&str, &[&str]); 6] =
            [("apology", &[]), ("thanks", &[]), ("hedge", &[]), ("Hedge", &[]), ("0", &[]), ("excuse", &[])];
        let catalog = MemorySource::with_words(&features, vec![concept]).catalog();
        let selected = [true, true, true, false, true, false];
        let cases: [(&str, &[FeatureId], &[&str]); 8] = [
            ("hedge", &[2], &["hedge"]),
            ("hedge, thanks", &[2, 1], &[]),
            ("excuse, thanks", &[1], &["excuse"]),
            ("Polite", &[1], &[]),
            ("0", &[4], &["0"]),
            ("0, 3", &[4, 3], &[]),
            ("3", &[3], &[]),
            ("rain, 1", &[1], &["rain"]),
        ];
        for (about, ids, phrases) in cases {
            let (found, rest) = explicit("cluster", &catalog, &[about.to_owned()], &selected).unwrap();
            assert_eq!(found, ids, "{about}");
            assert_eq!(rest, phrases, "{about}");
        }
        let error = explicit("cluster", &catalog, &["hedge, 9".to_owned()], &selected).unwrap_err().strip_backtrace();
        assert!(error.contains("cluster: feature 9 not found"), "{error}");
        // Items of a list are whole.
        let items = ["thanks, so much", "rain, or snow", "hedge", ""].map(str::to_owned);
        let catalog = MemorySource::with_words(&[("thanks, so much", &[]), ("hedge", &[])], Vec::new()).catalog();
        let (found, rest) = explicit("cluster", &catalog, &items, &[true, true]).unwrap();
        assert_eq!((found, rest), (vec![0, 1], vec!["rain, or snow".to_owned()]));
        let (found, _) = explicit("cluster", &catalog, &["hedge, thanks, so much".to_owned()], &[true, true]).unwrap();
        assert_eq!(found, [1], "a text is cut at its commas");
    }

    #[test]
    fn questions_are_reduced_to_what_they_ask_for() {
        for (phrase, expected) in [
            ("which emotion is expressed", "emotion"),
            ("What is the writing style?", "writing style"),
            ("how is it laid out", "laid out"),
            ("which is it", "which is it"),
            ("bullet points", "bullet points"),
            ("the mood of the writer", "the mood of the writer"),
        ] {
            assert_eq!(topic(phrase), expected);
        }
    }
}
