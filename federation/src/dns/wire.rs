//! Messages: bytes of a query to bytes of a response. Pure; the codec is hickory's.
//!
//! Whatever cannot be read as a query is answered with the error that RFC 1035 names, or not at all where an
//! answer could start a loop.

use std::net::IpAddr;

use hickory_proto::op::{Edns, Message, MessageType, Metadata, OpCode, Query, ResponseCode};
use hickory_proto::rr::rdata::{A, AAAA, SOA, SRV, TXT};
use hickory_proto::rr::{DNSClass, Name, RData, Record as WireRecord, RecordType};
use hickory_proto::serialize::binary::{BinEncodable, BinEncoder};

use crate::snapshot::Snapshot;

use super::answer::{Answer, Code, Kind, Question, Record, TTL_SECONDS, Value, answer};
use super::{QueryName, Zone};

/// Largest response over UDP: no fragments on any usual path (DNS flag day 2020).
const UDP_BYTES_MAX: u16 = 1232;
/// Largest response to a client that does not say what it can take (RFC 1035).
const UDP_BYTES_DEFAULT: u16 = 512;
/// The only version of EDNS.
const EDNS_VERSION: u8 = 0;

/// What a message came by; it bounds the response.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Carrier {
    Udp,
    Tcp,
}

/// The response to a message; none where silence is right.
pub fn respond(snapshot: &Snapshot, bytes: &[u8], carrier: Carrier) -> Option<Vec<u8>> {
    let request = match Message::from_vec(bytes) {
        Ok(request) => request,
        Err(_unreadable) => return unreadable(bytes),
    };
    // Answering an answer could go on for ever.
    if request.metadata.message_type == MessageType::Response {
        return None;
    }
    let mut response = response(snapshot, &request);
    let bytes_max = match (carrier, &request.edns) {
        (Carrier::Tcp, _) => u16::MAX,
        (Carrier::Udp, Some(edns)) => edns.max_payload().clamp(UDP_BYTES_DEFAULT, UDP_BYTES_MAX),
        (Carrier::Udp, None) => UDP_BYTES_DEFAULT,
    };
    let bytes = encode(&response, bytes_max)?;
    if is_truncated(&bytes) && !response.additionals.is_empty() {
        response.additionals.clear();
        return encode(&response, bytes_max);
    }
    Some(bytes)
}

fn response(snapshot: &Snapshot, request: &Message) -> Message {
    let mut response = Message::response(request.metadata.id, request.metadata.op_code);
    response.metadata = Metadata::response_from_request(&request.metadata);
    response.add_queries(request.queries.iter().cloned());
    if request.edns.is_some() {
        let mut edns = Edns::new();
        edns.set_max_payload(UDP_BYTES_MAX).set_version(EDNS_VERSION);
        response.set_edns(edns);
    }
    match question(request) {
        Ok((query, question)) => fill(&mut response, query, answer(snapshot, &question), snapshot),
        Err(code) => response.metadata.response_code = code,
    }
    response
}

fn question(request: &Message) -> Result<(&Query, Question), ResponseCode> {
    if request.metadata.op_code != OpCode::Query {
        return Err(ResponseCode::NotImp);
    }
    if request.edns.as_ref().is_some_and(|edns| edns.version() > EDNS_VERSION) {
        return Err(ResponseCode::BADVERS);
    }
    let [query] = request.queries.as_slice() else { return Err(ResponseCode::FormErr) };
    if !matches!(query.query_class(), DNSClass::IN | DNSClass::ANY) {
        return Err(ResponseCode::Refused);
    }
    let kind = match query.query_type() {
        RecordType::A => Kind::A,
        RecordType::AAAA => Kind::Aaaa,
        RecordType::SRV => Kind::Srv,
        RecordType::TXT => Kind::Txt,
        RecordType::SOA => Kind::Soa,
        RecordType::ANY => Kind::Any,
        RecordType::AXFR | RecordType::IXFR => return Err(ResponseCode::Refused),
        _ => Kind::Other,
    };
    Ok((query, Question { name: QueryName::from_labels(query.name().iter()), kind }))
}

