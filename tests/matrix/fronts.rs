//! The clients in front: web servers, each with one address for every way to the server behind, and two
//! programs that speak FastCGI themselves.

use std::fmt::Write as _;
use std::fs;
use std::net::TcpStream;
use std::path::Path;
use std::process::Command;

use crate::common::eventually;
use crate::common::process::Process;
use crate::common::programs::{
    fresh_endpoint, program, start_apache, start_haproxy, start_nginx, start_server,
};
use crate::ways::Target;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Front {
    Nginx { keeps: bool, buffers: bool },
    Apache { reuses: bool },
    Caddy,
    Lighttpd,
    Haproxy { keeps: bool },
    CgiFcgi,
    Records,
}

impl Front {
    pub(crate) const ALL: [Self; 12] = [
        Self::NGINX,
        Self::Nginx {
            keeps: true,
            buffers: false,
        },
        Self::Nginx {
            keeps: false,
            buffers: true,
        },
        Self::Nginx {
            keeps: false,
            buffers: false,
        },
        Self::Apache { reuses: true },
        Self::Apache { reuses: false },
        Self::Caddy,
        Self::Lighttpd,
        Self::Haproxy { keeps: true },
        Self::Haproxy { keeps: false },
        Self::CgiFcgi,
        Self::Records,
    ];

    /// As most people have it who have a proxy.
    pub(crate) const NGINX: Self = Self::Nginx {
        keeps: true,
        buffers: true,
    };

    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::Nginx {
                keeps: true,
                buffers: true,
            } => "nginx, `keep_conn on`",
            Self::Nginx {
                keeps: true,
                buffers: false,
            } => "nginx, `keep_conn on`, `buffering off`",
            Self::Nginx {
                keeps: false,
                buffers: true,
            } => "nginx, `keep_conn off`",
            Self::Nginx {
                keeps: false,
                buffers: false,
            } => "nginx, `keep_conn off`, `buffering off`",
            Self::Apache { reuses: true } => "Apache, `enablereuse=on`",
            Self::Apache { reuses: false } => "Apache",
            Self::Caddy => "Caddy",
            Self::Lighttpd => "lighttpd",
            Self::Haproxy { keeps: true } => "HAProxy, `option keep-conn`",
            Self::Haproxy { keeps: false } => "HAProxy, `no option keep-conn`",
            Self::CgiFcgi => "cgi-fcgi",
            Self::Records => "a client that keeps its connections",
        }
    }

    /// Where it passes an upload on while it comes, if that has a path of its own.
    pub(crate) const fn streamed(self) -> Option<&'static str> {
        match self {
            Self::Nginx { .. } => Some("/streamed"),
            _ => None,
        }
    }

    /// The length of each of 40 headers of an answer that it takes. PHP-FPM writes 8 KiB at a time, and a
    /// head that comes in two records makes HAProxy 2.6 end itself (`bug condition "c_empty(ic)"`).
    pub(crate) const fn header_bytes(self) -> usize {
        match self {
            Self::Haproxy { .. } => 100,
            _ => 250,
        }
    }

    /// Starts it with an address for each of the targets; `None` if it is no web server.
    pub(crate) fn start(self, dir: &Path, root: &Path, targets: &[Target]) -> Option<WebServer> {
        let addresses: Vec<_> = targets.iter().map(|_| fresh_endpoint()).collect();
        let plan = Plan {
            dir,
            root,
            sites: addresses.iter().zip(targets).collect(),
        };
        let mut process = match self {
            Self::Nginx { keeps, buffers } => nginx(&plan, keeps, buffers),
            Self::Apache { reuses } => apache(&plan, reuses),
            Self::Caddy => caddy(&plan),
            Self::Lighttpd => lighttpd(&plan),
            Self::Haproxy { keeps } => haproxy(&plan, keeps),
            Self::CgiFcgi | Self::Records => return None,
        };
        for (host, port) in &addresses {
            eventually("the web server listens", || {
                assert!(process.is_running(), "it has ended");
                TcpStream::connect((&**host, *port)).is_ok()
            });
        }
        Some(WebServer { process, addresses })
    }
}

