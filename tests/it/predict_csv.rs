//! `iforest-server predict`: a file is predicted as the server would over HTTP, with the real program.

use std::io::{self, Read, Write};
use std::process::{Child, Command, Output, Stdio};

use iforest_server::forest::IsolationForest;
use iforest_server::predict_csv::predict_csv;
use iforest_server::registry::{Registry, RegistryConfig, ServedModel};
use iforest_server::store::{ModelName, Store};
use serde_json::{Value, json};

use crate::support::data::{SplitMix, encoded, fit, readings};
use crate::support::folder::{Folder, write};
use crate::support::server::{BINARY, Server};
use crate::support::tools::available;

/// The program on a store, with its standard input.
fn command(store: &Folder, arguments: &[&str]) -> Command {
    let mut command = Command::new(BINARY);
    command
        .env("IFOREST_STORE", store.text())
        .arg("predict")
        .args(arguments)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    command
}

fn feed(mut command: Command, input: &[u8]) -> Output {
    let mut child = command.spawn().expect("the program starts");
    let mut stdin = child.stdin.take().expect("piped");
    std::thread::scope(|scope| {
        // Fails where the program ends before it has read everything.
        scope.spawn(move || stdin.write_all(input));
        child.wait_with_output().expect("a child")
    })
}

fn run(store: &Folder, arguments: &[&str], input: impl AsRef<[u8]>) -> Output {
    feed(command(store, arguments), input.as_ref())
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8(bytes.to_vec()).expect("UTF-8")
}

/// The predictions of a file and the summary. Panics unless the program succeeds.
fn predicted(store: &Folder, arguments: &[&str], input: impl AsRef<[u8]>) -> (String, String) {
    let output = run(store, arguments, input);
    let summary = text(&output.stderr);
    assert_eq!(output.status.code(), Some(0), "{summary}");
    (text(&output.stdout), summary)
}

/// The program's error. Panics if it succeeds.
fn refused(store: &Folder, arguments: &[&str], input: impl AsRef<[u8]>) -> String {
    let output = run(store, arguments, input);
    let error = text(&output.stderr);
    assert_eq!(output.status.code(), Some(1), "{error}");
    assert!(!error.contains("panicked"), "{error}");
    error
}

/// A store with the model `default` of one feature, as trained with `--random-state 42`.
fn store() -> Folder {
    let folder = Folder::new();
    write(
        &folder.version("default", 1),
        &encoded(fit(100, readings(1, 500, 1))),
    );
    folder
}

/// The rows of a CSV file by the names of their columns.
fn rows(csv: &str, delimiter: u8) -> Vec<Vec<(String, String)>> {
    let mut reader = csv::ReaderBuilder::new()
        .delimiter(delimiter)
        .from_reader(csv.as_bytes());
    let names = reader.headers().expect("a header").clone();
    let named = |row: csv::StringRecord| {
        let cells = names.iter().zip(row.iter());
        cells
            .map(|(name, cell)| (name.to_owned(), cell.to_owned()))
            .collect()
    };
    reader
        .records()
        .map(|row| named(row.expect("a row")))
        .collect()
}

/// Checks that a row has the prediction of an answer over HTTP, bit for bit.
fn assert_is(row: &[(String, String)], answer: &Value) {
    let names = [
        "anomaly_score",
        "prediction",
        "status",
        "out_of_range",
        "alarm",
    ];
    for name in names {
        let cell = row.iter().find(|(column, _)| column == name);
        let cell = cell.map(|(_, cell)| cell.as_str());
        match &answer[name] {
            Value::Null if name == "anomaly_score" => assert_eq!(cell, Some("")),
            Value::Null => assert_eq!(cell, None, "{name} of {answer}"),
            Value::String(text) => assert_eq!(cell, Some(text.as_str())),
            Value::Number(number) if name == "anomaly_score" => {
                let bits = |number: Option<f64>| number.map(f64::to_bits);
                let written = cell.and_then(|cell| cell.parse().ok());
                assert_eq!(bits(written), bits(number.as_f64()), "{row:?} {answer}");
            }
            other => assert_eq!(cell, Some(other.to_string().as_str()), "{row:?} {answer}"),
        }
    }
}

