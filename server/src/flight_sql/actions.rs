//! Actions beside statements: cancelling, and the session options that clients set and ask.
//!
//! There is no session: each call stands alone. Catalog and schema are what they are, and may be "set" to that.

use std::collections::HashMap;

use arrow_flight::sql::{ActionCancelQueryRequest, ActionCancelQueryResult, Any, Command, ProstMessageExt};
use arrow_flight::{ActionType, CancelFlightInfoRequest, CancelFlightInfoResult, CancelStatus, FlightInfo};
use prost::Message;

use super::metadata::CATALOG;
use super::ticket::Sealer;
use super::{malformed, unsupported};
use crate::error::{Failure, Result};
use crate::gate::{Gate, State, Visitor};

/// Actions that are there, with their descriptions.
const ACTIONS: [(&str, &str); 7] = [
    ("CreatePreparedStatement", "ActionCreatePreparedStatementRequest -> ActionCreatePreparedStatementResult"),
    ("ClosePreparedStatement", "ActionClosePreparedStatementRequest -> nothing"),
    ("CancelQuery", "ActionCancelQueryRequest -> ActionCancelQueryResult"),
    ("CancelFlightInfo", "CancelFlightInfoRequest -> CancelFlightInfoResult"),
    ("CloseSession", "CloseSessionRequest -> CloseSessionResult"),
    ("GetSessionOptions", "GetSessionOptionsRequest -> GetSessionOptionsResult"),
    ("SetSessionOptions", "SetSessionOptionsRequest -> SetSessionOptionsResult"),
];

