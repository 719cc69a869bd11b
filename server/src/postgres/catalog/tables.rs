//! Schema `pg_catalog`.
//!
//! What describes PostgreSQL itself (types, operators, functions) comes from `datafusion-pg-catalog`, decoded once. What
//! describes this database is made from what the session sees. What saequel has nothing of (indexes, constraints, triggers)
//! is empty, which [`EMPTY`] promises to the rewriting of queries.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, OnceLock};

use arrow::array::{ArrayRef, AsArray, BooleanArray, Int32Builder, ListBuilder, RecordBatch, StringBuilder};
use arrow::compute::{concat_batches, filter_record_batch};
use arrow::datatypes::{DataType, Field, FieldRef, Int32Type, Schema, SchemaRef};
use async_trait::async_trait;
use datafusion::catalog::{SchemaProvider, TableProvider};
use datafusion::error::{DataFusionError, Result};
use datafusion_pg_catalog::pg_catalog::{ArrowTable, PgCatalogStaticTables};
use pgwire::api::Type;

use super::super::types::shown_as;
use super::columns::{Cell, Row, batch, schema, table};
use super::functions::array_items;
use super::relations::{INFORMATION_SCHEMA, PG_CATALOG, PUBLIC, Relation, oid, own_oid, schema_oid};
use super::{State, information, settings};

/// Number of the role that owns everything.
pub(super) const OWNER_OID: i32 = 10;
/// Its name.
pub(super) const OWNER: &str = "saequel";