/// Predicts readings over HTTP and from a file, and compares.
fn assert_equals_http(server: &Server, store: &Folder, model: &str, options: &[&str]) {
    let features = server.model(model).ok_json()["features"].as_u64();
    let features = features.expect("a number") as usize;
    // In and around the training range.
    let rows_sent = readings(99, 400, features).map(|value| 2.0 * value - 2.0);
    let names: Vec<String> = (0..features).map(|i| format!("s{i}")).collect();
    let header = match features {
        1 => "value".to_owned(),
        _ => names.join(","),
    };
    let mut file = format!("note,{header}\n");
    let mut values = Vec::new();
    for row in rows_sent.rows() {
        let cells: Vec<String> = row.iter().map(f64::to_string).collect();
        file.push_str(&format!("x,{}\n", cells.join(",")));
        values.push(match features {
            1 => json!(row[0]),
            _ => json!(row.to_vec()),
        });
    }
    let path = format!("/models/{model}/predict");
    let answer = server.post(&path, json!({ "values": values }).to_string());
    let answers = answer.ok_json()["predictions"].clone();
    let answers = answers.as_array().expect("a list");

    let arguments = [&["--model", model][..], options].concat();
    let (output, _) = predicted(store, &arguments, file);
    let rows = rows(&output, b',');
    assert_eq!(rows.len(), answers.len());
    for (row, answer) in rows.iter().zip(answers) {
        assert_is(row, answer);
    }
    let anomalies = answers.iter().filter(|answer| answer["prediction"] == 1);
    assert!((1..400).contains(&anomalies.count()), "{model}");
}

// Also while the server runs on the same folder.
#[test]
fn predictions_have_the_bits_of_those_over_http() {
    let folder = Folder::new();
    let server = Server::on(&folder, &["--out-of-range", "anomaly"]);
    let train = |name: &str, settings: Value| {
        let mut body = settings;
        body["random_state"] = json!(7);
        let response = server.post(&format!("/models/{name}/retrain"), body.to_string());
        response.ok();
    };
    let rows = |seed, columns| {
        let rows = readings(seed, 300, columns);
        let rows = rows.rows().into_iter().map(|row| row.to_vec());
        json!(rows.collect::<Vec<_>>())
    };
    let names = json!(["s0", "s1", "s2"]);
    train("one", json!({"samples": rows(1, 1)}));
    train(
        "own",
        json!({"samples": rows(2, 1), "out_of_range": "score"}),
    );
    train(
        "far",
        json!({"samples": rows(3, 1), "out_of_range": "distance"}),
    );
    train(
        "three",
        json!({"samples": rows(4, 3), "feature_names": names}),
    );
    train(
        "rate",
        json!({"samples": rows(5, 1), "false_alarm_rate": 0.05}),
    );
    train(
        "three-far",
        json!({"samples": rows(6, 3), "feature_names": names, "out_of_range": "distance"}),
    );
    for model in ["one", "own", "far", "three", "rate", "three-far"] {
        assert_equals_http(&server, &folder, model, &["--out-of-range", "anomaly"]);
    }
    // The server's variables count, too.
    let mut variables = command(&folder, &["--model", "one"]);
    variables.env("IFOREST_OUT_OF_RANGE", "anomaly");
    let output = text(&feed(variables, b"9\n").stdout);
    assert!(output.ends_with("1,Anomaly Detected,true\n"), "{output}");
}

