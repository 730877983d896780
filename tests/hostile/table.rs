//! Sends everything, and writes down what came of it.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use futures::future::join_all;
use tests::{Http1, eventually, within};
use tokio::io::AsyncReadExt;
use tokio::net::TcpStream;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::http::Input;
use crate::link::dial;
use crate::stranger::{Seen, Until, over, visit};
use crate::world::{Log, World, resident};
use crate::{http, link, services};

/// How often each input is repeated while memory is looked at.
const REPEATS: usize = 5;
/// What five more rounds of everything may leave behind: caches and fragments, but nothing per round.
const GROWTH_MIB_MAX: f64 = 64.0;

/// One line of the table.
#[derive(Debug, Clone)]
pub(crate) struct Row {
    pub(crate) door: &'static str,
    pub(crate) input: &'static str,
    pub(crate) saw: String,
    pub(crate) counter: Option<&'static str>,
    /// In MiB, before and after the repeats.
    pub(crate) memory: Option<(f64, f64)>,
    /// What came otherwise than it should.
    pub(crate) wrong: Option<String>,
}

/// A way in, and the word of its metrics.
#[derive(Clone, Copy)]
struct Door {
    name: &'static str,
    entrance: &'static str,
    address: SocketAddr,
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn strangers_are_refused_counted_and_said_and_everybody_else_is_served() {
    let (log, world) = (Log::start(), Arc::new(World::new(0).await));
    let good = Good::start(&world);
    let mut rows = knock(&world).await;
    rows.extend(show_certificates(&world).await);
    rows.extend(misbehave(&world).await);
    for row in &mut rows {
        let silent = |reason: &str| log.lines(entrance_of(row.door), reason).is_empty();
        if row.counter.is_some_and(silent) {
            row.wrong = Some("nothing in the log".to_owned());
        }
    }
    let wrong: Vec<_> = rows.iter().filter(|row| row.wrong.is_some()).collect();
    assert!(wrong.is_empty(), "{wrong:#?}");
    rows.extend(services::rows().await);
    let before = resident();
    repeat(&world, &mut rows).await;
    let after = resident();
    let served = good.stop().await;
    write(&rows, &served, before, after);
    assert!(after - before < GROWTH_MIB_MAX, "{before} MiB before, {after} MiB after");
}

fn doors(world: &World) -> [Door; 3] {
    [
        Door { name: "mesh", entrance: "mesh", address: world.gateway.mesh },
        Door { name: "ingress", entrance: "ingress", address: world.ingress },
        Door { name: "own address", entrance: "virtual", address: world.own_address },
    ]
}

fn east_west(world: &World) -> Door {
    Door { name: "east-west", entrance: "link", address: world.gateway.east_west }
}

fn entrance_of(door: &str) -> &str {
    match door {
        "own address" => "virtual",
        "east-west" | "link of a peer" => "link",
        same => same,
    }
}

/// All inputs with their doors.
fn inputs(world: &World) -> Vec<(Door, Input)> {
    let of_clients = doors(world)
        .into_iter()
        .flat_map(|door| http::inputs(door.name == "mesh").into_iter().map(move |input| (door, input)));
    let port = east_west(world);
    of_clients.chain(link::inputs().into_iter().map(|input| (port, input))).collect()
}

/// What takes time at once, the rest one after the other beside it.
async fn knock(world: &World) -> Vec<Row> {
    let (quick, slow): (Vec<_>, Vec<_>) = inputs(world).into_iter().partition(|(_, input)| input.quick);
    let mut expected = BTreeMap::new();
    for (door, input) in slow.iter().chain(&quick) {
        if let Some(reason) = input.reason {
            *expected.entry((door.entrance, reason)).or_insert(0) += input.connections as u64;
        }
    }
    let slowly = join_all(slow.iter().map(|(door, input)| once(*door, input)));
    let quickly = async {
        let mut rows = Vec::new();
        for (door, input) in &quick {
            rows.push(once(*door, input).await);
        }
        rows
    };
    let (slow, quick) = tokio::join!(slowly, quickly);
    let mut rows: Vec<_> = slow.into_iter().chain(quick).collect();
    for row in &mut rows {
        let Some(reason) = row.counter else { continue };
        let entrance = entrance_of(row.door);
        let count = expected[&(entrance, reason)];
        if !soon(|| world.refused(entrance, reason) >= count).await {
            let counted = world.refused(entrance, reason);
            row.wrong = Some(format!("{}: {counted} x {reason} counted, not {count}", row.saw));
        }
    }
    rows
}

/// Whether it becomes true within some seconds.
async fn soon(holds: impl Fn() -> bool) -> bool {
    for _ in 0..1000 {
        if holds() {
            return true;
        }
        tokio::time::sleep(PAUSE).await;
    }
    false
}

async fn once(door: Door, input: &Input) -> Row {
    let visits = (0..input.connections).map(|_| visit(door.address, &input.acts, input.until));
    row(door, input, &join_all(visits).await)
}

fn row(door: Door, input: &Input, seen: &[Seen]) -> Row {
    let mut saw: Vec<_> = seen.iter().map(Seen::told).collect();
    saw.sort();
    saw.dedup();
    let fits = input.seen.is_empty() || saw.iter().all(|saw| input.seen.contains(&saw.as_str()));
    let wrong = (!fits).then(|| format!("{saw:?} is none of {:?}", input.seen));
    let saw = if input.until == Until::Sent { "(reads nothing)".to_owned() } else { saw.join("; ") };
    Row { door: door.name, input: input.name, saw, counter: input.reason, memory: None, wrong }
}

/// Certificates at the port between clusters, and a session that shall be resumed.
async fn show_certificates(world: &World) -> Vec<Row> {
    let mut rows = Vec::new();
    for (name, shown, reason) in world.cloud.tries() {
        let before = reason.map(|reason| world.refused("link", reason));
        let tls = dial(world.gateway.east_west, shown.as_ref(), b"h2").await;
        let good = name == "its own certificate";
        let saw = match tls {
            Ok(tls) if good => {
                let (_requests, connection) = within("HTTP/2", h2::client::handshake(tls)).await.unwrap();
                drop(connection);
                "let in".to_owned()
            }
            Ok(mut tls) => match within("the refusal", tls.read(&mut [0; 64])).await {
                Err(error) if error.to_string().contains("alert") => "an alert, closed".to_owned(),
                Ok(0) | Err(_) => "closed".to_owned(),
                Ok(_) => panic!("{name} was let in"),
            },
            Err(_) => "an alert, closed".to_owned(),
        };
        if let (Some(reason), Some(before)) = (reason, before) {
            eventually(&format!("{name} counts as {reason}"), || world.refused("link", reason) > before)
                .await;
        }
        rows.push(Row { door: "east-west", input: name, saw, counter: reason, memory: None, wrong: None });
    }
    rows.push(resume(world).await);
    rows
}

/// The same client twice: it has no ticket to come back with.
async fn resume(world: &World) -> Row {
    let shown = world.cloud.leaf(&[crate::certificates::GATEWAY], |_| ());
    let config = crate::certificates::client(Some(&shown), b"h2");
    for _ in 0..2 {
        let stream = TcpStream::connect(world.gateway.east_west).await.unwrap();
        let name = rustls::pki_types::ServerName::try_from(link::GATEWAY).unwrap();
        let tls = tokio_rustls::TlsConnector::from(config.clone()).connect(name, stream).await.unwrap();
        let kind = tls.get_ref().1.handshake_kind();
        assert_eq!(kind, Some(rustls::HandshakeKind::Full));
        let (requests, connection) = within("HTTP/2", h2::client::handshake(tls)).await.unwrap();
        let tls = TaskTracker::new().spawn(connection);
        // An answer proves that a ticket would have come by now.
        let request = ::http::Request::get("https://x.shop/").body(()).unwrap();
        let mut requests = within("room", requests.ready()).await.unwrap();
        let (answer, _) = requests.send_request(request, true).unwrap();
        let status = within("an answer", answer).await.unwrap().status();
        assert_eq!(status.as_u16(), 404);
        tls.abort();
    }
    let tickets = "no ticket: a full handshake each time".to_owned();
    Row { door: "east-west", input: "resumption", saw: tickets, counter: None, memory: None, wrong: None }
}

/// A peer with the right certificate.
async fn misbehave(world: &World) -> Vec<Row> {
    let inputs = link::inputs_of_peer();
    let sent = inputs.iter().map(|input| as_peer(world, input));
    join_all(sent).await
}

async fn as_peer(world: &World, input: &Input) -> Row {
    let before = input.reason.map(|reason| world.refused("link", reason));
    let shown = world.cloud.leaf(&[crate::certificates::GATEWAY], |_| ());
    let tls = within("a handshake", dial(world.gateway.east_west, Some(&shown), b"h2")).await.unwrap();
    let seen = over(tls, &input.acts, input.until).await;
    if let (Some(reason), Some(before)) = (input.reason, before) {
        eventually(&format!("{} counts as {reason}", input.name), || world.refused("link", reason) > before)
            .await;
    }
    let door = Door { name: "east-west", ..east_west(world) };
    let row = row(door, input, &[seen]);
    Row { door: "link of a peer", ..row }
}

/// Everything that costs no time, again, with an eye on memory.
async fn repeat(world: &World, rows: &mut [Row]) {
    for (door, input) in inputs(world).iter().filter(|(_, input)| input.quick) {
        let before = resident();
        for _ in 0..REPEATS {
            once(*door, input).await;
        }
        let memory = Some((before, resident()));
        let same = |row: &&mut Row| row.door == door.name && row.input == input.name;
        rows.iter_mut().filter(same).for_each(|row| row.memory = memory);
    }
    for input in link::inputs_of_peer().iter().filter(|input| input.quick) {
        let before = resident();
        for _ in 0..REPEATS {
            as_peer(world, input).await;
        }
        let memory = Some((before, resident()));
        let same = |row: &&mut Row| row.door == "link of a peer" && row.input == input.name;
        rows.iter_mut().filter(same).for_each(|row| row.memory = memory);
    }
}

/// Well-behaved clients, one at each door, for as long as strangers are at work.
struct Good {
    stop: CancellationToken,
    served: Vec<(&'static str, JoinHandle<usize>)>,
}

impl Good {
    fn start(world: &Arc<World>) -> Self {
        let (stop, tasks) = (CancellationToken::new(), TaskTracker::new());
        let asking = |door: Door| (door.name, tasks.spawn(ask(door.address, stop.clone())));
        let mut served: Vec<_> = doors(world).into_iter().map(asking).collect();
        served.push(("link", tasks.spawn(ask_over_links(world.clone(), stop.clone()))));
        Self { stop, served }
    }

