//! Schema `information_schema`: DataFusion's lacks columns that clients ask for.

use std::sync::{Arc, Weak};

use arrow::array::RecordBatch;
use arrow::datatypes::{DataType, Schema};
use async_trait::async_trait;
use datafusion::catalog::information_schema::InformationSchemaProvider;
use datafusion::catalog::{CatalogProviderList, SchemaProvider, TableProvider};
use datafusion::error::Result;
use pgwire::api::Type;

use super::super::types::shown_as;
use super::State;
use super::columns::{Cell, Row, batch, schema, table};
use super::relations::{INFORMATION_SCHEMA, PG_CATALOG, PUBLIC};
use super::tables::{OWNER, fixed, is_array};

/// Tables of the schema and their columns.
pub(super) const TABLES: &[(&str, &str)] = &[
    ("administrable_role_authorizations", "grantee text, role_name text, is_grantable text"),
    ("applicable_roles", "grantee text, role_name text, is_grantable text"),
    (
        "character_sets",
        "character_set_catalog text, character_set_schema text, character_set_name text, character_repertoire text, form_of_use text, default_collate_catalog text, default_collate_schema text, default_collate_name text",
    ),
    ("check_constraints", "constraint_catalog text, constraint_schema text, constraint_name text, check_clause text"),
    ("collations", "collation_catalog text, collation_schema text, collation_name text, pad_attribute text"),
    (
        "column_privileges",
        "grantor text, grantee text, table_catalog text, table_schema text, table_name text, column_name text, privilege_type text, is_grantable text",
    ),
    (
        "columns",
        "table_catalog text, table_schema text, table_name text, column_name text, ordinal_position int, column_default text, is_nullable text, data_type text, character_maximum_length int, character_octet_length int, numeric_precision int, numeric_precision_radix int, numeric_scale int, datetime_precision int, interval_type text, interval_precision int, character_set_catalog text, character_set_schema text, character_set_name text, collation_catalog text, collation_schema text, collation_name text, domain_catalog text, domain_schema text, domain_name text, udt_catalog text, udt_schema text, udt_name text, scope_catalog text, scope_schema text, scope_name text, maximum_cardinality int, dtd_identifier text, is_self_referencing text, is_identity text, identity_generation text, identity_start text, identity_increment text, identity_maximum text, identity_minimum text, identity_cycle text, is_generated text, generation_expression text, is_updatable text",
    ),
    (
        "constraint_column_usage",
        "table_catalog text, table_schema text, table_name text, column_name text, constraint_catalog text, constraint_schema text, constraint_name text",
    ),
    (
        "constraint_table_usage",
        "table_catalog text, table_schema text, table_name text, constraint_catalog text, constraint_schema text, constraint_name text",
    ),
    (
        "domains",
        "domain_catalog text, domain_schema text, domain_name text, data_type text, character_maximum_length int, numeric_precision int, numeric_scale int, domain_default text, udt_catalog text, udt_schema text, udt_name text, dtd_identifier text",
    ),
    (
        "element_types",
        "object_catalog text, object_schema text, object_name text, object_type text, collection_type_identifier text, data_type text, character_maximum_length int, character_octet_length int, numeric_precision int, numeric_precision_radix int, numeric_scale int, datetime_precision int, udt_catalog text, udt_schema text, udt_name text, maximum_cardinality int, dtd_identifier text",
    ),
    ("enabled_roles", "role_name text"),
    (
        "foreign_tables",
        "foreign_table_catalog text, foreign_table_schema text, foreign_table_name text, foreign_server_catalog text, foreign_server_name text",
    ),
    ("information_schema_catalog_name", "catalog_name text"),
    (
        "key_column_usage",
        "constraint_catalog text, constraint_schema text, constraint_name text, table_catalog text, table_schema text, table_name text, column_name text, ordinal_position int, position_in_unique_constraint int",
    ),
    (
        "referential_constraints",
        "constraint_catalog text, constraint_schema text, constraint_name text, unique_constraint_catalog text, unique_constraint_schema text, unique_constraint_name text, match_option text, update_rule text, delete_rule text",
    ),
    (
        "role_column_grants",
        "grantor text, grantee text, table_catalog text, table_schema text, table_name text, column_name text, privilege_type text, is_grantable text",
    ),
    (
        "role_table_grants",
        "grantor text, grantee text, table_catalog text, table_schema text, table_name text, privilege_type text, is_grantable text, with_hierarchy text",
    ),
    (
        "routine_privileges",
        "grantor text, grantee text, specific_catalog text, specific_schema text, specific_name text, routine_catalog text, routine_schema text, routine_name text, privilege_type text, is_grantable text",
    ),
    (
        "routines",
        "specific_catalog text, specific_schema text, specific_name text, routine_catalog text, routine_schema text, routine_name text, routine_type text, data_type text, type_udt_catalog text, type_udt_schema text, type_udt_name text, routine_body text, routine_definition text, external_language text, is_deterministic text, sql_data_access text, security_type text",
    ),
    (
        "schemata",
        "catalog_name text, schema_name text, schema_owner text, default_character_set_catalog text, default_character_set_schema text, default_character_set_name text, sql_path text",
    ),
    (
        "sequences",
        "sequence_catalog text, sequence_schema text, sequence_name text, data_type text, numeric_precision int, numeric_precision_radix int, numeric_scale int, start_value text, minimum_value text, maximum_value text, increment text, cycle_option text",
    ),
    (
        "sql_features",
        "feature_id text, feature_name text, sub_feature_id text, sub_feature_name text, is_supported text, is_verified_by text, comments text",
    ),
    (
        "sql_implementation_info",
        "implementation_info_id text, implementation_info_name text, integer_value int, character_value text, comments text",
    ),
    ("sql_sizing", "sizing_id int, sizing_name text, supported_value int, comments text"),
    (
        "table_constraints",
        "constraint_catalog text, constraint_schema text, constraint_name text, table_catalog text, table_schema text, table_name text, constraint_type text, is_deferrable text, initially_deferred text, enforced text, nulls_distinct text",
    ),
    (
        "table_privileges",
        "grantor text, grantee text, table_catalog text, table_schema text, table_name text, privilege_type text, is_grantable text, with_hierarchy text",
    ),
    (
        "tables",
        "table_catalog text, table_schema text, table_name text, table_type text, self_referencing_column_name text, reference_generation text, user_defined_type_catalog text, user_defined_type_schema text, user_defined_type_name text, is_insertable_into text, is_typed text, commit_action text",
    ),
    (
        "triggers",
        "trigger_catalog text, trigger_schema text, trigger_name text, event_manipulation text, event_object_catalog text, event_object_schema text, event_object_table text, action_order int, action_condition text, action_statement text, action_orientation text, action_timing text, created time",
    ),
    (
        "udt_privileges",
        "grantor text, grantee text, udt_catalog text, udt_schema text, udt_name text, privilege_type text, is_grantable text",
    ),
    (
        "usage_privileges",
        "grantor text, grantee text, object_catalog text, object_schema text, object_name text, object_type text, privilege_type text, is_grantable text",
    ),
    (
        "user_defined_types",
        "user_defined_type_catalog text, user_defined_type_schema text, user_defined_type_name text, user_defined_type_category text, is_instantiable text, data_type text",
    ),
    (
        "view_column_usage",
        "view_catalog text, view_schema text, view_name text, table_catalog text, table_schema text, table_name text, column_name text",
    ),
    (
        "view_table_usage",
        "view_catalog text, view_schema text, view_name text, table_catalog text, table_schema text, table_name text",
    ),
    (
        "views",
        "table_catalog text, table_schema text, table_name text, view_definition text, check_option text, is_updatable text, is_insertable_into text, is_trigger_updatable text, is_trigger_deletable text, is_trigger_insertable_into text",
    ),
];

