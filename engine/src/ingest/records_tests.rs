//! Records that cannot be read, or not as they stand: open quotes, endless lines, files of bad rows.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use arrow::array::AsArray;

use super::import::{Encoding, import};
use super::tests::*;
use crate::engine::ImportOptions;
use crate::error::ErrorKind;
use crate::store::testing;

#[tokio::test(flavor = "multi_thread")]
async fn a_first_record_that_cannot_be_read_is_named() {
    let dir = tempfile::tempdir().unwrap();
    let store = database(dir.path()).await;
    let cases: [(&str, &[u8], &str); 5] = [
        ("array.jsonl", b"[{\"text\":\"a\"}]", "line 1: expected an object, got an array; if the file is JSON over"),
        ("pretty.jsonl", b"{\n  \"text\": \"a\"\n}\n", "name the format json"),
        ("utf8.jsonl", b"{\"text\":\"\xff\"}\n", "utf8.jsonl, line 1: byte 10 (0xff) is not valid UTF-8"),
        ("fields.csv", b"text,n\na\n", "fields.csv, line 2: expected 2 fields as in the header, got 1"),
        ("long.jsonl", &[b'['; 2 << 20], "long.jsonl, line 1: it has more than 1 MiB"),
    ];
    for (name, bytes, expected) in cases {
        let error = run(&store, from(&write(dir.path(), name, bytes))).await.err().unwrap();
        assert!(error.to_string().contains(expected), "{name}: {error}");
        assert!(store.catalog().corpus("c").is_none());
    }
    let path = write(dir.path(), "none.jsonl", b"no\nJSON\n");
    let error = run(&store, setting_aside(from(&path))).await.err().unwrap();
    assert!(error.message().contains("none of the first 2 rows can be read: ") && error.message().contains("line 1"));
}

