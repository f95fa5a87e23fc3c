//! As much of HTTP/1.1 as a page needs that is only read: one GET without a body per connection, and a stream of server-sent
//! events. hyper would do, but its server changes features of crates that half of the workspace's dependencies are built on.

use std::borrow::Cow;
use std::io;
use std::time::Duration;

use http::header::{ALLOW, CONNECTION, CONTENT_LENGTH, CONTENT_TYPE};
use http::{HeaderValue, Method, Request, Response, StatusCode};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::timeout;

/// The longest head of a request.
const HEAD: usize = 16 << 10;
/// Most header lines of a request.
const HEADERS: usize = 64;
/// How long a request may take to come in, and a piece of an answer to go out.
const PATIENCE: Duration = Duration::from_secs(10);

/// What is sent back.
pub type Answer = Response<Cow<'static, [u8]>>;

/// An answer with a body.
pub fn answer(status: StatusCode, kind: &'static str, body: impl Into<Cow<'static, [u8]>>) -> Answer {
    let mut answer = Response::new(body.into());
    *answer.status_mut() = status;
    answer.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(kind));
    answer
}

/// A refusal in words.
pub fn refusal(status: StatusCode, reason: impl Into<String>) -> Answer {
    answer(status, "text/plain; charset=utf-8", reason.into().into_bytes())
}

/// Reads a request. What is no GET or HEAD, or no HTTP, is the answer that says so.
///
/// # Errors
/// When the connection fails, or nothing comes.
pub async fn read(stream: &mut TcpStream) -> io::Result<Result<Request<()>, Box<Answer>>> {
    let mut head = Vec::new();
    let all = async {
        while !head.windows(4).any(|end| end == b"\r\n\r\n") {
            if head.len() >= HEAD {
                return Ok(false);
            }
            if stream.read_buf(&mut head).await? == 0 {
                return Err(io::Error::from(io::ErrorKind::UnexpectedEof));
            }
        }
        Ok(true)
    };
    if !timeout(PATIENCE, all).await?? {
        let long = refusal(StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE, "the request's head is too long");
        return Ok(Err(long.into()));
    }
    Ok(parse(&head))
}

fn parse(head: &[u8]) -> Result<Request<()>, Box<Answer>> {
    let bad = || Box::new(refusal(StatusCode::BAD_REQUEST, "this is no HTTP request"));
    let mut headers = [httparse::EMPTY_HEADER; HEADERS];
    let mut parsed = httparse::Request::new(&mut headers);
    if !parsed.parse(head).is_ok_and(|status| status.is_complete()) {
        return Err(bad());
    }
    let mut request = Request::builder().method(parsed.method.unwrap_or_default()).uri(parsed.path.unwrap_or_default());
    for header in parsed.headers.iter() {
        request = request.header(header.name, header.value);
    }
    let request = request.body(()).map_err(|_| bad())?;
    if request.method() == Method::GET || request.method() == Method::HEAD {
        return Ok(request);
    }
    let mut answer = refusal(StatusCode::METHOD_NOT_ALLOWED, "this page is only read: GET");
    answer.headers_mut().insert(ALLOW, HeaderValue::from_static("GET, HEAD"));
    Err(answer.into())
}

/// Sends an answer and ends the connection; `head`: without its body.
///
/// # Errors
/// When the connection fails, or nobody reads.
pub async fn write(stream: &mut TcpStream, mut answer: Answer, head: bool) -> io::Result<()> {
    let length = answer.body().len();
    answer.headers_mut().insert(CONTENT_LENGTH, length.into());
    send(stream, head_of(&answer).as_bytes()).await?;
    if !head {
        send(stream, answer.body()).await?;
    }
    stream.shutdown().await
}

/// Sends the head of a stream of events.
///
/// # Errors
/// When the connection fails.
pub async fn begin_events(stream: &mut TcpStream, mut answer: Answer) -> io::Result<()> {
    answer.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("text/event-stream"));
    send(stream, head_of(&answer).as_bytes()).await
}

/// Sends one event; `data` has no line breaks.
///
/// # Errors
/// When the connection fails, or nobody reads.
pub async fn event(stream: &mut TcpStream, name: &str, data: &str) -> io::Result<()> {
    send(stream, format!("event: {name}\ndata: {data}\n\n").as_bytes()).await
}

/// A sign of life to a reader of events.
///
/// # Errors
/// When the connection fails, or nobody reads.
pub async fn sign_of_life(stream: &mut TcpStream) -> io::Result<()> {
    send(stream, b":\n\n").await
}

async fn send(stream: &mut TcpStream, bytes: &[u8]) -> io::Result<()> {
    timeout(PATIENCE, stream.write_all(bytes)).await?
}

fn head_of(answer: &Answer) -> String {
    let mut head = format!("HTTP/1.1 {}\r\n", answer.status());
    for (name, value) in answer.headers() {
        // Every value was made here, of visible letters.
        head.push_str(&format!("{name}: {}\r\n", value.to_str().unwrap_or_default()));
    }
    head + CONNECTION.as_str() + ": close\r\n\r\n"
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn refused(head: &str) -> StatusCode {
        parse(head.as_bytes()).unwrap_err().status()
    }

    #[test]
    fn a_get_is_read_with_its_headers() {
        let request = parse(b"GET /samples/600?a=b HTTP/1.1\r\nHost: localhost:1\r\nCookie: a=b\r\n\r\n").unwrap();
        assert_eq!((request.uri().path(), request.uri().query()), ("/samples/600", Some("a=b")));
        assert_eq!(request.headers()["host"], "localhost:1");
    }

    /// Nothing that a page of another site can make a browser send may change a run.
    #[test]
    fn what_could_write_is_refused() {
        for method in ["POST", "PUT", "DELETE", "PATCH", "OPTIONS", "CONNECT", "TRACE", "ANYTHING"] {
            assert_eq!(refused(&format!("{method} / HTTP/1.1\r\n\r\n")), StatusCode::METHOD_NOT_ALLOWED, "{method}");
        }
    }

    #[test]
    fn what_is_no_http_is_refused() {
        let many: String = (0..100).map(|n| format!("a{n}: b\r\n")).collect();
        let many = format!("GET / HTTP/1.1\r\n{many}\r\n");
        for head in [
            "\r\n\r\n",
            "hello\r\n\r\n",
            "GET / HTTP/9.9\r\n\r\n",
            "GET  HTTP/1.1\r\n\r\n",
            "GET /\u{7f} HTTP/1.1\r\n\r\n",
            &many,
        ] {
            assert_eq!(refused(head), StatusCode::BAD_REQUEST, "{head:?}");
        }
    }
}