/// The answer of `ListActions`.
pub(super) fn list() -> Vec<ActionType> {
    let action =
        |(name, description): (&str, &str)| ActionType { r#type: name.to_owned(), description: description.to_owned() };
    ACTIONS.map(action).to_vec()
}

/// Answers an action that has nothing to do with prepared statements.
///
/// # Errors
/// [`crate::error::UNSUPPORTED`] for one that is not there.
pub(super) fn answer(gate: &Gate, sealer: &Sealer, visitor: &Visitor, name: &str, body: &[u8]) -> Result<Vec<u8>> {
    match name {
        "CancelFlightInfo" => {
            let request = CancelFlightInfoRequest::decode(body).map_err(|error| malformed(name, error))?;
            let found = cancel(gate, sealer, visitor, request.info.unwrap_or_default())?;
            let status = if found { CancelStatus::Cancelled } else { CancelStatus::NotCancellable };
            Ok(CancelFlightInfoResult::new(status).encode_to_vec())
        }
        "CancelQuery" => {
            let any = Any::decode(body).map_err(|error| malformed(name, error))?;
            let request: Option<ActionCancelQueryRequest> = any.unpack().map_err(|error| malformed(name, error))?;
            let Some(request) = request else { return Err(malformed(name, "expected ActionCancelQueryRequest")) };
            let info = FlightInfo::decode(request.info).map_err(|error| malformed(name, error))?;
            let (cancelled, not_cancellable) = (1, 3);
            let result = if cancel(gate, sealer, visitor, info)? { cancelled } else { not_cancellable };
            Ok(ActionCancelQueryResult { result }.as_any().encode_to_vec())
        }
        "CloseSession" => Ok(CloseSessionResult { status: CLOSED }.encode_to_vec()),
        "GetSessionOptions" => {
            let option = |(name, value): (&str, &str)| {
                let value = OptionValue { value: Some(Value::String(value.to_owned())) };
                (name.to_owned(), value)
            };
            let options = OPTIONS.map(option).into_iter().collect();
            Ok(SessionOptions { options }.encode_to_vec())
        }
        "SetSessionOptions" => {
            let request = SessionOptions::decode(body).map_err(|error| malformed(name, error))?;
            let errors =
                request.options.into_iter().filter_map(|(name, value)| Some((name.clone(), refusal(&name, &value)?)));
            Ok(SetSessionOptionsResult { errors: errors.collect() }.encode_to_vec())
        }
        "BeginTransaction" | "EndTransaction" | "BeginSavepoint" | "EndSavepoint" => Err(no_transactions()),
        "CreatePreparedSubstraitPlan" => Err(unsupported("there are no Substrait plans; send SQL")),
        other => {
            let known = ACTIONS.map(|(name, _)| name).join(", ");
            Err(unsupported(&format!("there is no action '{other}'; there are {known}")))
        }
    }
}

/// The answer to everything that begins, ends or names a transaction.
pub(super) fn no_transactions() -> Failure {
    unsupported("there are no transactions").hint("each statement stands alone: connect with autocommit")
}

/// Ends the queries that run with the tickets of `info`; whether there was one.
fn cancel(gate: &Gate, sealer: &Sealer, visitor: &Visitor, info: FlightInfo) -> Result<bool> {
    let mut found = false;
    for endpoint in info.endpoint {
        let Some(ticket) = endpoint.ticket else { continue };
        let any = Any::decode(ticket.ticket).map_err(|error| malformed("ticket", error))?;
        let Ok(Command::TicketStatementQuery(ticket)) = Command::try_from(any) else { continue };
        let ticket = sealer.open(&ticket.statement_handle, &visitor.principal)?;
        for query in gate.queries(&visitor.principal) {
            if query.query_id.starts_with(&ticket.id) && matches!(query.state, State::Waiting | State::Running) {
                gate.cancel(&visitor.principal, &query.query_id)?;
                found = true;
            }
        }
    }
    Ok(found)
}

/// Options that have a value.
const OPTIONS: [(&str, &str); 2] = [("catalog", CATALOG), ("schema", "main")];
/// `CloseSessionResult.Status.CLOSED`
const CLOSED: i32 = 1;
/// `SetSessionOptionsResult.ErrorValue.INVALID_NAME`
const INVALID_NAME: i32 = 1;
/// `SetSessionOptionsResult.ErrorValue.INVALID_VALUE`
const INVALID_VALUE: i32 = 2;

fn refusal(name: &str, value: &OptionValue) -> Option<OptionError> {
    let Some((_, only)) = OPTIONS.iter().find(|(known, _)| *known == name) else {
        return Some(OptionError { value: INVALID_NAME });
    };
    let is_it = matches!(&value.value, Some(Value::String(value)) if value == only) || value.value.is_none();
    (!is_it).then_some(OptionError { value: INVALID_VALUE })
}

// Messages of Flight.proto that `arrow-flight` does not have.

#[derive(Clone, PartialEq, Message)]
struct CloseSessionResult {
    #[prost(int32, tag = "1")]
    status: i32,
}

/// `SetSessionOptionsRequest` and `GetSessionOptionsResult`.
#[derive(Clone, PartialEq, Message)]
struct SessionOptions {
    #[prost(map = "string, message", tag = "1")]
    options: HashMap<String, OptionValue>,
}

#[derive(Clone, PartialEq, Message)]
struct OptionValue {
    #[prost(oneof = "Value", tags = "1, 2, 3, 4, 5")]
    value: Option<Value>,
}

#[derive(Clone, PartialEq, prost::Oneof)]
enum Value {
    #[prost(string, tag = "1")]
    String(String),
    #[prost(bool, tag = "2")]
    Bool(bool),
    #[prost(sfixed64, tag = "3")]
    Int64(i64),
    #[prost(double, tag = "4")]
    Double(f64),
    #[prost(message, tag = "5")]
    StringList(StringList),
}

#[derive(Clone, PartialEq, Message)]
struct StringList {
    #[prost(string, repeated, tag = "1")]
    values: Vec<String>,
}

#[derive(Clone, PartialEq, Message)]
struct SetSessionOptionsResult {
    #[prost(map = "string, message", tag = "1")]
    errors: HashMap<String, OptionError>,
}

#[derive(Clone, PartialEq, Message)]
struct OptionError {
    #[prost(int32, tag = "1")]
    value: i32,
}
