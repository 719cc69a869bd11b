//! How well single features tell labelled texts apart: of each class the feature that tells it best on one half of the
//! documents, measured on the other half, beside the best word chosen in the same way.
//!
//! Two measures, class against rest: AUROC, the probability that a document of the class has the larger value; and the
//! Jensen-Shannon divergence between the distributions of the value within and without the class, in bits from 0 (the
//! same) to 1 (no overlap). Its square root is the distance of the concept separability score of Fereidouni et al. 2025
//! (arXiv:2508.15094). A feature's value is its largest activation in the document, a word's how often it occurs.

use std::collections::HashMap;

use crate::error::Result;
use crate::reader::parallel;
use crate::sae::random::Random;

/// Documents of a class in either half, below which nothing is said of it.
pub(super) const LEAST: usize = 10;
/// Bins of equally many non-zero values (of the first half) for the distributions, beside one for zero.
const BINS: usize = 10;
/// Words of which counts are kept; later ones are left out.
const MAX_WORDS: usize = 200_000;

/// A class of labelled texts and what tells it best.
#[derive(Debug, Clone, PartialEq)]
pub struct Concept {
    /// Label of the class.
    pub label: String,
    /// Documents of the class in the half on which was chosen, and in the one on which was measured.
    pub n_docs: [u64; 2],
    /// The latent with the largest AUROC on the first half; `None` if no latent ever fires.
    pub latent: Option<u32>,
    /// Its AUROC on the half on which it was chosen.
    pub auroc_chosen: f64,
    /// Its AUROC on the other half.
    pub auroc: f64,
    /// Jensen-Shannon divergence between its values in the class and elsewhere, on the other half, in bits.
    pub divergence: f64,
    /// The word chosen likewise.
    pub word: String,
    /// Its AUROC on the other half.
    pub word_auroc: f64,
    /// Its divergence.
    pub word_divergence: f64,
}

/// Sparse values of documents, by column.
#[derive(Debug, Default)]
pub(super) struct Table {
    /// Document and value, documents ascending.
    columns: Vec<Vec<(u32, f32)>>,
}

impl Table {
    pub(super) fn new(n_columns: usize) -> Self {
        Self { columns: vec![Vec::new(); n_columns] }
    }

    /// Adds the values of the next document.
    pub(super) fn push(&mut self, document: u32, values: impl Iterator<Item = (u32, f32)>) {
        for (column, value) in values {
            let column = column as usize;
            if self.columns.len() <= column {
                self.columns.resize(column + 1, Vec::new());
            }
            self.columns[column].push((document, value));
        }
    }
}

/// Words of texts, as columns.
#[derive(Debug, Default)]
pub(super) struct WordTable {
    table: Table,
    ids: HashMap<String, u32>,
}

impl WordTable {
    pub(super) fn push(&mut self, document: u32, text: &str) {
        let mut counts: HashMap<u32, f32> = HashMap::new();
        for word in text.split(|c: char| !c.is_alphanumeric()).filter(|word| !word.is_empty()) {
            let word = word.to_lowercase();
            let next = self.ids.len() as u32;
            let id = match self.ids.get(&word) {
                Some(&id) => id,
                None if self.ids.len() < MAX_WORDS => *self.ids.entry(word).or_insert(next),
                None => continue,
            };
            *counts.entry(id).or_default() += 1.0;
        }
        self.table.push(document, counts.into_iter());
    }
}

/// Classes of documents, and the halves.
#[derive(Debug, Default)]
pub(super) struct Classes {
    names: Vec<String>,
    ids: HashMap<String, u32>,
    /// By document: class, and whether it is in the half on which is measured.
    documents: Vec<(u32, bool)>,
}

impl Classes {
    /// Adds a document; returns its number. The halves are drawn by it.
    pub(super) fn push(&mut self, label: &str, seed: u64) -> u32 {
        let next = self.names.len() as u32;
        let class = match self.ids.get(label) {
            Some(&class) => class,
            None => {
                self.names.push(label.to_owned());
                *self.ids.entry(label.to_owned()).or_insert(next)
            }
        };
        let document = self.documents.len() as u32;
        self.documents.push((class, Random::new(seed, document.into()).next() & 1 == 1));
        document
    }

