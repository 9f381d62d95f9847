//! hosts(5) as the C library reads it.

use std::collections::HashMap;
use std::net::IpAddr;

/// The addresses of names. Names are compared byte for byte, but for the case of letters.
#[derive(Debug, Default)]
pub(super) struct Hosts {
    names: HashMap<Vec<u8>, Vec<IpAddr>>,
}

impl Hosts {
    /// Lines that do not begin with an address are left out.
    pub(super) fn parse(file: &[u8]) -> Self {
        let mut hosts = Self::default();
        for line in file.split(|byte| *byte == b'\n') {
            // A comment, and a zero byte, which ends the C library's strings.
            let end = line.iter().position(|byte| matches!(byte, b'#' | 0));
            let line = &line[..end.unwrap_or(line.len())];
            let mut words = line
                .split(|byte| byte.is_ascii_whitespace() || *byte == 0x0b)
                .filter(|word| !word.is_empty());
            let Some(ip) = words.next().and_then(address) else {
                continue;
            };
            for name in words {
                let addresses = hosts.names.entry(name.to_ascii_lowercase()).or_default();
                if !addresses.contains(&ip) {
                    addresses.push(ip);
                }
            }
        }
        hosts
    }

    /// The addresses of a name, both families; `None` if the file does not have it.
    pub(super) fn addresses(&self, name: &str) -> Option<&[IpAddr]> {
        let name = name.to_ascii_lowercase();
        self.names.get(name.as_bytes()).map(Vec::as_slice)
    }
}

fn address(word: &[u8]) -> Option<IpAddr> {
    str::from_utf8(word).ok()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn addresses(file: &[u8], name: &str) -> Vec<String> {
        let hosts = Hosts::parse(file);
        let addresses = hosts.addresses(name).unwrap_or_default();
        addresses.iter().map(IpAddr::to_string).collect()
    }

    #[test]
    fn each_line_is_an_address_and_its_names() {
        let file = b"# caf\xe9\n127.0.0.2 php PHP.internal\t x # y\r\n  ::2 php\n127.0.0.3 php\r\n\
            127.0.0.2 php\n300.1.1.1 bad\nfe80::1%lo zone\n10.0.0.1\n10.0.0.2 cut\0off\n10.0.0.3 last";
        for (name, expected) in [
            ("php", vec!["127.0.0.2", "::2", "127.0.0.3"]),
            ("Php.Internal", vec!["127.0.0.2"]),
            ("php.internal.", vec![]),
            ("y", vec![]),
            ("bad", vec![]),
            ("zone", vec![]),
            ("cut", vec!["10.0.0.2"]),
            ("off", vec![]),
            ("last", vec!["10.0.0.3"]),
        ] {
            assert_eq!(addresses(file, name), expected, "{name:?}");
        }
    }

    proptest! {
        #[test]
        fn any_bytes_are_a_file(file: Vec<u8>) {
            let hosts = Hosts::parse(&file);
            prop_assert_eq!(hosts.addresses(""), None);
        }
    }
}
