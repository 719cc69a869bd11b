//! `saequel sae`: dictionaries of features.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use arrow::array::{ArrayRef, RecordBatch, StringArray};
use saequel_engine::labels::{LabelOptions, label};
use saequel_engine::sae::{ImportOptions, ImportReport, Level, TrainOptions, TrainReport, import, train};
use saequel_engine::{ErrorKind, Reader, Sae};

use crate::args::{LabelArgs, SaeCommand, SaeImportArgs, TrainArgs};
use crate::context::Context;
use crate::error::{Failure, Result};
use crate::say::say;

pub(super) async fn sae(command: SaeCommand, context: &Context) -> Result<()> {
    match command {
        SaeCommand::Train(args) => {
            let options = train_options(args, context);
            let report = context.blocking(move |progress| train(&options, progress)).await.map_err(|failure| {
                match failure.kind() {
                    ErrorKind::Cancelled => failure.hint("run the same command again to go on from the checkpoint"),
                    _ => failure,
                }
            })?;
            say!("{}", trained(&report))
        }
        SaeCommand::Eval(args) => super::evaluate::evaluate(args, context).await,
        SaeCommand::Compare(args) => super::evaluate::compare(args, context).await,
        SaeCommand::List { answer } => {
            let engine = context.open().await?;
            context.answer(&engine, "SELECT * FROM saequel.saes", &answer).await?;
            Ok(())
        }
        SaeCommand::Import(args) => import_dictionary(args, context).await,
        SaeCommand::Show { dir, answer } => {
            let (names, values): (Vec<_>, Vec<_>) = Sae::open(&dir)?.describe().into_iter().unzip();
            let columns = [
                ("property", Arc::new(StringArray::from(names)) as ArrayRef),
                ("value", Arc::new(StringArray::from(values)) as ArrayRef),
            ];
            context.answer_batch(RecordBatch::try_from_iter(columns)?, &answer).await
        }
        SaeCommand::Add { corpus, dictionaries } => add(&corpus, &dictionaries, context).await,
        SaeCommand::Remove { name, corpus: Some(corpus), .. } => {
            let engine = context.open().await?;
            engine.drop_from_corpus(&corpus, std::slice::from_ref(&name)).await?;
            say!("{corpus}: dictionary {name} dropped; compact the corpus to free its space")
        }
        SaeCommand::Remove { name, .. } => {
            let engine = context.open().await?;
            engine.drop_dictionary(&name).await?;
            say!("{name}: removed from the database")
        }
        SaeCommand::Label(args) => relabel(args, context).await,
        SaeCommand::Detect(args) => super::evidence::detect(args, context).await,
    }
}

async fn import_dictionary(args: SaeImportArgs, context: &Context) -> Result<()> {
    if let Some(output) = &args.output {
        if output.exists() && !output.is_dir() {
            return Err(Failure::usage(format!("{} is no folder; name another --output", output.display())));
        }
        if Sae::is_in(output) && !args.overwrite {
            let message = format!("{} holds a dictionary already", output.display());
            return Err(
                Failure::new(ErrorKind::Exists, message).hint("name another --output, or replace it: --overwrite")
            );
        }
    }
    let ours = Path::new(&args.source);
    let sae = if Sae::is_in(ours) {
        own_folder(&args)?;
        let sae = Sae::load(ours).map_err(damaged)?;
        check_reader(&sae, context).await?;
        match &args.name {
            Some(name) => sae.with_name(name)?,
            None => sae,
        }
    } else {
        let options = ImportOptions {
            source: args.source,
            reader: args.reader,
            hook: args.hook,
            level: args.level,
            name: args.name,
            input_scale: args.input_scale,
            same_model: args.same_model,
            reader_options: context.engine_options().reader(),
        };
        let done = context.blocking(move |progress| import(&options, progress)).await;
        let (sae, report) = done.map_err(damaged)?;
        imported(&report)?;
        sae
    };
    if let Some(output) = args.output {
        sae.save(&output)?;
        let (dir, name) = (output.display(), sae.name());
        return say!(
            "{name}: written to {dir}; `saequel sae label {dir} --input FILE` names its features from texts, `saequel \
             sae import {dir}` adds it to a database"
        );
    }
    let engine = context.open_or_create(&context.db_dir()).await?;
    let first = engine.add_dictionary(&sae).await?;
    let last = u64::from(first) + sae.width() as u64 - 1;
    let name = sae.name();
    let catalog = engine.catalog();
    let known = catalog.features.dictionaries();
    // Features that were computed elsewhere have no reader, and a new corpus leaves them out.
    let usual = known.iter().map(|other| other.reader.as_str()).find(|reader| !reader.is_empty());
    if let Some(usual) = usual.filter(|usual| *usual != sae.reader()) {
        return say!(
            "{name}: features {first} to {last}; the database has dictionaries of several readers, and a new corpus is read by \
             '{usual}' unless it is told: `--sae {name}`"
        );
    }
    say!("{name}: features {first} to {last}; new corpora use it, or `--sae {name}`")
}

