//! One recipe for a SQL session: memory pool, functions, tables; and [`Engine::sql`], the one query path.
//!
//! Every statement gets a session of its own over one shared runtime (memory pool, spill folder), with one picture of the
//! catalog and one version of each corpus ([`Picture`]). Nothing that a statement sets outlives it.

use std::collections::BTreeSet;
use std::num::NonZeroUsize;
use std::path::{Path, PathBuf};
use std::sync::{Arc, OnceLock};
use std::time::{Duration, SystemTime};

use arrow::array::RecordBatch;
use arrow::datatypes::{DataType, SchemaRef};
use datafusion::common::ParamValues;
use datafusion::dataframe::DataFrame;
use datafusion::error::DataFusionError;
use datafusion::execution::context::SQLOptions;
use datafusion::execution::disk_manager::{DiskManagerBuilder, DiskManagerMode};
use datafusion::execution::memory_pool::{FairSpillPool, TrackConsumersPool};
use datafusion::execution::runtime_env::{RuntimeEnv, RuntimeEnvBuilder};
use datafusion::execution::session_state::SessionStateBuilder;
use datafusion::logical_expr::LogicalPlan;
use datafusion::physical_optimizer::optimizer::PhysicalOptimizer;
use datafusion::physical_plan::SendableRecordBatchStream;
use datafusion::prelude::{SessionConfig, SessionContext};
use datafusion::sql::parser::Statement as DFStatement;
use datafusion::sql::sqlparser::ast;
use futures::TryStreamExt;
use futures::future::BoxFuture;
use saequel_udfs::FeatureSource;
use tempfile::TempDir;

use crate::activation_filter::ActivationFilter;
use crate::caller::Caller;
use crate::engine::Engine;
use crate::error::{Error, ErrorKind, Result, did_you_mean, io_error, nearest};
use crate::feature_source::EngineSource;
use crate::label_embeddings::LabelCache;
use crate::named_files::NamedFiles;
use crate::namespace::{self, Viewer};
use crate::picture::Picture;
use crate::query_error::missing_table;
use crate::query_log::QueryLog;
use crate::statement_pool::StatementPool;
use crate::statements::walk::{Node, walk};
use crate::statements::{self, Statement};
use crate::table_provider::FeatureFields;
use crate::yielding_joins::YieldingJoins;

/// What the names of DataFusion's own spill folders begin with, and those of ours.
const SPILL_PREFIX: &str = "datafusion-";

/// What statements share for as long as the database is open.
#[derive(Debug, Default)]
pub(crate) struct SqlState {
    runtime: OnceLock<Arc<RuntimeEnv>>,
    pub(crate) queries: Arc<QueryLog>,
    pub(crate) labels: LabelCache,
}

impl SqlState {
    /// Memory pool and spill folder of all statements.
    ///
    /// # Errors
    /// [`ErrorKind::Io`] if the spill folder cannot be made.
    pub(crate) fn runtime(&self, engine: &Engine) -> Result<Arc<RuntimeEnv>> {
        if let Some(runtime) = self.runtime.get() {
            return Ok(Arc::clone(runtime));
        }
        let mode = match spill_root(engine)? {
            Some(folder) => {
                remove_stale_spills(&folder);
                DiskManagerMode::Directories(vec![folder])
            }
            None => DiskManagerMode::OsTmpDirectory,
        };
        // Consumers that can spill share the pool fairly; the largest ones are named when it is empty.
        let pool = FairSpillPool::new(engine.options().memory_limit_bytes);
        let runtime = RuntimeEnvBuilder::new()
            .with_memory_pool(Arc::new(TrackConsumersPool::new(pool, NonZeroUsize::MIN.saturating_add(2))))
            .with_disk_manager_builder(DiskManagerBuilder::default().with_mode(mode))
            .build_arc()?;
        Ok(Arc::clone(self.runtime.get_or_init(|| runtime)))
    }
}

