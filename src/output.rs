//! How results are put on stdout: whole lines, plain columns, no colours, so that they can be
//! searched, cut and copied.

use std::io::Write as _;

use comfy_table::{Table, presets};

/// Prints a result and a line end. A reader that has gone away, as `head` does, is no fault.
pub fn say(text: &str) {
    let mut stdout = std::io::stdout().lock();
    let _ = writeln!(stdout, "{text}").and_then(|()| stdout.flush());
}

/// Rows as columns, each as wide as its widest cell; a long last column never breaks the others.
pub fn columns<const N: usize>(header: [&str; N], rows: &[[String; N]]) -> String {
    let mut table = Table::new();
    table.load_style(presets::NOTHING).set_header(header);
    for row in rows {
        table.add_row(row);
    }
    for place in 0..N {
        if let Some(column) = table.column_mut(place) {
            column.set_padding((0, 2));
        }
    }
    table.lines().map(|line| line.trim_end().to_owned()).collect::<Vec<_>>().join("\n")
}
