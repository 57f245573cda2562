//! The calls that librdkafka has and rdkafka does not pass on. All unsafe code of the crate is here.
//!
//! * [`topic_ids`]: rdkafka has no `DescribeTopics`, and only that tells a topic's id.
//! * [`commit`] and [`abort`]: rdkafka waits for outstanding records itself before it commits, in
//!   steps of 100 ms; librdkafka's own wait ends when the last acknowledgement arrives.
//!
//! Each pointer that is created here is owned by a [`Held`] and freed once, on every path.
#![allow(unsafe_code)]

use std::ffi::{CStr, CString, c_char};
use std::time::Duration;

use rdkafka::client::{Client, ClientContext};
use rdkafka::error::RDKafkaErrorCode;
use rdkafka_sys as sys;
use unitflow_change::fault::{Code, Fault};

use crate::broker::judge_code;

/// A pointer from librdkafka and the function that frees it.
struct Held<T>(*mut T, unsafe extern "C" fn(*mut T));

impl<T> Held<T> {
    /// Takes ownership; a null pointer means that librdkafka refused to create the thing.
    fn new(pointer: *mut T, free: unsafe extern "C" fn(*mut T), what: &str) -> Result<Self, Fault> {
        if pointer.is_null() {
            return Err(Fault::fatal(Code::Bug, format!("librdkafka made no {what}")));
        }
        Ok(Self(pointer, free))
    }
}

impl<T> Drop for Held<T> {
    fn drop(&mut self) {
        // SAFETY: the pointer is not null, came from the constructor that `self.1` belongs to, and
        // is freed nowhere else.
        unsafe { (self.1)(self.0) }
    }
}

/// Copies a C string; null gives an empty one.
///
/// # Safety
/// `text` is null or points to a string that ends with NUL and lives through the call.
unsafe fn copied(text: *const c_char) -> String {
    if text.is_null() {
        return String::new();
    }
    // SAFETY: as the caller promises.
    unsafe { CStr::from_ptr(text) }.to_string_lossy().into_owned()
}

/// What `DescribeTopics` says of one topic.
pub(crate) struct Described {
    pub(crate) id: String,
    pub(crate) partitions: usize,
    pub(crate) replicas: usize,
}

/// Asks for the ids of topics, in the order of `names`; `None` where there is no such topic.
/// Blocks for at most `wait`.
pub(crate) fn topic_ids<C: ClientContext>(
    client: &Client<C>,
    names: &[&str],
    wait: Duration,
) -> Result<Vec<Option<Described>>, Fault> {
    if names.is_empty() {
        return Ok(Vec::new());
    }
    let texts = names
        .iter()
        .map(|name| CString::new(*name))
        .collect::<Result<Vec<_>, _>>()
        .map_err(|_| Fault::fatal(Code::Config, "a topic's name holds a NUL byte"))?;
    let mut pointers: Vec<*const c_char> = texts.iter().map(|text| text.as_ptr()).collect();
    let millis = i32::try_from(wait.as_millis()).unwrap_or(i32::MAX);

    // SAFETY: `pointers` holds `texts.len()` strings that outlive the call, which copies them.
    let topics = unsafe {
        sys::rd_kafka_TopicCollection_of_topic_names(pointers.as_mut_ptr(), pointers.len())
    };
    let topics = Held::new(topics, sys::rd_kafka_TopicCollection_destroy, "topic collection")?;
    // SAFETY: the client's handle is valid as long as `client`, which outlives this function; the
    // same holds for the calls on it below.
    let options = unsafe {
        sys::rd_kafka_AdminOptions_new(
            client.native_ptr(),
            sys::rd_kafka_admin_op_t::RD_KAFKA_ADMIN_OP_DESCRIBETOPICS,
        )
    };
    let options = Held::new(options, sys::rd_kafka_AdminOptions_destroy, "admin options")?;
    // SAFETY: see above.
    let queue = unsafe { sys::rd_kafka_queue_new(client.native_ptr()) };
    let queue = Held::new(queue, sys::rd_kafka_queue_destroy, "queue")?;
    let mut said: [c_char; 256] = [0; 256];
    // SAFETY: `options` is live; the buffer is as long as is said. A refused time-out (it is out of
    // range) leaves the default of 60 s, which the poll below cuts off.
    unsafe {
        sys::rd_kafka_AdminOptions_set_request_timeout(
            options.0,
            millis,
            said.as_mut_ptr(),
            said.len(),
        );
    }
    // SAFETY: all four are live; the call copies topics and options and keeps the queue alive itself.
    let event = unsafe {
        sys::rd_kafka_DescribeTopics(client.native_ptr(), topics.0, options.0, queue.0);
        sys::rd_kafka_queue_poll(queue.0, millis)
    };
    if event.is_null() {
        return Err(Fault::retry(Code::Unreachable, "describing topics: no answer from Kafka"));
    }
    let event = Held::new(event, sys::rd_kafka_event_destroy, "event")?;
    read_described(&event, names)
}

