//! The folder on opening: what it holds, making it, bringing it up to date; and the commit of a catalog change.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::sync::Arc;

use arrow::array::{ArrayRef, RecordBatch, StringArray};
use async_trait::async_trait;
use lance::Dataset;
use saequel_migrations::{CURRENT_VERSION, CatalogTables, Judgement};

use super::catalog::{NewDictionary, add_dictionary};
use super::errors::lance_error;
use super::lock::WriteLock;
use super::state::{State, TABLES};
use super::table::{TableDir, batch};
use crate::catalog::Catalog;
use crate::error::{Error, ErrorKind, Result, io_error};
use crate::sae::Sae;

/// What belongs into a database folder.
const ENTRIES: [&str; 8] = ["catalog", "corpora", "words", "saes", "cache", "tmp", "lock", "tokens.json"];
/// Generations between two removals of old versions of the catalog tables.
const FORGET_EVERY: u64 = 32;
/// How long versions of the catalog tables are kept. Readers hold a picture for moments only; an hour is ample.
const KEEP: chrono::TimeDelta = chrono::TimeDelta::hours(1);

/// The catalog at one generation.
#[derive(Clone)]
pub(super) struct Picture {
    meta: BTreeMap<String, String>,
    meta_table: Dataset,
    pub(super) state: Arc<State>,
    pub(super) catalog: Arc<Catalog>,
}

impl Picture {
    /// Number of the change that made it.
    pub(super) fn generation(&self) -> u64 {
        self.meta.get("generation").and_then(|text| text.parse().ok()).unwrap_or(0)
    }

    /// Version of the layout on disk.
    pub(super) fn schema_version(&self) -> u32 {
        schema_version(&self.meta).unwrap_or(0)
    }

    /// Whether another process has changed the catalog since.
    pub(super) async fn is_stale(&self) -> Result<bool> {
        let newest = self.meta_table.latest_version_id().await;
        let newest = newest.map_err(|error| lance_error("reading the catalog", &error))?;
        Ok(newest != self.meta_table.version_id())
    }

    /// `before` lends what did not change.
    fn new(meta: BTreeMap<String, String>, meta_table: Dataset, state: State, before: Option<&Self>) -> Self {
        let same = |table: &&str| {
            before.is_some_and(|before| table_version(&before.meta, table) == table_version(&meta, table))
        };
        let (features, feature_details) = match before.filter(|_| ["saes", "features", "concepts"].iter().all(same)) {
            Some(before) => (before.catalog.features.clone(), before.catalog.feature_details.clone()),
            None => {
                let (features, details) = state.feature_catalog();
                (Arc::new(features), Arc::new(details))
            }
        };
        let catalog = Catalog {
            corpora: Vec::new(),
            readers: state.readers.clone(),
            features,
            feature_details,
            jobs: state.jobs.clone(),
        };
        Self { meta, meta_table, state: Arc::new(state), catalog: Arc::new(catalog) }
    }

    /// Removes versions of the catalog's tables that are older than `keep` and that this picture, the newest, has left
    /// behind.
    pub(super) async fn forget_versions(&self, tables: &TableDir, keep: chrono::TimeDelta) {
        let named = TABLES.iter().filter_map(|name| Some((*name, table_version(&self.meta, name)?)));
        for (name, version) in named.chain([("meta", self.meta_table.version_id())]) {
            if let Err(error) = tables.forget_versions(name, version, keep).await {
                tracing::debug!("old versions of the catalog stay for now: {error}");
            }
        }
    }
}

/// The version of a table that `meta` names.
fn table_version(meta: &BTreeMap<String, String>, table: &str) -> Option<u64> {
    meta.get(&format!("table:{table}"))?.parse().ok()
}

