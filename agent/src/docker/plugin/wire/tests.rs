use std::collections::BTreeMap;

use proptest::prelude::*;
use serde_json::json;

use super::address::*;
use super::endpoint::*;
use super::network::*;
use crate::docker::container_ifname::ContainerIfname;

#[test]
fn only_an_object_is_a_request() {
    for body in ["[]", "null", "17", "\"x\"", "[\"10.9.0.0/16\"]", " \n"] {
        assert!(PoolRequest::read(body.as_bytes()).is_err(), "{body}");
    }
    assert!(PoolRequest::read(b" \n{}").is_ok());
}

#[test]
fn null_missing_and_empty_options_are_the_same() {
    for options in ["", r#", "Options": null"#, r#", "Options": {}"#] {
        let body = format!(r#"{{"PoolID": "p", "Address": ""{options}}}"#);
        let request = AddressRequest::read(body.as_bytes()).expect("sound");

        assert_eq!(
            request,
            AddressRequest { pool: "p".into(), address: None, purpose: AddressUse::Other }
        );
    }
}

#[test]
fn ids_that_are_none_never_get_through() {
    for bad in ["", "../../x", "ABCDEF", "g0", &"a".repeat(65), "a b"] {
        let body = json!({ "NetworkID": bad, "EndpointID": "ab" }).to_string();

        assert!(read_endpoint(body.as_bytes()).is_err(), "{bad}");
        assert!(read_network(body.as_bytes()).is_err(), "{bad}");
    }
}

#[test]
fn an_empty_body_is_no_empty_request() {
    assert!(PoolRequest::read(b"").is_err());
    assert!(NetworkRequest::read(b"").is_err());
    assert!(JoinRequest::read(b"").is_err());
}

#[test]
fn a_network_is_read_as_the_engine_writes_it() {
    let body = json!({
        "NetworkID": "0a1b", "Options": {
            "com.docker.network.enable_ipv6": true, "com.docker.network.internal": true,
            "com.docker.network.generic": { "a": "b" } },
        "IPv4Data": [{ "AddressSpace": "overlay-wg", "Pool": "10.5.0.0/16", "Gateway": "10.5.0.1/16",
            "AuxAddresses": { "router": "10.5.0.9/16" } }],
        "IPv6Data": [{ "AddressSpace": "overlay-wg", "Pool": "fd05::/64", "Gateway": "fd05::1/64" }],
    });

    let network = NetworkRequest::read(body.to_string().as_bytes()).expect("sound");

    assert_eq!(network.v4.gateway, Some([10, 5, 0, 1].into()));
    assert_eq!(network.v6.as_ref().and_then(|v6| v6.gateway), "fd05::1".parse().ok());
    assert_eq!(
        network.reserved,
        BTreeMap::from([("router".into(), "10.5.0.9".parse().expect("an address"))])
    );
    assert!(network.internal);
    assert_eq!(network.options, BTreeMap::from([("a".into(), "b".into())]));
}

#[test]
fn an_endpoint_s_interface_is_called_as_docker_was_asked() {
    let body = json!({
        "NetworkID": "0a1b", "EndpointID": "0c", "Interface": { "Address": "10.5.0.2/16" },
        "Options": {
            "com.docker.network.endpoint.exposedports": [{ "Proto": 6, "Port": 80 }],
            "com.docker.network.portmap": null,
            "com.docker.network.endpoint.ifname": "web0",
        },
    });

    let request = EndpointRequest::read(body.to_string().as_bytes()).expect("sound");
    let container_ifname = ContainerIfname::exactly(request.ifname.as_deref().unwrap_or_default());
    let joined = Joined { ifname: "ovc1".into(), container_ifname, routes: Vec::new() }.write();

    assert_eq!(
        joined["InterfaceName"],
        json!({ "SrcName": "ovc1", "DstPrefix": "web", "DstName": "web0" })
    );
    let unknown = body.to_string().replace("com.docker.network.portmap", "parent");
    assert!(EndpointRequest::read(unknown.as_bytes()).unwrap_err().message.contains("parent"));
}

#[test]
fn hardware_addresses_are_read_and_groups_refused() {
    assert_eq!(mac("02:42:0a:05:00:02"), Ok(Some([2, 0x42, 10, 5, 0, 2])));
    for bad in ["01:00:00:00:00:00", "02:42", "02:42:0a:05:00:2", "02-42-0a-05-00-02"] {
        assert!(mac(bad).is_err(), "{bad}");
    }
}

proptest! {
    #[test]
    fn no_bytes_can_make_it_panic(body in prop::collection::vec(any::<u8>(), 0..200)) {
        let _ = PoolRequest::read(&body).is_ok() | AddressRequest::read(&body).is_ok();
        let _ = NetworkRequest::read(&body).is_ok() | EndpointRequest::read(&body).is_ok();
        let _ = JoinRequest::read(&body).is_ok() | read_release_address(&body).is_ok();
    }
}
