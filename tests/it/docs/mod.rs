//! The documents: every command is run here or in `.ci/run`, or is known not to be, and every
//! relative link leads somewhere.

mod console;
mod links;

use std::path::{Path, PathBuf};
use std::process::Command;

use crate::support::folder::Folder;

const NEEDS_SERVER_PY: &str =
    "needs the tutorial's server.py, which is not part of this repository";

const TRIED_AS_PACKAGE: &str = "deploy/debian/test.sh tries the package in a clean Debian";
const NEEDS_DOCKER: &str =
    "needs Docker; .github/workflows builds and runs the images, deploy/test/ runs their programs";

const NEEDS_EMULATOR: &str =
    "needs another system's standard library and an emulator; CI at GitHub runs the tests there";

const NEEDS_CLUSTER: &str = "needs a cluster; deploy/test/ builds the manifests and checks them";

/// Commands that are neither run here nor stand in `.ci/run`, each with the reason.
const UNCHECKED: &[(&str, &str)] = &[
    (
        "cargo run --release",
        "serves until it is stopped; the tests start the same program",
    ),
    (
        "npm ci",
        "the README's test command runs it from the top folder",
    ),
    (
        "npm test",
        "the README's test command runs it from the top folder",
    ),
    (
        "npm pack",
        "node-red-flows/test/nodes.test.mjs packs and installs the package",
    ),
    (
        "npm install --prefix ~/.node-red ./iforest-server-node-red-contrib-iforest-*.tgz",
        "node-red-flows/test/nodes.test.mjs packs and installs the package",
    ),
    (
        "npm run demo",
        "serves until it is stopped; the tests of the flows start its parts",
    ),
    (
        "cargo fuzz run --sanitizer none requests fuzz/corpus/requests fuzz/seeds/requests",
        "`.ci/run` runs it for a bounded time",
    ),
    (
        "cargo fuzz run --sanitizer none model fuzz/corpus/model fuzz/seeds/model",
        "`.ci/run` runs it for a bounded time",
    ),
    (
        "python3 -m venv target/reference-env",
        "prepares the commands after it",
    ),
    (
        "target/reference-env/bin/pip install -r tests/reference/requirements.txt",
        "prepares the commands after it",
    ),
    (
        "target/reference-env/bin/python tests/reference/record.py --server path/to/server.py",
        NEEDS_SERVER_PY,
    ),
    (
        "target/reference-env/bin/python tests/reference/record_distance.py",
        "takes minutes; the tests compare with what it recorded",
    ),
    (
        "target/reference-env/bin/python tests/reference/compare.py --server path/to/server.py",
        NEEDS_SERVER_PY,
    ),
    (
        "python3 benches/compare/compare.py --server path/to/server.py",
        NEEDS_SERVER_PY,
    ),
    (
        "python3 benches/plots/plots.py",
        "takes minutes; `.ci/run` runs it with --smoke",
    ),
    (
        "python3 benches/scale/scale.py",
        "takes minutes; `.ci/run` runs it with --smoke",
    ),
    (
        "python3 benches/skab/skab.py SKAB/data",
        "needs the data of SKAB, which are not part of this repository",
    ),
    ("apt-get install dpkg-dev", "prepares the commands after it"),
    (
        "cargo install --locked cargo-deb",
        "prepares the commands after it",
    ),
    ("cargo deb", TRIED_AS_PACKAGE),
    (
        "apt-get install ./target/debian/iforest-server_*.deb",
        TRIED_AS_PACKAGE,
    ),
    (
        "iforest-server --config /etc/iforest-server/config.toml --check-config",
        TRIED_AS_PACKAGE,
    ),
    ("systemctl restart iforest-server", TRIED_AS_PACKAGE),
    (
        "apt-get install debootstrap dpkg-dev lintian systemd-container",
        "prepares the command after it",
    ),
    ("deploy/debian/test.sh", "needs root, and takes minutes"),
    (
        "python3 tests/reference/record_store.py target/debug/iforest-server tests/fixtures/stores/0.3",
        "records what tests::upgrades compares with",
    ),
    ("tests/portable/run.sh windows", NEEDS_EMULATOR),
    ("tests/portable/run.sh aarch64", NEEDS_EMULATOR),
    ("docker build -t iforest-server .", NEEDS_DOCKER),
    (
        "docker run --read-only --cap-drop ALL --stop-timeout 15 -p 127.0.0.1:5000:5000 -v models:/var/lib/iforest-server iforest-server",
        NEEDS_DOCKER,
    ),
    ("docker compose up --build", NEEDS_DOCKER),
    (
        "kubectl create secret generic iforest-server-keys --from-file=keys",
        NEEDS_CLUSTER,
    ),
    (
        "kubectl create secret generic iforest-server-s3 --from-literal=AWS_ACCESS_KEY_ID=ID --from-literal=AWS_SECRET_ACCESS_KEY=SECRET",
        NEEDS_CLUSTER,
    ),
    (
        "kubectl create secret tls iforest-server-tls --cert=cert.pem --key=key.pem",
        NEEDS_CLUSTER,
    ),
    ("kubectl apply -k deploy/kubernetes", NEEDS_CLUSTER),
];

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// The Markdown files of a folder, sorted, relative to the root of the repository.
fn markdown_in(folder: &str) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(root().join(folder));
    let entries = entries.into_iter().flatten().flatten();
    let names = entries.map(|entry| Path::new(folder).join(entry.file_name()));
    let mut files: Vec<PathBuf> = names
        .filter(|path| path.extension().is_some_and(|extension| extension == "md"))
        .collect();
    files.sort();
    files
}

