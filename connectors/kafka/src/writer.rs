//! The fenced transactional writer.
//!
//! What can go wrong: the broker is away for longer than a record may wait, a record is refused, a
//! newer writer opened the same id. In all of these the open transaction is lost as a whole and
//! the writer is dead: nothing is retried in place, the caller opens a new one and goes on from its
//! durable state.

use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use rdkafka::client::ClientContext;
use rdkafka::config::RDKafkaLogLevel;
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::message::{Header, Message, OwnedHeaders};
use rdkafka::producer::{
    BaseProducer, BaseRecord, DeliveryResult, NoCustomPartitioner, Producer, ProducerContext,
};
use tracing::debug;
use unitflow_change::fault::{Code, Fault, Kind};

use crate::broker::{ASK, Broker, blocking, judge, judge_code, log};
use crate::native;
use crate::pieces::{self, PIECE_BYTES_MAX};

/// How many records are sent between two looks at what failed.
const LOOK_EVERY: u32 = 64;

/// One slice of waiting in a commit. A failed delivery shows between two slices.
///
/// Long, since an answer that comes between two slices may be taken for the next one's.
const SLICE: Duration = Duration::from_secs(5);

/// Room in a request for what stands beside a piece: headers, and smaller records of its batch.
const BESIDE_BYTES: usize = 2 << 20;

/// When a connection that was cut without a word is given up.
const SOCKET: Duration = Duration::from_secs(30);

/// What a writer may use.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Options {
    /// Bytes of records that were sent and not yet acknowledged. Beyond it `send` waits. It must be
    /// larger than a piece.
    pub queue_bytes_max: usize,
    /// Key and value of a record above which it travels in pieces of this size, before compression.
    pub piece_bytes_max: usize,
    /// How long a transaction may be open before the broker aborts it and fences the writer.
    pub transaction_timeout: Duration,
    /// How long a batch waits for more records unless a commit ends the wait.
    pub linger: Duration,
}

impl Default for Options {
    /// 64 MiB of queue, [`PIECE_BYTES_MAX`], a minute for a transaction, 20 ms for a batch.
    fn default() -> Self {
        Self {
            queue_bytes_max: 64 << 20,
            piece_bytes_max: PIECE_BYTES_MAX,
            transaction_timeout: Duration::from_secs(60),
            linger: Duration::from_millis(20),
        }
    }
}

/// Writes records under a fence, in transactions.
///
/// * **Fence.** [`Writer::open`] returns once no older writer of the same transactional id can
///   commit any more and the transaction it had open is aborted. So: open first, then read the end
///   of the own topic, then go on.
/// * **All or nothing.** Records sent since the last commit become visible to readers together at
///   [`Writer::commit`], or never.
/// * **Order.** Records of one partition stand in the order in which they were sent. None is left
///   out: a record that can't be delivered ends the writer.
/// * **Any size.** A record that is larger than a broker takes travels in [pieces], all of them in
///   the one transaction.
/// * **Dead is dead.** After the first fault every call returns that fault. `Ambiguous` from
///   `commit` means that the broker may have committed: open a new writer and look.
/// * **Durable.** A committed record is on all in-sync replicas (`acks=all`).
///
/// Dropping a writer aborts what is not committed; a worker that is killed leaves that to its
/// successor or to the transaction's time-out, and readers wait for it as long.
pub struct Writer {
    producer: BaseProducer<Deliveries>,
    id: String,
    give_up: Duration,
    piece_bytes_max: usize,
    open: bool,
    records: usize,
    bytes: usize,
    unlooked: u32,
    dead: Option<Fault>,
}

impl Writer {
    /// Opens the writer of this transactional id and fences any older one.
    ///
    /// # Errors
    /// `Retry` while Kafka can't be reached; `Grant`, `Denied` and `Setting` need a person.
    pub async fn open(broker: &Broker, id: &str) -> Result<Self, Fault> {
        Self::open_with(broker, id, Options::default()).await
    }

    /// The same with other limits.
    ///
    /// # Errors
    /// As [`Writer::open`].
    pub async fn open_with(broker: &Broker, id: &str, options: Options) -> Result<Self, Fault> {
        let (broker, id) = (broker.clone(), id.to_owned());
        blocking(move || Self::open_blocking(&broker, id, &options)).await
    }

