//! Conversations as text: the chat template of a model, which says how the messages of a user and an assistant are joined.

use std::collections::BTreeMap;

use minijinja::syntax::SyntaxConfig;
use minijinja::value::{Value, ValueKind};
use minijinja::{Environment, ErrorKind as JinjaKind, State};

use crate::error::{Error, ErrorKind, Result};

/// One message of a conversation.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Message {
    /// Who speaks: `system`, `user`, `assistant`.
    pub role: String,
    /// What is said.
    pub content: String,
}

/// Which columns of a corpus are which messages, in order: `user=prompt,assistant=answer`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ChatColumns {
    /// Role and column of each message.
    pub columns: Vec<(String, String)>,
}

impl std::str::FromStr for ChatColumns {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        let wrong = || {
            let message =
                format!("chat columns '{text}': expected roles and columns such as user=prompt,assistant=answer");
            Error::new(ErrorKind::Query, message)
        };
        let columns = text.split(',').map(|part| {
            let (role, column) = part.split_once('=').ok_or_else(wrong)?;
            let (role, column) = (role.trim(), column.trim());
            if role.is_empty() || column.is_empty() { Err(wrong()) } else { Ok((role.to_owned(), column.to_owned())) }
        });
        Ok(Self { columns: columns.collect::<Result<_>>()? })
    }
}

impl ChatColumns {
    /// The messages of one row; `value` gives the text of a column. Columns without a text are left out.
    pub fn messages<'a>(&self, value: impl Fn(&str) -> Option<&'a str>) -> Vec<Message> {
        let message = |(role, column): &(String, String)| {
            let content = value(column).filter(|text| !text.is_empty())?;
            Some(Message { role: role.clone(), content: content.to_owned() })
        };
        self.columns.iter().filter_map(message).collect()
    }
}

/// A model's chat template (Jinja, as in `tokenizer_config.json`).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ChatTemplate {
    source: String,
    /// Tokens that templates may name: `bos_token`, `eos_token`, ...
    tokens: BTreeMap<String, String>,
}

impl ChatTemplate {
    /// A template with the texts of the tokens that it may name (`bos_token`, `eos_token`, ...).
    pub fn new(source: impl Into<String>, tokens: BTreeMap<String, String>) -> Self {
        Self { source: source.into(), tokens }
    }

    /// The template of a `tokenizer_config.json`, if there is one: the value of `chat_template`, or of several the one
    /// called `default`. A file `chat_template.jinja` takes its place.
    pub(crate) fn of_config(config: &serde_json::Value, file: Option<String>) -> Option<Self> {
        let template = &config["chat_template"];
        let named = || {
            let list = template.as_array()?;
            let default = list.iter().find(|entry| entry["name"] == "default").or(list.first())?;
            default["template"].as_str()
        };
        let source = file.or_else(|| template.as_str().or_else(named).map(str::to_owned))?;
        let mut tokens = BTreeMap::new();
        for name in ["bos_token", "eos_token", "pad_token", "unk_token"] {
            let token = &config[name];
            if let Some(text) = token.as_str().or_else(|| token["content"].as_str()) {
                tokens.insert(name.to_owned(), text.to_owned());
            }
        }
        Some(Self { source, tokens })
    }

