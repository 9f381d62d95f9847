//! The web servers: how each is told of the sites of a table, and how it is started.

use std::fs;
use std::net::{Ipv4Addr, TcpStream};
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::common::eventually;
use crate::common::process::Process;
use crate::common::programs::{
    WEB_USER, fresh_endpoint, program, start_apache, start_haproxy, start_nginx, start_server,
};
use crate::common::sys::is_root;
use crate::recipe::{Recipe, joined};
use crate::{apache, caddy, haproxy, lighttpd, nginx};

/// A program that speaks HTTP on one side and FastCGI on the other.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum WebServer {
    Nginx,
    Apache,
    Caddy,
    Lighttpd,
    Haproxy,
}

/// Where a web server finds PHP.
#[derive(Clone, Debug)]
pub(crate) enum Php {
    Tcp(String, u16),
    Unix(PathBuf),
}

/// One recipe, as it is written into the configuration of one web server.
pub(crate) struct Site<'a> {
    pub(crate) recipe: &'a Recipe,
    /// The directory of its files.
    pub(crate) app: String,
    pub(crate) php: Php,
    /// What `{name}` stands for.
    pub(crate) name: String,
}

/// A web server that runs.
pub(crate) struct Front {
    pub(crate) host: String,
    pub(crate) port: u16,
    /// Of nginx only.
    pub(crate) tls_port: u16,
    /// Where it has its own files.
    pub(crate) dir: String,
    _process: Process,
}

impl WebServer {
    pub(crate) const ALL: [Self; 5] = [
        Self::Nginx,
        Self::Apache,
        Self::Caddy,
        Self::Lighttpd,
        Self::Haproxy,
    ];

    /// As documents call it.
    pub(crate) const fn title(self) -> &'static str {
        match self {
            Self::Nginx => "nginx",
            Self::Apache => "Apache",
            Self::Caddy => "Caddy",
            Self::Lighttpd => "lighttpd",
            Self::Haproxy => "HAProxy",
        }
    }

    pub(crate) const fn recipes(self) -> &'static [Recipe] {
        match self {
            Self::Nginx => nginx::RECIPES,
            Self::Apache => apache::RECIPES,
            Self::Caddy => caddy::RECIPES,
            Self::Lighttpd => lighttpd::RECIPES,
            Self::Haproxy => haproxy::RECIPES,
        }
    }

    /// Starts it with these sites, in a directory of its own, and waits until it listens.
    pub(crate) fn start(self, dir: &Path, sites: &[Site<'_>]) -> Front {
        let (host, port) = fresh_endpoint();
        let (_, tls_port) = fresh_endpoint();
        let at = Place {
            dir,
            host: &host,
            port,
            tls_port,
        };
        let process = match self {
            Self::Nginx => at.nginx(sites),
            Self::Apache => at.apache(sites),
            Self::Caddy => at.caddy(sites),
            Self::Lighttpd => at.lighttpd(sites),
            Self::Haproxy => at.haproxy(sites),
        };
        Front {
            host,
            port,
            tls_port,
            dir: dir.display().to_string(),
            _process: process,
        }
    }
}

impl Site<'_> {
    fn root(&self) -> String {
        joined(&self.app, self.recipe.root)
    }

    /// `text` with its words replaced.
    pub(crate) fn fill(&self, text: &str, php: &str) -> String {
        text.replace("{app}", &self.app)
            .replace("{root}", &self.root())
            .replace("{php}", php)
            .replace("{name}", &self.name)
    }
}

/// Where a web server is to run.
struct Place<'a> {
    dir: &'a Path,
    host: &'a str,
    port: u16,
    tls_port: u16,
}

