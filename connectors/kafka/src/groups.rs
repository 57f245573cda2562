//! Consumer groups as a whole: how many are in one, and its end.

use rdkafka::consumer::Consumer as _;
use rdkafka::error::RDKafkaErrorCode;
use unitflow_change::fault::{Code, Fault};

use crate::broker::{ASK, Broker, blocking, judge, judge_code};
use crate::topics::{admin, asking};

/// How many members a group has; none where there is no such group. A member that was killed counts
/// until its session time-out.
///
/// # Errors
/// As Kafka answers; `Retry` if it did not.
pub async fn members(broker: &Broker, group: &str) -> Result<usize, Fault> {
    let (broker, group) = (broker.clone(), group.to_owned());
    blocking(move || {
        let found = asking(&broker, "read_uncommitted")?
            .fetch_group_list(Some(&group), ASK)
            .map_err(|error| judge(&error, format!("group {group}")))?;
        Ok(found.groups().iter().map(|found| found.members().len()).sum())
    })
    .await
}

/// Whether there is a group of this name.
///
/// # Errors
/// As Kafka answers; `Retry` if it did not.
pub async fn exists(broker: &Broker, group: &str) -> Result<bool, Fault> {
    let (broker, group) = (broker.clone(), group.to_owned());
    blocking(move || {
        let all = asking(&broker, "read_uncommitted")?
            .fetch_group_list(None, ASK)
            .map_err(|error| judge(&error, "consumer groups"))?;
        Ok(all.groups().iter().any(|found| found.name() == group))
    })
    .await
}

/// Deletes groups with their offsets; gives those that were there.
///
/// # Errors
/// As Kafka answers, which refuses where a group has members.
pub async fn delete(broker: &Broker, names: &[&str]) -> Result<Vec<String>, Fault> {
    if names.is_empty() {
        return Ok(Vec::new());
    }
    let (client, options) = admin(broker)?;
    let answers = client
        .delete_groups(names, &options)
        .await
        .map_err(|error| judge(&error, "deleting consumer groups"))?;
    let mut deleted = Vec::new();
    for answer in answers {
        match answer {
            Ok(name) => deleted.push(name),
            Err((_, RDKafkaErrorCode::GroupIdNotFound)) => {}
            Err((name, RDKafkaErrorCode::NonEmptyGroup)) => {
                let what = format!("group {name} has members");
                return Err(
                    Fault::fatal(Code::Kafka, what).hint("stop the workers that read there")
                );
            }
            Err((name, code)) => {
                return Err(judge_code(code, format!("deleting group {name}"), ""));
            }
        }
    }
    Ok(deleted)
}
