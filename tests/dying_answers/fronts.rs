//! Web servers in front: each with all of its settings that decide when an answer is over.

use std::fs::{self, Permissions};
use std::net::TcpStream;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::Command;

use crate::common::eventually;
use crate::common::process::Process;
use crate::common::programs::{
    WEB_USER, fresh_endpoint, program, start_apache, start_haproxy, start_nginx, start_server,
};
use crate::common::sys::is_root;

/// One way in.
#[derive(Clone, Debug)]
pub(crate) struct Front {
    pub(crate) name: String,
    /// What stands before the path.
    pub(crate) base: String,
    /// The same server with the same settings, which asks the backend itself: what it cannot help.
    pub(crate) direct: Option<String>,
    /// It keeps what it gets for a while.
    pub(crate) caches: bool,
    /// What it takes for whole although it knows better, also directly.
    pub(crate) forgives: Forgives,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Forgives {
    Nothing,
    /// lighttpd 1.4.69 logs that the backend has died, and answers with what it has, as long as its own
    /// headers have not gone out: by default, these wait for all of the answer.
    AnswersWithoutLength,
    /// HAProxy before 2.6.14 ends with a failed assertion when an answer ends within its headers.
    CutHeaders,
}

/// All that run.
pub(crate) struct Fronts {
    pub(crate) fronts: Vec<Front>,
    _processes: Vec<Process>,
}

impl Fronts {
    /// In front of the proxy's socket, or of the backend itself where it is asked directly. Scripts are in
    /// `root`, in a directory for each way in.
    pub(crate) fn start(dir: &Path, proxy: &Path, backend: &str, root: &Path) -> Self {
        let plan = Plan {
            dir,
            proxy,
            backend,
            root,
        };
        let mut all = Self {
            fronts: Vec::new(),
            _processes: Vec::new(),
        };
        for start in [
            Plan::nginx,
            Plan::apache,
            Plan::caddy,
            Plan::lighttpd,
            Plan::haproxy,
        ] {
            let (process, fronts) = start(&plan);
            all._processes.push(process);
            all.fronts.extend(fronts);
        }
        all
    }
}

struct Plan<'a> {
    dir: &'a Path,
    proxy: &'a Path,
    backend: &'a str,
    root: &'a Path,
}

type Started = (Process, Vec<Front>);

impl Front {
    /// The first parts of the paths of this one.
    pub(crate) fn directories(&self) -> impl Iterator<Item = &str> {
        let bases = [Some(&*self.base), self.direct.as_deref()];
        let bases = bases.into_iter().flatten();
        bases.filter_map(|base| base.rsplit('/').next())
    }

    /// The beginning of the URIs that the backend gets.
    pub(crate) fn path(&self) -> String {
        let last = self.base.rsplit('/').next();
        format!("/{}", last.unwrap_or_default())
    }

    fn new(server: &str, setting: &str, (host, port): &(String, u16)) -> Self {
        Self {
            name: format!("{server}, {setting}"),
            base: format!("http://{host}:{port}/{setting}"),
            direct: None,
            caches: false,
            forgives: Forgives::Nothing,
        }
    }

    fn directly(self, setting: &str, (host, port): &(String, u16)) -> Self {
        Self {
            direct: Some(format!("http://{host}:{port}/{setting}")),
            ..self
        }
    }

    fn forgiving(self, forgives: Forgives) -> Self {
        Self { forgives, ..self }
    }
}

