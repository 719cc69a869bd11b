//! Names of groups: the features that are in them more than in the other documents.

use std::collections::HashSet;

use super::options::Selected;
use super::passes::Placed;
use crate::catalog::FeatureCatalog;
use crate::features::FeatureId;
use crate::kernels::log_odds::{Counts, log_odds};

/// Features listed of each group.
const N_FEATURES: usize = 10;
/// Labels in a name.
const N_LABELS: usize = 3;
/// Pseudo-documents that shrink both sides of a comparison.
const PRIOR_DOCS: f64 = 2.0;
/// Standard errors from chance below which a feature does not name a group.
const LEAST_Z: f64 = 2.0;

/// A feature that sets a group apart.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Telling {
    pub(super) id: FeatureId,
    pub(super) label: String,
    /// Share of the group's documents with it.
    pub(super) frequency_in: f64,
    /// Share of all other documents with it.
    pub(super) frequency_out: f64,
    /// `frequency_in / frequency_out`, each shrunk by half a document.
    pub(super) lift: f64,
}

/// A group as the result shows it.
#[derive(Debug, Clone)]
pub(super) struct Group {
    /// Its number in [`Placed`].
    pub(super) cluster: usize,
    pub(super) name: String,
    pub(super) size: u64,
    pub(super) features: Vec<Telling>,
}

/// The groups that have a document, largest first, with different names.
pub(super) fn describe(placed: &Placed, selected: &Selected, catalog: &FeatureCatalog) -> Vec<Group> {
    let n_clusters = placed.sizes.len().saturating_sub(1);
    let mut order: Vec<usize> = (0..n_clusters).filter(|&cluster| placed.sizes[cluster] > 0).collect();
    order.sort_by_key(|&cluster| (std::cmp::Reverse(placed.sizes[cluster]), cluster));
    let total: u64 = placed.sizes.iter().sum();
    let id_bound = placed.n_with.first().map_or(0, Vec::len);
    let n_with: Vec<u64> =
        (0..id_bound).map(|id| placed.n_with.iter().map(|counts| u64::from(counts[id])).sum()).collect();
    let mut names = HashSet::new();
    let describe = |(number, &cluster): (usize, &usize)| {
        let size = placed.sizes[cluster];
        let features = telling(&placed.n_with[cluster], size, &n_with, total, selected, catalog);
        let name = distinct_name(&features, number, &mut names);
        Group { cluster, name, size, features: features.into_iter().take(N_FEATURES).collect() }
    };
    order.iter().enumerate().map(describe).collect()
}

/// Features that are more frequent inside, clearest first. Labels are not repeated.
fn telling(
    inside: &[u32],
    n_inside: u64,
    n_with: &[u64],
    total: u64,
    selected: &Selected,
    catalog: &FeatureCatalog,
) -> Vec<Telling> {
    let n_outside = total - n_inside;
    let mut scored: Vec<(f64, FeatureId)> = Vec::new();
    for (id, (&inside, &with)) in (0..).zip(inside.iter().zip(n_with)) {
        if inside == 0 || selected.slot(id).is_none() {
            continue;
        }
        let counts = Counts {
            inside: f64::from(inside),
            n_inside: n_inside as f64,
            outside: (with - u64::from(inside)) as f64,
            n_outside: n_outside as f64,
            background: (with as f64 + 0.5) / (total as f64 + 1.0),
        };
        let z = log_odds(counts, PRIOR_DOCS).z;
        if z > 0.0 {
            scored.push((z, id));
        }
    }
    scored.sort_by(|a, b| b.0.total_cmp(&a.0).then(a.1.cmp(&b.1)));
    // With nothing clear, the clearest there is says at least what the documents are about.
    let clear = scored.iter().take_while(|(z, _)| *z >= LEAST_Z).count();
    scored.truncate(if clear > 0 { clear } else { N_LABELS });
    let mut labels = HashSet::new();
    let mut found = Vec::new();
    for (_, id) in scored {
        let label = catalog.label(id);
        if label.trim().is_empty() || !labels.insert(label.to_lowercase()) {
            continue;
        }
        let (with_in, with_out) =
            (f64::from(inside[id as usize]), (n_with[id as usize] - u64::from(inside[id as usize])) as f64);
        let shrunk = |with: f64, n: u64| (with + 0.5) / (n as f64 + 1.0);
        found.push(Telling {
            id,
            label: label.to_owned(),
            frequency_in: with_in / n_inside as f64,
            frequency_out: if n_outside == 0 { 0.0 } else { with_out / n_outside as f64 },
            lift: shrunk(with_in, n_inside) / shrunk(with_out, n_outside),
        });
        if found.len() == N_FEATURES + N_LABELS {
            break;
        }
    }
    found
}

/// The first labels, with as many more as set the name apart from `taken`; a number where labels do not suffice.
fn distinct_name(features: &[Telling], number: usize, taken: &mut HashSet<String>) -> String {
    let name_of =
        |n: usize| features.iter().take(n).map(|feature| feature.label.as_str()).collect::<Vec<_>>().join(", ");
    let mut name = match features.len() {
        0 => format!("group {}", number + 1),
        n => (N_LABELS.min(n)..=n).map(name_of).find(|name| !taken.contains(name)).unwrap_or_else(|| name_of(N_LABELS)),
    };
    let base = name.clone();
    let mut again = 2;
    while !taken.insert(name.clone()) {
        name = format!("{base} ({again})");
        again += 1;
    }
    name
}

#[cfg(test)]
mod tests {
    use super::*;

    fn feature(label: &str) -> Telling {
        Telling { id: 0, label: label.to_owned(), frequency_in: 1.0, frequency_out: 0.0, lift: 2.0 }
    }

    #[test]
    fn names_are_distinct() {
        let mut taken = HashSet::new();
        let few = [feature("a"), feature("b")];
        let more = [feature("a"), feature("b"), feature("c"), feature("d")];
        let names: Vec<String> = [&few[..], &few, &few, &more, &more, &[], &[]]
            .into_iter()
            .enumerate()
            .map(|(number, features)| distinct_name(features, number, &mut taken))
            .collect();
        assert_eq!(names, ["a, b", "a, b (2)", "a, b (3)", "a, b, c", "a, b, c, d", "group 6", "group 7"]);
    }
}
