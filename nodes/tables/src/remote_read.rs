//! An object as a reader that waits, for what is read line by line.

use std::io::{self, Read};

use bytes::{Buf, Bytes};
use futures::executor::block_on;
use futures::stream::{BoxStream, StreamExt};

use crate::bucket::Object;
use crate::remote_error::RemoteError;

/// The bytes of an object from its first on.
pub struct RemoteRead {
    chunks: BoxStream<'static, Result<Bytes, RemoteError>>,
    current: Bytes,
}

impl RemoteRead {
    /// Begins to read it.
    pub fn new(object: &Object) -> Self {
        Self { chunks: object.whole(), current: Bytes::new() }
    }
}

impl Read for RemoteRead {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        while self.current.is_empty() {
            match block_on(self.chunks.next()) {
                None => return Ok(0),
                Some(chunk) => self.current = chunk.map_err(io::Error::other)?,
            }
        }
        let count = buffer.len().min(self.current.len());
        self.current.copy_to_slice(&mut buffer[..count]);
        Ok(count)
    }
}