/// Tables that have no row here, whatever the database holds.
pub(super) const EMPTY: &[(&str, &str)] = &[
    (
        "pg_amop",
        "oid oid, amopfamily oid, amoplefttype oid, amoprighttype oid, amopstrategy short, amoppurpose text, amopopr oid, amopmethod oid, amopsortfamily oid",
    ),
    ("pg_amproc", "oid oid, amprocfamily oid, amproclefttype oid, amprocrighttype oid, amprocnum short, amproc text"),
    ("pg_attrdef", "oid oid, adrelid oid, adnum short, adbin text"),
    (
        "pg_auth_members",
        "oid oid, roleid oid, member oid, grantor oid, admin_option bool, inherit_option bool, set_option bool",
    ),
    ("pg_available_extensions", "name text, default_version text, installed_version text, comment text"),
    (
        "pg_available_extension_versions",
        "name text, version text, installed bool, superuser bool, trusted bool, relocatable bool, schema text, requires texts, comment text",
    ),
    (
        "pg_collation",
        "oid oid, collname text, collnamespace oid, collowner oid, collprovider text, collisdeterministic bool, collencoding int, collcollate text, collctype text, colliculocale text, colllocale text, collicurules text, collversion text",
    ),
    (
        "pg_constraint",
        "oid oid, conname text, connamespace oid, contype text, condeferrable bool, condeferred bool, convalidated bool, conrelid oid, contypid oid, conindid oid, conparentid oid, confrelid oid, confupdtype text, confdeltype text, confmatchtype text, conislocal bool, coninhcount int, connoinherit bool, conkey shorts, confkey shorts, conpfeqop ints, conppeqop ints, conffeqop ints, confdelsetcols shorts, conexclop ints, conbin text",
    ),
    (
        "pg_conversion",
        "oid oid, conname text, connamespace oid, conowner oid, conforencoding int, contoencoding int, conproc text, condefault bool",
    ),
    (
        "pg_cursors",
        "name text, statement text, is_holdable bool, is_binary bool, is_scrollable bool, creation_time time",
    ),
    ("pg_db_role_setting", "setdatabase oid, setrole oid, setconfig texts"),
    ("pg_default_acl", "oid oid, defaclrole oid, defaclnamespace oid, defaclobjtype text, defaclacl texts"),
    ("pg_depend", "classid oid, objid oid, objsubid int, refclassid oid, refobjid oid, refobjsubid int, deptype text"),
    ("pg_enum", "oid oid, enumtypid oid, enumsortorder real, enumlabel text"),
    (
        "pg_event_trigger",
        "oid oid, evtname text, evtevent text, evtowner oid, evtfoid oid, evtenabled text, evttags texts",
    ),
    (
        "pg_extension",
        "oid oid, extname text, extowner oid, extnamespace oid, extrelocatable bool, extversion text, extconfig ints, extcondition texts",
    ),
    (
        "pg_foreign_data_wrapper",
        "oid oid, fdwname text, fdwowner oid, fdwhandler oid, fdwvalidator oid, fdwacl texts, fdwoptions texts",
    ),
    (
        "pg_foreign_server",
        "oid oid, srvname text, srvowner oid, srvfdw oid, srvtype text, srvversion text, srvacl texts, srvoptions texts",
    ),
    ("pg_foreign_table", "ftrelid oid, ftserver oid, ftoptions texts"),
    ("pg_group", "groname text, grosysid oid, grolist ints"),
    (
        "pg_index",
        "indexrelid oid, indrelid oid, indnatts short, indnkeyatts short, indisunique bool, indnullsnotdistinct bool, indisprimary bool, indisexclusion bool, indimmediate bool, indisclustered bool, indisvalid bool, indcheckxmin bool, indisready bool, indislive bool, indisreplident bool, indkey shorts, indcollation ints, indclass ints, indoption shorts, indexprs text, indpred text",
    ),
    ("pg_indexes", "schemaname text, tablename text, indexname text, tablespace text, indexdef text"),
    ("pg_inherits", "inhrelid oid, inhparent oid, inhseqno int, inhdetachpending bool"),
    ("pg_init_privs", "objoid oid, classoid oid, objsubid int, privtype text, initprivs texts"),
    ("pg_largeobject", "loid oid, pageno int, data text"),
    ("pg_largeobject_metadata", "oid oid, lomowner oid, lomacl texts"),
    (
        "pg_locks",
        "locktype text, database oid, relation oid, page int, tuple short, virtualxid text, transactionid text, classid oid, objid oid, objsubid short, virtualtransaction text, pid int, mode text, granted bool, fastpath bool, waitstart time",
    ),
    (
        "pg_matviews",
        "schemaname text, matviewname text, matviewowner text, tablespace text, hasindexes bool, ispopulated bool, definition text",
    ),
    ("pg_parameter_acl", "oid oid, parname text, paracl texts"),
    (
        "pg_partitioned_table",
        "partrelid oid, partstrat text, partnatts short, partdefid oid, partattrs shorts, partclass ints, partcollation ints, partexprs text",
    ),
    (
        "pg_policies",
        "schemaname text, tablename text, policyname text, permissive text, roles texts, cmd text, qual text, with_check text",
    ),
    (
        "pg_policy",
        "oid oid, polname text, polrelid oid, polcmd text, polpermissive bool, polroles text, polqual text, polwithcheck text",
    ),
    (
        "pg_prepared_statements",
        "name text, statement text, prepare_time time, parameter_types texts, result_types texts, from_sql bool, generic_plans long, custom_plans long",
    ),
    ("pg_prepared_xacts", "transaction text, gid text, prepared time, owner text, database text"),
    (
        "pg_publication",
        "oid oid, pubname text, pubowner oid, puballtables bool, pubinsert bool, pubupdate bool, pubdelete bool, pubtruncate bool, pubviaroot bool",
    ),
    ("pg_publication_namespace", "oid oid, pnpubid oid, pnnspid oid"),
    ("pg_publication_rel", "oid oid, prpubid oid, prrelid oid, prqual text, prattrs shorts"),
    ("pg_publication_tables", "pubname text, schemaname text, tablename text, attnames texts, rowfilter text"),
    ("pg_replication_origin", "roident oid, roname text"),
    (
        "pg_replication_slots",
        "slot_name text, plugin text, slot_type text, datoid oid, database text, temporary bool, active bool, active_pid int, xmin text, catalog_xmin text, restart_lsn text, confirmed_flush_lsn text, wal_status text, safe_wal_size long, two_phase bool, conflicting bool",
    ),
    (
        "pg_rewrite",
        "oid oid, rulename text, ev_class oid, ev_type text, ev_enabled text, is_instead bool, ev_qual text, ev_action text",
    ),
    ("pg_rules", "schemaname text, tablename text, rulename text, definition text"),
    ("pg_seclabel", "objoid oid, classoid oid, objsubid int, provider text, label text"),
    (
        "pg_seclabels",
        "objoid oid, classoid oid, objsubid int, objtype text, objnamespace oid, objname text, provider text, label text",
    ),
    (
        "pg_sequence",
        "seqrelid oid, seqtypid oid, seqstart long, seqincrement long, seqmax long, seqmin long, seqcache long, seqcycle bool",
    ),
    (
        "pg_sequences",
        "schemaname text, sequencename text, sequenceowner text, data_type text, start_value long, min_value long, max_value long, increment_by long, cycle bool, cache_size long, last_value long",
    ),
    ("pg_shdepend", "dbid oid, classid oid, objid oid, objsubid int, refclassid oid, refobjid oid, deptype text"),
    ("pg_shdescription", "objoid oid, classoid oid, description text"),
    ("pg_shseclabel", "objoid oid, classoid oid, provider text, label text"),
    (
        "pg_stat_all_indexes",
        "relid oid, indexrelid oid, schemaname text, relname text, indexrelname text, idx_scan long, last_idx_scan time, idx_tup_read long, idx_tup_fetch long",
    ),
    (
        "pg_stat_database",
        "datid oid, datname text, numbackends int, xact_commit long, xact_rollback long, blks_read long, blks_hit long, tup_returned long, tup_fetched long, tup_inserted long, tup_updated long, tup_deleted long, conflicts long, temp_files long, temp_bytes long, deadlocks long, stats_reset time",
    ),
    ("pg_stat_gssapi", "pid int, gss_authenticated bool, principal text, encrypted bool, credentials_delegated bool"),
    (
        "pg_stat_replication",
        "pid int, usesysid oid, usename text, application_name text, client_addr text, client_hostname text, client_port int, backend_start time, state text, sync_state text",
    ),
    (
        "pg_stat_ssl",
        "pid int, ssl bool, version text, cipher text, bits int, client_dn text, client_serial text, issuer_dn text",
    ),
    (
        "pg_stat_user_indexes",
        "relid oid, indexrelid oid, schemaname text, relname text, indexrelname text, idx_scan long, last_idx_scan time, idx_tup_read long, idx_tup_fetch long",
    ),
    (
        "pg_statio_all_tables",
        "relid oid, schemaname text, relname text, heap_blks_read long, heap_blks_hit long, idx_blks_read long, idx_blks_hit long, toast_blks_read long, toast_blks_hit long, tidx_blks_read long, tidx_blks_hit long",
    ),
    (
        "pg_statistic",
        "starelid oid, staattnum short, stainherit bool, stanullfrac real, stawidth int, stadistinct real",
    ),
    (
        "pg_statistic_ext",
        "oid oid, stxrelid oid, stxname text, stxnamespace oid, stxowner oid, stxkeys shorts, stxstattarget short, stxkind texts, stxexprs text",
    ),
    (
        "pg_statistic_ext_data",
        "stxoid oid, stxdinherit bool, stxdndistinct text, stxddependencies text, stxdmcv text, stxdexpr text",
    ),
    (
        "pg_stats",
        "schemaname text, tablename text, attname text, inherited bool, null_frac real, avg_width int, n_distinct real, most_common_vals texts, most_common_freqs texts, histogram_bounds texts, correlation real",
    ),
    (
        "pg_subscription",
        "oid oid, subdbid oid, subskiplsn text, subname text, subowner oid, subenabled bool, subbinary bool, substream text, subtwophasestate text, subdisableonerr bool, subpasswordrequired bool, subrunasowner bool, subconninfo text, subslotname text, subsynccommit text, subpublications texts, suborigin text",
    ),
    ("pg_subscription_rel", "srsubid oid, srrelid oid, srsubstate text, srsublsn text"),
    ("pg_timezone_abbrevs", "abbrev text, utc_offset text, is_dst bool"),
    ("pg_timezone_names", "name text, abbrev text, utc_offset text, is_dst bool"),
    ("pg_transform", "oid oid, trftype oid, trflang oid, trffromsql oid, trftosql oid"),
    (
        "pg_trigger",
        "oid oid, tgrelid oid, tgparentid oid, tgname text, tgfoid oid, tgtype short, tgenabled text, tgisinternal bool, tgconstrrelid oid, tgconstrindid oid, tgconstraint oid, tgdeferrable bool, tginitdeferred bool, tgnargs short, tgattr shorts, tgargs text, tgqual text, tgoldtable text, tgnewtable text",
    ),
    ("pg_ts_config_map", "mapcfg oid, maptokentype int, mapseqno int, mapdict oid"),
    ("pg_user_mapping", "oid oid, umuser oid, umserver oid, umoptions texts"),
    ("pg_user_mappings", "umid oid, srvid oid, srvname text, umuser oid, usename text, umoptions texts"),
    ("pg_views", "schemaname text, viewname text, viewowner text, definition text"),
];

