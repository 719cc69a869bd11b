//! Prompts: ways through the tools for the usual tasks.

use rmcp::ErrorData;
use rmcp::model::{GetPromptResult, JsonObject, Prompt, PromptArgument, PromptMessage, Role};

/// A prompt that is filled in.
struct Template {
    name: &'static str,
    title: &'static str,
    description: &'static str,
    /// Name, description, whether it is needed.
    arguments: &'static [(&'static str, &'static str, bool)],
    /// `{name}` stands for an argument.
    text: &'static str,
}

const TEMPLATES: [Template; 3] = [
    Template {
        name: "compare_texts",
        title: "Compare two sets of texts",
        description: "What one set of texts does that another does not, with evidence",
        arguments: &[
            ("a", "First set: a corpus with a filter, such as answers WHERE assistant = 'heron'", true),
            ("b", "Second set", true),
            ("question", "What you want to know; default: what sets them apart", false),
        ],
        text: "Compare two sets of texts in saequel.\n\nA: {a}\nB: {b}\nQuestion: {question}\n\n\
               1. describe_corpus for the corpora involved: is there a column that pairs the documents of A and B? Is one side \
               longer (average n_tokens with query)?\n\
               2. diff with a and b, paired_by if there is such a column, control [\"n_tokens\"] if lengths differ much and \
               nothing pairs them.\n\
               3. Keep rows with q_value below 0.05. Read the examples; where a label is unclear, describe_feature.\n\
               4. Put findings that say the same together. For each: which side, the two frequencies, the interval, q, and a \
               short quotation.\n\
               5. Say what is not significant where the question asks about it, and what else might explain a difference.",
    },
    Template {
        name: "find_documents",
        title: "Find documents with a property",
        description: "Which documents of a corpus have a property, checked by reading, and about how many there are",
        arguments: &[
            ("corpus", "Corpus, or a set of documents", true),
            ("property", "The property, in words: politely refuses to answer", true),
        ],
        text: "Find the documents of {corpus} with this property: {property}.\n\n\
               1. retrieve with the property as query, k 20. Read the texts; mark which are right and which are wrong.\n\
               2. retrieve again with like and unlike, until the first ten are right or no more come.\n\
               3. search_features with the property and the corpus: is there a feature for it? describe_feature; then count with \
               query: SELECT count(*) FROM ... WHERE has_feature(features, id). Read five documents with and five without it \
               before you trust the number.\n\
               4. Report the best documents with quotations, how many there are at least, and how sure that is.",
    },
    Template {
        name: "explore_corpus",
        title: "Get an overview of a corpus",
        description: "What a corpus is about, which kinds of texts it holds and what is remarkable",
        arguments: &[("corpus", "Name of the corpus", true)],
        text: "Give an overview of the corpus {corpus}.\n\n\
               1. describe_corpus.\n\
               2. cluster with view dense for topics, and cluster without it for kinds of texts; lean on groups with a stability \
               above 0.75 only, and read a central document of each.\n\
               3. correlate with unexpected 0.3 for surprising pairs.\n\
               4. If a column splits the documents into few groups, diff with by for what is typical of each.\n\
               5. Report what the corpus is, its groups with their sizes, three remarkable findings with their statistics, and \
               questions worth asking next.",
    },
];

/// All prompts.
pub(super) fn prompts() -> Vec<Prompt> {
    let prompt = |template: &Template| {
        let arguments = template.arguments.iter().map(|(name, description, required)| {
            PromptArgument::new(*name).with_description(*description).with_required(*required)
        });
        Prompt::new(template.name, Some(template.description), Some(arguments.collect())).with_title(template.title)
    };
    TEMPLATES.iter().map(prompt).collect()
}

/// A prompt with its arguments filled in.
///
/// # Errors
/// If there is no such prompt, or an argument is missing.
pub(super) fn prompt(name: &str, arguments: Option<JsonObject>) -> Result<GetPromptResult, ErrorData> {
    let template = TEMPLATES.iter().find(|template| template.name == name).ok_or_else(|| {
        let names: Vec<&str> = TEMPLATES.iter().map(|template| template.name).collect();
        ErrorData::invalid_params(format!("there is no prompt '{name}'; there are: {}", names.join(", ")), None)
    })?;
    let given = arguments.unwrap_or_default();
    let mut text = String::new();
    let mut rest = template.text;
    // In one pass, so that an argument with braces in it stays as it is.
    while let Some((before, (argument, after))) = rest.split_once('{').and_then(|(a, b)| Some((a, b.split_once('}')?)))
    {
        text.push_str(before);
        let value =
            given.get(argument).and_then(|value| value.as_str()).map(str::trim).filter(|value| !value.is_empty());
        let is_needed = template.arguments.iter().any(|(name, _, required)| *name == argument && *required);
        match value {
            Some(value) => text.push_str(value),
            None if is_needed => {
                return Err(ErrorData::invalid_params(format!("{name}: the argument '{argument}' is needed"), None));
            }
            None => text.push_str("what sets them apart?"),
        }
        rest = after;
    }
    text.push_str(rest);
    let message = PromptMessage::new_text(Role::User, text);
    Ok(GetPromptResult::new(vec![message]).with_description(template.description))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn text(name: &str, arguments: serde_json::Value) -> Result<String, ErrorData> {
        let result = prompt(name, arguments.as_object().cloned())?;
        Ok(serde_json::to_value(&result.messages[0].content).unwrap()["text"].as_str().unwrap().to_owned())
    }

    #[test]
    fn prompts_are_filled_in() {
        let filled = text("compare_texts", json!({"a": "x WHERE m = '{b}'", "b": "y"})).unwrap();
        assert!(filled.contains("A: x WHERE m = '{b}'\nB: y\nQuestion: what sets them apart?"), "{filled}");
        assert!(text("compare_texts", json!({"a": "x"})).unwrap_err().message.contains("'b' is needed"));
        assert!(text("nothing", json!({})).unwrap_err().message.contains("find_documents"));
        for (template, prompt) in TEMPLATES.iter().zip(prompts()) {
            let given = template.arguments.iter().map(|(name, ..)| ((*name).to_owned(), json!("x"))).collect();
            assert!(!text(&prompt.name, serde_json::Value::Object(given)).unwrap().contains('{'), "{}", prompt.name);
        }
    }
}
