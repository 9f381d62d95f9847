//! `spliceway-bench reference`: what a package has beside the programs, made from the definitions of
//! their command lines. It is here, in the program that is not the proxy, so that the proxy does not
//! carry it.

use std::fs::{self, File};
use std::path::{Path, PathBuf};

use anyhow::Context as _;
use clap::Command;
use clap_complete::Shell;

use crate::cli;

/// The shells that are completed for.
const SHELLS: [Shell; 3] = [Shell::Bash, Shell::Zsh, Shell::Fish];

/// The section of the manual for programs that administrators run.
const SECTION: &str = "8";

#[derive(clap::Args)]
pub(crate) struct ReferenceArgs {
    #[arg(
        value_name = "DIRECTORY",
        help = "Write man/ and completions/ under this directory."
    )]
    directory: PathBuf,
}

pub(crate) fn run(args: &ReferenceArgs) -> anyhow::Result<()> {
    for command in [spliceway::cli::command(), cli::command()] {
        write_manual(&args.directory.join("man"), &command)?;
        write_completions(&args.directory.join("completions"), command)?;
    }
    Ok(())
}

/// A page for the program and one for each of its subcommands, which name each other.
fn write_manual(directory: &Path, command: &Command) -> anyhow::Result<()> {
    make_directory(directory)?;
    // What is hidden is for those who make the package.
    let mut command = command.clone().disable_help_subcommand(true);
    command.build();
    let program = command.get_name().to_owned();
    write_page(directory, &program, &command)?;
    for subcommand in command.get_subcommands().filter(|s| !s.is_hide_set()) {
        let name = format!("{program}-{}", subcommand.get_name());
        write_page(directory, &name, subcommand)?;
    }
    Ok(())
}

fn write_page(directory: &Path, name: &str, command: &Command) -> anyhow::Result<()> {
    let path = directory.join(format!("{name}.{SECTION}"));
    // The name of a subcommand alone would be the title of its page otherwise.
    let command = command.clone().display_name(name.to_owned());
    let page = clap_mangen::Man::new(command).section(SECTION);
    let mut file = create(&path)?;
    page.render(&mut file)
        .with_context(|| format!("write {}", path.display()))
}

/// Named as each shell looks for them.
fn write_completions(directory: &Path, mut command: Command) -> anyhow::Result<()> {
    make_directory(directory)?;
    let program = command.get_name().to_owned();
    for shell in SHELLS {
        clap_complete::generate_to(shell, &mut command, &program, directory)
            .with_context(|| format!("write completions to {}", directory.display()))?;
    }
    Ok(())
}

fn make_directory(path: &Path) -> anyhow::Result<()> {
    fs::create_dir_all(path).with_context(|| format!("make {}", path.display()))
}

fn create(path: &Path) -> anyhow::Result<File> {
    File::create(path).with_context(|| format!("create {}", path.display()))
}
