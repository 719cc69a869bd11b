//! Files after `FROM`: `'notes.csv'`, `'data/*.parquet'`, `'part.jsonl.gz'`, read in place.
//!
//! A statement may read files of the database folder and of the folders that the engine was opened with, but none that the
//! database itself keeps there; what is compared is where a file really is, after links.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use arrow::datatypes::{DataType, Field, FieldRef, Schema};
use datafusion::catalog::{Session, TableProvider};
use datafusion::datasource::file_format::FileFormat;
use datafusion::datasource::file_format::arrow::ArrowFormat;
use datafusion::datasource::file_format::csv::CsvFormat;
use datafusion::datasource::file_format::file_compression_type::FileCompressionType;
use datafusion::datasource::file_format::json::JsonFormat;
use datafusion::datasource::file_format::parquet::ParquetFormat;
use datafusion::datasource::listing::{ListingOptions, ListingTable, ListingTableConfig, ListingTableUrl};
use datafusion::error::{DataFusionError, Result as DFResult};

use crate::error::{Error, ErrorKind, Result, nearest};
use crate::ingest::{columns_of_digits, delimiter, first_bytes};
use crate::options::EngineOptions;

/// What the database keeps in its folder beside what a user puts there. Whoever holds the program may look at it; statements
/// of others may not: a token's corpora would not hold there.
const KEPT: [&str; 9] = ["cache", "catalog", "corpora", "lock", "saes", "tmp", "tokens.json", "tokens.lock", "words"];

/// Rows that the columns and types of a text file are found from.
const SCHEMA_ROWS: usize = 10_000;

/// Whether a name after `FROM` is meant as a file: corpora have neither dots nor slashes.
pub(crate) fn is_file_name(name: &str) -> bool {
    name.contains(['.', '/', '\\'])
}

/// Where `name` really is, if a statement may read it. A file that may not be read and one that does not exist cannot be
/// told apart by who may not look.
///
/// # Errors
/// [`ErrorKind::NotFound`] with the nearest name in the folder, [`ErrorKind::Denied`].
pub(crate) fn allowed_path(name: &str, options: &EngineOptions, database: &Path) -> Result<PathBuf> {
    let denied = || {
        let message = format!(
            "file '{name}': statements read files of the folders that were allowed when the database was opened \
             (--allow-dir) and of the database folder, but nothing that the database itself keeps there"
        );
        Error::new(ErrorKind::Denied, message)
    };
    let real = match std::fs::canonicalize(name) {
        Ok(real) => real,
        Err(_) if options.allowed_dirs.is_some() && !parent_is_allowed(name, options, database) => return Err(denied()),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Err(missing(name, options, database)),
        Err(error) => return Err(Error::new(ErrorKind::Io, format!("file '{name}'")).with_source(error)),
    };
    if is_allowed(&real, options, database) { Ok(real) } else { Err(denied()) }
}

fn is_allowed(real: &Path, options: &EngineOptions, database: &Path) -> bool {
    if options.secret_files.iter().any(|secret| is_same_file(real, secret)) {
        return false;
    }
    let Some(folders) = &options.allowed_dirs else { return true };
    if is_same_file(real, &database.join("tokens.json")) {
        return false;
    }
    // Whichever folder is allowed, this one's inside stays closed.
    if let Ok(database) = std::fs::canonicalize(database)
        && let Ok(inside) = real.strip_prefix(&database)
        && let Some(first) = inside.components().next()
        && KEPT.iter().any(|kept| first.as_os_str().eq_ignore_ascii_case(kept))
    {
        return false;
    }
    let mut folders = folders.iter().map(PathBuf::as_path).chain([database]);
    folders.any(|folder| std::fs::canonicalize(folder).is_ok_and(|folder| real.starts_with(folder)))
}

/// Whether both paths lead to one file, by links of any kind.
fn is_same_file(one: &Path, other: &Path) -> bool {
    #[cfg(unix)]
    if let (Ok(one), Ok(other)) = (std::fs::metadata(one), std::fs::metadata(other)) {
        use std::os::unix::fs::MetadataExt;
        return (one.dev(), one.ino()) == (other.dev(), other.ino());
    }
    std::fs::canonicalize(other).is_ok_and(|other| one == other)
}

