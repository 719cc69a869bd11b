//! Imports over HTTP: a body goes to disk as it comes, and is imported when it is there as a whole.

use std::collections::VecDeque;
use std::path::{Path as FilePath, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use axum::Json;
use axum::body::Body;
use axum::extract::{RawQuery, State};
use axum::http::{HeaderMap, HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use chrono::{DateTime, Utc};
use saequel_engine::reader::ChatColumns;
use saequel_engine::{ErrorKind, ImportOptions, ImportReport, ImportSource, OnBadRow, OnConflict, Progress};
use serde::Serialize;
use sha2::{Digest, Sha256};
use tempfile::TempDir;
use tokio::io::AsyncWriteExt;

use super::body::Incoming;
use super::kept::may_see;
use super::problem::{ErrorBody, ErrorDetail, Problem};
use super::request::url_values;
use super::{Http, Named, Who};
use crate::error::{Failure, Result, TOO_MANY, io_failure};
use crate::gate::{Door, Gate, Principal, QueryInfo, Scope, State as Stands, Visitor, random_id};

/// Imports that may wait for their turn, bodies that are still coming included.
const MAX_WAITING: usize = 16;
/// Ended imports that are remembered.
const REMEMBERED: usize = 200;
/// Warnings that are told of one import.
const MAX_WARNINGS: usize = 100;
/// The engine removes what killed processes left behind under this prefix.
const PREFIX: &str = "datafusion-import-";
/// What compressed files begin with: gzip, bzip2, xz, zstd.
const COMPRESSED: [&[u8]; 4] = [&[0x1f, 0x8b], b"BZh", &[0xfd, b'7', b'z', b'X', b'Z', 0], &[0x28, 0xb5, 0x2f, 0xfd]];

/// What an import did.
#[derive(Debug, Clone, Serialize, utoipa::ToSchema)]
pub(super) struct Report {
    /// Rows that the body gave.
    read: u64,
    /// Documents added.
    written: u64,
    /// Documents replaced.
    updated: u64,
    /// Documents that were there already.
    skipped: u64,
    /// Rows set aside.
    set_aside: u64,
    /// Their places and reasons, the first thousand.
    set_aside_places: Vec<String>,
    /// Documents that are stored without features because they could not be read.
    unread: u64,
    /// Tokens read.
    tokens: u64,
    /// Documents in the corpus afterwards.
    total: u64,
    /// Seconds that it took.
    seconds: f64,
}

impl From<ImportReport> for Report {
    fn from(report: ImportReport) -> Self {
        Self {
            read: report.read,
            written: report.written,
            updated: report.updated,
            skipped: report.skipped,
            set_aside: report.n_set_aside,
            set_aside_places: report.set_aside,
            unread: report.n_unread,
            tokens: report.n_tokens,
            total: report.total,
            seconds: report.seconds,
        }
    }
}

/// An import as it is shown.
#[derive(Debug, Clone, Serialize, utoipa::ToSchema)]
pub(super) struct JobStatus {
    job_id: String,
    /// `waiting`, `running`, `done`, `failed`, `cancelled`.
    #[schema(value_type = String)]
    state: Stands,
    corpus: String,
    /// Who asked.
    caller: String,
    /// Size of the body after decompression.
    bytes: u64,
    /// When the body was there.
    #[schema(value_type = String)]
    started: DateTime<Utc>,
    elapsed_ms: f64,
    /// Rows done so far.
    documents: u64,
    /// Rows in all, if known.
    #[serde(skip_serializing_if = "Option::is_none")]
    documents_total: Option<u64>,
    /// What is being done, and how fast.
    detail: String,
    /// The first 100.
    warnings: Vec<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    report: Option<Report>,
    #[serde(skip_serializing_if = "Option::is_none")]
    error: Option<ErrorDetail>,
    /// Where this is.
    status_url: String,
}

/// Imports, newest first.
#[derive(Debug, Serialize, utoipa::ToSchema)]
pub(super) struct JobList {
    jobs: Vec<JobStatus>,
}

/// An import was taken.
#[derive(Debug, Serialize, utoipa::ToSchema)]
pub(super) struct JobAccepted {
    job_id: String,
    status_url: String,
}

struct Job {
    status: Mutex<JobStatus>,
    began: Instant,
    documents: AtomicU64,
    cancelled: AtomicBool,
    gate: Gate,
}

impl Job {
    fn shown(&self) -> JobStatus {
        let mut status = self.status().clone();
        if matches!(status.state, Stands::Waiting | Stands::Running) {
            status.elapsed_ms = self.began.elapsed().as_secs_f64() * 1000.0;
            status.documents = self.documents.load(Ordering::Relaxed);
            // A total that was estimated, or that leaves out rows which are set aside.
            let documents = status.documents;
            status.documents_total = status.documents_total.map(|total| total.max(documents));
        }
        status
    }

    fn status(&self) -> MutexGuard<'_, JobStatus> {
        self.status.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Notes the end.
    fn end(&self, outcome: &Result<ImportReport, Problem>) {
        let mut status = self.status();
        status.elapsed_ms = self.began.elapsed().as_secs_f64() * 1000.0;
        status.detail = String::new();
        match outcome {
            Ok(report) => {
                status.state = Stands::Done;
                status.documents = report.read;
                status.documents_total = Some(report.read); // no estimate any more
                status.report = Some(report.clone().into());
                self.gate.metrics().documents.inc_by(report.written + report.updated);
                self.gate.metrics().tokens.inc_by(report.n_tokens);
            }
            Err(problem) => {
                let stopped = self.cancelled.load(Ordering::Relaxed) || self.gate.is_stopping();
                status.state = if stopped { Stands::Cancelled } else { Stands::Failed };
                status.documents = self.documents.load(Ordering::Relaxed);
                status.error = Some(problem.body.error.clone());
            }
        }
    }
}

impl Progress for Job {
    fn stage(&self, name: &str, total: Option<u64>, unit: &str) {
        let mut status = self.status();
        status.detail = name.to_owned();
        if unit == "documents" {
            status.documents_total = total;
        }
    }

    fn update(&self, done: u64, detail: &str) {
        let mut status = self.status();
        // Loading a model tells bytes: they are no documents.
        if status.detail.starts_with("import into") || self.documents.load(Ordering::Relaxed) > 0 {
            self.documents.store(done, Ordering::Relaxed);
        }
        if self.documents.load(Ordering::Relaxed) > 0 {
            status.detail = detail.to_owned();
        }
    }

    fn finish(&self, _summary: &str) {}

    fn warn(&self, message: &str) {
        let mut status = self.status();
        if status.warnings.len() < MAX_WARNINGS {
            status.warnings.push(message.to_owned());
        }
    }

    fn cancelled(&self) -> bool {
        self.cancelled.load(Ordering::Relaxed) || self.gate.is_stopping()
    }
}

/// All imports of this server.
#[derive(Default)]
pub(super) struct Jobs {
    all: Mutex<VecDeque<Arc<Job>>>,
    /// Bodies that come, and imports that wait.
    waiting: AtomicU64,
    /// One import at a time: the database has one writer.
    turn: tokio::sync::Mutex<()>,
}

impl Jobs {
    fn get(&self, principal: &Principal, job_id: &str) -> Result<Arc<Job>> {
        let all = self.all();
        let found = all.iter().map(|job| (job, job.shown())).find(|(_, status)| status.job_id == job_id);
        found
            .filter(|(_, status)| may_see(principal, &status.caller))
            .map(|(job, _)| Arc::clone(job))
            .ok_or_else(|| Failure::new(ErrorKind::NotFound, format!("there is no job with the id '{job_id}'")))
    }

    fn add(&self, job: &Arc<Job>) {
        let mut all = self.all();
        all.push_back(Arc::clone(job));
        let ended = |job: &Arc<Job>| !matches!(job.status().state, Stands::Waiting | Stands::Running);
        while all.len() > REMEMBERED
            && let Some(oldest) = all.iter().position(ended)
        {
            all.remove(oldest);
        }
    }

    fn all(&self) -> MutexGuard<'_, VecDeque<Arc<Job>>> {
        self.all.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A place in the queue, from the first byte until the import begins.
struct Waiting(Arc<Jobs>);

impl Waiting {
    fn new(jobs: &Arc<Jobs>) -> Result<Self, Problem> {
        let place = Self(Arc::clone(jobs));
        if jobs.waiting.fetch_add(1, Ordering::Relaxed) >= MAX_WAITING as u64 {
            let failure = Failure::new(ErrorKind::Resources, format!("{MAX_WAITING} imports wait already"));
            return Err(failure.shown_as(TOO_MANY).hint("try again in a moment").into());
        }
        Ok(place)
    }
}

impl Drop for Waiting {
    fn drop(&mut self) {
        self.0.waiting.fetch_sub(1, Ordering::Relaxed);
    }
}

/// What the URL asks for.
#[derive(Debug, Default)]
struct Wishes {
    format: Option<&'static str>,
    text: Vec<String>,
    chat: Option<ChatColumns>,
    sae: Vec<String>,
    key: Option<String>,
    on_conflict: OnConflict,
    on_bad_row: OnBadRow,
    wait: bool,
}

/// The formats that a body may have, as the engine names them.
fn known_format(name: &str) -> Option<&'static str> {
    Some(match name {
        "csv" => "csv",
        "tsv" => "tsv",
        "json" => "json",
        "jsonl" | "ndjson" => "jsonl",
        "parquet" => "parquet",
        "arrow" => "arrow",
        _ => return None,
    })
}

impl Wishes {
    fn read(url: Option<&str>, headers: &HeaderMap) -> Result<Self, Problem> {
        let mut wishes = Self { format: of_content_type(headers)?, ..Self::default() };
        let bad = |name: &str, expected: &str, value: &str| -> Problem {
            Failure::usage(format!("{name}: expected {expected}, got '{value}'")).into()
        };
        for (name, value) in
            url_values(url, &["format", "text", "chat", "sae", "key", "on_conflict", "on_bad_row", "wait"])?
        {
            match (name.as_str(), value.as_str()) {
                ("format", value) => {
                    let known = known_format(&value.to_ascii_lowercase());
                    wishes.format =
                        Some(known.ok_or_else(|| bad("format", "csv, tsv, json, jsonl, parquet or arrow", value))?);
                }
                ("text", _) => wishes.text.push(value),
                ("chat", _) => wishes.chat = Some(value.parse::<ChatColumns>().map_err(Failure::from)?),
                ("sae", _) => wishes.sae.push(value),
                ("key", _) => wishes.key = Some(value),
                ("on_conflict", "skip") => wishes.on_conflict = OnConflict::Skip,
                ("on_conflict", "update") => wishes.on_conflict = OnConflict::Update,
                ("on_conflict", "fail") => wishes.on_conflict = OnConflict::Fail,
                ("on_conflict", other) => return Err(bad("on_conflict", "skip, update or fail", other)),
                ("on_bad_row", "fail") => wishes.on_bad_row = OnBadRow::Fail,
                ("on_bad_row", "set_aside") => wishes.on_bad_row = OnBadRow::SetAside,
                ("on_bad_row", other) => return Err(bad("on_bad_row", "fail or set_aside", other)),
                (_, "1" | "true" | "") => wishes.wait = true,
                (_, "0" | "false") => wishes.wait = false,
                (name, other) => return Err(bad(name, "1 or 0", other)),
            }
        }
        Ok(wishes)
    }
}

/// The format that `Content-Type` names; nothing where it says nothing, and the first bytes tell.
fn of_content_type(headers: &HeaderMap) -> Result<Option<&'static str>, Problem> {
    let content_type = headers.get(header::CONTENT_TYPE).and_then(|value| value.to_str().ok()).unwrap_or_default();
    let content_type = content_type.split(';').next().unwrap_or_default().trim().to_ascii_lowercase();
    Ok(Some(match content_type.as_str() {
        "application/x-ndjson"
        | "application/ndjson"
        | "application/jsonl"
        | "application/jsonlines"
        | "application/x-jsonlines" => "jsonl",
        "application/json" => "json",
        "text/csv" | "application/csv" => "csv",
        "text/tab-separated-values" => "tsv",
        "application/vnd.apache.parquet" | "application/x-parquet" | "application/parquet" => "parquet",
        "application/vnd.apache.arrow.stream" | "application/vnd.apache.arrow.file" => "arrow",
        // What curl and others send when nobody thought of it.
        "" | "text/plain" | "application/octet-stream" | "application/x-www-form-urlencoded" => return Ok(None),
        other => {
            let message = format!("import: content type '{other}' is not understood");
            let hint = "send application/x-ndjson, application/json, text/csv, text/tab-separated-values, \
                        application/vnd.apache.parquet or application/vnd.apache.arrow.stream";
            return Err(Problem::request(StatusCode::UNSUPPORTED_MEDIA_TYPE, message, hint));
        }
    }))
}

/// Whether this visitor may import into this corpus.
fn may_import(http: &Http, visitor: &Visitor, corpus: &str) -> Result<()> {
    let denied = |message: String, hint: &str| Err(Failure::new(ErrorKind::Denied, message).hint(hint));
    if !http.gate.options().write {
        return denied("import: this server only reads".to_owned(), "start it with `saequel serve --write`");
    }
    if http.gate.still(visitor)?.scope < Scope::Write {
        return denied(
            "import: this token only reads".to_owned(),
            "`saequel token create NAME --scope write` makes one",
        );
    }
    if !http.gate.caller(visitor)?.writes(corpus) {
        let message = format!("import: this token may not write corpus '{corpus}'");
        return denied(message, "`saequel token create NAME --scope write --corpus CORPUS` makes one that may");
    }
    Ok(())
}

/// A body on disk.
struct Upload {
    folder: TempDir,
    bytes: u64,
    /// Stands for the content: the same body twice is the same source, and gives no document twice.
    hash: String,
}

const FILE: &str = "body";

/// Writes a body to disk, piece by piece.
async fn upload(http: &Http, headers: &HeaderMap, body: Body) -> Result<Upload, Problem> {
    let mut incoming = Incoming::new(headers, body, http.gate.options().max_import_bytes)?;
    let root = http.gate.engine().dir().join("tmp");
    let failed = |error: std::io::Error| Problem::from(io_failure("a file for the body", &error));
    std::fs::create_dir_all(&root).map_err(failed)?;
    let folder = tempfile::Builder::new().prefix(PREFIX).tempdir_in(&root).map_err(failed)?;
    let mut file = tokio::fs::File::create(folder.path().join(FILE)).await.map_err(failed)?;
    let (mut hash, mut bytes) = (Sha256::new(), 0);
    let mut first = Vec::new();
    while let Some(piece) = incoming.next().await? {
        if first.len() < 8 {
            first.extend(piece.iter().take(8));
            if COMPRESSED.iter().any(|start| first.starts_with(start)) {
                let message = "import: the body is compressed, and no header says so";
                let hint = "send it with `Content-Encoding: gzip` or `zstd`";
                return Err(Problem::request(StatusCode::UNSUPPORTED_MEDIA_TYPE, message, hint));
            }
        }
        hash.update(&piece);
        bytes += piece.len() as u64;
        file.write_all(&piece).await.map_err(failed)?;
    }
    file.flush().await.map_err(failed)?;
    if bytes == 0 {
        return Err(Failure::new(ErrorKind::Data, "import: the body is empty").into());
    }
    let hash = hash.finalize()[..12].iter().map(|byte| format!("{byte:02x}")).collect();
    Ok(Upload { folder, bytes, hash })
}

/// A folder whose name depends on its content alone, removed when dropped.
struct Settled(PathBuf);

impl Settled {
    fn new(upload: Upload) -> Result<Self> {
        let place = upload.folder.path().with_file_name(format!("{PREFIX}{}", upload.hash));
        let _ = std::fs::remove_dir_all(&place); // of a process that was killed
        let settled = Self(place);
        std::fs::rename(upload.folder.path(), &settled.0).map_err(|error| io_failure("a file for the body", &error))?;
        Ok(settled)
    }

    fn file(&self) -> PathBuf {
        FilePath::new(&self.0).join(FILE)
    }
}

impl Drop for Settled {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

/// Imports a body, when it is its turn.
async fn run(
    http: Http,
    job: Arc<Job>,
    upload: Upload,
    options: ImportOptions,
    waiting: Waiting,
) -> Result<ImportReport> {
    let _turn = http.jobs.turn.lock().await;
    drop(waiting);
    if job.cancelled() {
        return Err(Failure::new(ErrorKind::Cancelled, "the import was cancelled before it began"));
    }
    job.status().state = Stands::Running;
    let settled = Settled::new(upload)?;
    // Where the body lies on this machine is nobody's business, in warnings and in the job's row neither.
    let shown_as = Some("the body".to_owned());
    let options = ImportOptions { source: ImportSource::Path(settled.file()), shown_as, ..options };
    let engine = http.gate.engine().clone();
    let progress: Arc<dyn Progress> = job;
    let work = Gate::threads().spawn(async move {
        let _settled = settled;
        engine.import(options, progress).await
    });
    let report = work.await.map_err(|_| Failure::new(ErrorKind::Internal, "the import ended without a word"))?;
    // What opens the file knows its path alone.
    Ok(report.map_err(|error| {
        let message = error.to_string().replace(&format!("{}/", http.gate.engine().dir().join("tmp").display()), "");
        let shown = message.find(PREFIX).and_then(|at| Some((at, at + message[at..].find(FILE)? + FILE.len())));
        let message = match shown {
            Some((from, to)) => format!("{}the body{}", &message[..from], &message[to..]),
            None => message,
        };
        // Nor who else writes, and into which corpus.
        let message = match message.split_once(" (process ") {
            Some((held, _)) if held.starts_with("another writer") => format!("{held}; try again in a moment"),
            _ => message,
        };
        Failure::new(error.kind(), message)
    })?)
}

/// Notes an import where queries are noted.
fn note(gate: &Gate, visitor: &Visitor, status: &JobStatus) {
    gate.note(&QueryInfo {
        query_id: status.job_id.clone(),
        state: status.state,
        statement: format!("import of {} bytes into {}", status.bytes, crate::sql_text::identifier(&status.corpus)),
        caller: status.caller.clone(),
        door: Door::Http,
        peer: visitor.peer,
        started: status.started,
        elapsed_ms: status.elapsed_ms,
        rows: status.documents,
        truncated: None,
        error: status.error.as_ref().map(|error| error.message().to_owned()),
        sqlstate: status.error.as_ref().map(|error| error.sqlstate().to_owned()),
    });
}

/// Import documents
///
/// The body is JSON Lines, JSON, CSV, TSV, Parquet or Arrow, by `Content-Type` or `format`. It is imported when it has come
/// as a whole. Needs a server that writes, the scope `write` and the right to write the corpus.
#[utoipa::path(
    post, path = "/v1/corpora/{corpus}/documents", tag = "import",
    params(
        ("corpus" = String, Path, description = "corpus to write to; made if it does not exist"),
        ("format" = Option<String>, Query, description = "csv, tsv, json, jsonl, parquet, arrow"),
        ("text" = Option<Vec<String>>, Query, description = "column to read; several times for several"),
        ("chat" = Option<String>, Query, description = "for a new corpus: read texts in their conversation, e.g. \
         user=prompt,assistant=answer"),
        ("sae" = Option<Vec<String>>, Query, description = "dictionary for a new corpus; several times for several"),
        ("key" = Option<String>, Query, description = "column that identifies a document"),
        ("on_conflict" = Option<String>, Query, description = "skip (default), update, fail"),
        ("on_bad_row" = Option<String>, Query, description = "fail (default), set_aside"),
        ("wait" = Option<String>, Query, description = "1: answer when the import has ended"),
    ),
    request_body(content(
        (String = "application/x-ndjson"), (String = "application/json"), (String = "text/csv"),
        (String = "text/tab-separated-values"), (String = "application/vnd.apache.parquet"),
        (String = "application/vnd.apache.arrow.stream"),
    )),
    responses(
        (status = 200, body = JobStatus, description = "with wait=1"),
        (status = 202, body = JobAccepted),
    )
)]
pub(super) async fn import(
    State(http): State<Http>,
    Who(visitor): Who,
    Named(corpus): Named,
    RawQuery(url): RawQuery,
    headers: HeaderMap,
    body: Body,
) -> Result<Response, Problem> {
    may_import(&http, &visitor, &corpus)?;
    let wishes = Wishes::read(url.as_deref(), &headers)?;
    let waiting = Waiting::new(&http.jobs)?;
    let upload = upload(&http, &headers, body).await?;
    may_import(&http, &visitor, &corpus)?; // a body can take long, and a token can be revoked meanwhile
    let job_id = random_id()?;
    let status_url = format!("/v1/jobs/{job_id}");
    let options = ImportOptions {
        format: wishes.format.map(str::to_owned),
        text_columns: wishes.text,
        chat: wishes.chat,
        dictionaries: wishes.sae,
        key: wishes.key,
        on_conflict: wishes.on_conflict,
        on_bad_row: wishes.on_bad_row,
        ..ImportOptions::new(ImportSource::Stdin, corpus.clone())
    };
    let status = JobStatus {
        job_id: job_id.clone(),
        state: Stands::Waiting,
        corpus,
        caller: visitor.principal.name.clone(),
        bytes: upload.bytes,
        started: Utc::now(),
        elapsed_ms: 0.0,
        documents: 0,
        documents_total: None,
        detail: String::new(),
        warnings: Vec::new(),
        report: None,
        error: None,
        status_url: status_url.clone(),
    };
    let job = Arc::new(Job {
        status: Mutex::new(status),
        began: Instant::now(),
        documents: AtomicU64::new(0),
        cancelled: AtomicBool::new(false),
        gate: http.gate.clone(),
    });
    http.jobs.add(&job);
    let running = tokio::spawn({
        let job = Arc::clone(&job);
        async move {
            let gate = http.gate.clone();
            let outcome = run(http, Arc::clone(&job), upload, options, waiting).await.map_err(Problem::from);
            job.end(&outcome);
            note(&gate, &visitor, &job.shown());
            outcome.map(|_| ())
        }
    });
    if !wishes.wait {
        let location = HeaderValue::from_str(&status_url);
        let mut response = (StatusCode::ACCEPTED, Json(JobAccepted { job_id, status_url })).into_response();
        if let Ok(location) = location {
            response.headers_mut().insert(header::LOCATION, location);
        }
        return Ok(response);
    }
    match running.await {
        Ok(outcome) => outcome?,
        Err(_) => return Err(Failure::new(ErrorKind::Internal, "the import ended without a word").into()),
    }
    Ok(Json(job.shown()).into_response())
}

