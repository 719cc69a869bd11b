//! Functions of PostgreSQL that clients call, as far as the engine lacks them.

mod values;

use std::fmt;
use std::hash::{Hash, Hasher};
use std::sync::{Arc, LazyLock};
use std::time::{SystemTime, UNIX_EPOCH};

use arrow::array::{
    Array, ArrayRef, AsArray, BooleanArray, Float64Array, Int32Array, Int64Array, ListBuilder, StringArray,
    StringBuilder, TimestampMicrosecondArray, new_null_array,
};
use arrow::compute::cast;
use arrow::datatypes::{DataType, Field, Fields, Int64Type, TimeUnit};
use datafusion::common::ScalarValue;
use datafusion::error::{DataFusionError, Result};
use datafusion::logical_expr::{
    ColumnarValue, ScalarFunctionArgs, ScalarUDF, ScalarUDFImpl, Signature, TypeSignature, Volatility,
};
use datafusion_pg_catalog::pg_catalog::quote_ident_udf;

use self::values::{bounds, format, moment_type, or_empty, size_pretty, timezone};
use super::super::types::shown_as;
use super::relations::{INFORMATION_SCHEMA, PG_CATALOG, PUBLIC, Relation, own_oid, schema_oid};
use super::tables::{OWNER, OWNER_OID, fixed};
use super::{State, settings};
use crate::postgres::settings::SERVER_VERSION;

/// What one function gives for some rows.
type Run = fn(&Call<'_>) -> Result<ArrayRef>;

/// Type of a result.
#[derive(Debug, Clone, Copy)]
enum Gives {
    Text,
    Bool,
    Int,
    Long,
    Double,
    Time,
    /// `timezone`: a moment for a clock, or a clock for a moment.
    Moment,
    Texts,
    /// A relation's number, shown as `oid`.
    Oid,
    /// `_pg_expandarray`: pairs of an element and its position.
    Pair,
    /// The array that comes, or one of texts.
    Array,
}

impl Gives {
    fn data_type(self, arguments: &[DataType]) -> DataType {
        match self {
            Self::Text => DataType::Utf8,
            Self::Bool => DataType::Boolean,
            Self::Int | Self::Oid => DataType::Int32,
            Self::Long => DataType::Int64,
            Self::Double => DataType::Float64,
            Self::Time => DataType::Timestamp(TimeUnit::Microsecond, Some("UTC".into())),
            Self::Moment => moment_type(arguments),
            Self::Texts => texts_type(),
            Self::Pair => DataType::Struct(pair_fields()),
            Self::Array => match arguments.first() {
                Some(list @ (DataType::List(_) | DataType::LargeList(_) | DataType::FixedSizeList(..))) => list.clone(),
                _ => texts_type(),
            },
        }
    }
}

fn texts_type() -> DataType {
    DataType::List(Arc::new(Field::new("item", DataType::Utf8, true)))
}

fn pair_fields() -> Fields {
    vec![Field::new("x", DataType::Int32, true), Field::new("n", DataType::Int32, true)].into()
}

/// A call over `rows` rows.
struct Call<'a> {
    state: &'a State,
    arguments: &'a [ArrayRef],
    rows: usize,
}

