//! Stray files, and the rights of the files that the server creates.

use std::ffi::OsStr;
use std::fs::{self, File, Permissions};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::os::unix::net::UnixListener;
use std::path::Path;
use std::process::Command;

use iforest_server::store::{ModelName, Store, WriteOutcome};

use crate::support::data::{encoded, fit, readings};
use crate::support::folder::{Folder, write};
use crate::support::server::{BINARY, Server};
use crate::support::wait_until;

/// The version that other servers of this store write next.
const OTHERS: u64 = 20;

fn fifo(path: &Path) {
    let mode = nix::sys::stat::Mode::S_IRWXU;
    nix::unistd::mkfifo(path, mode).expect("a FIFO");
}

/// A store with version 1 of `default` and of `motor`.
fn store() -> Folder {
    let folder = Folder::new();
    for model in ["default", "motor"] {
        let bytes = encoded(fit(3, readings(1, 40, 1)));
        write(&folder.version(model, 1), &bytes);
    }
    folder
}

/// Makes a stray file in the folder `models`, where `motor` is the folder of a model.
type Make = fn(&Path);

/// The stray files, and the text by which the log names each. The text stands in one line only.
const STRAYS: &[(&str, Make)] = &[
    (r"m\xFFtor", |models| {
        fs::create_dir(models.join(OsStr::from_bytes(b"m\xFFtor"))).expect("made");
    }),
    (r"0000000002\xFF.iforest", |models| {
        let name = OsStr::from_bytes(b"0000000002\xFF.iforest");
        write(&models.join("motor").join(name), b"x");
    }),
    (r"x\nERROR forged folder", |models| {
        fs::create_dir(models.join("x\nERROR forged folder")).expect("made");
    }),
    (r"0000000002\nERROR forged.iforest", |models| {
        let name = "motor/0000000002\nERROR forged.iforest";
        write(&models.join(name), b"x");
    }),
    (r"\u{1b}[31mred", |models| {
        write(&models.join("motor/\u{1b}[31mred"), b"x");
    }),
    (r"\u{202e}turned\u{2028}", |models| {
        write(&models.join("\u{202e}turned\u{2028}"), b"x");
    }),
    ("a%2Fb", |models| {
        write(&models.join("a%2Fb/0000000001.iforest"), b"x");
    }),
    ("..%2F0000000002.iforest", |models| {
        write(&models.join("motor/..%2F0000000002.iforest"), b"x");
    }),
    ("\"models/loop\"", |models| {
        symlink("loop", models.join("loop")).expect("made");
    }),
    ("motor/0000000002.iforest", |models| {
        let path = models.join("motor/0000000002.iforest");
        symlink("0000000002.iforest", path).expect("made");
    }),
    ("motor/up", |models| {
        symlink("..", models.join("motor/up")).expect("made");
    }),
    ("motor/0000000002.iforest", |models| {
        symlink("nowhere", models.join("motor/0000000002.iforest")).expect("made");
    }),
    ("motor/0000000002.iforest", |models| {
        symlink("/dev/zero", models.join("motor/0000000002.iforest")).expect("made");
    }),
    ("Another Program", |models| {
        write(
            &models.join("Another Program/data/0000000001.iforest"),
            b"x",
        );
    }),
    ("motor/deeper", |models| {
        write(&models.join("motor/deeper/0000000002.iforest"), b"x");
    }),
    ("models/readme", |models| {
        write(&models.join("readme"), b"x");
    }),
    ("motor/0000000002.iforest", |models| {
        fifo(&models.join("motor/0000000002.iforest"));
    }),
    ("models/pipe", |models| fifo(&models.join("pipe"))),
    ("\"changed\"", |models| {
        fifo(&models.join("../changed"));
    }),
    ("motor/0000000002.iforest", |models| {
        fs::create_dir(models.join("motor/0000000002.iforest")).expect("made");
    }),
    ("motor/0000000002.iforest", |models| {
        let socket = UnixListener::bind(models.join("motor/0000000002.iforest"));
        drop(socket.expect("a socket"));
    }),
    // Sparse: it takes no space.
    ("motor/0000000002.iforest", |models| {
        let file = File::create(models.join("motor/0000000002.iforest")).expect("made");
        file.set_len(1 << 40).expect("a sparse file");
    }),
    ("motor/0000000002.iforest", |models| {
        let path = models.join("motor/0000000002.iforest");
        write(&path, b"x");
        fs::set_permissions(path, Permissions::from_mode(0o000)).expect("changed");
    }),
    ("\"models/closed\"", |models| {
        write(&models.join("closed/0000000001.iforest"), b"x");
        let closed = Permissions::from_mode(0o000);
        fs::set_permissions(models.join("closed"), closed).expect("changed");
    }),
    ("18446744073709551615.iforest", |models| {
        let bytes = encoded(fit(3, readings(2, 50, 1)));
        write(&models.join("motor/18446744073709551615.iforest"), &bytes);
    }),
    ("00000000002.iforest", |models| {
        let bytes = encoded(fit(3, readings(2, 50, 1)));
        write(&models.join("motor/00000000002.iforest"), &bytes);
    }),
];

