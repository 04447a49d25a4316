//! The store as a library: its versions, names and folders.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use futures_util::stream::BoxStream;
use iforest_server::detector::{Detector, OutOfRange};
use iforest_server::forest::MaxSamples;
use iforest_server::store::{
    self, FormatError, ModelName, ModelSettings, Poll, ReadError, Record, Store, WriteOutcome,
};
use object_store::memory::InMemory;
use object_store::path::Path as ObjectPath;
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
        let names = ["default", "Motor", "motor", "...", "a."].map(name);
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

// A server that follows others polls with the ETag that it saw last.
#[tokio::test]
async fn an_announcement_is_seen_once_by_each_follower() {
    let folder = Folder::new();
    for store in [
        Store::in_memory(),
        Store::open(folder.text()).expect("a folder"),
    ] {
        assert_eq!(store.changed_since(None).await, Ok(Poll::Unchanged));
        store.announce().await.expect("announced");
        let Ok(Poll::Changed(Some(first))) = store.changed_since(None).await else {
            panic!("a change was announced");
        };
        assert_eq!(store.changed_since(Some(&first)).await, Ok(Poll::Unchanged));
        store.announce().await.expect("announced");
        let Ok(Poll::Changed(Some(second))) = store.changed_since(Some(&first)).await else {
            panic!("a change was announced");
        };
        assert_ne!(first, second);
        assert_eq!(
            store.changed_since(Some(&second)).await,
            Ok(Poll::Unchanged)
        );
    }
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
