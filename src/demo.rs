//! `unitflow demo`: two data centres on this machine that both take writes, a worker that is killed, and the proof
//! that both end with the same data.
//!
//! It runs what a user would run (`unitflow init`, `check`, `run`, `wait`) against real servers, and judges by the
//! servers' own clients. Whatever way it ends, by Ctrl-C, a panic or SIGKILL, its servers and workers end with it;
//! only `--keep` leaves them running.
//!
//! | file | subject |
//! |---|---|
//! | `scene` | all that has to be taken down: servers, workers, their folder |
//! | `unit` | a unit: its MySQL, its Redis, its Kafka, the shop in it |
//! | `cache` | what the shop keeps in Redis: users of it, and the comparison |
//! | `workers` | worker processes, their metrics, other commands of this binary |
//! | `load` | writers in one unit |
//! | `watch` | lag, as it is seen at the target |
//! | `crash` | `kill -9` of a sink at a bad moment |
//! | `compare` | both databases by the servers' own clients |
//! | `screen` | progress on stderr |
//! | `report` | the result on stdout |
//! | `keep` | how to look around when all is left running |

mod cache;
mod compare;
mod crash;
mod keep;
mod load;
mod report;
mod scene;
mod screen;
mod unit;
mod watch;
mod workers;

use std::time::{Duration, Instant};

use tokio::signal::unix::{SignalKind, signal};
use unitflow_change::{Code, Fault};
use unitflow_local::Component;

use crate::Outcome;
use crate::cli::DemoArgs;
use crate::demo::cache::Users;
use crate::demo::load::Writers;
use crate::demo::report::Story;
use crate::demo::scene::Scene;
use crate::demo::screen::Screen;
use crate::demo::watch::Watch;

/// Where changes go, in the order in which results are told.
const WAYS: [(usize, usize); 2] = [(0, 1), (1, 0)];

/// Runs the demo, and takes everything down again unless it is to be kept.
pub async fn run(args: &DemoArgs) -> Result<Outcome, Fault> {
    let screen = Screen::new();
    let mut scene = Scene::new()?;
    let played = tokio::select! {
        played = play(&mut scene, &screen, args) => played,
        listening = interrupted() => {
            listening?;
            screen.stopping();
            close(scene, &screen).await?;
            return Err(stopped());
        }
    };
    match played {
        Ok(story) => {
            println!("{}", report::text(&story));
            let outcome = if story.is_equal() { Outcome::Fine } else { Outcome::Findings };
            if args.keep {
                println!("{}", scene.keep()?);
                return Ok(outcome);
            }
            close(scene, &screen).await.map(|()| outcome)
        }
        Err(fault) => {
            screen.clear();
            eprintln!("{}", scene.evidence().await);
            if args.keep {
                println!("{}", scene.keep()?);
            } else {
                eprintln!(
                    "\nThe logs of servers and workers are in {}\n",
                    scene.rescue_logs().await
                );
            }
            Err(fault)
        }
    }
}

/// The whole story, from nothing to a verdict. Dropping it stops the load; what has to be taken down is in the scene.
async fn play(scene: &mut Scene, screen: &Screen, args: &DemoArgs) -> Result<Story, Fault> {
    let begun = Instant::now();
    screen.title(
        "Two data centres on this machine. Both take writes at the same time; Unitflow carries each change to the other.",
    );
    install(screen).await?;
    scene.start_servers(screen).await?;
    scene.initialise(screen).await?;
    scene.start_workers(screen).await?;

    let writers = Writers::start(scene.units(), args.rows).await?;
    let tally = writers.tally();
    let users = Users::start(&scene.caches()).await?;
    let watch = Watch::start(scene.units(), tally.clone()).await?;
    let bars = screen.load(args.rows);
    let (written, crash) = tokio::select! {
        both = async { tokio::try_join!(writers.finish(), crash::kill_a_sink(scene, &watch, &tally, args.rows, &bars)) } => both?,
        gone = scene.worker_gone() => return Err(gone),
        never = bars.follow(&tally, &watch) => match never {},
    };
    let used = users.stop().await?;
    bars.done(&written);
    let ages = watch.stop().await?;

    let waited = scene.wait_both_ways(screen).await?;
    let step = screen.step("reading both databases with the servers' own clients");
    let compared = compare::all(scene.units()).await?;
    step.done(compare::summary(&compared));
    let step = screen.step("comparing both caches by the servers' own digests");
    let caches = scene.compare_caches().await?;
    step.done(match &caches.difference {
        None => format!(
            "both caches have the same {} keys, by the servers' own digests",
            caches.keys[0]
        ),
        Some(key) => format!("the caches differ in {key}"),
    });
    Ok(Story {
        units: scene.describe(),
        written,
        used,
        crossed: scene.crossed().await?,
        echoes: scene.echoes().await?,
        ages,
        crash,
        waited,
        compared,
        caches,
        took: begun.elapsed(),
    })
}

async fn install(screen: &Screen) -> Result<(), Fault> {
    let needed = [
        Component::Mysql,
        Component::Mariadb,
        Component::Redis,
        Component::Valkey,
        Component::Kafka,
    ];
    if needed.iter().all(|component| component.home().is_ok()) {
        return Ok(());
    }
    let step = screen.step("bringing MySQL, MariaDB, Redis, Valkey and Kafka; only the first time");
    unitflow_local::ensure(&needed, |line| step.note(line)).await.map_err(local)?;
    step.done("MySQL, MariaDB, Redis, Valkey and Kafka are installed in your cache folder");
    Ok(())
}

/// Workers in order, then the servers; a second Ctrl-C takes the short way.
async fn close(scene: Scene, screen: &Screen) -> Result<(), Fault> {
    // Its line goes when it is done: the result has the last word.
    let _step = screen.step("stopping workers and servers");
    tokio::select! {
        () = scene.close() => Ok(()),
        listening = interrupted() => listening.and_then(|()| Err(stopped())),
    }
}

fn stopped() -> Fault {
    Fault::fatal(
        Code::Local,
        "the demo was stopped before its end; servers and workers are gone, with their data",
    )
}

/// Until someone wants us to end.
async fn interrupted() -> Result<(), Fault> {
    let listen = |kind| {
        signal(kind).map_err(|error| Fault::fatal(Code::Local, format!("no signals: {error}")))
    };
    let mut interrupt = listen(SignalKind::interrupt())?;
    let mut terminate = listen(SignalKind::terminate())?;
    let mut hangup = listen(SignalKind::hangup())?;
    tokio::select! {
        _ = interrupt.recv() => {}
        _ = terminate.recv() => {}
        _ = hangup.recv() => {}
    }
    Ok(())
}

/// What servers and programs of this machine do wrong.
fn local(fault: unitflow_local::Fault) -> Fault {
    Fault::fatal(Code::Local, fault.to_string())
}

/// Seconds for people.
fn seconds(duration: Duration) -> String {
    format!("{:.1} s", duration.as_secs_f64())
}