/// The imports that the token may see
#[utoipa::path(get, path = "/v1/jobs", tag = "import", responses((status = 200, body = JobList)))]
pub(super) async fn list(State(http): State<Http>, Who(visitor): Who) -> Response {
    let shown: Vec<JobStatus> = http.jobs.all().iter().rev().map(|job| job.shown()).collect();
    let jobs = shown.into_iter().filter(|status| may_see(&visitor.principal, &status.caller)).collect();
    Json(JobList { jobs }).into_response()
}

/// How an import stands
#[utoipa::path(
    get, path = "/v1/jobs/{job_id}", tag = "import",
    params(("job_id" = String, Path, description = "id of the import")),
    responses((status = 200, body = JobStatus), (status = 404, body = ErrorBody))
)]
pub(super) async fn get(
    State(http): State<Http>,
    Who(visitor): Who,
    Named(job_id): Named,
) -> Result<Response, Problem> {
    Ok(Json(http.jobs.get(&visitor.principal, &job_id)?.shown()).into_response())
}

/// Stop an import
///
/// At the next safe point; what was committed stays.
#[utoipa::path(
    delete, path = "/v1/jobs/{job_id}", tag = "import",
    params(("job_id" = String, Path, description = "id of the import")),
    responses((status = 202, body = JobStatus), (status = 404, body = ErrorBody))
)]
pub(super) async fn delete(
    State(http): State<Http>,
    Who(visitor): Who,
    Named(job_id): Named,
) -> Result<Response, Problem> {
    let job = http.jobs.get(&visitor.principal, &job_id)?;
    job.cancelled.store(true, Ordering::Relaxed);
    Ok((StatusCode::ACCEPTED, Json(job.shown())).into_response())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_import_is_asked_for_by_type_and_url() {
        let typed = |kind: &'static str| HeaderMap::from_iter([(header::CONTENT_TYPE, HeaderValue::from_static(kind))]);
        let url = "text=a&text=b%20c&key=id&on_conflict=update&on_bad_row=set_aside&wait=1&sae=d\
                   &chat=user%3Dq%2Cassistant%3Da";
        let wishes = Wishes::read(Some(url), &typed("text/csv; charset=utf-8")).unwrap();
        assert_eq!((wishes.format, wishes.text.as_slice()), (Some("csv"), &["a".to_owned(), "b c".to_owned()][..]));
        assert_eq!((wishes.key.as_deref(), wishes.wait), (Some("id"), true));
        assert_eq!(
            (wishes.chat.unwrap().to_string().as_str(), &wishes.sae[..]),
            ("user=q,assistant=a", &["d".to_owned()][..])
        );
        assert_eq!((wishes.on_conflict, wishes.on_bad_row), (OnConflict::Update, OnBadRow::SetAside));
        assert_eq!(Wishes::read(Some("format=ndjson"), &HeaderMap::new()).unwrap().format, Some("jsonl"));
        assert_eq!(Wishes::read(None, &typed("application/octet-stream")).unwrap().format, None);
        for (url, headers, status) in [
            ("format=text", HeaderMap::new(), 400),
            ("on_conflict=maybe", HeaderMap::new(), 400),
            ("limit=3", HeaderMap::new(), 400),
            ("chat=user", HeaderMap::new(), 400),
            ("", typed("image/png"), 415),
        ] {
            assert_eq!(Wishes::read(Some(url), &headers).unwrap_err().status.as_u16(), status, "{url}");
        }
    }
}
