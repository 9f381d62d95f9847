//! What nginx sends when it is set up as recipes have it: parameters twice, settings of PHP, releases
//! behind symbolic links. A script shows what reached it, by the proxy and without it: the same.

// The behaviours are not `#[test]` functions themselves: the macro makes those of them.
#![allow(clippy::unwrap_used)]

mod common;

use std::fs;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};

use common::http::Response;
use common::programs::{WEB_USER, fresh_endpoint, start_apache, start_fpm_with, start_nginx};
use common::proxy::{Builder, fresh_dir};
use common::sys::is_root;
use common::{Engine, GUARD, Process, Proxy, for_each_engine};
use serde_json::Value;
use tempfile::TempDir;

for_each_engine!(
    parameters_that_nginx_sends_twice_reach_php_as_without_the_proxy,
    a_second_copy_is_a_403_where_that_is_asked_for,
    settings_of_php_reach_it_where_they_are_allowed,
    a_release_behind_a_symbolic_link_is_under_its_root,
    a_script_with_path_info_has_a_path_translated_without_its_suffix,
    headers_of_200_kilobytes_are_served_and_more_are_a_431,
);

/// Prints all that it was given, but for the time and what differs between two listeners.
const SHOW_PHP: &str = r#"<?php
foreach (['REQUEST_TIME', 'REQUEST_TIME_FLOAT', 'SERVER_ADDR', 'SERVER_PORT', 'REMOTE_PORT'] as $name) {
    unset($_SERVER[$name]);
}
ksort($_SERVER);
$settings = array_map('ini_get', ['memory_limit', 'max_execution_time', 'open_basedir']);
echo json_encode([$_SERVER, file_get_contents('php://input'), $settings],
    JSON_UNESCAPED_SLASHES | JSON_PARTIAL_OUTPUT_ON_ERROR);
"#;

/// A recipe: the lines of its location, and the parameters that it sends with different values.
struct Recipe {
    name: &'static str,
    lines: &'static str,
    overridden: &'static [&'static str],
}

const fn recipe(
    name: &'static str,
    lines: &'static str,
    overridden: &'static [&'static str],
) -> Recipe {
    Recipe {
        name,
        lines,
        overridden,
    }
}

