//! `plimsoll completions` and `plimsoll man`.

use clap::CommandFactory as _;

use crate::output::{self, Failure};

/// Print completions for a shell.
#[derive(clap::Args)]
#[command(after_help = "Example: plimsoll completions bash > ~/.local/share/bash-completion/completions/plimsoll")]
pub struct Completions {
    /// The shell
    shell: clap_complete::Shell,
}

/// Print the manual page of `plimsoll` or of one of its commands.
#[derive(clap::Args)]
#[command(after_help = "Example: plimsoll man plan | man -l -")]
pub struct Man {
    /// The command; none for the overview
    command: Option<String>,
}

/// Completions on standard output.
pub fn completions(args: &Completions) -> Result<(), Failure> {
    let mut text = Vec::new();
    clap_complete::generate(args.shell, &mut crate::Cli::command(), "plimsoll", &mut text);
    Ok(output::print(&String::from_utf8_lossy(&text))?)
}

/// A manual page on standard output, as roff.
pub fn man(args: &Man) -> Result<(), Failure> {
    let mut all = crate::Cli::command();
    all.build();
    let command = match &args.command {
        None => all,
        Some(name) => {
            let found = all.get_subcommands().find(|c| c.get_name() == name && !c.is_hide_set()).cloned();
            found.ok_or_else(|| {
                let known = all.get_subcommands().filter(|c| !c.is_hide_set()).map(clap::Command::get_name);
                let known: Vec<&str> = known.collect();
                let why = format!("no command is called `{name}`; there are: {}", known.join(", "));
                plimsoll::Error::InvalidSetting { name: "command".into(), why }
            })?
        }
    };
    let mut text = Vec::new();
    let title = command.get_display_name().unwrap_or_else(|| command.get_name()).replace(' ', "-");
    let page = clap_mangen::Man::new(command).title(title);
    page.render(&mut text).map_err(|source| plimsoll::Error::Io {
        action: "write",
        path: "<stdout>".into(),
        source,
    })?;
    Ok(output::print(&String::from_utf8_lossy(&text))?)
}
