//! Dictionaries are evaluated and compared, and names that others made find their features.

use std::path::{Path, PathBuf};
use std::process::Command;

use saequel_tests::{Scratch, fail, program, saequel, succeed};
use serde_json::Value;

const SPAN: &str = "minilm-l4-span-2048";
const TOKEN: &str = "minilm-l4-token-4096";

fn answers() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../examples/data/answers.jsonl")
}

/// The only row of a command's answer.
fn row(arguments: &[&str]) -> Value {
    let mut command = Command::new(program());
    command.args(arguments).arg("--input").arg(answers()).args(["--text", "answer", "--format", "jsonl"]);
    serde_json::from_str(&succeed(&mut command)).expect("one row")
}

#[test]
fn a_dictionary_is_evaluated_with_labelled_texts() {
    let labelled = answers();
    let labelled = labelled.to_str().expect("a path in UTF-8");
    let row = row(&["sae", "eval", SPAN, "--tokens", "20000", "--labels", labelled, "--label", "assistant"]);
    let number = |name: &str| row[name].as_f64().unwrap_or_else(|| panic!("{name} in {row}"));
    assert!((0.1..0.5).contains(&number("fvu")) && (5.0..40.0).contains(&number("l0")), "{row}");
    assert!((number("explained_variance") + number("fvu") - 1.0).abs() < 0.1, "{row}");
    assert!(number("nearest_max") > number("nearest_median") && number("nearest_max") <= 1.0001, "{row}");
    let latents: u64 =
        row["density"].as_array().expect("a list").iter().map(|bin| bin["latents"].as_u64().unwrap()).sum();
    assert_eq!(latents, 2048);
    let classes = row["concepts"].as_array().expect("a list");
    assert!(classes.len() >= 2, "{row}");
    for class in classes {
        let js = class["js_divergence"].as_f64().expect("a number");
        assert!((0.0..=1.0).contains(&js) && class["auroc_chosen"].as_f64() > Some(0.5), "{class}");
    }
    let (_, said) =
        fail(Command::new(program()).args(["sae", "eval", SPAN, "--label", "assistant", "--input", labelled]));
    assert!(said.contains("--labels"), "{said}");
}

#[test]
fn dictionaries_are_compared_by_direction_and_on_documents() {
    let same = row(&["sae", "compare", SPAN, SPAN, "--tokens", "3000", "--summary"]);
    assert_eq!(
        (&same["cosine_a_in_b"], &same["cosine_mutual"], &same["counted"]),
        (&1.0.into(), &2048.into(), &"span".into())
    );
    assert_eq!((&same["jaccard_a_in_b"], &same["jaccard_mean_b"]), (&1.0.into(), &1.0.into()));
    let other = row(&["sae", "compare", SPAN, TOKEN, "--tokens", "3000", "--summary"]);
    assert_eq!(other["counted"], "document");
    assert!(other["jaccard_a_in_b"].as_f64() < Some(0.9) && other["n_counted"].as_u64() > Some(5), "{other}");
    let pairs =
        succeed(Command::new(program()).args(["sae", "compare", SPAN, TOKEN, "--format", "csv", "--limit", "3"]));
    assert_eq!(pairs.lines().next(), Some("feature_a,label_a,feature_b,label_b,cosine,jaccard,mutual"));
    assert_eq!(pairs.lines().count(), 4, "{pairs}");
}

