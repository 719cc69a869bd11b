//! The calls of Arrow Flight, taken apart into the commands of Flight SQL.

use std::sync::Arc;

use arrow::array::RecordBatch;
use arrow::array::cast::AsArray;
use arrow::datatypes::{DataType, Field, Schema, SchemaRef, UInt64Type};
use arrow::ipc::writer::IpcWriteOptions;
use arrow_flight::decode::FlightRecordBatchStream;
use arrow_flight::error::FlightError;
use arrow_flight::flight_service_server::FlightService;
use arrow_flight::sql::{
    ActionClosePreparedStatementRequest, ActionCreatePreparedStatementRequest, ActionCreatePreparedStatementResult,
    Any, Command, DoPutPreparedStatementResult, DoPutUpdateResult, ProstMessageExt, TicketStatementQuery,
};
use arrow_flight::{
    Action, ActionType, BasicAuth, Criteria, Empty, FlightData, FlightDescriptor, FlightEndpoint, FlightInfo,
    HandshakeRequest, HandshakeResponse, IpcMessage, PollInfo, PutResult, Result as ActionResult, SchemaAsIpc,
    SchemaResult, Ticket as FlightTicket,
};
use bytes::Bytes;
use datafusion::common::ParamValues;
use futures::{StreamExt, TryStreamExt};
use prost::Message;
use saequel_engine::Described;
use tonic::metadata::AsciiMetadataValue;
use tonic::{Request, Response, Status, Streaming};

use super::prepared::{Prepared, Statements};
use super::stream::Messages;
use super::ticket::{Sealer, Ticket, owner, random_id};
use super::{actions, malformed, metadata, parameters, status, stream, unsupported};
use crate::error::{Failure, Result, TOO_LARGE};
use crate::gate::{Answer, Ask, Door, Gate, Visitor};
use crate::listener::Peer;

/// The service.
#[derive(Debug)]
pub(super) struct Flight {
    gate: Gate,
    sealer: Sealer,
    statements: Statements,
}

/// The command in a descriptor, a ticket or an action.
fn command(bytes: &[u8]) -> Result<Command> {
    let any = Any::decode(bytes).map_err(|error| {
        malformed("command", error)
            .hint("this server speaks Flight SQL: use a client of it, such as ADBC's flightsql driver")
    })?;
    Command::try_from(any).map_err(|error| malformed("command", error))
}

/// A schema as bytes of an IPC message.
fn schema_bytes(schema: &Schema) -> Result<Bytes> {
    let IpcMessage(bytes) = SchemaAsIpc::new(schema, &IpcWriteOptions::default()).try_into()?;
    Ok(bytes)
}

/// A transaction's id must not be there.
fn no_transaction(id: Option<&Bytes>) -> Result<()> {
    if id.is_some_and(|id| !id.is_empty()) { Err(actions::no_transactions()) } else { Ok(()) }
}

/// The token that an old client sends in the body of its handshake, as the password.
fn token_in_body(body: &[u8]) -> Option<String> {
    let basic = BasicAuth::decode(body).ok()?;
    (!basic.password.is_empty()).then_some(basic.password)
}

fn no_value(described: &Described) -> Failure {
    let names: Vec<&str> = described.parameters.iter().map(|parameter| parameter.name.as_str()).collect();
    Failure::usage(format!("no value was given for parameter {}", names.join(", ")))
        .hint("prepare the statement and bind values")
}

impl Flight {
    pub(super) fn new(gate: Gate) -> Self {
        Self { gate, sealer: Sealer::new(), statements: Statements::default() }
    }

    /// Who calls.
    fn visitor<T>(&self, request: &Request<T>) -> Result<Visitor> {
        self.visitor_with(request, crate::http::token(request.metadata().as_ref()).as_deref())
    }

    fn visitor_with<T>(&self, request: &Request<T>, token: Option<&str>) -> Result<Visitor> {
        let peer = request.extensions().get::<Peer>().map(|peer| peer.0);
        let principal = self.gate.authenticate(token, Door::Flight, peer)?;
        Ok(Visitor::new(principal, Door::Flight, peer))
    }

