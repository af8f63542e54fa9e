//! The program `logweir`; everything it does is in the library's `cli` module.

fn main() -> std::process::ExitCode {
    logweir::cli::main()
}