/// Refuses what the folder of a dictionary of this program says itself.
fn own_folder(args: &SaeImportArgs) -> Result<()> {
    let given = [
        ("--reader", args.reader.is_some()),
        ("--hook", args.hook.is_some()),
        ("--level", args.level.is_some()),
        ("--input-scale", args.input_scale.is_some()),
        ("--same-model", args.same_model),
    ];
    let named: Vec<&str> = given.into_iter().filter_map(|(option, is_given)| is_given.then_some(option)).collect();
    if named.is_empty() {
        return Ok(());
    }
    let message = format!(
        "{} is a dictionary of this program, whose sae.json says itself where and what it reads; leave {} out",
        args.source,
        named.join(" and ")
    );
    Err(Failure::usage(message))
}

/// Says of damaged files what can be done: they are of no database.
fn damaged(failure: impl Into<Failure>) -> Failure {
    let failure = failure.into();
    match failure.kind() {
        ErrorKind::Corrupt => {
            failure.hint("get that file again from where it came: it is damaged, cut off, or of another kind")
        }
        _ => failure,
    }
}

/// Refuses a dictionary whose reader cannot be or does not have what it reads, as far as that is known without fetching it.
async fn check_reader(sae: &Sae, context: &Context) -> Result<()> {
    // Embeddings may come from anywhere.
    if sae.level() == Level::Document {
        return Ok(());
    }
    let (name, reader, hook, width) = (sae.name().to_owned(), sae.reader().to_owned(), sae.hook(), sae.input_width());
    let options = context.engine_options().reader();
    let found = context.blocking(move |progress| {
        if !Reader::is_at_hand(&reader, &options.cache_dir)? {
            return Ok(None);
        }
        Reader::load(&reader, &options, progress)?.hook_width(hook).map(Some)
    });
    match found.await? {
        Some(found) if found != width => Err(Failure::new(
            ErrorKind::Data,
            format!("{name}: reads {width} values at {hook}, where reader '{}' has {found}", sae.reader()),
        )),
        _ => Ok(()),
    }
}

/// Says what was found.
fn imported(report: &ImportReport) -> Result<()> {
    say!("{} of {}", report.format, report.source)?;
    say!("  {} features, {}, reading {} values", report.n_features, report.architecture, report.input_width)?;
    let model = report.model.as_deref().filter(|model| *model != report.reader);
    let model = model.map_or(String::new(), |model| format!(" ({model})"));
    say!("  reader {}{model}, hook point {} ({})", report.reader, report.hook, report.hook.transformer_lens())?;
    if let Some((hook, width)) = &report.output {
        say!("  rebuilds {hook} ({width} values): a transcoder")?;
    }
    say!("  states: {}; level {}", report.normalization, report.level.as_str())?;
    let check = &report.check;
    let what = if check.real { "tokens or spans of ten sentences" } else { "random states" };
    match check.fvu.is_nan() {
        true => say!("  tried on {} {what}: L0 {:.1}", check.n_rows, check.l0)?,
        false => say!("  tried on {} {what}: L0 {:.1}, FVU {:.3}", check.n_rows, check.l0, check.fvu)?,
    }
    for note in &report.notes {
        say!("  note: {note}")?;
    }
    Ok(())
}

