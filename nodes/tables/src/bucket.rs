//! A bucket, or a web server, and the versions of its objects that this process reads: of each object the one that it saw first.

use std::collections::{BTreeMap, HashMap};
use std::env;
use std::fmt;
use std::ops::Range;
use std::str::FromStr;
use std::sync::{Arc, LazyLock, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use futures::stream::{BoxStream, StreamExt};
use object_store::aws::{AmazonS3Builder, AmazonS3ConfigKey};
use object_store::gcp::{GoogleCloudStorageBuilder, GoogleConfigKey};
use object_store::http::HttpBuilder;
use object_store::path::Path;
use object_store::{ClientConfigKey, ClientOptions, GetOptions, ObjectMeta, ObjectStore, ObjectStoreExt, RetryConfig};

use crate::address::{Address, Scheme};
use crate::io;
use crate::remote_error::{CHANGED, Fault, RemoteError};

/// Bytes that are asked for at once: short enough for the client's time limit of 30 s (`AWS_TIMEOUT`) on a slow line.
const CHUNK: u64 = 4 << 20;
/// Bytes of the first chunk of a long range: often its first lines are all that is wanted. The next ones are twice as long each.
const FIRST: u64 = 256 << 10;
/// Chunks of one reader that are on their way at once.
const AHEAD: usize = 2;
/// Tries of a request unless `AWS_MAX_ATTEMPTS` says otherwise, with pauses that grow to 15 s.
const TRIES: usize = 10;
/// Before an answer that was too short is asked for again.
const PAUSE: Duration = Duration::from_millis(200);
/// No try begins after that time.
const PATIENCE: Duration = Duration::from_secs(180);

static BUCKETS: LazyLock<Mutex<BTreeMap<String, Arc<Bucket>>>> = LazyLock::new(Mutex::default);

fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A bucket, or a web server.
#[derive(Debug)]
pub struct Bucket {
    /// Its address: scheme and bucket or host.
    root: String,
    store: Arc<dyn ObjectStore>,
    tries: usize,
    versions: Mutex<HashMap<Path, ObjectMeta>>,
}

/// One version of an object.
#[derive(Debug, Clone)]
pub struct Object {
    bucket: Arc<Bucket>,
    meta: ObjectMeta,
}

impl Bucket {
    /// That of an address, with the credentials of the environment.
    ///
    /// # Errors
    /// When the environment has none, or nonsense.
    pub async fn open(address: &Address) -> Result<Arc<Self>, RemoteError> {
        let root = address.root();
        if let Some(known) = locked(&BUCKETS).get(&root) {
            return Ok(known.clone());
        }
        let tries = env::var("AWS_MAX_ATTEMPTS").ok().filter(|text| !text.is_empty());
        let tries = tries.map_or(Ok(TRIES), |text| text.parse().map(|tries: usize| tries.max(1)).map_err(|_| text));
        let tries =
            tries.map_err(|text| asked(&root, format!("AWS_MAX_ATTEMPTS is `{text}`, wanted a whole number")))?;
        let retry = RetryConfig { max_retries: tries - 1, retry_timeout: PATIENCE, ..RetryConfig::default() };
        let store = match address.scheme {
            Scheme::S3 => s3(address, retry).await?,
            Scheme::Gs => gs(address, retry).await?,
            Scheme::Https | Scheme::Http => {
                let options = ClientOptions::new().with_allow_http(address.scheme == Scheme::Http);
                let web = HttpBuilder::new().with_url(&root).with_client_options(options).with_retry(retry);
                Arc::new(web.build().map_err(|e| RemoteError::of(&root, &e))?)
            }
        };
        let bucket = Self { root: root.clone(), store, tries, versions: Mutex::default() };
        Ok(locked(&BUCKETS).entry(root).or_insert(Arc::new(bucket)).clone())
    }

    /// All that were opened.
    pub fn opened() -> Vec<Arc<Self>> {
        locked(&BUCKETS).values().cloned().collect()
    }

    /// Its address: scheme and bucket or host.
    pub fn root(&self) -> &str {
        &self.root
    }

    fn url(&self, path: &Path) -> String {
        format!("{}/{path}", self.root)
    }

    /// The object at a path, if there is one.
    ///
    /// # Errors
    /// When that cannot be said.
    pub async fn look(self: &Arc<Self>, path: &Path) -> Result<Option<Object>, RemoteError> {
        match self.store.head(path).await {
            Ok(meta) => self.fix(ObjectMeta { location: path.clone(), ..meta }).map(Some),
            Err(object_store::Error::NotFound { .. }) => Ok(None),
            Err(error) => Err(RemoteError::of(self.url(path), &error)),
        }
    }

    /// Every object below a prefix that `wanted` takes by its path.
    ///
    /// # Errors
    /// When they cannot be listed.
    pub async fn list(
        self: &Arc<Self>,
        prefix: &Path,
        wanted: impl Fn(&Path) -> bool + Send,
    ) -> Result<Vec<Object>, RemoteError> {
        let mut found = self.store.list(Some(prefix).filter(|prefix| !prefix.is_root()));
        let mut objects = Vec::new();
        while let Some(meta) = found.next().await {
            let meta = meta.map_err(|e| RemoteError::of(self.url(prefix), &e))?;
            if wanted(&meta.location) {
                objects.push(self.fix(meta)?);
            }
        }
        Ok(objects)
    }

    /// From now on this process reads that version, or another that it saw before.
    fn fix(self: &Arc<Self>, meta: ObjectMeta) -> Result<Object, RemoteError> {
        if meta.e_tag.is_none() && meta.last_modified.timestamp() == 0 {
            let found = "the server gives neither ETag nor Last-Modified, so nobody would notice that it changed";
            return Err(RemoteError {
                allowed: "copy it to this machine or into a bucket".into(),
                ..asked(self.url(&meta.location), found)
            });
        }
        let mut versions = locked(&self.versions);
        let meta = versions.entry(meta.location.clone()).or_insert(meta).clone();
        Ok(Object { bucket: self.clone(), meta })
    }

    /// The version of an object that is read.
    pub fn version(self: &Arc<Self>, path: &Path) -> Option<Object> {
        let meta = locked(&self.versions).get(path).cloned()?;
        Some(Object { bucket: self.clone(), meta })
    }
}

impl fmt::Display for Bucket {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.root)
    }
}

