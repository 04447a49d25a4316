//! The store as a library: its versions, names and folders.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use futures_util::stream::BoxStream;
use iforest_server::detector::{Detector, OutOfRange};
use iforest_server::forest::MaxSamples;
use iforest_server::store::{
    self, Changes, FormatError, ModelName, ModelSettings, Poll, ReadError, Record, Seen, Store,
    WriteOutcome,
};
use object_store::memory::InMemory;
use object_store::path::Path as ObjectPath;
use object_store::throttle::{ThrottleConfig, ThrottledStore};
use object_store::{
    CopyOptions, GetOptions, GetResult, ListResult, MultipartUpload, ObjectMeta, ObjectStore,
    PutMultipartOptions, PutOptions, PutPayload, PutResult, Result,
};
use serde::{Deserialize, Serialize};

use crate::support::data::{params, readings};
use crate::support::folder::Folder;

/// A record with a value in every field.
pub(crate) fn record() -> Record {
    let params = params()
        .contamination(0.1)
        .n_estimators(3)
        .max_samples(MaxSamples::Fraction(0.5))
        .random_state(11);
    Record {
        detector: Detector::fit(&params, readings(3, 20, 2)).expect("valid readings"),
        window: None,
        held_back: None,
        feature_names: vec!["vibration".to_owned(), "in °C".to_owned()],
        settings: ModelSettings {
            contamination: Some(0.1),
            n_estimators: Some(3),
            max_samples: Some(MaxSamples::Fraction(0.5)),
            random_state: Some(11),
            out_of_range: Some(OutOfRange::Anomaly),
            out_of_range_margin: Some(0.25),
            ..ModelSettings::default()
        },
        trained_at: 1_795_000_000_123,
        restored_from: Some(7),
    }
}

/// The settings of format 1.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub(crate) struct Settings1 {
    pub(crate) contamination: Option<f64>,
    pub(crate) n_estimators: Option<usize>,
    pub(crate) max_samples: Option<MaxSamples>,
    pub(crate) random_state: Option<u32>,
    pub(crate) out_of_range: Option<OutOfRange>,
    pub(crate) out_of_range_margin: Option<f64>,
}

/// A record as format 1 has it, in postcard's encoding.
pub(crate) fn encode_record_1(record: &Record) -> Vec<u8> {
    let settings = record.settings.clone();
    let settings = Settings1 {
        contamination: settings.contamination,
        n_estimators: settings.n_estimators,
        max_samples: settings.max_samples,
        random_state: settings.random_state,
        out_of_range: settings.out_of_range,
        out_of_range_margin: settings.out_of_range_margin,
    };
    let fields = (
        &record.detector,
        &record.feature_names,
        settings,
        record.trained_at,
        record.restored_from,
    );
    postcard::to_extend(&fields, Vec::new()).expect("whole")
}

fn name(name: &str) -> ModelName {
    name.parse().expect("a valid name")
}