/// A folder for what one statement keeps on disk, removed when it is dropped.
///
/// # Errors
/// [`ErrorKind::Io`].
pub(crate) fn spill_folder(engine: &Engine) -> Result<TempDir> {
    let root = spill_root(engine)?.unwrap_or_else(std::env::temp_dir);
    let made = tempfile::Builder::new().prefix(SPILL_PREFIX).tempdir_in(&root);
    made.map_err(|error| io_error("cannot make a folder", &root, error))
}

/// Where statements spill; `None` stands for the system's temporary folder, also where the database can only be read.
fn spill_root(engine: &Engine) -> Result<Option<PathBuf>> {
    use std::io::ErrorKind::{PermissionDenied, ReadOnlyFilesystem};
    if engine.options().read_only {
        return Ok(None);
    }
    let folder = engine.dir().join("tmp");
    let denied = |error: &std::io::Error| matches!(error.kind(), PermissionDenied | ReadOnlyFilesystem);
    match std::fs::create_dir_all(&folder) {
        Err(error) if denied(&error) => Ok(None),
        Err(error) => Err(io_error("cannot make the spill folder", &folder, error)),
        // It may be there and another's.
        Ok(()) if tempfile::tempfile_in(&folder).is_err_and(|error| denied(&error)) => Ok(None),
        Ok(()) => Ok(Some(folder)),
    }
}

/// Removes what killed processes spilled more than a day ago.
fn remove_stale_spills(folder: &Path) {
    let Ok(entries) = std::fs::read_dir(folder) else { return };
    let day = Duration::from_secs(24 * 3600);
    for entry in entries.flatten() {
        let old = entry
            .metadata()
            .and_then(|metadata| metadata.modified())
            .is_ok_and(|modified| SystemTime::now().duration_since(modified).is_ok_and(|age| age > day));
        if old && entry.file_name().to_string_lossy().starts_with(SPILL_PREFIX) {
            // Another process may have removed it first.
            let _ = std::fs::remove_dir_all(entry.path());
        }
    }
}

/// Settings of every session.
pub(crate) fn config(engine: &Engine) -> SessionConfig {
    let mut config = SessionConfig::new()
        .with_create_default_catalog_and_schema(false)
        .with_default_catalog_and_schema(namespace::CATALOG, namespace::MAIN)
        .with_information_schema(true)
        .with_target_partitions(engine.options().threads.max(1));
    let options = config.options_mut();
    options.sql_parser.collect_spans = true;
    // One string type everywhere: what is stored is Utf8, and clients know it.
    options.sql_parser.map_string_types_to_utf8view = false;
    options.execution.parquet.schema_force_view_types = false;
    config
}

/// A session that sees `picture`.
///
/// # Errors
/// As [`SqlState::runtime`].
pub(crate) fn session(picture: &Arc<Picture>, viewer: Viewer) -> Result<SessionContext> {
    let engine = &picture.engine;
    let mut config = config(engine);
    config.options_mut().catalog.default_schema = picture.caller.main_schema.to_owned();
    if viewer == Viewer::Function {
        // Sets of documents have an order that does not depend on threads; the scan below is parallel anyway.
        config = config.with_target_partitions(1);
    }
    let mut runtime = engine.inner.sql.runtime(engine)?;
    if let Some(limit) = picture.caller.memory_limit_bytes {
        let pool = StatementPool::new(Arc::clone(&runtime.memory_pool), engine.options().memory_limit_bytes, limit);
        runtime = RuntimeEnvBuilder::from_runtime_env(&runtime).with_memory_pool(Arc::new(pool)).build_arc()?;
    }
    let source: Arc<dyn FeatureSource> = Arc::new(EngineSource::new(Arc::clone(picture)));
    // To name one rule would leave out DataFusion's own.
    let mut rules = PhysicalOptimizer::new().rules;
    rules.push(Arc::new(YieldingJoins));
    rules.push(Arc::new(NamedFiles));
    let state = SessionStateBuilder::new()
        .with_config(config)
        .with_runtime_env(runtime)
        .with_default_features()
        .with_optimizer_rules(crate::outside_unions::rules())
        .with_physical_optimizer_rules(rules)
        .with_catalog_list(namespace::catalog_list(picture, viewer))
        .with_analyzer_rule(Arc::new(ActivationFilter::new(&source)))
        .with_optimizer_rule(Arc::new(FeatureFields))
        .build();
    let session = SessionContext::new_with_state(state);
    crate::bounded::register(&session);
    saequel_udfs::register_all(&session, &source)?;
    if viewer == Viewer::Person
        && let Some(extension) = &picture.caller.extension
    {
        extension.extend(&session)?;
    }
    Ok(session)
}

