//! A program of another package of the workspace, which cargo does not build for this one's tests.

use std::env;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

/// The program `name`, of the package of that name, beside `own`, which is one of this package. What
/// `cargo test --workspace` has built is taken; if there is none, or its sources have changed since, it is
/// built.
pub(crate) fn program_beside(own: &str, name: &str) -> PathBuf {
    let program = Path::new(own).with_file_name(name);
    if !is_built(&program) {
        build(&program, name);
        assert!(program.exists(), "cargo built no {}", program.display());
    }
    program
}

/// Whether it is there, and none of the files that it was made of is newer. cargo lists them beside it.
fn is_built(program: &Path) -> bool {
    let changed = |path: &Path| fs::metadata(path).and_then(|metadata| metadata.modified());
    let Ok(built) = changed(program) else {
        return false;
    };
    let Ok(list) = fs::read_to_string(program.with_extension("d")) else {
        return false;
    };
    let (_, sources) = list.split_once(": ").expect("a rule of make");
    // What belongs to a path is escaped.
    sources.replace("\\ ", "\0").split_whitespace().all(|path| {
        let path = path.replace('\0', " ");
        changed(Path::new(&path)).is_ok_and(|changed| changed <= built)
    })
}

/// Builds it as what runs was built, into the same directory.
fn build(program: &Path, package: &str) {
    let directory = program.parent().expect("a program has a directory");
    let target = directory.parent().expect("of a profile, within the target");
    let name = directory.file_name().and_then(|name| name.to_str());
    let cargo = env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let output = Command::new(cargo)
        .args(["build", "--locked", "--package", package, "--profile"])
        .arg(profile(name.expect("cargo names directories in ASCII")))
        .arg("--target-dir")
        .arg(target)
        .current_dir(env!("CARGO_MANIFEST_DIR"))
        .output()
        .expect("cargo starts");
    assert!(
        output.status.success(),
        "build {package}:\n{}",
        String::from_utf8_lossy(&output.stderr)
    );
}

/// The profile whose programs are in a directory of this name.
pub(crate) fn profile(directory: &str) -> &str {
    match directory {
        "debug" => "dev",
        name => name,
    }
}
