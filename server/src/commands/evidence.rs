//! `saequel features evidence` and `saequel sae detect`: contexts of features, and how well labels tell them from others.

use std::collections::HashSet;
use std::path::Path;
use std::sync::Arc;

use arrow::array::{Array, ArrayRef, AsArray, Float64Array, RecordBatch, StringArray, UInt64Array};
use arrow::compute::cast;
use arrow::datatypes::{DataType, UInt64Type};
use futures::TryStreamExt;
use saequel_engine::detection::{Detection, detect_all};
use saequel_engine::evidence::{self, Band, EvidenceOptions, EvidenceTexts, FeatureEvidence, Split, collect_of};
use saequel_engine::reader::Passage;
use saequel_engine::{CorpusInfo, Encoder, Engine, ErrorKind, Reader, Sae};

use super::features::{feature_id, text_of};
use crate::args::{DetectArgs, EvidenceArgs};
use crate::context::Context;
use crate::error::{Failure, Result};
use crate::say::{remark, say};
use crate::sql_text::identifier;

/// Labels with at least this score are good.
const GOOD: f32 = 0.85;

/// Collects contexts in which features fire, and others.
pub(super) async fn collect(args: &EvidenceArgs, context: &Context) -> Result<Vec<FeatureEvidence>> {
    let subject = Subject::find(args, context).await?;
    let latents = args.features.iter().map(|name| subject.latent(name)).collect::<Result<Vec<u32>>>()?;
    let texts = match (&args.work, &args.corpus) {
        (Some(dir), _) => EvidenceTexts::Harvest(dir.clone()),
        (None, Some(name)) => {
            let opened;
            let engine = match &subject.engine {
                Some(engine) => engine,
                None => {
                    opened = context.open().await?;
                    &opened
                }
            };
            EvidenceTexts::Memory(
                stored_texts(engine, &*corpus(engine, name)?, &subject.sae, args.tokens, context).await?,
            )
        }
        (None, None) => EvidenceTexts::Files { paths: args.input.clone(), column: args.text.clone() },
    };
    let options = EvidenceOptions {
        tokens: args.tokens,
        latents,
        include_hidden: args.hidden,
        middle: args.middle,
        seed: args.seed,
        reader_options: context.engine_options().reader(),
        ..EvidenceOptions::new(texts)
    };
    let sae = Arc::clone(&subject.sae);
    let mut found = context.blocking(move |progress| collect_of(&sae, &options, progress)).await?;
    found.iter_mut().for_each(|feature| subject.name(feature));
    Ok(found)
}

/// Shows them.
pub(super) async fn evidence(args: EvidenceArgs, context: &Context) -> Result<()> {
    let found = collect(&args, context).await?;
    match (args.format.as_str(), &args.output) {
        ("table", None) => found.iter().try_for_each(|feature| say!("{}", readable(feature))),
        ("table", Some(_)) => Err(Failure::usage("a table of contexts is for reading on the screen")
            .hint("leave out --format to write JSON Lines to the file")),
        (_, None) => found.iter().try_for_each(|feature| {
            let line = serde_json::to_string(feature).map_err(|error| {
                Failure::new(ErrorKind::Internal, format!("cannot write evidence as JSON: {error}"))
            })?;
            say!("{line}")
        }),
        (_, Some(path)) => {
            evidence::write(path, &found)?;
            let n_contexts: usize = found.iter().map(|feature| feature.contexts.len()).sum();
            remark!("{n_contexts} contexts of {} features in {}", found.len(), path.display());
            Ok(())
        }
    }
}

/// The dictionary whose features are asked for, and the database that names them, if it is in one.
struct Subject {
    sae: Arc<Sae>,
    engine: Option<Engine>,
    first_id: u32,
}

