//! How canvases with an open end are decoded.

use difflow_model::{Canvas, DiffusionDecoding, Filling};

use crate::support::{GPT2, LLAMA, model};

/// Step by step beside a canvas on which everything behind the first end is given as end tokens: the next choice is the same, with the
/// same probability. If the rest of the canvas were dropped, as it is where the end is not open, the probability would be another.
#[test]
fn what_stands_behind_the_end_of_a_text_stays_in_view_as_end_tokens() {
    let stop: Vec<u32> = (3..9).collect();
    let closed = DiffusionDecoding { stop: stop.clone(), ..DiffusionDecoding::surest_first(true) };
    let open = DiffusionDecoding { open_end: true, ..closed.clone() };
    let (mut compared, mut others) = (0, 0);
    for json in [LLAMA, GPT2] {
        let model = model(json, true);
        for key in 0..12 {
            let canvas = Canvas::continuation(&[1, 12 + key as u32], 14, key);
            let text = model.decode(std::slice::from_ref(&canvas), &open).unwrap().remove(0);
            let ends: Vec<usize> = (2..text.tokens.len()).filter(|&at| stop.contains(&text.tokens[at])).collect();
            assert_eq!(ends, if text.stopped { vec![text.tokens.len() - 1] } else { vec![] });
            assert!(text.history.iter().all(|reveal| (reveal.position as usize) < text.tokens.len()));
            let first = |options: &DiffusionDecoding, canvas: &Canvas| {
                let mut filling = Filling::new(&model, options.clone()).unwrap();
                filling.join(canvas.clone()).unwrap();
                let mut given = canvas.clone();
                // Until something ends the text, and then once more.
                loop {
                    let revealed = filling.step().unwrap();
                    let reveal = *revealed.first()?.reveals.first()?;
                    let at = reveal.position as usize;
                    (given.tokens[at], given.masked[at]) = (reveal.token, false);
                    if stop.contains(&reveal.token) {
                        given.tokens[at + 1..].fill(reveal.token);
                        given.masked[at + 1..].fill(false);
                        return Some((given, *filling.step().unwrap().first()?.reveals.first()?));
                    }
                }
            };
            let Some((given, next)) = first(&open, &canvas) else { continue };
            let beside = DiffusionDecoding::surest_first(true);
            let wanted = model.decode(&[given], &beside).unwrap()[0].history[0];
            assert_eq!((next.position, next.token), (wanted.position, wanted.token));
            assert!((next.probability - wanted.probability).abs() < 1e-5);
            compared += 1;
            let dropped = first(&closed, &canvas).map(|(_, next)| next.probability);
            others += usize::from(dropped.is_some_and(|other| (other - wanted.probability).abs() > 1e-5));
        }
    }
    assert!(compared >= 6 && others >= 3, "{compared} compared, {others} of them others with the rest dropped");
}
