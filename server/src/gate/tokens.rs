//! Tokens: who may come in, and what they may do.
//!
//! A token is `sq_` and 32 random bytes; of it only its SHA-256 is kept, and the two keys of SCRAM-SHA-256 (RFC 5802), from
//! which it cannot be found. The file is read again when it changes, so that a revoked token ends at once.

use std::collections::{BTreeSet, HashMap};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant, SystemTime};

use base64::Engine as _;
use base64::prelude::{BASE64_STANDARD, BASE64_URL_SAFE_NO_PAD};
use chrono::{DateTime, Utc};
use ring::rand::{SecureRandom, SystemRandom};
use saequel_engine::{Caller, ErrorKind};
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use crate::error::{Failure, Result, UNAUTHENTICATED, io_failure};

/// What a token begins with, so that scanners find one that was published.
const PREFIX: &str = "sq_";
/// Rounds of PBKDF2 for SCRAM. A token is random, so that more would protect nothing.
const ITERATIONS: u32 = 4096;
/// How often the file is looked at.
const LOOK_AGAIN: Duration = Duration::from_millis(500);

/// What a token may do. Each includes those before it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum Scope {
    /// Queries.
    Read,
    /// Imports, deletions, concepts, labels.
    Write,
    /// Everything, the queries of others included.
    Admin,
}

/// Somebody who came in.
#[derive(Debug, Clone, PartialEq)]
pub struct Principal {
    /// Name of the token; `anonymous` where none is needed.
    pub name: String,
    /// What it may do.
    pub scope: Scope,
    /// Corpora that it may see; `None`: all.
    pub corpora: Option<Arc<BTreeSet<String>>>,
    /// SHA-256 of the token; `None` for `anonymous`.
    token: Option<[u8; 32]>,
    /// Holds the program itself, and so the files that tokens protect.
    owner: bool,
}

impl Principal {
    /// Who comes where no token is needed.
    pub fn anonymous(write: bool) -> Self {
        let scope = if write { Scope::Admin } else { Scope::Read };
        Self { name: "anonymous".to_owned(), scope, corpora: None, token: None, owner: false }
    }

    /// Whoever started the program and talks to it alone: needs no token, and reads.
    pub fn owner() -> Self {
        Self { name: "owner".to_owned(), owner: true, ..Self::anonymous(false) }
    }

    /// Whether somebody without a token.
    pub fn is_anonymous(&self) -> bool {
        self.token.is_none()
    }

    /// What the engine lets them do.
    pub fn caller(&self) -> Caller {
        let nothing = || Some(Arc::default());
        Caller {
            name: self.name.clone(),
            readable: self.corpora.clone(),
            writable: if self.scope >= Scope::Write { self.corpora.clone() } else { nothing() },
            files: self.corpora.is_none(),
            // Without tokens, all who come are one. What others ask names corpora that a limited token may not know.
            sees_all_queries: (self.scope == Scope::Admin && self.corpora.is_none()) || self.is_anonymous(),
            ..Caller::default()
        }
    }
}

/// What SCRAM-SHA-256 checks a password with.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct ScramKeys {
    /// Base64.
    pub salt: String,
    /// Rounds of PBKDF2.
    pub iterations: u32,
    /// H(ClientKey), base64.
    pub stored_key: String,
    /// Base64.
    pub server_key: String,
}

/// One token as it is kept.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct TokenEntry {
    /// Unique; the user name of PostgreSQL's clients.
    pub name: String,
    /// What it may do.
    pub scope: Scope,
    /// Corpora that it may see; `None`: all.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub corpora: Option<BTreeSet<String>>,
    /// When it was made.
    pub created: DateTime<Utc>,
    /// From when it is refused.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub expires: Option<DateTime<Utc>>,
    /// Of the token, hexadecimal.
    sha256: String,
    /// For the PostgreSQL wire.
    scram: ScramKeys,
}

