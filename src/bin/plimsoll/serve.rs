//! `plimsoll worker`.

use std::path::PathBuf;

use plimsoll::Error;

use crate::output::Failure;

/// Serve this machine's devices to other processes and machines.
#[derive(clap::Args)]
#[command(after_help = "Example: head -c 32 /dev/urandom | base64 > token; \
                        plimsoll worker --listen 0.0.0.0:4000 --token-file token")]
pub struct Args {
    /// Where to listen, host:port; port 0 is any that is free
    #[arg(long, value_name = "ADDRESS", default_value = "127.0.0.1:4000")]
    listen: String,
    /// How many devices to serve; they share the processor
    #[arg(long, value_name = "COUNT", default_value_t = 1)]
    devices: usize,
    #[command(flatten)]
    token: Token,
}

/// Where the token is; never the token itself, which others could read off the list of processes.
#[derive(clap::Args)]
#[group(required = true, multiple = false)]
struct Token {
    /// A file with the token that clients must know: 16 bytes or more
    #[arg(long, value_name = "FILE")]
    token_file: Option<PathBuf>,
    /// The environment variable that holds it
    #[arg(long, value_name = "NAME")]
    token_env: Option<String>,
}

impl Token {
    fn read(&self) -> Result<String, Error> {
        let name = self.token_env.as_deref().unwrap_or_default();
        match &self.token_file {
            Some(path) => {
                std::fs::read_to_string(path).map_err(|source| Error::Io { action: "read", path: path.clone(), source })
            }
            None => std::env::var(name).map_err(|_| Error::InvalidSetting {
                name: "--token-env".into(),
                why: format!("the environment has no text called `{name}`"),
            }),
        }
    }
}

/// Serve until told to end.
#[cfg(feature = "remote")]
pub fn run(args: &Args) -> Result<(), Failure> {
    use std::io::{IsTerminal as _, stderr};

    use tracing_subscriber::filter::LevelFilter;

    // Burn's server would log to standard output, and everything.
    let log = tracing_subscriber::fmt().with_writer(stderr).with_ansi(stderr().is_terminal());
    let _ = log.with_max_level(LevelFilter::WARN).try_init();
    let server = plimsoll::remote::Server::bind(&args.listen, &args.token.read()?, args.devices)?;
    let address = server.address()?;
    let devices = if args.devices == 1 { "device" } else { "devices" };
    crate::output::print(&format!("serving {} {devices} at {address}\n", args.devices))?;
    Ok(server.run()?)
}

/// What a build without the feature says.
#[cfg(not(feature = "remote"))]
pub fn run(args: &Args) -> Result<(), Failure> {
    args.token.read()?;
    let Args { listen, devices, token: _ } = args;
    let why = format!("this build cannot serve {devices} devices at {listen}: it takes the feature `remote`");
    Err(Error::InvalidSetting { name: "worker".into(), why }.into())
}
