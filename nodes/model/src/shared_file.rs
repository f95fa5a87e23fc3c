//! The files of a model of which each of several processes keeps a share.

use std::collections::BTreeMap;
use std::ops::Range;

use tch::{Kind, Tensor};

use crate::error::ModelError;
use crate::model::Model;
use crate::reducer::Reducer;
use crate::shares::Piece;
use crate::snapshot::dtype;
use crate::tensor_writer::{Put, SavedFile, Shapes, lossless, write_bytes};
use crate::together::{Target, write_together};

/// The tensors of the files, by their names.
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

    fn show(&self, name: &str, range: &Range<usize>, to: usize, put: &mut Put<'_>) -> Result<(), ModelError> {
        let Some(Piece { parameter, range: all }) = self.places.get(name) else { return Ok(()) };
        let missing = || ModelError::Ranks(format!("elements of `{name}` that no rank keeps"));
        let own = |piece: &Piece| self.own(piece)?.pop().ok_or_else(missing);
        let wanted = Piece { parameter: *parameter, range: all.start + range.start..all.start + range.end };
        self.reducer.show(to, &wanted, Kind::Float, &own, put)
    }

    /// Writes the tensors, as [`write_together`], and in the first process config.json and the companions.
    pub fn write(&self, target: &Target) -> Result<Vec<SavedFile>, ModelError> {
        let show = |name: &str, range: &Range<usize>, to, put: &mut Put<'_>| self.show(name, range, to, put);
        let mut saved = write_together((target, "model"), &self.shapes, &Model::notes(), self.reducer, &show)?;
        if self.reducer.rank() > 0 {
            return Ok(saved);
        }
        let (dir, (config, companions)) = (target.dir, self.model.beside());
        let dtype = dtype(self.shapes.values().map(|(_, kind)| *kind));
        saved.push(write_bytes(dir, "config.json", config.to_json(dtype).as_bytes())?);
        for (name, bytes) in &companions {
            saved.push(write_bytes(dir, name, bytes)?);
        }
        Ok(saved)
    }
}
