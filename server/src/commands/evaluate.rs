//! `saequel sae eval` and `saequel sae compare`: how good a dictionary is, and what it shares with another.

use std::sync::Arc;

use arrow::array::{
    ArrayRef, BooleanArray, Float32Array, Float64Array, ListArray, RecordBatch, StringArray, StructArray, UInt32Array,
    UInt64Array,
};
use arrow::buffer::OffsetBuffer;
use arrow::datatypes::Field;
use saequel_engine::sae::{
    self, AbsorbedPair, CompareOptions, CompareReport, ComparedPair, Concept, DensityBin, EvalOptions, EvalReport,
    LabelledTexts, SAME_DIRECTION, SAME_SAMPLES, Shared, SimilarPair,
};

use crate::args::{Answer, CompareArgs, EvalArgs};
use crate::context::Context;
use crate::error::Result;
use crate::output::Format;
use crate::say::{remark, say};

/// Pairs of a kind that a table shows.
const TABLE_PAIRS: usize = 10;
/// Pairs that a table of two dictionaries shows.
const TABLE_ROWS: u64 = 20;

/// Columns of a list of things.
type Columns = Vec<(&'static str, ArrayRef)>;

pub(super) async fn evaluate(args: EvalArgs, context: &Context) -> Result<()> {
    let format = args.answer.format_or(Format::Table)?; // before the texts are read
    let answer = args.answer;
    let options = EvalOptions {
        dictionary: args.dir,
        labelled: args.labels.map(|file| LabelledTexts {
            file,
            text_column: args.labels_text.unwrap_or_else(|| args.texts.text.clone()),
            label_column: args.label,
        }),
        input: args.texts.input,
        text_column: args.texts.text,
        tokens: args.tokens,
        reader_options: context.engine_options().reader(),
    };
    let report = context.blocking(move |progress| sae::evaluate(&options, progress)).await?;
    for what in &report.skipped {
        remark!("not measured, or not on all: {what}");
    }
    if format != Format::Table || answer.file().is_some() {
        return context.answer_batch(evaluated(&report)?, &answer).await;
    }
    let table = Answer { format: Some(Format::Table), ..Answer::default() };
    context.answer_batch(summary(&report)?, &table).await?;
    let parts = [
        ("Density: how many latents fire on how large a share of the samples", density(&report.density)),
        ("Each other's nearest neighbours, cosine of decoder directions", redundant(&report, TABLE_PAIRS)),
        ("General latents that miss where a more specific one fires", absorbed(&report, TABLE_PAIRS)),
        ("Classes: the latent and the word that tell each best", concepts(&report)),
    ];
    for (title, columns) in parts {
        if columns[0].1.is_empty() {
            continue;
        }
        say!("\n{title}")?;
        context.answer_batch(RecordBatch::try_from_iter(columns)?, &table).await?;
    }
    Ok(())
}

fn numbers(values: impl Iterator<Item = f64>) -> ArrayRef {
    Arc::new(Float64Array::from_iter_values(values))
}

fn cosines(values: impl Iterator<Item = f32>) -> ArrayRef {
    Arc::new(Float32Array::from_iter_values(values))
}

fn counts(values: impl Iterator<Item = u64>) -> ArrayRef {
    Arc::new(UInt64Array::from_iter_values(values))
}

fn latents(values: impl Iterator<Item = u32>) -> ArrayRef {
    Arc::new(UInt32Array::from_iter_values(values))
}

fn texts<'a>(values: impl Iterator<Item = &'a str>) -> ArrayRef {
    Arc::new(StringArray::from_iter_values(values))
}

fn labels<'a>(labels: &'a [String], latents: impl Iterator<Item = u32> + 'a) -> ArrayRef {
    texts(latents.map(|latent| labels.get(latent as usize).map_or("", String::as_str)))
}

fn density(bins: &[DensityBin]) -> Columns {
    vec![
        ("from", numbers(bins.iter().map(|bin| bin.from))),
        ("below", numbers(bins.iter().map(|bin| bin.to))),
        ("latents", counts(bins.iter().map(|bin| bin.n_latents))),
    ]
}

fn redundant(report: &EvalReport, most: usize) -> Columns {
    let pairs: &[SimilarPair] = &report.redundant[..report.redundant.len().min(most)];
    vec![
        ("a", latents(pairs.iter().map(|pair| pair.a))),
        ("label_a", labels(&report.labels, pairs.iter().map(|pair| pair.a))),
        ("b", latents(pairs.iter().map(|pair| pair.b))),
        ("label_b", labels(&report.labels, pairs.iter().map(|pair| pair.b))),
        ("cosine", cosines(pairs.iter().map(|pair| pair.cosine))),
    ]
}

