//! Answers are read in the conversation in which they were given, with a small Gemma whose tokens are letters; and a
//! database has dictionaries of two readers.

use std::path::{Path, PathBuf};

use saequel_tests::{Scratch, fail, query_column, saequel, stderr, succeed};
use serde_json::{Value, json};

/// `n` letters, the same for the same seed.
fn letters(seed: u64, n: usize) -> String {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let letters: Vec<String> = (0..n)
        .map(|_| {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            char::from(b'A' + (state % 26) as u8).to_string()
        })
        .collect();
    letters.join(" ")
}

fn lines(rows: &[Value]) -> Vec<u8> {
    rows.iter().map(|row| format!("{row}\n")).collect::<String>().into_bytes()
}

/// A dictionary over the reader, in a folder.
fn dictionary(scratch: &Scratch) -> PathBuf {
    let reader = Path::new(env!("CARGO_MANIFEST_DIR")).join("fixtures/readers/gemma3");
    let rows: Vec<Value> = (0..200).map(|i| json!({"text": letters(1000 + i, 10 + (i as usize * 7) % 50)})).collect();
    let input = scratch.write("letters.jsonl", &lines(&rows));
    let folder = scratch.path("letters");
    let mut train = saequel(scratch.path("none.db"));
    train.args(["sae", "train", "--layer", "1", "--width", "64", "--k", "4", "--name", "letters", "--threads", "2"]);
    succeed(train.arg("--reader").arg(&reader).arg("--input").arg(&input).arg("--output").arg(&folder));
    folder
}

/// A database with the dictionary beside those that every database has.
fn database(scratch: &Scratch) -> PathBuf {
    let db = scratch.path("test.db");
    let said = succeed(saequel(&db).args(["sae", "import"]).arg(dictionary(scratch)));
    assert!(said.contains("dictionaries of several readers") && said.contains("--sae letters"), "{said}");
    db
}

fn one(db: &Path, sql: &str) -> String {
    query_column(db, &format!("SELECT CAST(({sql}) AS VARCHAR) AS found"), "found").expect(sql).remove(0)
}

