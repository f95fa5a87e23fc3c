//! The thread that talks with servers. Whoever reads a corpus waits for demands in between, for minutes: what is on its way must not stand
//! still meanwhile, or the server and the time limits would end it.

use std::panic::resume_unwind;
use std::sync::LazyLock;

use futures::executor::block_on;
use tokio::runtime::{Builder, Runtime};

static RUNTIME: LazyLock<std::io::Result<Runtime>> =
    LazyLock::new(|| Builder::new_multi_thread().worker_threads(1).thread_name("object stores").enable_all().build());

/// Begins `work` on that thread. What is returned may be waited for anywhere.
///
/// # Errors
/// When the thread cannot be started.
pub fn begin<T: Send + 'static>(
    work: impl Future<Output = T> + Send + 'static,
) -> std::io::Result<impl Future<Output = T> + Send> {
    let runtime = RUNTIME.as_ref().map_err(|e| std::io::Error::new(e.kind(), e.to_string()))?;
    let handle = runtime.spawn(work);
    Ok(async move {
        match handle.await {
            Ok(done) => done,
            // Nothing aborts it, so it panicked.
            Err(error) => resume_unwind(error.try_into_panic().unwrap_or_else(|error| Box::new(error.to_string()))),
        }
    })
}

/// Does `work` on that thread and waits for it.
///
/// # Errors
/// When the thread cannot be started.
pub fn wait<T: Send + 'static>(work: impl Future<Output = T> + Send + 'static) -> std::io::Result<T> {
    Ok(block_on(begin(work)?))
}
