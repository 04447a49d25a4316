//! The format of stored versions: it must be readable for ever, its metadata without the rest, and
//! older programs must tell it from damage.

use std::fmt;
use std::path::Path;
use std::sync::{Arc, Mutex};

use futures_util::stream::BoxStream;
use iforest_server::detector::Detector;
use iforest_server::forest::IsolationForest;
use iforest_server::store::{
    self, FormatError, MetadataPrefix, ModelName, ReadError, Record, Store, decode_metadata,
};
use ndarray::Array2;
use object_store::memory::InMemory;
use object_store::path::Path as ObjectPath;
use object_store::{
    CopyOptions, GetOptions, GetRange, GetResult, ListResult, MultipartUpload, ObjectMeta,
    ObjectStore, PutMultipartOptions, PutOptions, PutPayload, PutResult, Result,
};

use crate::store::record;
use crate::support::data::RECORDED_SCORES;

fn golden(format: u32) -> Vec<u8> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("tests/fixtures")
        .join(format!("model-format-{format}.iforest"));
    let bytes = std::fs::read(path).expect("the fixture is committed");
    assert!(bytes.starts_with(format!("iforest-server model {format}\n").as_bytes()));
    bytes
}

/// Appends the right checksum.
fn sealed(mut bytes: Vec<u8>) -> Vec<u8> {
    let checksum = crc32fast::hash(&bytes);
    bytes.extend(checksum.to_le_bytes());
    bytes
}

/// A record in format 1, as earlier versions of the program wrote it.
fn format_1(record: &Record) -> Vec<u8> {
    let line = b"iforest-server model 1\n".to_vec();
    sealed(postcard::to_extend(record, line).expect("whole"))
}

/// A version of format 2 without its checksum, followed by a section.
fn with_section(name: &str, length: &str, content: &[u8]) -> Vec<u8> {
    let mut bytes = store::encode(&record()).expect("whole");
    bytes.truncate(bytes.len() - 4);
    bytes.extend(format!("{name} {length} ").into_bytes());
    bytes.extend(content);
    bytes.push(b'\n');
    sealed(bytes)
}

// What a plant stored with an earlier version must be served by every later one. If this fails, the
// form of something that is stored has changed: that takes a new format or a new section beside the
// old one, not another fixture.
#[test]
fn files_of_both_formats_are_read_and_format_2_is_written_as_it_was() {
    let first = store::decode(&golden(1)).expect("format 1");
    let second = store::decode(&golden(2)).expect("format 2");
    assert_eq!(first, second);
    assert_eq!(store::encode(&first).expect("whole"), golden(2));
    assert_eq!(format_1(&second), golden(1));
    // The offset in it is a recorded score.
    assert!(!RECORDED_SCORES || first == record());
}

// Only the trees are needed to store a model, so a detector without them must not be stored.
#[test]
fn a_detector_without_trees_is_not_stored() {
    let mut record = record();
    record.detector.drop_trees();
    let error = store::encode(&record).expect_err("must not be stored");
    assert!(error.to_string().contains("cannot be encoded"), "{error}");
}

// A file from a later version of this program is not damage, and must be told from it.
#[test]
fn a_newer_format_is_told_from_damage() {
    let with_first_line = |line: &str| {
        let bytes = golden(1);
        let end = bytes.iter().position(|&b| b == b'\n').expect("a line");
        let content = [line.as_bytes(), &bytes[end..bytes.len() - 4]].concat();
        store::decode(&sealed(content))
    };
    assert!(with_first_line("iforest-server model 1").is_ok());
    let newer = with_first_line("iforest-server model 3");
    assert_eq!(newer, Err(FormatError::Newer(3)));
    for line in [
        "iforest-server model 0",
        "iforest-server model 2",
        "iforest-server model",
        "iforest-server model x",
        "",
    ] {
        let read = with_first_line(line);
        assert!(
            matches!(read, Err(FormatError::Damaged(_))),
            "{line}: {read:?}"
        );
    }
}

