//! `diff(a, b, ...)`: which features set documents apart: two sets, groups of one, or small values from large ones.
//!
//! ```sql
//! SELECT label, frequency_a, frequency_b, also_in_words
//! FROM diff('answers WHERE model = ''a''', 'answers WHERE model = ''b''') LIMIT 3;
//! ```
//!
//! The statistics are in [`crate::kernels::diff`] and [`crate::kernels::trend`]. Here documents are read with their group and
//! stratum (`reader`), counted (`count`), and looked at again for the first rows (`lookups`).

mod count;
mod lookups;
mod reader;
#[cfg(test)]
mod tests;

use std::collections::HashSet;
use std::fmt;
use std::sync::Arc;

use arrow::array::{Float64Array, ListArray, RecordBatch, StringArray, UInt32Array};
use arrow::datatypes::{SchemaRef, UInt32Type};
use async_trait::async_trait;
use datafusion::catalog::{TableFunctionArgs, TableFunctionImpl, TableProvider};
use datafusion::common::plan_err;
use datafusion::error::Result;

use self::count::{Counted, Rows};
use self::lookups::{Note, Wanted};
use self::reader::Reader;
use crate::SharedSource;
use crate::args::Arguments;
use crate::catalog::{FeatureCatalog, FeatureSelection};
use crate::docs::{FunctionDoc, Kind};
use crate::kernels::diff::{Against, DiffRow};
use crate::kernels::trend::TrendRow;
use crate::rows::{Columns, diff_columns};
use crate::table::examples::{examples_column, n_examples};
use crate::table::exec::{Computation, ComputedTable, Request, quoted, quoted_list};

const NAME: &str = "diff";