/// Tables of DataFusion's that have no counterpart above.
const OF_DATAFUSION: [&str; 2] = ["df_settings", "parameters"];

/// Schema `information_schema` of one session.
#[derive(Debug)]
pub(super) struct InformationSchema {
    pub(super) state: Arc<State>,
    /// Weak: this schema is in it.
    pub(super) catalogs: Weak<dyn CatalogProviderList>,
}

#[async_trait]
impl SchemaProvider for InformationSchema {
    fn table_names(&self) -> Vec<String> {
        let names = TABLES.iter().map(|(name, _)| *name);
        names.chain(OF_DATAFUSION).map(str::to_owned).collect()
    }

    fn table_exist(&self, name: &str) -> bool {
        OF_DATAFUSION.contains(&name) || TABLES.iter().any(|(known, _)| *known == name)
    }

    async fn table(&self, name: &str) -> Result<Option<Arc<dyn TableProvider>>> {
        let Some((name, columns)) = TABLES.iter().find(|(known, _)| *known == name) else {
            let Some(catalogs) = self.catalogs.upgrade().filter(|_| OF_DATAFUSION.contains(&name)) else {
                return Ok(None);
            };
            return InformationSchemaProvider::new(catalogs).table(name).await;
        };
        let columns = schema(columns);
        let rows = match *name {
            "columns" => {
                let mut rows = Vec::new();
                for (relation, columns) in self.state.relations.columns().await? {
                    rows.extend(self.columns(&relation.schema, &relation.name, &columns));
                }
                for (name, columns) in TABLES {
                    rows.extend(self.columns(INFORMATION_SCHEMA, name, &schema(columns)));
                }
                rows
            }
            other => self.rows(other),
        };
        let made: RecordBatch = batch(&columns, rows)?;
        Ok(Some(table(made)?))
    }
}