// How version 0.2 of the program reads a version: the checksum of all bytes but the last four, then
// the first line. It must name format 2 as newer, and neither quarantine it nor serve it.
#[test]
fn programs_that_know_format_1_only_name_format_2_as_newer() {
    let bytes = golden(2);
    let (content, checksum) = bytes.split_last_chunk::<4>().expect("a checksum");
    assert_eq!(crc32fast::hash(content), u32::from_le_bytes(*checksum));
    let rest = content
        .strip_prefix(b"iforest-server model ")
        .expect("the header of a model");
    let line_end = rest.iter().position(|&b| b == b'\n').expect("a line");
    let format = std::str::from_utf8(&rest[..line_end]).expect("a number");
    assert_eq!(format.parse::<u32>(), Ok(2));
}

// What later versions of the program add comes in sections. They may change predictions, so a
// program that does not know one must not serve the version, and not quarantine it either.
#[test]
fn a_section_that_is_not_known_is_told_from_damage() {
    let unknown = store::decode(&with_section("boxes", "0000000003", b"\x00\n\x01"));
    assert_eq!(
        unknown,
        Err(FormatError::UnknownSection("boxes".to_owned()))
    );
    assert!(unknown.is_err_and(|error| error.is_unsupported()));
    for (name, length, content) in [
        ("detector", "0000000003", b"abc".as_slice()),
        ("metadata", "0000000003", b"abc"),
        ("boxes", "0000000002", b"abc"),
        ("boxes", "0000000004", b"abc"),
        ("boxes", "9999999999", b"abc"),
        ("boxes", "000000003", b"abc"),
        ("boxes", "+000000003", b"abc"),
        ("boxes", "         3", b"abc"),
        ("Boxes", "0000000003", b"abc"),
        ("\u{1b}[31m", "0000000003", b"abc"),
        ("", "0000000003", b"abc"),
        (&"b".repeat(33), "0000000003", b"abc"),
    ] {
        let read = store::decode(&with_section(name, length, content));
        assert!(
            matches!(read, Err(FormatError::Damaged(_))),
            "{name:?} {length}: {read:?}"
        );
    }
}

// Metadata are read without the rest, so their own checksum must find every flipped bit.
#[test]
fn metadata_are_read_from_the_first_bytes_and_any_damage_of_them_is_found() {
    let whole = golden(2);
    let metadata = record().metadata();
    let length = match decode_metadata(&whole[..64]) {
        MetadataPrefix::Needs(length) => length,
        other => panic!("{other:?}"),
    };
    assert!(length < whole.len());
    for cut in 0..length {
        let read = decode_metadata(&whole[..cut]);
        let expected = [MetadataPrefix::Absent, MetadataPrefix::Needs(length)];
        assert!(expected.contains(&read), "{cut} bytes: {read:?}");
    }
    for cut in [length, length + 1, whole.len()] {
        match decode_metadata(&whole[..cut]) {
            MetadataPrefix::Complete(read) => assert!(!RECORDED_SCORES || read == metadata),
            other => panic!("{cut} bytes: {other:?}"),
        }
    }
    let mut damaged = whole[..length].to_vec();
    for i in 0..length {
        for bit in 0..8 {
            damaged[i] ^= 1 << bit;
            let read = decode_metadata(&damaged);
            let found = !matches!(read, MetadataPrefix::Complete(_));
            assert!(found, "bit {bit} of byte {i}");
            damaged[i] ^= 1 << bit;
        }
    }
    assert_eq!(decode_metadata(&golden(1)), MetadataPrefix::Absent);
}

