//! Queries as things: their list, their state, their end, and results that are fetched later.

use std::time::Duration;

use axum::Json;
use axum::body::Body;
use axum::extract::{RawQuery, State};
use axum::http::{HeaderMap, HeaderName, HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use bytes::Bytes;
use futures::stream;
use serde::Serialize;

use super::problem::{ErrorBody, Problem, put_query_id};
use super::request::{SqlRequest, format, url_values};
use super::{Http, Named, Who, query, read};
use crate::gate::{Principal, QueryInfo, State as Stands, Visitor};

/// Time between two events.
const EVERY: Duration = Duration::from_secs(1);

/// A query and where to find it.
#[derive(Debug, Serialize, utoipa::ToSchema)]
pub(super) struct QueryStatus {
    #[serde(flatten)]
    query: QueryInfo,
    /// Where this is.
    status_url: String,
    /// Where the results are, if they are kept.
    #[serde(skip_serializing_if = "Option::is_none")]
    results_url: Option<String>,
}

/// Queries, newest first.
#[derive(Debug, Serialize, utoipa::ToSchema)]
pub(super) struct QueryList {
    queries: Vec<QueryStatus>,
}

/// An asynchronous query was taken.
#[derive(Debug, Serialize, utoipa::ToSchema)]
pub(super) struct Accepted {
    query_id: String,
    status_url: String,
    results_url: String,
}

fn status_url(query_id: &str) -> String {
    let mut url = "/v1/queries/".to_owned();
    for byte in query_id.bytes() {
        match byte {
            b'A'..=b'Z' | b'a'..=b'z' | b'0'..=b'9' | b'-' | b'_' | b'.' | b'~' => url.push(char::from(byte)),
            byte => url.push_str(&format!("%{byte:02X}")),
        }
    }
    url
}

fn shown(http: &Http, query: QueryInfo) -> QueryStatus {
    let status_url = status_url(&query.query_id);
    let results_url = http.kept.has(&query.caller, &query.query_id).then(|| format!("{status_url}/results"));
    QueryStatus { query, status_url, results_url }
}

fn status(http: &Http, principal: &Principal, query_id: &str) -> Result<QueryStatus, Problem> {
    let query = match (http.gate.query(principal, query_id), http.kept.info(principal, query_id)) {
        (Ok(query), _) | (Err(_), Some(query)) => query,
        (Err(failure), None) => return Err(failure.into()),
    };
    Ok(shown(http, query))
}

/// Starts a query whose results are kept.
pub(super) async fn start(http: &Http, visitor: Visitor, request: SqlRequest) -> Result<Response, Problem> {
    let (ask, query_id, _) = query::ask(request)?;
    http.kept.start(&http.gate, visitor, ask, &query_id).await.map_err(|problem| problem.of_query(Some(&query_id)))?;
    let status_url = status_url(&query_id);
    let results_url = format!("{status_url}/results");
    let location = HeaderValue::from_str(&status_url);
    let accepted = Accepted { query_id: query_id.clone(), status_url, results_url };
    let mut response = (StatusCode::ACCEPTED, Json(accepted)).into_response();
    let headers = response.headers_mut();
    put_query_id(headers, &query_id);
    headers.insert(HeaderName::from_static("preference-applied"), HeaderValue::from_static("respond-async"));
    if let Ok(location) = location {
        headers.insert(header::LOCATION, location);
    }
    Ok(response)
}

/// The queries that the token may see
///
/// One's own; with the scope `admin` all. The newest 1,000 are remembered.
#[utoipa::path(get, path = "/v1/queries", tag = "queries", responses((status = 200, body = QueryList)))]
pub(super) async fn list(
    State(http): State<Http>,
    Who(visitor): Who,
    RawQuery(url): RawQuery,
) -> Result<Response, Problem> {
    url_values(url.as_deref(), &[])?;
    let queries = http.gate.queries(&visitor.principal).into_iter().map(|query| shown(&http, query)).collect();
    Ok(Json(QueryList { queries }).into_response())
}

/// Run a statement and keep its results
///
/// As `POST /v1/sql` with `Prefer: respond-async`.
#[utoipa::path(
    post, path = "/v1/queries", tag = "queries",
    request_body(content((String = "text/plain"), (super::request::SqlBody = "application/json"))),
    responses((status = 202, body = Accepted))
)]
pub(super) async fn post(
    State(http): State<Http>,
    Who(visitor): Who,
    RawQuery(url): RawQuery,
    headers: HeaderMap,
    body: Body,
) -> Result<Response, Problem> {
    let request = read(&http, url.as_deref(), &headers, Some(body)).await?;
    start(&http, visitor, request).await
}

