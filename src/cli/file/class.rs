//! The tables of a route's classes: `[route.NAME.class.CLASS]`.

use clap::FromArgMatches;
use toml::de::DeValue;

use super::section::{MATCH, Place, Section};
use super::source::{self, Source};
use super::{Context, Key, Problems, Table, Value};
use crate::cli::class::ClassArguments;
use crate::cli::effective::quoted;
use crate::cli::options::{self, Options};
use crate::cli::{Conflict, WrittenClass, usage};
use crate::config::{
    CLASSES_MAX, Class, ClassName, ClassRules, Classes, ConnectionLimits, EndpointMax, Route,
    RouteName, RouteProtocol,
};
use crate::fastcgi::{CONDITIONS_MAX, Condition, Criteria};

/// How its value is written.
const CRITERIA: &str = "write an array of conditions that must all be met, such as [\"SCRIPT_NAME=/status.php\"], or an \
                        array of such arrays, one of which must";

/// One of them, as far as it is right.
pub(super) struct ClassTable {
    name: ClassName,
    line: usize,
    section: Section,
    criteria: Option<Given>,
}

/// The criteria of a class.
struct Given {
    line: usize,
    criteria: Criteria,
    /// In TOML.
    written: String,
}

/// What is wrong with criteria, and where.
struct WrongCriteria {
    line: usize,
    quote: String,
    cause: String,
}

/// Those of a route, in the order of the file. `None`: something of them was refused.
pub(super) fn read(
    file: &Context<'_>,
    route: &RouteName,
    (key, value): (&Key<'_>, &Value<'_>),
    problems: &mut Problems<'_>,
) -> Option<Vec<ClassTable>> {
    let line = file.source.line(key.span().start);
    let place = Place::Route(route);
    let DeValue::Table(tables) = value.get_ref() else {
        let found = source::found(value.get_ref());
        problems.add(
            line,
            format!(
                "{place}class: expected a table, found {found} (write for example [route.{route}.class.admin] and its \
                 keys)"
            ),
        );
        return None;
    };
    let default = ClassName::default();
    let others = tables
        .keys()
        .filter(|key| key.get_ref().as_ref() != default.as_str());
    let count = others.count();
    if count > CLASSES_MAX {
        problems.add(
            line,
            format!("{place}class: {count} classes are too many (use at most {CLASSES_MAX} and the default one)"),
        );
        return None;
    }
    let read = tables
        .iter()
        .map(|entry| ClassTable::read(file, route, entry, problems));
    // Each of them is to be told of.
    let read: Vec<_> = read.collect();
    read.into_iter().collect()
}

impl ClassTable {
    fn read(
        file: &Context<'_>,
        route: &RouteName,
        (key, value): (&Key<'_>, &Value<'_>),
        problems: &mut Problems<'_>,
    ) -> Option<Self> {
        let line = file.source.line(key.span().start);
        let (route_place, shown) = (Place::Route(route), source::shown(key.get_ref()));
        let DeValue::Table(table) = value.get_ref() else {
            let found = source::found(value.get_ref());
            problems.add(
                line,
                format!(
                    "{route_place}class {shown}: expected a table, found {found} (write [route.{route}.class.{shown}] \
                     and its keys)"
                ),
            );
            return None;
        };
        let name = match key.get_ref().parse::<ClassName>() {
            Ok(name) => name,
            Err(error) => {
                problems.add(line, format!("{route_place}class {shown}: {error}"));
                return None;
            }
        };
        let mut class = Self {
            section: Section::default(),
            criteria: None,
            line,
            name,
        };
        class.read_keys(file, route, table, problems);
        (!class.section.is_wrong).then_some(class)
    }

    fn read_keys(
        &mut self,
        file: &Context<'_>,
        route: &RouteName,
        table: &Table<'_>,
        problems: &mut Problems<'_>,
    ) {
        let name = self.name.clone();
        let place = Place::Class(route, &name);
        for (key, value) in table {
            if key.get_ref() != MATCH {
                self.section.read_key(file, &place, (key, value), problems);
                continue;
            }
            match Given::read(&file.source, value) {
                Ok(given) => self.criteria = Some(given),
                Err(WrongCriteria { line, quote, cause }) => {
                    self.section.is_wrong = true;
                    problems.add(line, format!("{place}{MATCH} = {quote}: {cause}"));
                }
            }
        }
    }

