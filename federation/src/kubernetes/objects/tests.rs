//! Documents as data: what is read, what is refused with which field, what is only noted.

use super::*;
use crate::catalog::Object;
use crate::model::{AppProtocol, BackendTarget, PathMatch, Readiness, ServiceKind, Transport};

fn one(text: &str) -> Result<ParsedDocument, DocumentError> {
    let mut documents = parse_documents(text);
    assert_eq!(documents.len(), 1, "{text}");
    documents.remove(0)
}

fn document(version: &str, kind: &str, rest: &str) -> String {
    format!("apiVersion: {version}\nkind: {kind}\nmetadata: {{name: cart, namespace: shop}}\n{rest}\n")
}

fn slice(rest: &str) -> String {
    format!(
        "apiVersion: discovery.k8s.io/v1\nkind: EndpointSlice\nmetadata:\n  name: cart-1\n  namespace: shop\n  \
         labels: {{kubernetes.io/service-name: cart, topology.kubernetes.io/region: eu}}\n{rest}\n"
    )
}

fn route(rule: &str) -> String {
    let rest = format!("spec:\n  parentRefs: [{{name: edge}}]\n  rules:\n  - {rule}");
    document("gateway.networking.k8s.io/v1", "HTTPRoute", &rest)
}

#[test]
fn a_service_is_read_with_its_ports() {
    let text = document(
        "v1",
        "Service",
        "spec:\n  type: AwesomeNewType\n  novelField: [1]\n  ports:\n  - {name: web, port: 80, appProtocol: http, targetPort: x}\n  - {name: dns, port: 53, protocol: UDP}\n  - {name: odd, port: 9, protocol: SCTP}",
    );
    let read = one(&text).unwrap();
    assert_eq!(read.key.to_string(), "Service shop/cart");
    let Object::Service(service) = read.object else { panic!() };
    assert_eq!(service.kind, ServiceKind::ClusterSetIp);
    let ports: Vec<_> =
        service.ports.iter().map(|p| (p.name.as_str(), p.port, p.transport, p.protocol)).collect();
    assert_eq!(
        ports,
        [("web", 80, Transport::Tcp, AppProtocol::Http), ("dns", 53, Transport::Udp, AppProtocol::Auto)]
    );
    assert_eq!((read.notes[0].line, read.notes[0].field.as_str()), (10, "spec.ports[2].protocol"));
}

#[test]
fn a_namespace_that_is_not_said_is_default() {
    let read =
        one("{apiVersion: v1, kind: Service, metadata: {name: a}, spec: {ports: [{port: 80}]}}").unwrap();
    assert_eq!(read.key.namespace.as_str(), "default");
}

#[test]
fn endpoints_are_read_in_every_address_family() {
    for (kind, address, shown) in [
        ("IPv4", "127.0.0.1", "127.0.0.1"),
        ("IPv4", "10.0.0.7", "10.0.0.7"),
        ("IPv6", "'2001:db8::7'", "2001:db8::7"),
        ("IPv6", "'::1'", "::1"),
        ("FQDN", "Db.Example.org", "db.example.org"),
    ] {
        let text = slice(&format!(
            "addressType: {kind}\nports: [{{port: 1}}]\nendpoints: [{{addresses: [{address}], zone: a, hostname: db-0}}]"
        ));
        let Object::Endpoints(slice) = one(&text).unwrap().object else { panic!() };
        assert_eq!(slice.service.to_string(), "cart.shop");
        let endpoint = &slice.endpoints[0];
        assert_eq!(endpoint.host.to_string(), shown);
        assert_eq!(endpoint.locality.to_string(), "eu/a");
        assert_eq!((endpoint.port(""), endpoint.weight), (Some(1), 1));
        assert_eq!(endpoint.hostname.as_ref().unwrap().as_str(), "db-0");
    }
}

#[test]
fn conditions_of_an_endpoint_make_its_readiness() {
    for (conditions, expected) in [
        ("{}", Readiness::Ready),
        ("{ready: true}", Readiness::Ready),
        ("{ready: null, serving: null}", Readiness::Ready),
        ("{ready: false}", Readiness::NotReady),
        ("{ready: false, serving: true}", Readiness::NotReady),
        ("{ready: false, serving: true, terminating: true}", Readiness::Draining),
        ("{ready: false, serving: false, terminating: true}", Readiness::NotReady),
        ("{ready: true, serving: true, terminating: false, novel: 1}", Readiness::Ready),
    ] {
        let text = slice(&format!(
            "addressType: IPv4\nendpoints: [{{addresses: [10.0.0.1], conditions: {conditions}}}]"
        ));
        let Object::Endpoints(slice) = one(&text).unwrap().object else { panic!() };
        assert_eq!(slice.endpoints[0].readiness, expected, "{conditions}");
    }
}

