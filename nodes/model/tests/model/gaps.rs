//! Texts with gaps of given and of unknown length.

use std::ops::Range;

use difflow_model::{Canvas, DiffusionDecoding, GapLength, Infilled, Model, Pattern, Piece, Template};

use crate::support::{GPT2, LLAMA, model, tokens};

fn given(length: usize) -> Piece {
    Piece::Gap(GapLength { least: length, most: length })
}

fn between(least: usize, most: usize) -> Piece {
    Piece::Gap(GapLength { least, most })
}

fn infill(model: &Model, pieces: Vec<Piece>, options: &DiffusionDecoding) -> Infilled {
    model.infill(&[Template { pieces, key: 3 }], options, &mut |_, _| {}).unwrap().remove(0)
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

/// Log-probability of filling and next given tokens by the chain rule, worked out from the model's logits.
fn together(model: &Model, filled: &Infilled, gap: Range<usize>, shift: bool) -> f64 {
    let masked = &filled.canvas.masked;
    let right = (gap.end..masked.len()).filter(|&at| !masked[at]).take(8);
    let stretch: Vec<usize> = gap.clone().chain(right).collect();
    let mut ids = filled.decoded.tokens.clone();
    (0..ids.len()).filter(|at| masked[*at] || stretch.contains(at)).for_each(|at| ids[at] = 37);
    let mut sum = 0.0;
    for at in stretch {
        let logits = model.logits(&ids, &Pattern::Full).unwrap();
        let row = &logits[(at - usize::from(shift)) * 38..][..37];
        ids[at] = filled.decoded.tokens[at];
        sum += f64::from(row[ids[at] as usize]) - row.iter().map(|&x| f64::from(x).exp()).sum::<f64>().ln();
    }
    sum
}

/// The filling alone favoured short gaps: right in 14 of 100 gaps of one to eight words, where filling and next tokens together are
/// in 76 (examples/gap_lengths.rs).
#[test]
fn an_unknown_length_is_the_one_that_makes_filling_and_next_tokens_most_probable_together() {
    let window = LLAMA.replace("LlamaForCausalLM", "MistralForCausalLM").replace("\"bos", "\"sliding_window\":9,\"bos");
    let (mut found, mut alone) = (Vec::new(), Vec::new());
    for (json, shift, behind) in [(LLAMA, true, 12), (LLAMA, false, 3), (GPT2, true, 1), (&window, true, 12)] {
        let model = model(json, true);
        let options = DiffusionDecoding::surest_first(shift);
        for salt in 0..6 {
            let (left, right) = (tokens(4, salt), tokens(behind, salt + 50));
            let pieces = |gap: Piece| {
                vec![Piece::Tokens(vec![1]), Piece::Tokens(left.clone()), gap, Piece::Tokens(right.clone())]
            };
            let searched = infill(&model, pieces(between(0, 4)), &options);
            let each: Vec<Infilled> = (0..=4).map(|length| infill(&model, pieces(given(length)), &options)).collect();
            let score = |one: &&Infilled| together(&model, one, 5..5 + one.lengths[0], shift);
            // Of equals the shortest.
            let best = each.iter().rev().max_by(|a, b| score(a).total_cmp(&score(b))).unwrap();
            assert_eq!(searched.lengths, best.lengths);
            assert_eq!(searched.decoded.tokens, best.decoded.tokens);
            // To fill the gap at every length, to read filling and next tokens off, and to fill it again.
            let right = behind.min(8) as u32;
            assert_eq!(searched.decoded.nfe, (1 + 2 + 3 + 4) + (1 + 2 + 3 + 4 + 5 * right) + best.decoded.nfe);
            found.push(searched.lengths[0]);
            let sum = |one: &&Infilled| one.decoded.history.iter().map(|r| f64::from(r.probability).ln()).sum::<f64>();
            alone.push(each[1..].iter().rev().max_by(|a, b| sum(a).total_cmp(&sum(b))).unwrap().lengths[0]);
        }
    }
    assert!(found.iter().any(|&length| length != found[0]), "always {found:?}");
    assert_ne!(found, alone, "this test cannot tell the old rule");
}

/// Two gaps side by side, one with nothing to its right, templates searched together: each as if it were alone.
#[test]
fn templates_searched_together_have_the_lengths_they_have_alone() {
    let model = model(LLAMA, true);
    let options = DiffusionDecoding::surest_first(true);
    let text = |n, salt| Piece::Tokens(tokens(n, salt));
    let templates: Vec<Template> = [
        vec![Piece::Tokens(vec![1]), between(1, 3), between(0, 3), text(5, 1)],
        vec![Piece::Tokens(vec![1]), text(2, 2), between(2, 9)],
        vec![Piece::Tokens(vec![1]), text(3, 3)],
        vec![Piece::Tokens(vec![1]), between(0, 2), text(2, 4), given(3), text(9, 5), between(1, 6), text(3, 6)],
    ]
    .into_iter()
    .zip(0..)
    .map(|(pieces, key)| Template { pieces, key })
    .collect();
    let together = model.infill(&templates, &options, &mut |_, _| {}).unwrap();
    for (template, filled) in templates.iter().zip(together) {
        let alone = model.infill(std::slice::from_ref(template), &options, &mut |_, _| {}).unwrap().remove(0);
        assert_eq!(
            (&alone.lengths, &alone.decoded.tokens, alone.decoded.nfe),
            (&filled.lengths, &filled.decoded.tokens, filled.decoded.nfe)
        );
    }
}

/// A gap next to an open end lies among the masked positions that a stop token ends.
#[test]
fn a_stop_token_inside_a_gap_before_the_open_end_is_no_panic() {
    let model = model(LLAMA, true);
    let options = DiffusionDecoding { stop: (3..30).collect(), ..DiffusionDecoding::surest_first(true) };
    let filled = infill(&model, vec![Piece::Tokens(vec![1, 5]), between(1, 5), between(1, 8)], &options);
    assert!((1..=5).contains(&filled.lengths[0]) && filled.lengths[1] == 8, "{:?}", filled.lengths);
}

/// Lengths beyond the model's table of positions are no choice; a template that cannot fit at all is refused.
#[test]
fn a_gap_is_no_longer_than_the_positions_of_the_model() {
    let model = model(GPT2, true);
    let pieces = |behind| vec![Piece::Tokens(vec![1]), between(1, 9), Piece::Tokens(tokens(behind, 3))];
    let filled = infill(&model, pieces(60), &DiffusionDecoding::surest_first(true));
    assert!((1..=3).contains(&filled.lengths[0]), "{:?}", filled.lengths);
    let template = Template { pieces: pieces(63), key: 0 };
    let error = model.infill(&[template], &DiffusionDecoding::surest_first(true), &mut |_, _| {}).unwrap_err();
    assert!(error.to_string().contains("at most 64"), "{error}");
}

#[test]
fn several_unknown_lengths_are_searched_one_after_the_other() {
    let model = model(LLAMA, true);
    let pieces = vec![Piece::Tokens(vec![1]), between(1, 3), Piece::Tokens(tokens(2, 7)), between(0, 2)];
    // With nothing to its right a gap is filled if it may be.
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
    let error = model.infill(&[template], &DiffusionDecoding::surest_first(true), &mut |_, _| {});
    assert!(error.unwrap_err().to_string().contains("4..2"));
}