/// Plans a query of sqlparser's tree, which must only read.
///
/// # Errors
/// [`ErrorKind::Query`] or [`ErrorKind::NotFound`], the latter with the nearest name.
pub(crate) fn plan<'a>(
    picture: &'a Arc<Picture>,
    session: &'a SessionContext,
    statement: ast::Statement,
    parameters: &'a ParamValues,
) -> BoxFuture<'a, Result<DataFrame>> {
    Box::pin(async move {
        // What was written tells what an unknown name was meant for.
        let mut written = statement.clone();
        let mut hinted = |error: DataFusionError| with_hint(Error::from(error), picture, &mut written);
        let state = session.state();
        let mut plan =
            state.statement_to_plan(DFStatement::Statement(Box::new(statement))).await.map_err(&mut hinted)?;
        let n_given = match parameters {
            ParamValues::List(list) => list.len(),
            ParamValues::Map(map) => map.len(),
        };
        if n_given > 0 {
            plan = plan.with_param_values(parameters.clone()).map_err(hinted)?;
        } else if let Some(name) = plan.get_parameter_names().map_err(hinted)?.into_iter().min() {
            return Err(Error::new(ErrorKind::Query, format!("no value was given for parameter {name}")));
        }
        only_reads(&plan)?;
        Ok(DataFrame::new(state, plan))
    })
}

/// Refuses a plan that would change something.
fn only_reads(plan: &LogicalPlan) -> Result<()> {
    let options = SQLOptions::new().with_allow_ddl(false).with_allow_dml(false).with_allow_statements(false);
    options.verify_plan(plan).map_err(Error::from)
}

/// A parameter of a statement.
#[derive(Debug, Clone, PartialEq)]
pub struct Parameter {
    /// With its dollar sign: `$1`, `$name`.
    pub name: String,
    /// What the statement makes of it, where that can be told.
    pub data_type: Option<DataType>,
}

/// What a statement gives and takes.
#[derive(Debug, Clone)]
pub struct Described {
    /// Columns of the result; `None` if they depend on the value of a parameter (an argument of a table function).
    pub schema: Option<SchemaRef>,
    /// Numbered ones in order, then named ones.
    pub parameters: Vec<Parameter>,
    /// Whether the statement changes the database.
    pub writes: bool,
}

/// Names of the parameters of a statement, with their dollar signs.
fn placeholders(statement: &mut impl ast::VisitMut) -> Result<BTreeSet<String>> {
    let mut wanted = BTreeSet::new();
    walk(statement, &mut |node| {
        if let Node::Expr(ast::Expr::Value(value)) = node
            && let ast::Value::Placeholder(name) = &value.value
        {
            wanted.insert(name.clone());
        }
        Ok(())
    })?;
    Ok(wanted)
}

/// Only queries have parameters.
fn refuse_parameters(statement: &mut Statement, given: &ParamValues) -> Result<()> {
    let written = match statement {
        Statement::Delete { condition, .. } => !placeholders(condition.as_mut())?.is_empty(),
        _ => false,
    };
    let none = match given {
        ParamValues::List(values) => values.is_empty(),
        ParamValues::Map(values) => values.is_empty(),
    };
    if none && !written {
        return Ok(());
    }
    let message =
        format!("{}: parameters are not supported here; write the values into the statement", statement.name());
    Err(Error::new(ErrorKind::Query, message))
}

