//! What a wrong setup says: one table of everything that an operator may get wrong.
//!
//! | file | what it holds |
//! |---|---|
//! | `cases` | the table: how to break it, the command, what it says, how to mend it |
//! | `world` | two units on real servers, and what can be done to them |
//! | `traces` | what a command may leave behind: topics, groups, tables, rows, connections |

mod cases;
mod traces;
mod world;

use std::time::Duration;

use unitflow_harness::beside;

use world::World;

/// A table takes two minutes on two cores that are busy with nothing else.
const LIMIT: Duration = Duration::from_secs(480);

#[test]
fn every_wrong_setup_says_what_it_is_and_leaves_nothing_half_made() {
    beside("a wrong setup", LIMIT, async {
        let mut world = World::start(&["A", "B", "C"]).await?;
        world.run_together(cases::BEFORE_INIT).await?;
        world.forget("C");
        world.run_in_order(cases::SETUP).await
    });
}

#[test]
fn what_workers_meet_shows_and_can_be_mended() {
    beside("a mesh at work", LIMIT, async {
        World::start(&["A", "B"]).await?.run_in_order(cases::AT_WORK).await
    });
}

#[test]
fn a_log_that_says_too_little_stops_its_connector() {
    beside("logs that lack something", LIMIT, async {
        World::start(&["A", "B"]).await?.run_in_order(cases::LOGS).await
    });
}
