//! Every code that an operator may meet has its section in the runbook, in the same order.

use unitflow_change::Code;

#[test]
fn each_code_has_its_section() {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../../deploy/runbook.md");
    let runbook = std::fs::read_to_string(path).unwrap();
    let sections: Vec<&str> = runbook.lines().filter_map(|line| line.strip_prefix("## ")).collect();
    let codes: Vec<&str> = Code::ALL.iter().map(|code| code.as_str()).collect();
    assert_eq!(sections, codes);
}
