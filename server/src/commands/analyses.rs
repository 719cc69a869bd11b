//! The four analyses and export: each is one SQL statement.

use saequel_engine::Engine;

use crate::args::{ClusterArgs, CorrelateArgs, DiffArgs, ExportArgs, RetrieveArgs, Selection};
use crate::context::Context;
use crate::error::Result;
use crate::say::remark;
use crate::sql_text::{Call, identifier, literal};

/// Pairs that `correlate --limit 0` returns at most.
const ALL_PAIRS: u64 = 10_000_000;

pub(super) async fn diff(args: DiffArgs, context: &Context) -> Result<()> {
    let engine = context.open().await?;
    let call = diff_call(&args);
    let statement = |limit: Option<u64>| call.clone().named("limit", limit).statement();
    context.answer_list(&engine, statement, args.rows.limit, &args.answer).await
}

fn diff_call(args: &DiffArgs) -> Call {
    let call = Call::new("diff").text(&args.a);
    let call = match &args.b {
        Some(b) => call.text(b),
        None => call,
    };
    call.named_text("paired_by", args.paired_by.as_deref())
        .named("control", list(&args.control))
        .named_text("by", args.by.as_deref())
        .named("others", list(&args.others))
        .named_text("against", args.against.as_deref())
        .named_text("target", args.target.as_deref())
        .selection(&args.selection)
        .named("min_docs", args.min_docs)
        .named("confidence", args.confidence)
        .named("words", args.no_words.then_some(false))
        .named("examples", args.examples)
        .flag("fold", !args.no_fold)
}

/// Texts as a list in SQL; `None` if there is none.
fn list(texts: &[String]) -> Option<String> {
    let texts: Vec<String> = texts.iter().map(|text| literal(text)).collect();
    (!texts.is_empty()).then(|| format!("[{}]", texts.join(", ")))
}

/// One text as it is, several as a list.
fn one_or_list(texts: &[String]) -> Option<String> {
    match texts {
        [text] => Some(literal(text)),
        texts => list(texts),
    }
}

impl Call {
    /// Adds which features are meant.
    fn selection(self, selection: &Selection) -> Self {
        self.named_text("level", selection.level.as_deref())
            .named_text("dictionary", selection.dictionary.as_deref())
            .flag("include_hidden", selection.include_hidden)
    }
}

pub(super) async fn correlate(args: CorrelateArgs, context: &Context) -> Result<()> {
    let engine = context.open().await?;
    let call = correlate_call(&args);
    // The function itself returns 1,000 pairs unless it is asked for more.
    let statement = |limit: Option<u64>| call.clone().named("limit", limit.or(Some(ALL_PAIRS))).statement();
    context.answer_list(&engine, statement, args.rows.limit, &args.answer).await
}

fn correlate_call(args: &CorrelateArgs) -> Call {
    Call::new("correlate")
        .text(&args.set)
        .named_text("with", args.with.as_deref())
        .named_text("paired_by", args.paired_by.as_deref())
        .selection(&args.selection)
        .named("min_docs", args.min_docs)
        .named("min_both", args.min_both)
        .named_text("direction", args.direction.as_deref())
        .named_text("rank_by", args.rank_by.as_deref())
        .named("unexpected", args.unexpected)
        .named("control", one_or_list(&args.control))
        .named("min_lift", args.min_lift)
        .flag("echoes", args.echoes)
        .named("examples", args.examples)
        .named("fold", args.no_fold.then_some(false))
}

pub(super) async fn cluster(args: ClusterArgs, context: &Context) -> Result<()> {
    let engine = context.open().await?;
    context.answer(&engine, &cluster_call(&args).statement(), &args.answer).await?;
    Ok(())
}

fn cluster_call(args: &ClusterArgs) -> Call {
    Call::new(if args.documents { "cluster" } else { "cluster_summary" })
        .text(&args.set)
        .named_text("about", args.about.as_deref())
        .named("n_features", args.n_features)
        .selection(&args.selection)
        .named("k", args.k)
        .named("seed", args.seed)
        .named_text("view", args.view.as_deref())
        .named_text("method", args.method.as_deref())
}

pub(super) async fn retrieve(args: RetrieveArgs, context: &Context) -> Result<()> {
    let engine = context.open().await?;
    let columns = if args.explain { "*" } else { "rank, doc_id, score, reasons, text" };
    let statement = if args.learned { learned_statement(&args) } else { retrieve_call(&args).statement_of(columns) };
    context.answer(&engine, &statement, &args.answer).await?;
    Ok(())
}