/// Whether the user who runs the tests may read everything, as root may.
fn reads_everything() -> bool {
    let folder = Folder::new();
    let file = folder.file("closed", "x");
    fs::set_permissions(&file, Permissions::from_mode(0o000)).expect("changed");
    fs::read(&file).is_ok()
}

fn lines_with(log: &str, text: &str) -> usize {
    log.lines().filter(|line| line.contains(text)).count()
}

/// Starts a server on a store with stray files and checks that it does everything else.
fn check(folder: &Folder, named: &[&str]) {
    let server = Server::on(folder, &["--refresh-interval", "50ms"]);
    assert_eq!(server.model("motor").version(), Some(1));
    assert_eq!(server.model("default").version(), Some(1));

    // What another server stores is still noticed.
    let runtime = tokio::runtime::Runtime::new().expect("a runtime");
    let others = Store::open(folder.text()).expect("the folder");
    let motor: ModelName = "motor".parse().expect("a valid name");
    let bytes = encoded(fit(3, readings(2, 50, 1)));
    for version in [OTHERS, OTHERS + 1] {
        runtime.block_on(async {
            let written = others.write(&motor, version, &bytes).await;
            assert!(
                matches!(written, Ok(WriteOutcome::Stored(_))),
                "{written:?}"
            );
            others
                .announce(&motor.clone().into())
                .await
                .expect("announced");
        });
        wait_until("it serves the new version", || {
            server.model("motor").version() == Some(version)
        });
    }
    // Changes go on from there, though a name is taken.
    let answer = server.retrain("motor", &readings(3, 60, 1));
    assert_eq!(answer.version(), Some(OTHERS + 2), "{answer:?}");
    server.post("/models/motor/rollback", "").ok();
    let log = server.kill();
    for text in named {
        assert_eq!(lines_with(&log, text), 1, "{text} in:\n{log}");
    }
    assert!(!log.contains("\u{1b}[31m"), "{log}");
    assert_eq!(lines_with(&log, "ERROR forged") > 0, log.contains("forged"));
    assert!(
        !log.lines().any(|line| line.starts_with("ERROR forged")),
        "{log}"
    );
}

// Backups, editors and other programs leave files in a folder, and an attacker with access to it
// could leave any. None may stop the start, a model or the synchronisation.
#[test]
fn stray_files_are_named_once_and_everything_else_is_served() {
    let mut all = Vec::new();
    let everything = store();
    for &(named, make) in STRAYS {
        if named.contains("closed") && reads_everything() {
            continue;
        }
        let folder = store();
        make(&folder.path().join("models"));
        // Root reads a file without any rights, and finds it damaged.
        check(&folder, &[named]);
        if !named.contains("0000000002.iforest") || named.contains('%') {
            make(&everything.path().join("models"));
            all.push(named);
        }
        let closed = folder.path().join("models/closed");
        let _ = fs::set_permissions(closed, Permissions::from_mode(0o700));
    }
    check(&everything, &all);
    let closed = everything.path().join("models/closed");
    let _ = fs::set_permissions(closed, Permissions::from_mode(0o700));
}

