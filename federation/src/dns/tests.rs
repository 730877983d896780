//! Both zones as data, then the same over real sockets.

use std::net::SocketAddr;
use std::sync::Arc;

use hickory_proto::op::{Edns, Message, MessageType, OpCode, Query, ResponseCode};
use hickory_proto::rr::{Name, RData, RecordType};
use proptest::prelude::*;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpStream, UdpSocket};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use super::testing::{World, world};
use super::*;
use crate::snapshot::Snapshot;

fn shop() -> World {
    world()
        .merged("cart.shop", "80=http 443=https 53/udp=dns", &["127.80.0.1", "fd00::1"])
        .merged("bare.shop", "80", &["127.80.0.2"])
        .merged("poolless.shop", "80=http", &[])
        .headless(
            "web.shop",
            "80=http",
            &["10.0.0.1 web-0", "10.0.0.2", "!10.0.0.3 web-2", "fd00::2", "db.example.com"],
        )
        .import("cloud", "web.shop", "80=http", &["10.8.0.1 web-0", "10.0.0.2"])
        .headless("asleep.shop", "80=http", &["!10.0.0.9"])
        .import("cloud", "far.away", "80=http", &["10.8.0.7 far-0"])
        .local("private.hidden", "80=http")
}

/// `NOERROR` with records, or an empty answer with its code.
fn show(snapshot: &Snapshot, name: &str, kind: Kind) -> String {
    let answer = answer(snapshot, &Question { name: name.into(), kind });
    let code = match answer.code {
        Code::NoError => "NOERROR",
        Code::NoSuchName => "NXDOMAIN",
        Code::Refused => "REFUSED",
    };
    let value = |record: &Record| match &record.value {
        Value::Address(address) => address.to_string(),
        Value::Service { port, target } => format!("{port} {target}"),
        Value::Text(text) => format!("{text:?}"),
        Value::Authority => "SOA".to_owned(),
    };
    let records: Vec<_> = answer.records.iter().map(value).collect();
    if records.is_empty() { code.to_owned() } else { records.join(", ") }
}

#[test]
fn clusterset_names_answer_by_the_mcs_rules() {
    let snapshot = shop().build();
    for (name, kind, expected) in [
        ("cart.shop.svc.clusterset.local", Kind::A, "127.80.0.1"),
        ("CART.shop.SVC.clusterset.local.", Kind::A, "127.80.0.1"),
        ("cart.shop.svc.clusterset.local", Kind::Aaaa, "fd00::1"),
        ("cart.shop.svc.clusterset.local", Kind::Any, "127.80.0.1, fd00::1"),
        ("cart.shop.svc.clusterset.local", Kind::Txt, "NOERROR"),
        ("cart.shop.svc.clusterset.local", Kind::Other, "NOERROR"),
        ("bare.shop.svc.clusterset.local", Kind::Aaaa, "NOERROR"),
        ("poolless.shop.svc.clusterset.local", Kind::A, "NOERROR"),
        ("nobody.shop.svc.clusterset.local", Kind::A, "NXDOMAIN"),
        // 4.4: a cluster's own services are not the clusterset's.
        ("private.hidden.svc.clusterset.local", Kind::A, "NXDOMAIN"),
        // Headless: all ready endpoints of all contributors, each address once.
        ("web.shop.svc.clusterset.local", Kind::A, "10.0.0.1, 10.0.0.2, 10.8.0.1"),
        ("web.shop.svc.clusterset.local", Kind::Aaaa, "fd00::2"),
        ("far.away.svc.clusterset.local", Kind::A, "10.8.0.7"),
        ("asleep.shop.svc.clusterset.local", Kind::A, "NXDOMAIN"),
        ("asleep.shop.svc.clusterset.local", Kind::Srv, "NXDOMAIN"),
        // Their endpoints, by cluster.
        ("web-0.onprem.web.shop.svc.clusterset.local", Kind::A, "10.0.0.1"),
        ("web-0.cloud.web.shop.svc.clusterset.local", Kind::A, "10.8.0.1"),
        ("web-0.cloud.web.shop.svc.clusterset.local", Kind::Aaaa, "NOERROR"),
        ("10-0-0-2.onprem.web.shop.svc.clusterset.local", Kind::A, "10.0.0.2"),
        ("fd00-0-0-0-0-0-0-2.onprem.web.shop.svc.clusterset.local", Kind::Aaaa, "fd00::2"),
        ("10-0-0-1.onprem.web.shop.svc.clusterset.local", Kind::A, "NXDOMAIN"),
        ("web-2.onprem.web.shop.svc.clusterset.local", Kind::A, "NXDOMAIN"),
        ("web-0.quay.web.shop.svc.clusterset.local", Kind::A, "NXDOMAIN"),
        ("a.onprem.cart.shop.svc.clusterset.local", Kind::A, "NXDOMAIN"),
        ("a.web-0.onprem.web.shop.svc.clusterset.local", Kind::A, "NXDOMAIN"),
        // 4.4: no names of a cluster's part; but parents of names exist.
        ("onprem.cart.shop.svc.clusterset.local", Kind::A, "NXDOMAIN"),
        ("onprem.web.shop.svc.clusterset.local", Kind::A, "NOERROR"),
        ("quay.web.shop.svc.clusterset.local", Kind::A, "NXDOMAIN"),
        ("clusterset.local", Kind::Soa, "SOA"),
        ("clusterset.local", Kind::A, "NOERROR"),
        ("svc.clusterset.local", Kind::A, "NOERROR"),
        ("shop.svc.clusterset.local", Kind::A, "NOERROR"),
        ("away.svc.clusterset.local", Kind::Soa, "NOERROR"),
        ("hidden.svc.clusterset.local", Kind::A, "NXDOMAIN"),
        ("sho.svc.clusterset.local", Kind::A, "NXDOMAIN"),
        ("other.clusterset.local", Kind::A, "NXDOMAIN"),
        ("dns-version.clusterset.local", Kind::Txt, "\"1.0.0\""),
        ("dns-version.clusterset.local", Kind::A, "NOERROR"),
        ("a.dns-version.clusterset.local", Kind::Txt, "NXDOMAIN"),
    ] {
        assert_eq!(show(&snapshot, name, kind), expected, "{name} {kind:?}");
    }
}

