use std::fs;
use std::os::unix::fs::PermissionsExt;

use super::*;

#[test]
fn a_token_opens_until_it_is_revoked_and_only_its_hash_is_kept() {
    let place = Place::new();
    let tokens = Tokens::of(place.folder.path());
    let check = TokenCheck::of(place.folder.path());
    assert!(!check.admits("").unwrap());
    let (first, second) = (tokens.add().unwrap(), tokens.add().unwrap());
    assert_ne!(first.secret, second.secret);
    assert!(check.admits(&first.secret).unwrap() && check.admits(&second.secret).unwrap());
    let file = place.folder.path().join("tokens.json");
    let text = fs::read_to_string(&file).unwrap();
    assert!(!text.contains(first.secret.strip_prefix("blockferry_").unwrap()));
    assert_eq!(fs::metadata(&file).unwrap().permissions().mode() & 0o777, 0o600);
    let ids: Vec<_> = tokens.list().unwrap().into_iter().map(|token| token.id).collect();
    assert_eq!(ids, [first.id.clone(), second.id.clone()]);

    tokens.revoke(&first.id).unwrap();
    assert!(!check.admits(&first.secret).unwrap());
    assert!(check.admits(&second.secret).unwrap());
    assert!(matches!(tokens.revoke(&first.id), Err(TokenError::NoSuchToken(_))));
}

#[test]
fn nothing_but_a_whole_token_opens() {
    let place = Place::new();
    let token = Tokens::of(place.folder.path()).add().unwrap();
    let check = TokenCheck::of(place.folder.path());
    let secret = token.secret.as_str();
    let hash = blake3::hash(secret.as_bytes()).to_hex();
    for wrong in ["", " ", &secret[1..], &secret[..secret.len() - 1], hash.as_str()] {
        assert!(!check.admits(wrong).unwrap(), "{wrong:?}");
    }
}

#[test]
fn a_damaged_file_of_tokens_opens_to_nobody_and_is_named() {
    let place = Place::new();
    let token = Tokens::of(place.folder.path()).add().unwrap();
    let check = TokenCheck::of(place.folder.path());
    assert!(check.admits(&token.secret).unwrap());
    fs::write(place.folder.path().join("tokens.json"), "{").unwrap();
    for _ in 0..2 {
        let error = check.admits(&token.secret).unwrap_err().to_string();
        assert!(error.contains("tokens.json is damaged"), "{error}");
    }
}
