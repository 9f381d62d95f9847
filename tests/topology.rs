//! `deploy/docker`: nginx → socket → spliceway → name → two PHP-FPMs, each in a network, a root and an
//! identity of its own, as the compose file has it and with the files that it mounts.

// The behaviours are not `#[test]` functions themselves: the macro makes those of them.
#![allow(clippy::unwrap_used)]

mod common;

use std::collections::BTreeSet;
use std::fs;
use std::io::{ErrorKind, Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixStream;
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;

use common::containers::{Container, Project, end_under_profile, read_yaml_documents};
use common::http::Response;
use common::process::Process;
use common::programs::{program, start_dnsmasq_at};
use common::proxy::fresh_dir;
use common::sys::{ChildSetup, as_user, lacks_root};
use common::uninterrupted;
use common::wait::SetOnDrop;
use common::{Engine, GUARD, eventually, for_each_engine};

for_each_engine!(
    both_php_fpms_are_found_by_their_common_name,
    bulk_is_spliced_in_raw_mode_under_the_profile,
    a_php_fpm_moves_to_another_address_under_load_and_no_request_fails,
    a_php_fpm_moves_under_load_in_raw_mode_and_no_request_fails,
    a_drain_is_clean_in_a_container,
);

/// What both PHP-FPMs are called in their network.
const NAME: &str = "php.internal";

/// The user and the group of every container.
const SHARED_ID: u32 = 3000;

/// The name server of a container.
const NAME_SERVER: SocketAddr =
    SocketAddr::new(std::net::IpAddr::V4(Ipv4Addr::new(127, 0, 0, 11)), 53);

/// Says which address the container has.
const WHERE_PHP: &str = r#"<?php
function where() {
    foreach (net_get_interfaces()['eth0']['unicast'] as $one) {
        if ($one['family'] == 2) return $one['address'];
    }
}
echo where(), "\n";
"#;

/// Says it at once, and goes on only when there is a gate.
const SLOW_PHP: &str = r#"<?php
header('X-Accel-Buffering: no');
require 'where.php';
while (ob_get_level() > 0) {
    ob_end_flush();
}
flush();
for ($i = 0; $i < 60000 && !file_exists(__DIR__ . '/gate'); $i++) {
    usleep(1000);
    clearstatcache();
}
echo "done\n";
"#;

/// A page that is large enough to be spliced.
const LARGE_PHP: &str = "<?php echo str_repeat('0123456789abcdef', 1 << 18);";
const LARGE_BYTES: usize = 16 << 18;

/// Everything that runs.
struct Site {
    spliceway: Container,
    nginx: Container,
    php: Vec<Container>,
    names: Process,
    project: Project,
}

impl Site {
    /// With what the configuration of spliceway is to be.
    fn start(engine: Engine, configure: impl Fn(&Path)) -> Self {
        let project = Project::new(|files| {
            replace(
                &files.join("spliceway.toml"),
                "workers = 1\n",
                &format!("workers = 1\nengine = \"{engine}\"\n"),
            );
            write_scripts(&files.join("app/public"));
            configure(files);
        });
        Self::of(project, |profile| profile)
    }

    fn of(project: Project, profile: impl FnOnce(serde_json::Value) -> serde_json::Value) -> Self {
        let names = start_names(&project);
        let php = ["php-1", "php-2"].map(|service| start_php(&project, service));
        let spliceway = project.start_with("spliceway", profile);
        spliceway.process.wait_for_log("ready");
        let nginx = project.start("nginx");
        let site = Self {
            spliceway,
            nginx,
            php: php.into(),
            names,
            project,
        };
        eventually("nginx is healthy", || site.nginx.is_healthy());
        site
    }

    fn get(&self, target: &str) -> Response {
        let front = self.front();
        self.project.host().within(|| Response::from(front, target))
    }

    fn front(&self) -> SocketAddr {
        (self.project.address_of("nginx"), 8080).into()
    }

    /// The address of the PHP-FPM that has served this.
    fn served_by(&self) -> Ipv4Addr {
        self.get("/where.php").text().trim().parse().unwrap()
    }

    fn socket(&self) -> PathBuf {
        self.project.volume("sock").join("php.sock")
    }

    /// The name stands for these from now on, and spliceway knows it.
    fn point_name_to(&self, addresses: &[Ipv4Addr]) {
        let changes = || self.spliceway.process.log().count(" → ");
        let before = changes();
        write_names(&self.project, addresses);
        self.names.signal(libc::SIGHUP);
        eventually("the change is noticed", || changes() > before);
    }
}

fn write_scripts(public: &Path) {
    for (name, script) in [
        ("where.php", WHERE_PHP),
        ("slow.php", SLOW_PHP),
        ("large.php", LARGE_PHP),
    ] {
        fs::write(public.join(name), script).unwrap();
    }
}

/// The part of a file must be there, so that no change goes nowhere.
fn replace(file: &Path, old: &str, new: &str) {
    let text = fs::read_to_string(file).unwrap();
    assert!(text.contains(old), "{} has no {old:?}", file.display());
    fs::write(file, text.replace(old, new)).unwrap();
}

/// Docker's own name server: in the container's network, and what it says holds for ten minutes.
fn start_names(project: &Project) -> Process {
    write_names(project, &project.addresses_of(NAME));
    let setup = ChildSetup {
        death_signal: libc::SIGKILL,
        network: Some(project.network_of("spliceway")),
        ..ChildSetup::default()
    };
    let hosts = project.files().join("names");
    let started = start_dnsmasq_at(NAME_SERVER, &hosts, &["--local-ttl=600"], setup);
    started.expect("nobody else is in this network")
}

fn write_names(project: &Project, addresses: &[Ipv4Addr]) {
    let line = |address: &Ipv4Addr| format!("{address} {NAME}\n");
    let lines: String = addresses.iter().map(line).collect();
    fs::write(project.files().join("names"), lines).unwrap();
}

fn start_php(project: &Project, service: &str) -> Container {
    let php = project.start(service);
    php.process.wait_for_log("ready to handle connections");
    php
}

/// nginx and spliceway as they are without the FastCGI mode.
fn in_raw_mode(files: &Path) {
    let nginx = files.join("nginx.conf");
    replace(&nginx, "keepalive 32;", "");
    replace(&nginx, "fastcgi_keep_conn on;", "");
    let file = files.join("spliceway.toml");
    let text = fs::read_to_string(&file).unwrap();
    let (common, _) = text.split_once("protocol = \"fastcgi\"\n").unwrap();
    fs::write(&file, common).unwrap();
}

fn as_shipped(_files: &Path) {}

fn both_php_fpms_are_found_by_their_common_name(engine: Engine) {
    let site = Site::start(engine, as_shipped);
    assert!(site.get("/").text().starts_with("Served by "));
    let expected: BTreeSet<_> = site.project.addresses_of(NAME).into_iter().collect();
    assert_eq!(expected.len(), 2);
    let mut seen = BTreeSet::new();
    eventually("both have served", || {
        seen.insert(site.served_by());
        seen == expected
    });
    for (name, container) in [("spliceway", &site.spliceway), ("php", &site.php[0])] {
        assert!(container.is_healthy(), "{name}");
    }
}

/// What the FastCGI mode never does. A profile without the call would kill the program.
fn bulk_is_spliced_in_raw_mode_under_the_profile(engine: Engine) {
    let site = Site::start(engine, in_raw_mode);
    for _ in 0..4 {
        assert_eq!(site.get("/large.php").body.len(), LARGE_BYTES);
    }
    assert_eq!(site.get("/where.php").status, 200);
}

fn a_php_fpm_moves_to_another_address_under_load_and_no_request_fails(engine: Engine) {
    move_under_load(Site::start(engine, as_shipped));
}

fn a_php_fpm_moves_under_load_in_raw_mode_and_no_request_fails(engine: Engine) {
    move_under_load(Site::start(engine, in_raw_mode));
}

/// First its address leaves DNS, then it finishes what it has, and then it ends. Somewhere else it comes
/// back.
fn move_under_load(mut site: Site) {
    let stays = site.project.address_of("php-1");
    let old = site.project.address_of("php-2");
    let new = Ipv4Addr::from(u32::from(old) + 100);
    let slow: Vec<_> = (0..4).map(|_| Slow::begin(&site)).collect();
    assert!(slow.iter().any(|request| request.served_by == old));
    let load = Load::default();
    let front = site.front();
    let host = site.project.host();
    thread::scope(|scope| {
        for _ in 0..CLIENTS {
            scope.spawn(|| host.within(|| load.run(front)));
        }
        let _over = SetOnDrop(&load.is_over);
        load.wait_until_served_by(&[stays, old]);

        site.point_name_to(&[stays]);
        load.wait_until_served_by(&[stays]);
        let mut leaving = site.php.pop().unwrap();
        leaving.process.signal(libc::SIGQUIT);
        leaving.process.wait_for_log("Finishing");
        fs::write(site.project.files().join("app/public/gate"), "").unwrap();
        for request in slow {
            request.finish();
        }
        assert!(leaving.process.wait().success());

        site.project.move_to("php-2", new);
        site.php.push(start_php(&site.project, "php-2"));
        site.point_name_to(&[stays, new]);
        load.wait_until_served_by(&[stays, new]);
    });
    assert_eq!(load.failures.into_inner().unwrap(), Vec::<String>::new());
}

/// Clients that ask all the time in [`move_under_load`].
const CLIENTS: usize = 4;

/// Requests of which none may fail.
#[derive(Default)]
struct Load {
    is_over: AtomicBool,
    finished: AtomicU64,
    /// Who has served since it was last emptied.
    seen: Mutex<BTreeSet<Ipv4Addr>>,
    failures: Mutex<Vec<String>>,
}

impl Load {
    fn run(&self, front: SocketAddr) {
        while !self.is_over.load(Ordering::Acquire) {
            let response = Response::from(front, "/where.php");
            let text = String::from_utf8_lossy(&response.body);
            match (response.status, text.trim().parse()) {
                (200, Ok(address)) => drop(self.seen.lock().unwrap().insert(address)),
                (status, _) => {
                    let failure = format!("{status}: {text}");
                    self.failures.lock().unwrap().push(failure);
                }
            }
            self.finished.fetch_add(1, Ordering::Release);
        }
    }

    /// Waits until a good number of requests in a row was served by all of these, and by nobody else.
    #[track_caller]
    fn wait_until_served_by(&self, expected: &[Ipv4Addr]) {
        const IN_A_ROW: u64 = 20 * CLIENTS as u64;
        let expected = BTreeSet::from_iter(expected.iter().copied());
        eventually(&format!("{expected:?} serve"), || {
            self.seen.lock().unwrap().clear();
            let before = self.finished.load(Ordering::Acquire);
            eventually("the load goes on", || {
                self.finished.load(Ordering::Acquire) >= before + IN_A_ROW
            });
            *self.seen.lock().unwrap() == expected
        });
    }
}

/// A request that has begun to be answered.
struct Slow {
    stream: TcpStream,
    served_by: Ipv4Addr,
}

impl Slow {
    fn begin(site: &Site) -> Self {
        let front = site.front();
        let connect = || TcpStream::connect(front).unwrap();
        let mut stream = site.project.host().within(connect);
        stream.set_read_timeout(Some(GUARD)).unwrap();
        stream
            .write_all(b"GET /slow.php HTTP/1.0\r\nHost: localhost\r\n\r\n")
            .unwrap();
        let mut text = Vec::new();
        let mut byte = [0];
        while !text.ends_with(b"\n")
            || !text.windows(4).any(|four| four == b"\r\n\r\n")
            || text.ends_with(b"\r\n")
        {
            stream.read_exact(&mut byte).unwrap();
            text.push(byte[0]);
        }
        let text = String::from_utf8(text).unwrap();
        let line = text.lines().next_back().unwrap();
        Self {
            stream,
            served_by: line.parse().unwrap(),
        }
    }

    fn finish(mut self) {
        let mut rest = String::new();
        self.stream.read_to_string(&mut rest).unwrap();
        assert_eq!(rest, "done\n", "from {}", self.served_by);
    }
}

fn a_drain_is_clean_in_a_container(engine: Engine) {
    let mut site = Site::start(engine, as_shipped);
    assert_eq!(site.get("/").status, 200);
    site.spliceway.process.signal(libc::SIGTERM);
    assert_eq!(site.spliceway.process.wait().code(), Some(0));
    assert!(!site.socket().exists());
    assert_eq!(site.get("/where.php").status, 502);
}

/// The directory keeps others out, and the socket would if the directory did not.
#[test]
fn a_stranger_is_refused_by_the_mode_of_the_socket() {
    if lacks_root() {
        return;
    }
    let site = Site::start(Engine::Epoll, as_shipped);
    let socket = site.socket();
    let connect = |uid, gid| as_user(uid, gid, || UnixStream::connect(&socket).map(drop));
    let refused = |uid, gid| connect(uid, gid).unwrap_err().kind();
    connect(SHARED_ID, SHARED_ID).unwrap();
    connect(SHARED_ID + 1, SHARED_ID).unwrap();
    assert_eq!(
        refused(SHARED_ID + 1, SHARED_ID + 1),
        ErrorKind::PermissionDenied
    );
    let directory = socket.parent().unwrap();
    fs::set_permissions(directory, fs::Permissions::from_mode(0o755)).unwrap();
    assert_eq!(
        refused(SHARED_ID + 1, SHARED_ID + 1),
        ErrorKind::PermissionDenied
    );
    assert_eq!(
        socket.metadata().unwrap().permissions().mode() & 0o7777,
        0o660
    );
}

#[test]
fn the_socket_is_the_only_way_from_nginx_to_php_fpm() {
    if lacks_root() {
        return;
    }
    let site = Site::start(Engine::Epoll, as_shipped);
    let php: SocketAddr = (site.project.address_of("php-1"), 9000).into();
    let connect = || TcpStream::connect(php);
    let from_nginx = site.project.network_of("nginx").within(connect);
    assert_eq!(
        from_nginx.unwrap_err().kind(),
        ErrorKind::NetworkUnreachable
    );
    // PHP-FPM takes a neighbour's connection only to close it.
    let from_a_neighbour = site.project.network_of("php-2").within(connect);
    let mut stream = from_a_neighbour.unwrap();
    stream.set_read_timeout(Some(GUARD)).unwrap();
    let ended = uninterrupted(|| stream.read(&mut [0]));
    assert!(
        matches!(&ended, Ok(0)) || ended.is_err_and(|e| e.kind() == ErrorKind::ConnectionReset)
    );
    site.php[0].process.wait_for_log("Connection disallowed");
}

/// The kernel's cipher interface, the host of a virtual machine and the like are nobody's here.
#[test]
fn the_profile_allows_the_sockets_that_are_needed_and_no_others() {
    if lacks_root() {
        return;
    }
    // Its exit code is 0 whatever the kernel makes of it, as long as the filter lets it ask.
    let end = |family: libc::c_int, protocol: libc::c_int| {
        let mut perl = Command::new(program(&["/usr/bin/perl"]));
        perl.args(["-e", "socket(my $socket, shift, shift, shift)"]);
        perl.args([family, libc::SOCK_DGRAM, protocol].map(|number| number.to_string()));
        end_under_profile(perl, SHARED_ID)
    };
    for (family, protocol) in [
        (libc::AF_UNIX, 0),
        (libc::AF_INET, 0),
        (libc::AF_INET6, 0),
        (libc::AF_NETLINK, libc::NETLINK_ROUTE),
    ] {
        let allowed = end(family, protocol);
        assert!(allowed.success(), "{family}: {allowed}");
    }
    for (family, protocol) in [
        (libc::AF_ALG, 0),
        (libc::AF_VSOCK, 0),
        (libc::AF_PACKET, 0),
        (libc::AF_NETLINK, libc::NETLINK_NETFILTER),
    ] {
        let denied = end(family, protocol);
        assert_eq!(denied.signal(), Some(libc::SIGSYS), "{family}: {denied}");
    }
}

/// What Docker does unless it is given a profile.
#[test]
fn without_io_uring_in_the_profile_the_log_says_so_and_epoll_serves() {
    if lacks_root() {
        return;
    }
    let project = Project::new(|files| write_scripts(&files.join("app/public")));
    let site = Site::of(project, |mut profile| {
        let rules = profile["syscalls"].as_array_mut().unwrap();
        let mut found = 0;
        for rule in &mut *rules {
            let names = rule["names"].as_array_mut().unwrap();
            let before = names.len();
            names.retain(|name| !name.as_str().unwrap().starts_with("io_uring_"));
            found += before - names.len();
        }
        assert_eq!(found, 3);
        rules.push(serde_json::json!({
            "names": ["io_uring_setup", "io_uring_enter", "io_uring_register"],
            "action": "SCMP_ACT_ERRNO",
            "errnoRet": libc::EPERM,
        }));
        profile
    });
    site.spliceway.process.wait_for_log("engine=epoll");
    assert_eq!(site.spliceway.process.log().count("EPERM"), 1);
    assert_eq!(site.get("/where.php").status, 200);
}

/// They stand in ConfigMaps, where no other tool looks at them.
#[test]
fn the_configurations_for_kubernetes_are_some() {
    for name in ["sidecar.yaml", "daemonset.yaml"] {
        let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("deploy/kubernetes");
        let documents = read_yaml_documents(&dir.join(name));
        let mut found = documents
            .iter()
            .filter_map(|document| document["data"]["spliceway.toml"].as_str());
        let dir = fresh_dir();
        let configuration = dir.path().join("spliceway.toml");
        fs::write(&configuration, found.next().unwrap()).unwrap();
        let mut check = Command::new(env!("CARGO_BIN_EXE_spliceway"));
        check.args(["check", "--config"]).arg(configuration);
        let output = check.output().unwrap();
        // There is no cluster here, so its name does not resolve, which is 1; a mistake would be 2.
        assert_eq!(output.status.code(), Some(1), "{name}: {output:?}");
        let effective = String::from_utf8(output.stdout).unwrap();
        assert!(
            effective.contains("metrics = \"0.0.0.0:9145\""),
            "{name}: {effective}"
        );
    }
}

#[test]
fn a_container_that_hangs_is_not_healthy() {
    if lacks_root() {
        return;
    }
    let site = Site::start(Engine::Epoll, as_shipped);
    assert!(site.spliceway.is_healthy());
    site.spliceway.process.signal(libc::SIGSTOP);
    assert!(!site.spliceway.is_healthy());
    site.spliceway.process.signal(libc::SIGCONT);
    eventually("it is healthy again", || site.spliceway.is_healthy());
}

#[test]
fn one_php_fpm_of_two_is_enough() {
    if lacks_root() {
        return;
    }
    let mut site = Site::start(Engine::Epoll, as_shipped);
    let mut gone = site.php.pop().unwrap();
    gone.process.signal(libc::SIGTERM);
    gone.process.wait();
    for _ in 0..20 {
        assert_eq!(site.served_by(), site.project.address_of("php-1"));
    }
}