/// User documentation.
pub const DOC: FunctionDoc = FunctionDoc {
    name: NAME,
    kind: Kind::Table,
    syntax: "diff(a, b [, option => value ...])",
    text: "Which features set two sets of documents apart. One row per feature: `docs_a`, `docs_b` (documents that have \
           it), `frequency_a`, `frequency_b`, `difference` (a - b) with its confidence interval `ci_low`, `ci_high` (Newcombe's \
           score interval), `odds_ratio` (0.5 added to each cell; of pairs, to both counts of those that differ) and its \
           logarithm `log_odds`, two-sided `p_value` (Fisher's exact test where an expected count is below 500, else \
           chi-squared), `q_value` (Benjamini-Hochberg over all tests of the call), `also_in_words` (the word or pair of \
           words that shows at least 0.8 of the same difference in the same documents, phi at least 0.5, with its two \
           frequencies; null if there is none; looked up for the first 500 rows in up to 20,000 documents a side, fewer where there are many groups), `n_a`, `n_b` \
           (documents compared), `n_left_out` (documents that were never encoded or have no counterpart), `same_as` (the id \
           of a feature above that says the same; null if there is none) and `members` (ids of the features below that say \
           the same as this one). Two features say the same if they are in nearly the same documents (phi at least 0.8 within \
           the sides), or are alike (phi at least 0.3), differ in the same direction, and either the same word shows both or \
           the one above explains the other: where it is held constant less than a third of the other's difference is left, \
           not significant. Looked up for the first 500 rows. Rows with q below 0.05 come first, then the \
           difference that is the larger for certain (the end of its interval that is nearer 0); where the interval holds \
           0, the smaller p. \
           Documents that are in both sets count on both sides, which hides differences; leave them out with WHERE.\n\n\
           With `paired_by`, p is McNemar's exact test of the pairs that differ. For presence that is the permutation test of \
           pairs: exchanging the sides of each pair at random gives the binomial distribution that it sums up.\n\n\
           With `control`, documents are compared within strata in which the columns are the same: the values of texts and \
           truth values, and up to 200 narrow ranges of numbers, dates and times. `n_tokens` is the length of a document; long \
           texts show more of everything. The frequencies are those of sides spread over the strata alike, their difference \
           Mantel and Haenszel's risk difference with the interval of Sato (1989), the odds ratio their pooled one, p the \
           Cochran-Mantel-Haenszel test (exact where an expected count, summed over the strata, is below 500). `docs_a`, \
           `n_a` and so on count documents in strata with both sides; words are compared in as many documents of each side \
           from every stratum.\n\n\
           `diff(a, by => 'model')` compares each value of a column (its name is in the column `group_a`; documents without \
           one are left out) with the rest, or with `against => 'max'` with the other value that has the feature most often \
           (`group_b`; least often, if all others have it more often), where p is the largest of those against each other \
           value, doubled (an intersection-union test, Berger 1982). `also_in_words`, `same_as`, `members` and examples compare \
           with all other documents together, also with `max`. `diff(a, others => ['b', 'c'])` compares set a with \
           several sets in the same way. Rows come group by group. Small groups make `max` blind; leave them out with \
           WHERE.\n\n\
           `diff(a, target => 'rating')` correlates features with a number, date or time (documents without one are left \
           out; four are needed). Its columns are `docs`, `correlation` (Spearman's, of presence and value) with `ci_low`, `ci_high` (Bonett and \
           Wright 2000), `auc` (how often a document with the feature has the larger value than one without), `mean_with`, \
           `mean_without` (of dates days, of times the column's unit since 1970), `p_value` (Mann and Whitney's test with \
           mid-ranks; exact for up to 8 documents without ties; where ties make the ranks of few documents lopsided, the larger \
           saddle-point p), `q_value`, `also_in_words` (of documents above the median against the others), `n`, \
           `n_left_out`, `same_as` and `members`.",
    arguments: &[
        ("a, b", "corpus, corpus with a filter (`answers WHERE model = 'x'`), or query"),
        ("paired_by", "column that says which document of a belongs to which of b; unique in each set"),
        ("control", "column to hold constant, such as `n_tokens`, or several: `['n_tokens', 'topic']`"),
        ("by", "in place of b: column of a, each of whose values is compared with the others"),
        ("others", "in place of b: several sets with which a is compared"),
        ("target", "in place of b: column of a with numbers, dates or times, with which features are correlated"),
        (
            "against",
            "of `by` and `others`: `rest`, all others together (default of `by`), or `max` (default of `others`)",
        ),
        (
            "min_docs",
            "documents (of all sides together) that must have a feature for it to be tested; default 5, fewer if there \
                      are fewer than 100 documents",
        ),
        ("include_hidden", "test also features that are hidden; default false"),
        ("dictionary", "only features of this dictionary"),
        ("level", "only `token`, `span` or `document` features; default `all`"),
        ("confidence", "of the interval; default 0.95"),
        ("words", "whether to look for words; default: where the sets have texts and there are at most 20 groups"),
        ("fold", "leave out rows that say the same as one above, so that each finding is one row; default false"),
        (
            "examples",
            "so many documents of each side (of `target`: above the median, and not) that show the row's feature most \
             strongly, up to 20, as `examples_a` and `examples_b`: lists of `doc_id` and `text`, an excerpt with « and » \
             around what shows it; for the first 50 rows; reads the texts again; default 0",
        ),
        ("limit", "rows at most, of each group; default all"),
    ],
    example: "SELECT label, frequency_a, frequency_b, round(q_value, 6) AS q_value, also_in_words FROM diff('answers WHERE \
              model = ''a''', 'answers WHERE model = ''b''', paired_by => 'prompt_id')",
};

/// The table function.
#[derive(Debug)]
pub struct Diff {
    source: SharedSource,
}

/// `diff(a, b, ...)` over `source`.
pub fn diff_udtf(source: &SharedSource) -> Arc<dyn TableFunctionImpl> {
    Arc::new(Diff { source: Arc::clone(source) })
}