impl Call<'_> {
    /// An argument as texts; null where there is none.
    fn text(&self, index: usize) -> Result<StringArray> {
        match self.arguments.get(index) {
            Some(array) => Ok(cast(array, &DataType::Utf8)?.as_string::<i32>().clone()),
            None => Ok(StringArray::new_null(self.rows)),
        }
    }

    /// An argument as whole numbers; null where there is none, and for texts that are no number.
    fn number(&self, index: usize) -> Result<Int64Array> {
        match self.arguments.get(index) {
            Some(array) => Ok(cast(array, &DataType::Int64)?.as_primitive::<Int64Type>().clone()),
            None => Ok(Int64Array::new_null(self.rows)),
        }
    }

    fn same_text(&self, text: impl Into<Option<String>>) -> Result<ArrayRef> {
        let text = text.into();
        Ok(Arc::new((0..self.rows).map(|_| text.clone()).collect::<StringArray>()))
    }

    fn same_bool(&self, flag: bool) -> Result<ArrayRef> {
        Ok(Arc::new(BooleanArray::from(vec![flag; self.rows])))
    }

    fn same_int(&self, number: i32) -> Result<ArrayRef> {
        Ok(Arc::new(Int32Array::from(vec![number; self.rows])))
    }

    fn same_long(&self, number: i64) -> Result<ArrayRef> {
        Ok(Arc::new(Int64Array::from(vec![number; self.rows])))
    }

    fn nulls(&self, of: &DataType) -> Result<ArrayRef> {
        Ok(new_null_array(of, self.rows))
    }

    /// A text for each number of an argument.
    fn texts_of(&self, index: usize, of: impl Fn(i64) -> Option<String>) -> Result<ArrayRef> {
        let numbers = self.number(index)?;
        Ok(Arc::new(numbers.iter().map(|number| number.and_then(&of)).collect::<StringArray>()))
    }

    /// Whether the relation of an argument is found without its schema.
    fn visible(&self) -> Result<ArrayRef> {
        let numbers = self.number(0)?;
        let of = |oid: i64| self.state.find(oid).map(|(schema, _)| matches!(schema, PUBLIC | PG_CATALOG));
        Ok(Arc::new(numbers.iter().map(|oid| oid.and_then(of)).collect::<BooleanArray>()))
    }

    /// Whether a privilege (the last argument) is held: everybody reads what they see, and nobody writes by this door's SQL.
    fn privilege(&self) -> Result<ArrayRef> {
        let wanted = self.text(self.arguments.len().saturating_sub(1))?;
        let held = |wanted: &str| {
            wanted.split(',').any(|one| {
                let one = one.trim().to_ascii_uppercase();
                matches!(
                    one.split_whitespace().next().unwrap_or_default(),
                    "SELECT" | "USAGE" | "CONNECT" | "EXECUTE" | "TEMP" | "TEMPORARY" | "MEMBER"
                )
            })
        };
        Ok(Arc::new(wanted.iter().map(|wanted| wanted.map(held)).collect::<BooleanArray>()))
    }

    /// Numbers of named things; a number, also as text, is taken as it is. `strict`: an unknown name is an error.
    fn oids(&self, strict: bool, what: &str, find: impl Fn(&State, &str) -> Option<i32>) -> Result<ArrayRef> {
        let names = self.text(0)?;
        let mut found = Vec::with_capacity(names.len());
        for name in names.iter() {
            let oid = match name {
                None => None,
                Some("-") => Some(0),
                Some(name) => name.parse().ok().or_else(|| find(self.state, name)),
            };
            if let (Some(name), None, true) = (name, oid, strict) {
                return Err(DataFusionError::Plan(format!("{what} \"{name}\" does not exist")));
            }
            found.push(oid);
        }
        Ok(Arc::new(Int32Array::from(found)))
    }
}

impl State {
    /// Schema and name of a relation that the session sees.
    fn find(&self, oid: i64) -> Option<(&str, &str)> {
        let seen = self.relations.all().iter().find(|relation| i64::from(relation.oid) == oid);
        seen.map(|relation: &Relation| (relation.schema.as_str(), relation.name.as_str())).or_else(|| {
            let own = fixed().ok()?.own().find(|(own, _)| i64::from(*own) == oid);
            own.map(|(_, name)| (if name.starts_with("pg_") { PG_CATALOG } else { INFORMATION_SCHEMA }, name))
        })
    }

    /// The number of a relation by its name, with or without schema, in quotes or not.
    fn relation(&self, name: &str) -> Option<i32> {
        let parts = name_parts(name)?;
        let (schema, name) = match parts.as_slice() {
            [name] => (None, name),
            [schema, name] | [_, schema, name] => (Some(schema.as_str()), name),
            _ => return None,
        };
        if schema.is_none_or(|schema| schema == PG_CATALOG)
            && fixed().is_ok_and(|fixed| fixed.own_tables().any(|own| own == (PG_CATALOG, name)))
        {
            return Some(own_oid(name));
        }
        if schema == Some(INFORMATION_SCHEMA) {
            return Some(super::oid("own", &[INFORMATION_SCHEMA, name]));
        }
        let schema = schema.map_or(PUBLIC, |schema| if schema == "main" { PUBLIC } else { schema });
        let mut all = self.relations.all().iter();
        all.find(|relation| relation.schema == schema && relation.name == *name).map(|relation| relation.oid)
    }
}

/// The parts of `schema.name`, folded to small letters where they are not quoted.
fn name_parts(name: &str) -> Option<Vec<String>> {
    let (mut parts, mut part, mut quoted) = (Vec::new(), String::new(), false);
    let mut letters = name.trim().chars().peekable();
    while let Some(letter) = letters.next() {
        match letter {
            '"' if quoted && letters.peek() == Some(&'"') => {
                letters.next();
                part.push('"');
            }
            '"' => quoted = !quoted,
            '.' if !quoted => parts.push(std::mem::take(&mut part)),
            other if quoted => part.push(other),
            other => part.extend(other.to_lowercase()),
        }
    }
    parts.push(part);
    (!quoted && parts.iter().all(|part| !part.is_empty())).then_some(parts)
}