/// Tables made from what the session sees.
const MADE: &[(&str, &str)] = &[
    (
        "pg_attribute",
        "attrelid oid, attname text, atttypid oid, attstattarget int, attlen short, attnum short, attndims int, attcacheoff int, atttypmod int, attbyval bool, attalign text, attstorage text, attcompression text, attnotnull bool, atthasdef bool, atthasmissing bool, attidentity text, attgenerated text, attisdropped bool, attislocal bool, attinhcount int, attcollation oid, attacl texts, attoptions texts, attfdwoptions texts, attmissingval text",
    ),
    (
        "pg_authid",
        "oid oid, rolname text, rolsuper bool, rolinherit bool, rolcreaterole bool, rolcreatedb bool, rolcanlogin bool, rolreplication bool, rolbypassrls bool, rolconnlimit int, rolpassword text, rolvaliduntil time",
    ),
    (
        "pg_class",
        "oid oid, relname text, relnamespace oid, reltype oid, reloftype oid, relowner oid, relam oid, relfilenode oid, reltablespace oid, relpages int, reltuples real, relallvisible int, reltoastrelid oid, relhasindex bool, relisshared bool, relpersistence text, relkind text, relnatts short, relchecks short, relhasrules bool, relhastriggers bool, relhassubclass bool, relrowsecurity bool, relforcerowsecurity bool, relispopulated bool, relreplident text, relispartition bool, relrewrite oid, relfrozenxid long, relminmxid long, relacl texts, reloptions texts, relpartbound text",
    ),
    (
        "pg_database",
        "oid oid, datname text, datdba oid, encoding int, datlocprovider text, datistemplate bool, datallowconn bool, datconnlimit int, datfrozenxid long, datminmxid long, dattablespace oid, datcollate text, datctype text, daticulocale text, datlocale text, daticurules text, datcollversion text, datacl texts",
    ),
    ("pg_description", "objoid oid, classoid oid, objsubid int, description text"),
    ("pg_namespace", "oid oid, nspname text, nspowner oid, nspacl texts"),
    (
        "pg_roles",
        "rolname text, rolsuper bool, rolinherit bool, rolcreaterole bool, rolcreatedb bool, rolcanlogin bool, rolreplication bool, rolconnlimit int, rolpassword text, rolvaliduntil time, rolbypassrls bool, rolconfig texts, oid oid",
    ),
    (
        "pg_settings",
        "name text, setting text, unit text, category text, short_desc text, extra_desc text, context text, vartype text, source text, min_val text, max_val text, enumvals texts, boot_val text, reset_val text, sourcefile text, sourceline int, pending_restart bool",
    ),
    (
        "pg_shadow",
        "usename text, usesysid oid, usecreatedb bool, usesuper bool, userepl bool, usebypassrls bool, passwd text, valuntil time, useconfig texts",
    ),
    (
        "pg_stat_activity",
        "datid oid, datname text, pid int, leader_pid int, usesysid oid, usename text, application_name text, client_addr text, client_hostname text, client_port int, backend_start time, xact_start time, query_start time, state_change time, wait_event_type text, wait_event text, state text, backend_xid text, backend_xmin text, query_id long, query text, backend_type text",
    ),
    ("pg_stat_all_tables", STAT_TABLES),
    ("pg_stat_user_tables", STAT_TABLES),
    (
        "pg_tables",
        "schemaname text, tablename text, tableowner text, tablespace text, hasindexes bool, hasrules bool, hastriggers bool, rowsecurity bool",
    ),
    (
        "pg_user",
        "usename text, usesysid oid, usecreatedb bool, usesuper bool, userepl bool, usebypassrls bool, passwd text, valuntil time, useconfig texts",
    ),
];

