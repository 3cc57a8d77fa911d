//! Which version of the API is spoken.

use reqwest::header::HeaderValue;

use super::error::VsphereError;
use super::xml::Element;

/// The oldest that has all we ask.
const FLOOR: [u32; 2] = [6, 5];
const NAMESPACE: &str = "urn:vim25";

/// The oldest version of those that a server speaks which has all we ask: newer servers then answer
/// as older ones do. As the header `SOAPAction` has it.
pub(super) fn choose(versions: &Element, server: &str) -> Result<HeaderValue, VsphereError> {
    let spoken = spoken(versions);
    let parsed = |text: &String| Some((numbers(text)?, text.clone()));
    let mut known: Vec<(Vec<u32>, String)> = spoken.iter().filter_map(parsed).collect();
    known.sort();
    let fits = known.iter().find(|(numbers, _)| numbers.as_slice() >= &FLOOR[..]);
    let strange = || VsphereError::Strange {
        server: server.to_owned(),
        call: "its versions",
        problem: format!("it names no version of {NAMESPACE}"),
    };
    match (fits, known.last()) {
        (Some((_, version)), _) => {
            HeaderValue::from_str(&format!("{NAMESPACE}/{version}")).map_err(|_| strange())
        }
        (None, Some((_, version))) => {
            Err(VsphereError::TooOld { server: server.to_owned(), version: version.clone() })
        }
        (None, None) => Err(strange()),
    }
}

/// All versions of the namespace: the document has no namespace of XML.
fn spoken(versions: &Element) -> Vec<String> {
    let named = |element: &Element, name: &str| -> Vec<String> {
        let inside = element.inside().iter().filter(|child| child.local() == name);
        inside.map(|child| child.text().to_owned()).collect()
    };
    let ours = versions.inside().iter().filter(|it| named(it, "name") == [NAMESPACE]);
    ours.flat_map(|namespace| {
        let prior = namespace.inside().iter().filter(|child| child.local() == "priorVersions");
        let prior = prior.flat_map(|prior| named(prior, "version"));
        named(namespace, "version").into_iter().chain(prior).collect::<Vec<_>>()
    })
    .collect()
}

/// The numbers of a version; versions in the making (`dev`) have others.
fn numbers(version: &str) -> Option<Vec<u32>> {
    version.split('.').map(|number| number.parse().ok()).collect()
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, Instant};

    use super::super::xml::XmlReader;
    use super::*;

    fn document(text: &str) -> Element {
        let mut reader = XmlReader::new(text.as_bytes(), Instant::now() + Duration::from_secs(60));
        let root = reader.next_start().unwrap().unwrap();
        Element::read(root, &mut reader).unwrap()
    }

    fn offering(newest: &str, prior: &[&str]) -> Element {
        let prior: String = prior.iter().map(|it| format!("<version>{it}</version>")).collect();
        document(&format!(
            r#"<?xml version="1.0"?><namespaces version="1.0">
            <namespace><name>urn:sms</name><version>9.9</version></namespace>
            <namespace><name>urn:vim25</name><version>{newest}</version>
            <priorVersions>{prior}</priorVersions></namespace></namespaces>"#
        ))
    }

    #[test]
    fn the_oldest_version_that_suffices_is_spoken() {
        let offered = offering("8.0.2.0", &["dev", "7.0.3", "6.5", "6.7", "6.0", "5.5", "2.5"]);
        assert_eq!(choose(&offered, "vc").unwrap(), "urn:vim25/6.5");
        assert_eq!(
            choose(&offering("8.0.2.0", &["7.0.10", "7.0.9"]), "vc").unwrap(),
            "urn:vim25/7.0.9"
        );
        assert_eq!(choose(&offering("6.5", &[]), "vc").unwrap(), "urn:vim25/6.5");
    }

    #[test]
    fn an_older_server_is_refused_with_its_version() {
        let refused = choose(&offering("6.0", &["5.5", "5.1"]), "vc").unwrap_err();
        let line = refused.to_string();
        assert!(line.contains("vc speaks 6.0; 6.5 or newer"), "{line}");
    }

    #[test]
    fn a_server_without_versions_is_refused() {
        let refused = choose(&document("<namespaces/>"), "vc").unwrap_err();
        assert!(matches!(refused, VsphereError::Strange { .. }), "{refused}");
    }
}
