//! Names of released dictionaries: which repository and path on the model hub a SAELens release and id mean.

use crate::error::{Error, ErrorKind, Result};

/// See the head of the file.
const RELEASES: &str = include_str!("releases.tsv");

/// A released dictionary on the hub.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Released {
    pub(super) repository: String,
    /// A folder or a file; empty: the repository itself.
    pub(super) path: String,
    /// The model; empty if the name is of a repository that no release has.
    pub(super) model: String,
    /// Factor of the inputs that is not in the weights.
    pub(super) scale: Option<f32>,
    /// Whether states are to be centred on their own mean first, because the model's weights were when it was trained.
    pub(super) centred: bool,
    /// Normalisation that the release corrects its configuration by.
    pub(super) normalization: Option<&'static str>,
}

struct Line {
    release: &'static str,
    repository: &'static str,
    model: &'static str,
    rules: &'static str,
    needs: &'static str,
}

fn lines() -> impl Iterator<Item = Line> {
    RELEASES.lines().filter(|line| !line.starts_with('#')).filter_map(|line| {
        let mut columns = line.split('\t');
        Some(Line {
            release: columns.next()?,
            repository: columns.next()?,
            model: columns.next()?,
            rules: columns.next()?,
            needs: columns.next()?,
        })
    })
}

/// What follows from a rule's pattern; `None` if the id is another.
fn apply(pattern: &str, path: &str, id: &str) -> Option<String> {
    if pattern == "*" {
        return Some(path.replace('*', id));
    }
    let (mut numbers, mut rest) = (Vec::new(), id);
    for (i, part) in pattern.split('#').enumerate() {
        if i > 0 {
            let end = rest.find(|c: char| !c.is_ascii_digit()).unwrap_or(rest.len());
            let (number, after) = rest.split_at(end);
            (!number.is_empty()).then(|| numbers.push(number))?;
            rest = after;
        }
        rest = rest.strip_prefix(part)?;
    }
    if !rest.is_empty() {
        return None;
    }
    let mut out = path.to_owned();
    for (i, number) in numbers.iter().enumerate() {
        out = out.replace(&format!("#{}", i + 1), number);
    }
    Some(out)
}

/// Finds `release/id` of SAELens, or `owner/repository/path` on the hub; `None` if the name can be neither.
///
/// # Errors
/// [`ErrorKind::NotFound`] if the release is known and the id is not, with some that are; or if the name is near a release.
pub(super) fn find(name: &str) -> Result<Option<Released>> {
    let name = name.trim_start_matches("hf://").trim_matches('/');
    let (first, rest) = name.split_once('/').unwrap_or((name, ""));
    if let Some(line) = lines().find(|line| line.release == first) {
        let rules = || line.rules.split(' ').map(|rule| rule.split_once('=').unwrap_or((rule, rule)));
        let path = rules().find_map(|(pattern, path)| apply(pattern, path, rest)).filter(|_| !rest.is_empty());
        let Some(path) = path else {
            let some: Vec<&str> = rules().map(|(pattern, _)| pattern).take(5).collect();
            let message = format!(
                "release '{first}' has no dictionary '{rest}'; expected {first}/ID with an ID like {} (# is a number, * \
                 anything that the release lists)",
                some.join(" or ")
            );
            return Err(Error::new(ErrorKind::NotFound, message));
        };
        let mut found = Released {
            repository: line.repository.to_owned(),
            path,
            model: line.model.to_owned(),
            scale: None,
            centred: false,
            normalization: None,
        };
        for need in line.needs.split(' ').filter(|need| !need.is_empty()) {
            match need.split_once('=') {
                Some((id, factor)) if id == rest => found.scale = factor.parse().ok(),
                Some(_) => {}
                None if need == "centred-writing" => found.centred = true,
                None => found.normalization = Some(need),
            }
        }
        return Ok(Some(found));
    }
    let Some((repository, path)) = rest.split_once('/').or((!rest.is_empty()).then_some((rest, ""))) else {
        let near = near(first);
        return match near[..] {
            [] => Ok(None),
            _ => {
                let message = format!("'{name}' not found; did you mean {}?", near.join(" or "));
                Err(Error::new(ErrorKind::NotFound, message))
            }
        };
    };
    let repository = format!("{first}/{repository}");
    let model = lines().find(|line| line.repository == repository).map_or("", |line| line.model);
    Ok(Some(Released {
        repository,
        path: path.to_owned(),
        model: model.to_owned(),
        scale: None,
        centred: false,
        normalization: None,
    }))
}