#[test]
fn exports_of_both_versions_are_read() {
    for version in ["v1beta1", "v1alpha1"] {
        let text = document(&format!("multicluster.x-k8s.io/{version}"), "ServiceExport", "");
        assert_eq!(one(&text).unwrap().object, Object::Export("cart.shop".parse().unwrap()));
    }
}

#[test]
fn an_external_name_is_an_alias() {
    let text = document("v1", "Service", "spec: {type: ExternalName, externalName: x.org}");
    assert_eq!(one(&text).unwrap().object, Object::ExternalName("cart.shop".parse().unwrap()));
}

#[test]
fn a_bad_document_names_line_and_field() {
    struct Case {
        text: String,
        line: u32,
        field: Option<&'static str>,
        says: &'static str,
    }
    let case = |text: String, line, field, says| Case { text, line, field, says };
    for case in [
        case("kind: Service\nmetadata: {name: a}".into(), 1, None, "apiVersion"),
        case("- a list".into(), 1, None, "mapping"),
        case("a plain text".into(), 1, None, "mapping"),
        case("apiVersion: v1\nkind: Service\nmetadata:\n  namespace: x".into(), 3, Some("metadata"), "name"),
        case(
            "apiVersion: v1\nkind: Service\nmetadata:\n  name: Cart".into(),
            4,
            Some("metadata.name"),
            "DNS label",
        ),
        case(document("v1", "Gizmo", ""), 2, Some("kind"), "known are"),
        case(document("v1", "'../x'", ""), 2, Some("kind"), "letters and digits"),
        case(document("v1", "ServiceImport", ""), 2, Some("kind"), "ServiceExport"),
        case(document("v2", "Service", ""), 1, Some("apiVersion"), "hint"),
        case(
            document("v1", "Service", "spec:\n  ports:\n  - port: many"),
            6,
            Some("spec.ports[0].port"),
            "u16",
        ),
        case(
            document("v1", "Service", "spec:\n  ports:\n  - port: 0"),
            6,
            Some("spec.ports[0].port"),
            "65535",
        ),
        case(
            document("v1", "Service", "spec:\n  ports:\n  - port: 1\n  - port: 2"),
            6,
            Some("spec.ports[0].name"),
            "several",
        ),
        case(
            document("v1", "Service", "spec: {ports: [{name: a, port: 1}, {name: a, port: 2}]}"),
            4,
            Some("spec.ports"),
            "two ports",
        ),
        case(document("v1", "Service", "spec: {}"), 4, Some("spec.ports"), "no port"),
        case(slice("addressType: IPX"), 7, Some("addressType"), "IPv4"),
        case(
            slice("addressType: IPv4\nendpoints:\n- addresses: [10.0.0.1]\n- addresses: [300.0.0.1]"),
            10,
            Some("endpoints[1].addresses[0]"),
            "neither",
        ),
        case(
            slice("addressType: IPv4\nendpoints:\n- addresses: ['::1']"),
            9,
            Some("endpoints[0].addresses[0]"),
            "addressType",
        ),
        case(
            slice("addressType: IPv4\nendpoints:\n- addresses: []"),
            9,
            Some("endpoints[0].addresses"),
            "1 to",
        ),
        case(
            document("discovery.k8s.io/v1", "EndpointSlice", "addressType: IPv4"),
            3,
            Some("metadata"),
            "service-name",
        ),
        case(
            route("matches: [{path: {value: cart}}]"),
            7,
            Some("spec.rules[0].matches[0].path.value"),
            "'/'",
        ),
        case(route("backendRefs: [{name: cart}]"), 7, Some("spec.rules[0].backendRefs[0].port"), "Service"),
        case(
            route("backendRefs: [{name: cart, port: 1, weight: 9000000}]"),
            7,
            Some("spec.rules[0].backendRefs[0].weight"),
            "at most",
        ),
        case("a: [1\nb: 2\n".into(), 2, None, ""),
    ] {
        let error = one(&case.text).unwrap_err();
        let field = error.field.as_deref();
        assert_eq!(
            (error.line, field.map(|f| f.split(".labels").next().unwrap())),
            (case.line, case.field),
            "{}\n{error}",
            case.text
        );
        assert!(error.message.contains(case.says), "{error}");
    }
}