impl Subject {
    async fn find(args: &EvidenceArgs, context: &Context) -> Result<Self> {
        let alone = |sae: Sae| Ok(Self { sae: Arc::new(sae), engine: None, first_id: 0 });
        if let Some(dir) = args.dictionary.as_deref().map(Path::new).filter(|dir| dir.join("sae.json").exists()) {
            return alone(Sae::load(dir)?);
        }
        if args.corpus.is_none() && !context.db_dir().exists() {
            let shipped = Sae::shipped()?;
            let name = args.dictionary.as_deref().unwrap_or(saequel_engine::sae::DEFAULT);
            return match shipped.into_iter().find(|sae| sae.name() == name) {
                Some(sae) => alone(sae),
                None => {
                    let message =
                        format!("'{name}' is no folder of a dictionary (with sae.json), and there is no database");
                    Err(Failure::new(ErrorKind::NotFound, message).hint("name the database with --db DIR"))
                }
            };
        }
        let engine = context.open().await?;
        let catalog = engine.catalog();
        let known = catalog.features.dictionaries();
        let of_feature = |name: &String| -> Result<String> {
            let feature = catalog.features.feature(feature_id(&engine, name)?);
            Ok(feature
                .and_then(|feature| known.get(feature.dictionary))
                .map(|found| found.name.clone())
                .unwrap_or_default())
        };
        let name = match (&args.dictionary, args.features.first(), &args.corpus) {
            (Some(name), ..) => name.clone(),
            (None, Some(feature), _) => of_feature(feature)?,
            (None, None, Some(name)) => corpus(&engine, name)?.dictionaries.first().cloned().unwrap_or_default(),
            (None, None, None) => known.first().map(|first| first.name.clone()).unwrap_or_default(),
        };
        // Checks that it exists, and its weights.
        let (weights, wanted) = (engine.clone(), name.clone());
        let progress = context.progress();
        let encoder = tokio::task::spawn_blocking(move || weights.encoder(&[wanted], progress.as_ref()))
            .await
            .map_err(|error| Failure::new(ErrorKind::Internal, error.to_string()))??;
        let first_id = known.iter().find(|dictionary| dictionary.name == name).map_or(0, |found| found.first_id);
        let sae = encoder.saes().first().cloned();
        let sae = sae.ok_or_else(|| Failure::new(ErrorKind::NotFound, "the database has no dictionary"))?;
        Ok(Self { sae, engine: Some(engine), first_id })
    }

    /// Position in the dictionary of the feature that a number or label names.
    fn latent(&self, name: &str) -> Result<u32> {
        let Some(engine) = &self.engine else {
            let latents = self.sae.latents();
            let found = match name.parse::<usize>() {
                Ok(number) => latents.get(number),
                Err(_) => latents.iter().find(|info| info.label.eq_ignore_ascii_case(name)),
            };
            return found.map(|info| info.latent).ok_or_else(|| {
                let message = format!("dictionary '{}' has no feature '{name}'", self.sae.name());
                let hint = format!("features are numbers from 0 to {}, or labels", latents.len().saturating_sub(1));
                Failure::new(ErrorKind::NotFound, message).hint(hint)
            });
        };
        let id = feature_id(engine, name)?;
        id.checked_sub(self.first_id).filter(|latent| (*latent as usize) < self.sae.width()).ok_or_else(|| {
            let message = format!("feature {id} is not of dictionary '{}'", self.sae.name());
            Failure::usage(message).hint("features of one dictionary at a time; name it with --dictionary")
        })
    }

    /// Gives evidence the id and the label that the feature has in the database.
    fn name(&self, evidence: &mut FeatureEvidence) {
        if let Some(engine) = &self.engine {
            let id = self.first_id + evidence.latent;
            evidence.feature_id = Some(id);
            evidence.label = engine.catalog().features.label(id).to_owned();
        }
    }
}

fn corpus(engine: &Engine, name: &str) -> Result<Arc<CorpusInfo>> {
    engine.catalog().corpus(name).cloned().ok_or_else(|| {
        Failure::new(ErrorKind::NotFound, format!("corpus '{name}' not found")).hint("`saequel sql \"SHOW CORPORA\"`")
    })
}