    /// Its criteria and its rules. `None` for criteria: it is the default class.
    fn validate(
        &self,
        route: ClassRules,
        options: &Options,
    ) -> Result<(Option<Criteria>, ClassRules, WrittenClass), (usize, String)> {
        let is_default = self.name == ClassName::default();
        match &self.criteria {
            None if !is_default => {
                let problem = format!("{MATCH}: missing ({CRITERIA})");
                return Err((self.line, problem));
            }
            Some(given) if is_default => {
                let problem = format!(
                    "{MATCH}: this class has whatever no other one has (remove it, or give the class another name)"
                );
                return Err((given.line, problem));
            }
            Some(_) | None => {}
        }
        let words = options
            .keys()
            .filter_map(|key| self.section.entries.get(key));
        let words = words.flat_map(|entry| entry.words()).collect();
        let matches = options.parse(words);
        let parsed =
            matches.and_then(|matches| Ok((ClassArguments::from_arg_matches(&matches)?, matches)));
        // Each option was taken already, and none is required; should clap differ, it says why.
        let (arguments, matches) = parsed.map_err(|error| (self.line, usage::cause(&error)))?;
        let rules = arguments
            .rules(route)
            .map_err(|Conflict { option, problem }| {
                let entry = self.section.entries.get(option);
                (entry.map_or(self.line, |entry| entry.line), problem)
            })?;
        let written = WrittenClass {
            name: self.name.clone(),
            criteria: self.criteria.as_ref().map(|given| given.written.clone()),
            matches,
        };
        let criteria = self.criteria.as_ref().map(|given| given.criteria.clone());
        Ok((criteria, rules, written))
    }

    /// A problem with it, as it is told.
    fn complain(&self, route: &RouteName, (line, problem): (usize, String)) -> (usize, String) {
        let problem = options::in_words_of_a_file(&problem);
        (
            line,
            format!("{}{problem}", Place::Class(route, &self.name)),
        )
    }
}

/// Gives a route these classes, or says in which line something is that does not go with the rest.
pub(super) fn give(
    route: &mut Route,
    tables: &[ClassTable],
    options: &Options,
) -> Result<Vec<WrittenClass>, (usize, String)> {
    let Some(first) = tables.first() else {
        return Ok(Vec::new());
    };
    let name = route.name.clone();
    let RouteProtocol::Fastcgi(fastcgi) = &mut route.protocol else {
        let problem = "without protocol = \"fastcgi\": what is relayed has no parameters to tell classes by (remove \
                       it, or give protocol)";
        return Err(first.complain(&name, (first.line, problem.to_owned())));
    };
    let Some(permits) = route.limits.per_endpoint_max else {
        let problem = "without --per-endpoint-max: there is nothing that classes could share (give it: with PHP-FPM as \
                       many as pm.max_children)";
        return Err(first.complain(&name, (first.line, problem.to_owned())));
    };
    let of_route = ClassRules::of(permits.most(), &route.limits, fastcgi.request_timeout);
    let mut classes = Classes {
        default: of_route,
        others: Vec::new(),
    };
    let mut written = Vec::new();
    for table in tables {
        let validated = table.validate(of_route, options);
        let (criteria, rules, as_written) =
            validated.map_err(|problem| table.complain(&name, problem))?;
        written.push(as_written);
        match criteria {
            None => classes.default = rules,
            Some(criteria) => classes.others.push(Class {
                name: table.name.clone(),
                criteria,
                rules,
            }),
        }
        let together = check_together(&classes, permits, &route.limits);
        together.map_err(|(key, problem)| {
            let entry = table.section.entries.get(key);
            let given = table.criteria.as_ref().filter(|_| key == MATCH);
            let line = entry.map(|entry| entry.line);
            let line = line.or_else(|| given.map(|given| given.line));
            table.complain(&name, (line.unwrap_or(table.line), problem))
        })?;
    }
    fastcgi.classes = Some(classes);
    Ok(written)
}

