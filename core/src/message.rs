//! How messages are written that people read, in a terminal or in `overlayctl status`.

use std::fmt::Display;

/// What the standard library puts between the words of the operating system and their number.
const NUMBER: &str = " (os error ";

/// Leaves out the numbers of errors of the operating system: its words say as much.
pub fn plain(text: impl Display) -> String {
    let text = text.to_string();
    let mut pieces = text.split(NUMBER);
    let mut plain = pieces.next().unwrap_or_default().to_owned();
    for piece in pieces {
        let rest = piece.trim_start_matches(|c: char| c.is_ascii_digit());
        match rest.strip_prefix(')') {
            Some(rest) if rest.len() + 1 < piece.len() => plain.push_str(rest),
            _ => plain.extend([NUMBER, piece]),
        }
    }

    plain
}

/// Writes a message plainly ([`plain`]) and in one line.
pub fn line(text: impl Display) -> String {
    plain(text).replace(['\n', '\r'], " ")
}

/// The most characters of somebody else's text that a message repeats.
const EXCERPT: usize = 80;

/// Returns the beginning of a text that may be long, for a message that repeats it.
pub fn excerpt(text: &str) -> &str {
    text.char_indices().nth(EXCERPT).map_or(text, |(end, _)| &text[..end])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_excerpt_is_a_number_of_characters_and_not_of_bytes() {
        assert_eq!(excerpt("net"), "net");
        assert_eq!(excerpt(&"ü".repeat(80)), "ü".repeat(80));
        assert_eq!(excerpt(&"ü".repeat(81)), "ü".repeat(80));
    }

    #[test]
    fn numbers_of_errors_are_left_out_wherever_they_stand() {
        let errors = [2, 13].map(std::io::Error::from_raw_os_error);
        let [missing, denied] = &errors;

        assert_eq!(plain(format!("/a: {missing}")), "/a: No such file or directory");
        assert_eq!(
            line(format!("{denied}; or use --force\n({missing})")),
            "Permission denied; or use --force (No such file or directory)"
        );
    }

    #[test]
    fn what_only_looks_like_one_stays() {
        for text in [
            "",
            "x (os error )",
            "x (os error 2",
            "x (os error two)",
            "(os error 2)",
            "a (os error -1) b",
        ] {
            assert_eq!(plain(text), text);
        }
    }
}