// A model that is left out must not look like one that can be served.
#[test]
fn verify_names_a_model_whose_folder_cannot_be_listed() {
    let folder = store();
    // Unlike a folder without rights, not even root can list it.
    symlink("circle", folder.path().join("models/circle")).expect("a link");
    let mut command = Command::new(BINARY);
    command.args(["store", "verify", "--store", folder.text()]);
    let output = command.output().expect("the program starts");
    let lines = String::from_utf8_lossy(&output.stdout);
    assert_eq!(output.status.code(), Some(1), "{lines}");
    let expected = "circle: its versions cannot be listed: ";
    assert!(lines.starts_with(expected), "{lines}");
    assert!(lines.ends_with("can be served, 0 cannot\n"), "{lines}");
}

// The next version must not be written over, or wait for, what has its name.
#[test]
fn a_retrain_skips_a_number_that_is_taken_by_something_else() {
    let folder = store();
    fs::create_dir(folder.version("motor", 2)).expect("made");
    fifo(&folder.version("motor", 3));
    let server = Server::on(&folder, &[]);
    let answer = server.retrain("motor", &readings(3, 60, 1));
    assert_eq!(answer.version(), Some(4), "{answer:?}");
}

// The folder of `default` may be on a disk that is not there for a moment.
#[test]
fn a_default_whose_folder_cannot_be_listed_is_not_replaced() {
    let folder = store();
    let default = folder.path().join("models/default");
    fs::remove_dir_all(&default).expect("removed");
    symlink("default", &default).expect("made");
    let log = Server::spawn_or_exit(Server::command_on(&folder, &[]));
    let log = log.err().expect("it exits");
    assert!(log.contains("the store cannot be used"), "{log}");
}

/// Runs a server after a shell command.
fn after(setup: &str, command: &Command) -> Command {
    let mut shell = Command::new("sh");
    shell
        .args(["-c", &format!(r#"{setup} && exec "$0" "$@""#)])
        .arg(command.get_program())
        .args(command.get_args())
        .env("IFOREST_STORE", "memory:");
    shell
}

fn mode(path: &Path) -> u32 {
    let metadata = fs::metadata(path).expect("it exists");
    metadata.permissions().mode() & 0o777
}

// Models tell what a plant measures.
#[test]
fn files_and_folders_are_private_unless_the_umask_lets_the_group_in() {
    for (umask, folder_mode, file_mode) in [
        ("0022", 0o700, 0o600),
        ("0000", 0o700, 0o600),
        ("0077", 0o700, 0o600),
        ("0027", 0o750, 0o640),
    ] {
        let folder = Folder::new();
        let inner = folder.path().join("a/b");
        let text = inner.to_str().expect("a path in UTF-8");
        let command = Server::command(&["--store", text]);
        let server = Server::spawn(after(&format!("umask {umask}"), &command));
        server.retrain("motor", &readings(3, 60, 1)).ok();
        wait_until("the change is announced", || inner.join("changed").exists());
        for path in ["", "models", "models/motor"] {
            assert_eq!(mode(&inner.join(path)), folder_mode, "{umask} {path:?}");
        }
        assert_eq!(mode(&folder.path().join("a")), folder_mode, "{umask}");
        for path in ["changed", "models/motor/0000000001.iforest"] {
            assert_eq!(mode(&inner.join(path)), file_mode, "{umask} {path:?}");
        }
        let log = server.kill();
        assert_eq!(lines_with(&log, "chmod"), 0, "{log}");
    }
}

#[test]
fn a_folder_that_is_open_to_others_stays_so_and_is_named() {
    let folder = store();
    for (rights, warnings) in [(0o755, 1), (0o701, 1), (0o750, 0), (0o700, 0)] {
        let rights_of = Permissions::from_mode(rights);
        fs::set_permissions(folder.path(), rights_of).expect("changed");
        let log = Server::on(&folder, &[]).kill();
        assert_eq!(
            lines_with(&log, "chmod o-rwx"),
            warnings,
            "{rights:o}\n{log}"
        );
        assert_eq!(mode(folder.path()), rights);
    }
}
