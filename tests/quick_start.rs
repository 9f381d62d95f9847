//! The set-ups of README.md and docs/quick-start.md as they stand there, with other paths and addresses: nginx, spliceway
//! and PHP-FPM.

// The behaviours are not `#[test]` functions themselves: the macro makes those of them.
#![allow(clippy::unwrap_used)]

mod common;

use std::fs;
use std::os::unix::fs::PermissionsExt;

use common::http::{Response, file};
use common::programs::{fresh_endpoint, start_fpm, start_nginx, temp_paths};
use common::proxy::fresh_dir;
use common::sys::is_root;
use common::{Engine, Proxy, for_each_engine};

for_each_engine!(
    the_quick_start_serves_a_page,
    the_file_of_the_quick_start_serves_a_page,
    the_relay_of_the_readme_serves_a_page,
    the_fastcgi_mode_of_the_readme_serves_a_page,
);

const GREET_PHP: &str = "<?php echo 'hello, ', $_GET['name'], \"\\n\";";

fn the_quick_start_serves_a_page(engine: Engine) {
    let page = file("docs/quick-start.md");
    serves_a_page(
        engine,
        &block(&page, "nginx", 0),
        &Setup::Options(&options(&page, 0)),
    );
}

fn the_file_of_the_quick_start_serves_a_page(engine: Engine) {
    let page = file("docs/quick-start.md");
    serves_a_page(
        engine,
        &block(&page, "nginx", 0),
        &Setup::File(&block(&page, "toml", 0)),
    );
}

fn the_relay_of_the_readme_serves_a_page(engine: Engine) {
    let page = section(&file("README.md"), "## nginx and PHP-FPM");
    serves_a_page(
        engine,
        &block(&page, "nginx", 0),
        &Setup::Options(&options(&page, 0)),
    );
}

fn the_fastcgi_mode_of_the_readme_serves_a_page(engine: Engine) {
    let page = section(&file("README.md"), "## FastCGI mode");
    serves_a_page(
        engine,
        &block(&page, "nginx", 0),
        &Setup::Options(&options(&page, 0)),
    );
}

/// What the proxy is started with.
enum Setup<'a> {
    /// The words behind `spliceway run`.
    Options(&'a [String]),
    /// A configuration file.
    File(&'a str),
}

fn serves_a_page(engine: Engine, nginx: &str, setup: &Setup<'_>) {
    let dir = fresh_dir();
    let path = dir.path();
    // spliceway makes its sockets there.
    fs::create_dir_all(path.join("app/public")).unwrap();
    fs::create_dir(path.join("run")).unwrap();
    fs::set_permissions(path.join("run"), fs::Permissions::from_mode(0o755)).unwrap();
    fs::write(path.join("app/public/greet.php"), GREET_PHP).unwrap();

    let endpoint = fresh_endpoint();
    let backend = format!("{}:{}", endpoint.0, endpoint.1);
    let here = |text: &str| {
        text.replace("/run/spliceway/", &format!("{}/run/", path.display()))
            .replace("/srv/app/", &format!("{}/app/", path.display()))
            .replace("php.internal:9000", &backend)
    };
    let _fpm = start_fpm(path, &endpoint);
    let builder = Proxy::builder().engine(engine);
    let builder = match setup {
        Setup::File(content) => builder.config(&without_group(&here(content))),
        Setup::Options(words) => {
            let words: Vec<_> = words.iter().map(|word| here(word)).collect();
            let listener = words.iter().position(|word| word == "--listen").unwrap();
            let mut rest: Vec<_> = words.iter().map(String::as_str).collect();
            rest.drain(listener..listener + 2);
            let builder = builder.listen(&words[listener + 1]);
            builder.args(rest)
        }
    };
    let _proxy = builder.start();

    let front = path.join("http.sock");
    let server = here(nginx)
        .replace("listen 80;", &format!("listen unix:{};", front.display()))
        .replace(
            "include fastcgi_params;",
            "include /etc/nginx/fastcgi_params;",
        );
    let config = format!("http {{ access_log off; {} {server} }}", temp_paths(path));
    let _nginx = start_nginx(path, &config, &front);
    for name in ["world", "again"] {
        let response = Response::to(&front, "GET", &format!("/greet.php?name={name}"), b"");
        assert_eq!(response.text(), format!("hello, {name}\n"));
    }
}

/// Only root may give a socket to a group that it does not belong to.
fn without_group(file: &str) -> String {
    let is_kept = |line: &&str| is_root() || !line.starts_with("group =");
    file.lines()
        .filter(is_kept)
        .map(|line| format!("{line}\n"))
        .collect()
}

/// What stands below this heading of the second level.
fn section(page: &str, heading: &str) -> String {
    let (_, rest) = page.split_once(&format!("{heading}\n")).unwrap();
    rest.split("\n## ").next().unwrap().to_owned()
}

/// The code block of this language with this number.
fn block(page: &str, language: &str, number: usize) -> String {
    let rest = page.split(&format!("```{language}\n")).nth(number + 1);
    rest.unwrap().split("```").next().unwrap().to_owned()
}

/// The words behind the `spliceway run` with this number.
fn options(page: &str, number: usize) -> Vec<String> {
    let command = page.split("spliceway run ").nth(number + 1).unwrap();
    let command = command.split("\n```").next().unwrap().replace("\\\n", " ");
    let mut words = command.split_whitespace().map(str::to_owned);
    let mut options = Vec::new();
    while let Some(word) = words.next() {
        match &*word {
            "--group" if !is_root() => drop(words.next()),
            _ => options.push(word),
        }
    }
    options
}
