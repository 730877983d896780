//! What our certificates look like; pure: times and random numbers are arguments.

use std::time::Duration;

use rcgen::string::Ia5String;
use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer,
    KeyUsagePurpose, PublicKeyData, SanType, SerialNumber,
};
use rustls::pki_types::{CertificateDer, UnixTime};
use time::OffsetDateTime;

use super::signer::{EncoderKey, Signer};
use crate::digest::Hex;
use crate::spiffe_id::{SpiffeId, TrustDomain};

/// How far clocks may be apart for a new certificate to be valid everywhere at once (X19).
const BACK_DATE_MAX: Duration = Duration::from_secs(60);

/// A certificate is back-dated by no more than this part of its life, so that half of a short life
/// is still ahead of it when it is issued.
const BACK_DATE_PART: u32 = 10;

/// Nothing is issued any more when the root has less than this left (V34) ...
const ROOT_LEFT_MIN: Duration = Duration::from_secs(600);

/// ... or less than this part of its life, if it is a short-lived one.
const ROOT_LEFT_PART: u32 = 10;

/// The longest organization name that X.520 allows.
const ORGANIZATION_LENGTH_MAX: usize = 64;

/// The object identifier of the serialNumber attribute of a name.
const SERIAL_NUMBER_ATTRIBUTE: [u64; 4] = [2, 5, 4, 5];

/// From when to when a certificate is valid.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Validity {
    pub(crate) not_before: UnixTime,
    pub(crate) not_after: UnixTime,
}

/// Why there is no time for which a certificate could be issued.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum NoValidity {
    /// Less than one second was asked for.
    #[error("a lifetime of {0:?} is shorter than the second that certificates count in")]
    TooShort(Duration),
    /// The root ends too soon (V34).
    #[error("the CA certificate ends in {left:?}; hint: rotate the root")]
    RootEnds {
        /// What is left of its life.
        left: Duration,
    },
    /// The root has not begun, so the clock has gone backwards.
    #[error("the CA certificate is not valid yet; hint: check this machine's clock")]
    RootNotYetValid,
}

/// The validity of a new root.
pub(super) fn root_validity(ttl: Duration, now: UnixTime) -> Result<Validity, NoValidity> {
    if ttl.as_secs() == 0 {
        return Err(NoValidity::TooShort(ttl));
    }
    Ok(Validity { not_before: before(now, back_date(ttl)), not_after: after(now, ttl) })
}

/// The validity of a new SVID, which never outlives its root (V34).
pub(super) fn svid_validity(root: Validity, ttl: Duration, now: UnixTime) -> Result<Validity, NoValidity> {
    if ttl.as_secs() == 0 {
        return Err(NoValidity::TooShort(ttl));
    }
    if now < root.not_before {
        return Err(NoValidity::RootNotYetValid);
    }
    let left = between(now, root.not_after);
    if left < ROOT_LEFT_MIN.min(between(root.not_before, root.not_after) / ROOT_LEFT_PART) {
        return Err(NoValidity::RootEnds { left });
    }
    Ok(Validity {
        not_before: before(now, back_date(ttl)).max(root.not_before),
        not_after: after(now, ttl).min(root.not_after),
    })
}

/// A self-signed root; its name is unique, so that two roots never cost two signature checks (V9).
pub(super) fn root(
    signer: &dyn Signer,
    trust_domain: &TrustDomain,
    validity: Validity,
    random: [u8; 24],
) -> Result<CertificateDer<'static>, rcgen::Error> {
    let (serial, name) = random.split_at(16);
    let mut params = params(validity, serial, &trust_domain.id())?;
    let organization = &trust_domain.as_str()[..trust_domain.as_str().len().min(ORGANIZATION_LENGTH_MAX)];
    params.distinguished_name.push(DnType::OrganizationName, organization);
    params.distinguished_name.push(DnType::from_oid(&SERIAL_NUMBER_ATTRIBUTE), Hex(name).to_string());
    // It signs leaves and nothing else.
    params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    Ok(params.self_signed(&EncoderKey(signer))?.der().clone())
}

/// An X.509-SVID (V33).
pub(super) fn svid(
    signer: &dyn Signer,
    root: &CertificateDer<'_>,
    id: &SpiffeId,
    subject: &impl PublicKeyData,
    validity: Validity,
    serial: [u8; 16],
) -> Result<CertificateDer<'static>, rcgen::Error> {
    let issuer = Issuer::from_ca_cert_der(root, EncoderKey(signer))?;
    let mut params = params(validity, &serial, id)?;
    // Written out, not left to the default: some verifiers want to see it (X5).
    params.is_ca = IsCa::ExplicitNoCa;
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    params.extended_key_usages =
        vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
    params.use_authority_key_identifier_extension = true;
    Ok(params.signed_by(subject, &issuer)?.der().clone())
}

fn params(validity: Validity, serial: &[u8], id: &SpiffeId) -> Result<CertificateParams, rcgen::Error> {
    let mut params = CertificateParams::default();
    params.not_before = date(validity.not_before);
    params.not_after = date(validity.not_after);
    params.serial_number = Some(serial_number(serial));
    params.distinguished_name = DistinguishedName::new();
    params.subject_alt_names = vec![SanType::URI(Ia5String::try_from(id.as_str())?)];
    Ok(params)
}

// Positive and never zero, with 126 random bits.
fn serial_number(random: &[u8]) -> SerialNumber {
    let mut bytes = random.to_vec();
    if let Some(first) = bytes.first_mut() {
        *first = *first & 0x7f | 0x40;
    }
    SerialNumber::from(bytes)
}

fn back_date(ttl: Duration) -> Duration {
    BACK_DATE_MAX.min(ttl / BACK_DATE_PART)
}

fn before(time: UnixTime, by: Duration) -> UnixTime {
    UnixTime::since_unix_epoch(Duration::from_secs(time.as_secs().saturating_sub(by.as_secs())))
}

fn after(time: UnixTime, by: Duration) -> UnixTime {
    UnixTime::since_unix_epoch(Duration::from_secs(time.as_secs().saturating_add(by.as_secs())))
}

fn between(from: UnixTime, to: UnixTime) -> Duration {
    Duration::from_secs(to.as_secs().saturating_sub(from.as_secs()))
}

/// A certificate cannot say a later year than 9999.
fn date(time: UnixTime) -> OffsetDateTime {
    const LAST: i64 = 253_402_300_799;
    let seconds = i64::try_from(time.as_secs()).unwrap_or(LAST).min(LAST);
    OffsetDateTime::from_unix_timestamp(seconds).expect("years up to 9999 are dates")
}
