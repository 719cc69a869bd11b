//! Which relations a session sees, and their numbers.

use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};

use arrow::datatypes::SchemaRef;
use datafusion::catalog::{CatalogProvider, SchemaProvider};
use datafusion::error::Result;

/// Schema of PostgreSQL's own tables.
pub(super) const PG_CATALOG: &str = "pg_catalog";
/// Schema of the standard's tables.
pub(super) const INFORMATION_SCHEMA: &str = "information_schema";
/// How this door calls the schema of corpora.
pub(super) const PUBLIC: &str = "public";
/// Schema of what the database knows of itself.
const SYSTEM: &str = "saequel";

/// First number that PostgreSQL gives to what is not its own.
const FIRST_OID: u32 = 16_384;

/// A table, as far as it is known without opening it.
#[derive(Debug, Clone)]
pub(super) struct Relation {
    pub(super) oid: i32,
    pub(super) schema: String,
    pub(super) name: String,
}

/// What one session sees.
#[derive(Debug)]
pub(super) struct Relations {
    schemas: Vec<(String, Arc<dyn SchemaProvider>)>,
    /// Sorted by schema and name; listed when first needed.
    listed: OnceLock<Vec<Relation>>,
}

impl Relations {
    /// The schemas of `catalog` without those that this door adds: holding these would hold the session by itself.
    pub(super) fn of(catalog: &dyn CatalogProvider) -> Self {
        let schemas = catalog.schema_names().into_iter().filter_map(|name| {
            let ours = matches!(name.as_str(), PG_CATALOG | INFORMATION_SCHEMA);
            let schema = if ours { None } else { catalog.schema(&name) };
            schema.map(|schema| (name, schema))
        });
        Self { schemas: schemas.collect(), listed: OnceLock::new() }
    }

    /// Names of the schemas.
    pub(super) fn schemas(&self) -> impl Iterator<Item = &str> {
        self.schemas.iter().map(|(name, _)| name.as_str())
    }

    /// All tables but PostgreSQL's own.
    pub(super) fn all(&self) -> &[Relation] {
        self.listed.get_or_init(|| {
            let mut relations = Vec::new();
            for (schema, provider) in &self.schemas {
                for name in provider.table_names() {
                    relations.push(Relation { oid: oid("relation", &[schema, &name]), schema: schema.clone(), name });
                }
            }
            relations.sort_by(|a, b| (&a.schema, &a.name).cmp(&(&b.schema, &b.name)));
            relations
        })
    }

    /// Columns of each table. A corpus that was dropped meanwhile is left out.
    pub(super) async fn columns(&self) -> Result<Vec<(Relation, SchemaRef)>> {
        // Tables of the system schema are filled when they are opened, and their columns do not depend on the database.
        static SYSTEM_COLUMNS: Mutex<BTreeMap<String, SchemaRef>> = Mutex::new(BTreeMap::new());
        let mut columns = Vec::new();
        for relation in self.all() {
            if relation.schema == SYSTEM {
                let known = SYSTEM_COLUMNS.lock().unwrap_or_else(PoisonError::into_inner).get(&relation.name).cloned();
                if let Some(schema) = known {
                    columns.push((relation.clone(), schema));
                    continue;
                }
            }
            let Some((_, provider)) = self.schemas.iter().find(|(name, _)| *name == relation.schema) else { continue };
            let Some(table) = provider.table(&relation.name).await? else { continue };
            if relation.schema == SYSTEM {
                let mut known = SYSTEM_COLUMNS.lock().unwrap_or_else(PoisonError::into_inner);
                known.insert(relation.name.clone(), table.schema());
            }
            columns.push((relation.clone(), table.schema()));
        }
        Ok(columns)
    }
}

/// The number of a schema.
pub(super) fn schema_oid(name: &str) -> i32 {
    match name {
        PG_CATALOG => 11,
        PUBLIC => 2200,
        INFORMATION_SCHEMA => 13_000,
        other => oid("schema", &[other]),
    }
}

/// A number for something named, the same for as long as the process runs, and nearly always also after that.
pub(super) fn oid(kind: &str, name: &[&str]) -> i32 {
    static GIVEN: OnceLock<Mutex<HashMap<u32, String>>> = OnceLock::new();
    let key = format!("{kind} {}", name.join("\0"));
    let mut given = GIVEN.get_or_init(Mutex::default).lock().unwrap_or_else(PoisonError::into_inner);
    // FNV-1a.
    let mut hash = key.bytes().fold(0x811c_9dc5_u32, |hash, byte| (hash ^ u32::from(byte)).wrapping_mul(0x0100_0193));
    loop {
        let number = FIRST_OID + hash % (1 << 30);
        match given.get(&number) {
            Some(taken) if *taken != key => hash = hash.wrapping_add(1),
            Some(_) => break,
            None => {
                given.insert(number, key);
                break;
            }
        }
    }
    i32::try_from(FIRST_OID + hash % (1 << 30)).unwrap_or(i32::MAX)
}

/// The number of one of PostgreSQL's own tables: the real one where clients know it by heart.
pub(super) fn own_oid(name: &str) -> i32 {
    const KNOWN: &[(&str, i32)] = &[
        ("pg_type", 1247),
        ("pg_attribute", 1249),
        ("pg_proc", 1255),
        ("pg_class", 1259),
        ("pg_authid", 1260),
        ("pg_auth_members", 1261),
        ("pg_database", 1262),
        ("pg_tablespace", 1213),
        ("pg_foreign_server", 1417),
        ("pg_user_mapping", 1418),
        ("pg_sequence", 2224),
        ("pg_foreign_data_wrapper", 2328),
        ("pg_shdescription", 2396),
        ("pg_am", 2601),
        ("pg_attrdef", 2604),
        ("pg_cast", 2605),
        ("pg_constraint", 2606),
        ("pg_conversion", 2607),
        ("pg_depend", 2608),
        ("pg_description", 2609),
        ("pg_index", 2610),
        ("pg_inherits", 2611),
        ("pg_language", 2612),
        ("pg_namespace", 2615),
        ("pg_opclass", 2616),
        ("pg_operator", 2617),
        ("pg_rewrite", 2618),
        ("pg_statistic", 2619),
        ("pg_trigger", 2620),
        ("pg_extension", 3079),
        ("pg_foreign_table", 3118),
        ("pg_policy", 3256),
        ("pg_statistic_ext", 3381),
        ("pg_collation", 3456),
        ("pg_event_trigger", 3466),
        ("pg_enum", 3501),
        ("pg_range", 3541),
        ("pg_ts_config", 3602),
        ("pg_subscription", 6100),
        ("pg_publication", 6104),
    ];
    KNOWN.iter().find(|(known, _)| *known == name).map_or_else(|| oid("own", &[name]), |(_, oid)| *oid)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_stable_and_differ() {
        let first = oid("relation", &["public", "answers"]);
        assert_eq!(first, oid("relation", &["public", "answers"]));
        assert_ne!(first, oid("relation", &["stored", "answers"]));
        assert!(first >= 16_384);
        assert_eq!(own_oid("pg_class"), 1259);
    }
}