    fn open_blocking(broker: &Broker, id: String, options: &Options) -> Result<Self, Fault> {
        let millis = |time: Duration| time.as_millis().to_string();
        // A record that waits longer fails, while its transaction can still be aborted.
        let give_up = options.transaction_timeout * 3 / 4;
        let defaults: [(&str, &str); _] = [
            // Kafka's library wants it to be no longer than the transaction's.
            ("socket.timeout.ms", &millis(options.transaction_timeout.min(SOCKET))),
            ("compression.type", "lz4"),
            ("linger.ms", &millis(options.linger)),
            // Below 1 MB a row costs 2.5 µs more.
            ("batch.size", "1000000"),
            ("retry.backoff.ms", "50"),
            ("queue.buffering.max.messages", "1000000"),
            ("queue.buffering.max.kbytes", &(options.queue_bytes_max / 1024).to_string()),
            ("message.max.bytes", &(options.piece_bytes_max + BESIDE_BYTES).to_string()),
        ];
        let forced = [
            ("transactional.id", id.as_str()),
            ("transaction.timeout.ms", &millis(options.transaction_timeout)),
            ("message.timeout.ms", &millis(give_up)),
            ("enable.idempotence", "true"),
            ("acks", "all"),
            ("delivery.report.only.error", "true"),
        ];
        let place = format!("writer {id}");
        let producer: BaseProducer<Deliveries> = broker
            .client(&defaults, &forced)?
            .create_with_context(Deliveries::default())
            .map_err(|error| judge(&error, &place))?;
        let mut writer = Self {
            producer,
            id,
            give_up,
            piece_bytes_max: options.piece_bytes_max,
            open: false,
            records: 0,
            bytes: 0,
            unlooked: 0,
            dead: None,
        };
        let until = Instant::now() + 2 * ASK;
        // The library looks for its coordinator at once, and where no broker is connected yet only
        // half a second later again. What can't be reached is told by the call that needs it.
        let _connected = writer.producer.client().fetch_cluster_id(ASK / 4);
        // May be called again after a time-out of its own; what was begun goes on.
        loop {
            match writer.producer.init_transactions(ASK / 4) {
                Ok(()) => return Ok(writer),
                Err(KafkaError::Transaction(error))
                    if error.is_retriable() && Instant::now() < until =>
                {
                    writer.serve();
                    writer.check()?;
                }
                Err(error) => {
                    writer.serve();
                    let detail = match &error {
                        KafkaError::Transaction(error) => error.string(),
                        error => error.to_string(),
                    };
                    let code = error.rdkafka_error_code().unwrap_or(RDKafkaErrorCode::Fail);
                    return Err(writer.die(code, &detail));
                }
            }
        }
    }

    /// The transactional id.
    #[must_use]
    pub fn id(&self) -> &str {
        &self.id
    }

    /// Adds a record to the open transaction, or to a new one. Does not wait for the broker unless
    /// the queue is full, and then no longer than a record may wait.
    ///
    /// `timestamp_ms` counts only in topics with `CreateTime`.
    ///
    /// # Errors
    /// A record over the limit is `Poison` ([`Code::TooLarge`] over [`pieces::RECORD_BYTES_MAX`])
    /// and leaves the writer as it was; all else kills it.
    pub fn send(
        &mut self,
        topic: &str,
        partition: i32,
        key: Option<&[u8]>,
        value: Option<&[u8]>,
        headers: &[(&str, &[u8])],
        timestamp_ms: i64,
    ) -> Result<(), Fault> {
        let bytes = key.map_or(0, <[u8]>::len) + value.map_or(0, <[u8]>::len);
        if bytes <= self.piece_bytes_max {
            self.put(topic, partition, key, value, headers, timestamp_ms)?;
        } else {
            self.send_in_pieces(topic, partition, (key, value), headers, timestamp_ms)?;
        }
        self.records += 1;
        self.bytes += bytes;
        Ok(())
    }