    /// A statement with numbered parameters.
    fn statement(&self, text: &str) -> Result<String> {
        let most = self.gate.options().max_body_bytes;
        if text.len() > most {
            let message = format!("the statement has {} bytes; at most {most} are taken", text.len());
            return Err(Failure::usage(message).shown_as(TOO_LARGE).hint("bind long values as parameters"));
        }
        Ok(parameters::numbered(text))
    }

    /// Plans a statement with the values of its parameters: the columns that it will give, and a ticket to run it with.
    async fn plan(
        &self,
        visitor: &Visitor,
        statement: String,
        bound: Option<&Prepared>,
    ) -> Result<(SchemaRef, Ticket)> {
        let values = bound.and_then(|prepared| Some((prepared, prepared.bound.as_ref()?)));
        let (described, parameters) = match values {
            Some((prepared, batch)) => {
                let rows = parameters::rows(&prepared.parameters, batch)?;
                let Some(first) = rows.into_iter().next() else {
                    return Err(Failure::usage("parameters: expected at least one row of values"));
                };
                let described = self.gate.describe_with(visitor, &statement, first).await?;
                (described, parameters::to_bytes(batch)?)
            }
            None => {
                let described = self.gate.describe(visitor, &statement).await?;
                if !described.parameters.is_empty() {
                    return Err(no_value(&described));
                }
                (described, Bytes::new())
            }
        };
        let Some(schema) = &described.schema else { return Err(no_value(&described)) };
        let schema = Arc::new(stream::wire_schema(schema));
        let ticket = Ticket {
            owner: owner(&visitor.principal),
            id: random_id()?,
            statement,
            schema: schema_bytes(&schema)?,
            parameters,
        };
        Ok((schema, ticket))
    }

    /// What a command will give, and the ticket for it. Nothing is run.
    async fn info(&self, visitor: &Visitor, descriptor: FlightDescriptor) -> Result<FlightInfo> {
        let (schema, ticket) = match command(&descriptor.cmd)? {
            Command::CommandStatementQuery(query) => {
                no_transaction(query.transaction_id.as_ref())?;
                let (schema, ticket) = self.plan(visitor, self.statement(&query.query)?, None).await?;
                (schema, self.sealed(&ticket)?)
            }
            Command::CommandPreparedStatementQuery(query) => {
                let (schema, ticket) = self.plan_prepared(visitor, &query.prepared_statement_handle).await?;
                (schema, self.sealed(&ticket)?)
            }
            Command::CommandStatementSubstraitPlan(_) => {
                return Err(unsupported("there are no Substrait plans; send SQL"));
            }
            other => match metadata::schema(&other) {
                Some(schema) => (schema, descriptor.cmd.clone()),
                None => return Err(unsupported(&format!("there is no query '{}'", other.type_url()))),
            },
        };
        let endpoint = FlightEndpoint::new().with_ticket(FlightTicket::new(ticket));
        let info = FlightInfo::new().try_with_schema(&schema)?;
        Ok(info.with_descriptor(descriptor).with_endpoint(endpoint).with_ordered(true))
    }

    async fn plan_prepared(&self, visitor: &Visitor, handle: &[u8]) -> Result<(SchemaRef, Ticket)> {
        let prepared = self.statements.get(&owner(&visitor.principal), handle)?;
        self.plan(visitor, prepared.statement.clone(), Some(&prepared)).await
    }

    fn sealed(&self, ticket: &Ticket) -> Result<Bytes> {
        let statement_handle = self.sealer.seal(ticket)?;
        Ok(TicketStatementQuery { statement_handle }.as_any().encode_to_vec().into())
    }

