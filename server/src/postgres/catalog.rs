//! What clients look for in PostgreSQL beside their queries: its catalog, its functions, its ways of writing SQL.
//!
//! Each statement has a session of its own, to which [`extension`] adds the schemas `pg_catalog` and `information_schema` and
//! some functions. They show what that session shows and nothing else: corpora that a token may not read are in none of
//! them. [`rewrite`] turns what only PostgreSQL understands into what the engine does.

mod columns;
mod functions;
mod information;
mod relations;
mod rewrite;
mod settings;
mod tables;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, OnceLock};

use datafusion::error::{DataFusionError, Result as DFResult};
use datafusion::execution::FunctionRegistry;
use datafusion::execution::SessionStateDefaults;
use datafusion::execution::session_state::SessionState;
use datafusion::prelude::SessionContext;
use saequel_engine::{SessionExtension, functions as documented};

use self::relations::{INFORMATION_SCHEMA, PG_CATALOG, Relations, oid};
pub(super) use self::rewrite::shown_name;
use super::settings::SessionSettings;
use crate::error::Failure;
use crate::gate::Gate;

/// What this door adds to the session of each statement of a connection.
pub(crate) fn extension(user: &str, gate: &Gate, settings: &Arc<SessionSettings>) -> Arc<dyn SessionExtension> {
    // The one database behind the gate has one name here, whatever a client calls it.
    let _ = gate;
    Arc::new(Extension { user: user.to_owned(), settings: Arc::clone(settings) })
}

/// Turns what only PostgreSQL understands into what the engine does. A statement without any of it comes back as it is.
///
/// # Errors
/// A statement that is too long. What cannot be read is left to the engine, whose message has line and column.
pub(crate) fn rewrite(sql: &str) -> Result<String, Failure> {
    // A deep tree must not overflow this thread's stack; the engine refuses it afterwards.
    let rewritten = saequel_engine::with_stack(sql.len(), || Ok(rewrite::rewrite(sql)))?;
    Ok(rewritten.unwrap_or_else(|| sql.to_owned()))
}

/// Numbers of the types of parameters that a statement names itself by a cast: `$1::oid[]`. The engine's planner does not
/// tell them.
pub(crate) fn parameter_types(sql: &str) -> BTreeMap<usize, u32> {
    rewrite::parameter_types(sql)
}

#[derive(Debug)]
struct Extension {
    user: String,
    settings: Arc<SessionSettings>,
}

impl SessionExtension for Extension {
    fn extend(&self, session: &SessionContext) -> DFResult<()> {
        let state = session.state_ref();
        let mut state = state.write();
        let known = known_functions(&state);
        let catalogs = Arc::clone(state.catalog_list());
        let name = state.config().options().catalog.default_catalog.clone();
        let Some(catalog) = catalogs.catalog(&name) else {
            return Err(DataFusionError::Internal(format!("no catalog {name}")));
        };
        // Ours has more columns than DataFusion's, which would be taken instead.
        state.config_mut().options_mut().catalog.information_schema = false;
        // `timestamptz` and `now()` have a zone, as clients expect: without it they would take the moment for local time.
        state.config_mut().options_mut().execution.time_zone = Some("UTC".to_owned());
        let zoned: Vec<_> = state
            .scalar_functions()
            .values()
            .filter_map(|function| function.inner().with_updated_config(state.config_options()))
            .collect();
        for function in zoned {
            state.register_udf(Arc::new(function))?;
        }
        let seen = Arc::new(State {
            user: self.user.clone(),
            settings: Arc::clone(&self.settings),
            relations: Relations::of(catalog.as_ref()),
            functions: known,
        });
        for function in functions::all(&seen) {
            state.register_udf(Arc::new(function))?;
        }
        state.register_udtf("pg_get_keywords", Arc::<_>::clone(&tables::fixed()?.keywords) as Arc<_>);
        drop(state);
        catalog.register_schema(PG_CATALOG, Arc::new(tables::PgCatalog(Arc::clone(&seen))))?;
        let information = information::InformationSchema { state: seen, catalogs: Arc::downgrade(&catalogs) };
        catalog.register_schema(INFORMATION_SCHEMA, Arc::new(information))?;
        Ok(())
    }
}

/// A function of saequel's.
#[derive(Debug)]
struct Function {
    oid: i32,
    name: String,
    /// `f`: of one row, `a`: of many, `t`: a table.
    kind: &'static str,
    description: Option<String>,
}

/// Functions that the engine has added to DataFusion's; the same in all sessions.
fn known_functions(state: &SessionState) -> &'static [Function] {
    static KNOWN: OnceLock<Vec<Function>> = OnceLock::new();
    KNOWN.get_or_init(|| {
        let mut foreign: BTreeSet<String> = BTreeSet::new();
        for function in SessionStateDefaults::default_scalar_functions() {
            foreign.insert(function.name().to_owned());
            foreign.extend(function.aliases().iter().cloned());
        }
        for function in SessionStateDefaults::default_aggregate_functions() {
            foreign.insert(function.name().to_owned());
            foreign.extend(function.aliases().iter().cloned());
        }
        let tables = SessionStateDefaults::default_table_functions();
        foreign.extend(tables.into_iter().map(|function| function.name().to_owned()));
        let scalars = state.scalar_functions().keys().map(|name| (name, "f"));
        let aggregates = state.aggregate_functions().keys().map(|name| (name, "a"));
        let tables = state.table_functions().keys().map(|name| (name, "t"));
        let mut known: Vec<Function> = scalars
            .chain(aggregates)
            .chain(tables)
            // Not meant to be called: it carries named arguments.
            .filter(|(name, _)| !foreign.contains(*name) && *name != "named_argument")
            .map(|(name, kind)| Function {
                oid: oid("function", &[name]),
                name: name.clone(),
                kind,
                description: documented::all().find(|doc| doc.name == *name).map(documented::FunctionDoc::summary),
            })
            .collect();
        known.sort_by(|a, b| a.name.cmp(&b.name));
        known
    })
}

/// What tables and functions of one session know.
#[derive(Debug)]
struct State {
    user: String,
    settings: Arc<SessionSettings>,
    relations: Relations,
    functions: &'static [Function],
}

impl State {
    /// How the client calls the database.
    fn database(&self) -> String {
        self.settings.get("database").filter(|name| !name.is_empty()).unwrap_or_else(|| "saequel".to_owned())
    }

    fn database_oid(&self) -> i32 {
        oid("database", &[&self.database()])
    }

    fn user_oid(&self) -> i32 {
        oid("role", &[&self.user])
    }

    fn pid(&self) -> i32 {
        self.settings.get("pg_backend_pid").and_then(|pid| pid.parse().ok()).unwrap_or(1)
    }
}
