/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * The words of a decision. These enums are the only list of reasons and
 * categories there is: user space reads the names from this object's BTF, so
 * an enumerator's spelling is what an operator sees (REASON_NO_ACCESS_RULE is
 * shown as "no-access-rule"; categories are NSP's own words). Values are in
 * pinned maps and in saved files: append, never renumber.
 */
#ifndef PERIMETERD_VOCABULARY_H
#define PERIMETERD_VOCABULARY_H

/* Why a packet got its verdict. Also the index of the packet counters. */
enum reason {
	REASON_NONE,

	/* Verdicts the compiled policy gives to the first packet of a flow. */
	REASON_FAILSAFE,
	REASON_PRIVATE_PATH,
	REASON_SAME_PERIMETER,
	REASON_LINKED_PERIMETER,
	REASON_ACCESS_RULE,
	REASON_NO_ACCESS_RULE,
	REASON_SECURED_BY_PERIMETER,
	REASON_PUBLIC_ACCESS_DISABLED,
	REASON_FIREWALL_RULE,
	REASON_NO_FIREWALL_RULE,
	REASON_PUBLIC_ACCESS_ENABLED,

	/* Verdicts that need no policy. */
	REASON_NOT_IP,		/* ARP, LLDP, EAPOL and all else that is not IP: passes */
	REASON_UNGOVERNED,	/* of no member: passes */
	REASON_LINK_FAILSAFE,	/* ND, RA, MLD, IGMP, DHCP client: passes */
	REASON_ESTABLISHED,	/* belongs to an allowed flow: passes */
	REASON_RELATED,		/* ICMP error that quotes an allowed flow: passes */
	REASON_FRAGMENT_FOLLOWS, /* non-first fragment of an allowed packet: passes */
	REASON_FRAGMENT_DENIED,	/* non-first fragment of a denied packet */
	REASON_NO_POLICY,	/* attached, no generation in force yet: passes */

	/* What cannot be judged, see bpf/README.md. */
	REASON_TRUNCATED_LINK,	/* the frame ends inside its link header */
	REASON_TOO_MANY_TAGS,	/* more VLAN tags than are walked */
	REASON_TRUNCATED_IP,	/* the packet ends inside its IP header */
	REASON_MALFORMED_IP,	/* version, header length or total length is wrong */
	REASON_TOO_MANY_HEADERS, /* more IPv6 extension headers than are walked */
	REASON_TRUNCATED_HEADER, /* the packet ends inside an IPv6 extension header */
	REASON_TRUNCATED_L4,	/* the packet ends inside its L4 header */
	REASON_TINY_FRAGMENT,	/* a first fragment without its whole L4 header */
	REASON_FRAGMENT_OVERLAP, /* a later fragment that reaches into the L4 header */
	REASON_FRAGMENT_UNKNOWN, /* a later fragment whose first was not seen */
	REASON_MALFORMED_L4,	/* an L4 header no socket would accept */
	REASON_POLICY_INCOMPLETE, /* a table lacks an entry another refers to: a bug of ours */

	REASON_SOURCE_ROUTED,	/* names where it really goes behind its header: the destination is not known */
	REASON_FORGED_SOURCE,	/* from outside, with an address a member has on this host as its source */

	REASON_COUNT,
};

/* NSP's access log categories. Also the index of the decision counters. */
enum category {
	NspNone,
	NspPublicInboundPerimeterRulesAllowed,
	NspPublicInboundPerimeterRulesDenied,
	NspPublicOutboundPerimeterRulesAllowed,
	NspPublicOutboundPerimeterRulesDenied,
	NspPublicInboundResourceRulesAllowed,
	NspPublicInboundResourceRulesDenied,
	NspPublicOutboundResourceRulesAllowed,
	NspPublicOutboundResourceRulesDenied,
	NspIntraPerimeterInboundAllowed,
	NspOutboundAttempt,
	NspCrossPerimeterInboundAllowed,
	NspCrossPerimeterOutboundAllowed,
	NspPrivateInboundAllowed,
	CATEGORY_COUNT,
};

enum verdict {
	VERDICT_ALLOW,
	VERDICT_DENY,
};

/* Who opened a flow, seen from the member. */
enum direction {
	DIRECTION_INBOUND,
	DIRECTION_OUTBOUND,
};

/* What an event tells. */
enum event_kind {
	EVENT_FLOW_START,	/* an allowed flow began; would_be may differ in Audit */
	EVENT_FLOW_END,		/* it ended: closed, or a new one took its key */
	EVENT_FLOW_CUT,		/* a changed policy no longer allows it */
	EVENT_DENIED,		/* a packet was denied, or in Audit could not be judged */
};

#endif