// All kinds of stores behave alike.
#[tokio::test]
async fn versions_are_created_once_listed_in_order_and_removed() {
    let folder = Folder::new();
    let bytes = store::encode(&record()).expect("whole");
    for store in [
        Store::in_memory(),
        Store::open(folder.text()).expect("a folder"),
    ] {
        // No folder of Windows can be called as the last three.
        let names = [
            "default", "Motor", "motor", "...", "a.", "aux", "con.1", "Nul.",
        ]
        .map(name);
        for model in &names {
            assert_eq!(store.versions(model).await, Ok(Vec::new()));
            for number in [2, 10, 1, 9_999_999_999] {
                let written = store.write(model, number, &bytes).await;
                let listed = store.versions(model).await.expect("the store answers");
                let listed = listed.into_iter().find(|v| v.number == number);
                assert_eq!(written.ok(), listed.map(WriteOutcome::Stored));
                let again = store.write(model, number, b"other").await;
                assert_eq!(again, Ok(WriteOutcome::AlreadyExists));
            }
            assert_eq!(store.read(model, 2).await.expect("it is stored"), record());
            // File names have ten digits, so no later number would be listed.
            for number in [10_000_000_000, u64::MAX] {
                let error = store
                    .write(model, number, &bytes)
                    .await
                    .expect_err("an error");
                assert!(error.to_string().contains("delete the model"), "{error}");
            }
            let missing = store.read(model, 3).await;
            assert!(matches!(missing, Err(ReadError::Missing)), "{missing:?}");
        }
        let listed = store.list().await.expect("the store answers");
        let mut sorted = names.to_vec();
        sorted.sort();
        assert_eq!(listed.keys().cloned().collect::<Vec<_>>(), sorted);
        for (model, versions) in listed {
            let numbers: Vec<_> = versions.iter().map(|version| version.number).collect();
            assert_eq!(numbers, [1, 2, 10, 9_999_999_999], "{model}");
            assert_eq!(store.versions(&model).await.as_ref(), Ok(&versions));
            store.remove(&model, &versions[..2]).await.expect("removed");
            store
                .remove(&model, &versions[..2])
                .await
                .expect("no error");
            assert_eq!(store.versions(&model).await.as_deref(), Ok(&versions[2..]));
            // A version written again is not the version that was there before.
            store.write(&model, 1, &bytes).await.expect("written");
            let rewritten = store.versions(&model).await.expect("listed");
            assert!(
                !rewritten[0].is(&versions[0]),
                "{:?} {:?}",
                rewritten[0],
                versions[0]
            );
        }
    }
}

#[tokio::test]
async fn other_files_in_the_folder_are_ignored() {
    let folder = Folder::new();
    let store = Store::open(folder.text()).expect("a folder");
    let bytes = store::encode(&record()).expect("whole");
    store.write(&name("m"), 1, &bytes).await.expect("written");
    let models = folder.path().join("models");
    for other in [
        "m/1.iforest",
        "m/0000000002.txt",
        "m/notes",
        "m/00000000x3.iforest",
        "readme",
    ] {
        std::fs::write(models.join(other), "other").expect("written");
    }
    for folder in ["m/deeper", "Capital", "m=1"] {
        std::fs::create_dir_all(models.join(folder)).expect("made");
        let file = models.join(folder).join("0000000001.iforest");
        std::fs::write(file, "other").expect("written");
    }
    let listed = store.list().await.expect("the store answers");
    let models: Vec<_> = listed.keys().map(ModelName::as_str).collect();
    assert_eq!(models, ["M", "m"], "m=1 is the stored form of M");
    assert_eq!(listed[&name("m")].len(), 1);
}

/// Polls, and returns the changes, and those that were lost. From then on, all of them are seen.
async fn poll(store: &Store, seen: &mut Seen) -> (Changes, Changes) {
    match store.changed_since(seen).await {
        Ok(Poll::Changed {
            seen: now,
            changes,
            lost,
        }) => {
            *seen = now;
            (changes, lost)
        }
        Ok(Poll::Unchanged) => Default::default(),
        Err(error) => panic!("{error}"),
    }
}

fn changes(models: &[&str]) -> Changes {
    Changes::Of(models.iter().copied().map(name).collect())
}

/// Two servers' views of one store, of each kind.
fn pairs_of_stores(folder: &Folder) -> [[Store; 2]; 2] {
    let objects: Arc<dyn ObjectStore> = Arc::new(InMemory::new());
    [
        [(); 2].map(|()| Store::from_objects(Arc::clone(&objects), "test")),
        [(); 2].map(|()| Store::open(folder.text()).expect("a folder")),
    ]
}

