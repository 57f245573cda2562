//! Both databases, read by the servers' own clients and compared byte for byte.
//!
//! None of our code reads or prints a value here: what a client program prints for `SELECT … ORDER BY` the primary
//! key has to be the same from both servers.

use std::process::Stdio;

use indicatif::HumanCount;
use tokio::io::{AsyncBufReadExt as _, AsyncReadExt as _, BufReader};
use tokio::process::{Child, ChildStdout};
use unitflow_change::{Code, Fault};

use crate::demo::local;
use crate::demo::unit::{TABLES, Table, Unit};

/// What is read from a client at a time, in bytes.
const READ_BYTES: usize = 256 << 10;

/// One table, compared.
#[derive(Debug)]
pub struct Compared {
    /// Its name.
    pub table: &'static str,
    /// Rows read from each unit.
    pub rows: [u64; 2],
    /// Bytes read from the first unit.
    pub bytes: u64,
    /// The first rows at the same place that are not the same, if there are any; an empty one is missing.
    pub difference: Option<[String; 2]>,
}

/// Compares all tables of two units.
pub async fn all(units: &[Unit]) -> Result<Vec<Compared>, Fault> {
    let mut all = Vec::new();
    for table in &TABLES {
        all.push(compare(table, units).await?);
    }
    Ok(all)
}

/// In one line.
pub fn summary(all: &[Compared]) -> String {
    let rows: u64 = all.iter().map(|compared| compared.rows[0]).sum();
    match all.iter().find(|compared| compared.difference.is_some()) {
        None => format!(
            "both servers' own clients print the same {} rows, byte for byte",
            HumanCount(rows)
        ),
        Some(compared) => {
            format!("the servers' own clients print different rows of {}", compared.table)
        }
    }
}

async fn compare(table: &Table, units: &[Unit]) -> Result<Compared, Fault> {
    let mut readers = Vec::new();
    for unit in units {
        readers.push(Reader::start(unit, table)?);
    }
    let mut compared = Compared { table: table.name, rows: [0; 2], bytes: 0, difference: None };
    let [first, second] = readers.as_mut_slice() else { return Ok(compared) };
    loop {
        tokio::try_join!(first.next(), second.next())?;
        if first.row.is_empty() && second.row.is_empty() {
            break;
        }
        for (rows, reader) in compared.rows.iter_mut().zip([&first, &second]) {
            *rows += u64::from(!reader.row.is_empty());
        }
        compared.bytes += first.row.len() as u64;
        if first.row != second.row && compared.difference.is_none() {
            compared.difference = Some([first.text(), second.text()]);
        }
    }
    for reader in readers {
        reader.finish().await?;
    }
    Ok(compared)
}

/// A client program that prints a table.
struct Reader {
    client: Child,
    server: String,
    output: BufReader<ChildStdout>,
    /// As it was printed, with its line end; empty behind the last.
    row: Vec<u8>,
}

impl Reader {
    fn start(unit: &Unit, table: &Table) -> Result<Self, Fault> {
        let mut client = unit.server.client().map_err(local)?;
        // Batch mode escapes line ends, so that a line is a row.
        client.args(["--batch", "--quick", "--skip-column-names", "--execute"]);
        client.arg(table.select(unit.server.flavor()));
        let server = unit.title();
        let failed =
            |what: String| Fault::fatal(Code::Local, format!("the client of {server}: {what}"));
        let mut client = client
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .map_err(|error| failed(error.to_string()))?;
        let output = client.stdout.take().ok_or_else(|| failed("no output".to_owned()))?;
        Ok(Self {
            client,
            server,
            output: BufReader::with_capacity(READ_BYTES, output),
            row: vec![],
        })
    }

    async fn next(&mut self) -> Result<(), Fault> {
        self.row.clear();
        let read = self.output.read_until(b'\n', &mut self.row).await;
        read.map(drop).map_err(|error| self.fault(&error.to_string()))
    }

    fn text(&self) -> String {
        String::from_utf8_lossy(&self.row).trim_end_matches('\n').to_owned()
    }

    /// Whether it read to the table's end, and not to an error.
    async fn finish(mut self) -> Result<(), Fault> {
        let mut said = String::new();
        if let Some(mut errors) = self.client.stderr.take() {
            errors
                .read_to_string(&mut said)
                .await
                .map_err(|error| self.fault(&error.to_string()))?;
        }
        let status = self.client.wait().await.map_err(|error| self.fault(&error.to_string()))?;
        if status.success() {
            Ok(())
        } else {
            Err(self.fault(&format!("{status}: {}", said.trim())))
        }
    }

    fn fault(&self, what: &str) -> Fault {
        Fault::fatal(Code::Local, format!("the client of {}: {what}", self.server))
    }
}
