//! `saequel token`.

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::sync::Arc;

use arrow::array::{ArrayRef, RecordBatch, StringArray};
use chrono::{Duration, Utc};
use saequel_engine::{Engine, EngineOptions, ErrorKind};

use crate::args::{TokenCommand, TokenCreateArgs};
use crate::context::Context;
use crate::error::{Failure, Result};
use crate::gate::{TokenEntry, TokenFile};
use crate::say::{remark, say};

pub(super) async fn token(command: TokenCommand, context: &Context) -> Result<()> {
    let path = |given: Option<PathBuf>| -> Result<PathBuf> {
        Ok(match given {
            Some(path) => path,
            None => context.existing_db_dir()?.join("tokens.json"),
        })
    };
    match command {
        TokenCommand::Create(args) => {
            let named = args.corpus.clone();
            create(&path(args.tokens.clone())?, args)?;
            tell_of_unknown(&named, context).await;
            Ok(())
        }
        TokenCommand::List(args) => {
            let file = TokenFile::read(&path(args.tokens)?)?;
            context.answer_batch(batch(&file)?, &args.answer).await
        }
        TokenCommand::Revoke(args) => {
            TokenFile::change(&path(args.tokens)?, |file| {
                let before = file.tokens.len();
                file.tokens.retain(|entry| entry.name != args.name);
                if file.tokens.len() == before {
                    let message = format!("token: there is none with the name '{}'", args.name);
                    return Err(Failure::new(ErrorKind::NotFound, message).hint("`saequel token list` shows them"));
                }
                Ok(())
            })?;
            say!("token '{}' revoked: a running server refuses it from now on", args.name)
        }
    }
}

/// Says which corpora there are not: one may come later, or its name be mistyped.
async fn tell_of_unknown(named: &[String], context: &Context) {
    let engine = match named {
        [] => return,
        // The file of tokens may lie where no database is.
        _ => match context.existing_db_dir() {
            Ok(dir) => Engine::open(&dir, EngineOptions { read_only: true, ..context.engine_options() }).await,
            Err(_) => return,
        },
    };
    let Ok(engine) = engine else { return };
    let catalog = engine.catalog();
    let unknown: Vec<&str> = named.iter().map(String::as_str).filter(|name| catalog.corpus(name).is_none()).collect();
    if !unknown.is_empty() {
        remark!("note: no corpus of this name is there yet: {}", unknown.join(", "));
    }
}

fn create(path: &std::path::Path, args: TokenCreateArgs) -> Result<()> {
    let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.' | '@');
    if args.name.is_empty() || args.name.len() > 63 || !args.name.chars().all(plain) || args.name == "anonymous" {
        let message = format!("token: '{}' cannot be a name", args.name);
        return Err(Failure::usage(message).hint("expected 1 to 63 letters, digits, '-', '_', '.' or '@'"));
    }
    let expires = args.days.map(|days| Utc::now() + Duration::days(i64::from(days)));
    let corpora = (!args.corpus.is_empty()).then(|| args.corpus.iter().cloned().collect::<BTreeSet<_>>());
    let (entry, token) = TokenEntry::make(&args.name, args.scope, corpora, expires)?;
    TokenFile::change(path, |file| {
        if file.tokens.iter().any(|entry| entry.name == args.name) {
            let message = format!("token: there is one with the name '{}' already", args.name);
            return Err(Failure::new(ErrorKind::Exists, message).hint("choose another name, or revoke that one first"));
        }
        file.tokens.push(entry);
        file.tokens.sort_by(|a, b| a.name.cmp(&b.name));
        Ok(())
    })?;
    say!("{token}")?;
    remark!(
        "token '{}' made; it is shown this once. HTTP: `Authorization: Bearer TOKEN`; PostgreSQL: user {}, the token as \
         password",
        args.name,
        args.name
    );
    Ok(())
}

fn batch(file: &TokenFile) -> Result<RecordBatch> {
    let texts = |of: &dyn Fn(&TokenEntry) -> Option<String>| -> ArrayRef {
        Arc::new(file.tokens.iter().map(of).collect::<StringArray>())
    };
    let scope = |entry: &TokenEntry| serde_json::to_value(entry.scope).ok()?.as_str().map(str::to_owned);
    let corpora = |entry: &TokenEntry| {
        let named = entry.corpora.as_ref().map(|corpora| corpora.iter().cloned().collect::<Vec<_>>().join(", "));
        Some(named.unwrap_or_else(|| "all".to_owned()))
    };
    Ok(RecordBatch::try_from_iter_with_nullable([
        ("name", texts(&|entry| Some(entry.name.clone())), false),
        ("scope", texts(&scope), true),
        ("corpora", texts(&corpora), true),
        ("created", texts(&|entry| Some(entry.created.format("%Y-%m-%d %H:%M:%S").to_string())), true),
        ("expires", texts(&|entry| Some(entry.expires?.format("%Y-%m-%d %H:%M:%S").to_string())), true),
    ])?)
}