fn read(document: &Path) -> String {
    let text = std::fs::read_to_string(root().join(document));
    text.unwrap_or_else(|error| panic!("{}: {error}", document.display()))
}

#[test]
#[cfg_attr(not(unix), ignore = "the documents show the commands of a POSIX shell")]
fn every_command_in_the_documents_gives_the_output_they_show() {
    if !crate::support::tools::available("curl", &["--version"]) {
        return;
    }
    let mut documents = markdown_in("docs");
    for name in [
        "README.md",
        "ARCHITECTURE.md",
        "CONTRIBUTING.md",
        "SECURITY.md",
        "deploy/README.md",
        "node-red-flows/README.md",
    ] {
        if root().join(name).exists() {
            documents.push(name.into());
        }
    }
    let mut errors = Vec::new();
    let mut unchecked = Vec::new();
    for document in documents {
        let report = console::check(&read(&document));
        for (line, error) in report.errors {
            errors.push(format!("{}:{line}: {error}", document.display()));
        }
        for (line, command) in report.others {
            if UNCHECKED.iter().any(|(known, _)| *known == command) {
                unchecked.push(command);
            } else if !console::is_in_ci(&command) {
                errors.push(format!(
                    "{}:{line}: nothing checks this command: {command}",
                    document.display()
                ));
            }
        }
        println!("{}: {} commands run", document.display(), report.run);
        if document == Path::new("README.md") {
            assert!(report.run >= 5, "the README shows at least five requests");
        }
    }
    for (command, _) in UNCHECKED {
        if !unchecked.iter().any(|shown| shown == command) {
            errors.push(format!("no document shows this command: {command}"));
        }
    }
    assert!(errors.is_empty(), "\n{}", errors.join("\n\n"));
}

#[test]
fn nginx_accepts_the_configuration_in_the_documents() {
    if !crate::support::tools::available("nginx", &["-v"]) {
        return;
    }
    let text = read(&root().join("docs/operations.md"));
    let block = text.split("```nginx\n").nth(1).expect("a configuration");
    let (block, _) = block.split_once("```").expect("its end");
    let folder = Folder::new();
    // nginx also opens the socket.
    let socket = format!("listen unix:{}/socket;", folder.text());
    assert!(block.contains("listen 5000;"));
    let block = block.replace("listen 5000;", &socket);
    let pid = folder.path().join("pid");
    let whole = format!(
        "pid {};\nevents {{}}\nhttp {{\naccess_log off;\n{block}}}\n",
        pid.display()
    );
    let file = folder.file("nginx.conf", &whole);
    let mut nginx = Command::new("nginx");
    let checked = nginx
        .args(["-t", "-q", "-e", "stderr", "-c", &file])
        .output();
    let checked = checked.expect("it starts");
    let problem = String::from_utf8_lossy(&checked.stderr);
    assert!(checked.status.success(), "{problem}");
}

#[test]
fn every_relative_link_in_the_documents_resolves() {
    let mut documents = markdown_in("");
    documents.extend(markdown_in("docs"));
    documents.extend(markdown_in("deploy"));
    documents.extend(markdown_in("node-red-flows"));
    let mut errors = Vec::new();
    let mut links = 0;
    for document in documents {
        for target in links::relative(&read(&document)) {
            links += 1;
            if let Err(error) = links::resolve(&document, &target) {
                errors.push(format!("{}: {error}", document.display()));
            }
        }
    }
    println!("{links} links");
    assert!(links > 5, "{links} links");
    assert!(errors.is_empty(), "\n{}", errors.join("\n"));
}

#[test]
fn the_changelog_of_the_debian_package_begins_with_this_version() {
    let changelog = read(Path::new("deploy/debian/changelog"));
    let first = changelog.lines().next().unwrap_or_default();
    let expected = concat!("iforest-server (", env!("CARGO_PKG_VERSION"), "-1) ");
    assert!(first.starts_with(expected), "{first}");
}

// A promise whose test is gone is no promise.
#[test]
fn every_test_that_the_security_document_names_exists() {
    let names: Vec<String> = read(Path::new("SECURITY.md"))
        .lines()
        .filter(|line| line.starts_with("| "))
        .flat_map(|line| {
            line.split('`')
                .skip(1)
                .step_by(2)
                .map(str::to_owned)
                .collect::<Vec<_>>()
        })
        .filter(|name| name.matches('_').count() > 2)
        .collect();
    assert!(names.len() > 20, "{names:?}");
    let mut source = String::new();
    let mut folders = vec![root().join("tests/it")];
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(folder).expect("a folder").flatten() {
            let path = entry.path();
            if path.is_dir() {
                folders.push(path);
            } else {
                source += &std::fs::read_to_string(path).expect("text");
            }
        }
    }
    let missing: Vec<_> = names
        .iter()
        .filter(|name| !source.contains(&format!("fn {name}(")))
        .collect();
    assert!(missing.is_empty(), "{missing:?}");
}
