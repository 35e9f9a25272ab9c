//! `--format`: the part of Docker's templates that is used on listings, over the fields that JSON
//! has.
//!
//! `{{.Name}}`, `{{.Control.Address}}`, `{{.Labels.rack}}`; `{{json .}}`,
//! `{{join .Addresses " "}}`, `upper`, `lower` and `len`; `{{range .Problems}}…{{end}}`; `\t` and
//! `\n`; and `table` in front for columns with headings. Whatever else a template holds is refused
//! when it is read; a field that is not there is refused with those that are.

use std::str::FromStr;

use serde_json::Value;

use super::table::{Column, table};
use super::{Page, list};
use crate::failure::{Failure, Outcome};

/// Fields whose own fields are named by people: one that is absent is empty, not a mistake.
const MAPS: [&str; 2] = ["labels", "counters"];
/// Columns of a `table` at the most.
const MAX_COLUMNS: usize = 16;

/// A template that was read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Template {
    table: bool,
    parts: Vec<Part>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Part {
    Text(String),
    Field(Function, Path),
    Range(Path, Vec<Self>),
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Function {
    Plain,
    Json,
    Join(String),
    Upper,
    Lower,
    Len,
}

/// The names between the dots; none for `.` itself.
type Path = Vec<String>;

impl FromStr for Template {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if text.trim() == "json" {
            return Ok(Self { table: false, parts: vec![Part::Field(Function::Json, Vec::new())] });
        }
        let body = text
            .strip_prefix("table")
            .filter(|rest| rest.starts_with([' ', '\t', '{']) || rest.starts_with("\\t"));
        let unescaped =
            body.map_or(text, str::trim_start).replace("\\t", "\t").replace("\\n", "\n");
        let mut rest = unescaped.as_str();
        let parts = read(&mut rest, false)?;
        if !parts.iter().any(|part| !matches!(part, Part::Text(_))) {
            return Err(
                "there is no field in it: write it as '{{.Name}}', 'table {{.Name}}\\t{{.ID}}' or 'json'".into()
            );
        }

        Ok(Self { table: body.is_some(), parts })
    }
}

/// Reads parts up to the end, or to the `{{end}}` of a range.
fn read(rest: &mut &str, inside: bool) -> Result<Vec<Part>, String> {
    let mut parts = Vec::new();
    while let Some((text, after)) = rest.split_once("{{") {
        parts.extend(
            Some(text).filter(|text| !text.is_empty()).map(|text| Part::Text(text.to_owned())),
        );
        let (action, after) = after.split_once("}}").ok_or("a {{ has no }}")?;
        *rest = after;
        match action.trim() {
            "end" if inside => return Ok(parts),
            action => match action.strip_prefix("range ") {
                Some(field) => parts.push(Part::Range(path(field.trim())?, read(rest, true)?)),
                None => parts.push(field(action)?),
            },
        }
    }
    if inside {
        return Err("a {{range}} has no {{end}}".to_owned());
    }
    parts.extend(
        Some(std::mem::take(rest))
            .filter(|text| !text.is_empty())
            .map(|text| Part::Text(text.to_owned())),
    );

    Ok(parts)
}

fn field(action: &str) -> Result<Part, String> {
    let unknown = || {
        format!(
            "{{{{{action}}}}} is not known: there are {{{{.Field}}}}, json, join, upper, lower, len, range and end"
        )
    };
    let (function, rest) = match action.split_once(char::is_whitespace) {
        Some((function, rest)) => (function, rest.trim()),
        None => return Ok(Part::Field(Function::Plain, path(action).map_err(|_| unknown())?)),
    };
    let (function, field) = match function {
        "json" => (Function::Json, rest),
        "upper" => (Function::Upper, rest),
        "lower" => (Function::Lower, rest),
        "len" => (Function::Len, rest),
        "join" => {
            let (field, separator) = rest.split_once(char::is_whitespace).ok_or_else(unknown)?;
            let quoted = separator.trim().strip_prefix('"').and_then(|text| text.strip_suffix('"'));
            (Function::Join(quoted.ok_or_else(unknown)?.to_owned()), field)
        }
        _ => return Err(unknown()),
    };

    Ok(Part::Field(function, path(field).map_err(|_| unknown())?))
}

fn path(text: &str) -> Result<Path, String> {
    let wrong = || format!("{text:?} is not a field: write it as .Name");
    let names = text.strip_prefix('.').ok_or_else(wrong)?;
    if names.is_empty() {
        return Ok(Vec::new());
    }
    let names: Path = names.split('.').map(str::to_owned).collect();
    let plain = |name: &String| {
        !name.is_empty() && name.chars().all(|c| c.is_alphanumeric() || "_-".contains(c))
    };

    if names.iter().all(plain) { Ok(names) } else { Err(wrong()) }
}