const STAT_TABLES: &str = "relid oid, schemaname text, relname text, seq_scan long, last_seq_scan time, seq_tup_read long, idx_scan long, last_idx_scan time, idx_tup_fetch long, n_tup_ins long, n_tup_upd long, n_tup_del long, n_tup_hot_upd long, n_live_tup long, n_dead_tup long, n_mod_since_analyze long, n_ins_since_vacuum long, last_vacuum time, last_autovacuum time, last_analyze time, last_autoanalyze time, vacuum_count long, autovacuum_count long, analyze_count long, autoanalyze_count long";

/// What does not depend on the session.
#[derive(Debug)]
pub(super) struct Fixed {
    /// Tables with rows that describe PostgreSQL.
    rows: BTreeMap<&'static str, RecordBatch>,
    /// Columns of all others.
    columns: BTreeMap<&'static str, SchemaRef>,
    /// Rows of `pg_class` and `pg_attribute` for the two schemas of tables like these.
    own_classes: RecordBatch,
    own_attributes: RecordBatch,
    /// `pg_get_keywords()`.
    pub(super) keywords: Arc<ArrowTable>,
    /// Name and element type of each type.
    pub(super) types: BTreeMap<i32, (String, i32)>,
    /// Names of columns that are true or false.
    pub(super) flags: BTreeSet<String>,
}