// Each line counts as a request of its own: gaps, late readings and repetitions are those of the
// server.
#[test]
fn a_model_with_a_window_predicts_a_file_as_the_same_requests() {
    let folder = Folder::new();
    let server = Server::on(&folder, &[]);
    let samples: Vec<Vec<f64>> = readings(1, 300, 2)
        .rows()
        .into_iter()
        .map(|row| vec![row[0], 0.1 * row[1]])
        .collect();
    let body = json!({"samples": samples, "window": 5, "feature_names": ["flow", "pressure"],
        "false_alarm_rate": 0.05, "random_state": 7});
    server.post("/models/pump/retrain", body.to_string()).ok();
    let mut random = SplitMix(5);
    let mut file = "pressure;time;flow\n".to_owned();
    let mut answers = Vec::new();
    let mut seconds = 1000_i64;
    for i in 0..600 {
        // Mostly a reading a second; now and then a gap, a late reading, or none.
        seconds += match random.next() % 40 {
            0 => 3,
            1 => 30,
            2 => -2,
            3 => -40,
            4 => 0,
            _ => 1,
        };
        let flow = 7.0 * random.uniform() - 1.0;
        let pressure = if i == 400 {
            1e308
        } else {
            0.5 * random.uniform()
        };
        let time = format!(
            "2026-11-24T{:02}:{:02}:{:02}",
            10 + seconds / 3600,
            seconds / 60 % 60,
            seconds % 60
        );
        let (cell, sent) = match random.next() % 20 {
            0 => (String::new(), Value::Null),
            // Without an offset a time is in UTC.
            1 => (time.clone(), json!(format!("{time}Z"))),
            _ => (format!("{time}+01:00"), json!(format!("{time}+01:00"))),
        };
        for _ in 0..1 + random.next() % 30 / 29 {
            file.push_str(&format!("{pressure};{cell};{flow}\n"));
            let body = json!({"value": [flow, pressure], "time": sent});
            answers.push(server.post("/models/pump/predict", body.to_string()));
        }
    }
    let (output, summary) = predicted(&folder, &["--model", "pump"], file);
    let rows = rows(&output, b';');
    assert_eq!(rows.len(), answers.len());
    let (mut warm_ups, mut alarms, mut was_on) = (0, 0, false);
    for (row, answer) in rows.iter().zip(&answers) {
        if answer.status == 422 {
            assert!(row.contains(&("status".to_owned(), "Unreadable".to_owned())));
            continue;
        }
        let answer = answer.ok_json();
        assert_is(row, &answer);
        warm_ups += u32::from(answer["status"] == "Warming Up");
        let is_on = answer["alarm"] == true;
        alarms += u32::from(is_on && !was_on);
        was_on = is_on;
    }
    assert!(warm_ups > 20 && alarms > 3, "{warm_ups}, {alarms}");
    let expected = format!("alarms: {alarms}; readings while the model warmed up: {warm_ups}\n");
    assert!(summary.contains(&expected), "{summary}");
    assert!(
        summary.contains("(the model has false_alarm_rate 5 %)"),
        "{summary}"
    );
    assert!(summary.contains("got 1e308"), "{summary}");
}

