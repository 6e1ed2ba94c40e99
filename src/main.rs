//! The program `cooper`.

fn main() -> std::process::ExitCode {
    cooper::cli::main().into()
}