/// Reads the answer to `DescribeTopics`.
fn read_described(
    event: &Held<sys::rd_kafka_event_t>,
    names: &[&str],
) -> Result<Vec<Option<Described>>, Fault> {
    // SAFETY: the event is live for the whole function and owns all that is read from it here;
    // counts come with their arrays, and elements of these arrays are never null.
    unsafe {
        let code = RDKafkaErrorCode::from(sys::rd_kafka_event_error(event.0));
        if code != RDKafkaErrorCode::NoError {
            let detail = copied(sys::rd_kafka_event_error_string(event.0));
            return Err(judge_code(code, "describing topics", &detail));
        }
        let result = sys::rd_kafka_event_DescribeTopics_result(event.0);
        if result.is_null() {
            return Err(Fault::fatal(Code::Bug, "librdkafka answered another question"));
        }
        let mut count = 0;
        let topics = sys::rd_kafka_DescribeTopics_result_topics(result, &raw mut count);
        let mut answer: Vec<Option<Described>> = names.iter().map(|_| None).collect();
        for index in 0..count {
            let topic = *topics.add(index);
            let name = copied(sys::rd_kafka_TopicDescription_name(topic));
            let error = sys::rd_kafka_TopicDescription_error(topic);
            match RDKafkaErrorCode::from(sys::rd_kafka_error_code(error)) {
                RDKafkaErrorCode::NoError => {}
                RDKafkaErrorCode::UnknownTopicOrPartition | RDKafkaErrorCode::UnknownTopic => {
                    continue;
                }
                code => return Err(judge_code(code, format!("describing topic {name}"), "")),
            }
            let id = sys::rd_kafka_TopicDescription_topic_id(topic);
            let id = copied(sys::rd_kafka_Uuid_base64str(id));
            let mut partitions = 0;
            let each = sys::rd_kafka_TopicDescription_partitions(topic, &raw mut partitions);
            let mut replicas = usize::MAX;
            for partition in 0..partitions {
                let mut count = 0;
                sys::rd_kafka_TopicPartitionInfo_replicas(*each.add(partition), &raw mut count);
                replicas = replicas.min(count);
            }
            if partitions == 0 {
                replicas = 0;
            }
            let place = names.iter().position(|wanted| *wanted == name);
            if let Some(place) = place.and_then(|place| answer.get_mut(place)) {
                *place = Some(Described { id, partitions, replicas });
            }
        }
        Ok(answer)
    }
}

/// What librdkafka says of a failed transaction call.
#[derive(Debug)]
pub(crate) struct TransactionError {
    pub(crate) code: RDKafkaErrorCode,
    pub(crate) text: String,
    /// The same call goes on where it stood.
    pub(crate) resumable: bool,
}

/// Commits the open transaction: waits until all its records are acknowledged, then ends it.
/// Blocks for at most `wait`; if it takes longer the error is `resumable` and the call is repeated.
pub(crate) fn commit<C: ClientContext>(
    client: &Client<C>,
    wait: Duration,
) -> Result<(), TransactionError> {
    let millis = i32::try_from(wait.as_millis()).unwrap_or(i32::MAX);
    // SAFETY: the handle is valid as long as `client`; the answer is owned by us.
    unsafe { ended(sys::rd_kafka_commit_transaction(client.native_ptr(), millis)) }
}

/// Aborts the open transaction; otherwise as [`commit`].
pub(crate) fn abort<C: ClientContext>(
    client: &Client<C>,
    wait: Duration,
) -> Result<(), TransactionError> {
    let millis = i32::try_from(wait.as_millis()).unwrap_or(i32::MAX);
    // SAFETY: as for commit.
    unsafe { ended(sys::rd_kafka_abort_transaction(client.native_ptr(), millis)) }
}

/// Reads and frees an answer of a transaction call.
///
/// # Safety
/// `error` is null or an error object that the caller owns and does not use again.
unsafe fn ended(error: *mut sys::rd_kafka_error_t) -> Result<(), TransactionError> {
    if error.is_null() {
        return Ok(());
    }
    // SAFETY: as the caller promises; the object is read before it is freed.
    unsafe {
        let read = TransactionError {
            code: RDKafkaErrorCode::from(sys::rd_kafka_error_code(error)),
            text: copied(sys::rd_kafka_error_string(error)),
            resumable: sys::rd_kafka_error_is_retriable(error) != 0
                && sys::rd_kafka_error_txn_requires_abort(error) == 0
                && sys::rd_kafka_error_is_fatal(error) == 0,
        };
        sys::rd_kafka_error_destroy(error);
        Err(read)
    }
}
