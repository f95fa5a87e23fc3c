//! From a plan to its answer.

use std::sync::Arc;

use axum::http::header::CONTENT_TYPE;
use axum::http::{HeaderName, HeaderValue};
use axum::response::{IntoResponse, Response};
use serde_json::Value;

use crate::error::ApiError;
use crate::frame::{Form, Frame};
use crate::plan::Plan;
use crate::running::Running;
use crate::server::Shared;
use crate::stream::stream;

/// Answers a plan.
pub async fn answer(shared: Arc<Shared>, client: String, plan: Plan, form: Form) -> Result<Response, ApiError> {
    let frame = Frame::new(&shared, form, plan.decoding.seed);
    let ignored = plan.ignored.join(", ");
    let mut answer = if plan.delivery.stream {
        let running = Running::start(&shared, &client, plan).await?;
        stream(shared, client, running, frame)
    } else {
        let mut running = Running::start(&shared, &client, plan).await?;
        let finished = running.whole(&shared, &client).await?;
        json_answer(&frame.whole(&running.plan, finished))
    };
    if !ignored.is_empty() {
        let name = HeaderName::from_static("x-difflow-ignored");
        answer.headers_mut().extend(HeaderValue::from_str(&ignored).ok().map(|value| (name, value)));
    }
    Ok(answer)
}

pub fn json_answer(value: &Value) -> Response {
    ([(CONTENT_TYPE, "application/json")], value.to_string()).into_response()
}