impl TokenEntry {
    /// Makes an entry and the token, which is nowhere else.
    ///
    /// # Errors
    /// [`ErrorKind::Internal`] if there is no randomness.
    pub fn make(
        name: &str,
        scope: Scope,
        corpora: Option<BTreeSet<String>>,
        expires: Option<DateTime<Utc>>,
    ) -> Result<(Self, String)> {
        let (mut secret, mut salt) = ([0; 32], [0; 16]);
        let random = SystemRandom::new();
        if random.fill(&mut secret).is_err() || random.fill(&mut salt).is_err() {
            return Err(Failure::new(ErrorKind::Internal, "token: the system gives no random bytes"));
        }
        let token = format!("{PREFIX}{}", BASE64_URL_SAFE_NO_PAD.encode(secret));
        let entry = Self {
            name: name.to_owned(),
            scope,
            corpora,
            created: Utc::now(),
            expires,
            sha256: hex(&Sha256::digest(&token)),
            scram: scram_keys(&token, &salt),
        };
        Ok((entry, token))
    }

    pub(super) fn principal(&self) -> Principal {
        Principal {
            name: self.name.clone(),
            scope: self.scope,
            corpora: self.corpora.clone().map(Arc::new),
            token: unhex(&self.sha256),
            owner: false,
        }
    }

    fn is_over(&self) -> bool {
        self.expires.is_some_and(|expires| expires <= Utc::now())
    }
}

fn scram_keys(token: &str, salt: &[u8]) -> ScramKeys {
    use ring::{digest, hmac, pbkdf2};
    let mut salted = [0; 32];
    let rounds = std::num::NonZeroU32::new(ITERATIONS).unwrap_or(std::num::NonZeroU32::MIN);
    pbkdf2::derive(pbkdf2::PBKDF2_HMAC_SHA256, rounds, salt, token.as_bytes(), &mut salted);
    let key = hmac::Key::new(hmac::HMAC_SHA256, &salted);
    let client_key = hmac::sign(&key, b"Client Key");
    ScramKeys {
        salt: BASE64_STANDARD.encode(salt),
        iterations: ITERATIONS,
        stored_key: BASE64_STANDARD.encode(digest::digest(&digest::SHA256, client_key.as_ref())),
        server_key: BASE64_STANDARD.encode(hmac::sign(&key, b"Server Key")),
    }
}

/// What the file holds.
#[derive(Debug, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TokenFile {
    /// By name.
    pub tokens: Vec<TokenEntry>,
}

impl TokenFile {
    /// Reads the file; a missing one holds no token.
    ///
    /// # Errors
    /// [`ErrorKind::Corrupt`] if it is no token file, [`ErrorKind::Io`], [`ErrorKind::Denied`].
    pub fn read(path: &Path) -> Result<Self> {
        let text = match std::fs::read_to_string(path) {
            Ok(text) => text,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(Self::default()),
            Err(error) => return Err(io_failure(format!("tokens: {}", path.display()), &error)),
        };
        serde_json::from_str(&text).map_err(|error| {
            // The message does not quote the file.
            let (line, column) = (error.line(), error.column());
            let message = format!("tokens: {} is no file of tokens (line {line}, column {column})", path.display());
            Failure::new(ErrorKind::Corrupt, message).hint("put a backup there, or remove it and make new tokens")
        })
    }

    /// Reads the file, changes it and writes it. Of two programs that change it one waits, so that none brings back a token that
    /// the other has revoked.
    ///
    /// # Errors
    /// As [`Self::read`] and [`Self::write`]; those of `change`, and then the file stays as it was.
    pub fn change<T>(path: &Path, change: impl FnOnce(&mut Self) -> Result<T>) -> Result<T> {
        let beside = path.with_extension("lock");
        let failed = |error: std::io::Error| io_failure(format!("tokens: {}", beside.display()), &error);
        let lock =
            std::fs::OpenOptions::new().create(true).truncate(false).write(true).open(&beside).map_err(failed)?;
        lock.lock().map_err(failed)?;
        let mut file = Self::read(path)?;
        let changed = change(&mut file)?;
        file.write(path)?;
        Ok(changed)
    }

    /// Writes the file, readable by its owner alone; all of it or nothing.
    ///
    /// # Errors
    /// [`ErrorKind::Io`], [`ErrorKind::Denied`].
    pub fn write(&self, path: &Path) -> Result<()> {
        use std::io::Write;
        let failed = |error: std::io::Error| io_failure(format!("tokens: {}", path.display()), &error);
        let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
        let mut file = tempfile::NamedTempFile::new_in(folder).map_err(failed)?; // mode 0600
        serde_json::to_writer_pretty(&mut file, self).map_err(|error| failed(error.into()))?;
        file.write_all(b"\n").and_then(|()| file.as_file().sync_all()).map_err(failed)?;
        file.persist(path).map_err(|error| failed(error.error))?;
        Ok(())
    }
}

