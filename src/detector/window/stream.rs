//! The readings that a model has seen, in order.
//!
//! A stream holds the last `W` readings of a model, and judges each new one together with those
//! before it. Readings may have times, which tell gaps, readings that arrive late, and readings that
//! a client sends again because it did not get the answer. No reading is ever refused because of its
//! time, since a client would send it again for ever.

use std::collections::VecDeque;
use std::hash::{DefaultHasher, Hash, Hasher};

use super::Window;
use crate::detector::explain::Contribution;

/// How many of the last [`ALARM_SPAN`] predictions must be anomalies to raise the alarm.
const ALARM_COUNT: u32 = 2;

/// How many predictions the alarm looks at.
const ALARM_SPAN: u32 = 3;

/// Most answers that are remembered beyond those of the last `W` readings: as many as a request can
/// ask for.
const MAX_REMEMBERED: usize = 10_000;

/// The result for a full window.
#[derive(Debug, Clone, PartialEq)]
pub struct Judgement {
    /// Greater is more abnormal; above 0 the last reading is an anomaly.
    pub anomaly_score: f64,
    /// Whether the score is above the threshold.
    pub is_anomaly: bool,
    /// The shares of the sensors in the score, if they were asked for.
    pub contributions: Option<Vec<Contribution>>,
}

/// The answer to one reading.
#[derive(Debug, Clone, PartialEq)]
pub struct StreamAnswer {
    /// `None` while the stream is warming up: it has fewer readings than a window.
    pub judgement: Option<Judgement>,
    /// Whether the alarm is on: two of three predictions in a row were anomalies, within the last
    /// `W` readings.
    pub alarm: bool,
}

/// The last readings of one model.
///
/// Times are in milliseconds since 1970. Of the readings since the warm-up began, the last `W` are
/// the *ring*. The *step* is the median of the differences of successive times in the ring, or the
/// last one that was known.
#[derive(Debug)]
pub struct Stream {
    size: usize,
    sensors: usize,
    feature_names: Vec<String>,
    /// The readings since the warm-up began, at most the last `2 W - 1`, one after the other, the
    /// oldest first. With so many, the window of each reading in the ring is known.
    readings: Vec<f64>,
    /// The times in the ring. They never decrease.
    times: VecDeque<Option<i64>>,
    step: Option<i64>,
    /// How many readings were appended, since the stream exists.
    appended: u64,
    /// How many readings in a row were older than the ring.
    older: usize,
    alarm: Alarm,
    answers: Answers,
    /// Differences of times, to find their median.
    differences: Vec<i64>,
}

impl Stream {
    /// An empty stream of a model, whose features have names or none.
    pub fn new(window: &Window, feature_names: &[String]) -> Self {
        Self::with_size(window.size(), window.sensors(), feature_names)
    }

    fn with_size(size: usize, sensors: usize, feature_names: &[String]) -> Self {
        Self {
            size,
            sensors,
            feature_names: feature_names.to_vec(),
            // An older reading is judged at the end of the others.
            readings: Vec::with_capacity(2 * size * sensors),
            times: VecDeque::with_capacity(size),
            step: None,
            appended: 0,
            older: 0,
            alarm: Alarm::default(),
            answers: Answers::default(),
            differences: Vec::new(),
        }
    }

    /// Whether the stream may go on with a model: its windows are as long, and its readings have the
    /// same features.
    pub fn matches(&self, window: &Window, feature_names: &[String]) -> bool {
        self.size == window.size()
            && self.sensors == window.sensors()
            && self.feature_names == feature_names
    }

    /// The bytes that it holds, on the heap and in itself.
    pub fn memory_size(&self) -> usize {
        let names: usize = self.feature_names.iter().map(String::capacity).sum();
        size_of::<Self>()
            + names
            + size_of::<String>() * self.feature_names.capacity()
            + size_of::<f64>() * self.readings.capacity()
            + size_of::<Option<i64>>() * self.times.capacity()
            + size_of::<i64>() * self.differences.capacity()
            + self.answers.memory_size()
    }