/// Compares the parameters of a statement with the values that were given.
///
/// # Errors
/// [`ErrorKind::Query`] for a parameter without a value, and for a value without a parameter.
fn check_parameters(statement: &mut ast::Statement, given: &ParamValues) -> Result<()> {
    let wanted = placeholders(statement)?;
    let given: BTreeSet<String> = match given {
        ParamValues::List(values) => (1..=values.len()).map(|n| format!("${n}")).collect(),
        ParamValues::Map(values) => values.keys().map(|name| format!("${name}")).collect(),
    };
    if let Some(name) = wanted.difference(&given).next() {
        return Err(Error::new(ErrorKind::Query, format!("no value was given for parameter {name}")));
    }
    match given.difference(&wanted).next() {
        Some(name) => Err(Error::new(ErrorKind::Query, format!("the statement has no parameter {name}"))),
        None => Ok(()),
    }
}

/// Adds what helps to an error about a name that does not exist in `statement`.
fn with_hint(error: Error, picture: &Picture, statement: &mut ast::Statement) -> Error {
    let hinted = match error.kind() {
        ErrorKind::NotFound => with_table_hint(error.message(), picture),
        ErrorKind::Query => with_text_hint(error.message(), statement),
        _ => None,
    };
    match hinted {
        Some(message) => Error::new(error.kind(), message),
        None => error,
    }
}

/// The message about a table that does not exist, with the nearest name.
fn with_table_hint(message: &str, picture: &Picture) -> Option<String> {
    let missing = message.find("table '").and_then(|start| missing_table(&message[start..]))?;
    // The schema that names without one are looked up in was added to what the user wrote.
    let name = missing.strip_prefix(picture.caller.main_schema).and_then(|rest| rest.strip_prefix('.'));
    let name = name.unwrap_or(missing);
    let message = message.replacen(&format!("table '{missing}'"), &format!("table '{name}'"), 1);
    let long: Vec<String> = picture.corpora().map(|name| format!("{name}{}", namespace::ACTIVATIONS_SUFFIX)).collect();
    let system: Vec<String> =
        crate::system_tables::NAMES.iter().map(|table| format!("{}.{table}", namespace::SYSTEM)).collect();
    let names = picture.corpora().chain(long.iter().map(String::as_str)).chain(system.iter().map(String::as_str));
    let names: Vec<&str> = names.collect();
    // Names are compared without a schema: the wrong one may have been written, or the right one forgotten.
    let bare = last_part(name);
    let near = nearest(bare, names.iter().map(|name| last_part(name)));
    let hint = match names.iter().find(|name| Some(last_part(name)) == near) {
        Some(near) => format!("; did you mean '{near}'?"),
        None if long.is_empty() => "; there is no corpus yet, and a file is named in quotes with its ending".to_owned(),
        None => did_you_mean(bare, names.iter().copied()),
    };
    Some(format!("{message}{hint}"))
}

/// The name of a table without its schema.
fn last_part(name: &str) -> &str {
    name.rsplit('.').next().unwrap_or(name)
}

/// The message about a column that does not exist, with how a text is written, if the name stands where a value may.
fn with_text_hint(message: &str, statement: &mut ast::Statement) -> Option<String> {
    let (before, rest) = message.split_once("column '")?;
    let (name, rest) = rest.split_once("' not found")?;
    let written = written_as_value(statement, name)?;
    Some(format!("{before}column '{name}' not found (a text is written in single quotes: '{written}'){rest}"))
}

/// `name` as the statement has it where a value may stand: beside a column, in a list, as a pattern, or as one of several
/// arguments of a function.
fn written_as_value(statement: &mut ast::Statement, name: &str) -> Option<String> {
    use ast::{BinaryOperator, Expr, FunctionArg, FunctionArgExpr, FunctionArguments};
    let mut written = None;
    let mut look = |value: &Expr| {
        if let Expr::Identifier(identifier) = value
            && identifier.value.eq_ignore_ascii_case(name)
        {
            written = Some(identifier.value.clone());
        }
    };
    walk(statement, &mut |node| {
        let Node::Expr(expr) = node else { return Ok(()) };
        match &*expr {
            Expr::BinaryOp { left, op: BinaryOperator::Eq | BinaryOperator::NotEq, right } => {
                // Beside a value it is the column that is misspelt.
                if matches!(**right, Expr::Identifier(_) | Expr::CompoundIdentifier(_)) {
                    look(left);
                }
                if !matches!(**left, Expr::Value(_)) {
                    look(right);
                }
            }
            Expr::InList { list, .. } => list.iter().for_each(&mut look),
            Expr::Like { pattern, .. } | Expr::ILike { pattern, .. } => look(pattern),
            Expr::Function(function) => {
                if let FunctionArguments::List(list) = &function.args
                    && list.args.len() > 1
                {
                    for argument in &list.args {
                        if let FunctionArg::Unnamed(FunctionArgExpr::Expr(value)) = argument {
                            look(value);
                        }
                    }
                }
            }
            _ => {}
        }
        Ok(())
    })
    .ok()?;
    written
}

