//! Whose session is whose, and how many there may be.
//!
//! A session holds nothing but streams: each call is run as the visitor who makes it. Still, nobody may listen to the
//! streams of somebody else, or fill the memory with sessions.

use std::collections::{HashMap, HashSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use rmcp::transport::streamable_http_server::session::local::LocalSessionManager;
use rmcp::transport::streamable_http_server::session::{SessionId, SessionManager};

/// Sessions of one token; the one that was used longest ago gives way to a new one.
const PER_OWNER: usize = 100;
/// Sessions of all.
const IN_ALL: usize = 1000;

/// The open sessions.
pub(super) struct Sessions {
    manager: Arc<LocalSessionManager>,
    open: Mutex<HashMap<String, Open>>,
}

struct Open {
    owner: String,
    used: Instant,
}

impl Sessions {
    pub(super) fn new(manager: Arc<LocalSessionManager>) -> Self {
        Self { manager, open: Mutex::default() }
    }

    /// Whether the session is there and belongs to `owner`, who uses it now.
    pub(super) fn is_of(&self, id: &str, owner: &str) -> bool {
        match self.open().get_mut(id) {
            Some(open) if open.owner == owner => {
                open.used = Instant::now();
                true
            }
            _ => false,
        }
    }

    /// Takes in a session that was opened for `owner`.
    pub(super) async fn add(&self, id: &str, owner: &str) {
        let alive: HashSet<String> = self.manager.sessions.read().await.keys().map(ToString::to_string).collect();
        let gives_way = {
            let mut open = self.open();
            open.retain(|id, _| alive.contains(id));
            open.insert(id.to_owned(), Open { owner: owner.to_owned(), used: Instant::now() });
            gives_way(&open, owner)
        };
        if let Some(id) = gives_way {
            self.open().remove(&id);
            // It may have ended by itself in between.
            let _ = self.manager.close_session(&SessionId::from(id)).await;
        }
    }

    fn open(&self) -> MutexGuard<'_, HashMap<String, Open>> {
        self.open.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The session that was used longest ago, if `owner` or all together have too many.
fn gives_way(open: &HashMap<String, Open>, owner: &str) -> Option<String> {
    let oldest = |of: &dyn Fn(&Open) -> bool| {
        open.iter().filter(|(_, one)| of(one)).min_by_key(|(_, one)| one.used).map(|(id, _)| id.clone())
    };
    let of_owner = |one: &Open| one.owner == owner;
    if open.values().filter(|one| of_owner(one)).count() > PER_OWNER {
        oldest(&of_owner)
    } else if open.len() > IN_ALL {
        oldest(&|_| true)
    } else {
        None
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[tokio::test]
    async fn sessions_belong_to_somebody_and_are_limited() {
        let manager = Arc::new(LocalSessionManager::default());
        let sessions = Sessions::new(Arc::clone(&manager));
        let mut ids = Vec::new();
        for _ in 0..=PER_OWNER {
            let (id, _transport) = manager.create_session().await.unwrap();
            sessions.add(&id, "a").await;
            ids.push(id.to_string());
        }
        assert!(!sessions.is_of(&ids[0], "a"), "the oldest gave way");
        assert!(sessions.is_of(&ids[1], "a") && !sessions.is_of(&ids[1], "b") && !sessions.is_of("x", "a"));
        assert_eq!(manager.sessions.read().await.len(), PER_OWNER);
        let old = |owner: &str| Open { owner: owner.to_owned(), used: Instant::now() - Duration::from_secs(9) };
        let many: HashMap<String, Open> = (0..=IN_ALL).map(|n| (n.to_string(), old(&n.to_string()))).collect();
        assert!(gives_way(&many, "new").is_some());
    }
}