fn absorbed(report: &EvalReport, most: usize) -> Columns {
    let pairs: &[AbsorbedPair] = &report.absorbed[..report.absorbed.len().min(most)];
    vec![
        ("general", latents(pairs.iter().map(|pair| pair.general))),
        ("label", labels(&report.labels, pairs.iter().map(|pair| pair.general))),
        ("specific", latents(pairs.iter().map(|pair| pair.specific))),
        ("label_specific", labels(&report.labels, pairs.iter().map(|pair| pair.specific))),
        ("cosine", cosines(pairs.iter().map(|pair| pair.cosine))),
        ("due", counts(pairs.iter().map(|pair| pair.due))),
        ("missed", counts(pairs.iter().map(|pair| pair.missed))),
    ]
}

fn concepts(report: &EvalReport) -> Columns {
    let concepts: &[Concept] = &report.concepts;
    let number = |of: fn(&Concept) -> f64| numbers(concepts.iter().map(of));
    let label = |concept: &Concept| concept.latent.and_then(|latent| report.labels.get(latent as usize));
    vec![
        ("class", texts(concepts.iter().map(|concept| concept.label.as_str()))),
        ("latent", Arc::new(UInt32Array::from_iter(concepts.iter().map(|concept| concept.latent)))),
        ("label", texts(concepts.iter().map(|concept| label(concept).map_or("", String::as_str)))),
        ("auroc", number(|concept| concept.auroc)),
        ("js_divergence", number(|concept| concept.divergence)),
        ("word", texts(concepts.iter().map(|concept| concept.word.as_str()))),
        ("word_auroc", number(|concept| concept.word_auroc)),
        ("word_js_divergence", number(|concept| concept.word_divergence)),
        ("auroc_chosen", number(|concept| concept.auroc_chosen)),
        ("docs_chosen", counts(concepts.iter().map(|concept| concept.n_docs[0]))),
        ("docs", counts(concepts.iter().map(|concept| concept.n_docs[1]))),
    ]
}

/// Means of a measure over the classes; `None` without one.
fn mean(report: &EvalReport, of: fn(&Concept) -> f64) -> Option<f64> {
    let n = report.concepts.len();
    (n > 0).then(|| report.concepts.iter().map(of).sum::<f64>() / n as f64)
}

/// One measure: name, value, and what it says.
type Measure = (&'static str, Option<f64>, &'static str);

/// All measures that are one number.
fn measures(report: &EvalReport) -> Vec<Measure> {
    let [present_mean, present_median, present_p95, present_max] = report.present;
    let [nearest_median, nearest_p95, nearest_max] = report.nearest;
    vec![
        ("fvu", report.fvu, "share of variance left unexplained, about the dictionary's centre"),
        ("explained_variance", report.explained_variance, "1 - share left, about the mean of these texts"),
        ("l0", Some(report.l0), "latents that fire on a sample, on average"),
        ("dead_share", Some(report.dead_share), "latents that never fire"),
        ("dense_share", Some(report.dense_share), "latents that fire on more than 5 % of the samples"),
        ("error_linear", report.error_linear, "share of the squared error that is linear in the input (out of sample)"),
        ("fvu_nonlinear", report.fvu_nonlinear, "FVU without that share"),
        ("error_norm_r2", report.error_norm_r2, "R\u{b2} of the error's length, predicted likewise"),
        ("nearest_median", Some(nearest_median), "cosine of a latent with its nearest neighbour"),
        ("nearest_p95", Some(nearest_p95), "the same, 95th percentile"),
        ("nearest_max", Some(nearest_max), "the same, largest"),
        ("redundant_share", Some(report.redundant_share), "latents with a neighbour of cosine 0.9 or more"),
        (
            "absorption_pairs",
            Some(report.absorption_pairs as f64),
            "pairs of a general and a specific latent looked at",
        ),
        ("absorption_missed", report.absorption_missed, "share of those times that the general one is due, and misses"),
        ("absorption_missed_otherwise", report.absorption_missed_otherwise, "the same latents on random samples"),
        ("absorbed_share", report.absorbed_share, "latents that miss mostly, beside some specific one"),
        ("classes", Some(report.concepts.len() as f64).filter(|&n| n > 0.0), "classes of labelled texts"),
        ("auroc_mean", mean(report, |concept| concept.auroc), "best single latent of a class, on the other half"),
        ("word_auroc_mean", mean(report, |concept| concept.word_auroc), "best single word likewise"),
        (
            "js_divergence_mean",
            mean(report, |concept| concept.divergence),
            "of that latent within and without the class, bits",
        ),
        ("word_js_divergence_mean", mean(report, |concept| concept.word_divergence), "of that word"),
        ("present_mean", Some(present_mean), "features present in a document"),
        ("present_median", Some(present_median), "the same, median"),
        ("present_p95", Some(present_p95), "the same, 95th percentile"),
        ("present_max", Some(present_max), "the same, most"),
    ]
}