/// Adds dictionaries, of the database or of folders, to a corpus.
async fn add(corpus: &str, dictionaries: &[String], context: &Context) -> Result<()> {
    let engine = context.open().await?;
    let mut names = Vec::with_capacity(dictionaries.len());
    for dictionary in dictionaries {
        let folder = Path::new(dictionary);
        let known = |name: &str| engine.catalog().features.dictionaries().iter().any(|known| known.name == name);
        let name = if known(dictionary) || !folder.is_dir() {
            dictionary.clone()
        } else {
            let sae = Sae::load(folder).map_err(damaged)?;
            // Added by an earlier run that was stopped: the name stands for it.
            let is_there = engine.has_dictionary(&sae).map_err(|error| match error.kind() {
                ErrorKind::Exists => Failure::from(error).hint(format!(
                    "give this one another name first: `saequel sae import {dictionary} --name NAME`, then `saequel sae add \
                     {corpus} NAME`"
                )),
                _ => error.into(),
            })?;
            if !is_there {
                engine.add_dictionary(&sae).await?;
            }
            sae.name().to_owned()
        };
        if !names.contains(&name) {
            names.push(name);
        }
    }
    let report =
        engine.add_to_corpus(corpus, &names, context.progress()).await.map_err(|error| match error.kind() {
            ErrorKind::Cancelled => Failure::from(error).hint("run the same command again to go on from here"),
            _ => error.into(),
        })?;
    let mut said = format!("{corpus}: {} documents encoded with {}", report.documents, names.join(", "));
    if report.resumed > 0 {
        said.push_str(&format!(", {} of them before", report.resumed));
    }
    if report.failed > 0 {
        said.push_str(&format!(", {} could not be", report.failed));
    }
    say!("{said} ({:.1} s)", report.seconds)
}

async fn relabel(args: LabelArgs, context: &Context) -> Result<()> {
    let dir = args.dir.clone();
    let options = LabelOptions {
        dictionary: Some(args.dir),
        input: args.texts.input,
        text_column: args.texts.text,
        tokens: args.tokens,
        examples: !args.no_examples,
        statistics: args.statistics,
        reader_options: context.engine_options().reader(),
    };
    let latents = context.blocking(move |progress| label(&options, progress)).await?;
    let shown = latents.iter().filter(|latent| latent.hidden.is_none()).count();
    let sae = Sae::load(&dir)?.with_latents(latents)?;
    sae.save(&dir)?;
    say!("{}: {shown} of {} features labelled for users in {}", sae.name(), sae.width(), dir.display())
}

fn train_options(args: TrainArgs, context: &Context) -> TrainOptions {
    let work_dir = args.work.unwrap_or_else(|| {
        let mut name = args.output.clone().into_os_string();
        name.push(".work");
        PathBuf::from(name)
    });
    let mut options = TrainOptions::new(args.texts.input, work_dir, args.output);
    options.overwrite = args.overwrite;
    options.text_column = args.texts.text;
    options.start = args.from;
    options.reader = args.reader;
    options.layer = args.layer;
    options.hook = args.hook;
    options.level = args.level;
    options.also_harvest = args.also;
    options.token_states = args.token_states;
    options.name = args.name;
    options.method = args.architecture;
    options.prefixes = args.prefixes;
    options.tolerance = args.tolerance;
    options.width = args.width;
    options.k = args.k;
    options.tokens = args.tokens;
    options.samples = args.samples;
    options.batch = args.batch;
    options.learning_rate = args.learning_rate.unwrap_or(match options.start {
        Some(_) => TrainOptions::TUNING_RATE,
        None => options.learning_rate,
    });
    options.seed = args.seed;
    options.examples = !args.no_examples;
    options.reader_options = context.engine_options().reader();
    options
}

fn trained(report: &TrainReport) -> String {
    let kept = report.kept.map_or(String::new(), |kept| format!(", {kept} features kept their names"));
    format!(
        "{}: FVU {:.4}, L0 {:.1}, dead {:.1} %{kept}, {} tokens read, {} samples, {:.0} s",
        report.name,
        report.fvu,
        report.l0,
        report.dead_share * 100.0,
        report.n_tokens,
        report.n_samples,
        report.seconds
    )
}
