//! Cuts what is too long for a record, and says by a hash what it was.

use overlay_proto::audit::RecordHash;
use serde_json::{Value, json};

/// Bytes of a text that a record repeats.
const MAX_TEXT: usize = 256;
/// Entries of a list, or of a table, that a record repeats.
const MAX_ENTRIES: usize = 64;
/// Bytes of one row before or after, as JSON.
const MAX_VALUE: usize = 4_096;

/// Cuts long texts and lists in a value, and all of it when it still is too long.
pub(super) fn bounded(value: Value) -> Value {
    let cut = cut(value);
    let text = cut.to_string();

    if text.len() > MAX_VALUE { hashed(&text) } else { cut }
}

fn hashed(text: &str) -> Value {
    json!({ "bytes": text.len(), "sha256": RecordHash::of(text.as_bytes()) })
}

fn cut(value: Value) -> Value {
    match value {
        Value::String(text) if text.len() > MAX_TEXT => {
            let mut cut = hashed(&text);
            cut["begins"] = text[..text.floor_char_boundary(MAX_TEXT)].into();
            cut
        }
        Value::Array(items) if items.len() > MAX_ENTRIES => {
            let mut list = hashed(&Value::from(items.clone()).to_string());
            let first: Vec<_> = items.into_iter().take(MAX_ENTRIES).map(cut).collect();
            list["begins"] = first.into();
            list
        }
        Value::Array(items) => items.into_iter().map(cut).collect(),
        Value::Object(fields) if fields.len() > MAX_ENTRIES => {
            hashed(&Value::from(fields).to_string())
        }
        Value::Object(fields) => fields.into_iter().map(|(key, value)| (key, cut(value))).collect(),
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => value,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn short_values_stay_and_long_ones_are_cut_and_hashed() {
        let short = json!({ "name": "web", "ports": [1, 2] });
        let long = json!({ "text": "ü".repeat(1_000), "list": vec![7; 1_000] });

        let cut = bounded(long);

        assert_eq!(bounded(short.clone()), short);
        assert_eq!(cut["text"]["bytes"], 2_000);
        assert_eq!(cut["text"]["sha256"], json!(RecordHash::of("ü".repeat(1_000).as_bytes())));
        assert_eq!(cut["text"]["begins"], "ü".repeat(MAX_TEXT / 2));
        assert_eq!(cut["list"]["begins"], json!(vec![7; MAX_ENTRIES]));
        assert!(cut.to_string().len() < MAX_VALUE);
    }

    #[test]
    fn whatever_is_given_stays_below_the_bound() {
        let wide: Value =
            (0..60).map(|n| (format!("k{n}"), Value::from("x".repeat(250)))).collect();
        let deep = (0..100).fold(Value::from("x".repeat(200)), |value, _| json!([value, "y"]));

        for value in [wide, deep, json!(vec![vec!["z".repeat(200); 60]; 60])] {
            let text = bounded(value).to_string();
            assert!(text.len() <= MAX_VALUE, "{} bytes", text.len());
        }
    }
}
