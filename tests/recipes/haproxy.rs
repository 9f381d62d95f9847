//! HAProxy in front, with an `fcgi-app`: the lines are its own, those around stand in the backend.

use super::recipe::{Recipe, get, other, post, put, put_chunked, upload};

#[rustfmt::skip]
pub(crate) const RECIPES: &[Recipe] = &[
    Recipe {
        name: "fcgi-app",
        particular: "`docroot`, `index` and `path-info`",
        files: &["index.php", "sub/page.php"],
        lines: "
            docroot {root}
            index index.php
            path-info ^(/.+\\.php)(/.*)?$",
        requests: &[
            get("/?q=a%20b&q=c", "index.php"),
            get("/sub/page.php/x/y?k=v", "sub/page.php").sees(&[("PATH_INFO", "/x/y"), ("SCRIPT_NAME", "/sub/page.php")]),
            get("/index.php", "index.php").with(&["Authorization: Basic YWxpY2U6c2VjcmV0", "Cookie: a=b"]),
            post("/sub/page.php", "sub/page.php"),
            upload("/index.php", "index.php", 70_000),
            put_chunked("/index.php", "index.php", 5_000),
            other("HEAD", "/", "index.php"),
        ],
        ..Recipe::NEW
    },
    Recipe {
        name: "Kept connections",
        particular: "`option keep-conn`, as above",
        root: "public",
        files: &["public/index.php"],
        lines: "
            docroot {root}
            option keep-conn
            index index.php
            path-info ^(/.+\\.php)(/.*)?$",
        requests: &[
            get("/", "public/index.php"),
            post("/index.php/a", "public/index.php"),
            put("/index.php", "public/index.php", 70_000),
            get("/?answer=404", "public/index.php"),
            get("/index.php", "public/index.php"),
        ],
        ..Recipe::NEW
    },
    Recipe {
        name: "WordPress",
        particular: "front controller by `http-request set-path`",
        files: &["index.php", "wp-login.php"],
        around: "http-request set-path /index.php if !{ path_end .php }",
        lines: "
            docroot {root}
            path-info ^(/.+\\.php)(/.*)?$",
        requests: &[get("/2024/hello/?p=1", "index.php"), post("/wp-login.php", "wp-login.php")],
        ..Recipe::NEW
    },
    Recipe {
        name: "Symfony",
        particular: "the path becomes PATH_INFO; `set-param`",
        root: "public",
        files: &["public/index.php"],
        around: "http-request set-path /index.php%[path] if !{ path_beg /index.php }",
        lines: "
            docroot {root}
            index index.php
            path-info ^(/.+\\.php)(/.*)?$
            set-param APP_ENV prod
            set-param HTTPS on
            set-param REQUEST_URI %[path]
            pass-header Authorization",
        requests: &[
            get("/blog/post?page=2", "public/index.php").sees(&[("PATH_INFO", "/blog/post"), ("APP_ENV", "prod"), ("HTTPS", "on")]),
            post("/index.php/form", "public/index.php").with(&["Authorization: Basic YWxpY2U6c2VjcmV0"]),
        ],
        ..Recipe::NEW
    },
    Recipe {
        name: "Behind TLS",
        particular: "REMOTE_ADDR by a header, which `set-param` sets again",
        files: &["index.php"],
        around: "http-request set-header X-Forwarded-Proto https",
        lines: "
            docroot {root}
            set-param REMOTE_ADDR %[req.hdr(x-forwarded-for)]
            set-param HTTPS on",
        requests: &[
            get("/index.php", "index.php").with(&["X-Forwarded-For: 192.0.2.5"]).sees(&[("REMOTE_ADDR", "192.0.2.5"), ("HTTPS", "on")]),
        ],
        ..Recipe::NEW
    },
    Recipe {
        name: "PHP_VALUE",
        particular: "`set-param PHP_VALUE`",
        files: &["index.php"],
        lines: "
            docroot {root}
            set-param PHP_VALUE memory_limit=256M",
        needs: &["--allow-php-setting memory_limit"],
        settings: &[("memory_limit", "256M")],
        requests: &[get("/index.php", "index.php"), post("/index.php", "index.php")],
        ..Recipe::NEW
    },
];
