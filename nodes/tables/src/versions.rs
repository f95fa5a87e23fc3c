//! A bucket as DataFusion reads it: the versions of its objects that are fixed, and nothing else.

use std::sync::Arc;

use async_trait::async_trait;
use futures::stream::{self, BoxStream, StreamExt, TryStreamExt};
use object_store::path::Path;
use object_store::{
    Attributes, CopyOptions, Error, GetOptions, GetResult, GetResultPayload, ListResult, MultipartUpload, ObjectMeta,
    ObjectStore, PutMultipartOptions, PutOptions, PutPayload, PutResult, Result,
};

use crate::RemoteError;
use crate::bucket::{Bucket, Object};

/// The fixed versions of a bucket's objects.
#[derive(Debug)]
pub struct Versions(pub Arc<Bucket>);

impl std::fmt::Display for Versions {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.0.fmt(f)
    }
}

impl Versions {
    fn of(&self, path: &Path) -> Result<Object> {
        self.0.version(path).ok_or_else(|| Error::NotFound {
            path: path.to_string(),
            source: "it was not there when the files were listed".into(),
        })
    }

    fn read_only<T>(&self, operation: &str) -> Result<T> {
        Err(Error::NotImplemented { operation: operation.to_owned(), implementer: self.to_string() })
    }
}

#[async_trait]
impl ObjectStore for Versions {
    async fn get_opts(&self, location: &Path, options: GetOptions) -> Result<GetResult> {
        let object = self.of(location)?;
        options.check_preconditions(object.meta())?;
        let (meta, attributes) = (object.meta().clone(), Attributes::default());
        let wrong = |e| Error::Generic { store: "corpus", source: Box::new(e) };
        let (range, chunks) = match &options.range {
            // Its size and version are known.
            _ if options.head => (0..0, stream::empty().boxed()),
            None => (0..meta.size, object.whole()),
            Some(range) => {
                let range = range.as_range(meta.size).map_err(wrong)?;
                (range.clone(), object.range(range))
            }
        };
        let payload = GetResultPayload::Stream(chunks.map_err(RemoteError::wrapped).boxed());
        Ok(GetResult { payload, meta, range, attributes })
    }

    fn list(&self, _: Option<&Path>) -> BoxStream<'static, Result<ObjectMeta>> {
        stream::iter([self.read_only("list")]).boxed()
    }

    async fn list_with_delimiter(&self, _: Option<&Path>) -> Result<ListResult> {
        self.read_only("list")
    }

    async fn put_opts(&self, _: &Path, _: PutPayload, _: PutOptions) -> Result<PutResult> {
        self.read_only("put")
    }

    async fn put_multipart_opts(&self, _: &Path, _: PutMultipartOptions) -> Result<Box<dyn MultipartUpload>> {
        self.read_only("put")
    }

    fn delete_stream(&self, _: BoxStream<'static, Result<Path>>) -> BoxStream<'static, Result<Path>> {
        stream::iter([self.read_only("delete")]).boxed()
    }

    async fn copy_opts(&self, _: &Path, _: &Path, _: CopyOptions) -> Result<()> {
        self.read_only("copy")
    }
}
