//! The JSON view.

use super::*;
use crate::progress::View;
use crate::progress::json::Json;

fn json(events: impl IntoIterator<Item = (u64, Event)>) -> String {
    let sink = Sink::default();
    let mut view = Json::new(sink.clone());
    let mut now = 0;
    for (time, event) in events {
        now = time;
        view.event(event, ms(time));
    }
    view.finish(ms(now));
    sink.take()
}

#[test]
fn every_event() {
    let log = json([
        (0, started(1, "[a 1/2]", "RUN \"x\"")),
        (12, stdout(1, b"a\x1b[1m\nb\xff")),
        (20, stderr(1, b"err\n")),
        (30, finished(1, 1_234)),
        (40, cached(2, "[a 2/2]", "COPY . .")),
        (50, started(3, "", "pull")),
        (60, progress(3, 5, Some(10))),
        (1_200, progress(3, 6, None)),
        (1_300, failed(3, 1_250)),
        (1_400, warning("w")),
        (1_500, note("two\nlines")),
        (1_600, started(4, "", "left")),
    ]);
    let expected = r#"{"time":0.0,"event":"started","task":1,"label":"[a 1/2]","text":"RUN \"x\""}
{"time":0.012,"event":"output","task":1,"stream":"stdout","text":"a\u001b[1m\nb�"}
{"time":0.02,"event":"output","task":1,"stream":"stderr","text":"err\n"}
{"time":0.03,"event":"finished","task":1,"elapsed":1.234}
{"time":0.04,"event":"cached","task":2,"label":"[a 2/2]","text":"COPY . ."}
{"time":0.05,"event":"started","task":3,"label":"","text":"pull"}
{"time":0.06,"event":"progress","task":3,"done":5,"total":10}
{"time":1.2,"event":"progress","task":3,"done":6}
{"time":1.3,"event":"failed","task":3,"elapsed":1.25}
{"time":1.4,"event":"warning","text":"w"}
{"time":1.5,"event":"note","text":"two\nlines"}
{"time":1.6,"event":"started","task":4,"label":"","text":"left"}
{"time":1.6,"event":"canceled","task":4}
"#;
    assert_eq!(log, expected);
}

#[test]
fn characters_that_reads_cut_stay_whole() {
    let log = json([
        (0, started(1, "", "x")),
        (1, stdout(1, b"a\xe6")),
        (2, stdout(1, b"\xbc")),
        (3, stderr(1, b"\xc3")),
        (4, stdout(1, b"\xa2b\xf0\x9f\xa6")),
        (5, finished(1, 5)),
    ]);
    let expected = r#"{"time":0.0,"event":"started","task":1,"label":"","text":"x"}
{"time":0.001,"event":"output","task":1,"stream":"stdout","text":"a"}
{"time":0.004,"event":"output","task":1,"stream":"stdout","text":"漢b"}
{"time":0.005,"event":"output","task":1,"stream":"stdout","text":"�"}
{"time":0.005,"event":"output","task":1,"stream":"stderr","text":"�"}
{"time":0.005,"event":"finished","task":1,"elapsed":0.005}
"#;
    assert_eq!(log, expected);
}

#[test]
fn transfers_are_thinned_but_not_of_their_end() {
    let mut events = vec![(0, started(1, "", "x"))];
    events.extend((0..=250).map(|step| (step, progress(1, step, None))));
    events.push((250, finished(1, 250)));
    let log = json(events);
    let done: Vec<&str> = log.lines().filter(|line| line.contains("\"progress\"")).collect();
    assert_eq!(
        done,
        [
            r#"{"time":0.0,"event":"progress","task":1,"done":0}"#,
            r#"{"time":0.1,"event":"progress","task":1,"done":100}"#,
            r#"{"time":0.2,"event":"progress","task":1,"done":200}"#,
            r#"{"time":0.25,"event":"progress","task":1,"done":250}"#,
        ]
    );
}