    /// What a ticket stands for.
    async fn get(&self, visitor: Visitor, ticket: &[u8]) -> Result<Messages> {
        match command(ticket)? {
            Command::TicketStatementQuery(ticket) => {
                let ticket = self.sealer.open(&ticket.statement_handle, &visitor.principal)?;
                self.run(visitor, ticket).await
            }
            // Clients that know what they want leave GetFlightInfo out.
            Command::CommandStatementQuery(query) => {
                no_transaction(query.transaction_id.as_ref())?;
                let (_, ticket) = self.plan(&visitor, self.statement(&query.query)?, None).await?;
                self.run(visitor, ticket).await
            }
            Command::CommandPreparedStatementQuery(query) => {
                let (_, ticket) = self.plan_prepared(&visitor, &query.prepared_statement_handle).await?;
                self.run(visitor, ticket).await
            }
            other => {
                let batch = metadata::answer(&self.gate, &visitor, other).await?;
                Ok(stream::encode(batch.schema(), futures::stream::iter([Ok(batch)])))
            }
        }
    }

    /// Runs a ticket's statement, once for each row of parameters, one after the other.
    async fn run(&self, visitor: Visitor, ticket: Ticket) -> Result<Messages> {
        let schema = Arc::new(Schema::try_from(IpcMessage(ticket.schema.clone()))?);
        let mut rows = match ticket.parameters.is_empty() {
            true => vec![ParamValues::List(Vec::new())],
            false => {
                let described = self.gate.describe(&visitor, &ticket.statement).await?;
                parameters::rows(&described.parameters, &parameters::from_bytes(&ticket.parameters)?)?
            }
        }
        .into_iter();
        let Some(first) = rows.next() else { return Err(Failure::usage("parameters: expected at least one row")) };
        let gate = self.gate.clone();
        let visitor = Arc::new(visitor);
        let start = move |values: ParamValues| {
            let (gate, visitor, ticket) = (gate.clone(), Arc::clone(&visitor), ticket.clone());
            async move {
                // A ticket may be used again, and ids of queries may not.
                let query_id = format!("{}{}", ticket.id, &random_id()?[..8]);
                let ask = Ask { parameters: values, query_id: Some(query_id), ..Ask::new(ticket.statement) };
                gate.run(&visitor, ask).await
            }
        };
        let first = start(first).await?;
        let others = futures::stream::iter(rows).then(start);
        let answers = futures::stream::iter([Ok(first)]).chain(others);
        Ok(stream::encode(schema, answers.map_ok(whole).try_flatten()))
    }

    /// Runs a statement for each row of parameters; returns the number of rows that it changed, or of a query, gave.
    async fn update(&self, visitor: &Visitor, statement: &str, writes: bool, rows: Vec<ParamValues>) -> Result<i64> {
        let mut count = 0;
        for values in rows {
            let mut answer = self.gate.run(visitor, Ask { parameters: values, ..Ask::new(statement) }).await?;
            while let Some(batch) = answer.next().await {
                let batch = batch?;
                count += if writes { changed(&batch) } else { batch.num_rows() as u64 };
            }
        }
        Ok(i64::try_from(count).unwrap_or(i64::MAX))
    }

