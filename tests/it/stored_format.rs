//! The format of stored versions: it must be readable for ever, its metadata without the rest, and
//! older programs must tell it from damage.

use std::fmt;
use std::path::Path;
use std::sync::{Arc, Mutex};

use futures_util::stream::BoxStream;
use iforest_server::detector::{Detector, FitOptions, Fitted, OutOfRange};
use iforest_server::forest::IsolationForest;
use iforest_server::store::{
    self, Drift, FormatError, MetadataPrefix, ModelName, ModelSettings, ReadError, Record, Store,
    decode_metadata,
};
use ndarray::Array2;
use object_store::memory::InMemory;
use object_store::path::Path as ObjectPath;
use object_store::{
    CopyOptions, GetOptions, GetRange, GetResult, ListResult, MultipartUpload, ObjectMeta,
    ObjectStore, PutMultipartOptions, PutOptions, PutPayload, PutResult, Result,
};

use crate::store::{encode_record_1, record};
use crate::support::data::{params, readings};

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
    sealed([line, encode_record_1(record)].concat())
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
    assert!(first == record());
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
            MetadataPrefix::Complete(read) => assert!(*read == metadata),
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

/// A model with everything that format 2 has sections for.
fn windowed_record() -> Record {
    let options = FitOptions {
        distance: true,
        false_alarm_rate: Some(0.01),
        window: Some(4),
        ..FitOptions::default()
    };
    let params = params().n_estimators(3).random_state(11);
    let fitted = Fitted::fit(&params, &options, readings(3, 90, 2)).expect("valid readings");
    Record {
        detector: fitted.detector,
        window: fitted.window,
        held_back: fitted.held_back,
        settings: ModelSettings {
            out_of_range: Some(OutOfRange::Distance),
            false_alarm_rate: Some(0.01),
            window: Some(4),
            drift: Some(Drift::Keep),
            ..record().settings
        },
        ..record()
    }
}

/// The names and contents of sections.
type Sections = Vec<(String, Vec<u8>)>;

/// The sections after the metadata block.
fn sections(bytes: &[u8]) -> Sections {
    let mut sections = Vec::new();
    let start = bytes.windows(9).position(|part| part == b"detector ");
    let mut rest = &bytes[start.expect("the section")..bytes.len() - 4];
    while !rest.is_empty() {
        let name_end = rest.iter().position(|&byte| byte == b' ').expect("a name");
        let name = String::from_utf8(rest[..name_end].to_vec()).expect("a name");
        let length = std::str::from_utf8(&rest[name_end + 1..name_end + 11]).expect("a length");
        let content = name_end + 12;
        let end = content + length.parse::<usize>().expect("a length");
        sections.push((name, rest[content..end].to_vec()));
        rest = &rest[end + 1..];
    }
    sections
}

// An earlier release reads the metadata of all models, and names those that it cannot serve: their
// sections are unknown to it. A plain model has no such section.
#[test]
fn models_with_new_settings_have_sections_that_earlier_releases_name() {
    let names = |record: &Record| {
        let sections = sections(&store::encode(record).expect("whole"));
        let names = sections.into_iter().map(|(name, _)| name);
        names.collect::<Vec<_>>()
    };
    assert_eq!(names(&record()), ["detector"]);
    let all = windowed_record();
    assert_eq!(names(&all), ["detector", "distance", "held-back", "window"]);

    let bytes = store::encode(&all).expect("whole");
    assert_eq!(store::decode(&bytes), Ok(all.clone()));
    let MetadataPrefix::Complete(metadata) = decode_metadata(&bytes) else {
        panic!("the metadata are there");
    };
    assert_eq!(*metadata, all.metadata());
    assert_eq!((metadata.features, metadata.samples), (2, 90));

    // The values that an earlier release knows are all that its fields have.
    let lines: Vec<&[u8]> = bytes.splitn(3, |&byte| byte == b'\n').collect();
    let json = &lines[1]["metadata 0000000000 ".len()..];
    let json: serde_json::Value = serde_json::from_slice(json).expect("JSON");
    assert!(json["settings"]["out_of_range"].is_null());
    assert_eq!(json["settings"]["distance"], true);
}

// The checksum of these is right.
#[test]
fn crafted_sections_are_refused() {
    let all = windowed_record();
    let whole = store::encode(&all).expect("whole");
    let block = whole.len() - 4 - {
        let sections = sections(&whole);
        let lengths = sections
            .iter()
            .map(|(name, content)| name.len() + 13 + content.len());
        lengths.sum::<usize>()
    };
    let build = |change: &dyn Fn(&mut Sections)| {
        let mut parts = sections(&whole);
        change(&mut parts);
        let mut bytes = whole[..block].to_vec();
        for (name, content) in parts {
            bytes.extend(format!("{name} {:010} ", content.len()).into_bytes());
            bytes.extend(content);
            bytes.push(b'\n');
        }
        store::decode(&sealed(bytes))
    };
    assert_eq!(build(&|_| {}), Ok(all.clone()));
    let damaged = |change: &dyn Fn(&mut Sections)| {
        let decoded = build(change);
        assert!(
            matches!(decoded, Err(FormatError::Damaged(_))),
            "{decoded:?}"
        );
    };
    for section in 1..4 {
        // Parts that are missing, twice, cut short, or of another model.
        damaged(&|parts| parts.insert(section, parts[section].clone()));
        damaged(&|parts| {
            parts[section].1.pop();
        });
        damaged(&|parts| parts[section].1.push(0));
        damaged(&|parts| parts[section].1.clear());
    }
    damaged(&|parts| drop(parts.remove(1)));
    damaged(&|parts| drop(parts.remove(3)));
    // An end of a box that is not a number, and one that is out of order.
    for bits in [
        f32::NAN.to_bits(),
        f32::MAX.to_bits(),
        f32::NEG_INFINITY.to_bits(),
    ] {
        damaged(&|parts| {
            let content = &mut parts[1].1;
            let first_least = content.len() - 4 * all.metadata().box_values;
            content[first_least..first_least + 4].copy_from_slice(&bits.to_le_bytes());
        });
    }
    // A false-alarm rate of 2.
    damaged(&|parts| parts[2].1[..8].copy_from_slice(&2f64.to_le_bytes()));
    // No byte makes a decoder panic.
    for section in 1..4 {
        for position in 0..sections(&whole)[section].1.len().min(400) {
            let _ = build(&|parts| parts[section].1[position] ^= 0x81);
        }
    }
}
