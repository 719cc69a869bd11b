//! Conversations as text: the chat template of a model, which says how the messages of a user and an assistant are joined.

use std::collections::BTreeMap;
use std::fmt;

use minijinja::syntax::SyntaxConfig;
use minijinja::value::{Value, ValueKind};
use minijinja::{Environment, ErrorKind as JinjaKind, State};

use super::text::{Part, Passage};
use crate::error::{Error, ErrorKind, Result};

/// Stands for a message where a template is asked where it puts it: private characters, which no template changes.
const PLACE: &str = "\u{f8d0}\u{f8d1}\u{f8d2}\u{f8d3}";

/// What joins the parts of a text that is made of several messages (columns).
pub const JOINED_BY: &str = "\n\n";

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
        Self::new(columns.collect::<Result<_>>()?)
    }
}

impl fmt::Display for ChatColumns {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let parts: Vec<String> = self.columns.iter().map(|(role, column)| format!("{role}={column}")).collect();
        f.write_str(&parts.join(","))
    }
}

impl ChatColumns {
    /// Roles and columns.
    ///
    /// # Errors
    /// [`ErrorKind::Query`] if a column stands twice, or a name cannot be written (`role=column,role=column`).
    pub fn new(columns: Vec<(String, String)>) -> Result<Self> {
        let refuse = |what: String| Err(Error::new(ErrorKind::Query, format!("chat columns: {what}")));
        for (at, (role, column)) in columns.iter().enumerate() {
            if columns[..at].iter().any(|(_, other)| other == column) {
                return refuse(format!("column '{column}' is named twice"));
            }
            let plain = |name: &str| !name.is_empty() && name.trim() == name && !name.contains(',');
            if !plain(role) || !plain(column) || role.contains('=') {
                return refuse(format!("'{role}={column}' cannot be written; give the column a name without a comma"));
            }
        }
        Ok(Self { columns })
    }

    /// The messages of one row; `value` gives the text of a column. Columns without a text are left out.
    pub fn messages<'a>(&self, value: impl Fn(&str) -> Option<&'a str>) -> Vec<Message> {
        let message = |(role, column): &(String, String)| {
            let content = value(column).filter(|text| !text.is_empty())?;
            Some(Message { role: role.clone(), content: content.to_owned() })
        };
        self.columns.iter().filter_map(message).collect()
    }

    /// One row as it is read with `template`: the text that its `text_columns` make together (joined by a blank line,
    /// those without a value left out), within the conversation. `text_columns` are some of these columns, in their
    /// order.
    ///
    /// # Errors
    /// As [`ChatTemplate::render`] and [`ChatTemplate::passage`].
    pub fn passage<'a>(
        &self,
        template: &ChatTemplate,
        text_columns: &[String],
        value: impl Fn(&str) -> Option<&'a str>,
    ) -> Result<Passage<'static>> {
        let (mut messages, mut own, mut text) = (Vec::new(), Vec::new(), None::<String>);
        for (role, column) in &self.columns {
            let Some(content) = value(column) else { continue };
            if text_columns.contains(column) {
                let joined = match &mut text {
                    Some(joined) => {
                        joined.push_str(JOINED_BY);
                        joined
                    }
                    None => text.insert(String::new()),
                };
                if !content.is_empty() {
                    own.push((messages.len(), joined.len()));
                }
                joined.push_str(content);
            }
            if !content.is_empty() {
                messages.push(Message { role: role.clone(), content: content.to_owned() });
            }
        }
        template.place(text.unwrap_or_default(), &messages, &own)
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

