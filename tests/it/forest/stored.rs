//! The stored form of a forest: round trips, and damage that must be refused.

use iforest_server::forest::IsolationForest;
use linfa::prelude::*;
use ndarray::array;
use serde::de::value::{MapDeserializer, SeqDeserializer};
use serde::de::{IntoDeserializer, Visitor};
use serde::{Deserialize, Deserializer};
use serde_json::{Value, json};

use super::fitted;

#[test]
fn a_round_trip_through_json_keeps_every_bit() {
    let (forest, data) = fitted(300, 3);
    let text = serde_json::to_string(&forest).expect("serializable");
    let back: IsolationForest = serde_json::from_str(&text).expect("what was written");
    assert_eq!(back, forest);
    let scores = forest.score_samples(&data).expect("valid rows");
    assert_eq!(back.score_samples(&data).expect("valid rows"), scores);
}

// Damaged trees must be refused when they are read, and must not panic or loop when they are
// evaluated. Each byte is replaced in turn.
#[test]
fn damaged_text_is_refused_or_still_scores() {
    let small = array![[1.0], [2.0], [4.0]];
    let params = IsolationForest::params().random_state(7).n_estimators(2);
    let forest = params.fit(&DatasetBase::from(small)).expect("valid data");
    let text = serde_json::to_string(&forest).expect("serializable");
    let mut refused = 0;
    for at in 0..text.len() {
        for digit in *b"0789," {
            let mut damaged = text.clone().into_bytes();
            damaged[at] = digit;
            match serde_json::from_slice::<IsolationForest>(&damaged) {
                Ok(forest) => drop(forest.decision_function_one(&[3.0])),
                Err(_) => refused += 1,
            }
        }
    }
    assert!(refused > text.len());
}

/// A stored forest as a format such as CBOR would present it, in which a number may be no finite
/// number. The texts `NaN` and `inf` stand for those, because JSON has none.
struct Stored(Value);

impl<'de> Deserializer<'de> for Stored {
    type Error = serde_json::Error;

    fn deserialize_any<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Self::Error> {
        match self.0 {
            Value::Object(fields) => {
                let fields = fields.into_iter().map(|(name, value)| (name, Self(value)));
                visitor.visit_map(MapDeserializer::new(fields))
            }
            Value::Array(items) => {
                visitor.visit_seq(SeqDeserializer::new(items.into_iter().map(Self)))
            }
            Value::String(text) if text == "NaN" => visitor.visit_f64(f64::NAN),
            Value::String(text) if text == "inf" => visitor.visit_f64(f64::INFINITY),
            other => other.deserialize_any(visitor),
        }
    }

    fn deserialize_option<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Self::Error> {
        match self.0 {
            Value::Null => visitor.visit_none(),
            _ => visitor.visit_some(self),
        }
    }

    fn deserialize_enum<V: Visitor<'de>>(
        self,
        name: &'static str,
        variants: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, Self::Error> {
        match self.0 {
            Value::Object(fields) => {
                let fields = fields.into_iter().map(|(name, value)| (name, Self(value)));
                visitor.visit_enum(serde::de::value::MapAccessDeserializer::new(
                    MapDeserializer::new(fields),
                ))
            }
            other => other.deserialize_enum(name, variants, visitor),
        }
    }

    serde::forward_to_deserialize_any! {
        bool i8 i16 i32 i64 i128 u8 u16 u32 u64 u128 f32 f64 char str string bytes byte_buf unit
        unit_struct newtype_struct seq tuple tuple_struct map struct identifier ignored_any
    }
}

impl IntoDeserializer<'_, serde_json::Error> for Stored {
    type Deserializer = Self;

    fn into_deserializer(self) -> Self {
        self
    }
}

/// The stored form of a forest of two trees.
fn stored() -> Value {
    let small = array![[1.0], [2.0], [4.0]];
    let params = IsolationForest::params().random_state(7).n_estimators(2);
    let forest = params.fit(&DatasetBase::from(small)).expect("valid data");
    serde_json::to_value(&forest).expect("serializable")
}

/// Reads the stored forest after replacing one field, named by a JSON pointer.
fn read_with(field: &str, value: Value) -> Result<IsolationForest, String> {
    let mut stored = stored();
    let slot = stored.pointer_mut(field);
    *slot.unwrap_or_else(|| panic!("the stored form has no {field}")) = value;
    IsolationForest::deserialize(Stored(stored)).map_err(|error| error.to_string())
}

