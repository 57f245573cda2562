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

use unitflow_harness::serial;

use world::World;

/// The whole table takes two minutes on two cores that are busy with nothing else.
const LIMIT: Duration = Duration::from_secs(480);

#[test]
fn every_bad_case_says_what_it_is_and_leaves_nothing_half_made() {
    serial("what a wrong setup says", LIMIT, async {
        let mut world = World::start().await?;
        world.run_together(cases::BEFORE_INIT).await?;
        world.forget("C");
        for case in cases::IN_ORDER {
            world.run(case).await?;
        }
        world.finish();
        Ok(())
    });
}
