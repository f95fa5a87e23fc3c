//! A node without a daemon, for tests: its input is given, its output is recorded.

use difflow_schema::{Facts, Message, meta};
use dora_node_api::integration_testing::integration_testing_format::{IncomingEvent, InputData, TimedIncomingEvent};
use dora_node_api::integration_testing::{
    IntegrationTestInput, OutputReceiver, TestingInput, TestingOptions, TestingOutput, drain_outputs, output_channel,
};
use dora_node_api::{MetadataParameters, Parameter};
use eyre::Result;
use serde_json::Value;

use crate::node::Node;

/// What a node receives, in order; at the end its inputs are closed.
#[derive(Default)]
pub struct Heard(Vec<TimedIncomingEvent>);

/// What a node sent.
pub struct Said(OutputReceiver);

impl Heard {
    /// Adds message number `seq` on `input`: rows of `M` as JSON. Errors if the schema of `M` cannot be written.
    pub fn message<M: Message>(self, input: &str, seq: i64, rows: Value) -> Result<Self> {
        self.input::<M>(input, seq, rows, MetadataParameters::new())
    }

    /// Adds a prelude on `input`: facts about the data before there is any. Errors if the facts or the schema of `M`
    /// cannot be written.
    pub fn prelude<M: Message>(self, input: &str, facts: &Facts) -> Result<Self> {
        let mut metadata = MetadataParameters::new();
        metadata.insert(meta::PRELUDE.into(), Parameter::Bool(true));
        metadata.insert(meta::FACTS.into(), Parameter::String(serde_json::to_string(facts)?));
        self.input::<M>(input, 0, Value::Array(Vec::new()), metadata)
    }

    fn input<M: Message>(self, input: &str, seq: i64, rows: Value, mut metadata: MetadataParameters) -> Result<Self> {
        metadata.insert(meta::SEQ.into(), Parameter::Integer(seq));
        metadata.insert(meta::MESSAGE.into(), Parameter::String(M::NAME.into()));
        let data_type = Some(serde_json::to_value(arrow::datatypes::DataType::Struct(M::fields()))?);
        let data = Some(Box::new(InputData::JsonObject { data: rows, data_type }));
        Ok(self.and(IncomingEvent::Input { id: input.parse()?, metadata: Some(metadata), data }))
    }

    /// Adds the end of `input`. Errors if this cannot be a name.
    pub fn closed(self, input: &str) -> Result<Self> {
        Ok(self.and(IncomingEvent::InputClosed { id: input.parse()? }))
    }

    /// Adds a person's request to stop.
    pub fn stop(self) -> Self {
        self.and(IncomingEvent::Stop)
    }

    fn and(mut self, event: IncomingEvent) -> Self {
        self.0.push(TimedIncomingEvent { time_offset_secs: 0.0, event });
        self
    }

    /// Returns the node that receives it, and what it sends. Errors if dora's testing harness refuses it.
    pub fn node(self) -> Result<(Node, Said)> {
        let (sender, receiver) = output_channel();
        let input = TestingInput::Input(IntegrationTestInput::new("node".parse()?, self.0));
        let options = TestingOptions { skip_output_time_offsets: true };
        Ok((Node::testing(input, TestingOutput::ToChannel(sender), options)?, Said(receiver)))
    }
}

impl Said {
    /// Returns the messages on `output` so far: the rows of each.
    pub fn on(&mut self, output: &str) -> Vec<Value> {
        let all = drain_outputs(&mut self.0).into_iter();
        all.filter(|said| said.get("id").and_then(Value::as_str) == Some(output))
            .filter_map(|mut said| said.remove("data"))
            .collect()
    }
}
