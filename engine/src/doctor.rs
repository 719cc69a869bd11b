//! [`Engine::doctor`]: looks at every part of a database that can be wrong, and says what can be done.

use std::path::Path;

use futures::future::BoxFuture;

use crate::catalog::Check;
use crate::engine::Engine;
use crate::error::{Error, Result};
use crate::schema;
use crate::store::{AsOf, Snapshot, folder_sha256};
use crate::words::Words;

/// Free space below which an import is likely to fail, bytes.
const LITTLE_SPACE: u64 = 1 << 30;

/// Collects checks.
#[derive(Default)]
struct Checks(Vec<Check>);

impl Checks {
    /// Notes a check: what was found, or what is wrong with the way out.
    fn note(&mut self, name: impl Into<String>, found: Result<String, String>) {
        let (ok, detail) = match found {
            Ok(detail) => (true, detail),
            Err(detail) => (false, detail),
        };
        self.0.push(Check { name: name.into(), ok, detail });
    }
}

impl Engine {
    /// Looks at everything that can go wrong: folder, catalog, datasets, indexes, weights, disk space. Every stored value
    /// of every corpus is read once.
    ///
    /// # Errors
    /// Only if the checks themselves cannot run.
    pub fn doctor(&self) -> BoxFuture<'_, Result<Vec<Check>>> {
        Box::pin(async move {
            let mut checks = Checks::default();
            let store = &self.inner.store;
            checks.note("folder", folder(store.dir()));
            if !store.read_only() {
                let probe = tempfile::NamedTempFile::new_in(store.dir());
                let writable = probe.map(|_| "can be written".to_owned());
                checks.note(
                    "write access",
                    writable
                        .map_err(|error| format!("nothing can be written here: {error}; check permissions and space")),
                );
            }
            checks.note(
                "writer",
                Ok(store.writer().map_or_else(|| "nobody writes now".to_owned(), |who| format!("at work now: {who}"))),
            );
            let refreshed = store.refresh().await;
            let catalog = store.catalog();
            checks.note(
                "catalog",
                refreshed.map_err(|error| error.to_string()).map(|()| {
                    format!(
                        "layout version {}, {} corpora, {} dictionaries, {} features, {} concepts",
                        store.schema_version(),
                        catalog.corpora.len(),
                        catalog.features.dictionaries().len(),
                        catalog.features.features().len(),
                        catalog.features.concepts().len()
                    )
                }),
            );
            for dictionary in catalog.features.dictionaries() {
                let found = match store.sae_sha256(&dictionary.name) {
                    None => Ok("features only, computed elsewhere; texts cannot be encoded with it".to_owned()),
                    Some(expected) => weights(&store.sae_dir(&dictionary.name), &expected),
                };
                checks.note(format!("dictionary {}", dictionary.name), found);
            }
            for corpus in &catalog.corpora {
                let name = &corpus.name;
                let snapshot = match store.snapshot(name, AsOf::Latest).await {
                    Ok(snapshot) => snapshot,
                    Err(error) => {
                        checks.note(
                            format!("corpus {name}"),
                            Err(format!("{error}; restore it from a backup, or drop it")),
                        );
                        continue;
                    }
                };
                match examine(&snapshot).await {
                    Ok((n_documents, detail)) => {
                        checks.note(format!("corpus {name}"), detail);
                        let words = words(&store.words_dir(name), n_documents, snapshot.version());
                        checks.note(format!("words of {name}"), words);
                    }
                    Err(error) => {
                        let way_out = "restore it from a backup, or read an earlier version of it with AS OF";
                        checks.note(format!("corpus {name}"), Err(format!("{error}; {way_out}")));
                    }
                }
                checks.note(format!("indexes of {name}"), indexes(&snapshot).await);
            }
            Ok(checks.0)
        })
    }
}

