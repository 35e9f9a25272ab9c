//! Several names in one command: each is tried, whatever became of the others, and reported as it
//! happens.

use overlay_proto::{Code, Refusal};
use serde::Serialize;
use serde_json::json;

use super::Context;
use crate::failure::{Failure, Outcome};
use crate::output::{Page, Report, ShowArgs};
use crate::view::Removed;

impl Context {
    /// Removes what is named, one after another.
    ///
    /// # Errors
    ///
    /// When one cannot be removed; the others are tried all the same.
    pub(crate) async fn remove_each(
        &self,
        names: Vec<String>,
        mut remove: impl AsyncFnMut(&str) -> Result<(), Refusal>,
    ) -> Outcome {
        let mut removed = Vec::new();
        let mut failed = Failed::default();
        for name in names {
            match remove(&name).await {
                Ok(()) if self.output.is_json() => removed.push(name),
                Ok(()) => self.output.line(name)?,
                Err(refusal) => failed.say(&name, &refusal, self),
            }
        }
        if self.output.is_json() {
            self.output.show(&Removed { removed })?;
        }

        failed.outcome()
    }

    /// Shows what is named; one is an object of JSON, several are an array.
    ///
    /// # Errors
    ///
    /// When one cannot be found; the others are shown all the same.
    pub(crate) async fn show_each<R: Report>(
        &self,
        args: ShowArgs,
        names: &[String],
        mut find: impl AsyncFnMut(&str) -> Result<Vec<R>, Refusal>,
    ) -> Outcome {
        let output = self.output.formatted(args.format)?;
        let mut found = Vec::new();
        let mut failed = Failed::default();
        for name in names {
            match find(name).await {
                Ok(reports) => found.extend(reports),
                Err(refusal) => failed.say(name, &refusal, self),
            }
        }
        match found.as_slice() {
            [] => {}
            [one] if names.len() == 1 => output.show(one)?,
            _ => output.show(&Several(found))?,
        }

        failed.outcome()
    }
}

/// Several results, one below the other.
#[derive(Debug, Serialize)]
#[serde(transparent)]
struct Several<R>(Vec<R>);

impl<R: Report> Report for Several<R> {
    fn text(&self, page: Page) -> String {
        self.0.iter().map(|report| report.text(page)).collect::<Vec<_>>().join("\n\n")
    }

    fn names(&self) -> Option<Vec<String>> {
        Some(self.0.iter().filter_map(Report::names).flatten().collect())
    }

    fn ids(&self) -> Option<Vec<String>> {
        Some(self.0.iter().filter_map(Report::ids).flatten().collect())
    }
}

/// What did not work, which has been reported already.
#[derive(Debug, Default)]
struct Failed(Vec<Code>);

impl Failed {
    fn say(&mut self, name: &str, refusal: &Refusal, context: &Context) {
        self.0.push(refusal.code);
        if context.output.is_json() {
            let error =
                json!({ "code": refusal.code.as_str(), "message": refusal.message, "name": name });
            context.output.note(json!({ "error": error }));
        } else {
            context.output.refuse(refusal);
        }
    }

    /// Ends with 3 when nothing but a way to the agent or control was missing, with 1 when anything
    /// else failed.
    fn outcome(self) -> Outcome {
        let codes =
            self.0.into_iter().map(|code| Failure::from(Refusal::new(code, "")).exit_code());

        codes.min().map_or(Ok(()), |code| Err(Failure::Exit(code)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_exit_code_tells_a_missing_way_from_a_refusal() {
        let code = |codes: &[Code]| {
            Failed(codes.to_vec()).outcome().map_err(|failure| failure.exit_code())
        };

        assert_eq!(code(&[]), Ok(()));
        assert_eq!(code(&[Code::ControlAway, Code::ControlAway]), Err(3));
        assert_eq!(code(&[Code::ControlAway, Code::NotFound]), Err(1));
    }
}