/// A name in quotes where it needs them.
fn quoted(name: &str) -> String {
    let plain = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_';
    if name.chars().all(plain) && !name.starts_with(|c: char| c.is_ascii_digit()) && !name.is_empty() {
        name.to_owned()
    } else {
        format!("\"{}\"", name.replace('"', "\"\""))
    }
}

/// What a type is called in SQL.
pub(super) fn format_type(oid: i32, modifier: i32) -> String {
    let name = match oid {
        16 => "boolean",
        18 => "\"char\"",
        20 => "bigint",
        21 => "smallint",
        23 => "integer",
        700 => "real",
        701 => "double precision",
        1042 if modifier > 4 => return format!("character({})", modifier - 4),
        1043 if modifier > 4 => return format!("character varying({})", modifier - 4),
        1042 => "character",
        1043 => "character varying",
        1083 => "time without time zone",
        1114 => "timestamp without time zone",
        1184 => "timestamp with time zone",
        1266 => "time with time zone",
        1560 => "bit",
        1562 => "bit varying",
        1700 if modifier >= 4 => {
            return format!("numeric({},{})", ((modifier - 4) >> 16) & 0xffff, (modifier - 4) & 0x7ff);
        }
        0 => "-",
        other => {
            let Some((name, element)) = fixed().ok().and_then(|fixed| fixed.types.get(&other)) else {
                return "???".to_owned();
            };
            if name.starts_with('_') && *element != 0 {
                return format!("{}[]", format_type(*element, modifier));
            }
            name
        }
    };
    name.to_owned()
}

/// The number of a type by its name, also as SQL writes it.
pub(super) fn type_oid(name: &str) -> Option<i32> {
    let name = name.trim().to_lowercase();
    let name = name.strip_prefix("pg_catalog.").unwrap_or(&name);
    if let Some(element) = name.strip_suffix("[]") {
        let element = type_oid(element)?;
        let fixed = fixed().ok()?;
        return fixed.types.iter().find(|(_, (name, of))| *of == element && name.starts_with('_')).map(|(oid, _)| *oid);
    }
    let name = match name {
        "boolean" => "bool",
        "bigint" => "int8",
        "smallint" => "int2",
        "integer" | "int" => "int4",
        "real" => "float4",
        "double precision" => "float8",
        "character varying" => "varchar",
        "character" => "bpchar",
        "timestamp without time zone" => "timestamp",
        "timestamp with time zone" => "timestamptz",
        "time without time zone" => "time",
        "decimal" => "numeric",
        "\"char\"" => "char",
        other => other.trim_matches('"'),
    };
    fixed().ok()?.types.iter().find(|(_, (known, _))| known == name).map(|(oid, _)| *oid)
}

/// Items of an array as PostgreSQL writes it: `{a,"b c",NULL}`; `None` for what is none, or has several dimensions.
pub(super) fn array_items(text: &str) -> Option<Vec<Option<String>>> {
    let inner = text.trim().strip_prefix('{')?.strip_suffix('}')?;
    if inner.trim().is_empty() {
        return Some(Vec::new());
    }
    let (mut items, mut item, mut quotes, mut was_quoted) = (Vec::new(), String::new(), false, false);
    let mut letters = inner.chars();
    let end = |item: &mut String, was_quoted: &mut bool| {
        let done = std::mem::take(item);
        if std::mem::take(was_quoted) {
            return Some(done);
        }
        let done = done.trim();
        (!done.eq_ignore_ascii_case("null")).then(|| done.to_owned())
    };
    while let Some(letter) = letters.next() {
        match letter {
            '\\' => item.push(letters.next()?),
            '"' => {
                if !quotes && item.trim().is_empty() {
                    item.clear();
                }
                quotes = !quotes;
                was_quoted = true;
            }
            ',' if !quotes => items.push(end(&mut item, &mut was_quoted)),
            '{' | '}' if !quotes => return None,
            other if was_quoted && !quotes && other.is_whitespace() => {}
            other => item.push(other),
        }
    }
    items.push(end(&mut item, &mut was_quoted));
    (!quotes).then_some(items)
}

fn version() -> String {
    let (ours, datafusion) = (env!("CARGO_PKG_VERSION"), datafusion::DATAFUSION_VERSION);
    format!("PostgreSQL {SERVER_VERSION} (saequel {ours}, DataFusion {datafusion})")
}

fn now_micros() -> i64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| i64::try_from(since.as_micros()).unwrap_or(0))
}

/// When the process first looked.
static STARTED: LazyLock<i64> = LazyLock::new(now_micros);

