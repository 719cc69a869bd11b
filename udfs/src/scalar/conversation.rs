//! `conversation(role, text, ...)`: messages in order, for functions that read a text in its conversation.

use std::sync::{Arc, LazyLock};

use arrow::array::{Array, ArrayRef, AsArray, ListArray, StringArray, StringBuilder, StructArray};
use arrow::buffer::OffsetBuffer;
use arrow::datatypes::{DataType, Field, Fields};
use datafusion::common::{ScalarValue, plan_err};
use datafusion::error::Result;
use datafusion::logical_expr::{
    ColumnarValue, Expr, ScalarFunctionArgs, ScalarUDF, ScalarUDFImpl, Signature, Volatility, lit,
};

use crate::docs::{FunctionDoc, Kind};
use crate::feature_source::Said;

const NAME: &str = "conversation";

/// User documentation.
pub const DOC: FunctionDoc = FunctionDoc {
    name: NAME,
    kind: Kind::Scalar,
    syntax: "conversation(role, text, ...)",
    text: "Messages in their order, each a role (as the reader's chat template knows it) and what is said; messages without \
           a text are left out. For `highlight`, which then reads a text as it was read in its conversation.",
    arguments: &[("role", "system, user or assistant"), ("text", "what is said; a column or a constant")],
    example: "SELECT conversation('user', 'Why?', 'assistant', 'Sorry, I cannot say.') AS said",
};

fn fields() -> Fields {
    Fields::from(vec![Field::new("role", DataType::Utf8, false), Field::new("content", DataType::Utf8, false)])
}

/// Type of a conversation: a list of messages.
pub static CONVERSATION_TYPE: LazyLock<DataType> =
    LazyLock::new(|| DataType::List(Arc::new(Field::new_list_field(DataType::Struct(fields()), true))));

/// See [`DOC`].
#[derive(Debug, PartialEq, Eq, Hash)]
struct Conversation(Signature);

/// `conversation(role, text, ...)`.
pub fn conversation_udf() -> ScalarUDF {
    ScalarUDF::from(Conversation(Signature::user_defined(Volatility::Immutable)))
}

impl ScalarUDFImpl for Conversation {
    fn name(&self) -> &str {
        NAME
    }

    fn signature(&self) -> &Signature {
        &self.0
    }

    fn coerce_types(&self, types: &[DataType]) -> Result<Vec<DataType>> {
        if types.is_empty() || types.len() % 2 == 1 {
            return plan_err!(
                "{NAME}: expected {}, roles and texts in turn, got {} arguments",
                DOC.syntax,
                types.len()
            );
        }
        if let Some(other) = types.iter().find(|found| !found.is_string() && **found != DataType::Null) {
            return plan_err!("{NAME}: expected a role or a text, got {other}");
        }
        Ok(vec![DataType::Utf8; types.len()])
    }

    fn return_type(&self, _types: &[DataType]) -> Result<DataType> {
        Ok(CONVERSATION_TYPE.clone())
    }

    fn invoke_with_args(&self, args: ScalarFunctionArgs) -> Result<ColumnarValue> {
        let n_rows = args.number_rows;
        let arrays = args.args.iter().map(|value| value.to_array(n_rows)).collect::<Result<Vec<_>>>()?;
        let texts: Vec<&StringArray> = arrays.iter().filter_map(|array| array.as_string_opt::<i32>()).collect();
        let (mut roles, mut contents, mut lengths) = (StringBuilder::new(), StringBuilder::new(), Vec::new());
        for row in 0..n_rows {
            let mut n = 0;
            for message in texts.chunks_exact(2) {
                if message.iter().all(|part| part.is_valid(row)) && !message[1].value(row).is_empty() {
                    roles.append_value(message[0].value(row));
                    contents.append_value(message[1].value(row));
                    n += 1;
                }
            }
            lengths.push(n);
        }
        let columns: Vec<ArrayRef> = vec![Arc::new(roles.finish()), Arc::new(contents.finish())];
        let messages = StructArray::try_new(fields(), columns, None)?;
        let item = Arc::new(Field::new_list_field(DataType::Struct(fields()), true));
        let lists = ListArray::try_new(item, OffsetBuffer::from_lengths(lengths), Arc::new(messages), None)?;
        Ok(ColumnarValue::Array(Arc::new(lists)))
    }
}

/// The value of what is read alone.
pub fn no_conversation() -> Expr {
    lit(ScalarValue::try_new_null(&CONVERSATION_TYPE).unwrap_or(ScalarValue::Null))
}

/// The messages of a row of type [`CONVERSATION_TYPE`]; none for null.
pub(crate) fn messages(conversations: &ArrayRef, row: usize) -> Vec<Said> {
    let Some(lists) = conversations.as_list_opt::<i32>().filter(|lists| lists.is_valid(row)) else { return Vec::new() };
    let row = lists.value(row);
    let Some(parts) = row.as_struct_opt().filter(|parts| parts.num_columns() == 2) else { return Vec::new() };
    let (Some(roles), Some(contents)) =
        (parts.column(0).as_string_opt::<i32>(), parts.column(1).as_string_opt::<i32>())
    else {
        return Vec::new();
    };
    let said = |(role, content): (&str, &str)| Said { role: role.to_owned(), content: content.to_owned() };
    roles.iter().flatten().zip(contents.iter().flatten()).map(said).collect()
}

#[cfg(test)]
mod tests {
    use crate::test_support::{answers, cells};

    #[tokio::test]
    async fn messages_without_a_text_are_left_out() {
        let source = answers();
        let sql =
            "SELECT conversation('user', 'Why?', 'assistant', NULL), conversation('user', 'Hi', 'assistant', 'Ho')";
        let found = cells(&source, sql).await.unwrap();
        assert_eq!(
            found,
            [["[{role: user, content: Why?}]", "[{role: user, content: Hi}, {role: assistant, content: Ho}]"]]
        );
        let said = "conversation('user', 'Why?', 'assistant', 'Sorry, so sorry')";
        let sql = format!("SELECT highlight('Sorry, so sorry', 'apology', {said})");
        assert_eq!(cells(&source, &sql).await.unwrap(), [["«Sorry», so «sorry»"]]);
        for (wrong, why) in [
            ("conversation('user')", "roles and texts in turn, got 1 arguments"),
            ("conversation('user', 1)", "expected a role or a text, got Int64"),
            ("highlight('a', 'apology', 'user')", "expected conversation(role, text, ...)"),
        ] {
            let error = cells(&source, &format!("SELECT {wrong}")).await.unwrap_err().to_string();
            assert!(error.contains(why), "{error}");
        }
    }
}
