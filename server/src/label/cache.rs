//! Answers that were paid for: one JSON line each, written as it comes, so that no run pays twice.

use std::collections::HashMap;
use std::fs::{File, OpenOptions};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use serde_json::Value;
use sha2::{Digest, Sha256};

use super::client::Message;
use super::prompt::PROMPT_VERSION;
use crate::error::{Result, io_failure};

/// The file in the cache's folder.
pub(crate) const FILE: &str = "answers.jsonl";

/// Known answers, and the file that they are in.
#[derive(Debug)]
pub(crate) struct Cache {
    path: PathBuf,
    known: HashMap<String, Value>,
    /// Opened with the first answer that is kept, so that a dry run makes no file.
    file: Option<File>,
}

/// A line of the file.
#[derive(Serialize, Deserialize)]
struct Line {
    key: String,
    model: String,
    prompt_version: u32,
    answer: Value,
}

/// What an answer is found by: SHA-256 of the model's name, [`PROMPT_VERSION`] and the request, which holds the evidence.
pub(crate) fn key(model: &str, messages: &[Message]) -> String {
    let mut hash = Sha256::new();
    let mut put = |text: &str| {
        hash.update((text.len() as u64).to_le_bytes());
        hash.update(text);
    };
    put(model);
    put(&PROMPT_VERSION.to_string());
    for message in messages {
        put(message.role);
        put(&message.content);
    }
    hash.finalize().iter().map(|byte| format!("{byte:02x}")).collect()
}

impl Cache {
    /// Reads the answers in `dir`, which need not exist. Lines that are no answers, such as one that was torn by a crash,
    /// count for nothing.
    ///
    /// # Errors
    /// If the file is there and cannot be read.
    pub(crate) fn open(dir: &Path) -> Result<Self> {
        let path = dir.join(FILE);
        let bytes = match std::fs::read(&path) {
            Ok(bytes) => bytes,
            Err(error) if error.kind() == io::ErrorKind::NotFound => Vec::new(),
            Err(error) => return Err(io_failure(path.display(), &error)),
        };
        let lines = bytes.split(|byte| *byte == b'\n').filter_map(|line| serde_json::from_slice::<Line>(line).ok());
        let known = lines.map(|line| (line.key, line.answer)).collect();
        Ok(Self { path, known, file: None })
    }

    /// The answer under `key`.
    pub(crate) fn get(&self, key: &str) -> Option<&Value> {
        self.known.get(key)
    }

    /// Keeps an answer; it is in the file when this returns.
    ///
    /// # Errors
    /// What the disk says.
    pub(crate) fn put(&mut self, key: String, model: &str, answer: Value) -> Result<()> {
        let line = Line { key, model: model.to_owned(), prompt_version: PROMPT_VERSION, answer };
        self.write(&line).map_err(|error| io_failure(self.path.display(), &error))?;
        self.known.insert(line.key, line.answer);
        Ok(())
    }

    fn write(&mut self, line: &Line) -> io::Result<()> {
        let mut bytes = serde_json::to_vec(line)?;
        bytes.push(b'\n');
        let file = match &mut self.file {
            Some(file) => file,
            None => self.file.insert(open(&self.path)?),
        };
        file.write_all(&bytes) // in one call, so that another run's lines do not come between
    }
}

/// Opens the file to append, behind a line end.
fn open(path: &Path) -> io::Result<File> {
    if let Some(folder) = path.parent() {
        std::fs::create_dir_all(folder)?;
    }
    let mut file = OpenOptions::new().create(true).read(true).append(true).open(path)?;
    let mut last = [b'\n'];
    if file.metadata()?.len() > 0 {
        file.seek(SeekFrom::End(-1))?;
        file.read_exact(&mut last)?;
    }
    if last != [b'\n'] {
        file.write_all(b"\n")?;
    }
    Ok(file)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn message(content: &str) -> Message {
        Message { role: "user", content: content.to_owned() }
    }

    #[test]
    fn answers_outlive_the_run_and_a_torn_line() {
        let folder = tempfile::tempdir().unwrap();
        let dir = folder.path().join("labels");
        let mut cache = Cache::open(&dir).unwrap();
        assert!(cache.get("a").is_none() && !dir.exists());
        cache.put("a".into(), "m", json!({"label": "x"})).unwrap();
        cache.put("b".into(), "m", json!([1])).unwrap();
        let path = dir.join(FILE);
        let whole = std::fs::read(&path).unwrap();
        std::fs::write(&path, &whole[..whole.len() - 5]).unwrap();
        let mut cache = Cache::open(&dir).unwrap();
        assert_eq!((cache.get("a"), cache.get("b")), (Some(&json!({"label": "x"})), None));
        cache.put("b".into(), "m", json!([2])).unwrap();
        cache.put("c".into(), "m", json!([3])).unwrap();
        let cache = Cache::open(&dir).unwrap();
        assert_eq!([cache.get("b"), cache.get("c")], [Some(&json!([2])), Some(&json!([3]))]);
    }

    #[test]
    fn every_part_of_a_request_is_in_its_key() {
        let base = key("m", &[message("a"), message("b")]);
        assert_eq!(base, key("m", &[message("a"), message("b")]));
        let others = [
            key("n", &[message("a"), message("b")]),
            key("m", &[message("ab")]),
            key("m", &[message("a"), message("c")]),
            key("m", &[Message { role: "system", ..message("a") }, message("b")]),
        ];
        assert!(!others.contains(&base));
    }
}
