//! From batches to examples.

use difflow_schema::Noised;
use difflow_schema::sequences::PADDING;
use serde::{Deserialize, Serialize};

/// A document of a batch, as the trainer gets it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Example {
    /// Number of the batch.
    pub batch: u64,
    /// Its row in the batch.
    pub row: usize,
    /// Its number in the row.
    pub document: u32,
    /// Where in the row it begins.
    pub position: usize,
    /// t, of the row or of each token.
    pub t: Vec<f64>,
    /// Token ids.
    pub tokens: Vec<u32>,
    /// Which of them may be masked and carry loss.
    pub maskable: Vec<bool>,
    /// Which of them are masked.
    pub masked: Vec<bool>,
    /// Tokens of padding behind it, where it is the last of its row.
    pub padding: usize,
}

/// The documents of a batch, row by row.
pub fn of(batch: u64, noised: &Noised) -> Vec<Example> {
    let (sequences, length) = (&noised.sequences, noised.sequences.length);
    let mut all = Vec::new();
    for row in 0..sequences.rows {
        let (first, documents) = (row * length, &sequences.documents[row * length..(row + 1) * length]);
        let mut position = 0;
        for part in documents.chunk_by(|a, b| a == b) {
            let (at, ts) = (first + position..first + position + part.len(), noised.t_of(row));
            if part[0] != PADDING {
                let behind = &documents[position + part.len()..];
                all.push(Example {
                    batch,
                    row,
                    document: part[0],
                    position,
                    t: if ts.len() == 1 { ts.to_vec() } else { ts[position..position + part.len()].to_vec() },
                    tokens: sequences.tokens[at.clone()].to_vec(),
                    maskable: sequences.maskable[at.clone()].to_vec(),
                    masked: noised.masked[at].to_vec(),
                    padding: if behind.first() == Some(&PADDING) { behind.len() } else { 0 },
                });
            }
            position += part.len();
        }
    }
    all
}

#[cfg(test)]
mod tests {
    use difflow_schema::Sequences;

    use super::*;

    #[test]
    fn every_document_is_an_example_and_padding_belongs_to_the_last() {
        let sequences = Sequences {
            rows: 2,
            length: 4,
            tokens: (10..18).collect(),
            documents: vec![0, 0, 1, PADDING, 0, 0, 0, 0],
            maskable: [0, 1, 0, 0, 0, 0, 1, 1].map(|flag| flag == 1).to_vec(),
        };
        let masked = [0, 1, 0, 0, 0, 0, 1, 0].map(|flag| flag == 1).to_vec();
        let t = (0..8).map(f64::from).collect::<Vec<_>>();
        let noised = Noised { sequences, masked, weight: t.clone(), t, blocks: vec![4, 4] };
        let all = of(3, &noised);
        let brief: Vec<_> = all.iter().map(|one| (one.row, one.document, one.position, one.padding)).collect();
        assert_eq!(brief, [(0, 0, 0, 0), (0, 1, 2, 1), (1, 0, 0, 0)]);
        assert_eq!((&all[1].tokens, &all[1].t), (&vec![12], &vec![2.0]));
        assert_eq!(
            (&all[2].maskable, &all[2].masked),
            (&vec![false, false, true, true], &vec![false, false, true, false])
        );
    }
}
