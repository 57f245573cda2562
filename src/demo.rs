//! `unitflow demo`: two units on this machine.

use unitflow_change::Fault;

use crate::Outcome;
use crate::cli::DemoArgs;

/// Runs the demo.
pub async fn run(_args: &DemoArgs) -> Result<Outcome, Fault> {
    Ok(Outcome::Fine)
}