/// The tokens of a running server.
#[derive(Debug)]
pub struct Tokens {
    path: PathBuf,
    read: Mutex<Read>,
}

#[derive(Debug, Default)]
struct Read {
    looked: Option<Instant>,
    /// When it was written, how long it is, and which file: each write makes another.
    stamp: Option<(SystemTime, u64, u64)>,
    by_hash: HashMap<[u8; 32], Arc<TokenEntry>>,
    by_name: HashMap<String, Arc<TokenEntry>>,
    /// There has been a token: then nobody is let in without one, even after the last was revoked.
    needed: bool,
}

impl Tokens {
    /// Those of a file.
    ///
    /// # Errors
    /// As [`TokenFile::read`], and [`ErrorKind::Denied`] if others than its owner may write it.
    pub fn open(path: PathBuf) -> Result<Self> {
        only_its_owner_writes(&path)?;
        let tokens = Self { path, read: Mutex::default() };
        TokenFile::read(&tokens.path)?; // here, the reason is told
        tokens.with(|_| ())?;
        Ok(tokens)
    }

    /// Whether somebody without a token is refused.
    ///
    /// # Errors
    /// As [`TokenFile::read`].
    pub fn needed(&self) -> Result<bool> {
        self.with(|read| read.needed)
    }

    /// Whose token this is.
    ///
    /// # Errors
    /// [`UNAUTHENTICATED`] for a token that is unknown, revoked or expired.
    pub fn principal(&self, token: &str) -> Result<Principal> {
        let hash: [u8; 32] = Sha256::digest(token.trim()).into();
        let entry = self.with(|read| read.by_hash.get(&hash).cloned())?;
        entry.filter(|entry| !entry.is_over()).map(|entry| entry.principal()).ok_or_else(refused)
    }

    /// Keys of the token with this name, and who comes with it.
    ///
    /// # Errors
    /// As [`Self::principal`].
    pub fn scram(&self, name: &str) -> Result<(ScramKeys, Principal)> {
        let entry = self.with(|read| read.by_name.get(name).cloned())?;
        entry.filter(|entry| !entry.is_over()).map(|entry| (entry.scram.clone(), entry.principal())).ok_or_else(refused)
    }

    /// Whether somebody who came in earlier may still be here, with what they may do now.
    ///
    /// # Errors
    /// As [`Self::principal`].
    pub fn still(&self, principal: &Principal) -> Result<Option<Principal>> {
        if principal.owner {
            return Ok(None);
        }
        let Some(hash) = principal.token else {
            return if self.needed()? { Err(refused()) } else { Ok(None) };
        };
        let entry = self.with(|read| read.by_hash.get(&hash).cloned())?;
        let now = entry.filter(|entry| !entry.is_over()).map(|entry| entry.principal()).ok_or_else(refused)?;
        Ok((now != *principal).then_some(now))
    }

    /// The tokens, read again if the file has changed.
    fn with<T>(&self, of: impl FnOnce(&Read) -> T) -> Result<T> {
        let mut read = self.read.lock().unwrap_or_else(PoisonError::into_inner);
        if read.looked.is_none_or(|looked| looked.elapsed() > LOOK_AGAIN) {
            let stamp = std::fs::metadata(&self.path)
                .ok()
                .and_then(|file| Some((file.modified().ok()?, file.len(), inode(&file))));
            if read.looked.is_none() || stamp != read.stamp {
                let file = TokenFile::read(&self.path).map_err(|error| {
                    // Nobody who only asks is told where the file lies.
                    tracing::error!("{error}");
                    Failure::new(ErrorKind::Internal, "the server cannot read its tokens, and lets nobody in")
                        .hint("whoever runs it finds the reason in its log")
                })?;
                let entries: Vec<Arc<TokenEntry>> = file.tokens.into_iter().map(Arc::new).collect();
                read.by_name = entries.iter().map(|entry| (entry.name.clone(), Arc::clone(entry))).collect();
                read.by_hash =
                    entries.iter().filter_map(|entry| Some((unhex(&entry.sha256)?, Arc::clone(entry)))).collect();
                read.needed |= stamp.is_some();
                read.stamp = stamp;
            }
            read.looked = Some(Instant::now());
        }
        Ok(of(&read))
    }
}

