//! Where Kafka is, and what its errors mean.
//!
//! [`Broker`] is what the configuration gives; every client of this crate starts from it. [`judge`]
//! is the only place that turns an error of the client library into a [`Fault`]: what is known to
//! pass is `Retry`, what is not known is `Fatal`. An error of a single record (too large, refused
//! by the broker) is `Poison`.

use std::fmt;
use std::sync::Mutex;
use std::time::Duration;

use rdkafka::ClientConfig;
use rdkafka::client::ClientContext;
use rdkafka::config::RDKafkaLogLevel;
use rdkafka::consumer::ConsumerContext;
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::producer::{DeliveryResult, NoCustomPartitioner, ProducerContext};
use tracing::{debug, warn};
use unitflow_change::fault::{Code, Fault, Kind};

/// How long one question to the broker may take before it counts as unreachable.
pub(crate) const ASK: Duration = Duration::from_secs(10);

/// Settings that the guarantees of this crate rest on. The configuration may not set them.
const RESERVED: &[&str] = &[
    "acks",
    "auto.offset.reset",
    "check.crcs",
    "delivery.report.only.error",
    "enable.auto.commit",
    "enable.auto.offset.store",
    "enable.gapless.guarantee",
    "enable.idempotence",
    "enable.partition.eof",
    "group.id",
    "group.instance.id",
    "group.protocol",
    "isolation.level",
    "log.queue",
    "message.timeout.ms",
    "partition.assignment.strategy",
    "request.required.acks",
    "statistics.interval.ms",
    "transactional.id",
    "transaction.timeout.ms",
];

/// One Kafka cluster: its first addresses, and the client properties that reach it.
///
/// The properties are librdkafka's (`security.protocol`, `sasl.*`, `ssl.*`, time-outs). Those that
/// the guarantees rest on are refused. `Debug` shows the names of the properties, not their values.
#[derive(Clone, PartialEq, Eq)]
pub struct Broker {
    /// `host:port`, separated by commas.
    pub bootstrap: String,
    /// Client properties, in order; the last one of a name counts.
    pub properties: Vec<(String, String)>,
}

impl fmt::Debug for Broker {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let names: Vec<&str> = self.properties.iter().map(|(name, _)| name.as_str()).collect();
        f.debug_struct("Broker")
            .field("bootstrap", &self.bootstrap)
            .field("properties", &names)
            .finish()
    }
}

impl Broker {
    /// A cluster reached without further properties.
    pub fn new(bootstrap: impl Into<String>) -> Self {
        Self { bootstrap: bootstrap.into(), properties: Vec::new() }
    }

    /// Whether the properties leave alone what Unitflow sets itself.
    ///
    /// # Errors
    /// [`Code::Config`], naming the property.
    pub fn check(&self) -> Result<(), Fault> {
        let refused = |name: &str| {
            RESERVED.contains(&name) || name == "bootstrap.servers" || name.starts_with("debug")
        };
        match self.properties.iter().find(|(name, _)| refused(name)) {
            None => Ok(()),
            Some((name, _)) => {
                let what = format!("the Kafka property `{name}` is set by Unitflow itself");
                Err(Fault::fatal(Code::Config, what).hint(format!("remove `{name}`")))
            }
        }
    }

    /// The client settings of a role: the crate's defaults, then the configuration's properties,
    /// then what the role can't do without.
    pub(crate) fn client(
        &self,
        defaults: &[(&str, &str)],
        forced: &[(&str, &str)],
    ) -> Result<ClientConfig, Fault> {
        self.check()?;
        let mut config = ClientConfig::new();
        config.set("bootstrap.servers", &self.bootstrap);
        config.set("client.id", "unitflow");
        // A broker that restarts is found again within a second, not within ten.
        config.set("reconnect.backoff.max.ms", "1000");
        config.set("socket.connection.setup.timeout.ms", "5000");
        config.set("socket.keepalive.enable", "true");
        config.set("socket.nagle.disable", "true");
        // A connection that was cut without a word is given up after this.
        config.set("socket.timeout.ms", "30000");
        for (name, value) in defaults {
            config.set(*name, *value);
        }
        for (name, value) in &self.properties {
            config.set(name, value);
        }
        for (name, value) in forced {
            config.set(*name, *value);
        }
        config.set_log_level(RDKafkaLogLevel::Info);
        Ok(config)
    }
}

/// The fault that an error of the client library is, saying where it happened.
#[must_use]
pub fn judge(error: &KafkaError, place: impl fmt::Display) -> Fault {
    match error {
        KafkaError::ClientConfig(_, what, name, _) => {
            Fault::fatal(Code::Config, format!("{place}: Kafka property `{name}`: {what}"))
        }
        // librdkafka says in this text which property or file it can't use.
        KafkaError::ClientCreation(what) => Fault::fatal(Code::Config, format!("{place}: {what}")),
        KafkaError::AdminOp(code) => judge_code(*code, place, ""),
        other => match other.rdkafka_error_code() {
            Some(code) => judge_code(code, place, ""),
            None => Fault::fatal(Code::Kafka, format!("{place}: {other}")),
        },
    }
}