#[test]
fn answers_have_the_features_of_their_own_tokens_in_their_conversation() {
    let scratch = Scratch::new();
    let db = database(&scratch);
    // Short ones, and prompts and answers of more than a window.
    let lengths = [(4, 6), (30, 20), (400, 12), (9, 500), (300, 300), (2, 1)];
    let rows: Vec<Value> = lengths
        .iter()
        .zip(1..)
        .map(|(&(prompt, answer), seed)| {
            let (prompt, answer) = (letters(seed, prompt), letters(seed + 100, answer));
            let whole =
                format!("<start_of_turn>user\n{prompt}<end_of_turn>\n<start_of_turn>model\n{answer}<end_of_turn>\n");
            json!({"id": format!("d{seed}"), "prompt": prompt, "answer": answer, "whole": whole})
        })
        .collect();
    let file = scratch.write("chats.jsonl", &lines(&rows));
    let import = |corpus: &str, arguments: &[&str]| {
        let mut command = saequel(&db);
        command.arg("import").arg(&file).args(["--corpus", corpus, "--key", "id", "--sae", "letters"]).args(arguments);
        command
    };
    let said = succeed(&mut import("chats", &["--chat", "user=prompt,assistant=answer"]));
    assert!(said.starts_with("chats: 6 documents in all; 6 added (839 tokens"), "{said}");
    succeed(&mut import("alone", &["--text", "answer"]));
    succeed(&mut import("whole", &["--text", "whole"]));

    let tokens = "SELECT n_tokens FROM chats ORDER BY doc_id";
    assert_eq!(query_column(&db, tokens, "n_tokens").unwrap(), ["6", "20", "12", "500", "300", "1"]);
    // Each feature of an answer is one of the whole conversation, at least as strong there; the prompt has others.
    let of_whole = "FROM chats_activations c LEFT JOIN whole_activations w ON c.doc_id = w.doc_id AND \
                    c.feature_id = w.feature_id";
    let missing = format!("SELECT count(*) {of_whole} WHERE coalesce(w.activation, 0) < 0.995 * c.activation");
    assert_eq!(one(&db, &missing), "0");
    assert!(one(&db, "SELECT count(*) FROM chats_activations").parse::<u32>().unwrap() > 60);
    let both = "SELECT (SELECT count(*) FROM whole_activations) > (SELECT count(*) FROM chats_activations)";
    assert_eq!(one(&db, both), "true");
    // Without the conversation the same answers have other features.
    let other = "SELECT count(DISTINCT c.doc_id) FROM chats_activations c LEFT JOIN alone_activations a ON \
                 c.doc_id = a.doc_id AND c.feature_id = a.feature_id WHERE a.feature_id IS NULL";
    assert!(one(&db, other).parse::<u32>().unwrap() >= 2);

    // Marks stand in the answer, on the tokens that have the feature in the conversation.
    let marked = "SELECT c.answer, c.doc_id, l.feature_id, highlight(c.answer, l.feature_id, conversation('user', c.prompt, \
                  'assistant', c.answer)) AS marked FROM chats c JOIN chats_activations l ON c.doc_id = l.doc_id";
    let wrong = format!(
        "SELECT count(*) FROM ({marked}) WHERE replace(replace(marked, '«', ''), '»', '') <> answer OR \
         marked NOT LIKE '%«%»%'"
    );
    assert_eq!(one(&db, &wrong), "0");
    let first = "SELECT max(feature_id) FROM chats_activations WHERE doc_id = 'd2'";
    let shown = succeed(saequel(&db).args(["features", "show", &one(&db, first), "--corpus", "chats"]));
    assert!(shown.contains('«'), "{shown}");
    let pairs =
        succeed(saequel(&db).args(["sql", "SELECT examples FROM correlate('chats', min_both => 2, examples => 1)"]));
    assert!(!pairs.is_empty());
    let unread = "SELECT highlight('B', (SELECT max(feature_id) FROM chats_activations), conversation('user', 'A'))";
    let (_, said) = fail(saequel(&db).args(["sql", unread]));
    assert!(said.contains("not what is said in the conversation"), "{said}");

    // What comes later is read the same, and what cannot be said so is told.
    let later = json!({"id": "d9", "prompt": letters(5, 300), "answer": letters(105, 300)});
    let alone = json!({"id": "d10", "prompt": null, "answer": "A B C"});
    let more = scratch.write("more.jsonl", &lines(&[later, alone]));
    let output = saequel(&db).arg("import").arg(&more).args(["--corpus", "chats"]).output().unwrap();
    assert!(output.status.success(), "{}", stderr(&output));
    let said = stderr(&output);
    assert!(said.contains("document 'd10' could not be read") && said.contains("Conversation roles must"), "{said}");
    assert!(String::from_utf8_lossy(&output.stdout).contains("2 added, 1 without features"));
    let same = "SELECT count(*) FROM chats_activations a JOIN chats_activations b ON a.feature_id = b.feature_id \
                WHERE a.doc_id = 'd5' AND b.doc_id = 'd9' AND abs(a.activation - b.activation) <= 0.005 * a.activation";
    assert_eq!(one(&db, same), one(&db, "SELECT count(*) FROM chats_activations WHERE doc_id = 'd5'"));
    assert_eq!(one(&db, "SELECT chat FROM saequel.corpora WHERE name = 'chats'"), "user=prompt,assistant=answer");
    let described = succeed(saequel(&db).args(["sql", "DESCRIBE chats", "--format", "csv"]));
    assert!(described.contains("prompt,Utf8,what the user says: is read around the text"), "{described}");

    let sql = format!(
        "CREATE CORPUS by_sql FROM '{}' TEXT (answer) CHAT (user = prompt, assistant = answer) KEY (id) USING SAE (letters)",
        file.display()
    );
    succeed(saequel(&db).args(["sql", &sql]));
    let differs = "SELECT count(*) FROM by_sql_activations s LEFT JOIN chats_activations c ON c.doc_id = s.doc_id AND \
                   c.feature_id = s.feature_id WHERE abs(coalesce(c.activation, 0) - s.activation) > 0.005 * s.activation";
    assert_eq!(one(&db, differs), "0");
    let of_chats = "SELECT count(*) FROM chats_activations WHERE doc_id NOT IN ('d9', 'd10')";
    assert_eq!(one(&db, "SELECT count(*) FROM by_sql_activations"), one(&db, of_chats));

    let evidence = saequel(&db)
        .args(["features", "evidence", "--corpus", "chats", "--dictionary", "letters", "--format", "jsonl"])
        .output()
        .unwrap();
    assert!(evidence.status.success(), "{}", stderr(&evidence));
    let found = String::from_utf8(evidence.stdout).unwrap();
    assert!(found.contains('«') && !found.contains("start_of_turn"), "{found}");
}

