use super::*;

const POINT: &str = "/api/v1/points/01kat0h4m2f6q8r0s2";
const EXPORT: &str = "/api/v1/exports/01kat0h4m2f6q8r0s2";

fn post(place: &Place, path: &str, body: &str) -> HttpAnswer {
    place.client().ask("POST", path, Some(body)).unwrap()
}

#[test]
fn a_hub_without_a_repository_has_nothing_to_read() {
    let place = Place::new();
    for path in ["/api/v1/points/verify", &format!("{POINT}/verify"), &format!("{POINT}/exports")] {
        refused(&post(&place, path, "{}"), 409, "no_repository");
    }
    refused(&place.delete(EXPORT), 409, "no_repository");
    refused(&place.get(&format!("{EXPORT}/disks/root/digests")), 409, "no_repository");
}

#[test]
fn what_is_asked_of_a_point_is_checked() {
    let place = Place::new();
    let (verify, export) = (format!("{POINT}/verify"), format!("{POINT}/exports"));
    for (path, body) in [
        (&verify, "[]"),
        (&verify, r#"{"disks":["a/b"]}"#),
        (&verify, r#"{"repository":"No Name"}"#),
        (&verify, r#"{"against":[{"disk":"root"}]}"#),
        (&verify, r#"{"against":[{"disk":"root","source":"file:///etc/passwd"}]}"#),
        (&verify, r#"{"other":1}"#),
        (&export, r#"{"connections":0}"#),
        (&export, r#"{"connections":65}"#),
        (&export, r#"{"writable":"yes"}"#),
        (&"/api/v1/points/x/verify".to_owned(), "{}"),
        (&"/api/v1/points/..%2Fx/exports".to_owned(), "{}"),
        (&"/api/v1/points/verify".to_owned(), r#"{"disks":["root"]}"#),
    ] {
        refused(&post(&place, path, body), 422, "wrong_field");
    }
    let local = r#"{"against":[{"disk":"root","source":"nbd+unix:///?socket=/run/x"}]}"#;
    refused(&post(&place, &verify, local), 422, "local_source");
    refused(&post(&place, &export, "{"), 400, "not_json");
    refused(&place.client().ask("POST", &export, None).unwrap(), 415, "not_json");
    refused(&place.delete("/api/v1/exports/x"), 422, "wrong_field");
    refused(&place.get(&format!("{EXPORT}/disks/..%2Fx/digests")), 422, "wrong_field");
}

#[test]
fn nothing_is_read_without_a_token() {
    let place = Place::new();
    for (method, path) in [
        ("POST", format!("{POINT}/verify")),
        ("POST", format!("{POINT}/exports")),
        ("POST", "/api/v1/points/verify".to_owned()),
        ("DELETE", EXPORT.to_owned()),
        ("GET", format!("{EXPORT}/disks/root/digests")),
    ] {
        let answer = place.stranger().ask(method, &path, None).unwrap();
        refused(&answer, 401, "unauthorized");
    }
}