impl Engine {
    /// Runs one SQL statement (a query or one of saequel's own statements) and streams its result.
    ///
    /// # Errors
    /// [`crate::ErrorKind::Query`] for what the statement gets wrong (with line and column where known),
    /// [`crate::ErrorKind::NotFound`] for unknown names, [`crate::ErrorKind::Denied`] for a write on a read-only engine.
    /// Errors while streaming carry the same in [`crate::Error::from`] of the DataFusion error.
    pub fn sql<'a>(&'a self, statement: &'a str) -> BoxFuture<'a, Result<SendableRecordBatchStream>> {
        self.logged(Arc::default(), statement, ParamValues::List(Vec::new()))
    }

    /// [`Self::sql`] with values for the parameters `$1`, `$2`, ... or `$name`, also in arguments of table functions.
    ///
    /// # Errors
    /// As [`Self::sql`]; [`crate::ErrorKind::Query`] if a parameter has no value.
    pub fn sql_with<'a>(
        &'a self,
        statement: &'a str,
        parameters: impl Into<ParamValues>,
    ) -> BoxFuture<'a, Result<SendableRecordBatchStream>> {
        self.logged(Arc::default(), statement, parameters.into())
    }

    /// [`Self::sql_with`] for somebody who may not see or do everything.
    ///
    /// # Errors
    /// As [`Self::sql_with`]; [`crate::ErrorKind::Denied`] for what `caller` may not do. Corpora that it may not read do not
    /// exist for it.
    pub fn sql_as<'a>(
        &'a self,
        caller: &Arc<Caller>,
        statement: &'a str,
        parameters: impl Into<ParamValues>,
    ) -> BoxFuture<'a, Result<SendableRecordBatchStream>> {
        self.logged(Arc::clone(caller), statement, parameters.into())
    }

    /// Reads the labels of features, which the first search by meaning needs, if that was never done on this machine: tens of
    /// seconds of all cores. Blocks.
    ///
    /// # Errors
    /// As [`crate::Reader::load`].
    pub fn prepare_labels(&self) -> Result<()> {
        crate::label_embeddings::of(&Picture::take(self, &Arc::default())).map(drop)
    }

    /// Memory that running statements hold, as far as operators account for it, in bytes.
    pub fn query_memory_bytes(&self) -> usize {
        self.inner.sql.runtime.get().map_or(0, |runtime| runtime.memory_pool.reserved())
    }

    /// What a statement gives and takes, without running it.
    ///
    /// # Errors
    /// As [`Self::sql_as`].
    pub fn describe_as<'a>(&'a self, caller: &'a Arc<Caller>, statement: &'a str) -> BoxFuture<'a, Result<Described>> {
        Box::pin(async move { self.described(caller, statement, None).await })
    }

    /// [`Self::describe_as`] of a statement whose parameters have these values, on which its columns may depend.
    ///
    /// # Errors
    /// As [`Self::sql_as`].
    pub fn describe_with<'a>(
        &'a self,
        caller: &'a Arc<Caller>,
        statement: &'a str,
        parameters: &'a ParamValues,
    ) -> BoxFuture<'a, Result<Described>> {
        Box::pin(async move { self.described(caller, statement, Some(parameters)).await })
    }

    async fn described(&self, caller: &Arc<Caller>, statement: &str, given: Option<&ParamValues>) -> Result<Described> {
        let mut statement = statements::parse(statement)?;
        caller.check(&statement)?;
        let writes = statement.writes();
        let Statement::Query(query) = &mut statement else {
            return Ok(Described { schema: Some(statement.result_schema()), parameters: Vec::new(), writes });
        };
        let mut names: Vec<String> = placeholders(query)?.into_iter().collect();
        names.sort_by_key(|name| (name[1..].parse::<usize>().unwrap_or(usize::MAX), name.clone()));
        if let Some(given) = given {
            check_parameters(query, given)?;
            statements::rewrite::bind_arguments(query, given)?;
        }
        self.refresh().await?;
        let picture = Picture::take(self, caller);
        let session = session(&picture, Viewer::Person)?;
        let planned = session.state().statement_to_plan(DFStatement::Statement(query.clone())).await;
        let mut plan = match planned {
            Ok(plan) => plan,
            // Arguments of table functions are needed to plan them.
            Err(_) if !names.is_empty() && given.is_none() => {
                let parameters = names.into_iter().map(|name| Parameter { name, data_type: None }).collect();
                return Ok(Described { schema: None, parameters, writes });
            }
            Err(error) => return Err(with_hint(error.into(), &picture, query)),
        };
        only_reads(&plan)?;
        let types = plan.get_parameter_types().map_err(Error::from)?;
        if let Some(given) = given.filter(|_| !names.is_empty()) {
            plan = plan.with_param_values(given.clone()).map_err(|error| with_hint(error.into(), &picture, query))?;
        }
        let parameters = names.into_iter().map(|name| {
            let data_type = types.get(&name).cloned().flatten();
            Parameter { name, data_type }
        });
        let parameters = parameters.collect();
        // What is shown is what will stream: the plan's own fields, optimised or not.
        Ok(Described { schema: Some(Arc::clone(plan.schema().inner())), parameters, writes })
    }

    fn logged<'a>(
        &'a self,
        caller: Arc<Caller>,
        statement: &'a str,
        parameters: ParamValues,
    ) -> BoxFuture<'a, Result<SendableRecordBatchStream>> {
        Box::pin(async move {
            let entry = self.inner.sql.queries.begin(&caller, statement);
            match self.run(&caller, statement, &parameters).await {
                Ok(stream) => Ok(entry.follow(stream)),
                Err(error) => {
                    entry.failed(&error);
                    Err(error)
                }
            }
        })
    }

    /// Runs one SQL statement and gathers the whole result; the schema is told even without a row.
    ///
    /// # Errors
    /// As [`Self::sql`], also for what fails while the result is made.
    pub fn sql_collect<'a>(&'a self, statement: &'a str) -> BoxFuture<'a, Result<(SchemaRef, Vec<RecordBatch>)>> {
        Box::pin(async move {
            let stream = self.sql(statement).await?;
            let schema = stream.schema();
            let batches = stream.try_collect().await.map_err(Error::from)?;
            Ok((schema, batches))
        })
    }

    async fn run(
        &self,
        caller: &Arc<Caller>,
        sql: &str,
        parameters: &ParamValues,
    ) -> Result<SendableRecordBatchStream> {
        let statement = statements::parse(sql)?;
        caller.check(&statement)?;
        if statement.writes() && self.options().read_only {
            let message =
                format!("{}: the database is open read-only; open it with the right to write", statement.name());
            return Err(Error::new(ErrorKind::Denied, message));
        }
        self.refresh().await?;
        match statement {
            Statement::Query(mut query) => {
                check_parameters(&mut query, parameters)?;
                statements::rewrite::bind_arguments(&mut query, parameters)?;
                let picture = Picture::take(self, caller);
                let session = session(&picture, Viewer::Person)?;
                let frame = plan(&picture, &session, *query, parameters).await?;
                frame.execute_stream().await.map_err(Error::from)
            }
            mut other => {
                refuse_parameters(&mut other, parameters)?;
                self.run_own(other, caller).await
            }
        }
    }
}