/// A web server that runs.
pub(crate) struct WebServer {
    #[expect(dead_code, reason = "it lives as long as this")]
    process: Process,
    pub(crate) addresses: Vec<(String, u16)>,
}

/// What a web server is to be told.
struct Plan<'a> {
    dir: &'a Path,
    root: &'a Path,
    sites: Vec<(&'a (String, u16), &'a Target)>,
}

/// Connections that are kept are only those to a proxy: to the server itself they would take its workers
/// from other requests.
fn is_proxy(target: &Target) -> bool {
    matches!(target, Target::Proxy(_))
}

fn nginx(plan: &Plan<'_>, keeps: bool, buffers: bool) -> Process {
    let (dir, root) = (plan.dir.display(), plan.root.display());
    let switch = |on: bool| if on { "on" } else { "off" };
    let mut sites = String::new();
    for (number, ((host, port), target)) in plan.sites.iter().enumerate() {
        let place = match target {
            Target::Server((host, port)) => format!("{host}:{port}"),
            Target::Proxy(path) => format!("unix:{}", path.display()),
        };
        let keeps = keeps && is_proxy(target);
        let pass = format!(
            "fastcgi_pass behind{number};
            fastcgi_keep_conn {};
            fastcgi_buffering {};
            fastcgi_param SCRIPT_FILENAME {root}/x.php;
            fastcgi_param SCRIPT_NAME /x.php;",
            switch(keeps),
            switch(buffers),
        );
        let keepalive = if keeps { "keepalive 16;" } else { "" };
        write!(
            sites,
            "upstream behind{number} {{ server {place} max_fails=0; {keepalive} }}
            server {{
                listen {host}:{port};
                location / {{ {pass} {NGINX_PARAMS} }}
                location /streamed/ {{ fastcgi_request_buffering off; {pass} {NGINX_PARAMS} }}
            }}\n"
        )
        .expect("a string takes everything");
    }
    let config = format!(
        "http {{
            access_log off;
            client_max_body_size 64m;
            client_body_temp_path {dir}/body;
            fastcgi_temp_path {dir}/fastcgi;
            proxy_temp_path {dir}/proxy;
            uwsgi_temp_path {dir}/uwsgi;
            scgi_temp_path {dir}/scgi;
            fastcgi_buffer_size 32k;
            fastcgi_buffers 8 32k;
            server {{ listen unix:{dir}/ready.sock; return 204; }}
            {sites}
        }}"
    );
    start_nginx(plan.dir, &config, &plan.dir.join("ready.sock"))
}

/// fcgiwrap passes an answer on while it comes only when it is told to.
const NGINX_PARAMS: &str = "
    fastcgi_param GATEWAY_INTERFACE CGI/1.1;
    fastcgi_param SERVER_PROTOCOL $server_protocol;
    fastcgi_param SERVER_NAME $server_name;
    fastcgi_param SERVER_PORT $server_port;
    fastcgi_param REMOTE_ADDR $remote_addr;
    fastcgi_param REQUEST_METHOD $request_method;
    fastcgi_param REQUEST_URI $request_uri;
    fastcgi_param QUERY_STRING $query_string;
    fastcgi_param CONTENT_TYPE $content_type;
    fastcgi_param CONTENT_LENGTH $content_length;
    fastcgi_param NO_BUFFERING 1;";

fn apache(plan: &Plan<'_>, reuses: bool) -> Process {
    let root = plan.root.display();
    let mut config =
        format!("<Directory {root}>\nAllowOverride None\nRequire all granted\n</Directory>\n");
    let (first, _) = plan.sites[0];
    for (number, ((host, port), target)) in plan.sites.iter().enumerate() {
        // A name of its own for each, because they tell workers apart.
        let (handler, worker) = match target {
            Target::Server((host, port)) => {
                let server = format!("fcgi://{host}:{port}");
                (format!("proxy:{server}"), server)
            }
            Target::Proxy(path) => {
                let server = format!("fcgi://behind{number}");
                (
                    format!("proxy:unix:{}|{server}/", path.display()),
                    format!("{server}/"),
                )
            }
        };
        let reuse = if reuses && is_proxy(target) {
            "on"
        } else {
            "off"
        };
        if number > 0 {
            writeln!(config, "Listen {host}:{port}").expect("a string takes everything");
        }
        write!(
            config,
            "<VirtualHost {host}:{port}>\n\
            DocumentRoot {root}\n\
            <FilesMatch \"\\.php$\">\nSetHandler \"{handler}\"\n</FilesMatch>\n\
            <Proxy \"{worker}\" enablereuse={reuse} flushpackets=on>\n</Proxy>\n\
            </VirtualHost>\n"
        )
        .expect("a string takes everything");
    }
    start_apache(plan.dir, &config, first)
}