/// Decoded once.
pub(super) fn fixed() -> Result<&'static Fixed> {
    static FIXED: OnceLock<std::result::Result<Fixed, String>> = OnceLock::new();
    FIXED
        .get_or_init(|| Fixed::new().map_err(|error| error.to_string()))
        .as_ref()
        .map_err(|error| DataFusionError::Internal(format!("pg_catalog: {error}")))
}

impl Fixed {
    fn new() -> Result<Self> {
        let from = PgCatalogStaticTables::try_new()?;
        let whole = |table: &ArrowTable| concat_batches(&table.schema(), table.data());
        let mut rows = BTreeMap::new();
        for (name, table) in [
            ("pg_aggregate", &from.pg_aggregate),
            ("pg_am", &from.pg_am),
            ("pg_cast", &from.pg_cast),
            ("pg_language", &from.pg_language),
            ("pg_opclass", &from.pg_opclass),
            ("pg_operator", &from.pg_operator),
            ("pg_opfamily", &from.pg_opfamily),
            ("pg_proc", &from.pg_proc),
            ("pg_range", &from.pg_range),
            ("pg_tablespace", &from.pg_tablespace),
            ("pg_ts_config", &from.pg_ts_config),
            ("pg_ts_dict", &from.pg_ts_dict),
            ("pg_ts_parser", &from.pg_ts_parser),
            ("pg_ts_template", &from.pg_ts_template),
        ] {
            rows.insert(name, with_lists(&whole(table)?)?);
        }
        let types = with_lists(&plain_types(&whole(&from.pg_type)?)?)?;
        let columns: BTreeMap<&'static str, SchemaRef> =
            EMPTY.iter().chain(MADE).map(|(name, columns)| (*name, schema(columns))).collect();
        let names = type_names(&types);
        rows.insert("pg_type", types);
        let own = rows
            .iter()
            .map(|(name, batch)| (PG_CATALOG, *name, batch.schema()))
            .chain(columns.iter().map(|(name, schema)| (PG_CATALOG, *name, Arc::clone(schema))))
            .chain(information::TABLES.iter().map(|(name, columns)| (INFORMATION_SCHEMA, *name, schema(columns))));
        let schemas = rows.values().map(RecordBatch::schema).chain(columns.values().cloned());
        let is_flag = |field: &&FieldRef| field.data_type() == &DataType::Boolean;
        let flags = schemas
            .flat_map(|schema| schema.fields().iter().filter(is_flag).map(|f| f.name().clone()).collect::<Vec<_>>())
            .collect();
        let (mut classes, mut attributes) = (Vec::new(), Vec::new());
        for (schema, name, columns) in own {
            let oid = if schema == PG_CATALOG { own_oid(name) } else { oid("own", &[schema, name]) };
            let relation = Relation { oid, schema: schema.to_owned(), name: name.to_owned() };
            let kind = if schema == INFORMATION_SCHEMA { "v" } else { "r" };
            classes.push(class(&relation, kind, &columns));
            attributes.extend(attribute_rows(&relation, &columns));
        }
        Ok(Self {
            own_classes: batch(&columns["pg_class"], classes)?,
            own_attributes: batch(&columns["pg_attribute"], attributes)?,
            rows,
            columns,
            keywords: from.pg_get_keywords,
            types: names,
            flags,
        })
    }

    /// Numbers and names of PostgreSQL's own tables.
    pub(super) fn own(&self) -> impl Iterator<Item = (i32, &str)> {
        let oids = self.own_classes.column(0).as_primitive::<Int32Type>();
        let names = self.own_classes.column(1).as_string::<i32>();
        (0..oids.len()).map(move |row| (oids.value(row), names.value(row)))
    }

    /// Schema and name of each of them.
    pub(super) fn own_tables(&self) -> impl Iterator<Item = (&'static str, &'static str)> + use<'_> {
        let catalog = self.rows.keys().chain(self.columns.keys()).map(|name| (PG_CATALOG, *name));
        catalog.chain(information::TABLES.iter().map(|(name, _)| (INFORMATION_SCHEMA, *name)))
    }
}

