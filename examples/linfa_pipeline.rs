//! Several features in a linfa pipeline: standardises, fits and labels readings of a pump.
//!
//! Sensors measure vibration (mm/s), bearing temperature (°C) and motor current (A). In a healthy
//! pump all three rise with the load. In a faulty pump, each value is normal on its own, but the
//! combination does not occur in a healthy one.
//!
//!     cargo run --example linfa_pipeline

use std::error::Error;

use iforest_server::forest::IsolationForest;
use linfa::prelude::*;
use linfa_preprocessing::linear_scaling::LinearScaler;
use ndarray::{Array1, Array2, array};
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};

fn main() -> Result<(), Box<dyn Error>> {
    let mut random = StdRng::seed_from_u64(1);
    let mut healthy = Array2::zeros((2000, 3));
    for mut reading in healthy.rows_mut() {
        let load: f64 = random.gen_range(0.2..1.0);
        reading[0] = 1.0 + 2.0 * load + random.gen_range(-0.2..0.2);
        reading[1] = 35.0 + 30.0 * load + random.gen_range(-2.0..2.0);
        reading[2] = 4.0 + 9.0 * load + random.gen_range(-0.4..0.4);
    }
    let healthy =
        Dataset::from(healthy).with_feature_names(vec!["vibration", "bearing", "current"]);

    let scaler = LinearScaler::standard().fit(&healthy)?;
    let healthy = scaler.transform(healthy);
    let forest = IsolationForest::params()
        .contamination(0.01)
        .random_state(42)
        .fit(&healthy)?;

    let readings = array![
        [1.6, 43.0, 6.4],  // idling
        [2.7, 61.0, 11.7], // full load
        [2.9, 41.0, 5.8],  // shaking at low load
        [1.5, 63.0, 6.1],  // hot at low load
    ];
    let scaled = scaler.transform(readings.clone());
    let labels: Array1<bool> = forest.predict(&scaled);
    let scores: Array1<f64> = forest.transform(&scaled);
    for ((reading, is_anomaly), score) in readings.rows().into_iter().zip(&labels).zip(&scores) {
        let word = if *is_anomaly { "anomaly" } else { "normal" };
        println!("{reading:>6.1} {score:>7.3} {word}");
    }
    Ok(())
}