impl Place<'_> {
    fn nginx(&self, sites: &[Site<'_>]) -> Process {
        for (name, target) in [
            ("fastcgi_params", "/etc/nginx/fastcgi_params"),
            ("fastcgi.conf", "/etc/nginx/fastcgi.conf"),
            ("snippets", "/etc/nginx/snippets"),
        ] {
            std::os::unix::fs::symlink(target, self.dir.join(name)).unwrap();
        }
        let (dir, host, port) = (self.dir.display(), self.host, self.port);
        make_certificate(self.dir);
        let mut servers = String::new();
        for site in sites {
            let php = match &site.php {
                Php::Tcp(host, port) => format!("{host}:{port}"),
                Php::Unix(path) => format!("unix:{}", path.display()),
            };
            let (around, lines) = (site.recipe.around, site.recipe.lines);
            servers += &format!(
                "{around}
                server {{
                    listen {host}:{port};
                    listen {host}:{tls_port} ssl;
                    server_name {name};
                    root {root};
                    {lines}
                }}\n",
                around = site.fill(around, &php),
                tls_port = self.tls_port,
                name = site.recipe.host(),
                root = site.root(),
                lines = site.fill(lines, &php),
            );
        }
        let front = self.dir.join("ready.sock");
        let config = format!(
            "http {{
                access_log off;
                server_names_hash_bucket_size 128;
                variables_hash_max_size 4096;
                client_body_temp_path {dir}/body;
                fastcgi_temp_path {dir}/fastcgi;
                proxy_temp_path {dir}/proxy;
                uwsgi_temp_path {dir}/uwsgi;
                scgi_temp_path {dir}/scgi;
                ssl_certificate {dir}/certificate.pem;
                ssl_certificate_key {dir}/key.pem;
                types {{ text/plain txt; text/css css; }}
                server {{ listen unix:{front}; return 204; }}
                {servers}
            }}",
            front = front.display(),
        );
        start_nginx(self.dir, &config, &front)
    }

    fn apache(&self, sites: &[Site<'_>]) -> Process {
        let modules = [
            "alias",
            "auth_basic",
            "authn_core",
            "authn_file",
            "authz_host",
            "authz_user",
            "dir",
            "env",
            "mime",
            "remoteip",
            "rewrite",
            "setenvif",
        ];
        let load =
            |name| format!("LoadModule {name}_module /usr/lib/apache2/modules/mod_{name}.so\n");
        let mut config: String = modules.map(load).concat();
        config += "TypesConfig /dev/null\nStartServers 1\nServerLimit 1\nThreadsPerChild 8\nMaxRequestWorkers 8\n";
        for site in sites {
            let (php, worker) = match &site.php {
                Php::Tcp(host, port) => {
                    let address = format!("fcgi://{host}:{port}");
                    (address.clone(), format!("{address}/"))
                }
                Php::Unix(path) => {
                    let name = site.recipe.slug();
                    (
                        format!("unix:{}|fcgi://{name}", path.display()),
                        format!("fcgi://{name}/"),
                    )
                }
            };
            let fill = |text| site.fill(text, &php).replace("{worker}", &worker);
            config += &format!(
                "{around}
                <VirtualHost *:{port}>
                    ServerName {name}
                    DocumentRoot \"{root}\"
                    <Directory \"{app}\">
                        AllowOverride All
                        Require all granted
                    </Directory>
                    {lines}
                </VirtualHost>\n",
                around = fill(site.recipe.around),
                port = self.port,
                name = site.recipe.host(),
                root = site.root(),
                app = site.app,
                lines = fill(site.recipe.lines),
            );
        }
        start_apache(self.dir, &config, &(self.host.to_owned(), self.port))
    }

    fn caddy(&self, sites: &[Site<'_>]) -> Process {
        let mut config = "{\n\tadmin off\n\tauto_https off\n}\n".to_owned();
        for site in sites {
            let php = match &site.php {
                Php::Tcp(host, port) => format!("{host}:{port}"),
                Php::Unix(path) => format!("unix/{}", path.display()),
            };
            config += &format!(
                "http://{name}:{port} {{\n\tbind {host}\n\troot * {root}\n{lines}\n}}\n",
                name = site.recipe.host(),
                port = self.port,
                host = self.host,
                root = site.root(),
                lines = site.fill(site.recipe.lines, &php),
            );
        }
        let file = self.dir.join("Caddyfile");
        fs::write(&file, config).unwrap();
        let mut command = Command::new(program(&["/usr/bin/caddy"]));
        command
            .args(["run", "--adapter", "caddyfile", "--config"])
            .arg(file)
            .env("HOME", self.dir)
            .env("XDG_DATA_HOME", self.dir)
            .env("XDG_CONFIG_HOME", self.dir);
        self.listening(start_server(command))
    }

    fn lighttpd(&self, sites: &[Site<'_>]) -> Process {
        let mut config = format!(
            "server.bind = \"{host}\"
            server.port = {port}
            server.document-root = \"{dir}\"
            server.upload-dirs = ( \"/tmp\" )
            server.modules = (
                \"mod_rewrite\", \"mod_alias\", \"mod_setenv\", \"mod_auth\", \"mod_authn_file\",
                \"mod_extforward\", \"mod_fastcgi\"
            )\n",
            host = self.host,
            port = self.port,
            dir = self.dir.display(),
        );
        if is_root() {
            config +=
                &format!("server.username = \"{WEB_USER}\"\nserver.groupname = \"{WEB_USER}\"\n");
        }
        for site in sites {
            let php = match &site.php {
                Php::Tcp(host, port) => format!("\"host\" => \"{host}\", \"port\" => {port}"),
                Php::Unix(path) => format!("\"socket\" => \"{}\"", path.display()),
            };
            config += &format!(
                "$HTTP[\"host\"] == \"{name}\" {{
                    server.document-root = \"{root}\"
                    {lines}
                }}\n",
                name = site.recipe.host(),
                root = site.root(),
                lines = site.fill(site.recipe.lines, &php),
            );
        }
        let file = self.dir.join("lighttpd.conf");
        fs::write(&file, config).unwrap();
        let mut command = Command::new(program(&["/usr/sbin/lighttpd"]));
        command.arg("-D").arg("-f").arg(file);
        self.listening(start_server(command))
    }

    fn haproxy(&self, sites: &[Site<'_>]) -> Process {
        let mut config = format!(
            "global
                maxconn 100
            defaults
                mode http
                timeout connect 60s
                timeout client 60s
                timeout server 60s
            frontend front
                bind {host}:{port}\n",
            host = self.host,
            port = self.port,
        );
        for site in sites {
            let (slug, name) = (site.recipe.slug(), site.recipe.host());
            config += &format!("    use_backend {slug} if {{ req.hdr(host) {name} }}\n");
        }
        for site in sites {
            let php = match &site.php {
                Php::Tcp(host, port) => format!("{host}:{port}"),
                Php::Unix(path) => format!("unix@{}", path.display()),
            };
            config += &format!(
                "backend {slug}
                    use-fcgi-app {slug}
                    {around}
                    server php {php} proto fcgi
                fcgi-app {slug}
                    {lines}\n",
                slug = site.recipe.slug(),
                around = site.fill(site.recipe.around, &php),
                lines = site.fill(site.recipe.lines, &php),
            );
        }
        let file = self.dir.join("haproxy.cfg");
        fs::write(&file, config).unwrap();
        self.listening(start_haproxy(&file))
    }

    fn listening(&self, mut process: Process) -> Process {
        eventually("the web server listens", || {
            assert!(process.is_running(), "the web server has ended");
            TcpStream::connect((self.host, self.port)).is_ok()
        });
        process
    }
}

/// A certificate for nginx, signed by itself.
fn make_certificate(dir: &Path) {
    let address = Ipv4Addr::LOCALHOST;
    let output = Command::new(program(&["/usr/bin/openssl"]))
        .args([
            "req",
            "-x509",
            "-newkey",
            "ec",
            "-pkeyopt",
            "ec_paramgen_curve:prime256v1",
        ])
        .args([
            "-nodes",
            "-days",
            "2",
            "-subj",
            &format!("/CN={address}"),
            "-keyout",
        ])
        .arg(dir.join("key.pem"))
        .arg("-out")
        .arg(dir.join("certificate.pem"))
        .output()
        .expect("openssl runs");
    assert!(
        output.status.success(),
        "make a certificate: {}",
        String::from_utf8_lossy(&output.stderr)
    );
}