/// Columns that are arrays in PostgreSQL and that the crate has as text, `{a,b}`.
fn with_lists(batch: &RecordBatch) -> Result<RecordBatch> {
    const TEXTS: [&str; 8] =
        ["proacl", "proconfig", "proargmodes", "proargnames", "typacl", "lanacl", "spcacl", "spcoptions"];
    let (mut fields, mut arrays) = (Vec::new(), Vec::new());
    for (field, array) in batch.schema().fields().iter().zip(batch.columns()) {
        let texts = TEXTS.contains(&field.name().as_str());
        if !texts && field.name() != "proallargtypes" {
            fields.push(Arc::clone(field));
            arrays.push(Arc::clone(array));
            continue;
        }
        let items = array.as_string::<i32>().iter().map(|text| text.and_then(array_items));
        let list: ArrayRef = if texts {
            let mut lists = ListBuilder::new(StringBuilder::new());
            for items in items {
                lists.append_option(items);
            }
            Arc::new(lists.finish())
        } else {
            let mut lists = ListBuilder::new(Int32Builder::new());
            for items in items {
                let numbers = |items: Vec<Option<String>>| {
                    items.into_iter().map(|item| item.and_then(|item| item.parse().ok())).collect::<Vec<Option<i32>>>()
                };
                lists.append_option(items.map(numbers));
            }
            Arc::new(lists.finish())
        };
        fields.push(Arc::new(Field::new(field.name(), list.data_type().clone(), true)));
        arrays.push(list);
    }
    Ok(RecordBatch::try_new(Arc::new(Schema::new(fields)), arrays)?)
}

/// `pg_type` without rows for tables and domains: no column here has such a type, and clients stumble over them.
fn plain_types(types: &RecordBatch) -> Result<RecordBatch> {
    let column = |name: &str| {
        types.column_by_name(name).ok_or_else(|| DataFusionError::Internal(format!("pg_type: no column {name}")))
    };
    let (oids, kinds) = (column("oid")?.as_primitive::<Int32Type>(), column("typtype")?.as_string::<i32>());
    let elements = column("typelem")?.as_primitive::<Int32Type>();
    let is_plain = |row: usize| !matches!(kinds.value(row), "c" | "d");
    let plain: BTreeSet<i32> = (0..types.num_rows()).filter(|row| is_plain(*row)).map(|row| oids.value(row)).collect();
    let keep: BooleanArray = (0..types.num_rows())
        .map(|row| Some(is_plain(row) && (elements.value(row) == 0 || plain.contains(&elements.value(row)))))
        .collect();
    Ok(filter_record_batch(types, &keep)?)
}

/// Name and element of each type.
fn type_names(types: &RecordBatch) -> BTreeMap<i32, (String, i32)> {
    let (Some(oids), Some(names), Some(elements)) =
        (types.column_by_name("oid"), types.column_by_name("typname"), types.column_by_name("typelem"))
    else {
        return BTreeMap::new();
    };
    let (oids, elements) = (oids.as_primitive::<Int32Type>(), elements.as_primitive::<Int32Type>());
    let names = names.as_string::<i32>();
    (0..oids.len()).map(|row| (oids.value(row), (names.value(row).to_owned(), elements.value(row)))).collect()
}

fn class(relation: &Relation, kind: &'static str, columns: &Schema) -> Row {
    let mut row: Row = vec![
        ("oid", relation.oid.into()),
        ("relname", relation.name.as_str().into()),
        ("relnamespace", schema_oid(&relation.schema).into()),
        ("relowner", OWNER_OID.into()),
        ("relfilenode", relation.oid.into()),
        // -1: never counted.
        ("reltuples", (-1).into()),
        ("relpersistence", "p".into()),
        ("relkind", kind.into()),
        ("relnatts", i64::try_from(columns.fields().len()).unwrap_or(0).into()),
        ("relispopulated", true.into()),
        ("relreplident", "n".into()),
    ];
    let zero =
        ["reltype", "reloftype", "relam", "reltablespace", "relpages", "relallvisible", "reltoastrelid", "relchecks"];
    row.extend(zero.into_iter().chain(["relrewrite", "relfrozenxid", "relminmxid"]).map(|name| (name, Cell::Int(0))));
    let no = ["relhasindex", "relisshared", "relhasrules", "relhastriggers", "relhassubclass", "relrowsecurity"];
    row.extend(no.into_iter().chain(["relforcerowsecurity", "relispartition"]).map(|name| (name, Cell::Bool(false))));
    row
}

/// Length, whether it is passed by value, alignment and storage of a type.
pub(super) fn layout(of: &Type) -> (i16, bool, &'static str, &'static str) {
    match *of {
        Type::BOOL | Type::CHAR => (1, true, "c", "p"),
        Type::INT2 => (2, true, "s", "p"),
        Type::INT4 | Type::FLOAT4 | Type::DATE | Type::OID => (4, true, "i", "p"),
        Type::INT8 | Type::FLOAT8 | Type::TIME | Type::TIMESTAMP | Type::TIMESTAMPTZ => (8, true, "d", "p"),
        Type::INTERVAL => (16, false, "d", "p"),
        Type::NUMERIC => (-1, false, "i", "m"),
        _ => (-1, false, "i", "x"),
    }
}