    async fn put(&self, visitor: &Visitor, mut messages: Streaming<FlightData>) -> Result<Vec<u8>> {
        let first = messages.message().await.map_err(|error| malformed("DoPut", error.message()))?;
        let Some(first) = first else { return Err(malformed("DoPut", "expected a message with a command")) };
        let Some(descriptor) = first.flight_descriptor.clone() else {
            return Err(malformed("DoPut", "expected a command in the first message"));
        };
        let owner = owner(&visitor.principal);
        match command(&descriptor.cmd)? {
            Command::CommandStatementUpdate(update) => {
                no_transaction(update.transaction_id.as_ref())?;
                let statement = self.statement(&update.query)?;
                let described = self.gate.describe(visitor, &statement).await?;
                if !described.parameters.is_empty() {
                    return Err(no_value(&described));
                }
                let rows = vec![ParamValues::List(Vec::new())];
                let record_count = self.update(visitor, &statement, described.writes, rows).await?;
                Ok(DoPutUpdateResult { record_count }.encode_to_vec())
            }
            Command::CommandPreparedStatementUpdate(update) => {
                let prepared = self.statements.get(&owner, &update.prepared_statement_handle)?;
                let bound = self.values(first, messages).await?.or(prepared.bound);
                let rows = match (&bound, prepared.parameters.is_empty()) {
                    // Some clients send an empty row where there is nothing to bind.
                    (_, true) => vec![ParamValues::List(Vec::new())],
                    (Some(bound), false) => parameters::rows(&prepared.parameters, bound)?,
                    (None, false) => {
                        return Err(malformed("parameters", "the statement has parameters, and no value was bound"));
                    }
                };
                let record_count = self.update(visitor, &prepared.statement, prepared.writes, rows).await?;
                Ok(DoPutUpdateResult { record_count }.encode_to_vec())
            }
            Command::CommandPreparedStatementQuery(query) => {
                let handle = query.prepared_statement_handle;
                let prepared = self.statements.get(&owner, &handle)?;
                if let Some(bound) = self.values(first, messages).await?
                    && !(prepared.parameters.is_empty() && bound.num_columns() == 0)
                {
                    parameters::rows(&prepared.parameters, &bound)?; // refused here, where the client looks
                    self.statements.bind(&owner, &handle, bound)?;
                }
                Ok(DoPutPreparedStatementResult { prepared_statement_handle: Some(handle) }.encode_to_vec())
            }
            Command::CommandStatementIngest(_) => Err(unsupported("documents are not imported with Flight SQL")
                .hint("send them to POST /v1/corpora/{name}/documents on the same port, also as Arrow, or use `saequel import`")),
            Command::CommandStatementSubstraitPlan(_) => Err(unsupported("there are no Substrait plans; send SQL")),
            other => Err(unsupported(&format!("there is no command '{}' for DoPut", other.type_url()))),
        }
    }

    /// The rows that a client sends after its command; nothing if it sends none.
    async fn values(&self, first: FlightData, mut messages: Streaming<FlightData>) -> Result<Option<RecordBatch>> {
        let most = self.gate.options().max_body_bytes;
        let mut bytes = 0;
        let mut received = Vec::new();
        let mut next = Some(first);
        while let Some(message) = next {
            bytes += message.data_header.len() + message.data_body.len();
            if bytes > most {
                let message = format!("the values of the parameters have more than {most} bytes");
                return Err(Failure::usage(message).shown_as(TOO_LARGE).hint("send fewer rows at a time"));
            }
            if !message.data_header.is_empty() {
                received.push(Ok::<_, FlightError>(message));
            }
            next = messages.message().await.map_err(|error| malformed("parameters", error.message()))?;
        }
        if received.is_empty() {
            return Ok(None);
        }
        let decoded = FlightRecordBatchStream::new_from_flight_data(futures::stream::iter(received));
        let batches: Vec<RecordBatch> = decoded.try_collect().await.map_err(|error| malformed("parameters", error))?;
        if batches.is_empty() { Ok(None) } else { parameters::one_batch(&batches).map(Some) }
    }

    async fn prepare(&self, visitor: &Visitor, request: ActionCreatePreparedStatementRequest) -> Result<Vec<u8>> {
        no_transaction(request.transaction_id.as_ref())?;
        let statement = self.statement(&request.query)?;
        let described = self.gate.describe(visitor, &statement).await?;
        let dataset_schema = match &described.schema {
            // No columns: clients take it for an update, and send it as one.
            _ if described.writes => Bytes::new(),
            Some(schema) => schema_bytes(&stream::wire_schema(schema))?,
            // Clients must not believe this one, but without any would take the query for an update.
            None => schema_bytes(&Schema::new(vec![Field::new("depends_on_parameters", DataType::Null, true)]))?,
        };
        let parameter_schema = schema_bytes(&parameters::schema(&described.parameters))?;
        let (parameters, writes) = (described.parameters, described.writes);
        let prepared = Prepared { statement, parameters, writes, bound: None };
        let handle = self.statements.add(&owner(&visitor.principal), prepared)?;
        let result = ActionCreatePreparedStatementResult {
            prepared_statement_handle: handle.into(),
            dataset_schema,
            parameter_schema,
        };
        Ok(result.as_any().encode_to_vec())
    }