fn inode(file: &std::fs::Metadata) -> u64 {
    #[cfg(unix)]
    return std::os::unix::fs::MetadataExt::ino(file);
    #[cfg(not(unix))]
    0
}

/// Who can write the file can let anybody in.
fn only_its_owner_writes(path: &Path) -> Result<()> {
    #[cfg(unix)]
    if let Ok(file) = std::fs::metadata(path) {
        let mode = std::os::unix::fs::PermissionsExt::mode(&file.permissions()) & 0o777;
        if mode & 0o022 != 0 {
            let message = format!("tokens: others than its owner may write {} (mode {mode:04o})", path.display());
            return Err(Failure::new(ErrorKind::Denied, message).hint(format!("chmod 600 '{}'", path.display())));
        }
    }
    Ok(())
}

/// One message for every reason: who guesses learns nothing.
fn refused() -> Failure {
    Failure::new(ErrorKind::Denied, "the token is unknown, revoked or expired")
        .shown_as(UNAUTHENTICATED)
        .hint("`saequel token create NAME` makes one")
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn unhex(text: &str) -> Option<[u8; 32]> {
    let mut bytes = [0; 32];
    if text.len() != 64 {
        return None;
    }
    for (i, byte) in bytes.iter_mut().enumerate() {
        *byte = u8::from_str_radix(text.get(2 * i..2 * i + 2)?, 16).ok()?;
    }
    Some(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_opens_until_it_is_revoked() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("tokens.json");
        let tokens = Tokens::open(path.clone()).unwrap();
        assert!(!tokens.needed().unwrap());
        let only = Some(BTreeSet::from(["news".to_owned()]));
        let (entry, token) = TokenEntry::make("ci", Scope::Write, only, None).unwrap();
        let (old, old_token) = TokenEntry::make("old", Scope::Read, None, Some(Utc::now())).unwrap();
        TokenFile { tokens: vec![entry, old] }.write(&path).unwrap();
        let text = std::fs::read_to_string(&path).unwrap();
        assert!(!text.contains(&token) && !text.contains(token.trim_start_matches(PREFIX)));
        std::thread::sleep(LOOK_AGAIN + Duration::from_millis(50));
        assert!(tokens.needed().unwrap());
        let ci = tokens.principal(&token).unwrap();
        assert_eq!((ci.name.as_str(), ci.scope), ("ci", Scope::Write));
        let caller = ci.caller();
        assert!(caller.reads("news") && caller.writes("news") && !caller.reads("secret") && !caller.files);
        assert!(
            tokens.principal(&old_token).is_err() && tokens.principal("sq_x").is_err() && tokens.principal("").is_err()
        );
        assert!(tokens.still(&ci).unwrap().is_none());
        assert!(tokens.still(&Principal::anonymous(true)).is_err());
        assert!(tokens.still(&Principal::owner()).unwrap().is_none());
        TokenFile::default().write(&path).unwrap();
        std::thread::sleep(LOOK_AGAIN + Duration::from_millis(50));
        assert_eq!(tokens.still(&ci).unwrap_err().wire(), UNAUTHENTICATED);
        assert!(tokens.needed().unwrap(), "the last token is gone, and the door stays shut");
    }

    #[test]
    fn two_that_change_the_file_do_not_undo_each_other() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("tokens.json");
        let add = |i: usize| {
            let (entry, _) = TokenEntry::make(&format!("t{i}"), Scope::Read, None, None).unwrap();
            TokenFile::change(&path, |file| {
                file.tokens.push(entry);
                Ok(())
            })
            .unwrap();
        };
        std::thread::scope(|scope| (0..8).for_each(|i| drop(scope.spawn(move || add(i)))));
        assert_eq!(TokenFile::read(&path).unwrap().tokens.len(), 8);
        std::fs::write(&path, r#"{"tokens": "sq_secret"}"#).unwrap();
        let told = TokenFile::read(&path).unwrap_err().to_string();
        assert!(!told.contains("sq_secret"), "{told}");
    }

    #[cfg(unix)]
    #[test]
    fn the_file_is_its_owners_alone() {
        use std::os::unix::fs::PermissionsExt;
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("tokens.json");
        TokenFile::default().write(&path).unwrap();
        assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        std::fs::write(&path, "{").unwrap();
        assert_eq!(TokenFile::read(&path).unwrap_err().kind(), ErrorKind::Corrupt);
    }
}
