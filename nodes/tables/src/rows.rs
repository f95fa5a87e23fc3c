//! The rows of a query over the files of one path, as JSON objects.

use datafusion::arrow::array::RecordBatch;
use datafusion::arrow::json::WriterBuilder;
use datafusion::arrow::json::writer::JsonArray;
use datafusion::common::TableReference;
use datafusion::error::Result;
use datafusion::execution::context::SQLOptions;
use futures::StreamExt;
use serde_json::{Map, Value};

use crate::FileProblem;
use crate::caught::caught;
use crate::files::Format;
use crate::table::{Texts, open, session};

/// What the table of the files is called in a query.
const TABLE: &str = "source";

/// The rows of a query.
#[derive(Debug, Clone, PartialEq)]
pub struct Rows {
    /// Names of the columns.
    pub columns: Vec<String>,
    /// One object a row, with every column.
    pub rows: Vec<Map<String, Value>>,
}

/// Returns the rows of a query over the table `source`, the files at a path; without a query all of them, with a limit the first so many.
/// Errors if the files or the query cannot be read.
pub fn rows(
    path: &str,
    format: Option<Format>,
    texts: &Texts,
    sql: Option<&str>,
    limit: Option<usize>,
) -> std::result::Result<Rows, FileProblem> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .build()
        .map_err(|e| FileProblem::new(format!("path `{path}`"), format!("it cannot be read: {e}")))?;
    runtime.block_on(async {
        let table = open(path, format, texts).await?;
        let (session, sql) = (session(), sql.unwrap_or("SELECT * FROM source"));
        let wrong = |e: &dyn std::fmt::Display| {
            FileProblem::new(format!("query `{sql}` over `{path}`"), format!("allowed: a query over `source`; {e}"))
        };
        session.register_table(TableReference::bare(TABLE), table).map_err(|e| wrong(&e.strip_backtrace()))?;
        let only_queries = SQLOptions::new().with_allow_ddl(false).with_allow_dml(false).with_allow_statements(false);
        let frame = session.sql_with_options(sql, only_queries).await.map_err(|e| wrong(&e.strip_backtrace()))?;
        let columns = frame.schema().fields().iter().map(|field| field.name().clone()).collect();
        let read = async {
            let mut stream = frame.execute_stream().await?;
            let mut rows = Vec::new();
            while let Some(batch) = stream.next().await {
                rows.append(&mut objects(&batch?)?);
                if limit.is_some_and(|limit| rows.len() >= limit) {
                    break;
                }
            }
            rows.truncate(limit.unwrap_or(usize::MAX));
            Ok::<_, datafusion::error::DataFusionError>(rows)
        };
        let rows = caught(read).await.map_err(|e| wrong(&e))?.map_err(|e| wrong(&e.strip_backtrace()))?;
        Ok(Rows { columns, rows })
    })
}

fn objects(batch: &RecordBatch) -> Result<Vec<Map<String, Value>>> {
    let mut writer = WriterBuilder::new().with_explicit_nulls(true).build::<_, JsonArray>(Vec::new());
    writer.write(batch)?;
    writer.finish()?;
    let text = writer.into_inner();
    if text.is_empty() {
        return Ok(Vec::new());
    }
    serde_json::from_slice(&text).map_err(|e| datafusion::error::DataFusionError::External(e.into()))
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_query_gives_objects_with_lists_numbers_and_nulls() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a.jsonl");
        std::fs::write(
            &path,
            "{\"q\": \"x\", \"c\": [\"a\", \"b\"], \"n\": 1}\n{\"q\": \"y\", \"c\": [], \"n\": null}\n",
        )
        .unwrap();
        let path = path.to_str().unwrap();
        let all = rows(path, None, &Texts::default(), None, None).unwrap();
        assert_eq!(json!(all.rows), json!([{"c": ["a", "b"], "n": 1, "q": "x"}, {"c": [], "n": null, "q": "y"}]));
        let some = rows(path, None, &Texts::default(), Some("SELECT n + 1 AS m FROM source"), Some(1)).unwrap();
        assert_eq!((some.columns, json!(some.rows)), (vec!["m".to_owned()], json!([{"m": 2}])));
        let wrong = rows(path, None, &Texts::default(), Some("SELECT z FROM source"), None).unwrap_err().to_string();
        assert!(wrong.contains("a.jsonl") && wrong.contains('z'), "{wrong}");
        assert!(rows("/nowhere", None, &Texts::default(), None, None).unwrap_err().to_string().contains("/nowhere"));
        assert!(rows(path, None, &Texts::default(), Some("DROP TABLE source"), None).is_err());
    }

    /// Files of questions with a line for each part.
    #[test]
    fn lines_of_a_text_can_be_rows_of_several() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a.txt");
        std::fs::write(&path, "one\n1\ntwo \n2\nthree\n").unwrap();
        let texts = Texts { separator: Some("\n".into()), column: "text".into(), pieces: 2 };
        let found = rows(path.to_str().unwrap(), None, &texts, None, None).unwrap();
        let wanted = json!([{"text_1": "one", "text_2": "1"}, {"text_1": "two", "text_2": "2"}]);
        assert_eq!(json!(&found.rows[..2]), wanted);
        assert_eq!(json!(found.rows[2]), json!({"text_1": "three", "text_2": ""}));
    }
}
