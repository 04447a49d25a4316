//! Predicts the readings of a CSV file with a stored model, as the server would over HTTP.
//!
//! A thread reads chunks of whole records, rayon's threads parse, predict and write them, and another
//! thread puts the results out in order. So the memory that it takes does not depend on the length
//! of the file.
//!
//! * `chunks`: from bytes to chunks of whole records, in UTF-8
//! * `records`: the records of a chunk, and where they lie in it
//! * `layout`: the columns, from the first line
//! * `readings`: the readings of a chunk
//! * `predictor`: predictions of these readings
//! * `writer`: the records of a chunk with their predictions
//! * `summary`: counts, longest runs and worst readings
//! * `error`: the errors

mod chunks;
mod error;
mod layout;
mod predictor;
mod readings;
mod records;
mod summary;
mod writer;

use std::io::{Read, Write};
use std::sync::mpsc::{Receiver, sync_channel};

use self::chunks::{Buffers, Chunk, Chunks};
use self::layout::Layout;
use self::predictor::{StreamPredictor, predict};
use self::readings::Readings;
use self::records::Records;
use self::writer::{Written, header};
use crate::registry::ServedModel;

pub use error::PredictCsvError;
pub use summary::{Problem, Summary};

/// How many chunks are read ahead, for each thread.
const CHUNKS_PER_THREAD: usize = 3;

/// How many records are predicted together: so few that they stay in the processor's cache.
const BLOCK: usize = 512;

/// Predicts the readings in `input` with a model, and writes each record with its prediction to
/// `output`.
///
/// The columns of the input stay as they are, byte for byte, except that UTF-16 becomes UTF-8. These
/// columns are added: `anomaly_score`, `prediction` and `status`; `out_of_range` where the model's
/// answers have it; `alarm` for a model with a window. A record that the server would refuse gets the
/// status `Unreadable` and no prediction.
///
/// A model with a window gets each record as a request of its own, in their order.
///
/// # Errors
///
/// [`PredictCsvError`] if the input cannot be read, its columns are not those of the model, a
/// number has a decimal comma, no reading can be predicted, or the output cannot be written.
pub fn predict_csv(
    model: &ServedModel,
    input: impl Read,
    mut output: impl Write + Send,
) -> Result<Summary, PredictCsvError> {
    let mut chunks = Chunks::new(input);
    let Some(first) = chunks.first_record()? else {
        return Err(PredictCsvError::NoReadings);
    };
    let at_first_line = |problem| PredictCsvError::Line {
        line: first.line,
        problem,
    };
    // Archives and spreadsheets begin with such bytes, which must not reach a terminal.
    let is_binary = |&byte: &u8| byte < b' ' && !byte.is_ascii_whitespace();
    if first.text.iter().any(is_binary) {
        let problem = "this is no text but binary data; export the readings as CSV";
        return Err(at_first_line(problem.to_owned()));
    }
    let layout = Layout::detect(&first, model).map_err(at_first_line)?;
    let head = header(&layout, &first, model, chunks.has_byte_order_mark());
    chunks.skip(if layout.is_header { first.next } else { 0 });
    output.write_all(&head).map_err(PredictCsvError::Write)?;

    model.detector.forest().prepare_batches();
    let (buffers, layout) = (&Buffers::default(), &layout);
    let depth = CHUNKS_PER_THREAD * rayon::current_num_threads();
    std::thread::scope(|threads| {
        let (order, work) = sync_channel(depth);
        let writer = threads.spawn(move || write(work, output, model, layout, buffers));
        let read = rayon::in_place_scope_fifo(|scope| {
            while let Some(chunk) = chunks.next(layout.delimiter, buffers)? {
                let (sender, work) = sync_channel(1);
                // Waits while too many chunks are in work. Fails if the writer has ended.
                if order.send(work).is_err() {
                    break;
                }
                scope.spawn_fifo(move |_| {
                    // Fails if the writer has ended.
                    let _ = sender.send(Work::new(chunk, model, layout, buffers));
                });
            }
            Ok(())
        });
        drop(order);
        // The writer's error comes first in the file.
        let summary = writer.join().map_err(|_| PredictCsvError::Interrupted)??;
        read?;
        summary.finish()
    })
}

/// Writes the chunks in their order, and sums them up.
fn write(
    chunks: Receiver<Receiver<Work>>,
    mut output: impl Write,
    model: &ServedModel,
    layout: &Layout,
    buffers: &Buffers,
) -> Result<Summary, PredictCsvError> {
    let mut summary = Summary::new(model);
    let mut stream = StreamPredictor::new(model);
    for work in chunks {
        let work = work.recv().map_err(|_| PredictCsvError::Interrupted)?;
        let written = match work {
            Work::Done(written) => written,
            Work::Stream(chunk, mut readings) => {
                let predictions = match &mut stream {
                    Some(stream) => stream.predict(&readings),
                    None => predict(model, &readings),
                };
                let mut written = Written::new(buffers.take());
                written.push(&chunk.bytes, &mut readings, &predictions, layout);
                let written = written.finish(&chunk.bytes, readings.fatal);
                buffers.give(chunk.bytes);
                written
            }
        };
        output
            .write_all(&written.output)
            .map_err(PredictCsvError::Write)?;
        buffers.give(written.output);
        summary.add(written.tally);
        if let Some(Problem { line, text }) = written.fatal {
            let problem = text;
            return Err(PredictCsvError::Line { line, problem });
        }
    }
    output.flush().map_err(PredictCsvError::Write)?;
    Ok(summary)
}

/// A chunk on its way to the output.
enum Work {
    /// The records with their predictions.
    Done(Written),
    /// Readings whose predictions depend on those before them.
    Stream(Chunk, Readings),
}

impl Work {
    /// Parses a chunk, and predicts its readings if they do not depend on others.
    fn new(chunk: Chunk, model: &ServedModel, layout: &Layout, buffers: &Buffers) -> Self {
        let mut records = Records::new(&chunk.bytes, layout.delimiter, chunk.line);
        let mut readings = Readings::new(layout);
        if layout.is_windowed {
            readings.parse(&mut records, usize::MAX, layout);
            return Self::Stream(chunk, readings);
        }
        let mut written = Written::new(buffers.take());
        while readings.parse(&mut records, BLOCK, layout) {
            let predictions = predict(model, &readings);
            written.push(&chunk.bytes, &mut readings, &predictions, layout);
        }
        let written = written.finish(&chunk.bytes, readings.fatal);
        buffers.give(chunk.bytes);
        Self::Done(written)
    }
}
