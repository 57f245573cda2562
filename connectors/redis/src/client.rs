//! Commands to a store's primary, by the driver `redis`; its connections are opened as all others are.

use std::time::Duration;

use redis::aio::{ConnectionLike as _, MultiplexedConnection};
use redis::{AsyncConnectionConfig, Cmd, Pipeline, RedisConnectionInfo, RedisError, Value};
use tokio_util::task::AbortOnDropHandle;
use unitflow_change::fault::{Code, Fault};

use crate::connect::{Refusals, Socket, Store, judge};
use crate::stream::{ahead_of, now_us};

/// How long an answer may take: a large transaction takes its time.
const ANSWER_WITHIN: Duration = Duration::from_secs(30);

/// A connection to a primary.
pub struct Client {
    connection: MultiplexedConnection,
    /// Where it leads: `A.cache at 10.0.0.7:6379`.
    place: String,
    /// By how many µs the server's clock is before ours.
    ahead_us: i64,
    _driver: AbortOnDropHandle<()>,
}

impl Client {
    /// Opens a connection to the first endpoint that is a primary and lets us in.
    ///
    /// # Errors
    /// `Retry` while none answers or none is a primary; [`Code::Denied`], [`Code::Tls`] need a person.
    pub async fn open(store: &Store) -> Result<Self, Fault> {
        let mut refusals = Refusals::default();
        for (host, port) in &store.endpoints {
            let place = format!("{} at {host}:{port}", store.name);
            let attempt = Self::open_one(store, (host, *port), place.clone());
            if let Some(opened) = refusals.unless(place, attempt).await {
                return Ok(opened);
            }
        }
        Err(refusals.fault(store))
    }

    async fn open_one(
        store: &Store,
        (host, port): (&str, u16),
        place: String,
    ) -> Result<Self, Fault> {
        let socket = Socket::open(&store.tls, host, port).await?;
        let mut info = RedisConnectionInfo::default().set_skip_set_lib_name();
        if let Some((user, password)) = store.credentials() {
            info = info.set_username(user).set_password(password);
        }
        let config = AsyncConnectionConfig::new().set_response_timeout(Some(ANSWER_WITHIN));
        let opened = MultiplexedConnection::new_with_config(&info, socket, config).await;
        let (connection, driver) = opened.map_err(|error| fault(&error))?;
        let driver = AbortOnDropHandle::new(tokio::spawn(driver));
        let mut client = Self { connection, place, ahead_us: 0, _driver: driver };
        client.ensure_primary().await?;
        client.read_clock().await?;
        Ok(client)
    }

    async fn ensure_primary(&mut self) -> Result<(), Fault> {
        let mut pipeline = Pipeline::new();
        pipeline.cmd("ROLE");
        let role = self.answers(&pipeline).await?.pop();
        let Some(Value::Array(parts)) = role else {
            return Err(Fault::fatal(Code::StreamCorrupt, "the server does not tell its role"));
        };
        match parts.first() {
            Some(Value::BulkString(role)) if role == b"master" => Ok(()),
            _ => Err(Fault::retry(Code::Unreachable, "the server is no primary")),
        }
    }

    async fn read_clock(&mut self) -> Result<(), Fault> {
        let before = now_us();
        let answer = self.ask(&redis::cmd("TIME")).await?;
        let (seconds, micros): (u64, u64) = redis::from_redis_value(answer)
            .map_err(|_| Fault::fatal(Code::StreamCorrupt, "the server does not tell its time"))?;
        self.ahead_us = ahead_of(seconds, micros, before.midpoint(now_us()));
        Ok(())
    }

    /// What the server's clock shows, in µs since 1970.
    #[must_use]
    pub fn now_us(&self) -> u64 {
        now_us().saturating_add_signed(self.ahead_us)
    }

    /// Where it leads.
    #[must_use]
    pub fn place(&self) -> &str {
        &self.place
    }

    /// Sends commands at once; the answer to each, errors of the server's among them.
    ///
    /// # Errors
    /// Those of the connection: then nobody knows which of the commands were carried out.
    pub async fn answers(&mut self, pipeline: &Pipeline) -> Result<Vec<Value>, Fault> {
        let answers = self.connection.req_packed_commands(pipeline, 0, pipeline.len()).await;
        answers.map_err(|error| fault(&error).at(&self.place))
    }

    /// Sends one command.
    ///
    /// # Errors
    /// Those of the connection, and what the server refuses.
    pub async fn ask(&mut self, command: &Cmd) -> Result<Value, Fault> {
        let answer = self.connection.req_packed_command(command).await;
        answer.and_then(Value::extract_error).map_err(|error| fault(&error).at(&self.place))
    }
}

/// What an error of the driver's means.
fn fault(error: &RedisError) -> Fault {
    match error.code() {
        Some(code) => judge(&format!("{code} {}", error.detail().unwrap_or_default())),
        None => Fault::retry(Code::Unreachable, format!("the connection broke: {error}")),
    }
}

/// What the server refuses, in an answer; `None` where it does not.
#[must_use]
pub fn refusal(answer: &Value) -> Option<Fault> {
    match answer {
        Value::ServerError(error) => {
            Some(judge(&format!("{} {}", error.code(), error.details().unwrap_or_default())))
        }
        _ => None,
    }
}