// An operator looks into a file without tools.
#[test]
fn the_second_line_shows_the_metadata() {
    let bytes = golden(2);
    let line = bytes.split(|&b| b == b'\n').nth(1).expect("a second line");
    let line = std::str::from_utf8(line).expect("text");
    let json = line
        .strip_prefix("metadata ")
        .and_then(|l| l.split_once(' '));
    let (length, json) = json.expect("the section of metadata");
    assert_eq!(length.parse(), Ok(json.len()));
    let json: serde_json::Value = serde_json::from_str(json).expect("JSON");
    assert_eq!(json["features"], 2);
    assert_eq!(json["samples"], 20);
    assert_eq!(json["feature_names"][1], "in °C");
    assert_eq!(json["settings"]["max_samples"]["fraction"], 0.5);
}

/// An object store that notes the ranges that are read.
#[derive(Debug, Default)]
struct Noted {
    objects: InMemory,
    read: Mutex<Vec<Option<GetRange>>>,
}

impl Noted {
    fn take(&self) -> Vec<Option<GetRange>> {
        std::mem::take(&mut self.read.lock().expect("not poisoned"))
    }
}

impl fmt::Display for Noted {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("noted")
    }
}

#[async_trait::async_trait]
impl ObjectStore for Noted {
    async fn put_opts(
        &self,
        at: &ObjectPath,
        what: PutPayload,
        how: PutOptions,
    ) -> Result<PutResult> {
        self.objects.put_opts(at, what, how).await
    }

    async fn put_multipart_opts(
        &self,
        at: &ObjectPath,
        how: PutMultipartOptions,
    ) -> Result<Box<dyn MultipartUpload>> {
        self.objects.put_multipart_opts(at, how).await
    }

    async fn get_opts(&self, at: &ObjectPath, how: GetOptions) -> Result<GetResult> {
        self.read
            .lock()
            .expect("not poisoned")
            .push(how.range.clone());
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

// A list of 20,000 models reads a few KiB of each, whatever the size of its trees.
#[tokio::test]
async fn reading_metadata_takes_one_read_of_a_few_kib() {
    let objects = Arc::new(Noted::default());
    let store = Store::from_objects(Arc::clone(&objects) as _, "noted");
    let model: ModelName = "m".parse().expect("a good name");
    let bytes = store::encode(&record()).expect("whole");
    store.write(&model, 1, &bytes).await.expect("written");
    objects.take();
    let metadata = store.read_metadata(&model, 1).await.expect("readable");
    assert_eq!(metadata, record().metadata());
    assert_eq!(objects.take(), [Some(GetRange::Bounded(0..8192))]);

    // Long names of many features take a second read.
    let mut wide = record();
    let data = Array2::from_shape_fn((10, 100), |(i, j)| (i * j) as f64);
    let params = IsolationForest::params().n_estimators(3);
    wide.detector = Detector::fit(&params, data).expect("good readings");
    wide.feature_names = (0..100).map(|i| format!("{i:0100}")).collect();
    let bytes = store::encode(&wide).expect("whole");
    store.write(&model, 2, &bytes).await.expect("written");
    let metadata = store.read_metadata(&model, 2).await.expect("readable");
    assert_eq!(metadata, wide.metadata());
    assert_eq!(objects.take().len(), 2);

    // Format 1 has no metadata apart.
    let first = format_1(&record());
    store.write(&model, 3, &first).await.expect("written");
    let metadata = store.read_metadata(&model, 3).await.expect("readable");
    assert_eq!(metadata, record().metadata());

    // Damaged, cut short, empty, missing: as when the whole version is read.
    let mut damaged = bytes.clone();
    damaged[60] ^= 1;
    for (number, bytes) in [(4, damaged), (5, bytes[..9000].to_vec()), (6, Vec::new())] {
        store.write(&model, number, &bytes).await.expect("written");
        let read = store.read_metadata(&model, number).await;
        let found = matches!(read, Err(ReadError::Format(FormatError::Damaged(_))));
        assert!(found, "{number}: {read:?}");
    }
    let missing = store.read_metadata(&model, 9).await;
    assert!(matches!(missing, Err(ReadError::Missing)), "{missing:?}");
}