#[test]
fn ports_are_services_with_targets_that_resolve() {
    let snapshot = shop().build();
    let at = "shop.svc.clusterset.local";
    for (name, kind, expected) in [
        ("_http._tcp.cart", Kind::Srv, "80 cart.shop.svc.clusterset.local"),
        ("_dns._udp.cart", Kind::Srv, "53 cart.shop.svc.clusterset.local"),
        ("_dns._tcp.cart", Kind::Srv, "NXDOMAIN"),
        ("_http._tcp.cart", Kind::A, "NOERROR"),
        ("_tcp.cart", Kind::Srv, "NOERROR"),
        ("_udp.bare", Kind::Srv, "NXDOMAIN"),
        ("_tcp.bare", Kind::Srv, "NXDOMAIN"), // its only port has no name
        ("_none._tcp.cart", Kind::Srv, "NXDOMAIN"),
        ("http._tcp.cart", Kind::Srv, "NXDOMAIN"),
        ("_a._http._tcp.cart", Kind::Srv, "NXDOMAIN"),
        ("bare", Kind::Srv, "80 bare.shop.svc.clusterset.local"),
        (
            "cart",
            Kind::Srv,
            "53 cart.shop.svc.clusterset.local, 80 cart.shop.svc.clusterset.local, \
             443 cart.shop.svc.clusterset.local",
        ),
        (
            "_http._tcp.web",
            Kind::Srv,
            "80 10-0-0-2.cloud.web.shop.svc.clusterset.local, \
             80 web-0.cloud.web.shop.svc.clusterset.local, \
             8080 10-0-0-2.onprem.web.shop.svc.clusterset.local, \
             8080 fd00-0-0-0-0-0-0-2.onprem.web.shop.svc.clusterset.local, \
             8080 web-0.onprem.web.shop.svc.clusterset.local",
        ),
    ] {
        assert_eq!(show(&snapshot, &format!("{name}.{at}"), kind), expected, "{name} {kind:?}");
    }
    for service in ["cart", "web"] {
        let name = format!("{service}.{at}").as_str().into();
        let answer = answer(&snapshot, &Question { name, kind: Kind::Srv });
        for record in answer.records {
            let Value::Service { target, .. } = record.value else { panic!("{record:?}") };
            let addresses = [Kind::A, Kind::Aaaa].map(|kind| show(&snapshot, &target, kind));
            assert!(addresses.iter().any(|text| text != "NOERROR" && text != "NXDOMAIN"), "{target}");
            let told = |record: &Record| record.name.as_deref() == Some(&*target);
            assert!(answer.additional.iter().any(told), "{target} has no additional address");
        }
    }
}

