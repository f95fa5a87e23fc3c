//! Human-readable numbers, durations and paragraphs.

/// Three significant digits with `k`, `M` or `G`: `4.1k`, `131G`, `87`.
pub fn si(value: f64) -> String {
    let steps = [(1e9, "G"), (1e6, "M"), (1e3, "k")];
    let (unit, suffix) = steps.into_iter().find(|(unit, _)| value.abs() >= *unit).unwrap_or((1.0, ""));
    let scaled = value / unit;
    let decimals = usize::from(scaled.abs() < 100.0 && !suffix.is_empty());
    format!("{scaled:.decimals$}{suffix}")
}

/// `42s`, `3m12s`, `2h05m`, `3d04h`.
pub fn duration(seconds: f64) -> String {
    let s = seconds.max(0.0).round() as u64;
    match s {
        0..60 => format!("{s}s"),
        60..3600 => format!("{}m{:02}s", s / 60, s % 60),
        3600..86400 => format!("{}h{:02}m", s / 3600, s % 3600 / 60),
        _ => format!("{}d{:02}h", s / 86400, s % 86400 / 3600),
    }
}

/// A share as `63.0 %`.
pub fn percent(share: f64) -> String {
    format!("{:.1} %", share * 100.0)
}

/// A number of a loss: three decimals, scientific where that would show nothing.
pub fn number(value: f64) -> String {
    let small = value != 0.0 && value.abs() < 0.01;
    if small || value.abs() >= 1e6 { format!("{value:.2e}") } else { format!("{value:.3}") }
}

/// `text` in lines of at most `width` characters (a longer word keeps its own line), each after `indent`. Line breaks of the
/// text are kept.
pub fn wrap(text: &str, width: usize, indent: &str) -> String {
    let mut lines = Vec::new();
    for paragraph in text.lines() {
        let mut line = String::new();
        for word in paragraph.split_whitespace() {
            let long = line.chars().count() + 1 + word.chars().count() > width;
            if !line.is_empty() && long {
                lines.push(std::mem::take(&mut line));
            }
            if !line.is_empty() {
                line.push(' ');
            }
            line.push_str(word);
        }
        if !line.is_empty() {
            lines.push(line);
        }
    }
    lines.iter().map(|line| format!("{indent}{line}\n")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn large_numbers_get_a_unit() {
        let got: Vec<String> = [0.0, 87.4, 999.0, 4123.0, 131_072.0, 2.5e9].into_iter().map(si).collect();
        assert_eq!(got, ["0", "87", "999", "4.1k", "131k", "2.5G"]);
    }

    #[test]
    fn durations_show_two_units() {
        let got: Vec<String> = [0.4, 59.0, 59.6, 192.0, 7500.0, 273_600.0].into_iter().map(duration).collect();
        assert_eq!(got, ["0s", "59s", "1m00s", "3m12s", "2h05m", "3d04h"]);
    }

    #[test]
    fn a_tiny_number_is_not_shown_as_zero() {
        assert_eq!(number(0.0003), "3.00e-4");
        assert_eq!(number(0.0), "0.000");
        assert_eq!(number(f64::NAN), "NaN");
    }

    #[test]
    fn no_line_is_longer_than_the_width_and_no_word_is_lost() {
        let text = "one two three four five\nsix seveneightnineten";
        let wrapped = wrap(text, 9, "  ");
        assert_eq!(wrapped, "  one two\n  three\n  four five\n  six\n  seveneightnineten\n");
    }
}
