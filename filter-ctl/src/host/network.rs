//! This host's own addresses and the gateways of its default routes, by netlink.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use anyhow::{Context as _, Result};
use futures_util::TryStreamExt as _;
use rtnetlink::RouteMessageBuilder;
use rtnetlink::packet_route::address::{AddressAttribute, AddressMessage};
use rtnetlink::packet_route::route::{RouteAddress, RouteAttribute, RouteMessage, RouteVia};

use super::block_on;

/// Addresses that a block must not cover by mistake.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Addresses {
    /// This host's own.
    pub own: Vec<IpAddr>,
    /// Next hops of its default routes.
    pub gateways: Vec<IpAddr>,
}

/// Asks the kernel for [`Addresses`] of this network namespace.
///
/// # Errors
///
/// If netlink can't be used.
pub fn addresses() -> Result<Addresses> {
    block_on(async {
        let (connection, handle, _) =
            rtnetlink::new_connection().context("could not open a netlink socket")?;
        tokio::spawn(connection);
        let messages: Vec<AddressMessage> = handle
            .address()
            .get()
            .execute()
            .try_collect()
            .await
            .context("could not list this host's addresses")?;
        let own = messages.into_iter().filter_map(own_address).collect();

        let mut gateways = Vec::new();
        for family in
            [RouteMessageBuilder::<Ipv4Addr>::new().build(), RouteMessageBuilder::<Ipv6Addr>::new().build()]
        {
            let routes: Vec<RouteMessage> = handle
                .route()
                .get(family)
                .execute()
                .try_collect()
                .await
                .context("could not list the routes")?;
            let default = routes.into_iter().filter(|route| route.header.destination_prefix_length == 0);
            gateways.extend(default.flat_map(|route| next_hops(&route.attributes)));
        }
        Ok(Addresses { own, gateways })
    })
}

/// The local address: on point-to-point links `Address` is the peer's.
fn own_address(message: AddressMessage) -> Option<IpAddr> {
    let find = |wanted: fn(&AddressAttribute) -> Option<IpAddr>| message.attributes.iter().find_map(wanted);
    find(|attribute| match attribute {
        AddressAttribute::Local(address) => Some(*address),
        _ => None,
    })
    .or_else(|| {
        find(|attribute| match attribute {
            AddressAttribute::Address(address) => Some(*address),
            _ => None,
        })
    })
}

fn next_hops(attributes: &[RouteAttribute]) -> Vec<IpAddr> {
    attributes
        .iter()
        .flat_map(|attribute| match attribute {
            RouteAttribute::Gateway(RouteAddress::Inet(address))
            | RouteAttribute::Via(RouteVia::Inet(address)) => vec![IpAddr::V4(*address)],
            RouteAttribute::Gateway(RouteAddress::Inet6(address))
            | RouteAttribute::Via(RouteVia::Inet6(address)) => vec![IpAddr::V6(*address)],
            RouteAttribute::MultiPath(hops) => {
                hops.iter().flat_map(|hop| next_hops(&hop.attributes)).collect()
            }
            _ => Vec::new(),
        })
        .collect()
}
