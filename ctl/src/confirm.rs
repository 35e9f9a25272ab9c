//! A question before what cannot be taken back.

use std::io::{self, BufRead, IsTerminal};

use overlay_proto::{Code, Refusal};

use crate::failure::{Failure, Outcome};
use crate::output::Output;

/// Asks a person whether to go on; where nobody can be asked, only `--force` goes on.
pub(crate) fn confirm(output: &Output, force: bool, consequence: &str, question: &str) -> Outcome {
    if force {
        return Ok(());
    }
    if !io::stdin().is_terminal() || !io::stderr().is_terminal() {
        let text = format!("{consequence}: if that is meant, add --force");
        return Err(Refusal::new(Code::WrongState, text).into());
    }
    output.warn(consequence);
    output.warn(format_args!("{question} [y/N]"));
    let mut answer = String::new();
    // An end of input is a no.
    let _ = io::stdin().lock().read_line(&mut answer);

    if ["y", "yes"].iter().any(|yes| answer.trim().eq_ignore_ascii_case(yes)) {
        Ok(())
    } else {
        Err(Failure::Exit(1))
    }
}
