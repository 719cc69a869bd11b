//! What the protocol asks, answered by tools, resources and prompts.

use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::time::Duration;

use axum::http::request::Parts;
use futures::FutureExt;
use rmcp::model::{
    ArgumentInfo, CallToolRequestParams, CallToolResponse, CompleteRequestParams, CompleteResult, CompletionInfo,
    Extensions, GetPromptRequestParams, GetPromptResponse, Implementation, ListPromptsResult,
    ListResourceTemplatesResult, ListResourcesResult, ListToolsResult, PaginatedRequestParams,
    ProgressNotificationParam, ReadResourceRequestParams, ReadResourceResponse, ServerCapabilities, ServerConfig, Tool,
};
use rmcp::service::RequestContext;
use rmcp::{ErrorData, RoleServer, ServerHandler};
use saequel_engine::ErrorKind;
use tokio::sync::watch;
use tokio::time::{Instant, interval_at, timeout};

use super::tools::{self, Asker, TOOLS};
use super::{prompts, resources};
use crate::error::{Failure, Result};
use crate::gate::{Gate, Visitor};

/// Time between two words about a call that still runs.
const PROGRESS: Duration = Duration::from_secs(1);
/// Time that a client gets to take one.
const TAKE_PROGRESS: Duration = Duration::from_millis(500);

const INSTRUCTIONS: &str = "\
saequel is a database of texts that knows what they mean: each document is stored with its features, named properties such as \
hedging, lists, apologies, that a sparse autoencoder found in it. It answers four questions with statistics: what sets two \
sets of documents apart (diff), which properties go together (correlate), what groups there are (cluster), which documents \
have a property (retrieve). Start with list_corpora and describe_corpus, which give the exact names of columns and values. A \
set of documents is written as `corpus`, `corpus WHERE condition` or `SELECT ...`. search_features turns words into feature \
ids; `query` runs SQL for everything else: counts, groups, reading documents. Take a difference for real only if its q_value \
is below 0.05, and read examples before you report. Everything reads only. The resource saequel://guide has more.";

/// Answers one client, or all of them: it holds nothing of a session.
#[derive(Clone)]
pub(super) struct McpServer {
    gate: Gate,
    /// Whoever started the program; over HTTP each request says who asks.
    owner: Option<Visitor>,
    /// A receiver for each call that runs.
    calls: Arc<watch::Sender<()>>,
}

impl McpServer {
    pub(super) fn new(gate: Gate, owner: Option<Visitor>, calls: Arc<watch::Sender<()>>) -> Self {
        Self { gate, owner, calls }
    }

    /// Who asks.
    fn asker(&self, extensions: &Extensions) -> Result<Asker<'_>, ErrorData> {
        let from_request = || extensions.get::<Parts>().and_then(|parts| parts.extensions.get::<Visitor>().cloned());
        let visitor = self.owner.clone().or_else(from_request);
        let visitor = visitor.ok_or_else(|| ErrorData::internal_error("it is not known who asks", None))?;
        Ok(Asker { gate: &self.gate, visitor })
    }
}

/// Does work, and tells the client once a second that it still runs, if it wants to know. Ends with the request.
async fn followed<T>(
    context: &RequestContext<RoleServer>,
    what: &str,
    work: impl Future<Output = Result<T>>,
) -> Result<T> {
    let token = context.meta.get_progress_token();
    let began = Instant::now();
    let mut ticks = interval_at(began + PROGRESS, PROGRESS);
    // A panic is ours, and the client is told instead of left waiting.
    let work = AssertUnwindSafe(work).catch_unwind();
    tokio::pin!(work);
    loop {
        tokio::select! {
            biased;
            outcome = &mut work => {
                let broken = |_| Err(Failure::new(ErrorKind::Internal, format!("{what} broke off; the log has more")));
                return outcome.unwrap_or_else(broken);
            }
            () = context.ct.cancelled() => return Err(Failure::new(ErrorKind::Cancelled, "the client cancelled the request")),
            _ = ticks.tick() => {
                let Some(token) = token.clone() else { continue };
                let seconds = began.elapsed().as_secs();
                let progress = ProgressNotificationParam::new(token, seconds as f64)
                    .with_message(format!("{what} has run for {seconds} s"));
                // A client that does not listen must not hold up the work.
                let _ = timeout(TAKE_PROGRESS, context.peer.notify_progress(progress)).await;
            }
        }
    }
}

