//! nginx in front, which keeps its connections, and PHP-FPM behind: upgrades under load fail no request.

use std::fs;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread;

use crate::common::http::Response;
use crate::common::programs::{FPM_WORKERS, WEB_USER, fresh_endpoint, start_fpm_pool, start_nginx};
use crate::common::proxy::fresh_dir;
use crate::common::sys::is_root;
use crate::common::wait::SetOnDrop;
use crate::common::{Engine, eventually};
use crate::stage::{Daemon, route_to, wait_for_end};

const SCRIPT: &str = "<?php usleep(random_int(0, 3000)); echo 'hello, ', $_GET['name'];";

pub(crate) fn nginx_and_php_fpm_do_not_notice_upgrades(engine: Engine) {
    const UPGRADES: usize = 5;
    let (dir, at) = (fresh_dir(), fresh_endpoint());
    fs::write(dir.path().join("hello.php"), SCRIPT).unwrap();
    let _fpm = start_fpm_pool(dir.path(), &at, FPM_WORKERS, "", &[]);
    let group = if is_root() {
        format!("group = \"{WEB_USER}\"")
    } else {
        String::new()
    };
    let more = format!(
        "protocol = \"fastcgi\"\nper-endpoint-max = {FPM_WORKERS}\nqueue-timeout = \"60s\"\nqueue-order = \"fifo\"\n\
        script-root = \"{}\"\n{group}",
        dir.path().display()
    );
    let backend = format!("\"{}:{}\"", at.0, at.1);
    let daemon = Daemon::start(engine, &route_to("php", &backend, &more));
    let front = dir.path().join("http.sock");
    let config = nginx_config(&dir.path().display().to_string(), &daemon);
    let _nginx = start_nginx(dir.path(), &config, &front);
    let (is_over, served) = (AtomicBool::new(false), AtomicUsize::new(0));
    let ask_on = |asker: usize| {
        let _over = SetOnDrop(&is_over);
        while !is_over.load(Ordering::Relaxed) {
            let response = Response::to(&front, "GET", &format!("/hello.php?name={asker}"), b"");
            assert_eq!(response.text(), format!("hello, {asker}"));
            served.fetch_add(1, Ordering::Relaxed);
        }
    };
    let mut pid = daemon.pid();
    thread::scope(|scope| {
        let (over, ask_on) = (SetOnDrop(&is_over), &ask_on);
        for asker in 0..8 {
            scope.spawn(move || ask_on(asker));
        }
        for _ in 0..UPGRADES {
            let before = served.load(Ordering::Relaxed);
            eventually("requests are served", || {
                is_over.load(Ordering::Relaxed) || served.load(Ordering::Relaxed) > before + 50
            });
            assert!(!is_over.load(Ordering::Relaxed), "one of them says why");
            let next = daemon.upgrade();
            // nginx holds none of its connections.
            wait_for_end(pid);
            pid = next;
        }
        drop(over);
    });
}

/// nginx keeps eight connections to the route in each of its workers.
fn nginx_config(dir: &str, daemon: &Daemon) -> String {
    format!(
        "http {{
            access_log off;
            client_body_temp_path {dir}/body;
            fastcgi_temp_path {dir}/fastcgi;
            proxy_temp_path {dir}/proxy;
            uwsgi_temp_path {dir}/uwsgi;
            scgi_temp_path {dir}/scgi;
            upstream php {{
                server unix:{php};
                keepalive 8;
            }}
            server {{
                listen unix:{dir}/http.sock;
                location / {{
                    fastcgi_pass php;
                    fastcgi_keep_conn on;
                    fastcgi_next_upstream off;
                    fastcgi_param SCRIPT_FILENAME {dir}$fastcgi_script_name;
                    fastcgi_param REQUEST_METHOD $request_method;
                    fastcgi_param QUERY_STRING $query_string;
                }}
            }}
        }}",
        php = daemon.socket("php.sock").display(),
    )
}
