//! Encrypted connections to PostgreSQL and Redis, with an authority of the test's own.

use std::os::unix::fs::{PermissionsExt, chown};
use std::path::Path;

use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair};
use serde_json::json;
use tempfile::TempDir;

use crate::harness::daemon::free_port;
use crate::harness::postgres::{Postgres, unprivileged};
use crate::harness::process::{Exit, Process, run};
use crate::harness::redis::Redis;
use crate::harness::sandbox::sandbox;
use crate::harness::{Client, services};

/// A folder with `ca.pem`, and `server.pem` and `server.key` for these names.
fn certificates(names: &[&str]) -> TempDir {
    let folder = sandbox().folder("certificates");
    let mut ca = CertificateParams::new(Vec::new()).unwrap();
    ca.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let ca = CertifiedIssuer::self_signed(ca, KeyPair::generate().unwrap()).unwrap();
    let key = KeyPair::generate().unwrap();
    let names: Vec<String> = names.iter().map(|name| (*name).to_owned()).collect();
    let server = CertificateParams::new(names).unwrap().signed_by(&key, &ca).unwrap();
    for (name, text) in
        [("ca.pem", ca.pem()), ("server.pem", server.pem()), ("server.key", key.serialize_pem())]
    {
        let path = folder.path().join(name);
        std::fs::write(&path, text).unwrap();
        // PostgreSQL insists that nobody else can read its key.
        std::fs::set_permissions(&path, PermissionsExt::from_mode(0o600)).unwrap();
        if let Some((uid, gid)) = unprivileged() {
            chown(&path, Some(uid), Some(gid)).unwrap();
            chown(folder.path(), Some(uid), Some(gid)).unwrap();
        }
    }
    folder
}

fn path(folder: &TempDir, name: &str) -> String {
    folder.path().join(name).to_str().unwrap().to_owned()
}

async fn postgres(certificates: &TempDir) -> Postgres {
    let cert = format!("ssl_cert_file={}", path(certificates, "server.pem"));
    let key = format!("ssl_key_file={}", path(certificates, "server.key"));
    Postgres::start(&["ssl=on", &cert, &key]).await
}

/// What `verbatim check` says of that URL, and how it ends.
async fn check(url: &str, authorities: &Path) -> (Exit, String) {
    let environment = [("DATABASE_URL", url), ("SSL_CERT_FILE", authorities.to_str().unwrap())];
    let run = run(&["check"], &environment, &[]).await;
    (run.exit, run.stdout + &run.stderr)
}

/// The words of libpq: `require` encrypts (`no-verify`, too), `verify-full` also knows whom it
/// talks to. What is between them is refused, because it would not be done.
#[tokio::test(flavor = "multi_thread")]
async fn sslmode_means_what_it_means_to_libpq() {
    let ours = certificates(&["127.0.0.1"]);
    let elsewhere = certificates(&["elsewhere.example"]);
    let (server, misnamed) = tokio::join!(postgres(&ours), postgres(&elsewhere));
    let none = services::database().await;
    let url = server.database().await;
    let (ca, other_ca) = (ours.path().join("ca.pem"), elsewhere.path().join("ca.pem"));
    let ca_of_url = format!("verify-full&sslrootcert={}", ca.display());
    for (url, mode, authorities, good) in [
        (&url, "disable", &ca, true),
        (&url, "prefer", &other_ca, true),
        (&url, "require", &other_ca, true),
        (&url, "no-verify", &other_ca, true),
        (&url, "allow", &ca, false),
        (&url, "verify-ca", &ca, false),
        (&url, "verify-full", &ca, true),
        (&url, "verify-full", &other_ca, false),
        (&url, ca_of_url.as_str(), &other_ca, true),
        (&misnamed.url("postgres"), "verify-full", &other_ca, false),
        (&none, "prefer", &ca, true),
        (&none, "require", &ca, false),
        (&none, "no-verify", &ca, false),
    ] {
        let (exit, said) = check(&format!("{url}?sslmode={mode}"), authorities).await;
        assert_eq!(exit, Exit::Code(i32::from(!good)), "{mode}: {said}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_serves_with_everything_encrypted() {
    let certificates = certificates(&["127.0.0.1"]);
    let server = postgres(&certificates).await;
    let port = free_port().to_string();
    let [ca, cert, key] =
        ["ca.pem", "server.pem", "server.key"].map(|name| path(&certificates, name));
    let tls = ["--tls-port", &port, "--tls-auth-clients", "no", "--tls-ca-cert-file", &ca];
    let certs = ["--tls-cert-file", &cert, "--tls-key-file", &key];
    let user = ["--user", "ann", "on", ">s3cret+word", "~*", "&*", "+@all"];
    let _redis = Redis::start(&[tls.as_slice(), &certs, &user].concat()).await;
    let database = server.database().await + "?sslmode=verify-full";
    let redis = format!("rediss://ann:s3cret%2Bword@127.0.0.1:{port}/3");
    let environment = [("DATABASE_URL", database.as_str()), ("REDIS_URL", &redis)];
    let environment = [environment.as_slice(), &[("SSL_CERT_FILE", ca.as_str())]].concat();
    let environment = environment.iter().map(|(name, value)| ((*name).into(), (*value).into()));
    let node = Process::start(environment.collect()).await;
    let (_, ready) = crate::harness::raw::ready(node.addr).await;
    assert!(ready.contains("\"mirror\":\"ok\""), "{ready}\n{}", node.output());
    let mut client = Client::greeted(node.addr).await;
    client.send(json!({"user_id": "1", "type": "create", "room": "general"})).await;
    client.expect(json!({"type": "ack", "seq": 1})).await;
    assert!(!node.output().contains("s3cret"), "{}", node.output());
}
