//! The routes: who may ask, how much, and who answers.

use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::body::to_bytes;
use axum::extract::{MatchedPath, Request, State};
use axum::http::StatusCode;
use axum::http::header::{CONTENT_LENGTH, CONTENT_TYPE, LOCATION, SET_COOKIE};
use axum::middleware::{Next, from_fn_with_state};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use difflow_web::{Peer, Refusal, Verdict};
use serde::de::DeserializeOwned;
use serde_json::{Map, Value, json};
use tokio::time::Instant;

use crate::answer::{answer, json_answer};
use crate::error::ApiError;
use crate::fields::{Chat, Completion, Detokenize, Fields, Infill, Tokenize, read};
use crate::frame::{Form, seconds_since_1970};
use crate::infill::Asked;
use crate::model::Loaded;
use crate::page::PAGE;
use crate::plan::Plan;
use crate::running::Running;
use crate::server::Shared;
use crate::{chat, infill, openapi, plan, tokens};

/// How long the body of a request may take to come in.
const PATIENCE: Duration = Duration::from_secs(20);
/// Where anybody may look whether the server is there.
const HEALTH: &str = "/health";

type Served = State<Arc<Shared>>;
type Answer = Result<Response, ApiError>;

/// All of them.
pub fn all(shared: Arc<Shared>) -> Router {
    PAGE.files()
        .route("/v1/completions", post(completions))
        .route("/v1/chat/completions", post(chats))
        .route("/v1/fim/completions", post(fim))
        .route("/infill", post(infills))
        .route("/v1/models", get(models))
        .route("/tokenize", post(tokenize))
        .route("/detokenize", post(detokenize))
        .route("/tokenizer_info", get(tokenizer_info))
        .route("/openapi.json", get(async || json_answer(&openapi::document())))
        .route("/metrics", get(metrics))
        .route(HEALTH, get(health))
        .fallback(async || ApiError::missing("there is nothing here; /openapi.json lists what there is"))
        .method_not_allowed_fallback(async || ApiError::method("see /openapi.json"))
        .layer(from_fn_with_state(shared.clone(), guard))
        .with_state(shared)
}

/// Answers those who may ask, and counts.
async fn guard(State(shared): Served, request: Request, next: Next) -> Response {
    let route = request.extensions().get::<MatchedPath>().map_or("other".to_owned(), |path| path.as_str().to_owned());
    let mut answer = match refusal(&shared, &request) {
        Some(refusal) => refusal,
        None => next.run(request).await,
    };
    shared.metrics.answered(&route, answer.status().as_u16());
    difflow_web::be_strict(answer.headers_mut());
    answer
}

/// Says why a request is not answered, or how it would be; `None`: it is.
fn refusal(shared: &Shared, request: &Request) -> Option<Response> {
    let error = match shared.access.judge(request.uri(), request.headers()) {
        Verdict::Enter => return None,
        Verdict::Keep(cookie) => {
            let there = request.uri().path().to_owned();
            return Some((StatusCode::SEE_OTHER, [(SET_COOKIE, cookie), (LOCATION, there)]).into_response());
        }
        Verdict::Refuse(Refusal::Token) if request.uri().path() == HEALTH => return None,
        Verdict::Refuse(Refusal::Token) => ApiError::no_token(),
        Verdict::Refuse(Refusal::Host) => {
            ApiError::forbidden("this server is asked under an address or as localhost, not under another name")
        }
        Verdict::Refuse(Refusal::Origin) => ApiError::forbidden("pages from elsewhere may not ask this server"),
    };
    Some(error.into_response())
}

/// The fields of a request.
async fn fields<T: DeserializeOwned>(shared: &Shared, request: Request) -> Result<Fields<T>, ApiError> {
    let most = shared.settings.limits.body;
    let length = request.headers().get(CONTENT_LENGTH).and_then(|length| length.to_str().ok()?.parse().ok());
    if length.is_some_and(|length: usize| length > most) {
        return Err(ApiError::too_large(most));
    }
    let body = tokio::time::timeout(PATIENCE, to_bytes(request.into_body(), most)).await;
    let body = body.map_err(|_| ApiError::slow())?.map_err(|e| {
        let text = format!("{e} {:?}", std::error::Error::source(&e).map(ToString::to_string));
        if text.contains("limit") { ApiError::too_large(most) } else { ApiError::wrong("the request broke off") }
    })?;
    let fields = serde_json::from_slice::<Map<String, Value>>(&body);
    read(fields.map_err(|e| ApiError::wrong(format!("the request is no JSON object: {e}")))?)
}

/// Errors if another model is asked for.
fn is_served(shared: &Shared, model: Option<&String>) -> Result<(), ApiError> {
    let own = &shared.settings.name;
    if model.is_none_or(|model| model == own) { Ok(()) } else { Err(ApiError::no_model(own)) }
}

