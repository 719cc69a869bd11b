//! `saequel import --features`: a corpus whose features were computed elsewhere, as a user meets it; and `saequel sae add`.

use saequel_tests::{Scratch, fail, query_column, saequel, succeed};

/// The one column of a query's answer.
fn answers(db: &std::path::Path, query: &str) -> Vec<String> {
    let named = format!("SELECT x FROM ({query}) AS answer(x)");
    query_column(db, &named, "x").unwrap_or_else(|said| panic!("{query}: {said}"))
}

const WITH: &str = "minilm-l4-token-4096";

/// Sixty documents in two groups: feature 3 in every one of group a, feature 1 in all.
fn documents(scratch: &Scratch) -> std::path::PathBuf {
    let line = |i: usize| {
        let (group, ids, acts) = if i % 2 == 0 { ("a", "[3,1]", "[2.5,1]") } else { ("b", "[1]", "[0.5]") };
        format!(
            "{{\"id\":{i},\"grp\":\"{group}\",\"text\":\"I am sorry, number {i}\",\"ids\":{ids},\"acts\":{acts}}}\n"
        )
    };
    let lines: String = (0..60).map(line).collect();
    scratch.write("given.jsonl", lines.as_bytes())
}

#[test]
fn features_computed_elsewhere_are_analysed_without_a_reader() {
    let scratch = Scratch::new();
    let (db, file) = (scratch.path("db"), documents(&scratch));
    let labels = scratch
        .write("labels.jsonl", b"{\"latent\":3,\"label\":\"says sorry\"}\n{\"latent\":1,\"label\":\"speaks\"}\n");
    let import = || {
        let mut command = saequel(&db);
        command.arg("import").arg(&file).args(["--corpus", "c", "--key", "id", "--text", "text"]);
        command.args(["--features", "ids", "--activations", "acts", "--width", "8", "--made-by", "our GPU"]);
        command.arg("--labels").arg(&labels);
        // No reader can be fetched or found: none is needed.
        command.env("SAEQUEL_CACHE", scratch.path("no-cache"));
        command
    };
    let said = succeed(&mut import());
    assert!(said.contains("c: 60 documents in all; 60 added") && said.contains("documents/s"), "{said}");
    let said = succeed(&mut import());
    assert!(said.contains("60 there already"), "{said}");

    let column = |query: &str| answers(&db, query);
    let diff = "SELECT label FROM diff('c WHERE grp = ''a''', 'c WHERE grp = ''b''') WHERE q_value < 0.05";
    assert_eq!(column(diff), ["says sorry"]);
    assert_eq!(column("SELECT count(*) FROM c WHERE has_feature(features, 'says sorry')"), ["30"]);
    assert_eq!(column("SELECT max(activation) FROM c_activations"), ["2.5"]);
    let pair = "SELECT label_a || ' + ' || label_b FROM correlate(c, min_docs => 1, echoes => true)";
    assert!(column(pair).len() <= 1, "one pair of features at most");
    let provenance = column("SELECT provenance FROM saequel.saes WHERE name = 'c'");
    assert!(provenance[0].contains("our GPU") && provenance[0].contains("given.jsonl"), "{provenance:?}");
    assert_eq!(column("SELECT DISTINCT cluster_id FROM cluster(c, k => 2)").len(), 2);

    // What needs a reader says why it cannot be had.
    let (_, said) = fail(saequel(&db).arg("import").arg(&file).args(["--corpus", "c", "--key", "id"]));
    assert!(said.contains("computed elsewhere") && said.contains("--features"), "{said}");
    let (_, said) = fail(saequel(&db).args(["sql", "SELECT * FROM retrieve(c, 'sorry')"]));
    assert!(said.contains("have no embedding") && said.contains("signals => 'labels,words'"), "{said}");
    assert_eq!(column("SELECT doc_id FROM retrieve(c, 'number 7', signals => 'words', k => 1)"), ["7"]);
    let (_, said) = fail(saequel(&db).arg("import").arg(&file).args(["--corpus", "x", "--width", "8"]));
    assert!(said.contains("--feature"), "{said}");
    let (_, said) = fail(saequel(&db).args(["sae", "add", "c", "c"]));
    assert!(said.contains("no weights") && said.contains("computed elsewhere"), "{said}");
    let said = succeed(saequel(&db).arg("doctor"));
    assert!(said.contains("computed elsewhere"), "{said}");
}

