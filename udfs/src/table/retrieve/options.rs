//! What a call of `retrieve` asks for.

use std::fmt;

use datafusion::common::plan_err;
use datafusion::error::Result;
use datafusion::logical_expr::Expr;

use super::by_features;
use crate::args::{Argument, Arguments, did_you_mean};
use crate::catalog::FeatureSelection;
use crate::table::exec::{quoted, quoted_list};

/// Most first hits that a query may be moved towards.
pub(super) const MOST_EXPANDED: usize = 100;

/// One way of ranking documents.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(super) enum Signal {
    /// Cosine of the embeddings.
    Dense,
    /// Features whose labels mean what the query says.
    Labels,
    /// Features that fire when the query is read.
    Latents,
    /// BM25 of the words.
    Words,
    /// Features learned from marked documents.
    Feedback,
}

impl Signal {
    /// Every signal, in the order of the result's columns.
    pub(super) const ALL: [Signal; 5] =
        [Signal::Dense, Signal::Labels, Signal::Latents, Signal::Words, Signal::Feedback];

    /// As options and columns spell it.
    pub(super) fn name(self) -> &'static str {
        match self {
            Signal::Dense => "dense",
            Signal::Labels => "labels",
            Signal::Latents => "latents",
            Signal::Words => "words",
            Signal::Feedback => "feedback",
        }
    }

    /// Weight in the fusion; that of labels unless the query has an embedding to go by ([`Options::adaptive`]).
    ///
    /// Chosen on one half of 135 property queries over five sets. On the other, average precision (mean of the sets) is .556,
    /// of the embedding alone .471, of the words .319, of the reciprocal ranks of both .423; no set is below the embedding by
    /// more than .004 (`tests/quality/retrieval.py`). The query's own features (latents) gain nothing beside these.
    pub(super) fn default_weight(self) -> f32 {
        match self {
            Signal::Dense | Signal::Labels | Signal::Words | Signal::Feedback => 1.0,
            Signal::Latents => 0.1,
        }
    }

    fn parse(name: &str, option: &str) -> Result<Self> {
        let name = name.trim();
        match Self::ALL.into_iter().find(|signal| signal.name().eq_ignore_ascii_case(name)) {
            Some(signal) => Ok(signal),
            None => {
                let names = Self::ALL.map(Self::name);
                let hint = did_you_mean(name, names);
                plan_err!("retrieve: '{option}' knows no signal '{name}'{hint}; signals are {}", names.join(", "))
            }
        }
    }
}

/// A call, checked.
#[derive(Debug, Clone)]
pub(super) struct Options {
    /// Where to look.
    pub(super) set: String,
    /// What to look for, if said in words.
    pub(super) query: Option<String>,
    /// Features to look for, by name, with weights; the other ways of asking are not used then.
    pub(super) features: Vec<(String, f32)>,
    /// What is not wanted.
    pub(super) but_not: Option<String>,
    /// Documents marked as right.
    pub(super) like: Vec<String>,
    /// Documents marked as wrong.
    pub(super) unlike: Vec<String>,
    /// Hits wanted.
    pub(super) k: usize,
    /// Signals and their weights, in the order of [`Signal::ALL`], no weight 0.
    pub(super) signals: Vec<(Signal, f32)>,
    /// Whether the weight of labels follows from the query.
    pub(super) adaptive: bool,
    /// Features that are matched to the query by their labels.
    pub(super) n_labels: usize,
    /// First hits that the embedding of the query is moved towards.
    pub(super) expand: usize,
    /// Features that labels, feedback and (hidden ones too) latents may use.
    pub(super) selection: FeatureSelection,
}

