//! Matching the documents of two sets by a key that is unique in each.

use std::collections::{HashMap, HashSet};

use arrow::array::{Array, AsArray, StringArray};
use arrow::compute::cast;
use arrow::datatypes::DataType;
use datafusion::common::{DataFusionError, exec_err};
use datafusion::error::Result;
use datafusion::execution::memory_pool::MemoryReservation;
use futures::TryStreamExt;

use crate::SharedSource;
use crate::feature_source::DocumentColumn;
use crate::features::{FeatureId, IdsView};
use crate::table::exec::Request;

/// Which documents have a partner.
#[derive(Debug)]
pub struct Matched {
    /// Row of the first set by key, and whether the second set has the key.
    rows: HashMap<String, (u32, bool)>,
    /// Documents of both sets without key, features or partner.
    pub n_left_out: u64,
    /// What the rows take of the query's memory pool.
    memory: MemoryReservation,
}

impl Matched {
    /// Whether both sets have a document with this key.
    pub fn contains(&self, key: &str) -> bool {
        self.rows.get(key).is_some_and(|(_, matched)| *matched)
    }
}

/// Features of the documents of one set, one after the other.
#[derive(Debug)]
struct Rows {
    ids: Vec<FeatureId>,
    starts: Vec<usize>,
}

impl Rows {
    fn row(&self, row: u32) -> &[FeatureId] {
        &self.ids[self.starts[row as usize]..self.starts[row as usize + 1]]
    }
}

/// Matches the documents of `sets` by `column` and visits the features of each pair, in the order of the second set.
///
/// Holds the features and keys of the first set in memory, as the query's memory pool allows.
///
/// # Errors
/// If a key comes twice in a set, no key is in both, or the memory does not suffice.
pub async fn match_pairs(
    function: &'static str,
    source: &SharedSource,
    sets: &[String; 2],
    column: &str,
    request: &Request,
    mut visit: impl FnMut(&[FeatureId], &[FeatureId]) -> Result<()> + Send,
) -> Result<Matched> {
    let columns = [DocumentColumn::Named(column.to_string()), DocumentColumn::Ids];
    let twice = |key: &str, set: &str| {
        DataFusionError::Execution(format!(
            "{function}: '{key}' comes twice in column '{column}' of set '{set}'; pairing needs a column that is unique \
             in each set"
        ))
    };
    let mut matched = Matched { rows: HashMap::new(), n_left_out: 0, memory: request.memory(function) };
    let mut first = Rows { ids: Vec::new(), starts: vec![0] };
    let mut stream = source.documents(&sets[0], &columns).await?;
    while let Some(batch) = stream.try_next().await? {
        let (keys, ids) = (keys(function, column, batch.column(0))?, IdsView::try_new(function, batch.column(1))?);
        let n_ids: usize = (0..ids.len()).map(|row| ids.ids(row).len()).sum();
        // Keys, map entries and row starts come to about 80 bytes a document.
        matched.memory.try_grow(n_ids * size_of::<FeatureId>() + 80 * batch.num_rows())?;
        for row in 0..ids.len() {
            if keys.is_null(row) || ids.is_null(row) {
                matched.n_left_out += 1;
                continue;
            }
            let at = first.starts.len() as u32 - 1;
            if matched.rows.insert(keys.value(row).to_string(), (at, false)).is_some() {
                return Err(twice(keys.value(row), &sets[0]));
            }
            first.ids.extend_from_slice(ids.ids(row));
            first.starts.push(first.ids.len());
        }
    }

    let mut n_pairs = 0u64;
    let mut unmatched: HashSet<String> = HashSet::new();
    let mut stream = source.documents(&sets[1], &columns).await?;
    while let Some(batch) = stream.try_next().await? {
        let (keys, ids) = (keys(function, column, batch.column(0))?, IdsView::try_new(function, batch.column(1))?);
        for row in 0..ids.len() {
            if keys.is_null(row) || ids.is_null(row) {
                matched.n_left_out += 1;
                continue;
            }
            let key = keys.value(row);
            match matched.rows.get_mut(key) {
                Some((_, true)) => return Err(twice(key, &sets[1])),
                Some((partner, seen)) => {
                    *seen = true;
                    n_pairs += 1;
                    visit(first.row(*partner), ids.ids(row))?;
                }
                None => {
                    matched.memory.try_grow(48 + key.len())?;
                    if !unmatched.insert(key.to_string()) {
                        return Err(twice(key, &sets[1]));
                    }
                }
            }
        }
    }
    if n_pairs == 0 {
        return exec_err!(
            "{function}: no value of column '{column}' is in both '{}' ({} documents) and '{}' ({})",
            sets[0],
            matched.rows.len(),
            sets[1],
            unmatched.len()
        );
    }
    matched.memory.shrink(first.ids.len() * size_of::<FeatureId>());
    matched.n_left_out += matched.rows.len() as u64 - n_pairs + unmatched.len() as u64;
    Ok(matched)
}

/// Keys as text, whatever their type.
pub(super) fn keys(function: &str, column: &str, array: &arrow::array::ArrayRef) -> Result<StringArray> {
    match cast(array, &DataType::Utf8) {
        Ok(keys) => Ok(keys.as_string::<i32>().clone()),
        Err(_) => {
            exec_err!(
                "{function}: column '{column}' of type {} cannot be a key; use text or numbers",
                array.data_type()
            )
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use arrow::array::Int64Array;
    use datafusion::execution::TaskContext;
    use datafusion::execution::runtime_env::RuntimeEnvBuilder;

    use super::*;
    use crate::MemorySource;

    #[tokio::test]
    async fn memory_is_asked_for_once_and_kept_with_the_keys() {
        const N: usize = 40_000;
        let source = MemorySource::with_words(&[("a", &["a"])], vec![]);
        let keys = Arc::new(Int64Array::from_iter_values(0..N as i64));
        source.put_texts("t", &[Some("a"); N], vec![("key", keys)]).unwrap();
        let source: SharedSource = Arc::new(source);
        let runtime = RuntimeEnvBuilder::new().with_memory_limit(4 << 20, 1.0).build_arc().unwrap();
        let context = Arc::new(TaskContext::default().with_runtime(runtime));
        let request = Request { projection: None, limit: None, context };
        let sets = ["t".to_string(), "t".to_string()];
        let matched = match_pairs("diff", &source, &sets, "key", &request, |_, _| Ok(())).await.unwrap();
        assert!(matched.contains("7") && matched.n_left_out == 0);
        assert_eq!(request.context.memory_pool().reserved(), 80 * N);
        drop(matched);
        assert_eq!(request.context.memory_pool().reserved(), 0);
    }
}
