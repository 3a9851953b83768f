//! The `causelist` command.

use std::process::ExitCode;

use causelist::cli::Cli;
use clap::Parser;

fn main() -> ExitCode {
    let cli = Cli::parse();
    let json = cli.json();
    let runtime = match tokio::runtime::Builder::new_multi_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => {
            eprintln!("causelist: the runtime can't start: {error}");
            return ExitCode::FAILURE;
        }
    };
    let ended = runtime.block_on(cli.run());
    // What blocks (a stuck name look-up, say) must not keep the process.
    runtime.shutdown_timeout(std::time::Duration::from_secs(2));
    match ended {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            if json {
                eprintln!(
                    "{}",
                    serde_json::json!({ "error": failure.to_string(), "exitCode": failure.code() })
                );
            } else {
                eprintln!("causelist: {failure}");
            }
            ExitCode::from(failure.code())
        }
    }
}
