use super::*;

#[test]
fn the_address_of_a_hub_is_http_with_a_host() {
    let of = |text: &str| text.parse::<HubAddress>().map(|address| address.to_string());
    let is = |text: &str| Ok(text.to_owned());
    assert_eq!(of("http://127.0.0.1:10080"), is("http://127.0.0.1:10080"));
    assert_eq!(of("http://hub"), is("http://hub:10080"));
    assert_eq!(of("HTTP://[::1]:9/"), is("http://[::1]:9"));
    assert_eq!(of("http://proxy:80/hub/"), is("http://proxy:80/hub"));
    for wrong in [
        "",
        "hub",
        "hub:10080",
        "ftp://hub",
        "http://",
        "http://hub:0",
        "http://hub:x",
        "http://[::1",
        "http://a b",
        "http://hub?x",
        "http://user:word@hub",
    ] {
        assert!(of(wrong).is_err(), "{wrong}");
    }
    let https = of("https://hub").unwrap_err();
    assert!(https.contains("SSH tunnel"), "{https}");
}

#[test]
fn a_token_is_not_shown_by_who_has_it() {
    let client = HubClient::new("http://hub".parse().unwrap(), "blockferry_secret").unwrap();
    assert!(!format!("{client:?}").contains("secret"));
    assert!(HubClient::new("http://hub".parse().unwrap(), "a\nb").is_err());
}
