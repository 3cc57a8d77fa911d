use std::collections::BTreeSet;
use std::time::Duration;

use super::super::TunnelSettings;
use super::super::backoff::jittered;

#[test]
fn a_jittered_wait_is_between_its_half_and_its_whole_and_seldom_the_same() {
    let whole = Duration::from_millis(1000);
    let waits: BTreeSet<Duration> = (0..200).map(|_| jittered(whole)).collect();
    assert!(waits.iter().all(|wait| (whole / 2..=whole).contains(wait)), "{waits:?}");
    assert!(waits.len() > 50, "{}", waits.len());
}

#[test]
fn a_silent_connection_is_over_before_a_lane_gives_it_up() {
    let address = "ssh://hub".parse().unwrap();
    let settings = TunnelSettings::new(address, "me".into(), "key".into(), "hosts".into());
    for deadline in [1, 3, 10, 30, 3600].map(Duration::from_secs) {
        let settings = settings.clone().with_deadline(deadline);
        let questions = u32::try_from(settings.keepalive_limit).unwrap() + 1;
        assert!(settings.keepalive * questions <= deadline * 2 / 3, "{deadline:?}");
        assert!(settings.keepalive <= Duration::from_secs(5), "{deadline:?}");
    }
}
