//! Anything may happen in any order. When it stops, packets flow again, and none was ever altered,
//! duplicated or misdelivered.

use proptest::prelude::*;

use super::history::{Deed, HOSTS, live};

fn deed() -> impl Strategy<Value = Deed> {
    let host = || 0..u8::try_from(HOSTS).expect("few");
    prop_oneof![
        4 => (host(), host(), 1..20_u8, any::<u16>(), any::<bool>())
            .prop_map(|(from, to, count, size, v6)| Deed::Say { from, to, count, size, v6 }),
        4 => prop_oneof![0..50_u32, 0..20_000_u32, 0..400_000_u32].prop_map(|millis| Deed::Run { millis }),
        1 => (host(), any::<bool>()).prop_map(|(host, wakes)| Deed::Restart { host, wakes }),
        1 => (host(), 0..8_u8).prop_map(|(host, members)| Deed::Publish { host, members }),
        1 => host().prop_map(|host| Deed::Withdraw { host }),
        1 => (host(), any::<u8>()).prop_map(|(host, port)| Deed::Move { host, port }),
        1 => (0..=100_u8, 0..50_u8, any::<u8>())
            .prop_map(|(loss, twice, jitter)| Deed::Weather { loss, twice, jitter }),
        1 => (host(), host(), any::<Option<u16>>()).prop_map(|(from, to, most)| Deed::Narrow { from, to, most }),
        2 => (any::<u16>(), any::<bool>(), any::<Option<u16>>())
            .prop_map(|(which, elsewhere, bit)| Deed::Replay { which, elsewhere, bit }),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(96))]

    /// Invariant 3.
    #[test]
    fn packets_flow_again_after_any_history(deeds in proptest::collection::vec(deed(), 0..40)) {
        live(deeds);
    }
}