    /// Joins messages to one text. `ask` adds what opens the assistant's next message. The token that begins each text is
    /// left out, because a reader puts it before each window.
    ///
    /// # Errors
    /// [`ErrorKind::Data`] with what the template says, e.g. that roles must alternate.
    pub fn render(&self, messages: &[Message], ask: bool) -> Result<String> {
        let failed = |error: minijinja::Error| {
            let message = match error.kind() {
                JinjaKind::InvalidOperation => format!("chat template: {}", error.detail().unwrap_or("it failed")),
                _ => format!("chat template: {error}"),
            };
            Error::new(ErrorKind::Data, message)
        };
        let mut environment = Environment::new();
        let syntax = SyntaxConfig::builder().trim_blocks(true).lstrip_blocks(true).build().map_err(failed)?;
        environment.set_syntax(syntax);
        environment.set_unknown_method_callback(python_method);
        environment.add_function("raise_exception", |message: String| -> Result<String, minijinja::Error> {
            Err(minijinja::Error::new(JinjaKind::InvalidOperation, message))
        });
        // A fixed date: the same text must give the same features every day.
        environment.add_function("strftime_now", |_format: String| "26 Jul 2024".to_owned());
        environment.add_template("chat", &self.source).map_err(failed)?;
        let mut context: BTreeMap<&str, Value> =
            self.tokens.iter().map(|(name, text)| (name.as_str(), Value::from(text.as_str()))).collect();
        let message = |m: &Message| Value::from_pairs([("role", m.role.as_str()), ("content", m.content.as_str())]);
        context.insert("messages", messages.iter().map(message).collect());
        context.insert("add_generation_prompt", Value::from(ask));
        let text = environment.get_template("chat").and_then(|template| template.render(context)).map_err(failed)?;
        let begin = self.tokens.get("bos_token").filter(|token| !token.is_empty());
        Ok(begin.and_then(|token| text.strip_prefix(token.as_str())).map(str::to_owned).unwrap_or(text))
    }
}