fn attribute_rows(relation: &Relation, columns: &Schema) -> Vec<Row> {
    let rows = columns.fields().iter().zip(1_i32..).map(|(field, number)| {
        let shown = shown_as(field.data_type());
        let (length, by_value, align, storage) = layout(&shown);
        let dimensions = i32::from(is_array(&shown));
        vec![
            ("attrelid", Cell::from(relation.oid)),
            ("attname", field.name().as_str().into()),
            ("atttypid", i64::from(shown.oid()).into()),
            ("attstattarget", (-1).into()),
            ("attlen", i32::from(length).into()),
            ("attnum", number.into()),
            ("attndims", dimensions.into()),
            ("attcacheoff", (-1).into()),
            ("atttypmod", (-1).into()),
            ("attbyval", by_value.into()),
            ("attalign", align.into()),
            ("attstorage", storage.into()),
            ("attcompression", "".into()),
            ("attnotnull", (!field.is_nullable()).into()),
            ("atthasdef", false.into()),
            ("atthasmissing", false.into()),
            ("attidentity", "".into()),
            ("attgenerated", "".into()),
            ("attisdropped", false.into()),
            ("attislocal", true.into()),
            ("attinhcount", 0.into()),
            ("attcollation", 0.into()),
        ]
    });
    rows.collect()
}

/// Whether a type is an array of others.
pub(super) fn is_array(of: &Type) -> bool {
    super::super::types::element(of).is_some()
}

/// Schema `pg_catalog` of one session.
#[derive(Debug)]
pub(super) struct PgCatalog(pub(super) Arc<State>);

#[async_trait]
impl SchemaProvider for PgCatalog {
    fn table_names(&self) -> Vec<String> {
        let Ok(fixed) = fixed() else { return Vec::new() };
        fixed.rows.keys().chain(fixed.columns.keys()).map(|name| (*name).to_owned()).collect()
    }

    fn table_exist(&self, name: &str) -> bool {
        fixed().is_ok_and(|fixed| fixed.rows.contains_key(name) || fixed.columns.contains_key(name))
    }

    async fn table(&self, name: &str) -> Result<Option<Arc<dyn TableProvider>>> {
        let fixed = fixed()?;
        if let Some(rows) = fixed.rows.get(name) {
            let rows = if name == "pg_proc" {
                concat_batches(&rows.schema(), [rows, &functions(&rows.schema(), &self.0)?])?
            } else {
                rows.clone()
            };
            return Ok(Some(table(rows)?));
        }
        let Some(columns) = fixed.columns.get(name) else { return Ok(None) };
        let made = match name {
            "pg_class" => {
                let relations = self.0.relations.columns().await?;
                let rows = relations.iter().map(|(relation, columns)| class(relation, "r", columns)).collect();
                concat_batches(columns, [&batch(columns, rows)?, &fixed.own_classes])?
            }
            "pg_attribute" => {
                let relations = self.0.relations.columns().await?;
                let rows = relations.iter().flat_map(|(relation, columns)| attribute_rows(relation, columns)).collect();
                concat_batches(columns, [&batch(columns, rows)?, &fixed.own_attributes])?
            }
            _ => batch(columns, self.0.rows(name))?,
        };
        Ok(Some(table(made)?))
    }
}

/// Rows of `pg_proc` for saequel's own functions.
fn functions(columns: &SchemaRef, state: &State) -> Result<RecordBatch> {
    let rows = state.functions.iter().map(|function| {
        vec![
            ("oid", Cell::from(function.oid)),
            ("proname", function.name.as_str().into()),
            ("pronamespace", schema_oid(PUBLIC).into()),
            ("proowner", OWNER_OID.into()),
            ("prolang", 12.into()),
            ("procost", 1.into()),
            ("prorows", if function.kind == "t" { 1000 } else { 0 }.into()),
            // The type `any`.
            ("provariadic", 2276.into()),
            ("prosupport", "-".into()),
            ("prokind", if function.kind == "a" { "a" } else { "f" }.into()),
            ("prosecdef", false.into()),
            ("proleakproof", false.into()),
            ("proisstrict", false.into()),
            ("proretset", (function.kind == "t").into()),
            ("provolatile", "s".into()),
            ("proparallel", "s".into()),
            ("pronargs", 1.into()),
            ("pronargdefaults", 0.into()),
            ("prorettype", if function.kind == "t" { 2249 } else { 2276 }.into()),
            ("proargtypes", "2276".into()),
            ("prosrc", function.name.as_str().into()),
        ]
    });
    batch(columns, rows.collect())
}