/// One row of all measures, with lists.
fn evaluated(report: &EvalReport) -> Result<RecordBatch> {
    let count = |n: u64| counts(std::iter::once(n));
    let mut columns: Columns = vec![
        ("name", texts(std::iter::once(report.name.as_str()))),
        ("architecture", texts(std::iter::once(report.architecture))),
    ];
    let measures = measures(report).into_iter();
    columns.extend(measures.map(|(name, value, _)| (name, Arc::new(Float64Array::from(vec![value])) as ArrayRef)));
    columns.extend([
        ("docs", count(report.n_docs)),
        ("tokens", count(report.n_tokens)),
        ("samples", count(report.n_samples)),
        ("seconds", numbers(std::iter::once(report.seconds))),
        ("density", list(density(&report.density))?),
        ("redundant", list(redundant(report, usize::MAX))?),
        ("absorbed", list(absorbed(report, usize::MAX))?),
        ("concepts", list(concepts(report))?),
        ("skipped", list_of_texts(&report.skipped)?),
    ]);
    Ok(RecordBatch::try_from_iter(columns)?)
}

/// A list of structs, in one row.
fn list(columns: Columns) -> Result<ArrayRef> {
    let fields = columns.iter().map(|(name, array)| Arc::new(Field::new(*name, array.data_type().clone(), true)));
    let fields = fields.collect::<Vec<_>>();
    let arrays = columns.into_iter().map(|(_, array)| array).collect();
    one_list(Arc::new(StructArray::try_new(fields.into(), arrays, None)?))
}

fn list_of_texts(values: &[String]) -> Result<ArrayRef> {
    one_list(texts(values.iter().map(String::as_str)))
}

fn one_list(items: ArrayRef) -> Result<ArrayRef> {
    let field = Arc::new(Field::new_list_field(items.data_type().clone(), true));
    let offsets = OffsetBuffer::from_lengths([items.len()]);
    Ok(Arc::new(ListArray::try_new(field, offsets, items, None)?))
}

/// A row for each measure that was taken.
fn summary(report: &EvalReport) -> Result<RecordBatch> {
    let seen = [
        ("name".to_owned(), format!("{} ({})", report.name, report.architecture), String::new()),
        (
            "texts".to_owned(),
            format!("{} documents, {} tokens", report.n_docs, report.n_tokens),
            format!("{} samples in {:.0} s", report.n_samples, report.seconds),
        ),
    ];
    let shown = |(name, value, says): Measure| {
        let value = value?;
        let value = if value.fract() == 0.0 && value.abs() < 1e9 { format!("{value}") } else { format!("{value:.4}") };
        Some((name.to_owned(), value, says.to_owned()))
    };
    let rows: Vec<(String, String, String)> =
        seen.into_iter().chain(measures(report).into_iter().filter_map(shown)).collect();
    Ok(RecordBatch::try_from_iter([
        ("measure", texts(rows.iter().map(|row| row.0.as_str()))),
        ("value", texts(rows.iter().map(|row| row.1.as_str()))),
        ("what it says", texts(rows.iter().map(|row| row.2.as_str()))),
    ])?)
}

