//! What a worker tells Prometheus.

use std::time::Duration;

use anyhow::{Context, ensure};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::time::timeout;

use crate::worker::Worker;

/// A worker answers at once.
const ANSWER: Duration = Duration::from_secs(10);

/// The values of one answer.
#[derive(Clone, Debug)]
pub struct Metrics(Vec<(String, f64)>);

impl Metrics {
    /// Asks a worker, at the address that its log names.
    pub async fn of(worker: &Worker) -> anyhow::Result<Self> {
        let log = worker.log()?;
        let address =
            log.split("metrics at http://").nth(1).and_then(|rest| rest.split('/').next());
        let address = address.with_context(|| format!("{} serves no metrics", worker.name()))?;
        let asking = async {
            let mut stream = TcpStream::connect(address).await?;
            let question = "GET /metrics HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n";
            stream.write_all(question.as_bytes()).await?;
            let mut answer = String::new();
            stream.read_to_string(&mut answer).await?;
            anyhow::Ok(answer)
        };
        let answer = timeout(ANSWER, asking).await.context("no metrics in time")??;
        ensure!(answer.starts_with("HTTP/1.1 200"), "no metrics: {answer}");
        let (_, text) = answer.split_once("\r\n\r\n").context("an answer has a body")?;
        Self::parse(text)
    }

    fn parse(text: &str) -> anyhow::Result<Self> {
        let lines = text.lines().filter(|line| !line.is_empty() && !line.starts_with('#'));
        let value = |line: &str| {
            let (name, value) =
                line.rsplit_once(' ').with_context(|| format!("no value: {line}"))?;
            Ok((name.to_owned(), value.parse().with_context(|| format!("no number: {line}"))?))
        };
        Ok(Self(lines.map(value).collect::<anyhow::Result<_>>()?))
    }

    /// The values of this name with all these labels, written `label="value"`.
    pub fn each(&self, name: &str, labels: &[&str]) -> impl Iterator<Item = f64> {
        let fits = move |line: &str| {
            let (own, has) = line.split_once('{').unwrap_or((line, ""));
            own == name && labels.iter().all(|label| has.contains(label))
        };
        self.0.iter().filter(move |(line, _)| fits(line)).map(|(_, value)| *value)
    }

    /// Their sum; 0 where there is none.
    #[must_use]
    pub fn sum(&self, name: &str, labels: &[&str]) -> f64 {
        self.each(name, labels).sum()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_are_found_by_name_and_labels() {
        let text = "# TYPE rows counter\nrows{lane=\"0\",log=\"A.shop\"} 3\nrows{lane=\"1\",log=\"A.shop\"} 4\n\
                    rows{lane=\"0\",log=\"B.shop\"} 5\nrows_total 6\n";
        let metrics = Metrics::parse(text).unwrap();
        assert_eq!(metrics.sum("rows", &["log=\"A.shop\""]), 7.0);
        assert_eq!(metrics.sum("rows", &["log=\"A.shop\"", "lane=\"1\""]), 4.0);
        assert_eq!(metrics.sum("rows_total", &[]), 6.0);
        assert_eq!(metrics.each("rows", &["log=\"C.shop\""]).count(), 0);
        assert!(Metrics::parse("rows x").is_err());
    }
}
