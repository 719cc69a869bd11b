//! `GetSqlInfo`: every number of the standard has a value here, since some clients break at the first that is missing.

use std::collections::{BTreeMap, BTreeSet};

use arrow::array::RecordBatch;
use arrow_flight::sql::metadata::SqlInfoDataBuilder;
use arrow_flight::sql::{self, CommandGetSqlInfo, SqlInfo, SqlSupportsConvert};
use datafusion::functions;
use datafusion::logical_expr::ScalarUDF;
use datafusion::sql::sqlparser::keywords::ALL_KEYWORDS;

use super::metadata::{built, select};
use super::prepared;
use crate::error::Result;
use crate::gate::{Gate, Scope, Visitor};
use crate::options::ServeOptions;

/// Words of our own statements, beside those of SQL.
const OWN_KEYWORDS: [&str; 6] = ["COMPACT", "CONCEPT", "CONCEPTS", "CORPORA", "CORPUS", "FEATURE"];

/// Answers `GetSqlInfo`: the numbers that are asked for, or all.
///
/// # Errors
/// As [`Gate::run`].
pub(super) async fn answer(gate: &Gate, visitor: &Visitor, command: &CommandGetSqlInfo) -> Result<RecordBatch> {
    let lists_functions = command.info.is_empty() || command.info.contains(&(SqlInfo::SqlSystemFunctions as u32));
    let others = match lists_functions {
        true => {
            let statement = "SELECT DISTINCT routine_name FROM information_schema.routines";
            select::<1>(gate, visitor, statement).await?.into_iter().map(|[name]| name).collect()
        }
        false => Vec::new(),
    };
    let read_only = !gate.options().write || gate.still(visitor)?.scope < Scope::Write;
    let infos = all(gate.options(), read_only, others).build().map_err(built)?;
    infos.record_batch(command.info.iter().copied()).map_err(built)
}

/// A bit for each number.
fn bits(numbers: &[i32]) -> i32 {
    numbers.iter().fold(0, |mask, number| mask | 1 << number)
}

fn names(packages: &[Vec<std::sync::Arc<ScalarUDF>>]) -> BTreeSet<String> {
    let functions = packages.iter().flatten();
    functions
        .flat_map(|function| std::iter::once(function.name()).chain(function.aliases().iter().map(String::as_str)))
        .map(str::to_owned)
        .collect()
}

