//! Statements that the connection answers without the engine: transactions, settings, what it keeps.

use pgwire::messages::response::TransactionStatus;

use super::super::error::{Report, Result, Trouble};
use super::super::statement::Command;
use super::{Connection, no_cursor, no_statement};

impl Connection {
    fn warn(&mut self, sqlstate: &'static str, message: &str) -> Result<()> {
        self.wire.put(&Report::warning(sqlstate, message).notice())
    }

    /// What changes the connection and needs no engine; the tag.
    pub(super) fn control(&mut self, command: &Command) -> Result<String> {
        let in_transaction = self.status != TransactionStatus::Idle;
        let no_transaction =
            |what: &str| Trouble::new("25P01", format!("{what} can only be used in transaction blocks"));
        Ok(match command {
            Command::Begin(modes) => {
                if in_transaction {
                    self.warn("25001", "there is already a transaction in progress")?;
                } else {
                    self.begin_transaction();
                }
                for (name, value) in modes {
                    self.settings.set(name, value)?;
                }
                "BEGIN".to_owned()
            }
            Command::Commit { chain } => {
                let failed = self.status == TransactionStatus::Error;
                if !in_transaction {
                    self.warn("25P01", "there is no transaction in progress")?;
                }
                self.end_transaction(!failed, *chain && in_transaction)?;
                if failed { "ROLLBACK" } else { "COMMIT" }.to_owned()
            }
            Command::Rollback { chain } => {
                if !in_transaction {
                    self.warn("25P01", "there is no transaction in progress")?;
                }
                self.end_transaction(false, *chain && in_transaction)?;
                "ROLLBACK".to_owned()
            }
            Command::Savepoint(name) => {
                if !in_transaction {
                    return Err(no_transaction("SAVEPOINT"));
                }
                self.savepoints.push(name.clone());
                "SAVEPOINT".to_owned()
            }
            Command::Release(name) | Command::RollbackTo(name) => {
                let rolls_back = matches!(command, Command::RollbackTo(_));
                if !in_transaction {
                    return Err(no_transaction(if rolls_back { "ROLLBACK TO SAVEPOINT" } else { "RELEASE SAVEPOINT" }));
                }
                let found = self.savepoints.iter().rposition(|savepoint| savepoint == name);
                let found =
                    found.ok_or_else(|| Trouble::new("3B001", format!("savepoint \"{name}\" does not exist")))?;
                self.savepoints.truncate(found + usize::from(rolls_back));
                if rolls_back {
                    self.status = TransactionStatus::Transaction;
                    self.warn_of_writes()?;
                    "ROLLBACK".to_owned()
                } else {
                    "RELEASE".to_owned()
                }
            }
            Command::Set { name, value, local } => {
                match value {
                    // Going back to oneself changes nothing.
                    Some(user)
                        if name == "role" && self.settings.get("session_authorization").as_ref() == Some(user) => {}
                    Some(value) if *local => {
                        if !in_transaction {
                            self.warn("25P01", "SET LOCAL can only be used in transaction blocks")?;
                        }
                        self.settings.set_local(name, value)?;
                    }
                    Some(value) => self.settings.set(name, value)?,
                    None => self.settings.reset(name)?,
                }
                let of_public = |schema: &str| {
                    let schema = schema.trim().trim_matches(['"', '\'']);
                    schema.is_empty() || ["public", "$user", "pg_catalog"].contains(&schema)
                };
                if name == "search_path"
                    && let Some(other) = value.as_deref().and_then(|path| path.split(',').find(|one| !of_public(one)))
                {
                    let message = format!(
                        "tables are found without their schema in public alone: write {0}.name for those of {0}",
                        other.trim()
                    );
                    self.warn("01000", &message)?;
                }
                "SET".to_owned()
            }
            Command::SetMany(modes) => {
                for (name, value) in modes {
                    self.settings.set(name, value)?;
                }
                "SET".to_owned()
            }
            Command::Reset(None) => {
                self.settings.reset_all();
                "RESET".to_owned()
            }
            Command::Reset(Some(name)) => {
                self.settings.reset(name)?;
                "RESET".to_owned()
            }
            Command::Discard { all, tag } => {
                if *all {
                    if in_transaction {
                        return Err(Trouble::new("25001", "DISCARD ALL cannot run inside a transaction block"));
                    }
                    self.portals.clear();
                    self.statements.clear();
                    self.settings.reset_all();
                }
                (*tag).to_owned()
            }
            Command::Deallocate(None) => {
                self.statements.clear();
                "DEALLOCATE ALL".to_owned()
            }
            Command::Deallocate(Some(name)) => match self.statements.remove(name) {
                Some(_) => "DEALLOCATE".to_owned(),
                None => return Err(no_statement(name)),
            },
            Command::Close(None) => {
                self.portals.clear();
                "CLOSE CURSOR ALL".to_owned()
            }
            Command::Close(Some(name)) => match self.portals.remove(name) {
                Some(_) => "CLOSE CURSOR".to_owned(),
                None => return Err(no_cursor(name)),
            },
            Command::Nothing(tag) => (*tag).to_owned(),
            _ => return Err(Trouble::new("XX000", "a statement was taken for another")),
        })
    }

    fn begin_transaction(&mut self) {
        self.status = TransactionStatus::Transaction;
        self.savepoints.clear();
        self.wrote = false;
        self.settings.begin();
    }

    fn end_transaction(&mut self, committed: bool, chain: bool) -> Result<()> {
        if !committed {
            self.warn_of_writes()?;
        }
        self.settings.end(committed);
        self.portals.retain(|_, portal| portal.hold);
        self.savepoints.clear();
        (self.status, self.wrote) = (TransactionStatus::Idle, false);
        if chain {
            self.begin_transaction();
        }
        Ok(())
    }

    fn warn_of_writes(&mut self) -> Result<()> {
        if self.wrote {
            self.warn("01000", "what was written since BEGIN stays: each statement of saequel commits itself")?;
        }
        Ok(())
    }
}
