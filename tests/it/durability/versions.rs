//! Restarts, `--train`, and how many versions are kept.

use super::TREES;
use crate::support::data::readings;
#[cfg(unix)]
use crate::support::data::samples;
use crate::support::folder::Folder;
use crate::support::server::Server;
use crate::support::wait_until;

// An update of the program or of the machine must not be visible from outside: the same models
// with all their settings, and the same responses to the last byte.
#[cfg(unix)]
#[test]
fn a_restart_serves_the_same_models_to_the_last_byte() {
    let folder = Folder::new();
    let server = Server::on(&folder, &[]);
    let models = [
        ("default", 1, ""),
        (
            "Plant-1.line_2.Motor",
            3,
            r#""feature_names": ["current", "speed", "heat"], "contamination": 0.1, "#,
        ),
        (
            "alarm",
            2,
            r#""out_of_range": "anomaly", "out_of_range_margin": 0.1, "#,
        ),
        (
            ".small.",
            1,
            r#""n_estimators": 7, "max_samples": 0.5, "random_state": 5, "#,
        ),
    ];
    for (i, (model, features, settings)) in models.into_iter().enumerate() {
        let samples = samples(&readings(70 + i as u64, 200, features));
        let body = format!("{{{settings}\"samples\":{samples}}}");
        server.post(&format!("/models/{model}/retrain"), &body).ok();
    }
    let seen = |server: &Server| {
        let mut seen = vec![server.get("/models").ok()];
        for (model, features, _) in models {
            seen.push(server.model(model).ok());
            seen.push(server.get(&format!("/models/{model}/versions")).ok());
            seen.push(server.predictions(model, features));
        }
        let named = r#"{"value": {"heat": 3, "speed": 2.5, "current": 1}}"#;
        let path = "/models/Plant-1.line_2.Motor/predict";
        seen.push(server.post(path, named).ok());
        seen.push(server.post("/predict", r#"{"value": 2.5}"#).ok());
        seen
    };
    let before = seen(&server);
    server.stop();
    // Settings of the server apply to later trainings, not to trained models.
    let server = Server::on(&folder, &["--contamination", "0.3", "--n-estimators", "9"]);
    assert_eq!(seen(&server), before);
    // The settings of the model apply to its next training.
    let answer = server.retrain("Plant-1.line_2.Motor", &readings(79, 100, 3));
    assert_eq!(answer.version(), Some(2), "{answer:?}");
    let info = server.model("Plant-1.line_2.Motor").json();
    assert_eq!(info["contamination"], 0.1);
    assert_eq!(info["n_estimators"], 9);
    assert_eq!(info["feature_names"][2], "heat");
}

// `--train` stores a new version, so a rollback returns to the one before.
#[cfg(unix)]
#[test]
fn train_replaces_the_stored_default() {
    let folder = Folder::new();
    let server = Server::on(&folder, &[]);
    server.retrain("default", &readings(81, 50, 1)).ok();
    server.retrain("motor", &readings(82, 50, 2)).ok();
    let (before, motor) = (
        server.predictions("default", 1),
        server.predictions("motor", 2),
    );
    server.stop();

    let lines: Vec<String> = (0..120)
        .map(|i| format!("{}\n", 20.0 + 0.01 * f64::from(i)))
        .collect();
    let file = folder.file("readings.csv", lines.concat());
    let server = Server::on(&folder, &["--train", &file]);
    let info = server.model("default");
    assert_eq!((info.version(), info.samples_used()), (Some(2), Some(120)));
    assert_eq!(server.predictions("motor", 2), motor);
    let trained = server.predictions("default", 1);
    assert_ne!(trained, before);
    server.stop();

    let server = Server::on(&folder, &[]);
    assert_eq!(server.model("default").version(), Some(2));
    assert_eq!(server.predictions("default", 1), trained);
    server.post("/models/default/rollback", "").ok();
    assert_eq!(server.predictions("default", 1), before);
}

// Versions must not fill the disk, and a restart must not undo a rollback.
#[cfg(unix)]
#[test]
fn keep_versions_limits_the_versions_and_a_rollback_survives_a_restart() {
    let folder = Folder::new();
    let keep = ["--keep-versions", "2"];
    let server = Server::on(&folder, &keep);
    let mut answers = Vec::new();
    for i in 0..5 {
        server.retrain("motor", &readings(90 + i, 50, 2)).ok();
        answers.push(server.predictions("motor", 2));
    }
    // Older ones are removed after the response.
    wait_until("two versions are left", || {
        folder.files("motor") == ["0000000004.iforest", "0000000005.iforest"]
    });
    let answer = server.post("/models/motor/rollback", "");
    assert_eq!(answer.version(), Some(6), "{answer:?}");
    assert_eq!(answer.json()["restored_from"], 4);
    assert_eq!(server.predictions("motor", 2), answers[3]);
    // A rollback removes nothing, so that it is possible to go further back.
    assert_eq!(
        folder.files("motor"),
        [
            "0000000004.iforest",
            "0000000005.iforest",
            "0000000006.iforest"
        ]
    );
    let seen = |server: &Server| {
        let info = server.model("motor");
        (info.ok(), server.predictions("motor", 2))
    };
    let before = seen(&server);
    server.stop();
    let server = Server::on(&folder, &keep);
    assert_eq!(seen(&server), before);
    // The version that the rollback replaced can be restored.
    let answer = server.post("/models/motor/rollback", r#"{"version": 5}"#);
    assert_eq!(answer.version(), Some(7), "{answer:?}");
    assert_eq!(server.predictions("motor", 2), answers[4]);
    server.stop();
    // With fewer to keep, the server removes old versions at the next change.
    let server = Server::on(&folder, &["--keep-versions", "1"]);
    server.retrain("motor", &readings(96, 50, 2)).ok();
    wait_until("one version is left", || {
        folder.files("motor") == ["0000000008.iforest"]
    });
}

// Pressing the rollback button again and again must neither fill the disk nor remove trained
// versions.
#[test]
fn rollbacks_keep_the_trained_versions_and_few_copies() {
    let folder = Folder::new();
    let server = Server::on(&folder, &["--keep-versions", "2", "--n-estimators", TREES]);
    let trained = [90, 91].map(|seed| {
        server.retrain("motor", &readings(seed, 50, 2)).ok();
        server.predictions("motor", 2)
    });
    for _ in 0..4 {
        for (i, answers) in trained.iter().enumerate() {
            let version = format!("{{\"version\":{}}}", i + 1);
            server.post("/models/motor/rollback", &version).ok();
            assert_eq!(&server.predictions("motor", 2), answers);
        }
    }
    wait_until("two copies are left", || {
        let numbers = [1, 2, 9, 10].map(|number| format!("{number:010}.iforest"));
        folder.files("motor") == numbers
    });
}
