//! All that a table needs: the files of its sites, PHP-FPM, spliceway with a route for each set of
//! options, and one web server for each way to PHP.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};

use tempfile::TempDir;

use crate::common::process::Process;
use crate::common::programs::{WEB_USER, fresh_endpoint, start_fpm_pool};
use crate::common::proxy::fresh_dir;
use crate::common::sys::is_root;
use crate::common::{Engine, Proxy};
use crate::recipe::Recipe;
use crate::servers::{Front, Php, Site, WebServer};

const PROBE: &str = include_str!("probe.php");

/// A file that is no script: longer than nothing, and without a meaning.
const STATIC: &str = "This file is sent by the web server.\n";

/// Workers beside one for each route that keeps a connection for a second.
const SPARE_WORKERS: usize = 8;

/// A way from a web server to PHP.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Way {
    /// To PHP-FPM by TCP: what everything is compared with.
    Direct,
    /// Through spliceway with `--protocol fastcgi` and nothing else.
    Plain,
    /// Through spliceway with the options that are recommended.
    Recommended,
}

impl Way {
    pub(crate) const ALL: [Self; 3] = [Self::Direct, Self::Plain, Self::Recommended];

    const fn word(self) -> &'static str {
        match self {
            Self::Direct => "direct",
            Self::Plain => "plain",
            Self::Recommended => "recommended",
        }
    }
}

pub(crate) struct Stage {
    pub(crate) fronts: BTreeMap<Way, Front>,
    apps: PathBuf,
    _proxy: Proxy,
    _pools: Vec<Process>,
    _dir: TempDir,
}

impl Stage {
    pub(crate) fn start(server: WebServer, engine: Engine) -> Self {
        let recipes = server.recipes();
        let dir = fresh_dir();
        let apps = dir.path().join("apps");
        for recipe in recipes {
            lay_out(&apps.join(recipe.slug()), recipe);
        }
        let pools = Pools::start(dir.path(), recipes);
        let routes = Routes::of(recipes, &apps, &pools);
        let builder = Proxy::builder().engine(engine);
        let sockets = builder.dir().to_owned();
        let proxy = builder.config(&routes.config(&sockets)).start();
        let front = |way: Way| {
            let own = dir.path().join(way.word());
            fs::create_dir(&own).unwrap();
            let site = |recipe| {
                let app = apps.join(Recipe::slug(recipe));
                Site {
                    recipe,
                    app: app.display().to_string(),
                    php: match way {
                        Way::Direct => pools.php(recipe),
                        _ => Php::Unix(
                            sockets.join(format!("{}.sock", routes.of_recipe(recipe, way))),
                        ),
                    },
                    name: format!("{}_{}", recipe.slug().replace('-', "_"), way.word()),
                }
            };
            let sites: Vec<_> = recipes.iter().map(site).collect();
            (way, server.start(&own, &sites))
        };
        Self {
            fronts: Way::ALL.map(front).into(),
            apps,
            _proxy: proxy,
            _pools: pools.processes,
            _dir: dir,
        }
    }

    pub(crate) fn app(&self, recipe: &Recipe) -> String {
        self.apps.join(recipe.slug()).display().to_string()
    }
}

fn lay_out(app: &Path, recipe: &Recipe) {
    let write = |path: &str, content: &str| {
        let path = app.join(path);
        let parent = path
            .parent()
            .expect("it is within the application's directory");
        fs::create_dir_all(parent).unwrap();
        fs::write(path, content).unwrap();
    };
    for path in recipe.files {
        write(
            path,
            if path.ends_with(".php") {
                PROBE
            } else {
                STATIC
            },
        );
    }
    for (path, content) in recipe.texts {
        write(path, &content.replace("{app}", &app.display().to_string()));
    }
    for (path, target) in recipe.links {
        symlink(target, app.join(path)).unwrap();
    }
}