    /// Answers the readings of one request, given one after the other, and appends those that are
    /// new. `times` has the time of each reading that has one.
    ///
    /// `judge` judges a full window. With `explain` it also returns contributions.
    ///
    /// * A reading with the time and the values of an earlier one is a repetition. It gets the same
    ///   answer as before, and is not appended. Answers are remembered for the readings in the ring,
    ///   and for those of the last request that appended any.
    /// * A reading that is more than `W` steps newer than the ring restarts the warm-up, and so does
    ///   one that is more than `W` steps older, or older where no step is known.
    /// * Any other older reading is judged with the last `W - 1` of the ring, and not appended. More
    ///   than `W` of them in a row are a clock that was set back, and restart the warm-up.
    pub fn append(
        &mut self,
        readings: &[f64],
        times: &[Option<i64>],
        explain: bool,
        mut judge: impl FnMut(&[f64]) -> Judgement,
    ) -> Vec<StreamAnswer> {
        self.answers.begin_request();
        let answers = readings
            .chunks_exact(self.sensors)
            .enumerate()
            .map(|(i, reading)| match times.get(i).copied().flatten() {
                Some(time) => self.answer_timed(reading, time, explain, &mut judge),
                None => self.push(reading, None, &mut judge),
            })
            .collect();
        self.answers.end_request(self.size);
        answers
    }

    fn answer_timed(
        &mut self,
        reading: &[f64],
        time: i64,
        explain: bool,
        judge: &mut impl FnMut(&[f64]) -> Judgement,
    ) -> StreamAnswer {
        let key = Key::new(time, reading);
        if let Some(repeated) = self.answers.find(key) {
            return self.repeat(repeated, explain, judge);
        }
        let order = self.order(time);
        if order == Order::Late {
            self.older += 1;
            let answer = StreamAnswer {
                judgement: self.judge_late(reading, judge),
                alarm: self.alarm.is_on,
            };
            self.answers.remember(key, None, &answer);
            return answer;
        }
        if order == Order::Restart {
            self.restart();
        }
        let answer = self.push(reading, Some(time), judge);
        self.answers.remember(key, Some(self.appended - 1), &answer);
        answer
    }

    /// The answer to a repetition.
    fn repeat(
        &self,
        repeated: usize,
        explain: bool,
        judge: &mut impl FnMut(&[f64]) -> Judgement,
    ) -> StreamAnswer {
        let Answered {
            position, answer, ..
        } = &self.answers.answered[repeated];
        let mut answer = answer.clone();
        if let Some(judgement) = &mut answer.judgement {
            if !explain {
                judgement.contributions = None;
            } else if judgement.contributions.is_none() {
                // The first request did not ask for them.
                let window = position.and_then(|position| self.window_at(position));
                judgement.contributions = window.and_then(|window| judge(window).contributions);
            }
        }
        answer
    }

    /// Where a reading belongs that is no repetition. The step is forgotten where it is no guide.
    fn order(&mut self, time: i64) -> Order {
        let Some(last) = self.times.iter().rev().find_map(|&time| time) else {
            return Order::Next;
        };
        // The difference of any two times, and `W` times any of them, are in the range of `i128`.
        let difference = i128::from(time) - i128::from(last);
        let reach = self.step.map(|step| i128::from(step) * self.size as i128);
        let is_beyond = reach.is_some_and(|reach| difference.abs() > reach);
        if difference >= 0 {
            if !is_beyond {
                return Order::Next;
            }
            // A gap before this reading and one before the last are a new rate rather than two gaps.
            if self.times.iter().flatten().count() < 2 {
                self.step = None;
            }
            return Order::Restart;
        }
        if is_beyond || reach.is_none() {
            return Order::Restart;
        }
        if self.older == self.size {
            self.step = None;
            return Order::Restart;
        }
        Order::Late
    }

    fn restart(&mut self) {
        self.readings.clear();
        self.times.clear();
        self.alarm = Alarm::default();
    }