fn parent_is_allowed(name: &str, options: &EngineOptions, database: &Path) -> bool {
    let parent = Path::new(name).parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
    std::fs::canonicalize(parent).is_ok_and(|parent| is_allowed(&parent, options, database))
}

fn missing(name: &str, options: &EngineOptions, database: &Path) -> Error {
    let path = Path::new(name);
    let parent = path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let may_be_named = |path: &Path| std::fs::canonicalize(path).is_ok_and(|real| is_allowed(&real, options, database));
    let entries = std::fs::read_dir(parent).into_iter().flatten().flatten();
    let siblings: Vec<String> = entries
        .filter(|entry| may_be_named(&entry.path()))
        .map(|entry| entry.file_name().to_string_lossy().into_owned())
        .collect();
    let own = path.file_name().map(|own| own.to_string_lossy().into_owned()).unwrap_or_default();
    let hint = match nearest(&own, siblings.iter().map(String::as_str)) {
        Some(near) => format!("; did you mean '{}'?", path.with_file_name(near).display()),
        None if !path.is_absolute() && options.allowed_dirs.is_none() => match std::env::current_dir() {
            Ok(current) => format!("; it was looked for in {}", current.display()),
            Err(_) => String::new(),
        },
        None => String::new(),
    };
    Error::new(ErrorKind::NotFound, format!("file '{name}' not found{hint}"))
}

/// The files that `name` stands for: itself, or what matches `*` and `?` in its last part, sorted.
fn matching(name: &str, options: &EngineOptions, database: &Path) -> Result<Vec<PathBuf>> {
    let path = Path::new(name);
    let pattern = path.file_name().map(|last| last.to_string_lossy().into_owned()).unwrap_or_default();
    if !pattern.contains(['*', '?']) {
        return Ok(vec![allowed_path(name, options, database)?]);
    }
    let parent = path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let folder = allowed_path(&parent.to_string_lossy(), options, database)?;
    let entries = std::fs::read_dir(&folder)
        .map_err(|error| Error::new(ErrorKind::Io, format!("cannot list '{}'", parent.display())).with_source(error))?;
    let mut names: Vec<String> = entries
        .flatten()
        .map(|entry| entry.file_name().to_string_lossy().into_owned())
        .filter(|name| matches_pattern(name.as_bytes(), pattern.as_bytes()))
        .collect();
    // What may not be read is not matched, as if it were not there.
    names.retain(|name| {
        std::fs::canonicalize(folder.join(name)).map_or(true, |real| is_allowed(&real, options, database))
    });
    names.sort();
    if names.is_empty() {
        return Err(Error::new(ErrorKind::NotFound, format!("no file matches '{name}'")));
    }
    names.iter().map(|name| allowed_path(&folder.join(name).to_string_lossy(), options, database)).collect()
}

/// Whether `name` matches a pattern of `*` (any bytes) and `?` (one byte).
fn matches_pattern(name: &[u8], pattern: &[u8]) -> bool {
    // Greedy with one step back: the last star takes one byte more whenever the rest does not fit.
    let (mut at, mut in_pattern, mut star) = (0, 0, None);
    while at < name.len() {
        match pattern.get(in_pattern) {
            Some(b'*') => {
                star = Some((in_pattern, at));
                in_pattern += 1;
            }
            Some(&byte) if byte == b'?' || byte == name[at] => {
                at += 1;
                in_pattern += 1;
            }
            _ => match star {
                Some((star_at, taken)) => {
                    star = Some((star_at, taken + 1));
                    at = taken + 1;
                    in_pattern = star_at + 1;
                }
                None => return false,
            },
        }
    }
    pattern[in_pattern..].iter().all(|&byte| byte == b'*')
}