    /// What an action gives; nothing for one that only does something.
    async fn act(&self, visitor: &Visitor, action: Action) -> Result<Option<Vec<u8>>> {
        let name = action.r#type.as_str();
        match name {
            "CreatePreparedStatement" => {
                let request: ActionCreatePreparedStatementRequest = unpacked(name, &action.body)?;
                self.prepare(visitor, request).await.map(Some)
            }
            "ClosePreparedStatement" => {
                let request: ActionClosePreparedStatementRequest = unpacked(name, &action.body)?;
                self.statements.remove(&owner(&visitor.principal), &request.prepared_statement_handle);
                Ok(None)
            }
            _ => actions::answer(&self.gate, &self.sealer, visitor, name, &action.body).map(Some),
        }
    }

    async fn shake_hands(
        &self,
        request: Request<Streaming<HandshakeRequest>>,
    ) -> Result<Response<Messages<HandshakeResponse>>> {
        let peer = request.extensions().get::<Peer>().copied();
        let mut token = crate::http::token(request.metadata().as_ref());
        if token.is_none() {
            let first = request.into_inner().message().await.ok().flatten();
            token = first.and_then(|first| token_in_body(&first.payload));
        }
        let mut asked = Request::new(());
        if let Some(peer) = peer {
            asked.extensions_mut().insert(peer);
        }
        self.visitor_with(&asked, token.as_deref())?;
        // Where no token is needed, any is taken later.
        let token = token.filter(|token| !token.is_empty()).unwrap_or_else(|| "anonymous".to_owned());
        let payload = Bytes::from(token.clone().into_bytes());
        let answer = futures::stream::iter([Ok(HandshakeResponse { protocol_version: 0, payload })]);
        let mut response = Response::new(answer.boxed());
        if let Ok(value) = AsciiMetadataValue::try_from(format!("Bearer {token}")) {
            response.metadata_mut().insert("authorization", value);
        }
        Ok(response)
    }
}

fn unpacked<T: ProstMessageExt>(name: &str, body: &[u8]) -> Result<T> {
    let any = Any::decode(body).map_err(|error| malformed(name, error))?;
    let unpacked: Option<T> = any.unpack().map_err(|error| malformed(name, error))?;
    unpacked.ok_or_else(|| malformed(name, format!("expected {}, got {}", T::type_url(), any.type_url)))
}

/// The rows of an answer, with an error at the end if a limit left some out: nobody is to take a part for the whole.
fn whole(answer: Answer) -> impl futures::Stream<Item = Result<RecordBatch>> + Send {
    futures::stream::unfold(Some(answer), |answer| async move {
        let mut answer = answer?;
        match answer.next().await {
            Some(batch) => Some((batch, Some(answer))),
            None if answer.truncated() => {
                let message = format!("the result has more rows than the server gives ({})", answer.info().rows);
                let failure = Failure::usage(message).shown_as(TOO_LARGE).hint("ask for less with WHERE or LIMIT");
                Some((Err(failure), None))
            }
            None => None,
        }
    })
}

/// Documents that a statement changed, as its result tells.
fn changed(batch: &RecordBatch) -> u64 {
    let counts = ["written", "updated", "deleted"].into_iter().filter_map(|name| batch.column_by_name(name));
    counts.filter_map(|column| column.as_primitive_opt::<UInt64Type>()).filter_map(arrow::compute::sum).sum()
}

#[tonic::async_trait]
impl FlightService for Flight {
    type HandshakeStream = Messages<HandshakeResponse>;
    type ListFlightsStream = Messages<FlightInfo>;
    type DoGetStream = Messages<FlightData>;
    type DoPutStream = Messages<PutResult>;
    type DoExchangeStream = Messages<FlightData>;
    type DoActionStream = Messages<ActionResult>;
    type ListActionsStream = Messages<ActionType>;

    async fn handshake(
        &self,
        request: Request<Streaming<HandshakeRequest>>,
    ) -> Result<Response<Self::HandshakeStream>, Status> {
        self.shake_hands(request).await.map_err(|failure| status(&failure))
    }

