//! `saequel label`: names for features from a language model.

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, IsTerminal, stderr, stdin};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use arrow::array::{ArrayRef, Float32Array, RecordBatch, StringArray, UInt32Array};
use futures::StreamExt;
use saequel_engine::ErrorKind;
use saequel_engine::evidence::{EVIDENCE_VERSION, FeatureEvidence};

use crate::args::{Answer, LabelFeaturesArgs};
use crate::context::Context;
use crate::error::{Failure, Result, io_failure};
use crate::label::cache::Cache;
use crate::label::client::{Client, Endpoint, Key};
use crate::label::cost::{Estimate, Meter, Prices, Thousands};
use crate::label::limits::Limits;
use crate::label::prompt;
use crate::label::score::Measured;
use crate::label::send::Sender;
use crate::label::target::{Job, Target};
use crate::label::work::{Labeller, Named, Outcome};
use crate::output::Format;
use crate::say::{remark, say};

pub(super) async fn label(args: LabelFeaturesArgs, context: &Context) -> Result<()> {
    let endpoint = Endpoint::new(&args.endpoint, &args.model, key(&args)?)?;
    let answer = Answer { output: args.output.clone(), ..Answer::default() };
    answer.format_or(Format::Jsonl)?; // before anything is paid for
    let target = Target::open(args.sae.as_deref(), args.output.is_some(), context).await?;
    let jobs = target.select(evidence(&args)?, &args.feature, args.only)?;
    let (mut jobs, without): (Vec<Job>, Vec<Job>) =
        jobs.into_iter().partition(|job| prompt::label(&job.evidence).is_some());
    if jobs.is_empty() {
        return say!("nothing to name: {}", nothing(&args, without.len()));
    }
    let labeller = labeller(&args, endpoint, context)?;
    let estimate = labeller.estimate(jobs.iter().map(|job| &job.evidence));
    if args.dry_run {
        return rehearse(&args, &labeller, &jobs, estimate);
    }
    if estimate.n_requests > 0 {
        agree(&args, &labeller, jobs.len(), estimate, context).await?;
    }
    let outcomes = run(&labeller, &jobs, args.concurrency, context).await;
    let n_failed = outcomes.iter().filter(|outcome| matches!(outcome, Some(Outcome::Failed(_)))).count();
    let named: Vec<(Job, Named)> = jobs
        .drain(..)
        .zip(outcomes)
        .filter_map(|(job, outcome)| match outcome {
            Some(Outcome::Named(named)) => Some((job, named)),
            _ => None,
        })
        .collect();
    let source = format!("llm:{}", args.model);
    let stopped = labeller.sender().stopped();
    if !named.is_empty() {
        let place = match args.output {
            Some(path) => {
                let batch = batch(&named, &source)?;
                let answer = Answer { format: Some(answer.format_or(Format::Jsonl)?), ..answer };
                context.answer_batch(batch, &answer).await?;
                path.display().to_string()
            }
            None => {
                target.put(&named, &source).await?;
                target.place()
            }
        };
        report(&named, n_failed, &labeller, &place)?;
    }
    match stopped {
        Some(failure) => Err(failure),
        None if named.is_empty() => {
            Err(Failure::new(ErrorKind::Data, format!("none of {n_failed} features could be named"))
                .hint("the warnings above say why; a larger model may do better"))
        }
        None => Ok(()),
    }
}

/// What is known of each feature, by dictionary and position; of a feature that comes twice, the last.
///
/// The one place where evidence comes in: what is collected from a corpus joins here, and nothing below knows the
/// difference.
fn evidence(args: &LabelFeaturesArgs) -> Result<Vec<FeatureEvidence>> {
    let mut features: BTreeMap<(String, u32), FeatureEvidence> = BTreeMap::new();
    for evidence in read_evidence(&args.evidence)? {
        if args.dictionary.as_ref().is_none_or(|name| *name == evidence.dictionary) {
            features.insert((evidence.dictionary.clone(), evidence.latent), evidence);
        }
    }
    Ok(features.into_values().collect())
}

fn read_evidence(path: &Path) -> Result<Vec<FeatureEvidence>> {
    let file = std::fs::File::open(path).map_err(|error| io_failure(path.display(), &error))?;
    let mut features = Vec::new();
    for (number, line) in (1_u64..).zip(BufReader::new(file).lines()) {
        let line = line.map_err(|error| io_failure(path.display(), &error))?;
        if line.trim().is_empty() {
            continue;
        }
        let at = |what: String| Failure::new(ErrorKind::Data, format!("{}, line {number}: {what}", path.display()));
        let evidence: FeatureEvidence =
            serde_json::from_str(&line).map_err(|error| at(format!("no evidence of a feature: {error}")))?;
        if evidence.version > EVIDENCE_VERSION {
            let known = format!("evidence of version {}; this program knows {EVIDENCE_VERSION}", evidence.version);
            return Err(at(known).hint("a newer saequel wrote it, and can read it"));
        }
        features.push(evidence);
    }
    Ok(features)
}

