//! Who runs a statement, and what it may see and do: the one place where access is decided.
//!
//! A corpus that a caller may not read does not exist for it: it is left out of the [picture](crate::picture) that tables,
//! functions and system tables share, so that no way around one of them leads to it.

use std::collections::BTreeSet;
use std::fmt;
use std::sync::Arc;

use datafusion::error::Result as DFResult;
use datafusion::prelude::SessionContext;

use crate::error::{Error, ErrorKind, Result};
use crate::statements::Statement;

/// Adds what one door needs to the session of each of its statements: schemas, functions, settings.
pub trait SessionExtension: fmt::Debug + Send + Sync {
    /// Called once a statement, before it is planned. Schemas are added with
    /// [`register_schema`](datafusion::catalog::CatalogProvider::register_schema) of the session's only catalog.
    ///
    /// # Errors
    /// What registering gives.
    fn extend(&self, session: &SessionContext) -> DFResult<()>;
}

/// Who runs a statement. The default may do everything that the engine's options allow.
#[derive(Debug, Clone)]
pub struct Caller {
    /// Name, shown in `saequel.queries`; empty for whoever holds the program.
    pub name: String,
    /// Corpora that exist for this caller; `None`: all.
    pub readable: Option<Arc<BTreeSet<String>>>,
    /// Corpora that it may make, fill, shorten and drop; `None`: all. What belongs to no corpus (concepts, labels) is
    /// written by those alone who may write all.
    pub writable: Option<Arc<BTreeSet<String>>>,
    /// Why it writes nothing, whatever its token may do; `None`: `writable` alone decides.
    pub only_reads: Option<&'static str>,
    /// Whether statements may read files of [`crate::EngineOptions::allowed_dirs`].
    pub files: bool,
    /// Whether `saequel.queries` shows what others asked.
    pub sees_all_queries: bool,
    /// Memory that one statement may hold, in bytes; `None`: as much as is left of the engine's.
    pub memory_limit_bytes: Option<usize>,
    /// Name under which the schema `main` is shown (`public` for PostgreSQL's clients); both are understood.
    pub main_schema: &'static str,
    /// What the door calls the statement, so that it has one id; `None`: it is counted.
    pub query_id: Option<String>,
    /// What the door adds.
    pub extension: Option<Arc<dyn SessionExtension>>,
}

impl Default for Caller {
    fn default() -> Self {
        Self {
            name: String::new(),
            readable: None,
            writable: None,
            only_reads: None,
            files: true,
            sees_all_queries: true,
            memory_limit_bytes: None,
            main_schema: crate::namespace::MAIN,
            query_id: None,
            extension: None,
        }
    }
}

impl Caller {
    /// Whether this corpus exists for the caller.
    pub fn reads(&self, corpus: &str) -> bool {
        self.readable.as_ref().is_none_or(|readable| readable.contains(corpus))
    }

    /// Whether the caller may change this corpus, or make it.
    pub fn writes(&self, corpus: &str) -> bool {
        self.writable.as_ref().is_none_or(|writable| writable.contains(corpus))
    }

    /// Refuses a statement that the caller may not run, before anything is looked up.
    ///
    /// # Errors
    /// [`ErrorKind::Denied`] with the corpus or the statement's name.
    pub(crate) fn check(&self, statement: &Statement) -> Result<()> {
        let name = statement.name();
        let corpus = match statement {
            Statement::Query(_) | Statement::DescribeFeature { .. } | Statement::Describe { .. } => return Ok(()),
            Statement::Import(import) => Some(&import.corpus),
            Statement::Delete { corpus, .. }
            | Statement::Compact { corpus, .. }
            | Statement::AlterCorpus { corpus, .. } => Some(corpus),
            Statement::DropCorpus { name, .. } => Some(name),
            Statement::CreateConcept { .. }
            | Statement::DropConcept { .. }
            | Statement::DropDictionary { .. }
            | Statement::RenameFeature { .. } => None,
        };
        if let Some(why) = self.only_reads {
            return Err(Error::new(ErrorKind::Denied, format!("{name}: {why}")));
        }
        if matches!(statement, Statement::Import(_)) && !self.files {
            return Err(Error::new(ErrorKind::Denied, format!("{name}: this token may read no file of the server")));
        }
        match corpus {
            Some(corpus) if !self.writes(corpus) => {
                Err(Error::new(ErrorKind::Denied, format!("{name}: this token may not write corpus '{corpus}'")))
            }
            None if self.writable.is_some() => Err(Error::new(
                ErrorKind::Denied,
                format!(
                    "{name}: concepts and labels belong to the whole database; this token may write some corpora only"
                ),
            )),
            _ => Ok(()),
        }
    }
}