    async fn list_flights(&self, request: Request<Criteria>) -> Result<Response<Self::ListFlightsStream>, Status> {
        self.visitor(&request).map_err(|failure| status(&failure))?;
        Ok(Response::new(futures::stream::empty().boxed()))
    }

    async fn get_flight_info(&self, request: Request<FlightDescriptor>) -> Result<Response<FlightInfo>, Status> {
        let info = async { self.info(&self.visitor(&request)?, request.into_inner()).await };
        info.await.map(Response::new).map_err(|failure| status(&failure))
    }

    async fn poll_flight_info(&self, request: Request<FlightDescriptor>) -> Result<Response<PollInfo>, Status> {
        let info = self.get_flight_info(request).await?.into_inner();
        Ok(Response::new(PollInfo { progress: Some(1.0), ..PollInfo::new().with_info(info) }))
    }

    async fn get_schema(&self, request: Request<FlightDescriptor>) -> Result<Response<SchemaResult>, Status> {
        let info = self.get_flight_info(request).await?.into_inner();
        Ok(Response::new(SchemaResult { schema: info.schema }))
    }

    async fn do_get(&self, request: Request<FlightTicket>) -> Result<Response<Self::DoGetStream>, Status> {
        let messages = async { self.get(self.visitor(&request)?, &request.get_ref().ticket).await };
        messages.await.map(Response::new).map_err(|failure| status(&failure))
    }

    async fn do_put(&self, request: Request<Streaming<FlightData>>) -> Result<Response<Self::DoPutStream>, Status> {
        let visitor = self.visitor(&request).map_err(|failure| status(&failure))?;
        let done = self.put(&visitor, request.into_inner()).await.map_err(|failure| status(&failure))?;
        let result = PutResult { app_metadata: done.into() };
        Ok(Response::new(futures::stream::iter([Ok(result)]).boxed()))
    }

    async fn do_exchange(
        &self,
        request: Request<Streaming<FlightData>>,
    ) -> Result<Response<Self::DoExchangeStream>, Status> {
        self.visitor(&request).map_err(|failure| status(&failure))?;
        Err(status(&unsupported("there is no DoExchange; use the commands of Flight SQL")))
    }

    async fn do_action(&self, request: Request<Action>) -> Result<Response<Self::DoActionStream>, Status> {
        let visitor = self.visitor(&request).map_err(|failure| status(&failure))?;
        let done = self.act(&visitor, request.into_inner()).await.map_err(|failure| status(&failure))?;
        Ok(Response::new(futures::stream::iter(done.map(|body| Ok(ActionResult::new(body)))).boxed()))
    }

    async fn list_actions(&self, request: Request<Empty>) -> Result<Response<Self::ListActionsStream>, Status> {
        self.visitor(&request).map_err(|failure| status(&failure))?;
        Ok(Response::new(futures::stream::iter(actions::list().into_iter().map(Ok)).boxed()))
    }
}

#[cfg(test)]
mod tests {
    use arrow::array::{StringArray, UInt64Array};
    use saequel_engine::ErrorKind;

    use super::*;

    #[test]
    fn changed_documents_are_counted() {
        let import = RecordBatch::try_from_iter([
            ("corpus", Arc::new(StringArray::from(vec!["a"])) as _),
            ("read", Arc::new(UInt64Array::from(vec![9])) as _),
            ("written", Arc::new(UInt64Array::from(vec![5])) as _),
            ("updated", Arc::new(UInt64Array::from(vec![2])) as _),
        ]);
        assert_eq!(changed(&import.unwrap()), 7);
        let other = RecordBatch::try_from_iter([("result", Arc::new(StringArray::from(vec!["done"])) as _)]);
        assert_eq!(changed(&other.unwrap()), 0);
    }

    #[test]
    fn old_handshakes_carry_the_token_in_their_body() {
        let body = BasicAuth { username: "ci".to_owned(), password: "sq_x".to_owned() }.encode_to_vec();
        assert_eq!(token_in_body(&body).as_deref(), Some("sq_x"));
        assert_eq!(token_in_body(b""), None);
        assert_eq!(command(b"SELECT 1").unwrap_err().kind(), ErrorKind::Query);
    }
}