    /// Documents.
    pub(super) fn len(&self) -> usize {
        self.documents.len()
    }

    /// Documents of each class in the half `measured`.
    fn sizes(&self, measured: bool) -> Vec<u64> {
        let mut sizes = vec![0; self.names.len()];
        self.documents
            .iter()
            .filter(|document| document.1 == measured)
            .for_each(|&(class, _)| sizes[class as usize] += 1);
        sizes
    }
}

/// The column that tells a class best, and how well.
#[derive(Debug, Clone, Copy)]
struct Best {
    column: u32,
    chosen: f64,
    measured: f64,
    divergence: f64,
}

/// What tells each class best, by name of the class; classes with fewer than [`LEAST`] documents in a half are left out.
///
/// # Errors
/// None of its own.
pub(super) fn concepts(classes: &Classes, features: &Table, words: &WordTable, threads: usize) -> Result<Vec<Concept>> {
    let by_feature = best_columns(classes, features, threads)?;
    let by_word = best_columns(classes, &words.table, threads)?;
    let mut name_of = vec![""; words.table.columns.len()];
    for (word, &id) in &words.ids {
        name_of[id as usize] = word;
    }
    let (chosen, measured) = (classes.sizes(false), classes.sizes(true));
    let mut found = Vec::new();
    for (class, name) in classes.names.iter().enumerate() {
        let n_docs = [chosen[class], measured[class]];
        if n_docs.iter().any(|&n| n < LEAST as u64) {
            continue;
        }
        let (feature, word) = (by_feature[class], by_word[class]);
        found.push(Concept {
            label: name.clone(),
            n_docs,
            latent: feature.map(|best| best.column),
            auroc_chosen: feature.map_or(0.5, |best| best.chosen),
            auroc: feature.map_or(0.5, |best| best.measured),
            divergence: feature.map_or(0.0, |best| best.divergence),
            word: word.map_or("", |best| name_of[best.column as usize]).to_owned(),
            word_auroc: word.map_or(0.5, |best| best.measured),
            word_divergence: word.map_or(0.0, |best| best.divergence),
        });
    }
    found.sort_by(|a, b| a.label.cmp(&b.label));
    Ok(found)
}

/// For each class the column with the largest AUROC on the half on which is chosen; `None` if all columns are empty there.
fn best_columns(classes: &Classes, table: &Table, threads: usize) -> Result<Vec<Option<Best>>> {
    const COLUMNS: usize = 64;
    let sizes = classes.sizes(false);
    let blocks: Vec<&[Vec<(u32, f32)>]> = table.columns.chunks(COLUMNS).collect();
    let chosen = parallel(blocks.len(), threads, |(): &mut (), i| {
        let mut best: Vec<Option<(f64, u32)>> = vec![None; sizes.len()];
        for (column, values) in ((i * COLUMNS) as u32..).zip(blocks[i]) {
            for (class, auroc) in aurocs(classes, values, false, &sizes) {
                let best = &mut best[class as usize];
                if best.is_none_or(|(most, _)| auroc > most) {
                    *best = Some((auroc, column));
                }
            }
        }
        Ok(best)
    })?;
    let mut best: Vec<Option<(f64, u32)>> = vec![None; sizes.len()];
    for block in chosen {
        for (best, new) in best.iter_mut().zip(block) {
            if new.is_some_and(|(auroc, _)| best.is_none_or(|(most, _)| auroc > most)) {
                *best = new;
            }
        }
    }
    let measured = classes.sizes(true);
    let measure = |(class, best): (usize, &Option<(f64, u32)>)| {
        best.map(|(chosen, column)| {
            let values = &table.columns[column as usize];
            let mut own = aurocs(classes, values, true, &measured).into_iter();
            let auroc = own.find(|&(found, _)| found as usize == class).map(|(_, auroc)| auroc);
            // A column that no document of the class has: all that have it come before the class.
            let auroc = auroc.unwrap_or_else(|| without(classes, values, class, &measured));
            Best { column, chosen, measured: auroc, divergence: divergence(classes, values, class as u32) }
        })
    };
    Ok(best.iter().enumerate().map(measure).collect())
}