// A server that follows others looks after only what they changed, and at each change once.
#[tokio::test]
async fn each_follower_sees_once_which_models_changed() {
    let folder = Folder::new();
    for [here, there] in pairs_of_stores(&folder) {
        let mut seen = Seen::default();
        assert_eq!(here.changed_since(&seen).await, Ok(Poll::Unchanged));
        there.announce(&changes(&["a"])).await.expect("announced");
        let first = poll(&here, &mut seen).await;
        assert_eq!(first, (Changes::Any, Changes::default()), "none was seen");
        assert_eq!(here.changed_since(&seen).await, Ok(Poll::Unchanged));
        let mut late = seen.clone();
        for (announced, expected) in [
            (vec![vec!["b"]], vec!["b"]),
            (
                vec![vec!["b"], vec!["Motor.1", "c"]],
                vec!["b", "Motor.1", "c"],
            ),
        ] {
            for (i, models) in announced.iter().enumerate() {
                let store = [&there, &here][i % 2];
                store.announce(&changes(models)).await.expect("announced");
            }
            let polled = poll(&here, &mut seen).await;
            assert_eq!(polled, (changes(&expected), Changes::default()));
            assert_eq!(here.changed_since(&seen).await, Ok(Poll::Unchanged));
        }
        let polled = poll(&there, &mut late).await;
        assert_eq!(
            polled,
            (changes(&["b", "Motor.1", "c"]), Changes::default())
        );
        assert_eq!(late, seen);
        there.announce(&Changes::Any).await.expect("announced");
        assert_eq!(poll(&here, &mut seen).await.0, Changes::Any);
        // A server that was away for long.
        for i in 0..256 {
            let model = format!("m{i}");
            there
                .announce(&changes(&[&model]))
                .await
                .expect("announced");
        }
        let polled = poll(&here, &mut late).await.0;
        assert_eq!(polled, Changes::Any);
        let marker = folder.path().join("changed");
        if let Ok(marker) = std::fs::read_to_string(marker) {
            assert_eq!(marker.lines().count(), 256);
        }
    }
}

// An older server, another program or an attacker may write the marker.
#[tokio::test]
async fn a_marker_that_does_not_follow_the_last_one_makes_all_be_listed() {
    let folder = Folder::new();
    let [here, there] = [(); 2].map(|()| Store::open(folder.text()).expect("a folder"));
    let marker = folder.path().join("changed");
    let id = "0123456789abcdef0123456789abcdef";
    let long = format!("{id} m\n").repeat(100_000);
    let mut seen = Seen::default();
    for text in [
        format!("{id}\n"),
        format!("{id} ../../m\n"),
        format!("{id} a b\n"),
        format!("{id} \n"),
        format!("{id} m"),
        format!("{id} m\n\n"),
        format!("+{} m\n", &id[1..]),
        format!("{} m\n", &id[1..]),
        "\u{fffd}".to_owned(),
        String::new(),
        long,
    ] {
        for store in [&here, &there] {
            store.announce(&changes(&["m"])).await.expect("announced");
            poll(&here, &mut seen).await;
        }
        // Replaced as a store does, so that the ETag changes.
        let upload = folder.path().join("upload");
        std::fs::write(&upload, &text).expect("written");
        std::fs::rename(&upload, &marker).expect("replaced");
        assert_eq!(poll(&here, &mut seen).await.0, Changes::Any, "{text:.80}");
        // The next announcement is understood by those that saw it before, or know of no marker.
        there.announce(&changes(&["n"])).await.expect("announced");
        let is_understood = text == format!("{id}\n");
        let expected = if is_understood {
            changes(&["n"])
        } else {
            Changes::Any
        };
        assert_eq!(poll(&here, &mut seen).await.0, expected, "{text:.80}");
    }
}