fn current_setting(call: &Call<'_>) -> Result<ArrayRef> {
    let names = call.text(0)?;
    let missing_ok = match call.arguments.get(1) {
        Some(flag) => cast(flag, &DataType::Boolean)?.as_boolean().iter().any(|flag| flag == Some(true)),
        None => false,
    };
    let mut values = StringBuilder::new();
    for name in names.iter() {
        let value = name.and_then(|name| settings::current(call.state, name));
        if let (Some(name), None, false) = (name, &value, missing_ok) {
            return Err(DataFusionError::Plan(format!("unrecognized configuration parameter \"{name}\"")));
        }
        values.append_option(value);
    }
    Ok(Arc::new(values.finish()))
}

fn set_config(call: &Call<'_>) -> Result<ArrayRef> {
    let (names, values) = (call.text(0)?, call.text(1)?);
    let local = match call.arguments.get(2) {
        Some(flag) => cast(flag, &DataType::Boolean)?.as_boolean().iter().any(|flag| flag == Some(true)),
        None => false,
    };
    for (name, value) in names.iter().zip(values.iter()) {
        let (Some(name), Some(value)) = (name, value) else { continue };
        let settings = &call.state.settings;
        let set = if local { settings.set_local(name, value) } else { settings.set(name, value) };
        if set.is_err() {
            return Err(DataFusionError::Plan(format!("set_config: parameter \"{name}\" cannot be set to '{value}'")));
        }
    }
    Ok(Arc::new(values))
}

fn as_array(call: &Call<'_>) -> Result<ArrayRef> {
    match call.arguments.first() {
        Some(list) if matches!(list.data_type(), DataType::List(_) | DataType::LargeList(_)) => Ok(Arc::clone(list)),
        _ => {
            let mut lists = ListBuilder::new(StringBuilder::new());
            for text in call.text(0)?.iter() {
                let Some(text) = text else {
                    lists.append(false);
                    continue;
                };
                let Some(items) = array_items(text) else {
                    return Err(DataFusionError::Plan(format!(
                        "malformed array literal: expected {{a,b,...}}, got '{text}'"
                    )));
                };
                items.into_iter().for_each(|item| lists.values().append_option(item));
                lists.append(true);
            }
            Ok(Arc::new(lists.finish()))
        }
    }
}

/// A function.
struct Known {
    name: &'static str,
    gives: Gives,
    run: Run,
}

const fn known(name: &'static str, gives: Gives, run: Run) -> Known {
    Known { name, gives, run }
}

const NO_TEXT: Run = |call| call.same_text(None);
const NO_LONG: Run = |call| call.same_long(0);
const YES: Run = |call| call.same_bool(true);
const NO: Run = |call| call.same_bool(false);
const USER: Run = |call| call.same_text(call.state.user.clone());
const DATABASE: Run = |call| call.same_text(call.state.database());
const PRIVILEGE: Run = |call| call.privilege();
const VISIBLE: Run = |call| call.visible();

