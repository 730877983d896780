//! Precedence once more, by a model that is too simple to be wrong: every match of every route is tried, and
//! the greatest of all that match wins (notes/conformance 5.3).

use std::cmp::Reverse;

use federation::model::{HttpMatch, HttpRoute, PathMatch};
use http::{HeaderMap, HeaderName, Method};
use proptest::prelude::*;
use rand::SeedableRng;
use rand::rngs::StdRng;

use super::*;
use crate::testing::{route, snapshot};

const HOSTS: [&str; 4] = ["", "*.com", "*.a.com", "x.a.com"];
const PATHS: [&str; 6] = ["/", "/p", "/p/q", "=/p", "=/p/q", "=/p/"];
const HEADERS: [&str; 4] = ["", "h:1", "g:2", "h:1 g:2"];

type Rule = Vec<(usize, usize)>;

fn rule() -> impl Strategy<Value = Rule> {
    prop::collection::vec((0..PATHS.len(), 0..HEADERS.len()), 0..3)
}

fn some_route() -> impl Strategy<Value = (usize, i64, Vec<Rule>)> {
    (0..HOSTS.len(), 0i64..3, prop::collection::vec(rule(), 1..3))
}

fn built(name: &str, (host, created, rules): (usize, i64, Vec<Rule>)) -> HttpRoute {
    let text = |(path, headers): &(usize, usize)| format!("{} {}", PATHS[*path], HEADERS[*headers]);
    let rules: Vec<_> =
        rules.iter().map(|rule| rule.iter().map(text).collect::<Vec<_>>().join("|")).collect();
    let rules: Vec<_> = rules.iter().map(|matches| (matches.as_str(), "a.shop:80")).collect();
    route(name, HOSTS[host], created, &rules)
}

/// How specific a host name is for a host; none if it does not match.
fn host_rank(hostname: &str, host: &str) -> Option<usize> {
    match hostname.strip_prefix('*') {
        _ if hostname.is_empty() => Some(0),
        Some(suffix) => (host.len() > suffix.len() && host.ends_with(suffix)).then_some(suffix.len()),
        None => (hostname == host).then_some(1000),
    }
}

fn path_rank(path: &PathMatch, asked: &str) -> Option<(u8, usize)> {
    match path {
        PathMatch::Exact(exact) => (exact == asked).then_some((1, 0)),
        PathMatch::Prefix(prefix) => {
            let rest = asked.strip_prefix(prefix.as_str())?;
            (rest.is_empty() || rest.starts_with('/')).then_some((0, prefix.len()))
        }
    }
}

fn model(
    listeners: &[(String, Vec<HttpRoute>)],
    host: &str,
    path: &str,
    headers: &HeaderMap,
) -> Option<(String, usize)> {
    let (_, routes) = listeners
        .iter()
        .filter(|(hostname, _)| host_rank(hostname, host).is_some())
        .max_by_key(|(hostname, _)| host_rank(hostname, host))?;
    let everything = HttpMatch { path: PathMatch::Prefix(String::new()), headers: Vec::new() };
    let mut best = None;
    for of in routes {
        let hostname = of.hostnames.first().map(ToString::to_string).unwrap_or_default();
        let Some(host_rank) = host_rank(&hostname, host) else { continue };
        for (at, rule) in of.rules.iter().enumerate() {
            let matches =
                if rule.matches.is_empty() { std::slice::from_ref(&everything) } else { &rule.matches };
            for rule_match in matches {
                let Some(path_rank) = path_rank(&rule_match.path, path) else { continue };
                let has = |name: &str, value: &str| headers.get(name).is_some_and(|known| known == value);
                if rule_match.headers.iter().all(|header| has(&header.name, &header.value)) {
                    let age = Reverse((of.created, of.key.clone(), at));
                    best = best.max(Some((host_rank, path_rank, rule_match.headers.len(), age)));
                }
            }
        }
    }
    best.map(|(_, _, _, Reverse((_, key, rule)))| (key.name.to_string(), rule))
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(500))]
    #[test]
    fn the_winner_is_the_models(
        listeners in prop::collection::btree_map(0..HOSTS.len(), prop::collection::vec(some_route(), 0..4), 1..4),
        host in prop::sample::select(vec!["x.a.com", "y.a.com", "a.com", "z.org", "x.y.a.com"]),
        path in prop::sample::select(vec!["/", "/p", "/p/", "/p/q", "/p/q/r", "/pq"]),
        said in 0..HEADERS.len(),
    ) {
        let listeners: Vec<(String, Vec<HttpRoute>)> = listeners
            .into_iter()
            .map(|(hostname, routes)| {
                let named = |(at, of)| built(&format!("r{hostname}-{at}"), of);
                (HOSTS[hostname].to_owned(), routes.into_iter().enumerate().map(named).collect())
            })
            .collect();
        let mut headers = HeaderMap::new();
        for (name, value) in HEADERS[said].split_whitespace().filter_map(|word| word.split_once(':')) {
            headers.insert(HeaderName::try_from(name).unwrap(), value.parse().unwrap());
        }
        let expected = model(&listeners, host, path, &headers);

        let mut world = snapshot().service("a.shop", "80=http", &[]);
        for (hostname, routes) in listeners {
            world = world.listener(80, (!hostname.is_empty()).then_some(hostname.as_str()), routes);
        }
        let view = world.view();
        let head = RequestHead { method: &Method::GET, host, path, headers: &headers };
        let key = ListenerKey { address: None, port: 80 };
        let routed = view.router.ingress(&key, &head, &mut StdRng::seed_from_u64(1)).ok();
        prop_assert_eq!(routed.map(|routed| (routed.route.key.name.to_string(), routed.rule)), expected);
    }
}
