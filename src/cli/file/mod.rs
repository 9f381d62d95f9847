//! The configuration file: TOML, with the daemon's settings on top, `[defaults]` for all routes, and a
//! table for each route.
//!
//! Nothing is defined here: a key is the long name of an option, and its value is handed to that
//! option's parser. What this adds is where something is wrong, in one line for each mistake, because
//! an operator mends a file in one go if it is told of all of them.

mod class;
mod section;
mod source;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, HashMap};
use std::ffi::OsString;
use std::fmt;
use std::fs::File;
use std::io::{self, Read};
use std::path::Path;

use clap::{ArgMatches, FromArgMatches};
use toml::Spanned;
use toml::de::{DeString, DeTable, DeValue};

use self::class::ClassTable;
use self::section::{CLASS, Entry, Place, Section};
use self::source::Source;
use super::daemon::DaemonArguments;
use super::options::{self, Options};
use super::reading;
use super::route::RouteArguments;
use super::{Conflict, RunCommand, ServedRoute, usage};
use crate::config::{ListenAddress, RouteName};

/// The largest file: [`ROUTES_MAX`] routes with every key, as `check` prints them, take a quarter of it,
/// and whatever is larger is another file.
pub const FILE_BYTES_MAX: usize = 1 << 22;

/// The most routes: more than a host has services, and each takes sockets and lookups of its own.
pub const ROUTES_MAX: usize = 1024;

/// The most mistakes that are told at one time, as many as a screen has lines.
const PROBLEMS_SHOWN_MAX: usize = 24;

/// The longest line about a mistake: parsers quote what they refuse, and that may be anything. The longest
/// that they say of something sensible has about 300.
const PROBLEM_CHARS_MAX: usize = 500;

/// What is wrong with a file: a line for each mistake, such as
/// `php.toml:3: route php: conect-timeout: unknown key (did you mean connect-timeout?)`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FileErrors(Vec<String>);

impl FileErrors {
    /// The lines, at least one, in the order of the file. What they quote is escaped: each is one line.
    pub fn lines(&self) -> impl Iterator<Item = &str> {
        self.0.iter().map(String::as_str)
    }
}

impl fmt::Display for FileErrors {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0.join("\n"))
    }
}

/// What keeps a file from being read, in one line.
pub(super) fn unreadable(path: &Path, problem: String) -> FileErrors {
    Problems::new(path).only(problem)
}

/// Reads the file, and of one that is too large no more than shows that it is.
pub(super) fn read(path: &Path) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    let most = FILE_BYTES_MAX as u64 + 1;
    File::open(path)?.take(most).read_to_end(&mut bytes)?;
    Ok(bytes)
}

/// Options of the daemon that count more than the file's: by their names, in words of the command line.
pub(super) type Overrides = BTreeMap<String, Vec<OsString>>;

/// From the content of a file to what is served.
pub(super) fn load(
    path: &Path,
    content: io::Result<Vec<u8>>,
    overrides: &Overrides,
) -> Result<RunCommand, FileErrors> {
    let mut problems = Problems::new(path);
    let content = content.map_err(|error| {
        problems.only(format!(
            "cannot be read: {error} (give the path of a file that this user may read)"
        ))
    })?;
    let text = text(&content, &mut problems)?;
    let source = Source::new(text);
    let document = DeTable::parse(text)
        .map_err(|error| problems.only_at(source.syntax_error(&error)))?
        .into_inner();
    let file = Context {
        source,
        daemon: Options::of_daemon(),
        route: Options::of_route(),
        class: Options::of_class(),
    };
    let document = Document::read(&file, &document, &mut problems);
    let source = reading::Source::file(path, overrides);
    let served = document.serve(&file, (overrides, source), &mut problems);
    match problems.into_errors() {
        Some(errors) => Err(errors),
        None => Ok(served.expect("without it there is a problem")),
    }
}