// Whatever stands in the file beside the readings stays, so that it can be joined.
#[test]
fn columns_and_line_ends_are_carried_through() {
    let store = store();
    let (output, _) = predicted(&store, &[], "2.5\n");
    let cells = output.lines().nth(1).expect("a line");
    let normal = cells.strip_prefix("2.5").expect("the reading").to_owned();
    assert!(normal.ends_with(",0,Normal Behaviour"), "{normal}");
    let with_semicolons = normal.replace(',', ";");
    let added = ",anomaly_score,prediction,status";
    for (input, expected) in [
        (
            "2.5\n2.5",
            format!("value{added}\n2.5{normal}\n2.5{normal}\n"),
        ),
        (
            "2.5\r\n2.5\r\n",
            format!("value{added}\r\n2.5{normal}\r\n2.5{normal}\r\n"),
        ),
        (
            "vibration\n2.5\n",
            format!("vibration{added}\n2.5{normal}\n"),
        ),
        (
            "Time,Value\nnoon,2.5\n",
            format!("Time,Value{added}\nnoon,2.5{normal}\n"),
        ),
        (
            "time,p1\nnoon,2.5\n",
            format!("time,p1{added}\nnoon,2.5{normal}\n"),
        ),
        (
            "\n\nunit;VALUE;note\r\nmm/s; 2.5 ;\"a;\r\n\"\"b\"\"\"\r\n\r\nm;+2.5;\n;;\n",
            format!(
                "\n\nunit;VALUE;note{}\r\nmm/s; 2.5 ;\"a;\r\n\"\"b\"\"\"{with_semicolons}\r\n\r\n\
                 m;+2.5;{with_semicolons}\n;;;;;\n",
                added.replace(',', ";")
            ),
        ),
        // A quotation mark within a field is one like any other character.
        (
            "value,size\n2.5,5\"\n2.5,6\"\n",
            format!("value,size{added}\n2.5,5\"{normal}\n2.5,6\"{normal}\n"),
        ),
        (
            "\u{feff}value\n2.5\n",
            format!("\u{feff}value{added}\n2.5{normal}\n"),
        ),
    ] {
        let (output, _) = predicted(&store, &[], input);
        assert_eq!(output, expected, "{input:?}");
        // The same from a file, and in the encodings of Windows PowerShell.
        let file = store.file("readings.csv", input);
        assert_eq!(predicted(&store, &[&file], "").0, expected, "{input:?}");
        let marked = format!("\u{feff}{}", input.trim_start_matches('\u{feff}'));
        let units = || marked.encode_utf16();
        let little: Vec<u8> = units().flat_map(u16::to_le_bytes).collect();
        let big: Vec<u8> = units().flat_map(u16::to_be_bytes).collect();
        let expected = format!("\u{feff}{}", expected.trim_start_matches('\u{feff}'));
        for bytes in [little, big] {
            assert_eq!(predicted(&store, &[], bytes).0, expected, "{input:?}");
        }
    }
    // Latin-1, as Excel writes it.
    let output = run(&store, &[], b"value;unit\n2.5;\xB0C\n");
    let end = format!("2.5;\u{fffd}C{with_semicolons}\n");
    assert!(String::from_utf8_lossy(&output.stdout).ends_with(&end));
    assert!(output.stdout.contains(&0xB0));
}

// An engineer with one bad line in a month of readings wants the others.
#[test]
fn a_line_that_cannot_be_read_stays_without_a_prediction_and_is_named() {
    let store = store();
    let input = "time,value\n10:00,2.5\n10:01,\n10:02\n10:03,NaN\n10:04,1.5,2\n10:05,1e308\n\
                 10:06,0x1\n10:07,9\n";
    let (output, summary) = predicted(&store, &[], input);
    let lines: Vec<&str> = output.lines().collect();
    assert_eq!(lines.len(), 9);
    for (line, expected) in [
        (2, "10:01,,,,Unreadable"),
        (3, "10:02,,,,Unreadable"),
        (4, "10:03,NaN,,,Unreadable"),
        (5, "10:04,1.5,2,,,Unreadable"),
        (7, "10:06,0x1,,,Unreadable"),
    ] {
        assert_eq!(lines[line], expected);
    }
    assert!(lines[8].ends_with(",1,Anomaly Detected"), "{output}");
    let problems = summary
        .split_once("unreadable lines: ")
        .expect("problems")
        .1;
    assert_eq!(
        problems,
        "5\n  line 3: expected a finite number, got \"\"\n  line 4: expected 2 columns as in the \
         first line, got 1\n  line 5: expected a finite number, got \"NaN\"\n  line 6: expected 2 \
         columns as in the first line, got 3\n  line 8: expected a finite number, got \"0x1\"\n"
    );
}