/// AUROC of a class none of whose documents has a value, in the half on which is measured.
fn without(classes: &Classes, values: &[(u32, f32)], class: usize, sizes: &[u64]) -> f64 {
    let others = values.iter().filter(|&&(document, value)| value != 0.0 && classes.documents[document as usize].1);
    let signs: f64 = others.map(|&(_, value)| f64::from(value.signum())).sum();
    let n_others = sizes.iter().sum::<u64>() - sizes[class];
    if n_others == 0 { 0.5 } else { 0.5 - 0.5 * signs / n_others as f64 }
}

/// AUROC of a column for every class of which a document has a value, in the half `measured`; `sizes` are the classes' there.
/// Documents without a value have zero.
fn aurocs(classes: &Classes, values: &[(u32, f32)], measured: bool, sizes: &[u64]) -> Vec<(u32, f64)> {
    let mut own: Vec<(f32, u32)> = values
        .iter()
        .map(|&(document, value)| (value, classes.documents[document as usize]))
        .filter(|&(value, (_, half))| half == measured && value != 0.0)
        .map(|(value, (class, _))| (value, class))
        .collect();
    own.sort_unstable_by(|a, b| a.0.total_cmp(&b.0));
    let n: u64 = sizes.iter().sum();
    let n_zero = n - own.len() as u64;
    let mut seen: HashMap<u32, Ranked> = HashMap::new();
    for &(_, class) in &own {
        seen.entry(class).or_default().n += 1;
    }
    let mut below = 0;
    let mut zero_is_below = false;
    let mut from = 0;
    while from < own.len() {
        let value = own[from].0;
        if value > 0.0 && !zero_is_below {
            zero_is_below = true;
            for (&class, ranked) in &mut seen {
                let zeros = sizes[class as usize] - ranked.n;
                ranked.wins += zeros as f64 * ((below - ranked.below) as f64 + 0.5 * (n_zero - zeros) as f64);
                ranked.below += zeros;
            }
            below += n_zero;
        }
        let to = from + own[from..].partition_point(|&(other, _)| other == value);
        for &(_, class) in &own[from..to] {
            seen.entry(class).or_default().tied += 1;
        }
        let in_group = (to - from) as u64;
        for &(_, class) in &own[from..to] {
            let ranked = seen.entry(class).or_default();
            if ranked.tied > 0 {
                let others = (below - ranked.below) as f64 + 0.5 * (in_group - ranked.tied) as f64;
                ranked.wins += ranked.tied as f64 * others;
                ranked.below += ranked.tied;
                ranked.tied = 0;
            }
        }
        below += in_group;
        from = to;
    }
    let mut found: Vec<(u32, f64)> = seen
        .into_iter()
        .map(|(class, mut ranked)| {
            let positives = sizes[class as usize];
            if !zero_is_below {
                let zeros = positives - ranked.n;
                ranked.wins += zeros as f64 * ((below - ranked.below) as f64 + 0.5 * (n_zero - zeros) as f64);
            }
            let pairs = positives as f64 * (n - positives) as f64;
            (class, if pairs > 0.0 { ranked.wins / pairs } else { 0.5 })
        })
        .collect();
    found.sort_unstable_by_key(|&(class, _)| class);
    found
}

/// What is known of a class while values are gone through in ascending order.
#[derive(Debug, Clone, Copy, Default)]
struct Ranked {
    /// Documents of the class with a value.
    n: u64,
    /// Those already passed, zeros included.
    below: u64,
    /// Those in the present group of equal values.
    tied: u64,
    /// Pairs with a document of another class that the class wins; ties count half.
    wins: f64,
}

