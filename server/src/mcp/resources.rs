//! Resources: the guide, and what each corpus holds.

use rmcp::ErrorData;
use rmcp::model::{CacheScope, ListResourcesResult, ReadResourceResult, Resource, ResourceContents, ResourceTemplate};
use saequel_engine::ErrorKind;

use super::tools::{self, Asker};
use crate::error::{Failure, Result};

/// Address of the guide.
const GUIDE: &str = "saequel://guide";
/// What addresses of corpora begin with.
const CORPORA: &str = "saequel://corpora/";
const MARKDOWN: &str = "text/markdown";
/// Milliseconds for which a client may keep what it read.
const FRESH_MS: u64 = 60_000;

const GUIDE_TEXT: &str = include_str!("guide.md");

/// The guide, and the corpora that the visitor may see.
///
/// # Errors
/// What the gate says.
pub(super) async fn list(asker: &Asker<'_>) -> Result<ListResourcesResult> {
    let mut resources = vec![
        Resource::new(GUIDE, "guide")
            .with_title("How to ask saequel")
            .with_description("The four questions, sets of documents, the SQL dialect, with examples")
            .with_mime_type(MARKDOWN)
            .with_size(GUIDE_TEXT.len() as u64),
    ];
    for corpus in tools::corpora(asker).await? {
        resources.push(
            Resource::new(format!("{CORPORA}{corpus}"), corpus.clone())
                .with_title(format!("Corpus {corpus}"))
                .with_description("Columns with types and values, text columns, dictionaries, three documents")
                .with_mime_type(MARKDOWN),
        );
    }
    // Another token may see other corpora.
    Ok(ListResourcesResult::with_all_items(resources).with_cache_scope(CacheScope::Private).with_ttl_ms(FRESH_MS))
}

/// The addresses of corpora.
pub(super) fn templates() -> Vec<ResourceTemplate> {
    vec![
        ResourceTemplate::new(format!("{CORPORA}{{corpus}}"), "corpus")
            .with_title("A corpus")
            .with_description("Columns with types and values, text columns, dictionaries, three documents")
            .with_mime_type(MARKDOWN),
    ]
}

/// Reads a resource.
///
/// # Errors
/// If there is none at this address, or none that the visitor may see.
pub(super) async fn read(asker: &Asker<'_>, uri: &str) -> Result<ReadResourceResult, ErrorData> {
    let missing = |what: String| ErrorData::resource_not_found(what, Some(serde_json::json!({ "uri": uri })));
    let text = if uri == GUIDE {
        GUIDE_TEXT.to_owned()
    } else if let Some(corpus) = uri.strip_prefix(CORPORA) {
        match tools::describe(asker, corpus).await {
            Ok(reply) => reply.text,
            Err(failure) if failure.kind() == ErrorKind::NotFound => return Err(missing(failure.line())),
            Err(failure) => return Err(told(&failure)),
        }
    } else {
        return Err(missing(format!("there is no resource '{uri}'; there are {GUIDE} and {CORPORA}NAME")));
    };
    let contents = vec![ResourceContents::text(text, uri).with_mime_type(MARKDOWN)];
    Ok(ReadResourceResult::new(contents).with_cache_scope(CacheScope::Private).with_ttl_ms(FRESH_MS))
}

/// A failure where the protocol has no place for a tool's.
pub(super) fn told(failure: &Failure) -> ErrorData {
    let data = serde_json::json!({ "kind": failure.wire().name, "hint": failure.way_out() });
    match failure.kind() {
        ErrorKind::Query => ErrorData::invalid_params(failure.line(), Some(data)),
        _ => ErrorData::internal_error(failure.line(), Some(data)),
    }
}
