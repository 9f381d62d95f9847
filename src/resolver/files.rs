//! The system's files that a lookup follows: read, and watched for changes.

use std::fs;
use std::io;
use std::path::Path;
use std::time::SystemTime;

use super::ResolverOptions;
use super::hosts::Hosts;
use super::resolv_conf::{self, ResolvConf};

/// Where the machine's name is told.
const HOSTNAME_PATH: &str = "/proc/sys/kernel/hostname";

pub(super) fn read_hosts(path: &Path) -> Hosts {
    match fs::read(path) {
        Ok(file) => return Hosts::parse(&file),
        Err(err) if err.kind() == io::ErrorKind::NotFound => {
            tracing::debug!("read {}: there is no hosts file", path.display());
        }
        Err(err) => tracing::warn!(
            "read {}: {err}; its names are not known (make the file readable)",
            path.display()
        ),
    }
    Hosts::default()
}

/// The name servers, the search domains and the rest of resolv.conf. Without a name server in it, the one
/// of this machine.
pub(super) fn read_resolv_conf(options: &ResolverOptions) -> ResolvConf {
    let path = &options.paths.resolv_conf;
    let (file, problem) = match fs::read(path) {
        Ok(file) => (file, "it names no name server that can be asked".to_owned()),
        Err(err) => (Vec::new(), err.to_string()),
    };
    let hostname = fs::read(HOSTNAME_PATH).unwrap_or_default();
    let mut conf = ResolvConf::parse(&file, &hostname);
    if conf.servers.is_empty() && options.name_servers.is_none() {
        let server = resolv_conf::own_machine();
        tracing::warn!(
            "read {}: {problem}; names that are not in {} are asked for at {server} (put `nameserver \
             ADDRESS` into the former)",
            path.display(),
            options.paths.hosts.display()
        );
        conf.servers = vec![server];
    }
    conf
}

/// What tells one state of the files from the next.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Stamps {
    resolv_conf: Option<Stamp>,
    hosts: Option<Stamp>,
}

#[derive(Debug, PartialEq, Eq)]
struct Stamp {
    device: u64,
    inode: u64,
    bytes: u64,
    modified: Option<SystemTime>,
}

impl Stamps {
    /// Take them before reading the files: a change in between is then noticed the next time.
    pub(super) fn take(options: &ResolverOptions) -> Self {
        Self {
            resolv_conf: Stamp::take(&options.paths.resolv_conf),
            hosts: Stamp::take(&options.paths.hosts),
        }
    }
}

impl Stamp {
    /// `None` if there is no such file: that it appears is a change as well.
    fn take(path: &Path) -> Option<Self> {
        use std::os::unix::fs::MetadataExt;

        let metadata = fs::metadata(path).ok()?;
        Some(Self {
            device: metadata.dev(),
            inode: metadata.ino(),
            bytes: metadata.len(),
            modified: metadata.modified().ok(),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn options(dir: &tempfile::TempDir) -> ResolverOptions {
        let mut options = ResolverOptions::default();
        options.paths.resolv_conf = dir.path().join("resolv.conf");
        options.paths.hosts = dir.path().join("hosts");
        options
    }

    #[test]
    fn stamps_tell_a_file_that_appears_grows_or_is_replaced() {
        let dir = tempfile::tempdir().unwrap();
        let options = options(&dir);
        let mut seen = vec![Stamps::take(&options)];
        fs::write(&options.paths.hosts, "a").unwrap();
        seen.push(Stamps::take(&options));
        assert_eq!(seen[1], Stamps::take(&options));
        fs::write(&options.paths.hosts, "ab").unwrap();
        seen.push(Stamps::take(&options));
        let other = dir.path().join("other");
        fs::write(&other, "ba").unwrap();
        fs::rename(&other, &options.paths.hosts).unwrap();
        seen.push(Stamps::take(&options));
        for pair in seen.windows(2) {
            assert_ne!(pair[0], pair[1]);
        }
    }
}