impl Template {
    /// Writes each row of a result; `sample` is a row that has every field, so that an empty
    /// listing is checked too.
    ///
    /// # Errors
    ///
    /// Names the fields that there are when one is asked for that is not.
    pub(crate) fn render(&self, result: &Value, sample: Option<&Value>) -> Outcome<String> {
        let rows = result.as_array().map_or_else(|| std::slice::from_ref(result), Vec::as_slice);
        if let Some(sample) = sample {
            write(&self.parts, sample)?;
        }
        let lines = rows.iter().map(|row| write(&self.parts, row)).collect::<Outcome<Vec<_>>>()?;

        Ok(if self.table { self.columns(&lines) } else { lines.join("\n") })
    }

    fn columns(&self, lines: &[String]) -> String {
        let heads = self.parts.iter().map(|part| match part {
            Part::Text(text) => text.clone(),
            Part::Field(_, path) | Part::Range(path, _) => {
                path.last().map(|name| heading(name)).unwrap_or_default()
            }
        });
        let heads = heads.collect::<String>();
        let rows = std::iter::once(heads.as_str()).chain(lines.iter().map(String::as_str));
        let rows: Vec<Vec<_>> =
            rows.map(|line| line.split('\t').map(Into::into).collect()).collect();
        let count = rows.iter().map(Vec::len).max().unwrap_or(0).min(MAX_COLUMNS);
        let rows: Vec<_> = rows
            .into_iter()
            .map(|mut row| {
                row.resize(count, "".into());
                row
            })
            .collect();
        let text = table(
            Page { now: 0, width: None, wide: false },
            &[Column::left(""); MAX_COLUMNS][..count],
            &rows,
        );

        // The table's own heading is empty.
        text.split_once('\n').map(|(_, rows)| rows.to_owned()).unwrap_or_default()
    }
}

fn write(parts: &[Part], row: &Value) -> Outcome<String> {
    let mut text = String::new();
    for part in parts {
        match part {
            Part::Text(words) => text.push_str(words),
            Part::Field(function, path) => text.push_str(&apply(function, find(row, path)?)),
            Part::Range(path, parts) => match find(row, path)? {
                Value::Array(items) => {
                    for item in items {
                        text.push_str(&write(parts, item)?);
                    }
                }
                Value::Null
                | Value::Bool(_)
                | Value::Number(_)
                | Value::String(_)
                | Value::Object(_) => {
                    return Err(Failure::Usage(format!(
                        "--format: .{} is not a list",
                        path.join(".")
                    )));
                }
            },
        }
    }

    Ok(text)
}

fn find<'a>(row: &'a Value, path: &[String]) -> Outcome<&'a Value> {
    let mut value = row;
    let mut free = false;
    for name in path {
        let Value::Object(fields) = value else {
            if value.is_null() {
                return Ok(&Value::Null);
            }
            return Err(Failure::Usage(format!("--format: .{} has no fields", path.join("."))));
        };
        let found = fields
            .iter()
            .find(|(field, _)| if free { *field == name } else { plain(field) == plain(name) });
        match found {
            Some((field, inner)) => (value, free) = (inner, MAPS.contains(&field.as_str())),
            None if free => return Ok(&Value::Null),
            None => {
                let known: Vec<_> =
                    fields.keys().map(|field| format!(".{}", go_name(field))).collect();
                let text =
                    format!("--format: there is no field .{name}: there are {}", known.join(", "));
                return Err(Failure::Usage(text));
            }
        }
    }

    Ok(value)
}

/// `.NodeID`, `.node_id` and `.nodeid` are the same field.
fn plain(name: &str) -> String {
    name.chars().filter(|c| *c != '_').map(|c| c.to_ascii_lowercase()).collect()
}

/// Writes a field's name as Docker does: `node_id` is `NodeID`.
fn go_name(field: &str) -> String {
    let word = |word: &str| match word {
        "id" | "ip" | "mtu" | "rx" | "tx" | "pid" => word.to_uppercase(),
        _ => word[..1].to_uppercase() + &word[1..],
    };

    field.split('_').filter(|part| !part.is_empty()).map(word).collect()
}