/// Every value. `routines` are the functions that SQL knows.
fn all(options: &ServeOptions, read_only: bool, routines: Vec<String>) -> SqlInfoDataBuilder {
    use SqlInfo::*;
    let mut infos = SqlInfoDataBuilder::new();
    infos.append(FlightSqlServerName, "saequel");
    infos.append(FlightSqlServerVersion, env!("CARGO_PKG_VERSION"));
    infos.append(FlightSqlServerArrowVersion, "1.5"); // of the columnar format
    infos.append(FlightSqlServerReadOnly, read_only);
    infos.append(FlightSqlServerSql, true);
    infos.append(FlightSqlServerSubstrait, false);
    infos.append(FlightSqlServerSubstraitMinVersion, "");
    infos.append(FlightSqlServerSubstraitMaxVersion, "");
    infos.append(FlightSqlServerTransaction, sql::SqlSupportedTransaction::None as i32);
    infos.append(FlightSqlServerCancel, true);
    infos.append(FlightSqlServerBulkIngestion, false);
    infos.append(FlightSqlServerIngestTransactionsSupported, false);
    infos.append(FlightSqlServerStatementTimeout, i32::try_from(prepared::IDLE.as_millis()).unwrap_or(i32::MAX));
    infos.append(FlightSqlServerTransactionTimeout, 0);

    infos.append(SqlDdlCatalog, false);
    infos.append(SqlDdlSchema, false);
    infos.append(SqlDdlTable, false);
    infos.append(SqlIdentifierCase, sql::SqlSupportedCaseSensitivity::SqlCaseSensitivityLowercase as i32);
    infos.append(SqlIdentifierQuoteChar, "\"");
    // "Unknown" is the standard's word for: as it is written.
    infos.append(SqlQuotedIdentifierCase, sql::SqlSupportedCaseSensitivity::SqlCaseSensitivityUnknown as i32);
    infos.append(SqlAllTablesAreSelectable, true);
    infos.append(SqlNullOrdering, sql::SqlNullOrdering::SqlNullsSortedHigh as i32);

    let numeric = names(&[functions::math::functions()]);
    let string = names(&[
        functions::string::functions(),
        functions::unicode::functions(),
        functions::regex::functions(),
        functions::encoding::functions(),
    ]);
    let datetime = names(&[functions::datetime::functions()]);
    let elsewhere = |name: &String| numeric.contains(name) || string.contains(name) || datetime.contains(name);
    let system: BTreeSet<String> = routines.into_iter().filter(|name| !elsewhere(name)).collect();
    let keywords: BTreeSet<&str> = ALL_KEYWORDS.iter().chain(&OWN_KEYWORDS).copied().collect();
    let list = |names: BTreeSet<String>| names.into_iter().collect::<Vec<String>>();
    infos.append(SqlKeywords, keywords.into_iter().map(str::to_owned).collect::<Vec<String>>());
    infos.append(SqlNumericFunctions, list(numeric));
    infos.append(SqlStringFunctions, list(string));
    infos.append(SqlSystemFunctions, list(system));
    infos.append(SqlDatetimeFunctions, list(datetime));

    infos.append(SqlSearchStringEscape, "\\");
    infos.append(SqlExtraNameCharacters, "");
    infos.append(SqlSupportsColumnAliasing, true);
    infos.append(SqlNullPlusNullIsNull, true);
    infos.append(SqlSupportsConvert, conversions());
    infos.append(SqlSupportsTableCorrelationNames, true);
    infos.append(SqlSupportsDifferentTableCorrelationNames, false);
    infos.append(SqlSupportsExpressionsInOrderBy, true);
    infos.append(SqlSupportsOrderByUnrelated, true);
    let group_by =
        [sql::SqlSupportedGroupBy::SqlGroupByUnrelated as i32, sql::SqlSupportedGroupBy::SqlGroupByBeyondSelect as i32];
    infos.append(SqlSupportedGroupBy, bits(&group_by));
    infos.append(SqlSupportsLikeEscapeClause, true);
    infos.append(SqlSupportsNonNullableColumns, false);
    let grammar = [sql::SupportedSqlGrammar::SqlMinimumGrammar as i32, sql::SupportedSqlGrammar::SqlCoreGrammar as i32];
    infos.append(SqlSupportedGrammar, bits(&grammar));
    infos.append(SqlAnsi92SupportedLevel, bits(&[0])); // the entry level
    infos.append(SqlSupportsIntegrityEnhancementFacility, false);
    // The standard says one number, and the JDBC driver reads bits.
    let joins = [
        sql::SqlOuterJoinsSupportLevel::SqlLimitedOuterJoins as i32,
        sql::SqlOuterJoinsSupportLevel::SqlFullOuterJoins as i32,
    ];
    infos.append(SqlOuterJoinsSupportLevel, bits(&joins));
    infos.append(SqlSchemaTerm, "schema");
    infos.append(SqlProcedureTerm, "function");
    infos.append(SqlCatalogTerm, "database");
    infos.append(SqlCatalogAtStart, true);
    infos.append(SqlSchemasSupportedActions, 0);
    infos.append(SqlCatalogsSupportedActions, 0);
    infos.append(SqlSupportedPositionedCommands, 0);
    infos.append(SqlSelectForUpdateSupported, false);
    infos.append(SqlStoredProceduresSupported, false);
    let subqueries = [
        sql::SqlSupportedSubqueries::SqlSubqueriesInComparisons as i32,
        sql::SqlSupportedSubqueries::SqlSubqueriesInExists as i32,
        sql::SqlSupportedSubqueries::SqlSubqueriesInIns as i32,
    ];
    infos.append(SqlSupportedSubqueries, bits(&subqueries));
    infos.append(SqlCorrelatedSubqueriesSupported, true);
    let unions = [sql::SqlSupportedUnions::SqlUnion as i32, sql::SqlSupportedUnions::SqlUnionAll as i32];
    infos.append(SqlSupportedUnions, bits(&unions));

    let limit = |limit: usize| i64::try_from(limit).unwrap_or(i64::MAX);
    for unlimited in [
        SqlMaxBinaryLiteralLength,
        SqlMaxCharLiteralLength,
        SqlMaxColumnNameLength,
        SqlMaxColumnsInGroupBy,
        SqlMaxColumnsInIndex,
        SqlMaxColumnsInOrderBy,
        SqlMaxColumnsInSelect,
        SqlMaxColumnsInTable,
        SqlMaxCursorNameLength,
        SqlMaxIndexLength,
        SqlDbSchemaNameLength,
        SqlMaxProcedureNameLength,
        SqlMaxCatalogNameLength,
        SqlMaxRowSize,
        SqlMaxStatements,
        SqlMaxTableNameLength,
        SqlMaxTablesInSelect,
        SqlMaxUsernameLength,
    ] {
        infos.append(unlimited, 0_i64);
    }
    infos.append(SqlMaxConnections, limit(options.max_connections));
    infos.append(SqlMaxStatementLength, limit(options.max_body_bytes));
    infos.append(SqlMaxRowSizeIncludesBlobs, true);

    // A 64-bit number, because the JDBC driver reads one.
    infos.append(
        SqlDefaultTransactionIsolation,
        i64::from(sql::SqlTransactionIsolationLevel::SqlTransactionNone as i32),
    );
    infos.append(SqlTransactionsSupported, false);
    let levels = [sql::SqlTransactionIsolationLevel::SqlTransactionNone as i32];
    infos.append(SqlSupportedTransactionsIsolationLevels, bits(&levels));
    infos.append(SqlDataDefinitionCausesTransactionCommit, false);
    infos.append(SqlDataDefinitionsInTransactionsIgnored, false);
    let forward = [
        sql::SqlSupportedResultSetType::SqlResultSetTypeUnspecified as i32,
        sql::SqlSupportedResultSetType::SqlResultSetTypeForwardOnly as i32,
    ];
    infos.append(SqlSupportedResultSetTypes, bits(&forward));
    let concurrency = bits(&[
        sql::SqlSupportedResultSetConcurrency::SqlResultSetConcurrencyUnspecified as i32,
        sql::SqlSupportedResultSetConcurrency::SqlResultSetConcurrencyReadOnly as i32,
    ]);
    infos.append(SqlSupportedConcurrenciesForResultSetUnspecified, concurrency);
    infos.append(SqlSupportedConcurrenciesForResultSetForwardOnly, concurrency);
    infos.append(SqlSupportedConcurrenciesForResultSetScrollSensitive, 0);
    infos.append(SqlSupportedConcurrenciesForResultSetScrollInsensitive, 0);
    infos.append(SqlBatchUpdatesSupported, true);
    infos.append(SqlSavepointsSupported, false);
    infos.append(SqlNamedParametersSupported, false); // in calls of procedures
    infos.append(SqlLocatorsUpdateCopy, false);
    infos.append(SqlStoredFunctionsUsingCallSyntaxSupported, false);
    infos
}

