//! The file of a model of which each of several processes keeps a share: the first process writes what all of them give it, a part of a tensor
//! at a time. The bytes are those that a process with all of the model writes.

use std::collections::BTreeMap;
use std::path::Path;

use tch::{Kind, Tensor};

use crate::error::ModelError;
use crate::model::Model;
use crate::reducer::Reducer;
use crate::shares::Piece;
use crate::snapshot::dtype;
use crate::tensor_writer::{Put, SavedFile, Shapes, lossless, write_bytes, write_in_files};

/// The tensors of the file, by their names.
pub(crate) struct SharedFile<'a> {
    model: &'a Model,
    /// Of each piece of this process.
    values: &'a [Tensor],
    reducer: &'a dyn Reducer,
    /// Where a tensor's elements are.
    places: BTreeMap<String, Piece>,
    shapes: Shapes,
}

impl<'a> SharedFile<'a> {
    /// All processes come here: each tensor is written in the element type that it was read from, where that loses nothing in any of them.
    pub fn new(model: &'a Model, values: &'a [Tensor], reducer: &'a dyn Reducer) -> Result<Self, ModelError> {
        let mut file = Self { model, values, reducer, places: BTreeMap::new(), shapes: Shapes::new() };
        for (number, parameter) in model.parameters.iter().enumerate() {
            let mut begin = 0;
            for (part, stored) in parameter.leaf.parts.iter().zip(&parameter.stored) {
                let range = begin..begin + part.shape.iter().product::<i64>() as usize;
                begin = range.end;
                file.places.insert(part.name.clone(), Piece { parameter: number, range });
                file.shapes.insert(part.name.clone(), (part.shape.clone(), *stored));
            }
        }
        let mut wide = Vec::with_capacity(file.shapes.len());
        for (place, (_, stored)) in file.places.values().zip(file.shapes.values()) {
            let mut loses = false;
            for own in file.own(place)? {
                loses |= lossless(&own, *stored)? != *stored;
            }
            wide.push(f64::from(u8::from(loses)));
        }
        let all = reducer.gather(&wide)?;
        for (number, (_, kind)) in file.shapes.values_mut().enumerate() {
            if all.iter().skip(number).step_by(wide.len()).any(|loses| *loses > 0.0) {
                *kind = Kind::Float;
            }
        }
        Ok(file)
    }

    /// The values of this process among some elements.
    fn own(&self, Piece { parameter, range }: &Piece) -> Result<Vec<Tensor>, ModelError> {
        let pieces = self.reducer.pieces().unwrap_or_default().iter().zip(self.values);
        let mut found = Vec::new();
        for (piece, values) in pieces.filter(|(piece, _)| piece.parameter == *parameter) {
            let (from, to) = (range.start.max(piece.range.start), range.end.min(piece.range.end));
            if from < to {
                found.push(values.f_narrow(0, (from - piece.range.start) as i64, (to - from) as i64)?);
            }
        }
        Ok(found)
    }

    fn show(&self, name: &str, take: &mut Put<'_>) -> Result<(), ModelError> {
        let Some(place) = self.places.get(name) else { return Ok(()) };
        let missing = || ModelError::Ranks(format!("elements of `{name}` that no rank keeps"));
        let own = |piece: &Piece| self.own(piece)?.pop().ok_or_else(missing);
        self.reducer.show(place, Kind::Float, &own, take)
    }

    /// Writes config.json, the tensors and the companions in the first process.
    pub fn write(&self, dir: &Path, limit: u64) -> Result<Vec<SavedFile>, ModelError> {
        let (config, companions) = self.model.beside();
        let mut saved = vec![write_bytes(dir, "config.json", config.to_json(dtype(&self.shapes)).as_bytes())?];
        let (notes, show) = (Model::notes(), &mut |name: &str, put: &mut Put<'_>| self.show(name, put));
        saved.extend(write_in_files(dir, "model", limit, &self.shapes, &notes, show)?);
        for (name, bytes) in &companions {
            saved.push(write_bytes(dir, name, bytes)?);
        }
        Ok(saved)
    }

    /// What the other processes do meanwhile.
    pub fn tell(&self) -> Result<(), ModelError> {
        self.shapes.keys().try_for_each(|name| self.show(name, &mut |_| Ok(())))
    }
}
