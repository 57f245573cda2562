//! Named points where tests break the code on purpose. They exist in debug builds only.
//!
//! `UNITFLOW_INJECT=name` (several by comma) turns a point on in a worker. A release build never
//! reads it: [`on`] is `false` there and the branch behind it is gone.

use std::sync::OnceLock;

/// Whether the point `name` is turned on.
#[must_use]
pub fn on(name: &str) -> bool {
    if !cfg!(debug_assertions) {
        return false;
    }
    static POINTS: OnceLock<Vec<String>> = OnceLock::new();
    POINTS
        .get_or_init(|| {
            let points = std::env::var("UNITFLOW_INJECT").unwrap_or_default();
            points.split(',').filter(|point| !point.is_empty()).map(str::to_owned).collect()
        })
        .iter()
        .any(|point| point == name)
}

/// Ends the process at once, as `kill -9` would, if the point `name` is turned on.
pub fn die_at(name: &str) {
    if on(name) {
        std::process::abort();
    }
}