#[test]
fn names_that_others_made_find_their_features() {
    let scratch = Scratch::new();
    let db = scratch.path("labels.db");
    let mut import = saequel(&db);
    succeed(import.arg("import").arg(answers()).args(["--corpus", "answers", "--text", "answer", "--limit", "3"]));
    let line = |index: u32, text: &str| {
        format!("{{\"modelId\": \"m\", \"layer\": \"4-res\", \"index\": \"{index}\", \"description\": \"{text}\"}}\n")
    };
    let lines =
        [line(5, "fruit names"), line(6, "past tense"), line(5, "again"), line(7, " "), line(9999, "beyond")].concat();
    let file = scratch.write("batch-0.jsonl", lines.as_bytes());
    let labels = |arguments: &[&str]| {
        let mut command = saequel(&db);
        command.args(["features", "import-labels"]).arg(&file).args(arguments);
        command
    };
    // A position alone does not say of which dictionary.
    let (_, said) = fail(&mut labels(&[]));
    assert!(said.contains("--dictionary NAME") && said.contains(SPAN), "{said}");
    let told = succeed(&mut labels(&["--dictionary", SPAN]));
    for part in [
        "2 of 2 labels changed (read as neuronpedia of m 4-res)",
        "1 with no such feature: position 9999",
        "1 a second time, of which the first counts: position 5",
        "1 without a label: position 7",
    ] {
        assert!(told.contains(part), "{part}: {told}");
    }
    let query =
        "SELECT label, label_source FROM saequel.features WHERE label_source = 'imported:neuronpedia' ORDER BY 1";
    let found = succeed(saequel(&db).args(["sql", query, "--format", "csv"]));
    assert_eq!(
        found.lines().skip(1).collect::<Vec<_>>(),
        ["fruit names,imported:neuronpedia", "past tense,imported:neuronpedia"]
    );
    // What was exported changes nothing, in whatever format.
    succeed(saequel(&db).args(["features", "rename", "3", "my own name"]));
    for name in ["labels.csv", "labels.jsonl", "labels.parquet"] {
        let file = scratch.path(name);
        succeed(saequel(&db).args(["features", "export-labels", "--output"]).arg(&file));
        let told = succeed(saequel(&db).args(["features", "import-labels"]).arg(&file));
        assert!(told.starts_with("0 of ") && told.contains(" labels changed"), "{told}");
    }
    // Elsewhere the name that a person gave is still one.
    let elsewhere = scratch.path("elsewhere.db");
    let mut import = saequel(&elsewhere);
    import.arg("import").arg(answers()).args(["--corpus", "answers", "--text", "answer", "--limit", "1"]);
    succeed(&mut import);
    let told = succeed(saequel(&elsewhere).args(["features", "import-labels"]).arg(scratch.path("labels.csv")));
    assert!(told.starts_with("3 of ") && told.contains(" labels changed"), "{told}");
    let query = "SELECT label_source FROM saequel.features WHERE feature_id = 3";
    assert_eq!(succeed(saequel(&elsewhere).args(["sql", query, "--format", "csv"])).lines().nth(1), Some("user"));

    // Where a dictionary has other ids, its names find it by their places, and those of another one are left out.
    let other = scratch.path("other.db");
    let mut import = saequel(&other);
    import.arg("import").arg(answers()).args(["--corpus", "answers", "--text", "answer", "--limit", "1"]);
    succeed(import.args(["--sae", SPAN]));
    succeed(saequel(&other).args(["sae", "remove", TOKEN, "--everywhere"]));
    for name in ["labels.csv", "labels.jsonl", "labels.parquet"] {
        let told = succeed(saequel(&other).args(["features", "import-labels"]).arg(scratch.path(name)));
        let n = if name == "labels.csv" { "2" } else { "0" };
        assert!(told.starts_with(&format!("{n} of ")) && told.contains("4096 of other dictionaries: "), "{told}");
    }
    let query = "SELECT label, feature_id - first_feature_id AS place FROM saequel.features JOIN saequel.saes \
                 ON name = dictionary WHERE label_source = 'imported:neuronpedia' ORDER BY 1";
    let found = succeed(saequel(&other).args(["sql", query, "--format", "csv"]));
    assert_eq!(found.lines().skip(1).collect::<Vec<_>>(), ["fruit names,5", "past tense,6"]);
    let (code, said) = fail(saequel(&other).args(["features", "import-labels", "--source", " "]).arg(&file));
    assert!(code == 2 && said.contains("expected a text on one line"), "{said}");
    let (_, said) = fail(saequel(&other).args(["features", "rename", "4100", "17"]));
    assert!(said.contains("is a number"), "{said}");
    let odd = scratch.write("odd.csv", b"latent,label,detection\n1,one,1.5\n");
    let (code, said) = fail(saequel(&other).args(["features", "import-labels", "--dictionary", SPAN]).arg(odd));
    assert!(code == 3 && said.contains("odd.csv, line 2: expected a detection from 0 to 1"), "{said}");

    let map = scratch.write("map.json", b"{\"100000\": \"beyond all\"}");
    let (_, said) = fail(saequel(&db).args(["features", "import-labels", "--dictionary", SPAN]).arg(&map));
    assert!(said.contains("none of the labels can be used") && said.contains("sae list"), "{said}");
}

