/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * What the policy says about the first packet of a flow. Reads the tables of
 * one generation and has no side effects, so that explaining a packet and
 * deciding it cannot differ.
 *
 *   local address  -> struct local   which members it carries
 *   local port     -> member         whose rules count
 *   peer address   -> class          which prefix lists cover it
 *   (scope, class) -> span list      what these lists mean to the member
 *   protocol, port -> outcome        what is done, why, and by which rule
 *
 * The order of the steps (failsafe, private path, perimeter, link, rules,
 * mode) is compiled into the spans. What rules with names allow is asked last, of
 * what was learnt, and only where nothing else allows.
 */
#ifndef PERIMETERD_POLICY_H
#define PERIMETERD_POLICY_H

#include <linux/types.h>
#include <stdbool.h>

#include <bpf/bpf_helpers.h>

#include "clock.h"
#include "maps.h"
#include "name_maps.h"
#include "packet.h"
#include "prefix.h"
#include "settings.h"
#include "types.h"

/* The answer to "may this packet open a flow in this direction?" */
struct judgement {
	__u32 member;	/* MEMBER_NONE: ungoverned */
	__u32 outcome;
	__u8 verdict;
	__u8 would_be;
	__u8 reason;	/* REASON_UNGOVERNED, REASON_POLICY_INCOMPLETE or the outcome's */
	__u8 category;
	__u8 direction;
	bool expires;	/* the outcome has an end */
	bool unlisted;	/* ungoverned for its port alone: the address carries members */
};

/* Looks up the tables of the generation that `control` names. */
static __always_inline __u32 policy_slot(const struct control *control)
{
	return control->generation % GENERATION_SLOTS;
}

/*
 * Which members the packet's local end carries, or NULL. All multicast and
 * broadcast destinations share one entry, at the first address of the range:
 * the members that live here.
 */
static __always_inline struct local *policy_local(const struct control *control, const struct packet *pkt)
{
	__u32 slot = policy_slot(control);
	bool group = packet_is_multicast(pkt, &pkt->local);
	bool multicast = group && pkt->end == END_TOWARDS;
	struct local *local = NULL;
	void *inner = NULL;

	if (pkt->family == 4) {
		struct prefix_key4 key = {.length = 32, .address_be = pkt->local.word_be[0]};

		if (multicast)
			key.address_be = bpf_htonl(0xe0000000);
		if (multicast || !group) /* a forged source must not find the entry of all groups */
			inner = bpf_map_lookup_elem(&locals4, &slot);
		if (inner)
			local = bpf_map_lookup_elem(inner, &key.address_be);
		if (local || multicast || !(control->flags & CONTROL_LOCAL_PREFIXES4))
			return local;
		inner = bpf_map_lookup_elem(&local_prefixes4, &slot);
		return inner ? bpf_map_lookup_elem(inner, &key) : NULL;
	} else {
		struct prefix_key6 key = {.length = 128};

		__builtin_memcpy(key.address_be, pkt->local.word_be, sizeof(key.address_be));
		if (multicast) {
			__builtin_memset(key.address_be, 0, sizeof(key.address_be));
			key.address_be[0] = bpf_htonl(0xff000000);
		}
		if (multicast || !group)
			inner = bpf_map_lookup_elem(&locals6, &slot);
		if (inner)
			local = bpf_map_lookup_elem(inner, &key.address_be);
		if (local || multicast || !(control->flags & CONTROL_LOCAL_PREFIXES6))
			return local;
		inner = bpf_map_lookup_elem(&local_prefixes6, &slot);
		return inner ? bpf_map_lookup_elem(inner, &key) : NULL;
	}
}

static __always_inline bool policy_is_marked(const struct local_marks *marks, const struct address *address)
{
	__u32 mark = prefix_hash(address, 128) >> (32 - LOCAL_MARKS_LOG2);

	return marks->words[mark / 64] >> (mark % 64) & 1;
}

/*
 * False if no member and no address of this host is at either end, and so neither
 * policy nor flows have anything to say. True may be a mistake.
 */
