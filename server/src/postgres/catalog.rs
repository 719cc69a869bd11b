//! What clients look for in PostgreSQL beside their queries.

use std::sync::Arc;

use datafusion::error::Result as DFResult;
use datafusion::prelude::SessionContext;
use saequel_engine::SessionExtension;

use super::settings::SessionSettings;
use crate::error::Failure;
use crate::gate::Gate;

/// What this door adds to the session of each statement of a connection.
pub(crate) fn extension(user: &str, gate: &Gate, settings: &Arc<SessionSettings>) -> Arc<dyn SessionExtension> {
    let _ = (user, gate, settings);
    Arc::new(Extension)
}

/// Turns what only PostgreSQL understands into what the engine does.
pub(crate) fn rewrite(sql: &str) -> Result<String, Failure> {
    Ok(sql.to_owned())
}

#[derive(Debug)]
struct Extension;

impl SessionExtension for Extension {
    fn extend(&self, _session: &SessionContext) -> DFResult<()> {
        Ok(())
    }
}
