//! What each lane is told of the networks. Pure.

use std::collections::BTreeMap;
use std::sync::Arc;

use overlay_core::{NetworkId, PrivateKey};
use overlay_dataplane::{NetworkTable, Notices, Tables};

use super::{NetworkConfig, NetworkConfigs};

/// The tables of all lanes. One that says the same as before is the same one, so that the lanes
/// need not look at it.
#[derive(Debug)]
pub(crate) struct LaneTables {
    lanes: usize,
    known: BTreeMap<NetworkId, Known>,
    /// What peers are told.
    pub(crate) notices: Arc<Notices>,
}

/// A network as the lanes were told of it last.
#[derive(Debug)]
struct Known {
    config: Arc<NetworkConfig>,
    /// By lane.
    tables: Vec<Arc<NetworkTable>>,
}

impl LaneTables {
    /// Starts without a network.
    pub(crate) fn new(lanes: usize) -> Self {
        Self { lanes, known: BTreeMap::new(), notices: Arc::default() }
    }

    /// Returns what each lane is told of these networks.
    pub(crate) fn update(&mut self, networks: &NetworkConfigs) -> Vec<Tables> {
        self.known.retain(|id, _| networks.contains_key(id));
        for (id, config) in networks {
            if self.known.get(id).is_none_or(|known| !Arc::ptr_eq(&known.config, config)) {
                let tables = config.keys.iter().map(|key| Arc::new(table(config, key))).collect();
                self.known.insert(*id, Known { config: Arc::clone(config), tables });
            }
        }

        let tables =
            |lane| Tables { networks: self.of_lane(lane), notices: Arc::clone(&self.notices) };

        (0..self.lanes).map(tables).collect()
    }

    fn of_lane(&self, lane: usize) -> BTreeMap<NetworkId, Arc<NetworkTable>> {
        let tables = |(id, known): (&NetworkId, &Known)| {
            known.tables.get(lane).map(|table| (*id, Arc::clone(table)))
        };

        self.known.iter().filter_map(tables).collect()
    }
}

fn table(config: &NetworkConfig, key: &PrivateKey) -> NetworkTable {
    NetworkTable {
        id: config.id,
        private_key: key.clone(),
        peers: Arc::clone(&config.peers),
        local: config.local.clone(),
        links: Arc::clone(&config.links),
        mtu: config.mtu,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config(keys: u8) -> Arc<NetworkConfig> {
        Arc::new(NetworkConfig {
            id: NetworkId::FIRST,
            keys: (1..=keys).map(|key| [key; 32].into()).collect(),
            peers: Arc::default(),
            local: Vec::new(),
            links: Arc::default(),
            mtu: 1408,
        })
    }

    #[test]
    fn each_lane_has_its_own_key_and_shares_the_peers() {
        let config = config(2);

        let tables = LaneTables::new(2).update(&[(NetworkId::FIRST, Arc::clone(&config))].into());

        let lanes: Vec<_> = tables.iter().map(|lane| &lane.networks[&NetworkId::FIRST]).collect();
        assert_eq!(
            lanes.iter().map(|t| *t.private_key.expose()).collect::<Vec<_>>(),
            [[1; 32], [2; 32]]
        );
        assert!(lanes.iter().all(|table| Arc::ptr_eq(&table.peers, &config.peers)));
    }

    #[test]
    fn a_network_that_is_left_out_is_in_no_table_and_comes_back_as_new() {
        let (mut lanes, networks) =
            (LaneTables::new(1), NetworkConfigs::from([(NetworkId::FIRST, config(1))]));
        let first = lanes.update(&networks).remove(0).networks;

        assert!(lanes.update(&NetworkConfigs::new())[0].networks.is_empty());

        let second = lanes.update(&networks).remove(0).networks;
        assert!(!Arc::ptr_eq(&first[&NetworkId::FIRST], &second[&NetworkId::FIRST]));
    }
}
