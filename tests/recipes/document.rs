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
    let (_, rest) = document.split_once(BEGIN).expect("the mark in front of the tables");
    let (tables, _) = rest.split_once(END).expect("the mark behind the tables");
    let wanted: String = WebServer::ALL.map(table).concat();
    assert!(
        tables == wanted,
        "docs/recipes.md differs from the tables of this test. They are:\n{wanted}"
    );
}

#[test]
fn what_is_recommended_is_what_the_documents_recommend() {
    let line = format!("--script-root /srv/app/public {}\n", RECOMMENDED.join(" "));
    for name in ["docs/fastcgi.md", "docs/recipes.md"] {
        assert!(file(name).contains(&line), "{name} does not have the line {line}");
    }
}

#[test]
fn no_two_recipes_of_a_web_server_have_one_name() {
    for server in WebServer::ALL {
        let mut seen = HashSet::new();
        for recipe in server.recipes() {
            assert!(seen.insert(recipe.slug()), "{}: {}", server.title(), recipe.name);
            assert!(!recipe.requests.is_empty(), "{}: {} asks nothing", server.title(), recipe.name);
        }
    }
}

fn table(server: WebServer) -> String {
    let rows: String = server.recipes().iter().map(row).collect();
    format!(
        "\n### {}\n\n| set-up | what is particular | script root | more options |\n|---|---|---|---|\n{rows}\n",
        server.title()
    )
}

fn row(recipe: &Recipe) -> String {
    let roots = recipe.script_roots().into_iter();
    let roots: Vec<_> = roots.map(|root| format!("`{}`", joined("/srv/app", root))).collect();
    let needs = recipe.needs.iter().map(|option| format!("`{option}`"));
    let without = recipe.without.iter().map(|option| format!("not `{option}`"));
    let more: Vec<_> = needs.chain(without).collect();
    format!(
        "| {} | {} | {} | {} |\n",
        recipe.name,
        recipe.particular,
        roots.join(", "),
        more.join(", ")
    )
}