impl Object {
    /// Its address.
    pub fn url(&self) -> String {
        self.bucket.url(&self.meta.location)
    }

    /// The address of its bucket or host.
    pub fn root(&self) -> &str {
        &self.bucket.root
    }

    /// Its key.
    pub fn path(&self) -> &Path {
        &self.meta.location
    }

    /// What the server says of it.
    pub(crate) fn meta(&self) -> &ObjectMeta {
        &self.meta
    }

    /// Its size.
    pub fn bytes(&self) -> u64 {
        self.meta.size
    }

    /// When it was changed, in nanoseconds since 1970.
    pub fn modified(&self) -> u128 {
        let nanoseconds = self.meta.last_modified.timestamp_nanos_opt().unwrap_or_default();
        u128::try_from(nanoseconds).unwrap_or_default()
    }

    /// What the server calls this version.
    pub fn etag(&self) -> Option<&str> {
        self.meta.e_tag.as_deref()
    }

    /// Its ETag, if two contents never have the same one.
    pub fn strong_etag(&self) -> Option<&str> {
        self.meta.e_tag.as_deref().filter(|etag| !etag.starts_with("W/"))
    }

    /// All its bytes, as [`Object::range`].
    pub fn whole(&self) -> BoxStream<'static, Result<Bytes, RemoteError>> {
        self.range(0..self.meta.size)
    }

    /// The bytes of a range, in pieces, one of which is on its way while another is read.
    pub fn range(&self, range: Range<u64>) -> BoxStream<'static, Result<Bytes, RemoteError>> {
        let (object, Range { mut start, end }) = (self.clone(), range);
        let mut length = if end.saturating_sub(start) > CHUNK { FIRST } else { CHUNK };
        let pieces = std::iter::from_fn(move || {
            let piece = start..(start + length).min(end);
            (start, length) = (piece.end, (length * 2).min(CHUNK));
            (!piece.is_empty()).then_some(piece)
        });
        let fetched = move |piece| {
            let object = object.clone();
            async move {
                let url = object.url();
                let begun = io::begin(async move { object.fetch(piece).await });
                begun.map_err(|e| RemoteError::new(url, e, Fault::Server))?.await
            }
        };
        futures::stream::iter(pieces).map(fetched).buffered(AHEAD).boxed()
    }

    /// The bytes of a range, of this version.
    async fn fetch(&self, range: Range<u64>) -> Result<Bytes, RemoteError> {
        let mut tries = 1..=self.bucket.tries;
        loop {
            tries.next();
            match self.ask(range.clone()).await {
                // The client tries again by itself, except where a body ends early and it cannot know that.
                Err(Asked::Short(_)) if !tries.is_empty() => tokio::time::sleep(PAUSE).await,
                Err(Asked::Short(found)) => return Err(RemoteError::new(self.url(), found, Fault::Server)),
                Err(Asked::Failed(object_store::Error::NotFound { .. })) => {
                    return Err(RemoteError::new(self.url(), "it disappeared while it was read", Fault::Changed));
                }
                Err(Asked::Failed(error)) => return Err(RemoteError::of(self.url(), &error)),
                Err(Asked::Changed) => {
                    return Err(RemoteError::new(self.url(), CHANGED, Fault::Changed));
                }
                Ok(bytes) => return Ok(bytes),
            }
        }
    }

    async fn ask(&self, range: Range<u64>) -> Result<Bytes, Asked> {
        let wanted = range.end - range.start;
        let if_match = self.strong_etag().map(str::to_owned);
        let options = GetOptions { range: Some(range.into()), if_match, ..GetOptions::default() };
        let got = self.bucket.store.get_opts(&self.meta.location, options).await.map_err(Asked::Failed)?;
        // Not every server knows what If-Match means.
        if !self.same(&got.meta) {
            return Err(Asked::Changed);
        }
        let bytes = got.bytes().await;
        match bytes {
            Ok(bytes) if bytes.len() as u64 == wanted => Ok(bytes),
            Ok(bytes) => Err(Asked::Short(format!("the server sent {} of {wanted} bytes", bytes.len()))),
            // With an ETag the client has gone on where the body broke off, as often as it may.
            Err(_) if self.meta.e_tag.is_none() => Err(Asked::Short("the answer broke off".to_owned())),
            Err(error) => Err(Asked::Failed(error)),
        }
    }

    fn same(&self, now: &ObjectMeta) -> bool {
        let bare = |etag: &Option<String>| etag.as_ref().map(|etag| etag.trim_matches('"').to_owned());
        let version = match &self.meta.e_tag {
            Some(_) => bare(&self.meta.e_tag) == bare(&now.e_tag),
            None => self.meta.last_modified.timestamp() == now.last_modified.timestamp(),
        };
        version && self.meta.size == now.size
    }
}

