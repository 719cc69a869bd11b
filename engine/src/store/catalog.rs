//! Changes of the catalog: each is one commit of all tables it touches.

use std::fs;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use futures::future::BoxFuture;
use saequel_udfs::{Dictionary, Feature, Level};
use sha2::{Digest, Sha256};

use super::state::{FeatureRow, JOBS_KEPT, SaeRow, State};
use super::{Store, WriteGuard, folder, now_micros};
use crate::catalog::{FeatureDetail, JobInfo, ReaderInfo};
use crate::error::{Error, ErrorKind, Result, io_error};
use crate::sae::{LatentInfo, Sae, check_dictionary_name};

/// A dictionary that is to be added.
pub(crate) struct NewDictionary<'a> {
    pub(crate) name: String,
    pub(crate) reader: String,
    pub(crate) layer: usize,
    pub(crate) level: Level,
    pub(crate) width: u32,
    pub(crate) latents: Vec<LatentInfo>,
    /// The artifact of which the folder keeps a copy; `None` if the features were computed elsewhere.
    pub(crate) sae: Option<&'a Sae>,
    /// Where it comes from, as JSON; empty if nothing is known beyond the artifact.
    pub(crate) provenance: String,
}

impl<'a> NewDictionary<'a> {
    pub(crate) fn of(sae: &'a Sae) -> Self {
        Self {
            name: sae.name().to_owned(),
            reader: sae.reader().to_owned(),
            layer: sae.layer(),
            level: Self::level(sae.level()),
            width: sae.width() as u32,
            latents: sae.latents().to_vec(),
            sae: Some(sae),
            provenance: String::new(),
        }
    }

    /// A level as the functions of SQL know it.
    pub(crate) fn level(level: saequel_encoder::Level) -> Level {
        match level {
            saequel_encoder::Level::Token => Level::Token,
            saequel_encoder::Level::Span => Level::Span,
            saequel_encoder::Level::Document => Level::Document,
        }
    }
}

/// Copies the artifact into the folder and notes the dictionary and its features in `state`; returns its first id.
pub(super) fn add_dictionary(dir: &Path, state: &mut State, new: &NewDictionary<'_>) -> Result<u32> {
    check_dictionary_name(&new.name)?;
    // SQL shows `a-b` and `a_b` under the same column name.
    let shown = |name: &str| name.replace('-', "_");
    if let Some(other) = state.saes.iter().find(|sae| shown(&sae.dictionary.name) == shown(&new.name)) {
        let message = if other.dictionary.name == new.name {
            format!("dictionary '{}' exists already; give the new one another name", new.name)
        } else {
            format!(
                "dictionary '{}' differs from '{}' by - and _ only, which make one column name; give it another name",
                new.name, other.dictionary.name
            )
        };
        return Err(Error::new(ErrorKind::Exists, message));
    }
    if new.latents.len() != new.width as usize {
        let message = format!(
            "dictionary '{}' has width {} but {} descriptions of latents",
            new.name,
            new.width,
            new.latents.len()
        );
        return Err(Error::new(ErrorKind::Corrupt, message));
    }
    let bound = state.saes.iter().map(|sae| sae.dictionary.first_id.saturating_add(sae.dictionary.width)).max();
    let first_id = bound.unwrap_or(0);
    if first_id.checked_add(new.width).is_none() {
        let message = format!("dictionary '{}': feature ids would exceed {}", new.name, u32::MAX);
        return Err(Error::new(ErrorKind::Resources, message));
    }
    let mut sha256 = String::new();
    if let Some(sae) = new.sae {
        // A folder of this name that the catalog does not know is what an interrupted addition left.
        let folder = dir.join("saes").join(&new.name);
        if folder.exists() {
            fs::remove_dir_all(&folder).map_err(|error| io_error("cannot replace", &folder, error))?;
        }
        sae.save(&folder)?;
        sha256 = folder_sha256(&folder)?;
    }
    let dictionary = Dictionary {
        name: new.name.clone(),
        reader: new.reader.clone(),
        layer: new.layer,
        level: new.level,
        first_id,
        width: new.width,
    };
    let provenance = new.provenance.clone();
    state.saes.push(SaeRow { dictionary, sha256, added_micros: now_micros(), provenance });
    state.features.extend(new.latents.iter().map(|latent| feature_row(first_id, latent)));
    Ok(first_id)
}

fn feature_row(first_id: u32, latent: &LatentInfo) -> FeatureRow {
    let feature = Feature {
        id: first_id + latent.latent,
        dictionary: 0,
        label: latent.label.clone(),
        description: latent.description.clone(),
        label_source: latent.label_source.clone(),
        label_score: latent.label_score,
        density: latent.density,
        max_activation: latent.max_activation,
        q50: latent.q50,
        q90: latent.q90,
        hidden: latent.hidden.is_some(),
        top_tokens: latent.top_tokens.clone(),
        top_words: latent.top_words.clone(),
    };
    let detail = FeatureDetail {
        detection: latent.detection,
        evidence_version: latent.evidence_version,
        presence_threshold: latent.presence_threshold,
        hidden_because: latent.hidden.clone(),
        examples: latent.examples.clone(),
    };
    FeatureRow { feature, detail }
}

