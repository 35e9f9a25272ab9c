//! Where a join line comes from: an argument, a file, or standard input; only its text is checked
//! here.

use std::fs::File;
use std::io::{self, Read};
use std::path::Path;

use overlay_proto::{Code, JoinLine, Refusal};

use crate::failure::storage;

/// More than the longest join line: 16 addresses of 255 bytes.
const LONGEST: u64 = 8 * 1024;

/// Reads a join line out of an argument that is the line, a file's path, or `-`.
pub(crate) fn read(argument: &str) -> Result<JoinLine, Refusal> {
    let line = |text: &str| text.parse().map_err(|error| Refusal::new(Code::InvalidInput, error));
    if argument == "-" {
        return line(&first_words("standard input", io::stdin().lock())?);
    }
    if argument.contains('@') || argument.trim_start().starts_with("ovl1-") {
        return line(argument);
    }
    if !Path::new(argument).exists() {
        let text = "the argument is neither a join line nor an existing file: copy the whole line that `overlayctl init` \
                    or `overlayctl token create` printed";
        return Err(Refusal::new(Code::InvalidInput, text));
    }
    let file = File::open(argument).map_err(|error| storage(argument, &error))?;

    line(&first_words(argument, file)?)
}

fn first_words(name: &str, source: impl Read) -> Result<String, Refusal> {
    let mut bytes = Vec::new();
    source.take(LONGEST).read_to_end(&mut bytes).map_err(|error| storage(name, &error))?;

    if bytes.iter().all(u8::is_ascii_whitespace) {
        let text = format!(
            "{name} is empty: a join line is what `overlayctl init` and `overlayctl token create` print"
        );
        return Err(Refusal::new(Code::InvalidInput, text));
    }

    String::from_utf8(bytes)
        .map_err(|_| Refusal::new(Code::InvalidInput, format!("{name} does not hold a join line")))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text() -> String {
        format!("ovl1-{}-{}-{}@192.0.2.1:7443", "01".repeat(8), "02".repeat(16), "03".repeat(32))
    }

    #[test]
    fn a_line_is_read_from_an_argument_and_from_a_file() {
        let dir = tempfile::tempdir().expect("a directory");
        let file = dir.path().join("line");
        std::fs::write(&file, format!("{}\n", text())).expect("written");

        assert_eq!(read(&text()).expect("a line").expose(), text());
        assert_eq!(read(file.to_str().expect("a path")).expect("a line").expose(), text());
    }

    #[test]
    fn what_is_no_line_is_refused_without_repeating_it() {
        let secret = "02".repeat(16);
        let wrong = text().replace("@192.0.2.1:7443", "");

        let error = read(&wrong).expect_err("no address");

        assert_eq!(error.code, Code::InvalidInput);
        assert!(!error.message.contains(&secret), "{error}");
    }
}
