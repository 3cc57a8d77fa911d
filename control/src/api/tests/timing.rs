use std::time::Instant;

use super::*;

fn head(place: &Place, length: usize) -> String {
    format!(
        "POST {ALLOCATE} HTTP/1.1\r\nHost: h\r\nAuthorization: Bearer {}\r\n\
         Content-Type: application/json\r\nContent-Length: {length}\r\n\r\n",
        place.token
    )
}

#[test]
fn who_sends_neither_headers_nor_body_in_time_is_not_waited_for() {
    let place = Place::new();
    let started = Instant::now();
    let mut silent = place.stranger();
    silent.send(b"GET /health HTTP/1.1\r\n").unwrap();
    let mut slow = place.stranger();
    slow.send(head(&place, 10).as_bytes()).unwrap();
    refused(&slow.answer().unwrap(), 408, "body_too_slow");
    assert!(silent.answer().is_err_and(|_ended| true), "it has asked for nothing");
    assert!(started.elapsed() >= HEADER_DEADLINE);
    assert!(started.elapsed() < HEADER_DEADLINE + BODY_DEADLINE);
    assert_eq!(place.stranger().ask("GET", "/health", None).unwrap().status, 200);
}

#[test]
fn what_was_being_asked_when_the_server_is_stopped_is_answered() {
    let mut place = Place::new();
    let body = json!({ "job_id": "a", "vm": "db", "disk": "root" }).to_string();
    let mut client = place.client();
    // The server says that it wants the body, so it has the head, and is at it.
    let expecting = "\r\nExpect: 100-continue\r\n\r\n";
    client.send(head(&place, body.len()).replace("\r\n\r\n", expecting).as_bytes()).unwrap();
    assert_eq!(client.answer().unwrap().status, 100);
    client.send(&body.as_bytes()[..5]).unwrap();
    // An idle one, which is closed at once.
    let mut idle = place.stranger();
    assert_eq!(idle.ask("GET", "/health", None).unwrap().status, 200);
    place.stopper.stop();
    assert!(idle.answer().is_err());
    // Refused, or connected before the listener was closed, and then nobody answers.
    let late = HttpClient::connect(place.address);
    assert!(late.and_then(|mut client| client.ask("GET", "/health", None)).is_err());
    client.send(&body.as_bytes()[5..]).unwrap();
    let answer = client.answer().unwrap();
    assert_eq!((answer.status, value(&answer)["port"].clone()), (200, json!(place.first())));
    place.serving.take().unwrap().join().unwrap();
    assert!(client.answer().is_err());
}

#[test]
fn more_connections_than_are_allowed_wait_for_their_turn() {
    let place = Place::new();
    let mut held: Vec<_> = (0..MAX_CONNECTIONS)
        .map(|_| {
            let mut client = place.client();
            // It is served, so it has a place, which a token keeps.
            assert_eq!(client.ask("GET", "/metrics", None).unwrap().status, 200);
            client
        })
        .collect();
    let mut waiting = place.stranger();
    waiting.send(b"GET /health HTTP/1.1\r\nHost: h\r\n\r\n").unwrap();
    // Without a place it has no answer, however it is waited for.
    for client in &mut held {
        assert_eq!(client.ask("GET", "/metrics", None).unwrap().status, 200);
    }
    drop(held);
    assert_eq!(waiting.answer().unwrap().status, 200);
}

#[test]
fn who_connects_and_asks_for_nothing_keeps_nobody_out() {
    let place = Place::new();
    let mut known = place.client();
    assert_eq!(known.ask("GET", "/metrics", None).unwrap().status, 200);
    // One that has a request in the making is no better than one without.
    let mut slow = place.stranger();
    slow.send(b"GET /health HTTP/1.1\r\n").unwrap();
    let _silent: Vec<_> = (0..MAX_CONNECTIONS + 8).map(|_| place.stranger()).collect();
    let started = Instant::now();
    assert_eq!(place.client().ask("GET", "/metrics", None).unwrap().status, 200);
    // None is waited for until its headers are late.
    assert!(started.elapsed() < HEADER_DEADLINE / 2, "{:?}", started.elapsed());
    assert!(slow.answer().is_err_and(|_sent_away| true));
    // The one with a token has kept its connection.
    assert_eq!(known.ask("GET", "/metrics", None).unwrap().status, 200);
}

#[test]
fn strangers_that_come_at_once_and_ask_are_all_answered() {
    let place = Place::new();
    let mut many: Vec<_> = (0..MAX_STRANGERS + 32).map(|_| place.stranger()).collect();
    for stranger in &mut many {
        let text = "GET /health HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n";
        stranger.send(text.as_bytes()).unwrap();
    }
    for mut stranger in many {
        assert_eq!(stranger.answer().unwrap().status, 200);
    }
}
