//! HTTP/1.1 upgrades: to a fast endpoint here, and through a tunnel to one of a peer.
//!
//! pingora's own path ends some of them right behind the 101 (its issue 946); of ours none may end.

use tests::{GREETING, Http1, HttpEcho, Scene, TestGateway, TestTrustDomain, eventually, within};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio_util::task::TaskTracker;

const CLIENTS: usize = 8;
const EACH: usize = 40;

async fn upgrade_often(address: std::net::SocketAddr, host: &'static str) {
    for n in 0..EACH {
        let stream = TcpStream::connect(address).await.unwrap();
        stream.set_nodelay(true).unwrap();
        let mut client = Http1::new(stream);
        let head = format!(
            "GET /chat HTTP/1.1\nHost: {host}\nConnection: Upgrade\nUpgrade: websocket\nSec-WebSocket-Version: 13"
        );
        let answer = within("an answer", client.send(&head)).await.unwrap();
        assert_eq!(answer.status, 101, "upgrade {n}: {answer:?}");
        let frame = format!("frame {n}");
        client.stream.write_all(frame.as_bytes()).await.unwrap();
        let expected = [GREETING, frame.as_bytes()].concat();
        while client.unread.len() < expected.len() {
            let read = within("an echo", client.stream.read_buf(&mut client.unread)).await.unwrap();
            assert_ne!(read, 0, "upgrade {n} was torn down after {:?}", client.unread);
        }
        assert_eq!(client.unread, expected);
        client.stream.shutdown().await.unwrap();
        assert_eq!(within("the end", client.stream.read(&mut [0; 1])).await.unwrap(), 0);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn of_hundreds_here_and_across_none_is_torn_down() {
    let (onprem, cloud) = (TestTrustDomain::new("onprem"), TestTrustDomain::new("cloud"));
    let (near_http, far_http) = (HttpEcho::start().await, HttpEcho::start().await);
    let (mut here, mut there) = (Scene::new("onprem", &onprem), Scene::new("cloud", &cloud));
    here.service("near.shop", "80=http", near_http.address()).export("near.shop");
    there.service("far.shop", "80=http", far_http.address()).export("far.shop");
    here.import("cloud", "far.shop", "80=http");
    let near = TestGateway::start("onprem", &onprem, &mut here).await;
    there.peer("onprem", &onprem, &[near.east_west]);
    let far = TestGateway::start("cloud", &cloud, &mut there).await;
    near.trust.put(cloud.bundle()).unwrap();
    far.trust.put(onprem.bundle()).unwrap();
    here.peer("cloud", &cloud, &[far.east_west]);
    near.publish(&mut here);
    eventually("onprem reaches cloud", || near.reaches("cloud")).await;

    let tasks = TaskTracker::new();
    for host in ["near.shop.svc.clusterset.local", "far.shop.svc.clusterset.local"] {
        let clients: Vec<_> = (0..CLIENTS).map(|_| tasks.spawn(upgrade_often(near.mesh, host))).collect();
        for client in clients {
            client.await.unwrap();
        }
    }
    eventually("nothing is left open", || far.registry.count(|connection| connection.peer().is_none()) == 0)
        .await;
}