fn retrieve_call(args: &RetrieveArgs) -> Call {
    let call = Call::new("retrieve").text(&args.set);
    let call = match &args.query {
        Some(query) => call.text(query),
        None => call,
    };
    let call = call
        .named("k", Some(args.k))
        .named_text("features", args.features.as_deref())
        .named_text("but_not", args.but_not.as_deref())
        .named_text("signals", args.signals.as_deref())
        .named_text("weights", args.weights.as_deref())
        .named("n_labels", args.n_labels)
        .named("expand", args.expand);
    marked(call, args)
}

/// As many rows as there would be documents.
fn learned_statement(args: &RetrieveArgs) -> String {
    format!("{} LIMIT {}", marked(Call::new("learned_features").text(&args.set), args).statement(), args.k)
}

/// Adds the marked documents and which features are meant.
fn marked(call: Call, args: &RetrieveArgs) -> Call {
    let joined = |ids: &[String]| (!ids.is_empty()).then(|| ids.join(","));
    call.named_text("like", joined(&args.like).as_deref())
        .named_text("unlike", joined(&args.unlike).as_deref())
        .selection(&args.selection)
}

pub(super) async fn export(args: ExportArgs, context: &Context) -> Result<()> {
    let answer = args.answer.lossless()?;
    let engine = context.open().await?;
    let n_rows = context.answer(&engine, &export_statement(&engine, &args.what), &answer).await?;
    if let (Some(path), false) = (answer.file(), context.global.quiet) {
        remark!("{n_rows} rows written to {}", path.display());
    }
    Ok(())
}

