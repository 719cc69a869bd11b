//! One feature after another: a name, and what it is worth.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};

use futures::{Stream, StreamExt, stream};
use saequel_engine::ErrorKind;
use saequel_engine::evidence::FeatureEvidence;
use serde::Serialize;
use serde::de::DeserializeOwned;

use super::answer::{self, Label};
use super::cache::{self, Cache};
use super::client::Message;
use super::cost::Estimate;
use super::prompt::{self, LABEL_TOKENS, NUMBERS_TOKENS};
use super::score::{Measured, Score};
use super::send::{NoReply, Sender};
use crate::error::Failure;

/// If so many features fail and none succeeds, the model cannot do it.
const HOPELESS: usize = 8;

/// A name and its scores.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Named {
    /// The name.
    pub(crate) label: Label,
    /// How well a model finds the texts by the name; `None` if that was not asked for or cannot be measured.
    pub(crate) detection: Option<Measured>,
    /// How well it finds the places in them.
    pub(crate) fuzzing: Option<Measured>,
}

/// What became of a feature.
#[derive(Debug)]
pub(crate) enum Outcome {
    /// It has a name.
    Named(Named),
    /// Two answers could not be used, and why; or the endpoint refused.
    Failed(String),
    /// The run ended before it was done.
    Stopped,
}

/// Names features.
pub(crate) struct Labeller {
    sender: Sender,
    cache: Mutex<Cache>,
    scores: Vec<Score>,
    seed: u64,
    n_named: AtomicUsize,
    n_failed: AtomicUsize,
}

impl Labeller {
    /// A labeller that also measures `scores`, whose texts are drawn with `seed`.
    pub(crate) fn new(sender: Sender, cache: Cache, scores: Vec<Score>, seed: u64) -> Self {
        Self {
            sender,
            cache: Mutex::new(cache),
            scores,
            seed,
            n_named: AtomicUsize::new(0),
            n_failed: AtomicUsize::new(0),
        }
    }

    /// The wire and what went over it.
    pub(crate) fn sender(&self) -> &Sender {
        &self.sender
    }

    /// What it will take to name these features.
    pub(crate) fn estimate<'a>(&self, features: impl Iterator<Item = &'a FeatureEvidence>) -> Estimate {
        let mut estimate = Estimate::default();
        for evidence in features {
            let Some(question) = prompt::label(evidence) else { continue };
            let known: Option<Label> = self.known(&self.key(&question));
            match known {
                Some(_) => estimate.n_cached += 1,
                None => estimate.request(&question, LABEL_TOKENS),
            }
            for score in &self.scores {
                let Some(sheet) = score.sheet(evidence, self.seed) else { continue };
                // The name is not known yet; it will be about as long as this.
                let label = known.as_ref().map_or("a name of about eight words, so to say", |known| &known.label);
                let question = score.request(label, &sheet);
                match self.known::<Vec<usize>>(&self.key(&question)) {
                    Some(_) => estimate.n_cached += 1,
                    None => estimate.request(&question, NUMBERS_TOKENS),
                }
            }
        }
        estimate
    }

    /// Names features, at most `concurrency` at the same time, each with one request at a time; the results come as they
    /// are ready, with the feature's position.
    pub(crate) fn name<'a>(
        &'a self,
        features: impl Iterator<Item = &'a FeatureEvidence> + 'a,
        concurrency: usize,
    ) -> impl Stream<Item = (usize, Outcome)> + 'a {
        let named = move |(at, evidence)| async move { (at, self.feature(evidence).await) };
        stream::iter(features.enumerate()).map(named).buffer_unordered(concurrency)
    }

    async fn feature(&self, evidence: &FeatureEvidence) -> Outcome {
        match self.named(evidence).await {
            Ok(named) => {
                self.n_named.fetch_add(1, Ordering::Relaxed);
                Outcome::Named(named)
            }
            Err(NoReply::Stopped) => Outcome::Stopped,
            Err(NoReply::Refused(why)) => {
                let n_failed = self.n_failed.fetch_add(1, Ordering::Relaxed) + 1;
                if n_failed >= HOPELESS && self.n_named.load(Ordering::Relaxed) == 0 {
                    let model = self.sender.client().endpoint().model();
                    let message = format!("none of the first {n_failed} answers of model '{model}' can be used: {why}");
                    let hint = "try a larger model, or more --max-tokens for one that thinks aloud";
                    self.sender.stop(Failure::new(ErrorKind::Data, message).hint(hint));
                }
                Outcome::Failed(why)
            }
        }
    }

    async fn named(&self, evidence: &FeatureEvidence) -> Result<Named, NoReply> {
        let question = prompt::label(evidence).ok_or_else(|| NoReply::Refused("it has no examples".to_owned()))?;
        let label: Label = self.answer(question, LABEL_TOKENS, answer::label).await?;
        let mut named = Named { label, detection: None, fuzzing: None };
        for score in &self.scores {
            let Some(sheet) = score.sheet(evidence, self.seed) else { continue };
            let question = score.request(&named.label.label, &sheet);
            let read = |text: &str| answer::numbers(text, sheet.texts.len());
            let measured = match self.answer(question, NUMBERS_TOKENS, read).await {
                Ok(chosen) => Some(sheet.score(&chosen)),
                Err(NoReply::Refused(_)) => None, // a name without a score is still a name
                Err(NoReply::Stopped) => return Err(NoReply::Stopped),
            };
            match score {
                Score::Detection => named.detection = measured,
                Score::Fuzzing => named.fuzzing = measured,
            }
        }
        Ok(named)
    }

    /// The answer to a question: from the cache, else from the model, which may try once more if `read` complains.
    async fn answer<T: Serialize + DeserializeOwned>(
        &self,
        question: Vec<Message>,
        tokens_out: u64,
        read: impl Fn(&str) -> Result<T, String>,
    ) -> Result<T, NoReply> {
        let key = self.key(&question);
        if let Some(answer) = self.known(&key) {
            return Ok(answer);
        }
        let reply = self.sender.ask(&question, tokens_out).await?;
        let answer = match read(&reply.text) {
            Ok(answer) => answer,
            Err(complaint) => {
                let again = prompt::again(question, &reply.text, &complaint);
                let reply = self.sender.ask(&again, tokens_out).await?;
                let cut = if reply.cut { "; it was cut off at --max-tokens" } else { "" };
                read(&reply.text).map_err(|complaint| NoReply::Refused(format!("{complaint}{cut}")))?
            }
        };
        if let Err(failure) = self.keep(key, &answer) {
            self.sender.stop(failure);
        }
        Ok(answer)
    }

    fn key(&self, question: &[Message]) -> String {
        cache::key(self.sender.client().endpoint().model(), question)
    }

    fn known<T: DeserializeOwned>(&self, key: &str) -> Option<T> {
        let cache = self.cache.lock().unwrap_or_else(PoisonError::into_inner);
        T::deserialize(cache.get(key)?).ok()
    }

    fn keep(&self, key: String, answer: &impl Serialize) -> Result<(), Failure> {
        let answer = serde_json::to_value(answer)
            .map_err(|error| Failure::new(ErrorKind::Internal, format!("an answer is not JSON: {error}")))?;
        let mut cache = self.cache.lock().unwrap_or_else(PoisonError::into_inner);
        cache.put(key, self.sender.client().endpoint().model(), answer)
    }
}