/// A new one is a line.
const RECIPES: &[Recipe] = &[
    recipe(
        "included",
        "include fastcgi_params;
         fastcgi_param SCRIPT_FILENAME $document_root$fastcgi_script_name;",
        &[],
    ),
    recipe(
        "script-filename-again",
        "include fastcgi.conf;
         fastcgi_param SCRIPT_FILENAME $document_root$fastcgi_script_name;",
        &[],
    ),
    recipe(
        "script-filename-first",
        "fastcgi_param SCRIPT_FILENAME $document_root$fastcgi_script_name;
         include fastcgi.conf;",
        &[],
    ),
    recipe(
        "another-script",
        "include fastcgi.conf;
         fastcgi_param SCRIPT_FILENAME $document_root/included/show.php;",
        &["SCRIPT_FILENAME"],
    ),
    recipe("snippet", "include snippets/fastcgi-php.conf;", &[]),
    recipe(
        "https",
        "include fastcgi.conf;
         fastcgi_param HTTPS on;
         fastcgi_param HTTPS on;
         fastcgi_param HTTPS on;",
        &[],
    ),
    recipe(
        "https-off-and-on",
        "include fastcgi.conf;
         fastcgi_param HTTPS off;
         fastcgi_param HTTPS on;
         fastcgi_param HTTPS off;",
        &["HTTPS"],
    ),
    recipe(
        "real-root",
        "include fastcgi.conf;
         fastcgi_param SCRIPT_FILENAME $realpath_root$fastcgi_script_name;
         fastcgi_param DOCUMENT_ROOT $realpath_root;",
        &[],
    ),
    recipe(
        "query",
        "include fastcgi.conf;
         fastcgi_param QUERY_STRING q=$uri&$query_string;",
        &["QUERY_STRING"],
    ),
    recipe(
        "real-ip",
        "include fastcgi.conf;
         fastcgi_param REMOTE_ADDR 192.0.2.77;",
        &["REMOTE_ADDR"],
    ),
    recipe(
        "method",
        "include fastcgi.conf;
         fastcgi_param REQUEST_METHOD GET;
         fastcgi_param CONTENT_TYPE \"\";",
        &["REQUEST_METHOD"],
    ),
    recipe(
        "auth-request",
        "include fastcgi.conf;
         fastcgi_pass_request_body off;
         fastcgi_param CONTENT_LENGTH \"\";
         fastcgi_param SERVER_NAME auth.example;",
        &["CONTENT_LENGTH", "SERVER_NAME"],
    ),
    recipe(
        "path-info",
        "include fastcgi.conf;
         fastcgi_split_path_info ^(.+?\\.php)(/.*)$;
         fastcgi_param SCRIPT_FILENAME $document_root$fastcgi_script_name;
         fastcgi_param SCRIPT_NAME $fastcgi_script_name;
         fastcgi_param PATH_INFO $fastcgi_path_info;
         fastcgi_param PATH_INFO $fastcgi_path_info;
         fastcgi_param PATH_TRANSLATED $document_root$fastcgi_path_info;
         fastcgi_param REDIRECT_STATUS 200;
         fastcgi_param REMOTE_USER $remote_user;",
        &[],
    ),
    recipe(
        "others",
        "include fastcgi.conf;
         fastcgi_param SERVER_PROTOCOL HTTP/2.0;
         fastcgi_param X_OWN one;
         fastcgi_param X_OWN two;
         fastcgi_param HTTP_X_FORWARDED_PROTO https;",
        &[],
    ),
];

/// nginx with each recipe twice: to PHP-FPM itself, and by the proxy.
struct Site {
    dir: TempDir,
    root: PathBuf,
    direct: PathBuf,
    proxied: PathBuf,
    proxy: Proxy,
    _fpm: Process,
    _nginx: Process,
}

impl Site {
    /// `recipes`: name and lines of each.
    fn start(engine: Engine, recipes: &[(&str, &str)], args: &[&str]) -> Self {
        Self::start_in(fresh_dir(), engine, recipes, args)
    }

