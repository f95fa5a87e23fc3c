//! Whether a text is the answer.

/// Whether the text is one of the answers, white space around both apart.
pub fn exact(text: &str, accepted: &[String]) -> bool {
    accepted.iter().any(|answer| answer.trim() == text.trim())
}

/// Whether one of the answers is in the text, both normalised as TriviaQA's own evaluation does.
pub fn contains(text: &str, accepted: &[String]) -> bool {
    let text = normalised(text);
    accepted.iter().any(|answer| text.contains(&normalised(answer)))
}

/// Whether what stands behind the last #### is the same, commas in numbers apart.
pub fn final_answer(text: &str, accepted: &[String]) -> bool {
    let last = |text: &str| text.rsplit("####").next().unwrap_or_default().trim().replace(',', "");
    accepted.iter().any(|answer| last(answer) == last(text))
}

/// Without capitals, ASCII punctuation and articles, words separated by single spaces.
fn normalised(text: &str) -> String {
    let plain: String = text.to_lowercase().chars().filter(|c| !c.is_ascii_punctuation()).collect();
    let in_word = |c: char| c.is_alphanumeric() || c == '_';
    let chars: Vec<char> = plain.chars().collect();
    let runs = chars.chunk_by(|&a, &b| in_word(a) == in_word(b)).map(|run| run.iter().collect::<String>());
    let kept: String =
        runs.map(|run| if ["a", "an", "the"].contains(&run.as_str()) { " ".into() } else { run }).collect();
    kept.split_whitespace().collect::<Vec<_>>().join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn list(texts: &[&str]) -> Vec<String> {
        texts.iter().map(|&text| text.to_owned()).collect()
    }

    #[test]
    fn answers_are_found_without_articles_and_punctuation() {
        assert!(contains("It was The  Beatles!", &list(&["beatles"])));
        assert!(contains("an U.S. state", &list(&["US State"])));
        assert!(!contains("Bee gees", &list(&["beatles", "beegees"])));
        assert_eq!(normalised("The cat's a theme, an-other; the\u{2014}end"), "cats theme another \u{2014}end");
    }

    #[test]
    fn only_the_final_answer_counts() {
        assert!(final_answer("1 + 1\n#### 1,002 ", &list(&["so #### 1002"])));
        assert!(final_answer("18", &list(&["x\n#### 18"])));
        assert!(!final_answer("#### 18 #### 19", &list(&["#### 18"])));
    }

    #[test]
    fn white_space_around_a_text_makes_no_difference() {
        assert!(exact(" blue\n", &list(&["red", "blue"])) && !exact("Blue", &list(&["blue"])));
    }
}