#[tokio::test(flavor = "multi_thread")]
async fn records_without_an_end_are_refused() {
    let dir = tempfile::tempdir().unwrap();
    let store = database(dir.path()).await;
    let long = "x".repeat(2 << 20);
    let csv = format!("id,text\n1,a\n2,\"{long}");
    let json = format!("[{{\"id\":1,\"text\":\"a\"}},\n{{\"id\":\"{long}");
    for (name, text, expected) in [
        ("a.csv", csv.as_str(), "a.csv, line 3: the record that begins here has more than 1 MiB"),
        ("b.csv", long.as_str(), "b.csv, line 1: the record that begins here has more than 1 MiB"),
        ("c.json", json.as_str(), "c.json, line 2: the object that begins here has more than 1 MiB"),
        ("d.txt", long.as_str(), "d.txt: the text has more than 1 MiB"),
    ] {
        let error = run(&store, keyed(&write(dir.path(), name, text.as_bytes()))).await.err().unwrap();
        assert!(error.message().contains(expected), "{name}: {error}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_quote_that_is_never_closed_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let long = format!("id,text\n1,\"a\n\"\n2,\"{}", "line of a text\n".repeat(4000));
    let cases: [(&str, &str, u64, usize); 12] = [
        ("one.csv", "id,text\n1,a\n2,\"b\n3,c\n4,d\n", 3, 1),
        ("bare.csv", "id,text\n1,a\n2,\"b\n3,c\n4,d", 3, 1),
        ("last.csv", "id,text\n1,a\n2,\"", 3, 1),
        ("mark.csv", "id,text\n1,a\n\".", 3, 1),
        ("doubled.csv", "id,text\n1,a\n2,\"b\"\"\n", 3, 1),
        ("three.csv", "id,text\n1,a\n2,\"\"\"\n", 3, 1),
        // The value begins behind one that is quoted as it should be.
        ("later.csv", "id,more,text\n1,x,a\n2,\"one\ntwo\",\"b\n3,x,c\n", 4, 1),
        // It takes the other fields of its record, too.
        ("fields.csv", "text,id,n\na,1,0\n\"b,2,0\nc,3,0\n", 3, 1),
        ("crlf.csv", "id,text\r\n1,a\r\n\r\n2,\"b\r\n3,c\r\n", 4, 1),
        ("semicolons.csv", "id;text\n1;a\n2;\"b\n3;c\n", 3, 1),
        ("long.csv", long.as_str(), 4, 1),
        ("header.csv", "id,\"text\n1,a\n2,b\n", 1, 0),
    ];
    for (at, (name, text, line, before)) in cases.into_iter().enumerate() {
        let dir = dir.path().join(at.to_string());
        std::fs::create_dir(&dir).unwrap();
        let store = database(&dir).await;
        let path = write(&dir, name, text.as_bytes());
        // It is no row to be set aside: nobody knows how many rows it took in.
        for options in [keyed(&path), setting_aside(keyed(&path))] {
            let error = run(&store, options).await.err().unwrap_or_else(|| panic!("{name}"));
            assert_eq!(error.kind(), ErrorKind::Data, "{name}: {error}");
            let expected = format!("{name}, line {line}: the quote that opens a value here is never closed");
            assert!(error.message().contains(&expected), "{name}: {error}");
        }
        let n = if store.catalog().corpus("c").is_some() { ids(&store).await.len() } else { 0 };
        assert_eq!(n, before, "{name}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn quotes_that_are_no_open_quote_are_read_as_before() {
    let dir = tempfile::tempdir().unwrap();
    let cases: [(&str, &str, &[&str]); 9] = [
        (
            "middle.csv",
            "id,text\n1,5\" long\n2,say \"hi\n3,he said \"so\"\n",
            &["5\" long", "say \"hi", "he said \"so\""],
        ),
        ("doubled.csv", "id,text\n1,\"a \"\"b\"\"\"\n2,\"\"\"\"\n", &["a \"b\"", "\""]),
        ("breaks.csv", "id,text\r\n1,\"a\r\n\r\nb\"\r\n2,c", &["a\r\n\r\nb", "c"]),
        ("bare.csv", "id,text\n1,\"a\"", &["a"]),
        ("tail.csv", "id,text\n1,\"a\" b\"\n2,c\n", &["a b\"", "c"]),
        ("bom.csv", "\u{feff}\"id\",\"text\"\n\"1\",\"a\"\n\n\n", &["a"]),
        ("carriage.csv", "id,text\r1,\"a\"\r2,b", &["a", "b"]),
        // What stands behind a file while it is read is a value like others inside it.
        ("mark.csv", "id,text\n1,.\n.,\"\n.\"\n", &[".", "\n."]),
        ("plain.tsv", "id\ttext\n1\t\"a\n2\tb\n", &["\"a", "b"]),
    ];
    for (at, (name, text, expected)) in cases.into_iter().enumerate() {
        let dir = dir.path().join(at.to_string());
        std::fs::create_dir(&dir).unwrap();
        let store = database(&dir).await;
        let path = write(&dir, name, text.as_bytes());
        run(&store, keyed(&path)).await.unwrap_or_else(|error| panic!("{name}: {error}"));
        let texts = stored(&store, &["text"]).await;
        let texts: Vec<&str> = texts.column(0).as_string::<i32>().iter().flatten().collect();
        assert_eq!(texts, expected, "{name}");
    }
    let store = database(dir.path()).await;
    for (name, text) in [("none.csv", ""), ("blank.csv", "\n\n")] {
        let error = run(&store, keyed(&write(dir.path(), name, text.as_bytes()))).await.err().unwrap();
        assert!(error.message().contains("there are no rows and no columns"), "{name}: {error}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_quote_in_tsv_is_a_character_unless_the_header_is_quoted() {
    let dir = tempfile::tempdir().unwrap();
    let store = database(dir.path()).await;
    let plain = write(dir.path(), "a.tsv", b"id\ttext\n1\t\"Hello\" he said\n2\t\"Hello he said\n3\tbye\n");
    assert_eq!(run(&store, keyed(&plain)).await.unwrap().written, 3);
    let quoted = write(dir.path(), "b.tsv", b"\"id\"\t\"text\"\n4\t\"one\ntwo\"\n");
    assert_eq!(run(&store, keyed(&quoted)).await.unwrap().written, 1);
    let texts = stored(&store, &["text"]).await;
    let texts: Vec<&str> = texts.column(0).as_string::<i32>().iter().flatten().collect();
    assert_eq!(texts, ["\"Hello\" he said", "\"Hello he said", "bye", "one\ntwo"]);
    let minimal = write(dir.path(), "c.tsv", b"text\tid\n\"one\ntwo\"\t5\n");
    let error = run(&store, keyed(&minimal)).await.err().unwrap();
    assert!(error.message().contains("if fields are in quotes, name the format csv"), "{error}");
    let options = ImportOptions { format: Some("csv".to_owned()), ..keyed(&minimal) };
    assert_eq!(run(&store, options).await.unwrap().written, 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_file_of_bad_rows_is_told_of_in_portions() {
    #[derive(Default)]
    struct Warnings(AtomicUsize);
    impl crate::progress::Progress for Warnings {
        fn stage(&self, _: &str, _: Option<u64>, _: &str) {}
        fn update(&self, _: u64, _: &str) {}
        fn finish(&self, _: &str) {}
        fn warn(&self, _: &str) {
            self.0.fetch_add(1, Ordering::Relaxed);
        }
    }
    let dir = tempfile::tempdir().unwrap();
    let store = database(dir.path()).await;
    let mut lines = "{\"id\":1,\"text\":\"a\"}\n".to_owned();
    lines.push_str(&"nonsense\n".repeat(25_000));
    let path = write(dir.path(), "a.jsonl", lines.as_bytes());
    let warnings = Arc::new(Warnings::default());
    let encoding = Encoding {
        encoder: Arc::new(WordLengths::default()),
        width: testing::WIDTH,
        dictionaries: vec!["lengths".to_owned()],
        reader: None,
    };
    let encoding = Box::new(|_: &[String]| Ok(encoding));
    let report = import(&store, setting_aside(keyed(&path)), warnings.clone(), encoding, &no_sae).await.unwrap();
    assert_eq!((report.read, report.written, report.n_set_aside), (25_001, 1, 25_000));
    assert_eq!((report.set_aside.len(), warnings.0.load(Ordering::Relaxed)), (1000, 1000));
}

#[tokio::test(flavor = "multi_thread")]
async fn whole_numbers_beyond_64_bits_keep_their_digits() {
    let dir = tempfile::tempdir().unwrap();
    let store = database(dir.path()).await;
    let lines = b"{\"id\":100000000000000000000,\"text\":\"a\",\"n\":[1,100000000000000000001]}\n\
                  {\"id\":100000000000000000001,\"text\":\"b\",\"n\":[]}\n";
    let path = write(dir.path(), "a.jsonl", lines);
    assert_eq!(run(&store, keyed(&path)).await.unwrap().written, 2);
    assert_eq!(ids(&store).await, ["100000000000000000000", "100000000000000000001"]);
    let lists = stored(&store, &["n"]).await;
    let first = lists.column(0).as_list::<i32>().value(0);
    assert_eq!(first.as_string::<i32>().iter().flatten().collect::<Vec<_>>(), ["1", "100000000000000000001"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_saequel_added_is_left_out_when_a_corpus_comes_back() {
    let dir = tempfile::tempdir().unwrap();
    let store = database(dir.path()).await;
    let line = r#"{"doc_id":"k","id":"k","text":"a","n_tokens":1,"n_spans":1,"fvu":0.5,"explained":null,"features":{"ids":[3],"activations":[1.5]}}"#;
    let path = write(dir.path(), "a.jsonl", line.as_bytes());
    assert_eq!(run(&store, keyed(&path)).await.unwrap().written, 1);
    let csv = b"doc_id,id,text,n_tokens,fvu,features\nl,l,b,1,0.5,\"{\"\"ids\"\":[3],\"\"activations\"\":[1.5]}\"\n";
    // The key of the corpus need not be said again.
    assert_eq!(run(&store, from(&write(dir.path(), "a.csv", csv))).await.unwrap().written, 1);
    assert_eq!(ids(&store).await, ["k", "l"]);
    let corpus = store.catalog().corpus("c").cloned().unwrap();
    let columns: Vec<&str> = corpus.columns.fields().iter().map(|field| field.name().as_str()).collect();
    assert_eq!(columns, ["id", "text"]);

    // Without a key the exported one is taken.
    let other = database(&dir.path().join("other")).await;
    assert_eq!(run(&other, from(&path)).await.unwrap().written, 1);
    assert_eq!(other.catalog().corpus("c").unwrap().key.as_deref(), Some("doc_id"));
    // What others mean by such a name is theirs to rename.
    let path = write(dir.path(), "b.csv", b"id,text,features\n1,a,wifi\n");
    let error = run(&store, keyed(&path)).await.err().unwrap();
    assert!(error.message().contains("a column cannot be called 'features'"), "{error}");
}

#[tokio::test(flavor = "multi_thread")]
async fn dictionaries_that_a_corpus_does_not_have_are_refused() {
    let dir = tempfile::tempdir().unwrap();
    let store = database(dir.path()).await;
    let path = write(dir.path(), "a.csv", b"id,text\n1,a\n");
    let with = |name: &str| ImportOptions { dictionaries: vec![name.to_owned()], ..keyed(&path) };
    run(&store, with("lengths")).await.unwrap();
    run(&store, with("lengths")).await.unwrap();
    let error = run(&store, with("lenghts")).await.err().unwrap();
    assert_eq!(error.kind(), ErrorKind::NotFound);
    assert!(error.message().contains("did you mean 'lengths'?"), "{error}");
    let guard = store.write("test").await.unwrap();
    store.add_dictionary(&guard, &testing::dictionary("other", &["a"])).await.unwrap();
    drop(guard);
    let error = run(&store, with("other")).await.err().unwrap();
    assert!(error.message().contains("has the dictionaries lengths, not 'other'"), "{error}");
    assert!(error.message().contains("`saequel sae add c other`"), "{error}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_corpus_is_not_called_what_sql_means_otherwise() {
    let dir = tempfile::tempdir().unwrap();
    let store = database(dir.path()).await;
    let path = write(dir.path(), "a.csv", b"id,text\n1,a\n");
    for name in ["select", "values", "table", "unnest"] {
        let error = run(&store, ImportOptions { corpus: name.to_owned(), ..keyed(&path) }).await.err().unwrap();
        assert!(error.message().contains(&format!("for example 'my_{name}'")), "{error}");
    }
    assert!(run(&store, ImportOptions { corpus: "selected".to_owned(), ..keyed(&path) }).await.is_ok());
}