impl ServerHandler for McpServer {
    fn get_info(&self) -> ServerConfig {
        let capabilities = ServerCapabilities::builder()
            .enable_tools()
            .enable_resources()
            .enable_prompts()
            .enable_completions()
            .build();
        let implementation = Implementation::new("saequel", env!("CARGO_PKG_VERSION"))
            .with_title("saequel")
            .with_description("SQL over what texts mean");
        ServerConfig::new(capabilities).with_server_info(implementation).with_instructions(INSTRUCTIONS)
    }

    fn get_tool(&self, name: &str) -> Option<Tool> {
        TOOLS.iter().find(|tool| tool.name == name).cloned()
    }

    async fn list_tools(
        &self,
        _request: Option<PaginatedRequestParams>,
        _context: RequestContext<RoleServer>,
    ) -> Result<ListToolsResult, ErrorData> {
        Ok(ListToolsResult::with_all_items(TOOLS.clone()))
    }

    async fn call_tool(
        &self,
        request: CallToolRequestParams,
        context: RequestContext<RoleServer>,
    ) -> Result<CallToolResponse, ErrorData> {
        let _running = self.calls.subscribe();
        let asker = self.asker(&context.extensions)?;
        let name = request.name;
        let work = async { tools::call(&asker, &name, request.arguments).await.transpose() };
        Ok(match followed(&context, &name, work).await {
            Ok(Some(reply)) => reply.result().into(),
            Ok(None) => {
                let names: Vec<&str> = TOOLS.iter().map(|tool| tool.name.as_ref()).collect();
                let message = format!("there is no tool '{name}'; there are: {}", names.join(", "));
                return Err(ErrorData::invalid_params(message, None));
            }
            Err(failure) => tools::failed(&failure).into(),
        })
    }

    async fn list_resources(
        &self,
        _request: Option<PaginatedRequestParams>,
        context: RequestContext<RoleServer>,
    ) -> Result<ListResourcesResult, ErrorData> {
        let _running = self.calls.subscribe();
        let asker = self.asker(&context.extensions)?;
        let listed = followed(&context, "the list of resources", resources::list(&asker)).await;
        listed.map_err(|failure| resources::told(&failure))
    }

    async fn list_resource_templates(
        &self,
        _request: Option<PaginatedRequestParams>,
        _context: RequestContext<RoleServer>,
    ) -> Result<ListResourceTemplatesResult, ErrorData> {
        Ok(ListResourceTemplatesResult::with_all_items(resources::templates()))
    }

    async fn read_resource(
        &self,
        request: ReadResourceRequestParams,
        context: RequestContext<RoleServer>,
    ) -> Result<ReadResourceResponse, ErrorData> {
        let _running = self.calls.subscribe();
        let asker = self.asker(&context.extensions)?;
        let work = async { Ok(resources::read(&asker, &request.uri).await) };
        let read = followed(&context, "the resource", work).await.map_err(|failure| resources::told(&failure))?;
        read.map(ReadResourceResponse::from)
    }

    async fn list_prompts(
        &self,
        _request: Option<PaginatedRequestParams>,
        _context: RequestContext<RoleServer>,
    ) -> Result<ListPromptsResult, ErrorData> {
        Ok(ListPromptsResult::with_all_items(prompts::prompts()))
    }

    async fn get_prompt(
        &self,
        request: GetPromptRequestParams,
        _context: RequestContext<RoleServer>,
    ) -> Result<GetPromptResponse, ErrorData> {
        prompts::prompt(&request.name, request.arguments).map(GetPromptResponse::from)
    }

    /// Names of corpora, which are what prompts and the template of resources ask for.
    async fn complete(
        &self,
        request: CompleteRequestParams,
        context: RequestContext<RoleServer>,
    ) -> Result<CompleteResult, ErrorData> {
        let ArgumentInfo { name, value, .. } = request.argument;
        let values = match name.as_str() {
            "corpus" | "a" | "b" => {
                let asker = self.asker(&context.extensions)?;
                let corpora = tools::corpora(&asker).await.map_err(|failure| resources::told(&failure))?;
                corpora
                    .into_iter()
                    .filter(|corpus| corpus.starts_with(&value))
                    .take(CompletionInfo::MAX_VALUES)
                    .collect()
            }
            _ => Vec::new(),
        };
        let completion =
            CompletionInfo::with_all_values(values).map_err(|error| ErrorData::internal_error(error, None))?;
        Ok(CompleteResult::new(completion))
    }
}