    fn push(
        &mut self,
        reading: &[f64],
        time: Option<i64>,
        judge: &mut impl FnMut(&[f64]) -> Judgement,
    ) -> StreamAnswer {
        if self.readings.len() == (2 * self.size - 1) * self.sensors {
            self.readings.drain(..self.sensors);
        }
        self.readings.extend_from_slice(reading);
        if self.times.len() == self.size {
            self.times.pop_front();
        }
        self.times.push_back(time);
        self.appended += 1;
        self.older = 0;
        if time.is_some() {
            self.step = self.ring_step().or(self.step);
        }
        let judgement = self.window_at(self.appended - 1).map(judge);
        let alarm = match &judgement {
            Some(judgement) => self.alarm.update(judgement.is_anomaly, self.size),
            None => false,
        };
        StreamAnswer { judgement, alarm }
    }

    /// The median of the differences of successive times in the ring. Where that is 0, because the
    /// times are coarse, their mean. `None` if that is 0 too, or there are no differences.
    fn ring_step(&mut self) -> Option<i64> {
        self.differences.clear();
        let mut times = self.times.iter().flatten();
        let first = *times.next()?;
        let mut last = first;
        for &time in times {
            self.differences.push(time.saturating_sub(last));
            last = time;
        }
        let count = self.differences.len();
        if count == 0 {
            return None;
        }
        let (_, &mut median, _) = self.differences.select_nth_unstable(count / 2);
        let mean = last.saturating_sub(first) / count as i64;
        let step = if median > 0 { median } else { mean };
        (step > 0).then_some(step)
    }

    /// The window whose last reading is the one appended at `position`. `None` if the warm-up was
    /// not over then, or the window is not known any more.
    fn window_at(&self, position: u64) -> Option<&[f64]> {
        let held = self.readings.len() / self.sensors;
        let first = self.appended - held as u64;
        let end = usize::try_from(position.checked_sub(first)?).ok()? + 1;
        let start = end.checked_sub(self.size)?;
        self.readings.get(start * self.sensors..end * self.sensors)
    }

    /// Judges a reading with the last `W - 1` of the ring, without appending it.
    fn judge_late(
        &mut self,
        reading: &[f64],
        judge: &mut impl FnMut(&[f64]) -> Judgement,
    ) -> Option<Judgement> {
        let held = self.readings.len();
        let start = held.checked_sub((self.size - 1) * self.sensors)?;
        self.readings.extend_from_slice(reading);
        let judgement = judge(&self.readings[start..]);
        self.readings.truncate(held);
        Some(judgement)
    }
}

/// Where a reading belongs by its time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Order {
    /// At the end of the ring.
    Next,
    /// At the end of an empty ring.
    Restart,
    /// Before the end of the ring.
    Late,
}

/// Raised by some anomalies in a row, and held for `W` readings.
#[derive(Debug, Default)]
struct Alarm {
    /// The last predictions, the newest in the lowest bit.
    predictions: u32,
    /// For how many more readings it stays on.
    held: usize,
    is_on: bool,
}

impl Alarm {
    /// Whether the alarm is on after a further prediction.
    fn update(&mut self, is_anomaly: bool, size: usize) -> bool {
        let span = (1 << ALARM_SPAN) - 1;
        self.predictions = (self.predictions << 1 | u32::from(is_anomaly)) & span;
        if self.predictions.count_ones() >= ALARM_COUNT {
            self.held = size;
        }
        self.is_on = self.held > 0;
        self.held = self.held.saturating_sub(1);
        self.is_on
    }
}

/// What tells whether two readings are the same: the time, and a hash of the values.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Key {
    time: i64,
    values: u64,
}

impl Key {
    fn new(time: i64, reading: &[f64]) -> Self {
        let mut hasher = DefaultHasher::new();
        for value in reading {
            value.to_bits().hash(&mut hasher);
        }
        Self {
            time,
            values: hasher.finish(),
        }
    }
}

/// A reading that was answered.
#[derive(Debug)]
struct Answered {
    key: Key,
    /// How many readings had been appended before it; `None` if it was judged without being
    /// appended.
    position: Option<u64>,
    answer: StreamAnswer,
}

impl Answered {
    fn contributions(&self) -> usize {
        let judgement = self.answer.judgement.as_ref();
        judgement
            .and_then(|judgement| judgement.contributions.as_ref())
            .map_or(0, Vec::capacity)
    }
}