fn folder(dir: &Path) -> Result<String, String> {
    let space = fs4::available_space(dir).map_err(|error| format!("{}: {error}", dir.display()))?;
    let shown = format!("{}, {:.1} GiB free on its disk", dir.display(), space as f64 / (1_u64 << 30) as f64);
    if space < LITTLE_SPACE { Err(format!("{shown}: too little to import much; free some space")) } else { Ok(shown) }
}

fn weights(dir: &Path, expected: &str) -> Result<String, String> {
    match folder_sha256(dir) {
        Ok(found) if found == expected => Ok(format!("weights are intact (SHA-256 {}...)", &expected[..12])),
        Ok(found) => Err(format!(
            "the weights in {} are damaged: SHA-256 {found}, expected {expected}; put the files of a backup there",
            dir.display()
        )),
        Err(error) => Err(format!("{error}; put the files of a backup into {}", dir.display())),
    }
}

/// Reads every value; returns the documents, and what was found.
async fn examine(snapshot: &Snapshot) -> Result<(u64, Result<String, String>)> {
    let columns: Vec<String> = snapshot.schema().fields().iter().map(|field| field.name().clone()).collect();
    let lists: Vec<(String, String)> = snapshot
        .info
        .dictionaries
        .iter()
        .map(|dictionary| (schema::ids_column(dictionary), schema::activations_column(dictionary)))
        .collect();
    let (mut n, mut unread, mut unequal) = (0_u64, 0_usize, 0_usize);
    snapshot
        .read(&columns, &[], |batch| {
            use arrow::array::{Array, AsArray};
            n += batch.num_rows() as u64;
            if let Some(errors) = batch.column_by_name(schema::ERROR) {
                unread += errors.len() - errors.null_count();
            }
            for (ids, activations) in &lists {
                let list =
                    |name: &str| batch.column_by_name(name).and_then(|column| column.as_list_opt::<i32>().cloned());
                if let (Some(ids), Some(activations)) = (list(ids), list(activations)) {
                    unequal +=
                        (0..ids.len()).filter(|row| ids.value_length(*row) != activations.value_length(*row)).count();
                }
            }
            Ok(())
        })
        .await?;
    let counted = snapshot.count().await?;
    if n != counted {
        return Ok((n, Err(format!("{counted} documents by its own count, {n} when read; restore it from a backup"))));
    }
    if unequal > 0 {
        let message =
            format!("{unequal} documents have another number of activations than of features; import them again");
        return Ok((n, Err(message)));
    }
    let mut detail = format!("{n} documents, all readable, version {}", snapshot.version());
    if unread > 0 {
        detail.push_str(&format!(", {unread} of them could not be encoded (see their _error)"));
    }
    Ok((n, Ok(detail)))
}

fn words(dir: &Path, n_documents: u64, version: u64) -> Result<String, String> {
    let way_out = "the next import, delete or compact of the corpus mends it";
    let shown = |error: Error| format!("{error}; {way_out}");
    match Words::open(dir).map_err(shown)? {
        None if n_documents == 0 => Ok("no index, no documents".to_owned()),
        None => Err(format!("there is no index; {way_out}")),
        Some(words) => {
            let count = words.count().map_err(shown)?;
            let covers = words.covers().map_err(shown)?;
            if count == n_documents {
                Ok(format!("{count} documents, as of version {covers} of {version}"))
            } else {
                Err(format!("{count} documents, the corpus has {n_documents}; {way_out}"))
            }
        }
    }
}

async fn indexes(snapshot: &Snapshot) -> Result<String, String> {
    let states = snapshot.indexes().await.map_err(|error| error.to_string())?;
    let mut shown = Vec::new();
    for state in states {
        match state.covered {
            _ if state.fragments == 0 => shown.push(format!("{}: no documents yet", state.column)),
            None => {
                return Err(format!(
                    "column {} has no {} index: compact the corpus to build it",
                    state.column, state.kind
                ));
            }
            Some(covered) => {
                shown.push(format!("{} ({}) {covered} of {} fragments", state.column, state.kind, state.fragments))
            }
        }
    }
    Ok(shown.join(", "))
}
