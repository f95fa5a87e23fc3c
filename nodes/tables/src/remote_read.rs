//! An object as a reader that waits, for what is read line by line.

use std::io::{self, Read};
use std::sync::{Arc, Mutex, PoisonError};

use bytes::{Buf, Bytes};
use futures::executor::block_on;
use futures::stream::{BoxStream, StreamExt};

use crate::bucket::Object;
use crate::remote_error::RemoteError;

/// The bytes of an object from its first on.
pub struct RemoteRead {
    chunks: BoxStream<'static, Result<Bytes, RemoteError>>,
    current: Bytes,
    failure: Failure,
}

/// What ended a reader, for those whose own errors are only words.
#[derive(Clone, Default)]
pub struct Failure(Arc<Mutex<Option<RemoteError>>>);

impl Failure {
    /// What it was, if anything.
    pub fn get(&self) -> Option<RemoteError> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

impl RemoteRead {
    /// Begins to read it.
    pub fn new(object: &Object) -> Self {
        Self { chunks: object.whole(), current: Bytes::new(), failure: Failure::default() }
    }

    /// Where it says what ended it.
    pub fn failure(&self) -> Failure {
        self.failure.clone()
    }
}

impl Read for RemoteRead {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        while self.current.is_empty() {
            match block_on(self.chunks.next()) {
                None => return Ok(0),
                Some(Ok(chunk)) => self.current = chunk,
                Some(Err(error)) => {
                    *self.failure.0.lock().unwrap_or_else(PoisonError::into_inner) = Some(error.clone());
                    return Err(io::Error::other(error));
                }
            }
        }
        let count = buffer.len().min(self.current.len());
        self.current.copy_to_slice(&mut buffer[..count]);
        Ok(count)
    }
}
