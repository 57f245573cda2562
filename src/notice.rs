//! What a worker says of its roles in its unit's heartbeat topic, for `status` in another place.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};
use std::time::{SystemTime, UNIX_EPOCH};

use serde::{Deserialize, Serialize};
use unitflow_change::{Code, Fault};
use unitflow_kafka::broker::Broker;
use unitflow_kafka::notes::Notes;

/// The note about one role.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Notice {
    /// `connector A.shop`, `sink B.shop`, `sink B.shop lane 3`.
    pub role: String,
    /// Whether it runs, or will be tried again.
    pub running: bool,
    /// When this was written, in ms since 1970.
    pub at_ms: u64,
    /// When the role last began, in ms since 1970: what a lane said before that is over.
    #[serde(default)]
    pub began_ms: u64,
    /// The process.
    pub pid: u32,
    /// What went wrong last since the process started.
    pub fault: Option<Past>,
}

/// A fault as others read it.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Past {
    /// Its code.
    pub code: String,
    /// What happened.
    pub what: String,
    /// What mends it.
    pub hint: String,
    /// When, in ms since 1970.
    pub at_ms: u64,
}

/// Writes the notices of this process.
pub struct Board {
    notes: Notes,
    roles: Mutex<HashMap<String, Course>>,
}

/// How a role has fared since the process started.
#[derive(Clone, Default)]
struct Course {
    began_ms: u64,
    fault: Option<Past>,
}

impl Board {
    /// Notices to a unit's heartbeat topic.
    pub fn open(broker: &Broker, topic: &str) -> Result<Self, Fault> {
        Ok(Self { notes: Notes::open(broker, topic)?, roles: Mutex::default() })
    }

    /// A role runs.
    pub fn running(&self, role: &str) {
        let course = self.note(role, |course| course.began_ms = now_ms());
        self.write(role, true, course);
    }

    /// A role met a fault; it is tried again if the fault allows it.
    pub fn fault(&self, role: &str, fault: &Fault) {
        // Whoever took the role over has said already that it runs.
        if fault.code == Code::Fenced {
            return;
        }
        let past = Past {
            code: fault.code.to_string(),
            what: fault.what.clone(),
            hint: fault.remedy().to_owned(),
            at_ms: now_ms(),
        };
        let course = self.note(role, |course| course.fault = Some(past));
        self.write(role, fault.is_retry(), course);
    }

    /// A role was told to stop.
    pub fn stopped(&self, role: &str) {
        let course = self.note(role, |_| {});
        self.write(role, false, Course { fault: None, ..course });
    }

    /// Waits for a moment until the last notices are written.
    pub async fn close(&self) {
        self.notes.close().await;
    }

    fn note(&self, role: &str, change: impl FnOnce(&mut Course)) -> Course {
        let mut roles = self.roles.lock().unwrap_or_else(PoisonError::into_inner);
        let course = roles.entry(role.to_owned()).or_default();
        change(course);
        course.clone()
    }

    fn write(&self, role: &str, running: bool, Course { began_ms, fault }: Course) {
        let notice = Notice {
            role: role.to_owned(),
            running,
            at_ms: now_ms(),
            began_ms,
            pid: std::process::id(),
            fault,
        };
        if let Ok(text) = serde_json::to_vec(&notice) {
            self.notes.write(role, &text);
        }
    }
}

fn now_ms() -> u64 {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(now.as_millis()).unwrap_or(0)
}