/// The answers to readings with times, the oldest first.
///
/// It remembers those of the last `W` readings that were appended, and all of the last request that
/// appended any: a client that did not get the answer sends the whole request again.
#[derive(Debug, Default)]
struct Answers {
    answered: VecDeque<Answered>,
    /// How many of them were appended.
    appended: usize,
    /// How many contributions they hold.
    contributions: usize,
    /// The greatest time so far: a newer reading is no repetition.
    newest: Option<i64>,
    /// How many were there before the current request.
    before: usize,
    /// The first that the current request repeats or adds.
    first_used: usize,
    /// The last that was found; the next repetition is likely to be that of the next one.
    last_found: Option<usize>,
}

impl Answers {
    fn begin_request(&mut self) {
        self.before = self.answered.len();
        self.first_used = self.answered.len();
        self.last_found = None;
    }

    /// Forgets what no longer needs to be remembered, unless the request was a mere repetition.
    fn end_request(&mut self, size: usize) {
        if self.answered.len() == self.before {
            return;
        }
        let mut unused = self.first_used;
        while let Some(oldest) = self.answered.front() {
            let appended = self.appended - usize::from(oldest.position.is_some());
            let is_forgotten = unused > 0 && appended >= size;
            if !is_forgotten && self.answered.len() <= size + MAX_REMEMBERED {
                break;
            }
            self.appended = appended;
            self.contributions -= oldest.contributions();
            self.answered.pop_front();
            unused = unused.saturating_sub(1);
        }
        if self.answered.capacity() > 4 * self.answered.len().max(size) {
            self.answered.shrink_to(2 * self.answered.len());
        }
    }

    /// The position of the newest answer to this reading.
    fn find(&mut self, key: Key) -> Option<usize> {
        if self.newest.is_none_or(|newest| key.time > newest) {
            return None;
        }
        let is_it = |&at: &usize| self.answered.get(at).is_some_and(|a| a.key == key);
        let next = self.last_found.map(|last| last + 1).filter(is_it);
        let found = next.or_else(|| (0..self.answered.len()).rev().find(is_it))?;
        self.last_found = Some(found);
        self.first_used = self.first_used.min(found);
        Some(found)
    }

    fn remember(&mut self, key: Key, position: Option<u64>, answer: &StreamAnswer) {
        let answered = Answered {
            key,
            position,
            answer: answer.clone(),
        };
        self.newest = self.newest.max(Some(key.time));
        self.appended += usize::from(position.is_some());
        self.contributions += answered.contributions();
        self.answered.push_back(answered);
    }

