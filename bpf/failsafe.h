/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * What the link itself needs, and no policy may cut off: without it the host
 * loses its address, its router or its neighbours. The operator's own failsafe
 * list is part of the compiled policy.
 */
#ifndef PERIMETERD_FAILSAFE_H
#define PERIMETERD_FAILSAFE_H

#include <linux/types.h>
#include <stdbool.h>

#include "packet.h"

#define DHCP_SERVER_PORT 67
#define DHCP_CLIENT_PORT 68
#define DHCPV6_CLIENT_PORT 546
#define DHCPV6_SERVER_PORT 547

/* Neighbour and router discovery, as RFC 4861 demands: never through a router. */
static __always_inline bool failsafe_neighbour_discovery(const struct packet *pkt)
{
	return pkt->icmp_type >= ICMPV6_ND_FIRST && pkt->icmp_type <= ICMPV6_ND_LAST && pkt->hops == 255;
}

/* Multicast listener discovery, RFC 2710 and 3810: hop limit 1. */
static __always_inline bool failsafe_listener_discovery(const struct packet *pkt)
{
	return ((pkt->icmp_type >= ICMPV6_MLD_FIRST && pkt->icmp_type <= ICMPV6_MLD_LAST) ||
		pkt->icmp_type == ICMPV6_MLD2_REPORT) &&
	       pkt->hops == 1;
}

static __always_inline bool failsafe_dhcp_client(const struct packet *pkt)
{
	if (pkt->protocol != PROTOCOL_UDP)
		return false;
	if (pkt->family == 4)
		return pkt->local_port == DHCP_CLIENT_PORT && pkt->peer_port == DHCP_SERVER_PORT;
	return pkt->local_port == DHCPV6_CLIENT_PORT && pkt->peer_port == DHCPV6_SERVER_PORT;
}

static __always_inline bool failsafe_allows(const struct packet *pkt)
{
	if (pkt->fragment != FRAGMENT_WHOLE)
		return false;
	if (pkt->family == 6 && pkt->protocol == PROTOCOL_ICMPV6)
		return failsafe_neighbour_discovery(pkt) || failsafe_listener_discovery(pkt);
	if (pkt->family == 4 && pkt->protocol == PROTOCOL_IGMP)
		return pkt->hops == 1;
	return failsafe_dhcp_client(pkt);
}

#endif