/// Opens the folder or makes it.
pub(super) async fn open(
    dir: &Path,
    read_only: bool,
    tables: &TableDir,
    lock: &WriteLock,
    defaults: impl FnOnce() -> Result<Vec<Sae>>,
) -> Result<Picture> {
    if !tables.has("meta") {
        // A folder that may not be looked into looks as if it were empty.
        for folder in [dir.to_owned(), dir.join("catalog"), tables.path("meta").join("_versions")] {
            if let Err(error) = fs::read_dir(&folder)
                && error.kind() == std::io::ErrorKind::PermissionDenied
            {
                return Err(io_error("the database cannot be read", &folder, error));
            }
        }
        refuse_other_content(dir)?;
        if read_only {
            let message = format!(
                "there is no saequel database at {}; make one by importing a file, or name another folder with --db",
                dir.display()
            );
            return Err(Error::new(ErrorKind::NotFound, message));
        }
        create(dir, tables, lock, defaults).await?;
    }
    let meta = read_meta(dir, tables).await?.0;
    let version = schema_version(&meta)?;
    let written_by = meta.get("written_by").map_or("unknown", String::as_str);
    match saequel_migrations::judge(version, written_by).map_err(|error| refused(dir, error))? {
        Judgement::Current => {}
        Judgement::NeedsUpgrade if read_only => {
            let message = format!(
                "the database {} has the older layout version {version} and is open read-only: open it once for \
                 writing (any command that writes, such as compact) to bring it to version {CURRENT_VERSION}",
                dir.display()
            );
            return Err(Error::new(ErrorKind::Denied, message));
        }
        Judgement::NeedsUpgrade => upgrade(dir, tables, lock).await?,
    }
    load(dir, tables, None).await
}

fn refused(dir: &Path, error: saequel_migrations::MigrationError) -> Error {
    Error::new(ErrorKind::Corrupt, format!("cannot open {}", dir.display())).with_source(error)
}

fn schema_version(meta: &BTreeMap<String, String>) -> Result<u32> {
    let text = meta.get("schema_version").map_or("missing", String::as_str);
    text.parse().map_err(|_| {
        let message = format!("catalog table 'meta': schema_version is '{text}', expected a number; restore a backup");
        Error::new(ErrorKind::Corrupt, message)
    })
}

/// A folder that holds other things is not ours to write into.
fn refuse_other_content(dir: &Path) -> Result<()> {
    if dir.is_file() {
        let message = format!("{} is a file; a saequel database is a folder: name another place", dir.display());
        return Err(Error::new(ErrorKind::Corrupt, message));
    }
    let Ok(entries) = fs::read_dir(dir) else { return Ok(()) };
    for entry in entries {
        let entry = entry.map_err(|error| io_error("reading", dir, error))?;
        let name = entry.file_name();
        if !ENTRIES.iter().any(|ours| name == *ours) {
            let message = format!(
                "{} holds no saequel database but other things ('{}', ...): name another folder with --db",
                dir.display(),
                name.display()
            );
            return Err(Error::new(ErrorKind::Corrupt, message));
        }
    }
    // Datasets without a catalog are not an unfinished creation but the rest of a database.
    if fs::read_dir(dir.join("corpora")).is_ok_and(|mut entries| entries.next().is_some()) {
        let message = format!("{} has lost its catalog (catalog/meta.lance): restore it from a backup", dir.display());
        return Err(Error::new(ErrorKind::Corrupt, message));
    }
    Ok(())
}

async fn create(
    dir: &Path,
    tables: &TableDir,
    lock: &WriteLock,
    defaults: impl FnOnce() -> Result<Vec<Sae>>,
) -> Result<()> {
    for folder in ["catalog", "corpora", "words", "saes"] {
        let folder = dir.join(folder);
        fs::create_dir_all(&folder).map_err(|error| io_error("cannot make the database folder", &folder, error))?;
    }
    let _guard = lock.acquire("making the database").await?;
    if tables.has("meta") {
        return Ok(()); // Another process made it while we waited.
    }
    let mut state = State::default();
    for sae in defaults()? {
        add_dictionary(dir, &mut state, &NewDictionary::of(&sae))?;
    }
    commit(tables, BTreeMap::new(), &state, &TABLES).await.map(drop)
}

/// Reads the catalog as the newest `meta` describes it; only those tables that changed since `before`.
pub(super) async fn load(dir: &Path, tables: &TableDir, before: Option<&Picture>) -> Result<Picture> {
    let (meta, meta_table) = read_meta(dir, tables).await?;
    let written_by = meta.get("written_by").map_or("unknown", String::as_str);
    saequel_migrations::judge(schema_version(&meta)?, written_by).map_err(|error| refused(dir, error))?;
    let mut state = before.map(|before| (*before.state).clone()).unwrap_or_default();
    for name in TABLES {
        let version = table_version(&meta, name);
        if version.is_some() && before.is_some_and(|before| table_version(&before.meta, name) == version) {
            continue;
        }
        let table = match version {
            Some(version) => tables.read(name, Some(version)).await?,
            None => None,
        };
        let table = table.ok_or_else(|| {
            let message = format!("catalog table '{name}' of {} is missing: restore it from a backup", dir.display());
            Error::new(ErrorKind::Corrupt, message)
        })?;
        state.take_table(name, &table)?;
    }
    state.take_chats(&meta)?;
    Ok(Picture::new(meta, meta_table, state, before))
}