const FUNCTIONS: &[Known] = &[
    known("version", Gives::Text, |call| call.same_text(version())),
    known("current_database", Gives::Text, DATABASE),
    known("current_catalog", Gives::Text, DATABASE),
    known("current_schema", Gives::Text, |call| call.same_text(PUBLIC.to_owned())),
    known("current_schemas", Gives::Texts, |call| {
        let implicit = match call.arguments.first() {
            Some(flag) => cast(flag, &DataType::Boolean)?.as_boolean().iter().any(|flag| flag == Some(true)),
            None => false,
        };
        let mut lists = ListBuilder::new(StringBuilder::new());
        for _ in 0..call.rows {
            if implicit {
                lists.values().append_value(PG_CATALOG);
            }
            lists.values().append_value(PUBLIC);
            lists.append(true);
        }
        Ok(Arc::new(lists.finish()))
    }),
    known("current_user", Gives::Text, USER),
    known("session_user", Gives::Text, USER),
    known("current_role", Gives::Text, USER),
    known("user", Gives::Text, USER),
    known("set_config", Gives::Text, set_config),
    known("current_setting", Gives::Text, current_setting),
    known("pg_backend_pid", Gives::Int, |call| call.same_int(call.state.pid())),
    known("pg_my_temp_schema", Gives::Oid, |call| call.same_int(0)),
    known("pg_is_other_temp_schema", Gives::Bool, NO),
    known("pg_postmaster_start_time", Gives::Time, |call| {
        Ok(Arc::new(TimestampMicrosecondArray::from(vec![*STARTED; call.rows]).with_timezone("UTC")))
    }),
    known("pg_conf_load_time", Gives::Time, |call| {
        Ok(Arc::new(TimestampMicrosecondArray::from(vec![*STARTED; call.rows]).with_timezone("UTC")))
    }),
    known("pg_is_in_recovery", Gives::Bool, NO),
    known("pg_is_in_backup", Gives::Bool, NO),
    known("pg_is_wal_replay_paused", Gives::Bool, NO),
    known("pg_last_wal_receive_lsn", Gives::Text, NO_TEXT),
    known("pg_last_wal_replay_lsn", Gives::Text, NO_TEXT),
    known("pg_last_xact_replay_timestamp", Gives::Time, |call| call.nulls(&Gives::Time.data_type(&[]))),
    known("pg_current_wal_lsn", Gives::Text, NO_TEXT),
    known("txid_current", Gives::Long, |call| call.same_long(1)),
    known("pg_current_xact_id", Gives::Long, |call| call.same_long(1)),
    known("inet_server_addr", Gives::Text, NO_TEXT),
    known("inet_server_port", Gives::Int, |call| call.nulls(&DataType::Int32)),
    known("inet_client_addr", Gives::Text, NO_TEXT),
    known("inet_client_port", Gives::Int, |call| call.nulls(&DataType::Int32)),
    known("pg_client_encoding", Gives::Text, |call| call.same_text("UTF8".to_owned())),
    known("getdatabaseencoding", Gives::Text, |call| call.same_text("UTF8".to_owned())),
    known("pg_encoding_to_char", Gives::Text, |call| {
        call.texts_of(0, |encoding| Some(if encoding == 6 { "UTF8" } else { "" }.to_owned()))
    }),
    known("pg_char_to_encoding", Gives::Int, |call| call.same_int(6)),
    known("pg_encoding_max_length", Gives::Int, |call| call.same_int(4)),
    known("pg_jit_available", Gives::Bool, NO),
    known("pg_cancel_backend", Gives::Bool, NO),
    known("pg_terminate_backend", Gives::Bool, NO),
    known("pg_try_advisory_lock", Gives::Bool, YES),
    known("pg_advisory_unlock", Gives::Bool, YES),
    // Gives nothing at all in PostgreSQL; asyncpg calls it whenever a pool takes a connection back.
    known("pg_advisory_unlock_all", Gives::Text, NO_TEXT),
    known("pg_notification_queue_usage", Gives::Double, |call| Ok(Arc::new(Float64Array::from(vec![0.0; call.rows])))),
    // What is described.
    known("col_description", Gives::Text, NO_TEXT),
    known("obj_description", Gives::Text, |call| {
        call.texts_of(0, |oid| {
            let function = call.state.functions.iter().find(|function| i64::from(function.oid) == oid)?;
            function.description.clone()
        })
    }),
    known("shobj_description", Gives::Text, NO_TEXT),
    known("pg_get_indexdef", Gives::Text, NO_TEXT),
    known("pg_get_constraintdef", Gives::Text, NO_TEXT),
    known("pg_get_expr", Gives::Text, NO_TEXT),
    known("pg_get_viewdef", Gives::Text, NO_TEXT),
    known("pg_get_ruledef", Gives::Text, NO_TEXT),
    known("pg_get_triggerdef", Gives::Text, NO_TEXT),
    known("pg_get_partkeydef", Gives::Text, NO_TEXT),
    known("pg_get_partition_constraintdef", Gives::Text, NO_TEXT),
    known("pg_get_functiondef", Gives::Text, |call| {
        call.texts_of(0, |oid| {
            let function = call.state.functions.iter().find(|function| i64::from(function.oid) == oid)?;
            let what = function.description.as_deref().unwrap_or("a function of saequel");
            Some(format!("-- {}: {what}\n", function.name))
        })
    }),
    known("pg_get_function_arg_default", Gives::Text, NO_TEXT),
    known("pg_get_function_sqlbody", Gives::Text, NO_TEXT),
    known("pg_get_statisticsobjdef", Gives::Text, NO_TEXT),
    known("pg_get_statisticsobjdef_columns", Gives::Text, NO_TEXT),
    known("pg_get_serial_sequence", Gives::Text, NO_TEXT),
    known("pg_get_replica_identity_index", Gives::Oid, |call| call.nulls(&DataType::Int32)),
    known("pg_describe_object", Gives::Text, NO_TEXT),
    known("pg_tablespace_location", Gives::Text, |call| call.same_text(String::new())),
    known("pg_relation_filepath", Gives::Text, NO_TEXT),
    known("pg_relation_filenode", Gives::Oid, |call| call.nulls(&DataType::Int32)),
    known("pg_relation_is_publishable", Gives::Bool, NO),
    known("pg_relation_is_updatable", Gives::Int, |call| call.same_int(0)),
    known("pg_column_is_updatable", Gives::Bool, NO),
    known("pg_partition_ancestors", Gives::Oid, |call| call.oids(false, "relation", State::relation)),
    known("pg_partition_root", Gives::Oid, |call| call.nulls(&DataType::Int32)),
    known("pg_stat_get_numscans", Gives::Long, NO_LONG),
    known("pg_get_userbyid", Gives::Text, |call| {
        call.texts_of(0, |oid| {
            let known = [(OWNER_OID, OWNER), (call.state.user_oid(), call.state.user.as_str())];
            let name = known.into_iter().find(|(known, _)| i64::from(*known) == oid).map(|(_, name)| name.to_owned());
            Some(name.unwrap_or_else(|| format!("unknown (OID={oid})")))
        })
    }),
    known("pg_get_function_arguments", Gives::Text, |call| {
        let own = |oid| call.state.functions.iter().any(|function| i64::from(function.oid) == oid);
        call.texts_of(0, |oid| own(oid).then(|| "VARIADIC \"any\"".to_owned()))
    }),
    known("pg_get_function_identity_arguments", Gives::Text, |call| {
        let own = |oid| call.state.functions.iter().any(|function| i64::from(function.oid) == oid);
        call.texts_of(0, |oid| own(oid).then(|| "VARIADIC \"any\"".to_owned()))
    }),
    known("pg_get_function_result", Gives::Text, |call| {
        call.texts_of(0, |oid| {
            let function = call.state.functions.iter().find(|function| i64::from(function.oid) == oid)?;
            Some(if function.kind == "t" { "SETOF record" } else { "\"any\"" }.to_owned())
        })
    }),
    known("format_type", Gives::Text, |call| {
        let (oids, modifiers) = (call.number(0)?, call.number(1)?);
        let text = |(oid, modifier): (Option<i64>, Option<i64>)| {
            let modifier = modifier.and_then(|modifier| i32::try_from(modifier).ok()).unwrap_or(-1);
            Some(format_type(i32::try_from(oid?).ok()?, modifier))
        };
        Ok(Arc::new(oids.iter().zip(modifiers.iter()).map(text).collect::<StringArray>()))
    }),
    // Sizes are not kept by table.
    known("pg_relation_size", Gives::Long, NO_LONG),
    known("pg_total_relation_size", Gives::Long, NO_LONG),
    known("pg_table_size", Gives::Long, NO_LONG),
    known("pg_indexes_size", Gives::Long, NO_LONG),
    known("pg_database_size", Gives::Long, NO_LONG),
    known("pg_tablespace_size", Gives::Long, NO_LONG),
    known("pg_size_pretty", Gives::Text, size_pretty),
    // What is found without its schema.
    known("pg_table_is_visible", Gives::Bool, VISIBLE),
    known("pg_type_is_visible", Gives::Bool, YES),
    known("pg_function_is_visible", Gives::Bool, YES),
    known("pg_operator_is_visible", Gives::Bool, YES),
    known("pg_opclass_is_visible", Gives::Bool, YES),
    known("pg_opfamily_is_visible", Gives::Bool, YES),
    known("pg_conversion_is_visible", Gives::Bool, YES),
    known("pg_collation_is_visible", Gives::Bool, YES),
    known("pg_statistics_obj_is_visible", Gives::Bool, YES),
    known("pg_ts_config_is_visible", Gives::Bool, YES),
    known("pg_ts_dict_is_visible", Gives::Bool, YES),
    known("pg_ts_parser_is_visible", Gives::Bool, YES),
    known("pg_ts_template_is_visible", Gives::Bool, YES),
    // What is allowed.
    known("has_table_privilege", Gives::Bool, PRIVILEGE),
    known("has_any_column_privilege", Gives::Bool, PRIVILEGE),
    known("has_column_privilege", Gives::Bool, PRIVILEGE),
    known("has_schema_privilege", Gives::Bool, PRIVILEGE),
    known("has_database_privilege", Gives::Bool, PRIVILEGE),
    known("has_function_privilege", Gives::Bool, PRIVILEGE),
    known("has_sequence_privilege", Gives::Bool, PRIVILEGE),
    known("has_language_privilege", Gives::Bool, PRIVILEGE),
    known("has_tablespace_privilege", Gives::Bool, PRIVILEGE),
    known("has_type_privilege", Gives::Bool, PRIVILEGE),
    known("has_server_privilege", Gives::Bool, PRIVILEGE),
    known("has_foreign_data_wrapper_privilege", Gives::Bool, PRIVILEGE),
    known("pg_has_role", Gives::Bool, PRIVILEGE),
    known("row_security_active", Gives::Bool, NO),
    // Names and numbers.
    known("to_regclass", Gives::Oid, |call| call.oids(false, "relation", State::relation)),
    known("to_regtype", Gives::Oid, |call| call.oids(false, "type", |_, name| type_oid(name))),
    known("to_regnamespace", Gives::Oid, |call| call.oids(false, "schema", |_, name| Some(schema_oid(name)))),
    known("to_regrole", Gives::Oid, |call| {
        call.oids(false, "role", |state, name| (name == state.user).then(|| state.user_oid()))
    }),
    known("to_regproc", Gives::Text, |call| Ok(Arc::new(call.text(0)?))),
    // What `rewrite` makes of casts.
    known("pg_regclass_in", Gives::Oid, |call| call.oids(true, "relation", State::relation)),
    known("pg_regtype_in", Gives::Oid, |call| call.oids(true, "type", |_, name| type_oid(name))),
    known("pg_regnamespace_in", Gives::Oid, |call| call.oids(true, "schema", |_, name| Some(schema_oid(name)))),
    known("pg_regrole_in", Gives::Oid, |call| {
        call.oids(true, "role", |state, name| match name {
            OWNER => Some(OWNER_OID),
            name => (name == state.user).then(|| state.user_oid()),
        })
    }),
    known("pg_regclass_out", Gives::Text, |call| {
        call.texts_of(0, |oid| {
            if oid == 0 {
                return Some("-".to_owned());
            }
            Some(match call.state.find(oid) {
                Some((PUBLIC | PG_CATALOG, name)) => quoted(name),
                Some((schema, name)) => format!("{}.{}", quoted(schema), quoted(name)),
                None => oid.to_string(),
            })
        })
    }),
    known("pg_regtype_out", Gives::Text, |call| {
        call.texts_of(0, |oid| Some(format_type(i32::try_from(oid).ok()?, -1)))
    }),
    known("pg_regnamespace_out", Gives::Text, |call| {
        call.texts_of(0, |oid| {
            let mut names = call.state.relations.schemas().chain([PG_CATALOG, INFORMATION_SCHEMA]);
            let name = names.find(|name| i64::from(schema_oid(name)) == oid);
            Some(name.map_or_else(|| oid.to_string(), quoted))
        })
    }),
    known("pg_regrole_out", Gives::Text, |call| {
        call.texts_of(0, |oid| {
            let known = [(OWNER_OID, OWNER), (call.state.user_oid(), call.state.user.as_str())];
            let name = known.into_iter().find(|(known, _)| i64::from(*known) == oid);
            Some(name.map_or_else(|| oid.to_string(), |(_, name)| quoted(name)))
        })
    }),
    known("pg_regtype_array", Gives::Texts, |call| {
        // `23 25` of an oidvector, or `{23,25}`.
        let mut lists = ListBuilder::new(StringBuilder::new());
        for text in call.text(0)?.iter() {
            let items = text.into_iter().flat_map(|text| text.split(|c: char| !c.is_ascii_digit()));
            for oid in items.filter_map(|item| item.parse().ok()) {
                lists.values().append_value(format_type(oid, -1));
            }
            lists.append(text.is_some());
        }
        Ok(Arc::new(lists.finish()))
    }),
    known("pg_regproc_in", Gives::Text, |call| {
        let names = call.text(0)?;
        let bare = |name: &str| name.strip_prefix("pg_catalog.").unwrap_or(name).to_owned();
        Ok(Arc::new(names.iter().map(|name| name.map(bare)).collect::<StringArray>()))
    }),
    known("pg_regproc_number", Gives::Oid, |call| {
        call.oids(true, "function", |state, name| {
            let name = name_parts(name)?.pop()?;
            state.functions.iter().find(|function| function.name == name).map(|function| function.oid)
        })
    }),
    known("format", Gives::Text, format),
    known("pg_typeof", Gives::Text, |call| {
        let shown = call.arguments.first().map(|array| shown_as(array.data_type()));
        call.same_text(shown.map(|shown| format_type(shown.oid().cast_signed(), -1)))
    }),
    known("pg_null", Gives::Text, NO_TEXT),
    known("pg_array", Gives::Array, as_array),
    known("pg_array_or_empty", Gives::Array, or_empty),
    known("timezone", Gives::Moment, timezone),
    known("array_upper", Gives::Long, |call| bounds(call, |length| (length > 0).then_some(length))),
    known("array_lower", Gives::Long, |call| bounds(call, |length| (length > 0).then_some(1))),
    known("_pg_expandarray", Gives::Pair, |call| call.nulls(&DataType::Struct(pair_fields()))),
    known("quote_literal", Gives::Text, |call| {
        let texts = call.text(0)?;
        let quote = |text: &str| format!("'{}'", text.replace('\'', "''"));
        Ok(Arc::new(texts.iter().map(|text| text.map(quote)).collect::<StringArray>()))
    }),
];