/// The same for a bare code; `detail` is what the library said beyond it.
#[must_use]
pub fn judge_code(code: RDKafkaErrorCode, place: impl fmt::Display, detail: &str) -> Fault {
    use RDKafkaErrorCode as E;
    let (kind, name, hint) = match code {
        E::BrokerTransportFailure
        | E::AllBrokersDown
        | E::Resolve
        | E::OperationTimedOut
        | E::MessageTimedOut
        | E::TimedOutQueue
        | E::RequestTimedOut
        | E::NetworkException
        | E::BrokerDestroy
        | E::DestroyBroker
        | E::NodeUpdate
        | E::UnknownBroker
        | E::BrokerNotAvailable
        | E::LeaderNotAvailable
        | E::NotLeaderForPartition
        | E::ReplicaNotAvailable
        | E::PreferredLeaderNotAvailable
        | E::EligibleLeadersNotAvailable
        | E::NotController
        | E::CoordinatorLoadInProgress
        | E::CoordinatorNotAvailable
        | E::NotCoordinator
        | E::WaitingForCoordinator
        | E::TransactionCoordinatorFenced
        | E::ConcurrentTransactions
        | E::UnstableOffsetCommit
        | E::OffsetNotAvailable
        | E::FencedLeaderEpoch
        | E::UnknownLeaderEpoch
        | E::StaleBrokerEpoch
        | E::StaleControllerEpoch
        | E::ThrottlingQuotaExceeded
        | E::WaitCache
        | E::Retry
        | E::RebootstrapRequired => (Kind::Retry, Code::Unreachable, ""),

        E::NotEnoughReplicas | E::NotEnoughReplicasAfterAppend | E::ISRInsufficient => {
            (Kind::Retry, Code::Kafka, "bring back the replicas that min.insync.replicas asks for")
        }
        E::KafkaStorageError => (Kind::Retry, Code::Kafka, "look at the broker's disks"),

        // The transaction was given up, by us or by its time-out; nothing of it is visible.
        E::PurgeQueue
        | E::PurgeInflight
        | E::InvalidTransactionalState
        | E::InvalidProducerIdMapping
        | E::UnknownProducerId
        | E::OutOfOrderSequenceNumber => (Kind::Retry, Code::Kafka, ""),

        E::RebalanceInProgress
        | E::IllegalGeneration
        | E::UnknownMemberId
        | E::AssignmentLost
        | E::PollExceeded
        | E::Unknown
        | E::ListenerNotFound
        | E::InProgress => (Kind::Retry, Code::Kafka, ""),

        E::Fenced | E::ProducerFenced | E::InvalidProducerEpoch | E::FencedInstanceId => (
            Kind::Fatal,
            Code::Fenced,
            "see which worker holds the role now; a transaction left open for longer than \
             transaction.timeout.ms ends in the same way",
        ),

        // The client's own word: a topic that was created a moment ago may not have all its partitions
        // in what a busy broker told it. Whether the topic is there is asked of the broker.
        E::UnknownPartition => (Kind::Retry, Code::TopicMissing, "create it with `unitflow init`"),

        E::UnknownTopicOrPartition | E::UnknownTopic | E::UnknownTopicId => {
            (Kind::Fatal, Code::TopicMissing, "create it with `unitflow init`")
        }

        E::AutoOffsetReset | E::OffsetOutOfRange | E::NoOffset => {
            (Kind::Fatal, Code::OffsetGone, "raise the topic's retention and resync")
        }
        E::LogTruncation => (Kind::Fatal, Code::TopicTruncated, "resync"),

        E::Authentication | E::SaslAuthenticationFailed | E::IllegalSASLState => {
            (Kind::Fatal, Code::Denied, "check user, password and mechanism")
        }
        E::UnsupportedSASLMechanism | E::SecurityDisabled => {
            (Kind::Fatal, Code::Denied, "check security.protocol and sasl.mechanism")
        }
        E::TopicAuthorizationFailed
        | E::GroupAuthorizationFailed
        | E::ClusterAuthorizationFailed
        | E::TransactionalIdAuthorizationFailed
        | E::DelegationTokenAuthorizationFailed => {
            (Kind::Fatal, Code::Grant, "give this user the ACLs of its role")
        }
        E::SSL => (Kind::Fatal, Code::Tls, "check the certificate authority and the host name"),

        E::MessageSizeTooLarge | E::MessageBatchTooLarge | E::InvalidMessageSize => (
            Kind::Poison,
            Code::Record,
            "set max.message.bytes of the topic to the 16 MiB that init gives it; larger rows travel in pieces",
        ),
        E::InvalidTimestamp | E::InvalidRecord => (Kind::Poison, Code::Record, ""),
        E::BadMessage | E::InvalidMessage | E::BadCompression => {
            (Kind::Fatal, Code::Record, "the log is damaged at the broker or on the way")
        }

        E::InvalidReplicationFactor
        | E::InvalidPartitions
        | E::InvalidReplicaAssignment
        | E::InvalidConfig
        | E::InvalidTopic
        | E::PolicyViolation
        | E::TopicDeletionDisabled => (Kind::Fatal, Code::TopicSetting, ""),
        E::InvalidTransactionTimeout => {
            (Kind::Fatal, Code::Setting, "raise transaction.max.timeout.ms at the broker")
        }
        E::InvalidSessionTimeout => (
            Kind::Fatal,
            Code::Setting,
            "keep the session time-out within the broker's group.min/max.session.timeout.ms",
        ),
        E::UnsupportedVersion | E::UnsupportedFeature | E::UnsupportedForMessageFormat => {
            (Kind::Fatal, Code::Kafka, "see the list of supported Kafka versions")
        }
        _ => (Kind::Fatal, Code::Kafka, ""),
    };
    let what = match detail {
        "" => format!("{place}: {code}"),
        detail => format!("{place}: {code}: {detail}"),
    };
    Fault::new(kind, name, what).hint(hint)
}

