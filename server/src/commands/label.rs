//! `saequel label`: names for features from a language model.

use std::collections::BTreeMap;
use std::io::{IsTerminal, stderr, stdin};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use arrow::array::{ArrayRef, Float32Array, RecordBatch, StringArray, UInt32Array};
use futures::StreamExt;
use saequel_engine::ErrorKind;
use saequel_engine::evidence::{EVIDENCE_VERSION, FeatureEvidence, MIDDLE};

use crate::args::{Answer, EvidenceArgs, LabelFeaturesArgs};
use crate::context::Context;
use crate::error::{Failure, Result, io_failure};
use crate::label::cache::Cache;
use crate::label::client::{Client, Endpoint, Key, Message};
use crate::label::cost::{Estimate, Meter, Prices, Thousands};
use crate::label::limits::Limits;
use crate::label::prompt;
use crate::label::score::Measured;
use crate::label::send::Sender;
use crate::label::target::{Job, Only, Target};
use crate::label::work::{Labeller, Named, Outcome, Task};
use crate::output::Format;
use crate::say::{remark, say};

pub(super) async fn label(args: LabelFeaturesArgs, context: &Context) -> Result<()> {
    let endpoint = Endpoint::new(&args.endpoint, &args.model, key(&args)?)?;
    let answer = Answer { output: args.output.clone(), ..Answer::default() };
    answer.format_or(Format::Jsonl)?; // before anything is paid for
    let evidence = evidence(&args, context).await?;
    let target = Target::open(args.sae.as_deref(), args.output.is_some(), context).await?;
    let jobs = target.select(evidence, &args.feature, args.only, !args.judge)?;
    let labeller = labeller(&args, endpoint, context)?;
    let (jobs, without): (Vec<Job>, Vec<Job>) =
        jobs.into_iter().partition(|job| labeller.first_question(task(job, args.judge)).is_some());
    if jobs.is_empty() {
        return say!("nothing to do: {}", nothing(&args, without.len()));
    }
    let estimate = labeller.estimate(jobs.iter().map(|job| task(job, args.judge)));
    let plan = plan(&args, &labeller, [jobs.len(), without.len()], estimate);
    if args.dry_run {
        return rehearse(&plan, labeller.first_question(task(&jobs[0], args.judge)));
    }
    if estimate.n_requests > 0 {
        agree(&plan, args.yes, context).await?;
    }
    let outcomes = run(&labeller, &jobs, &args, context).await;
    let n_failed = outcomes.iter().filter(|outcome| matches!(outcome, Some(Outcome::Failed(_)))).count();
    let named: Vec<(Job, Named)> = jobs
        .into_iter()
        .zip(outcomes)
        .filter_map(|(job, outcome)| match outcome {
            Some(Outcome::Named(named)) => Some((job, named)),
            _ => None,
        })
        .collect();
    let stopped = labeller.sender().stopped();
    if !named.is_empty() {
        let source = (!args.judge).then(|| format!("llm:{}", args.model));
        let place = match (&args.output, &source) {
            (Some(path), _) => {
                let answer = Answer { format: Some(answer.format_or(Format::Jsonl)?), ..answer };
                context.answer_batch(batch(&named, source.as_deref())?, &answer).await?;
                Some(path.display().to_string())
            }
            (None, Some(source)) => {
                target.put(&named, source).await?;
                Some(target.place())
            }
            (None, None) => None,
        };
        report(&named, n_failed, &labeller, args.judge, place.as_deref())?;
    }
    match stopped {
        Some(failure) => Err(failure),
        None if named.is_empty() => Err(Failure::new(
            ErrorKind::Data,
            format!("the model gave no usable answer for any of {n_failed} features"),
        )
        .hint("the warnings above say why; a larger model may do better")),
        None => Ok(()),
    }
}

/// What is to be done for a feature: to find it a name, or to judge the one it has.
fn task(job: &Job, judge: bool) -> Task<'_> {
    Task { evidence: &job.evidence, name: judge.then_some(job.label.as_str()) }
}

/// What is known of each feature, by dictionary and position; of a feature that comes twice, the last. From a file, or
/// collected now from a corpus.
async fn evidence(args: &LabelFeaturesArgs, context: &Context) -> Result<Vec<FeatureEvidence>> {
    let all = match (&args.evidence, &args.corpus) {
        (Some(path), _) => read_evidence(path)?,
        (None, corpus) => {
            let dictionary = args.sae.as_ref().map(|dir| dir.display().to_string()).or(args.dictionary.clone());
            let wanted = EvidenceArgs {
                features: args.feature.clone(),
                dictionary,
                corpus: corpus.clone(),
                tokens: args.tokens,
                hidden: args.only == Only::All,
                middle: MIDDLE,
                seed: args.seed,
                ..EvidenceArgs::default()
            };
            super::evidence::collect(&wanted, context).await?
        }
    };
    let wanted = |evidence: &FeatureEvidence| args.dictionary.as_ref().is_none_or(|name| *name == evidence.dictionary);
    let all = all.into_iter().filter(wanted).map(|evidence| ((evidence.dictionary.clone(), evidence.latent), evidence));
    Ok(all.collect::<BTreeMap<_, _>>().into_values().collect())
}

fn read_evidence(path: &Path) -> Result<Vec<FeatureEvidence>> {
    let all = saequel_engine::evidence::read(path)?;
    match all.iter().find(|evidence| evidence.version > EVIDENCE_VERSION) {
        None => Ok(all),
        Some(FeatureEvidence { version, .. }) => {
            let known =
                format!("{}: evidence of version {version}; this program knows {EVIDENCE_VERSION}", path.display());
            Err(Failure::new(ErrorKind::Data, known).hint("a newer saequel wrote it, and can read it"))
        }
    }
}