// Two servers may read the marker, and then both replace it.
#[tokio::test]
async fn an_announcement_that_another_server_replaces_is_found_lost() {
    let folder = Folder::new();
    let [here, there] = [(); 2].map(|()| Store::open(folder.text()).expect("a folder"));
    let marker = folder.path().join("changed");
    let (mut seen_here, mut seen_there) = (Seen::default(), Seen::default());
    there.announce(&changes(&["x"])).await.expect("announced");
    poll(&here, &mut seen_here).await;
    poll(&there, &mut seen_there).await;
    for (count, lost) in [(1, changes(&["m0"])), (9, Changes::Any)] {
        let before = std::fs::read(&marker).expect("announced");
        for i in 0..count {
            let model = format!("m{i}");
            here.announce(&changes(&[&model])).await.expect("announced");
        }
        let ours = poll(&here, &mut seen_here).await;
        assert_eq!(ours.1, Changes::default(), "all are there");
        // The other server read the marker before.
        std::fs::write(&marker, before).expect("written");
        there.announce(&changes(&["b"])).await.expect("announced");
        assert_eq!(poll(&there, &mut seen_there).await.0, changes(&["b"]));
        assert_eq!(
            poll(&here, &mut seen_here).await,
            (Changes::Any, lost.clone())
        );
        // It is announced again, and lost only once.
        here.announce(&lost).await.expect("announced");
        assert_eq!(poll(&there, &mut seen_there).await.0, lost);
        assert_eq!(poll(&here, &mut seen_here).await.1, Changes::default());
    }
}

// Object stores refuse the later of two writes.
#[tokio::test]
async fn announcements_at_the_same_time_to_an_object_store_are_all_kept() {
    let delays = ThrottleConfig {
        wait_get_per_call: Duration::from_millis(5),
        ..ThrottleConfig::default()
    };
    let objects: Arc<dyn ObjectStore> = Arc::new(ThrottledStore::new(InMemory::new(), delays));
    let stores = [(); 6].map(|()| Store::from_objects(Arc::clone(&objects), "test"));
    let mut seen = Seen::default();
    stores[0].announce(&Changes::Any).await.expect("announced");
    poll(&stores[0], &mut seen).await;
    let names: Vec<_> = (0..stores.len()).map(|i| format!("m{i}")).collect();
    let announcements = stores.iter().zip(&names).map(async |(store, name)| {
        let announced = store.announce(&changes(&[name])).await;
        announced.expect("announced");
    });
    futures_util::future::join_all(announcements).await;
    let names: Vec<_> = names.iter().map(String::as_str).collect();
    let polled = poll(&stores[0], &mut seen).await;
    assert_eq!(polled, (changes(&names), Changes::default()));
}

#[test]
fn an_invalid_store_location_is_refused_with_the_reason() {
    let folder = Folder::new();
    let file = folder.path().join("file");
    std::fs::write(&file, "").expect("written");
    let file = file.to_str().expect("a path in UTF-8");
    for (location, expected) in [
        (file, "is not a folder"),
        ("ftp://host/path", "a store is a folder, memory:, s3://"),
        ("s3:bucket/path", "a store is a folder, memory:, s3://"),
        (
            "https://example.com/path",
            "a store is a folder, memory:, s3://",
        ),
        ("s3://", "a store is a folder, memory:, s3://"),
    ] {
        let error = Store::open(location).expect_err(location).to_string();
        assert!(error.contains(expected), "{location}: {error}");
    }
}

/// An object store that loses its responses to writes, whether or not the writes succeed.
#[derive(Debug, Default)]
struct LostAnswers {
    objects: InMemory,
    writes_fail: AtomicBool,
    reads_fail: AtomicBool,
}

impl fmt::Display for LostAnswers {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("lost answers")
    }
}

fn lost<T>() -> Result<T> {
    Err(object_store::Error::Generic {
        store: "test",
        source: "no answer in time".into(),
    })
}

#[async_trait::async_trait]
impl ObjectStore for LostAnswers {
    async fn put_opts(
        &self,
        at: &ObjectPath,
        what: PutPayload,
        how: PutOptions,
    ) -> Result<PutResult> {
        if !self.writes_fail.load(Ordering::Relaxed) {
            self.objects.put_opts(at, what, how).await?;
        }
        lost()
    }

