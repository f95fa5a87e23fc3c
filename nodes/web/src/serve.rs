//! Connections: how many, how slow, and how they end.

use std::io;
use std::net::{SocketAddr, TcpListener};
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::{Service, service_fn};
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use tokio::sync::{Semaphore, watch};
use tokio_io_timeout::TimeoutStream;

/// The longest head of a request, in bytes.
const HEAD: usize = 16 << 10;
/// Most header lines of a request.
const HEADERS: usize = 64;

/// What one server grants.
#[derive(Debug, Clone, Copy)]
pub struct Limits {
    /// Connections at a time.
    pub connections: usize,
    /// Whether a connection may carry several requests. With `false` one who is done holds no place.
    pub keep_alive: bool,
    /// How long a request's head may take to come in, and a piece of an answer to go out.
    pub patience: Duration,
    /// How long the end waits for those who have not taken their answer.
    pub goodbye: Duration,
}

/// Where a request comes from, among its extensions.
#[derive(Debug, Clone, Copy)]
pub struct Peer(pub SocketAddr);

/// Serves until `stopped`, and until everybody has the answer that they asked for, but not longer than the limits say. Errors when the
/// system takes the listener back.
pub async fn serve(
    listener: TcpListener,
    routes: Router,
    limits: Limits,
    mut stopped: watch::Receiver<bool>,
) -> io::Result<()> {
    let listener = tokio::net::TcpListener::from_std(listener)?;
    let connections = Arc::new(Semaphore::new(limits.connections));
    let service = TowerToHyperService::new(routes);
    let mut http = http1::Builder::new();
    http.keep_alive(limits.keep_alive).timer(TokioTimer::new()).header_read_timeout(limits.patience);
    http.max_buf_size(HEAD).max_headers(HEADERS);
    let ending = stopped.clone();
    let accepting = async {
        loop {
            let Ok(place) = connections.clone().acquire_owned().await else { return };
            match listener.accept().await {
                Ok((stream, peer)) => {
                    // Small pieces of a stream are wanted at once.
                    _ = stream.set_nodelay(true);
                    let mut stream = TimeoutStream::new(stream);
                    stream.set_write_timeout(Some(limits.patience));
                    let service = service.clone();
                    let service = service_fn(move |mut request: hyper::Request<Incoming>| {
                        request.extensions_mut().insert(Peer(peer));
                        service.call(request.map(Body::new))
                    });
                    let answering = http.serve_connection(TokioIo::new(Box::pin(stream)), service);
                    let mut ending = ending.clone();
                    tokio::spawn(async move {
                        let mut answering = std::pin::pin!(answering);
                        // One who goes away is no event.
                        let done = tokio::select! {
                            _ = answering.as_mut() => true,
                            () = async { drop(ending.wait_for(|end| *end).await) } => false,
                        };
                        if !done {
                            answering.as_mut().graceful_shutdown();
                            _ = answering.await;
                        }
                        drop(place);
                    });
                }
                // Out of file handles: they come back when others leave.
                Err(_) => tokio::time::sleep(Duration::from_millis(100)).await,
            }
        }
    };
    tokio::select! {
        () = accepting => {}
        _ = stopped.wait_for(|stop| *stop) => {}
    }
    // All places are free when the last one has taken the last answer.
    _ = tokio::time::timeout(limits.goodbye, connections.acquire_many(limits.connections as u32)).await;
    Ok(())
}