/// Methods of Python's strings and dictionaries, which templates call.
fn python_method(
    _: &mut State<'_, '_>,
    value: &Value,
    method: &str,
    args: &[Value],
) -> Result<Value, minijinja::Error> {
    let unknown =
        || minijinja::Error::new(JinjaKind::UnknownMethod, format!("{} has no method {method}", value.kind()));
    let text_arg = |i: usize| args.get(i).and_then(Value::as_str);
    if let Some(text) = value.as_str() {
        let of_set = |set: Option<&str>| {
            let set = set.map(str::to_owned);
            move |c: char| set.as_ref().map_or(c.is_whitespace(), |set| set.contains(c))
        };
        return Ok(match (method, text_arg(0), text_arg(1)) {
            ("strip", set, _) => Value::from(text.trim_matches(of_set(set))),
            ("lstrip", set, _) => Value::from(text.trim_start_matches(of_set(set))),
            ("rstrip", set, _) => Value::from(text.trim_end_matches(of_set(set))),
            ("startswith", Some(part), _) => Value::from(text.starts_with(part)),
            ("endswith", Some(part), _) => Value::from(text.ends_with(part)),
            ("removeprefix", Some(part), _) => Value::from(text.strip_prefix(part).unwrap_or(text)),
            ("removesuffix", Some(part), _) => Value::from(text.strip_suffix(part).unwrap_or(text)),
            ("replace", Some(from), Some(to)) => Value::from(text.replace(from, to)),
            ("split", Some(by), _) => text.split(by).map(Value::from).collect(),
            ("split", None, _) => text.split_whitespace().map(Value::from).collect(),
            ("upper", ..) => Value::from(text.to_uppercase()),
            ("lower", ..) => Value::from(text.to_lowercase()),
            ("title", ..) => {
                let mut start = true;
                let title = text.chars().flat_map(|c| {
                    let first = std::mem::replace(&mut start, !c.is_alphabetic());
                    let cased: Vec<char> = if first { c.to_uppercase().collect() } else { c.to_lowercase().collect() };
                    cased
                });
                Value::from(title.collect::<String>())
            }
            ("find", Some(part), _) => Value::from(text.find(part).map_or(-1, |at| text[..at].chars().count() as i64)),
            _ => return Err(unknown()),
        });
    }
    if value.kind() == ValueKind::Map {
        let entries = || value.try_iter().into_iter().flatten();
        return match method {
            "get" => {
                let found = args.first().and_then(|key| value.get_item(key).ok()).filter(|found| !found.is_undefined());
                Ok(found.unwrap_or_else(|| args.get(1).cloned().unwrap_or(Value::from(()))))
            }
            "keys" => Ok(entries().collect()),
            "values" => Ok(entries().filter_map(|key| value.get_item(&key).ok()).collect()),
            "items" => {
                let pair = |key: Value| Some(Value::from(vec![key.clone(), value.get_item(&key).ok()?]));
                Ok(entries().filter_map(pair).collect())
            }
            _ => Err(unknown()),
        };
    }
    Err(unknown())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn message(role: &str, content: &str) -> Message {
        Message { role: role.to_owned(), content: content.to_owned() }
    }

    /// In the manner of Gemma: roles alternate, the assistant is called model, texts are stripped.
    const TURNS: &str = "{{ bos_token }}{%- for message in messages -%}\n\
        {%- if (message['role'] == 'user') != (loop.index0 % 2 == 0) -%}\n\
        {{ raise_exception('Conversation roles must alternate user/assistant') }}\n\
        {%- endif -%}\n\
        {%- set role = 'model' if message.role == 'assistant' else message.role -%}\n\
        {{ '<start_of_turn>' + role + '\n' + message['content'].strip() + '<end_of_turn>\n' }}\n\
        {%- endfor -%}\n\
        {%- if add_generation_prompt -%}{{ '<start_of_turn>model\n' }}{%- endif -%}";

    fn turns() -> ChatTemplate {
        ChatTemplate::new(TURNS, BTreeMap::from([("bos_token".to_owned(), "<bos>".to_owned())]))
    }

    #[test]
    fn messages_become_text_without_the_first_token() {
        let messages = [message("user", " How are you? "), message("assistant", "Fine.")];
        let text = turns().render(&messages, false).unwrap();
        assert_eq!(text, "<start_of_turn>user\nHow are you?<end_of_turn>\n<start_of_turn>model\nFine.<end_of_turn>\n");
        let text = turns().render(&messages[..1], true).unwrap();
        assert!(text.ends_with("<end_of_turn>\n<start_of_turn>model\n"), "{text}");
    }

    #[test]
    fn what_a_template_refuses_is_said() {
        let error = turns().render(&[message("assistant", "Fine.")], false).unwrap_err();
        assert_eq!(error.message(), "chat template: Conversation roles must alternate user/assistant");
        let broken = ChatTemplate::new("{% for %}", BTreeMap::new()).render(&[], false).unwrap_err();
        assert!(broken.message().starts_with("chat template: "), "{broken}");
    }

    #[test]
    fn methods_of_python_are_known() {
        let source = "{% for m in messages %}{% for k, v in m.items() %}{{ k }}={{ v.upper() }};{% endfor %}\
                      {{ m.get('name', 'nobody') }} {{ m.content.split(' ')[-1].startswith('y') }}{% endfor %}";
        let template = ChatTemplate::new(source, BTreeMap::new());
        let text = template.render(&[message("user", "are you")], false).unwrap();
        assert_eq!(text, "role=USER;content=ARE YOU;nobody True");
    }

    #[test]
    fn columns_become_messages() {
        let columns: ChatColumns = "user=prompt, assistant = answer".parse().unwrap();
        let row = |column: &str| match column {
            "prompt" => Some("Why?"),
            _ => None,
        };
        assert_eq!(columns.messages(row), [message("user", "Why?")]);
        let error = "user:prompt".parse::<ChatColumns>().unwrap_err();
        assert!(error.message().contains("user=prompt,assistant=answer"), "{error}");
    }

    #[test]
    fn templates_of_configurations() {
        let config = serde_json::json!({
            "chat_template": [{"name": "tool", "template": "t"}, {"name": "default", "template": "{{ eos_token }}"}],
            "eos_token": {"content": "</s>"},
        });
        let template = ChatTemplate::of_config(&config, None).unwrap();
        assert_eq!(template.render(&[], false).unwrap(), "</s>");
        assert_eq!(ChatTemplate::of_config(&serde_json::json!({}), None), None);
    }
}