impl TableFunctionImpl for Diff {
    fn call_with_args(&self, args: TableFunctionArgs) -> Result<Arc<dyn TableProvider>> {
        let mut args = Arguments::parse(NAME, args.exprs())?;
        let mut sets = vec![args.positional("a").required_text()?];
        let b = args.positional("b");
        let paired_by = args.named("paired_by").text()?;
        let mut control = args.named("control").texts()?;
        let mut named = HashSet::new();
        control.retain(|column| named.insert(column.clone()));
        let (by, others, target) = (args.named("by"), args.named("others"), args.named("target"));
        let against = args.named("against");
        let given: Vec<&str> = [("b", &b), ("by", &by), ("others", &others), ("target", &target)]
            .into_iter()
            .filter_map(|(name, argument)| argument.is_given().then_some(name))
            .collect();
        let design = match given.as_slice() {
            ["b"] => {
                sets.push(b.required_text()?);
                paired_by.clone().map_or(Design::Sets, Design::Paired)
            }
            ["by"] => Design::By(by.required_text()?),
            ["others"] => {
                sets.extend(others.texts()?);
                Design::Sets
            }
            ["target"] => Design::Target(target.required_text()?),
            [] => {
                return plan_err!(
                    "{NAME}: argument 'b' is missing; give a second set, or one of by, others and target"
                );
            }
            given => return plan_err!("{NAME}: expected one of b, by, others and target, got {}", given.join(", ")),
        };
        if paired_by.is_some() && given != ["b"] {
            return plan_err!("{NAME}: 'paired_by' needs two sets, a and b");
        }
        if sets.len() < 2 && given == ["others"] {
            return plan_err!("{NAME}: expected one or more sets for 'others'");
        }
        if !control.is_empty() && matches!(design, Design::Paired(_) | Design::Target(_)) {
            let other = if paired_by.is_some() { "paired_by" } else { "target" };
            return plan_err!("{NAME}: 'control' and '{other}' cannot be combined");
        }
        if against.is_given() && !matches!(given.as_slice(), ["by" | "others"]) {
            return plan_err!("{NAME}: 'against' needs 'by' or 'others'");
        }
        let default = if given == ["others"] { "max" } else { "rest" };
        let against = match against.choice_or(&["rest", "max"], default)? {
            "max" => Against::Max,
            _ => Against::Rest,
        };
        let examples = n_examples(NAME, &args.named("examples"))?;
        let call = DiffCall {
            source: Arc::clone(&self.source),
            sets,
            design,
            control,
            against,
            min_docs: args.named("min_docs").count()?,
            selection: FeatureSelection::from_args(&mut args)?,
            confidence: args.named("confidence").number_between(0.5, 0.999_999, 0.95)?,
            words: match args.named("words") {
                words if words.is_given() => Some(words.flag_or(true)?),
                _ => None,
            },
            fold: args.named("fold").flag_or(false)?,
            examples,
            limit: args.named("limit").count()?,
        };
        args.finish()?;
        call.source.catalog().select(NAME, &call.selection)?;
        Ok(ComputedTable::provider(call))
    }
}

/// What is compared.
#[derive(Debug)]
enum Design {
    /// The first set with the others.
    Sets,
    /// Two sets, document by document, which this column pairs.
    Paired(String),
    /// Each value of this column of the one set with the other values.
    By(String),
    /// Documents of the one set by this number of theirs.
    Target(String),
}

#[derive(Debug)]
struct DiffCall {
    source: SharedSource,
    sets: Vec<String>,
    design: Design,
    /// Columns that are held constant.
    control: Vec<String>,
    against: Against,
    min_docs: Option<usize>,
    selection: FeatureSelection,
    confidence: f64,
    /// `None`: where the sets have texts.
    words: Option<bool>,
    /// Whether to leave out rows that repeat one above.
    fold: bool,
    /// Documents of each side that are shown for a row.
    examples: usize,
    /// Rows, of each group if there are several.
    limit: Option<usize>,
}

impl fmt::Display for DiffCall {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{NAME}({}", quoted_list(&self.sets))?;
        match &self.design {
            Design::Sets => {}
            Design::Paired(column) => write!(f, ", paired_by => {}", quoted(column))?,
            Design::By(column) => write!(f, ", by => {}", quoted(column))?,
            Design::Target(column) => write!(f, ", target => {}", quoted(column))?,
        }
        if !self.control.is_empty() {
            write!(f, ", control => [{}]", quoted_list(&self.control))?;
        }
        f.write_str(")")
    }
}