/// The context of clients that only ask: the library's log goes to `tracing`, at debug, because an
/// error is logged once, where it is consumed.
#[derive(Debug, Default)]
pub(crate) struct Quiet {
    said: Mutex<String>,
}

impl Quiet {
    /// What the library said last about a connection or a login, to go with a bare time-out.
    pub(crate) fn said(&self) -> String {
        self.said.lock().map(|said| said.clone()).unwrap_or_default()
    }
}

impl ClientContext for Quiet {
    fn log(&self, level: RDKafkaLogLevel, facility: &str, message: &str) {
        log(level, facility, message);
    }

    fn error(&self, error: KafkaError, reason: &str) {
        debug!(target: "librdkafka", %error, reason);
        if let Ok(mut said) = self.said.lock() {
            reason.clone_into(&mut said);
        }
    }
}

impl ConsumerContext for Quiet {}

impl ProducerContext<NoCustomPartitioner> for Quiet {
    type DeliveryOpaque = ();
    fn delivery(&self, _: &DeliveryResult<'_>, (): Self::DeliveryOpaque) {}
}

/// One line of the library's own log.
pub(crate) fn log(level: RDKafkaLogLevel, facility: &str, message: &str) {
    match level {
        RDKafkaLogLevel::Emerg | RDKafkaLogLevel::Alert | RDKafkaLogLevel::Critical => {
            warn!(target: "librdkafka", facility, message);
        }
        _ => debug!(target: "librdkafka", facility, message),
    }
}

/// Runs a question to the broker that blocks, beside the runtime's own threads.
pub(crate) async fn blocking<T: Send + 'static>(
    ask: impl FnOnce() -> Result<T, Fault> + Send + 'static,
) -> Result<T, Fault> {
    match tokio::task::spawn_blocking(ask).await {
        Ok(answer) => answer,
        Err(error) => Err(Fault::fatal(Code::Bug, format!("a question to Kafka: {error}"))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reserved_properties_are_refused() {
        let mut broker = Broker::new("127.0.0.1:1");
        assert!(broker.client(&[], &[]).is_ok());
        broker.properties.push(("enable.idempotence".to_owned(), "false".to_owned()));
        let fault = broker.client(&[], &[]).unwrap_err();
        assert_eq!((fault.kind, fault.code), (Kind::Fatal, Code::Config));
    }

    #[test]
    fn debug_hides_values() {
        let mut broker = Broker::new("k:9092");
        broker.properties.push(("sasl.password".to_owned(), "canary".to_owned()));
        assert!(!format!("{broker:?}").contains("canary"));
    }

    #[test]
    fn the_judge_knows_the_faults_that_stages_act_on() {
        use RDKafkaErrorCode as E;
        for (error, kind, code) in [
            (E::Fenced, Kind::Fatal, Code::Fenced),
            (E::ProducerFenced, Kind::Fatal, Code::Fenced),
            (E::InvalidProducerEpoch, Kind::Fatal, Code::Fenced),
            (E::BrokerTransportFailure, Kind::Retry, Code::Unreachable),
            (E::UnknownTopicOrPartition, Kind::Fatal, Code::TopicMissing),
            (E::UnknownPartition, Kind::Retry, Code::TopicMissing),
            (E::AutoOffsetReset, Kind::Fatal, Code::OffsetGone),
            (E::SaslAuthenticationFailed, Kind::Fatal, Code::Denied),
            (E::SSL, Kind::Fatal, Code::Tls),
            (E::MessageSizeTooLarge, Kind::Poison, Code::Record),
            (E::UnacceptableCredential, Kind::Fatal, Code::Kafka),
        ] {
            let fault = judge(&KafkaError::Global(error), "here");
            assert_eq!((fault.kind, fault.code), (kind, code), "{error}");
        }
    }
}
