//! The decoder of stored models, on any bytes: it returns a model or an error, in bounded memory.

#![no_main]

use iforest_server::store;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    // The checksum would refuse nearly every input before anything is parsed, so it is made right.
    let mut bytes = data.to_vec();
    bytes.extend(crc32fast::hash(data).to_le_bytes());
    if let Ok(record) = store::decode(&bytes) {
        let features = record.detector.forest().n_features();
        let _ = record.detector.predict_row(&vec![0.0; features]);
    }
});
