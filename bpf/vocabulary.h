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

	/* Outbound names. The first is the compiled policy's, the others are of dns.strict. */
	REASON_RESOLVER_ACCESS,	/* a member with names in its rules asks one of the host's resolvers */
	REASON_QUESTION_NOT_ALLOWED, /* strict: asks for a name that none of the member's rules has */
	REASON_QUESTION_UNREADABLE, /* strict: to port 53, and no question that can be read */

	REASON_COUNT,
};

/* Who learnt an address of a name. */
enum learnt_by {
	LEARNT_INLINE,		/* the data path, from an answer on its way to a member */
	LEARNT_ANSWER,		/* the agent, from an answer that the data path could not take */
	LEARNT_RESOLVED,	/* the agent, which asked itself */
	LEARNT_KEPT,		/* the agent, which had it from before it was started */
	LEARNT_BY_COUNT,
};

/*
 * What came of questions and answers about names. An answer is counted as one
 * of answers, opened-nothing, or one of those after them; addresses by themselves.
 */
enum name_event {
	NAME_QUESTIONS,		/* asked by a member for one of its names, and remembered */
	NAME_ANSWERS,		/* opened the addresses in it */
	NAME_OPENED_NOTHING,	/* well-formed, and without an address of the name */

	/* Refused: these open nothing. */
	NAME_NO_FLOW,		/* of no flow that a member opened */
	NAME_NO_QUESTION,	/* nobody asked this resolver that, with this id */
	NAME_OTHER_QUESTION,	/* this id asked for something else */
	NAME_UNLISTED_RESOLVER,	/* not in the settings' dns.trusted */
	NAME_MALFORMED_HEADER,
	NAME_MALFORMED_NAME,	/* a label or a name that is too long, or leaves the message */
	NAME_MALFORMED_POINTER,	/* not to something before it */
	NAME_MALFORMED_RECORD,	/* a record that leaves the message, or is not as long as its type */

	/* Left to the agent: the data path opens nothing. */
	NAME_LEFT_TRUNCATED,	/* the rest comes over TCP */
	NAME_LEFT_TOO_LONG,	/* more than DNS_MESSAGE_MAX bytes, or not all at hand */
	NAME_LEFT_TOO_DEEP,	/* more pointers, aliases or records than are followed */
	NAME_LEFT_NOT_READ,	/* this kernel cannot read answers in the data path */
	NAME_LOST,		/* as well as one of these: the ring to the agent was full */

	/* Addresses. */
	NAME_ADDRESS_OPENED,
	NAME_ADDRESS_PROLONGED,
	NAME_ADDRESS_OTHER_OWNER, /* of a name that was not asked for: not opened */
	NAME_ADDRESS_UNUSABLE,	/* no host has it: not opened */
	NAME_ADDRESS_EVICTED,	/* made room for another of its set */
	NAME_ADDRESS_FULL,	/* no room in the table: not opened */
	NAME_EVENT_COUNT,
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
