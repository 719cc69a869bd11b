//! `saequel import`.

use std::path::Path;

use saequel_engine::{
    ErrorKind, GivenFeatures, GivenMatrix, ImportOptions, ImportReport, ImportSource, OnBadRow, OnConflict,
};

use crate::args::{Conflict, ImportArgs};
use crate::context::Context;
use crate::error::{Failure, Result};
use crate::say::say;

pub(super) async fn import(args: ImportArgs, context: &Context) -> Result<()> {
    let from_stdin = args.source == Path::new("-");
    if !from_stdin && !args.source.exists() {
        let failure = Failure::new(ErrorKind::NotFound, format!("file '{}' not found", args.source.display()));
        let pattern = args.source.to_string_lossy().contains(['*', '?']);
        return Err(match pattern {
            true => failure.hint("an import takes one file, or a folder, of which it reads every file"),
            false => failure,
        });
    }
    let a_matrix = is_matrix(&args.source);
    let given = args.features.is_some() || args.feature_matrix.is_some() || a_matrix;
    if !given && (args.dictionary.is_some() || args.width.is_some() || args.labels.is_some()) {
        let message = "--dictionary, --width and --labels are about features that were computed elsewhere: name their column \
                       (--features), or the file with them (--feature-matrix)";
        return Err(Failure::new(ErrorKind::Query, message));
    }
    if args.feature_matrix.is_some() && args.embedding_matrix.is_some() {
        let message = "one matrix at a time can stand beside the documents: features or embeddings";
        return Err(Failure::new(ErrorKind::Query, message));
    }
    context.interrupt.also_on_terminate();
    let engine = context.open_or_create(&context.db_dir()).await?;
    let resumable = args.key.is_some() || !from_stdin;
    let corpus = args.corpus.clone();
    let report = engine.import(options(args), context.progress()).await.map_err(|error| {
        let stopped = error.kind() == ErrorKind::Cancelled;
        match (stopped, resumable) {
            (true, true) => Failure::from(error).hint("run the same command again to go on from here"),
            (true, false) => Failure::from(error).hint(
                "what was committed is kept; with the same input, or with --key, importing again goes on from here",
            ),
            _ => error.into(),
        }
    })?;
    say!("{}", summary(&corpus, &report))
}

/// Whether a source is a matrix, by its name.
fn is_matrix(source: &Path) -> bool {
    source.extension().is_some_and(|ending| ending == "npz" || ending == "npy")
}

/// The import that the arguments ask for.
fn options(args: ImportArgs) -> ImportOptions {
    let given = args.features.is_some() || args.feature_matrix.is_some() || is_matrix(&args.source);
    let source = match args.source.as_path() {
        path if path == Path::new("-") => ImportSource::Stdin,
        _ => ImportSource::Path(args.source),
    };
    let features = given.then(|| GivenFeatures {
        ids: args.features.unwrap_or_default(),
        activations: args.activations,
        dictionary: args.dictionary,
        width: args.width,
        labels: args.labels,
        level: args.level,
        tool: args.made_by,
        threshold: args.threshold,
    });
    let matrix = args.feature_matrix.map(GivenMatrix::Features);
    let matrix = matrix.or(args.embedding_matrix.map(GivenMatrix::Embeddings));
    ImportOptions {
        format: args.file_format,
        text_columns: args.text,
        chat: args.chat,
        key: args.key,
        dictionaries: args.sae,
        features,
        embedding: args.embedding,
        matrix,
        rename: args.rename,
        on_conflict: match args.on_conflict {
            Conflict::Skip => OnConflict::Skip,
            Conflict::Update => OnConflict::Update,
            Conflict::Fail => OnConflict::Fail,
        },
        on_bad_row: if args.set_aside { OnBadRow::SetAside } else { OnBadRow::Fail },
        batch_docs: args.batch_docs,
        limit: args.limit,
        ..ImportOptions::new(source, args.corpus)
    }
}

/// `answers: 420 documents in all; 420 added, 3 set aside (35,210 tokens in 12.3 s, 2,862 tokens/s)`
pub(super) fn summary(corpus: &str, report: &ImportReport) -> String {
    let mut parts = vec![format!("{} added", report.written)];
    for (count, what) in [
        (report.updated, "updated"),
        (report.skipped, "there already"),
        (report.n_set_aside, "set aside"),
        (report.n_unread, "without features"),
    ] {
        if count > 0 {
            parts.push(format!("{count} {what}"));
        }
    }
    let rate = report.n_tokens as f64 / report.seconds.max(1e-3);
    let speed = match report.n_tokens {
        0 => format!("{:.1} s", report.seconds),
        n => format!("{n} tokens in {:.1} s, {rate:.0} tokens/s", report.seconds),
    };
    let speed = match report.n_tokens {
        0 if report.written > 0 => {
            format!("{speed}, {:.0} documents/s", report.written as f64 / report.seconds.max(1e-3))
        }
        _ => speed,
    };
    format!("{corpus}: {} documents in all; {} ({speed})", report.total, parts.join(", "))
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;
    use crate::args::{Cli, Command};

    #[test]
    fn arguments_reach_the_import() {
        let cli = Cli::parse_from([
            "saequel",
            "import",
            "-",
            "--corpus",
            "c",
            "--text",
            "a",
            "--text",
            "b",
            "--key",
            "k",
            "--on-conflict",
            "update",
            "--set-aside",
            "--rename",
            "x=y",
            "--limit",
            "7",
            "--chat",
            "system=s,user=a,assistant=b",
        ]);
        let Command::Import(args) = cli.command else { panic!("import") };
        let options = options(args);
        assert!(matches!(options.source, ImportSource::Stdin));
        assert_eq!(options.text_columns, ["a", "b"]);
        assert_eq!(options.chat.unwrap().to_string(), "system=s,user=a,assistant=b");
        assert_eq!(options.rename, [("x".to_owned(), "y".to_owned())]);
        assert_eq!((options.on_conflict, options.on_bad_row), (OnConflict::Update, OnBadRow::SetAside));
        assert_eq!((options.key.as_deref(), options.limit), (Some("k"), Some(7)));
    }

    #[test]
    fn the_summary_names_what_happened() {
        let report = ImportReport {
            written: 2,
            skipped: 1,
            n_set_aside: 1234,
            set_aside: vec!["a.csv, line 3: torn".into()], // the first ones only
            total: 3,
            n_tokens: 100,
            seconds: 0.5,
            ..Default::default()
        };
        assert_eq!(
            summary("c", &report),
            "c: 3 documents in all; 2 added, 1 there already, 1234 set aside (100 tokens in 0.5 s, 200 tokens/s)"
        );
    }
}
