//! What the nodes of a look at a cluster send each other.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

use arrow::array::{StringArray, StructArray};
use arrow::datatypes::{DataType, Field, Fields};
use difflow_schema::columns::Column;
use difflow_schema::{Message, SchemaError};
use serde::{Deserialize, Serialize};

use crate::doctor::network::Opened;
use crate::doctor::report::Report;

/// JSON as a message. It is no message of a run: both ends are this program, so it is not declared among the ports of the nodes.
pub struct Words(pub String);

impl Message for Words {
    const NAME: &'static str = "doctor/1";

    fn fields() -> Fields {
        Fields::from(vec![Field::new("json", DataType::Utf8, false)])
    }

    fn to_array(&self) -> Result<StructArray, SchemaError> {
        Ok(StructArray::new(Self::fields(), vec![Arc::new(StringArray::from(vec![self.0.as_str()]))], None))
    }

    fn from_array(array: &StructArray) -> Result<Self, SchemaError> {
        let column = Column::find(Self::NAME, array, "json")?;
        match column.texts()?.as_slice() {
            [text] => Ok(Self(text.clone())),
            some => Err(column.content(format!("{} texts; wanted one", some.len()))),
        }
    }
}

/// What the collector asks all probes.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub enum Ask {
    /// Wait for the others where ranks will.
    Open,
    /// What time is it?
    Clock,
    /// Look at everything; the others wait at these addresses, by machine.
    Look(BTreeMap<String, Opened>),
}

/// What a probe answers, with the number of the message that asked.
#[derive(Debug, Serialize, Deserialize)]
pub struct Answer {
    pub to: u64,
    pub what: Answered,
}

#[derive(Debug, Serialize, Deserialize)]
pub enum Answered {
    Open(Opened),
    /// Seconds since 1970.
    Clock(f64),
    Look(Box<Report>),
}

/// What the clock on the wall says, in seconds since 1970: it is compared, and decides nothing.
pub fn now() -> f64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs_f64()
}

/// How far the clock of a machine is from that of the collector's, which is the machine of rank 0: that one dates what a run writes. The
/// machine that asks is none of the cluster's, maybe, and no message goes from there to the others.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Clock {
    /// Seconds that it is ahead.
    pub ahead: f64,
    /// By so much that may be wrong: half of the shortest round trip.
    pub within: f64,
}

/// What the collector prints of a machine.
#[derive(Debug, Serialize, Deserialize)]
pub struct Heard {
    pub machine: String,
    pub clock: Option<Clock>,
    pub report: Box<Report>,
}