fn nothing(args: &LabelFeaturesArgs, n_without: usize) -> String {
    match n_without {
        0 if args.dictionary.is_some() => {
            "no feature of that dictionary is in the evidence, or all have a name".to_owned()
        }
        0 => "every feature that is shown and in the evidence has a name already; --only shown names them anew"
            .to_owned(),
        n => format!("there are {n} features, with fewer than {} examples each", prompt::LEAST),
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

/// What a user reads before anything is sent: of the features to name, and of those that cannot be.
fn plan(args: &LabelFeaturesArgs, labeller: &Labeller, [n, n_without]: [usize; 2], estimate: Estimate) -> String {
    let endpoint = labeller.sender().client().endpoint();
    let (shown, model) = (endpoint.shown(), endpoint.model());
    let leaves = if endpoint.is_loopback() { "on this machine" } else { "beyond this machine" };
    let without = match n_without {
        0 => String::new(),
        n => format!("; {} with fewer than {} examples keep their names", Thousands(n as u64), prompt::LEAST),
    };
    let lines = estimate.lines(prices(args), args.max_cost);
    let warning = endpoint.warning().map(|warning| format!("\nwarning: {warning}")).unwrap_or_default();
    format!(
        "features to be {} by model '{model}': {}{without}\n{lines}\n  sent      pieces of your texts, to {shown}, \
         {leaves}{warning}",
        if args.judge { "judged" } else { "named" },
        Thousands(n as u64)
    )
}

/// Prints what would be done, and one request.
fn rehearse(plan: &str, first: Option<Vec<Message>>) -> Result<()> {
    say!("{plan}\n\nThe first request, in full:")?;
    for message in first.unwrap_or_default() {
        say!("\n[{}]\n{}", message.role, message.content)?;
    }
    Ok(())
}

/// Shows what it will take, and asks, unless the user has agreed before.
///
/// # Errors
/// If the user says no, or is not there to say yes.
async fn agree(plan: &str, agreed: bool, context: &Context) -> Result<()> {
    remark!("{plan}");
    if agreed {
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

/// Names or judges all features, one outcome each; `None` for those that were not reached.
async fn run(labeller: &Labeller, jobs: &[Job], args: &LabelFeaturesArgs, context: &Context) -> Vec<Option<Outcome>> {
    let progress = context.progress();
    progress.stage(if args.judge { "judging" } else { "naming" }, Some(jobs.len() as u64), "features");
    let mut outcomes: Vec<Option<Outcome>> = jobs.iter().map(|_| None).collect();
    let (mut n_done, mut n_failed) = (0, 0);
    let tasks = jobs.iter().map(|job| task(job, args.judge));
    let mut done = std::pin::pin!(labeller.work(tasks, args.concurrency));
    while let Some((at, outcome)) = done.next().await {
        if let Outcome::Failed(why) = &outcome {
            let Job { label, evidence: FeatureEvidence { dictionary, latent, .. }, .. } = &jobs[at];
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

fn report(
    named: &[(Job, Named)],
    n_failed: usize,
    labeller: &Labeller,
    judged: bool,
    place: Option<&str>,
) -> Result<()> {
    let (n, verb) = (Thousands(named.len() as u64), if judged { "judged" } else { "named" });
    let failed = if n_failed == 0 { String::new() } else { format!(", {n_failed} failed") };
    let at = place.map(|place| format!("; see {place}")).unwrap_or_default();
    let told = format!("{n} features {verb}{failed}; {}{at}", labeller.sender().meter().line());
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
        Some("-") => remark!("{told}{scores}"),
        _ => say!("{told}{scores}")?,
    }
    Ok(())
}

/// Names, descriptions and scores as a table; `source` is that of new names. The scores have names of their own, so that
/// they are not taken for the `detection` that embeddings give.
fn batch(named: &[(Job, Named)], source: Option<&str>) -> Result<RecordBatch> {
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
    let descriptions = named.iter().map(|(_, named)| Some(&named.label.description).filter(|text| !text.is_empty()));
    let ids = UInt32Array::from_iter(named.iter().map(|(job, _)| job.feature_id));
    let latents = UInt32Array::from_iter_values(named.iter().map(|(job, _)| job.evidence.latent));
    Ok(RecordBatch::try_from_iter([
        ("feature_id", Arc::new(ids) as ArrayRef),
        ("dictionary", texts(named.iter().map(|(job, _)| job.evidence.dictionary.as_str()))),
        ("latent", Arc::new(latents)),
        ("label", texts(named.iter().map(|(_, named)| named.label.label.as_str()))),
        ("description", Arc::new(StringArray::from_iter(descriptions))),
        ("label_source", texts(named.iter().map(|(job, _)| source.unwrap_or(&job.source)))),
        ("llm_detection", detection),
        ("llm_detection_n", detection_n),
        ("llm_fuzzing", fuzzing),
        ("llm_fuzzing_n", fuzzing_n),
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
        std::fs::write(&path, format!("{line}\n{line}\n")).unwrap();
        assert_eq!(read_evidence(&path).unwrap(), [evidence("sorry"), evidence("sorry")]);
        std::fs::write(&path, format!("{line}\n{{\"latent\": 1}}\n")).unwrap();
        let failure = read_evidence(&path).unwrap_err();
        assert!(failure.wire().exit == 3 && failure.line().contains("line 2 is no evidence"), "{failure}");
        std::fs::write(&path, line.replace("\"version\":1", "\"version\":99")).unwrap();
        assert!(read_evidence(&path).unwrap_err().line().contains("version 99"));
    }
}
