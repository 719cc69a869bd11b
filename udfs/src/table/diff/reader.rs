//! The documents of a call, each with its group and stratum.

use std::collections::HashMap;

use arrow::array::{Array, ArrayRef, AsArray, RecordBatch};
use arrow::compute::cast;
use arrow::datatypes::DataType;
use datafusion::common::exec_err;
use datafusion::error::Result;
use datafusion::physical_plan::SendableRecordBatchStream;
use futures::TryStreamExt;

use super::NAME;
use crate::SharedSource;
use crate::feature_source::DocumentColumn;
use crate::table::control::{Strata, Survey, document_column, names, numbers};
use crate::table::document_columns::lacks_column;
use crate::table::exec::Request;
use crate::table::pairing::Matched;

/// Groups that a column may have.
const MOST_GROUPS: usize = 1000;

/// What tells the groups apart.
#[derive(Debug)]
pub(super) enum Grouping {
    /// Each set is a group.
    Sets,
    /// Values of a column of the one set.
    Column(String, HashMap<String, usize>),
    /// Above (0) or not above (1) a number in a column of the one set.
    Above(String, f64),
}

/// Reads documents.
#[derive(Debug)]
pub(super) struct Reader {
    pub(super) source: SharedSource,
    pub(super) sets: Vec<String>,
    pub(super) grouping: Grouping,
    /// Names of the groups: sets or values.
    pub(super) groups: Vec<String>,
    pub(super) strata: Option<Strata>,
    control: Vec<String>,
    /// Of a paired comparison: the column, and the keys that are in both sets.
    pub(super) pairs: Option<(String, Matched)>,
}

/// A document of a batch.
#[derive(Debug, Clone, Copy)]
pub(super) struct Place {
    pub(super) row: usize,
    pub(super) group: usize,
    pub(super) stratum: usize,
}

/// Columns that are read, each once, and where those are that place a document.
#[derive(Debug, Clone)]
struct Layout {
    columns: Vec<DocumentColumn>,
    group: Option<usize>,
    control: Vec<usize>,
}

impl Layout {
    fn new(wanted: &[DocumentColumn], group: Option<&str>, control: &[String]) -> Self {
        let mut columns = wanted.to_vec();
        let mut place = |name: &str| {
            let column = document_column(name);
            columns.iter().position(|other| *other == column).unwrap_or_else(|| {
                columns.push(column);
                columns.len() - 1
            })
        };
        let group = group.map(&mut place);
        let control = control.iter().map(|name| place(name)).collect();
        Self { columns, group, control }
    }

    fn control(&self, batch: &RecordBatch) -> Vec<ArrayRef> {
        self.control.iter().map(|at| ArrayRef::clone(batch.column(*at))).collect()
    }
}

impl Reader {
    /// Reads sets, each of them a group.
    pub(super) fn of_sets(source: &SharedSource, sets: Vec<String>) -> Self {
        Self {
            source: SharedSource::clone(source),
            groups: sets.clone(),
            sets,
            grouping: Grouping::Sets,
            strata: None,
            control: Vec::new(),
            pairs: None,
        }
    }

    /// Finds the groups of the one set by a column, and the strata.
    pub(super) async fn survey(&mut self, by: Option<&str>, control: Vec<String>, request: &Request) -> Result<()> {
        if by.is_none() && control.is_empty() {
            return Ok(());
        }
        let (mut survey, memory) = (Survey::new(control.clone()), request.memory(NAME));
        let mut groups: Vec<String> = Vec::new();
        let mut index: HashMap<String, usize> = HashMap::new();
        let layout = Layout::new(&[DocumentColumn::Ids], by, &control);
        for (set_at, set) in self.sets.iter().enumerate() {
            let mut stream = self.source.documents(set, &layout.columns).await?;
            while let Some(batch) = stream.try_next().await? {
                memory.try_grow(batch.num_rows() * survey.bytes_per_document())?;
                let ids = batch.column(0);
                let mut rows: Vec<(usize, u32)> = Vec::with_capacity(batch.num_rows());
                let values =
                    by.zip(layout.group).map(|(by, at)| names(NAME, "by", by, batch.column(at))).transpose()?;
                for row in (0..batch.num_rows()).filter(|row| ids.is_valid(*row)) {
                    let group = match &values {
                        None => set_at,
                        Some(values) if values.is_null(row) => continue,
                        Some(values) => match index.get(values.value(row)) {
                            Some(group) => *group,
                            None => {
                                groups.push(values.value(row).to_string());
                                index.insert(values.value(row).to_string(), groups.len() - 1);
                                groups.len() - 1
                            }
                        },
                    };
                    rows.push((row, group as u32));
                }
                if groups.len() > MOST_GROUPS {
                    return exec_err!(
                        "{NAME}: 'by' column '{}' has more than {MOST_GROUPS} different values; use a coarser one, or \
                         'target' for a number",
                        by.unwrap_or_default()
                    );
                }
                survey.update(NAME, &layout.control(&batch), rows.iter().copied())?;
            }
        }
        if let Some(by) = by {
            let number = |name: &str| name.parse::<f64>().ok();
            // Numbers first.
            groups.sort_by(|x, y| match (number(x), number(y)) {
                (Some(p), Some(q)) => p.total_cmp(&q).then_with(|| x.cmp(y)),
                (p, q) => q.is_some().cmp(&p.is_some()).then_with(|| x.cmp(y)),
            });
            if groups.len() < 2 {
                let found = groups.first().map_or("no value".to_string(), |only| format!("only the value '{only}'"));
                return exec_err!(
                    "{NAME}: 'by' column '{by}' of set '{}' has {found} in documents with features; expected two or more",
                    self.sets[0]
                );
            }
            self.grouping = Grouping::Column(by.to_string(), groups.iter().cloned().zip(0..).collect());
            self.groups = groups;
        }
        if !control.is_empty() {
            self.strata = Some(survey.strata(NAME)?);
        }
        self.control = control;
        Ok(())
    }

