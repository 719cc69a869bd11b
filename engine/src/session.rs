//! One recipe for a SQL session: memory pool, functions, tables; and [`Engine::sql`], the one query path.

use datafusion::physical_plan::SendableRecordBatchStream;

use crate::engine::Engine;
use crate::error::Result;

impl Engine {
    /// Runs one SQL statement (a query or one of saequel's own statements) and streams its result.
    ///
    /// # Errors
    /// [`crate::ErrorKind::Query`] for what the statement gets wrong (with line and column where known),
    /// [`crate::ErrorKind::NotFound`] for unknown names, [`crate::ErrorKind::Denied`] for a write on a read-only engine.
    /// Errors while streaming carry the same in [`crate::Error::from`] of the DataFusion error.
    pub async fn sql(&self, statement: &str) -> Result<SendableRecordBatchStream> {
        let _ = statement;
        todo!("owner of session")
    }
}