/// Which types CAST turns into which.
fn conversions() -> BTreeMap<i32, Vec<i32>> {
    use SqlSupportsConvert::*;
    let numbers = [
        SqlConvertBigint,
        SqlConvertBit,
        SqlConvertDecimal,
        SqlConvertFloat,
        SqlConvertInteger,
        SqlConvertNumeric,
        SqlConvertReal,
        SqlConvertSmallint,
        SqlConvertTinyint,
    ];
    let texts = [SqlConvertChar, SqlConvertLongvarchar, SqlConvertVarchar];
    let bytes = [SqlConvertBinary, SqlConvertLongvarbinary, SqlConvertVarbinary];
    let moments = [SqlConvertDate, SqlConvertTimestamp];
    let codes = |groups: &[&[SqlSupportsConvert]]| -> Vec<i32> {
        groups.iter().flat_map(|group| group.iter()).map(|code| *code as i32).collect()
    };
    let mut map = BTreeMap::new();
    let mut add = |from: &[SqlSupportsConvert], to: Vec<i32>| {
        map.extend(from.iter().map(|code| (*code as i32, to.clone())));
    };
    add(&numbers, codes(&[&numbers, &texts]));
    add(&texts, codes(&[&numbers, &texts, &bytes, &moments, &[SqlConvertTime]]));
    add(&bytes, codes(&[&bytes, &texts]));
    add(&moments, codes(&[&moments, &texts]));
    add(&[SqlConvertTime], codes(&[&[SqlConvertTime], &texts]));
    map
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_number_has_a_value() {
        let infos = all(&ServeOptions::default(), true, vec!["has_feature".to_owned()]).build().unwrap();
        let mut count = 0;
        for number in 0..1000 {
            let there = infos.record_batch([number as u32]).unwrap().num_rows() == 1;
            let wanted = SqlInfo::try_from(number).is_ok();
            assert_eq!(there, wanted, "{number}");
            count += usize::from(wanted);
        }
        assert_eq!(infos.record_batch([]).unwrap().num_rows(), count);
        assert!(count > 90);
    }
}