impl Options {
    /// Reads the arguments.
    pub(super) fn parse(exprs: &[Expr]) -> Result<Self> {
        let mut args = Arguments::parse("retrieve", exprs)?;
        let set = args.positional("set").required_text()?;
        let query = not_blank(args.positional("query").text()?);
        let features = by_features::parse(&args.named("features"))?;
        let k = args.named("k");
        let limit = args.named("limit");
        if k.is_given() && limit.is_given() {
            return plan_err!("retrieve: 'k' and 'limit' mean the same; give one of them");
        }
        let k = limit.count()?.map_or_else(|| k.count_or(10), Ok)?;
        let but_not = not_blank(args.named("but_not").text()?);
        let like = ids(&args.named("like"))?;
        let unlike = ids(&args.named("unlike"))?;
        let signals = args.named("signals").text()?;
        let weights = args.named("weights").text()?;
        let n_labels = args.named("n_labels").count_or(100)?;
        let expand = args.named("expand").count_or(10)?;
        if !features.is_empty() {
            let others = [
                ("query", query.is_some()),
                ("but_not", but_not.is_some()),
                ("like", !like.is_empty()),
                ("unlike", !unlike.is_empty()),
                ("signals", signals.is_some()),
                ("weights", weights.is_some()),
            ];
            if let Some((other, _)) = others.iter().find(|(_, given)| *given) {
                return plan_err!(
                    "retrieve: 'features' says what to look for by itself and cannot be used with '{other}'; give one of them"
                );
            }
        }
        let selection = FeatureSelection::from_args(&mut args)?;
        args.finish()?;
        if expand > MOST_EXPANDED {
            return plan_err!("retrieve: expected from 0 to {MOST_EXPANDED} for 'expand', got {expand}");
        }
        if !features.is_empty() {
            let signals = Vec::new();
            return Ok(Self {
                set,
                query,
                features,
                but_not,
                like,
                unlike,
                k,
                signals,
                adaptive: false,
                n_labels,
                expand,
                selection,
            });
        }
        if query.is_none() && like.is_empty() {
            return plan_err!(
                "retrieve: nothing to look for; give a query, mark documents with like => 'id1,id2', or name features with \
                 features => '12:0.5, 99:1'"
            );
        }
        contradiction("retrieve", &like, &unlike)?;
        if query.is_none() && but_not.is_some() {
            return plan_err!(
                "retrieve: 'but_not' without a query; give a query, or mark documents with unlike => 'id3'"
            );
        }
        let marked = !(like.is_empty() && unlike.is_empty());
        let (signals, given) = read_signals(signals.as_deref(), weights.as_deref(), marked, query.is_some())?;
        let uses = |signal: Signal| signals.iter().any(|(used, _)| *used == signal);
        let adaptive = uses(Signal::Dense) && uses(Signal::Labels) && !given.contains(&Signal::Labels);
        Ok(Self { set, query, features, but_not, like, unlike, k, signals, adaptive, n_labels, expand, selection })
    }

    /// Whether a signal is used.
    pub(super) fn uses(&self, signal: Signal) -> bool {
        self.signals.iter().any(|(used, _)| *used == signal)
    }

    /// Whether features are looked at.
    pub(super) fn uses_features(&self) -> bool {
        [Signal::Labels, Signal::Latents, Signal::Feedback].iter().any(|signal| self.uses(*signal))
    }

    /// Weight of a signal; 0 if it is not used.
    pub(super) fn weight(&self, signal: Signal) -> f32 {
        self.signals.iter().find(|(used, _)| *used == signal).map_or(0.0, |(_, weight)| *weight)
    }
}

impl fmt::Display for Options {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if !self.features.is_empty() {
            let features: Vec<String> = self.features.iter().map(|(name, weight)| format!("{name}:{weight}")).collect();
            return write!(
                f,
                "retrieve({}, features => {}, k => {})",
                quoted(&self.set),
                quoted(&features.join(", ")),
                self.k
            );
        }
        let query = self.query.as_deref().unwrap_or_default();
        write!(f, "retrieve({}, {}, k => {}", quoted(&self.set), quoted(query), self.k)?;
        let weighed = |(signal, weight): &(Signal, f32)| match signal {
            Signal::Labels if self.adaptive => "labels=by query".to_owned(),
            signal => format!("{}={weight}", signal.name()),
        };
        let signals: Vec<String> = self.signals.iter().map(weighed).collect();
        write!(f, ", weights => '{}', expand => {}", signals.join(","), self.expand)?;
        if let Some(but_not) = &self.but_not {
            write!(f, ", but_not => {}", quoted(but_not))?;
        }
        for (name, ids) in [("like", &self.like), ("unlike", &self.unlike)] {
            if !ids.is_empty() {
                write!(f, ", {name} => [{}]", quoted_list(ids))?;
            }
        }
        write!(f, ")")
    }
}

fn not_blank(text: Option<String>) -> Option<String> {
    text.filter(|text| !text.trim().is_empty())
}

/// Refuses a document that is marked as right and as wrong.
pub(super) fn contradiction(function: &str, like: &[String], unlike: &[String]) -> Result<()> {
    match like.iter().find(|id| unlike.contains(id)) {
        Some(id) => plan_err!("{function}: document '{id}' is both in 'like' and in 'unlike'"),
        None => Ok(()),
    }
}