static __always_inline bool policy_concerns(const struct control *control, const struct packet *pkt)
{
	const __u32 prefixes = pkt->family == 4 ? CONTROL_LOCAL_PREFIXES4 : CONTROL_LOCAL_PREFIXES6;
	__u32 slot = policy_slot(control);
	struct local_marks *marks = bpf_map_lookup_elem(&marked_locals, &slot);

	if (!marks || control->flags & prefixes || packet_is_multicast(pkt, &pkt->local))
		return true;
	return policy_is_marked(marks, &pkt->local) ||
	       (pkt->end == END_TOWARDS && policy_is_marked(marks, &pkt->peer));
}

/* True if the peer's address is one of this host's own. */
static __always_inline bool policy_peer_is_here(const struct control *control, const struct packet *pkt)
{
	__u32 slot = policy_slot(control);
	struct local_marks *marks = bpf_map_lookup_elem(&marked_locals, &slot);
	struct local *local = NULL;
	void *inner;

	if (marks && !policy_is_marked(marks, &pkt->peer))
		return false;
	if (pkt->family == 4) {
		inner = bpf_map_lookup_elem(&locals4, &slot);
		if (inner)
			local = bpf_map_lookup_elem(inner, &pkt->peer.word_be[0]);
	} else {
		inner = bpf_map_lookup_elem(&locals6, &slot);
		if (inner)
			local = bpf_map_lookup_elem(inner, pkt->peer.word_be);
	}
	return local && local->flags & LOCAL_OWN;
}

#define SPAN_MISSING (1ULL << 32)

/*
 * The value of the span that holds `point`, or SPAN_MISSING if the list is not
 * whole, which a complete generation rules out. Halves its way to it, so a list
 * may be as long as there are points. A global function: the verifier looks at
 * it once, not once for each way to reach it.
 */
__noinline __u64 policy_span(__u32 slot, __u32 first, __u32 count, __u32 point)
{
	__u32 step = count <= 16 ? 8 : count <= 4096 ? 2048 : 1 << 23;
	__u32 at = first, end = first + count;
	struct span *span;
	void *inner;

	if (count == 0)
		return first;
	inner = bpf_map_lookup_elem(&spans, &slot);
	if (!inner)
		return SPAN_MISSING;
	/* Invariant: the span at `at` begins at or before the point. */
	for (int i = 0; i < 24; i++) {
		__u32 next = at + step;

		if (step == 0)
			break;
		step >>= 1;
		if (next >= end)
			continue;
		span = bpf_map_lookup_elem(inner, &next);
		if (!span)
			return SPAN_MISSING;
		if (span->from <= point)
			at = next;
	}
	span = bpf_map_lookup_elem(inner, &at);
	return span ? span->value : SPAN_MISSING;
}

#define MEANING_NONE (1ULL << 63)

/*
 * What a class of peers means to a scope, as a span list packed into 64 bits
 * (first, then count << 32), or MEANING_NONE. Where nothing is written down for
 * the class, what is for the nearest wider class counts. A global function, like
 * policy_span.
 */
__noinline __u64 policy_meaning(__u32 slot, __u32 scope, __u32 class)
{
	struct scope_class key = {.scope = scope, .class = class};
	void *meanings = bpf_map_lookup_elem(&scope_classes, &slot);
	void *parents = bpf_map_lookup_elem(&class_parents, &slot);

	if (!meanings || !parents)
		return MEANING_NONE;
	for (int i = 0; i <= PARENTS_MAX; i++) {
		struct span_list *meaning;
		__u32 *parent;

		if (key.class == CLASS_NONE)
			break;
		meaning = bpf_map_lookup_elem(meanings, &key);
		if (meaning)
			return meaning->first | (__u64)meaning->count << 32;
		parent = bpf_map_lookup_elem(parents, &key.class);
		if (!parent)
			break;
		key.class = *parent;
	}
	return MEANING_NONE;
}

static __always_inline __u32 policy_point(const struct packet *pkt, __u16 port)
{
	/* ICMP keys are not ports. */
	return (__u32)pkt->protocol << 16 | (packet_has_ports(pkt->protocol) ? port : 0);
}

/* True from the moment on at which the outcome no longer counts. */
static __always_inline bool policy_expired(const struct outcome *outcome)
{
	return outcome->expires && clock_jiffies() >= outcome->expires;
}

