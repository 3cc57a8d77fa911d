use super::*;

#[test]
fn without_a_token_of_this_hub_nothing_but_health_is_answered() {
    let place = Place::new();
    let every = [
        ("POST", ALLOCATE),
        ("DELETE", "/api/v1/nbd/ports/10100"),
        ("DELETE", "/api/v1/nbd/ports/job/a"),
        ("GET", "/api/v1/nbd/ports"),
        ("GET", "/api/v1/nbd/ports/metrics"),
        ("GET", "/api/v1/nbd/processes"),
        ("GET", "/api/v1/metrics"),
        ("GET", "/metrics"),
        ("GET", "/api/v1/openapi.json"),
        ("GET", "/no/such/path"),
        ("PUT", "/api/v1/nbd/ports"),
    ];
    for (method, path) in every {
        for client in [place.stranger(), place.stranger().with_token("blockferry_00")] {
            let answer = { client }.ask(method, path, None).unwrap();
            refused(&answer, 401, "unauthorized");
            assert_eq!(answer.header("www-authenticate"), Some("Bearer realm=\"blockferry\""));
        }
    }
    for path in ["/health", "/api/v1/health"] {
        let answer = place.stranger().ask("GET", path, None).unwrap();
        assert_eq!((answer.status, value(&answer)["status"].as_str()), (200, Some("ok")));
    }
}

#[test]
fn a_revoked_token_opens_nothing_at_once_and_a_new_one_does() {
    let place = Place::new();
    let tokens = Tokens::of(place.folder.path());
    assert_eq!(place.get("/api/v1/nbd/ports").status, 200);
    tokens.revoke(&tokens.list().unwrap()[0].id).unwrap();
    refused(&place.get("/api/v1/nbd/ports"), 401, "unauthorized");
    let new = tokens.add().unwrap();
    let answer = place.stranger().with_token(&new.secret).ask("GET", "/metrics", None).unwrap();
    assert_eq!(answer.status, 200);
}

#[test]
fn other_kinds_of_authorization_are_refused() {
    let place = Place::new();
    for value in [
        format!("Basic {}", place.token),
        place.token.clone(),
        "Bearer".to_owned(),
        "Bearer ".to_owned(),
        "\u{e4}".to_owned(),
    ] {
        let mut client = place.stranger();
        let text = format!("GET /metrics HTTP/1.1\r\nHost: h\r\nAuthorization: {value}\r\n\r\n");
        client.send(text.as_bytes()).unwrap();
        refused(&client.answer().unwrap(), 401, "unauthorized");
    }
}

#[test]
fn no_token_and_no_job_is_in_the_log() {
    let place = Place::new();
    let port = place.port("secret-job", "db", "root");
    let path = format!("/api/v1/nbd/ports/{port}?job_id=secret-job");
    assert_eq!(place.delete(&path).status, 200);
    let mut wrong = place.stranger().with_token("blockferry_wrong");
    refused(&wrong.ask("GET", "/metrics", None).unwrap(), 401, "unauthorized");
    let log = place.log();
    assert_eq!(log.lines().count(), 3, "{log}");
    for secret in [place.token.as_str(), "blockferry_", "secret-job"] {
        assert!(!log.contains(secret), "{log}");
    }
    assert!(log.contains(&format!("DELETE /api/v1/nbd/ports/{port} 200 ")), "{log}");
}

#[test]
fn tokens_that_are_damaged_are_answered_as_every_call_is_described() {
    let place = Place::new();
    let description = value(&place.get("/api/v1/openapi.json"));
    std::fs::write(place.folder.path().join("tokens.json"), "{").unwrap();
    for (path, item) in description["paths"].as_object().unwrap() {
        for (method, call) in item.as_object().unwrap() {
            let asked = path.replace(['{', '}'], "");
            let answer = place.client().ask(&method.to_uppercase(), &asked, None).unwrap();
            if path == "/api/v1/health" {
                assert_eq!(answer.status, 200);
                continue;
            }
            refused(&answer, 500, "internal");
            let known = call["responses"].as_object().unwrap();
            for status in ["401", "422", "500"] {
                assert!(known.contains_key(status), "{method} {path} has no {status}: {known:?}");
            }
        }
    }
}