/// PHP-FPM: one for all recipes, and one for each that is to be apart.
struct Pools {
    shared: (String, u16),
    own: BTreeMap<String, (String, u16)>,
    processes: Vec<Process>,
}

impl Pools {
    fn start(dir: &Path, recipes: &[Recipe]) -> Self {
        let mut processes = Vec::new();
        let mut start = |name: &str, workers| {
            let own = dir.join(format!("fpm-{name}"));
            fs::create_dir(&own).unwrap();
            let endpoint = fresh_endpoint();
            processes.push(start_fpm_pool(&own, &endpoint, workers, "", &[]));
            endpoint
        };
        let shared = start("shared", recipes.len() + SPARE_WORKERS);
        let own = recipes.iter().filter(|recipe| recipe.is_apart());
        let own = own.map(|recipe| (recipe.slug(), start(&recipe.slug(), SPARE_WORKERS)));
        Self {
            own: own.collect(),
            shared,
            processes,
        }
    }

    fn endpoint(&self, recipe: &Recipe) -> &(String, u16) {
        self.own.get(&recipe.slug()).unwrap_or(&self.shared)
    }

    fn php(&self, recipe: &Recipe) -> Php {
        let (host, port) = self.endpoint(recipe).clone();
        Php::Tcp(host, port)
    }
}

/// The routes of one daemon: recipes with the same backend and the same options share one.
struct Routes {
    /// What makes a route, and its name.
    routes: BTreeMap<(String, Vec<String>), String>,
    of: BTreeMap<(String, Way), String>,
}

impl Routes {
    fn of(recipes: &[Recipe], apps: &Path, pools: &Pools) -> Self {
        let mut all = Self {
            routes: BTreeMap::new(),
            of: BTreeMap::new(),
        };
        for recipe in recipes {
            let (host, port) = pools.endpoint(recipe);
            let backend = format!("{host}:{port}");
            let app = apps.join(recipe.slug()).display().to_string();
            // Settings that PHP may not be given otherwise belong to the recipe, not to our advice.
            let plain = recipe
                .needs
                .iter()
                .filter(|option| option.starts_with("--allow-"));
            let plain = plain.map(|option| (*option).to_owned()).collect();
            for (way, options) in [
                (Way::Plain, plain),
                (Way::Recommended, recipe.options(&app)),
            ] {
                let number = all.routes.len();
                let route = all.routes.entry((backend.clone(), options));
                let name = route.or_insert_with(|| format!("r{number}")).clone();
                all.of.insert((recipe.slug(), way), name);
            }
        }
        all
    }

    fn of_recipe(&self, recipe: &Recipe, way: Way) -> &str {
        &self.of[&(recipe.slug(), way)]
    }

    /// The configuration file that says the same as these options on the command line.
    fn config(&self, sockets: &Path) -> String {
        let mut config = "[defaults]\nprotocol = \"fastcgi\"\n".to_owned();
        if is_root() {
            config += &format!("group = \"{WEB_USER}\"\n");
        }
        for ((backend, options), name) in &self.routes {
            let socket = sockets.join(format!("{name}.sock"));
            config += &format!(
                "[route.{name}]\nlisten = \"unix:{}\"\nbackend = \"{backend}\"\n",
                socket.display()
            );
            config += &keys(options);
        }
        config
    }
}

/// Options as keys of a table: one that comes several times is an array, one without a value is true.
fn keys(options: &[String]) -> String {
    let mut values: BTreeMap<&str, Vec<&str>> = BTreeMap::new();
    for option in options {
        let option = option.strip_prefix("--").expect("an option");
        let (name, value) = option.split_once(' ').unwrap_or((option, ""));
        values.entry(name).or_default().push(value);
    }
    let line = |(name, values): (&str, Vec<&str>)| match &values[..] {
        [""] => format!("{name} = true\n"),
        [value] => format!("{name} = {value:?}\n"),
        values => format!("{name} = {values:?}\n"),
    };
    values.into_iter().map(line).collect()
}