fn caddy(plan: &Plan<'_>) -> Process {
    let (dir, root) = (plan.dir.display(), plan.root.display());
    let mut config = format!(
        "{{\n\
        admin off\n\
        auto_https off\n\
        storage file_system {dir}/caddy\n\
        }}\n"
    );
    for ((host, port), target) in &plan.sites {
        let place = match target {
            Target::Server((host, port)) => format!("{host}:{port}"),
            Target::Proxy(path) => format!("unix/{}", path.display()),
        };
        write!(
            config,
            "http://:{port} {{\n\
            bind {host}\n\
            reverse_proxy {place} {{\n\
            transport fastcgi {{\nroot {root}\nsplit .php\n}}\n\
            }}\n\
            }}\n"
        )
        .expect("a string takes everything");
    }
    let file = plan.dir.join("Caddyfile");
    fs::write(&file, config).expect("the directory is ours");
    let mut command = Command::new(program(&["/usr/bin/caddy"]));
    command
        .args(["run", "--adapter", "caddyfile", "--config"])
        .arg(file)
        .env("HOME", plan.dir);
    start_server(command)
}

fn lighttpd(plan: &Plan<'_>) -> Process {
    let (dir, root) = (plan.dir.display(), plan.root.display());
    let ((host, port), _) = plan.sites[0];
    let mut config = format!(
        "server.modules = (\"mod_fastcgi\")\n\
        server.document-root = \"{root}\"\n\
        server.upload-dirs = (\"{dir}\")\n\
        server.bind = \"{host}\"\n\
        server.port = {port}\n\
        server.stream-response-body = 2\n"
    );
    for ((host, port), target) in &plan.sites {
        let place = match target {
            Target::Server((host, port)) => format!("\"host\" => \"{host}\", \"port\" => {port}"),
            Target::Proxy(path) => format!("\"socket\" => \"{}\"", path.display()),
        };
        // What fails is to be tried again at once.
        write!(
            config,
            "$SERVER[\"socket\"] == \"{host}:{port}\" {{\n\
            fastcgi.server = (\".php\" => ((\n\
            {place}, \"check-local\" => \"disable\", \"disable-time\" => 0\n\
            )))\n\
            }}\n"
        )
        .expect("a string takes everything");
    }
    let file = plan.dir.join("lighttpd.conf");
    fs::write(&file, config).expect("the directory is ours");
    let mut command = Command::new(program(&["/usr/sbin/lighttpd"]));
    command.arg("-D").arg("-f").arg(file);
    start_server(command)
}

fn haproxy(plan: &Plan<'_>, keeps: bool) -> Process {
    let root = plan.root.display();
    let mut config = format!(
        "defaults\n\
        mode http\n\
        timeout connect 30s\n\
        timeout client 30s\n\
        timeout server 30s\n\
        fcgi-app kept\n\
        docroot {root}\n\
        option keep-conn\n\
        fcgi-app closing\n\
        docroot {root}\n\
        no option keep-conn\n"
    );
    for (number, ((host, port), target)) in plan.sites.iter().enumerate() {
        let place = match target {
            Target::Server((host, port)) => format!("{host}:{port}"),
            Target::Proxy(path) => format!("unix@{}", path.display()),
        };
        let app = if keeps && is_proxy(target) {
            "kept"
        } else {
            "closing"
        };
        write!(
            config,
            "frontend front{number}\n\
            bind {host}:{port}\n\
            default_backend behind{number}\n\
            backend behind{number}\n\
            use-fcgi-app {app}\n\
            server behind {place} proto fcgi\n"
        )
        .expect("a string takes everything");
    }
    let file = plan.dir.join("haproxy.cfg");
    fs::write(&file, config).expect("the directory is ours");
    start_haproxy(&file)
}
