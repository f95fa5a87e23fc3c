//! Foreign files are read by libraries that may panic on a damaged one, as the Parquet reader does on some footers:
//! the panic becomes an error that identifies the source.

use std::any::Any;
use std::panic::AssertUnwindSafe;

use futures::FutureExt;

/// What `work` gives; a panic in it as an error. What the work left behind is not to be used again then.
///
/// # Errors
/// The panic's words.
pub async fn caught<T>(work: impl Future<Output = T>) -> Result<T, String> {
    let done = AssertUnwindSafe(work).catch_unwind().await;
    done.map_err(|panic| format!("the file is damaged: its reader panicked with `{}`", words(&*panic)))
}

fn words(panic: &(dyn Any + Send)) -> &str {
    let text = panic.downcast_ref::<String>().map(String::as_str);
    text.or_else(|| panic.downcast_ref::<&str>().copied()).unwrap_or("no words")
}