#[test]
fn a_file_that_does_not_fit_the_model_is_refused_by_its_line() {
    let store = store();
    for (input, expected) in [
        ("", "standard input: there are no readings"),
        ("value\n\n", "standard input: there are no readings"),
        (
            "2,5\n",
            "line 1: expected one reading on each line (with a decimal point, not a comma)",
        ),
        (
            "a,b\n1,2\n",
            "line 1: no column is named value; the columns are a, b",
        ),
        ("value,VALUE\n1,2\n", "line 1: two columns are named value"),
        (
            "\nO.5\n1\n",
            "line 2: expected a finite number, got \"O.5\"",
        ),
        (
            "value;b\n1;2\n2,5;3\n4;5\n",
            "line 3: expected a number with a decimal point, not a comma, got \"2,5\"",
        ),
        (
            "value\nx\ny\n",
            "none of the 2 readings can be predicted; line 2: expected a finite number",
        ),
        (
            "value\n1,5\n2,5\n",
            "line 2: expected one column as in the first line, got 2; a number needs a decimal point",
        ),
        // The numbers without a fraction could be read.
        (
            "value\n3\n-2,5\n",
            "line 3: expected one column as in the first line, got 2; a number needs a decimal point",
        ),
        (
            "time,value\n10:00,3\n10:01,2,5\n",
            "line 3: expected 2 columns as in the first line, got 3; is this a number with a decimal comma?",
        ),
        (
            "PK\u{3}\u{4}\u{14}\0,\n1\n",
            "line 1: this is no text but binary",
        ),
        // As gzip writes it.
        ("\u{1f}\u{8}\n\0,1\n", "line 1: this is no text but"),
    ] {
        // A minus is standard input, too.
        let error = refused(&store, &["-"], input);
        assert!(error.contains(expected), "{input:?}: {error}");
    }
    // A quotation mark that is never closed ends with the file.
    let (_, summary) = predicted(&store, &[], "value,b\n1,\"2\n3,4\n");
    assert!(summary.contains("readings: 1;"), "{summary}");
    let endless = format!("value,b\n1,2\n3,\"{}", "x\n".repeat(1 << 20));
    let error = refused(&store, &[], endless);
    assert!(
        error.contains("line 3: the record that begins here is longer than 1048576 bytes"),
        "{error}"
    );
    let error = refused(&store, &["no-such-file.csv"], "");
    assert!(error.contains("cannot read no-such-file.csv: "), "{error}");
}

/// An input that comes in small pieces.
struct Pieces<'a>(&'a [u8], SplitMix);

impl Read for Pieces<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let length = (1 + self.1.next() as usize % 9).min(buffer.len());
        self.0.by_ref().take(length as u64).read(buffer)
    }
}

/// The output and the summary, or the error.
fn predicted_here(model: &ServedModel, input: impl Read) -> (String, String) {
    let mut output = Vec::new();
    let summary = match predict_csv(model, input, &mut output) {
        Ok(summary) => summary.to_string(),
        Err(error) => error.to_string(),
    };
    (String::from_utf8_lossy(&output).into_owned(), summary)
}

// Where a chunk ends depends on how the input comes.
#[test]
fn how_the_input_comes_does_not_change_the_output() {
    let folder = store();
    let store = Store::open_to_read(folder.text()).expect("a store");
    let config = RegistryConfig::new(IsolationForest::params());
    let model = Registry::load_one(store, config, ModelName::default_model()).expect("a model");
    let mut random = SplitMix(3);
    let (mut succeeded, mut failed) = (0, 0);
    for round in 0..300 {
        let mut text = match round % 3 {
            0 => String::new(),
            1 => "value,note\n".to_owned(),
            _ => "\u{feff}note;value\r\n".to_owned(),
        };
        for _ in 0..random.next() % 60 {
            text.push_str(match random.next() % 12 {
                0 => "2.5,\"a\nb\"\n",
                1 => "\r\n",
                2 => "x;9\r\n",
                3 => "9\n",
                4 => "ä;1e308\r\n",
                5 => "2.5,\"\"\"\"\r\n",
                6 => "\";\";3\n",
                7 => ";;\r",
                8 if round % 10 == 9 => "\"",
                8 => " 7 , \n",
                _ => "4,y\n",
            });
        }
        let utf16 = text.encode_utf16().flat_map(u16::to_le_bytes).collect();
        for bytes in [text.into_bytes(), utf16] {
            let whole = predicted_here(&model, &bytes[..]);
            let pieces = predicted_here(&model, Pieces(&bytes, SplitMix(round)));
            assert_eq!(whole, pieces, "{:?}", String::from_utf8_lossy(&bytes));
            match whole.1.starts_with("readings: ") {
                true => succeeded += 1,
                false => failed += 1,
            }
        }
    }
    assert!(succeeded > 200 && failed > 20, "{succeeded}, {failed}");
}

