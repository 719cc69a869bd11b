//! Texts that are read in their conversations: what reaches the encoder, what is remembered, what is refused. The
//! encoder is a stand-in with a template; features of texts in conversations are tested where the encoder is.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use arrow::array::{Array, AsArray};
use arrow::datatypes::UInt32Type;

use super::backfill::{Backfill, Work};
use super::conversation::Conversations;
use super::pipeline::Encode;
use super::tests::{WordLengths, database, keyed, run_with, stored, write};
use crate::encoder::EncodedDocument;
use crate::engine::ImportOptions;
use crate::error::Result;
use crate::progress::Silent;
use crate::reader::{ChatTemplate, Passage};
use crate::schema;
use crate::store::{AsOf, Store, testing};

/// Knows two roles, of which the user speaks first. A document's number of sentences is the number of words that are
/// read.
struct Chatty(ChatTemplate);

impl Chatty {
    fn new() -> Self {
        let template = "{% if messages[0].role != 'user' %}{{ raise_exception('the user speaks first') }}{% endif %}\
                        {% for m in messages %}<{{ m.role }}> {{ m.content | trim }} {% endfor %}";
        Self(ChatTemplate::new(template, [].into()))
    }
}

impl Encode for Chatty {
    fn encode(&self, texts: &[&str]) -> Result<Vec<EncodedDocument>> {
        WordLengths::default().encode(texts)
    }

