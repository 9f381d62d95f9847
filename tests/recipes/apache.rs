//! Apache in front, with mod_proxy_fcgi: `{php}` is what stands behind `proxy:` for a handler, and in
//! front of a path for ProxyPassMatch.

use super::recipe::{Recipe, get, other, post, put, put_chunked, status, upload};

#[rustfmt::skip]
pub(crate) const RECIPES: &[Recipe] = &[
    Recipe {
        name: "Handler",
        particular: "`SetHandler` for files in `.php`, as Debian has it",
        files: &["index.php", "sub/page.php", "note.txt"],
        lines: "
            DirectoryIndex index.php
            SetEnvIfNoCase ^Authorization$ \"(.+)\" HTTP_AUTHORIZATION=$1
            <FilesMatch \".+\\.ph(?:ar|p|tml)$\">
                SetHandler \"proxy:{php}\"
            </FilesMatch>
            <FilesMatch \"^\\.ph(?:ar|p|ps|tml)$\">
                Require all denied
            </FilesMatch>",
        requests: &[
            get("/?q=a%20b&q=c", "index.php"),
            get("/sub/page.php/x/y?k=v", "sub/page.php").sees(&[("PATH_INFO", "/x/y")]),
            get("/index.php", "index.php").with(&["Authorization: Basic YWxpY2U6c2VjcmV0"]).sees(&[("PHP_AUTH_USER", "alice")]),
            post("/sub/page.php", "sub/page.php"),
            upload("/index.php", "index.php", 70_000),
            put_chunked("/index.php", "index.php", 50_000),
            other("HEAD", "/", "index.php"),
            status("/note.txt", 200),
            status("/none.php", 404),
        ],
        ..Recipe::NEW
    },
    Recipe {
        name: "Handler, kept connections",
        particular: "the same with `enablereuse=on`, as above",
        root: "public",
        files: &["public/index.php"],
        around: "
            <Proxy \"{worker}\">
                ProxySet enablereuse=on max=10
            </Proxy>",
        lines: "
            DirectoryIndex index.php
            <FilesMatch \\.php$>
                SetHandler \"proxy:{php}\"
            </FilesMatch>",
        // Its worker would be that of all set-ups with this address.
        apart: true,
        requests: &[
            get("/", "public/index.php"),
            post("/index.php/a/b%20c", "public/index.php").sees(&[("PATH_INFO", "/a/b c")]),
            put("/index.php", "public/index.php", 100_000),
            get("/index.php?x=1&answer=404", "public/index.php"),
            get("/index.php/last", "public/index.php"),
        ],
        ..Recipe::NEW
    },
    Recipe {
        name: "ProxyPassMatch",
        particular: "paths in `.php` go to the document root's",
        files: &["index.php", "a/b.php"],
        lines: "
            DirectoryIndex index.php
            ProxyPassMatch \"^/(.*\\.php(/.*)?)$\" \"{php}{root}/$1\"",
        apart: true,
        requests: &[
            get("/index.php?x=%2F", "index.php"),
            get("/a/b.php/c/d", "a/b.php"),
            post("/a/b.php", "a/b.php"),
        ],
        ..Recipe::NEW
    },
    Recipe {
        name: "ProxyPassMatch, kept connections",
        particular: "the same with `enablereuse=on`",
        files: &["index.php"],
        lines: "ProxyPassMatch \"^/(.*\\.php(/.*)?)$\" \"{php}{root}/$1\" enablereuse=on max=4",
        apart: true,
        requests: &[
            get("/index.php/x?y=z", "index.php"),
            post("/index.php", "index.php"),
            put("/index.php", "index.php", 70_000),
            get("/index.php", "index.php"),
        ],
        ..Recipe::NEW
    },
    Recipe {
        name: "Parameters by expression",
        particular: "`ProxyFCGISetEnvIf`: PATH_INFO, SCRIPT_NAME and one of its own; `ProxyFCGIBackendType FPM`",
        files: &["index.php"],
        lines: "
            ProxyFCGIBackendType FPM
            ProxyFCGISetEnvIf \"reqenv('PATH_INFO') =~ m#(/.*)$#\" PATH_INFO \"$1\"
            ProxyFCGISetEnvIf \"true\" HTTPS on
            ProxyFCGISetEnvIf \"true\" APP_ENV prod
            ProxyFCGISetEnvIf \"true\" !SERVER_SIGNATURE
            <FilesMatch \\.php$>
                SetHandler \"proxy:{php}\"
            </FilesMatch>",
        requests: &[get("/index.php/a/b?c", "index.php").sees(&[("APP_ENV", "prod"), ("HTTPS", "on"), ("PATH_INFO", "/a/b")])],
        ..Recipe::NEW
    },
    Recipe {
        name: "Generic backend",
        particular: "`ProxyFCGIBackendType GENERIC`: SCRIPT_FILENAME without the address in front",
        files: &["index.php"],
        lines: "
            ProxyFCGIBackendType GENERIC
            <FilesMatch \\.php$>
                SetHandler \"proxy:{php}\"
            </FilesMatch>",
        requests: &[get("/index.php?a=b", "index.php"), post("/index.php", "index.php")],
        ..Recipe::NEW
    },
    Recipe {
        name: "WordPress",
        particular: "`.htaccess` that rewrites to `/index.php`",
        files: &["index.php", "wp-admin/index.php", "x.txt"],
        texts: &[(".htaccess", "
            RewriteEngine On
            RewriteRule .* - [E=HTTP_AUTHORIZATION:%{HTTP:Authorization}]
            RewriteBase /
            RewriteRule ^index\\.php$ - [L]
            RewriteCond %{REQUEST_FILENAME} !-f
            RewriteCond %{REQUEST_FILENAME} !-d
            RewriteRule . /index.php [L]\n")],
        lines: "
            DirectoryIndex index.php
            <FilesMatch \\.php$>
                SetHandler \"proxy:{php}\"
            </FilesMatch>",
        requests: &[
            get("/2024/hello-world/?x=1", "index.php").sees(&[("REDIRECT_STATUS", "200")]),
            get("/caf%C3%A9/", "index.php"),
            get("/wp-admin/", "wp-admin/index.php"),
            post("/wp-json/wp/v2/posts", "index.php").with(&["Authorization: Bearer abc"]),
            status("/x.txt", 200),
        ],
        ..Recipe::NEW
    },
    Recipe {
        name: "CodeIgniter",
        particular: "rewritten to `index.php/…`: REDIRECT_URL and PATH_INFO together",
        root: "public",
        files: &["public/index.php"],
        texts: &[("public/.htaccess", "
            RewriteEngine On
            RewriteCond %{REQUEST_FILENAME} !-f
            RewriteCond %{REQUEST_FILENAME} !-d
            RewriteRule ^(.*)$ index.php/$1 [L,QSA]\n")],
        lines: "
            DirectoryIndex index.php
            <FilesMatch \\.php$>
                SetHandler \"proxy:{php}\"
            </FilesMatch>",
        requests: &[
            get("/news/local/123?x=1", "public/index.php").sees(&[("PATH_INFO", "/news/local/123")]),
            post("/form", "public/index.php"),
            get("/", "public/index.php"),
        ],
        ..Recipe::NEW
    },
    Recipe {
        name: "Symfony",
        particular: "`FallbackResource`",
        root: "public",
        files: &["public/index.php", "public/robots.txt"],
        lines: "
            <Directory \"{root}\">
                FallbackResource /index.php
            </Directory>
            <FilesMatch \\.php$>
                SetHandler \"proxy:{php}\"
            </FilesMatch>",
        requests: &[
            get("/blog/post?page=2", "public/index.php"),
            other("DELETE", "/api/posts/1", "public/index.php"),
            status("/robots.txt", 200),
        ],
        ..Recipe::NEW
    },
    Recipe {
        name: "Laravel",
        particular: "its `.htaccess`, which passes Authorization on",
        root: "public",
        files: &["public/index.php"],
        texts: &[("public/.htaccess", "
            Options -MultiViews -Indexes
            RewriteEngine On
            RewriteCond %{HTTP:Authorization} .
            RewriteRule .* - [E=HTTP_AUTHORIZATION:%{HTTP:Authorization}]
            RewriteCond %{REQUEST_FILENAME} !-d
            RewriteCond %{REQUEST_URI} (.+)/$
            RewriteRule ^ %1 [L,R=301]
            RewriteCond %{REQUEST_FILENAME} !-d
            RewriteCond %{REQUEST_FILENAME} !-f
            RewriteRule ^ index.php [L]\n")],
        lines: "
            DirectoryIndex index.php
            <FilesMatch \\.php$>
                SetHandler \"proxy:{php}\"
            </FilesMatch>",
        requests: &[
            get("/dashboard", "public/index.php").with(&["Authorization: Bearer abc"]).sees(&[("HTTP_AUTHORIZATION", "Bearer abc")]),
            status("/dashboard/", 301),
            post("/login", "public/index.php"),
        ],
        ..Recipe::NEW
    },
    Recipe {
        name: "MediaWiki",
        particular: "`Alias` for short URLs: PATH_INFO of a script elsewhere",
        files: &["w/index.php", "w/rest.php"],
        lines: "
            Alias /wiki \"{root}/w/index.php\"
            <FilesMatch \\.php$>
                SetHandler \"proxy:{php}\"
            </FilesMatch>",
        requests: &[
            get("/wiki/Talk:Caf%C3%A9?action=edit", "w/index.php").sees(&[("PATH_INFO", "/Talk:Café")]),
            get("/w/rest.php/v1/page/Earth", "w/rest.php"),
        ],
        ..Recipe::NEW
    },
    Recipe {
        name: "phpMyAdmin",
        particular: "`Alias`, and PHP_ADMIN_VALUE by `ProxyFCGISetEnvIf`",
        files: &["share/index.php"],
        lines: "
            Alias /phpmyadmin \"{app}/share\"
            <Directory \"{app}/share\">
                DirectoryIndex index.php
                <FilesMatch \\.php$>
                    SetHandler \"proxy:{php}\"
                    ProxyFCGISetEnvIf \"true\" PHP_ADMIN_VALUE \"open_basedir={app}/share:/tmp\"
                </FilesMatch>
            </Directory>",
        script_roots: &["share"],
        needs: &["--allow-php-setting open_basedir"],
        settings: &[("open_basedir", "{app}/share:/tmp")],
        requests: &[get("/phpmyadmin/?route=/sql", "share/index.php"), post("/phpmyadmin/index.php", "share/index.php")],
        ..Recipe::NEW
    },
    Recipe {
        name: "Basic authentication",
        particular: "REMOTE_USER, AUTH_TYPE and `CGIPassAuth On`",
        files: &["index.php"],
        texts: &[("passwords", "alice:{SHA}5en6G6MezRroT3XKqkdPOmY/BfQ=\n")],
        lines: "
            <Directory \"{root}\">
                AuthType Basic
                AuthName test
                AuthUserFile \"{app}/passwords\"
                Require valid-user
                CGIPassAuth On
            </Directory>
            <FilesMatch \\.php$>
                SetHandler \"proxy:{php}\"
            </FilesMatch>",
        requests: &[
            get("/index.php/x", "index.php").with(&["Authorization: Basic YWxpY2U6c2VjcmV0"]).sees(&[("REMOTE_USER", "alice"), ("AUTH_TYPE", "Basic")]),
            status("/index.php", 401),
        ],
        ..Recipe::NEW
    },
    Recipe {
        name: "Error documents",
        particular: "`ErrorDocument` by PHP: REDIRECT_STATUS 404",
        files: &["error.php"],
        lines: "
            ErrorDocument 404 /error.php?code=404
            <FilesMatch \\.php$>
                SetHandler \"proxy:{php}\"
            </FilesMatch>",
        requests: &[get("/none?answer=404", "error.php").sees(&[("REDIRECT_STATUS", "404")])],
        ..Recipe::NEW
    },
    Recipe {
        name: "Behind TLS",
        particular: "mod_remoteip, HTTPS by `SetEnvIf`",
        files: &["index.php"],
        lines: "
            RemoteIPHeader X-Forwarded-For
            RemoteIPInternalProxy 127.0.0.0/8
            SetEnvIf X-Forwarded-Proto https HTTPS=on
            <FilesMatch \\.php$>
                SetHandler \"proxy:{php}\"
            </FilesMatch>",
        requests: &[
            get("/index.php", "index.php").with(&["X-Forwarded-Proto: https", "X-Forwarded-For: 192.0.2.5"])
                .sees(&[("HTTPS", "on"), ("REMOTE_ADDR", "192.0.2.5")]),
        ],
        ..Recipe::NEW
    },
    Recipe {
        name: "Symbolic link",
        particular: "the document root is a symbolic link to a release",
        root: "current/public",
        files: &["releases/7/public/index.php"],
        links: &[("current", "releases/7")],
        lines: "
            DirectoryIndex index.php
            <FilesMatch \\.php$>
                SetHandler \"proxy:{php}\"
            </FilesMatch>",
        requests: &[get("/", "releases/7/public/index.php"), get("/index.php/x", "releases/7/public/index.php")],
        ..Recipe::NEW
    },
];
