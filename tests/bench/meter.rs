//! Time, and processor time of each process as the kernel counts it.

use std::fs;
use std::time::{Duration, Instant};

use anyhow::Context as _;

/// The kernel counts processor time in hundredths of a second, whatever its own clock
/// (`USER_HZ`, see proc(5)).
const TICK: Duration = Duration::from_millis(10);

/// A running measurement.
#[derive(Debug)]
pub struct Meter {
    begun: Instant,
    processes: Vec<(u32, Duration)>,
    own: Duration,
    machine: Machine,
}

/// Its result.
#[derive(Debug)]
pub struct Reading {
    /// From start to end.
    pub wall: Duration,
    /// Processor time of each process, in the order in which they were named.
    pub cpu: Vec<Duration>,
    /// How much of the machine's processors others had.
    pub others: f64,
}

impl Meter {
    /// Begins to watch these processes.
    pub fn start(pids: &[u32]) -> anyhow::Result<Self> {
        let processes = pids.iter().map(|&pid| Ok((pid, processor_time(pid)?)));
        Ok(Self {
            processes: processes.collect::<anyhow::Result<_>>()?,
            own: own_time()?,
            machine: Machine::read()?,
            begun: Instant::now(),
        })
    }

    /// Ends; `more` were started since, so that all their time counts.
    pub fn stop(&mut self, more: &[u32]) -> anyhow::Result<Reading> {
        let wall = self.begun.elapsed();
        self.processes.extend(more.iter().map(|&pid| (pid, Duration::ZERO)));
        let cpu = self
            .processes
            .iter()
            .map(|&(pid, before)| Ok(processor_time(pid)?.saturating_sub(before)));
        let cpu = cpu.collect::<anyhow::Result<Vec<_>>>()?;
        let machine = Machine::read()?;
        let busy = machine.busy - self.machine.busy;
        let total = machine.total - self.machine.total;
        let known: Duration = cpu.iter().sum::<Duration>() + own_time()?.saturating_sub(self.own);
        let others = (busy - known.as_secs_f64()).max(0.0) / total.max(TICK.as_secs_f64());
        Ok(Reading { wall, cpu, others })
    }
}

/// All threads of a process, in user and in kernel mode.
fn processor_time(pid: u32) -> anyhow::Result<Duration> {
    Ok(TICK * times(&pid.to_string())?.iter().take(2).sum())
}

/// The tools and commands that the bench has run to their end.
pub fn children_time() -> anyhow::Result<Duration> {
    Ok(TICK * times("self")?.iter().skip(2).sum())
}

/// The same, and the bench itself.
fn own_time() -> anyhow::Result<Duration> {
    Ok(processor_time(std::process::id())? + children_time()?)
}

/// `utime`, `stime`, `cutime` and `cstime`, which stand from the twelfth place on behind the name in
/// parentheses.
fn times(process: &str) -> anyhow::Result<[u32; 4]> {
    let path = format!("/proc/{process}/stat");
    let stat = fs::read_to_string(&path).with_context(|| path.clone())?;
    let (_, behind) = stat.rsplit_once(')').with_context(|| path.clone())?;
    let mut fields = behind.split_whitespace().skip(11);
    let mut times = [0; 4];
    for time in &mut times {
        *time = fields.next().and_then(|field| field.parse().ok()).with_context(|| path.clone())?;
    }
    Ok(times)
}

/// All processors together, in seconds.
#[derive(Debug)]
struct Machine {
    busy: f64,
    total: f64,
}

impl Machine {
    /// The first line of `/proc/stat`: user, nice, system, idle, iowait, irq, softirq, steal; what
    /// follows is in user already.
    fn read() -> anyhow::Result<Self> {
        let stat = fs::read_to_string("/proc/stat")?;
        let line = stat.lines().next().context("/proc/stat is empty")?;
        let ticks: Vec<f64> = line
            .split_whitespace()
            .skip(1)
            .take(8)
            .filter_map(|field| field.parse().ok())
            .collect();
        let total: f64 = ticks.iter().sum();
        let idle: f64 = ticks.iter().skip(3).take(2).sum();
        let second = TICK.as_secs_f64();
        Ok(Self { busy: (total - idle) * second, total: total * second })
    }
}