/// Why a range did not come.
enum Asked {
    Failed(object_store::Error),
    Short(String),
    Changed,
}

fn asked(url: impl ToString, found: impl ToString) -> RemoteError {
    RemoteError::new(url, found, Fault::Asked)
}

/// The variables of the environment that a client knows, as AWS's tools and Google's have them; empty ones count as unset.
fn variables<K: FromStr>(prefix: &str) -> Vec<(K, String)> {
    let all = env::vars_os().filter_map(|(name, value)| Some((name.into_string().ok()?, value.into_string().ok()?)));
    let own = all.filter(|(name, value)| name.starts_with(prefix) && !value.is_empty());
    own.filter_map(|(name, value)| Some((name.to_ascii_lowercase().parse().ok()?, value))).collect()
}

/// As the client reads it.
fn is_on(value: &str) -> bool {
    ["1", "true", "on", "yes", "y"].contains(&value.to_ascii_lowercase().as_str())
}

async fn s3(address: &Address, retry: RetryConfig) -> Result<Arc<dyn ObjectStore>, RemoteError> {
    let root = address.root();
    let mut builder = AmazonS3Builder::new();
    for (key, value) in variables::<AmazonS3ConfigKey>("AWS_") {
        builder = builder.with_config(key, value);
    }
    let says = |key| builder.get_config_value(&key).unwrap_or_default();
    let endpoints = [says(AmazonS3ConfigKey::S3Endpoint), says(AmazonS3ConfigKey::Endpoint)];
    let endpoint = endpoints.iter().find(|endpoint| !endpoint.is_empty());
    let plain = is_on(&says(AmazonS3ConfigKey::Client(ClientConfigKey::AllowHttp)));
    if endpoint.is_some_and(|endpoint| endpoint.starts_with("http://")) && !plain {
        let found = "AWS_ENDPOINT_URL is an address without encryption";
        let allowed = "set AWS_ALLOW_HTTP=true if that is meant, or give one with https://".to_owned();
        return Err(RemoteError { allowed, ..asked(root, found) });
    }
    let public = is_on(&says(AmazonS3ConfigKey::SkipSignature));
    let built = builder.with_bucket_name(&address.authority).with_retry(retry).build();
    let store = built.map_err(|e| asked(&root, e))?;
    if !public && store.credentials().get_credential().await.is_err() {
        let found = "there are no credentials for it in the environment, and this machine has no role that gives some";
        let allowed = "set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY (and AWS_SESSION_TOKEN where they are temporary), or \
                       AWS_SKIP_SIGNATURE=true for a bucket that everybody may read";
        return Err(RemoteError { allowed: allowed.into(), ..asked(root, found) });
    }
    Ok(Arc::new(store))
}

async fn gs(address: &Address, retry: RetryConfig) -> Result<Arc<dyn ObjectStore>, RemoteError> {
    let root = address.root();
    let mut builder = GoogleCloudStorageBuilder::new();
    for (key, value) in variables::<GoogleConfigKey>("GOOGLE_") {
        builder = builder.with_config(key, value);
    }
    let public = builder.get_config_value(&GoogleConfigKey::SkipSignature).is_some_and(|value| is_on(&value));
    let allowed = "set GOOGLE_APPLICATION_CREDENTIALS to the file of a service account that may read it, or GOOGLE_SKIP_SIGNATURE=true \
                   for a bucket that everybody may read";
    // What the client says of a file of credentials may have some of it.
    let built = builder.with_bucket_name(&address.authority).with_retry(retry).build();
    let unread = |_| RemoteError { allowed: allowed.into(), ..asked(&root, "its credentials cannot be read") };
    let store = built.map_err(unread)?;
    if !public && store.credentials().get_credential().await.is_err() {
        let found =
            "there are no credentials for it in the environment, and this machine has no account that gives some";
        return Err(RemoteError { allowed: allowed.into(), ..asked(root, found) });
    }
    Ok(Arc::new(store))
}