    /// The root is `current` in a directory that has what tests put there.
    fn start_in(dir: TempDir, engine: Engine, recipes: &[(&str, &str)], args: &[&str]) -> Self {
        let root = dir.path().join("current");
        if !root.exists() {
            fs::create_dir(&root).unwrap();
        }
        for (name, _) in recipes {
            fs::create_dir(root.join(name)).unwrap();
            fs::write(root.join(name).join("show.php"), SHOW_PHP).unwrap();
        }
        for name in ["fastcgi.conf", "fastcgi_params", "snippets"] {
            symlink(Path::new("/etc/nginx").join(name), dir.path().join(name)).unwrap();
        }
        let endpoint = fresh_endpoint();
        let fpm = start_fpm_with(dir.path(), &endpoint, &[]);
        let backend = format!("{}:{}", endpoint.0, endpoint.1);
        let group: &[&str] = match is_root() {
            true => &["--group", WEB_USER],
            false => &[],
        };
        let builder: Builder = Proxy::builder().engine(engine).observed();
        let proxy = builder
            .args(["--protocol", "fastcgi", "--workers", "1"])
            .args(group.iter().copied())
            .args(["--script-root", root.to_str().unwrap()])
            .args(args.iter().copied())
            .backend(&backend)
            .start();
        let (direct, proxied) = (
            dir.path().join("direct.sock"),
            dir.path().join("proxied.sock"),
        );
        let server = |front: &Path, pass: &str| {
            let locations = recipes.iter().map(|(name, lines)| {
                format!("location ^~ /{name}/ {{\n{lines}\nfastcgi_pass {pass};\n}}\n")
            });
            format!(
                "server {{
                    listen unix:{front};
                    root {root};
                    client_header_buffer_size 64k;
                    large_client_header_buffers 16 64k;
                    {locations}
                }}\n",
                front = front.display(),
                root = root.display(),
                locations = locations.collect::<String>(),
            )
        };
        let path = dir.path().display();
        let config = format!(
            "http {{
                access_log off;
                client_body_temp_path {path}/body;
                fastcgi_temp_path {path}/fastcgi;
                proxy_temp_path {path}/proxy;
                uwsgi_temp_path {path}/uwsgi;
                scgi_temp_path {path}/scgi;
                {direct}
                {proxied}
            }}",
            direct = server(&direct, &backend),
            proxied = server(&proxied, &format!("unix:{}", proxy.socket().display())),
        );
        let nginx = start_nginx(dir.path(), &config, &proxied);
        Self {
            dir,
            root,
            direct,
            proxied,
            proxy,
            _fpm: fpm,
            _nginx: nginx,
        }
    }

    /// What the script shows to both, which is the same. Settings are those of the second, because a
    /// worker keeps what it was told before.
    #[track_caller]
    fn shown(&self, method: &str, target: &str, body: &[u8]) -> Value {
        let ask = |front: &Path| {
            let response = Response::to(front, method, target, body);
            serde_json::from_str::<Value>(response.text()).unwrap()
        };
        let (direct, proxied) = (ask(&self.direct), ask(&self.proxied));
        assert_eq!(direct[0], proxied[0], "{target}");
        assert_eq!(direct[1], proxied[1], "{target}");
        proxied
    }

    fn status(&self, target: &str) -> u16 {
        Response::to(&self.proxied, "GET", target, b"").status
    }
}

fn all_recipes() -> Vec<(&'static str, &'static str)> {
    RECIPES.iter().map(|r| (r.name, r.lines)).collect()
}

fn parameters_that_nginx_sends_twice_reach_php_as_without_the_proxy(engine: Engine) {
    let site = Site::start(engine, &all_recipes(), &["--script-suffix", ".php"]);
    let log = site.proxy.process().log();
    for recipe in RECIPES {
        let name = recipe.name;
        let told_before = log.count("with different values");
        let new: Vec<_> = recipe
            .overridden
            .iter()
            .filter(|param| log.count(&format!("param=\"{param}\"")) == 0)
            .collect();
        for _ in 0..3 {
            let shown = site.shown("GET", &format!("/{name}/show.php?a=b"), b"");
            let script = shown[0]["SCRIPT_FILENAME"].as_str().unwrap();
            assert!(script.starts_with(site.root.to_str().unwrap()), "{script}");
            site.shown("POST", &format!("/{name}/show.php?a=b"), b"a=body");
        }
        for param in &new {
            log.wait_for("the parameter and what to do", |line| {
                line.contains(&format!("param=\"{param}\""))
                    && line.contains(" ignored=\"")
                    && line.contains(" counted=\"")
                    && line.contains(&format!("keep one fastcgi_param {param} "))
            });
        }
        // Once for each, whatever comes again.
        let told = log.count("with different values") - told_before;
        assert_eq!(told, new.len(), "{name}: {:#?}", log.lines());
    }
    let shown = site.shown("GET", "/path-info/show.php/a/b.jpg", b"");
    assert_eq!(shown[0]["PATH_INFO"], "/a/b.jpg");
    let scrape = site.proxy.scrape();
    let name = "spliceway_fastcgi_overridden_params_total";
    assert_eq!(scrape.sum(name, &["param=\"QUERY_STRING\""]), 6.0);
    assert_eq!(scrape.sum(name, &["param=\"REMOTE_ADDR\""]), 6.0);
    assert_eq!(scrape.sum(name, &["param=\"PATH_INFO\""]), 0.0);
    assert_eq!(
        site.proxy.status()["routes"][0]["fastcgi"]["overridden_params"]["QUERY_STRING"],
        6
    );
}