    fn encode_passages(&self, passages: &[Passage<'_>]) -> Result<Vec<EncodedDocument>> {
        let mut documents = self.encode(&passages.iter().map(Passage::text).collect::<Vec<_>>())?;
        for (document, passage) in documents.iter_mut().zip(passages) {
            document.n_spans = passage.whole().split_whitespace().count() as u32;
        }
        Ok(documents)
    }

    fn chat(&self) -> (&str, Option<&ChatTemplate>) {
        ("chatty", Some(&self.0))
    }
}

fn chatting(path: &Path, chat: &str) -> ImportOptions {
    ImportOptions { text_columns: Vec::new(), chat: Some(chat.parse().unwrap()), ..keyed(path) }
}

/// Words of the text, and words that were read, of each document; and why it could not be read.
async fn read(store: &Store) -> Vec<(Option<u32>, Option<u32>, Option<String>)> {
    let batch = stored(store, &[schema::N_TOKENS, schema::N_SPANS, schema::ERROR]).await;
    let numbers = |at: usize| batch.column(at).as_primitive::<UInt32Type>();
    let errors = batch.column(2).as_string::<i32>();
    let row = |row: usize| {
        let number = |at: usize| numbers(at).is_valid(row).then(|| numbers(at).value(row));
        (number(0), number(1), errors.is_valid(row).then(|| errors.value(row).to_owned()))
    };
    (0..batch.num_rows()).map(row).collect()
}

fn answers(dir: &Path) -> PathBuf {
    let rows = "id,prompt,text\n1,Why is it so?,Because.\n2,,Nobody asked.\n3,Who?,\n4,42,I do not know that number.\n";
    write(dir, "a.csv", rows.as_bytes())
}

#[tokio::test(flavor = "multi_thread")]
async fn texts_are_read_in_their_conversation_now_and_later() {
    let dir = tempfile::tempdir().unwrap();
    let store = database(dir.path()).await;
    let path = answers(dir.path());
    let report = run_with(&store, chatting(&path, "user=prompt,assistant=text"), Chatty::new()).await.unwrap();
    assert_eq!((report.written, report.n_unread), (4, 1));
    let refused = "chat template: the user speaks first".to_owned();
    let first = [
        (Some(1), Some(7), None), // <user> Why is it so? <assistant> Because.
        (None, None, Some(refused)),
        (Some(0), Some(0), None),
        (Some(6), Some(9), None), // the prompt is text, though it looks like a number
    ];
    assert_eq!(read(&store).await, first);
    drop(store);

    // It is remembered: nobody says it again, also after opening anew and a change of the catalog.
    let store = database(dir.path()).await;
    let path = write(dir.path(), "b.jsonl", b"{\"id\": 5, \"prompt\": \"Who are you\", \"text\": \"No idea\"}\n");
    run_with(&store, keyed(&path), Chatty::new()).await.unwrap();
    let info = store.catalog().corpus("c").unwrap().clone();
    assert_eq!(info.chat.as_ref().unwrap().to_string(), "user=prompt,assistant=text");
    assert_eq!(info.text_columns, ["text"]);
    let mut all = first.to_vec();
    all.push((Some(2), Some(7), None));
    assert_eq!(read(&store).await, all);
    let snapshot = store.snapshot("c", AsOf::Latest).await.unwrap();
    assert_eq!(snapshot.info.chat, info.chat);

    // A dictionary that comes later reads the same.
    let guard = store.write("test").await.unwrap();
    store
        .add_dictionary(&guard, &testing::dictionary("later", &["a", "b", "c", "d", "e", "f", "g", "h"]))
        .await
        .unwrap();
    let encoder = Chatty::new();
    let chat = Conversations::new(info.chat.as_ref().unwrap(), &info.text_columns, &encoder).unwrap();
    let columns = [schema::N_SPANS.to_owned(), schema::N_TOKENS.to_owned()];
    store.drop_columns(&guard, "c", &columns).await.unwrap();
    let backfill = Backfill {
        store: &store,
        guard: &guard,
        corpus: "c",
        dictionaries: &["later".to_owned()],
        work: Work::Texts { encoder: Arc::new(encoder), width: testing::WIDTH, chat: Some(chat) },
        progress: Arc::new(Silent),
    };
    backfill.run().await.unwrap();
    drop(guard);
    assert_eq!(read(&store).await, all);

    // A corpus of that name that is made anew knows nothing of it.
    let guard = store.write("test").await.unwrap();
    store.drop_corpus(&guard, "c").await.unwrap();
    drop(guard);
    run_with(&store, keyed(&path), WordLengths::default()).await.unwrap();
    assert_eq!(store.catalog().corpus("c").unwrap().chat, None);
}

#[tokio::test]
async fn several_text_columns_of_a_conversation_are_one_text() {
    let dir = tempfile::tempdir().unwrap();
    let store = database(dir.path()).await;
    let path =
        write(dir.path(), "a.jsonl", b"{\"id\": 1, \"q\": \"a b\", \"a\": \"c\", \"p\": \"d\", \"text\": \"e f\"}\n");
    let options = ImportOptions {
        text_columns: vec!["a".to_owned(), "text".to_owned()],
        ..chatting(&path, "user=q,assistant=a,user=p,assistant=text")
    };
    run_with(&store, options, Chatty::new()).await.unwrap();
    assert_eq!(read(&store).await, [(Some(3), Some(10), None)]);
}

#[tokio::test]
async fn what_cannot_be_a_conversation_is_refused_before_anything_is_written() {
    let dir = tempfile::tempdir().unwrap();
    let store = database(dir.path()).await;
    let path = answers(dir.path());
    let said = |error: Result<_>| -> String { error.map(|_: crate::ImportReport| ()).unwrap_err().to_string() };
    let options = |chat: &str| chatting(&path, chat);

    let error = said(run_with(&store, options("user=prompt,assistant=text"), WordLengths::default()).await);
    assert!(error.contains("has no chat template") && error.contains("--sae"), "{error}");
    let error = said(run_with(&store, options("system=prompt,assistant=text"), Chatty::new()).await);
    assert!(
        error.contains("reader 'chatty' cannot read conversations of system=prompt,assistant=text")
            && error.contains("the user speaks first"),
        "{error}"
    );
    let error = said(run_with(&store, options("user=promt,assistant=text"), Chatty::new()).await);
    assert!(error.contains("no column 'promt' for the conversation; did you mean 'prompt'?"), "{error}");
    let named = ImportOptions { text_columns: vec!["text".to_owned()], ..options("user=prompt") };
    let error = said(run_with(&store, named, Chatty::new()).await);
    assert!(error.contains("for example user=prompt,assistant=text"), "{error}");
    let swapped = ImportOptions {
        text_columns: vec!["text".to_owned(), "prompt".to_owned()],
        ..options("user=prompt,assistant=text")
    };
    let error = said(run_with(&store, swapped, Chatty::new()).await);
    assert!(error.contains("another order"), "{error}");
    assert!(store.catalog().corpora.is_empty());

    run_with(&store, options("user=prompt,assistant=text"), Chatty::new()).await.unwrap();
    let error = said(run_with(&store, options("assistant=text"), Chatty::new()).await);
    assert!(error.contains("has the conversation 'user=prompt,assistant=text', not 'assistant=text'"), "{error}");
    let other = write(dir.path(), "b.csv", b"id,question,text\n9,Why?,So.\n");
    let error = said(run_with(&store, keyed(&other), Chatty::new()).await);
    assert!(
        error.contains("no column 'prompt' for the conversation") && error.contains("--rename OLD=prompt"),
        "{error}"
    );
}
