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
    client.send(head(&place, body.len()).as_bytes()).unwrap();
    client.send(&body.as_bytes()[..5]).unwrap();
    // An idle one, which is closed at once; its answer shows that the first one was accepted too.
    let mut idle = place.stranger();
    assert_eq!(idle.ask("GET", "/health", None).unwrap().status, 200);
    place.stopper.stop();
    assert!(idle.answer().is_err());
    assert!(
        HttpClient::connect(place.address).is_err_and(|_refused| true) || {
            // Connected before the listener was closed: nobody answers.
            place.stranger().ask("GET", "/health", None).is_err()
        }
    );
    client.send(&body.as_bytes()[5..]).unwrap();
    let answer = client.answer().unwrap();
    assert_eq!((answer.status, value(&answer)["port"].clone()), (200, json!(place.first())));
    place.serving.take().unwrap().join().unwrap();
    assert!(client.answer().is_err());
}

#[test]
fn more_connections_than_are_allowed_wait_for_their_turn() {
    let place = Place::new();
    let mut held: Vec<_> = (0..MAX_CONNECTIONS).map(|_| place.stranger()).collect();
    // The last one is served, so all of them have a place.
    assert_eq!(held.last_mut().unwrap().ask("GET", "/health", None).unwrap().status, 200);
    let mut waiting = place.stranger();
    waiting.send(b"GET /health HTTP/1.1\r\nHost: h\r\n\r\n").unwrap();
    drop(held);
    assert_eq!(waiting.answer().unwrap().status, 200);
}
