//! Who asks, and what may be told to them.

use std::net::IpAddr;

use hyper::header::{HOST, HeaderMap};

use super::commanding::Operator;
use crate::observe::page::Audience;

/// Whoever is at the other end of a connection.
pub(super) enum Asker {
    /// At the metrics address, nobody knows who it is. What clients send is told there if the configuration says so.
    Anybody { details: bool },
    /// At the control socket, the kernel does.
    Operator(Operator),
}

impl Asker {
    pub(super) fn operator(&self) -> Option<&Operator> {
        match self {
            Self::Anybody { .. } => None,
            Self::Operator(operator) => Some(operator),
        }
    }

    /// For whom an answer to a request with these headers is.
    pub(super) fn audience(&self, headers: &HeaderMap) -> Audience {
        let is_trusted = match self {
            Self::Anybody { details } => *details,
            Self::Operator(operator) => operator.may_command(),
        };
        match is_trusted && is_asked_by_a_near_name(headers) {
            true => Audience::Trusted,
            false => Audience::Everybody,
        }
    }
}

/// Whether the host that was asked for is an address, or a name that nobody far away can have led here: localhost, or one
/// without dots. A web page of evil.example that leads its name to this address (DNS rebinding) may read what its browser
/// gets from there, and the browser says `Host: evil.example`. Who is no browser may leave the host out.
pub(super) fn is_asked_by_a_near_name(headers: &HeaderMap) -> bool {
    let mut hosts = headers.get_all(HOST).iter();
    match (hosts.next(), hosts.next()) {
        (None, _) => true,
        (Some(host), None) => host.to_str().is_ok_and(is_near),
        (Some(_), Some(_)) => false,
    }
}

/// Of a host with or without a port (RFC 9110, section 7.2).
fn is_near(host: &str) -> bool {
    if let Some(rest) = host.strip_prefix('[') {
        let address = rest.split_once(']').map(|(address, _)| address);
        return address.is_some_and(|address| address.parse::<IpAddr>().is_ok());
    }
    let name = host.split(':').next().unwrap_or_default();
    name.parse::<IpAddr>().is_ok() || !name.contains('.') || name.ends_with(".localhost")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_that_anybody_can_lead_here_is_told_from_others() {
        for near in [
            "localhost",
            "localhost:8080",
            "127.0.0.1",
            "127.0.0.1:9145",
            "[::1]",
            "[::1]:9145",
            "x",
            "web-1:80",
            "page.localhost:80",
            "192.0.2.1:1",
            "",
        ] {
            assert!(is_near(near), "{near}");
        }
        for far in [
            "evil.example",
            "evil.example:9145",
            "localhost.evil.example",
            "127.0.0.1.evil.example:80",
            "x.",
            "[evil]",
            "[::1",
            "127.0.0.1.",
            "evil.localhost.example",
        ] {
            assert!(!is_near(far), "{far}");
        }
    }

    #[test]
    fn several_hosts_are_none() {
        let mut headers = HeaderMap::new();
        assert!(is_asked_by_a_near_name(&headers));
        headers.append(HOST, "localhost".parse().unwrap());
        assert!(is_asked_by_a_near_name(&headers));
        headers.append(HOST, "127.0.0.1".parse().unwrap());
        assert!(!is_asked_by_a_near_name(&headers));
    }
}