fn a_second_copy_is_a_403_where_that_is_asked_for(engine: Engine) {
    let site = Site::start(engine, &all_recipes(), &["--duplicates", "reject"]);
    assert_eq!(site.status("/included/show.php"), 200);
    for name in ["script-filename-again", "https", "real-ip"] {
        assert_eq!(site.status(&format!("/{name}/show.php")), 403);
    }
    let log = site.proxy.process().log();
    log.wait_for("the parameter and what to do", |line| {
        line.contains("rule=duplicate param=\"SCRIPT_FILENAME\"")
            && line.contains("pass with --duplicates last")
    });
}

/// As the recipes of Magento, Pterodactyl and phpMyAdmin have them.
fn settings_of_php_reach_it_where_they_are_allowed(engine: Engine) {
    let recipes = [
        (
            "magento",
            "include fastcgi_params;
             fastcgi_param SCRIPT_FILENAME $document_root$fastcgi_script_name;
             fastcgi_param PHP_VALUE \"memory_limit=756M \\n max_execution_time=18000\";",
        ),
        (
            "basedir",
            "include fastcgi_params;
             fastcgi_param SCRIPT_FILENAME $document_root$fastcgi_script_name;
             fastcgi_param PHP_ADMIN_VALUE \"open_basedir=$document_root/:/tmp/\";",
        ),
        (
            "prepend",
            "include fastcgi_params;
             fastcgi_param SCRIPT_FILENAME $document_root$fastcgi_script_name;
             fastcgi_param PHP_VALUE \"memory_limit=1G \\n auto_prepend_file=/etc/passwd\";",
        ),
    ];
    let args = [
        "--allow-php-setting",
        "memory_limit,max_execution_time",
        "--allow-php-setting",
        "open_basedir",
    ];
    let site = Site::start(engine, &recipes, &args);
    let shown = site.shown("GET", "/magento/show.php", b"");
    assert_eq!(
        (&shown[2][0], &shown[2][1]),
        (&"756M".into(), &"18000".into())
    );
    let shown = site.shown("GET", "/basedir/show.php", b"");
    let expected = format!("{}/:/tmp/", site.root.display());
    assert_eq!(shown[2][2], expected);
    assert_eq!(site.status("/prepend/show.php"), 403);
    let log = site.proxy.process().log();
    log.wait_for("the parameter and what to do", |line| {
        line.contains("rule=php_value param=\"PHP_VALUE\"")
            && line.contains("remove fastcgi_param PHP_VALUE")
            && line.contains("--allow-php-setting")
    });
}

fn a_release_behind_a_symbolic_link_is_under_its_root(engine: Engine) {
    let recipes = [(
        "real-root",
        "include fastcgi.conf;
         fastcgi_param SCRIPT_FILENAME $realpath_root$fastcgi_script_name;
         fastcgi_param DOCUMENT_ROOT $realpath_root;",
    )];
    let releases = || {
        let dir = fresh_dir();
        fs::create_dir_all(dir.path().join("releases/42")).unwrap();
        symlink("releases/42", dir.path().join("current")).unwrap();
        dir
    };
    let site = Site::start_in(releases(), engine, &recipes, &[]);
    assert_eq!(site.status("/real-root/show.php"), 403);
    site.proxy
        .process()
        .log()
        .wait_for("what to do", |line| line.contains("--resolve-script-root"));

    let site = Site::start_in(releases(), engine, &recipes, &["--resolve-script-root"]);
    let shown = site.shown("GET", "/real-root/show.php", b"");
    let real = site.dir.path().canonicalize().unwrap().join("releases/42");
    assert_eq!(shown[0]["DOCUMENT_ROOT"], real.to_str().unwrap());
    // It was looked at once.
    let elsewhere = site.dir.path().join("releases/43");
    fs::create_dir_all(elsewhere.join("real-root")).unwrap();
    fs::write(elsewhere.join("real-root/show.php"), SHOW_PHP).unwrap();
    fs::remove_file(&site.root).unwrap();
    symlink("releases/43", &site.root).unwrap();
    assert_eq!(site.status("/real-root/show.php"), 403);
}