pub(super) async fn compare(args: CompareArgs, context: &Context) -> Result<()> {
    let format = args.answer.format_or(Format::Table)?; // before the texts are read
    let options = CompareOptions {
        dictionaries: [args.a, args.b],
        input: args.input,
        text_column: args.text,
        tokens: args.tokens,
        reader_options: context.engine_options().reader(),
    };
    let report = context.blocking(move |progress| sae::compare(&options, progress)).await?;
    for what in &report.skipped {
        remark!("not compared, or not as it is meant: {what}");
    }
    if args.summary {
        return context.answer_batch(in_common(&report)?, &args.answer).await;
    }
    remark!("{}", told(&report));
    let most = match args.rows.limit {
        Some(0) => usize::MAX,
        Some(limit) => usize::try_from(limit).unwrap_or(usize::MAX),
        None if format == Format::Table => TABLE_ROWS as usize,
        None => usize::MAX,
    };
    context.answer_batch(pairs(&report, most)?, &args.answer).await?;
    if args.rows.limit.is_none() && report.pairs.len() > most && !context.global.quiet {
        remark!("(first {most} of {} rows; --limit 0 returns all)", report.pairs.len());
    }
    Ok(())
}

/// What two dictionaries have in common, in sentences.
fn told(report: &CompareReport) -> String {
    let [a, b] = &report.names;
    let said = |shared: Shared, what: &str, least: f32| {
        let [of_a, of_b] = shared.share.map(|share| share * 100.0);
        format!(
            "{of_a:.1} % of {a} is in {b}, {of_b:.1} % of {b} in {a} ({what} {least} or more); mean {:.3} and {:.3}; {} \
             pairs are each other's nearest",
            shared.mean[0], shared.mean[1], shared.n_mutual
        )
    };
    let jaccard = format!("Jaccard index on {} {}s of", report.n_counted, report.counted.as_str());
    let cosine = report.cosine.map(|shared| said(shared, "cosine of", SAME_DIRECTION));
    let jaccard = report.jaccard.map(|shared| said(shared, &jaccard, SAME_SAMPLES));
    cosine.into_iter().chain(jaccard).collect::<Vec<_>>().join("\n")
}

/// The same as one row.
fn in_common(report: &CompareReport) -> Result<RecordBatch> {
    let number = |value: Option<f64>| Arc::new(Float64Array::from(vec![value])) as ArrayRef;
    let count = |value: Option<u64>| Arc::new(UInt64Array::from(vec![value])) as ArrayRef;
    let [a, b] = &report.names;
    let mut columns: Columns =
        vec![("a", texts(std::iter::once(a.as_str()))), ("b", texts(std::iter::once(b.as_str())))];
    let names = [
        ["cosine_a_in_b", "cosine_b_in_a", "cosine_mean_a", "cosine_mean_b", "cosine_mutual"],
        ["jaccard_a_in_b", "jaccard_b_in_a", "jaccard_mean_a", "jaccard_mean_b", "jaccard_mutual"],
    ];
    for ([a_in_b, b_in_a, mean_a, mean_b, mutual], shared) in names.into_iter().zip([report.cosine, report.jaccard]) {
        columns.extend([
            (a_in_b, number(shared.map(|shared| shared.share[0]))),
            (b_in_a, number(shared.map(|shared| shared.share[1]))),
            (mean_a, number(shared.map(|shared| shared.mean[0]))),
            (mean_b, number(shared.map(|shared| shared.mean[1]))),
            (mutual, count(shared.map(|shared| shared.n_mutual))),
        ]);
    }
    columns.push(("counted", texts(std::iter::once(report.counted.as_str()))));
    columns.push(("n_counted", counts(std::iter::once(report.n_counted))));
    Ok(RecordBatch::try_from_iter(columns)?)
}

fn pairs(report: &CompareReport, most: usize) -> Result<RecordBatch> {
    let pairs: &[ComparedPair] = &report.pairs[..report.pairs.len().min(most)];
    let optional = |of: fn(&ComparedPair) -> Option<f32>| Arc::new(Float32Array::from_iter(pairs.iter().map(of)));
    Ok(RecordBatch::try_from_iter_with_nullable([
        ("feature_a", latents(pairs.iter().map(|pair| pair.a)), false),
        ("label_a", labels(&report.labels[0], pairs.iter().map(|pair| pair.a)), false),
        ("feature_b", latents(pairs.iter().map(|pair| pair.b)), false),
        ("label_b", labels(&report.labels[1], pairs.iter().map(|pair| pair.b)), false),
        ("cosine", optional(|pair| pair.cosine) as ArrayRef, true),
        ("jaccard", optional(|pair| pair.jaccard) as ArrayRef, true),
        ("mutual", Arc::new(BooleanArray::from_iter(pairs.iter().map(|pair| Some(pair.mutual)))) as ArrayRef, false),
    ])?)
}