    fn memory_size(&self) -> usize {
        size_of::<Answered>() * self.answered.capacity()
            + size_of::<Contribution>() * self.contributions
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::detector::View;

    const W: usize = 4;

    fn stream() -> Stream {
        Stream::with_size(W, 1, &[])
    }

    /// A judgement that depends on each reading and on their order. From 100 on, the last reading is
    /// an anomaly.
    fn judge(window: &[f64]) -> Judgement {
        assert_eq!(window.len(), W);
        Judgement {
            anomaly_score: window.iter().fold(0.0, |sum, value| sum / 2.0 + value),
            is_anomaly: window[W - 1] >= 100.0,
            contributions: None,
        }
    }

    fn explained(window: &[f64]) -> Judgement {
        let contributions = window
            .iter()
            .enumerate()
            .map(|(feature, &share)| Contribution {
                feature,
                view: View::Value,
                share,
            });
        Judgement {
            contributions: Some(contributions.collect()),
            ..judge(window)
        }
    }

    fn append(stream: &mut Stream, value: f64, time: i64) -> StreamAnswer {
        batch(stream, &[(value, Some(time))]).remove(0)
    }

    fn batch(stream: &mut Stream, readings: &[(f64, Option<i64>)]) -> Vec<StreamAnswer> {
        let (values, times): (Vec<f64>, Vec<_>) = readings.iter().copied().unzip();
        stream.append(&values, &times, false, judge)
    }

    /// Readings 0, 1, 2, … at 0 s, 1 s, 2 s, …
    fn regular(count: usize) -> Vec<(f64, Option<i64>)> {
        (0..count)
            .map(|i| (i as f64, Some(1000 * i as i64)))
            .collect()
    }

    fn filled() -> Stream {
        let mut stream = stream();
        let answers = batch(&mut stream, &regular(10));
        assert!(answers.iter().skip(W - 1).all(|a| a.judgement.is_some()));
        stream
    }

    fn score(answer: &StreamAnswer) -> Option<f64> {
        answer.judgement.as_ref().map(|j| j.anomaly_score)
    }

    /// How many readings are in the ring.
    fn held(stream: &Stream) -> usize {
        stream.times.len()
    }

    #[test]
    fn a_reading_is_judged_with_those_before_it_once_there_are_enough() {
        let values: Vec<f64> = (0..50).map(f64::from).collect();
        let mut stream = stream();
        let answers = stream.append(&values, &[], false, judge);
        let windows = values
            .windows(W)
            .map(|window| Some(judge(window).anomaly_score));
        let expected: Vec<_> = [None; W - 1].into_iter().chain(windows).collect();
        assert_eq!(answers.iter().map(score).collect::<Vec<_>>(), expected);
        assert!(answers.iter().all(|answer| !answer.alarm));

        let mut one_by_one = Stream::with_size(W, 1, &[]);
        for (value, answer) in values.iter().zip(&answers) {
            assert_eq!(
                one_by_one.append(&[*value], &[], false, judge),
                std::slice::from_ref(answer)
            );
        }
    }

    #[test]
    fn readings_of_several_sensors_stay_together() {
        let mut stream = Stream::with_size(2, 2, &[]);
        let mut windows = Vec::new();
        stream.append(&[1.0, 2.0, 3.0, 4.0, 5.0, 6.0], &[], false, |window| {
            windows.push(window.to_vec());
            Judgement {
                anomaly_score: 0.0,
                is_anomaly: false,
                contributions: None,
            }
        });
        assert_eq!(windows, [[1.0, 2.0, 3.0, 4.0], [3.0, 4.0, 5.0, 6.0]]);
    }

    #[test]
    fn two_anomalies_of_three_raise_the_alarm_for_a_window() {
        let alarms = |values: &[f64]| -> String {
            let mut stream = stream();
            let answers = stream.append(values, &[], false, judge);
            let alarms = answers.iter().skip(W - 1);
            alarms.map(|a| if a.alarm { '!' } else { '.' }).collect()
        };
        let (n, a) = (1.0, 100.0);
        assert_eq!(alarms(&[n, n, n, a, n, n, a, n, n]), "......");
        // The third is still the last of three with two anomalies.
        assert_eq!(alarms(&[n, n, n, a, a, n, n, n, n, n]), ".!!!!!.");
        assert_eq!(alarms(&[n, n, n, a, n, a, n, n, n, n, n]), "..!!!!..");
        assert_eq!(alarms(&[n, n, n, a, a, a, n, n, n, n, n, n]), ".!!!!!!..");
        // Readings of the warm-up have no prediction.
        assert_eq!(alarms(&[a, a, a, a, n, n]), "...");
    }

    #[test]
    fn a_repeated_request_gets_the_same_answers_and_appends_nothing() {
        let mut stream = filled();
        // Longer than a window, with a gap and an alarm.
        let mut request: Vec<_> = (10..40)
            .map(|i| (f64::from(i), Some(1000 * i64::from(i))))
            .collect();
        request[20..].iter_mut().for_each(|(value, time)| {
            *value += 100.0;
            *time = time.map(|time| time + 60_000);
        });
        let answers = batch(&mut stream, &request);
        assert!(answers[29].alarm && score(&answers[20]).is_none());
        for _ in 0..3 {
            assert_eq!(batch(&mut stream, &request), answers);
        }
        assert_eq!((stream.appended, held(&stream)), (40, W));
        // With further readings after it.
        request.push((150.0, Some(100_000)));
        let more = batch(&mut stream, &request);
        assert_eq!(more[..30], answers);
        assert_eq!(stream.appended, 41);
        assert_eq!(batch(&mut stream, &request), more);
        assert_eq!(stream.appended, 41);
    }

    #[test]
    fn old_answers_are_forgotten() {
        let mut stream = stream();
        for round in 0..30i64 {
            let request: Vec<_> = (0..1000)
                .map(|i| (i as f64, Some(1000 * (1000 * round + i))))
                .collect();
            batch(&mut stream, &request);
            assert_eq!(stream.answers.answered.len(), 1000);
        }
        // Of the last request only the last reading is repeated each time.
        for time in 30_000..60_000i64 {
            batch(
                &mut stream,
                &[(1.0, Some(29_999_000)), (1.0, Some(1000 * time))],
            );
            assert!(stream.answers.answered.len() <= W + MAX_REMEMBERED);
        }
        for time in 60_000..60_010i64 {
            append(&mut stream, 1.0, 1000 * time);
        }
        assert_eq!(stream.answers.answered.len(), W);
        assert_eq!(stream.answers.appended, W);
        assert!(stream.memory_size() < 10_000, "{}", stream.memory_size());
    }

    #[test]
    fn a_repetition_may_ask_for_the_contributions() {
        let mut stream = stream();
        let request = regular(3 * W);
        let (values, times): (Vec<f64>, Vec<_>) = request.iter().copied().unzip();
        let plain = stream.append(&values, &times, false, judge);
        let repeated = stream.append(&values, &times, true, explained);
        for (i, (plain, repeated)) in plain.iter().zip(&repeated).enumerate() {
            assert_eq!(score(plain), score(repeated));
            let contributions = repeated
                .judgement
                .as_ref()
                .and_then(|j| j.contributions.as_ref());
            // The windows of all readings in the ring are known.
            assert_eq!(contributions.is_some(), i >= 2 * W, "{i}");
            if let Some(contributions) = contributions {
                let window: Vec<f64> = contributions.iter().map(|c| c.share).collect();
                assert_eq!(window, values[i + 1 - W..=i]);
            }
        }
        // Once computed, they are remembered for the whole request.
        let mut stream = Stream::with_size(W, 1, &[]);
        let first = stream.append(&values, &times, true, explained);
        assert!(stream.answers.contributions > 0);
        let never = |_: &[f64]| -> Judgement { panic!("nothing is judged again") };
        assert_eq!(stream.append(&values, &times, true, never), first);
        assert_eq!(stream.append(&values, &times, false, never), plain);
    }

    #[test]
    fn a_gap_restarts_the_warm_up() {
        let mut stream = filled();
        // W steps are not more than W steps.
        assert!(append(&mut stream, 1.0, 13_000).judgement.is_some());
        assert_eq!(append(&mut stream, 1.0, 17_001).judgement, None);
        assert_eq!(held(&stream), 1);
        for i in 1..W as i64 - 1 {
            assert_eq!(append(&mut stream, 1.0, 17_001 + 1000 * i).judgement, None);
        }
        assert!(append(&mut stream, 1.0, 20_001).judgement.is_some());
    }

    #[test]
    fn a_gap_ends_the_alarm() {
        let mut stream = filled();
        append(&mut stream, 100.0, 10_000);
        assert!(append(&mut stream, 100.0, 11_000).alarm);
        assert!(!append(&mut stream, 100.0, 20_000).alarm);
        for i in 1..W as i64 {
            // One anomaly after the gap is one of three.
            assert!(!append(&mut stream, 100.0, 20_000 + 1000 * i).alarm);
        }
        assert!(append(&mut stream, 100.0, 24_000).alarm);
    }

    #[test]
    fn a_late_reading_is_judged_but_not_appended() {
        let mut stream = filled();
        append(&mut stream, 100.0, 10_000);
        append(&mut stream, 100.0, 11_000);
        let answer = append(&mut stream, 5.5, 9_500);
        assert_eq!(
            score(&answer),
            Some(judge(&[9.0, 100.0, 100.0, 5.5]).anomaly_score)
        );
        assert!(answer.alarm);
        assert_eq!((stream.appended, held(&stream)), (12, W));
        // It gets the same answer again, whatever came since.
        append(&mut stream, 7.0, 12_000);
        assert_eq!(append(&mut stream, 5.5, 9_500), answer);
        let next = append(&mut stream, 8.0, 13_000);
        assert_eq!(
            score(&next),
            Some(judge(&[100.0, 100.0, 7.0, 8.0]).anomaly_score)
        );
    }

    #[test]
    fn another_reading_of_the_same_time_is_appended() {
        let mut stream = filled();
        append(&mut stream, 1.0, 10_000);
        let answer = append(&mut stream, 2.0, 10_000);
        assert_eq!(
            score(&answer),
            Some(judge(&[8.0, 9.0, 1.0, 2.0]).anomaly_score)
        );
        assert_eq!(append(&mut stream, 2.0, 10_000), answer);
        assert_eq!(stream.appended, 12);
    }

    #[test]
    fn readings_with_and_without_times_may_be_mixed() {
        let mut stream = filled();
        let answers = batch(
            &mut stream,
            &[(1.0, None), (1.0, None), (2.0, Some(10_000)), (3.0, None)],
        );
        assert_eq!(
            score(&answers[3]),
            Some(judge(&[1.0, 1.0, 2.0, 3.0]).anomaly_score)
        );
        assert_eq!(stream.appended, 14);
    }

    // A clock may run wild for one reading: the model must not wait until the year 2056.
    #[test]
    fn a_wild_time_costs_a_warm_up_and_no_more() {
        const WILD: i64 = 2_714_000_000_000;
        for wild in [WILD, -WILD, i64::MAX, i64::MIN] {
            for before in 0..12 {
                let mut stream = stream();
                batch(&mut stream, &regular(before));
                append(&mut stream, 1.0, wild);
                let mut silent = 0;
                for i in before as i64.. {
                    if append(&mut stream, 2.0 + i as f64, 1000 * i)
                        .judgement
                        .is_some()
                    {
                        break;
                    }
                    silent += 1;
                }
                assert!(silent <= 2 * W, "{wild} after {before}: {silent}");
                // Nor does the step stay wild.
                assert!(before == 0 || stream.step.is_some_and(|step| step <= 1000 * W as i64));
            }
        }
    }

    #[test]
    fn a_clock_that_is_set_back_a_little_loses_no_judgement() {
        for back in 1..=W as i64 {
            let mut stream = filled();
            for i in 10..40 {
                let answer = append(&mut stream, i as f64 + 0.5, 1000 * (i - back));
                assert!(answer.judgement.is_some(), "{i}, {back}");
            }
            assert_eq!(stream.appended, 40 - back as u64 + 1, "{back}");
        }
    }

    #[test]
    fn a_clock_that_is_set_back_far_restarts_the_warm_up() {
        let mut stream = filled();
        assert_eq!(append(&mut stream, 1.0, 4_999).judgement, None);
        assert_eq!(held(&stream), 1);
        // One whose readings stay older does, too, though each alone may be late.
        let mut stream = filled();
        let late: Vec<_> = (0..20)
            .map(|i| append(&mut stream, 0.5, 6_000 + i))
            .collect();
        let judged: Vec<bool> = late.iter().map(|a| a.judgement.is_some()).collect();
        assert_eq!(judged[..W], [true; W]);
        assert_eq!(judged[W..2 * W - 1], [false; W - 1]);
        assert_eq!(judged[2 * W - 1..], [true; 13]);
    }

    #[test]
    fn a_new_rate_is_learned() {
        // From one reading a second to one a minute, and from an hour's mean to one a second.
        for (before, after) in [(1_000, 60_000), (3_600_000, 1_000)] {
            let mut stream = stream();
            let times = (0..10).map(|i| i * before);
            let later = (1..=30).map(|i| 9 * before + i * after);
            let judged: Vec<bool> = times
                .chain(later)
                .map(|time| append(&mut stream, time as f64, time).judgement.is_some())
                .collect();
            assert!(
                judged[10 + W + 2..].iter().all(|&judged| judged),
                "{judged:?}"
            );
            assert_eq!(stream.step, Some(after));
        }
        // Two readings that happen to be near each other are no rate.
        let mut stream = stream();
        append(&mut stream, 0.0, 0);
        append(&mut stream, 1.0, 1);
        let judged = (1..=10).map(|i| append(&mut stream, 2.0, 60_000 * i).judgement.is_some());
        assert_eq!(judged.filter(|&judged| judged).count(), 10 - W);
    }

    #[test]
    fn coarse_times_have_a_step() {
        let mut stream = stream();
        // Ten readings a second, with times in whole seconds.
        for i in 0..100i64 {
            let answer = append(&mut stream, i as f64, i / 10 * 1000);
            assert_eq!(answer.judgement.is_some(), i >= W as i64 - 1, "{i}");
        }
        assert_eq!(stream.appended, 100);
        assert_eq!(append(&mut stream, 1.0, 60_000).judgement, None);
        // Times that never differ are no step.
        let mut stream = Stream::with_size(W, 1, &[]);
        for i in 0..10 {
            append(&mut stream, f64::from(i), 5);
        }
        assert_eq!((stream.step, stream.appended), (None, 10));
        assert!(append(&mut stream, 1.0, i64::MAX).judgement.is_some());
    }

    #[test]
    fn it_goes_on_only_with_the_same_window_and_features() {
        use ndarray::array;
        let readings = array![[1.0, 2.0], [2.0, 3.0], [4.0, 5.0]];
        let window = |size, kept| Window::fit(size, readings.view(), kept).expect("it fits");
        let names = ["a".to_owned(), "b".to_owned()];
        let stream = Stream::new(&window(30, vec![0, 1]), &names);
        assert!(stream.matches(&window(30, vec![1]), &names));
        assert!(!stream.matches(&window(31, vec![0, 1]), &names));
        assert!(!stream.matches(&window(30, vec![0, 1]), &[]));
        let readings = array![[1.0], [2.0]];
        let narrow = Window::fit(30, readings.view(), vec![0]).expect("it fits");
        assert!(!stream.matches(&narrow, &names));
    }

    // Any sequence of times, sent one by one, or in requests of any length of which any may be sent
    // again, alone or with what follows.
    #[test]
    fn answers_do_not_depend_on_how_readings_are_sent() {
        // SplitMix64.
        let mut state = 12u64;
        let mut random = move |below: u64| {
            state = state.wrapping_add(0x9E37_79B9_7F4A_7C15);
            let z = (state ^ (state >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
            let z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
            (z ^ (z >> 31)) % below
        };
        for _ in 0..300 {
            let mut time = 1_700_000_000_000i64;
            let readings: Vec<(f64, Option<i64>)> = (0..200)
                .map(|i| {
                    let wild = time + 1_000_000_000_000;
                    let this = match random(40) {
                        0 => wild,
                        1 => time - 1_000_000,
                        2..4 => time - 1000 * random(2 * W as u64) as i64,
                        4 => {
                            time += 1000 * random(100) as i64;
                            time
                        }
                        5 => {
                            time -= 1000 * random(20) as i64;
                            time
                        }
                        6..8 => time,
                        _ => {
                            time += 900 + random(200) as i64;
                            time
                        }
                    };
                    // No two values are equal.
                    let jump = if random(10) == 0 { 100.0 } else { 0.0 };
                    (jump + f64::from(i) / 1000.0, Some(this))
                })
                .collect();
            let mut plain = stream();
            let expected: Vec<StreamAnswer> = readings
                .iter()
                .flat_map(|&reading| batch(&mut plain, &[reading]))
                .collect();

            let mut stream = stream();
            let mut start = 0;
            while start < readings.len() {
                let end = (start + 1 + random(30) as usize).min(readings.len());
                assert_eq!(
                    batch(&mut stream, &readings[start..end]),
                    expected[start..end]
                );
                let mut again = end;
                while random(3) > 0 {
                    let from = start + random((end - start) as u64) as usize;
                    assert_eq!(
                        batch(&mut stream, &readings[from..end]),
                        expected[from..end]
                    );
                    again = from;
                }
                start = again;
            }
            assert_eq!(stream.appended, plain.appended);
            assert_eq!(stream.readings, plain.readings);
            assert_eq!(stream.step, plain.step);
        }
    }
}
