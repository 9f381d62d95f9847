//! docs/recipes.md says the same as the tables.

use std::collections::HashSet;

use crate::common::http::file;
use crate::recipe::{RECOMMENDED, Recipe, joined};
use crate::servers::WebServer;

const BEGIN: &str = "<!-- The tables of tests/recipes: a test compares. -->\n";
const END: &str = "<!-- The end of the tables. -->\n";

#[test]
fn the_document_has_a_line_for_each_recipe() {
    let document = file("docs/recipes.md");
    let (_, rest) = document
        .split_once(BEGIN)
        .expect("the mark in front of the tables");
    let (tables, _) = rest.split_once(END).expect("the mark behind the tables");
    let wanted = WebServer::ALL.map(table).concat() + "\n";
    assert!(
        tables == wanted,
        "docs/recipes.md differs from the tables of this test. They are:\n{wanted}"
    );
}

#[test]
fn what_is_recommended_is_what_the_documents_recommend() {
    let line = format!("--script-root /srv/app/public {}\n", RECOMMENDED.join(" "));
    for name in ["docs/fastcgi.md", "docs/recipes.md"] {
        assert!(
            file(name).contains(&line),
            "{name} does not have the line {line}"
        );
    }
}

#[test]
fn no_two_recipes_of_a_web_server_have_one_name() {
    for server in WebServer::ALL {
        let mut seen = HashSet::new();
        for recipe in server.recipes() {
            assert!(
                seen.insert(recipe.slug()),
                "{}: {}",
                server.title(),
                recipe.name
            );
            assert!(
                !recipe.requests.is_empty(),
                "{}: {} asks nothing",
                server.title(),
                recipe.name
            );
        }
    }
}

/// The shortest set-ups of the document are those of a recipe, which is therefore tried.
#[test]
fn the_set_ups_of_the_document_are_recipes() {
    let document = words(&file("docs/recipes.md"));
    for (server, name, php) in [
        (
            WebServer::Nginx,
            "Kept connections",
            "unix:/run/spliceway/php.sock",
        ),
        (
            WebServer::Apache,
            "Handler, kept connections",
            "unix:/run/spliceway/php.sock|fcgi://php",
        ),
        (
            WebServer::Caddy,
            "php_fastcgi",
            "unix//run/spliceway/php.sock",
        ),
        (
            WebServer::Lighttpd,
            "Debian's PHP-FPM",
            "\"socket\" => \"/run/spliceway/php.sock\"",
        ),
        (
            WebServer::Haproxy,
            "Kept connections",
            "unix@/run/spliceway/php.sock",
        ),
    ] {
        let recipe = server.recipes().iter().find(|recipe| recipe.name == name);
        let recipe = recipe.expect("it is in the table");
        for text in [recipe.around, recipe.lines] {
            let text = text
                .replace("{root}", &joined("/srv/app", recipe.root))
                .replace("{php}", php)
                .replace("{worker}", "fcgi://php/")
                .replace("{name}", "php");
            let wanted = words(&text);
            assert!(
                document.contains(&wanted),
                "{}: docs/recipes.md lacks: {wanted}",
                server.title()
            );
        }
    }
}

/// `text` with one space between words.
fn words(text: &str) -> String {
    text.split_whitespace().collect::<Vec<_>>().join(" ")
}

fn table(server: WebServer) -> String {
    let rows: String = server.recipes().iter().map(row).collect();
    format!(
        "\n### {}\n\n| set-up | what is particular | script root | more options |\n|---|---|---|---|\n{rows}",
        server.title()
    )
}

fn row(recipe: &Recipe) -> String {
    let roots = recipe.script_roots().into_iter();
    let roots: Vec<_> = roots
        .map(|root| format!("`{}`", joined("/srv/app", root)))
        .collect();
    let needs = recipe.needs.iter().map(|option| format!("`{option}`"));
    let without = recipe
        .without
        .iter()
        .map(|option| format!("not `{option}`"));
    let more: Vec<_> = needs.chain(without).collect();
    format!(
        "| {} | {} | {} | {} |\n",
        recipe.name,
        recipe.particular,
        roots.join(", "),
        more.join(", ")
    )
}