/// A name is a table; anything with a blank in it is a query, unless a corpus has that name.
fn export_statement(engine: &Engine, what: &str) -> String {
    let what = what.trim();
    let is_corpus = engine.catalog().corpora.iter().any(|corpus| corpus.name == what);
    if !is_corpus && what.contains(char::is_whitespace) {
        return what.trim_end_matches(';').to_owned();
    }
    let parts: Vec<String> = what.split('.').map(identifier).collect();
    format!("SELECT * FROM {}", parts.join("."))
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;
    use crate::args::{Cli, Command};

    #[test]
    fn options_become_named_arguments() {
        let cli = Cli::parse_from(["saequel", "diff", "a WHERE m='x'", "b", "--paired-by", "p", "--min-docs", "3"]);
        let Command::Diff(args) = cli.command else { panic!("diff") };
        assert_eq!(
            diff_call(&args).statement(),
            "SELECT * FROM diff('a WHERE m=''x''', 'b', paired_by => 'p', min_docs => 3, fold => true)"
        );
        let cli = Cli::parse_from(["saequel", "diff", "a", "b", "--no-fold", "--include-hidden", "--dictionary", "d"]);
        let Command::Diff(args) = cli.command else { panic!("diff") };
        assert_eq!(
            diff_call(&args).statement(),
            "SELECT * FROM diff('a', 'b', dictionary => 'd', include_hidden => true)"
        );
        let cli = Cli::parse_from(["saequel", "diff", "a", "--by", "m", "--control", "n_tokens", "--control", "it's"]);
        let Command::Diff(args) = cli.command else { panic!("diff") };
        assert_eq!(
            diff_call(&args).statement(),
            "SELECT * FROM diff('a', control => ['n_tokens', 'it''s'], by => 'm', fold => true)"
        );
        let cli = Cli::parse_from(["saequel", "diff", "a", "--others", "b", "--others", "c", "--against", "rest"]);
        let Command::Diff(args) = cli.command else { panic!("diff") };
        assert_eq!(
            diff_call(&args).statement(),
            "SELECT * FROM diff('a', others => ['b', 'c'], against => 'rest', fold => true)"
        );
        let cli = Cli::parse_from(["saequel", "diff", "a", "--target", "t", "--examples", "2", "--no-words"]);
        let Command::Diff(args) = cli.command else { panic!("diff") };
        assert_eq!(
            diff_call(&args).statement(),
            "SELECT * FROM diff('a', target => 't', words => false, examples => 2, fold => true)"
        );
        assert!(Cli::try_parse_from(["saequel", "diff", "a"]).is_err());
        let cli = Cli::parse_from(["saequel", "correlate", "a", "--with", "b", "--paired-by", "p", "--echoes"]);
        let Command::Correlate(args) = cli.command else { panic!("correlate") };
        assert_eq!(
            correlate_call(&args).statement(),
            "SELECT * FROM correlate('a', with => 'b', paired_by => 'p', echoes => true)"
        );
        let cli = Cli::parse_from(["saequel", "correlate", "a", "--unexpected", "0.3", "--min-lift", "3", "--no-fold"]);
        let Command::Correlate(args) = cli.command else { panic!("correlate") };
        assert_eq!(
            correlate_call(&args).statement(),
            "SELECT * FROM correlate('a', unexpected => 0.3, min_lift => 3, fold => false)"
        );
        let cli = Cli::parse_from(["saequel", "correlate", "a", "--rank-by", "npmi"]);
        let Command::Correlate(args) = cli.command else { panic!("correlate") };
        assert_eq!(correlate_call(&args).statement(), "SELECT * FROM correlate('a', rank_by => 'npmi')");
        let cli = Cli::parse_from(["saequel", "correlate", "a", "--control", "topic", "--examples", "2"]);
        let Command::Correlate(args) = cli.command else { panic!("correlate") };
        assert_eq!(
            correlate_call(&args).statement(),
            "SELECT * FROM correlate('a', control => 'topic', examples => 2)"
        );
        let cli = Cli::parse_from(["saequel", "correlate", "a", "--control", "m", "--control", "n_tokens"]);
        let Command::Correlate(args) = cli.command else { panic!("correlate") };
        assert_eq!(correlate_call(&args).statement(), "SELECT * FROM correlate('a', control => ['m', 'n_tokens'])");
        let cli = Cli::parse_from(["saequel", "cluster", "a", "--about", "x", "--n-features", "9", "--level", "span"]);
        let Command::Cluster(args) = cli.command else { panic!("cluster") };
        assert_eq!(
            cluster_call(&args).statement(),
            "SELECT * FROM cluster_summary('a', about => 'x', n_features => 9, level => 'span')"
        );
        let cli = Cli::parse_from(["saequel", "retrieve", "a", "it's", "--but-not", "x", "--like", "1,2", "--k", "5"]);
        let Command::Retrieve(args) = cli.command else { panic!("retrieve") };
        assert_eq!(
            retrieve_call(&args).statement(),
            "SELECT * FROM retrieve('a', 'it''s', k => 5, but_not => 'x', like => '1,2')"
        );
        let cli = Cli::parse_from(["saequel", "retrieve", "a", "--like", "1,2"]);
        let Command::Retrieve(args) = cli.command else { panic!("retrieve") };
        assert_eq!(retrieve_call(&args).statement(), "SELECT * FROM retrieve('a', k => 10, like => '1,2')");
        let cli = Cli::parse_from(["saequel", "retrieve", "a", "--features", "12:0.5, apology"]);
        let Command::Retrieve(args) = cli.command else { panic!("retrieve") };
        assert_eq!(
            retrieve_call(&args).statement(),
            "SELECT * FROM retrieve('a', k => 10, features => '12:0.5, apology')"
        );
        for given in [&["a"][..], &["a", "--unlike", "1"], &["a", "b", "--features", "12"]] {
            assert!(Cli::try_parse_from([&["saequel", "retrieve"][..], given].concat()).is_err(), "{given:?}");
        }
        let cli = Cli::parse_from([
            "saequel",
            "retrieve",
            "a",
            "b",
            "--signals",
            "dense,labels",
            "--weights",
            "labels=0.5",
            "--n-labels",
            "20",
            "--expand",
            "0",
            "--level",
            "span",
        ]);
        let Command::Retrieve(args) = cli.command else { panic!("retrieve") };
        assert_eq!(
            retrieve_call(&args).statement(),
            "SELECT * FROM retrieve('a', 'b', k => 10, signals => 'dense,labels', weights => 'labels=0.5', \
             n_labels => 20, expand => 0, level => 'span')"
        );
        let cli = Cli::parse_from(["saequel", "retrieve", "a", "b", "--like", "1", "--unlike", "2,3", "--learned"]);
        let Command::Retrieve(args) = cli.command else { panic!("retrieve") };
        assert_eq!(
            learned_statement(&args),
            "SELECT * FROM learned_features('a', like => '1', unlike => '2,3') LIMIT 10"
        );
    }

    #[test]
    fn what_learned_cannot_use_is_refused() {
        for option in [
            ["--but-not", "x"],
            ["--signals", "labels"],
            ["--weights", "labels=1"],
            ["--n-labels", "9"],
            ["--expand", "0"],
        ] {
            let call = ["saequel", "retrieve", "a", "b", "--like", "1", "--learned"];
            let refused = Cli::try_parse_from(call.into_iter().chain(option)).err().map(|error| error.to_string());
            assert!(refused.is_some_and(|said| said.contains(option[0]) && said.contains("--learned")), "{option:?}");
        }
    }
}
