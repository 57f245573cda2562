//! One log's way into this unit: spreads its lanes over the workers of a consumer group and keeps
//! those of this worker running.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;
use tokio::task::{self, JoinError, JoinSet};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tokio_util::task::AbortOnDropHandle;
use tracing::{Instrument as _, debug, error, info_span, warn};
use unitflow_change::fault::Kind;
use unitflow_change::{Code, Fault, inject};
use unitflow_kafka::control::{self, InForce};
use unitflow_kafka::members::{self, Change, Members, committed};

use crate::metrics::{Instruments, LaneMetrics};
use crate::mirror::Mirror;
use crate::road::{Apply, Road, Start};

/// How often offsets are mirrored to the group.
const MIRROR_EVERY: Duration = Duration::from_secs(1);
/// A killed worker's lanes move to others within this and a rebalance; the least that a broker
/// allows by default.
const SESSION_TIMEOUT: Duration = Duration::from_secs(6);
/// How long a lane may take to stop before its partition moves all the same: the ledger fences.
const STOP_WITHIN: Duration = Duration::from_secs(5);
/// How long a worker that a test makes dawdle goes on with lanes that others have by now.
const DAWDLE: Duration = Duration::from_secs(2);
/// How long a flow waits at its start for the orders that hold.
const ORDERS_WITHIN: Duration = Duration::from_secs(30);
/// The pauses between a lane's attempts.
const PAUSE_MIN: Duration = Duration::from_millis(100);
const PAUSE_MAX: Duration = Duration::from_secs(5);

/// Hears how lanes fare.
pub trait Listener: Send + Sync + 'static {
    /// A lane stopped or is about to be tried again.
    fn fault(&self, lane: i32, fault: &Fault);
}

/// Runs this worker's lanes until it is cancelled. A lane that stops for good leaves the others
/// running; the first such fault is returned when none runs any more.
pub async fn run<A: Apply>(
    way: Arc<A>,
    instruments: Instruments,
    listener: Arc<dyn Listener>,
    cancel: CancellationToken,
) -> Result<(), Fault> {
    let road = way.road().clone();
    let options = members::Options { session_timeout: SESSION_TIMEOUT, stop_within: STOP_WITHIN };
    let mut members = Members::join(&road.broker, &road.group, &road.topic, &options)?;
    let (orders, mut in_force) = watch::channel(None);
    let follower = tokio::spawn(follow(road, orders));
    let _follower = AbortOnDropHandle::new(follower);
    known(&mut in_force, &cancel).await?;
    let mut flow = Flow {
        orders: in_force.clone(),
        way,
        instruments,
        listener,
        mirror: Arc::default(),
        lanes: JoinSet::new(),
        assigned: HashMap::new(),
        tokens: HashMap::new(),
        stopped: None,
    };
    let mut tick = tokio::time::interval(MIRROR_EVERY);
    let result = loop {
        tokio::select! {
            () = cancel.cancelled() => break Ok(()),
            change = members.next() => match change {
                Ok(change) => {
                    if let Err(fault) = flow.change(change).await {
                        break Err(fault);
                    }
                }
                Err(fault) if fault.is_retry() => debug!(%fault, "group"),
                Err(fault) => break Err(fault),
            },
            Ok(()) = in_force.changed() => flow.start_what_stopped(),
            Some(ended) = flow.lanes.join_next() => {
                flow.note(ended);
                if let Some(fault) = flow.stopped.take_if(|_| flow.tokens.is_empty()) {
                    break Err(fault);
                }
            }
            _ = tick.tick() => flow.mirror_to(&members),
        }
    };
    let running: Vec<i32> = flow.tokens.keys().copied().collect();
    flow.stop(&running).await;
    flow.mirror_to(&members);
    members.leave().await;
    result
}

struct Flow<A> {
    way: Arc<A>,
    instruments: Instruments,
    listener: Arc<dyn Listener>,
    mirror: Arc<Mirror>,
    lanes: JoinSet<(i32, Result<(), Fault>)>,
    /// The order in force.
    orders: watch::Receiver<Option<InForce>>,
    /// What the group held of the lanes that this worker has, whether they run or not.
    assigned: HashMap<i32, Option<(i64, String)>>,
    /// Of the lanes that run.
    tokens: HashMap<i32, (CancellationToken, task::Id)>,
    /// Why the first lane stopped for good.
    stopped: Option<Fault>,
}

impl<A: Apply> Flow<A> {
    async fn change(&mut self, change: Change) -> Result<(), Fault> {
        match change {
            Change::Added { partitions } => {
                let count = partitions.iter().max().map_or(0, |highest| highest + 1);
                let road = self.way.road();
                let known = committed(&road.broker, &road.group, &road.topic, count).await?;
                for lane in partitions {
                    let place = usize::try_from(lane).unwrap_or(usize::MAX);
                    let committed = known.get(place).cloned().flatten();
                    self.assigned.insert(lane, committed.clone());
                    self.start(lane, committed);
                }
            }
            Change::Removed { partitions, lost, stopped } => {
                debug!(?partitions, lost, "lanes move to other workers");
                if inject::on("dawdle") {
                    tokio::time::sleep(DAWDLE).await;
                }
                self.stop(&partitions).await;
                for lane in partitions {
                    self.mirror.forget(lane);
                    self.assigned.remove(&lane);
                }
                stopped.confirm();
            }
        }
        Ok(())
    }

    /// A new order may mend what stopped a lane.
    fn start_what_stopped(&mut self) {
        let stopped: Vec<_> = self
            .assigned
            .iter()
            .filter(|(lane, _)| !self.tokens.contains_key(lane))
            .map(|(lane, committed)| (*lane, committed.clone()))
            .collect();
        for (lane, committed) in stopped {
            self.start(lane, committed);
        }
    }

