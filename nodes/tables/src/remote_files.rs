//! From an address to the objects there.

use std::path::{Path as FilePath, PathBuf};

use glob::{MatchOptions, Pattern};
use object_store::path::Path;

use crate::FileProblem;
use crate::address::Address;
use crate::bucket::{Bucket, Object};
use crate::files::{Format, Reading};
use crate::io;
use crate::remote_error::{Fault, RemoteError};

/// The objects at an address (an object, a prefix as a folder, or a pattern), in the order that files of the same names would have.
/// Of a folder those of a known format, or of `format`.
///
/// # Errors
/// When there are none, or that cannot be said.
pub fn find(address: &Address, format: Option<Format>) -> Result<Vec<Object>, FileProblem> {
    let own = address.clone();
    let found = io::wait(async move { look(&own, format).await });
    let found = found.unwrap_or_else(|e| Err(RemoteError::new(address, e, Fault::Server)));
    let mut objects = found.map_err(FileProblem::from)?;
    objects.sort_by_cached_key(|object| PathBuf::from(object.path().as_ref()));
    Ok(objects)
}

async fn look(address: &Address, format: Option<Format>) -> Result<Vec<Object>, RemoteError> {
    let bucket = Bucket::open(address).await?;
    let wrong = |e: &dyn std::fmt::Display| RemoteError::new(address, e, Fault::Asked);
    if address.scheme.is_web() {
        let path = Path::from_url_path(&address.path).map_err(|e| wrong(&e))?;
        let object = bucket.look(&path).await?;
        return Ok(vec![object.ok_or_else(|| wrong(&"there is no such file (404)"))?]);
    }
    if address.path.contains(['*', '?', '[']) {
        let pattern = Pattern::new(&address.path).map_err(|e| wrong(&e))?;
        // As patterns of files: only `**` goes through slashes, and a name that begins with a dot must be named.
        let options =
            MatchOptions { case_sensitive: true, require_literal_separator: true, require_literal_leading_dot: true };
        let before = address.path.split(['*', '?', '[']).next().unwrap_or_default();
        let folder = before.rsplit_once('/').map_or("", |(folder, _)| folder);
        let prefix = Path::parse(folder).map_err(|e| wrong(&e))?;
        return bucket.list(&prefix, |path| pattern.matches_with(path.as_ref(), options)).await;
    }
    let path = Path::parse(&address.path).map_err(|e| wrong(&e))?;
    if !address.path.is_empty()
        && !address.path.ends_with('/')
        && let Some(object) = bucket.look(&path).await?
    {
        return Ok(vec![object]);
    }
    let below = path.as_ref().len();
    let visible = |name: &str| !name.split('/').any(|part| part.starts_with('.'));
    let wanted = |object: &Path| {
        let name = &object.as_ref()[below.min(object.as_ref().len())..];
        visible(name.trim_start_matches('/')) && Reading::fits(FilePath::new(object.as_ref()), format)
    };
    let objects = bucket.list(&path, wanted).await?;
    if objects.is_empty() {
        let found = "there is no such object, and none of a known format below it";
        return Err(RemoteError {
            allowed: "check the address, and the ending of the names: .parquet, .jsonl, .csv, .txt".into(),
            ..wrong(&found)
        });
    }
    Ok(objects)
}
