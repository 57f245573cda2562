//! Connections to Redis and Valkey, and the one place that judges the servers' errors.

use std::io::ErrorKind;
use std::path::PathBuf;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, ring, verify_tls12_signature, verify_tls13_signature};
use rustls::{ClientConfig, DigitallySignedStruct, RootCertStore, SignatureScheme};
use rustls_pki_types::pem::PemObject as _;
use rustls_pki_types::{CertificateDer, ServerName, UnixTime};
use secrecy::{ExposeSecret as _, SecretString};
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt as _, ReadBuf, ReadHalf, WriteHalf, split};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;
use unitflow_change::fault::{Code, Fault};

use crate::command::Command;
use crate::input::Input;

/// How long one endpoint may take to let us in.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);
/// How long an answer may take.
const ANSWER_WITHIN: Duration = Duration::from_secs(30);
/// The longest answer of one line.
const LINE_BYTES_MAX: usize = 4 << 10;
/// The longest answer of several lines: that of `INFO`.
const TEXT_BYTES_MAX: usize = 1 << 20;

/// How to encrypt a connection.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Tls {
    /// Not at all.
    Off,
    /// Encrypt, and check the server's certificate.
    Verify {
        /// Certificates to trust instead of the built-in ones, PEM.
        ca: Option<PathBuf>,
        /// The name to look for in the certificate, where it is not the endpoint's.
        hostname: Option<String>,
    },
    /// Encrypt, and trust whoever answers.
    NoVerify,
}

/// One Redis primary, by the addresses under which it may be found.
#[derive(Clone, Debug)]
pub struct Store {
    /// What messages call it: `A.cache`.
    pub name: String,
    /// Tried in this order.
    pub endpoints: Vec<(String, u16)>,
    /// The user; `default` where none is named.
    pub user: Option<String>,
    /// The password.
    pub password: Option<SecretString>,
    /// Encryption.
    pub tls: Tls,
}

impl Store {
    /// The user and its password, if we are to say who we are. A user of its own may have none.
    pub(crate) fn credentials(&self) -> Option<(&str, &str)> {
        let password = self.password.as_ref().map(|password| password.expose_secret());
        let user = self.user.as_deref().or(password.map(|_| "default"))?;
        Some((user, password.unwrap_or_default()))
    }
}

/// Why endpoints did not let us in.
#[derive(Default)]
pub(crate) struct Refusals {
    last: Option<Fault>,
}

impl Refusals {
    /// What comes of an attempt at the endpoint of this name; where that is nothing, why is noted.
    pub(crate) async fn unless<T>(
        &mut self,
        place: String,
        attempt: impl Future<Output = Result<T, Fault>>,
    ) -> Option<T> {
        let fault = match tokio::time::timeout(CONNECT_TIMEOUT, attempt).await {
            Ok(Ok(opened)) => return Some(opened),
            Ok(Err(fault)) => fault,
            Err(_) => Fault::retry(
                Code::Unreachable,
                format!("no answer within {} s", CONNECT_TIMEOUT.as_secs()),
            ),
        };
        // A fault that a person has to mend says more than a server that is away.
        if self.last.as_ref().is_none_or(Fault::is_retry) {
            self.last = Some(fault.at(place));
        }
        None
    }

    /// The one that says most.
    pub(crate) fn fault(self, store: &Store) -> Fault {
        self.last.unwrap_or_else(|| {
            Fault::fatal(Code::Config, format!("{} has no endpoint", store.name))
        })
    }
}

/// A connection that was let in.
pub struct Connection {
    pub(crate) input: Input<ReadHalf<Socket>>,
    pub(crate) output: WriteHalf<Socket>,
    /// Where it leads: `A.cache at 10.0.0.7:6379`.
    pub(crate) place: String,
}

impl Connection {
    /// Opens a connection to the first endpoint that lets us in.
    ///
    /// # Errors
    /// `Retry` while none answers; [`Code::Denied`], [`Code::Tls`] need a person.
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