impl State {
    /// Rows of the tables that are made without opening any other.
    fn rows(&self, name: &str) -> Vec<Row> {
        match name {
            "pg_namespace" => {
                let schemas = self.relations.schemas().chain([PG_CATALOG, INFORMATION_SCHEMA]);
                let row = |name: &str| -> Row {
                    vec![("oid", schema_oid(name).into()), ("nspname", name.into()), ("nspowner", OWNER_OID.into())]
                };
                schemas.map(row).collect()
            }
            "pg_database" => vec![vec![
                ("oid", self.database_oid().into()),
                ("datname", self.database().into()),
                ("datdba", OWNER_OID.into()),
                // UTF8.
                ("encoding", 6.into()),
                ("datlocprovider", "c".into()),
                ("datistemplate", false.into()),
                ("datallowconn", true.into()),
                ("datconnlimit", (-1).into()),
                ("datfrozenxid", 0.into()),
                ("datminmxid", 0.into()),
                ("dattablespace", 1663.into()),
                ("datcollate", "C.UTF-8".into()),
                ("datctype", "C.UTF-8".into()),
            ]],
            "pg_description" => self
                .functions
                .iter()
                .filter_map(|function| {
                    let text = function.description.as_deref()?;
                    Some(vec![
                        ("objoid", function.oid.into()),
                        ("classoid", own_oid("pg_proc").into()),
                        ("objsubid", 0.into()),
                        ("description", text.into()),
                    ])
                })
                .collect(),
            "pg_roles" | "pg_authid" => self
                .roles()
                .into_iter()
                .map(|(oid, name, owner)| {
                    let mut row: Row = vec![
                        ("oid", oid.into()),
                        ("rolname", name.into()),
                        ("rolsuper", owner.into()),
                        ("rolinherit", true.into()),
                        ("rolcanlogin", (name == self.user).into()),
                        ("rolconnlimit", (-1).into()),
                    ];
                    let no = ["rolcreaterole", "rolcreatedb", "rolreplication", "rolbypassrls"];
                    row.extend(no.map(|name| (name, Cell::Bool(false))));
                    row
                })
                .collect(),
            "pg_user" | "pg_shadow" => self
                .roles()
                .into_iter()
                .map(|(oid, name, owner)| {
                    let mut row: Row = vec![("usesysid", oid.into()), ("usename", name.into())];
                    row.push(("usesuper", owner.into()));
                    row.extend(["usecreatedb", "userepl", "usebypassrls"].map(|name| (name, Cell::Bool(false))));
                    row
                })
                .collect(),
            "pg_settings" => settings::rows(self),
            "pg_stat_activity" => vec![vec![
                ("datid", self.database_oid().into()),
                ("datname", self.database().into()),
                ("pid", self.pid().into()),
                ("usename", self.user.as_str().into()),
                ("application_name", self.settings.get("application_name").unwrap_or_default().into()),
                ("state", "active".into()),
                ("backend_type", "client backend".into()),
            ]],
            "pg_stat_user_tables" | "pg_stat_all_tables" => {
                let row = |relation: &Relation| -> Row {
                    vec![
                        ("relid", relation.oid.into()),
                        ("schemaname", relation.schema.as_str().into()),
                        ("relname", relation.name.as_str().into()),
                    ]
                };
                self.relations.all().iter().map(row).collect()
            }
            "pg_tables" => {
                let own =
                    fixed().into_iter().flat_map(Fixed::own_tables).map(|(schema, name): (&str, &str)| (schema, name));
                let seen =
                    self.relations.all().iter().map(|relation| (relation.schema.as_str(), relation.name.as_str()));
                let row = |(schema, name): (&str, &str)| -> Row {
                    let mut row: Row =
                        vec![("schemaname", schema.into()), ("tablename", name.into()), ("tableowner", OWNER.into())];
                    let no = ["hasindexes", "hasrules", "hastriggers", "rowsecurity"];
                    row.extend(no.map(|name| (name, Cell::Bool(false))));
                    row
                };
                seen.chain(own).map(row).collect()
            }
            _ => Vec::new(),
        }
    }

    /// Number, name, and whether it owns everything.
    fn roles(&self) -> Vec<(i32, &str, bool)> {
        let mut roles = vec![(OWNER_OID, OWNER, true)];
        if self.user != OWNER {
            roles.push((self.user_oid(), &self.user, false));
        }
        roles
    }
}