    /// How many requests were answered at each door; one that was not is a panic.
    async fn stop(self) -> Vec<(&'static str, usize)> {
        self.stop.cancel();
        let mut served = Vec::new();
        for (door, asking) in self.served {
            let count = within("the last answer", asking).await.unwrap();
            assert!(count > 0, "nobody asked at {door}");
            served.push((door, count));
        }
        served
    }
}

/// Between two requests of a good client.
const PAUSE: Duration = Duration::from_millis(20);

/// Connects anew for each request; says how many were answered.
async fn ask(address: SocketAddr, stop: CancellationToken) -> usize {
    let mut served = 0;
    while !stop.is_cancelled() {
        let asked = async {
            let mut client = Http1::new(TcpStream::connect(address).await?);
            client.get("web.shop.svc.clusterset.local", "/").await
        };
        let answer = within("an answer for a good client", asked).await.unwrap();
        assert_eq!(answer.status, 200, "a good client at {address}: {answer:?}");
        served += 1;
        tokio::time::sleep(PAUSE).await;
    }
    served
}

/// The same on a link, whose certificate is right.
async fn ask_over_links(world: Arc<World>, stop: CancellationToken) -> usize {
    let shown = world.cloud.leaf(&[crate::certificates::GATEWAY], |_| ());
    let tls = within("a handshake", dial(world.gateway.east_west, Some(&shown), b"h2")).await.unwrap();
    let (requests, connection) = within("HTTP/2", h2::client::handshake(tls)).await.unwrap();
    let _driven = TaskTracker::new().spawn(connection);
    let mut served = 0;
    while !stop.is_cancelled() {
        let request = ::http::Request::get("https://web.shop.svc.clusterset.local/");
        let request = request.header("isthmus-to", "web.shop:80").body(()).unwrap();
        let asked = async {
            let (answer, _) = requests.clone().ready().await?.send_request(request, true)?;
            let mut body = answer.await?.into_body();
            let mut bytes = 0;
            while let Some(chunk) = body.data().await {
                bytes += chunk?.len();
            }
            Ok::<_, h2::Error>(bytes)
        };
        let bytes = within("an answer for a good peer", asked).await.unwrap();
        assert!(bytes > 0, "an echo of the head");
        served += 1;
        tokio::time::sleep(PAUSE).await;
    }
    served
}

/// Where whoever asked for it finds the table.
fn write(rows: &[Row], served: &[(&'static str, usize)], before: f64, after: f64) {
    let Some(path) = std::env::var_os("ISTHMUS_HOSTILE_TABLE") else { return };
    let mut text = String::from(
        "| door | input | what the stranger saw | counted as | MiB before → after 5 more |\n|---|---|---|---|---|\n",
    );
    for Row { door, input, saw, counter, memory, .. } in rows {
        let memory = memory.map(|(before, after)| format!("{before:.0} → {after:.0}")).unwrap_or_default();
        let counter = counter.map(|reason| format!("`{reason}`")).unwrap_or_default();
        writeln!(text, "| {door} | {input} | {saw} | {counter} | {memory} |").unwrap();
    }
    let served: Vec<_> = served.iter().map(|(door, count)| format!("{door} {count}")).collect();
    writeln!(
        text,
        "\nServed meanwhile, none failed: {}. Resident before the repeats {before:.0} MiB, after {after:.0} MiB, \
         attackers included.",
        served.join(", ")
    )
    .unwrap();
    std::fs::write(path, text).unwrap();
}
