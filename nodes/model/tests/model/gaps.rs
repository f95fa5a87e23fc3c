//! Texts with gaps of given and of unknown length.

use difflow_model::{Canvas, DiffusionDecoding, GapLength, Infilled, Model, Piece, Template};

use crate::support::{LLAMA, model, tokens};

fn given(length: usize) -> Piece {
    Piece::Gap(GapLength { least: length, most: length })
}

fn between(least: usize, most: usize) -> Piece {
    Piece::Gap(GapLength { least, most })
}

fn infill(model: &Model, pieces: Vec<Piece>, options: &DiffusionDecoding) -> Infilled {
    model.infill(&[Template { pieces, key: 3 }], options, &mut |_, _, _| {}).unwrap().remove(0)
}

#[test]
fn gaps_of_given_length_lie_between_what_is_given() {
    let model = model(LLAMA, true);
    let (left, right) = (tokens(4, 1), tokens(3, 2));
    let pieces = vec![
        Piece::Tokens(vec![1]),
        given(2),
        Piece::Tokens(left.clone()),
        given(0),
        given(3),
        Piece::Tokens(right.clone()),
    ];
    let filled = infill(&model, pieces, &DiffusionDecoding::surest_first(true));
    let mask: String = filled.canvas.masked.iter().map(|&masked| if masked { '_' } else { 'x' }).collect();
    assert_eq!(mask, "x__xxxx___xxx");
    assert_eq!((&filled.decoded.tokens[3..7], &filled.decoded.tokens[10..]), (&left[..], &right[..]));
    assert_eq!((filled.lengths, filled.decoded.nfe), (vec![2, 0, 3], 5));
}

/// The length must be the one with the most probable filling, and the text that of this length.
#[test]
fn an_unknown_length_is_the_one_with_the_most_probable_filling() {
    let model = model(LLAMA, true);
    // Guidance makes the distributions of random weights sharp, else the shortest filling would always win.
    let options = DiffusionDecoding { guidance: 10.0, ..DiffusionDecoding::surest_first(true) };
    let mut found = Vec::new();
    for salt in 0..6 {
        let (left, right) = (tokens(4, salt), tokens(3, salt + 50));
        let pieces =
            |gap: Piece| vec![Piece::Tokens(vec![1]), Piece::Tokens(left.clone()), gap, Piece::Tokens(right.clone())];
        let searched = infill(&model, pieces(between(1, 4)), &options);
        let each: Vec<Infilled> = (1..=4).map(|length| infill(&model, pieces(given(length)), &options)).collect();
        let sum = |one: &Infilled| one.decoded.history.iter().map(|r| f64::from(r.probability).ln()).sum::<f64>();
        // Of equals the shortest.
        let best = each.iter().rev().max_by(|a, b| sum(a).total_cmp(&sum(b))).unwrap();
        assert_eq!(searched.lengths, best.lengths);
        assert_eq!(searched.decoded.tokens, best.decoded.tokens);
        assert_eq!(searched.decoded.nfe, 2 * (1 + 2 + 3 + 4) + best.decoded.nfe);
        found.push(searched.lengths[0]);
    }
    assert!(found.iter().any(|&length| length != found[0]), "always {found:?}");
}

#[test]
fn several_unknown_lengths_are_searched_one_after_the_other() {
    let model = model(LLAMA, true);
    let pieces = vec![Piece::Tokens(vec![1]), between(1, 3), Piece::Tokens(tokens(2, 7)), between(0, 2)];
    let filled = infill(&model, pieces, &DiffusionDecoding::surest_first(true));
    assert!((1..=3).contains(&filled.lengths[0]) && (1..=2).contains(&filled.lengths[1]), "{:?}", filled.lengths);
    assert_eq!(filled.decoded.tokens.len(), 3 + filled.lengths.iter().sum::<usize>());
}

/// At the end the model itself says where the text ends.
#[test]
fn an_unknown_length_at_the_end_is_open_when_a_stop_token_can_end_it() {
    let model = model(LLAMA, true);
    let options = DiffusionDecoding { stop: (3..20).collect(), ..DiffusionDecoding::surest_first(true) };
    let pieces = vec![Piece::Tokens(vec![1]), between(1, 12)];
    let filled = infill(&model, pieces, &options);
    assert_eq!(filled.lengths, [12]);
    assert!(filled.decoded.stopped && filled.decoded.tokens.len() < 13);
    assert!(filled.decoded.nfe <= 12, "nothing was searched");
}

#[test]
fn nothing_to_fill_costs_no_forward() {
    let model = model(LLAMA, true);
    let filled = infill(&model, vec![Piece::Tokens(vec![1, 5, 6])], &DiffusionDecoding::surest_first(true));
    assert_eq!((filled.decoded.nfe, filled.decoded.tokens), (0, vec![1, 5, 6]));
    assert_eq!(filled.canvas, Canvas { tokens: vec![1, 5, 6], masked: vec![false; 3], key: 3 });
}

#[test]
fn bounds_out_of_order_are_refused() {
    let model = model(LLAMA, true);
    let template = Template { pieces: vec![Piece::Tokens(vec![1]), between(4, 2)], key: 0 };
    let error = model.infill(&[template], &DiffusionDecoding::surest_first(true), &mut |_, _, _| {});
    assert!(error.unwrap_err().to_string().contains("4..2"));
}
