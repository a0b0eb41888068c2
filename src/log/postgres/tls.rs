//! TLS for PostgreSQL, by libpq's URL parameters.
//!
//! - `disable`: no encryption.
//! - `prefer`, the default: encrypted if the server offers it; its certificate is not checked.
//! - `require`, or `no-verify`: encrypted or no connection; its certificate is not checked.
//! - `verify-full`: the certificate must also be for that host, and from a known authority.
//!
//! Known authorities are the system's, or those in the file that `sslrootcert` names. This module
//! makes no connections. The driver only knows the first three modes; `parameters` reads the URL.

use std::path::Path;
use std::sync::Arc;

use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, ring, verify_tls12_signature, verify_tls13_signature};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::{ClientConfig, DigitallySignedStruct, RootCertStore, SignatureScheme};
use tokio_postgres_rustls::MakeRustlsConnect;

use super::OpenError;
use super::parameters::Parameters;

pub(super) type Tls = MakeRustlsConnect;

/// The TLS settings that the URL asks for.
pub(super) fn of(parameters: &Parameters) -> Result<Tls, OpenError> {
    if parameters.verify { verified(parameters.roots.as_deref()) } else { unverified() }
}

fn verified(roots: Option<&str>) -> Result<Tls, OpenError> {
    let mut store = RootCertStore::empty();
    match roots {
        Some(file) => {
            let unreadable = || OpenError::RootCertificates { file: file.to_owned() };
            let certificates = CertificateDer::pem_file_iter(Path::new(file));
            for certificate in certificates.map_err(|_| unreadable())? {
                let certificate = certificate.map_err(|_| unreadable())?;
                store.add(certificate).map_err(|_| unreadable())?;
            }
        }
        // Some of a system's certificates are always malformed; it is enough that there are some.
        None => {
            store.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
        }
    }
    if store.is_empty() {
        let file = roots.unwrap_or("the system's certificates").to_owned();
        return Err(OpenError::RootCertificates { file });
    }
    let config = builder()?.with_root_certificates(store).with_no_client_auth();
    Ok(MakeRustlsConnect::new(config))
}

fn unverified() -> Result<Tls, OpenError> {
    let verifier = Arc::new(AnyServer(ring::default_provider()));
    let config =
        builder()?.dangerous().with_custom_certificate_verifier(verifier).with_no_client_auth();
    Ok(MakeRustlsConnect::new(config))
}

/// Names the provider, so that nothing depends on a process-wide default.
fn builder() -> Result<rustls::ConfigBuilder<ClientConfig, rustls::WantsVerifier>, OpenError> {
    ClientConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_safe_default_protocol_versions()
        .map_err(|_| OpenError::SslMode)
}

/// Checks that the server holds the key of its certificate, but not whose certificate it is, as
/// libpq does up to `require`. That protects against passive listeners.
#[derive(Debug)]
struct AnyServer(CryptoProvider);

impl ServerCertVerifier for AnyServer {
    fn verify_server_cert(
        &self,
        _certificate: &CertificateDer<'_>,
        _intermediates: &[CertificateDer<'_>],
        _name: &ServerName<'_>,
        _ocsp: &[u8],
        _now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let algorithms = &self.0.signature_verification_algorithms;
        verify_tls12_signature(message, certificate, signature, algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let algorithms = &self.0.signature_verification_algorithms;
        verify_tls13_signature(message, certificate, signature, algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}