#[test]
fn pinned_names_exist_and_have_no_address() {
    let snapshot = shop().build();
    for (name, expected) in [
        ("isthmus.internal", "NOERROR"),
        ("onprem.isthmus.internal", "NOERROR"),
        ("cloud.isthmus.internal", "NOERROR"),
        ("quay.isthmus.internal", "NXDOMAIN"),
        ("shop.cloud.isthmus.internal", "NOERROR"),
        ("hidden.onprem.isthmus.internal", "NOERROR"),
        ("hidden.cloud.isthmus.internal", "NXDOMAIN"),
        ("web.shop.cloud.isthmus.internal", "NOERROR"),
        ("web.shop.onprem.isthmus.internal", "NOERROR"),
        ("private.hidden.onprem.isthmus.internal", "NOERROR"),
        ("cart.shop.cloud.isthmus.internal", "NXDOMAIN"),
        ("a.web.shop.cloud.isthmus.internal", "NXDOMAIN"),
    ] {
        assert_eq!(show(&snapshot, name, Kind::A), expected, "{name}");
    }
    assert_eq!(show(&snapshot, "isthmus.internal", Kind::Soa), "SOA");
}

#[test]
fn other_zones_are_refused() {
    let snapshot = shop().build();
    for name in ["example.com", "cart.shop.svc.cluster.local", "local", "internal", "", "notclusterset.local"]
    {
        assert_eq!(show(&snapshot, name, Kind::A), "REFUSED", "{name:?}");
    }
}

/// RFC 8020: what is below a name that does not exist does not exist either.
#[test]
fn every_parent_of_a_name_exists() {
    let snapshot = shop().build();
    let exists = |name: &str| !show(&snapshot, name, Kind::A).starts_with("NXDOMAIN");
    let services = ["cart", "bare", "web", "asleep", "nobody"];
    let below = [
        "",
        "_tcp.",
        "_http._tcp.",
        "_dns._udp.",
        "onprem.",
        "web-0.onprem.",
        "web-0.cloud.",
        "10-0-0-2.cloud.",
    ];
    let clusterset = services
        .iter()
        .flat_map(|service| below.map(|below| format!("{below}{service}.shop.svc.clusterset.local")))
        .chain(["far-0.cloud.far.away.svc.clusterset.local".to_owned()]);
    let pinned = ["web.shop", "far.away", "private.hidden", "cart.shop"].into_iter().flat_map(|service| {
        ["cloud", "onprem"].map(|cluster| format!("{service}.{cluster}.isthmus.internal"))
    });
    let mut found = 0;
    for name in clusterset.chain(pinned).filter(|name| exists(name)) {
        found += 1;
        let mut parent = name.as_str();
        while let Some((_, above)) = parent.split_once('.').filter(|(_, above)| above.contains('.')) {
            assert!(exists(above), "{name} exists and {above} does not");
            parent = above;
        }
    }
    assert!(found > 15, "{found}");
}

fn query(name: &str, kind: RecordType) -> Message {
    let mut message = Message::query();
    message.metadata.id = 7;
    message.add_query(Query::query(Name::from_ascii(name).unwrap(), kind));
    message
}

fn ask(snapshot: &Snapshot, message: &Message, carrier: Carrier) -> Message {
    let bytes = respond(snapshot, &message.to_vec().unwrap(), carrier).unwrap();
    let response = Message::from_vec(&bytes).unwrap();
    assert_eq!(response.metadata.id, message.metadata.id);
    assert_eq!(response.metadata.message_type, MessageType::Response);
    response
}

#[test]
fn positive_answers_are_authoritative_and_short_lived() {
    let response =
        ask(&shop().build(), &query("cart.shop.svc.clusterset.local.", RecordType::A), Carrier::Udp);
    assert!(response.metadata.authoritative && !response.metadata.recursion_available);
    assert_eq!(response.answers.len(), 1);
    assert_eq!(response.answers[0].ttl, TTL_SECONDS);
    assert_eq!(response.answers[0].data.to_string(), "127.80.0.1");
    assert!(response.authorities.is_empty());
    assert_eq!(response.queries.len(), 1);
}

#[test]
fn negative_answers_carry_the_soa() {
    for (name, code) in [
        ("nobody.shop.svc.clusterset.local.", ResponseCode::NXDomain),
        ("bare.shop.svc.clusterset.local.", ResponseCode::NoError),
    ] {
        let response = ask(&shop().build(), &query(name, RecordType::AAAA), Carrier::Udp);
        assert_eq!(response.metadata.response_code, code);
        let [authority] = response.authorities.as_slice() else { panic!("{:?}", response.authorities) };
        assert_eq!((authority.name.to_string().as_str(), authority.ttl), ("clusterset.local.", TTL_SECONDS));
        let RData::SOA(soa) = &authority.data else { panic!("{authority:?}") };
        assert_eq!((soa.serial, soa.minimum), (42, TTL_SECONDS));
    }
    let refused = ask(&shop().build(), &query("example.com.", RecordType::A), Carrier::Udp);
    assert_eq!(refused.metadata.response_code, ResponseCode::Refused);
    assert!(refused.authorities.is_empty() && !refused.metadata.authoritative);
}