static __always_inline struct outcome *policy_outcome(__u32 slot, __u32 number)
{
	void *inner = bpf_map_lookup_elem(&outcomes, &slot);

	return inner ? bpf_map_lookup_elem(inner, &number) : NULL;
}

/* The outcome for all that crosses a private endpoint; 0 = the interface is none. */
static __always_inline __u32 policy_private_path(const struct control *control, __u32 ifindex, __u32 direction)
{
	struct interface *interface;

	if (!(control->flags & CONTROL_PRIVATE_INTERFACES))
		return 0;
	interface = bpf_map_lookup_elem(&interfaces, &ifindex);
	return interface ? interface->private_path[policy_slot(control)][direction & 1] : 0;
}

/* With the direction: the flow is live, and what opened it may have expired since. */
#define POLICY_LIVE 2

#define NAMED_END 0	/* no more rules */
#define NAMED_CLOSED 1	/* this one has not opened the address */
#define NAMED_OPENED 2	/* it has; the outcome is in the upper half */

/*
 * Whether the rule with names at `at` has opened the address. Marks that it is in
 * use, and has no other effect. A global function, like policy_span: it is given
 * the address in two halves.
 */
__noinline __u64 policy_opened(__u32 slot_family_live, __u32 at, __u64 first, __u64 second)
{
	__u32 slot = slot_family_live & 1;
	void *inner = bpf_map_lookup_elem(&name_rules, &slot);
	struct name_rule *rule = inner ? bpf_map_lookup_elem(inner, &at) : NULL;
	struct learnt_key key = {
		.address.word_be = {first, first >> 32, second, second >> 32},
		.family = slot_family_live >> 8 & 0xff,
	};
	struct outcome *outcome;
	struct learnt *learnt;
	__u64 now;

	if (!rule || rule->set == 0)
		return NAMED_END;
	key.set = rule->set;
	learnt = bpf_map_lookup_elem(&learnt_addresses, &key);
	if (!learnt)
		return NAMED_CLOSED;
	now = clock_jiffies();
	if (now >= learnt->expires && !(slot_family_live >> 16 & POLICY_LIVE))
		return NAMED_CLOSED;
	outcome = policy_outcome(slot, rule->outcome);
	if (!outcome || policy_expired(outcome))
		return NAMED_CLOSED;
	learnt->used = now;
	return NAMED_OPENED | (__u64)rule->outcome << 32;
}

/*
 * The outcome of the first of the member's rules with names that has opened the
 * address for the point, or 0. Asks what was learnt, by whomever; `live` as
 * POLICY_LIVE.
 */
__noinline __u32 policy_names(__u32 slot_family_live, __u32 number, __u32 point, __u64 first, __u64 second)
{
	__u32 slot = slot_family_live & 1;
	void *inner = bpf_map_lookup_elem(&members, &slot);
	struct member *member = inner ? bpf_map_lookup_elem(inner, &number) : NULL;
	__u64 found;

	if (!member)
		return 0;
	found = policy_span(slot, member->names.first, member->names.count, point);
	if (found == SPAN_MISSING || found == 0)
		return 0;
	for (int i = 0; i < NAME_RULES_MAX; i++) {
		__u64 said = policy_opened(slot_family_live, (__u32)found + i, first, second);

		if ((__u32)said == NAMED_OPENED)
			return said >> 32;
		if (said == NAMED_END)
			break;
	}
	return 0;
}

/* The outcome of the member's rules with names, if it comes before this one; else this one. */
static __always_inline struct outcome *policy_by_name(__u32 slot, const struct packet *pkt, __u32 direction,
						      const struct member *member, __u32 number,
						      struct outcome *outcome, struct judgement *answer)
{
	struct outcome *named;
	__u32 of;

	if ((direction & 1) != DIRECTION_OUTBOUND || outcome->names <= NAMES_ACCESS_RULE ||
	    !(member->names.first | member->names.count))
		return outcome;
	of = policy_names(slot | (__u32)pkt->family << 8 | (direction & POLICY_LIVE) << 16, number,
			  policy_point(pkt, pkt->peer_port),
			  pkt->peer.word_be[0] | (__u64)pkt->peer.word_be[1] << 32,
			  pkt->peer.word_be[2] | (__u64)pkt->peer.word_be[3] << 32);
	if (of == 0)
		return outcome;
	named = policy_outcome(slot, of);
	if (!named || named->names >= outcome->names)
		return outcome;
	answer->outcome = of;
	return named;
}

