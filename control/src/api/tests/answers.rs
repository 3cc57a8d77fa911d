use super::*;

#[test]
fn a_body_that_is_not_what_it_should_be_is_refused_for_its_reason() {
    let place = Place::new();
    let post = |body: &str| place.client().ask("POST", ALLOCATE, Some(body)).unwrap();
    for body in ["", "{", "not json", "{\"job_id\": \"a\"", "\u{1}"] {
        refused(&post(body), 400, "not_json");
    }
    let whole = json!({ "job_id": "a", "vm": "db", "disk": "root" });
    for (field, wrong) in [
        ("job_id", json!(1)),
        ("job_id", json!("")),
        ("job_id", json!("a b")),
        ("job_id", json!("x".repeat(256))),
        ("vm", json!(null)),
        ("vm", json!("../../etc")),
        ("vm", json!("x".repeat(201))),
        ("disk", json!([])),
        ("disk", json!("/dev/sda")),
        ("disk", json!(".")),
        ("disk", json!("a\u{0}b")),
        ("port", json!(10_100)),
    ] {
        let mut body = whole.clone();
        body[field] = wrong;
        refused(&post(&body.to_string()), 422, "wrong_field");
    }
    for body in ["[]", "7", "{}", "{\"job_id\": \"a\", \"vm\": \"db\"}"] {
        refused(&post(body), 422, "wrong_field");
    }
    assert_eq!(place.hub.ports().metrics().in_use, 0);
}

#[test]
fn a_body_that_is_too_large_is_refused_whether_it_says_so_or_not() {
    let place = Place::new();
    let large = "x".repeat(MAX_BODY_BYTES + 1);
    refused(&place.client().ask("POST", ALLOCATE, Some(&large)).unwrap(), 413, "too_large");
    let mut client = place.client();
    let head = format!(
        "POST {ALLOCATE} HTTP/1.1\r\nHost: h\r\nAuthorization: Bearer {}\r\n\
         Content-Type: application/json\r\nTransfer-Encoding: chunked\r\n\r\n{:x}\r\n",
        place.token,
        large.len()
    );
    client.send(head.as_bytes()).unwrap();
    client.send(large.as_bytes()).unwrap();
    refused(&client.answer().unwrap(), 413, "too_large");
}

#[test]
fn a_body_of_another_kind_is_refused() {
    let place = Place::new();
    for kind in ["", "Content-Type: text/plain\r\n", "Content-Type: application/jsonx\r\n"] {
        let mut client = place.client();
        let text = format!(
            "POST {ALLOCATE} HTTP/1.1\r\nHost: h\r\nAuthorization: Bearer {}\r\n{kind}\
             Content-Length: 2\r\n\r\n{{}}",
            place.token
        );
        client.send(text.as_bytes()).unwrap();
        refused(&client.answer().unwrap(), 415, "not_json");
    }
}

#[test]
fn what_is_not_there_is_404_and_what_a_path_does_not_take_is_405_with_what_it_takes() {
    let place = Place::new();
    for path in ["/", "/api", "/api/v2/health", "/api/v1/nbd", "/api/v1/nbd/ports/"] {
        refused(&place.get(path), 404, "no_such_path");
    }
    for (method, path, allowed) in [
        ("PUT", "/api/v1/nbd/ports", "GET,HEAD"),
        ("GET", ALLOCATE, "POST"),
        ("POST", "/api/v1/nbd/ports/10100", "DELETE"),
        ("OPTIONS", "/metrics", "GET,HEAD"),
    ] {
        let answer = place.client().ask(method, path, None).unwrap();
        refused(&answer, 405, "wrong_method");
        assert_eq!(answer.header("allow"), Some(allowed), "{method} {path}");
    }
}

#[test]
fn parts_of_paths_are_checked() {
    let place = Place::new();
    for path in [
        "ports/65536?job_id=a",
        "ports/-1?job_id=a",
        "ports/x?job_id=a",
        "ports/10100",
        "ports/10100?job_id=",
        "ports/10100?job_id=a%20b",
        "ports/10100?job_id=a&other=1",
        "ports/job/%20",
        "ports/job/%FF",
    ] {
        refused(&place.delete(&format!("/api/v1/nbd/{path}")), 422, "wrong_field");
    }
}

#[test]
fn each_answer_has_the_id_of_its_request_and_so_has_its_line_in_the_log() {
    let place = Place::new();
    let ask = |id: &str| {
        let mut client = place.stranger();
        let text = format!("GET /health HTTP/1.1\r\nHost: h\r\nX-Request-Id: {id}\r\n\r\n");
        client.send(text.as_bytes()).unwrap();
        client.answer().unwrap().header("x-request-id").unwrap().to_owned()
    };
    assert_eq!(ask("my-id_1.2"), "my-id_1.2");
    for strange in ["", "a b", "\u{e4}", "a\"b", &"x".repeat(65)] {
        let id = ask(strange);
        assert!(id != strange && id.len() > 9, "{id}");
        assert!(place.log().contains(&id), "{}", place.log());
    }
    assert!(place.log().contains("my-id_1.2"));
}

