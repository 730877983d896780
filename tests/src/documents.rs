//! Documents as a user writes them for services outside Kubernetes.

use std::net::SocketAddr;

/// A service with its endpoints, one slice each; `port` is written as `80=http`.
pub fn service_documents(service: &str, port: &str, endpoints: &[SocketAddr]) -> String {
    let (number, protocol) = port.split_once('=').expect("<port>=<protocol>");
    let (name, namespace) = named(service);
    let mut text = format!(
        "apiVersion: v1\nkind: Service\nmetadata: {{name: {name}, namespace: {namespace}}}\n\
         spec:\n  ports: [{{name: p, port: {number}, appProtocol: {protocol}}}]\n"
    );
    for (at, endpoint) in endpoints.iter().enumerate() {
        text.push_str(&slice_document(service, at + 1, "p", *endpoint, ""));
    }
    text
}

/// A slice with one ready endpoint for one named port; `more` is added to the endpoint as it is.
pub fn slice_document(service: &str, number: usize, port: &str, endpoint: SocketAddr, more: &str) -> String {
    let (name, namespace) = named(service);
    let (ip, target) = (endpoint.ip(), endpoint.port());
    format!(
        "---\napiVersion: discovery.k8s.io/v1\nkind: EndpointSlice\n\
         metadata: {{name: {name}-{number}, namespace: {namespace}, labels: {{kubernetes.io/service-name: {name}}}}}\n\
         addressType: IPv4\nports: [{{name: {port}, port: {target}}}]\n\
         endpoints: [{{addresses: [\"{ip}\"]{more}}}]\n"
    )
}

/// Offers a service to every peer.
pub fn export_document(service: &str) -> String {
    let (name, namespace) = named(service);
    format!(
        "---\napiVersion: multicluster.x-k8s.io/v1beta1\nkind: ServiceExport\n\
         metadata: {{name: {name}, namespace: {namespace}}}\n"
    )
}

fn named(service: &str) -> (&str, &str) {
    service.split_once('.').expect("<service>.<namespace>")
}