/// How a file is read, by its ending.
fn format_of(path: &Path) -> Result<Arc<dyn FileFormat>> {
    let name = path.file_name().map(|name| name.to_string_lossy().to_lowercase()).unwrap_or_default();
    let (stem, compression) = match name.rsplit_once('.') {
        Some((stem, "gz" | "gzip")) => (stem, FileCompressionType::GZIP),
        Some((stem, "bz2")) => (stem, FileCompressionType::BZIP2),
        Some((stem, "xz")) => (stem, FileCompressionType::XZ),
        Some((stem, "zst" | "zstd")) => (stem, FileCompressionType::ZSTD),
        _ => (name.as_str(), FileCompressionType::UNCOMPRESSED),
    };
    let compressed = compression.is_compressed();
    let csv = |delimiter: u8| {
        CsvFormat::default()
            .with_has_header(true)
            .with_delimiter(delimiter)
            .with_newlines_in_values(!compressed)
            .with_schema_infer_max_rec(SCHEMA_ROWS)
            .with_file_compression_type(compression.clone())
    };
    let json = |newline_delimited: bool| {
        JsonFormat::default()
            .with_newline_delimited(newline_delimited)
            .with_schema_infer_max_rec(SCHEMA_ROWS)
            .with_file_compression_type(compression.clone())
    };
    Ok(match stem.rsplit_once('.').map(|(_, ending)| ending) {
        // Any of the separators that an import tells apart.
        Some("csv") => Arc::new(csv(delimiter(&first_bytes(path)?))),
        Some("tsv" | "tab") => Arc::new(csv(b'\t')),
        Some("jsonl" | "ndjson") => Arc::new(json(true)),
        Some("json") => Arc::new(json(!is_json_array(&first_bytes(path)?))),
        Some("parquet" | "pq") if !compressed => Arc::new(ParquetFormat::default()),
        Some("arrow" | "arrows" | "feather" | "ipc") if !compressed => Arc::new(ArrowFormat),
        ending => {
            let ending = ending.unwrap_or("none");
            let message = format!(
                "file '{}': expected the ending csv, tsv, json, jsonl, ndjson, parquet or arrow (text also with gz, bz2, xz or \
                 zst), got {ending}",
                path.display()
            );
            return Err(Error::new(ErrorKind::Query, message));
        }
    })
}

/// Whether the first character that is no space is `[`: a `.json` file may also hold one object a line.
fn is_json_array(first: &[u8]) -> bool {
    first.iter().find(|byte| !byte.is_ascii_whitespace() && !matches!(byte, 0xEF | 0xBB | 0xBF)) == Some(&b'[')
}

/// The file or files `name` as a table.
///
/// # Errors
/// [`ErrorKind::NotFound`], [`ErrorKind::Denied`], [`ErrorKind::Query`] for an unknown ending, [`ErrorKind::Data`] if it
/// cannot be read.
pub(crate) async fn table(
    name: &str,
    options: &EngineOptions,
    database: &Path,
    state: &dyn Session,
) -> DFResult<Arc<dyn TableProvider>> {
    if let Some((scheme, _)) = name.split_once("://") {
        let message = format!("'{name}': files are read from this machine's disk only, not over {scheme}");
        return Err(Error::new(ErrorKind::Query, message).into());
    }
    let paths = matching(name, options, database)?;
    let Some(first) = paths.first() else {
        return Err(Error::new(ErrorKind::NotFound, format!("no file matches '{name}'")).into());
    };
    let mut urls = Vec::with_capacity(paths.len());
    for path in &paths {
        if path.is_dir() {
            let message =
                format!("'{name}' is a folder: name a file, or several with a pattern such as '{name}/*.parquet'");
            return Err(Error::new(ErrorKind::Query, message).into());
        }
        urls.push(file_url(path)?);
    }
    let listing = ListingOptions::new(format_of(first)?)
        .with_file_extension("")
        .with_target_partitions(state.config().target_partitions());
    let unreadable = |error: DataFusionError| {
        let error = Error::from(error);
        let kind = if error.kind() == ErrorKind::Internal { ErrorKind::Data } else { error.kind() };
        let said = error.to_string();
        // The file is at fault, whoever DataFusion asks to be told.
        let said = said.split("This issue was likely caused by a bug in DataFusion").next().unwrap_or_default();
        let said = said.trim_end_matches(['.', '|', ' ', '\n']);
        DataFusionError::from(Error::new(kind, format!("cannot read file '{name}': {said}")))
    };
    let mut schema = Schema::empty();
    for (path, url) in paths.iter().zip(&urls) {
        let mut found = Arc::unwrap_or_clone(listing.infer_schema(state, url).await.map_err(unreadable)?);
        if listing.format.get_ext() == "csv" {
            found = with_digits(found, path);
        }
        schema = with_file(schema, &found, listing.format.get_ext() == "csv").map_err(|what| {
            let message = format!(
                "the files of '{name}' do not go together: {what} in '{}' and those before it; read them one by one and \
                 join them with UNION ALL BY NAME",
                path.display()
            );
            Error::new(ErrorKind::Data, message)
        })?;
    }
    let schema = Arc::new(schema);
    let config = ListingTableConfig::new_with_multi_paths(urls).with_listing_options(listing).with_schema(schema);
    Ok(Arc::new(ListingTable::try_new(config).map_err(unreadable)?))
}

