//! `unitflow pause`, `resume`, `retry` and `skip`: orders to a flow, by its control topic.
//!
//! The order is a record with who gave it and why; workers that run take it up at once, those that
//! start later find it there.

use unitflow_change::name::{Log, Name, Topics};
use unitflow_change::{Code, Fault, Seq};
use unitflow_kafka::control::{self, Action, Order};

use crate::Outcome;
use crate::cli::{OrderArgs, PauseArgs, ReleaseArgs, SkipArgs};
use crate::config::Mesh;
use crate::output::say;
use crate::wait::{Until, Within, arrives};

/// Stops a flow, if it is to be drained once all has arrived that the source has committed by now.
pub async fn pause(mesh: &Mesh, args: &PauseArgs) -> Result<Outcome, Fault> {
    if args.drain {
        let (log, to) = flow(mesh, &args.order.flow)?;
        // Who gives the order has to be known before what it is given for is waited for.
        by(&args.order)?;
        let within = Within::seconds(args.timeout_seconds);
        if !arrives(mesh, &log, &to, None, within, Until::Applied).await? {
            say(&format!("{}: not paused, it goes on", args.order.flow));
            return Ok(Outcome::Findings);
        }
    }
    give(mesh, &args.order, Action::Pause, "paused").await
}

/// Lets a flow, or parked tables of it, go on.
pub async fn resume(mesh: &Mesh, args: &ReleaseArgs) -> Result<Outcome, Fault> {
    give(mesh, &args.order, Action::Resume { tables: args.table.clone() }, "resumed").await
}

/// Lets parked tables try again what they failed at.
pub async fn retry(mesh: &Mesh, args: &ReleaseArgs) -> Result<Outcome, Fault> {
    give(mesh, &args.order, Action::Retry { tables: args.table.clone() }, "trying again").await
}

/// Passes over records.
pub async fn skip(mesh: &Mesh, args: &SkipArgs) -> Result<Outcome, Fault> {
    let (from_seq, to_seq) = (Seq(args.seq), Seq(args.to_seq.unwrap_or(args.seq)));
    give(mesh, &args.order, Action::Skip { lane: args.lane, from_seq, to_seq }, "passed over").await
}

async fn give(mesh: &Mesh, args: &OrderArgs, action: Action, done: &str) -> Result<Outcome, Fault> {
    let (log, to) = flow(mesh, &args.flow)?;
    let order = Order::new(action, by(args)?, args.why.clone());
    // As a worker would: what it would refuse is not sent.
    let written = serde_json::to_vec(&order).unwrap_or_default();
    Order::parse(&written).map_err(|fault| Fault { code: Code::Config, ..fault })?;
    let broker = &mesh.unit(&to)?.broker;
    let name = Topics::flow(&log, &to);
    control::send(broker, &mesh.topics.control(&to), &name, &order).await?;
    say(&format!("{name}: {done}; see unitflow status"));
    Ok(Outcome::Fine)
}

/// The flow of this name.
fn flow(mesh: &Mesh, name: &str) -> Result<(Log, Name), Fault> {
    let mut known = Vec::new();
    for (log, to) in mesh.all_ways() {
        let flow = Topics::flow(&log, &to);
        if flow == name {
            return Ok((log, to));
        }
        known.push(flow);
    }
    Err(Fault::fatal(
        Code::Config,
        format!("there is no flow {name}; there are {}", known.join(", ")),
    ))
}

/// Who gives the order: as said, or whoever is logged in.
fn by(args: &OrderArgs) -> Result<String, Fault> {
    whoever(args.by.as_ref())
}

/// Who gives an order: as named, or whoever is logged in.
pub fn whoever(named: Option<&String>) -> Result<String, Fault> {
    let named = named.cloned().or_else(|| std::env::var("USER").ok());
    named.filter(|name| !name.is_empty()).ok_or_else(|| {
        Fault::fatal(Code::Config, "nobody is named who gives the order").hint("say so with --by")
    })
}
