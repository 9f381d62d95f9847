//! What one row of the tables says: an application's published set-up of a web server, the files it
//! has, and requests with the script that runs for each.
//!
//! In the lines of a set-up these words are replaced:
//!
//! - `{app}`: the directory of the application, which has its files;
//! - `{root}`: the document root within it;
//! - `{php}`: where PHP is, in the words of the web server;
//! - `{name}`: a word that no other row and no other way to PHP has, for names of the set-up's own.

/// One row.
#[derive(Clone, Copy)]
pub(crate) struct Recipe {
    /// The application.
    pub(crate) name: &'static str,
    /// What is particular about its set-up, as docs/recipes.md says it.
    pub(crate) particular: &'static str,
    /// The document root, within the application's directory.
    pub(crate) root: &'static str,
    /// Files within that directory. Those in `.php` show what they get.
    pub(crate) files: &'static [&'static str],
    /// Files with a content of their own: path and content, in which words are replaced as well.
    pub(crate) texts: &'static [(&'static str, &'static str)],
    /// Symbolic links: path and target.
    pub(crate) links: &'static [(&'static str, &'static str)],
    /// What stands in the web server's configuration outside of the site.
    pub(crate) around: &'static str,
    /// The lines about the site.
    pub(crate) lines: &'static str,
    /// What `--script-root` gets, within the application's directory; the document root if there are
    /// none.
    pub(crate) script_roots: &'static [&'static str],
    /// Options beside those that are recommended for all.
    pub(crate) needs: &'static [&'static str],
    /// Recommended options that the set-up cannot be used with.
    pub(crate) without: &'static [&'static str],
    /// Settings of PHP that the set-up changes by PHP_VALUE or PHP_ADMIN_VALUE.
    pub(crate) settings: &'static [(&'static str, &'static str)],
    /// A PHP-FPM of its own, for a set-up that would change what the others see.
    pub(crate) apart: bool,
    pub(crate) requests: &'static [Request],
}

impl Recipe {
    /// To be completed.
    pub(crate) const NEW: Self = Self {
        name: "",
        particular: "",
        root: "",
        files: &[],
        texts: &[],
        links: &[],
        around: "",
        lines: "",
        script_roots: &[],
        needs: &[],
        without: &[],
        settings: &[],
        apart: false,
        requests: &[],
    };

    /// Its name as a word.
    pub(crate) fn slug(&self) -> String {
        let words = self.name.split(|c: char| !c.is_ascii_alphanumeric());
        let words: Vec<_> = words.filter(|word| !word.is_empty()).collect();
        words.join("-").to_lowercase()
    }

    /// The name under which the web server knows the site.
    pub(crate) fn host(&self) -> String {
        format!("{}.test", self.slug())
    }

    /// PHP-FPM keeps the settings of a request for as long as the worker lives.
    pub(crate) const fn is_apart(&self) -> bool {
        self.apart || !self.settings.is_empty()
    }

    pub(crate) fn script_roots(&self) -> Vec<&'static str> {
        match self.script_roots {
            [] => vec![self.root],
            roots => roots.to_vec(),
        }
    }

    /// The options that are recommended for this set-up, with the application in the directory `app`.
    pub(crate) fn options(&self, app: &str) -> Vec<String> {
        let roots = self.script_roots().into_iter();
        let roots = roots.map(|root| format!("--script-root {}", joined(app, root)));
        let common = RECOMMENDED
            .iter()
            .filter(|option| !self.without.contains(option));
        let more = common.chain(self.needs).map(|option| (*option).to_owned());
        roots.chain(more).collect()
    }
}

/// What docs/fastcgi.md recommends with PHP-FPM, beside `--script-root`.
pub(crate) const RECOMMENDED: &[&str] = &["--script-suffix .php", "--roles responder"];

pub(crate) fn joined(directory: &str, path: &str) -> String {
    match path {
        "" => directory.to_owned(),
        path => format!("{directory}/{path}"),
    }
}

/// A request and what it has to lead to.
#[derive(Clone, Copy)]
pub(crate) struct Request {
    pub(crate) method: &'static str,
    pub(crate) target: &'static str,
    pub(crate) headers: &'static [&'static str],
    pub(crate) body: Body,
    pub(crate) is_tls: bool,
    pub(crate) expected: Expected,
    /// Parameters that the script has to see so. All the others are compared as well, but nobody says
    /// here what they are.
    pub(crate) sees: &'static [(&'static str, &'static str)],
}

/// What answers.
#[derive(Clone, Copy)]
pub(crate) enum Expected {
    /// This script of the application, with status 200 or what the target's `answer` says.
    Script(&'static str),
    /// The web server itself, with this status.
    Status(u16),
}

#[derive(Clone, Copy)]
pub(crate) enum Body {
    None,
    /// A form.
    Form(&'static str),
    /// A form with a file of this many bytes.
    Upload(usize),
    /// This many bytes of a type that PHP does not read itself.
    Bytes(usize),
    /// The same in chunks, without a Content-Length.
    Chunked(usize),
}

pub(crate) const fn get(target: &'static str, script: &'static str) -> Request {
    Request {
        method: "GET",
        target,
        headers: &[],
        body: Body::None,
        is_tls: false,
        expected: Expected::Script(script),
        sees: &[],
    }
}

pub(crate) const fn post(target: &'static str, script: &'static str) -> Request {
    Request {
        method: "POST",
        body: Body::Form("name=J%C3%B6rg+M&list%5B%5D=1&list%5B%5D=2&empty="),
        ..get(target, script)
    }
}

pub(crate) const fn upload(target: &'static str, script: &'static str, size: usize) -> Request {
    Request {
        method: "POST",
        body: Body::Upload(size),
        ..get(target, script)
    }
}

pub(crate) const fn put(target: &'static str, script: &'static str, size: usize) -> Request {
    Request {
        method: "PUT",
        body: Body::Bytes(size),
        ..get(target, script)
    }
}

pub(crate) const fn put_chunked(
    target: &'static str,
    script: &'static str,
    size: usize,
) -> Request {
    Request {
        method: "PUT",
        body: Body::Chunked(size),
        ..get(target, script)
    }
}

pub(crate) const fn other(
    method: &'static str,
    target: &'static str,
    script: &'static str,
) -> Request {
    Request {
        method,
        ..get(target, script)
    }
}

/// Something that the web server answers itself.
pub(crate) const fn status(target: &'static str, status: u16) -> Request {
    Request {
        expected: Expected::Status(status),
        ..get(target, "")
    }
}

impl Request {
    pub(crate) const fn with(self, headers: &'static [&'static str]) -> Self {
        Self { headers, ..self }
    }

    pub(crate) const fn sees(self, sees: &'static [(&'static str, &'static str)]) -> Self {
        Self { sees, ..self }
    }

    pub(crate) const fn over_tls(self) -> Self {
        Self {
            is_tls: true,
            ..self
        }
    }
}