    fn start(&mut self, lane: i32, committed: Option<(i64, String)>) {
        let attempts = Attempts {
            way: self.way.clone(),
            lane,
            committed,
            mirror: self.mirror.clone(),
            metrics: self.instruments.lane(&self.way.road().log, &self.way.road().to, lane),
            listener: self.listener.clone(),
            orders: self.orders.clone(),
            cancel: CancellationToken::new(),
        };
        let cancel = attempts.cancel.clone();
        let span = info_span!("lane", log = %self.way.road().log, lane);
        let task = self.lanes.spawn(async move { (lane, attempts.run().await) }.instrument(span));
        self.tokens.insert(lane, (cancel, task.id()));
    }

    /// Stops these lanes and waits until they have.
    async fn stop(&mut self, lanes: &[i32]) {
        for (cancel, _) in lanes.iter().filter_map(|lane| self.tokens.get(lane)) {
            cancel.cancel();
        }
        while lanes.iter().any(|lane| self.tokens.contains_key(lane)) {
            match self.lanes.join_next().await {
                Some(ended) => self.note(ended),
                None => return,
            }
        }
    }

    fn note(&mut self, ended: Result<(i32, Result<(), Fault>), JoinError>) {
        match ended {
            Ok((lane, result)) => {
                self.tokens.remove(&lane);
                if let Err(fault) = result {
                    self.stopped.get_or_insert(fault);
                }
            }
            Err(panic) => {
                let fault = Fault::fatal(Code::Bug, format!("a lane panicked: {panic}"));
                error!(code = %fault.code, "{}", fault.what);
                let lane = self.tokens.iter().find(|(_, (_, task))| *task == panic.id());
                if let Some(lane) = lane.map(|(lane, _)| *lane) {
                    self.tokens.remove(&lane);
                    self.listener.fault(lane, &fault);
                }
                self.stopped.get_or_insert(fault);
            }
        }
    }

    fn mirror_to(&self, members: &Members) {
        let news = self.mirror.take_news();
        let offsets: Vec<(i32, i64, &str)> =
            news.iter().map(|(lane, offset, note)| (*lane, *offset, note.as_str())).collect();
        if !offsets.is_empty()
            && let Err(fault) = members.commit(&offsets)
        {
            debug!(%fault, "offsets are mirrored next time");
        }
    }
}

/// One lane, begun anew from the ledger after each fault that may be tried again.
struct Attempts<A> {
    way: Arc<A>,
    lane: i32,
    committed: Option<(i64, String)>,
    mirror: Arc<Mirror>,
    metrics: LaneMetrics,
    listener: Arc<dyn Listener>,
    orders: watch::Receiver<Option<InForce>>,
    cancel: CancellationToken,
}

impl<A: Apply> Attempts<A> {
    async fn run(mut self) -> Result<(), Fault> {
        let mut pause = PAUSE_MIN;
        let mut misfit = None;
        loop {
            let begun = Instant::now();
            let orders = self.orders.borrow_and_update().clone().unwrap_or_default();
            let start = Start {
                committed: self.committed.clone(),
                orders,
                mirror: self.mirror.clone(),
                metrics: self.metrics.clone(),
            };
            let attempt = self.way.run_lane(self.lane, start, self.cancel.clone());
            let outcome = tokio::select! {
                outcome = attempt => outcome,
                Ok(()) = self.orders.changed() => {
                    // Under the new one the lane may stand still.
                    self.metrics.stopped();
                    continue;
                }
            };
            self.metrics.stopped();
            let Err(mut fault) = outcome else { return Ok(()) };
            // What did not fit once more never will.
            let before = misfit.replace(fault.what.clone());
            let is_again = before.as_ref() == Some(&fault.what);
            if is_again && fault.code == Code::Conflict && fault.kind == Kind::Retry {
                fault.kind = Kind::Fatal;
            }
            self.listener.fault(self.lane, &fault);
            if !fault.is_retry() {
                error!(code = %fault.code, hint = fault.remedy(), "{}", fault.what);
                return Err(fault);
            }
            if begun.elapsed() > PAUSE_MAX {
                pause = PAUSE_MIN;
            }
            warn!(code = %fault.code, "{}; again from the ledger", fault.what);
            tokio::select! {
                () = self.cancel.cancelled() => return Ok(()),
                () = tokio::time::sleep(pause) => {}
            }
            pause = (pause * 2).min(PAUSE_MAX);
        }
    }
}

/// Keeps `orders` at the order in force. Where the control topic can't be read the last one holds.
async fn follow(road: Road, orders: watch::Sender<Option<InForce>>) {
    let (broker, topic) = &road.control;
    loop {
        if let Err(fault) = control::follow(broker, topic, &road.flow, &orders).await {
            warn!(code = %fault.code, "{}; the last order holds", fault.what);
        }
        tokio::time::sleep(PAUSE_MAX).await;
    }
}

/// Waits until the first order is known: a flow that is paused must not begin.
async fn known(
    orders: &mut watch::Receiver<Option<InForce>>,
    cancel: &CancellationToken,
) -> Result<(), Fault> {
    let known = tokio::select! {
        () = cancel.cancelled() => true,
        known = tokio::time::timeout(ORDERS_WITHIN, orders.wait_for(Option::is_some)) => known.is_ok(),
    };
    if known {
        return Ok(());
    }
    Err(Fault::retry(Code::Timeout, "the control topic could not be read to its end"))
}
