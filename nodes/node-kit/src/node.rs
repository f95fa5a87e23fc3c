//! The connection to dora: events in, messages out.

use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

use arrow::array::{Array, AsArray, StructArray};
use difflow_schema::{Facts, Message, SchemaError, meta};
use dora_node_api::dora_core::config::DataId;
use dora_node_api::futures::executor::block_on;
use dora_node_api::futures::future::{Either, select};
use dora_node_api::{self as dora, DoraArray, DoraNode, EventStream, MetadataParameters, Parameter, StopCause};
use eyre::{Context, Result, eyre};
use serde_json::Value;

use crate::dataflow::{Dataflow, Environment};

/// A connected node.
pub struct Node {
    dora: DoraNode,
    events: EventStream,
    /// Ends that came while messages were still queued.
    ends: VecDeque<Event>,
    /// The facts about the data on an output, as JSON.
    facts: BTreeMap<String, String>,
}

/// A message that came in.
pub struct Received {
    /// The input it came on.
    pub input: String,
    /// Its absolute sequence number on the edge.
    pub seq: u64,
    /// True if it says that the data ended before `seq`. It then has no content.
    pub fin: bool,
    /// True if it comes before the data and brings only the facts about it. It then has no content.
    pub prelude: bool,
    /// Its sender's facts about the data, as JSON; [`crate::Upstream`] reads them.
    pub facts: Option<String>,
    message: String,
    data: DoraArray,
}

impl Received {
    /// Returns the content as message `M`. Errors if the sender says it is another message, or the array does not fit.
    pub fn read<M: Message>(&self) -> Result<M> {
        if !M::reads(&self.message) {
            return Err(eyre!(
                "input `{}` got a {} message, wanted {}; connect it to the right output in the dataflow file",
                self.input,
                self.message,
                M::NAME
            ));
        }
        let array = self.data.as_array();
        let found = || SchemaError::NotAStruct { message: M::NAME, found: array.data_type().to_string() };
        let array: &StructArray = array.as_struct_opt().ok_or_else(found)?;
        M::from_array(array).with_context(|| format!("input `{}`, seq {}", self.input, self.seq))
    }
}

/// What happened.
pub enum Event {
    /// A message on an input.
    Message(Received),
    /// The timer input `tick` fired.
    Tick,
    /// An input has no sender any more: its node ended, successfully or not.
    Closed(String),
    /// Another node ended with an error.
    Failed {
        /// Its id.
        node: String,
    },
    /// `dora stop`, Ctrl-C or the end of the dataflow: finish the work at hand and exit. dora kills the node after
    /// about 10 s.
    Stop {
        /// True if a person asked for it, false if all inputs are closed.
        asked: bool,
    },
    /// Nothing happened within the time given to [`Node::next`].
    Timeout,
}

impl Node {
    /// Connects to the dora daemon that started this process. Errors if there is none, or it speaks another version.
    pub fn connect() -> Result<Self> {
        let (dora, events) = DoraNode::init_from_env().context("cannot connect to dora")?;
        Ok(Self { dora, events, ends: VecDeque::new(), facts: BTreeMap::new() })
    }

    /// Returns a node over given events and outputs, for tests without a daemon. Errors if dora's testing harness
    /// refuses its inputs.
    pub(crate) fn testing(
        input: dora::integration_testing::TestingInput,
        output: dora::integration_testing::TestingOutput,
        options: dora::integration_testing::TestingOptions,
    ) -> Result<Self> {
        let (dora, events) = DoraNode::init_testing(input, output, options)?;
        Ok(Self { dora, events, ends: VecDeque::new(), facts: BTreeMap::new() })
    }

    /// Returns this node's id in the dataflow file.
    pub fn id(&self) -> String {
        self.dora.id().to_string()
    }

    /// Returns its id without the names of the modules around it (dora: `MODULE.NODE`). run.json uses this name, so
    /// that it is the same whether the dataflow file has modules or not.
    pub fn name(&self) -> String {
        let id = self.id();
        id.rsplit('.').next().unwrap_or(&id).to_owned()
    }

    /// Returns the parsed dataflow file as JSON. Errors if dora does not give it.
    pub fn dataflow(&self) -> Result<Value> {
        Ok(serde_json::to_value(self.dora.dataflow_descriptor()?)?)
    }

    /// Returns this node's own `env:` block and the dataflow's, as dora read them: with `$NAME` filled in, numbers
    /// rewritten, and `dora run --env` added to the dataflow's. Errors if dora does not give the dataflow file.
    pub fn keys(&self) -> Result<(Environment, Environment)> {
        let dataflow = Dataflow::from(self.dora.dataflow_descriptor()?.clone());
        Ok((dataflow.own().remove(&self.id()).unwrap_or_default(), dataflow.shared()))
    }