/// Jensen-Shannon divergence between a column's values in a class and elsewhere, on the half on which is measured.
fn divergence(classes: &Classes, values: &[(u32, f32)], class: u32) -> f64 {
    let half = |measured: bool| {
        values
            .iter()
            .map(|&(document, value)| (value, classes.documents[document as usize]))
            .filter(move |&(value, (_, half))| half == measured && value != 0.0)
            .map(|(value, (class, _))| (value, class))
    };
    let mut edges: Vec<f32> = half(false).map(|(value, _)| value).collect();
    edges.sort_unstable_by(f32::total_cmp);
    let edges: Vec<f32> = (1..BINS).filter_map(|i| edges.get(edges.len() * i / BINS)).copied().collect();
    let mut counts = [[0u64; BINS + 1]; 2];
    for (value, of) in half(true) {
        counts[usize::from(of == class)][1 + edges.partition_point(|&edge| edge <= value)] += 1;
    }
    let sizes = classes.sizes(true);
    let within = sizes[class as usize];
    let totals = [sizes.iter().sum::<u64>() - within, within];
    for (counts, total) in counts.iter_mut().zip(totals) {
        counts[0] = total - counts[1..].iter().sum::<u64>();
    }
    jensen_shannon(&counts[0], &counts[1])
}

/// Divergence of two distributions given as counts over the same bins, in bits; 0 if either is empty.
fn jensen_shannon(a: &[u64], b: &[u64]) -> f64 {
    let (n_a, n_b) = (a.iter().sum::<u64>() as f64, b.iter().sum::<u64>() as f64);
    if n_a == 0.0 || n_b == 0.0 {
        return 0.0;
    }
    let part = |p: f64, mean: f64| if p > 0.0 { p * (p / mean).log2() } else { 0.0 };
    let of_bin = |(&a, &b): (&u64, &u64)| {
        let (a, b) = (a as f64 / n_a, b as f64 / n_b);
        let mean = (a + b) / 2.0;
        (part(a, mean) + part(b, mean)) / 2.0
    };
    a.iter().zip(b).map(of_bin).sum::<f64>().clamp(0.0, 1.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn divergence_is_one_bit_without_overlap_and_none_without_difference() {
        assert_eq!(jensen_shannon(&[3, 0, 0], &[0, 5, 5]), 1.0);
        assert_eq!(jensen_shannon(&[1, 2, 3], &[2, 4, 6]), 0.0);
        // Half of the mass shared: H(1/4, 1/2, 1/4) - 1 = 0.5 bits.
        assert!((jensen_shannon(&[1, 1, 0], &[0, 1, 1]) - 0.5).abs() < 1e-12);
        assert_eq!(jensen_shannon(&[0, 0], &[1, 1]), 0.0);
    }

    /// Documents of class 0 or 1 or 2 with the value of one column; all in the half on which is chosen.
    fn column(rows: &[(u32, f32)]) -> (Classes, Vec<(u32, f32)>) {
        let documents = rows.iter().map(|&(class, _)| (class, false)).collect();
        let classes = Classes { names: ["a", "b", "c"].map(str::to_owned).to_vec(), documents, ..Classes::default() };
        let values = (0..).zip(rows).map(|(document, &(_, value))| (document, value));
        (classes, values.filter(|&(_, value)| value != 0.0).collect())
    }

    #[test]
    fn auroc_of_each_class_agrees_with_counting_pairs() {
        let rows =
            [(0, 0.5), (1, 0.0), (0, -1.0), (2, 0.5), (1, 2.0), (1, 0.0), (2, 0.0), (0, 3.0), (2, -1.0), (1, 0.7)];
        for rows in [&rows[..], &rows[..7], &rows[1..3]] {
            let (classes, values) = column(rows);
            let found = aurocs(&classes, &values, false, &classes.sizes(false));
            for class in 0..3 {
                let of = |own: bool| {
                    rows.iter().filter(move |row| (row.0 == class) == own).map(|row| row.1).collect::<Vec<f32>>()
                };
                let want = crate::detection::auroc(&of(true), &of(false)).map(f64::from);
                let got = found.iter().find(|(found, _)| *found == class).map(|(_, auroc)| *auroc);
                if let (Some(got), Some(want)) = (got, want) {
                    assert!((got - want).abs() < 1e-6, "class {class} of {rows:?}: {got}, not {want}");
                }
                let has_value = rows.iter().any(|row| row.0 == class && row.1 != 0.0);
                assert_eq!(got.is_some(), has_value);
            }
        }
        // A class none of whose documents has a value.
        let rows = [(0, 0.0), (0, 0.0), (1, 1.0), (1, 0.0), (2, 2.0)];
        let (mut classes, values) = column(&rows);
        classes.documents.iter_mut().for_each(|document| document.1 = true);
        let sizes = classes.sizes(true);
        let want = f64::from(crate::detection::auroc(&[0.0, 0.0], &[1.0, 0.0, 2.0]).unwrap());
        let n_others = (sizes[1] + sizes[2]) as f64;
        // Of the rest two of three are above: (0.5 + 0 + 0) / 3.
        assert!((want - 0.5 / n_others).abs() < 1e-6);
        assert!((without(&classes, &values, 0, &sizes) - want).abs() < 1e-6);
    }

    #[test]
    fn the_planted_feature_and_word_are_found_for_each_class() {
        let mut random = Random::new(3, 0);
        let mut share = move || random.below(1000) as f32 / 1000.0;
        let (mut classes, mut features, mut words) = (Classes::default(), Table::new(6), WordTable::default());
        for i in 0..600 {
            let class = i % 3;
            let document = classes.push(["anger", "joy", "calm"][class], 1);
            let mut values = vec![(5, share())];
            // Feature 2 fires in nine of ten angry texts and in one of ten others; feature 4 is strong in joy, weak elsewhere.
            if (share() < 0.9) == (class == 0) {
                values.push((2, 1.0 + share()));
            }
            values.push((4, if class == 1 { 2.0 } else { 1.0 } * (0.6 + share())));
            values.sort_by_key(|&(column, _)| column);
            features.push(document, values.into_iter());
            words.push(document, if class == 1 && share() < 0.5 { "What a Joy, joy!" } else { "what a day" });
        }
        let found = concepts(&classes, &features, &words, 2).unwrap();
        assert_eq!(found.iter().map(|found| found.label.as_str()).collect::<Vec<_>>(), ["anger", "calm", "joy"]);
        let [anger, calm, joy] = &found[..] else { panic!("{found:?}") };
        assert_eq!((anger.latent, joy.latent), (Some(2), Some(4)));
        assert!((anger.auroc - 0.9).abs() < 0.05 && (anger.auroc_chosen - 0.9).abs() < 0.05, "{anger:?}");
        // H(0.5) - H(0.9, 0.1) = 1 - 0.469 bits.
        assert!((anger.divergence - 0.53).abs() < 0.1, "{anger:?}");
        assert_eq!(joy.word, "joy");
        assert!((joy.word_auroc - 0.75).abs() < 0.06 && joy.auroc > 0.8, "{joy:?}");
        // Nothing is made for calm: what is chosen by chance does not hold on the other half.
        assert!(calm.auroc < 0.65 && calm.divergence < anger.divergence, "{calm:?}");
        assert_eq!(anger.n_docs.iter().sum::<u64>(), 200);
    }

    #[test]
    fn small_classes_are_left_out() {
        let (mut classes, mut features) = (Classes::default(), Table::new(1));
        for i in 0..100 {
            let document = classes.push(if i < 5 { "rare" } else { "usual" }, 1);
            features.push(document, [(0, 1.0)].into_iter());
        }
        let found = concepts(&classes, &features, &WordTable::default(), 1).unwrap();
        assert_eq!(found.len(), 1);
        assert_eq!((found[0].label.as_str(), found[0].auroc), ("usual", 0.5));
    }
}