impl ChatTemplate {
    /// `text` within the conversation of which its last message is, or its last messages are (joined by a blank line).
    ///
    /// # Errors
    /// As [`Self::render`]; [`ErrorKind::Data`] if `text` is not what is said there, or the template alters it, so that
    /// its tokens cannot be told from others.
    pub fn passage(&self, text: &str, messages: &[Message]) -> Result<Passage<'static>> {
        let (mut own, mut left) = (Vec::new(), Some(text));
        for (at, message) in messages.iter().enumerate().rev() {
            let said = Some(message.content.as_str()).filter(|said| !said.is_empty());
            let before = left.zip(said).and_then(|(left, said)| left.strip_suffix(said));
            let whole_message = |before: &&str| before.is_empty() || before.ends_with(JOINED_BY);
            let Some(before) = before.filter(whole_message) else { continue };
            own.push((at, before.len()));
            left = before.strip_suffix(JOINED_BY);
            if before.is_empty() {
                own.reverse();
                return self.place(text.to_owned(), messages, &own);
            }
        }
        let message =
            "the text is not what is said in the conversation: one message, or several joined by a blank line";
        Err(Error::new(ErrorKind::Data, message))
    }

    /// `text`, of which parts are messages (number of the message and first byte in the text, ascending), within the
    /// conversation.
    fn place(&self, text: String, messages: &[Message], own: &[(usize, usize)]) -> Result<Passage<'static>> {
        if own.is_empty() {
            return Ok(Passage::from(text));
        }
        let whole = self.render(messages, false)?;
        let mut parts = Vec::with_capacity(own.len());
        for &(message, at) in own {
            let Some((place, content)) = self.place_of(&whole, messages, message)? else {
                let message = format!(
                    "chat template: it alters what the {} says, so its tokens cannot be told from others",
                    messages[message].role
                );
                return Err(Error::new(ErrorKind::Data, message));
            };
            parts.push(Part { at: place, text: at + content.start..at + content.end });
        }
        parts.sort_by_key(|part| part.at);
        Ok(Passage::within(text, whole, parts))
    }

    /// Where a message stands in `whole`, and which of its bytes do: templates leave out white space at its ends, some
    /// also what comes before `</think>`. `None` if it does not stand there word for word.
    ///
    /// The template is asked by letting it place something else: what is before and behind that is before and behind
    /// the message too. A message is not looked for in the conversation, where others may say the same.
    fn place_of(
        &self,
        whole: &str,
        messages: &[Message],
        message: usize,
    ) -> Result<Option<(usize, std::ops::Range<usize>)>> {
        let content = messages[message].content.as_str();
        let mut asked = messages.to_vec();
        PLACE.clone_into(&mut asked[message].content);
        let asked = self.render(&asked, false)?;
        if let Some((before, behind)) = asked.split_once(PLACE)
            && let Some(found) = whole.strip_prefix(before).and_then(|rest| rest.strip_suffix(behind))
        {
            if found == content {
                return Ok(Some((before.len(), 0..content.len())));
            }
            let (said, ended) = (found.trim(), content.trim_end());
            if let Some(left_out) = ended.strip_suffix(said).filter(|_| !said.is_empty() || ended.is_empty()) {
                let spaces = found.len() - found.trim_start().len();
                return Ok(Some((before.len() + spaces, left_out.len()..ended.len())));
            }
        }
        // A template that treats this message otherwise than another: its place is known if there is only one.
        let said = content.trim();
        let from = content.len() - content.trim_start().len();
        let mut places = whole.match_indices(said).map(|(at, _)| at);
        Ok(match (places.next(), places.next()) {
            (Some(at), None) => Some((at, from..from + said.len())),
            _ => None,
        })
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
    fn columns_are_written_as_they_are_read() {
        let columns: ChatColumns = "user=prompt, assistant = answer".parse().unwrap();
        assert_eq!(columns.to_string(), "user=prompt,assistant=answer");
        let error = "user=a,assistant=a".parse::<ChatColumns>().unwrap_err();
        assert!(error.message().contains("column 'a' is named twice"), "{error}");
    }

    /// What is read, with the text's own parts in brackets, and those parts as they stand in the text.
    fn shown(passage: &Passage<'_>) -> (String, String) {
        let (mut whole, mut text) = (passage.whole().to_owned(), Vec::new());
        for part in passage.parts().iter().rev() {
            let said = &passage.text()[part.text.clone()];
            assert_eq!(said, &passage.whole()[part.at..part.at + part.text.len()]);
            whole.replace_range(part.at..part.at + part.text.len(), &format!("[{said}]"));
            text.insert(0, said);
        }
        (whole, text.join("|"))
    }

    #[test]
    fn a_text_is_found_in_its_conversation() {
        let columns: ChatColumns = "user=prompt,assistant=answer".parse().unwrap();
        let read = |prompt: Option<&'static str>, answer: Option<&'static str>| {
            let value = |column: &str| if column == "prompt" { prompt } else { answer };
            columns.passage(&turns(), &["answer".to_owned()], value)
        };
        // The prompt and the template say the same words.
        let passage = read(Some("end"), Some(" end\n")).unwrap();
        let whole = "<start_of_turn>user\nend<end_of_turn>\n<start_of_turn>model\n[end]<end_of_turn>\n";
        assert_eq!(shown(&passage), (whole.to_owned(), "end".to_owned()));
        assert_eq!(passage.text(), " end\n");
        let passage = read(Some("Why?"), None).unwrap();
        assert_eq!((passage.text(), passage.whole()), ("", ""), "nothing is read for a text that is not there");
        let blank = read(Some("Why?"), Some(" \n")).unwrap();
        assert_eq!(shown(&blank).1, "");
        let error = read(None, Some("Because.")).unwrap_err();
        assert_eq!(error.message(), "chat template: Conversation roles must alternate user/assistant");
    }

    #[test]
    fn several_columns_can_be_the_text() {
        let columns: ChatColumns = "user=q1,assistant=a1,user=q2,assistant=a2".parse().unwrap();
        let value = |column: &str| match column {
            "q1" => Some("One?"),
            "a1" => Some("1"),
            "q2" => Some("Two?"),
            _ => Some(" 2"),
        };
        let passage = columns.passage(&turns(), &["a1".to_owned(), "a2".to_owned()], value).unwrap();
        assert_eq!(passage.text(), "1\n\n 2");
        let (whole, said) = shown(&passage);
        assert!(whole.contains("model\n[1]<end") && whole.ends_with("model\n[2]<end_of_turn>\n"), "{whole}");
        assert_eq!(said, "1|2");
        // The same without the columns: the text is the last messages that make it.
        let messages = columns.messages(value);
        assert_eq!(turns().passage("1\n\n 2", &messages).unwrap(), passage);
        assert_eq!(shown(&turns().passage(" 2", &messages).unwrap()).1, "2");
        let error = turns().passage("2\n\n1", &messages).unwrap_err();
        assert!(error.message().contains("not what is said"), "{error}");
    }

    #[test]
    fn templates_that_alter_a_text_are_noticed() {
        let answer = |template: &str, answer: &str| {
            let messages = [message("user", "Why?"), message("assistant", answer)];
            ChatTemplate::new(template, BTreeMap::new()).passage(answer, &messages).map(|passage| shown(&passage))
        };
        let each =
            |content: &str| format!("{{% for m in messages %}}<{{{{ m.role }}}}>{{{{ {content} }}}}{{% endfor %}}");
        let (whole, said) = answer(&each("m.content.split('</think>')[-1]"), "<think>Hm.</think>Because.").unwrap();
        assert_eq!((whole.as_str(), said.as_str()), ("<user>Why?<assistant>[Because.]", "Because."));
        let error = answer(&each("m.content.upper()"), "Because.").unwrap_err();
        assert!(error.message().contains("alters what the assistant says"), "{error}");
        let error = answer("{{ messages[0].content }}", "Because.").unwrap_err();
        assert!(error.message().contains("alters what the assistant says"), "{error}");
        // A part that depends on what is said, as where reasoning is written once more.
        let template = each("('[thought]' if '</think>' in m.content else '[no thought]') + m.content");
        let (whole, said) = answer(&template, "<think>Hm.</think>Because.").unwrap();
        assert_eq!(whole, "<user>[no thought]Why?<assistant>[thought][<think>Hm.</think>Because.]");
        assert_eq!(said, "<think>Hm.</think>Because.");
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
