//! What people run: applications' published set-ups of nginx, Apache, Caddy, lighttpd and HAProxy, each
//! with a program in PHP that shows what it got. Through spliceway it must get exactly what it gets from
//! the web server directly, with the options that nobody has to give and with those that are recommended.
//!
//! A new recipe is an entry in the table of its web server. docs/recipes.md has a line for each, and a
//! test compares the two.

// These tests consist of set-up that must not fail.
#![allow(clippy::unwrap_used)]

#[path = "../common/mod.rs"]
mod common;

mod apache;
mod caddy;
mod client;
mod document;
mod haproxy;
mod lighttpd;
mod nginx;
mod observed;
mod recipe;
mod servers;
mod stage;

use std::collections::BTreeMap;

use client::ask;
use common::{Engine, for_each_engine};
use observed::Observed;
use recipe::{Expected, Recipe, Request};
use servers::WebServer;
use stage::{Stage, Way};

for_each_engine!(
    php_behind_nginx_gets_what_it_gets_directly,
    php_behind_apache_gets_what_it_gets_directly,
    php_behind_caddy_gets_what_it_gets_directly,
    php_behind_lighttpd_gets_what_it_gets_directly,
    php_behind_haproxy_gets_what_it_gets_directly,
);

fn php_behind_nginx_gets_what_it_gets_directly(engine: Engine) {
    compare_all(WebServer::Nginx, engine);
}

fn php_behind_apache_gets_what_it_gets_directly(engine: Engine) {
    compare_all(WebServer::Apache, engine);
}

fn php_behind_caddy_gets_what_it_gets_directly(engine: Engine) {
    compare_all(WebServer::Caddy, engine);
}

fn php_behind_lighttpd_gets_what_it_gets_directly(engine: Engine) {
    compare_all(WebServer::Lighttpd, engine);
}

fn php_behind_haproxy_gets_what_it_gets_directly(engine: Engine) {
    compare_all(WebServer::Haproxy, engine);
}

/// Sends all requests of a web server's table on all ways, and tells of everything that is not as it
/// is directly.
fn compare_all(server: WebServer, engine: Engine) {
    let stage = Stage::start(server, engine);
    let mut faults = Vec::new();
    let mut settings = None;
    for recipe in server.recipes() {
        for request in recipe.requests {
            let label = format!(
                "{}, {}: {} {}",
                server.title(),
                recipe.name,
                request.method,
                request.target
            );
            for fault in Comparison::of(&stage, recipe, request).faults(&mut settings) {
                faults.push(format!("{label}: {fault}"));
            }
        }
    }
    assert!(
        faults.is_empty(),
        "{} differences with the engine {engine}:\n{}",
        faults.len(),
        faults.join("\n")
    );
}

/// One request on all ways.
struct Comparison<'a> {
    recipe: &'a Recipe,
    request: &'a Request,
    app: String,
    answers: BTreeMap<Way, Result<Observed, String>>,
}

impl<'a> Comparison<'a> {
    fn of(stage: &Stage, recipe: &'a Recipe, request: &'a Request) -> Self {
        let app = stage.app(recipe);
        let target = request.target.replace("{app}", &app);
        let answers = stage.fronts.iter().map(|(way, front)| {
            let response = ask(front, &recipe.host(), &target, request);
            (
                *way,
                response.map(|response| Observed::of(&response, front)),
            )
        });
        Self {
            recipe,
            request,
            answers: answers.collect(),
            app,
        }
    }

    /// `settings` are those that PHP has without a recipe: the first answer's that has no other.
    fn faults(&self, settings: &mut Option<BTreeMap<String, String>>) -> Vec<String> {
        let direct = match &self.answers[&Way::Direct] {
            Ok(direct) => direct,
            Err(error) => return vec![format!("directly: {error}")],
        };
        let mut faults = self.unexpected(direct);
        faults.extend(self.unexpected_settings(direct, settings));
        for (way, answer) in &self.answers {
            match answer {
                Ok(answer) => {
                    let differences = direct.differences(answer);
                    faults.extend(
                        differences
                            .into_iter()
                            .map(|line| format!("{way:?}: {line}")),
                    );
                }
                Err(error) => faults.push(format!("{way:?}: {error}")),
            }
        }
        faults
    }

    /// What the recipe says otherwise of the direct way: then it is the table that is wrong.
    fn unexpected(&self, direct: &Observed) -> Vec<String> {
        let mut wanted = Vec::new();
        match self.request.expected {
            Expected::Script(script) => {
                let status = self.request.target.split("answer=").nth(1).unwrap_or("200");
                wanted.push(("status".to_owned(), status.to_owned()));
                wanted.push((
                    "header x-script".to_owned(),
                    format!("{}/{script}", self.app),
                ));
            }
            Expected::Status(status) => wanted.push(("status".to_owned(), status.to_string())),
        }
        let seen = self.request.sees.iter();
        wanted.extend(seen.map(|(name, value)| (format!("SERVER {name}"), (*value).to_owned())));
        let missed = wanted
            .iter()
            .filter(|(name, value)| direct.values.get(name) != Some(value));
        let line = |(name, value): &(String, String)| {
            let body = direct.values.get("body").map_or("", String::as_str);
            format!(
                "directly: {name} is {:?}, not {value:?} {body}",
                direct.values.get(name)
            )
        };
        missed.map(line).collect()
    }

    /// PHP-FPM keeps the settings of a request for the worker's next ones: a recipe must neither miss
    /// its own nor see those of another.
    fn unexpected_settings(
        &self,
        direct: &Observed,
        settings: &mut Option<BTreeMap<String, String>>,
    ) -> Vec<String> {
        if direct.settings.is_empty() {
            return Vec::new();
        }
        let Some(without) = settings else {
            assert!(
                self.recipe.settings.is_empty(),
                "the first recipe of a table changes no settings"
            );
            *settings = Some(direct.settings.clone());
            return Vec::new();
        };
        let mut wanted = without.clone();
        for (name, value) in self.recipe.settings {
            wanted.insert((*name).to_owned(), value.replace("{app}", &self.app));
        }
        let names = wanted.keys().chain(direct.settings.keys());
        let differ = names.filter(|name| wanted.get(*name) != direct.settings.get(*name));
        let line = |name: &String| format!("directly: {name} is {:?}", direct.settings.get(name));
        differ.map(line).collect()
    }
}