    /// The same of the first endpoint that is a primary: a replica is not always where its primary is.
    pub(crate) async fn open_primary(store: &Store) -> Result<Self, Fault> {
        let mut refusals = Refusals::default();
        for (host, port) in &store.endpoints {
            let place = format!("{} at {host}:{port}", store.name);
            let attempt = async {
                let mut opened = Self::open_one(store, (host, *port), place.clone()).await?;
                let info = opened.ask(&Command::of(["INFO", "replication"])).await?;
                match String::from_utf8_lossy(&info).lines().any(|line| line == "role:master") {
                    true => Ok(opened),
                    false => Err(Fault::retry(Code::Unreachable, "the server is no primary")),
                }
            };
            if let Some(opened) = refusals.unless(place.clone(), attempt).await {
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
        let (input, output) = split(Socket::open(&store.tls, host, port).await?);
        let mut connection = Self { input: Input::new(input, ANSWER_WITHIN), output, place };
        if let Some((user, password)) = store.credentials() {
            connection.ask(&Command::of(["AUTH", user, password])).await?;
        }
        Ok(connection)
    }

    /// Sends a command; its answer, a line or a text. Nothing is an empty text; of an answer with several parts
    /// only how many they are is read, so that the connection is of no more use.
    ///
    /// # Errors
    /// Those of the connection, and what the server refuses.
    pub async fn ask(&mut self, command: &Command) -> Result<Vec<u8>, Fault> {
        self.send(command).await?;
        let line = self.line().await?;
        let Some(length) = line.strip_prefix(b"$") else {
            return Ok(line
                .strip_prefix(b"+")
                .or(line.strip_prefix(b":"))
                .unwrap_or(&line)
                .to_vec());
        };
        if length == b"-1" {
            return Ok(Vec::new());
        }
        let length = std::str::from_utf8(length).ok().and_then(|length| length.parse().ok());
        let length = length.filter(|length| *length <= TEXT_BYTES_MAX).ok_or_else(|| {
            Fault::fatal(Code::StreamCorrupt, "the server's answer is no text of a bearable size")
        })?;
        let mut text = self.input.bytes(length + 2).await?.to_vec();
        text.truncate(length);
        Ok(text)
    }

    pub(crate) async fn send(&mut self, command: &Command) -> Result<(), Fault> {
        let mut bytes = Vec::new();
        command.write(&mut bytes);
        let sent = self.output.write_all(&bytes).await;
        sent.map_err(|error| {
            Fault::retry(Code::Unreachable, format!("the connection broke: {error}"))
        })
    }

    /// A line of the server's, or what it refuses.
    pub(crate) async fn line(&mut self) -> Result<Vec<u8>, Fault> {
        let line = self.input.line(LINE_BYTES_MAX).await?;
        match line.strip_prefix(b"-") {
            Some(error) => Err(judge(&String::from_utf8_lossy(error))),
            None => Ok(line),
        }
    }
}

/// What a server's error means: the one place that decides.
pub(crate) fn judge(error: &str) -> Fault {
    // A transaction that was discarded says why within.
    let error = error.split_once("discarded because of: ").map_or(error, |(_, inner)| inner);
    let word = error.split(' ').next().unwrap_or_default();
    match word {
        // It goes away by itself.
        "LOADING" | "MASTERDOWN" | "NOMASTERLINK" | "BUSY" | "TRYAGAIN" | "CLUSTERDOWN"
        | "READONLY" | "UNBLOCKED" => {
            Fault::retry(Code::Unreachable, format!("the server says {error}"))
        }
        // Once there is room, a disk or a replica again.
        "OOM" | "MISCONF" | "NOREPLICAS" => {
            Fault::retry(Code::Apply, format!("the server says {error}"))
        }
        "WRONGPASS" | "NOAUTH" => Fault::fatal(Code::Denied, format!("the server says {error}")),
        "NOPERM" => Fault::fatal(Code::Grant, format!("the server says {error}")),
        // A server that has users but no passwords says so in its own words.
        "ERR" if error.contains("AUTH") => {
            Fault::fatal(Code::Denied, format!("the server says {error}"))
        }
        _ => Fault::fatal(Code::Apply, format!("the server says {error}")),
    }
}

/// A connection, encrypted or not.
pub(crate) enum Socket {
    Plain(TcpStream),
    Encrypted(Box<TlsStream<TcpStream>>),
}

impl Socket {
    /// To a server, before it asks who we are.
    pub(crate) async fn open(tls: &Tls, host: &str, port: u16) -> Result<Self, Fault> {
        let away = |error| Fault::retry(Code::Unreachable, format!("can't connect: {error}"));
        let plain = TcpStream::connect((host, port)).await.map_err(away)?;
        // Without it a small command waits for the answer to the one before.
        plain.set_nodelay(true).map_err(away)?;
        Ok(match tls {
            Tls::Off => Self::Plain(plain),
            tls => Self::Encrypted(Box::new(encrypt(tls, host, plain).await?)),
        })
    }
}

impl AsyncRead for Socket {
    fn poll_read(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<std::io::Result<()>> {
        match self.get_mut() {
            Socket::Plain(stream) => Pin::new(stream).poll_read(context, buffer),
            Socket::Encrypted(stream) => Pin::new(stream).poll_read(context, buffer),
        }
    }
}

impl AsyncWrite for Socket {
    fn poll_write(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<std::io::Result<usize>> {
        match self.get_mut() {
            Socket::Plain(stream) => Pin::new(stream).poll_write(context, bytes),
            Socket::Encrypted(stream) => Pin::new(stream).poll_write(context, bytes),
        }
    }

    fn poll_flush(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        match self.get_mut() {
            Socket::Plain(stream) => Pin::new(stream).poll_flush(context),
            Socket::Encrypted(stream) => Pin::new(stream).poll_flush(context),
        }
    }

    fn poll_shutdown(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        match self.get_mut() {
            Socket::Plain(stream) => Pin::new(stream).poll_shutdown(context),
            Socket::Encrypted(stream) => Pin::new(stream).poll_shutdown(context),
        }
    }
}

async fn encrypt(tls: &Tls, host: &str, plain: TcpStream) -> Result<TlsStream<TcpStream>, Fault> {
    let refused = |what: String| Fault::fatal(Code::Tls, what);
    let provider = Arc::new(ring::default_provider());
    let builder = ClientConfig::builder_with_provider(provider.clone())
        .with_safe_default_protocol_versions()
        .map_err(|error| refused(error.to_string()))?;
    let (config, name) = match tls {
        Tls::Verify { ca, hostname } => {
            let config = builder.with_root_certificates(trusted(ca.as_ref())?);
            (config.with_no_client_auth(), hostname.as_deref().unwrap_or(host))
        }
        _ => {
            let anyone = Arc::new(Anyone(provider));
            let config = builder.dangerous().with_custom_certificate_verifier(anyone);
            (config.with_no_client_auth(), host)
        }
    };
    let name = ServerName::try_from(name.to_owned())
        .map_err(|_| Fault::fatal(Code::Config, format!("{name:?} is no name of a server")))?;
    let encrypted = TlsConnector::from(Arc::new(config)).connect(name, plain).await;
    encrypted.map_err(|error| match error.kind() {
        ErrorKind::InvalidData => refused(format!("no encrypted connection: {error}")),
        _ => Fault::retry(Code::Unreachable, format!("no encrypted connection: {error}")),
    })
}

fn trusted(ca: Option<&PathBuf>) -> Result<RootCertStore, Fault> {
    let mut roots = RootCertStore::empty();
    let Some(path) = ca else {
        roots.extend(webpki_roots::TLS_SERVER_ROOTS.iter().cloned());
        return Ok(roots);
    };
    let unreadable = |error: String| {
        Fault::fatal(Code::Config, format!("{} can't be read: {error}", path.display()))
            .hint("name a file with certificates in PEM")
    };
    let all = CertificateDer::pem_file_iter(path).map_err(|error| unreadable(error.to_string()))?;
    for certificate in all {
        let certificate = certificate.map_err(|error| unreadable(error.to_string()))?;
        roots.add(certificate).map_err(|error| unreadable(error.to_string()))?;
    }
    if roots.is_empty() {
        return Err(unreadable("it holds no certificate".to_owned()));
    }
    Ok(roots)
}

/// Trusts whoever answers, as the configuration says in so many words.
#[derive(Debug)]
struct Anyone(Arc<CryptoProvider>);

impl ServerCertVerifier for Anyone {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let known = &self.0.signature_verification_algorithms;
        verify_tls12_signature(message, certificate, signature, known)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let known = &self.0.signature_verification_algorithms;
        verify_tls13_signature(message, certificate, signature, known)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}
