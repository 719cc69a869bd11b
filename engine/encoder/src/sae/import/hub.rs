//! Getting a dictionary's files from the model hub.

use std::fs;
use std::path::{Path, PathBuf};

use super::found::Place;
use super::registry::Released;
use crate::error::{Error, ErrorKind, Result};
use crate::progress::Progress;
use crate::reader::{Remote, hub_address};

/// Endings of files that hold weights.
const WEIGHTS: &[&str] = &[".safetensors", ".npz", ".pt", ".pth"];

/// Weight files of folders.
const FOLDER_WEIGHTS: &[&str] = &[
    "sae_weights.safetensors",
    "sae.safetensors",
    "params.npz",
    "params.safetensors",
    "checkpoints/final.safetensors",
    "ae.pt",
    "atoms.pt",
    "latest_ckpt.safetensors",
];

/// Fetches what a release consists of into `<cache>/saes/<repository>/<path>`; files that are there are not fetched again.
/// The hub is `HF_ENDPOINT` if that is set; `HF_TOKEN` is sent with the requests if it is set.
///
/// # Errors
/// [`ErrorKind::NotFound`] if the hub has no such dictionary, [`ErrorKind::Io`] if it cannot be reached: the message says
/// which files to put where.
pub(super) fn fetch(released: &Released, cache: &Path, progress: &dyn Progress) -> Result<Place> {
    fetch_from(&hub_address(), released, cache, progress)
}

/// The same from a given hub; see [`fetch`].
///
/// # Errors
/// As [`fetch`].
pub(super) fn fetch_from(hub: &str, released: &Released, cache: &Path, progress: &dyn Progress) -> Result<Place> {
    let root = cache.join("saes").join(released.repository.replace('/', "--"));
    let hub = Hub { hub: hub.trim_end_matches('/').to_owned(), released, root, progress };
    let address = format!("{}/{}", released.repository, released.path);
    // Some folders are named like files.
    if WEIGHTS.iter().any(|ending| released.path.ends_with(ending))
        && let Some(file) = hub.get(&released.path)?
    {
        if let Some(stem) = released.path.strip_suffix(".pt") {
            hub.get(&format!("{stem}_cfg.json"))?;
        }
        let dir = file.parent().unwrap_or(Path::new(".")).to_owned();
        return Ok(Place { dir, file: Some(file), address });
    }
    let dir = hub.root.join(&released.path);
    // Weights come last, so where they are, all is there.
    if FOLDER_WEIGHTS.iter().any(|name| dir.join(name).is_file()) {
        return Ok(Place { dir, file: None, address });
    }
    let there = |name: &str| Ok::<bool, Error>(hub.get(&hub.inside(name))?.is_some());
    let whole = if there("cfg.json")? {
        there("sparsity.safetensors")?;
        if there("sae_weights.safetensors")? {
            true
        } else {
            if let Some((parent, _)) = released.path.rsplit_once('/') {
                hub.get(&format!("{parent}/config.json"))?;
            } else {
                hub.get("config.json")?;
            }
            there("sae.safetensors")?
        }
    } else if there("params.npz")? {
        true
    } else if there("hyperparams.json")? {
        there("checkpoints/final.safetensors")?
    } else if there("config.json")? {
        there("params.safetensors")? || there("ae.pt")? || there("sae_weights.safetensors")?
    } else if there("metadata.yaml")? {
        there("atoms.pt")?
    } else {
        there("params.safetensors")? || there("conf.yaml")? && there("latest_ckpt.safetensors")?
    };
    if !whole {
        let message = format!(
            "{} on {} holds no dictionary that is known here; expected cfg.json, params.npz, params.safetensors, \
             hyperparams.json, ae.pt or another weight file there",
            address.trim_end_matches('/'),
            hub.hub
        );
        return Err(Error::new(ErrorKind::NotFound, message));
    }
    Ok(Place { dir, file: None, address })
}

struct Hub<'a> {
    hub: String,
    released: &'a Released,
    root: PathBuf,
    progress: &'a dyn Progress,
}

impl Hub<'_> {
    fn inside(&self, name: &str) -> String {
        if self.released.path.is_empty() { name.to_owned() } else { format!("{}/{name}", self.released.path) }
    }

    /// A file of the repository, fetched if it is not there; `None` if the hub does not have it.
    fn get(&self, path: &str) -> Result<Option<PathBuf>> {
        let place = self.root.join(path);
        if path.split('/').any(|part| part == "..") {
            return Err(Error::new(ErrorKind::Query, format!("'{path}' is not a path of a repository")));
        }
        if place.is_file() {
            return Ok(Some(place));
        }
        let failed = |reason: String| {
            let message = format!(
                "{reason}; connect to the network, set HF_ENDPOINT, or put the files of {} into {} and import that folder",
                self.released.repository,
                self.root.display()
            );
            Error::new(ErrorKind::Io, message)
        };
        let dir = place.parent().unwrap_or(Path::new("."));
        fs::create_dir_all(dir).map_err(|error| failed(format!("cannot make folder {}: {error}", dir.display())))?;
        let remote = Remote::new(&self.hub, &self.released.repository);
        let found = remote.get(path, &self.root, None, self.progress);
        Ok(found.map_err(|reason| failed(format!("cannot fetch {reason}")))?.map(|_| place))
    }
}