    /// Returns the ids of the nodes like this one, as [`Dataflow::alike`]. Errors if dora does not give the dataflow file.
    pub fn alike(&self, input: &str) -> Result<Vec<String>> {
        Ok(Dataflow::from(self.dora.dataflow_descriptor()?.clone()).alike(&self.id(), input))
    }

    /// Returns dora's name for this start of the dataflow.
    pub fn start(&self) -> String {
        self.dora.dataflow_id().to_string()
    }

    /// Returns whether the dataflow file gives this node the output `output`; dora refuses messages on any other.
    /// Errors if dora does not give the dataflow file.
    pub fn has_output(&self, output: &str) -> Result<bool> {
        let own = self.own_entry()?;
        Ok(own.get("outputs").and_then(Value::as_array).is_some_and(|all| all.iter().any(|name| name == output)))
    }

    /// Returns this node's entry in the dataflow file.
    fn own_entry(&self) -> Result<Value> {
        let (dataflow, id) = (self.dataflow()?, self.id());
        let nodes = dataflow.get("nodes").and_then(Value::as_array).into_iter().flatten();
        let mut own = nodes.filter(|node| node.get("id").and_then(Value::as_str) == Some(id.as_str()));
        Ok(own.next().cloned().unwrap_or_default())
    }

    /// Returns the next event. Blocks for at most `timeout`, or without limit if it is `None`; with
    /// `Some(Duration::ZERO)` it does not wait. The end of the event stream is an [`Event::Stop`]. The end of an input
    /// comes after its messages. Errors if dora reports an error of its own.
    pub fn next(&mut self, timeout: Option<Duration>) -> Result<Event> {
        let Self { events, ends, .. } = self;
        in_order(ends, timeout, |timeout| receive(events, timeout))
    }

    /// Adds `facts` about the data to every further message on `output`. Errors if they cannot be written as JSON.
    pub fn say(&mut self, output: &str, facts: &Facts) -> Result<()> {
        self.facts.insert(output.to_owned(), serde_json::to_string(facts)?);
        Ok(())
    }

    /// Sends `message` as number `seq` on `output`. Errors if dora does not take it.
    pub fn send<M: Message>(&mut self, output: &str, seq: u64, message: &M) -> Result<()> {
        self.send_array::<M>(output, seq, None, DoraArray::from_array(message.to_array()?))
    }

    /// Sends on `output` that the data ended: there is no batch `seq`. Errors if dora does not take it.
    pub fn send_fin<M: Message>(&mut self, output: &str, seq: u64) -> Result<()> {
        self.send_empty::<M>(output, seq, meta::FIN)
    }

    /// Sends on `output`, before there is any data, the facts given to [`Node::say`]. Errors if dora does not take it.
    pub fn send_prelude<M: Message>(&mut self, output: &str) -> Result<()> {
        self.send_empty::<M>(output, 0, meta::PRELUDE)
    }

    fn send_empty<M: Message>(&mut self, output: &str, seq: u64, flag: &str) -> Result<()> {
        let empty = StructArray::new_null(M::fields(), 0);
        self.send_array::<M>(output, seq, Some(flag), DoraArray::from_array(empty))
    }

    fn send_array<M: Message>(&mut self, output: &str, seq: u64, flag: Option<&str>, array: DoraArray) -> Result<()> {
        let mut parameters = MetadataParameters::new();
        parameters.insert(meta::SEQ.into(), Parameter::Integer(i64::try_from(seq)?));
        parameters.insert(meta::FIN.into(), Parameter::Bool(flag == Some(meta::FIN)));
        if flag == Some(meta::PRELUDE) {
            parameters.insert(meta::PRELUDE.into(), Parameter::Bool(true));
        }
        parameters.insert(meta::MESSAGE.into(), Parameter::String(M::NAME.into()));
        if let Some(facts) = self.facts.get(output) {
            parameters.insert(meta::FACTS.into(), Parameter::String(facts.clone()));
        }
        self.dora
            .send_output(DataId::from(output.to_owned()), parameters, array)
            .with_context(|| format!("cannot send {} {seq} on `{output}`", M::NAME))
    }

    /// Returns how many messages dora has dropped since the last call, by input.
    pub fn dropped(&mut self) -> Vec<(String, u64)> {
        self.events.drain_drop_counts().into_iter().map(|(input, count)| (input.to_string(), count)).collect()
    }
}