#[test]
fn a_bad_document_leaves_its_neighbours_alone() {
    let good = document("v1", "Service", "spec: {ports: [{port: 80}]}");
    let text = format!("{good}---\n{{broken: [\n---\n{}---\n{good}", document("v1", "Gizmo", ""));
    let read: Vec<_> =
        parse_documents(&text).into_iter().map(|d| d.map(|d| d.line).map_err(|e| (e.line, e.key))).collect();
    assert_eq!(read.len(), 4);
    assert_eq!((&read[0], &read[3]), (&Ok(1), &Ok(13)));
    assert!(matches!(read[1], Err((6..=7, None))), "{read:?}");
    assert!(matches!(&read[2], Err((9, Some(key))) if key.to_string() == "Gizmo shop/cart"), "{read:?}");
}

#[test]
fn the_raw_text_of_a_document_reads_back() {
    let good = document("v1", "Service", "spec: {ports: [{port: 80}]}");
    let text = format!("# first\n{good}---\n{}", good.replace("cart", "pay"));
    for read in parse_documents(&text).into_iter().map(Result::unwrap) {
        let again = one(&read.raw).unwrap();
        assert_eq!((again.key, again.object), (read.key, read.object));
    }
}

#[test]
fn matches_of_a_route_are_read() {
    let text = route(
        "{matches: [{path: {type: Exact, value: /a/}}, {path: {value: /b/}, headers: [{name: X-A, value: '1'}, {name: x-a, value: '2'}]}, {}], backendRefs: [{name: cart, port: 80, weight: 3}, {name: cart, port: 80, weight: 0}]}",
    );
    let Object::HttpRoute(read) = one(&text).unwrap().object else { panic!() };
    assert!(read.faults.is_empty());
    let rule = &read.route.rules[0];
    let paths: Vec<_> = rule.matches.iter().map(|m| m.path.clone()).collect();
    assert_eq!(
        paths,
        [PathMatch::Exact("/a/".into()), PathMatch::Prefix("/b".into()), PathMatch::Prefix(String::new())]
    );
    let headers: Vec<_> =
        rule.matches[1].headers.iter().map(|h| (h.name.as_str(), h.value.as_str())).collect();
    assert_eq!(headers, [("x-a", "1")], "of two for one header the first counts");
    assert_eq!(rule.backends.iter().map(|b| b.weight).collect::<Vec<_>>(), [3, 0]);
}

#[test]
fn an_unsupported_match_drops_its_rule_and_no_other() {
    let text = route(
        "{matches: [{method: GET}]}\n  - {matches: [{headers: [{type: Fuzzy, name: a, value: b}]}]}\n  - {backendRefs: [{name: cart, port: 80}]}",
    );
    let Object::HttpRoute(read) = one(&text).unwrap().object else { panic!() };
    assert_eq!(read.route.rules.len(), 1);
    assert_eq!(read.faults.len(), 1);
    let fault = read.faults[0].to_string();
    for part in ["PartiallyInvalid=True", "Dropped Rule 0", "method", "Dropped Rule 1", "Fuzzy"] {
        assert!(fault.contains(part), "{fault}");
    }
}

#[test]
fn an_unsupported_filter_of_a_backend_spoils_its_share_alone() {
    let text =
        route("{backendRefs: [{name: cart, port: 80, filters: [{type: Novel}]}, {name: cart, port: 80}]}");
    let Object::HttpRoute(read) = one(&text).unwrap().object else { panic!() };
    let targets: Vec<_> = read.route.rules[0].backends.iter().map(|b| &b.target).collect();
    assert!(matches!(targets[..], [BackendTarget::Invalid { .. }, BackendTarget::Service { .. }]));
    assert_eq!(read.faults.len(), 1);
}

#[test]
fn a_route_without_gateway_is_noted() {
    let text = document(
        "gateway.networking.k8s.io/v1",
        "HTTPRoute",
        "spec:\n  parentRefs: [{kind: Service, group: '', name: cart}]",
    );
    let read = one(&text).unwrap();
    let fields: Vec<_> = read.notes.iter().map(|n| n.field.as_str()).collect();
    assert_eq!(fields, ["spec.parentRefs[0]", "spec.parentRefs"]);
}

proptest::proptest! {
    #[test]
    fn no_document_panics(
        kind in proptest::sample::select(vec!["v1, kind: Service", "discovery.k8s.io/v1, kind: EndpointSlice", "gateway.networking.k8s.io/v1, kind: Gateway", "gateway.networking.k8s.io/v1, kind: HTTPRoute"]),
        body in "(spec|endpoints|ports|rules|listeners): [-a-z0-9{}\\[\\]:, ]{0,40}",
    ) {
        let text = format!("{{apiVersion: {kind}, metadata: {{name: a}}, {body}}}");
        for document in parse_documents(&text) {
            drop(document);
        }
    }
}