#[test]
fn columns_of_several_features_are_found_by_name_or_by_place() {
    let folder = Folder::new();
    let server = Server::on(&folder, &[]);
    let train = |name: &str, more: Value| {
        let samples: Vec<Vec<f64>> = readings(1, 300, 2)
            .rows()
            .into_iter()
            .map(|row| row.to_vec())
            .collect();
        let mut body = json!({"samples": samples, "random_state": 7});
        for (key, value) in more.as_object().expect("an object") {
            body[key] = value.clone();
        }
        server
            .post(&format!("/models/{name}/retrain"), body.to_string())
            .ok();
    };
    train("named", json!({"feature_names": ["flow", "\"p\", bar"]}));
    train("bare", json!({}));
    let body = json!({"value": [1.5, 4.5]}).to_string();
    let answer = server.post("/models/bare/predict", body).ok_json();
    for (model, input, header) in [
        ("named", "1.5,4.5\n", "flow,\"\"\"p\"\", bar\","),
        (
            "named",
            "x,\"\"\"p\"\", bar\",flow\n0,4.5,1.5\n",
            "x,\"\"\"p\"\", bar\",flow,",
        ),
        ("bare", "1.5;4.5\n", "value_0;value_1;"),
        ("bare", "a;time;b\n1.5;noon;4.5\n", "a;time;b;"),
    ] {
        let (output, _) = predicted(&folder, &["--model", model], input);
        assert!(output.starts_with(header), "{output}");
        let delimiter = if header.contains(';') { b';' } else { b',' };
        assert_is(&rows(&output, delimiter)[0], &answer);
    }
    for (model, input, expected) in [
        (
            "named",
            "flow,p\n1,2\n",
            "line 1: no column is named \"p\", bar; the columns are flow, p",
        ),
        (
            "named",
            "1,2,3\n",
            "line 1: expected 2 numbers on each line",
        ),
        (
            "bare",
            "time,a,b,c\nnoon,1,2,3\n",
            "beside time there must be 2 columns",
        ),
        (
            "bare",
            "1,2x\n",
            "line 1: expected a finite number, got \"2x\"",
        ),
    ] {
        let error = refused(&folder, &["--model", model], input);
        assert!(error.contains(expected), "{error}");
    }
}

#[test]
fn the_summary_shows_the_longest_runs_and_the_worst_readings() {
    let store = store();
    let mut input = "time,value\n".to_owned();
    // Far above the training range for 40 lines, then for 7, then for one of each hundred.
    for i in 0..100_000 {
        let is_far =
            (30_000..30_040).contains(&i) || (60_000..60_007).contains(&i) || i % 1000 == 999;
        let value = if is_far { 20.5 } else { 2.5 };
        input.push_str(&format!("t{i},{value}\n"));
    }
    let (output, summary) = predicted(&store, &[], &input);
    let anomalies = output.matches(",1,Anomaly Detected\n").count();
    assert_eq!(anomalies, 147);
    let score = output
        .lines()
        .nth(30_001)
        .and_then(|line| line.split(',').nth(2));
    let score: f64 = score.and_then(|score| score.parse().ok()).expect("a score");
    let worst = |line: u64| {
        format!(
            "  20.5 at line {line} (t{}), anomaly_score {score:.4}\n",
            line - 2
        )
    };
    assert_eq!(
        summary,
        format!(
            "readings: 100000; anomalies: 147, 0.15 % (the model has contamination 5 %)\n\
             longest runs of anomalies:\n  \
             41 readings, line 30001 (t29999) to line 30041 (t30039)\n  \
             8 readings, line 60001 (t59999) to line 60008 (t60006)\n  \
             1 reading, line 1001 (t999)\n  1 reading, line 2001 (t1999)\n  \
             1 reading, line 3001 (t2999)\nworst readings:\n{}{}{}{}{}",
            worst(1001),
            worst(2001),
            worst(3001),
            worst(4001),
            worst(5001)
        )
    );
}

