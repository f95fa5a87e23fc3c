//! The queries that select the documents: one for each source, or one over all of them.

use std::sync::Arc;

use datafusion::arrow::datatypes::DataType;
use datafusion::catalog::TableProvider;
use datafusion::common::{Column, TableReference};
use datafusion::error::DataFusionError;
use datafusion::execution::context::SQLOptions;
use datafusion::logical_expr::Expr;
use datafusion::prelude::DataFrame;
use difflow_node_kit::{Problem, Problems};
use difflow_tables::{self as tables, Texts};

use crate::config::{Columns, Config};
use crate::source::{self, EACH, Listed, Source};

/// A query with the columns that documents are made of, and its weight in the mixture.
pub struct Query {
    pub frame: DataFrame,
    pub weight: f64,
    /// The sources that it reads, for messages.
    pub paths: String,
}

type Table = (Source, Arc<dyn TableProvider>);

/// Opens the sources and plans the queries.
///
/// # Errors
/// What is wrong with SOURCES, SQL or TEXT_COLUMN.
pub async fn plan(config: &Config, listed: &[Listed]) -> Result<Vec<Query>, Problems> {
    let (mut tables, mut problems) = (Vec::new(), Vec::new());
    let texts = Texts { separator: config.text_separator.clone(), column: config.text_column.clone(), pieces: 1 };
    for Listed { source, files } in listed {
        match tables::table(&source.path, files, &texts).await {
            Ok(table) => tables.push((source.clone(), table)),
            Err(problem) => problems.push(source::wrong(problem)),
        }
    }
    Problems(problems).into_result()?;
    if !uses_each(config)? {
        let weighted = tables.len() > 1 && tables.iter().any(|(source, _)| source.weighted);
        if weighted {
            let allowed = "weights mix the results of a query over `source`; this query decides the order alone: leave out the weights";
            return Err(Problem::new("SQL", config.sql.as_deref().unwrap_or_default(), allowed).into());
        }
        let (source, table) = &tables[0];
        let paths = tables.iter().map(|(source, _)| source.path.as_str()).collect::<Vec<_>>().join(", ");
        return Ok(vec![Query { frame: frame(config, source, table, &tables).await?, weight: 1.0, paths }]);
    }
    let mut queries = Vec::new();
    for (source, table) in &tables {
        let frame = frame(config, source, table, &tables).await?;
        queries.push(Query { frame, weight: source.weight, paths: source.path.clone() });
    }
    Ok(queries)
}

/// Whether the query is one over `source`, to be run for each source.
fn uses_each(config: &Config) -> Result<bool, Problem> {
    let Some(sql) = &config.sql else { return Ok(true) };
    let state = tables::session().state();
    let dialect = state.config_options().sql_parser.dialect;
    let statement = state.sql_to_statement(sql, &dialect).map_err(|e| wrong_sql(sql, &e))?;
    let references = state.resolve_table_references(&statement).map_err(|e| wrong_sql(sql, &e))?;
    Ok(references.iter().any(|table| table.table() == EACH))
}

fn wrong_sql(sql: &str, error: &DataFusionError) -> Problem {
    Problem::new("SQL", sql, error.strip_backtrace())
}

async fn frame(
    config: &Config,
    source: &Source,
    each: &Arc<dyn TableProvider>,
    tables: &[Table],
) -> Result<DataFrame, Problem> {
    let session = tables::session();
    let own = tables.iter().map(|(source, table)| (source.name.as_str(), table));
    for (name, table) in own.chain([(EACH, each)]) {
        // Registering may only fail for a catalog that is not there.
        session
            .register_table(TableReference::bare(name), table.clone())
            .map_err(|e| Problem::new("SOURCES", name, e.strip_backtrace()))?;
    }
    let frame = match &config.sql {
        None => session.table(TableReference::bare(EACH)).await,
        Some(sql) => {
            let only_queries =
                SQLOptions::new().with_allow_ddl(false).with_allow_dml(false).with_allow_statements(false);
            session.sql_with_options(sql, only_queries).await
        }
    };
    let frame = frame.map_err(|e| {
        let names: Vec<&str> = tables.iter().map(|(source, _)| source.name.as_str()).collect();
        let allowed = format!("{}; its tables: {EACH}, {}", e.strip_backtrace(), names.join(", "));
        Problem::new("SQL", config.sql.as_deref().unwrap_or_default(), allowed)
    })?;
    let columns = wanted(config);
    for column in &columns {
        check_column(&frame, column, config, source)?;
    }
    let selected: Vec<Expr> =
        columns.iter().map(|column| Expr::Column(Column::new_unqualified(&column.name))).collect();
    let first = &columns[0];
    frame.select(selected).map_err(|e| Problem::new(first.key, &first.name, e.strip_backtrace()))
}

/// A column that documents are made of.
struct Wanted {
    key: &'static str,
    name: String,
    /// How to get a text from another type.
    cast_to: &'static str,
    fits: fn(&DataType) -> bool,
}

/// Those of a configuration; at least one.
fn wanted(config: &Config) -> Vec<Wanted> {
    let text = |key, name, cast_to| Wanted { key, name, cast_to, fits: is_text };
    match config.columns() {
        Columns::Text(name) => vec![text("TEXT_COLUMN", name, "text")],
        Columns::Exchange { prompt, response } => {
            vec![text("PROMPT_COLUMN", prompt, "prompt"), text("RESPONSE_COLUMN", response, "response")]
        }
        Columns::Messages(name) => {
            vec![Wanted { key: "MESSAGES_COLUMN", name, cast_to: "messages", fits: is_messages }]
        }
    }
}

fn check_column(frame: &DataFrame, column: &Wanted, config: &Config, source: &Source) -> Result<(), Problem> {
    let Wanted { key, name, cast_to, fits } = column;
    let of = if config.sql.is_some() { "the result of SQL".to_owned() } else { format!("source `{}`", source.path) };
    let fields = frame.schema().fields();
    let mut named = fields.iter().filter(|field| field.name() == name);
    let problem = |allowed: String| Err(Problem::new(*key, name, allowed));
    match (named.next(), named.next()) {
        (None, _) => {
            let names: Vec<&str> = fields.iter().map(|field| field.name().as_str()).collect();
            problem(format!("{of} has no such column; its columns: {}", names.join(", ")))
        }
        (Some(_), Some(_)) => problem(format!("{of} has several columns of that name; name one with AS")),
        (Some(field), None) if !fits(field.data_type()) => {
            let how = format!("SELECT arrow_cast(\"{name}\", 'Utf8') AS {cast_to} FROM source");
            problem(format!(
                "it is {} in {of}, wanted text; another column, or a cast in SQL: {how}",
                field.data_type()
            ))
        }
        _ => Ok(()),
    }
}

/// A list of objects, or its JSON.
fn is_messages(kind: &DataType) -> bool {
    match kind {
        DataType::List(item) | DataType::LargeList(item) | DataType::ListView(item) => {
            matches!(item.data_type(), DataType::Struct(_))
        }
        kind => is_text(kind),
    }
}

fn is_text(kind: &DataType) -> bool {
    match kind {
        DataType::Utf8 | DataType::LargeUtf8 | DataType::Utf8View => true,
        DataType::Dictionary(_, values) => is_text(values),
        _ => false,
    }
}