    fn send_in_pieces(
        &mut self,
        topic: &str,
        partition: i32,
        (key, value): (Option<&[u8]>, Option<&[u8]>),
        headers: &[(&str, &[u8])],
        timestamp_ms: i64,
    ) -> Result<(), Fault> {
        let value = value.unwrap_or_default();
        let cut = pieces::cut(key.map_or(0, <[u8]>::len), value.len(), self.piece_bytes_max)
            .map_err(|fault| fault.at(format_args!("topic {topic}")))?;
        for (piece, range) in cut {
            let text = piece.text();
            let mut all = vec![(pieces::HEADER, text.as_bytes())];
            let first = piece.number == 1;
            if first {
                all.extend_from_slice(headers);
            }
            let key = key.filter(|_| first);
            let put = self.put(topic, partition, key, Some(&value[range]), &all, timestamp_ms);
            if let Err(fault) = put {
                // A part of a record must never be committed.
                if !first {
                    self.dead.get_or_insert_with(|| fault.clone());
                }
                return Err(fault);
            }
        }
        Ok(())
    }

    /// Hands one record of Kafka's to the library.
    fn put(
        &mut self,
        topic: &str,
        partition: i32,
        key: Option<&[u8]>,
        value: Option<&[u8]>,
        headers: &[(&str, &[u8])],
        timestamp_ms: i64,
    ) -> Result<(), Fault> {
        self.unlooked += 1;
        if self.unlooked >= LOOK_EVERY || self.dead.is_some() {
            self.check()?;
        }
        self.begin()?;
        let mut record: BaseRecord<'_, [u8], [u8]> =
            BaseRecord::to(topic).partition(partition).timestamp(timestamp_ms);
        record.key = key;
        record.payload = value;
        if !headers.is_empty() {
            let list = OwnedHeaders::new_with_capacity(headers.len());
            record.headers =
                Some(headers.iter().fold(list, |list, (key, value)| {
                    list.insert(Header { key, value: Some(*value) })
                }));
        }
        let mut full_since = None;
        loop {
            record = match self.producer.send(record) {
                Ok(()) => return Ok(()),
                Err((KafkaError::MessageProduction(RDKafkaErrorCode::QueueFull), back)) => back,
                Err((error, _)) => return Err(self.refused(&error, topic)),
            };
            self.check()?;
            if full_since.get_or_insert_with(Instant::now).elapsed() > self.give_up {
                return Err(self.die(RDKafkaErrorCode::QueueFull, "no record left the queue"));
            }
            std::thread::sleep(Duration::from_millis(1));
        }
    }

    /// Begins a transaction where none is open.
    fn begin(&mut self) -> Result<(), Fault> {
        if self.open {
            return Ok(());
        }
        self.producer
            .begin_transaction()
            .map_err(|error| self.die_of(&error, "beginning a transaction"))
            // The commit before may not have ended: begin anew from what is durable.
            .map_err(|fault| match fault.code {
                Code::Kafka => Fault { kind: Kind::Ambiguous, ..fault },
                _ => fault,
            })?;
        self.open = true;
        Ok(())
    }

    /// Commits all records sent since the last commit. Blocks until the broker has said so; without
    /// an open transaction it does nothing.
    ///
    /// # Errors
    /// Any fault kills the writer. `Ambiguous`: the broker did not answer, it may have been
    /// committed. [`Code::Fenced`]: a newer writer holds the id and goes on from what it found,
    /// which in general is without these records. After every other fault they are lost.
    pub fn commit(&mut self) -> Result<(), Fault> {
        self.check()?;
        if !self.open {
            return Ok(());
        }
        let until = Instant::now() + self.give_up + ASK;
        loop {
            match native::commit(self.producer.client(), SLICE) {
                Ok(()) => break,
                Err(error) if error.resumable => {
                    self.serve();
                    if Instant::now() > until {
                        let what = format!("writer {}: commit: {}", self.id, error.text);
                        let fault = Fault::ambiguous(Code::Unreachable, what);
                        self.dead = Some(fault.clone());
                        return Err(fault);
                    }
                }
                Err(error) => {
                    self.serve();
                    let mut fault = self.die(error.code, &error.text);
                    // A slice that ends before the library has begun leaves an answer behind, which
                    // the next one takes for its own: the commit is under way, and no more is known.
                    if fault.code == Code::Kafka && error.code == RDKafkaErrorCode::State {
                        fault.kind = Kind::Ambiguous;
                        self.dead = Some(fault.clone());
                    }
                    return Err(fault);
                }
            }
        }
        self.open = false;
        self.records = 0;
        self.bytes = 0;
        Ok(())
    }

    /// Records sent since the last commit.
    #[must_use]
    pub fn pending_records(&self) -> usize {
        self.records
    }

    /// Bytes of keys and values sent since the last commit.
    #[must_use]
    pub fn pending_bytes(&self) -> usize {
        self.bytes
    }