#[test]
fn what_is_no_plain_query_gets_its_error() {
    let snapshot = shop().build();
    let code = |message: &Message| ask(&snapshot, message, Carrier::Udp).metadata.response_code;
    let good = query("cart.shop.svc.clusterset.local.", RecordType::A);

    let mut update = good.clone();
    update.metadata.op_code = OpCode::Notify;
    assert_eq!(code(&update), ResponseCode::NotImp);
    let mut two = good.clone();
    two.add_query(good.queries[0].clone());
    assert_eq!(code(&two), ResponseCode::FormErr);
    let mut future = good.clone();
    future.set_edns(Edns::new().set_version(1).clone());
    assert_eq!(u16::from(code(&future)), 16, "BADVERS, which shares its number with BADSIG");
    assert_eq!(code(&query("clusterset.local.", RecordType::AXFR)), ResponseCode::Refused);

    let mut answer = good.clone();
    answer.metadata.message_type = MessageType::Response;
    assert_eq!(respond(&snapshot, &answer.to_vec().unwrap(), Carrier::Udp), None);
    assert_eq!(respond(&snapshot, b"short", Carrier::Udp), None);
    let mut cut = good.to_vec().unwrap();
    cut.truncate(20);
    let response = Message::from_vec(&respond(&snapshot, &cut, Carrier::Udp).unwrap()).unwrap();
    assert_eq!((response.metadata.id, response.metadata.response_code), (7, ResponseCode::FormErr));
}

/// More endpoints than fit into a datagram.
fn crowd() -> Snapshot {
    let endpoints: Vec<_> = (0..2000).map(|at| format!("10.1.{}.{}", at / 250, at % 250)).collect();
    let endpoints: Vec<_> = endpoints.iter().map(String::as_str).collect();
    world().headless("crowd.shop", "80=http", &endpoints).build()
}

#[test]
fn what_does_not_fit_is_left_out_and_said() {
    let snapshot = crowd();
    let plain = query("crowd.shop.svc.clusterset.local.", RecordType::A);
    let mut large = plain.clone();
    large.set_edns(Edns::new().set_max_payload(65_000).clone());
    for (message, carrier, bytes_max, truncated) in [
        (&plain, Carrier::Udp, 512, true),
        (&large, Carrier::Udp, 1232, true),
        (&plain, Carrier::Tcp, 65_535, false),
    ] {
        let bytes = respond(&snapshot, &message.to_vec().unwrap(), carrier).unwrap();
        assert!(bytes.len() <= bytes_max, "{}", bytes.len());
        let response = Message::from_vec(&bytes).unwrap();
        assert_eq!(response.metadata.truncation, truncated, "{carrier:?} {bytes_max}");
        assert!(!response.answers.is_empty());
    }
    // Addresses of targets are a kindness: without them the answer is still whole (RFC 2181, section 9).
    let endpoints: Vec<_> = (0..6).map(|at| format!("10.1.1.{at} web-{at}")).collect();
    let endpoints: Vec<_> = endpoints.iter().map(String::as_str).collect();
    let snapshot = world().headless("web.shop", "80=http", &endpoints).build();
    let services = ask(&snapshot, &query("web.shop.svc.clusterset.local.", RecordType::SRV), Carrier::Udp);
    assert!(!services.metadata.truncation);
    assert_eq!((services.answers.len(), services.additionals.len()), (6, 0));
}

#[test]
fn each_query_sees_another_endpoint_first() {
    let snapshot = shop().build();
    let mut message = query("web.shop.svc.clusterset.local.", RecordType::A);
    let mut first = |id| {
        message.metadata.id = id;
        ask(&snapshot, &message, Carrier::Udp).answers[0].data.to_string()
    };
    assert_eq!([first(0), first(1), first(2)], ["10.0.0.1", "10.0.0.2", "10.8.0.1"]);
}