/// How a query stands
#[utoipa::path(
    get, path = "/v1/queries/{query_id}", tag = "queries",
    params(("query_id" = String, Path, description = "id of the query")),
    responses((status = 200, body = QueryStatus), (status = 404, body = ErrorBody))
)]
pub(super) async fn get(
    State(http): State<Http>,
    Who(visitor): Who,
    Named(query_id): Named,
) -> Result<Response, Problem> {
    Ok(Json(status(&http, &visitor.principal, &query_id)?).into_response())
}

/// End a query, or let its kept results go
#[utoipa::path(
    delete, path = "/v1/queries/{query_id}", tag = "queries",
    params(("query_id" = String, Path, description = "id of the query")),
    responses((status = 202, body = QueryStatus), (status = 404, body = ErrorBody))
)]
pub(super) async fn delete(
    State(http): State<Http>,
    Who(visitor): Who,
    Named(query_id): Named,
) -> Result<Response, Problem> {
    let query = match http.gate.cancel(&visitor.principal, &query_id) {
        Ok(query) => query,
        Err(failure) => http.kept.info(&visitor.principal, &query_id).ok_or(failure)?,
    };
    http.kept.expire(&query.caller, &query_id);
    Ok((StatusCode::ACCEPTED, Json(shown(&http, query))).into_response())
}

/// End a query
///
/// For clients that cannot send DELETE.
#[utoipa::path(
    post, path = "/v1/queries/{query_id}/cancel", tag = "queries",
    params(("query_id" = String, Path, description = "id of the query")),
    responses((status = 202, body = QueryStatus), (status = 404, body = ErrorBody))
)]
pub(super) async fn cancel(http: State<Http>, who: Who, query_id: Named) -> Result<Response, Problem> {
    delete(http, who, query_id).await
}

/// Fetch kept results
///
/// In any format, as often as wanted, until they expire.
#[utoipa::path(
    get, path = "/v1/queries/{query_id}/results", tag = "queries",
    params(
        ("query_id" = String, Path, description = "id of the query"),
        ("format" = Option<String>, Query, description = "as of /v1/sql"),
    ),
    responses(
        (status = 200, description = "the result, in the format that is asked for"),
        (status = 404, body = ErrorBody),
        (status = 410, body = ErrorBody, description = "expired"),
        (status = 425, body = ErrorBody, description = "still running"),
    )
)]
pub(super) async fn results(
    State(http): State<Http>,
    Who(visitor): Who,
    Named(query_id): Named,
    RawQuery(url): RawQuery,
    headers: HeaderMap,
) -> Result<Response, Problem> {
    let values = url_values(url.as_deref(), &["format"])?;
    let format = format(values.first().map(|(_, value)| value.as_str()), &headers)?;
    let spooled = http.kept.results(&visitor.principal, &query_id)?;
    query::respond(spooled.known(), spooled.chunks(format), format, &query_id).await
}

/// Follow a query
///
/// Server-sent events: `progress` with the query's state once a second, then `end`.
#[utoipa::path(
    get, path = "/v1/queries/{query_id}/events", tag = "queries",
    params(("query_id" = String, Path, description = "id of the query")),
    responses(
        (status = 200, content_type = "text/event-stream", body = String),
        (status = 404, body = ErrorBody),
    )
)]
pub(super) async fn events(
    State(http): State<Http>,
    Who(visitor): Who,
    Named(query_id): Named,
) -> Result<Response, Problem> {
    status(&http, &visitor.principal, &query_id)?;
    let mut ticks = tokio::time::interval(EVERY);
    ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    let events = stream::unfold(Some((http, visitor, query_id, ticks)), |state| async move {
        let (http, visitor, query_id, mut ticks) = state?;
        ticks.tick().await;
        // A token that was revoked hears no more.
        let principal = http.gate.still(&visitor).ok()?;
        // The server forgets old queries: that is an end as well.
        let status = status(&http, &principal, &query_id).ok()?;
        let runs = matches!(status.query.state, Stands::Waiting | Stands::Running) && !http.gate.is_stopping();
        let name = if runs { "progress" } else { "end" };
        let data = serde_json::to_string(&status).unwrap_or_default();
        let event = Bytes::from(format!("event: {name}\ndata: {data}\n\n"));
        Some((Ok::<_, std::io::Error>(event), runs.then_some((http, visitor, query_id, ticks))))
    });
    let mut response = Body::from_stream(events).into_response();
    response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static("text/event-stream"));
    Ok(response)
}