/// One text is a list separated by commas; of an array every item is one id.
pub(super) fn ids(argument: &Argument) -> Result<Vec<String>> {
    let parts: Vec<String> = match argument.text() {
        Ok(text) => text.iter().flat_map(|text| text.split(',')).map(str::to_owned).collect(),
        Err(_) => argument.texts()?,
    };
    let mut ids: Vec<String> = parts.into_iter().map(|id| id.trim().to_owned()).filter(|id| !id.is_empty()).collect();
    ids.sort();
    ids.dedup();
    Ok(ids)
}

/// Signals with their weights, and those whose weight was given.
fn read_signals(
    signals: Option<&str>,
    weights: Option<&str>,
    marked: bool,
    has_query: bool,
) -> Result<(Vec<(Signal, f32)>, Vec<Signal>)> {
    let items = |text: &str| -> Vec<String> {
        text.split(',').map(|item| item.trim().to_owned()).filter(|item| !item.is_empty()).collect()
    };
    let weighed = |signal: Signal| {
        let names = weights.unwrap_or_default().split(',').filter_map(|item| item.split_once('='));
        names.map(|(name, _)| name.trim().to_lowercase()).any(|name| name == signal.name())
    };
    let mut chosen: Vec<Signal> = match signals {
        Some(text) => items(text).iter().map(|name| Signal::parse(name, "signals")).collect::<Result<_>>()?,
        None => Signal::ALL.into_iter().filter(|signal| *signal != Signal::Latents || weighed(*signal)).collect(),
    };
    if chosen.is_empty() {
        return plan_err!("retrieve: 'signals' is empty; signals are {}", Signal::ALL.map(Signal::name).join(", "));
    }
    if marked {
        chosen.push(Signal::Feedback);
    } else {
        if signals.is_some() && chosen.contains(&Signal::Feedback) {
            return plan_err!("retrieve: signal 'feedback' needs marked documents; add like => 'id1,id2'");
        }
        chosen.retain(|signal| *signal != Signal::Feedback);
    }
    if !has_query {
        // The others find nothing then, and no document would be first in all rankings.
        chosen.retain(|signal| matches!(signal, Signal::Dense | Signal::Feedback));
    }
    chosen.sort();
    chosen.dedup();
    let mut given = Vec::new();
    let mut used: Vec<(Signal, f32)> = chosen.iter().map(|signal| (*signal, signal.default_weight())).collect();
    for item in items(weights.unwrap_or_default()) {
        let Some((name, number)) = item.split_once('=') else {
            return plan_err!("retrieve: expected pairs as in weights => 'dense=1, words=0.3', got '{item}'");
        };
        let signal = Signal::parse(name, "weights")?;
        let weight = match number.trim().parse::<f32>() {
            Ok(weight) if (0.0..=1000.0).contains(&weight) => weight,
            _ => return plan_err!("retrieve: expected a weight from 0 to 1000 for '{}', got '{number}'", name.trim()),
        };
        if !has_query && weight > 0.0 {
            // Embedding and features were learned together: there is nothing to weigh them against.
            return plan_err!(
                "retrieve: weight of '{}' without a query, where only what was learned counts; give a query, or leave the \
                 weight out ('dense=0' leaves embeddings out)",
                signal.name()
            );
        }
        given.push(signal);
        match used.iter_mut().find(|(other, _)| *other == signal) {
            Some(slot) => slot.1 = weight,
            // It is off already.
            None if !has_query => {}
            None if signal == Signal::Feedback => {
                return plan_err!("retrieve: weight of 'feedback' without marked documents; add like => 'id1,id2'");
            }
            None => return plan_err!("retrieve: weight of '{}', which is not among 'signals'", signal.name()),
        }
    }
    used.retain(|(_, weight)| *weight > 0.0);
    if !has_query && !used.iter().any(|(signal, _)| *signal == Signal::Feedback) {
        return plan_err!("retrieve: weight 0 of 'feedback' without a query leaves nothing to look for");
    }
    if used.is_empty() {
        return plan_err!("retrieve: all weights are 0");
    }
    Ok((used, given))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::args::named_argument;
    use arrow::datatypes::DataType;
    use datafusion::common::ScalarValue;
    use datafusion::prelude::lit;

    fn parse(named: &[(&str, &str)]) -> Result<Options> {
        let mut exprs = vec![lit("answers"), lit("apology")];
        exprs.extend(named.iter().map(|(name, value)| named_argument(name, lit(*value))));
        Options::parse(&exprs)
    }

    fn message(named: &[(&str, &str)]) -> String {
        parse(named).map(|options| options.to_string()).unwrap_or_else(|error| error.strip_backtrace())
    }

    #[test]
    fn signals_and_weights() {
        let weights = |named: &[(&str, &str)]| -> Vec<(&'static str, f32)> {
            parse(named).unwrap().signals.iter().map(|(signal, weight)| (signal.name(), *weight)).collect()
        };
        assert_eq!(weights(&[]), [("dense", 1.0), ("labels", 1.0), ("words", 1.0)]);
        assert_eq!(weights(&[("weights", "latents=0.3")])[2], ("latents", 0.3), "a weight is a wish");
        assert_eq!(weights(&[("signals", "Words, dense"), ("weights", "words=2")]), [("dense", 1.0), ("words", 2.0)]);
        assert_eq!(weights(&[("signals", "words"), ("like", "a,b")]), [("words", 1.0), ("feedback", 1.0)]);
        assert_eq!(weights(&[("weights", "dense=0,labels=0")]), [("words", 1.0)]);
    }

    #[test]
    fn labels_follow_the_query_unless_told_otherwise() {
        let adaptive = |named: &[(&str, &str)]| parse(named).unwrap().adaptive;
        assert!(adaptive(&[]) && adaptive(&[("weights", "words=0.5")]));
        assert!(!adaptive(&[("weights", "labels=0.5")]) && !adaptive(&[("signals", "labels,words")]));
    }

    #[test]
    fn marks_alone_are_ranked_by_what_can_find_them() {
        let options = Options::parse(&[lit("answers"), named_argument("like", lit("a"))]).unwrap();
        assert_eq!(options.signals, [(Signal::Dense, 1.0), (Signal::Feedback, 1.0)]);
        let weights = named_argument("weights", lit("dense=0, words=0"));
        let options = Options::parse(&[lit("answers"), named_argument("like", lit("a")), weights]).unwrap();
        assert_eq!(options.signals, [(Signal::Feedback, 1.0)], "a weight of 0 switches a signal off");
    }

    #[test]
    fn ids_are_separated_by_commas_in_a_text_only() {
        let list = ScalarValue::new_list_nullable(&[ScalarValue::from("Smith, John")], &DataType::Utf8);
        let like = |value: Expr| Options::parse(&[lit("answers"), named_argument("like", value)]).unwrap().like;
        assert_eq!(like(lit("b, a")), ["a", "b"]);
        assert_eq!(like(lit(ScalarValue::List(list))), ["Smith, John"]);
    }

    #[test]
    fn messages_name_the_way_out() {
        for (named, expected) in [
            (("signals", "dens"), "'signals' knows no signal 'dens'; did you mean 'dense'?; signals are dense, labels"),
            (("signals", "feedback"), "needs marked documents; add like => 'id1,id2'"),
            (("weights", "dense"), "expected pairs as in weights => 'dense=1, words=0.3', got 'dense'"),
            (("weights", "dense=-1"), "expected a weight from 0 to 1000 for 'dense', got '-1'"),
            (("weights", "feedback=1"), "without marked documents"),
            (("weights", "dense=0,labels=0,words=0"), "all weights are 0"),
            (("signals", " , "), "'signals' is empty"),
        ] {
            assert!(message(&[named]).contains(expected), "{}", message(&[named]));
        }
        let mut exprs = vec![lit("answers"), lit("apology"), named_argument("expand", lit(101))];
        let too_many = Options::parse(&exprs).unwrap_err().strip_backtrace();
        assert!(too_many.contains("expected from 0 to 100 for 'expand', got 101"), "{too_many}");
        exprs[2] = named_argument("level", lit("word"));
        assert!(Options::parse(&exprs).unwrap_err().strip_backtrace().contains("'level'"));
        assert!(message(&[("like", "a,b"), ("unlike", "b")]).contains("'b' is both in 'like' and in 'unlike'"));
        for signal in ["words", "dense", "feedback"] {
            let weights = named_argument("weights", lit(format!("{signal}=2")));
            let marks = [lit("answers"), named_argument("like", lit("a")), weights];
            let no_query = Options::parse(&marks).unwrap_err().strip_backtrace();
            assert!(no_query.contains(&format!("weight of '{signal}' without a query")), "{no_query}");
        }
        let marks = [lit("answers"), named_argument("like", lit("a")), named_argument("weights", lit("feedback=0"))];
        let nothing = Options::parse(&marks).unwrap_err().strip_backtrace();
        assert!(nothing.contains("weight 0 of 'feedback' without a query leaves nothing"), "{nothing}");
        let nothing = Options::parse(&[lit("answers"), lit(" ")]).unwrap_err().strip_backtrace();
        assert!(nothing.contains("nothing to look for; give a query, mark documents"), "{nothing}");
    }
}
