//! lighttpd in front, with mod_fastcgi: `{php}` is the two or three settings that say where PHP is.

use super::recipe::{Recipe, get, other, post, put, put_chunked, status, upload};

#[rustfmt::skip]
pub(crate) const RECIPES: &[Recipe] = &[
    Recipe {
        name: "Debian's PHP-FPM",
        particular: "`broken-scriptfilename`, as Debian has it and as above",
        root: "public",
        files: &["public/index.php", "public/sub/page.php", "public/note.txt"],
        lines: "
            index-file.names = ( \"index.php\" )
            fastcgi.server = ( \".php\" => (( {php}, \"broken-scriptfilename\" => \"enable\" )) )",
        requests: &[
            get("/?q=a%20b&q=c", "public/index.php"),
            get("/sub/page.php/x/y?k=v", "public/sub/page.php").sees(&[("PATH_INFO", "/x/y")]),
            get("/index.php", "public/index.php").with(&["Authorization: Basic YWxpY2U6c2VjcmV0"]).sees(&[("PHP_AUTH_USER", "alice")]),
            post("/sub/page.php", "public/sub/page.php"),
            upload("/index.php", "public/index.php", 70_000),
            put_chunked("/index.php", "public/index.php", 20_000),
            other("HEAD", "/", "public/index.php"),
            status("/note.txt", 200),
            status("/none.php", 404),
        ],
        ..Recipe::NEW
    },
    Recipe {
        name: "Plain",
        particular: "without `broken-scriptfilename`",
        files: &["index.php"],
        lines: "fastcgi.server = ( \".php\" => (( {php} )) )",
        requests: &[get("/index.php?x=1", "index.php"), get("/index.php/a/b", "index.php"), post("/index.php", "index.php")],
        ..Recipe::NEW
    },
    Recipe {
        name: "WordPress",
        particular: "`url.rewrite-if-not-file`",
        files: &["index.php", "wp-login.php"],
        lines: "
            index-file.names = ( \"index.php\" )
            url.rewrite-if-not-file = ( \"^/[^\\?]*(\\?.*)?$\" => \"/index.php$1\" )
            fastcgi.server = ( \".php\" => (( {php}, \"broken-scriptfilename\" => \"enable\" )) )",
        requests: &[
            get("/2024/hello/?replytocom=3", "index.php").sees(&[("QUERY_STRING", "replytocom=3")]),
            post("/wp-login.php", "wp-login.php"),
        ],
        ..Recipe::NEW
    },
    Recipe {
        name: "CodeIgniter",
        particular: "`url.rewrite-once` to `index.php/…`",
        files: &["index.php"],
        lines: "
            url.rewrite-once = ( \"^/(?!index\\.php)(.*)$\" => \"/index.php/$1\" )
            fastcgi.server = ( \".php\" => (( {php}, \"broken-scriptfilename\" => \"enable\" )) )",
        requests: &[
            get("/news/local/123?x=1", "index.php").sees(&[("PATH_INFO", "/news/local/123")]),
            put("/items/1", "index.php", 30_000),
        ],
        ..Recipe::NEW
    },
    Recipe {
        name: "Without a check",
        particular: "`check-local disable`: the files are elsewhere, by `docroot`",
        root: "empty",
        files: &["empty/x.txt", "elsewhere/index.php"],
        lines: "
            fastcgi.server = ( \"/index.php\" => ((
                {php}, \"check-local\" => \"disable\", \"docroot\" => \"{app}/elsewhere\",
                \"broken-scriptfilename\" => \"enable\"
            )) )",
        script_roots: &["elsewhere"],
        requests: &[get("/index.php/a/b?c=d", "elsewhere/index.php"), post("/index.php", "elsewhere/index.php")],
        ..Recipe::NEW
    },
    Recipe {
        name: "Everything to one script",
        particular: "`/` with `fix-root-scriptname`: SCRIPT_NAME empty, the path in PATH_INFO",
        root: "public",
        files: &["public/index.php"],
        lines: "
            fastcgi.server = ( \"/\" => ((
                {php}, \"check-local\" => \"disable\", \"fix-root-scriptname\" => \"enable\",
                \"docroot\" => \"{root}/index.php\"
            )) )",
        requests: &[get("/", "public/index.php"), get("/a/b?c=d", "public/index.php"), post("/form", "public/index.php")],
        ..Recipe::NEW
    },
    Recipe {
        name: "Subdirectory",
        particular: "`strip-request-uri`",
        files: &["app/index.php"],
        lines: "
            fastcgi.server = ( \".php\" => (( {php}, \"strip-request-uri\" => \"/app\" )) )",
        requests: &[get("/app/index.php/x?y=z", "app/index.php")],
        ..Recipe::NEW
    },
    Recipe {
        name: "phpMyAdmin",
        particular: "`alias.url`",
        files: &["share/index.php"],
        lines: "
            index-file.names = ( \"index.php\" )
            alias.url = ( \"/phpmyadmin\" => \"{app}/share\" )
            fastcgi.server = ( \".php\" => (( {php}, \"broken-scriptfilename\" => \"enable\" )) )",
        script_roots: &["share"],
        requests: &[get("/phpmyadmin/?a=b", "share/index.php"), post("/phpmyadmin/index.php", "share/index.php")],
        ..Recipe::NEW
    },
    Recipe {
        name: "Basic authentication",
        particular: "mod_auth: REMOTE_USER and AUTH_TYPE; mod_setenv",
        files: &["index.php"],
        texts: &[("passwords", "alice:secret\n")],
        lines: "
            auth.backend = \"plain\"
            auth.backend.plain.userfile = \"{app}/passwords\"
            auth.require = ( \"/\" => ( \"method\" => \"basic\", \"realm\" => \"test\", \"require\" => \"valid-user\" ) )
            setenv.add-environment = ( \"APP_ENV\" => \"prod\" )
            fastcgi.server = ( \".php\" => (( {php} )) )",
        requests: &[
            get("/index.php", "index.php").with(&["Authorization: Basic YWxpY2U6c2VjcmV0"])
                .sees(&[("REMOTE_USER", "alice"), ("AUTH_TYPE", "Basic"), ("APP_ENV", "prod")]),
            status("/index.php", 401),
        ],
        ..Recipe::NEW
    },
    Recipe {
        name: "Behind TLS",
        particular: "mod_extforward",
        files: &["index.php"],
        lines: "
            extforward.forwarder = ( \"all\" => \"trust\" )
            extforward.headers = ( \"X-Forwarded-For\" )
            setenv.add-environment = ( \"HTTPS\" => \"on\" )
            fastcgi.server = ( \".php\" => (( {php} )) )",
        requests: &[
            get("/index.php", "index.php").with(&["X-Forwarded-For: 192.0.2.5", "X-Forwarded-Proto: https"])
                .sees(&[("REMOTE_ADDR", "192.0.2.5"), ("HTTPS", "on")]),
        ],
        ..Recipe::NEW
    },
    Recipe {
        name: "X-Sendfile",
        particular: "`x-sendfile`: the file that PHP names",
        files: &["index.php", "data/secret.pdf"],
        lines: "
            fastcgi.server = ( \".php\" => (( {php}, \"x-sendfile\" => \"enable\", \"x-sendfile-docroot\" => ( \"{app}/data\" ) )) )",
        requests: &[status("/index.php?X-Sendfile={app}/data/secret.pdf", 200), get("/index.php", "index.php")],
        ..Recipe::NEW
    },
];