/// SHA-256 over names and contents of a dictionary's files, by name; hexadecimal. Other files of the folder are none of it.
pub(crate) fn folder_sha256(folder: &Path) -> Result<String> {
    let failed = |error| io_error("cannot read", folder, error);
    let mut files: Vec<PathBuf> = Vec::new();
    for entry in fs::read_dir(folder).map_err(failed)? {
        let path = entry.map_err(failed)?.path();
        if path.is_file() && path.file_name().is_some_and(crate::sae::is_file_of_dictionary) {
            files.push(path);
        }
    }
    files.sort();
    let mut hash = Sha256::new();
    let mut buffer = vec![0; 1 << 16];
    for path in files {
        hash.update(path.file_name().unwrap_or_default().as_encoded_bytes());
        let mut file = fs::File::open(&path).map_err(|error| io_error("cannot read", &path, error))?;
        loop {
            let n = file.read(&mut buffer).map_err(|error| io_error("cannot read", &path, error))?;
            if n == 0 {
                break;
            }
            hash.update(&buffer[..n]);
        }
    }
    Ok(hex(&hash.finalize()))
}

/// Lower-case hexadecimal.
pub(crate) fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

impl Store {
    /// Edits a copy of the catalog and commits the tables `changed`, all at once. After an error nothing is changed.
    ///
    /// # Errors
    /// Those of `edit`, [`ErrorKind::Io`].
    pub(crate) async fn change<T>(
        &self,
        _guard: &WriteGuard,
        changed: &[&str],
        edit: impl FnOnce(&mut State) -> Result<T>,
    ) -> Result<T> {
        let mut state = (*self.picture().state).clone();
        let answer = edit(&mut state)?;
        self.commit(state, changed).await?;
        Ok(answer)
    }

    /// The part of [`Self::change`] that is compiled once.
    fn commit<'a>(&'a self, state: State, changed: &'a [&str]) -> BoxFuture<'a, Result<()>> {
        Box::pin(async move {
            let newer = folder::change(&self.inner.tables, &self.picture(), state, changed).await?;
            self.publish(Arc::new(newer)).await;
            Ok(())
        })
    }

    /// Adds a dictionary; returns its first feature id.
    ///
    /// # Errors
    /// [`ErrorKind::Exists`].
    pub(crate) async fn add_dictionary(&self, guard: &WriteGuard, new: &NewDictionary<'_>) -> Result<u32> {
        let dir = self.inner.dir.clone();
        self.change(guard, &["saes", "features"], |state| add_dictionary(&dir, state, new)).await
    }

    /// Notes a reader that was used.
    pub(crate) async fn put_reader(&self, guard: &WriteGuard, reader: ReaderInfo) -> Result<()> {
        if self.picture().state.readers.contains(&reader) {
            return Ok(());
        }
        self.change(guard, &["readers"], |state| {
            state.readers.retain(|other| other.name != reader.name);
            state.readers.push(reader);
            state.readers.sort_by(|a, b| a.name.cmp(&b.name));
            Ok(())
        })
        .await
    }

    /// What the catalog says the artifact of a dictionary hashes to; `None` if the folder has no copy of it.
    pub(crate) fn sae_sha256(&self, dictionary: &str) -> Option<String> {
        let picture = self.picture();
        let sae = picture.state.saes.iter().find(|sae| sae.dictionary.name == dictionary)?;
        (!sae.sha256.is_empty()).then(|| sae.sha256.clone())
    }

    /// Where the catalog says that a dictionary comes from, as JSON; empty if it says nothing.
    pub(crate) fn provenance(&self, dictionary: &str) -> String {
        let picture = self.picture();
        let sae = picture.state.saes.iter().find(|sae| sae.dictionary.name == dictionary);
        sae.map(|sae| sae.provenance.clone()).unwrap_or_default()
    }

    /// Version of the layout on disk.
    pub(crate) fn schema_version(&self) -> u32 {
        self.picture().schema_version()
    }

    /// Notes that a job begins; returns its number. Jobs that are still `running` were interrupted: we hold the lock.
    pub(crate) async fn start_job(&self, guard: &WriteGuard, kind: &str, subject: &str) -> Result<u64> {
        self.change(guard, &["jobs"], |state| {
            for job in state.jobs.iter_mut().filter(|job| job.state == "running") {
                job.state = "interrupted".to_owned();
            }
            let id = state.jobs.iter().map(|job| job.id).max().unwrap_or(0) + 1;
            let job = JobInfo {
                id,
                kind: kind.to_owned(),
                subject: subject.to_owned(),
                state: "running".to_owned(),
                detail: String::new(),
                started_micros: now_micros(),
                finished_micros: None,
            };
            state.jobs.insert(0, job);
            state.jobs.truncate(JOBS_KEPT);
            Ok(id)
        })
        .await
    }

    /// Notes how a job ended.
    pub(crate) async fn finish_job(&self, guard: &WriteGuard, id: u64, ended: &str, detail: &str) -> Result<()> {
        self.change(guard, &["jobs"], |state| {
            if let Some(job) = state.jobs.iter_mut().find(|job| job.id == id) {
                job.state = ended.to_owned();
                job.detail = detail.to_owned();
                job.finished_micros = Some(now_micros());
            }
            Ok(())
        })
        .await
    }
}
