//! The network that everything runs in: one of our own, with settings that the report states.

use std::fs;
use std::io;

use spliceway_common::sys::namespace;

use super::results::Network;

/// Where the responder listens, on every address; also the only ports outside the range from which
/// the kernel takes those of outgoing connections.
pub(super) const RESPONDER_PORT: u16 = 9000;

/// Where PHP-FPM and nginx listen, from this port on.
pub(super) const PHP_PORT: u16 = 9100;

/// What is set in a network of our own, and why.
const SETTINGS: [(&str, &str); 6] = [
    // 55,536 ports, and room below for those that listen.
    ("net.ipv4.ip_local_port_range", "10000 65535"),
    // Tens of thousands of connections a second would use the ports up in seconds otherwise.
    ("net.ipv4.tcp_tw_reuse", "1"),
    // More than a minute of them at full speed would need; the kernel's default on larger machines.
    ("net.ipv4.tcp_max_tw_buckets", "262144"),
    ("net.core.somaxconn", "4096"),
    ("net.ipv4.tcp_max_syn_backlog", "4096"),
    // As distributions have it; with these queues it does not come to cookies.
    ("net.ipv4.tcp_syncookies", "1"),
];

const CONGESTION_CONTROL: &str = "net.ipv4.tcp_congestion_control";

/// Reported as well: they are the kernel's own.
const REPORTED: [&str; 4] = [
    "net.ipv4.tcp_available_congestion_control",
    "net.ipv4.tcp_rmem",
    "net.ipv4.tcp_wmem",
    "net.core.wmem_default",
];

/// Enters a network of our own, if that is allowed, and sets it up. To be called before there are
/// threads. `congestion_control` of `None` is cubic, or reno where there is no cubic.
pub(super) fn prepare(congestion_control: Option<&str>) -> anyhow::Result<Network> {
    let (isolation, own) = enter();
    let mut network = Network {
        isolation,
        ..Network::default()
    };
    if own {
        namespace::raise_loopback()?;
        network.refused.extend(set_all());
    }
    // Without a network of our own nothing of the machine's is changed unless it is asked for.
    match congestion_control {
        Some(name) => network.refused.extend(set(CONGESTION_CONTROL, name)),
        None if own => choose_congestion_control(),
        None => {}
    }
    let names = SETTINGS.iter().map(|(name, _)| *name);
    for name in [CONGESTION_CONTROL]
        .into_iter()
        .chain(names)
        .chain(REPORTED)
    {
        if let Ok(value) = read(name) {
            network.sysctls.push((name.to_owned(), value));
        }
    }
    Ok(network)
}

/// Sets the calling thread's network, a new one, up as [`prepare`] does with ours.
pub(super) fn furnish(congestion_control: Option<&str>) {
    // What is refused here was refused there, and is in the report.
    let _ = set_all();
    let _ = congestion_control.and_then(|name| set(CONGESTION_CONTROL, name));
}

/// What connections of the calling thread's network use.
pub(super) fn congestion_control() -> Option<String> {
    read(CONGESTION_CONTROL).ok()
}

/// Those that were refused.
fn set_all() -> Vec<String> {
    let set = |(name, value): (&str, &str)| set(name, value);
    SETTINGS.into_iter().filter_map(set).collect()
}

/// How it went, and whether the network is our own.
fn enter() -> (String, bool) {
    if namespace::enter_network().is_ok() {
        return ("a network namespace of its own".to_owned(), true);
    }
    let (user, group) = namespace::effective_ids();
    match namespace::enter_user_and_network() {
        Ok(()) => {
            map_ids(user, group);
            (
                "a network namespace of its own (in a user namespace, without privileges)"
                    .to_owned(),
                true,
            )
        }
        Err(errno) => (
            format!(
                "**the machine's own network**, with its settings as they were: a namespace was \
                 refused ({})",
                io::Error::from(errno)
            ),
            false,
        ),
    }
}

/// The ids keep their numbers, so that nobody takes us for root. Without a mapping files would
/// belong to nobody, which is all that is lost if this fails.
fn map_ids(user: u32, group: u32) {
    let _ = fs::write("/proc/self/setgroups", "deny");
    let _ = fs::write("/proc/self/uid_map", format!("{user} {user} 1"));
    let _ = fs::write("/proc/self/gid_map", format!("{group} {group} 1"));
}

/// cubic is what Linux takes unless told otherwise. BBR, which many servers are told to take, paces
/// what it sends, and on loopback that holds bulk transfers back by a fifth to a half. Where cubic is
/// not the machine's own choice, the kernel refuses it to other namespaces than the first
/// (`net.ipv4.tcp_allowed_congestion_control`); reno is allowed everywhere.
fn choose_congestion_control() {
    let mut names = ["cubic", "reno"].into_iter();
    // If neither can be had, the report shows what there is instead.
    let _ = names.find(|name| fs::write(file(CONGESTION_CONTROL), name).is_ok());
}

/// What came of it, if it was refused.
fn set(name: &str, value: &str) -> Option<String> {
    let refusal = fs::write(file(name), value).err()?;
    Some(format!("{name} = {value} ({refusal})"))
}

fn read(name: &str) -> io::Result<String> {
    let value = fs::read_to_string(file(name))?;
    Ok(value.split_ascii_whitespace().collect::<Vec<_>>().join(" "))
}

fn file(name: &str) -> String {
    format!("/proc/sys/{}", name.replace('.', "/"))
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;

    #[test]
    fn settings_are_files_of_the_kernel() {
        for name in SETTINGS.iter().map(|(name, _)| *name).chain(REPORTED) {
            assert!(Path::new(&file(name)).exists(), "{name}");
        }
    }

    #[test]
    fn listeners_are_outside_the_range_of_outgoing_ports() {
        let (_, range) = SETTINGS[0];
        let (first, _) = range.split_once(' ').unwrap();
        let first: u16 = first.parse().unwrap();
        assert!(RESPONDER_PORT.max(PHP_PORT + 100) < first);
    }
}