/// `schema` of the files before, with the columns of a further one; or what keeps them apart. The values of CSV are taken
/// by position, and its types are guesses, which text always fits.
fn with_file(mut schema: Schema, file: &Schema, csv: bool) -> Result<Schema, String> {
    let names = |schema: &Schema| schema.fields().iter().map(|field| field.name().clone()).collect::<Vec<_>>();
    if schema.fields().is_empty() || file.fields().is_empty() {
        return Ok(if file.fields().is_empty() { schema } else { file.clone() });
    }
    if csv && names(&schema) != names(file) {
        return Err(format!("the columns are {}, not {}", names(file).join(", "), names(&schema).join(", ")));
    }
    let mut fields: Vec<FieldRef> = schema.fields().iter().cloned().collect();
    for field in file.fields() {
        let Some(known) = fields.iter_mut().find(|known| known.name() == field.name()) else {
            fields.push(Arc::new(field.as_ref().clone().with_nullable(true)));
            continue;
        };
        let wider = match (known.data_type(), field.data_type()) {
            (a, b) if a == b => a.clone(),
            (DataType::Null, other) | (other, DataType::Null) => other.clone(),
            (DataType::Int64, DataType::Float64) | (DataType::Float64, DataType::Int64) => DataType::Float64,
            _ if csv => DataType::Utf8,
            (a, b) => return Err(format!("column '{}' is {b}, not {a},", field.name())),
        };
        *known = Arc::new(Field::new(field.name(), wider, true));
    }
    schema.fields = fields.into();
    Ok(schema)
}

/// `schema` of a CSV file, with those columns as text that an import keeps as text, because numbers would lose digits.
fn with_digits(mut schema: Schema, path: &Path) -> Schema {
    let is_number = |field: &FieldRef| matches!(field.data_type(), DataType::Int64 | DataType::Float64);
    if !schema.fields().iter().any(is_number) {
        return schema;
    }
    let exact = columns_of_digits(path, SCHEMA_ROWS);
    let fields = schema.fields().iter().enumerate().map(|(at, field)| match exact.contains(&at) && is_number(field) {
        true => Arc::new(Field::new(field.name(), DataType::Utf8, true)),
        false => Arc::clone(field),
    });
    schema.fields = fields.collect();
    schema
}