fn text<'a>(content: &'a [u8], problems: &mut Problems<'_>) -> Result<&'a str, FileErrors> {
    if content.len() > FILE_BYTES_MAX {
        return Err(problems.only(format!(
            "too large (use at most {FILE_BYTES_MAX} bytes; is it a configuration file?)"
        )));
    }
    std::str::from_utf8(content).map_err(|error| {
        let before = &content[..error.valid_up_to()];
        let line = 1 + before.iter().filter(|byte| **byte == b'\n').count();
        problems.only_at((line, "not valid UTF-8 (save the file as UTF-8)".to_owned()))
    })
}

/// What every part of a file is read with.
struct Context<'a> {
    source: Source<'a>,
    daemon: Options,
    route: Options,
    class: Options,
}

/// The tables of a file, with each key's words.
#[derive(Default)]
struct Document {
    daemon: Section,
    defaults: Section,
    routes: Vec<Route>,
}

struct Route {
    name: RouteName,
    line: usize,
    section: Section,
    /// In the order of the file.
    classes: Vec<ClassTable>,
}

type Table<'a> = DeTable<'a>;
type Key<'a> = Spanned<DeString<'a>>;
type Value<'a> = Spanned<DeValue<'a>>;

impl Document {
    fn read(file: &Context<'_>, table: &Table<'_>, problems: &mut Problems<'_>) -> Self {
        let mut document = Self::default();
        for (key, value) in table {
            match (key.get_ref().as_ref(), value.get_ref()) {
                ("route", DeValue::Table(routes)) => document.read_routes(file, routes, problems),
                ("defaults", DeValue::Table(defaults)) => {
                    let section = &mut document.defaults;
                    section.read(file, &Place::Defaults, defaults, problems);
                }
                ("route" | "defaults", _) => {
                    let line = file.source.line(key.span().start);
                    problems.add(line, source::not_a_table(key, value));
                }
                _ => {
                    let section = &mut document.daemon;
                    section.read_key(file, &Place::Daemon, (key, value), problems);
                }
            }
        }
        if document.routes.is_empty() && problems.is_empty() {
            problems.add_without_line("no route (write for example [route.php] and its keys)");
        }
        document
    }

    fn read_routes(&mut self, file: &Context<'_>, routes: &Table<'_>, problems: &mut Problems<'_>) {
        if routes.len() > ROUTES_MAX {
            problems.add_without_line(format!(
                "{} routes are too many (use at most {ROUTES_MAX})",
                routes.len()
            ));
            return;
        }
        for entry in routes {
            self.read_route(file, entry, problems);
        }
    }

    fn read_route(
        &mut self,
        file: &Context<'_>,
        (key, value): (&Key<'_>, &Value<'_>),
        problems: &mut Problems<'_>,
    ) {
        let line = file.source.line(key.span().start);
        let DeValue::Table(table) = value.get_ref() else {
            let is_option = file.route.find(key.get_ref()).is_some();
            return problems.add(line, source::not_a_route(key, value, is_option));
        };
        match key.get_ref().parse::<RouteName>() {
            Err(error) => {
                let name = source::shown(key.get_ref());
                problems.add(line, format!("route {name}: {error}"));
            }
            Ok(name) => {
                let mut route = Route {
                    name,
                    line,
                    section: Section::default(),
                    classes: Vec::new(),
                };
                route.read(file, table, problems);
                self.routes.push(route);
            }
        }
    }

    /// `None` if there is a problem.
    fn serve(
        self,
        file: &Context<'_>,
        (overrides, source): (&Overrides, reading::Source),
        problems: &mut Problems<'_>,
    ) -> Option<RunCommand> {
        let daemon = self.daemon(&file.daemon, overrides, problems);
        // Mistakes of the defaults are told once, not again for every route.
        let defaults = &self.defaults;
        let routes: Vec<_> = self
            .routes
            .iter()
            .filter(|route| !route.section.is_wrong && !defaults.is_wrong)
            .filter_map(|route| {
                let served = route.serve(defaults, file);
                served
                    .map_err(|(line, problem)| problems.add(line, problem))
                    .ok()
            })
            .collect();
        self.check_listeners(&routes, problems);
        let (arguments, matches) = daemon?;
        self.check_daemon(&arguments, &routes, problems);
        problems
            .is_empty()
            .then(|| arguments.serve(&matches, routes, source))
    }

