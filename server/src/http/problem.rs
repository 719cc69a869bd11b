//! What goes wrong, as HTTP says it: a status, and JSON (or plain text for who prefers it) with SQLSTATE, place and way out.

use axum::extract::Request;
use axum::http::{HeaderMap, HeaderName, HeaderValue, StatusCode, header};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use serde::Serialize;

use super::accept;
use crate::error::Failure;

/// Header with the id of a query.
pub(super) const QUERY_ID: HeaderName = HeaderName::from_static("x-query-id");

/// The body of every error.
#[derive(Debug, Clone, Serialize, utoipa::ToSchema)]
pub(super) struct ErrorBody {
    pub(super) error: ErrorDetail,
}

/// What went wrong.
#[derive(Debug, Clone, Serialize, utoipa::ToSchema)]
pub(super) struct ErrorDetail {
    /// `query`, `not_found`, `exists`, `data`, `corrupt`, `denied`, `io`, `resources`, `cancelled`, `internal`,
    /// `unauthenticated`, `too_many`, `too_large`, `not_ended`, `stopping`, `unsupported`.
    code: &'static str,
    /// The same as `code`.
    kind: &'static str,
    /// Five characters, as in PostgreSQL.
    sqlstate: &'static str,
    /// One line: what was expected and what came.
    message: String,
    /// Line of the statement, from 1.
    #[serde(skip_serializing_if = "Option::is_none")]
    line: Option<u64>,
    /// Column in that line, from 1.
    #[serde(skip_serializing_if = "Option::is_none")]
    column: Option<u64>,
    /// The way out.
    #[serde(skip_serializing_if = "Option::is_none")]
    hint: Option<String>,
    /// Which query, if it had come that far.
    #[serde(skip_serializing_if = "Option::is_none")]
    query_id: Option<String>,
}

impl ErrorDetail {
    pub(super) fn message(&self) -> &str {
        &self.message
    }

    pub(super) fn sqlstate(&self) -> &'static str {
        self.sqlstate
    }
}

/// A failure on its way to a client.
#[derive(Debug, Clone)]
pub(super) struct Problem {
    pub(super) status: StatusCode,
    pub(super) body: ErrorBody,
}

impl Problem {
    /// A failure under another status than its kind has.
    pub(super) fn new(status: StatusCode, failure: &Failure) -> Self {
        let code = failure.wire().name;
        let place = failure.position();
        let error = ErrorDetail {
            code,
            kind: code,
            sqlstate: failure.sqlstate(),
            message: failure.line(),
            line: place.map(|(line, _)| line),
            column: place.map(|(_, column)| column),
            hint: failure.way_out().map(str::to_owned),
            query_id: None,
        };
        Self { status, body: ErrorBody { error } }
    }

    /// A request that is understood and refused for its form.
    pub(super) fn request(status: StatusCode, message: impl Into<String>, hint: &str) -> Self {
        let failure = Failure::usage(message);
        Self::new(status, &if hint.is_empty() { failure } else { failure.hint(hint) })
    }

    /// The same of a query with this id.
    pub(super) fn of_query(mut self, query_id: Option<&str>) -> Self {
        self.body.error.query_id = query_id.map(str::to_owned);
        self
    }

    /// The JSON on one line.
    pub(super) fn json(&self) -> String {
        // Plain data: it cannot fail.
        serde_json::to_string(&self.body).unwrap_or_default()
    }

    fn text(&self) -> String {
        let error = &self.body.error;
        let mut text = format!("error: {}\n", error.message);
        if let Some(hint) = &error.hint {
            text.push_str(&format!("hint: {hint}\n"));
        }
        text
    }
}

impl From<Failure> for Problem {
    fn from(failure: Failure) -> Self {
        Self::from(&failure)
    }
}

impl From<&Failure> for Problem {
    fn from(failure: &Failure) -> Self {
        let status = StatusCode::from_u16(failure.wire().http).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
        Self::new(status, failure)
    }
}

impl IntoResponse for Problem {
    fn into_response(self) -> Response {
        let mut response = (self.status, self.json()).into_response();
        let headers = response.headers_mut();
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
        match self.status {
            StatusCode::TOO_MANY_REQUESTS | StatusCode::SERVICE_UNAVAILABLE | StatusCode::TOO_EARLY => {
                headers.insert(header::RETRY_AFTER, HeaderValue::from_static("1"));
            }
            StatusCode::UNAUTHORIZED => {
                for way in ["Bearer realm=\"saequel\"", "Basic realm=\"saequel\", charset=\"UTF-8\""] {
                    headers.append(header::WWW_AUTHENTICATE, HeaderValue::from_static(way));
                }
            }
            StatusCode::UNSUPPORTED_MEDIA_TYPE => {
                headers.insert(header::ACCEPT_ENCODING, HeaderValue::from_static("gzip, zstd"));
            }
            _ => {}
        }
        if let Some(query_id) = &self.body.error.query_id {
            put_query_id(headers, query_id);
        }
        response.extensions_mut().insert(self);
        response
    }
}

/// Says which query it was.
pub(super) fn put_query_id(headers: &mut HeaderMap, query_id: &str) {
    if let Ok(query_id) = HeaderValue::from_str(query_id) {
        headers.insert(QUERY_ID, query_id);
    }
}

/// The last word on every response: errors as text for who prefers text, and headers that hold for all.
pub(super) async fn finish(request: Request, next: Next) -> Response {
    let wants_text = accept::prefers_text(request.headers());
    let mut response = next.run(request).await;
    if wants_text && let Some(problem) = response.extensions_mut().remove::<Problem>() {
        let text = problem.text();
        let headers = response.headers_mut();
        headers.remove(header::CONTENT_LENGTH);
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("text/plain; charset=utf-8"));
        *response.body_mut() = text.into();
    }
    let headers = response.headers_mut();
    // What a query gives is private and soon old, and no browser is to take text for a page.
    headers.entry(header::CACHE_CONTROL).or_insert(HeaderValue::from_static("no-store"));
    headers.insert(header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    response
}

#[cfg(test)]
mod tests {
    use saequel_engine::ErrorKind;

    use super::*;
    use crate::error::UNAUTHENTICATED;

    #[test]
    fn errors_say_what_where_and_the_way_out() {
        let failure = Failure::new(ErrorKind::NotFound, "line 2, column 7: table 'x' not found").hint("SHOW CORPORA");
        let problem = Problem::from(&failure).of_query(Some("q1"));
        let body: serde_json::Value = serde_json::from_str(&problem.json()).unwrap();
        assert_eq!(
            body,
            serde_json::json!({"error": {
                "code": "not_found", "kind": "not_found", "sqlstate": "42P01",
                "message": "line 2, column 7: table 'x' not found", "line": 2, "column": 7, "hint": "SHOW CORPORA",
                "query_id": "q1",
            }})
        );
        let response = problem.into_response();
        assert_eq!((response.status(), &response.headers()[QUERY_ID]), (StatusCode::NOT_FOUND, &"q1".parse().unwrap()));
        let busy = Problem::new(StatusCode::TOO_MANY_REQUESTS, &failure).into_response();
        assert_eq!(busy.headers()[header::RETRY_AFTER], "1");
        let refused = Failure::new(ErrorKind::Denied, "a token is needed").shown_as(UNAUTHENTICATED);
        let refused = Problem::from(refused).into_response();
        assert_eq!(refused.headers().get_all(header::WWW_AUTHENTICATE).iter().count(), 2);
    }
}