#[test]
fn a_dictionary_is_fitted_to_other_texts_and_keeps_its_names() {
    let scratch = Scratch::new();
    let train = |more: &[&str]| {
        let mut command = saequel(scratch.path("test.db"));
        command.args(["sae", "train", "--text", "answer", "--tokens", "20000", "--samples", "8192", "--no-examples"]);
        command.arg("--input").arg(answers()).arg("--output").arg(scratch.path("tuned")).args(more);
        command
    };
    let said = succeed(&mut train(&["--from", SPAN]));
    let kept = said.split_once(" features kept their names").and_then(|(before, _)| before.rsplit(' ').next());
    assert!(said.starts_with(&format!("{SPAN}-tuned: FVU ")), "{said}");
    assert!(kept.and_then(|kept| kept.parse::<usize>().ok()).is_some_and(|kept| kept > 1900), "{said}");
    let labels = |folder: &Path| -> Vec<String> {
        let text = std::fs::read_to_string(folder.join("features.jsonl")).expect("features.jsonl");
        let line = |line: &str| serde_json::from_str::<Value>(line).expect("JSON")["label"].to_string();
        text.lines().map(line).collect()
    };
    let shipped = Path::new(env!("CARGO_MANIFEST_DIR")).join("../engine/encoder/dictionaries").join(SPAN);
    let same = labels(&scratch.path("tuned")).iter().zip(labels(&shipped)).filter(|(a, b)| **a == *b).count();
    assert!(same > 1900, "{same} names are the same");

    let (_, error) = fail(&mut train(&["--from", SPAN]));
    assert!(error.contains("holds a finished dictionary") && error.contains("--overwrite"), "{error}");

    let (_, error) = fail(&mut train(&["--from", SPAN, "--width", "64"]));
    assert!(error.contains("'--from <DICTIONARY>' cannot be used with '--width"), "{error}");
}

/// A copy of a dictionary that is built in, called `mine`, in the folder `name`.
fn copy_of(shipped: &str, scratch: &Scratch, name: &str) -> PathBuf {
    let shipped = Path::new(env!("CARGO_MANIFEST_DIR")).join("../engine/encoder/dictionaries").join(shipped);
    let folder = scratch.path(name);
    std::fs::create_dir(&folder).expect("make a folder");
    for file in ["sae.safetensors", "features.jsonl"] {
        std::fs::copy(shipped.join(file), folder.join(file)).expect("copy a file");
    }
    let spec = std::fs::read_to_string(shipped.join("sae.json")).expect("sae.json");
    let mut spec: Value = serde_json::from_str(&spec).expect("JSON");
    spec["name"] = "mine".into();
    std::fs::write(folder.join("sae.json"), spec.to_string()).expect("write sae.json");
    folder
}

#[test]
fn another_dictionary_of_the_same_name_is_not_taken_for_it() {
    let scratch = Scratch::new();
    let db = scratch.path("names.db");
    let mut import = saequel(&db);
    import.arg("import").arg(answers()).args(["--corpus", "answers", "--text", "answer", "--limit", "3"]);
    succeed(import.args(["--sae", TOKEN]));
    let (first, second) = (copy_of(SPAN, &scratch, "first"), copy_of(SPAN, &scratch, "second"));
    let weights = second.join("sae.safetensors");
    let mut bytes = std::fs::read(&weights).expect("weights");
    let last = bytes.len() - 2;
    bytes[last] ^= 1;
    std::fs::write(&weights, bytes).expect("write weights");
    let add = |folder: &Path| {
        let mut command = saequel(&db);
        command.args(["sae", "add", "answers"]).arg(folder);
        command
    };
    // Twice in one command, and again: the name stands for it.
    let told = succeed(add(&first).arg(&first));
    assert!(told.contains("3 documents encoded with mine ("), "{told}");
    succeed(&mut add(&first));
    let (_, said) = fail(&mut add(&second));
    assert!(said.contains("dictionary 'mine' exists already, with other weights") && said.contains("--name"), "{said}");

    // Files of others beside a dictionary's own are none of it.
    std::fs::write(db.join("saes/mine/.DS_Store"), "x").expect("write a file");
    succeed(&mut add(&first));

    let with = |arguments: &[&str]| {
        let mut command = saequel(&db);
        command.args(["sae", "import"]).arg(&second).args(arguments);
        command
    };
    let weights = || std::fs::read(first.join("sae.safetensors")).expect("weights");
    let before = weights();
    let (_, said) = fail(with(&["--output"]).arg(&first));
    assert!(said.contains("holds a dictionary already") && said.contains("--overwrite"), "{said}");
    assert!(weights() == before);
    succeed(with(&["--overwrite", "--output"]).arg(&first));
    assert!(weights() != before);
    let (code, said) = fail(&mut with(&["--reader", "gpt2", "--level", "token"]));
    assert!(code == 2 && said.contains("leave --reader and --level out"), "{said}");
    let (code, said) = fail(&mut with(&["--name", "no.t"]));
    assert!(code == 2 && said.contains("cannot be the name of a dictionary"), "{said}");
    assert!(succeed(&mut with(&["--name", "other"])).starts_with("other: features "));
    let told = succeed(saequel(&db).args(["sae", "add", "answers", "other"]));
    assert!(told.contains("encoded with other ("), "{told}");
}