    fn daemon(
        &self,
        options: &Options,
        overrides: &Overrides,
        problems: &mut Problems<'_>,
    ) -> Option<(DaemonArguments, ArgMatches)> {
        if self.daemon.is_wrong {
            return None;
        }
        let ours = self.daemon.entries.iter();
        let ours = ours.filter(|(key, _)| !overrides.contains_key(*key));
        let words = ours.flat_map(|(_, entry)| entry.words());
        let words = words.chain(overrides.values().flatten().cloned()).collect();
        let matches = options.parse(words);
        match matches
            .and_then(|matches| Ok((DaemonArguments::from_arg_matches(&matches)?, matches)))
        {
            Ok(daemon) => Some(daemon),
            // Each option was taken already, and none is required; should clap differ, it says why.
            Err(error) => {
                problems.add_without_line(usage::cause(&error));
                None
            }
        }
    }

    /// No two routes can share a socket: a client could not tell which one it reaches.
    fn check_listeners(&self, served: &[ServedRoute], problems: &mut Problems<'_>) {
        let mut seen: HashMap<&ListenAddress, &RouteName> = HashMap::new();
        // One that takes all descriptors goes with no other that takes any.
        let mut first_inherited: Option<(&ListenAddress, &RouteName)> = None;
        for ServedRoute { route, .. } in served {
            for (index, address) in route.listeners.iter().enumerate() {
                let same = seen.insert(address, &route.name);
                let first = match address {
                    ListenAddress::Unix(_) => None,
                    ListenAddress::Inherited(_) => first_inherited,
                };
                let overlapping = first.filter(|(first, _)| address.overlaps(first));
                if let ListenAddress::Inherited(_) = address {
                    first_inherited.get_or_insert((address, &route.name));
                }
                let Some(other) = same.or_else(|| overlapping.map(|(_, name)| name)) else {
                    continue;
                };
                let line = self.line_of_listener(&route.name, index);
                problems.add(
                    line,
                    format!(
                        "route {}: listen {address}: route {other} listens there as well (give each \
                         route a socket of its own)",
                        route.name
                    ),
                );
            }
        }
    }

    fn line_of_listener(&self, name: &RouteName, index: usize) -> usize {
        let mut routes = self.routes.iter();
        let Some(route) = routes.find(|route| route.name == *name) else {
            return 1;
        };
        let entry = route.section.entries.get("listen");
        let occurrence = entry.and_then(|entry| entry.occurrences.get(index));
        occurrence.map_or(route.line, |occurrence| occurrence.line)
    }

    fn check_daemon(
        &self,
        daemon: &DaemonArguments,
        served: &[ServedRoute],
        problems: &mut Problems<'_>,
    ) {
        let routes = served.iter().map(|served| &served.route);
        let Err(Conflict { option, problem }) = daemon.check(routes) else {
            return;
        };
        let problem = options::in_words_of_a_file(&problem);
        match self.daemon.entries.get(option) {
            Some(entry) => problems.add(entry.line, problem),
            None => problems.add_without_line(problem),
        }
    }
}

impl Route {
    fn read(&mut self, file: &Context<'_>, table: &Table<'_>, problems: &mut Problems<'_>) {
        for (key, value) in table {
            if key.get_ref() != CLASS {
                let place = Place::Route(&self.name);
                self.section.read_key(file, &place, (key, value), problems);
                continue;
            }
            match class::read(file, &self.name, (key, value), problems) {
                Some(classes) => self.classes = classes,
                None => self.section.is_wrong = true,
            }
        }
    }