fn a_script_with_path_info_has_a_path_translated_without_its_suffix(engine: Engine) {
    let recipes = [(
        "info",
        "include fastcgi.conf;
         fastcgi_split_path_info ^(.+?\\.php)(/.*)$;
         fastcgi_param SCRIPT_FILENAME $document_root$fastcgi_script_name;
         fastcgi_param PATH_INFO $fastcgi_path_info;
         fastcgi_param PATH_TRANSLATED $document_root$fastcgi_path_info;",
    )];
    let site = Site::start(engine, &recipes, &["--script-suffix", ".php"]);
    for info in ["", "/", "/article/7", "/picture.jpg"] {
        let shown = site.shown("GET", &format!("/info/show.php{info}"), b"");
        let expected = format!("{}{info}", site.root.display());
        assert_eq!(shown[0]["PATH_TRANSLATED"], expected);
    }
}

/// nginx makes one record of all parameters, of 64 KiB at most; Apache makes several.
fn headers_of_200_kilobytes_are_served_and_more_are_a_431(engine: Engine) {
    let site = Site::start(engine, &all_recipes()[..1], &["--script-suffix", ".php"]);
    let apache = fresh_endpoint();
    let config = format!(
        "DocumentRoot {root}\n\
        LimitRequestFieldSize 65536\n\
        <FilesMatch \"\\.php$\">\n\
        SetHandler \"proxy:unix:{proxy}|fcgi://localhost/\"\n\
        </FilesMatch>\n",
        root = site.root.display(),
        proxy = site.proxy.socket().display(),
    );
    let _apache = start_apache(site.dir.path(), &config, &apache);
    let ask = |kilobytes: usize| {
        let mut stream = TcpStream::connect((&*apache.0, apache.1)).unwrap();
        stream.set_read_timeout(Some(GUARD)).unwrap();
        // With PATH_INFO, of which Apache makes a PATH_TRANSLATED without the suffix.
        let mut request = "GET /included/show.php/a/b HTTP/1.0\r\nHost: localhost\r\n".to_owned();
        for number in 0..kilobytes / 5 {
            request += &format!("X-Long-{number}: {}\r\n", "x".repeat(5 * 1024));
        }
        stream.write_all((request + "\r\n").as_bytes()).unwrap();
        let mut response = Vec::new();
        stream.read_to_end(&mut response).unwrap();
        Response::parse(&response)
    };
    let long = ask(200);
    let shown: Value = serde_json::from_str(long.text()).unwrap();
    let of = |name: &str| shown[0][name].as_str().unwrap_or_default();
    assert_eq!(of("HTTP_X_LONG_39").len(), 5 * 1024);
    assert_eq!(of("PATH_INFO"), "/a/b");
    assert!(of("PATH_TRANSLATED").ends_with("/a/b"), "{shown}");
    assert_eq!(ask(300).status, 431);
    let log = site.proxy.process().log();
    log.wait_for("the option to be raised", |line| {
        line.contains("cause=\"params_too_long\"") && line.contains("--params-max")
    });
    let scrape = site.proxy.scrape();
    let errors = "spliceway_fastcgi_protocol_errors_total";
    assert_eq!(scrape.sum(errors, &["cause=\"params_too_long\""]), 1.0);
}

#[test]
fn a_script_root_that_leads_nowhere_stops_the_start() {
    let options = [
        "--protocol",
        "fastcgi",
        "--script-root",
        "/nonexistent/current",
    ];
    let outcome = Proxy::builder()
        .backend("127.0.0.1:9")
        .args(options)
        .args(["--resolve-script-root"])
        .run_to_the_end();
    outcome.assert_error_line(
        1,
        &[
            "resolve the script root /nonexistent/current",
            "ENOENT",
            "remove --resolve-script-root",
        ],
    );
}