fn nothing(args: &LabelFeaturesArgs, n_without: usize) -> String {
    match n_without {
        0 if args.dictionary.is_some() => {
            "no feature of that dictionary is in the evidence, or all have a name".to_owned()
        }
        0 => "every feature that is shown and in the evidence has a name already; --only shown names them anew"
            .to_owned(),
        n => format!("{n} features are in the evidence without an example"),
    }
}

fn key(args: &LabelFeaturesArgs) -> Result<Option<Key>> {
    match (&args.api_key_env, &args.api_key_file) {
        (Some(name), _) => Key::from_env(name).map(Some),
        (None, Some(path)) => Key::from_file(path).map(Some),
        (None, None) => Ok(None),
    }
}

fn prices(args: &LabelFeaturesArgs) -> Option<Prices> {
    Some(Prices { input: args.price_in?, output: args.price_out? })
}

fn labeller(args: &LabelFeaturesArgs, endpoint: Endpoint, context: &Context) -> Result<Labeller> {
    let dir = args.cache.clone().unwrap_or_else(|| context.engine_options().reader().cache_dir.join("labels"));
    let client = Client::new(endpoint, Duration::from_secs(args.timeout), args.max_tokens, args.concurrency);
    let meter = Meter::new(prices(args), args.max_cost);
    let sender = Sender::new(client, Limits::new(args.rpm, args.tpm), meter, context.interrupt.clone());
    let mut scores = args.score.clone();
    scores.sort_by_key(|score| *score as u8);
    scores.dedup();
    Ok(Labeller::new(sender, Cache::open(&dir)?, scores, args.seed))
}

/// What a user reads before anything is sent.
fn plan(args: &LabelFeaturesArgs, labeller: &Labeller, n_jobs: usize, estimate: Estimate) -> String {
    let endpoint = labeller.sender().client().endpoint();
    let (shown, model) = (endpoint.shown(), endpoint.model());
    let leaves = if endpoint.is_loopback() { "on this machine" } else { "beyond this machine" };
    let lines = estimate.lines(prices(args), args.max_cost);
    let warning = endpoint.warning().map(|warning| format!("\nwarning: {warning}")).unwrap_or_default();
    format!(
        "{n_jobs} features are to be named by model '{model}'\n{lines}\n  sent      pieces of your texts, to {shown}, {leaves}{warning}"
    )
}

/// Prints what would be done, and one request.
fn rehearse(args: &LabelFeaturesArgs, labeller: &Labeller, jobs: &[Job], estimate: Estimate) -> Result<()> {
    say!("{}", plan(args, labeller, jobs.len(), estimate))?;
    let Some(messages) = jobs.first().and_then(|job| prompt::label(&job.evidence)) else { return Ok(()) };
    say!("\nThe first of them, in full:")?;
    for message in messages {
        say!("\n[{}]\n{}", message.role, message.content)?;
    }
    Ok(())
}

/// Shows what it will take, and asks.
///
/// # Errors
/// If the user says no, or is not there to say yes.
async fn agree(
    args: &LabelFeaturesArgs,
    labeller: &Labeller,
    n_jobs: usize,
    estimate: Estimate,
    context: &Context,
) -> Result<()> {
    remark!("{}", plan(args, labeller, n_jobs, estimate));
    if args.yes {
        return Ok(());
    }
    if !(stdin().is_terminal() && stderr().is_terminal()) {
        return Err(Failure::usage("nothing was sent: nobody is there to agree")
            .hint("--yes agrees beforehand; --dry-run shows a request in full"));
    }
    remark!("Go on? [y/N]");
    let said = context.interrupt.guard(async {
        let line = tokio::task::spawn_blocking(|| stdin().lines().next().transpose()).await;
        let line = line.map_err(|error| Failure::new(ErrorKind::Internal, error.to_string()))?;
        Ok(line.map_err(|error| io_failure("standard input", &error))?.unwrap_or_default())
    });
    match said.await?.trim().to_ascii_lowercase().as_str() {
        "y" | "yes" => Ok(()),
        _ => Err(Failure::new(ErrorKind::Cancelled, "nothing was sent")),
    }
}

