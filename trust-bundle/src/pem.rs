//! The PEM envelope (RFC 7468), written; reading it is pki_types' business.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;

/// RFC 7468 wraps the base64 text after so many characters.
const LINE_LENGTH: usize = 64;

/// The text of one block: `CERTIFICATE`, `CERTIFICATE REQUEST`, `PRIVATE KEY`.
pub fn encode(label: &str, der: &[u8]) -> String {
    // Room for all of it at once: growing would leave copies of a secret behind.
    let mut text = String::with_capacity(der.len() * 2 + 2 * label.len() + 64);
    text.push_str(&format!("-----BEGIN {label}-----\n"));
    for line in der.chunks(LINE_LENGTH / 4 * 3) {
        STANDARD.encode_string(line, &mut text);
        text.push('\n');
    }
    text.push_str(&format!("-----END {label}-----\n"));
    text
}

#[cfg(test)]
mod tests {
    use rustls::pki_types::CertificateDer;
    use rustls::pki_types::pem::PemObject;

    use super::*;

    #[test]
    fn reader_gets_the_same_bytes_back() {
        for length in [0, 1, 47, 48, 49, 1000] {
            let der: Vec<u8> = (0..length).map(|i| i as u8).collect();
            let text = encode("CERTIFICATE", &der);
            assert!(text.lines().all(|line| line.len() <= LINE_LENGTH));
            assert_eq!(CertificateDer::from_pem_slice(text.as_bytes()).unwrap().as_ref(), der);
        }
    }
}
