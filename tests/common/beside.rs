//! A program of another package of the workspace, which cargo does not build for this one's tests.

use std::env;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::SystemTime;

/// The program `name`, of the package of that name, beside `own`, which is one of this package. What
/// `cargo test --workspace` has built is taken; if there is none, or it is older than one of the `sources`
/// (directories of the workspace), it is built.
pub(crate) fn program_beside(own: &str, name: &str, sources: &[&str]) -> PathBuf {
    let program = Path::new(own).with_file_name(name);
    if !is_built(&program, sources) {
        build(&program, name);
        assert!(program.exists(), "cargo built no {}", program.display());
    }
    program
}

fn is_built(program: &Path, sources: &[&str]) -> bool {
    let mut directories = Path::new(env!("CARGO_MANIFEST_DIR")).ancestors();
    let root = directories.find(|path| path.join("Cargo.lock").exists());
    let root = root.expect("a workspace has a Cargo.lock");
    let Ok(built) = fs::metadata(program).and_then(|program| program.modified()) else {
        return false;
    };
    let newest = sources.iter().map(|path| newest_source(&root.join(path)));
    newest.max().is_none_or(|newest| newest <= built)
}

/// When a file of Rust below this directory was changed last. Those of unit tests are no part of a program.
fn newest_source(directory: &Path) -> SystemTime {
    let entries = fs::read_dir(directory).expect("a directory of sources");
    let newest = entries.map(|entry| {
        let path = entry.expect("it can be read").path();
        let is_source = path.extension().is_some_and(|extension| extension == "rs");
        if path.is_dir() {
            newest_source(&path)
        } else if is_source && !path.ends_with("tests.rs") {
            let changed = fs::metadata(&path).and_then(|file| file.modified());
            changed.expect("a file has its time")
        } else {
            SystemTime::UNIX_EPOCH
        }
    });
    newest.max().unwrap_or(SystemTime::UNIX_EPOCH)
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
