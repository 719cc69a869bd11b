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
    /// How well the label says when the feature is present, 0 to 1; half if it was not measured.
    label_score: f64,
    /// Share of the group's documents with it.
    pub(super) frequency_in: f64,
    /// Share of all other documents with it; `None` if there are none.
    pub(super) frequency_out: Option<f64>,
    /// `frequency_in / frequency_out`, each shrunk by half a document; without other documents it says nothing but how
    /// frequent the feature is.
    lift: f64,
}

impl Telling {
    /// How many times as frequent it is in the group as in the other documents; `None` if there are none.
    pub(super) fn lift(&self) -> Option<f64> {
        self.frequency_out.map(|_| self.lift)
    }

    /// What the feature's presence in the group tells, in nats: a common feature that is a little more common here tells
    /// less than one that is hardly found elsewhere. Its frequency where there are no other documents.
    fn information(&self) -> f64 {
        match self.frequency_out {
            Some(_) => self.frequency_in * self.lift.ln(),
            None => self.frequency_in,
        }
    }
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

/// Features that are clearly more frequent inside, those that tell most about the group first; without other documents the
/// most frequent ones. Labels are not repeated.
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
        // There is nothing to be more frequent than.
        if n_outside == 0 {
            scored.push((LEAST_Z, id));
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
    // With nothing clear, the clearest there is says at least what the documents are about.
    let least = scored.iter().map(|(z, _)| *z).fold(0.0, f64::max).min(LEAST_Z);
    let shrunk = |with: f64, n: u64| (with + 0.5) / (n as f64 + 1.0);
    let mut found: Vec<Telling> = scored
        .into_iter()
        .filter(|(z, id)| *z >= least && !catalog.label(*id).trim().is_empty())
        .map(|(_, id)| {
            let with_in = f64::from(inside[id as usize]);
            let with_out = n_with[id as usize] as f64 - with_in;
            Telling {
                id,
                label: catalog.label(id).to_owned(),
                label_score: catalog.feature(id).and_then(|feature| feature.label_score).unwrap_or(0.5).into(),
                frequency_in: with_in / n_inside as f64,
                frequency_out: (n_outside > 0).then(|| with_out / n_outside as f64),
                lift: shrunk(with_in, n_inside) / shrunk(with_out, n_outside),
            }
        })
        .collect();
    found.sort_by(|a, b| b.information().total_cmp(&a.information()).then(a.id.cmp(&b.id)));
    let mut labels = HashSet::new();
    found.retain(|feature| labels.insert(feature.label.to_lowercase()));
    found.truncate(N_FEATURES + N_LABELS);
    found
}

/// The labels that say most (what the feature tells, times how well the label says when it is present), with as many
/// more as set the name apart from `taken`; a number where labels do not suffice.
fn distinct_name(features: &[Telling], number: usize, taken: &mut HashSet<String>) -> String {
    let mut features: Vec<&Telling> = features.iter().collect();
    let says = |feature: &Telling| feature.information() * (0.1 + feature.label_score);
    features.sort_by(|a, b| says(b).total_cmp(&says(a)));
    let name_of =
        |n: usize| features.iter().take(n).map(|feature| feature.label.as_str()).collect::<Vec<_>>().join("; ");
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
        Telling { id: 0, label: label.to_owned(), label_score: 0.5, frequency_in: 1.0, frequency_out: None, lift: 2.0 }
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
        assert_eq!(names, ["a; b", "a; b (2)", "a; b (3)", "a; b; c", "a; b; c; d", "group 6", "group 7"]);
    }
}