impl DiffCall {
    /// The rows `kept`, with what was found out of them.
    fn columns(&self, catalog: &FeatureCatalog, counted: &Counted, kept: &[(usize, Note)]) -> Result<Columns> {
        let mut columns = match &counted.rows {
            Rows::Groups(rows) => {
                let rows: Vec<DiffRow> = kept.iter().map(|(row, _)| rows[*row].clone()).collect();
                let mut columns = Columns::default();
                let name = |group: usize| counted.reader.groups.get(group).map_or("", String::as_str);
                if matches!(self.design, Design::By(_)) {
                    let groups = rows.iter().map(|row| name(row.group));
                    columns.push("group_a", StringArray::from_iter_values(groups), false);
                }
                if self.against == Against::Max {
                    let others = rows.iter().map(|row| row.other.map(name));
                    columns.push("group_b", StringArray::from_iter(others), true);
                }
                columns.append(diff_columns(catalog, &rows));
                words_column(&mut columns, kept);
                columns.counts("n_a", rows.iter().map(|row| row.n_a));
                columns.counts("n_b", rows.iter().map(|row| row.n_b));
                let n_docs: u64 = counted.n_docs.iter().flatten().sum();
                let compared = |row: &DiffRow| if row.other.is_some() { n_docs } else { row.n_a + row.n_b };
                columns.counts("n_left_out", rows.iter().map(|row| counted.n_read.saturating_sub(compared(row))));
                columns
            }
            Rows::Trend(rows) => {
                let rows: Vec<TrendRow> = kept.iter().map(|(row, _)| rows[*row].clone()).collect();
                let ids = rows.iter().map(|row| row.feature_id);
                let mut columns = Columns::default();
                columns.features(("feature_id", "label"), catalog, ids.clone());
                columns.levels(catalog, ids);
                columns.counts("docs", rows.iter().map(|row| row.docs));
                columns.numbers("correlation", rows.iter().map(|row| row.correlation));
                columns.numbers("ci_low", rows.iter().map(|row| row.ci.0));
                columns.numbers("ci_high", rows.iter().map(|row| row.ci.1));
                columns.numbers("auc", rows.iter().map(|row| row.auc));
                columns.numbers("mean_with", rows.iter().map(|row| row.mean_with));
                let without: Float64Array = rows.iter().map(|row| row.mean_without).collect();
                columns.push("mean_without", without, true);
                columns.numbers("p_value", rows.iter().map(|row| row.p_value));
                columns.numbers("q_value", rows.iter().map(|row| row.q_value));
                words_column(&mut columns, kept);
                columns.counts("n", rows.iter().map(|row| row.n));
                columns.counts("n_left_out", rows.iter().map(|row| counted.n_read.saturating_sub(row.n)));
                columns
            }
        };
        let notes = || kept.iter().map(|(_, note)| note);
        columns.push("same_as", UInt32Array::from_iter(notes().map(|note| note.same_as)), true);
        let members = notes().map(|note| note.members.as_ref().map(|ids| ids.iter().copied().map(Some)));
        columns.push("members", ListArray::from_iter_primitive::<UInt32Type, _, _>(members), true);
        if self.examples > 0 {
            for (side, name) in ["examples_a", "examples_b"].into_iter().enumerate() {
                columns.push(name, examples_column(notes().map(|note| note.examples[side].as_deref()))?, true);
            }
        }
        Ok(columns)
    }
}

fn words_column(columns: &mut Columns, kept: &[(usize, Note)]) {
    let words = kept.iter().map(|(_, note)| note.word.as_ref().map(ToString::to_string));
    columns.push("also_in_words", StringArray::from_iter(words), true);
}

#[async_trait]
impl Computation for DiffCall {
    fn name(&self) -> &'static str {
        NAME
    }

    fn schema(&self) -> SchemaRef {
        let rows = match self.design {
            Design::Target(_) => Rows::Trend(Vec::new()),
            _ => Rows::Groups(Vec::new()),
        };
        let reader = Reader::of_sets(&self.source, Vec::new());
        let nothing = Counted { reader, rows, n_docs: Vec::new(), n_read: 0, _memory: None };
        let columns = self.columns(&FeatureCatalog::default(), &nothing, &[]);
        columns.unwrap_or_default().schema()
    }

    async fn run(&self, request: Request) -> Result<Vec<RecordBatch>> {
        let catalog = self.source.catalog();
        let mut selected = catalog.select(NAME, &self.selection)?;
        catalog.restrict(NAME, &mut selected, &self.source, &self.sets).await?;
        let id_bound = selected.len();
        let counted = self.count(&request, selected).await?;
        let schema = self.schema();
        let wants = |name: &str| schema.index_of(name).is_ok_and(|position| request.wants(position));
        let wanted = Wanted {
            words: wants("also_in_words"),
            same: wants("same_as") || wants("members"),
            examples: wants("examples_a") || wants("examples_b"),
            per_group: self.limit.unwrap_or(usize::MAX),
            in_all: request.limit.unwrap_or(usize::MAX),
        };
        let kept = self.look_up(&counted, &catalog, wanted, id_bound, &request).await?;
        Ok(vec![self.columns(&catalog, &counted, &kept)?.into_batch()?])
    }
}
