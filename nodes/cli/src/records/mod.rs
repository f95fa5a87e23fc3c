//! Looking at past runs: `difflow runs`, `diff`, `report` and `sql`.

pub mod diff;
pub mod list;
pub mod metrics;
pub mod report;
pub mod run;
pub mod sql;
