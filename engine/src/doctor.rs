//! [`Engine::doctor`]: looks at every part of a database that can be wrong, and says what can be done.

use std::collections::BTreeMap;
use std::path::Path;

use arrow::array::{Array, ArrayRef, AsArray};
use arrow::datatypes::Float32Type;
use futures::future::BoxFuture;
use saequel_encoder::Sae;
use saequel_udfs::{Dictionary, Feature, FeatureCatalog};

use crate::catalog::Check;
use crate::engine::Engine;
use crate::error::{Error, ErrorKind, Result};
use crate::ingest::given::UNNAMED;
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
                let intact = found.is_ok();
                checks.note(format!("dictionary {}", dictionary.name), found);
                checks.note(format!("names of {}", dictionary.name), Ok(names(&catalog.features, dictionary)));
                if intact && let Ok(sae) = Sae::load(&store.sae_dir(&dictionary.name)) {
                    for (what, said) in [("sees", sae.sees()), ("misses", sae.misses())] {
                        if !said.is_empty() {
                            checks.note(format!("{} {what}", dictionary.name), Ok(said.to_owned()));
                        }
                    }
                }
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
                    Ok((n_documents, detail, fits)) => {
                        checks.note(format!("corpus {name}"), detail);
                        for fit in fits.iter().filter_map(Fit::shown) {
                            checks.note(format!("fit of {name}"), Ok(fit));
                        }
                        let words = match snapshot.info.text_columns.is_empty() {
                            true => Ok("no text, no words".to_owned()),
                            false => words(&store.words_dir(name), n_documents, snapshot.version()),
                        };
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

/// How many features users see, and where their names come from.
fn names(features: &FeatureCatalog, dictionary: &Dictionary) -> String {
    let ids = dictionary.first_id..dictionary.first_id + dictionary.width;
    let shown: Vec<&Feature> =
        features.features().iter().filter(|feature| ids.contains(&feature.id) && !feature.hidden).collect();
    let mut sources: BTreeMap<&str, usize> = BTreeMap::new();
    shown.iter().for_each(|feature| *sources.entry(&feature.label_source).or_default() += 1);
    let sources: Vec<String> = sources
        .into_iter()
        .map(|(source, n)| match source {
            "read" => format!("{n} by reading what they fire on"),
            "words" => format!("{n} from words, by a formula"),
            UNNAMED => format!("{n} by their number alone"),
            other => format!("{n} by '{other}'"),
        })
        .collect();
    let hidden = dictionary.width as usize - shown.len();
    format!("{} features are shown (named: {}), {hidden} are hidden as uninformative", shown.len(), sources.join(", "))
}

/// How much of a corpus one dictionary accounts for: sums over the documents that have a figure.
struct Fit {
    dictionary: String,
    fvu: Mean,
    explained: Mean,
}

#[derive(Default)]
struct Mean {
    sum: f64,
    n: usize,
}

impl Mean {
    fn add(&mut self, column: Option<&ArrayRef>) {
        let values = column.and_then(|column| column.as_primitive_opt::<Float32Type>());
        for value in values.into_iter().flatten().flatten() {
            self.sum += f64::from(value);
            self.n += 1;
        }
    }

    fn value(&self) -> Option<f64> {
        (self.n > 0).then(|| self.sum / self.n as f64)
    }
}

/// Above this a dictionary does not know the kind of text: twice what ours leave unexplained in English prose.
const HIGH_FVU: f64 = 0.4;

impl Fit {
    fn new(dictionary: &str) -> Self {
        Self { dictionary: dictionary.to_owned(), fvu: Mean::default(), explained: Mean::default() }
    }

    fn shown(&self) -> Option<String> {
        let (fvu, explained) = (self.fvu.value()?, self.explained.value()?);
        let mut shown = format!(
            "{} leaves {:.0} % of the reader's states unexplained (mean FVU), its stored features name {:.0} % of the text",
            self.dictionary,
            100.0 * fvu,
            100.0 * explained
        );
        if fvu > HIGH_FVU {
            shown.push_str(
                "; that is much: another language, code, tables? its features say little here; `saequel sae train` makes a \
                 dictionary for such texts",
            );
        }
        Some(shown)
    }
}

/// Reads every value; returns the documents, what was found, and how the dictionaries fit.
async fn examine(snapshot: &Snapshot) -> Result<(u64, Result<String, String>, Vec<Fit>)> {
    let columns: Vec<String> = snapshot.schema().fields().iter().map(|field| field.name().clone()).collect();
    let dictionaries = &snapshot.info.dictionaries;
    let mut fits: Vec<Fit> = dictionaries.iter().map(|name| Fit::new(name)).collect();
    let (mut n, mut unread, mut unequal, mut skipped) = (0_u64, 0_usize, 0_usize, 0_usize);
    snapshot
        .read(&columns, &[], |batch| {
            n += batch.num_rows() as u64;
            if let Some(errors) = batch.column_by_name(schema::ERROR) {
                unread += errors.len() - errors.null_count();
            }
            let column = |name: &str| batch.column_by_name(name);
            if let (Some(embeddings), Some(n_tokens)) = (column(schema::EMBEDDING), column(schema::N_TOKENS)) {
                let said = |row: usize| column(schema::ERROR).is_some_and(|errors| errors.is_valid(row));
                skipped += (0..batch.num_rows())
                    .filter(|row| embeddings.is_null(*row) && n_tokens.is_null(*row) && !said(*row))
                    .count();
            }
            for (dictionary, fit) in dictionaries.iter().zip(&mut fits) {
                let list = |name: &str| batch.column_by_name(name).and_then(|column| column.as_list_opt::<i32>());
                let lists = (list(&schema::ids_column(dictionary)), list(&schema::activations_column(dictionary)));
                if let (Some(ids), Some(activations)) = lists {
                    unequal +=
                        (0..ids.len()).filter(|row| ids.value_length(*row) != activations.value_length(*row)).count();
                }
                fit.fvu.add(batch.column_by_name(&schema::fvu_column(dictionary)));
                fit.explained.add(batch.column_by_name(&schema::explained_column(dictionary)));
            }
            Ok(())
        })
        .await?;
    let counted = snapshot.count().await?;
    // Only a dictionary that was encoded here has this column, and is encoded by adding it again.
    let read_by = dictionaries.iter().find(|name| columns.contains(&schema::fvu_column(name)));
    let found = if n != counted {
        Err(format!("{counted} documents by its own count, {n} when read; restore it from a backup"))
    } else if unequal > 0 {
        Err(format!("{unequal} documents have another number of activations than of features; import them again"))
    } else if let Some(dictionary) = read_by.filter(|_| skipped > 0) {
        Err(format!(
            "{skipped} documents were not read by its reader and have no embedding; read them: saequel sae add {} \
             {dictionary}",
            snapshot.info.name
        ))
    } else {
        let mut detail = format!("{n} documents, all readable, version {}", snapshot.version());
        if unread > 0 {
            detail.push_str(&format!(", {unread} of them could not be encoded (see their _error)"));
        }
        Ok(detail)
    };
    Ok((n, found, fits))
}

fn words(dir: &Path, n_documents: u64, version: u64) -> Result<String, String> {
    let way_out = "the next import, delete or compact of the corpus mends it";
    let shown = |error: Error| match error.kind() {
        ErrorKind::Denied => error.to_string(),
        _ => format!("{error}; {way_out}"),
    };
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
    let build = format!("build it anew: saequel compact {}", snapshot.info.name);
    snapshot.open_indexes().await.map_err(|error| format!("{error}; {build}"))?;
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