impl InformationSchema {
    fn catalog(&self) -> Cell {
        self.state.database().into()
    }

    /// Schema and name of every table.
    fn relations(&self) -> impl Iterator<Item = (&str, &str)> {
        let own = fixed()
            .into_iter()
            .flat_map(super::tables::Fixed::own_tables)
            .map(|(schema, name): (&str, &str)| (schema, name));
        let seen = self.state.relations.all().iter().map(|relation| (relation.schema.as_str(), relation.name.as_str()));
        seen.chain(own)
    }

    fn rows(&self, name: &str) -> Vec<Row> {
        match name {
            "tables" => self
                .relations()
                .map(|(schema, name)| {
                    let of = if schema == INFORMATION_SCHEMA { "VIEW" } else { "BASE TABLE" };
                    vec![
                        ("table_catalog", self.catalog()),
                        ("table_schema", schema.into()),
                        ("table_name", name.into()),
                        ("table_type", of.into()),
                        ("is_insertable_into", "NO".into()),
                        ("is_typed", "NO".into()),
                    ]
                })
                .collect(),
            "table_privileges" | "role_table_grants" => self
                .relations()
                .map(|(schema, name)| {
                    vec![
                        ("grantor", OWNER.into()),
                        ("grantee", self.state.user.as_str().into()),
                        ("table_catalog", self.catalog()),
                        ("table_schema", schema.into()),
                        ("table_name", name.into()),
                        ("privilege_type", "SELECT".into()),
                        ("is_grantable", "NO".into()),
                        ("with_hierarchy", "NO".into()),
                    ]
                })
                .collect(),
            "schemata" => self
                .state
                .relations
                .schemas()
                .chain([PG_CATALOG, INFORMATION_SCHEMA])
                .map(|schema| {
                    vec![
                        ("catalog_name", self.catalog()),
                        ("schema_name", schema.into()),
                        ("schema_owner", OWNER.into()),
                    ]
                })
                .collect(),
            "information_schema_catalog_name" => vec![vec![("catalog_name", self.catalog())]],
            "enabled_roles" => vec![vec![("role_name", self.state.user.as_str().into())]],
            "character_sets" => vec![vec![
                ("character_set_name", "UTF8".into()),
                ("character_repertoire", "UCS".into()),
                ("form_of_use", "UTF8".into()),
                ("default_collate_catalog", self.catalog()),
                ("default_collate_schema", PG_CATALOG.into()),
                ("default_collate_name", "C.UTF-8".into()),
            ]],
            "sql_implementation_info" => vec![
                vec![
                    ("implementation_info_id", "17".into()),
                    ("implementation_info_name", "DBMS NAME".into()),
                    ("character_value", "PostgreSQL".into()),
                ],
                vec![
                    ("implementation_info_id", "18".into()),
                    ("implementation_info_name", "DBMS VERSION".into()),
                    ("character_value", super::super::settings::SERVER_VERSION.into()),
                ],
            ],
            // Everybody may call the functions.
            "routine_privileges" => self
                .state
                .functions
                .iter()
                .map(|function| {
                    vec![
                        ("grantor", OWNER.into()),
                        ("grantee", "PUBLIC".into()),
                        ("routine_catalog", self.catalog()),
                        ("routine_schema", PUBLIC.into()),
                        ("routine_name", function.name.as_str().into()),
                        ("privilege_type", "EXECUTE".into()),
                        ("is_grantable", "NO".into()),
                    ]
                })
                .collect(),
            "routines" => self
                .state
                .functions
                .iter()
                .map(|function| {
                    let mut row: Row = vec![
                        ("specific_catalog", self.catalog()),
                        ("specific_schema", PUBLIC.into()),
                        ("specific_name", format!("{}_{}", function.name, function.oid).into()),
                        ("routine_catalog", self.catalog()),
                        ("routine_schema", PUBLIC.into()),
                        ("routine_name", function.name.as_str().into()),
                        ("data_type", if function.kind == "t" { "record" } else { "USER-DEFINED" }.into()),
                        ("type_udt_catalog", self.catalog()),
                        ("type_udt_schema", PG_CATALOG.into()),
                        ("type_udt_name", if function.kind == "t" { "record" } else { "any" }.into()),
                        ("routine_body", "EXTERNAL".into()),
                        ("external_language", "C".into()),
                        ("is_deterministic", "YES".into()),
                        ("sql_data_access", "READS".into()),
                        ("security_type", "INVOKER".into()),
                    ];
                    // An aggregate has none, as in PostgreSQL.
                    if function.kind != "a" {
                        row.push(("routine_type", "FUNCTION".into()));
                    }
                    row
                })
                .collect(),
            _ => Vec::new(),
        }
    }