/// Names all features, one outcome each; `None` for those that were not reached.
async fn run(labeller: &Labeller, jobs: &[Job], concurrency: usize, context: &Context) -> Vec<Option<Outcome>> {
    let progress = context.progress();
    progress.stage("naming", Some(jobs.len() as u64), "features");
    let mut outcomes: Vec<Option<Outcome>> = jobs.iter().map(|_| None).collect();
    let (mut n_done, mut n_failed) = (0, 0);
    let mut named = std::pin::pin!(labeller.name(jobs.iter().map(|job| &job.evidence), concurrency));
    while let Some((at, outcome)) = named.next().await {
        if let Outcome::Failed(why) = &outcome {
            let FeatureEvidence { dictionary, latent, label, .. } = &jobs[at].evidence;
            progress.warn(&format!("feature {latent} of {dictionary} keeps its name '{label}': {why}"));
            n_failed += 1;
        }
        n_done += u64::from(!matches!(outcome, Outcome::Stopped));
        outcomes[at] = Some(outcome);
        progress.update(n_done, &format!("{n_failed} failed, {}", labeller.sender().meter().line()));
    }
    progress.finish("");
    outcomes
}

fn report(named: &[(Job, Named)], n_failed: usize, labeller: &Labeller, place: &str) -> Result<()> {
    let failed = if n_failed == 0 { String::new() } else { format!(", {n_failed} failed and keep theirs") };
    let told = format!(
        "{} features named{failed}; {}; names are in {place}",
        Thousands(named.len() as u64),
        labeller.sender().meter().line()
    );
    let mut scores = String::new();
    for (name, of) in [
        ("detection", (|named: &Named| named.detection) as fn(&Named) -> Option<Measured>),
        ("fuzzing", |named| named.fuzzing),
    ] {
        let measured: Vec<f32> = named.iter().filter_map(|(_, named)| Some(of(named)?.balanced_accuracy)).collect();
        if !measured.is_empty() {
            let mean = measured.iter().sum::<f32>() / measured.len() as f32;
            scores.push_str(&format!("\n{name}: mean balanced accuracy {mean:.3} over {} features", measured.len()));
        }
    }
    // Where the names themselves go to standard output, this would be among them.
    match place {
        "-" => remark!("{told}{scores}"),
        _ => say!("{told}{scores}")?,
    }
    Ok(())
}

/// Names, descriptions and scores as a table.
fn batch(named: &[(Job, Named)], source: &str) -> Result<RecordBatch> {
    fn texts<'a>(texts: impl Iterator<Item = &'a str>) -> ArrayRef {
        Arc::new(StringArray::from_iter_values(texts))
    }
    let score = |of: fn(&Named) -> Option<Measured>| {
        let share = named.iter().map(|(_, named)| of(named).map(|measured| measured.balanced_accuracy));
        let n = named.iter().map(|(_, named)| of(named).map(|measured| measured.n as u32));
        (Arc::new(Float32Array::from_iter(share)) as ArrayRef, Arc::new(UInt32Array::from_iter(n)) as ArrayRef)
    };
    let (detection, detection_n) = score(|named| named.detection);
    let (fuzzing, fuzzing_n) = score(|named| named.fuzzing);
    let ids = UInt32Array::from_iter(named.iter().map(|(job, _)| job.feature_id));
    let latents = UInt32Array::from_iter_values(named.iter().map(|(job, _)| job.evidence.latent));
    Ok(RecordBatch::try_from_iter([
        ("feature_id", Arc::new(ids) as ArrayRef),
        ("dictionary", texts(named.iter().map(|(job, _)| job.evidence.dictionary.as_str()))),
        ("latent", Arc::new(latents)),
        ("label", texts(named.iter().map(|(_, named)| named.label.label.as_str()))),
        ("description", texts(named.iter().map(|(_, named)| named.label.description.as_str()))),
        ("label_source", texts(named.iter().map(|_| source))),
        ("detection", detection),
        ("detection_n", detection_n),
        ("fuzzing", fuzzing),
        ("fuzzing_n", fuzzing_n),
    ])?)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::label::testing::evidence;

    #[test]
    fn evidence_is_read_and_mistakes_are_placed() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("evidence.jsonl");
        let line = serde_json::to_string(&evidence("sorry")).unwrap();
        std::fs::write(&path, format!("{line}\n\n{line}\n")).unwrap();
        assert_eq!(read_evidence(&path).unwrap(), [evidence("sorry"), evidence("sorry")]);
        std::fs::write(&path, format!("{line}\n{{\"latent\": 1}}\n")).unwrap();
        let failure = read_evidence(&path).unwrap_err();
        assert!(failure.wire().exit == 3 && failure.line().contains("line 2: no evidence of a feature"), "{failure}");
        std::fs::write(&path, line.replace("\"version\":1", "\"version\":99")).unwrap();
        assert!(read_evidence(&path).unwrap_err().line().contains("version 99"));
    }
}