async fn read_meta(dir: &Path, tables: &TableDir) -> Result<Meta> {
    let lost = || Error::new(ErrorKind::Corrupt, format!("{} has no catalog/meta.lance", dir.display()));
    let dataset = tables.open("meta", None).await?.ok_or_else(lost)?;
    let table = tables.read("meta", Some(dataset.version_id())).await?.ok_or_else(lost)?;
    let (keys, values) = (table.strings("key")?, table.strings("value")?);
    let meta = keys.iter().zip(values).filter_map(|(key, value)| Some((key?.to_owned(), value?.to_owned()))).collect();
    Ok((meta, dataset))
}

/// What `meta` holds, and the table itself.
type Meta = (BTreeMap<String, String>, Dataset);

/// Writes the tables `changed` of `state`, then `meta`: the commit of the change. The caller holds the lock.
async fn commit(
    tables: &TableDir,
    mut meta: BTreeMap<String, String>,
    state: &State,
    changed: &[&str],
) -> Result<Meta> {
    for name in changed {
        let written = tables.write(name, state.to_batch(name)?).await?;
        meta.insert(format!("table:{name}"), written.version_id().to_string());
    }
    state.put_chats(&mut meta);
    commit_meta(tables, meta).await
}

async fn commit_meta(tables: &TableDir, mut meta: BTreeMap<String, String>) -> Result<Meta> {
    let generation = meta.get("generation").and_then(|text| text.parse::<u64>().ok()).unwrap_or(0) + 1;
    meta.insert("generation".to_owned(), generation.to_string());
    meta.insert("schema_version".to_owned(), CURRENT_VERSION.to_string());
    meta.insert("written_by".to_owned(), format!("saequel {}", env!("CARGO_PKG_VERSION")));
    let keys: ArrayRef = Arc::new(StringArray::from_iter_values(meta.keys()));
    let values: ArrayRef = Arc::new(StringArray::from_iter_values(meta.values()));
    let written = tables.write("meta", batch(vec![("key", keys), ("value", values)])?).await?;
    Ok((meta, written))
}

/// Commits a change of `picture` to `state` and returns the new one. The caller holds the lock.
pub(super) async fn change(tables: &TableDir, picture: &Picture, state: State, changed: &[&str]) -> Result<Picture> {
    let (meta, meta_table) = commit(tables, picture.meta.clone(), &state, changed).await?;
    let newer = Picture::new(meta, meta_table, state, Some(picture));
    if newer.generation().is_multiple_of(FORGET_EVERY) {
        newer.forget_versions(tables, KEEP).await;
    }
    Ok(newer)
}

async fn upgrade(dir: &Path, tables: &TableDir, lock: &WriteLock) -> Result<()> {
    let _guard = lock.acquire("upgrading the database").await?;
    let (meta, _) = read_meta(dir, tables).await?;
    let from = schema_version(&meta)?;
    let written_by = meta.get("written_by").cloned().unwrap_or_default();
    let mut staged = Staged { tables: tables.clone(), meta };
    saequel_migrations::upgrade(from, &written_by, &mut staged).await.map_err(|error| refused(dir, error))?;
    commit_meta(tables, staged.meta).await.map(drop)
}

/// Catalog tables during an upgrade: new versions are written and noted, and show when `meta` is committed.
struct Staged {
    tables: TableDir,
    meta: BTreeMap<String, String>,
}

#[async_trait]
impl CatalogTables for Staged {
    async fn read(&mut self, table: &str) -> Result<Option<RecordBatch>, Box<dyn std::error::Error + Send + Sync>> {
        match self.meta.get(&format!("table:{table}")) {
            Some(version) => Ok(self.tables.read(table, Some(version.parse()?)).await?.map(|table| table.batch)),
            None => Ok(None),
        }
    }

    async fn write(&mut self, table: &str, rows: RecordBatch) -> Result<(), Box<dyn std::error::Error + Send + Sync>> {
        let written = self.tables.write(table, rows).await?;
        self.meta.insert(format!("table:{table}"), written.version_id().to_string());
        Ok(())
    }
}