/// Who asks, as far as anybody knows.
fn client(request: &Request) -> String {
    request.extensions().get::<Peer>().map(|Peer(address)| address.ip().to_string()).unwrap_or_default()
}

/// Work with a tokenizer is not done between the connections.
async fn planned(
    model: Arc<Loaded>,
    plan: impl FnOnce(Arc<Loaded>) -> Result<Plan, ApiError> + Send + 'static,
) -> Result<Plan, ApiError> {
    tokio::task::spawn_blocking(move || plan(model)).await.map_err(|_| ApiError::failed())?
}

async fn completions(State(shared): Served, request: Request) -> Answer {
    let client = client(&request);
    let fields: Fields<Completion> = fields(&shared, request).await?;
    is_served(&shared, fields.own.model.as_ref())?;
    let plan = planned(shared.served()?, |model| plan::completion(model, fields)).await?;
    let client = line(client, &plan);
    answer(shared, client, plan, Form::Completion).await
}

/// As Mistral has it: a prompt, a suffix, and the answer of a chat.
async fn fim(State(shared): Served, request: Request) -> Answer {
    let client = client(&request);
    let fields: Fields<Completion> = fields(&shared, request).await?;
    is_served(&shared, fields.own.model.as_ref())?;
    let own = &fields.own;
    if own.echo == Some(true) || own.logprobs.is_some() {
        return Err(ApiError::field("echo", "allowed: neither echo nor logprobs; see /v1/completions"));
    }
    let plan = planned(shared.served()?, |model| plan::completion(model, fields)).await?;
    let client = line(client, &plan);
    answer(shared, client, plan, Form::Fim).await
}

async fn chats(State(shared): Served, request: Request) -> Answer {
    let client = client(&request);
    let fields: Fields<Chat> = fields(&shared, request).await?;
    is_served(&shared, fields.own.model.as_ref())?;
    let plan = planned(shared.served()?, |model| chat::plan(model, fields)).await?;
    let client = line(client, &plan);
    answer(shared, client, plan, Form::Chat).await
}

/// The line that a request waits in.
fn line(client: String, plan: &Plan) -> String {
    match &plan.user {
        Some(user) => format!("{client} {user}"),
        None => client,
    }
}

async fn infills(State(shared): Served, request: Request) -> Answer {
    let (client, started) = (client(&request), Instant::now());
    let fields: Fields<Infill> = fields(&shared, request).await?;
    is_served(&shared, fields.own.model.as_ref())?;
    let wanted = fields.own.response_fields.clone();
    let model = shared.served()?;
    let asked = tokio::task::spawn_blocking(move || infill::plan(model, fields)).await;
    let finished = match asked.map_err(|_| ApiError::failed())?? {
        Asked::Nothing => None,
        Asked::Text(plan) => {
            let mut running = Running::start(&shared, &client, *plan).await?;
            Some(running.whole(&shared, &client).await?)
        }
    };
    let milliseconds = started.elapsed().as_secs_f64() * 1000.0;
    Ok(json_answer(&infill::answer(finished, wanted.as_deref(), milliseconds)))
}

async fn models(State(shared): Served) -> Answer {
    let model = shared.served()?;
    let one = json!({
        "id": shared.settings.name, "object": "model", "created": seconds_since_1970(), "owned_by": "difflow",
        "max_model_len": model.longest, "fills_gaps": model.session.fills_gaps(), "chat": model.chat.is_some(),
        "logprobs": if model.reads_on { "exact" } else { "revealed" },
        "block": model.session.blocks().map(|blocks| blocks.size)
    });
    Ok(json_answer(&json!({"object": "list", "data": [one]})))
}

async fn tokenize(State(shared): Served, request: Request) -> Answer {
    let fields: Fields<Tokenize> = fields(&shared, request).await?;
    let model = shared.served()?;
    let found = tokio::task::spawn_blocking(move || tokens::tokenize(&model, fields.own)).await;
    found.map_err(|_| ApiError::failed())?.map(|found| json_answer(&found))
}

async fn detokenize(State(shared): Served, request: Request) -> Answer {
    let fields: Fields<Detokenize> = fields(&shared, request).await?;
    let model = shared.served()?;
    let found = tokio::task::spawn_blocking(move || tokens::detokenize(&model, fields.own)).await;
    found.map_err(|_| ApiError::failed())?.map(|found| json_answer(&found))
}

async fn tokenizer_info(State(shared): Served) -> Answer {
    Ok(json_answer(&tokens::info(&*shared.served()?)))
}

async fn metrics(State(shared): Served) -> Response {
    let text = shared.metrics.text(shared.queue.length());
    ([(CONTENT_TYPE, "text/plain; version=0.0.4; charset=utf-8")], text).into_response()
}

async fn health(State(shared): Served) -> Answer {
    shared.served()?;
    Ok(json_answer(&json!({"status": "ok"})))
}