    fn columns(&self, schema: &str, table: &str, columns: &Schema) -> Vec<Row> {
        let rows = columns.fields().iter().zip(1_i32..).map(|(field, position)| {
            let shown = shown_as(field.data_type());
            let array = is_array(&shown);
            let (precision, radix, scale) = match shown {
                Type::INT2 => (Some(16), Some(2), Some(0)),
                Type::INT4 => (Some(32), Some(2), Some(0)),
                Type::INT8 => (Some(64), Some(2), Some(0)),
                Type::FLOAT4 => (Some(24), Some(2), None),
                Type::FLOAT8 => (Some(53), Some(2), None),
                Type::NUMERIC => match field.data_type() {
                    DataType::Decimal128(precision, scale) | DataType::Decimal256(precision, scale) => {
                        (Some(i32::from(*precision)), Some(10), Some(i32::from(*scale)))
                    }
                    _ => (None, Some(10), None),
                },
                _ => (None, None, None),
            };
            let is_time = matches!(shown, Type::TIMESTAMP | Type::TIMESTAMPTZ | Type::TIME | Type::INTERVAL);
            let fraction = if is_time { Some(6) } else { (shown == Type::DATE).then_some(0) };
            let data_type =
                if array { "ARRAY".to_owned() } else { super::functions::format_type(shown.oid().cast_signed(), -1) };
            vec![
                ("table_catalog", self.catalog()),
                ("table_schema", schema.into()),
                ("table_name", table.into()),
                ("column_name", field.name().as_str().into()),
                ("ordinal_position", position.into()),
                ("is_nullable", if field.is_nullable() { "YES" } else { "NO" }.into()),
                ("data_type", data_type.into()),
                ("numeric_precision", precision.into()),
                ("numeric_precision_radix", radix.into()),
                ("numeric_scale", scale.into()),
                ("datetime_precision", fraction.into()),
                ("udt_catalog", self.catalog()),
                ("udt_schema", PG_CATALOG.into()),
                ("udt_name", shown.name().into()),
                ("dtd_identifier", position.to_string().into()),
                ("is_self_referencing", "NO".into()),
                ("is_identity", "NO".into()),
                ("identity_cycle", "NO".into()),
                ("is_generated", "NEVER".into()),
                ("is_updatable", "NO".into()),
            ]
        });
        rows.collect()
    }
}