/*
 * Judges the packet as the opener of a flow in `direction`, which need not be
 * the packet's own; with POLICY_LIVE, of one that goes on. Fills all of `answer`.
 */
static __always_inline void policy_judge(const struct control *control, const struct packet *pkt, __u32 direction,
					 __u32 ifindex, struct judgement *answer)
{
	__u32 slot = policy_slot(control);
	__u32 live = direction & POLICY_LIVE;
	struct span_list list;
	struct outcome *outcome;
	struct member *member;
	struct local *local;
	__u32 private_path, class;
	__u64 found;
	__u16 port;
	void *inner;

	direction &= 1;
	port = direction == DIRECTION_INBOUND ? pkt->local_port : pkt->peer_port;
	answer->member = MEMBER_NONE;
	answer->outcome = 0;
	answer->verdict = VERDICT_ALLOW;
	answer->would_be = VERDICT_ALLOW;
	answer->reason = REASON_UNGOVERNED;
	answer->category = NspNone;
	answer->direction = direction;
	answer->expires = false;
	answer->unlisted = false;

	local = policy_local(control, pkt);
	if (!local)
		return;
	/* From here on, what is missing is a fault of ours. */
	answer->reason = REASON_POLICY_INCOMPLETE;
	found = local->outbound;
	if (direction == DIRECTION_INBOUND)
		found = policy_span(slot, local->services.first, local->services.count,
				    policy_point(pkt, pkt->local_port));
	if (found == SPAN_MISSING)
		goto incomplete;
	answer->member = found;
	if (answer->member == MEMBER_NONE) {
		answer->reason = REASON_UNGOVERNED;
		answer->unlisted = true;
		return;
	}
	inner = bpf_map_lookup_elem(&members, &slot);
	if (!inner)
		goto incomplete;
	member = bpf_map_lookup_elem(inner, &answer->member);
	if (!member)
		goto incomplete;

	list = pkt->family == 4 ? member->otherwise4[direction] : member->otherwise6[direction];
	class = prefix_class(slot, pkt->family, &pkt->peer);
	if (class != CLASS_NONE) {
		__u64 meaning = policy_meaning(slot, member->scope[direction], class);

		if (meaning != MEANING_NONE)
			list = (struct span_list){.first = (__u32)meaning, .count = meaning >> 32};
	}
	found = policy_span(slot, list.first, list.count, policy_point(pkt, port));
	if (found == SPAN_MISSING)
		goto incomplete;
	answer->outcome = found;
	outcome = policy_outcome(slot, answer->outcome);
	for (int i = 0; outcome && policy_expired(outcome); i++) {
		if (i == EXPIRED_MAX)
			goto incomplete;
		answer->outcome = outcome->after;
		outcome = policy_outcome(slot, answer->outcome);
	}
	if (!outcome)
		goto incomplete;
	outcome = policy_by_name(slot, pkt, direction | live, member, answer->member, outcome, answer);
	if (outcome->member != MEMBER_NONE)
		answer->member = outcome->member;
	/* A private endpoint comes right after the failsafe, whatever the rules say. */
	private_path = policy_private_path(control, ifindex, direction);
	if (private_path && outcome->reason != REASON_FAILSAFE) {
		answer->outcome = private_path;
		outcome = policy_outcome(slot, private_path);
		if (!outcome)
			goto incomplete;
	}
	answer->verdict = outcome->verdict;
	answer->would_be = outcome->would_be;
	answer->reason = outcome->reason;
	answer->category = outcome->category;
	answer->expires = outcome->expires != 0;
	return;

incomplete:
	/* Rules only allow, so nothing was allowed; but Audit alone never drops. */
	answer->outcome = 0;
	answer->verdict = control->flags & CONTROL_STRICT_HERE ? VERDICT_DENY : VERDICT_ALLOW;
	answer->would_be = VERDICT_DENY;
	answer->category = direction == DIRECTION_INBOUND ? NspPublicInboundPerimeterRulesDenied
							  : NspPublicOutboundPerimeterRulesDenied;
}

#endif
