//! A server behind a web server, three times side by side: directly, and through a proxy on each engine.
//! Each has a server of its own, so that none waits for workers that another one's connections hold.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use tempfile::TempDir;

use crate::common::process::Process;
use crate::common::programs::{WEB_USER, fresh_endpoint};
use crate::common::proxy::fresh_dir;
use crate::common::sys::is_root;
use crate::common::{Engine, MB, Pattern, Proxy};
use crate::fronts::{Front, WebServer};
use crate::servers::Server;
use crate::ways::{Target, Way};

/// What pages are made of.
pub(crate) const PATTERN: Pattern = Pattern::new(14);
pub(crate) const PATTERN_BYTES: u64 = 20 * MB;

/// One of the three.
pub(crate) struct Side {
    pub(crate) way: Way,
    pub(crate) server: Server,
    pub(crate) endpoint: (String, u16),
    /// Of this side alone; the programs read and write here.
    pub(crate) dir: PathBuf,
    pub(crate) process: Option<Process>,
    pub(crate) header_bytes: usize,
    _proxy: Option<Proxy>,
}

pub(crate) struct Site {
    pub(crate) direct: Side,
    pub(crate) io_uring: Side,
    pub(crate) epoll: Side,
    _web: Option<WebServer>,
    _dir: TempDir,
}

impl Site {
    pub(crate) fn start(server: Server, front: Front) -> Self {
        let dir = fresh_dir();
        let root = dir.path().join("www");
        fs::create_dir(&root).expect("the directory is fresh");
        let script = server.install(&root);
        let engines = [None, Some(Engine::IoUring), Some(Engine::Epoll)];
        let behind = engines.map(|engine| Behind::start(dir.path(), server, engine));
        let targets = behind.each_ref().map(Behind::target);
        let web = front.start(dir.path(), &root, &targets);
        let mut number = 0;
        let sides = behind.map(|behind| {
            let target = behind.target();
            let way = match (&web, front) {
                (Some(web), _) => Way::Http {
                    address: web.addresses[number].clone(),
                    streamed: front.streamed(),
                },
                (None, Front::CgiFcgi) => Way::CgiFcgi {
                    target,
                    script: script.clone(),
                },
                (None, _) => Way::records(target, script.clone()),
            };
            number += 1;
            behind.reached_by(way, front)
        });
        let [direct, io_uring, epoll] = sides;
        Self {
            direct,
            io_uring,
            epoll,
            _web: web,
            _dir: dir,
        }
    }
}

/// A server, and a proxy in front of it or none.
struct Behind {
    server: Server,
    dir: PathBuf,
    endpoint: (String, u16),
    process: Process,
    proxy: Option<Proxy>,
}

impl Behind {
    fn start(dir: &Path, server: Server, engine: Option<Engine>) -> Self {
        let name = engine.map_or_else(|| "direct".to_owned(), |engine| engine.to_string());
        let dir = dir.join(name);
        fs::create_dir(&dir).expect("the directory is fresh");
        // Workers are other users.
        fs::set_permissions(&dir, fs::Permissions::from_mode(0o777)).expect("it is ours");
        fs::write(dir.join("pattern.bin"), PATTERN.bytes(PATTERN_BYTES)).expect("it is ours");
        let endpoint = fresh_endpoint();
        let process = server.start(&dir, &endpoint);
        let proxy = engine.map(|engine| start_proxy(engine, server, &endpoint));
        Self {
            server,
            dir,
            endpoint,
            process,
            proxy,
        }
    }

    fn target(&self) -> Target {
        match &self.proxy {
            Some(proxy) => Target::Proxy(proxy.socket().to_owned()),
            None => Target::Server(self.endpoint.clone()),
        }
    }

    fn reached_by(self, way: Way, front: Front) -> Side {
        Side {
            way,
            server: self.server,
            endpoint: self.endpoint,
            dir: self.dir,
            process: Some(self.process),
            header_bytes: front.header_bytes(),
            _proxy: self.proxy,
        }
    }
}

/// As the documentation recommends it: as many permits as the server serves connections at one time.
fn start_proxy(engine: Engine, server: Server, (host, port): &(String, u16)) -> Proxy {
    let permits = server.connections().to_string();
    let group: &[&str] = if is_root() {
        &["--group", WEB_USER]
    } else {
        &[]
    };
    Proxy::builder()
        .engine(engine)
        .args(["--protocol", "fastcgi", "--per-endpoint-max", &permits])
        // A restart takes longer on a busy machine.
        .args(["--connect-timeout", "15s"])
        .args(group.iter().copied())
        .backend(format!("{host}:{port}"))
        .start()
}
