//! nginx in front: applications' published set-ups, in our words. `fastcgi_params`, `fastcgi.conf` and
//! `snippets/` are those of Debian.

use super::recipe::{Recipe, get, other, post, put, put_chunked, status, upload};

#[rustfmt::skip]
pub(crate) const RECIPES: &[Recipe] = &[
    Recipe {
        name: "Debian's snippet",
        particular: "`snippets/fastcgi-php.conf` as it is",
        files: &["index.php", "sub/page.php", "note.txt"],
        lines: "
            index index.php;
            location ~ \\.php(/|$) { include snippets/fastcgi-php.conf; fastcgi_pass {php}; }",
        requests: &[
            get("/?q=a%20b&q=c", "index.php"),
            get("/sub/page.php/x/y%2Fz?k=v", "sub/page.php").sees(&[("PATH_INFO", "/x/y/z")]),
            post("/sub/page.php", "sub/page.php"),
            other("HEAD", "/index.php", "index.php"),
            status("/note.txt", 200),
            status("/none.php", 404),
        ],
        ..Recipe::NEW
    },
    Recipe {
        name: "Debian's snippet, real path",
        particular: "`snippets/fastcgi-php.conf`, then SCRIPT_FILENAME and DOCUMENT_ROOT again",
        files: &["index.php"],
        lines: "
            index index.php;
            location ~ \\.php$ {
                include snippets/fastcgi-php.conf;
                fastcgi_param SCRIPT_FILENAME $realpath_root$fastcgi_script_name;
                fastcgi_param DOCUMENT_ROOT $realpath_root;
                fastcgi_pass {php};
            }",
        requests: &[get("/", "index.php"), post("/index.php?a[b]=c", "index.php")],
        ..Recipe::NEW
    },
    Recipe {
        name: "WordPress",
        particular: "front controller by `try_files`",
        files: &["index.php", "wp-login.php", "wp-admin/index.php", "wp-json.txt"],
        lines: "
            index index.php;
            location / { try_files $uri $uri/ /index.php?$args; }
            location ~ \\.php$ {
                include fastcgi_params;
                fastcgi_intercept_errors on;
                fastcgi_param SCRIPT_FILENAME $document_root$fastcgi_script_name;
                fastcgi_pass {php};
            }",
        requests: &[
            get("/2024/05/hello-world/?replytocom=3", "index.php").sees(&[("QUERY_STRING", "replytocom=3")]),
            get("/caf%C3%A9/%E2%82%AC?s=%FF%FE", "index.php"),
            get("/wp-admin/", "wp-admin/index.php").with(&["Cookie: wordpress_test=1; a=b"]),
            post("/wp-login.php?action=login", "wp-login.php"),
            upload("/wp-admin/index.php", "wp-admin/index.php", 70_000),
            status("/wp-json.txt", 200),
        ],
        ..Recipe::NEW
    },
    Recipe {
        name: "WordPress multisite",
        particular: "sites in subdirectories, whose paths are rewritten",
        files: &["index.php", "wp-admin/index.php", "wp-content/x.txt", "wp-includes/ms-files.php"],
        lines: "
            index index.php;
            if (!-e $request_filename) {
                rewrite /wp-admin$ $scheme://$host$uri/ permanent;
                rewrite ^(/[^/]+)?(/wp-.*) $2 last;
                rewrite ^(/[^/]+)?(/.*\\.php) $2 last;
            }
            location ~ ^/[_0-9a-zA-Z-]+/files/(.*)$ {
                try_files /wp-content/blogs.dir/$uri /wp-includes/ms-files.php?file=$1;
            }
            location / { try_files $uri $uri/ /index.php?$args; }
            location ~ \\.php$ {
                try_files $uri =404;
                fastcgi_split_path_info ^(.+\\.php)(/.+)$;
                include fastcgi_params;
                fastcgi_index index.php;
                fastcgi_param SCRIPT_FILENAME $document_root$fastcgi_script_name;
                fastcgi_pass {php};
            }",
        requests: &[
            get("/second/", "index.php"),
            get("/second/wp-admin/index.php?page=1", "wp-admin/index.php"),
            get("/second/files/2024/a.jpg", "wp-includes/ms-files.php"),
            status("/second/wp-content/x.txt", 200),
        ],
        ..Recipe::NEW
    },
    Recipe {
        name: "WordPress in a subdirectory",
        particular: "`/blog/` beside another site",
        files: &["index.php", "blog/index.php", "blog/wp-login.php"],
        lines: "
            index index.php;
            location / { try_files $uri $uri/ =404; }
            location /blog/ { try_files $uri $uri/ /blog/index.php?$args; }
            location ~ \\.php$ {
                include fastcgi.conf;
                fastcgi_param SCRIPT_NAME $fastcgi_script_name;
                fastcgi_pass {php};
            }",
        requests: &[
            get("/blog/a-post/?p=1", "blog/index.php").sees(&[("SCRIPT_NAME", "/blog/index.php")]),
            post("/blog/wp-login.php", "blog/wp-login.php"),
            status("/a-post/", 404),
        ],
        ..Recipe::NEW
    },
    Recipe {
        name: "Drupal",
        particular: "PATH_INFO, QUERY_STRING again, HTTP_PROXY emptied",
        root: "web",
        files: &["web/index.php", "web/update.php", "web/core/install.php"],
        lines: "
            index index.php;
            location / { try_files $uri /index.php?$query_string; }
            location @rewrite { rewrite ^ /index.php; }
            location ~ \\..*/.*\\.php$ { return 403; }
            location ~ ^/sites/.*/private/ { return 403; }
            location ~ '\\.php$|^/update.php' {
                fastcgi_split_path_info ^(.+?\\.php)(|/.*)$;
                try_files $fastcgi_script_name =404;
                include fastcgi_params;
                fastcgi_param HTTP_PROXY \"\";
                fastcgi_param SCRIPT_FILENAME $document_root$fastcgi_script_name;
                fastcgi_param PATH_INFO $fastcgi_path_info;
                fastcgi_param QUERY_STRING $query_string;
                fastcgi_intercept_errors on;
                fastcgi_pass {php};
            }",
        requests: &[
            get("/node/1?destination=/admin", "web/index.php"),
            get("/update.php/selection", "web/update.php"),
            get("/node/2", "web/index.php").with(&["Proxy: http://attacker.test/"]),
            post("/user/login", "web/index.php"),
            status("/sites/default/private/x", 403),
        ],
        ..Recipe::NEW
    },
    Recipe {
        name: "Nextcloud",
        particular: "TLS, HTTPS again, PATH_INFO by a variable, `front_controller_active`",
        files: &["index.php", "remote.php", "ocs/v2.php", "core/x.css"],
        lines: "
            index index.php index.html /index.php$request_uri;
            location = / { if ( $http_user_agent ~ ^DavClnt ) { return 302 /remote.php/webdav/$is_args$args; } }
            location ^~ /.well-known {
                location = /.well-known/carddav { return 301 /remote.php/dav/; }
                return 301 /index.php$request_uri;
            }
            location ~ ^/(?:build|tests|config|lib|3rdparty|templates|data)(?:$|/) { return 404; }
            location ~ \\.php(?:$|/) {
                rewrite ^/(?!index|remote|public|cron|core\\/ajax\\/update|status|ocs\\/v[12]|updater\\/.+|ocs-provider\\/.+|.+\\/richdocumentscode(_arm64)?\\/proxy) /index.php$request_uri;
                fastcgi_split_path_info ^(.+?\\.php)(/.*)$;
                set $path_info $fastcgi_path_info;
                try_files $fastcgi_script_name =404;
                include fastcgi_params;
                fastcgi_param SCRIPT_FILENAME $document_root$fastcgi_script_name;
                fastcgi_param PATH_INFO $path_info;
                fastcgi_param HTTPS on;
                fastcgi_param modHeadersAvailable true;
                fastcgi_param front_controller_active true;
                fastcgi_pass {php};
                fastcgi_intercept_errors on;
                fastcgi_request_buffering on;
                fastcgi_max_temp_file_size 0;
            }
            location ~ \\.(?:css|js|svg)$ { try_files $uri /index.php$request_uri; }
            location /remote { return 301 /remote.php$request_uri; }
            location / { try_files $uri $uri/ /index.php$request_uri; }",
        requests: &[
            get("/apps/files/?dir=/&fileid=2", "index.php").over_tls().sees(&[("HTTPS", "on"), ("PATH_INFO", "/apps/files/")]),
            get("/ocs/v2.php/cloud/capabilities?format=json", "ocs/v2.php").over_tls()
                .with(&["OCS-APIRequest: true", "Authorization: Basic YWxpY2U6c2VjcmV0"])
                .sees(&[("PATH_INFO", "/cloud/capabilities"), ("PHP_AUTH_USER", "alice")]),
            put("/remote.php/dav/files/alice/a%20b.txt", "remote.php", 300_000).over_tls(),
            other("PROPFIND", "/remote.php/dav/files/alice/", "remote.php").over_tls().with(&["Depth: 1"]),
            get("/core/none.css", "index.php"),
            status("/core/x.css", 200).over_tls(),
            status("/.well-known/carddav", 301),
            status("/data/x", 404),
        ],
        ..Recipe::NEW
    },
    Recipe {
        name: "Nextcloud in a subdirectory",
        particular: "`/nextcloud` and PATH_INFO",
        files: &["nextcloud/index.php", "nextcloud/remote.php", "index.html"],
        lines: "
            location ^~ /nextcloud {
                index index.php index.html /nextcloud/index.php$request_uri;
                location ~ ^\\/nextcloud\\/(?:index|remote|public|cron|status|ocs\\/v[12])\\.php(?:$|\\/) {
                    fastcgi_split_path_info ^(.+?\\.php)(\\/.*|)$;
                    set $path_info $fastcgi_path_info;
                    try_files $fastcgi_script_name =404;
                    include fastcgi_params;
                    fastcgi_param SCRIPT_FILENAME $document_root$fastcgi_script_name;
                    fastcgi_param PATH_INFO $path_info;
                    fastcgi_param HTTPS on;
                    fastcgi_param modHeadersAvailable true;
                    fastcgi_param front_controller_active true;
                    fastcgi_pass {php};
                }
                location /nextcloud { try_files $uri $uri/ /nextcloud/index.php$request_uri; }
            }",
        requests: &[
            get("/nextcloud/login?x=1", "nextcloud/index.php").over_tls(),
            get("/nextcloud/remote.php/dav/", "nextcloud/remote.php").sees(&[("PATH_INFO", "/dav/")]),
            status("/index.html", 200),
        ],
        ..Recipe::NEW
    },
    Recipe {
        name: "ownCloud",
        particular: "HTTPS again, uploads without buffering, also in chunks",
        files: &["index.php", "remote.php"],
        lines: "
            client_max_body_size 64m;
            location / { rewrite ^ /index.php$uri; }
            location ~ ^/(?:index|remote|public|cron|status|updater/.+|ocs/v[12])\\.php(?:$|/) {
                fastcgi_split_path_info ^(.+\\.php)(/.*)$;
                include fastcgi_params;
                fastcgi_param SCRIPT_FILENAME $document_root$fastcgi_script_name;
                fastcgi_param SCRIPT_NAME $fastcgi_script_name;
                fastcgi_param PATH_INFO $fastcgi_path_info;
                fastcgi_param HTTPS on;
                fastcgi_param modHeadersAvailable true;
                fastcgi_param front_controller_active true;
                fastcgi_read_timeout 180;
                fastcgi_pass {php};
                fastcgi_intercept_errors on;
                fastcgi_request_buffering off;
                fastcgi_max_temp_file_size 0;
            }",
        requests: &[
            get("/apps/files", "index.php").over_tls().sees(&[("PATH_INFO", "/apps/files")]),
            put("/remote.php/webdav/x.bin", "remote.php", 200_000).over_tls(),
            put_chunked("/remote.php/webdav/y.bin", "remote.php", 100_000),
        ],
        ..Recipe::NEW
    },
    Recipe {
        name: "Symfony",
        particular: "SCRIPT_FILENAME and DOCUMENT_ROOT by `$realpath_root`, `internal`",
        root: "public",
        files: &["public/index.php", "public/robots.txt"],
        lines: "
            location / { try_files $uri /index.php$is_args$args; }
            location ~ ^/index\\.php(/|$) {
                fastcgi_pass {php};
                fastcgi_split_path_info ^(.+\\.php)(/.*)$;
                include fastcgi_params;
                fastcgi_param APP_ENV prod;
                fastcgi_param APP_SECRET <secret>;
                fastcgi_param SCRIPT_FILENAME $realpath_root$fastcgi_script_name;
                fastcgi_param DOCUMENT_ROOT $realpath_root;
                internal;
            }
            location ~ \\.php$ { return 404; }",
        requests: &[
            get("/blog/a?page=2", "public/index.php").sees(&[("APP_ENV", "prod")]),
            post("/login", "public/index.php").with(&["X-Requested-With: XMLHttpRequest"]),
            other("DELETE", "/api/posts/3", "public/index.php"),
            status("/index.php/x", 404),
            status("/robots.txt", 200),
        ],
        ..Recipe::NEW
    },
    Recipe {
        name: "Symfony behind TLS",
        particular: "HTTPS again",
        root: "public",
        files: &["public/index.php"],
        lines: "
            location / { try_files $uri /index.php$is_args$args; }
            location ~ ^/index\\.php(/|$) {
                fastcgi_pass {php};
                fastcgi_split_path_info ^(.+\\.php)(/.*)$;
                include fastcgi_params;
                fastcgi_param SCRIPT_FILENAME $realpath_root$fastcgi_script_name;
                fastcgi_param DOCUMENT_ROOT $realpath_root;
                fastcgi_param HTTPS on;
                internal;
            }",
        requests: &[get("/", "public/index.php").over_tls().sees(&[("HTTPS", "on")])],
        ..Recipe::NEW
    },
    Recipe {
        name: "Laravel",
        particular: "SCRIPT_FILENAME by `$realpath_root`, before the include",
        root: "public",
        files: &["public/index.php"],
        lines: "
            index index.php;
            charset utf-8;
            location / { try_files $uri $uri/ /index.php?$query_string; }
            error_page 404 /index.php;
            location ~ ^/index\\.php(/|$) {
                fastcgi_pass {php};
                fastcgi_param SCRIPT_FILENAME $realpath_root$fastcgi_script_name;
                include fastcgi_params;
                fastcgi_hide_header X-Powered-By;
            }
            location ~ /\\.(?!well-known).* { deny all; }",
        requests: &[
            get("/dashboard?tab=1", "public/index.php"),
            get("/index.php/dashboard", "public/index.php"),
            post("/api/v1/orders?x=%00y", "public/index.php"),
            other("PATCH", "/api/v1/orders/1", "public/index.php"),
            get("/gone?answer=503", "public/index.php"),
        ],
        ..Recipe::NEW
    },
    Recipe {
        name: "Yii 1",
        particular: "script by a variable, PATH_INFO and PATH_TRANSLATED",
        files: &["index.php", "gii.php"],
        lines: "
            set $yii_bootstrap index.php;
            index index.html $yii_bootstrap;
            location / { try_files $uri $uri/ /$yii_bootstrap?$args; }
            location ~ \\.php {
                fastcgi_split_path_info ^(.+\\.php)(.*)$;
                set $fsn /$yii_bootstrap;
                if (-f $document_root$fastcgi_script_name) { set $fsn $fastcgi_script_name; }
                fastcgi_pass {php};
                include fastcgi_params;
                fastcgi_param SCRIPT_FILENAME $document_root$fsn;
                fastcgi_param PATH_INFO $fastcgi_path_info;
                fastcgi_param PATH_TRANSLATED $document_root$fsn;
            }",
        requests: &[
            get("/site/page?view=about", "index.php"),
            get("/gii.php/default/login", "gii.php").sees(&[("PATH_INFO", "/default/login")]),
            post("/none.php/x", "index.php"),
        ],
        ..Recipe::NEW
    },
    Recipe {
        name: "Yii 2 behind TLS",
        particular: "HTTPS again",
        root: "web",
        files: &["web/index.php"],
        lines: "
            charset utf-8;
            index index.php;
            location / { try_files $uri $uri/ /index.php$is_args$args; }
            location ~ \\.php$ {
                include fastcgi_params;
                fastcgi_param SCRIPT_FILENAME $document_root$fastcgi_script_name;
                fastcgi_param HTTPS on;
                fastcgi_pass {php};
                try_files $uri =404;
            }",
        requests: &[
            get("/post/view?id=1", "web/index.php").over_tls(),
            post("/index.php?r=site/login", "web/index.php").over_tls(),
        ],
        ..Recipe::NEW
    },
    Recipe {
        name: "Slim",
        particular: "SCRIPT_NAME again",
        root: "public",
        files: &["public/index.php"],
        lines: "
            index index.php;
            location / { try_files $uri /index.php$is_args$args; }
            location ~ \\.php {
                try_files $uri =404;
                fastcgi_split_path_info ^(.+\\.php)(/.+)$;
                include fastcgi_params;
                fastcgi_param SCRIPT_FILENAME $document_root$fastcgi_script_name;
                fastcgi_param SCRIPT_NAME $fastcgi_script_name;
                fastcgi_index index.php;
                fastcgi_pass {php};
            }",
        requests: &[get("/hello/you?x=1", "public/index.php"), put("/items/1", "public/index.php", 0)],
        ..Recipe::NEW
    },
    Recipe {
        name: "CakePHP",
        particular: "the include first",
        root: "webroot",
        files: &["webroot/index.php"],
        lines: "
            index index.php;
            location / { try_files $uri $uri/ /index.php?$args; }
            location ~ \\.php$ {
                try_files $uri =404;
                include fastcgi_params;
                fastcgi_pass {php};
                fastcgi_index index.php;
                fastcgi_intercept_errors on;
                fastcgi_param SCRIPT_FILENAME $document_root$fastcgi_script_name;
            }",
        requests: &[get("/articles/view/1.json", "webroot/index.php"), post("/users/login", "webroot/index.php")],
        ..Recipe::NEW
    },
    Recipe {
        name: "CodeIgniter",
        particular: "the path behind `index.php?`, `CI_ENV`",
        root: "public",
        files: &["public/index.php"],
        lines: "
            index index.php;
            location / { try_files $uri $uri/ /index.php?/$request_uri; }
            location ~ \\.php$ {
                include fastcgi.conf;
                fastcgi_param CI_ENV production;
                fastcgi_param PATH_INFO $fastcgi_path_info;
                fastcgi_split_path_info ^(.+\\.php)(/.+)$;
                fastcgi_pass {php};
            }",
        requests: &[
            get("/news/local/123?sort=up", "public/index.php").sees(&[("QUERY_STRING", "//news/local/123?sort=up")]),
            post("/form", "public/index.php"),
        ],
        ..Recipe::NEW
    },
    Recipe {
        name: "TYPO3",
        particular: "`if` for missing files, PATH_INFO, `TYPO3_CONTEXT`",
        root: "public",
        files: &["public/index.php", "public/typo3/index.php"],
        lines: "
            index index.php;
            location = /typo3 { rewrite ^ /typo3/; }
            location /typo3/ { absolute_redirect off; try_files $uri /typo3/index.php$is_args$args; }
            location / { try_files $uri $uri/ /index.php$is_args$args; }
            location ~ [^/]\\.php(/|$) {
                fastcgi_split_path_info ^(.+?\\.php)(/.*)$;
                if (!-f $document_root$fastcgi_script_name) { return 404; }
                fastcgi_buffer_size 32k;
                fastcgi_buffers 8 16k;
                fastcgi_param HTTP_PROXY \"\";
                fastcgi_param TYPO3_CONTEXT Production;
                fastcgi_index index.php;
                include fastcgi.conf;
                fastcgi_param PATH_INFO $fastcgi_path_info;
                fastcgi_param SCRIPT_FILENAME $document_root$fastcgi_script_name;
                fastcgi_pass {php};
            }",
        requests: &[
            get("/products/?no_cache=1", "public/index.php"),
            get("/typo3/module/web", "public/typo3/index.php"),
            get("/index.php/a/b", "public/index.php").sees(&[("PATH_INFO", "/a/b")]),
            status("/none.php/x", 404),
        ],
        ..Recipe::NEW
    },
    Recipe {
        name: "Joomla",
        particular: "both includes, SCRIPT_FILENAME between them",
        files: &["index.php", "administrator/index.php", "images/x.png"],
        lines: "
            index index.php;
            location / { try_files $uri $uri/ /index.php?$args; }
            location ~* /(images|cache|media|logs|tmp)/.*\\.(php|pl|py|jsp|asp|sh|cgi)$ { return 403; }
            location ~ \\.php$ {
                fastcgi_pass {php};
                fastcgi_index index.php;
                include fastcgi_params;
                fastcgi_param SCRIPT_FILENAME $document_root$fastcgi_script_name;
                include fastcgi.conf;
            }",
        requests: &[
            get("/component/users/?view=login", "index.php"),
            post("/administrator/index.php", "administrator/index.php").over_tls(),
            status("/images/x.php", 403),
            status("/images/x.png", 200),
        ],
        ..Recipe::NEW
    },
    Recipe {
        name: "MediaWiki",
        particular: "short URLs: SCRIPT_FILENAME of another location, `rest.php` with PATH_INFO",
        files: &["w/index.php", "w/api.php", "w/rest.php"],
        lines: "
            location ~ ^/w/(index|load|api|thumb|opensearch_desc|rest|img_auth)\\.php$ {
                include fastcgi_params;
                fastcgi_param SCRIPT_FILENAME $document_root$fastcgi_script_name;
                fastcgi_pass {php};
            }
            location ^~ /wiki/ {
                rewrite ^/wiki/(?<pagename>.*)$ /w/index.php;
                include fastcgi_params;
                fastcgi_param SCRIPT_FILENAME $document_root/w/index.php;
                fastcgi_param PATH_INFO $pagename;
                fastcgi_param QUERY_STRING $query_string;
                fastcgi_pass {php};
            }
            location /w/rest.php/ { try_files $uri $uri/ /w/rest.php?$query_string; }
            location = / { return 301 /wiki/Main_Page; }",
        requests: &[
            get("/wiki/Talk:Caf%C3%A9_%26_Co?action=edit", "w/index.php"),
            get("/w/api.php?action=query&format=json", "w/api.php"),
            get("/w/rest.php/v1/page/Earth", "w/rest.php"),
            post("/w/index.php?title=X&action=submit", "w/index.php"),
            status("/", 301),
        ],
        ..Recipe::NEW
    },
    Recipe {
        name: "Moodle",
        particular: "PATH_INFO everywhere, X-Accel-Redirect",
        files: &["index.php", "pluginfile.php", "theme/styles.php", "data/secret.pdf"],
        lines: "
            index index.php;
            location ~ [^/]\\.php(/|$) {
                fastcgi_split_path_info ^(.+\\.php)(/.+)$;
                fastcgi_index index.php;
                fastcgi_pass {php};
                include fastcgi_params;
                fastcgi_param PATH_INFO $fastcgi_path_info;
                fastcgi_param SCRIPT_FILENAME $document_root$fastcgi_script_name;
            }
            location /dataroot/ { internal; alias {app}/data/; }",
        requests: &[
            get("/pluginfile.php/12/course/a%20file.pdf?forcedownload=1", "pluginfile.php")
                .sees(&[("PATH_INFO", "/12/course/a file.pdf"), ("SCRIPT_NAME", "/pluginfile.php")]),
            get("/theme/styles.php/boost/1_2/all", "theme/styles.php"),
            post("/index.php", "index.php"),
            status("/pluginfile.php/1?X-Accel-Redirect=/dataroot/secret.pdf", 200),
            status("/pluginfile.php/1?X-Accel-Redirect=/dataroot/none.pdf", 404),
        ],
        ..Recipe::NEW
    },
    Recipe {
        name: "phpBB",
        particular: "rewritten to `app.php/…`, real paths",
        files: &["index.php", "app.php", "viewtopic.php", "files/x.txt"],
        lines: "
            index index.php;
            location / {
                try_files $uri $uri/ @rewriteapp;
                location ~ \\.php(/|$) {
                    include fastcgi.conf;
                    fastcgi_split_path_info ^(.+\\.php)(/.*)$;
                    fastcgi_param PATH_INFO $fastcgi_path_info;
                    fastcgi_param SCRIPT_FILENAME $realpath_root$fastcgi_script_name;
                    fastcgi_param DOCUMENT_ROOT $realpath_root;
                    try_files $uri $uri/ /app.php$is_args$args;
                    fastcgi_pass {php};
                }
                location ~ /files/ { deny all; }
            }
            location @rewriteapp { rewrite ^(.*)$ /app.php/$1 last; }",
        requests: &[
            get("/viewtopic.php?f=2&t=3", "viewtopic.php"),
            get("/feed/topics", "app.php"),
            post("/index.php", "index.php"),
            status("/files/x.txt", 403),
        ],
        ..Recipe::NEW
    },
    Recipe {
        name: "DokuWiki",
        particular: "REDIRECT_STATUS again, X-Accel-Redirect, rewrites",
        files: &["doku.php", "lib/exe/fetch.php", "lib/exe/detail.php", "data/media/x.png"],
        lines: "
            index doku.php;
            location / { try_files $uri $uri/ @dokuwiki; }
            location ^~ /data/ { internal; }
            location @dokuwiki {
                rewrite ^/_media/(.*) /lib/exe/fetch.php?media=$1 last;
                rewrite ^/_detail/(.*) /lib/exe/detail.php?media=$1 last;
                rewrite ^/(.*) /doku.php?id=$1&$args last;
            }
            location ~ \\.php$ {
                try_files $uri $uri/ /doku.php;
                include fastcgi_params;
                fastcgi_param SCRIPT_FILENAME $document_root$fastcgi_script_name;
                fastcgi_param REDIRECT_STATUS 200;
                fastcgi_pass {php};
            }",
        requests: &[
            get("/wiki:syntax?do=edit", "doku.php"),
            get("/_detail/wiki:logo.png", "lib/exe/detail.php"),
            status("/_media/x.png?X-Accel-Redirect=/data/media/x.png", 200),
            post("/doku.php", "doku.php"),
        ],
        ..Recipe::NEW
    },
    Recipe {
        name: "Magento 2",
        particular: "PHP_FLAG, PHP_VALUE of two lines, `setup` outside of the document root, store by `map`",
        root: "pub",
        files: &["pub/index.php", "pub/get.php", "pub/errors/report.php", "setup/index.php", "pub/static/x.css"],
        around: "map $http_host ${name}_code { default ''; magento-2.test german; }",
        lines: "
            index index.php;
            autoindex off;
            error_page 404 403 = /errors/404.php;
            location ~* ^/setup($|/) {
                root {app};
                location ~ ^/setup/index.php {
                    fastcgi_split_path_info ^(/setup/index.php)(/.+)$;
                    fastcgi_pass {php};
                    fastcgi_param PHP_FLAG \"session.auto_start=off \\n suhosin.session.cryptua=off\";
                    fastcgi_param PHP_VALUE \"memory_limit=756M \\n max_execution_time=18000\";
                    fastcgi_read_timeout 600s;
                    fastcgi_index index.php;
                    fastcgi_param SCRIPT_FILENAME $document_root$fastcgi_script_name;
                    include fastcgi_params;
                }
            }
            location / { try_files $uri $uri/ /index.php$is_args$args; }
            location /static/ {
                location ~ ^/static/version\\d*/ { rewrite ^/static/version\\d*/(.*)$ /static/$1 last; }
                if (!-f $request_filename) { rewrite ^/static/(version\\d*/)?(.*)$ /get.php?resource=$2 last; }
            }
            location ~ ^/(index|get|static|errors/report|errors/404|errors/503|health_check)\\.php$ {
                try_files $uri =404;
                fastcgi_pass {php};
                fastcgi_buffers 16 16k;
                fastcgi_buffer_size 32k;
                fastcgi_param PHP_FLAG \"session.auto_start=off \\n suhosin.session.cryptua=off\";
                fastcgi_param PHP_VALUE \"memory_limit=756M \\n max_execution_time=18000\";
                fastcgi_param MAGE_MODE default;
                fastcgi_param MAGE_RUN_TYPE store;
                fastcgi_param MAGE_RUN_CODE ${name}_code;
                fastcgi_read_timeout 600s;
                fastcgi_connect_timeout 600s;
                fastcgi_index index.php;
                fastcgi_param SCRIPT_FILENAME $document_root$fastcgi_script_name;
                include fastcgi_params;
            }",
        script_roots: &["pub", "setup"],
        needs: &["--allow-php-setting memory_limit,max_execution_time"],
        settings: &[("memory_limit", "756M"), ("max_execution_time", "18000")],
        requests: &[
            get("/catalog/product/view/id/1?sku=a", "pub/index.php").sees(&[("MAGE_RUN_CODE", "german")]),
            get("/static/version12/none.css", "pub/get.php"),
            get("/setup/index.php/session", "setup/index.php"),
            post("/checkout/cart", "pub/index.php"),
            status("/static/version12/x.css", 200),
        ],
        ..Recipe::NEW
    },
    Recipe {
        name: "phpMyAdmin",
        particular: "under `/phpmyadmin` with PHP_ADMIN_VALUE `open_basedir`",
        files: &["share/phpmyadmin/index.php", "share/phpmyadmin/js/messages.php", "share/phpmyadmin/x.css"],
        lines: "
            location /phpmyadmin {
                root {app}/share;
                index index.php;
                location ~ ^/phpmyadmin/(.+\\.php)$ {
                    try_files $uri =404;
                    fastcgi_pass {php};
                    fastcgi_index index.php;
                    include fastcgi_params;
                    fastcgi_param SCRIPT_FILENAME $document_root$fastcgi_script_name;
                    fastcgi_param PHP_ADMIN_VALUE \"open_basedir={app}/:/tmp/:/var/lib/phpmyadmin/\";
                }
                location ~* ^/phpmyadmin/(.+\\.(jpg|jpeg|gif|css|png|js|ico|html|xml|txt))$ { root {app}/share; }
            }",
        script_roots: &["share/phpmyadmin"],
        needs: &["--allow-php-setting open_basedir"],
        settings: &[("open_basedir", "{app}/:/tmp/:/var/lib/phpmyadmin/")],
        requests: &[
            get("/phpmyadmin/?route=/database", "share/phpmyadmin/index.php"),
            get("/phpmyadmin/js/messages.php?l=en", "share/phpmyadmin/js/messages.php"),
            post("/phpmyadmin/index.php", "share/phpmyadmin/index.php"),
            status("/phpmyadmin/x.css", 200),
        ],
        ..Recipe::NEW
    },
    Recipe {
        name: "Matomo",
        particular: "Debian's snippet for chosen scripts, HTTP_PROXY emptied",
        files: &["index.php", "matomo.php", "js/index.php", "config/x.php"],
        lines: "
            index index.php;
            location ~ ^/(index|matomo|piwik|js/index|plugins/HeatmapSessionRecording/configs)\\.php$ {
                include snippets/fastcgi-php.conf;
                fastcgi_param HTTP_PROXY \"\";
                fastcgi_pass {php};
            }
            location ~* ^.+\\.php$ { deny all; return 403; }",
        requests: &[
            get("/matomo.php?idsite=1&url=https%3A%2F%2Fx.test%2F%3Fa%3Db", "matomo.php")
                .with(&["Referer: https://x.test/?a=b", "User-Agent: Mozilla/5.0 (\"x\")"]),
            get("/js/", "js/index.php"),
            post("/index.php?module=API", "index.php"),
            status("/config/x.php", 403),
        ],
        ..Recipe::NEW
    },
    Recipe {
        name: "Grav",
        particular: "SCRIPT_FILENAME with two slashes",
        files: &["index.php", "user/x.php"],
        lines: "
            index index.php;
            location / { try_files $uri $uri/ /index.php?$query_string; }
            location ~* /(user|system|vendor)/.*\\.(txt|md|yaml|yml|php)$ { return 403; }
            location ~ \\.php$ {
                fastcgi_pass {php};
                fastcgi_split_path_info ^(.+\\.php)(/.+)$;
                fastcgi_index index.php;
                include fastcgi_params;
                fastcgi_param SCRIPT_FILENAME $document_root/$fastcgi_script_name;
            }",
        requests: &[get("/blog/page:2?x=1", "index.php"), post("/contact", "index.php"), status("/user/x.php", 403)],
        ..Recipe::NEW
    },
    Recipe {
        name: "Roundcube",
        particular: "PATH_INFO of `static.php`, REMOTE_ADDR by a header",
        root: "public_html",
        files: &["public_html/index.php", "public_html/static.php"],
        lines: "
            index index.php;
            location ~ ^/(index|static)\\.php(/|$) {
                include fastcgi_params;
                fastcgi_split_path_info ^(.+\\.php)(/.*)$;
                fastcgi_param SCRIPT_FILENAME $document_root$fastcgi_script_name;
                fastcgi_param PATH_INFO $fastcgi_path_info;
                fastcgi_param REMOTE_ADDR $http_x_real_ip;
                fastcgi_pass {php};
            }",
        requests: &[
            get("/?_task=mail&_mbox=INBOX", "public_html/index.php").with(&["X-Real-IP: 192.0.2.7"]).sees(&[("REMOTE_ADDR", "192.0.2.7")]),
            get("/static.php/skins/elastic/styles.css", "public_html/static.php"),
            post("/index.php?_task=login", "public_html/index.php"),
        ],
        ..Recipe::NEW
    },
    Recipe {
        name: "Piwigo",
        particular: "PATH_INFO and SCRIPT_NAME by named captures, paths as a query",
        files: &["index.php", "i.php", "picture.php", "admin.php"],
        lines: "
            index index.php;
            location / { try_files $uri $uri/ =404; rewrite ^/_data/i/(.*) /i.php?/$1 last; }
            location ~ ^(?<script_name>.+?\\.php)(?<path_info>/.*)?$ {
                try_files $script_name =404;
                include fastcgi_params;
                fastcgi_param PATH_INFO $path_info;
                fastcgi_param SCRIPT_NAME $script_name;
                fastcgi_param SCRIPT_FILENAME $document_root$script_name;
                fastcgi_pass {php};
            }",
        requests: &[
            get("/picture.php?/12/category/3-x", "picture.php"),
            get("/_data/i/upload/2024/a-me.jpg", "i.php"),
            get("/picture.php/12/category", "picture.php").sees(&[("PATH_INFO", "/12/category"), ("SCRIPT_NAME", "/picture.php")]),
            post("/admin.php", "admin.php"),
        ],
        ..Recipe::NEW
    },
    Recipe {
        name: "PrestaShop",
        particular: "kept connections, real paths",
        files: &["index.php", "admin123/index.php", "img/p/1/2/12.jpg"],
        around: "upstream {name} { server {php}; keepalive 4; }",
        lines: "
            index index.php;
            location / { try_files $uri $uri/ /index.php$is_args$args; }
            location /admin123/ { if (!-e $request_filename) { rewrite ^/.*$ /admin123/index.php last; } }
            rewrite ^/(\\d)(\\d)(-[\\w-]+)?/.+\\.jpg$ /img/p/$1/$2/$1$2$3.jpg last;
            location ~ [^/]\\.php(/|$) {
                fastcgi_split_path_info ^(.+?\\.php)(/.*)$;
                try_files $fastcgi_script_name =404;
                include fastcgi_params;
                fastcgi_param SCRIPT_FILENAME $realpath_root$fastcgi_script_name;
                fastcgi_param DOCUMENT_ROOT $realpath_root;
                fastcgi_index index.php;
                fastcgi_keep_conn on;
                fastcgi_read_timeout 30s;
                fastcgi_buffer_size 16k;
                fastcgi_buffers 256 8k;
                fastcgi_max_temp_file_size 0;
                fastcgi_pass {name};
            }",
        requests: &[
            get("/2-home?order=name", "index.php"),
            get("/admin123/none/page", "admin123/index.php"),
            post("/index.php?controller=cart", "index.php"),
            get("/index.php", "index.php"),
            status("/12/chair.jpg", 200),
        ],
        ..Recipe::NEW
    },
    Recipe {
        name: "OpenCart",
        particular: "the path as a query by a named location",
        files: &["index.php", "admin/index.php"],
        lines: "
            index index.php;
            location /image/data { autoindex on; }
            location / { try_files $uri @opencart; }
            location @opencart { rewrite ^/(.+)$ /index.php?_route_=$1 last; }
            location /admin { index index.php; }
            location ~ \\.php$ {
                fastcgi_index index.php;
                include fastcgi_params;
                fastcgi_param SCRIPT_FILENAME $document_root$fastcgi_script_name;
                fastcgi_pass {php};
            }",
        requests: &[
            get("/desktops/mac?limit=5", "index.php").sees(&[("QUERY_STRING", "_route_=desktops/mac&limit=5")]),
            get("/admin/?route=x", "admin/index.php"),
            post("/index.php?route=checkout/cart/add", "index.php"),
        ],
        ..Recipe::NEW
    },
    Recipe {
        name: "Pterodactyl",
        particular: "PHP_VALUE with spaces around `=`, HTTP_PROXY emptied",
        root: "public",
        files: &["public/index.php"],
        lines: "
            index index.php;
            charset utf-8;
            location / { try_files $uri $uri/ /index.php?$query_string; }
            location ~ \\.php$ {
                fastcgi_split_path_info ^(.+\\.php)(/.+)$;
                fastcgi_pass {php};
                fastcgi_index index.php;
                include fastcgi_params;
                fastcgi_param PHP_VALUE \"upload_max_filesize = 100M \\n post_max_size=100M\";
                fastcgi_param SCRIPT_FILENAME $document_root$fastcgi_script_name;
                fastcgi_param HTTP_PROXY \"\";
                fastcgi_intercept_errors off;
                fastcgi_buffer_size 16k;
                fastcgi_buffers 4 16k;
            }",
        needs: &["--allow-php-setting upload_max_filesize,post_max_size"],
        settings: &[("upload_max_filesize", "100M"), ("post_max_size", "100M")],
        requests: &[get("/server/1/files", "public/index.php"), post("/auth/login", "public/index.php").over_tls()],
        ..Recipe::NEW
    },
    Recipe {
        name: "LibreNMS",
        particular: "`fastcgi.conf` alone",
        root: "html",
        files: &["html/index.php", "html/graph.php"],
        lines: "
            charset utf-8;
            index index.php;
            location / { try_files $uri $uri/ /index.php?$query_string; }
            location ~ [^/]\\.php(/|$) {
                fastcgi_pass {php};
                fastcgi_split_path_info ^(.+?\\.php)(/.*)$;
                include fastcgi.conf;
            }",
        requests: &[
            get("/device/device=1/tab=port/", "html/index.php"),
            get("/graph.php/type=device_bits/device=1", "html/graph.php"),
            post("/ajax/form", "html/index.php"),
        ],
        ..Recipe::NEW
    },
    Recipe {
        name: "Zabbix",
        particular: "PHP_VALUE of many lines, six parameters again",
        files: &["index.php", "api_jsonrpc.php", "zabbix.php"],
        lines: "
            index index.php;
            location / { try_files $uri $uri/ =404; }
            location ~ [^/]\\.php(/|$) {
                fastcgi_pass {php};
                fastcgi_split_path_info ^(.+\\.php)(/.+)$;
                fastcgi_index index.php;
                fastcgi_param DOCUMENT_ROOT {app};
                fastcgi_param SCRIPT_FILENAME {app}$fastcgi_script_name;
                fastcgi_param PATH_TRANSLATED {app}$fastcgi_script_name;
                include fastcgi_params;
                fastcgi_param QUERY_STRING $query_string;
                fastcgi_param REQUEST_METHOD $request_method;
                fastcgi_param CONTENT_TYPE $content_type;
                fastcgi_param CONTENT_LENGTH $content_length;
                fastcgi_param PHP_VALUE \"
                    max_execution_time = 300
                    memory_limit = 192M
                    post_max_size = 16M
                    upload_max_filesize = 3M
                    max_input_time = 300
                    max_input_vars = 10000
                \";
                fastcgi_intercept_errors on;
                fastcgi_ignore_client_abort off;
            }",
        needs: &["--allow-php-setting max_execution_time,memory_limit,post_max_size,upload_max_filesize,max_input_time,max_input_vars"],
        settings: &[
            ("max_execution_time", "300"), ("memory_limit", "192M"), ("post_max_size", "16M"),
            ("upload_max_filesize", "3M"), ("max_input_time", "300"), ("max_input_vars", "10000"),
        ],
        requests: &[
            get("/zabbix.php?action=dashboard.view", "zabbix.php"),
            post("/index.php?a=1", "index.php"),
            put("/api_jsonrpc.php", "api_jsonrpc.php", 5_000),
        ],
        ..Recipe::NEW
    },
    Recipe {
        name: "Adminer",
        particular: "one file under an address without `.php`",
        files: &["share/adminer.php"],
        lines: "
            location = /adminer {
                include fastcgi.conf;
                fastcgi_param SCRIPT_FILENAME {app}/share/adminer.php;
                fastcgi_param SCRIPT_NAME /adminer;
                fastcgi_pass {php};
            }",
        script_roots: &["share"],
        requests: &[
            get("/adminer?server=x&username=y", "share/adminer.php").sees(&[("SCRIPT_NAME", "/adminer")]),
            post("/adminer", "share/adminer.php"),
        ],
        ..Recipe::NEW
    },
    Recipe {
        name: "Cacti",
        particular: "`alias` and SCRIPT_FILENAME by `$request_filename`",
        files: &["share/index.php", "share/graph_view.php", "share/x.js"],
        lines: "
            location /cacti {
                alias {app}/share;
                index index.php;
                location ~ \\.php$ {
                    include fastcgi.conf;
                    fastcgi_param SCRIPT_FILENAME $request_filename;
                    fastcgi_pass {php};
                }
            }",
        script_roots: &["share"],
        requests: &[
            get("/cacti/graph_view.php?action=tree", "share/graph_view.php"),
            get("/cacti/", "share/index.php"),
            post("/cacti/index.php", "share/index.php"),
            status("/cacti/x.js", 200),
        ],
        ..Recipe::NEW
    },
    Recipe {
        name: "FreshRSS",
        particular: "PATH_INFO of the API, by a variable",
        root: "p",
        files: &["p/index.php", "p/i/index.php", "p/api/greader.php"],
        lines: "
            index index.php index.html;
            location ~ ^.+?\\.php(/.*)?$ {
                fastcgi_pass {php};
                fastcgi_split_path_info ^(.+\\.php)(/.*)$;
                set $path_info $fastcgi_path_info;
                fastcgi_param PATH_INFO $path_info;
                include fastcgi_params;
                fastcgi_param SCRIPT_FILENAME $document_root$fastcgi_script_name;
            }
            location / { try_files $uri $uri/ index.php; }",
        requests: &[
            get("/api/greader.php/reader/api/0/stream/contents/feed/http%3A%2F%2Fx.test%2Frss", "p/api/greader.php")
                .with(&["Authorization: GoogleLogin auth=alice/1234"]),
            get("/i/?c=feed", "p/i/index.php"),
            post("/api/greader.php/accounts/ClientLogin", "p/api/greader.php"),
        ],
        ..Recipe::NEW
    },
    Recipe {
        name: "Kanboard",
        particular: "PATH_INFO and `fastcgi.conf`, HTTPS by a header",
        files: &["index.php", "jsonrpc.php"],
        lines: "
            index index.php;
            location / { try_files $uri $uri/ /index.php$is_args$args; }
            location ~ \\.php$ {
                try_files $uri =404;
                fastcgi_split_path_info ^(.+\\.php)(/.+)$;
                fastcgi_pass {php};
                fastcgi_index index.php;
                include fastcgi.conf;
                fastcgi_param SCRIPT_FILENAME $document_root$fastcgi_script_name;
                fastcgi_param HTTPS $http_x_forwarded_https if_not_empty;
            }",
        requests: &[
            get("/project/1?x=1", "index.php").with(&["X-Forwarded-HTTPS: on"]).sees(&[("HTTPS", "on")]),
            post("/jsonrpc.php", "jsonrpc.php").over_tls().with(&["X-Forwarded-HTTPS: on"]),
        ],
        ..Recipe::NEW
    },
    Recipe {
        name: "BookStack",
        particular: "Debian's snippet in a Laravel application",
        root: "public",
        files: &["public/index.php"],
        lines: "
            index index.php;
            location / { try_files $uri $uri/ /index.php?$query_string; }
            location ~ \\.php$ { include snippets/fastcgi-php.conf; fastcgi_pass {php}; }",
        requests: &[get("/books/x/page/y", "public/index.php"), upload("/images/gallery", "public/index.php", 9_000)],
        ..Recipe::NEW
    },
    Recipe {
        name: "Monica",
        particular: "TLS ended elsewhere: HTTPS and SERVER_PORT set again",
        root: "public",
        files: &["public/index.php"],
        around: "map $http_x_forwarded_proto ${name}_https { default ''; https on; }",
        lines: "
            index index.php;
            location / { try_files $uri $uri/ /index.php?$query_string; }
            location ~ \\.php$ {
                fastcgi_split_path_info ^(.+\\.php)(/.+)$;
                include fastcgi_params;
                fastcgi_index index.php;
                fastcgi_param SCRIPT_FILENAME $document_root$fastcgi_script_name;
                fastcgi_param HTTPS ${name}_https if_not_empty;
                fastcgi_param SERVER_PORT 443;
                fastcgi_param REQUEST_SCHEME https;
                fastcgi_pass {php};
            }",
        requests: &[
            get("/people?x=1", "public/index.php").with(&["X-Forwarded-Proto: https", "X-Forwarded-For: 192.0.2.1, 192.0.2.2"])
                .sees(&[("HTTPS", "on"), ("SERVER_PORT", "443")]),
            post("/login", "public/index.php"),
        ],
        ..Recipe::NEW
    },
    Recipe {
        name: "Craft CMS",
        particular: "the path as `p`, many parameters of its own",
        root: "web",
        files: &["web/index.php"],
        lines: "
            index index.php;
            location / { try_files $uri $uri/ /index.php?p=$uri&$args; }
            location ~ [^/]\\.php(/|$) {
                fastcgi_split_path_info ^(.+\\.php)(/.+)$;
                fastcgi_pass {php};
                fastcgi_index index.php;
                include fastcgi_params;
                fastcgi_param SCRIPT_FILENAME $realpath_root$fastcgi_script_name;
                fastcgi_param DOCUMENT_ROOT $realpath_root;
                fastcgi_param HTTP_PROXY \"\";
                fastcgi_param HTTP_HOST craft-cms.test;
                fastcgi_param CRAFT_ENVIRONMENT production;
            }",
        requests: &[get("/news/a%2Bb?x=%26", "web/index.php"), post("/index.php/actions/users/login", "web/index.php")],
        ..Recipe::NEW
    },
    Recipe {
        name: "Statamic",
        particular: "static pages first, real paths",
        root: "public",
        files: &["public/index.php", "public/static/cached_.html"],
        lines: "
            set $try_location @static;
            if ($request_method != GET) { set $try_location @not_static; }
            if ($args ~* 'live-preview=(.*)') { set $try_location @not_static; }
            location / { try_files $uri $try_location; }
            location @static { try_files /static${uri}_$args.html $uri $uri/ /index.php?$args; }
            location @not_static { try_files $uri /index.php?$args; }
            location ~ ^/index\\.php(/|$) {
                fastcgi_pass {php};
                fastcgi_param SCRIPT_FILENAME $realpath_root$fastcgi_script_name;
                include fastcgi_params;
                fastcgi_hide_header X-Powered-By;
            }",
        requests: &[
            get("/about?live-preview=abc", "public/index.php"),
            post("/!/forms/contact", "public/index.php"),
            status("/cached", 200),
        ],
        ..Recipe::NEW
    },
    Recipe {
        name: "Icinga Web 2",
        particular: "one script, basic authentication, REMOTE_USER again",
        files: &["share/public/index.php"],
        texts: &[("passwords", "alice:{PLAIN}secret\n")],
        lines: "
            location ~ ^/icingaweb2/index\\.php(.*)$ {
                auth_basic monitoring;
                auth_basic_user_file {app}/passwords;
                fastcgi_pass {php};
                fastcgi_index index.php;
                include fastcgi_params;
                fastcgi_param SCRIPT_FILENAME {app}/share/public/index.php;
                fastcgi_param ICINGAWEB_CONFIGDIR /etc/icingaweb2;
                fastcgi_param REMOTE_USER $remote_user;
            }
            location ~ ^/icingaweb2(.+)? { alias {app}/share/public; index index.php; try_files $1 $uri $uri/ /icingaweb2/index.php$is_args$args; }",
        script_roots: &["share/public"],
        requests: &[
            get("/icingaweb2/dashboard?x=1", "share/public/index.php").with(&["Authorization: Basic YWxpY2U6c2VjcmV0"])
                .sees(&[("REMOTE_USER", "alice")]),
            post("/icingaweb2/index.php/authentication", "share/public/index.php").with(&["Authorization: Basic YWxpY2U6c2VjcmV0"]),
            status("/icingaweb2/index.php", 401),
        ],
        ..Recipe::NEW
    },
    Recipe {
        name: "Shopware",
        particular: "two front controllers, HTTPS again",
        root: "public",
        files: &["public/index.php", "public/shopware-installer.phar.php"],
        lines: "
            index index.php;
            location ~ ^/(recovery\\/update\\/index|index|shopware-installer\\.phar)\\.php(/|$) {
                fastcgi_split_path_info ^(.+\\.php)(/.+)$;
                include fastcgi.conf;
                fastcgi_param HTTP_PROXY \"\";
                fastcgi_param HTTPS $https if_not_empty;
                fastcgi_buffers 8 16k;
                fastcgi_buffer_size 32k;
                fastcgi_read_timeout 300s;
                client_body_buffer_size 128k;
                fastcgi_pass {php};
            }
            location / { try_files $uri /index.php$is_args$args; }",
        requests: &[
            get("/navigation/1?p=2", "public/index.php").over_tls(),
            get("/shopware-installer.phar.php/welcome", "public/shopware-installer.phar.php"),
            post("/api/oauth/token", "public/index.php"),
        ],
        ..Recipe::NEW
    },
    Recipe {
        name: "GLPI",
        particular: "everything through one script: SCRIPT_FILENAME after `fastcgi.conf`",
        root: "public",
        files: &["public/index.php"],
        lines: "
            location / { try_files $uri /index.php$is_args$args; }
            location ~ ^/index\\.php$ {
                fastcgi_pass {php};
                fastcgi_split_path_info ^(.+\\.php)(/.+)$;
                include fastcgi.conf;
                include fastcgi_params;
                fastcgi_param SCRIPT_FILENAME $document_root$fastcgi_script_name;
            }",
        requests: &[get("/front/ticket.php?id=3", "public/index.php"), post("/front/login.php", "public/index.php")],
        ..Recipe::NEW
    },
    Recipe {
        name: "Concrete CMS",
        particular: "`error_page` to the front controller",
        files: &["index.php"],
        lines: "
            index index.php;
            error_page 404 = /index.php;
            location ~ \\.php($|/) {
                set $script $uri;
                set $path_info '';
                if ($uri ~ '^(.+\\.php)(/.+)') { set $script $1; set $path_info $2; }
                fastcgi_pass {php};
                include fastcgi_params;
                fastcgi_param SCRIPT_FILENAME $document_root$script;
                fastcgi_param SCRIPT_NAME $script;
                fastcgi_param PATH_INFO $path_info;
            }",
        requests: &[
            get("/none?x=1", "index.php"),
            get("/index.php/tools/x", "index.php").sees(&[("PATH_INFO", "/tools/x"), ("SCRIPT_NAME", "/index.php")]),
        ],
        ..Recipe::NEW
    },
    Recipe {
        name: "Real IP",
        particular: "`real_ip_header`, and REMOTE_ADDR and SERVER_NAME again",
        files: &["index.php"],
        lines: "
            set_real_ip_from 127.0.0.0/8;
            real_ip_header X-Forwarded-For;
            real_ip_recursive on;
            location ~ \\.php$ {
                include fastcgi.conf;
                fastcgi_param REMOTE_ADDR $http_cf_connecting_ip;
                fastcgi_param SERVER_NAME $http_host;
                fastcgi_pass {php};
            }",
        requests: &[
            get("/index.php", "index.php").with(&["X-Forwarded-For: 192.0.2.9", "CF-Connecting-IP: 2001:db8::7"])
                .sees(&[("REMOTE_ADDR", "2001:db8::7"), ("SERVER_NAME", "real-ip.test")]),
        ],
        ..Recipe::NEW
    },
    Recipe {
        name: "auth_request",
        particular: "PHP is asked by the subrequest as well: CONTENT_LENGTH emptied, REQUEST_METHOD and REMOTE_USER again",
        files: &["index.php", "auth.php"],
        lines: "
            location = /auth {
                internal;
                include fastcgi.conf;
                fastcgi_param SCRIPT_FILENAME $document_root/auth.php;
                fastcgi_param REQUEST_METHOD GET;
                fastcgi_param CONTENT_LENGTH \"\";
                fastcgi_param CONTENT_TYPE \"\";
                fastcgi_pass_request_body off;
                fastcgi_pass {php};
            }
            location ~ \\.php$ {
                auth_request /auth;
                auth_request_set $user $upstream_http_x_user;
                include fastcgi.conf;
                fastcgi_param REMOTE_USER $user;
                fastcgi_param AUTH_TYPE sso;
                fastcgi_pass {php};
            }",
        requests: &[
            get("/index.php", "index.php").with(&["X-Login: alice"]).sees(&[("REMOTE_USER", "alice")]),
            post("/index.php", "index.php").with(&["X-Login: alice"]).sees(&[("REMOTE_USER", "alice")]),
            status("/index.php", 401).with(&["X-Login: nobody"]),
        ],
        ..Recipe::NEW
    },
    Recipe {
        name: "Deployer",
        particular: "`current` is a symbolic link to a release, `$realpath_root`",
        root: "current/public",
        files: &["releases/7/public/index.php"],
        links: &[("current", "releases/7")],
        lines: "
            index index.php;
            location / { try_files $uri $uri/ /index.php$is_args$args; }
            location ~ \\.php$ {
                fastcgi_split_path_info ^(.+\\.php)(/.+)$;
                include fastcgi_params;
                fastcgi_param SCRIPT_FILENAME $realpath_root$fastcgi_script_name;
                fastcgi_param DOCUMENT_ROOT $realpath_root;
                fastcgi_pass {php};
            }",
        needs: &["--resolve-script-root"],
        requests: &[get("/a?b=c", "releases/7/public/index.php"), post("/index.php", "releases/7/public/index.php")],
        ..Recipe::NEW
    },
    Recipe {
        name: "Capistrano",
        particular: "the same without `$realpath_root`: PHP follows the link",
        root: "current/public",
        files: &["releases/20240501/public/index.php"],
        links: &[("current", "releases/20240501")],
        lines: "
            index index.php;
            location / { try_files $uri $uri/ /index.php$is_args$args; }
            location ~ \\.php$ { include fastcgi.conf; fastcgi_pass {php}; }",
        requests: &[get("/a?b=c", "releases/20240501/public/index.php")],
        ..Recipe::NEW
    },
    Recipe {
        name: "Kept connections",
        particular: "`keepalive` and `fastcgi_keep_conn on`, as above",
        root: "public",
        files: &["public/index.php", "public/page.php"],
        around: "
            upstream {name} {
                server {php};
                keepalive 32;
            }",
        lines: "
            index index.php;
            location / { try_files $uri $uri/ /index.php$is_args$args; }
            location ~ \\.php$ {
                try_files $uri =404;
                include fastcgi.conf;
                fastcgi_pass {name};
                fastcgi_keep_conn on;
            }",
        requests: &[
            get("/1?x=y", "public/index.php"),
            post("/page.php", "public/page.php"),
            put("/3", "public/index.php", 70_000),
            other("HEAD", "/4", "public/index.php"),
            get("/5?answer=404", "public/index.php"),
            get("/", "public/index.php"),
            status("/none.php", 404),
        ],
        ..Recipe::NEW
    },
    Recipe {
        name: "Bodies as files",
        particular: "`client_body_in_file_only`, the body by REQUEST_BODY_FILE",
        files: &["upload.php"],
        lines: "
            location ~ \\.php$ {
                client_body_in_file_only clean;
                fastcgi_pass_request_body off;
                include fastcgi.conf;
                fastcgi_param REQUEST_BODY_FILE $request_body_file;
                fastcgi_pass {php};
            }",
        needs: &["--allow-body-file"],
        requests: &[put("/upload.php", "upload.php", 150_000), upload("/upload.php", "upload.php", 20_000)],
        ..Recipe::NEW
    },
    Recipe {
        name: "Cache",
        particular: "`fastcgi_cache`: HEAD becomes GET, one answer for many",
        files: &["index.php"],
        around: "fastcgi_cache_path {app}/{name} keys_zone={name}:1m;",
        lines: "
            location / {
                fastcgi_cache {name};
                fastcgi_cache_key $request_uri;
                fastcgi_cache_valid 200 1h;
                fastcgi_ignore_headers Set-Cookie;
                add_header X-Cache $upstream_cache_status;
                include fastcgi.conf;
                fastcgi_param SCRIPT_FILENAME $document_root/index.php;
                fastcgi_pass {php};
            }",
        requests: &[
            other("HEAD", "/a", "index.php"),
            get("/a", "index.php"),
            get("/b", "index.php").with(&["Range: bytes=0-1", "If-None-Match: \"x\""]),
        ],
        ..Recipe::NEW
    },
];