impl Plan<'_> {
    fn nginx(&self) -> Started {
        let at = fresh_endpoint();
        let (mut locations, mut fronts) = (String::new(), Vec::new());
        for number in 0..8 {
            let [buffers, keeps, caches] = [0, 1, 2].map(|bit| number & (1 << bit) != 0);
            let word = |is: bool| if is { "on" } else { "off" };
            let setting = format!(
                "buffering-{}-keep_conn-{}-cache-{}",
                word(buffers),
                word(keeps),
                word(caches)
            );
            locations += &format!(
                "location /{setting}/ {{
                    fastcgi_buffering {};
                    fastcgi_keep_conn {};
                    fastcgi_pass {};
                    fastcgi_cache {};
                }}\n",
                word(buffers),
                word(keeps),
                if keeps { "kept" } else { "closing" },
                if caches { "pages" } else { "off" },
            );
            fronts.push(Front {
                caches,
                ..Front::new("nginx", &setting, &at)
            });
        }
        let front = self.dir.join("nginx.sock");
        let config = format!(
            "http {{
                access_log off;
                client_body_temp_path {dir}/body;
                fastcgi_temp_path {dir}/fastcgi;
                proxy_temp_path {dir}/proxy;
                uwsgi_temp_path {dir}/uwsgi;
                scgi_temp_path {dir}/scgi;
                fastcgi_cache_path {dir}/cache keys_zone=pages:1m;
                fastcgi_cache_key $request_uri;
                fastcgi_cache_valid 200 1h;
                fastcgi_param SCRIPT_FILENAME {root}$fastcgi_script_name;
                fastcgi_param REQUEST_METHOD $request_method;
                fastcgi_param REQUEST_URI $request_uri;
                fastcgi_param QUERY_STRING $query_string;
                upstream kept {{ server unix:{proxy} max_fails=0; keepalive 8; }}
                upstream closing {{ server unix:{proxy} max_fails=0; }}
                server {{
                    listen unix:{front};
                    listen {host}:{port};
                    error_log /dev/null;
                    {locations}
                }}
            }}",
            dir = self.dir.display(),
            root = self.root.display(),
            proxy = self.proxy.display(),
            front = front.display(),
            host = at.0,
            port = at.1,
        );
        (start_nginx(self.dir, &config, &front), fronts)
    }

    fn apache(&self) -> Started {
        let at = fresh_endpoint();
        let (mut passes, mut fronts) = (String::new(), Vec::new());
        for reuse in ["off", "on"] {
            let setting = format!("enablereuse-{reuse}");
            // KeepAliveTimeout: how long its client waits for the end of a page that was cut.
            passes += &format!(
                "ProxyPass /{setting} \"unix:{proxy}|fcgi://{setting}{root}/{setting}\" enablereuse={reuse} retry=0\n",
                proxy = self.proxy.display(),
                root = self.root.display(),
            );
            fronts.push(Front::new("Apache", &setting, &at));
        }
        let config = format!("KeepAliveTimeout 10ms\nLogLevel crit\n{passes}");
        (start_apache(self.dir, &config, &at), fronts)
    }

    /// Caddy 2.6.2 ends a page properly whatever happens behind its headers; later versions do not.
    fn caddy(&self) -> Started {
        let at = fresh_endpoint();
        let mut handles = String::new();
        let mut fronts = Vec::new();
        for (setting, line) in [
            ("flush-default", ""),
            ("flush-at-once", "flush_interval -1"),
        ] {
            let direct = format!("{setting}-directly");
            let socket = format!("unix/{}", self.proxy.display());
            for (path, to) in [(setting, &*socket), (&direct, self.backend)] {
                handles += &format!(
                    "handle /{path}/* {{
                        reverse_proxy {to} {{
                            {line}
                            transport fastcgi {{
                                root {root}
                                split .php
                            }}
                        }}
                    }}\n",
                    root = self.root.display(),
                );
            }
            fronts.push(Front::new("Caddy", setting, &at).directly(&direct, &at));
        }
        let config = format!(
            "{{
                admin off
                auto_https off
                storage file_system {dir}/caddy
            }}
            http://:{port} {{
                bind {host}
                {handles}
            }}\n",
            dir = self.dir.display(),
            host = at.0,
            port = at.1,
        );
        let file = self.dir.join("Caddyfile");
        fs::write(&file, config).unwrap();
        let mut command = Command::new(program(&["/usr/bin/caddy"]));
        command
            .args(["run", "--adapter", "caddyfile", "--config"])
            .arg(file)
            .env("HOME", self.dir)
            .env("XDG_DATA_HOME", self.dir)
            .env("XDG_CONFIG_HOME", self.dir);
        (listening(start_server(command), &at), fronts)
    }

    fn lighttpd(&self) -> Started {
        let at = fresh_endpoint();
        let (mut settings, mut fronts) = (String::new(), Vec::new());
        for stream in 0..3 {
            let setting = format!("stream-response-body-{stream}");
            settings += &format!(
                "$HTTP[\"url\"] =~ \"^/{setting}/\" {{ server.stream-response-body = {stream} }}\n"
            );
            let front = Front::new("lighttpd", &setting, &at);
            fronts.push(front.forgiving(Forgives::AnswersWithoutLength));
        }
        let user = if is_root() {
            format!("server.username = \"{WEB_USER}\"\nserver.groupname = \"{WEB_USER}\"\n")
        } else {
            String::new()
        };
        let backend = format!(
            "\"socket\" => \"{}\", \"check-local\" => \"disable\", \"disable-time\" => 0",
            self.proxy.display()
        );
        let uploads = self.dir.join("uploads");
        fs::create_dir(&uploads).unwrap();
        // Long answers go there while they wait; where they cannot, they are cut.
        fs::set_permissions(&uploads, Permissions::from_mode(0o777)).unwrap();
        let config = format!(
            "server.modules = (\"mod_fastcgi\")
            server.document-root = \"{root}\"
            server.upload-dirs = (\"{uploads}\")
            server.bind = \"{host}\"
            server.port = {port}
            {user}{settings}
            fastcgi.server = (
                \".php\" => (({backend})), \"/\" => (({backend}))
            )\n",
            root = self.root.display(),
            uploads = uploads.display(),
            host = at.0,
            port = at.1,
        );
        let file = self.dir.join("lighttpd.conf");
        fs::write(&file, config).unwrap();
        let mut command = Command::new(program(&["/usr/sbin/lighttpd"]));
        command.arg("-D").arg("-f").arg(file);
        (listening(start_server(command), &at), fronts)
    }

    fn haproxy(&self) -> Started {
        let at = fresh_endpoint();
        let (mut sections, mut fronts) = (String::new(), Vec::new());
        for (setting, option) in [
            ("keep-conn", "option keep-conn"),
            ("no-keep-conn", "no option keep-conn"),
        ] {
            sections += &format!(
                "fcgi-app app-{setting}
                    docroot {root}
                    {option}
                backend {setting}
                    use-fcgi-app app-{setting}
                    http-reuse always
                    server proxy unix@{proxy} proto fcgi\n",
                root = self.root.display(),
                proxy = self.proxy.display(),
            );
            let front = Front::new("HAProxy", setting, &at);
            fronts.push(front.forgiving(Forgives::CutHeaders));
        }
        let config = format!(
            "defaults
                mode http
                timeout connect 30s
                timeout client 30s
                timeout server 30s
            frontend web
                bind {host}:{port}
                use_backend keep-conn if {{ path_beg /keep-conn/ }}
                default_backend no-keep-conn
            {sections}",
            host = at.0,
            port = at.1,
        );
        let file = self.dir.join("haproxy.cfg");
        fs::write(&file, config).unwrap();
        (listening(start_haproxy(&file), &at), fronts)
    }
}

