//! Several servers on one folder.

use std::process::Command;
use std::time::Duration;

use super::{
    COMMON, ROW, assert_stored, change_among_models_that_are_not_announced,
    change_while_clients_predict, retrain_at_once,
};
#[cfg(target_os = "linux")]
use crate::support::data::readings;
use crate::support::folder::Folder;
use crate::support::server::Server;
#[cfg(target_os = "linux")]
use crate::support::tools::in_mount_namespace;
use crate::support::wait_until;

fn on_folder(folder: &Folder, options: &[&str]) -> Command {
    let mut command = Server::command(&["--store", folder.text()]);
    command.args(COMMON).args(options);
    command
}

// A site runs two servers behind a load balancer, so that one may fail. Clients must not notice
// that models change, and must not get old answers from one of the two for ever.
#[test]
fn a_change_at_one_server_of_a_folder_reaches_the_other_and_no_prediction_fails() {
    let folder = Folder::new();
    let options = ["--refresh-interval", "200ms"];
    let servers = [
        Server::spawn(on_folder(&folder, &options)),
        Server::spawn(on_folder(&folder, &options)),
    ];
    change_while_clients_predict("folder", [&servers[0], &servers[1]]);
}

#[test]
fn a_change_in_a_folder_is_taken_over_without_listing_all_models() {
    let folder = Folder::new();
    let options = ["--refresh-interval", "200ms"];
    let servers = [
        Server::spawn(on_folder(&folder, &options)),
        Server::spawn(on_folder(&folder, &options)),
    ];
    change_among_models_that_are_not_announced([&servers[0], &servers[1]], folder.path());

    // An older server writes only an id.
    let upload = folder.file("upload", format!("{:032x}\n", 42));
    // Windows may refuse while a server reads the marker.
    wait_until("the marker is replaced", || {
        std::fs::rename(&upload, folder.path().join("changed")).is_ok()
    });
    let delay = wait_until("the whole store is listed", || {
        servers[1].model("unannounced").version() == Some(1)
    });
    assert!(delay < Duration::from_secs(6), "not by the regular listing");
}

// A server may only read the store because of its rights, or because the disk is full. It cannot
// announce changes, but must follow those of the others.
#[cfg(target_os = "linux")]
#[test]
fn a_server_that_may_only_read_follows_the_others() {
    let folder = Folder::new();
    let command = on_folder(&folder, &["--refresh-interval", "200ms"]);
    let read_only = r#"mount --bind "$0" "$0" && mount -o remount,bind,ro "$0""#;
    let Some(command) = in_mount_namespace(read_only, &folder, &command) else {
        return;
    };
    let reader = Server::spawn(command);
    let writer = Server::spawn(on_folder(&folder, &[]));
    for round in 1..4 {
        writer.retrain("motor", &readings(round, 50, 2)).ok();
        let delay = wait_until("the reader follows", || {
            let model = reader.model("motor");
            model.status == 200 && model.version() == Some(round)
        });
        println!("a server that may only read followed after {delay:.0?}");
        assert_eq!(reader.predict("motor", &ROW), writer.predict("motor", &ROW));
    }
    let before = reader.model("motor");
    let answer = reader.retrain("motor", &readings(9, 50, 2));
    assert_eq!(answer.status, 503, "{answer:?}");
    assert!(answer.body.contains("Read-only file system"), "{answer:?}");
    assert_eq!(reader.model("motor"), before);
    let logged = reader
        .log()
        .matches("cannot announce changes to other servers")
        .count();
    assert!(
        logged <= 4,
        "the warning is not repeated in every round: {}",
        reader.log()
    );
}

// Two servers take the same version number at the same time. If the store let the later one
// overwrite the other, an acknowledged training would be lost.
#[test]
fn concurrent_retrains_at_two_servers_each_get_a_version() {
    let folder = Folder::new();
    let options = ["--refresh-interval", "200ms", "--keep-versions", "1000"];
    let servers = [
        Server::spawn(on_folder(&folder, &options)),
        Server::spawn(on_folder(&folder, &options)),
    ];
    let by_version = retrain_at_once([&servers[0], &servers[1]], 8, 20);
    assert_stored(folder.path(), &by_version);
    let conflict = "version already exists";
    let conflicts: usize = servers
        .iter()
        .map(|server| server.log().matches(conflict).count())
        .sum();
    println!(
        "{} retrains, {conflicts} of them in conflict with the other server",
        by_version.len()
    );
    assert!(conflicts > 0, "some retrains must conflict");
}
