//! A Kafka Connect worker of its own (standalone), with Debezium's MySQL and JDBC connectors.

use std::fmt::Write as _;
use std::path::Path;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::component::Component;
use crate::fault::Fault;
use crate::install;
use crate::port;
use crate::program::Program;
use crate::service::new_folder;

/// How a worker is to be started.
#[derive(Debug, Clone, Default)]
pub struct ConnectSetup {
    worker: String,
    connectors: Vec<(String, String)>,
}

impl ConnectSetup {
    /// Any property of the worker. The last one set wins, over ours too.
    #[must_use]
    pub fn setting(mut self, name: &str, value: impl std::fmt::Display) -> Self {
        // Writing to a string can't fail.
        let _ = writeln!(self.worker, "{name}={value}");
        self
    }

    /// One more connector: its name and its properties file's text, without the name.
    #[must_use]
    pub fn connector(mut self, name: &str, properties: &str) -> Self {
        self.connectors.push((name.to_owned(), format!("name={name}\n{properties}")));
        self
    }

    /// Starts it for a broker (`host:port`) on a free port of 127.0.0.1, in a temporary folder. Records are JSON;
    /// whether with schemas is for [`ConnectSetup::setting`] to say.
    ///
    /// # Errors
    /// [`Fault::Install`] where it is not here and can't be brought, or [`Fault::Start`] with the end of its log.
    pub async fn start(self, bootstrap: &str) -> Result<Connect, Fault> {
        let home = install::home(Component::Connect).await?;
        let program = home.program("connect-standalone")?;
        let folder = new_folder("connect")?;
        let at = |name: &str| folder.path().join(name);
        let port = port::free()?;
        let mut worker = format!(
            "bootstrap.servers={bootstrap}\n\
             listeners=http://127.0.0.1:{port}\n\
             plugin.path={}\n\
             plugin.discovery=service_load\n\
             offset.storage.file.filename={}\n\
             offset.flush.interval.ms=1000\n\
             key.converter=org.apache.kafka.connect.json.JsonConverter\n\
             value.converter=org.apache.kafka.connect.json.JsonConverter\n",
            home.folder().join("plugins").display(),
            at("offsets").display(),
        );
        worker.push_str(&self.worker);
        let mut arguments = vec![write(&at("worker.properties"), &worker)?];
        for (name, properties) in &self.connectors {
            arguments.push(write(&at(&format!("{name}.properties")), properties)?);
        }
        let program = Program::setup("connect", program)
            .arguments(arguments)
            .start(folder.path(), port)
            .await?;
        Ok(Connect { program, port, _folder: folder })
    }
}

fn write(path: &Path, text: &str) -> Result<String, Fault> {
    std::fs::write(path, text).map_err(Fault::io("write", path))?;
    Ok(path.display().to_string())
}

/// A worker that was started. Dropping it ends it and removes its folder.
#[derive(Debug)]
pub struct Connect {
    program: Program,
    port: u16,
    _folder: tempfile::TempDir,
}

impl Connect {
    /// How to start one.
    pub fn setup() -> ConnectSetup {
        ConnectSetup::default()
    }

    /// A connector's state as the worker tells it: JSON with `RUNNING` or `FAILED`, and why.
    ///
    /// # Errors
    /// [`Fault::Io`] where the worker does not answer.
    pub async fn status(&self, connector: &str) -> Result<String, Fault> {
        let address = format!("127.0.0.1:{}", self.port);
        let ask = async {
            let mut stream = TcpStream::connect(&address).await?;
            let request = format!(
                "GET /connectors/{connector}/status HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n\r\n"
            );
            stream.write_all(request.as_bytes()).await?;
            let mut answer = String::new();
            stream.read_to_string(&mut answer).await?;
            Ok(answer)
        };
        ask.await.map_err(Fault::io("ask Kafka Connect at", &address))
    }

    /// The last lines that it wrote.
    pub fn log_end(&self) -> String {
        self.program.log_end()
    }

    /// Asks it to end and waits until it has.
    ///
    /// # Errors
    /// [`Fault::NotRunning`], or [`Fault::Stop`] where it had to be killed.
    pub async fn stop(&self) -> Result<(), Fault> {
        self.program.stop().await
    }
}