#[test]
fn an_unknown_model_is_named_with_those_that_there_are() {
    let store = store();
    write(
        &store.version("press-1", 1),
        &encoded(fit(10, readings(1, 50, 1))),
    );
    let error = refused(&store, &["--model", "pres-1"], "1\n");
    assert!(
        error.contains("there is no model pres-1 in folder "),
        "{error}"
    );
    assert!(error.contains("; there are default, press-1"), "{error}");
    let empty = Folder::new();
    let error = refused(&empty, &[], "1\n");
    assert!(error.contains("it holds no models"), "{error}");
    let missing = empty.path().join("missing");
    let error = refused(
        &empty,
        &["--store", missing.to_str().expect("UTF-8")],
        "1\n",
    );
    assert!(error.contains("cannot use the store"), "{error}");
    assert!(!missing.exists());
    let file = empty.file("file", "");
    let error = refused(&empty, &["--store", &file], "1\n");
    assert!(
        error.contains(&format!("{file} is not a folder")),
        "{error}"
    );
    let output = run(&store, &["--model", "a/b"], "1\n");
    assert!(text(&output.stderr).contains("a model's name must be"));
}

/// All files of a folder with their content.
fn contents(folder: &std::path::Path) -> Vec<(std::path::PathBuf, Vec<u8>)> {
    let mut files = Vec::new();
    for entry in std::fs::read_dir(folder).into_iter().flatten().flatten() {
        match entry.path() {
            path if path.is_dir() => {
                files.push((path.clone(), Vec::new()));
                files.extend(contents(&path));
            }
            path => {
                let content = std::fs::read(&path).expect("a file");
                files.push((path, content));
            }
        }
    }
    files.sort();
    files
}

#[test]
fn nothing_is_written_to_the_store_not_even_if_a_version_is_damaged() {
    let store = store();
    write(&store.version("default", 2), b"damaged");
    write(&store.path().join("changed#1"), b"left behind");
    let before = contents(store.path());
    let (output, log) = predicted(&store, &[], "9\n");
    assert!(output.ends_with(",1,Anomaly Detected\n"), "{output}");
    assert!(log.contains("0000000002.iforest"), "{log}");
    assert!(log.contains("the store is opened only to be read"), "{log}");
    assert_eq!(contents(store.path()), before);
}

/// Sends readings until the program reads no more, or `bytes` are sent.
fn send(child: &mut Child, bytes: usize) {
    let block = "2026-11-24T09:30:00Z,2.5,some text beside it\n".repeat(1000);
    let stdin = child.stdin.as_mut().expect("piped");
    let mut sent = stdin.write_all(b"time,value,note\n");
    for _ in 0..bytes / block.len() {
        sent = sent.and_then(|()| stdin.write_all(block.as_bytes()));
    }
}

#[test]
fn a_closed_output_ends_the_program_quietly() {
    let store = store();
    let mut child = command(&store, &[]).spawn().expect("the program starts");
    let mut stdout = child.stdout.take().expect("piped");
    let mut start = [0; 10];
    std::thread::scope(|scope| {
        scope.spawn(|| {
            stdout.read_exact(&mut start).expect("a header");
            drop(stdout);
        });
        send(&mut child, 64 << 20);
    });
    let output = child.wait_with_output().expect("a child");
    assert_eq!(
        (output.status.code(), text(&output.stderr)),
        (Some(0), String::new())
    );
    assert_eq!(&start, b"time,value");
}

// A slow input is predicted as it comes.
#[test]
fn a_reading_is_predicted_before_the_next_one_comes() {
    let store = store();
    let mut child = command(&store, &[]).spawn().expect("the program starts");
    let mut stdin = child.stdin.take().expect("piped");
    let mut stdout = child.stdout.take().expect("piped");
    let mut read_until = |end: &str| {
        let mut output = Vec::new();
        while !output.ends_with(end.as_bytes()) {
            let mut byte = [0];
            stdout.read_exact(&mut byte).expect("a prediction");
            output.push(byte[0]);
        }
    };
    stdin.write_all(b"2.5\n").expect("it reads");
    read_until(",0,Normal Behaviour\n");
    stdin.write_all(b"9\n").expect("it reads");
    read_until(",1,Anomaly Detected\n");
    drop(stdin);
    assert!(child.wait().expect("a child").success());
}