/// Whether those so far leave enough for each other, on each shard. What is wrong is the last one's.
fn check_together(
    classes: &Classes,
    permits: EndpointMax,
    limits: &ConnectionLimits,
) -> Result<(), (&'static str, String)> {
    let conditions = classes
        .others
        .iter()
        .map(|class| class.criteria.conditions());
    let conditions: usize = conditions.sum();
    if conditions > CONDITIONS_MAX {
        return Err((
            MATCH,
            format!(
                "{MATCH}: {conditions} conditions of all classes are too many (use at most {CONDITIONS_MAX}, or have the \
                 web server tell the class in a parameter of its own)"
            ),
        ));
    }
    let shards = limits.shards;
    for shard in 0..shards.get() {
        let part = |whole: u32| ConnectionLimits::part(whole, shards, shard);
        let reserved: u32 = classes.rules().map(|rules| part(rules.reserve)).sum();
        if reserved >= part(permits.least().get()) {
            let all: u32 = classes.rules().map(|rules| rules.reserve).sum();
            let of_shards = match shards.get() {
                1 => String::new(),
                shards => format!(", which {shards} shards share"),
            };
            let (of_which, to_raise) = match permits {
                EndpointMax::Fixed(max) => {
                    (format!("--per-endpoint-max {max}"), "--per-endpoint-max")
                }
                EndpointMax::Auto(range) => (
                    format!(
                        "the {} that --per-endpoint-max {permits} always allows",
                        range.least()
                    ),
                    "the first number of --per-endpoint-max",
                ),
            };
            return Err((
                "reserve",
                format!(
                    "--reserve: all classes together keep {all} of {of_which}{of_shards}, and at least one must be left \
                     (lower a --reserve, or raise {to_raise})"
                ),
            ));
        }
        if let Some(rules) = classes.rules().find(|rules| part(rules.max.get()) == 0) {
            let max = rules.max;
            return Err((
                "max",
                format!(
                    "--max {max} with --shards {shards}: each shard needs one (use at least {shards}, or fewer shards)"
                ),
            ));
        }
        let is_lost = |rules: &ClassRules| rules.reserve > 0 && part(rules.reserve) == 0;
        if let Some(rules) = classes.rules().find(is_lost) {
            let reserve = rules.reserve;
            return Err((
                "reserve",
                format!(
                    "--reserve {reserve} with --shards {shards}: each shard needs one (use at least {shards}, or fewer \
                     shards)"
                ),
            ));
        }
    }
    Ok(())
}

impl Given {
    fn read(source: &Source<'_>, value: &Value<'_>) -> Result<Self, WrongCriteria> {
        let is_array = |value: &Value<'_>| matches!(value.get_ref(), DeValue::Array(_));
        let (any, written) = match value.get_ref() {
            DeValue::Array(lists) if lists.iter().any(is_array) => lists_of(source, lists)?,
            DeValue::Array(values) => {
                let (all, written) = list_of(source, values)?;
                (vec![all], written)
            }
            _ => {
                let (one, written) = condition(source, value)?;
                (vec![vec![one]], format!("[{written}]"))
            }
        };
        let criteria = Criteria::new(any);
        let empty = || wrong(source, value, format!("no condition at all ({CRITERIA})"));
        Ok(Self {
            line: source.line(value.span().start),
            criteria: criteria.ok_or_else(empty)?,
            written,
        })
    }
}

/// One of these lists has to be met.
fn lists_of(
    source: &Source<'_>,
    lists: &[Value<'_>],
) -> Result<(Vec<Vec<Condition>>, String), WrongCriteria> {
    let each = lists.iter().map(|value| match value.get_ref() {
        DeValue::Array(values) => list_of(source, values),
        other => {
            let found = source::found(other);
            Err(wrong(
                source,
                value,
                format!("{found} beside an array ({CRITERIA})"),
            ))
        }
    });
    let each: Vec<_> = each.collect::<Result<_, _>>()?;
    let (any, written): (Vec<_>, Vec<_>) = each.into_iter().unzip();
    Ok((any, format!("[{}]", written.join(", "))))
}

/// All of these conditions have to be met.
fn list_of(
    source: &Source<'_>,
    values: &[Value<'_>],
) -> Result<(Vec<Condition>, String), WrongCriteria> {
    let each = values.iter().map(|value| condition(source, value));
    let each: Vec<_> = each.collect::<Result<_, _>>()?;
    let (all, written): (Vec<_>, Vec<_>) = each.into_iter().unzip();
    Ok((all, format!("[{}]", written.join(", "))))
}

fn condition(source: &Source<'_>, value: &Value<'_>) -> Result<(Condition, String), WrongCriteria> {
    match value.get_ref() {
        DeValue::String(text) => {
            let parsed = text.parse::<Condition>();
            let parsed = parsed.map_err(|error| wrong(source, value, error.to_string()))?;
            Ok((parsed, quoted(text)))
        }
        other => {
            let found = source::found(other);
            let cause = format!("expected a condition, found {found} ({CRITERIA})");
            Err(wrong(source, value, cause))
        }
    }
}

fn wrong(source: &Source<'_>, value: &Value<'_>, cause: String) -> WrongCriteria {
    WrongCriteria {
        line: source.line(value.span().start),
        quote: source.quote(value.span()),
        cause,
    }
}

#[cfg(test)]
mod tests;
