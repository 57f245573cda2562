use std::time::Duration;

use unitflow_change::fault::{Code, Kind};
use unitflow_kafka::{Broker, Retention, positions, topics as road};

use crate::{broker, spec, topic, unique};

#[tokio::test]
async fn creating_is_idempotent_and_what_is_created_passes_the_check() {
    let broker = broker().await;
    let names = [unique("a"), unique("b")];
    let wanted = [spec(&names[0], 3), positions::spec(&names[1], 2, 1, 1)];
    assert_eq!(road::create_missing(&broker, &wanted[..1]).await.unwrap(), [names[0].as_str()]);
    assert_eq!(road::create_missing(&broker, &wanted).await.unwrap(), [names[1].as_str()]);
    assert!(road::create_missing(&broker, &wanted).await.unwrap().is_empty());

    let found = road::describe(&broker, &[&names[1], "no-such-topic", &names[0]]).await.unwrap();
    assert!(found[1].is_none());
    let (positions, data) = (found[0].as_ref().unwrap(), found[2].as_ref().unwrap());
    assert_eq!((data.partitions, data.replication), (3, 1));
    assert_eq!(positions.configs["cleanup.policy"], "compact");
    assert_eq!(road::check(&wanted[0], data), []);
    assert_eq!(road::check(&wanted[1], positions), []);
    assert_ne!(data.id, positions.id);
}

#[tokio::test]
async fn the_check_names_each_difference() {
    let broker = broker().await;
    let name = unique("short");
    let mut had = spec(&name, 2);
    had.retention = Retention::ForAtLeast(Duration::from_secs(60));
    had.max_message_bytes = 1000;
    had.settings.push(("retention.bytes".to_owned(), "1000000".to_owned()));
    had.settings.push(("message.timestamp.type".to_owned(), "CreateTime".to_owned()));
    road::create_missing(&broker, &[had]).await.unwrap();

    let mut wanted = spec(&name, 3);
    wanted.min_insync = 2;
    wanted.replication = 3;
    let found = road::describe(&broker, &[&name]).await.unwrap().remove(0).unwrap();
    let findings = road::check(&wanted, &found);
    let settings: Vec<&str> = findings.iter().map(|finding| finding.setting.as_str()).collect();
    assert_eq!(
        settings,
        [
            "partitions",
            "replication",
            "retention.ms",
            "retention.bytes",
            "message.timestamp.type",
            "min.insync.replicas",
            "max.message.bytes"
        ]
    );
    assert_eq!(findings[2].actual, "60000");
    assert!(findings.iter().all(|finding| !finding.remedy.is_empty()));
    assert_eq!(findings[0].fault().code, Code::TopicSetting);

    wanted.retention = Retention::Compacted;
    let findings = road::check(&wanted, &found);
    assert!(findings.iter().any(|finding| finding.setting == "cleanup.policy"));
}

#[tokio::test]
async fn a_topic_created_anew_has_another_id() {
    let broker = broker().await;
    let name = topic(&broker, 1).await;
    let id = async || road::describe(&broker, &[&name]).await.unwrap().remove(0).unwrap().id;
    let first = id().await;
    assert_eq!(id().await, first);
    road::delete(&broker, &[&name]).await.unwrap();
    road::create_missing(&broker, &[spec(&name, 1)]).await.unwrap();
    assert_ne!(id().await, first);
    assert_eq!(road::TopicId::parse(first.as_str()), Some(first));
}

#[tokio::test]
async fn a_broker_that_is_not_there_is_unreachable() {
    // The discard port, where nothing listens.
    let nowhere = Broker::new("127.0.0.1:9");
    let fault = road::describe(&nowhere, &["any"]).await.unwrap_err();
    assert_eq!((fault.kind, fault.code), (Kind::Retry, Code::Unreachable), "{fault}");
    let fault = road::bounds(&nowhere, "any", 0).await.unwrap_err();
    assert_eq!((fault.kind, fault.code), (Kind::Retry, Code::Unreachable), "{fault}");
}

#[tokio::test]
async fn a_missing_topic_is_said_to_be_missing() {
    let broker = broker().await;
    let fault = road::bounds(&broker, "no-such-topic", 0).await.unwrap_err();
    assert_eq!(fault.code, Code::TopicMissing, "{fault}");
    let name = topic(&broker, 1).await;
    let fault = road::bounds(&broker, &name, 7).await.unwrap_err();
    assert_eq!(fault.code, Code::TopicMissing, "{fault}");
    assert_eq!(road::bounds(&broker, &name, 0).await.unwrap(), (0, 0));
}