/// Whether `name` is one of these functions.
pub(super) fn is_known(name: &str) -> bool {
    FUNCTIONS.iter().any(|known| known.name == name) || matches!(name, "quote_ident" | "parse_ident")
}

/// The functions for one session.
pub(super) fn all(state: &Arc<State>) -> impl Iterator<Item = ScalarUDF> {
    // Read once, so that it is the time of the first connection rather than of the first question.
    LazyLock::force(&STARTED);
    FUNCTIONS
        .iter()
        .map(|known| ScalarUDF::new_from_impl(PgFunction::new(known, Arc::clone(state))))
        .chain([quote_ident_udf::create_quote_ident_udf(), quote_ident_udf::create_parse_ident_udf()])
}

struct PgFunction {
    known: &'static Known,
    state: Arc<State>,
    signature: Signature,
}

impl PgFunction {
    fn new(known: &'static Known, state: Arc<State>) -> Self {
        // What is set must be set each time that it is run, and only then.
        let volatility = if known.name == "set_config" { Volatility::Volatile } else { Volatility::Stable };
        let any = TypeSignature::OneOf(vec![TypeSignature::Nullary, TypeSignature::VariadicAny]);
        Self { known, state, signature: Signature::new(any, volatility) }
    }
}

impl fmt::Debug for PgFunction {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.known.name)
    }
}

