//! Brings the catalog of an older database up to the layout that the engine writes.
//!
//! A layout version covers the catalog tables, the stored columns of a corpus and the places of the files. A step sees the
//! catalog tables ([`CatalogTables`]); the first one that has to change a corpus or to move a file adds what it needs to
//! that trait.
//!
//! This crate knows frozen copies of the layouts (one module each, such as [`v1`]) and steps from one to the next; it uses
//! no constant of the engine, so that a change there cannot silently change what an old database meant.
//!
//! A new version takes three things: a module `vN` with its layout, a step `v(N-1)_to_vN`, and a fixture under
//! `fixtures/` made by the last release that wrote the old layout.

pub mod v1;
mod v1_to_v2;
pub mod v2;
mod v2_to_v3;
pub mod v3;

use arrow::array::RecordBatch;
use async_trait::async_trait;

/// The layout that the engine writes.
pub const CURRENT_VERSION: u32 = 3;
/// The oldest layout that can still be brought up to date.
pub const OLDEST_VERSION: u32 = 1;

/// Why a database cannot be brought to [`CURRENT_VERSION`].
#[derive(Debug, thiserror::Error)]
pub enum MigrationError {
    /// Written by a newer program.
    #[error(
        "the database has layout version {found}, this saequel knows versions {OLDEST_VERSION} to {CURRENT_VERSION}: \
         it was written by a newer saequel ({written_by}), install that version or a later one"
    )]
    TooNew {
        /// Version of the database.
        found: u32,
        /// Who wrote it.
        written_by: String,
    },
    /// Written by a program that is too old.
    #[error(
        "the database has layout version {found}, this saequel knows versions {OLDEST_VERSION} to {CURRENT_VERSION}: \
         open it with an older saequel first, which brings it to a version in between"
    )]
    TooOld {
        /// Version of the database.
        found: u32,
    },
    /// A table could not be read or written.
    #[error("upgrading catalog table '{table}' from layout version {from}")]
    Table {
        /// Table.
        table: String,
        /// Version that was being left.
        from: u32,
        /// Cause.
        source: Box<dyn std::error::Error + Send + Sync>,
    },
}

/// Catalog tables as a step sees them. Nothing that is written shows before the caller commits the whole upgrade.
#[async_trait]
pub trait CatalogTables: Send {
    /// All rows of a table; `None` if there is no such table.
    ///
    /// # Errors
    /// If it cannot be read.
    async fn read(&mut self, table: &str) -> Result<Option<RecordBatch>, Box<dyn std::error::Error + Send + Sync>>;

    /// Replaces all rows of a table, or makes it.
    ///
    /// # Errors
    /// If it cannot be written.
    async fn write(&mut self, table: &str, rows: RecordBatch) -> Result<(), Box<dyn std::error::Error + Send + Sync>>;
}

/// What has to happen to a database of version `found`.
///
/// # Errors
/// [`MigrationError::TooNew`] or [`MigrationError::TooOld`] if nothing can.
pub fn judge(found: u32, written_by: &str) -> Result<Judgement, MigrationError> {
    match found {
        CURRENT_VERSION => Ok(Judgement::Current),
        newer if newer > CURRENT_VERSION => {
            Err(MigrationError::TooNew { found: newer, written_by: written_by.to_owned() })
        }
        older if older < OLDEST_VERSION => Err(MigrationError::TooOld { found: older }),
        _ => Ok(Judgement::NeedsUpgrade),
    }
}

/// Answer of [`judge`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Judgement {
    /// Nothing to do.
    Current,
    /// [`upgrade`] has to run, under the write lock.
    NeedsUpgrade,
}

/// Runs the steps from version `found` to [`CURRENT_VERSION`]; returns the version reached.
///
/// # Errors
/// As [`judge`], and [`MigrationError::Table`]; the caller then commits nothing and the database stays as it was.
pub async fn upgrade(found: u32, written_by: &str, tables: &mut dyn CatalogTables) -> Result<u32, MigrationError> {
    judge(found, written_by)?;
    // One step a version, each leaving one for the next.
    if found < 2 {
        v1_to_v2::run(tables).await?;
    }
    if found < 3 {
        v2_to_v3::run(tables).await?;
    }
    Ok(CURRENT_VERSION)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn newer_and_older_layouts_are_refused_with_the_way_out() {
        let newer = judge(CURRENT_VERSION + 1, "saequel 9.0.0").unwrap_err().to_string();
        assert!(newer.contains("written by a newer saequel (saequel 9.0.0)"), "{newer}");
        let older = judge(OLDEST_VERSION - 1, "").unwrap_err().to_string();
        assert!(older.contains("open it with an older saequel first"), "{older}");
        assert_eq!(judge(CURRENT_VERSION, "").unwrap(), Judgement::Current);
    }
}