    /// The route with its defaults, or the line of what keeps it from being one.
    fn serve(
        &self,
        defaults: &Section,
        file: &Context<'_>,
    ) -> Result<ServedRoute, (usize, String)> {
        let options = &file.route;
        let complain = |line: usize, problem: &str| {
            let problem = options::in_words_of_a_file(problem);
            (line, format!("{}{problem}", Place::Route(&self.name)))
        };
        let words = options.keys().filter_map(|key| self.entry(key, defaults));
        let words = words.flat_map(Entry::words).collect();
        let matches = options.parse(words);
        let parsed =
            matches.and_then(|matches| Ok((RouteArguments::from_arg_matches(&matches)?, matches)));
        let (arguments, matches) = parsed.map_err(|error| complain(self.line, &missing(&error)))?;
        let mut route =
            arguments
                .validate(self.name.clone())
                .map_err(|Conflict { option, problem }| {
                    let entry = self.entry(option, defaults);
                    complain(entry.map_or(self.line, |entry| entry.line), &problem)
                })?;
        let classes = class::give(&mut route, &self.classes, &file.class)?;
        Ok(ServedRoute {
            route,
            matches,
            classes,
        })
    }

    fn entry<'a>(&'a self, key: &str, defaults: &'a Section) -> Option<&'a Entry> {
        let ours = self.section.entries.get(key);
        ours.or_else(|| defaults.entries.get(key))
    }
}

/// Only what is required can be wrong once each option was taken by itself.
fn missing(error: &clap::Error) -> String {
    let missing = usage::missing_options(error);
    if missing.is_empty() {
        return usage::cause(error);
    }
    let keys: Vec<&str> = missing
        .iter()
        .map(|option| option.trim_start_matches("--"))
        .filter_map(|option| option.split(' ').next())
        .collect();
    let keys = keys.join(" and ");
    format!("{keys}: missing (every route needs listen and backend)")
}

/// What was found wrong so far.
pub(super) struct Problems<'a> {
    path: &'a Path,
    /// Those without a line come first.
    found: Vec<(usize, String)>,
}

impl<'a> Problems<'a> {
    fn new(path: &'a Path) -> Self {
        let found = Vec::new();
        Self { path, found }
    }

    fn is_empty(&self) -> bool {
        self.found.is_empty()
    }

    fn add(&mut self, line: usize, problem: impl Into<String>) {
        self.found.push((line, problem.into()));
    }

    fn add_without_line(&mut self, problem: impl Into<String>) {
        self.add(0, problem);
    }

    /// For what keeps the rest from being read.
    fn only(&mut self, problem: String) -> FileErrors {
        self.only_at((0, problem))
    }

    fn only_at(&mut self, (line, problem): (usize, String)) -> FileErrors {
        FileErrors(vec![self.shown(line, &problem)])
    }

    fn into_errors(mut self) -> Option<FileErrors> {
        if self.found.is_empty() {
            return None;
        }
        // Stable: of one line, in the order in which they were found.
        self.found.sort_by_key(|(line, _)| *line);
        let shown = self.found.iter().take(PROBLEMS_SHOWN_MAX);
        let mut lines: Vec<String> = shown.map(|(line, text)| self.shown(*line, text)).collect();
        let hidden = self.found.len().saturating_sub(PROBLEMS_SHOWN_MAX);
        if hidden > 0 {
            lines.push(self.shown(0, &format!("and {hidden} more (mend those above first)")));
        }
        Some(FileErrors(lines))
    }

    fn shown(&self, line: usize, problem: &str) -> String {
        let path = self.path.display();
        let problem = source::beginning(problem, PROBLEM_CHARS_MAX);
        usage::one_line(&match line {
            0 => format!("{path}: {problem}"),
            line => format!("{path}:{line}: {problem}"),
        })
    }
}