impl PartialEq for PgFunction {
    fn eq(&self, other: &Self) -> bool {
        self.known.name == other.known.name && Arc::ptr_eq(&self.state, &other.state)
    }
}

impl Eq for PgFunction {}

impl Hash for PgFunction {
    fn hash<H: Hasher>(&self, hasher: &mut H) {
        self.known.name.hash(hasher);
    }
}

impl ScalarUDFImpl for PgFunction {
    fn name(&self) -> &str {
        self.known.name
    }

    fn signature(&self) -> &Signature {
        &self.signature
    }

    fn return_type(&self, arguments: &[DataType]) -> Result<DataType> {
        Ok(self.known.gives.data_type(arguments))
    }

    fn invoke_with_args(&self, args: ScalarFunctionArgs) -> Result<ColumnarValue> {
        let scalar = args.args.iter().all(|argument| matches!(argument, ColumnarValue::Scalar(_)));
        let rows = if scalar { 1 } else { args.number_rows };
        let arguments: Vec<ArrayRef> =
            args.args.into_iter().map(|argument| argument.into_array(rows)).collect::<Result<_>>()?;
        let result = (self.known.run)(&Call { state: &self.state, arguments: &arguments, rows })?;
        Ok(if scalar {
            ColumnarValue::Scalar(ScalarValue::try_from_array(&result, 0)?)
        } else {
            ColumnarValue::Array(result)
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_taken_apart_as_postgresql_does() {
        let parts = |name| name_parts(name).map(|parts| parts.join("|"));
        assert_eq!(parts("Answers").as_deref(), Some("answers"));
        assert_eq!(parts("public.\"My.Table\"").as_deref(), Some("public|My.Table"));
        assert_eq!(parts("\"a\"\"b\"").as_deref(), Some("a\"b"));
        assert_eq!(parts("\"open"), None);
        assert_eq!(parts("a..b"), None);
    }

    #[test]
    fn array_literals() {
        let items = |text| array_items(text).map(|items| format!("{items:?}"));
        assert_eq!(items("{}").as_deref(), Some("[]"));
        assert_eq!(items("{r, p}").as_deref(), Some(r#"[Some("r"), Some("p")]"#));
        assert_eq!(items(r#"{"a,b",NULL,"NULL"}"#).as_deref(), Some(r#"[Some("a,b"), None, Some("NULL")]"#));
        assert_eq!(items(r#"{"p", "f"}"#).as_deref(), Some(r#"[Some("p"), Some("f")]"#));
        assert_eq!(items("{{1},{2}}"), None);
        assert_eq!(items("abc"), None);
    }

    #[test]
    fn types_have_their_names_in_sql() {
        assert_eq!(format_type(1184, -1), "timestamp with time zone");
        assert_eq!(format_type(1009, -1), "text[]");
        assert_eq!(format_type(1700, ((10 << 16) | 2) + 4), "numeric(10,2)");
        assert_eq!(type_oid("pg_catalog.int4"), Some(23));
        assert_eq!(type_oid("double precision[]"), Some(1022));
        assert_eq!(type_oid("nothing"), None);
    }
}