    /// Number of strata; one if nothing is held constant.
    pub(super) fn n_strata(&self) -> usize {
        self.strata.as_ref().map_or(1, |strata| strata.n().max(1))
    }

    /// Documents of all sets, one set after the other. The first of `columns` is ids or features; documents that were never
    /// encoded are passed over. `optional` comes last, where a set has it.
    pub(super) fn open(&self, columns: &[DocumentColumn], optional: Option<DocumentColumn>) -> Documents<'_> {
        let group = match &self.grouping {
            Grouping::Sets => self.pairs.as_ref().map(|(column, _)| column.as_str()),
            Grouping::Column(column, _) | Grouping::Above(column, _) => Some(column.as_str()),
        };
        let layout = Layout::new(columns, group, &self.control);
        Documents { reader: self, n_wanted: columns.len(), layout, optional, next_set: 0, stream: None }
    }
}

/// A stream of documents.
pub(super) struct Documents<'a> {
    reader: &'a Reader,
    layout: Layout,
    n_wanted: usize,
    optional: Option<DocumentColumn>,
    next_set: usize,
    stream: Option<SendableRecordBatchStream>,
}

/// Some documents.
pub(super) struct Batch {
    /// Columns as asked for.
    pub(super) columns: Vec<ArrayRef>,
    /// The optional column, where the set has it.
    pub(super) optional: Option<ArrayRef>,
    /// Documents that are compared.
    pub(super) places: Vec<Place>,
    pub(super) n_rows: usize,
    /// Which of the sets they are of.
    pub(super) set: usize,
}

impl Documents<'_> {
    pub(super) async fn next(&mut self) -> Result<Option<Batch>> {
        loop {
            let stream = match &mut self.stream {
                Some(stream) => stream,
                None => {
                    let Some(set) = self.reader.sets.get(self.next_set) else { return Ok(None) };
                    self.next_set += 1;
                    let columns = &self.layout.columns;
                    let optional = self.optional.iter().filter(|column| !columns.contains(column));
                    let with_optional: Vec<DocumentColumn> = columns.iter().chain(optional).cloned().collect();
                    let stream = match self.reader.source.documents(set, &with_optional).await {
                        Err(error) if self.optional.is_some() && lacks_column(&error) => {
                            self.reader.source.documents(set, columns).await?
                        }
                        stream => stream?,
                    };
                    self.stream.insert(stream)
                }
            };
            match stream.try_next().await? {
                Some(batch) => return self.places(&batch).map(Some),
                None => self.stream = None,
            }
        }
    }

    fn places(&self, batch: &RecordBatch) -> Result<Batch> {
        let (reader, set) = (self.reader, self.next_set - 1);
        let group = || batch.column(self.layout.group.unwrap_or(0));
        let groups: Vec<Option<usize>> = match &reader.grouping {
            Grouping::Sets => match &reader.pairs {
                None => vec![Some(set); batch.num_rows()],
                Some((_, matched)) => {
                    let keys = cast(group(), &DataType::Utf8)?;
                    let has_partner = |key: Option<&str>| key.is_some_and(|key| matched.contains(key)).then_some(set);
                    keys.as_string::<i32>().iter().map(has_partner).collect()
                }
            },
            Grouping::Column(column, index) => {
                let values = names(NAME, "by", column, group())?;
                values.iter().map(|value| index.get(value?).copied()).collect()
            }
            Grouping::Above(_, at) => match numbers(group())? {
                Some(values) => values
                    .iter()
                    .map(|value| value.filter(|value| !value.is_nan()).map(|value| usize::from(value <= *at)))
                    .collect(),
                None => vec![None; batch.num_rows()],
            },
        };
        let strata = match &reader.strata {
            Some(strata) => strata.of(NAME, &self.layout.control(batch), batch.num_rows())?,
            None => vec![Some(0); batch.num_rows()],
        };
        let first = batch.column(0);
        let inner = first.as_struct_opt().map(|features| features.column(0));
        let is_encoded = |row: usize| first.is_valid(row) && inner.is_none_or(|ids| ids.is_valid(row));
        let places = (groups.into_iter().zip(strata).enumerate())
            .filter(|(row, _)| is_encoded(*row))
            .filter_map(|(row, (group, stratum))| Some(Place { row, group: group?, stratum: stratum? }))
            .collect();
        Ok(Batch {
            columns: batch.columns()[..self.n_wanted].to_vec(),
            optional: batch.columns().get(self.layout.columns.len()).cloned(),
            places,
            n_rows: batch.num_rows(),
            set,
        })
    }
}
