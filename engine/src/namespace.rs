//! Which names a query can use after `FROM`: schema `main` with corpora, their `_activations` and files, schema `stored` with
//! the datasets as they are stored, schema `saequel` with what the database knows of itself.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use async_trait::async_trait;
use datafusion::catalog::{
    CatalogProvider, CatalogProviderList, MemoryCatalogProviderList, SchemaProvider, Session, TableProvider,
};
use datafusion::error::Result;
use datafusion::prelude::SessionContext;

use crate::activations::ActivationsTable;
use crate::error::{Error, ErrorKind};
use crate::files;
use crate::picture::Picture;
use crate::statements::rewrite::VersionedName;
use crate::system_tables;
use crate::table_provider::{CorpusView, StoredTable};

/// Name of the only catalog.
pub(crate) const CATALOG: &str = "saequel";
/// Schema that unqualified names are looked up in.
pub(crate) const MAIN: &str = "main";
/// Schema of the datasets as they are stored.
pub(crate) const STORED: &str = "stored";
/// Schema of what the database knows of itself.
pub(crate) const SYSTEM: &str = "saequel";
/// A corpus's long view is called like the corpus with this after it.
pub(crate) const ACTIVATIONS_SUFFIX: &str = "_activations";

/// Who looks: a person's query, or the query for a set of documents, which also sees what functions need.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Viewer {
    /// A statement.
    Person,
    /// [`saequel_udfs::FeatureSource::documents`].
    Function,
}

/// The catalog list of one statement.
pub(crate) fn catalog_list(picture: &Arc<Picture>, viewer: Viewer) -> Arc<dyn CatalogProviderList> {
    let list = MemoryCatalogProviderList::new();
    list.register_catalog(
        CATALOG.to_owned(),
        Arc::new(Database { picture: Arc::clone(picture), viewer, added: Mutex::default() }),
    );
    Arc::new(list)
}

#[derive(Debug)]
struct Database {
    picture: Arc<Picture>,
    viewer: Viewer,
    /// What a door added, by name.
    added: Mutex<BTreeMap<String, Arc<dyn SchemaProvider>>>,
}

impl Database {
    fn added(&self) -> MutexGuard<'_, BTreeMap<String, Arc<dyn SchemaProvider>>> {
        self.added.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl CatalogProvider for Database {
    fn schema_names(&self) -> Vec<String> {
        let added = self.added();
        [self.picture.caller.main_schema, STORED, SYSTEM]
            .into_iter()
            .chain(added.keys().map(String::as_str))
            .map(str::to_owned)
            .collect()
    }

    fn schema(&self, name: &str) -> Option<Arc<dyn SchemaProvider>> {
        let picture = Arc::clone(&self.picture);
        match name {
            name if name == MAIN || name == self.picture.caller.main_schema => {
                Some(Arc::new(Main { picture, viewer: self.viewer }))
            }
            STORED => Some(Arc::new(Stored { picture })),
            SYSTEM => Some(Arc::new(System { picture })),
            _ => self.added().get(name).cloned(),
        }
    }

    fn register_schema(&self, name: &str, schema: Arc<dyn SchemaProvider>) -> Result<Option<Arc<dyn SchemaProvider>>> {
        Ok(self.added().insert(name.to_owned(), schema))
    }
}

/// Corpora whose columns can be told.
fn intact(picture: &Picture) -> impl Iterator<Item = &str> {
    picture.corpora().filter(|name| picture.catalog.corpus(name).is_none_or(|corpus| corpus.intact))
}

#[derive(Debug)]
struct Main {
    picture: Arc<Picture>,
    viewer: Viewer,
}

#[async_trait]
impl SchemaProvider for Main {
    fn table_names(&self) -> Vec<String> {
        intact(&self.picture).flat_map(|name| [name.to_owned(), format!("{name}{ACTIVATIONS_SUFFIX}")]).collect()
    }

    async fn table(&self, name: &str) -> Result<Option<Arc<dyn TableProvider>>> {
        let VersionedName { name: plain, as_of } = VersionedName::parse(name)?;
        if self.picture.corpus(&plain).is_some() {
            let snapshot = self.picture.snapshot(&plain, as_of).await?;
            return Ok(Some(Arc::new(CorpusView::try_new(name, snapshot, self.viewer)?)));
        }
        if let Some(corpus) = plain.strip_suffix(ACTIVATIONS_SUFFIX)
            && self.picture.corpus(corpus).is_some()
        {
            let snapshot = self.picture.snapshot(corpus, as_of).await?;
            let features = Arc::clone(&self.picture.catalog.features);
            return Ok(Some(Arc::new(ActivationsTable::new(corpus, snapshot, features))));
        }
        if files::is_file_name(name) {
            if !self.picture.caller.files {
                let message = format!("'{name}': this token may read no file of the server");
                return Err(Error::new(ErrorKind::Denied, message).into());
            }
            let options = self.picture.engine.options();
            let state = SessionContext::new_with_config_rt(
                crate::session::config(&self.picture.engine),
                self.picture.engine.inner.sql.runtime(&self.picture.engine)?,
            )
            .state();
            return files::table(name, options, self.picture.engine.dir(), &state as &dyn Session).await.map(Some);
        }
        Ok(None)
    }

    fn table_exist(&self, name: &str) -> bool {
        let Ok(VersionedName { name, .. }) = VersionedName::parse(name) else { return false };
        let corpus = name.strip_suffix(ACTIVATIONS_SUFFIX).unwrap_or(&name);
        self.picture.corpus(&name).is_some() || self.picture.corpus(corpus).is_some()
    }
}

#[derive(Debug)]
struct Stored {
    picture: Arc<Picture>,
}

#[async_trait]
impl SchemaProvider for Stored {
    fn table_names(&self) -> Vec<String> {
        intact(&self.picture).map(str::to_owned).collect()
    }

    async fn table(&self, name: &str) -> Result<Option<Arc<dyn TableProvider>>> {
        let VersionedName { name, as_of } = VersionedName::parse(name)?;
        if self.picture.corpus(&name).is_none() {
            return Ok(None);
        }
        let snapshot = self.picture.snapshot(&name, as_of).await?;
        Ok(Some(Arc::new(StoredTable::new(snapshot))))
    }

    fn table_exist(&self, name: &str) -> bool {
        VersionedName::parse(name).is_ok_and(|versioned| self.picture.corpus(&versioned.name).is_some())
    }
}

#[derive(Debug)]
struct System {
    picture: Arc<Picture>,
}

#[async_trait]
impl SchemaProvider for System {
    fn table_names(&self) -> Vec<String> {
        system_tables::NAMES.map(str::to_owned).to_vec()
    }

    async fn table(&self, name: &str) -> Result<Option<Arc<dyn TableProvider>>> {
        system_tables::table(&self.picture, name).await
    }

    fn table_exist(&self, name: &str) -> bool {
        system_tables::NAMES.contains(&name)
    }
}