fn fill(response: &mut Message, query: &Query, mut answer: Answer, snapshot: &Snapshot) {
    response.metadata.authoritative = answer.zone.is_some();
    response.metadata.response_code = match answer.code {
        Code::NoError => ResponseCode::NoError,
        Code::NoSuchName => ResponseCode::NXDomain,
        Code::Refused => ResponseCode::Refused,
    };
    let Some(zone) = answer.zone else { return };
    // Clients mostly take the first: let that be another one each time.
    if let Some(shift) = usize::from(response.metadata.id).checked_rem(answer.records.len()) {
        answer.records.rotate_left(shift);
    }
    let wire = |record: Record| {
        let name = record.name.map_or_else(|| Some(query.name().clone()), |name| absolute(&name))?;
        Some(WireRecord::from_rdata(name, TTL_SECONDS, value(record.value, zone, snapshot)?))
    };
    if answer.records.is_empty() {
        let soa = authority(zone, snapshot).zip(absolute(zone.origin()));
        response.add_authorities(soa.map(|(soa, name)| WireRecord::from_rdata(name, TTL_SECONDS, soa)));
    }
    response.add_answers(answer.records.into_iter().filter_map(wire));
    response.add_additionals(answer.additional.into_iter().filter_map(wire));
}

/// None only for a name that is too long for DNS, which cannot be asked for either.
fn value(value: Value, zone: Zone, snapshot: &Snapshot) -> Option<RData> {
    Some(match value {
        Value::Address(IpAddr::V4(address)) => RData::A(A(address)),
        Value::Address(IpAddr::V6(address)) => RData::AAAA(AAAA(address)),
        Value::Service { port, target } => RData::SRV(SRV::new(0, 1, port, absolute(&target)?)),
        Value::Text(text) => RData::TXT(TXT::new(vec![text.to_owned()])),
        Value::Authority => authority(zone, snapshot)?,
    })
}

/// Secondaries do not exist, so only the serial and the last number mean anything: how long a client may
/// believe that there is nothing.
fn authority(zone: Zone, snapshot: &Snapshot) -> Option<RData> {
    let within = |label: &str| absolute(&format!("{label}.{}", zone.origin()));
    let serial = u32::try_from(snapshot.generation.0 & u64::from(u32::MAX)).unwrap_or_default();
    Some(RData::SOA(SOA::new(
        within("ns.dns")?,
        within("hostmaster")?,
        serial,
        7200,
        1800,
        86400,
        TTL_SECONDS,
    )))
}

fn absolute(name: &str) -> Option<Name> {
    Name::from_ascii(format!("{name}.")).ok()
}

/// The codec leaves out what does not fit and says so in the header.
fn encode(response: &Message, bytes_max: u16) -> Option<Vec<u8>> {
    let mut bytes = Vec::with_capacity(usize::from(UDP_BYTES_DEFAULT));
    let mut encoder = BinEncoder::new(&mut bytes);
    encoder.set_max_size(bytes_max);
    response.emit(&mut encoder).ok()?;
    Some(bytes)
}

fn is_truncated(bytes: &[u8]) -> bool {
    const TRUNCATION_BIT: u8 = 0x02;
    bytes.get(2).is_some_and(|flags| flags & TRUNCATION_BIT != 0)
}

fn unreadable(bytes: &[u8]) -> Option<Vec<u8>> {
    const HEADER_BYTES: usize = 12;
    const RESPONSE_BIT: u8 = 0x80;
    let header = bytes.get(..HEADER_BYTES)?;
    if header[2] & RESPONSE_BIT != 0 {
        return None;
    }
    let id = u16::from_be_bytes([header[0], header[1]]);
    encode(&Message::error_msg(id, OpCode::Query, ResponseCode::FormErr), UDP_BYTES_DEFAULT)
}
