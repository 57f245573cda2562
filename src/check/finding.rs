//! What `check` finds, and how it is told.

use serde::Serialize;
use unitflow_change::{Code, Fault};
use unitflow_mysql::preflight::{self, Severity};

use crate::output::say;

/// One thing that is not as it should be.
#[derive(Debug, PartialEq, Eq, Serialize)]
pub(super) struct Finding {
    /// `Kafka of A`, `A.shop`, `A.shop to B`.
    pub place: String,
    pub code: &'static str,
    /// A warning does not make the command fail.
    pub warning: bool,
    pub subject: String,
    pub expected: String,
    pub actual: String,
    pub remedy: String,
}

impl Finding {
    pub fn new(place: &str, code: Code, subject: impl Into<String>) -> Self {
        Self {
            place: place.to_owned(),
            code: code.as_str(),
            warning: false,
            subject: subject.into(),
            expected: String::new(),
            actual: String::new(),
            remedy: String::new(),
        }
    }

    pub fn expected(mut self, expected: impl Into<String>, actual: impl Into<String>) -> Self {
        (self.expected, self.actual) = (expected.into(), actual.into());
        self
    }

    pub fn remedy(mut self, remedy: impl Into<String>) -> Self {
        self.remedy = remedy.into();
        self
    }

    pub fn warning(self) -> Self {
        Self { warning: true, ..self }
    }

    pub fn of(place: &str, finding: preflight::Finding) -> Self {
        let warning = finding.severity == Severity::Warning;
        Self { warning, ..Self::new(place, finding.code, finding.subject) }
            .expected(finding.expected, finding.actual)
            .remedy(finding.remedy)
    }

    pub fn fault(place: &str, subject: &str, fault: &Fault) -> Self {
        Self::new(place, fault.code, subject)
            .expected("an answer", &fault.what)
            .remedy(fault.remedy())
    }
}

/// Each finding as a block of its own, errors first, so that remedies can be copied.
pub(super) fn print(findings: &[Finding], errors: usize) {
    let mut text = String::new();
    for wanted in [false, true] {
        for finding in findings.iter().filter(|finding| finding.warning == wanted) {
            let word = if finding.warning { "warning" } else { "error" };
            text.push_str(&format!(
                "{word} [{}] {}: {}\n  expected: {}\n  actual:   {}\n  remedy:   {}\n\n",
                finding.code,
                finding.place,
                finding.subject,
                finding.expected,
                finding.actual,
                finding.remedy,
            ));
        }
    }
    let plural = |count: usize| if count == 1 { "" } else { "s" };
    let warnings = findings.len() - errors;
    text.push_str(&format!(
        "{errors} error{}, {warnings} warning{}",
        plural(errors),
        plural(warnings)
    ));
    say(&text);
}
