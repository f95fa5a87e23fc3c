//! Event files for TensorBoard, in the folder `tensorboard` of the run.
//!
//! A record is its length, a masked CRC-32C of that, a protocol buffer, and a masked CRC-32C of the buffer
//! (TensorFlow's TFRecord format). Records are appended; TensorBoard skips a record that is incomplete. Each process
//! of a run writes its own file.

mod proto;

use std::fs::{self, File};
use std::io::{self, BufWriter, Write};
use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

use difflow_schema::Sample;
use prost::Message;

use crate::history::Row;
use proto::{Event, SessionLog, Summary, Value, What};

/// Texts shown of a kind and checkpoint.
const TEXTS: usize = 4;

/// An event file cannot be written.
#[derive(Debug, thiserror::Error)]
#[error("{}: {source}; TENSORBOARD: false does without these files", path.display())]
pub struct EventsError {
    path: PathBuf,
    source: io::Error,
}

/// The event file of this process.
pub struct Events {
    path: PathBuf,
    file: BufWriter<File>,
    /// Whether an earlier process wrote steps that may be repeated now.
    resumed: bool,
}

impl Events {
    /// Begins a file in `folder`. `resumed`: an earlier process wrote some already.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn create(folder: &Path, resumed: bool) -> Result<Self, EventsError> {
        // TensorBoard reads the files of a folder in the order of their names.
        let name = format!("events.out.tfevents.{:010}.difflow.{}", now() as u64, std::process::id());
        let path = folder.join(name);
        let created = fs::create_dir_all(folder).and_then(|()| File::create(&path));
        let file = created.map_err(|source| EventsError { path: path.clone(), source })?;
        let mut events = Self { path, file: BufWriter::new(file), resumed };
        events.write(0, What::FileVersion("brain.Event:2".into()))?;
        Ok(events)
    }

    /// Writes metrics as scalars under `section/NAME`.
    ///
    /// # Errors
    /// When the disk refuses them.
    pub fn scalars(&mut self, section: &str, rows: &[Row]) -> Result<(), EventsError> {
        for rows in rows.chunk_by(|a, b| a.step == b.step) {
            let step = rows.first().map_or(0, |row| row.step);
            let value = |row: &Row| Value::scalar(format!("{section}/{}", row.name), row.value as f32);
            self.write(step, What::Summary(Summary { value: rows.iter().map(value).collect() }))?;
        }
        Ok(())
    }

    /// Says that training goes on with `step`: what an earlier process wrote from there on no longer counts.
    ///
    /// # Errors
    /// When the disk refuses it.
    pub fn training_begins(&mut self, step: u64) -> Result<(), EventsError> {
        if std::mem::take(&mut self.resumed) {
            self.write(step, What::SessionLog(SessionLog { status: SessionLog::START }))?;
        }
        Ok(())
    }

    /// Writes some texts of each kind.
    ///
    /// # Errors
    /// When the disk refuses them.
    pub fn texts(&mut self, samples: &[Sample]) -> Result<(), EventsError> {
        for sample in samples.iter().filter(|sample| sample.index < TEXTS as u64) {
            let tag = format!("samples/{} {}", sample.kind, sample.index);
            // TensorBoard takes texts for Markdown: indented, nothing in them is.
            let text: String = sample.text.lines().map(|line| format!("    {line}\n")).collect();
            self.write(sample.step, What::Summary(Summary { value: vec![Value::text(tag, text)] }))?;
        }
        Ok(())
    }

    /// Hands everything to the system.
    ///
    /// # Errors
    /// When the disk refuses it.
    pub fn flush(&mut self) -> Result<(), EventsError> {
        self.file.flush().map_err(|source| EventsError { path: self.path.clone(), source })
    }

    fn write(&mut self, step: u64, what: What) -> Result<(), EventsError> {
        let event = Event { wall_time: now(), step: step as i64, what: Some(what) };
        let record = record(&event.encode_to_vec());
        self.file.write_all(&record).map_err(|source| EventsError { path: self.path.clone(), source })
    }
}

fn now() -> f64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0.0, |since| since.as_secs_f64())
}

fn record(data: &[u8]) -> Vec<u8> {
    let length = (data.len() as u64).to_le_bytes();
    [&length[..], &masked_crc(&length).to_le_bytes(), data, &masked_crc(data).to_le_bytes()].concat()
}

/// TFRecord's checksum: CRC-32C, turned and moved, so that a checksum inside the data does no harm.
fn masked_crc(data: &[u8]) -> u32 {
    crc32c::crc32c(data).rotate_right(15).wrapping_add(0xa282_ead8)
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
#[path = "tensorboard/tests.rs"]
mod tests;