fn listening(mut server: Process, (host, port): &(String, u16)) -> Process {
    eventually("the web server listens", || {
        assert!(server.is_running(), "the web server has ended");
        TcpStream::connect((&**host, *port)).is_ok()
    });
    server
}

/// Whether this machine's HAProxy outlives an answer that ends within its headers, which it gets from the
/// backend itself.
pub(crate) fn haproxy_outlives_cut_headers(dir: &Path, backend: &str, path: &str) -> bool {
    let at = fresh_endpoint();
    let config = format!(
        "defaults
            mode http
            timeout connect 30s
            timeout client 30s
            timeout server 30s
        fcgi-app app
            docroot /
        listen web
            bind {host}:{port}
            use-fcgi-app app
            server backend {backend} proto fcgi\n",
        host = at.0,
        port = at.1,
    );
    let file = dir.join("haproxy-alone.cfg");
    fs::write(&file, config).unwrap();
    let mut haproxy = listening(start_haproxy(&file), &at);
    let answer = Command::new(program(&["/usr/bin/curl"]))
        .args(["-q", "-s", "-o", "/dev/null"])
        .arg(format!("http://{}:{}{path}", at.0, at.1))
        .status()
        .unwrap();
    if answer.success() {
        return haproxy.is_running();
    }
    haproxy.wait();
    false
}
