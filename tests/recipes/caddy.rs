//! Caddy in front, with `php_fastcgi`.

use super::recipe::{Recipe, get, other, post, put, status, upload};

#[rustfmt::skip]
pub(crate) const RECIPES: &[Recipe] = &[
    Recipe {
        name: "php_fastcgi",
        particular: "the directive alone, with `file_server`, as above",
        root: "public",
        files: &["public/index.php", "public/sub/page.php", "public/sub2/index.php", "public/note.txt"],
        lines: "
            php_fastcgi {php}
            file_server",
        requests: &[
            get("/?q=a%20b&q=c", "public/index.php"),
            get("/any/path%20here?x=1", "public/index.php"),
            get("/sub/page.php/x/y?k=v", "public/sub/page.php").sees(&[("PATH_INFO", "/x/y")]),
            get("/sub2/", "public/sub2/index.php"),
            get("/index.php", "public/index.php").with(&["Authorization: Basic YWxpY2U6c2VjcmV0"]).sees(&[("PHP_AUTH_USER", "alice")]),
            post("/sub/page.php", "public/sub/page.php"),
            upload("/index.php", "public/index.php", 70_000),
            put("/index.php/file", "public/index.php", 100_000),
            other("HEAD", "/", "public/index.php"),
            other("OPTIONS", "/x", "public/index.php"),
            status("/note.txt", 200),
            status("/sub2", 308),
        ],
        ..Recipe::NEW
    },
    Recipe {
        name: "Laravel",
        particular: "document root `public`, `encode`",
        root: "public",
        files: &["public/index.php"],
        lines: "
            encode gzip
            php_fastcgi {php}
            file_server",
        requests: &[get("/dashboard?tab=1", "public/index.php"), post("/login", "public/index.php")],
        ..Recipe::NEW
    },
    Recipe {
        name: "Symbolic link",
        particular: "`resolve_root_symlink`",
        root: "current/public",
        files: &["releases/7/public/index.php"],
        links: &[("current", "releases/7")],
        lines: "
            php_fastcgi {php} {
                resolve_root_symlink
            }",
        script_roots: &["releases"],
        requests: &[get("/a?b=c", "releases/7/public/index.php"), get("/index.php/x", "releases/7/public/index.php")],
        ..Recipe::NEW
    },
    Recipe {
        name: "Nextcloud",
        particular: "`env front_controller_active`, redirects",
        files: &["index.php", "remote.php", "ocs/v2.php"],
        lines: "
            php_fastcgi {php} {
                env front_controller_active true
                env modHeadersAvailable true
            }
            redir /.well-known/carddav /remote.php/dav 301
            @forbidden path /.htaccess /data/* /config/* /lib/* /console.php
            respond @forbidden 404
            file_server",
        requests: &[
            get("/apps/files/", "index.php").sees(&[("front_controller_active", "true")]),
            get("/ocs/v2.php/cloud/user?format=json", "ocs/v2.php"),
            put("/remote.php/dav/files/alice/x%20y.bin", "remote.php", 150_000),
            other("PROPFIND", "/remote.php/dav/", "remote.php").with(&["Depth: 0"]),
            status("/.well-known/carddav", 301),
            status("/data/x", 404),
        ],
        ..Recipe::NEW
    },
    Recipe {
        name: "WordPress in a subdirectory",
        particular: "`handle_path`: the script's name lacks the prefix",
        files: &["blog/index.php"],
        lines: "
            handle_path /blog/* {
                root * {root}/blog
                php_fastcgi {php}
                file_server
            }
            respond 404",
        requests: &[get("/blog/2024/hello/?p=1", "blog/index.php"), post("/blog/index.php", "blog/index.php")],
        ..Recipe::NEW
    },
    Recipe {
        name: "Split elsewhere",
        particular: "`split .php .inc`, another index, `try_files` of its own",
        files: &["front.php", "a.inc.php"],
        lines: "
            php_fastcgi {php} {
                split .inc.php .php
                index front.php
                try_files {path} front.php
                env APP_ENV production
            }",
        requests: &[
            get("/x/y", "front.php").sees(&[("APP_ENV", "production")]),
            get("/a.inc.php/info", "a.inc.php").sees(&[("PATH_INFO", "/info")]),
        ],
        ..Recipe::NEW
    },
    Recipe {
        name: "MediaWiki",
        particular: "`rewrite` to a script with PATH_INFO",
        files: &["w/index.php", "w/api.php"],
        lines: "
            @wiki path_regexp title ^/wiki/(.*)$
            rewrite @wiki /w/index.php/{re.title.1}
            php_fastcgi {php}",
        requests: &[get("/wiki/Talk:A_B?action=edit", "w/index.php"), post("/w/api.php", "w/api.php")],
        ..Recipe::NEW
    },
    Recipe {
        name: "Expanded",
        particular: "`reverse_proxy` with `transport fastcgi`, without `php_fastcgi`",
        files: &["index.php"],
        lines: "
            @php path *.php *.php/*
            rewrite / /index.php
            reverse_proxy @php {php} {
                transport fastcgi {
                    root {root}
                    split .php
                    env HTTPS on
                }
                header_up -X-Secret
            }",
        requests: &[
            get("/?x=1", "index.php").sees(&[("HTTPS", "on")]),
            get("/index.php/a", "index.php").with(&["X-Secret: 1"]),
        ],
        ..Recipe::NEW
    },
    Recipe {
        name: "Behind TLS",
        particular: "`trusted_proxies`, basic authentication",
        files: &["index.php"],
        lines: "
            basicauth {
                alice $2y$04$jpujm/6E3a3FveRm7pfLR.P4SAfCeyVH714w0NPn07Gr2.b/jhQPi
            }
            php_fastcgi {php} {
                trusted_proxies private_ranges
                env HTTPS on
            }",
        requests: &[
            get("/x", "index.php")
                .with(&["Authorization: Basic YWxpY2U6c2VjcmV0", "X-Forwarded-Proto: https", "X-Forwarded-For: 192.0.2.5"])
                .sees(&[("HTTPS", "on"), ("HTTP_X_FORWARDED_PROTO", "https"), ("REMOTE_USER", "alice")]),
            status("/x", 401),
        ],
        ..Recipe::NEW
    },
    Recipe {
        name: "PHP_VALUE",
        particular: "`env PHP_VALUE`",
        files: &["index.php"],
        lines: "
            php_fastcgi {php} {
                env PHP_VALUE \"memory_limit=256M\"
            }",
        needs: &["--allow-php-setting memory_limit"],
        settings: &[("memory_limit", "256M")],
        requests: &[get("/", "index.php"), get("/index.php/x", "index.php")],
        ..Recipe::NEW
    },
];
