//! Docker's labels and options as far as a row of the membership can hold them. Pure.

use std::collections::BTreeMap;

use overlay_proto::convert::{MAX_LABEL, MAX_LABELS};

/// Bytes of all labels of one row: what control takes.
pub(super) const MAX_ROW_LABELS: usize = 4_096;

/// Leaves out what does not fit: what is no sound text by itself, and what comes when `room` bytes
/// are used up.
pub(super) fn fitting(
    words: &BTreeMap<String, String>,
    mut room: usize,
) -> BTreeMap<String, String> {
    let sound = |text: &str| text.len() <= MAX_LABEL && !text.chars().any(char::is_control);
    let fits = |(key, value): &(&String, &String)| {
        let len = key.len() + value.len();
        let fits = !key.is_empty() && sound(key) && sound(value) && len <= room;
        room -= if fits { len } else { 0 };
        fits
    };

    words
        .iter()
        .filter(fits)
        .take(MAX_LABELS)
        .map(|(key, value)| (key.clone(), value.clone()))
        .collect()
}
