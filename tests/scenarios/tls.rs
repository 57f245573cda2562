//! Encrypted connections that know whom they talk to, by the configuration: both kinds of server,
//! as source and as target.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::ensure;
use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, KeyPair};
use unitflow_harness::Flavor::{Mariadb, Mysql9};
use unitflow_harness::{Worker, beside};

use crate::{LIMIT, QUIET, setup};

/// The one name that the servers' certificate is for.
const HOST: &str = "localhost";
/// The same machine by another name.
const OTHER_HOST: &str = "127.0.0.1";

/// An authority and a server's certificate from it.
struct Authority {
    ca: PathBuf,
    certificate: PathBuf,
    key: PathBuf,
}

impl Authority {
    fn new(folder: &Path, name: &str) -> anyhow::Result<Self> {
        let file = |kind: &str| folder.join(format!("{name}-{kind}.pem"));
        let (ca_key, key) = (KeyPair::generate()?, KeyPair::generate()?);
        let mut params = CertificateParams::default();
        params.distinguished_name.push(DnType::CommonName, format!("authority {name}"));
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let ca = params.self_signed(&ca_key)?;
        let mut params = CertificateParams::new([HOST.to_owned()])?;
        params.distinguished_name.push(DnType::CommonName, HOST);
        let certificate = params.signed_by(&key, &ca, &ca_key)?;
        let own = Self { ca: file("ca"), certificate: file("server"), key: file("key") };
        fs::write(&own.ca, ca.pem())?;
        fs::write(&own.certificate, certificate.pem())?;
        fs::write(&own.key, key.serialize_pem())?;
        Ok(own)
    }

    /// The configuration's `tls` that trusts it alone.
    fn trusted(&self) -> String {
        format!("{{ ca = \"{}\" }}", self.ca.display())
    }
}

#[test]
fn servers_are_known_by_their_certificates() {
    beside("TLS", LIMIT, async {
        let folder = tempfile::tempdir()?;
        let own = Authority::new(folder.path(), "own")?;
        let other = Authority::new(folder.path(), "other")?;
        let mut mesh = setup(&[Mysql9, Mariadb])
            .kafka_shared()
            .setting("ssl_cert", &own.certificate.display().to_string())
            .setting("ssl_key", &own.key.display().to_string())
            .setting("require_secure_transport", "ON")
            .reached(HOST, &own.trusted())
            .tables("CREATE TABLE notes (id INT PRIMARY KEY, unit CHAR(1))")
            .start()
            .await?;
        mesh.start_workers()?;
        for (unit, id) in [("A", 1), ("B", 2)] {
            let insert = format!("INSERT INTO shop.notes VALUES ({id}, '{unit}')");
            mesh.server(unit).sql(&insert).await?;
        }
        mesh.quiesce(QUIET).await?;
        for unit in ["A", "B"] {
            let found = mesh.server(unit).sql("SELECT * FROM shop.notes ORDER BY id").await?;
            ensure!(found == "1\tA\n2\tB", "{unit} has {found}");
        }
        mesh.workers().iter_mut().try_for_each(Worker::kill)?;
        for (host, tls, says) in [
            (HOST, other.trusted(), "UnknownIssuer"),
            (OTHER_HOST, own.trusted(), "not valid for name"),
        ] {
            mesh.change_reached(host, &tls)?;
            for (unit, role) in
                [("A", "connector"), ("A", "sink"), ("B", "connector"), ("B", "sink")]
            {
                mesh.start_worker(unit, role, "")?;
                let worker = mesh.worker(unit, role)?;
                let status = worker.wait(QUIET).await?;
                let log = worker.log()?;
                ensure!(status.code() == Some(3), "{role} of {unit} ended with {status}: {log}");
                for part in ["code=tls", says, "[tls]"] {
                    ensure!(log.contains(part), "{role} of {unit} does not say {part}: {log}");
                }
            }
        }
        mesh.finish();
        Ok(())
    });
}