proptest! {
    #[test]
    fn no_bytes_panic(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
        let _ = respond(&shop().build(), &bytes, Carrier::Udp);
    }

    #[test]
    fn no_name_panics(name in "[a-z0-9_.-]{0,60}", zone in "(|\\.svc|\\.shop\\.svc)") {
        let name = format!("{name}{zone}.clusterset.local");
        let _ = show(&shop().build(), &name, Kind::Srv);
        let _ = show(&shop().build(), &name, Kind::A);
    }
}

async fn over_udp(server: SocketAddr, message: &Message) -> Message {
    let socket = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    socket.send_to(&message.to_vec().unwrap(), server).await.unwrap();
    let mut bytes = [0; 4096];
    let length = socket.recv(&mut bytes).await.unwrap();
    Message::from_vec(&bytes[..length]).unwrap()
}

async fn over_tcp(stream: &mut TcpStream, message: &Message) -> Message {
    let bytes = message.to_vec().unwrap();
    stream.write_u16(u16::try_from(bytes.len()).unwrap()).await.unwrap();
    stream.write_all(&bytes).await.unwrap();
    let mut response = vec![0; usize::from(stream.read_u16().await.unwrap())];
    stream.read_exact(&mut response).await.unwrap();
    Message::from_vec(&response).unwrap()
}

#[tokio::test]
async fn both_sockets_answer_from_the_newest_snapshot() {
    let (snapshots, receiver) = watch::channel(Arc::new(crowd()));
    let server = Server::build("127.0.0.1:0".parse().unwrap(), receiver).await.unwrap();
    let address = server.local_addr();
    let shutdown = CancellationToken::new();
    let client = async {
        let crowd = query("crowd.shop.svc.clusterset.local.", RecordType::A);
        assert!(over_udp(address, &crowd).await.metadata.truncation);
        let mut stream = TcpStream::connect(address).await.unwrap();
        assert_eq!(over_tcp(&mut stream, &crowd).await.answers.len(), 1000);

        let cart = query("cart.shop.svc.clusterset.local.", RecordType::A);
        assert_eq!(over_udp(address, &cart).await.metadata.response_code, ResponseCode::NXDomain);
        snapshots.send_replace(Arc::new(shop().build()));
        assert_eq!(over_udp(address, &cart).await.answers.len(), 1);
        assert_eq!(over_tcp(&mut stream, &cart).await.answers.len(), 1, "on the same connection");

        // A length beyond the bound ends this connection, and no other.
        let mut greedy = TcpStream::connect(address).await.unwrap();
        greedy.write_u16(u16::MAX).await.unwrap();
        assert_eq!(greedy.read(&mut [0]).await.unwrap(), 0);
        assert_eq!(over_tcp(&mut stream, &cart).await.answers.len(), 1);
        shutdown.cancel();
    };
    tokio::join!(server.run(shutdown.clone()), client);
    assert!(TcpStream::connect(address).await.is_err(), "the sockets are closed");
}

#[tokio::test]
async fn who_asks_before_the_first_snapshot_waits_for_it() {
    let shop = shop().build();
    let (snapshots, receiver) = watch::channel(Arc::new(Snapshot::empty(shop.cluster.clone())));
    let server = Server::build("127.0.0.1:0".parse().unwrap(), receiver).await.unwrap();
    let address = server.local_addr();
    let shutdown = CancellationToken::new();
    let client = async {
        let cart = query("cart.shop.svc.clusterset.local.", RecordType::A);
        let asking = over_udp(address, &cart);
        let publishing = async {
            tokio::time::sleep(std::time::Duration::from_millis(50)).await;
            snapshots.send_replace(Arc::new(shop));
        };
        let (answer, ()) = tokio::join!(asking, publishing);
        assert_eq!(answer.answers.len(), 1);
        shutdown.cancel();
    };
    tokio::join!(server.run(shutdown.clone()), client);
}

#[tokio::test(start_paused = true)]
async fn silent_clients_do_not_keep_others_out() {
    let (_snapshots, receiver) = watch::channel(Arc::new(shop().build()));
    let server = Server::build("127.0.0.1:0".parse().unwrap(), receiver).await.unwrap();
    let address = server.local_addr();
    let shutdown = CancellationToken::new();
    let client = async {
        let mut silent = Vec::new();
        for _ in 0..TCP_CLIENTS_MAX {
            silent.push(TcpStream::connect(address).await.unwrap());
        }
        let mut late = TcpStream::connect(address).await.unwrap();
        let cart = query("cart.shop.svc.clusterset.local.", RecordType::A);
        assert_eq!(over_tcp(&mut late, &cart).await.answers.len(), 1, "once the silent ones are cut off");
        shutdown.cancel();
    };
    tokio::join!(server.run(shutdown.clone()), client);
}