/// The URL of one file, whatever characters its name has.
fn file_url(path: &Path) -> DFResult<ListingTableUrl> {
    let url = url::Url::from_file_path(path)
        .map_err(|()| Error::new(ErrorKind::Query, format!("'{}' is no absolute path", path.display())))?;
    ListingTableUrl::try_new(url, None)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn options(folders: &[&Path]) -> EngineOptions {
        let allowed_dirs = Some(folders.iter().map(|folder| folder.to_path_buf()).collect());
        EngineOptions { allowed_dirs, ..EngineOptions::default() }
    }

    #[test]
    fn patterns() {
        assert!(matches_pattern(b"part-1.csv", b"part-*.csv"));
        assert!(matches_pattern(b"aXbXc", b"a*b*c"));
        assert!(matches_pattern(b"ab", b"a?"));
        assert!(matches_pattern(b"a", b"a**"));
        assert!(!matches_pattern(b"a", b"a?"));
        assert!(!matches_pattern(b"x.csv.bak", b"*.csv"));
    }

    #[test]
    fn only_allowed_folders_are_read() {
        let root = tempfile::tempdir().unwrap();
        let (allowed, outside) = (root.path().join("allowed"), root.path().join("outside"));
        for folder in [&allowed, &outside] {
            std::fs::create_dir(folder).unwrap();
            std::fs::write(folder.join("x.csv"), "a\n1\n").unwrap();
        }
        let options = options(&[&allowed]);
        let kind = |path: PathBuf| {
            allowed_path(&path.to_string_lossy(), &options, &root.path().join("db")).map_err(|error| error.kind())
        };
        assert!(kind(allowed.join("x.csv")).is_ok());
        assert_eq!(kind(outside.join("x.csv")), Err(ErrorKind::Denied));
        assert_eq!(kind(allowed.join("../outside/x.csv")), Err(ErrorKind::Denied));
        // What exists outside is not told.
        assert_eq!(kind(outside.join("missing.csv")), Err(ErrorKind::Denied));
        assert_eq!(kind(allowed.join("missing.csv")), Err(ErrorKind::NotFound));
        // A sibling whose name begins like the allowed folder's is another folder.
        std::fs::create_dir(root.path().join("allowed2")).unwrap();
        std::fs::write(root.path().join("allowed2/x.csv"), "").unwrap();
        assert_eq!(kind(root.path().join("allowed2/x.csv")), Err(ErrorKind::Denied));
        #[cfg(unix)]
        {
            std::os::unix::fs::symlink(outside.join("x.csv"), allowed.join("link.csv")).unwrap();
            assert_eq!(kind(allowed.join("link.csv")), Err(ErrorKind::Denied));
        }
    }

    #[test]
    fn what_the_database_keeps_and_secrets_are_not_read() {
        let root = tempfile::tempdir().unwrap();
        let db = root.path().join("db");
        std::fs::create_dir_all(db.join("corpora/a.lance/_deletions")).unwrap();
        let files = ["own.csv", "tokens.json", "corpora/a.lance/_deletions/1.arrow", "key.csv", "corpora.csv"];
        for file in files {
            std::fs::write(db.join(file), "a\n1\n").unwrap();
        }
        let options = EngineOptions { secret_files: vec![db.join("key.csv")], ..options(&[root.path()]) };
        let kind = |path: PathBuf, options: &EngineOptions| {
            allowed_path(&path.to_string_lossy(), options, &db).map(|_| ()).map_err(|error| error.kind())
        };
        for own in ["own.csv", "corpora.csv", "corpora/../own.csv"] {
            assert_eq!(kind(db.join(own), &options), Ok(()), "{own}");
        }
        for kept in ["tokens.json", "./tokens.json", "corpora/../tokens.json", "corpora/a.lance/_deletions/1.arrow"] {
            assert_eq!(kind(db.join(kept), &options), Err(ErrorKind::Denied), "{kept}");
        }
        let anything = EngineOptions { allowed_dirs: None, ..options.clone() };
        assert_eq!(kind(db.join("key.csv"), &anything), Err(ErrorKind::Denied));
        #[cfg(unix)]
        for (i, secret) in ["tokens.json", "key.csv"].into_iter().enumerate() {
            let link = root.path().join(format!("link{i}.csv"));
            std::os::unix::fs::symlink(db.join(secret), &link).unwrap();
            assert_eq!(kind(link, &options), Err(ErrorKind::Denied));
        }
        #[cfg(unix)]
        {
            std::fs::hard_link(db.join("key.csv"), root.path().join("hard.csv")).unwrap();
            assert_eq!(kind(root.path().join("hard.csv"), &options), Err(ErrorKind::Denied));
        }
        let pattern = db.join("*.csv").to_string_lossy().into_owned();
        let found = matching(&pattern, &options, &db).unwrap();
        let names: Vec<_> = found.iter().filter_map(|path| path.file_name()?.to_str()).collect();
        assert_eq!(names, ["corpora.csv", "own.csv"]);
    }

    #[test]
    fn a_missing_file_has_neighbours() {
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join("answers.csv"), "").unwrap();
        let name = folder.path().join("anwsers.csv").to_string_lossy().into_owned();
        let error = allowed_path(&name, &EngineOptions::default(), folder.path()).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::NotFound);
        assert!(error.message().ends_with("answers.csv'?"), "{error}");
    }

    #[test]
    fn endings() {
        let folder = tempfile::tempdir().unwrap();
        for name in ["a.csv", "a.csv.gz", "a.csv.gzip"] {
            std::fs::write(folder.path().join(name), "a;b\n1;2\n").unwrap();
        }
        let kind = |name: &str| format_of(&folder.path().join(name)).map(|_| ()).map_err(|error| error.kind());
        for name in ["a.csv", "A.TSV", "a.jsonl.zst", "a.csv.gz", "a.csv.gzip", "a.parquet", "a.arrow"] {
            assert_eq!(kind(name), Ok(()), "{name}");
        }
        for name in ["a", "a.txt", "a.parquet.gz", "a.gz"] {
            assert_eq!(kind(name), Err(ErrorKind::Query), "{name}");
        }
    }
}