#[test]
fn the_description_names_every_call_and_nothing_that_is_not_answered() {
    let place = Place::new();
    let description = value(&place.get("/api/v1/openapi.json"));
    let paths = description["paths"].as_object().unwrap();
    let mut calls: Vec<String> = Vec::new();
    for (path, item) in paths {
        for method in item.as_object().unwrap().keys() {
            let asked = path.replace("{port}", "1").replace("{jobId}", "a").replace("{id}", "a");
            let answer = place.client().ask(&method.to_uppercase(), &asked, None).unwrap();
            assert_ne!((answer.status, path), (405, path), "{method}");
            assert!(answer.status != 404 || code(&answer) != "no_such_path", "{path}");
            calls.push(format!("{method} {path}"));
        }
    }
    calls.sort();
    let expected = [
        "delete /api/v1/points/{id}",
        "get /api/v1/backups",
        "get /api/v1/backups/{id}",
        "get /api/v1/backups/{id}/events",
        "get /api/v1/points",
        "get /api/v1/points/{id}",
        "post /api/v1/backups",
        "post /api/v1/backups/{id}/cancel",
        "delete /api/v1/nbd/ports/job/{jobId}",
        "delete /api/v1/nbd/ports/{port}",
        "get /api/v1/health",
        "get /api/v1/metrics",
        "get /api/v1/nbd/ports",
        "get /api/v1/nbd/ports/metrics",
        "get /api/v1/nbd/processes",
        "get /api/v1/openapi.json",
        "post /api/v1/nbd/ports/allocate",
    ];
    for call in expected {
        assert!(calls.iter().any(|found| found == call), "{call} is missing in {calls:?}");
    }
    assert_eq!(description["openapi"].as_str().unwrap().split('.').next(), Some("3"));
}

#[test]
fn prometheus_gets_its_figures() {
    let place = Place::new();
    place.port("a", "db", "root");
    place.get("/no/such/path");
    let answer = place.get("/metrics");
    assert!(answer.header("content-type").unwrap().starts_with("text/plain; version=0.0.4"));
    for line in [
        "blockferry_hub_ports{state=\"in_use\"} 1",
        "blockferry_hub_ports{state=\"free\"} 7",
        "blockferry_hub_ports_range 8",
        "blockferry_hub_exports 0",
        "blockferry_hub_http_responses_total{status=\"4xx\"} 1",
        "# TYPE blockferry_hub_port_waits_total counter",
    ] {
        assert!(answer.body.lines().any(|found| found == line), "{line} in:\n{}", answer.body);
    }
}

#[test]
fn a_field_that_a_call_does_not_have_is_refused_and_not_ignored() {
    let place = Place::new();
    let description = value(&place.get("/api/v1/openapi.json"));
    let mut calls = vec![("/health".to_owned(), "GET".to_owned())];
    for (path, item) in description["paths"].as_object().unwrap() {
        for method in item.as_object().unwrap().keys() {
            calls.push((path.replace(['{', '}'], ""), method.to_uppercase()));
        }
    }
    for (path, method) in calls {
        for query in ["repostory=main", "a", "%72epo", "limit=1&=", "job_id=a&vmm=b"] {
            let mut client = place.client();
            let head = format!(
                "{method} {path}?{query} HTTP/1.1\r\nHost: h\r\nAuthorization: Bearer {}\r\n\r\n",
                place.token
            );
            client.send(head.as_bytes()).unwrap();
            let answer = client.answer().unwrap();
            refused(&answer, 422, "wrong_field");
            assert!(answer.body.contains("question mark"), "{method} {path}: {}", answer.body);
        }
    }
    // Nobody learns without a token which fields there are.
    refused(&place.stranger().ask("GET", "/metrics?a=b", None).unwrap(), 401, "unauthorized");
    assert_eq!(place.get("/metrics?").status, 200);
}

#[test]
fn an_array_is_no_object_with_its_fields_in_their_order() {
    let place = Place::new();
    let array = json!(["job", "vm", "disk"]).to_string();
    refused(&place.client().ask("POST", ALLOCATE, Some(&array)).unwrap(), 422, "wrong_field");
    assert_eq!(place.hub.ports().metrics().in_use, 0);
    // Nor is one within an object.
    let disk = json!({ "name": "root", "source": "nbd://127.0.0.1:1/", "changed": [[0, 1]] });
    for disks in [json!([["root", "nbd://127.0.0.1:1/"]]), json!([disk])] {
        let body = json!({ "vm": "db", "disks": disks }).to_string();
        let answer = place.client().ask("POST", "/api/v1/backups", Some(&body)).unwrap();
        refused(&answer, 422, "wrong_field");
        assert!(answer.body.contains("expected an object"), "{}", answer.body);
    }
}

#[test]
fn two_idempotency_keys_are_refused_and_neither_is_taken() {
    let place = Place::new();
    let body = json!({ "vm": "db", "disks": [{ "name": "root", "source": "nbd://127.0.0.1:1/" }] })
        .to_string();
    let mut client = place.client();
    let text = format!(
        "POST /api/v1/backups HTTP/1.1\r\nHost: h\r\nAuthorization: Bearer {}\r\n\
         Content-Type: application/json\r\nIdempotency-Key: a\r\nIdempotency-Key: b\r\n\
         Content-Length: {}\r\n\r\n{body}",
        place.token,
        body.len()
    );
    client.send(text.as_bytes()).unwrap();
    let answer = client.answer().unwrap();
    refused(&answer, 422, "wrong_field");
    assert!(answer.body.contains("more than one header"), "{}", answer.body);
}