/// Releases that resemble the first part of a name that is of none.
pub(super) fn resembling(name: &str) -> Vec<&'static str> {
    let first = name.split('/').next().unwrap_or(name);
    if lines().any(|line| line.release == first) { Vec::new() } else { near(first) }
}

/// Releases with nearly all parts of the name, the nearest first.
fn near(name: &str) -> Vec<&'static str> {
    let parts: Vec<&str> = name.split(['-', '_', '.']).filter(|part| part.len() > 1).collect();
    let shared = |release: &str| parts.iter().filter(|part| release.contains(*part)).count();
    let mut found: Vec<&str> = lines()
        .map(|line| line.release)
        .filter(|release| parts.len() > 1 && shared(release) + 1 >= parts.len())
        .collect();
    found.sort_by_key(|release| (std::cmp::Reverse(shared(release)), release.len()));
    found.truncate(5);
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    fn path(name: &str) -> String {
        let found = find(name).unwrap().unwrap();
        format!("{}/{}", found.repository, found.path)
    }

    #[test]
    fn releases_and_ids_become_paths() {
        for (name, expected) in [
            (
                "gemma-scope-2b-pt-res/layer_12/width_16k/average_l0_82",
                "google/gemma-scope-2b-pt-res/layer_12/width_16k/average_l0_82",
            ),
            (
                "gemma-scope-2b-pt-res-canonical/layer_0/width_16k/canonical",
                "google/gemma-scope-2b-pt-res/layer_0/width_16k/average_l0_105",
            ),
            ("llama_scope_lxr_8x/l15r_8x", "fnlp/Llama3_1-8B-Base-LXR-8x/Llama3_1-8B-Base-L15R-8x"),
            (
                "gpt2-small-resid-post-v5-32k/blocks.11.hook_resid_post",
                "jbloom/GPT2-Small-OAI-v5-32k-resid-post-SAEs/v5_32k_layer_11.pt",
            ),
            (
                "sae_bench_pythia70m_sweep_topk_ctx128_0730/blocks.3.hook_resid_post__trainer_7",
                "canrager/lm_sae/pythia70m_sweep_topk_ctx128_0730/resid_post_layer_3/trainer_7",
            ),
            (
                "goodfire-llama-3.3-70b-instruct/layer_50",
                "Goodfire/Llama-3.3-70B-Instruct-SAE-l50/Llama-3.3-70B-Instruct-SAE-l50.pt",
            ),
            ("EleutherAI/sae-pythia-70m-32k/layers.3", "EleutherAI/sae-pythia-70m-32k/layers.3"),
        ] {
            assert_eq!(path(name), expected);
        }
        let found = find("gpt2-small-mlp-tm/blocks.1.hook_mlp_out").unwrap().unwrap();
        assert!(found.centred && found.scale == Some(2.369_398_4) && found.model == "gpt2-small");
    }

    #[test]
    fn unknown_names_are_refused_with_those_there_are() {
        let error = find("llama_scope_lxr_8x/l99").unwrap_err();
        assert!(error.message().contains("an ID like l#r_8x"), "{error}");
        let error = find("gemma-scope-2b-res").unwrap_err();
        assert!(error.message().contains("did you mean gemma-scope-2b-pt-res"), "{error}");
        assert_eq!(find("nothing").unwrap(), None);
    }

    #[test]
    fn every_line_is_whole() {
        assert_eq!(lines().count(), 170);
        for line in RELEASES.lines().filter(|line| !line.starts_with('#')) {
            assert_eq!(line.split('\t').count(), 5, "{line}");
        }
    }
}