/// Writes a field's name as a heading: `NodeID` and `node_id` are `NODE ID`.
fn heading(name: &str) -> String {
    let mut text = String::new();
    let mut lower = false;
    for c in name.chars() {
        if c == '_' || (lower && c.is_uppercase()) {
            text.push(' ');
        }
        lower = c.is_lowercase();
        text.extend(Some(c).filter(|c| *c != '_').into_iter().flat_map(char::to_uppercase));
    }

    text
}

fn apply(function: &Function, value: &Value) -> String {
    match (function, value) {
        (Function::Plain, value) => words(value),
        (Function::Json, value) => value.to_string(),
        (Function::Join(separator), Value::Array(items)) => {
            items.iter().map(words).collect::<Vec<_>>().join(separator)
        }
        (Function::Join(_), value) => words(value),
        (Function::Upper, value) => words(value).to_uppercase(),
        (Function::Lower, value) => words(value).to_lowercase(),
        (Function::Len, Value::Array(items)) => items.len().to_string(),
        (Function::Len, Value::Object(fields)) => fields.len().to_string(),
        (Function::Len, Value::Null) => "0".to_owned(),
        (Function::Len, value) => words(value).chars().count().to_string(),
    }
}

/// Writes a value as tables do.
fn words(value: &Value) -> String {
    match value {
        Value::Null => "-".to_owned(),
        Value::String(text) => text.clone(),
        Value::Array(items) => list(items.iter().map(words)),
        Value::Object(fields) => {
            list(fields.iter().map(|(key, value)| format!("{key}={}", words(value))))
        }
        Value::Bool(_) | Value::Number(_) => value.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn rows() -> Value {
        json!([
            {"name": "web", "node_id": "0a", "addresses": ["10.9.0.2", "fd00::2"], "labels": {"rack": "7"}, "prefix6": null,
             "problems": [{"code": "x"}, {"code": "y"}]},
            {"name": "db-1", "node_id": "0b", "addresses": [], "labels": {}, "prefix6": "fd00::/64", "problems": []},
        ])
    }

    fn written(template: &str) -> String {
        let template: Template = template.parse().expect("a template");

        template.render(&rows(), None).expect("written")
    }

    #[test]
    fn fields_are_named_as_docker_users_name_them() {
        assert_eq!(written("{{.Name}}"), "web\ndb-1");
        assert_eq!(written("{{ .NodeID }}/{{.node_id}}"), "0a/0a\n0b/0b");
        assert_eq!(
            written("{{.Name}}: {{.Addresses}} {{.Labels}} {{.Labels.rack}}"),
            "web: 10.9.0.2,fd00::2 rack=7 7\ndb-1: - - -"
        );
        assert_eq!(written("{{.Name}}\\n"), "web\n\ndb-1\n");
    }

    #[test]
    fn functions_and_ranges_are_the_usual_ones() {
        assert_eq!(written("{{json .Addresses}}"), "[\"10.9.0.2\",\"fd00::2\"]\n[]");
        assert_eq!(written("json").lines().count(), 2);
        assert_eq!(
            written("{{join .Addresses \" \"}};{{upper .Name}};{{len .Addresses}}"),
            "10.9.0.2 fd00::2;WEB;2\n;DB-1;0"
        );
        assert_eq!(written("{{.Name}}{{range .Problems}} {{.Code}}{{end}}"), "web x y\ndb-1");
    }

    #[test]
    fn a_table_has_headings() {
        assert_eq!(
            written("table {{.Name}}\\t{{.NodeID}}\\t{{.Labels}}"),
            "NAME  NODE ID  LABELS\nweb   0a       rack=7\ndb-1  0b       -"
        );
    }

    #[test]
    fn what_is_not_there_is_refused_with_what_is() {
        let template: Template = "{{.Nam}}".parse().expect("a template");
        let sample = json!({"name": "", "node_id": ""});

        let failure = template.render(&json!([]), Some(&sample)).expect_err("no such field");

        assert_eq!(failure.exit_code(), 2);
        assert!(
            format!("{failure:?}").contains("no field .Nam: there are .Name, .NodeID"),
            "{failure:?}"
        );
    }

    #[test]
    fn a_template_that_is_not_understood_is_refused_when_read() {
        for wrong in [
            "",
            "name",
            "table",
            "{{.Name",
            "{{Name}}",
            "{{if .Name}}x{{end}}",
            "{{.Name}}{{end}}",
            "{{range .X}}",
            "{{join .X}}",
            "{{printf .X}}",
            "{{..}}",
            "{{.A b}}",
        ] {
            assert!(wrong.parse::<Template>().is_err(), "{wrong}");
        }
    }
}