/// Texts of the first documents of a corpus, up to `tokens` tokens unless that is 0, in the conversations in which
/// `sae`'s reader read them.
async fn stored_texts(
    engine: &Engine,
    corpus: &CorpusInfo,
    sae: &Sae,
    tokens: u64,
    context: &Context,
) -> Result<Vec<Passage<'static>>> {
    let mut wanted = vec![text_of(corpus)];
    let mut chat = None;
    if let Some(columns) = &corpus.chat {
        wanted.extend(columns.columns.iter().map(|(_, column)| identifier(column)));
        let (name, options) = (sae.reader().to_owned(), context.engine_options().reader());
        let reader = context.blocking(move |progress| Reader::load(&name, &options, progress)).await?;
        let template = reader.chat_template().cloned().ok_or_else(|| {
            let message = format!("reader '{}' has no chat template to read corpus '{}'", reader.name(), corpus.name);
            Failure::new(ErrorKind::Query, message).hint("name a dictionary of the reader that read it (--dictionary)")
        })?;
        chat = Some((columns, template));
    }
    // The text may be a column of the conversation as well.
    let named = wanted.iter().enumerate().map(|(at, text)| format!("CAST({text} AS VARCHAR) AS column_{at}"));
    let wanted: Vec<String> = named.collect();
    let statement =
        format!("SELECT CAST(n_tokens AS BIGINT UNSIGNED), {} FROM {}", wanted.join(", "), identifier(&corpus.name));
    let mut rows = engine.sql(&statement).await?;
    let (mut texts, mut n_tokens) = (Vec::new(), 0);
    while let Some(batch) = rows.try_next().await? {
        let counts = cast(batch.column(0), &DataType::UInt64)?;
        let columns = batch.columns()[1..].iter().map(|column| cast(column, &DataType::Utf8));
        let columns = columns.collect::<std::result::Result<Vec<_>, _>>()?;
        for (row, count) in counts.as_primitive::<UInt64Type>().iter().enumerate() {
            if tokens > 0 && n_tokens >= tokens {
                return Ok(texts);
            }
            n_tokens += count.unwrap_or(0);
            let value = |at: usize| {
                let column = columns.get(at)?.as_string::<i32>();
                column.is_valid(row).then(|| column.value(row))
            };
            match &chat {
                None => texts.extend(value(0).map(|text| Passage::from(text.to_owned()))),
                Some((chat, template)) => {
                    let of = |name: &str| value(1 + chat.columns.iter().position(|(_, column)| column == name)?);
                    // What the template refused has no features either.
                    texts.extend(chat.passage(template, &corpus.text_columns, of).ok());
                }
            }
        }
    }
    Ok(texts)
}

/// Evidence for people.
fn readable(feature: &FeatureEvidence) -> String {
    let mut lines =
        vec![format!("{}  {}  ({})", feature.feature_id.unwrap_or(feature.latent), feature.label, feature.dictionary)];
    if let Some(why) = &feature.hidden {
        lines.push(format!("hidden: {why}"));
    }
    lines.push(format!(
        "fires on {:.3} % of {}s, in {} documents; present from {}; median {}, 90 % below {}, largest {}",
        100.0 * feature.density,
        feature.level.as_str(),
        feature.n_documents,
        feature.presence_threshold,
        feature.q50,
        feature.q90,
        feature.max_activation
    ));
    let percent = |share: f32| format!("{:.0}", 100.0 * share);
    let words = feature.words.iter().take(8);
    let words = words
        .map(|word| format!("{} ({} %, {} % of its uses)", word.word, percent(word.share), percent(word.precision)));
    lines.push(format!("words: {}", words.collect::<Vec<_>>().join(", ")));
    for (band, title) in [
        (Band::Strongest, "Strongest"),
        (Band::Middle, "Present, at random"),
        (Band::Weak, "Too faint to be present"),
        (Band::Contrast, "Similar, but it does not fire"),
        (Band::Other, "Others, at random"),
    ] {
        let mut title = Some(title);
        for context in feature.contexts.iter().filter(|context| context.band == band) {
            lines.extend(title.take().map(|title| format!("\n{title}:")));
            let split = if context.split == Split::Test { "test" } else { "    " };
            lines.push(format!("  {:5.2} {split} {}", context.activation, context.text));
        }
    }
    lines.push(String::new());
    lines.join("\n")
}