#[cfg(target_os = "linux")]
#[test]
fn memory_does_not_grow_with_the_file() {
    let store = store();
    let mut command = command(&store, &[]);
    let mut child = command
        .stdout(Stdio::null())
        .spawn()
        .expect("the program starts");
    let peak = |child: &Child| {
        let status = std::fs::read_to_string(format!("/proc/{}/status", child.id()));
        let status = status.expect("it runs");
        let peak = status
            .lines()
            .find_map(|line| line.strip_prefix("VmHWM:")?.trim().strip_suffix(" kB"));
        peak.and_then(|peak| peak.parse::<u64>().ok())
            .expect("a number")
            * 1024
    };
    send(&mut child, 200 << 20);
    let peak = peak(&child);
    let output = child.wait_with_output().expect("a child");
    assert!(output.status.success());
    println!("peak of 200 MiB: {} MB", peak / 1_000_000);
    // The program with a model takes about 12 MB; the rest grows with the number of processors.
    let processors = std::thread::available_parallelism().map_or(1, usize::from) as u64;
    assert!(peak < (40 << 20) + processors * (16 << 20), "{peak}");
}

/// The command that runs another one on a terminal, and shows what the terminal does; `None` if it is
/// not there.
#[cfg(unix)]
fn on_terminal(shell_command: &str) -> Option<Command> {
    available("script", &["--version"]).then(|| {
        let mut script = Command::new("script");
        script
            .args(["-qec", shell_command, "/dev/null"])
            .env("TERM", "xterm");
        script
    })
}

#[cfg(unix)]
#[test]
fn a_terminal_shows_a_bar_and_nothing_else_does() {
    let store = store();
    let file = store.file("readings.csv", "2.5\n".repeat(1_000_000));
    let verdicts = store.path().join("verdicts.csv");
    let predict = format!("{BINARY} predict --store {}", store.text());
    let summary = "readings: 1000000; anomalies: 0, 0.00 %";
    let shell = format!("{predict} < {file} > {}", verdicts.display());
    let shown = |shell: &str| {
        let output = on_terminal(shell)?.stdin(Stdio::null()).output();
        let output = output.expect("script runs");
        assert!(output.status.success(), "{output:?}");
        Some(text(&output.stdout))
    };
    let Some(bar) = shown(&shell) else {
        return;
    };
    assert!(bar.contains("of 3.81 MiB"), "{bar:?}");
    assert!(bar.contains(summary), "{bar:?}");
    // The length of a pipe is not known.
    let shell = format!("cat {file} | {predict} > {}", verdicts.display());
    let bar = shown(&shell).expect("it is there");
    assert!(
        bar.contains("MiB/s") && !bar.contains("of 3.81 MiB"),
        "{bar:?}"
    );
    // Predictions on the terminal would run through the bar.
    let few = store.file("few.csv", "2.5\n9\n");
    let lines = shown(&format!("{predict} {few}")).expect("it is there");
    assert!(
        lines.contains(",1,Anomaly Detected\r\n") && !lines.contains("/s"),
        "{lines:?}"
    );

    let (_, summary) = predicted(&store, &[&file], "");
    assert!(!summary.contains(['\r', '\u{1b}']), "{summary:?}");
}

#[cfg(unix)]
#[test]
fn a_start_that_trains_shows_so_on_a_terminal() {
    let folder = Folder::new();
    let file = folder.file("readings.csv", "2.5\n2.6\n".repeat(1000));
    let start = format!("{BINARY} --host 127.0.0.1 --port 0 --store memory: --train {file}");
    let Some(command) = on_terminal(&start) else {
        return;
    };
    let server = Server::spawn(command);
    server.post("/predict", r#"{"value": 2.5}"#).ok();
    let shown = server.log();
    assert!(shown.contains("training on 2000 readings ("), "{shown:?}");
}
