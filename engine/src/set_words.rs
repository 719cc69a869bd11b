//! Keyword search over a set of documents that no stored index covers: an index of their words, made in memory.
//!
//! Scores are BM25 with the set's own document frequencies and lengths.

use arrow::array::{Array, AsArray};
use futures::StreamExt;
use saequel_udfs::{DocumentColumn, WordHit};
use tantivy::collector::TopDocs;
use tantivy::query::{BooleanQuery, Occur, Query, TermQuery};
use tantivy::schema::{FAST, Field, IndexRecordOption, Schema, TextFieldIndexing, TextOptions};
use tantivy::tokenizer::TextAnalyzer;
use tantivy::{Index, IndexWriter, TantivyDocument, Term};

use crate::error::{Error, ErrorKind, Result};
use crate::feature_source::EngineSource;

/// Words are stemmed as English; text in other languages is matched word by word.
const ANALYZER: &str = "en_stem";
/// Memory of the index while it is made, in bytes.
const INDEXING_BYTES: usize = 64 << 20;

impl EngineSource {
    /// [`saequel_udfs::FeatureSource::search_words`].
    pub(crate) async fn search(&self, set: &str, query: &str, limit: usize) -> Result<Vec<WordHit>> {
        let frame = self.frame(set, &[DocumentColumn::DocId, DocumentColumn::Text]).await?;
        let mut stream = frame.execute_stream().await.map_err(Error::from)?;
        let mut index = SetIndex::new()?;
        while let Some(batch) = stream.next().await {
            let batch = batch.map_err(Error::from)?;
            let (ids, texts) = (batch.column(0).as_string_opt::<i32>(), batch.column(1).as_string_opt::<i32>());
            let (Some(ids), Some(texts)) = (ids, texts) else {
                return Err(Error::new(ErrorKind::Internal, "search_words: expected strings"));
            };
            for row in 0..batch.num_rows() {
                if ids.is_valid(row) && texts.is_valid(row) {
                    index.add(ids.value(row), texts.value(row))?;
                }
            }
        }
        index.search(query, limit)
    }
}

fn failed(error: tantivy::TantivyError) -> Error {
    Error::new(ErrorKind::Internal, "word index in memory").with_source(error)
}

struct SetIndex {
    doc_ids: Vec<String>,
    writer: IndexWriter,
    analyzer: TextAnalyzer,
    text: Field,
    row: Field,
}

impl SetIndex {
    fn new() -> Result<Self> {
        let mut schema = Schema::builder();
        let indexing = TextFieldIndexing::default()
            .set_tokenizer(ANALYZER)
            .set_index_option(IndexRecordOption::WithFreqs)
            .set_fieldnorms(true);
        let text = schema.add_text_field("text", TextOptions::default().set_indexing_options(indexing));
        let row = schema.add_u64_field("row", FAST);
        let index = Index::create_in_ram(schema.build());
        let analyzer = index
            .tokenizers()
            .get(ANALYZER)
            .ok_or_else(|| Error::new(ErrorKind::Internal, format!("no analyzer {ANALYZER}")))?;
        // One thread: documents keep their order, and with it equal scores theirs.
        let writer = index.writer_with_num_threads(1, INDEXING_BYTES).map_err(failed)?;
        Ok(Self { doc_ids: Vec::new(), writer, analyzer, text, row })
    }

    fn add(&mut self, doc_id: &str, text: &str) -> Result<()> {
        let mut document = TantivyDocument::default();
        document.add_text(self.text, text);
        document.add_u64(self.row, self.doc_ids.len() as u64);
        self.doc_ids.push(doc_id.to_owned());
        self.writer.add_document(document).map_err(failed)?;
        Ok(())
    }

    fn search(mut self, query: &str, limit: usize) -> Result<Vec<WordHit>> {
        let mut words: Vec<(Occur, Box<dyn Query>)> = Vec::new();
        let mut seen = Vec::new();
        self.analyzer.token_stream(query).process(&mut |token| {
            if !seen.contains(&token.text) {
                seen.push(token.text.clone());
                let term = Term::from_field_text(self.text, &token.text);
                words.push((Occur::Should, Box::new(TermQuery::new(term, IndexRecordOption::WithFreqs))));
            }
        });
        if words.is_empty() || limit == 0 || self.doc_ids.is_empty() {
            return Ok(Vec::new());
        }
        self.writer.commit().map_err(failed)?;
        let searcher = self.writer.index().reader().map_err(failed)?.searcher();
        let top = TopDocs::with_limit(limit.min(self.doc_ids.len())).order_by_score();
        let mut hits = Vec::new();
        for (score, address) in searcher.search(&BooleanQuery::new(words), &top).map_err(failed)? {
            let rows = searcher.segment_reader(address.segment_ord).fast_fields().u64("row").map_err(failed)?;
            let row = rows.first(address.doc_id).and_then(|row| usize::try_from(row).ok());
            if let Some(doc_id) = row.and_then(|row| self.doc_ids.get(row)) {
                hits.push(WordHit { doc_id: doc_id.clone(), score });
            }
        }
        Ok(hits)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn better_matches_come_first() {
        let mut index = SetIndex::new().unwrap();
        index
            .add("a", "The river was long. It ran past houses, past fields, past the mill and on to the sea.")
            .unwrap();
        index.add("b", "Rivers run.").unwrap();
        index.add("c", "Nothing of the kind.").unwrap();
        let hits = index.search("running RIVER river (", 10).unwrap();
        assert_eq!(hits.iter().map(|hit| hit.doc_id.as_str()).collect::<Vec<_>>(), ["b", "a"]);
        assert!(hits[0].score > hits[1].score && hits[1].score > 0.0);
    }

    #[test]
    fn a_query_without_words_finds_nothing() {
        let mut index = SetIndex::new().unwrap();
        index.add("a", "x").unwrap();
        assert!(index.search("?! ", 10).unwrap().is_empty());
    }
}