    /// Whether the writer still lives. Call it now and then while there is nothing to send.
    ///
    /// # Errors
    /// The fault that killed it.
    pub fn check(&mut self) -> Result<(), Fault> {
        self.unlooked = 0;
        if let Some(fault) = &self.dead {
            return Err(fault.clone());
        }
        self.producer.poll(Duration::ZERO);
        if self.producer.context().failed.load(Ordering::Acquire) {
            self.serve();
            return Err(self.die(RDKafkaErrorCode::Fatal, ""));
        }
        Ok(())
    }

    /// Takes in what the library has to report.
    fn serve(&self) {
        for _ in 0..1024 {
            self.producer.poll(Duration::ZERO);
        }
    }

    /// A record that the library did not take.
    fn refused(&mut self, error: &KafkaError, topic: &str) -> Fault {
        let fault = judge(error, format!("writer {}: topic {topic}", self.id));
        if fault.kind == Kind::Poison { fault } else { self.die_of(error, "sending") }
    }

    fn die_of(&mut self, error: &KafkaError, doing: &str) -> Fault {
        let detail = match error {
            KafkaError::Transaction(error) => error.string(),
            _ => String::new(),
        };
        let code = error.rdkafka_error_code().unwrap_or(RDKafkaErrorCode::Fail);
        self.die(code, &format!("{doing}: {detail}"))
    }

    /// Ends the writer. What the library calls fatal counts before a failed delivery, and this
    /// before what the call returned, which may be no more than their consequence.
    fn die(&mut self, code: RDKafkaErrorCode, detail: &str) -> Fault {
        let place = format!("writer {}", self.id);
        let context = self.producer.context();
        let first = context.first.lock().ok().and_then(|first| first.clone());
        let fault = match (self.producer.client().fatal_error(), first) {
            (Some((code, text)), _) => judge_code(code, place, &text),
            (None, Some((code, text))) => judge_code(code, place, &text),
            (None, None) => judge_code(code, place, detail),
        };
        self.dead = Some(fault.clone());
        fault
    }
}

impl Drop for Writer {
    fn drop(&mut self) {
        let fenced = self.dead.as_ref().is_some_and(|fault| fault.code == Code::Fenced);
        if !self.open || fenced || self.producer.client().fatal_error().is_some() {
            return;
        }
        // So that readers need not wait for the transaction's time-out; no more than that hangs on
        // it, so it is not insisted on.
        let until = Instant::now() + Duration::from_secs(2);
        while let Err(error) = native::abort(self.producer.client(), SLICE / 4) {
            self.serve();
            if !error.resumable || Instant::now() > until {
                debug!(writer = self.id, error = error.text, "could not abort");
                break;
            }
        }
    }
}

/// Remembers the first thing that went wrong.
#[derive(Default)]
struct Deliveries {
    failed: AtomicBool,
    first: Mutex<Option<(RDKafkaErrorCode, String)>>,
}

impl Deliveries {
    fn fail(&self, code: RDKafkaErrorCode, text: String) {
        if let Ok(mut first) = self.first.lock() {
            first.get_or_insert((code, text));
        }
        self.failed.store(true, Ordering::Release);
    }
}

impl ClientContext for Deliveries {
    fn log(&self, level: RDKafkaLogLevel, facility: &str, message: &str) {
        log(level, facility, message);
    }

    fn error(&self, error: KafkaError, reason: &str) {
        debug!(target: "librdkafka", %error, reason);
        use RDKafkaErrorCode as E;
        // Brokers come and go; a record that waits too long for one fails by itself.
        let ends = |code: &E| {
            matches!(code, E::Fatal | E::Authentication | E::SaslAuthenticationFailed | E::SSL)
        };
        if let Some(code) = error.rdkafka_error_code().filter(ends) {
            self.fail(code, reason.to_owned());
        }
    }
}

impl ProducerContext<NoCustomPartitioner> for Deliveries {
    type DeliveryOpaque = ();

    fn delivery(&self, result: &DeliveryResult<'_>, (): Self::DeliveryOpaque) {
        if let Err((error, record)) = result {
            let code = error.rdkafka_error_code().unwrap_or(RDKafkaErrorCode::Fail);
            let text = format!("a record for {}[{}]", record.topic(), record.partition());
            self.fail(code, text);
        }
    }
}