#[test]
fn a_dictionary_is_added_to_a_corpus_later_and_taken_away() {
    let scratch = Scratch::new();
    let (db, file) = (scratch.path("db"), documents(&scratch));
    let mut import = saequel(&db);
    import.arg("import").arg(&file).args(["--corpus", "c", "--key", "id", "--text", "text", "--features", "ids"]);
    succeed(&mut import);
    let said = succeed(saequel(&db).args(["sae", "add", "c", WITH]));
    assert!(said.contains("c: 60 documents encoded"), "{said}");
    let column = |query: &str| answers(&db, query);
    assert_eq!(column("SELECT count(*) FROM c WHERE n_tokens > 3 AND fvu_minilm_l4_token_4096 IS NOT NULL"), ["60"]);
    assert_eq!(column("SELECT count(DISTINCT level) FROM c_activations"), ["2"], "both dictionaries");
    let said = succeed(saequel(&db).args(["sql", &format!("ALTER CORPUS c DROP DICTIONARY '{WITH}'")]));
    assert!(said.contains("dropped"), "{said}");
    assert_eq!(column("SELECT DISTINCT level FROM c_activations"), ["document"]);
    let said = succeed(saequel(&db).args(["sql", &format!("ALTER CORPUS c ADD DICTIONARY '{WITH}'")]));
    assert!(said.contains("60 documents encoded"), "{said}");
    let (_, said) = fail(saequel(&db).args(["sae", "remove", WITH, "--everywhere"]));
    assert!(said.contains("in use by: c"), "{said}");
    succeed(saequel(&db).args(["sae", "remove", WITH, "--corpus", "c"]));
    assert_eq!(column("SELECT count(*) FROM c"), ["60"]);
}

#[test]
fn only_what_both_sides_were_read_with_is_compared() {
    let scratch = Scratch::new();
    let (db, file) = (scratch.path("db"), documents(&scratch));
    let import = |corpus: &str, dictionary: &str| {
        let mut command = saequel(&db);
        command.arg("import").arg(&file).args([
            "--corpus",
            corpus,
            "--key",
            "id",
            "--text",
            "text",
            "--features",
            "ids",
        ]);
        succeed(command.args(["--dictionary", dictionary]));
    };
    import("c", "first");
    import("d", "second");
    let (_, said) = fail(saequel(&db).args(["sql", "SELECT * FROM diff(c, d)"]));
    assert!(
        said.contains("no selected dictionary has read all documents") && said.contains("'c' was read with first"),
        "{said}"
    );
    assert!(said.contains("'d' was read with second"), "{said}");
    let union = "SELECT * FROM correlate('SELECT doc_id || ''c'' AS doc_id, features FROM c UNION ALL SELECT doc_id, \
                 features FROM d', direction => 'negative')";
    let (_, said) = fail(saequel(&db).args(["sql", union]));
    assert!(said.contains("none that is shared"), "{said}");
    let groups = "SELECT count(*) FROM diff('c WHERE grp = ''a''', 'c WHERE grp = ''b''')";
    assert_eq!(answers(&db, groups), ["2"], "one corpus is compared as ever");

    // Across two sets each side has features of its own dictionary.
    let across = "SELECT count(*) > 0 FROM correlate('c WHERE id < 99', with => 'd', paired_by => 'id', min_docs => 1, \
                  direction => 'both')";
    assert_eq!(answers(&db, across), ["true"]);

    // A sample that is another each time it is read cannot be counted twice.
    let (_, said) = fail(saequel(&db).args(["sql", "SELECT * FROM correlate('SELECT * FROM c WHERE random() < 0.5')"]));
    assert!(said.contains("random()") && said.contains("ORDER BY md5(doc_id) LIMIT 1000"), "{said}");
    let sample = "SELECT max(n) FROM correlate('SELECT * FROM c ORDER BY md5(doc_id) LIMIT 40', min_docs => 1, direction => 'both', echoes => true)";
    assert_eq!(answers(&db, sample), ["40"]);
}