/// Returns the next event from `receive`, but the ends of inputs and of the stream only after what is still queued:
/// dora reports them first. They wait in `ends`.
fn in_order(
    ends: &mut VecDeque<Event>,
    timeout: Option<Duration>,
    mut receive: impl FnMut(Option<Duration>) -> Result<Option<Event>>,
) -> Result<Event> {
    loop {
        let wait = if ends.is_empty() { timeout } else { Some(Duration::ZERO) };
        match receive(wait)? {
            Some(end @ (Event::Closed(_) | Event::Stop { asked: false })) => ends.push_back(end),
            Some(Event::Timeout) => return Ok(ends.pop_front().unwrap_or(Event::Timeout)),
            Some(event) => return Ok(event),
            None => return Ok(ends.pop_front().unwrap_or(Event::Stop { asked: false })),
        }
    }
}

/// Returns the next event in dora's order, or `None` at the end of the event stream.
fn receive(events: &mut EventStream, timeout: Option<Duration>) -> Result<Option<Event>> {
    loop {
        let event = match timeout {
            None => events.recv(),
            Some(Duration::ZERO) => match events.try_recv() {
                Ok(event) => Some(event),
                Err(dora::TryRecvError::Empty) => return Ok(Some(Event::Timeout)),
                Err(_) => None,
            },
            Some(timeout) => {
                // Not recv_timeout: it tells a timeout and an error apart by their text only.
                let event = std::pin::pin!(events.recv_async());
                match block_on(select(event, futures_timer::Delay::new(timeout))) {
                    Either::Left((event, _)) => event,
                    Either::Right(_) => return Ok(Some(Event::Timeout)),
                }
            }
        };
        let Some(event) = event else { return Ok(None) };
        if let Some(event) = translate(event)? {
            return Ok(Some(event));
        }
    }
}

/// Returns dora's event as ours, or `None` if it concerns no difflow node.
fn translate(event: dora::Event) -> Result<Option<Event>> {
    Ok(match event {
        dora::Event::Input { id, .. } if id.as_str() == "tick" => Some(Event::Tick),
        dora::Event::Input { id, metadata, data } => {
            let parameters = &metadata.parameters;
            let seq = dora::get_integer_param(parameters, meta::SEQ).and_then(|seq| u64::try_from(seq).ok());
            let seq = seq.ok_or_else(|| {
                eyre!("input `{id}` got a message without a sequence number; connect it to a difflow node")
            })?;
            Some(Event::Message(Received {
                input: id.to_string(),
                seq,
                fin: dora::get_bool_param(parameters, meta::FIN).unwrap_or(false),
                prelude: dora::get_bool_param(parameters, meta::PRELUDE).unwrap_or(false),
                facts: dora::get_string_param(parameters, meta::FACTS).map(str::to_owned),
                message: dora::get_string_param(parameters, meta::MESSAGE).unwrap_or("an unnamed").to_owned(),
                data,
            }))
        }
        dora::Event::InputClosed { id } => Some(Event::Closed(id.to_string())),
        dora::Event::NodeFailed { source_node_id, .. } => Some(Event::Failed { node: source_node_id.to_string() }),
        dora::Event::Stop(cause) => Some(Event::Stop { asked: !matches!(cause, StopCause::AllInputsClosed) }),
        // What follows is dora's own stack trace.
        dora::Event::Error(error) => {
            return Err(eyre!("dora: {}", error.split("\n\nLocation:").next().unwrap_or(&error)));
        }
        _ => None,
    })
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    /// dora reports the end of an input before the messages that are still queued on it; a tick stands for a message here.
    #[test]
    fn the_end_of_an_input_comes_after_what_is_queued() {
        let closed = |input: &str| Some(Event::Closed(input.into()));
        let stop = Some(Event::Stop { asked: false });
        let dora = [closed("a"), Some(Event::Tick), closed("b"), stop, Some(Event::Tick), Some(Event::Timeout)];
        let (mut dora, mut ends) = (dora.into_iter(), VecDeque::new());
        let found: Vec<String> = (0..6)
            .map(|_| match in_order(&mut ends, None, |_| Ok(dora.next().flatten())).unwrap() {
                Event::Tick => "tick".into(),
                Event::Closed(input) => input,
                Event::Stop { asked: false } => "stop".into(),
                _ => "another".into(),
            })
            .collect();
        assert_eq!(found, ["tick", "tick", "a", "b", "stop", "stop"]);
    }

    /// A person waits for it.
    #[test]
    fn a_stop_that_was_asked_for_comes_at_once() {
        let mut dora = [Event::Stop { asked: true }, Event::Tick].into_iter();
        let first = in_order(&mut VecDeque::new(), None, |_| Ok(dora.next())).unwrap();
        assert!(matches!(first, Event::Stop { asked: true }));
    }
}