#[test]
fn dictionaries_of_one_name_are_told_apart() {
    let scratch = Scratch::new();
    let db = scratch.path("x.db");
    let lines = |what: &str| -> String {
        (0..200).map(|i| format!("{{\"id\":{i},\"text\":\"{what} number {i}, and then some words.\"}}\n")).collect()
    };
    let texts = scratch.write("texts.jsonl", lines("The cat sat on mat").as_bytes());
    let train = |output: &str, more: &[&str]| {
        let mut command = saequel(&db);
        command.args(["sae", "train", "--width", "32", "--k", "4", "--tokens", "1500", "--samples", "2048"]);
        command.args(["--no-examples", "--also", "4:token", "--also", "4:span", "--also", "4:span"]);
        command.arg("--input").arg(&texts).arg("--work").arg(scratch.path("work"));
        command.arg("--output").arg(scratch.path(output)).args(more);
        command
    };
    // Hook points that are named twice are read once; a name that no database takes is refused before anything is read.
    succeed(&mut train("one", &["--seed", "1"]));
    succeed(&mut train("two", &["--seed", "2", "--overwrite"]));
    let (_, said) = fail(&mut train("three", &["--name", "../three"]));
    assert!(said.contains("'../three' cannot be the name of a dictionary: use lower-case letters"), "{said}");

    let import = |folder: &str, more: &[&str]| {
        let mut command = saequel(&db);
        command.args(["sae", "import"]).arg(scratch.path(folder)).args(more);
        command
    };
    succeed(saequel(&db).args(["import", "--corpus", "c", "--key", "id", "--text", "text"]).arg(&texts));
    succeed(&mut import("one", &[]));
    let add = |what: &str| {
        let mut command = saequel(&db);
        command.args(["sae", "add", "c"]).arg(scratch.path(what));
        command
    };
    succeed(&mut add("one"));
    let (_, said) = fail(&mut add("two"));
    assert!(said.contains("exists already, with other weights") && said.contains("--name NAME"), "{said}");
    let (_, said) = fail(&mut import("two", &["--name", "other", "--hook", "3"]));
    assert!(said.contains("leave --hook out"), "{said}");
    let said = succeed(&mut import("two", &["--name", "other"]));
    assert!(said.starts_with("other: features "), "{said}");
    let said = succeed(saequel(&db).args(["sae", "add", "c", "other"]));
    assert!(said.contains("200 documents encoded with other"), "{said}");

    // Hidden states are of the texts as they were.
    std::fs::write(&texts, lines("Dividends fell in Zurich")).expect("write");
    let (_, said) = fail(&mut train("four", &["--seed", "4"]));
    assert!(
        said.contains("texts.jsonl has changed since its hidden states were written") && said.contains("--work"),
        "{said}"
    );
}

#[test]
fn a_dictionary_that_its_reader_cannot_feed_is_refused() {
    let scratch = Scratch::new();
    let shipped = Path::new(env!("CARGO_MANIFEST_DIR")).join("../engine/encoder/dictionaries").join(SPAN);
    let folder = scratch.path("mine");
    std::fs::create_dir(&folder).expect("make a folder");
    for file in ["sae.safetensors", "features.jsonl"] {
        std::fs::copy(shipped.join(file), folder.join(file)).expect("copy a file");
    }
    let spec = std::fs::read_to_string(shipped.join("sae.json")).expect("sae.json");
    let spec: Value = serde_json::from_str(&spec).expect("JSON");
    for (name, value, expected) in [
        ("reader", Value::from("nope"), "reader 'nope' not found"),
        ("hook", "residual.99".into(), "has residuals 0 to 6"),
        (
            "architecture",
            serde_json::json!({"kind": "top_k", "k": 9999}),
            "architecture TopK: a number is out of range",
        ),
    ] {
        let mut wrong = spec.clone();
        wrong[name] = value;
        std::fs::write(folder.join("sae.json"), wrong.to_string()).expect("write sae.json");
        let (_, said) = fail(saequel(scratch.path("x.db")).args(["sae", "import"]).arg(&folder));
        assert!(said.contains(expected), "{said}");
    }
}