#[test]
fn dictionaries_of_other_corpora_change_no_answer() {
    let scratch = Scratch::new();
    let db = scratch.path("db");
    let said = ["I am so sorry, I cannot help with that", "What a wonderful, happy day", "The train leaves at nine"];
    let lines: String =
        (0..60).map(|i| format!("{{\"id\":{i},\"text\":\"{} ({i})\"}}\n", said[i as usize % 3])).collect();
    let file = scratch.write("read.jsonl", lines.as_bytes());
    let importing = |corpus: &str| {
        let mut command = saequel(&db);
        command.args(["import", "--corpus", corpus, "--key", "id", "--text", "text"]);
        command
    };
    succeed(importing("c").arg(&file));
    let all = || {
        let ranks =
            "SELECT concat_ws(' ', rank, doc_id, round(score, 3)) FROM retrieve(c, 'apologises politely', k => 60)";
        let groups = "SELECT concat_ws(' ', doc_id, cluster_id) FROM cluster(c, 'apologies, joy, travel', k => 3)";
        let everything = "SELECT concat_ws(' ', doc_id, cluster_id, membership) FROM cluster(c, k => 3)";
        [ranks, groups, everything].map(|query| answers(&db, query))
    };
    let before = all();
    // Features of other documents, whose labels are nearer to what is asked for than any other.
    let labels: String = (0..200)
        .map(|i| format!("{{\"latent\":{i},\"label\":\"apologises politely, with joy, on a travel ({i})\"}}\n"))
        .collect();
    let labels = scratch.write("labels.jsonl", labels.as_bytes());
    let given = documents(&scratch);
    succeed(importing("d").arg(given).args(["--features", "ids", "--width", "200", "--labels"]).arg(labels));
    assert_eq!(all(), before);
    // A join that repeats documents makes no groups.
    let (_, said) =
        fail(saequel(&db).args(["sql", "SELECT * FROM cluster('SELECT * FROM c UNION ALL SELECT * FROM c')"]));
    assert!(said.contains("comes twice"), "{said}");
    for (control, expected) in
        [("doc_id", "no two documents"), ("CAST(NULL AS VARCHAR) AS nothing", "no document of set")]
    {
        let column = control.split(" AS ").last().unwrap_or(control);
        let set = format!("SELECT *, {control} FROM c").replace("*, doc_id", "*");
        let sql = format!("SELECT * FROM correlate('{set}', control => '{column}')");
        let (_, said) = fail(saequel(&db).args(["sql", &sql]));
        assert!(said.contains(expected), "{sql}: {said}");
    }
}

#[test]
fn a_document_that_lacks_one_of_two_dictionaries_is_found_by_not() {
    let scratch = Scratch::new();
    let db = scratch.path("db");
    let lines = "{\"id\":\"d1\",\"text\":\"I am sorry\",\"ids\":[1]}\n{\"id\":\"d2\",\"text\":\"I am here\",\"ids\":[0]}\n\
                 {\"id\":\"d3\",\"text\":\"I am away\",\"ids\":null}\n";
    let file = scratch.write("given.jsonl", lines.as_bytes());
    let mut import = saequel(&db);
    import.arg("import").arg(&file).args(["--corpus", "c", "--key", "id", "--text", "text", "--features", "ids"]);
    succeed(&mut import);
    succeed(saequel(&db).args(["sae", "add", "c", WITH]));
    let column = |query: &str| answers(&db, query);
    let id = &column("SELECT max(feature_id) FROM c_activations WHERE level = 'document'")[0];
    for has in [
        format!("has_feature(features, {id})"),
        format!("array_has(features['ids'], {id})"),
        format!("array_has_any(features['ids'], [{id}])"),
        format!("array_has_all(features['ids'], [{id}])"),
    ] {
        let documents = |condition: &str| column(&format!("SELECT doc_id FROM c WHERE {condition} ORDER BY doc_id"));
        assert_eq!(documents(&has), ["d1"], "{has}");
        assert_eq!(documents(&format!("NOT {has}")), ["d2", "d3"], "{has}");
        assert_eq!(documents(&format!("{has} IS FALSE")), ["d2", "d3"], "{has}");
        assert_eq!(documents(&format!("{has} OR NOT {has}")), ["d1", "d2", "d3"], "{has}");
        let shown = format!("SELECT doc_id || CAST({has} AS VARCHAR) FROM c ORDER BY doc_id");
        assert_eq!(column(&shown), ["d1true", "d2false", "d3false"], "{has}");
    }
    let broken = format!("array_has_any(features['ids'], [{id}.7])");
    assert_eq!(column(&format!("SELECT count(*) FROM c WHERE {broken}")), ["0"], "no id is broken");
    let said = succeed(saequel(&db).args(["sql", &format!("DELETE FROM c WHERE NOT has_feature(features, {id})")]));
    assert_eq!(column("SELECT doc_id FROM c"), ["d1"], "{said}");
}