#[test]
fn an_encoder_reads_no_conversations_and_readers_are_told_apart() {
    let scratch = Scratch::new();
    let db = database(&scratch);
    let row = |id: u32, prompt: &str, answer: &str| json!({"id": id, "prompt": prompt, "answer": answer});
    let rows = [row(1, "Why?", "Sorry, I cannot say. A B C"), row(2, "Who?", "Nobody knows. D E F")];
    let file = scratch.write("a.jsonl", &lines(&rows));
    let import = |arguments: &[&str]| {
        let mut command = saequel(&db);
        command.arg("import").arg(&file).args(["--key", "id"]).args(arguments);
        command
    };
    let (_, said) = fail(&mut import(&["--corpus", "c", "--chat", "user=prompt,assistant=answer"]));
    assert!(said.contains("reader 'all-MiniLM-L6-v2' has no chat template") && said.contains("--sae"), "{said}");
    let (_, said) = fail(&mut import(&["--corpus", "c", "--chat", "user:prompt"]));
    assert!(said.contains("user=prompt,assistant=answer"), "{said}");
    let (_, said) =
        fail(&mut import(&["--corpus", "c", "--text", "answer", "--chat", "user=question,assistant=answer"]));
    assert!(said.contains("no column 'question' for the conversation"), "{said}");

    // One reader reads unless dictionaries are named.
    let output = import(&["--corpus", "plain", "--text", "answer"]).output().unwrap();
    assert!(output.status.success(), "{}", stderr(&output));
    let said = stderr(&output);
    assert!(said.contains("read with 'all-MiniLM-L6-v2' (minilm-l4-token-4096, minilm-l4-span-2048)"), "{said}");
    assert!(said.contains("(letters) name them: --sae letters"), "{said}");
    assert_eq!(one(&db, "SELECT array_length(dictionaries) FROM saequel.corpora WHERE name = 'plain'"), "2");
    let hooks = query_column(&db, "SELECT hook FROM saequel.saes ORDER BY first_feature_id", "hook").unwrap();
    assert_eq!(hooks, ["residual.4", "residual.4", "residual.1"]);
    // Marks are those of the feature's own reader.
    let letter = one(&db, "SELECT min(first_feature_id) FROM saequel.saes WHERE name = 'letters'");
    let marks = format!(
        "SELECT count(*) FROM (SELECT highlight('A B C D E F', feature_id) AS marked FROM saequel.features \
         WHERE dictionary = 'letters') WHERE marked LIKE '%«%'"
    );
    assert!(one(&db, &marks).parse::<u32>().unwrap() > 3, "features from {letter} on");

    // A corpus with dictionaries of both readers goes on to have both.
    succeed(saequel(&db).args(["sae", "add", "plain", "letters"]));
    let more = scratch.write("b.jsonl", &lines(&[row(3, "When?", "Sorry, never. G H I")]));
    succeed(saequel(&db).arg("import").arg(&more).args(["--corpus", "plain"]));
    let of_both = "SELECT count(DISTINCT f.dictionary) FROM plain_activations p JOIN saequel.features f ON \
                   p.feature_id = f.feature_id WHERE p.doc_id = '3'";
    assert_eq!(one(&db, of_both), "3");
    assert_eq!(one(&db, "SELECT count(*) FROM plain WHERE features IS NULL"), "0");
}