    async fn put_multipart_opts(
        &self,
        _: &ObjectPath,
        _: PutMultipartOptions,
    ) -> Result<Box<dyn MultipartUpload>> {
        lost()
    }

    async fn get_opts(&self, at: &ObjectPath, how: GetOptions) -> Result<GetResult> {
        if self.reads_fail.load(Ordering::Relaxed) {
            return lost();
        }
        self.objects.get_opts(at, how).await
    }

    fn delete_stream(
        &self,
        what: BoxStream<'static, Result<ObjectPath>>,
    ) -> BoxStream<'static, Result<ObjectPath>> {
        self.objects.delete_stream(what)
    }

    fn list(&self, below: Option<&ObjectPath>) -> BoxStream<'static, Result<ObjectMeta>> {
        self.objects.list(below)
    }

    async fn list_with_delimiter(&self, below: Option<&ObjectPath>) -> Result<ListResult> {
        self.objects.list_with_delimiter(below).await
    }

    async fn copy_opts(&self, from: &ObjectPath, to: &ObjectPath, how: CopyOptions) -> Result<()> {
        self.objects.copy_opts(from, to, how).await
    }
}

// A version whose retrain was answered with an error must not be served seconds later. When only the
// response of the store was lost, the store looks for the version before it reports an error.
#[tokio::test]
async fn a_version_whose_write_lost_its_response_is_found() {
    let objects = Arc::new(LostAnswers::default());
    let store = Store::from_objects(Arc::clone(&objects) as _, "lost answers");
    let (ours, others) = (store::encode(&record()).expect("whole"), b"others");
    let model = name("m");
    let written = store.write(&model, 1, &ours).await.expect("it is stored");
    let there = store.versions(&model).await.expect("listed");
    assert_eq!(written, WriteOutcome::Stored(there[0].clone()));
    // A version of another server under the same number.
    assert_eq!(
        store.write(&model, 1, others).await,
        Ok(WriteOutcome::AlreadyExists)
    );
    // The write fails, and then so does the look for the version.
    objects.writes_fail.store(true, Ordering::Relaxed);
    let error = store
        .write(&model, 2, &ours)
        .await
        .expect_err("it is not stored");
    assert!(error.to_string().contains("no answer in time"), "{error}");
    objects.reads_fail.store(true, Ordering::Relaxed);
    store.write(&model, 1, &ours).await.expect_err("unknown");
}

// An operator's giant forest is bounded by what the operator allows, and nothing is stored that
// could not be read again.
#[tokio::test]
async fn versions_larger_than_the_maximum_are_neither_read_nor_written() {
    let folder = Folder::new();
    let bytes = store::encode(&record()).expect("whole");
    let size = bytes.len() as u64;
    let objects = Arc::new(InMemory::new());
    let store = Store::in_memory().with_max_model_size(size - 1);
    let error = store
        .write(&name("m"), 1, &bytes)
        .await
        .expect_err("an error");
    assert!(error.to_string().contains("at most"), "{error}");
    for store in [
        Store::open(folder.text()).expect("a folder"),
        Store::from_objects(objects, "objects"),
    ] {
        store.write(&name("m"), 1, &bytes).await.expect("written");
        let store = store.with_max_model_size(size - 1);
        let read = store.read(&name("m"), 1).await;
        let expected = FormatError::TooLarge {
            size,
            max: size - 1,
        };
        assert!(
            matches!(&read, Err(ReadError::Format(error)) if *error == expected),
            "{read:?}"
        );
        // They are listed nevertheless: another server may serve them.
        assert_eq!(store.list().await.expect("the store answers").len(), 1);
        let metadata = store.read_metadata(&name("m"), 1).await;
        assert_eq!(metadata.expect("readable"), record().metadata());
    }
}
