//! Programs that a test needs and a machine may lack.

use std::io::Write;
use std::process::Command;

#[cfg(target_os = "linux")]
use super::folder::Folder;

/// Whether a program runs here with these arguments. Where the environment variable `CI` is `true`
/// a missing program fails the test; elsewhere the caller returns, and this says that the test did
/// not run.
pub(crate) fn available(program: &str, arguments: &[&str]) -> bool {
    let output = Command::new(program).args(arguments).output();
    if output.is_ok_and(|output| output.status.success()) {
        return true;
    }
    let thread = std::thread::current();
    let test = thread.name().unwrap_or("a test");
    let message = format!("NOT RUN: {test}: {program} {arguments:?} does not work here");
    assert!(std::env::var("CI").as_deref() != Ok("true"), "{message}");
    // Not eprintln!, whose output cargo hides when a test passes.
    let _ = writeln!(std::io::stderr(), "{message}");
    false
}

/// Wraps a command so that it runs in a mount namespace of its own, after `setup`, a shell command
/// in which `$0` is the folder. `None` where the system does not allow that: see [`available`].
#[cfg(target_os = "linux")]
pub(crate) fn in_mount_namespace(
    setup: &str,
    folder: &Folder,
    program: &Command,
) -> Option<Command> {
    let probe = ["-Urm", "sh", "-c", setup, folder.text()];
    available("unshare", &probe).then(|| {
        let mut command = Command::new("unshare");
        command
            .args(["-Urm", "sh", "-c", &format!(r#"{setup} && exec "$@""#)])
            .arg(folder.path())
            .arg(program.get_program())
            .args(program.get_args());
        command
    })
}