/// Scores the labels of a dictionary folder on evidence.
pub(super) async fn detect(args: DetectArgs, context: &Context) -> Result<()> {
    let sae = Sae::load(&args.dir)?;
    let contexts = evidence::read(&args.evidence)?;
    check(&sae, &contexts, &args)?;
    let (reader, options) = (sae.reader().to_owned(), context.engine_options().reader());
    let names: Vec<(String, String)> = contexts
        .iter()
        .map(|feature| &sae.latents()[feature.latent as usize])
        .map(|info| (info.label.clone(), info.description.clone()))
        .collect();
    let tested: Vec<(u32, u32)> = contexts.iter().map(|feature| (feature.latent, feature.version)).collect();
    let scores = context
        .blocking(move |progress| {
            let encoder = Encoder::new(Arc::new(Reader::load(&reader, &options, progress)?), Vec::new())?;
            let names: Vec<(&str, &str)> = names.iter().map(|(label, text)| (label.as_str(), text.as_str())).collect();
            detect_all(&encoder, &names, &contexts, progress)
        })
        .await?;
    let report = summary(sae.name(), &scores)?;
    if args.write {
        let mut latents = sae.latents().to_vec();
        for ((latent, version), score) in tested.iter().zip(&scores) {
            let info = &mut latents[*latent as usize];
            info.detection = score.auroc.map(|auroc| (auroc * 1000.0).round() / 1000.0);
            info.evidence_version = Some(*version);
        }
        sae.with_latents(latents)?.save(&args.dir)?;
    }
    context.answer_batch(report, &args.answer).await
}

/// That the evidence is of this dictionary, and of each feature once.
fn check(sae: &Sae, contexts: &[FeatureEvidence], args: &DetectArgs) -> Result<()> {
    let file = args.evidence.display();
    let wrong = |what: String| Err(Failure::new(ErrorKind::Data, format!("{file}: {what}")));
    let mut seen = HashSet::new();
    for feature in contexts {
        if feature.dictionary != sae.name() || feature.latent as usize >= sae.width() {
            return wrong(format!(
                "it holds feature {} of dictionary '{}', but {} is '{}'",
                feature.latent,
                feature.dictionary,
                args.dir.display(),
                sae.name()
            ));
        }
        if !seen.insert(feature.latent) {
            return wrong(format!("it holds feature {} twice", feature.latent));
        }
    }
    if contexts.is_empty() { wrong("it holds no feature".to_owned()) } else { Ok(()) }
}

/// One row: quartiles of the scores.
fn summary(dictionary: &str, scores: &[Detection]) -> Result<RecordBatch> {
    let sorted = |of: fn(&Detection) -> Option<f32>| {
        let mut values: Vec<f32> = scores.iter().filter_map(of).collect();
        values.sort_by(f32::total_cmp);
        values
    };
    let at = |sorted: &[f32], share: f64| {
        let value = sorted.get((sorted.len().saturating_sub(1) as f64 * share).round() as usize);
        Arc::new(Float64Array::from(vec![value.map(|value| f64::from(*value))])) as ArrayRef
    };
    let (auroc, contrast) = (sorted(|score| score.auroc), sorted(|score| score.contrast));
    let good = auroc.iter().filter(|score| **score >= GOOD).count() as f64 / auroc.len().max(1) as f64;
    Ok(RecordBatch::try_from_iter([
        ("name", Arc::new(StringArray::from(vec![dictionary])) as ArrayRef),
        ("features", Arc::new(UInt64Array::from(vec![scores.len() as u64])) as ArrayRef),
        ("scored", Arc::new(UInt64Array::from(vec![auroc.len() as u64])) as ArrayRef),
        ("q25", at(&auroc, 0.25)),
        ("median", at(&auroc, 0.5)),
        ("q75", at(&auroc, 0.75)),
        ("share_above_85", Arc::new(Float64Array::from(vec![good])) as ArrayRef),
        ("median_contrast", at(&contrast, 0.5)),
    ])?)
}