fn must_be_refused(damages: impl IntoIterator<Item = (&'static str, Value)>, reason: &str) {
    for (field, value) in damages {
        match read_with(field, value.clone()) {
            Ok(_) => panic!("a forest with {field} = {value} was read"),
            Err(error) => assert!(error.contains(reason), "{field} = {value}: {error}"),
        }
    }
}

#[test]
fn a_forest_is_read_from_any_serde_format() {
    let read = IsolationForest::deserialize(Stored(stored())).expect("undamaged");
    assert_eq!(serde_json::to_value(&read).expect("serializable"), stored());
}

// One field is damaged at a time, each in a way that some check must find.
#[test]
fn a_forest_with_damaged_trees_is_refused() {
    let whole = stored();
    let trees = &whole["trees"];
    let list = |name: &str| trees[name].as_array().expect("an array").clone();
    // Three rows make two splits and three leaves, and there are two trees.
    assert_eq!(list("split").len(), 10);
    let shorter = |name: &str| {
        let mut array = list(name);
        array.pop();
        Value::Array(array)
    };
    let longer = |name: &str| {
        let mut array = list(name);
        array.push(array[0].clone());
        Value::Array(array)
    };
    let trees = |split: Value, threshold: Value, leaf_rows: Value| json!({ "split": split, "threshold": threshold, "leaf_rows": leaf_rows });
    must_be_refused(
        [
            ("/trees", trees(json!([]), json!([]), json!([]))),
            // One tree instead of two, three trees, and a tree that ends after its left child.
            (
                "/trees",
                trees(json!([1, 0, 0]), json!([2.0]), json!([1, 2])),
            ),
            (
                "/trees",
                trees(json!([0, 0, 0]), json!([]), json!([3, 3, 3])),
            ),
            (
                "/trees",
                trees(json!([0, 1, 0]), json!([2.0]), json!([3, 3])),
            ),
            ("/trees/split", shorter("split")),
            ("/trees/threshold", shorter("threshold")),
            ("/trees/leaf_rows", shorter("leaf_rows")),
            ("/trees/split", longer("split")),
            ("/trees/threshold", longer("threshold")),
            ("/trees/leaf_rows", longer("leaf_rows")),
            // A split replaced by a leaf, and leaves replaced by splits, the last of which has no
            // room for children.
            ("/trees/split/0", json!(0)),
            ("/trees/split/4", json!(1)),
            ("/trees/split/9", json!(1)),
            // Features that the forest does not have.
            ("/trees/split/0", json!(2)),
            ("/trees/split/0", json!(u32::MAX)),
            ("/n_features", json!(0)),
            // Rows that do not add up, or overflow 32 bits.
            ("/trees/leaf_rows/0", json!(0)),
            ("/trees/leaf_rows/5", json!(4)),
            ("/trees/leaf_rows/0", json!(u32::MAX)),
            ("/trees/threshold/0", json!("NaN")),
            ("/trees/threshold/0", json!("inf")),
        ],
        "the trees of the forest are damaged",
    );
}

// A server with thousands of models drops the trees; its answers must not change.
#[test]
fn a_forest_without_its_trees_scores_as_before_and_cannot_be_stored() {
    for (rows, columns) in [(300, 1), (300, 3), (3, 1)] {
        let (mut forest, data) = fitted(rows, columns);
        let before = forest.score_samples(&data).expect("valid rows");
        let ranges = forest.normal_ranges();
        forest.drop_trees();
        assert_eq!(forest.score_samples(&data).expect("valid rows"), before);
        assert_eq!(forest.normal_ranges(), ranges);
        assert_eq!(forest.trees().len(), 0);
        let error = serde_json::to_string(&forest).expect_err("an error");
        assert!(error.to_string().contains("were dropped"), "{error}");
    }
}

#[test]
fn a_forest_whose_offset_or_threshold_is_not_finite_is_refused() {
    must_be_refused(
        [
            ("/offset", json!("NaN")),
            ("/offset", json!("inf")),
            ("/threshold", json!("NaN")),
            ("/threshold", json!("inf")),
        ],
        "the offset or the threshold of the forest is not finite",
    );
    // `null`, which other programs write for such numbers, and numbers beyond the range.
    must_be_refused(
        ["/offset", "/threshold", "/trees/threshold/0"].map(|field| (field, Value::Null)),
        "invalid type",
    );
    for field in ["offset", "threshold"] {
        let mut damaged = stored();
        damaged[field] = json!("here");
        let text = damaged.to_string().replace("\"here\"", "1e999");
        let error = serde_json::from_str::<IsolationForest>(&text).expect_err("an error");
        assert!(error.to_string().contains("out of range"), "{error}");
    }
}

// A forest can be fitted again with the hyper-parameters it holds, so their ranges are checked
// too.
#[test]
fn a_forest_with_hyper_parameters_out_of_range_is_refused() {
    for (field, value) in [
        ("/params/contamination", json!(0.5)),
        ("/params/max_samples", json!({ "count": 3 })),
        ("/params/max_samples", json!({ "fraction": 1.0 })),
    ] {
        read_with(field, value).expect("within its range");
    }
    must_be_refused(
        [
            ("/params/n_estimators", json!(0)),
            ("/params/contamination", json!(-3.0)),
            ("/params/contamination", json!(0.0)),
            ("/params/contamination", json!(0.6)),
            ("/params/contamination", json!("NaN")),
            ("/params/max_samples", json!({ "count": 0 })),
            ("/params/max_samples", json!({ "fraction": 0.0 })),
            ("/params/max_samples", json!({ "fraction": 1.5 })),
            ("/params/max_samples", json!({ "fraction": "NaN" })),
        ],
        "",
    );
}
